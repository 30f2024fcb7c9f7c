package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"postern/internal/http1"
)

// h1Body is what is known of a request body that is on its way.
type h1Body struct {
	budget time.Duration // how long the client may still keep us waiting
	earned int64         // bytes since the last wait, which buy time
	waited bool          // the client was waited for
	read   atomic.Int64  // bytes of content
	max    int64         // the most there may be; 0: no bound
	end    bool

	over    atomic.Bool // more has seen the end; until then the stream is its goroutine's
	aborted atomic.Bool // the backend does not want the rest
	interim interim
}

func (b *h1Body) reset() {
	b.budget, b.earned, b.waited, b.max, b.end = 0, 0, false, 0, false
	b.read.Store(0)
	b.over.Store(false)
	b.aborted.Store(false)
	b.interim.open()
}

// interim keeps what is said before the answer, which an upload's goroutine may
// say, out of the answer.
type interim struct {
	mu   sync.Mutex
	shut bool // guarded by mu; the answer begins
}

func (i *interim) open() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.shut = false
}

// end is called before the first byte or field of the answer.
func (i *interim) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.shut = true
}

// say runs f unless the answer has begun.
func (i *interim) say(f func() error) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.shut {
		return nil
	}
	return f()
}

// tooLong reports whether the client sent more than it may.
func (b *h1Body) tooLong() bool { return b.max > 0 && b.read.Load() > b.max }

// maxHeld is the largest body that is read as a whole before a backend is
// asked, so that it can be sent again.
const maxHeld = 64 << 10

// forward sends the request over a wire connection of the route's pool, or by
// net/http where the backends speak something else.
func (h *h1) forward(x *exchange, rt *Route) {
	if !rt.Upstream.SpeaksHTTP1() {
		h.viaStd(x, func(m *stdMessage) { m.forward(x, rt) })
		return
	}
	if x.tooLarge(rt) {
		return
	}
	path, ok := x.outgoingTarget(rt)
	if !ok {
		return
	}
	h.wreq.Head = h.appendHead(h.wreq.Head[:0], x, path)
	h.wreq.IsHead = x.method == http.MethodHead
	h.wreq.Upgrade = true // whether a 101 is an answer to something is judged here
	h.wreq.Expect100 = false
	h.wreq.Body, h.wreq.More = nil, nil
	h.wreq.Informational, h.wreq.Watch, h.wreq.Abort = h.hintFn, h.watchFn, h.abortFn
	h.body.max = rt.MaxBody
	if err := h.prepareBody(); err != nil {
		h.failed(x, err)
		return
	}
	h.wreq.Key = x.balanceKey(rt)
	h.wreq.Until = x.until()
	if rt.Mirror != nil && h.upgrading() == nil {
		x.mirror(rt, h.wreq.Head, h.wreq.Body, h.wreq.More == nil)
	}
	x.trace = &h.trace
	err := rt.Upstream.Wire(context.Background(), &h.wreq, &h.wres, &h.trace) // the watch stands for the client
	if err != nil {
		h.failed(x, err)
		return
	}
	switch status := h.wres.Status; {
	case status == http.StatusSwitchingProtocols:
		h.upgrade(x)
		return
	case status > 599:
		h.wres.Close() // ends the upload: the rest of the body is passed over with the answer
		x.badStatus()
	default:
		h.pass(x)
		h.wres.Close()
	}
}

func (h *h1) failed(x *exchange, err error) {
	if h.body.read.Load() > 0 && !h.body.end && !h.in.BodyDone() || errors.Is(err, http1.ErrBody) || h.body.tooLong() {
		h.closing = true
	}
	if x.upstreamFailed(err, leftBy(err)) {
		h.hangUp(x)
	}
}

// appendHead writes the request as the backend gets it.
func (h *h1) appendHead(b []byte, x *exchange, path string) []byte {
	b = append(b, x.method...)
	b = append(b, ' ')
	b = append(b, path...)
	if x.query != "" || len(x.rawTarget) > 0 && x.rawTarget[len(x.rawTarget)-1] == '?' {
		b = append(b, '?')
		b = append(b, x.query...)
	}
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, x.rawHost...)
	b = append(b, "\r\n"...)
	for i := range h.req.Fields {
		f := &h.req.Fields[i]
		if f.Name == http1.Trailer && h.req.Framing == http1.Chunked {
			b = appendTrailerField(b, f.Value)
			continue
		}
		if h.req.Ends(f) || f.Name == http1.Host || f.Name == http1.ContentLength || ours(f, x.trusted) || x.spends(text(f.Key)) || x.route.Request.drops(f.Key) {
			continue
		}
		b = http1.AppendField(b, f.Key, f.Value)
	}
	b = x.appendForwarding(b)
	b = x.route.Request.appendSet(b)
	switch h.req.Framing {
	case http1.ByLength:
		b = http1.AppendLength(b, h.req.Length)
	case http1.Chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case http1.NoBody:
		if h.req.Get(http1.ContentLength) != nil {
			b = append(b, "Content-Length: 0\r\n"...)
		}
	}
	if h.req.Trailers {
		b = append(b, "TE: trailers\r\n"...)
	}
	if up := h.upgrading(); up != nil {
		b = append(b, "Connection: Upgrade\r\nUpgrade: "...)
		b = append(b, up...)
		b = append(b, "\r\n"...)
	}
	return append(b, "\r\n"...)
}

