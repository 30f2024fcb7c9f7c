package proxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"postern/internal/caller"
	"postern/internal/guard"
	"postern/internal/http1"
	"postern/internal/upstream"
)

// h1 carries the HTTP/1.1 requests of one connection, one after the other, in
// one goroutine. It holds no buffer while a TLS connection rests.
type h1 struct {
	s    *Server
	conn *clientConn
	nc   net.Conn // conn, or the TLS above it

	in     http1.Stream
	follow http1.Follower
	req    http1.Request
	head   []byte // the head of the current request; texts of x live in it
	out    []byte // what is to be written to the client next
	framed []byte // what goes to the backend next
	one    [1]byte
	id     [64]byte // the request id we made

	x     exchange
	trace upstream.Trace
	wreq  upstream.WireRequest
	wres  upstream.WireResponse
	body  h1Body

	shared  *h1Reader // the body, while another goroutine may read it; else nil
	closing bool      // the connection ends with this exchange
	begun   bool      // a final answer has begun
	armed   time.Time // the read deadline that is set; zero: none
	peeked  bool      // one holds a byte of the next request

	moreFn  func() ([]byte, error)
	abortFn func()
	watchFn func(cancel func()) func()
	hintFn  func(*http1.Response) error
}

// Sizes of read buffers: one for heads, one for bodies that stream.
const (
	headBuffer = 4 << 10
	bodyBuffer = 32 << 10
)

// pools are what a Server keeps for its next connections and requests.
type pools struct {
	heads  sync.Pool // *[headBuffer]byte
	bodies sync.Pool // *[bodyBuffer]byte
	copies sync.Pool // *[bodyBuffer]byte, for answers
	h1     sync.Pool // *h1
	h2     sync.Pool // *h2Message
}

func (p *pools) init() {
	p.heads.New = func() any { return new([headBuffer]byte) }
	p.bodies.New = func() any { return new([bodyBuffer]byte) }
	p.copies.New = p.bodies.New
	p.h1.New = func() any { return newH1() }
	p.h2.New = func() any { return newH2Message() }
}

func newH1() *h1 {
	h := new(h1)
	h.moreFn, h.abortFn, h.watchFn, h.hintFn = h.more, h.abort, h.watch, h.hint
	return h
}

// States of a connection as Shutdown sees it.
const (
	connBusy int32 = iota
	connResting
	connEnded
)

// serveHTTP1 serves a connection to its end, or hands it to another goroutine.
func (s *Server) serveHTTP1(c *clientConn, nc net.Conn) { s.serveOn(s.takeH1(c, nc)) }

// serveOn is serveHTTP1 with the record the connection has at hand.
func (s *Server) serveOn(h *h1) {
	c, nc := h.conn, h.nc
	for {
		if c.kind == KindHTTPS && !h.started() {
			armed := h.armed
			h.release() // nothing is held for a connection that rests
			armed, err := s.awaitByte(c, nc, armed, c.requests.Load() > 0)
			if err == errLongRest {
				s.restOn(c, nc, armed)
				return
			}
			h = s.takeH1(c, nc)
			h.armed = armed
			if err != nil {
				h.lost(err)
				break
			}
			h.one, h.peeked = c.one, true
		}
		if !h.next() {
			break
		}
		h.exchange()
		if h.closing {
			h.farewell()
			break
		}
	}
	h.close()
	h.release()
}

// A connection that rests for longer than shortRest goes on in a fresh
// goroutine: what it rested in has the stack of the requests it served.
const shortRest = 2 * time.Second

var errLongRest = errors.New("proxy: the connection rests")

// restOn waits for the next request in a goroutine of its own.
func (s *Server) restOn(c *clientConn, nc net.Conn, armed time.Time) {
	s.spawn(c, func() {
		if _, err := s.awaitByte(c, nc, armed, false); err != nil {
			c.closeWith(nc)
			return
		}
		s.serveAwake(c, nc)
	})
}

// serveAwake serves a connection whose next request has begun with c.one.
func (s *Server) serveAwake(c *clientConn, nc net.Conn) {
	h := s.takeH1(c, nc)
	h.one, h.peeked = c.one, true
	s.serveOn(h)
}

func (s *Server) takeH1(c *clientConn, nc net.Conn) *h1 {
	h := s.pools.h1.Get().(*h1)
	h.s, h.conn, h.nc = s, c, nc
	h.in.Reset(nc, nil)
	h.follow = http1.Follower{Limits: http1.Limits{Head: s.headLimit}}
	return h
}

