package proxy

import (
	"errors"
	"net"
	"net/netip"
	"runtime/debug"
	"time"

	"postern/internal/guard"
)

// Kind says what is spoken on a listener.
type Kind uint8

// The kinds of listeners.
const (
	KindHTTP Kind = iota
	KindHTTPS
	KindH3 // HTTP/3, on UDP
)

func (k Kind) String() string {
	return [...]string{"http", "https", "h3"}[k]
}

// Serve accepts connections from l until l is closed, by Shutdown or by the
// caller; then it returns nil. Each connection has a goroutine of its own to
// its end; Shutdown waits for them.
func (s *Server) Serve(l net.Listener, kind Kind) error {
	if !s.track(l) {
		_ = l.Close() // perhaps Shutdown did before
		return nil
	}
	defer s.untrack(l)
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			if !temporary(err) {
				return err
			}
			s.metrics.acceptErrors.Inc()
			s.pause() // no file descriptors left: let some connections end
			continue
		}
		s.accept(c, kind)
	}
}

func (s *Server) track(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.listeners[l] = struct{}{}
	return true
}

func (s *Server) untrack(l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

// temporary reports whether accepting may work again later: EMFILE, ENFILE,
// ECONNABORTED and the like, which net reports as a timeout or temporary.
func temporary(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Temporary() bool
	}](err)
	return ok && t.Temporary()
}

func (s *Server) pause() {
	t := time.NewTimer(50 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.left:
	}
}

// accept refuses a banned address before a byte is read, and starts the
// connection's goroutine otherwise.
func (s *Server) accept(nc net.Conn, kind Kind) {
	peer := addrOf(nc.RemoteAddr())
	trusted := contains(s.snap.Load().Trusted, peer)
	now := time.Now()
	if !trusted && !s.enter(peer, now) {
		reset(nc)
		return
	}
	c := newClientConn(s, nc, kind, peer, now)
	if !trusted {
		c.counted = peer
	}
	s.mu.Lock()
	if s.draining {
		s.mu.Unlock()
		_ = c.Close()
		return
	}
	s.conns[c] = struct{}{}
	s.metrics.connections.WithLabelValues(kind.String()).Inc()
	s.metrics.openConns.WithLabelValues(kind.String()).Inc()
	s.spawn(c, func() { s.carry(c, trusted) })
	s.mu.Unlock()
}

// spawn runs a part of a connection's life in a goroutine of its own, which
// ends with the connection; Shutdown waits for it. s.accepting already counts
// whoever calls, or s.mu is held. A panic of ours costs that connection alone.
func (s *Server) spawn(c *clientConn, part func()) {
	s.accepting.Add(1)
	go func() {
		defer s.accepting.Done()
		defer func() {
			if p := recover(); p != nil {
				s.panicked(p)
				c.abort()
			}
		}()
		part()
	}()
}

// enter asks the guard about a client's address; when it may enter, the guard
// counts its connection until ConnClosed.
func (s *Server) enter(client netip.Addr, now time.Time) bool {
	v := s.cfg.Guard.AllowConn(client, now)
	return v.Allowed
}

// carry takes a new connection up to HTTP: PROXY protocol, TLS, protocol.
func (s *Server) carry(c *clientConn, trusted bool) {
	limits := s.snap.Load().Limits
	_ = c.SetDeadline(deadline(limits.Handshake))
	if trusted && !s.identifyPeer(c) {
		c.abort()
		return
	}
	if c.kind == KindHTTP {
		_ = c.SetDeadline(time.Time{})
		s.engine(c, c, "")
		return
	}
	tc := s.handshake(c)
	if tc == nil {
		return
	}
	// The handshake has grown this goroutine's stack beyond what serving
	// needs: a fresh one is smaller for all the time the connection rests.
	s.spawn(c, func() { s.serveTLS(c, tc) })
}

// serve speaks the protocol that was agreed on, to the end of the connection.
func (s *Server) serve(c *clientConn, nc net.Conn, protocol string) {
	if protocol == protocolH2 {
		s.serveHTTP2(c, nc)
		return
	}
	s.serveHTTP1(c, nc)
}

// panicked counts a mistake of ours and tells it; the connection is gone, the
// process goes on.
func (s *Server) panicked(p any) {
	s.metrics.noise.WithLabelValues("panic").Inc()
	s.log.Error("panic in a request", "panic", p, "stack", string(debug.Stack()))
}

// identifyPeer reads the PROXY protocol header a trusted peer may send and
// asks the guard about the client it names.
func (s *Server) identifyPeer(c *clientConn) bool {
	client, err := c.readProxyHeader()
	if err != nil {
		s.metrics.refusedConn("proxy_protocol")
		s.log.Debug("PROXY header refused", "peer", c.peer, "err", err)
		return false
	}
	if !client.IsValid() {
		client = c.peer
	}
	if !s.enter(client, c.start) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.gone { // Shutdown cut it meanwhile, and nobody gives back what was counted
		s.cfg.Guard.ConnClosed(client)
		return false
	}
	c.client, c.counted = client, client
	return true
}

// closed is called once by the connection when it is closed.
func (s *Server) closed(c *clientConn) {
	s.mu.Lock()
	_, tracked := s.conns[c]
	delete(s.conns, c)
	c.gone = true
	client, counted := c.client, c.counted
	s.mu.Unlock()
	if counted.IsValid() {
		s.cfg.Guard.ConnClosed(counted)
	}
	if !tracked {
		return
	}
	s.metrics.openConns.WithLabelValues(c.kind.String()).Dec()
	s.metrics.received.Add(float64(c.in.Load()))
	s.metrics.sent.Add(float64(c.out.Load()))
	if c.kind == KindHTTP || c.secured.Load() {
		if c.requests.Load() == 0 && !c.judged.Load() {
			s.cfg.Guard.Observe(client, guard.Timeout, time.Now())
		}
	}
}

// clientConnKey finds the *clientConn in the context of a net/http request.
type clientConnKey struct{}

func deadline(d time.Duration) time.Time {
	if d <= 0 {
		return time.Time{}
	}
	return time.Now().Add(d)
}

func addrOf(a net.Addr) netip.Addr {
	switch t := a.(type) {
	case *net.TCPAddr:
		return t.AddrPort().Addr().Unmap()
	case *net.UDPAddr:
		return t.AddrPort().Addr().Unmap()
	}
	if ap, err := netip.ParseAddrPort(a.String()); err == nil {
		return ap.Addr().Unmap()
	}
	return netip.IPv4Unspecified() // a unix socket or a pipe: nobody's address
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
