package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/internal/guard"
	"postern/internal/http1"
)

// reference is the engine that ours are compared with: net/http, behind a
// filter that lets through only what RFC 9112 allows and every parser reads the
// same way. It is what postern served with before it had engines of its own.
type reference struct {
	s     *Server
	http  *http.Server
	conns chan net.Conn
	done  chan struct{} // closed by Close
	once  sync.Once
}

// newReference puts net/http in the place of s's engines until the test ends.
func newReference(t testing.TB, s *Server) {
	limits := s.snap.Load().Limits
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	r := &reference{s: s, conns: make(chan net.Conn), done: make(chan struct{})}
	r.http = &http.Server{
		Handler:                      http.HandlerFunc(r.serve),
		Protocols:                    protocols,
		TLSConfig:                    &tls.Config{NextProtos: []string{"h2"}}, // enables h2 for the *tls.Conn we hand over
		ReadHeaderTimeout:            limits.HeaderIn,
		IdleTimeout:                  limits.Idle,
		MaxHeaderBytes:               s.headLimit,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     log.New(io.Discard, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if h, ok := c.(*http1Conn); ok {
				return context.WithValue(context.WithValue(ctx, clientConnKey{}, h.client), referenceKey{}, h)
			}
			return context.WithValue(ctx, clientConnKey{}, c.(*tls.Conn).NetConn())
		},
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 128, MaxReceiveBufferPerConnection: 1 << 20, MaxReceiveBufferPerStream: 256 << 10,
			WriteByteTimeout: limits.Stall,
		},
	}
	s.engine = r.take
	served := make(chan struct{})
	go func() { // ends with Close; the test's end waits for it
		defer close(served)
		_ = r.http.Serve(r)
	}()
	t.Cleanup(func() {
		_ = r.http.Close()
		<-served
	})
}

// take hands a connection to net/http, which has goroutines of its own.
func (r *reference) take(c *clientConn, nc net.Conn, protocol string) {
	if protocol != protocolH2 {
		h := &http1Conn{Conn: nc, client: c}
		h.follow.Limits.Head = r.s.headLimit
		nc = h
	}
	select {
	case r.conns <- nc:
	case <-r.done:
		_ = nc.Close()
	}
}

func (r *reference) Accept() (net.Conn, error) {
	select {
	case c := <-r.conns:
		return c, nil
	case <-r.done:
		return nil, net.ErrClosed
	}
}

func (r *reference) Close() error {
	r.once.Do(func() { close(r.done) })
	return nil
}

func (r *reference) Addr() net.Addr { return &net.TCPAddr{} }

// referenceKey finds the *http1Conn in the context of a request.
type referenceKey struct{}

// serve runs the five steps for a request of net/http.
func (r *reference) serve(w http.ResponseWriter, req *http.Request) {
	conn, _ := req.Context().Value(referenceKey{}).(*http1Conn)
	if conn == nil { // HTTP/2
		r.s.serveHTTP(w, req)
		return
	}
	rw := &referenceWriter{ResponseWriter: w, conn: conn}
	defer rw.settle()
	if req.Body != http.NoBody {
		req.Body = referenceBody{req.Body}
	}
	r.s.serveHTTP(rw, req)
}

// referenceBody tells a violation as our own engine does.
type referenceBody struct{ io.ReadCloser }

func (b referenceBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if _, ok := errors.AsType[*http1.SyntaxError](err); ok {
		err = http1.ErrBody
	}
	return n, err
}

// referenceWriter does what net/http does not do by itself.
type referenceWriter struct {
	http.ResponseWriter
	conn *http1Conn
	last time.Time // the read deadline that was set last
}

func (w *referenceWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *referenceWriter) SetReadDeadline(t time.Time) error {
	w.last = t
	return http.NewResponseController(w.ResponseWriter).SetReadDeadline(t)
}

// settle keeps the read deadline of a body that ends with its connection:
// net/http forgets it.
func (w *referenceWriter) settle() {
	if !w.last.IsZero() && w.Header().Get("Connection") == "close" {
		w.conn.lastRead.Store(w.last.UnixNano())
	}
}