// started reports whether a byte of the next request is here.
func (h *h1) started() bool { return h.in.Buffered() > 0 || h.peeked }

// awaitByte waits for the first byte of a request, into c.one, if brief only
// for a short while and then with errLongRest. armed is the read deadline that
// is set; it returns the one that is set then.
func (s *Server) awaitByte(c *clientConn, nc net.Conn, armed time.Time, brief bool) (time.Time, error) {
	want, change := s.restUntil(c, armed)
	if brief && (want.IsZero() || time.Until(want) > 2*shortRest) {
		want = time.Now().Add(shortRest)
		off := want.Sub(armed)
		change = armed.IsZero() || off > shortRest/8 || off < -shortRest/8
	} else {
		brief = false
	}
	if change {
		armed = want
		_ = nc.SetReadDeadline(want)
	}
	if !c.state.CompareAndSwap(connBusy, connResting) {
		return armed, net.ErrClosed // shutting down
	}
	var err error
	if s.leaving.Load() {
		err = net.ErrClosed
	} else {
		_, err = io.ReadFull(nc, c.one[:])
	}
	if !c.state.CompareAndSwap(connResting, connBusy) {
		return armed, net.ErrClosed
	}
	if brief && errors.Is(err, os.ErrDeadlineExceeded) {
		err = errLongRest
	}
	return armed, err
}

// restUntil is when a connection that waits for a request is given up, and
// whether the deadline that is set must change for it: one that is near enough
// is left alone, so that a busy connection does not touch it for each request.
func (s *Server) restUntil(c *clientConn, armed time.Time) (want time.Time, change bool) {
	limits := &s.snap.Load().Limits
	wait := limits.Idle
	if c.known.Load() {
		wait = limits.CallerIdle
	}
	if c.requests.Load() == 0 {
		wait = limits.HeaderIn
	}
	if wait <= 0 {
		return time.Time{}, !armed.IsZero()
	}
	want = time.Now().Add(wait)
	off := want.Sub(armed)
	return want, armed.IsZero() || off > wait/8 || off < -wait/8
}

// close ends the connection.
func (h *h1) close() { h.conn.closeWith(h.nc) }

// release gives everything back; nothing of the connection stays in the pool.
func (h *h1) release() {
	h.dropBuffer()
	if cap(h.out) > bodyBuffer+1<<10 {
		h.out = nil
	}
	pool := &h.s.pools.h1
	h.s, h.conn, h.nc = nil, nil, nil
	h.x, h.trace = exchange{}, upstream.Trace{}
	h.wreq.Body, h.wreq.More = nil, nil
	h.closing, h.begun, h.peeked, h.armed = false, false, false, time.Time{}
	h.in.Reset(nil, nil)
	pool.Put(h)
}

// needBuffer makes sure that the stream has a buffer of at least n bytes.
func (h *h1) needBuffer(n int) {
	if h.in.Cap() >= n {
		return
	}
	var b []byte
	switch {
	case n <= headBuffer:
		b = h.s.pools.heads.Get().(*[headBuffer]byte)[:]
	case n <= bodyBuffer:
		b = h.s.pools.bodies.Get().(*[bodyBuffer]byte)[:]
	default:
		b = make([]byte, n)
	}
	h.keep(h.in.SetBuffer(b))
}

// dropBuffer gives an empty stream's buffer back.
func (h *h1) dropBuffer() { h.keep(h.in.SetBuffer(nil)) }

func (h *h1) keep(b []byte) {
	switch len(b) {
	case headBuffer:
		h.s.pools.heads.Put((*[headBuffer]byte)(b))
	case bodyBuffer:
		h.s.pools.bodies.Put((*[bodyBuffer]byte)(b))
	}
}

// next waits for a request and takes its head apart. It reports false when
// the connection is over.
func (h *h1) next() bool {
	if !h.started() && !h.rest() {
		return false
	}
	h.needBuffer(headBuffer)
	if h.peeked {
		h.in.Push(h.one[:])
		h.peeked = false
	}
	for begun := false; ; {
		head, err := h.in.RequestHead(&h.follow)
		switch {
		case err != nil:
			h.malformed(err)
			return false
		case head != nil:
			return h.parse(head)
		}
		if !begun && h.in.Buffered() > 0 {
			begun = true
			h.arm(deadline(h.s.snap.Load().Limits.HeaderIn))
		}
		if h.in.Buffered() == h.in.Cap() {
			h.needBuffer(min(4*h.in.Cap(), h.s.headLimit+1<<10))
		}
		if err := h.in.Fill(); err != nil {
			h.lost(err)
			return false
		}
	}
}

