package proxy

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"

	"golang.org/x/net/http/httpguts"

	"postern/internal/upstream"
)

// toUpstream sends the request to a backend and its answer to the client.
func (m *stdMessage) toUpstream(x *exchange, rt *Route, out *http.Request) {
	ctx, cancel := context.WithCancel(m.r.Context())
	defer cancel()
	hints := &earlyHints{w: &m.w}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: hints.pass})
	x.trace = newTrace()
	out = out.WithContext(upstream.WithTrace(ctx, x.trace))

	res, err := rt.Upstream.RoundTrip(out)
	hints.stop()
	if err != nil {
		if x.upstreamFailed(err, m.r.Context().Err() != nil) {
			panic(http.ErrAbortHandler)
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
func (m *stdMessage) outgoing(x *exchange, rt *Route) (*http.Request, bool) {
	r := m.r
	if x.tooLarge(rt) {
		return nil, false
	}
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
	if b := m.requestBody(x, rt); b != nil {
		out.Body = b
	}

	upgrade := ""
	if r.ProtoMajor == 1 {
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
	m.setForwarding(x, out.Header)
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = []string{""} // or net/http would name itself
	}
	return out, true
}

// requestBody bounds the body by size and by progress; nil: there is none.
func (m *stdMessage) requestBody(x *exchange, rt *Route) *clientBody {
	r := m.r
	if r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	stall := x.snap.Limits.Stall
	if isGRPC(r.Header.Get("Content-Type")) {
		stall = 0
	}
	m.body = &clientBody{body: r.Body, left: rt.MaxBody, bounded: rt.MaxBody > 0, stall: stall}
	if stall > 0 {
		m.body.control = http.NewResponseController(m.w.ResponseWriter)
	}
	return m.body
}

// pass sends a backend's response to the client.
func (m *stdMessage) pass(x *exchange, res *http.Response) {
	h := m.w.Header()
	removeHopByHop(res.Header)
	for field, values := range res.Header {
		h[field] = values
	}
	m.ownFields(x, h)
	announced := len(res.Trailer)
	if announced > 0 {
		names := make([]string, 0, announced)
		for name := range res.Trailer {
			names = append(names, name)
		}
		h["Trailer"] = []string{strings.Join(names, ", ")}
	}
	m.w.WriteHeader(res.StatusCode)
	if res.ContentLength < 0 {
		_ = http.NewResponseController(&m.w).Flush() // a stream's head is news too; a lost client shows at the next write
	}
	if err := m.copyBody(x, res); err != nil {
		x.err = err
		x.verdict = "broken_response"
		if m.r.Context().Err() != nil {
			x.verdict = "client_gone"
		}
		panic(http.ErrAbortHandler) // the client must not take half an answer for a whole one
	}
	m.trailers(h, res.Trailer, announced)
}

// ownFields adds what postern says of itself to any answer.
func (m *stdMessage) ownFields(x *exchange, h http.Header) {
	h["X-Request-Id"] = []string{x.id}
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
		x.problem(http.StatusRequestTimeout, "body_stalled", stalled.Error())
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

// earlyHints passes informational responses on (RFC 9110 section 15.2), until
// the final one begins. 100 is net/http's own business.
type earlyHints struct {
	mu   sync.Mutex
	w    *responseWriter
	over bool // guarded by mu
}

func (e *earlyHints) pass(code int, header textproto.MIMEHeader) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over || code == http.StatusContinue || code == http.StatusSwitchingProtocols {
		return nil
	}
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
