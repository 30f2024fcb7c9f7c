package proxy

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"

	"golang.org/x/net/http/httpguts"

	"postern/internal/http1"
	"postern/internal/upstream"
)

// toUpstream sends the request to a backend and its answer to the client.
func (m *stdMessage) toUpstream(x *exchange, rt *Route, out *http.Request, hints *earlyHints) {
	// Our own end of a read of the body must not end the answer: net/http
	// takes it for a client that is gone.
	ctx, cancel := context.WithCancel(context.WithoutCancel(m.r.Context()))
	defer cancel()
	body := m.body
	defer context.AfterFunc(m.r.Context(), func() {
		if !body.unwanted() {
			cancel()
		}
	})()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: hints.pass, Got100Continue: hints.agree, GotFirstResponseByte: hints.begin,
	})
	if rt.HashBy != nil {
		ctx = upstream.WithKey(ctx, x.balanceKey(rt))
	}
	if until := x.until(); !until.IsZero() {
		ctx = upstream.WithUntil(ctx, until)
	}
	x.trace = newTrace()
	out = out.WithContext(upstream.WithTrace(ctx, x.trace))

	res, err := rt.Upstream.RoundTrip(out)
	hints.stop()
	if err != nil {
		gone := m.r.Context().Err() != nil && !body.unwanted()
		if failure := m.body.failure(gone); failure != nil {
			err, gone = failure, true // unless it is one to be answered
		}
		if x.upstreamFailed(err, gone) {
			m.abort()
		}
		return
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusSwitchingProtocols {
		m.upgrade(x, out, res)
		return
	}
	m.pass(x, res)
}

// outgoing builds the backend's request. It answers the client and returns
// false when there is nothing to send.
func (m *stdMessage) outgoing(x *exchange, rt *Route, hints *earlyHints) (*http.Request, bool) {
	r := m.r
	if x.tooLarge(rt) {
		return nil, false
	}
	m.settleLength(x)
	target, ok := x.outgoingTarget(rt)
	if !ok {
		return nil, false
	}
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		target += "?" + x.query
	}
	out := &http.Request{
		Method: r.Method, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Host: r.Host, Header: r.Header.Clone(), ContentLength: r.ContentLength, Trailer: r.Trailer,
	}
	if err := upstream.SetTarget(out, target); err != nil {
		x.err = err
		x.problem(http.StatusBadRequest, "bad_path", "The request target is not valid.")
		return nil, false
	}
	if b := m.requestBody(x, rt, hints); b != nil {
		out.Body = b
	}

	upgrade := ""
	if r.ProtoMajor == 1 && m.body == nil {
		upgrade = upgradeOf(r.Header)
	}
	trailers := httpguts.HeaderValuesContainsToken(r.Header["Te"], "trailers")
	removeHopByHop(out.Header)
	cleanInbound(out.Header, x.trusted)
	if upgrade != "" {
		out.Header["Connection"] = []string{"Upgrade"}
		out.Header["Upgrade"] = []string{upgrade}
	}
	if trailers {
		out.Header["Te"] = []string{"trailers"}
	}
	for field := range out.Header {
		if x.spends(field) {
			delete(out.Header, field)
		}
	}
	m.setForwarding(x, out.Header)
	rt.Request.apply(out.Header)
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = []string{""} // or net/http would name itself
	}
	return out, true
}

// requestBody bounds the body by size and by progress; nil: there is none.
func (m *stdMessage) requestBody(x *exchange, rt *Route, hints *earlyHints) *clientBody {
	r := m.r
	if r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	stall := x.snap.Limits.Stall
	if r.ProtoMajor > 1 && isGRPC(r.Header.Get("Content-Type")) {
		stall = 0
	}
	cleanTrailer(r.Trailer)
	rt.Request.strip(r.Trailer)
	m.body = &clientBody{
		body: r.Body, h1: r.ProtoMajor == 1, left: rt.MaxBody, bounded: rt.MaxBody > 0, stall: stall, budget: stall,
		trailer: r.Trailer, change: rt.Request, over: make(chan struct{}), control: http.NewResponseController(m.w.ResponseWriter),
	}
	m.body.idle.L = &m.body.mu
	if r.ProtoMajor != 2 && r.ProtoAtLeast(1, 1) && httpguts.HeaderValuesContainsToken(r.Header["Expect"], "100-continue") {
		hints.agreed = make(chan struct{})
		m.body.hints = hints
	}
	return m.body
}

// pass sends a backend's response to the client.
func (m *stdMessage) pass(x *exchange, res *http.Response) {
	if res.StatusCode < 200 || res.StatusCode > 599 {
		x.badStatus()
		return
	}
	m.settleBody()
	h := m.w.Header()
	removeHopByHop(res.Header)
	for field, values := range res.Header {
		h[field] = values
	}
	x.route.Response.apply(h)
	m.ownFields(x, h)
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // or net/http would guess one
	}
	if res.StatusCode == http.StatusNoContent {
		delete(h, "Content-Length") // RFC 9110 section 8.6
	}
	announced := len(res.Trailer)
	if announced > 0 {
		names := make([]string, 0, announced)
		for name := range res.Trailer {
			names = append(names, name)
		}
		slices.Sort(names)
		h["Trailer"] = []string{strings.Join(names, ", ")}
	}
	m.w.WriteHeader(res.StatusCode)
	if res.ContentLength < 0 {
		_ = http.NewResponseController(&m.w).Flush() // a stream's head is news too; a lost client shows at the next write
	}
	if err := m.copyBody(x, res); err != nil {
		_ = http.NewResponseController(&m.w).Flush() // what came is the client's; it may be able to resume
		x.err = err
		x.verdict = "broken_response"
		if m.r.Context().Err() != nil {
			x.verdict = "client_gone"
		}
		m.abort() // the client must not take half an answer for a whole one
	}
	m.trailers(h, res.Trailer, announced)
}