// rest waits for the first bytes of a request in the clear, where reading one
// byte first would cost a system call.
func (h *h1) rest() bool {
	if want, change := h.s.restUntil(h.conn, h.armed); change {
		h.arm(want)
	}
	if !h.conn.state.CompareAndSwap(connBusy, connResting) {
		return false // shutting down
	}
	h.needBuffer(headBuffer)
	var err error
	if h.s.leaving.Load() {
		err = net.ErrClosed
	} else {
		err = h.in.Fill()
	}
	if !h.conn.state.CompareAndSwap(connResting, connBusy) {
		return false
	}
	if err != nil {
		h.lost(err)
		return false
	}
	return true
}

// arm sets the read deadline.
func (h *h1) arm(t time.Time) {
	h.armed = t
	_ = h.nc.SetReadDeadline(t)
}

// lost ends a connection on which no request was complete.
func (h *h1) lost(err error) {
	if errors.Is(err, http1.ErrTooLong) {
		h.conn.judged.Store(true)
		h.reply(http.StatusRequestHeaderFieldsTooLarge, "head_too_long")
		return
	}
	switch {
	case !errors.Is(err, os.ErrDeadlineExceeded):
	case h.in.Buffered() > 0: // a head that began
		h.conn.slow("header_timeout")
	case h.conn.requests.Load() == 0 && !h.conn.judged.Swap(true):
		h.s.metrics.refusedConn("header_timeout")
		h.s.cfg.Guard.Report(h.conn.client, guard.Timeout, guard.Evidence{Rule: "no_request"}, time.Now())
	}
}

// malformed answers a head that RFC 9112 forbids.
func (h *h1) malformed(err error) {
	status, reason := http.StatusBadRequest, "malformed"
	if se, ok := errors.AsType[*http1.SyntaxError](err); ok {
		status, reason = se.Status, se.Reason.String()
		if se.Reason == http1.HostMismatch && !h.conn.judged.Swap(true) { // somebody looks for an open proxy
			h.s.cfg.Guard.Report(h.conn.client, guard.BadShape, guard.Evidence{Rule: reason}, time.Now())
		}
	}
	h.s.noteMalformed(h.conn, reason)
	h.reply(status, reason)
}

// reply answers outside of any exchange, and leaves.
func (h *h1) reply(status int, reason string) {
	_, _ = h.nc.Write(rawProblem(status, reason, h.s.ids.next())) // a lost client has no use for it
	h.farewell()
}

// farewell lets the client read the last answer although it may still be
// sending: a close with unread bytes would be a reset, which can overtake the
// answer (RFC 9112 section 9.6).
func (h *h1) farewell() {
	if h.conn.brutal.Load() || h.in.Buffered() == 0 && h.in.BodyDone() && h.begun {
		return
	}
	half, ok := h.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	h.arm(time.Now().Add(lingerTime))
	var sink [512]byte
	for left := lingerBytes; left > 0; {
		n, err := h.nc.Read(sink[:])
		if left -= n; err != nil {
			return
		}
	}
}

// How long and how much is read of a client that is told goodbye.
const (
	lingerTime  = time.Second
	lingerBytes = 2 << 20
)

// parse copies the head and takes the copy apart: reading the body reuses the
// buffer.
func (h *h1) parse(head []byte) bool {
	h.head = append(h.head[:0], head...)
	if err := h.req.Parse(h.head); err != nil {
		h.malformed(err)
		return false
	}
	h.in.BeginBody(h.req.Framing, h.req.Length)
	return true
}

// exchange runs one request through the five steps.
func (h *h1) exchange() {
	x := &h.x
	*x = exchange{
		method: methodText(h.req.Method), rawHost: text(h.req.Host), rawTarget: text(h.req.Target),
		proto: protoHTTP11, length: h.req.Length,
	}
	if h.req.Minor == 0 {
		x.proto = protoHTTP10
	}
	if h.req.Framing == http1.Chunked {
		x.length = -1
	}
	h.begun, h.closing = false, !h.req.Persist || h.s.leaving.Load()
	h.body.reset()
	x.begin(h.s, h.conn, h, time.Now(), h.id[:0])
	h.run()
	if h.body.aborted.Load() { // abort does not tell which deadline it sets
		h.arm(time.Time{})
	}
	if !h.in.BodyDone() && !h.discard() {
		h.closing = true
	}
}

