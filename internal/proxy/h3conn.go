package proxy

import (
	"context"
	"errors"
	"hash/maphash"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"postern/internal/caller"
	"postern/internal/guard"
)

// errRefused tells quic-go to refuse a connection before its handshake.
var errRefused = errors.New("connection refused")

// quicConn stands where other clientConns have their TCP connection. It can
// be closed; bytes go through its streams. The client is judged by the
// address it began with, also after it has migrated (RFC 9000 section 9).
type quicConn struct {
	engine *quicEngine
	client *clientConn
	remote net.Addr

	// proven: the client has shown that it gets what is sent to its address.
	// Whoever has not may have forged the address, so what it does is nobody's
	// guilt.
	proven  bool
	waiting sync.Once // gives back what unproven counted
	known   sync.Once // http3 counts the connection from here
	class   string    // why the hello was refused; written in the handshake, read after its end

	conn   atomic.Pointer[quic.Conn] // nil until the handshake is done
	rested atomic.Int64              // when the last request ended, Unix nanoseconds
	timer  *time.Timer               // set by carry
}

// quicConnOf finds our connection in the context of a handshake, a
// connection, or a request.
func quicConnOf(ctx context.Context) *quicConn {
	if c, ok := ctx.Value(clientConnKey{}).(*clientConn); ok {
		if q, ok := c.Conn.(*quicConn); ok {
			return q
		}
	}
	return nil
}

// mustProve reports whether a client must show that it is where it says
// before its hello is read (Retry, RFC 9000 section 8.1.2). It costs a round
// trip, so it is asked only of those whose last hello was refused, and of all
// while many have not shown it.
func (s *Server) mustProve(a net.Addr) bool {
	return s.unproven.Load() >= quicMaxUnproven || s.suspects.has(addrOf(a))
}

// admit decides about a connection before its handshake. Connections that may
// have a forged address are few at a time (see mustProve), so they cannot use
// up another's share.
func (e *quicEngine) admit(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	s, peer, now := e.s, addrOf(info.RemoteAddr), time.Now()
	if s.quicOpen.Load() >= quicMaxConns {
		s.metrics.refusedConn("h3_full")
		return nil, errRefused
	}
	if !s.enter(peer, now) {
		return nil, errRefused
	}
	q := &quicConn{engine: e, remote: info.RemoteAddr, proven: info.AddrVerified}
	c := newClientConn(s, q, KindH3, peer, now)
	q.client, c.counted = c, peer
	s.mu.Lock()
	refused := s.draining
	if !refused {
		s.conns[c] = struct{}{}
	}
	s.mu.Unlock()
	if refused {
		_ = c.Close()
		return nil, errRefused
	}
	s.quicOpen.Add(1)
	s.metrics.connections.WithLabelValues(KindH3.String()).Inc()
	s.metrics.openConns.WithLabelValues(KindH3.String()).Inc()
	if !q.proven {
		s.unproven.Add(1)
	}
	context.AfterFunc(ctx, func() { q.ended(context.Cause(ctx)) })
	return context.WithValue(ctx, clientConnKey{}, c), nil
}

// settle gives back what unproven counted, once.
func (q *quicConn) settle() {
	q.waiting.Do(func() {
		if !q.proven {
			q.engine.s.unproven.Add(-1)
		}
	})
}

// refused notes that the hello was not for us. Without a proof of the address
// nobody is scored for it, and the next hello from there needs one.
func (q *quicConn) refused(err error) {
	c, s := q.client, q.engine.s
	q.class = handshakeClass(err)
	signal, scored := refusalClasses[q.class]
	switch {
	case !scored:
	case q.proven:
		c.refuse(q.class, signal)
	case !c.judged.Swap(true):
		s.suspects.add(c.client)
		s.metrics.refusedConn(q.class)
		s.log.Debug("connection refused", "client", c.client, "listener", c.kind.String(), "reason", q.class)
	}
}

// ended is called once when the connection or its handshake is over.
func (q *quicConn) ended(cause error) {
	c, s := q.client, q.engine.s
	s.quicOpen.Add(-1)
	q.settle()
	if !c.secured.Load() {
		class := q.class
		if class == "" {
			class = quicFailure(cause)
		}
		s.metrics.handshake(class, time.Since(c.start))
		s.log.Debug("TLS handshake failed", "client", c.client, "listener", c.kind.String(), "class", class, "err", cause)
		if q.proven && (class == handshakeTimeout || class == handshakeNoCommon) {
			c.refuse("handshake_"+class, guard.HandshakeFailed)
		}
	}
	_ = c.Close()
}

// quicFailure sorts how a handshake ended. Crypto errors hold a TLS alert
// (RFC 9001 section 4.8).
func quicFailure(err error) string {
	if _, ok := errors.AsType[*quic.HandshakeTimeoutError](err); ok {
		return handshakeTimeout
	}
	if _, ok := errors.AsType[*quic.IdleTimeoutError](err); ok {
		return handshakeTimeout
	}
	if _, ok := errors.AsType[*quic.ApplicationError](err); ok {
		return handshakeGone
	}
	t, ok := errors.AsType[*quic.TransportError](err)
	if !ok {
		return handshakeOther
	}
	alert := t.ErrorCode - 0x100
	switch {
	case t.Remote && t.ErrorCode.IsCryptoError():
		return handshakeAlert
	case t.Remote:
		return handshakeGone
	case t.ErrorCode.IsCryptoError() && (alert == 40 || alert == 70 || alert == 120): // handshake_failure, protocol_version, no_application_protocol
		return handshakeNoCommon
	}
	return handshakeOther
}