// upgrading is the protocol the client wants to switch to and may; nil: none.
// With a body it is in doubt where the new protocol begins.
func (h *h1) upgrading() []byte {
	if h.req.Upgrade == nil || h.req.Framing != http1.NoBody || h.req.Upgrades > 1 || !mayUpgrade(text(h.req.Upgrade)) {
		return nil
	}
	return h.req.Upgrade
}

// prepareBody reads a body that can be held, or sets up the stream of one that
// cannot.
func (h *h1) prepareBody() error {
	switch {
	case h.x.holds:
		h.wreq.Body = h.x.held
		return nil
	case h.in.BodyDone():
		return nil
	case h.req.Framing == http1.ByLength && h.req.Length <= maxHeld && !h.req.Expect100:
		return h.holdShort(int(h.req.Length))
	}
	h.wreq.Expect100 = h.req.Expect100
	h.wreq.More = h.moreFn
	h.needBuffer(bodyBuffer)
	return nil
}

// hold reads the whole body before it is known where it goes. From then on it
// is one that was declared with its length.
func (h *h1) hold(x *exchange, limit int64) ([]byte, bool) {
	h.body.max = limit
	if h.req.Expect100 && !h.in.BodyDone() && h.in.Buffered() == 0 && h.body.interim.say(h.sayContinue) != nil {
		h.clientGone(x)
		return nil, false
	}
	h.needBuffer(bodyBuffer)
	held := make([]byte, 0, max(h.req.Length, 0))
	for !h.in.BodyDone() {
		p, err := h.readBody()
		if err != nil && err != io.EOF {
			h.failed(x, err)
			return nil, false
		}
		held = append(held, p...)
	}
	h.arm(time.Time{})
	h.body.max = 0
	h.body.read.Store(0)
	h.req.Expect100 = false
	if h.req.Framing == http1.Chunked {
		h.req.Framing = http1.ByLength
	}
	h.req.Length = int64(len(held))
	return held, true
}

// holdShort reads a whole body of n bytes.
func (h *h1) holdShort(n int) error {
	if h.in.Buffered() >= n { // the usual case: it came with the head
		p, err := h.in.BufferedBody()
		h.wreq.Body = p
		return err
	}
	held := make([]byte, 0, n)
	for !h.in.BodyDone() {
		p, err := h.readBody()
		if err != nil && err != io.EOF {
			return err
		}
		held = append(held, p...)
	}
	h.wreq.Body = held
	h.arm(time.Time{})
	return nil
}

// readBody reads once from the client, within the deadline its progress
// earned.
func (h *h1) readBody() ([]byte, error) {
	p, err := h.in.BufferedBody()
	switch {
	case len(p) > 0 || err != nil:
	case h.in.BodyDone():
		err = io.EOF
	default:
		p, err = h.awaitBody()
	}
	h.body.read.Add(int64(len(p)))
	h.body.earned += int64(len(p))
	switch {
	case h.body.aborted.Load():
		return nil, errUnwanted
	case h.body.tooLong():
		return nil, &bodyTooLargeError{}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &bodyStalledError{}
	case err != nil && err != io.EOF:
		if errors.Is(err, http1.ErrBody) {
			return nil, err
		}
		return nil, errClientGone
	}
	return p, err
}

// awaitBody waits for more of the body, or for abort.
func (h *h1) awaitBody() ([]byte, error) {
	if stall := h.x.snap.Limits.Stall; stall > 0 {
		now := time.Now()
		if h.body.waited {
			h.body.budget = min(h.body.budget+time.Duration(h.body.earned)*time.Second/minBodyRate, stall)
		} else {
			h.body.budget, h.body.waited = stall, true
		}
		h.body.earned = 0
		h.arm(now.Add(h.body.budget))
		defer func() { h.body.budget -= time.Since(now) }()
	} else if !h.armed.IsZero() { // the deadline of the head
		h.arm(time.Time{})
	}
	if h.body.aborted.Load() {
		return nil, errUnwanted
	}
	return h.in.Body()
}