// ownFields adds what postern says of itself to any answer.
func (m *stdMessage) ownFields(x *exchange, h http.Header) {
	h["X-Request-Id"] = []string{x.id}
	delete(h, "Alt-Svc") // as isAltSvc says
	if v := x.altSvc(); v != "" {
		h["Alt-Svc"] = []string{v}
	}
	if x.site != nil && x.site.HSTS != "" && x.secure {
		if _, set := h["Strict-Transport-Security"]; !set {
			h["Strict-Transport-Security"] = []string{x.site.HSTS}
		}
	}
}

// trailers sends the trailer fields; those that were not announced need a
// prefix for net/http.
func (m *stdMessage) trailers(h, trailer http.Header, announced int) {
	if len(trailer) == 0 {
		return
	}
	_ = http.NewResponseController(&m.w).Flush() // so that the body is chunked, however short
	prefix := ""
	if len(trailer) != announced {
		prefix = http.TrailerPrefix
	}
	for field, values := range trailer {
		h[prefix+field] = values
	}
}

// upstreamFailed turns what went wrong behind us into 502, 503 or 504. It
// reports whether the client is gone, so that there is nobody to answer.
func (x *exchange) upstreamFailed(err error, clientGone bool) (gone bool) {
	x.err = err
	class := upstream.Class(err)
	if tooLarge, ok := errors.AsType[*bodyTooLargeError](err); ok {
		x.problem(http.StatusRequestEntityTooLarge, "body_too_large", tooLarge.Error())
		return false
	}
	if stalled, ok := errors.AsType[*bodyStalledError](err); ok {
		if x.caller == nil {
			x.conn.slow("slow_body")
		}
		x.problem(http.StatusRequestTimeout, "body_stalled", stalled.Error())
		return false
	}
	if _, ok := errors.AsType[*http1.SyntaxError](err); ok {
		x.problem(http.StatusBadRequest, "malformed", "The request body is not valid HTTP/1.1 (RFC 9112).")
		return false
	}
	if errors.Is(err, http1.ErrBody) {
		x.s.noteMalformed(x.conn, "body")
		x.problem(http.StatusBadRequest, "malformed", "The request body breaks the chunked coding (RFC 9112 section 7.1).")
		return false
	}
	if clientGone {
		x.verdict = "client_gone"
		return true
	}
	down, isDown := errors.AsType[*upstream.DownError](err)
	switch {
	case isDown:
		x.problem(http.StatusServiceUnavailable, class, "The application behind this address is down.", textField{"Retry-After", retryAfter(down.RetryAfter)})
	case isTimeout(err):
		x.problem(http.StatusGatewayTimeout, class, "The application behind this address did not answer in time.")
	default:
		x.problem(http.StatusBadGateway, class, "The application behind this address could not be reached.")
	}
	return false
}

// badStatus answers for a backend whose status is none (RFC 9110 section 15).
func (x *exchange) badStatus() {
	x.problem(http.StatusBadGateway, "malformed", "The application's answer has a status that does not exist.")
}

// earlyHints passes informational responses on (RFC 9110 section 15.2), until
// the final one begins. They come from the goroutine that reads the backend's
// connection, while another one reads the client's body.
type earlyHints struct {
	w    *responseWriter
	mute bool // the client is of HTTP/1.0, which knows none

	agreed chan struct{} // closed when the backend wants the body; nil: the client does not wait to be asked

	mu    sync.Mutex
	begun bool // guarded by mu; an answer begins, and not with 103 or the like
	asked bool // guarded by mu
	over  bool // guarded by mu
}

// agree is called when the backend said 100, before it gets the body.
func (e *earlyHints) agree() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.agreed != nil && !e.asked {
		e.ask()
		close(e.agreed)
	}
}

func (e *earlyHints) begin() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.begun = true
}

// ask says 100 Continue to the client, once. e.mu is held.
func (e *earlyHints) ask() {
	if !e.over && !e.asked {
		e.w.WriteHeader(http.StatusContinue)
	}
	e.asked = true
}

// awaitBody is called before the first byte of a body that the client sends
// only when asked. net/http does so when the backend said 100, when it said
// nothing for a second, and also when it refused; the last must not make the
// client send what nobody wants. It reports whether the body may be read, and
// waits for done otherwise.
func (e *earlyHints) awaitBody(done <-chan struct{}) bool {
	e.mu.Lock()
	silent := !e.begun && !e.over
	if silent {
		e.ask()
	}
	e.mu.Unlock()
	if silent {
		return true
	}
	select {
	case <-e.agreed:
		return true
	case <-done:
		return false
	}
}

func (e *earlyHints) pass(code int, header textproto.MIMEHeader) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over || e.mute || code == http.StatusContinue || code == http.StatusSwitchingProtocols {
		return nil
	}
	e.begun = false
	h := e.w.Header()
	removeHopByHop(http.Header(header))
	for field, values := range header {
		h[field] = values
	}
	e.w.WriteHeader(code)
	clear(h) // what an informational response said does not belong to the final one
	return nil
}

func (e *earlyHints) stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.over = true
}

func isTimeout(err error) bool {
	_, ok := errors.AsType[*upstream.TimeoutError](err)
	return ok
}
