package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// Bounds of one QUIC connection. The windows are what a client may send ahead
// of what a backend takes; they start small and grow only while bodies flow.
const (
	quicStreams       = 100 // requests at once
	quicUniStreams    = 8   // control, QPACK encoder and decoder (RFC 9114 section 6.2), and a few a client greases with
	quicStreamWindow  = 64 << 10
	quicStreamMax     = 256 << 10
	quicConnWindow    = 128 << 10
	quicConnMax       = 1 << 20
	quicKeepAlive     = 20 * time.Second // so that a silent event stream outlives NATs and clients' idle timeouts
	quicMaxConns      = 1024             // in total: one at rest takes some 85 KB, seven times one of TCP; clients that are refused stay with TCP
	quicMaxUnproven   = 16               // handshakes at once of clients that have not shown to be where they say
	quicDismissedFrom = 40 * time.Millisecond
)

// QUICListener is a UDP socket HTTP/3 is served on. Its creator closes it.
type QUICListener struct {
	pc net.PacketConn

	mu     sync.Mutex
	engine *quicEngine // guarded by mu; nil: not served yet
	closed bool        // guarded by mu
}

// NewQUICListener makes a listener of a UDP socket, which belongs to it from
// then on. It touches no network; ServeQUIC does.
func NewQUICListener(pc net.PacketConn) *QUICListener { return &QUICListener{pc: pc} }

// Addr is the socket's own address.
func (l *QUICListener) Addr() net.Addr { return l.pc.LocalAddr() }

// Close takes no new connections any more. The socket stays open until those
// there are have ended; without ServeQUIC it is closed at once. It may be
// called more than once.
func (l *QUICListener) Close() error {
	l.mu.Lock()
	e := l.engine
	l.closed = true
	l.mu.Unlock()
	if e == nil {
		return l.pc.Close()
	}
	return e.listener.Close()
}

// Cut closes the listener, what is left of its connections, and the socket.
// It returns when the address is free.
func (l *QUICListener) Cut() {
	_ = l.Close() // its error is the socket's, which is closed below
	l.mu.Lock()
	e := l.engine
	l.mu.Unlock()
	if e == nil {
		return
	}
	e.leave()
	e.cut()
	<-e.left
	e.close()
}

// quicEngine speaks HTTP/3 for the connections of one socket.
type quicEngine struct {
	s         *Server
	l         *QUICListener
	transport *quic.Transport
	listener  *quic.Listener
	http      *http3.Server

	accepted chan struct{}  // closed when no connection comes any more
	entering sync.WaitGroup // connections that http does not count yet

	leaving sync.Once
	over    context.Context // done when what is left is to be cut
	cut     context.CancelFunc
	left    chan struct{} // closed when every connection has ended
	closing sync.Once
}

// ServeQUIC serves HTTP/3 on l until l is closed. Then clients are asked to
// leave (GOAWAY, RFC 9114 section 5.2), requests in flight have Limits.Grace
// to end, and the socket is closed. When ctx is done or Shutdown has begun, it
// returns earlier and leaves that to Shutdown. Each connection has a goroutine
// of its own; Shutdown waits for them.
func (s *Server) ServeQUIC(ctx context.Context, l *QUICListener) error {
	e, err := s.startQUIC(l)
	if e == nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	err = e.accept()
	close(e.accepted)
	if err != nil {
		e.leave()
		e.cut()
		<-e.left
		e.close()
		return err
	}
	if s.Draining() || ctx.Err() != nil {
		return nil
	}
	// Not ctx's child: the end of the process must not cut what Shutdown lets finish.
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.snap.Load().Limits.Grace)
	defer cancel()
	e.drain(grace, ctx.Done())
	return nil
}

// startQUIC opens QUIC on l's socket; nil when l or the server is closed.
func (s *Server) startQUIC(l *QUICListener) (*quicEngine, error) {
	if s.cfg.TLS == nil {
		_ = l.pc.Close()
		return nil, errors.New("proxy: HTTP/3 needs a TLS configuration")
	}
	e := &quicEngine{s: s, l: l, accepted: make(chan struct{}), left: make(chan struct{})}
	e.over, e.cut = context.WithCancel(context.Background()) // its own life: cut ends it
	limits := s.snap.Load().Limits
	conf := quicConfig(limits)
	conf.GetConfigForClient = func(*quic.ClientInfo) (*quic.Config, error) { return quicConfig(s.snap.Load().Limits), nil }
	e.transport = &quic.Transport{Conn: l.pc, VerifySourceAddress: s.mustProve, ConnContext: e.admit}
	e.http = &http3.Server{
		Handler:        http.HandlerFunc(s.serveH3),
		MaxHeaderBytes: s.headLimit,
		ConnContext:    entered,
		Logger:         slog.New(seldom{noiseCounter{s.metrics, s.log}}),
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	if !l.closed {
		if e.listener, err = e.transport.Listen(s.quicTLS(), conf); err == nil && s.trackQUIC(e) {
			l.engine = e
			return e, nil
		}
	}
	e.cut()
	e.close() // perhaps Shutdown has begun; the listener goes with its transport
	return nil, err
}

func (s *Server) trackQUIC(e *quicEngine) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.quic[e] = struct{}{}
	return true
}

