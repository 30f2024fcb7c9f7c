package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"
)

// firstRepeat is how long the first answer is waited for; each repetition
// waits twice as long (RFC 6886 section 3.1).
const firstRepeat = 250 * time.Millisecond

// maxStray is how many datagrams of one exchange may be something else.
const maxStray = 64

// exchange sends request to a router's UDP port until accept takes an answer
// or the time is over. accept returns errOther for what belongs to somebody
// else. The socket is connected: what others send does not arrive.
func (c *Client) exchange(ctx context.Context, local netip.Addr, to netip.AddrPort, request []byte, accept func([]byte) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	d := net.Dialer{}
	if local.IsValid() {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	conn, err := d.DialContext(ctx, "udp", to.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	buf := make([]byte, pcpMaxLen+1)
	stray := 0
	for wait := firstRepeat; ; wait *= 2 {
		if _, err := conn.Write(request); err != nil {
			return unanswered(ctx, to, err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(wait))
		if ctx.Err() != nil { // the deadline just set may have undone the other
			return unanswered(ctx, to, ctx.Err())
		}
		for {
			n, err := conn.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
				break // ask again
			}
			if err != nil {
				return unanswered(ctx, to, err)
			}
			err = accept(buf[:n])
			if !errors.Is(err, errOther) {
				return err
			}
			c.metrics.ignored.WithLabelValues("answer").Inc()
			if stray++; stray > maxStray {
				return fmt.Errorf("udp %s: %d datagrams that are no answer", to, stray)
			}
		}
	}
}

// errUnanswered means that nobody answers at a port.
var errUnanswered = errors.New("no answer")

func unanswered(ctx context.Context, to netip.AddrPort, err error) error {
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return fmt.Errorf("udp %s: %w (%w)", to, errUnanswered, err)
}
