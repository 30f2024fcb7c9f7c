package gateway

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"
)

// ears listen to what the router announces to everybody: that it restarted or
// has another address (RFC 6886 section 3.2.1, RFC 6887 section 14.1.3). What
// an announcement says is not believed, the router is asked: it makes Run look
// at once and nothing else. Without a socket for it polling has to do.
type ears struct {
	conn *net.UDPConn
	at   hop // where they listen
	done chan struct{}
}

// tune opens or closes e, or moves it to the interface that leads to the
// router now. Run closes it in the end.
func (c *Client) tune(ctx context.Context, e *ears, on bool) {
	h, err := c.route4()
	on = on && err == nil
	if e.conn != nil && (!on || h.iface != e.at.iface || h.router != e.at.router) {
		_ = e.conn.Close()
		<-e.done
		e.conn = nil
	}
	if !on || e.conn != nil {
		return
	}
	conn, err := c.listenAnnouncements(h)
	if err != nil {
		c.log.Debug("announcements of the router are not heard", "err", err)
		return
	}
	e.conn, e.at, e.done = conn, h, make(chan struct{})
	go func(done chan<- struct{}) {
		defer close(done)
		c.listen(ctx, conn, h.router)
	}(e.done)
}

// listenAnnouncements joins the group on the interface that leads to the
// router.
func (c *Client) listenAnnouncements(h hop) (conn *net.UDPConn, err error) {
	at := c.cfg.Router.Announce
	if at.Addr().IsMulticast() {
		var via *net.Interface
		if h.iface != "" {
			if via, err = net.InterfaceByName(h.iface); err != nil {
				return nil, err
			}
		}
		conn, err = net.ListenMulticastUDP("udp4", via, net.UDPAddrFromAddrPort(at))
	} else {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	}
	if err == nil && c.listening != nil {
		c.listening(conn.LocalAddr().String())
	}
	return conn, err
}

// announceEvery is how often announcements count: anybody at home may send
// them. One that comes sooner counts when that is over: a router that gets a
// new address says first that it has none.
const announceEvery = 2 * time.Second

func (c *Client) listen(ctx context.Context, conn *net.UDPConn, router netip.Addr) {
	buf := make([]byte, pcpMaxLen)
	var last time.Time
	for ctx.Err() == nil {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		now := time.Now()
		switch late := errors.Is(err, os.ErrDeadlineExceeded); {
		case err != nil && !late:
			return // closed
		case !late && (from.Addr().Unmap() != router || !isAnnouncement(buf[:n])):
			c.metrics.ignored.WithLabelValues("announcement").Inc()
		case !late && !last.IsZero() && now.Sub(last) < announceEvery:
			_ = conn.SetReadDeadline(last.Add(announceEvery)) // fails when it is closed, as the next read does
		default:
			last = now
			_ = conn.SetReadDeadline(time.Time{})
			c.Poke()
		}
	}
}

// isAnnouncement tells an answer to NAT-PMP's address request, or to PCP's
// ANNOUNCE, that nobody asked for.
func isAnnouncement(b []byte) bool {
	if len(b) >= 12 && b[0] == pmpVersion && b[1] == pmpAddress|isResponse {
		return true
	}
	return len(b) >= pcpHeaderLen && b[0] == pcpVersion && b[1] == isResponse
}