// quicConfig bounds a connection. 0-RTT is never accepted: what came early
// could be a replay, and backends are not told.
func quicConfig(limits Limits) *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           limits.Handshake / 2,                    // quic-go ends a handshake after twice this
		MaxIdleTimeout:                 longest(limits.Idle, limits.CallerIdle), // patience ends strangers' sooner
		KeepAlivePeriod:                quicKeepAlive,
		MaxIncomingStreams:             quicStreams,
		MaxIncomingUniStreams:          quicUniStreams,
		InitialStreamReceiveWindow:     quicStreamWindow,
		MaxStreamReceiveWindow:         quicStreamMax,
		InitialConnectionReceiveWindow: quicConnWindow,
		MaxConnectionReceiveWindow:     quicConnMax,
	}
}

// quicTLS is the TLS configuration with h3 for ALPN. What it refuses is
// scored.
func (s *Server) quicTLS() *tls.Config {
	base := s.cfg.TLS.Clone()
	if choose := base.GetConfigForClient; choose != nil {
		base.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			cfg, err := choose(hello)
			if err != nil {
				if q := quicConnOf(hello.Context()); q != nil {
					q.refused(err)
				}
			}
			return cfg, err
		}
	}
	return http3.ConfigureTLSConfig(base)
}

// accept hands connections whose handshake is done to HTTP/3.
func (e *quicEngine) accept() error {
	for {
		qc, err := e.listener.Accept(e.over)
		switch {
		case errors.Is(err, quic.ErrServerClosed), err != nil && e.over.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		q := quicConnOf(qc.Context())
		e.entering.Add(1)
		e.s.accepting.Add(1) // before the end of accept, which Shutdown waits for
		go func() {          // ends with the connection; Shutdown waits for it
			defer e.s.accepting.Done()
			q.carry(qc)
		}()
	}
}

// leave asks clients to go and lets requests in flight end. It does not wait.
func (e *quicEngine) leave() {
	e.leaving.Do(func() {
		_ = e.l.Close() // the socket stays
		go func() {     // ends when every connection has, at the latest after cut; drain and Cut wait for it
			defer close(e.left)
			<-e.accepted
			e.entering.Wait()
			_ = e.http.Shutdown(e.over) // its error says that connections were cut
		}()
	})
}

// drain waits until all clients have left. Those that still have requests when
// ctx is done are cut; it reports how many connections. When handed is closed
// first it returns, and somebody else drains.
func (e *quicEngine) drain(ctx context.Context, handed <-chan struct{}) (cut int) {
	e.leave()
	start := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-handed:
			return 0
		case <-e.left:
		case <-ctx.Done():
			cut = len(e.conns())
			e.cut()
			<-e.left
		case <-tick.C:
			e.dismiss(time.Since(start))
			continue
		}
		e.close()
		return cut
	}
}

// dismiss closes connections without requests, once clients have had the time
// to learn that they should leave: what they sent before was answered.
func (e *quicEngine) dismiss(since time.Duration) {
	for _, q := range e.conns() {
		qc := q.conn.Load()
		if qc != nil && q.client.inFlight.Load() == 0 && since > quicDismissedFrom+2*qc.ConnectionStats().SmoothedRTT {
			_ = q.client.Close()
		}
	}
}

func (e *quicEngine) conns() []*quicConn {
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	var out []*quicConn
	for c := range e.s.conns {
		if q, ok := c.Conn.(*quicConn); ok && q.engine == e {
			out = append(out, q)
		}
	}
	return out
}

// close gives the socket back.
func (e *quicEngine) close() {
	e.closing.Do(func() {
		_ = e.transport.Close() // ends what is left of handshakes
		_ = e.l.pc.Close()
		e.s.mu.Lock()
		defer e.s.mu.Unlock()
		delete(e.s.quic, e)
	})
}

// seldom drops what is not at least a warning before it is formatted.
type seldom struct{ noiseCounter }

func (seldom) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
