package proxy

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pires/go-proxyproto"

	"postern/internal/caller"
	"postern/internal/guard"
	"postern/internal/h2"
)

// clientConn is one client's TCP connection, below TLS. It counts bytes,
// recognises what is spoken by the first ones, and gives every write a
// deadline, so that a client that stops reading does not hold a goroutine.
type clientConn struct {
	net.Conn
	srv   *Server
	kind  Kind
	start time.Time

	peer    netip.Addr   // who is at the other end of the TCP connection
	client  netip.Addr   // who is judged: the peer, or who its PROXY header names
	counted netip.Addr   // whose connections the guard counts this one to; invalid: nobody's
	cert    *caller.Peer // the client's TLS certificate; nil: none. Set before HTTP is spoken
	gone    bool         // guarded by srv.mu, as writing client and counted is; closed

	// Used by the reading side alone.
	pre        []byte            // bytes that were read and not handed on yet: past the PROXY header, or the first ones
	preBuf     *[headBuffer]byte // what pre lies in, if it is ours to give back
	recognised bool
	mute       bool // nothing is written any more: the client is refused by its TLS hello

	in, out    atomic.Int64
	requests   atomic.Int64 // requests that reached the handler
	inFlight   atomic.Int32 // requests in the handler
	secured    atomic.Bool  // the TLS handshake is done
	judged     atomic.Bool  // already refused or scored as a connection
	memo       caller.Memo  // of its last token
	known      atomic.Bool  // a known caller's: it may rest longer
	brutal     atomic.Bool  // close with a reset
	writeLimit atomic.Int64 // the write deadline now set, Unix nanoseconds
	stall      time.Duration

	state atomic.Int32            // of an HTTP/1.1 connection: connBusy, connResting or connEnded
	h2    atomic.Pointer[h2.Conn] // set while HTTP/2 is spoken

	one [1]byte // the first byte of a request, while the connection rests

	textOnce sync.Once
	text     string // client in text

	closeOnce sync.Once
	closeErr  error
}

func newClientConn(s *Server, nc net.Conn, kind Kind, peer netip.Addr, now time.Time) *clientConn {
	return &clientConn{
		Conn: nc, srv: s, kind: kind, start: now, peer: peer, client: peer,
		stall: s.snap.Load().Limits.Stall,
	}
}

// Read fails with io.EOF when the first bytes are not what the listener
// speaks.
func (c *clientConn) Read(p []byte) (int, error) {
	if !c.recognised {
		if err := c.recognise(); err != nil {
			return 0, err
		}
	}
	if len(c.pre) > 0 {
		n := copy(p, c.pre)
		if c.pre = c.pre[n:]; len(c.pre) == 0 {
			c.dropPre()
		}
		return n, nil
	}
	n, err := c.Conn.Read(p)
	c.in.Add(int64(n))
	return n, err
}

// firstBytes are as many as the longest beginning that is recognised.
const firstBytes = 8

// recognise reads until the first bytes tell what is spoken. Nothing is handed
// on before: an engine that saw a part might answer what must be refused. A
// TLS hello or the head of a request is read with them, in one system call.
func (c *clientConn) recognise() error {
	for {
		proto := guard.ClassifyFirstBytes(c.pre[:min(len(c.pre), firstBytes)])
		if proto != guard.Incomplete || len(c.pre) >= firstBytes {
			if !c.speaks(proto) {
				c.dropPre()
				return io.EOF
			}
			c.recognised = true
			return nil
		}
		if c.preBuf == nil { // what the PROXY header was read with may be full
			c.preBuf = c.srv.pools.heads.Get().(*[headBuffer]byte)
			c.pre = append(c.preBuf[:0], c.pre...)
		}
		n, err := c.Conn.Read(c.preBuf[len(c.pre):])
		c.in.Add(int64(n))
		if c.pre = c.preBuf[:len(c.pre)+n]; n == 0 && err != nil {
			c.dropPre()
			return err
		}
	}
}

// dropPre gives the buffer of the first bytes back.
func (c *clientConn) dropPre() {
	c.pre = nil
	if c.preBuf != nil {
		c.srv.pools.heads.Put(c.preBuf)
		c.preBuf = nil
	}
}

// speaks reports whether proto is what the listener speaks, and refuses the
// client if it is not. What eight bytes did not tell is the parser's to judge.
func (c *clientConn) speaks(proto guard.Protocol) bool {
	switch {
	case proto == guard.Incomplete,
		proto == guard.TLS && c.kind == KindHTTPS, proto == guard.HTTP && c.kind == KindHTTP:
		return true
	case proto == guard.TLS:
		c.refuse("tls_on_http", guard.TLSOnHTTP)
	case proto == guard.HTTP:
		c.refuse("http_on_https", guard.HTTPOnTLS)
	default:
		c.refuse("junk_"+proto.String(), guard.Junk)
	}
	return false
}

