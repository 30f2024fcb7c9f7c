package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"postern/internal/caller"
	"postern/internal/http1"
	"postern/internal/upstream"
)

// stdMessage is a request that comes as net/http has it: of HTTP/2, and of
// HTTP/1.1 where a route needs net/http's types.
type stdMessage struct {
	x    exchange
	w    responseWriter
	r    *http.Request
	body *clientBody // nil: none, or not forwarded

	guarded bool // a write deadline stands
	cut     bool // the exchange ends in the middle of an answer
}

// serveHTTP carries a request of net/http through the five steps.
func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	conn, _ := r.Context().Value(clientConnKey{}).(*clientConn)
	if conn == nil { // not a connection of ours: a mistake in this package
		panic("proxy: request without a client connection")
	}
	m := new(stdMessage)
	defer m.end()
	m.w.reset(w)
	m.r = r
	x := &m.x
	x.method, x.rawHost, x.rawTarget, x.length = r.Method, r.Host, r.RequestURI, r.ContentLength
	x.proto = protoOf(r.ProtoMajor, r.ProtoMinor)
	x.begin(s, conn, m, time.Now(), nil)
	defer x.record() // also when a step panics to cut the connection
	if m.wantsTunnel() {
		x.problem(http.StatusNotImplemented, "extended_connect", "This protocol is not spoken here.")
		return
	}
	x.run()
}

// end lets go of the request body.
func (m *stdMessage) end() {
	if m.body != nil {
		m.body.stop(m.cut)
	}
}

func (m *stdMessage) field(name string) string  { return m.r.Header.Get(name) }
func (m *stdMessage) list(name string) []string { return m.r.Header[name] }

func (m *stdMessage) credentials() (c caller.Credentials) {
	for _, name := range [...]string{"Authorization", "X-Api-Key", "Signature-Input"} {
		for _, v := range m.r.Header[name] {
			addCredential(&c, name, v)
		}
	}
	return c
}

func (m *stdMessage) hold(x *exchange, limit int64) ([]byte, bool) {
	control := http.NewResponseController(m.w.ResponseWriter)
	if stall := x.snap.Limits.Stall; stall > 0 {
		_ = control.SetReadDeadline(time.Now().Add(stall))
		defer func() { _ = control.SetReadDeadline(time.Time{}) }()
	}
	var held []byte
	if m.r.Body != nil {
		var err error
		held, err = io.ReadAll(io.LimitReader(m.r.Body, limit+1))
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = &bodyStalledError{}
		case int64(len(held)) > limit:
			err = &bodyTooLargeError{}
		case err != nil && !errors.Is(err, http1.ErrBody):
			err = errClientGone
		}
		if err != nil {
			if x.upstreamFailed(err, leftBy(err)) {
				m.abort()
			}
			return nil, false
		}
	}
	m.r.Body, m.r.ContentLength, m.r.Trailer = http.NoBody, int64(len(held)), nil
	if len(held) > 0 {
		m.r.Body = io.NopCloser(bytes.NewReader(held))
	}
	m.r.Header.Del("Expect")
	return held, true
}

func (m *stdMessage) challenge(h func(http.ResponseWriter, *http.Request) bool) bool {
	done := h(&m.w, m.r)
	m.x.status, m.x.sent = m.w.status, m.w.bytes
	return done
}

func (m *stdMessage) answer(x *exchange, a answer) {
	if m.w.wroteHeader {
		return // too late for an answer
	}
	m.settleBody()
	h := m.w.Header()
	for _, f := range a.fields {
		h[f.name] = []string{f.value}
	}
	if bodyAllowed(a.status) {
		h["Content-Length"] = []string{strconv.Itoa(len(a.body))}
	}
	m.w.WriteHeader(a.status)
	if x.method != http.MethodHead && len(a.body) > 0 {
		m.guardWrites(x)
		_, _ = m.w.Write(a.body) // the client may be gone; the access line says so
	}
	x.status, x.sent = m.w.status, m.w.bytes
}

// hangUp ends a refused exchange: HTTP/1.1 loses its connection, HTTP/2 and
// HTTP/3 their stream, and the connection too once the address is banned.
func (m *stdMessage) hangUp(x *exchange) {
	if m.r.ProtoMajor == 1 {
		x.conn.brutal.Store(true)
	} else if x.s.cfg.Guard.Cuts(x.conn.client, time.Now()) {
		x.conn.abort()
	}
	panic(http.ErrAbortHandler)
}

// viaStd runs do: these are net/http's types.
func (m *stdMessage) viaStd(_ *exchange, do func(*stdMessage)) { do(m) }

// forward sends the request to a backend by net/http's types.
func (m *stdMessage) forward(x *exchange, rt *Route) {
	defer func() {
		if m.w.wroteHeader {
			x.status, x.sent = m.w.status, m.w.bytes
		}
	}()
	hints := &earlyHints{w: &m.w, mute: !m.r.ProtoAtLeast(1, 1)}
	out, ok := m.outgoing(x, rt, hints)
	if !ok {
		return
	}
	m.mirrorStd(x, rt, out)
	m.toUpstream(x, rt, out, hints)
}

// setForwarding tells the backend who asked and how.
func (m *stdMessage) setForwarding(x *exchange, h http.Header) {
	f := x.forwarding()
	h["X-Forwarded-For"] = []string{f.chain}
	h["X-Forwarded-Host"] = []string{strings.Clone(f.host)} // it may live in an engine's buffer
	h["X-Forwarded-Proto"] = []string{x.scheme}
	h["X-Real-Ip"] = []string{f.client}
	h["X-Request-Id"] = []string{x.id}
	h["Forwarded"] = []string{f.forwarded}
	if x.caller != nil {
		for _, f := range x.caller.Fields() {
			h[f.Name] = []string{f.Value}
		}
	}
}

// newTrace is what upstream fills in; not part of a pooled value, for the
// transport may write to it late.
func newTrace() *upstream.Trace { return new(upstream.Trace) }

// abort cuts the connection or stream in the middle of an exchange.
func (m *stdMessage) abort() {
	m.cut = true
	panic(http.ErrAbortHandler)
}

// isGRPC reports whether a content type is gRPC's: its streams rest as long as
// they like.
func isGRPC(contentType string) bool { return strings.HasPrefix(contentType, "application/grpc") }