// Hijack hands over a connection that has no bytes of another protocol on it
// yet.
func (w *referenceWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.conn.violated.Load() {
		w.Header()["Connection"] = []string{"close"}
		return nil, nil, errTooEarly
	}
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	w.conn.follow.Opaque()
	if w.conn.violated.Load() { // it came only now: nothing reads the connection any more
		_ = c.Close()
		return nil, nil, errTooEarly
	}
	return c, rw, nil
}

// http1Conn is a connection on which HTTP/1.1 is spoken: clear text or the
// inside of TLS. It lets through to net/http only what RFC 9112 allows and
// every parser reads the same way.
type http1Conn struct {
	net.Conn // the *clientConn or the *tls.Conn above it
	client   *clientConn
	follow   http1.Follower
	bad      *http1.SyntaxError // the violation, once there was one; reading side alone
	violated atomic.Bool        // what it sent was no HTTP/1.1
	lastRead atomic.Int64       // when nothing is read any more, Unix nanoseconds; 0: no such time
	mute     atomic.Bool        // answered here: net/http has nothing more to say
}

func (h *http1Conn) Read(p []byte) (int, error) {
	if h.bad != nil {
		return h.readOn(p)
	}
	if last := h.lastRead.Load(); last != 0 {
		_ = h.SetReadDeadline(time.Unix(0, last))
	}
	n, err := h.Conn.Read(p)
	if n > 0 {
		good, bad := h.follow.Feed(p[:n])
		if bad != nil {
			h.violation(bad)
			if good > 0 {
				return good, nil // requests that came before are served before
			}
			return h.readOn(p)
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && h.client.requests.Load() == 0 && !h.client.judged.Swap(true) {
		h.client.srv.metrics.refusedConn("header_timeout")
		h.client.srv.cfg.Guard.Observe(h.client.client, guard.Timeout, time.Now())
	}
	return n, err
}

// violation notes and scores what RFC 9112 forbids.
func (h *http1Conn) violation(err error) {
	bad, ok := errors.AsType[*http1.SyntaxError](err)
	if !ok { // Feed has no other
		bad = &http1.SyntaxError{Status: 400}
	}
	h.bad = bad
	c := h.client
	h.violated.Store(true)
	c.srv.noteMalformed(c, bad.Reason.String())
}

// readOn is Read after a violation. In a body it is the handler's to answer.
// Otherwise net/http reads for one of two reasons: byte by byte, while a
// request that came before is served, to learn whether the client is gone; or
// for the head of the next request, when all before are answered. Only then
// the malformed head is answered, and here, for net/http knows only 400.
func (h *http1Conn) readOn(p []byte) (int, error) {
	if h.bad.InBody || h.mute.Load() {
		return 0, h.bad
	}
	if len(p) == 1 {
		for {
			if _, err := h.Conn.Read(p); err != nil {
				return 0, err
			}
		}
	}
	c := h.client
	_, _ = h.Conn.Write(rawProblem(h.bad.Status, h.bad.Reason.String(), c.srv.ids.next()))
	h.mute.Store(true)
	h.linger()
	return 0, h.bad
}

// linger reads what a client is still sending, so that closing does not reset
// the connection before it has read the answer.
func (h *http1Conn) linger() {
	if h.CloseWrite() != nil || h.client.srv.cfg.Guard.Banned(h.client.client, time.Now()) {
		return
	}
	_ = h.SetReadDeadline(time.Now().Add(bodyLinger))
	_, _ = io.CopyN(io.Discard, h.Conn, 256<<10)
}

// Write drops what net/http says after the connection was answered here.
func (h *http1Conn) Write(p []byte) (int, error) {
	if h.mute.Load() {
		return len(p), nil
	}
	return h.Conn.Write(p)
}

// CloseWrite lets net/http end our direction and wait before it closes.
func (h *http1Conn) CloseWrite() error {
	if t, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		return t.CloseWrite()
	}
	return nil
}

// Close scores a first head that was complete and yet reached no handler:
// net/http refused it. Later ones may be left over because the client went.
func (h *http1Conn) Close() error {
	c := h.client
	if !h.violated.Load() && c.requests.Load() == 0 && h.follow.Requests() > 0 && !c.judged.Swap(true) {
		c.srv.metrics.malformed.WithLabelValues("refused_by_engine").Inc()
		c.srv.cfg.Guard.Observe(c.client, guard.Malformed, time.Now())
	}
	if c.brutal.Load() {
		return c.Close() // no TLS close_notify for those we reset
	}
	return h.Conn.Close()
}