// run contains a panic of ours to its connection, after it is on record.
func (h *h1) run() {
	defer func() {
		if p := recover(); p != nil {
			h.closing = true
			h.conn.brutal.Store(true)
			h.wres.Close() // and with it an upload that reads from h
			if p != http.ErrAbortHandler {
				h.s.panicked(p)
			}
		}
	}()
	defer h.x.record()
	h.x.run()
}

// discard passes over a body nobody wanted, as far as it is here already.
func (h *h1) discard() bool {
	for !h.in.BodyDone() {
		p, err := h.in.BufferedBody()
		if err != nil || len(p) == 0 && !h.in.BodyDone() {
			return false
		}
	}
	return true
}

// text is b without a copy: it lives as long as the head does.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// methodText is a constant for the usual methods.
func methodText(b []byte) string {
	switch string(b) {
	case http.MethodGet:
		return http.MethodGet
	case http.MethodPost:
		return http.MethodPost
	case http.MethodHead:
		return http.MethodHead
	case http.MethodPut:
		return http.MethodPut
	}
	return text(b)
}

// h1 is a message.

func (h *h1) field(name string) string {
	for i := range h.req.Fields {
		if strings.EqualFold(text(h.req.Fields[i].Key), name) {
			return text(h.req.Fields[i].Value)
		}
	}
	return ""
}

func (h *h1) list(name string) (values []string) {
	for i := range h.req.Fields {
		if strings.EqualFold(text(h.req.Fields[i].Key), name) {
			values = append(values, text(h.req.Fields[i].Value))
		}
	}
	return values
}

func (h *h1) credentials() (c caller.Credentials) {
	for i := range h.req.Fields {
		if f := &h.req.Fields[i]; mayProve(len(f.Key)) {
			addCredential(&c, text(f.Key), text(f.Value))
		}
	}
	return c
}

func (h *h1) hangUp(x *exchange) {
	if x.tarpit && x.refused && x.snap.Tarpit && !h.begun {
		h.s.keepBusy(h.nc)
	}
	x.conn.brutal.Store(true)
	h.closing = true
}

func (h *h1) answer(x *exchange, a answer) {
	if h.begun {
		h.closing = true // too late for an answer
		return
	}
	if h.shared != nil {
		h.shared.shut()
	}
	if !h.in.BodyDone() && !h.discard() {
		h.closing = true
	}
	h.out = http1.AppendStatusLine(h.out[:0], a.status, http.StatusText(a.status))
	for _, f := range a.fields {
		h.out = http1.AppendText(h.out, f.name, f.value)
	}
	h.out = h.s.date.append(h.out, x.start)
	if bodyAllowed(a.status) {
		h.out = http1.AppendLength(h.out, int64(len(a.body)))
	}
	h.endHead()
	h.begun, x.status = true, a.status
	if x.method != http.MethodHead {
		h.out = append(h.out, a.body...)
		x.sent = int64(len(a.body))
	}
	h.flush()
}

// keepAliveHint is how long known callers are told that a connection is kept,
// which it is for longer.
const keepAliveHint = 50 * time.Second

// endHead says what becomes of the connection and ends the head.
func (h *h1) endHead() {
	switch {
	case h.closing:
		h.out = append(h.out, "Connection: close\r\n"...)
	case h.req.Minor == 0:
		h.out = append(h.out, "Connection: keep-alive\r\n"...)
	case h.conn.known.Load() && h.s.snap.Load().Limits.CallerIdle >= keepAliveHint:
		// A client that heeds it does not meet a connection that is being
		// closed; Node's agent does.
		h.out = append(h.out, "Connection: keep-alive\r\nKeep-Alive: timeout=50\r\n"...)
	}
	h.out = append(h.out, "\r\n"...)
}

// flush writes what is ready. An error ends the connection.
func (h *h1) flush() bool {
	_, err := h.nc.Write(h.out)
	h.out = h.out[:0]
	if err != nil {
		h.closing = true
	}
	return err == nil
}

// dateText is the value of Date for the current second.
type dateText struct {
	at atomic.Pointer[dateLine]
}

type dateLine struct {
	unix int64
	text string
}

func (d *dateText) value(now time.Time) string {
	unix := now.Unix()
	l := d.at.Load()
	if l == nil || l.unix != unix {
		l = &dateLine{unix, now.UTC().Format(http.TimeFormat)}
		d.at.Store(l)
	}
	return l.text
}

func (d *dateText) append(b []byte, now time.Time) []byte {
	return http1.AppendText(b, "Date", d.value(now))
}