// carry serves HTTP/3 on the connection until it ends.
func (q *quicConn) carry(qc *quic.Conn) {
	c, s := q.client, q.engine.s
	q.settle()
	defer q.known.Do(q.engine.entering.Done)
	q.rested.Store(time.Now().UnixNano())
	c.secured.Store(true)
	q.conn.Store(qc)
	s.mu.Lock()
	gone := c.gone
	s.mu.Unlock()
	if gone { // closed meanwhile, when there was nothing to close
		_ = q.Close()
		return
	}
	s.metrics.handshake(handshakeOK, time.Since(c.start))
	state := qc.ConnectionState().TLS
	c.cert = caller.NewPeer(state.PeerCertificates)
	if state.DidResume {
		s.metrics.resumed.Inc()
	}
	q.timer = time.AfterFunc(time.Hour, q.rest)
	q.timer.Reset(q.patience())
	defer q.timer.Stop()
	_ = q.engine.http.ServeQUICConn(qc) // how it ended is no news
	_ = c.Close()
}

// entered is told when http3 counts a connection: from here on its Shutdown
// waits for it.
func entered(ctx context.Context, _ *quic.Conn) context.Context {
	if q := quicConnOf(ctx); q != nil {
		q.known.Do(q.engine.entering.Done)
	}
	return ctx
}

// patience is how long the connection may rest now; 0 means for ever.
func (q *quicConn) patience() time.Duration {
	limits := q.engine.s.snap.Load().Limits
	d := limits.Idle
	if q.client.known.Load() {
		d = limits.CallerIdle
	}
	if q.client.requests.Load() == 0 {
		d = limits.HeaderIn
	}
	if d <= 0 {
		return time.Hour // look again then
	}
	return d
}

// rest closes the connection when it has had no request for too long. Streams
// whose head does not come do not count.
func (q *quicConn) rest() {
	limits := q.engine.s.snap.Load().Limits
	bounded := limits.Idle > 0
	if q.client.requests.Load() == 0 {
		bounded = limits.HeaderIn > 0
	}
	idle, patience := time.Since(time.Unix(0, q.rested.Load())), q.patience()
	switch {
	case q.client.inFlight.Load() > 0 || !bounded:
		q.timer.Reset(patience)
	case idle < patience:
		q.timer.Reset(patience - idle)
	default:
		_ = q.client.Close()
	}
}

// Close ends the connection: with H3_NO_ERROR, or, for a client that is
// unwanted, H3_EXCESSIVE_LOAD (RFC 9114 section 8.1).
func (q *quicConn) Close() error {
	qc := q.conn.Load()
	if qc == nil {
		return nil // its handshake ends by itself, or with the socket
	}
	code := http3.ErrCodeNoError
	if q.client.brutal.Load() {
		code = http3.ErrCodeExcessiveLoad
	}
	err := qc.CloseWithError(quic.ApplicationErrorCode(code), "")
	stats := qc.ConnectionStats()
	q.client.in.Store(int64(stats.BytesReceived))
	q.client.out.Store(int64(stats.BytesSent))
	return err
}

func (q *quicConn) LocalAddr() net.Addr              { return q.engine.l.Addr() }
func (q *quicConn) RemoteAddr() net.Addr             { return q.remote }
func (q *quicConn) Read([]byte) (int, error)         { return 0, errors.ErrUnsupported }
func (q *quicConn) Write([]byte) (int, error)        { return 0, errors.ErrUnsupported }
func (q *quicConn) SetDeadline(time.Time) error      { return errors.ErrUnsupported }
func (q *quicConn) SetReadDeadline(time.Time) error  { return errors.ErrUnsupported }
func (q *quicConn) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

// suspects are addresses whose hello was refused without a proof that it was
// theirs: a table of fixed size, in which a later one takes the place of
// another. Wrongly in it costs a round trip.
type suspects struct {
	seed  maphash.Seed
	slots [1024]atomic.Uint64
}

func newSuspects() *suspects { return &suspects{seed: maphash.MakeSeed()} }

// slot is where an address would be (for IPv6: its /64 network), and its mark.
func (t *suspects) slot(a netip.Addr) (*atomic.Uint64, uint64) {
	if p, err := a.Prefix(64); err == nil && a.Is6() {
		a = p.Addr()
	}
	h := maphash.Comparable(t.seed, a) | 1
	return &t.slots[h>>32%uint64(len(t.slots))], h
}

func (t *suspects) add(a netip.Addr) {
	slot, mark := t.slot(a)
	slot.Store(mark)
}

func (t *suspects) has(a netip.Addr) bool {
	slot, mark := t.slot(a)
	return slot.Load() == mark
}

// serveH3 carries an HTTP/3 request through the five steps.
func (s *Server) serveH3(w http.ResponseWriter, r *http.Request) {
	if q := quicConnOf(r.Context()); q != nil {
		defer func() { q.rested.Store(time.Now().UnixNano()) }()
	}
	defer func() {
		if p := recover(); p != nil {
			if p != http.ErrAbortHandler {
				s.panicked(p)
			}
			panic(http.ErrAbortHandler) // http3 resets the stream
		}
	}()
	s.serveHTTP(w, r)
}