// refuse scores the client once and makes the close a reset.
func (c *clientConn) refuse(reason string, s guard.Signal) {
	c.brutal.Store(true)
	if c.judged.Swap(true) {
		return
	}
	c.srv.metrics.refusedConn(reason)
	c.srv.log.Debug("connection refused", "client", c.client, "listener", c.kind.String(), "reason", reason)
	c.srv.cfg.Guard.Report(c.client, s, guard.Evidence{Rule: reason}, time.Now())
}

// Write gives the client stall time to take p. The deadline is moved only
// when a part of it has passed: setting it costs more than a small write.
func (c *clientConn) Write(p []byte) (int, error) {
	if c.mute {
		return len(p), nil
	}
	if c.stall > 0 {
		now := time.Now()
		if want := now.Add(c.stall).UnixNano(); want-c.writeLimit.Load() > int64(min(time.Second, c.stall/4)) {
			c.writeLimit.Store(want)
			_ = c.Conn.SetWriteDeadline(time.Unix(0, want))
		}
	}
	n, err := c.Conn.Write(p)
	c.out.Add(int64(n))
	if err != nil && c.stall > 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		c.slow("slow_read")
	}
	return n, err
}

// slow scores a client that keeps us waiting in the middle of something, once
// for a connection.
func (c *clientConn) slow(what string) {
	if c.judged.Swap(true) {
		return
	}
	c.srv.metrics.refusedConn(what)
	c.srv.cfg.Guard.Report(c.client, guard.SlowPeer, guard.Evidence{Rule: what}, time.Now())
}

// SetDeadline is remembered as far as writing goes.
func (c *clientConn) SetDeadline(t time.Time) error {
	c.rememberWrite(t)
	return c.Conn.SetDeadline(t)
}

// SetWriteDeadline is remembered, so that Write knows what is set.
func (c *clientConn) SetWriteDeadline(t time.Time) error {
	c.rememberWrite(t)
	return c.Conn.SetWriteDeadline(t)
}

func (c *clientConn) rememberWrite(t time.Time) {
	if t.IsZero() {
		c.writeLimit.Store(0)
		return
	}
	c.writeLimit.Store(t.UnixNano())
}

// clientText is the client's address in text.
func (c *clientConn) clientText() string {
	c.textOnce.Do(func() { c.text = c.client.String() })
	return c.text
}

// CloseWrite ends our direction, so that the client reads the answer before
// the connection goes.
func (c *clientConn) CloseWrite() error {
	if t, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return t.CloseWrite()
	}
	return nil
}

func (c *clientConn) Close() error {
	c.closeOnce.Do(func() {
		if c.brutal.Load() {
			reset(c.Conn)
		} else {
			c.closeErr = c.Conn.Close()
		}
		c.srv.closed(c)
	})
	return c.closeErr
}

// closeWith closes by nc, the connection or the TLS above it; one that is to be
// reset gets no close_notify.
func (c *clientConn) closeWith(nc net.Conn) {
	if c.brutal.Load() {
		_ = c.Close()
		return
	}
	_ = nc.Close()
}

// abort closes with a reset: nothing is sent, nothing is kept for the peer.
func (c *clientConn) abort() {
	c.brutal.Store(true)
	_ = c.Close()
}

// reset closes c so that the kernel answers with RST and keeps no state.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

// readProxyHeader reads the PROXY protocol header (version 1 or 2) if there
// is one and returns the client it names; invalid when there is none or the
// peer speaks for itself (LOCAL).
func (c *clientConn) readProxyHeader() (netip.Addr, error) {
	br := bufio.NewReaderSize(c.Conn, 1024)
	header, err := proxyproto.Read(br)
	if err != nil && !errors.Is(err, proxyproto.ErrNoProxyProtocol) {
		return netip.Addr{}, err
	}
	if n := br.Buffered(); n > 0 {
		c.pre, _ = br.Peek(n) // br is not used again: its buffer is ours
	}
	if header == nil || header.Command.IsLocal() {
		return netip.Addr{}, nil
	}
	return addrOf(header.SourceAddr), nil
}

// noteMalformed counts and scores a request that RFC 9112 forbids.
func (s *Server) noteMalformed(c *clientConn, reason string) {
	s.metrics.malformed.WithLabelValues(reason).Inc()
	s.log.Debug("malformed request", "client", c.client, "reason", reason)
	if !c.judged.Swap(true) {
		s.cfg.Guard.Report(c.client, guard.Malformed, guard.Evidence{Rule: reason}, time.Now())
	}
}
