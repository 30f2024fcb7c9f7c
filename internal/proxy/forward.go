package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"

	"golang.org/x/net/http/httpguts"

	"postern/internal/route"
	"postern/internal/upstream"
)

// forward does what the route says. It is the only step that knows the HTTP
// engine.
func (x *exchange) forward() {
	switch rt := x.route; {
	case rt.Respond != nil:
		x.respond(rt.Respond)
	case rt.Redirect != nil:
		x.redirect(rt)
	default:
		x.toUpstream()
	}
}

// toUpstream sends the request to a backend and its answer to the client.
func (x *exchange) toUpstream() {
	out, ok := x.outgoing()
	if !ok {
		return
	}
	ctx, cancel := context.WithCancel(x.r.Context())
	defer cancel()
	hints := &earlyHints{w: x.w}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: hints.pass})
	x.trace = new(upstream.Trace) // not part of the pooled exchange: the transport may write to it late
	out = out.WithContext(upstream.WithTrace(ctx, x.trace))

	res, err := x.route.Upstream.RoundTrip(out)
	hints.stop()
	if err != nil {
		x.upstreamFailed(err)
		return
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusSwitchingProtocols {
		x.upgrade(out, res)
		return
	}
	x.answer(res)
}

// outgoing builds the backend's request. It answers the client and returns
// false when there is nothing to send.
func (x *exchange) outgoing() (*http.Request, bool) {
	r, rt := x.r, x.route
	target := x.target
	if rt.StripPrefix != "" {
		stripped, ok := route.StripPrefix(target, rt.StripPrefix)
		if !ok {
			x.problem(http.StatusBadRequest, "bad_path", "The path can be read in more than one way.")
			return nil, false
		}
		target = stripped
	}
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		target += "?" + r.URL.RawQuery
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
	body, ok := x.requestBody()
	if !ok {
		return nil, false
	}
	out.Body = body

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
	x.setForwarding(out.Header)
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = []string{""} // or net/http would name itself
	}
	return out, true
}

// requestBody bounds the body by size and by progress.
func (x *exchange) requestBody() (io.ReadCloser, bool) {
	r := x.r
	if r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody {
		return nil, true
	}
	limit := x.route.MaxBody
	if limit > 0 && r.ContentLength > limit {
		x.problem(http.StatusRequestEntityTooLarge, "body_too_large", "The request body is larger than allowed here.")
		return nil, false
	}
	stall := x.snap.Limits.Stall
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		stall = 0 // a stream of messages may rest as long as it likes
	}
	b := &clientBody{body: r.Body, left: limit, bounded: limit > 0, stall: stall}
	if stall > 0 {
		b.control = http.NewResponseController(x.w.ResponseWriter)
	}
	x.body = b
	return b, true
}

// answer sends a backend's response to the client.
func (x *exchange) answer(res *http.Response) {
	h := x.w.Header()
	removeHopByHop(res.Header)
	for field, values := range res.Header {
		h[field] = values
	}
	x.ownFields(h)
	announced := len(res.Trailer)
	if announced > 0 {
		names := make([]string, 0, announced)
		for name := range res.Trailer {
			names = append(names, name)
		}
		h["Trailer"] = []string{strings.Join(names, ", ")}
	}
	x.w.WriteHeader(res.StatusCode)
	if res.ContentLength < 0 {
		_ = http.NewResponseController(x.w).Flush() // a stream's head is news too; a lost client shows at the next write
	}
	if err := x.copyBody(res); err != nil {
		x.err = err
		x.verdict = "broken_response"
		if x.r.Context().Err() != nil {
			x.verdict = "client_gone"
		}
		panic(http.ErrAbortHandler) // the client must not take half an answer for a whole one
	}
	x.trailers(h, res.Trailer, announced)
}

// ownFields adds what postern says of itself to any answer.
func (x *exchange) ownFields(h http.Header) {
	h["X-Request-Id"] = []string{x.id}
	if x.site != nil && x.site.HSTS != "" && x.secure {
		if _, set := h["Strict-Transport-Security"]; !set {
			h["Strict-Transport-Security"] = []string{x.site.HSTS}
		}
	}
}

// trailers sends the trailer fields; those that were not announced need a
// prefix for net/http.
func (x *exchange) trailers(h, trailer http.Header, announced int) {
	if len(trailer) == 0 {
		return
	}
	_ = http.NewResponseController(x.w).Flush() // so that the body is chunked, however short
	prefix := ""
	if len(trailer) != announced {
		prefix = http.TrailerPrefix
	}
	for field, values := range trailer {
		h[prefix+field] = values
	}
}

// upstreamFailed turns what went wrong behind us into 502, 503 or 504.
func (x *exchange) upstreamFailed(err error) {
	x.err = err
	class := upstream.Class(err)
	if tooLarge, ok := errors.AsType[*bodyTooLargeError](err); ok {
		x.problem(http.StatusRequestEntityTooLarge, "body_too_large", tooLarge.Error())
		return
	}
	if stalled, ok := errors.AsType[*bodyStalledError](err); ok {
		x.problem(http.StatusRequestTimeout, "body_stalled", stalled.Error())
		return
	}
	if x.r.Context().Err() != nil {
		x.verdict = "client_gone"
		panic(http.ErrAbortHandler)
	}
	down, isDown := errors.AsType[*upstream.DownError](err)
	switch {
	case isDown:
		x.w.Header().Set("Retry-After", retryAfter(down.RetryAfter))
		x.problem(http.StatusServiceUnavailable, class, "The application behind this address is down.")
	case isTimeout(err):
		x.problem(http.StatusGatewayTimeout, class, "The application behind this address did not answer in time.")
	default:
		x.problem(http.StatusBadGateway, class, "The application behind this address could not be reached.")
	}
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
