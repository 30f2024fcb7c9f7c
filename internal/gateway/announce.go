package gateway

import (
	"context"
	"net"
	"time"
)

// hear runs work while it listens to what the router announces to everybody:
// that it restarted or has another address (RFC 6886 section 3.2.1, RFC 6887
// section 14.1.3). What an announcement says is not believed, the router is
// asked: it makes Run look at once and nothing else. Without a socket for it
// polling has to do.
func (c *Client) hear(ctx context.Context, work func()) error {
	conn, err := c.listenAnnouncements(ctx)
	if err != nil {
		c.log.Debug("no announcements of the router will be heard", "err", err)
		work()
		return nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.listen(ctx, conn)
	}()
	defer func() {
		_ = conn.Close()
		<-done
	}()
	work()
	return nil
}

// listenAnnouncements joins the group on the interface that leads to the
// router.
func (c *Client) listenAnnouncements(ctx context.Context) (*net.UDPConn, error) {
	at := c.cfg.Router.Announce
	var conn *net.UDPConn
	var err error
	if at.Addr().IsMulticast() {
		var via *net.Interface
		if h, err := c.route4(); err == nil && h.iface != "" {
			via, _ = net.InterfaceByName(h.iface) // nil: the system chooses
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
// them.
const announceEvery = 2 * time.Second

func (c *Client) listen(ctx context.Context, conn *net.UDPConn) {
	buf := make([]byte, pcpMaxLen)
	var last time.Time
	for ctx.Err() == nil {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return // closed
		}
		h, err := c.route4()
		now := time.Now()
		if err != nil || from.Addr().Unmap() != h.router || !isAnnouncement(buf[:n]) || now.Sub(last) < announceEvery && !last.IsZero() {
			c.metrics.ignored.WithLabelValues("announcement").Inc()
			continue
		}
		last = now
		c.Poke()
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