// more is the stream of a body towards the backend: framed as the head says.
func (h *h1) more() ([]byte, error) {
	if h.body.end {
		return nil, io.EOF
	}
	if h.wreq.Expect100 && h.body.read.Load() == 0 && h.in.Buffered() == 0 {
		if h.body.interim.say(h.sayContinue) != nil {
			return nil, errClientGone
		}
	}
	p, err := h.readBody()
	if err != nil && err != io.EOF {
		return nil, err
	}
	end := h.in.BodyDone()
	if h.req.Framing == http1.Chunked {
		h.framed = h.framed[:0]
		if len(p) > 0 {
			h.framed = http1.AppendChunk(h.framed, p)
		}
		if end {
			h.framed = http1.AppendLastChunk(h.framed, h.goodTrailers())
		}
		p = h.framed
	}
	if !end {
		return p, nil
	}
	h.body.end = true
	h.arm(time.Time{})
	h.body.over.Store(true)
	return p, io.EOF
}

// sayContinue asks the client for its body (RFC 9110 section 10.1.1).
func (h *h1) sayContinue() error {
	_, err := io.WriteString(h.nc, "HTTP/1.1 100 Continue\r\n\r\n")
	return err
}

// bodyOver reports whether the request body was read to its end.
func (h *h1) bodyOver() bool {
	if h.wreq.More != nil {
		return h.body.over.Load()
	}
	return h.in.BodyDone()
}

// goodTrailers are the client's trailers without those it may not send.
func (h *h1) goodTrailers() []http1.Field {
	good := h.in.Trailers()[:0]
	for _, f := range h.in.Trailers() {
		if inTrailer(f.Key) && !h.x.route.Request.drops(f.Key) {
			good = append(good, f)
		}
	}
	return good
}

// pass sends the backend's answer to the client.
func (h *h1) pass(x *exchange) {
	res := &h.wres
	x.status = res.Status
	h.begun = true
	h.body.interim.end()
	chunk := h.appendAnswerHead(x)
	defer func() {
		if cap(h.out) > bodyBuffer+1<<10 {
			h.out = nil
		}
	}()
	p, err := res.Buffered()
	for err == nil {
		if len(p) > 0 {
			x.sent += int64(len(p))
			switch {
			case chunk:
				h.out = http1.AppendChunk(h.out, p)
			case len(h.out)+len(p) <= bodyBuffer:
				h.out = append(h.out, p...)
			default:
				if len(h.out) > 0 && !h.flush() {
					h.clientGone(x)
					return
				}
				if _, werr := h.nc.Write(p); werr != nil {
					h.clientGone(x)
					return
				}
			}
		}
		if !res.Done() {
			if len(h.out) > 0 && !h.flush() {
				h.clientGone(x)
				return
			}
			p, err = res.Body()
		} else {
			err = io.EOF
		}
	}
	if err != io.EOF {
		h.broken(x, err)
		return
	}
	if chunk {
		h.out = http1.AppendLastChunk(h.out, res.Trailers())
	}
	if len(h.out) > 0 && !h.flush() {
		h.clientGone(x)
	}
}

// appendAnswerHead writes the answer's head and reports whether its body is to
// be chunked.
func (h *h1) appendAnswerHead(x *exchange) (chunk bool) {
	res := &h.wres
	streaming := res.Framing == http1.Chunked || res.Framing == http1.UntilClose
	chunk = streaming && h.req.Minor == 1
	if streaming && !chunk {
		h.closing = true
	}
	if !h.bodyOver() || h.s.leaving.Load() {
		h.closing = true
	}
	b := http1.AppendStatusLine(h.out[:0], res.Status, http.StatusText(res.Status))
	dated, secured := false, false
	for i := range res.Fields {
		f := &res.Fields[i]
		switch {
		case f.Name == http1.Trailer && chunk:
		case res.Ends(f), f.Name == http1.RequestID, isAltSvc(f.Key), x.route.Response.drops(f.Key):
			continue
		case f.Name == http1.ContentLength && (streaming || res.Status == http.StatusNoContent):
			continue
		case f.Name == http1.Date:
			dated = true
		case f.Name == http1.HSTS:
			secured = true
		}
		b = http1.AppendField(b, f.Key, f.Value)
	}
	if !dated {
		b = h.s.date.append(b, x.start)
	}
	b = x.route.Response.appendSet(b)
	b = http1.AppendText(b, "X-Request-Id", x.id)
	if !secured && x.site.HSTS != "" && x.secure {
		b = http1.AppendText(b, "Strict-Transport-Security", x.site.HSTS)
	}
	if v := x.altSvc(); v != "" {
		b = http1.AppendText(b, "Alt-Svc", v)
	}
	if chunk {
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	h.out = b
	h.endHead()
	return chunk
}

// clientGone: the answer could not be delivered.
func (h *h1) clientGone(x *exchange) {
	x.verdict = "client_gone"
	h.hangUp(x)
}

// broken: the backend's answer ended before its end, or the client left while
// it was waited for. The client must not take half an answer for a whole one.
func (h *h1) broken(x *exchange, err error) {
	if leftBy(err) {
		h.clientGone(x)
		return
	}
	x.err, x.verdict = err, "broken_response"
	if len(h.out) > 0 {
		h.flush()
	}
	h.closing = true
	if h.req.Minor == 0 {
		h.hangUp(x) // only a reset tells an HTTP/1.0 client that something is missing
	}
}

// hint passes an informational response on (RFC 9110 section 15.2).
func (h *h1) hint(res *http1.Response) error {
	if h.req.Minor == 0 || res.Status == http.StatusContinue {
		return nil
	}
	b := http1.AppendStatusLine(h.out[:0], res.Status, http.StatusText(res.Status))
	for i := range res.Fields {
		if f := &res.Fields[i]; !res.Ends(f) && f.Name != http1.ContentLength {
			b = http1.AppendField(b, f.Key, f.Value)
		}
	}
	h.out = append(b, "\r\n"...)
	if !h.flush() {
		return errClientGone
	}
	return nil
}

// abort makes a call of more that waits for the client return.
func (h *h1) abort() {
	h.body.aborted.Store(true)
	_ = h.nc.SetReadDeadline(past())
}

var (
	errClientGone = errors.New("the client is gone")
	errUnwanted   = errors.New("the backend does not want the rest of the body")
)

// leftBy reports whether err is the client's leaving.
func leftBy(err error) bool {
	return errors.Is(err, errClientGone) || errors.Is(err, context.Canceled)
}

// watch reads on while a backend thinks, to notice that the client left. A
// byte that comes instead belongs to the next request.
func (h *h1) watch(cancel func()) (stop func()) {
	if !h.in.BodyDone() || h.in.Buffered() > 0 || h.peeked {
		return func() {}
	}
	done := make(chan struct{})
	h.arm(time.Time{})
	go func() { // ends with a byte, the connection, or stop, which waits for it
		defer close(done)
		n, err := h.nc.Read(h.one[:])
		switch {
		case n > 0:
			h.peeked = true
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			cancel()
		}
	}()
	return func() {
		_ = h.nc.SetReadDeadline(past())
		<-done
		h.arm(time.Time{})
	}
}

// tooEarly: the client began to speak the other protocol before the 101.
func (h *h1) tooEarly() {
	h.s.noteMalformed(h.conn, "before_upgrade")
	h.closing = true
}

// past is a deadline that ends a read at once.
func past() time.Time { return time.Unix(1, 0) }

// upgrade turns the exchange into a tunnel after the backend said 101 (RFC
// 9110 section 7.8).
func (h *h1) upgrade(x *exchange) {
	up := h.upgrading()
	if up == nil || !bytes.EqualFold(up, h.wres.Upgrade) {
		h.wres.Close()
		x.problem(http.StatusBadGateway, "bad_upgrade", "The application switched to a protocol nobody asked for.")
		return
	}
	if h.in.Buffered() > 0 || h.peeked {
		h.wres.Close()
		h.tooEarly()
		x.problem(http.StatusBadRequest, "malformed", beforeUpgrade)
		return
	}
	b := http1.AppendStatusLine(h.out[:0], http.StatusSwitchingProtocols, http.StatusText(http.StatusSwitchingProtocols))
	for i := range h.wres.Fields {
		if f := &h.wres.Fields[i]; !h.wres.Ends(f) && f.Name != http1.RequestID {
			b = http1.AppendField(b, f.Key, f.Value)
		}
	}
	b = http1.AppendText(b, "X-Request-Id", x.id)
	b = append(b, "Connection: Upgrade\r\n"...)
	b = http1.AppendField(b, []byte("Upgrade"), h.wres.Upgrade)
	h.out = append(b, "\r\n"...)
	backend, early := h.wres.Takeover()
	defer backend.Close()
	h.begun, h.closing, x.status = true, true, http.StatusSwitchingProtocols
	h.out = append(h.out, early...)
	if !h.flush() {
		h.clientGone(x)
		return
	}
	h.arm(time.Time{})
	h.dropBuffer()
	x.sent, x.length = h.s.tunnel(h.nc, h.nc, backend)
	x.sent += int64(len(early))
}
