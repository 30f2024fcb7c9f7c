package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"postern/internal/caller"
	"postern/internal/guard"
	"postern/internal/h2"
	"postern/internal/http1"
	"postern/internal/upstream"
)

// h2Message is a request on an HTTP/2 stream, and its answer.
type h2Message struct {
	s    *Server
	conn *clientConn
	st   *h2.Stream

	x     exchange
	trace upstream.Trace
	wreq  upstream.WireRequest
	wres  upstream.WireResponse
	id    [64]byte
	begun bool // a final answer has begun

	interim interim // also guards the fields that wait in st for the next head

	framed  []byte        // what goes to the backend next
	read    atomic.Int64  // bytes of the body
	max     int64         // the most there may be; 0: no bound
	budget  time.Duration // how long the client may still keep us waiting for the body
	end     bool          // the body was passed on to its end
	asked   bool          // the client was told to send its body
	chunked bool          // the backend gets the body in chunks

	moreFn  func() ([]byte, error)
	abortFn func()
	watchFn func(cancel func()) func()
	hintFn  func(*http1.Response) error
}

func newH2Message() *h2Message {
	m := new(h2Message)
	m.moreFn, m.abortFn, m.watchFn, m.hintFn = m.more, m.abort, m.watch, m.hint
	return m
}

// newH2 makes the HTTP/2 server; its limits are those of the start.
func (s *Server) newH2(l Limits) *h2.Server {
	return h2.NewServer(h2.Config{
		Handler:       s.serveH2,
		MaxHeaderList: s.headLimit,
		IdleTimeout:   orNever(l.Idle),
		HeadTimeout:   orNever(l.HeaderIn),
		StallTimeout:  orNever(l.Stall),
		OnAbuse:       s.h2Abuse,
	})
}

func orNever(d time.Duration) time.Duration {
	if d <= 0 {
		return -1
	}
	return d
}

// serveHTTP2 serves a connection that agreed on h2 to its end.
func (s *Server) serveHTTP2(c *clientConn, nc net.Conn) {
	hc := s.h2.NewConn(nc)
	hc.User = c
	c.h2.Store(hc)
	if s.leaving.Load() {
		hc.Shutdown()
	}
	if err := hc.Serve(); err != nil {
		s.log.Debug("HTTP/2 connection ended", "client", c.client, "err", err)
	}
	_ = c.Close()
}

// h2Abuse counts and scores what no honest client does.
func (s *Server) h2Abuse(hc *h2.Conn, kind h2.Abuse) {
	s.metrics.h2Errors.WithLabelValues(kind.String()).Inc()
	c, ok := hc.User.(*clientConn)
	if !ok {
		return
	}
	signal := guard.Malformed
	switch kind {
	case h2.AbuseResets, h2.AbuseControl, h2.AbuseContinuation:
		signal = guard.Flood
	case h2.AbuseSlowHead, h2.AbuseSlowRead:
		signal = guard.SlowPeer
	case h2.AbuseNoRequest:
		signal = guard.Timeout
	}
	if !c.judged.Swap(true) {
		s.cfg.Guard.Report(c.client, signal, guard.Evidence{Rule: "h2_" + kind.String()}, time.Now())
	}
}

// serveH2 carries one stream through the five steps.
func (s *Server) serveH2(st *h2.Stream) {
	m := s.pools.h2.Get().(*h2Message)
	defer m.free()
	m.s, m.conn, m.st = s, st.Conn().User.(*clientConn), st
	x := &m.x
	*x = exchange{method: st.Method, rawHost: st.Authority, rawTarget: st.Path, proto: protoHTTP2, length: st.ContentLength}
	x.begin(s, m.conn, m, time.Now(), m.id[:0])
	m.run()
}

func (m *h2Message) free() {
	pool := &m.s.pools.h2
	m.s, m.conn, m.st = nil, nil, nil
	m.x, m.trace = exchange{}, upstream.Trace{}
	m.wreq.Body, m.wreq.More = nil, nil
	m.interim.open()
	m.begun, m.end, m.asked, m.chunked, m.max, m.budget = false, false, false, false, 0, 0
	m.read.Store(0)
	pool.Put(m)
}

// run contains a panic of ours to its stream, after it is on record.
func (m *h2Message) run() {
	defer func() {
		if p := recover(); p != nil {
			m.st.Reset(h2.InternalError)
			m.wres.Close() // and with it an upload that reads from m
			if p != http.ErrAbortHandler {
				m.s.panicked(p)
			}
		}
	}()
	defer m.x.record()
	m.x.run()
}

func (m *h2Message) field(name string) string {
	for i := range m.st.Fields {
		if strings.EqualFold(m.st.Fields[i].Name, name) {
			return m.st.Fields[i].Value
		}
	}
	return ""
}

func (m *h2Message) list(name string) (values []string) {
	for i := range m.st.Fields {
		if strings.EqualFold(m.st.Fields[i].Name, name) {
			values = append(values, m.st.Fields[i].Value)
		}
	}
	return values
}

func (m *h2Message) credentials() (c caller.Credentials) {
	for i := range m.st.Fields {
		if f := &m.st.Fields[i]; mayProve(len(f.Name)) {
			addCredential(&c, f.Name, f.Value)
		}
	}
	return c
}

// hangUp ends the stream, and the connection too once the address is banned.
func (m *h2Message) hangUp(x *exchange) {
	if m.s.cfg.Guard.Cuts(m.conn.client, time.Now()) {
		m.conn.abort()
		return
	}
	m.st.Reset(h2.Cancel)
}

func (m *h2Message) answer(x *exchange, a answer) {
	if m.begun {
		m.st.Reset(h2.InternalError)
		return
	}
	m.begun, x.status = true, a.status
	m.interim.end()
	for _, f := range a.fields {
		m.st.AddText(f.name, f.value)
	}
	m.st.AddText("date", m.s.date.value(x.start))
	if bodyAllowed(a.status) {
		m.st.AddText("content-length", strconv.Itoa(len(a.body)))
	}
	none := len(a.body) == 0 || x.method == http.MethodHead || !bodyAllowed(a.status)
	if m.st.WriteHead(a.status, none) == nil && !none {
		if m.st.Write(a.body, true) == nil {
			x.sent = int64(len(a.body))
		}
	}
}

// forward sends the request over a wire connection of the route's pool, or by
// net/http where the backends speak something else.
func (m *h2Message) forward(x *exchange, rt *Route) {
	if isGRPC(m.field("Content-Type")) {
		m.st.SetStall(0, 0)
	}
	if err := m.empty(); err != nil {
		m.failed(x, err)
		return
	}
	if !rt.Upstream.SpeaksHTTP1() {
		m.viaStd(x, func(std *stdMessage) { std.forward(x, rt) })
		return
	}
	if x.tooLarge(rt) {
		return
	}
	path, ok := x.outgoingTarget(rt)
	if !ok {
		return
	}
	m.max, m.budget = rt.MaxBody, x.snap.Limits.Stall
	m.wreq.Body, m.wreq.More, m.wreq.Expect100 = nil, nil, false
	m.wreq.Informational, m.wreq.Watch, m.wreq.Abort = m.hintFn, m.watchFn, m.abortFn
	m.wreq.IsHead, m.wreq.Upgrade = x.method == http.MethodHead, false
	if err := m.prepareBody(); err != nil {
		m.failed(x, err)
		return
	}
	m.wreq.Head = m.appendHead(m.wreq.Head[:0], x, path)
	m.wreq.Key = x.balanceKey(rt)
	m.wreq.Until = x.until()
	if rt.Mirror != nil {
		x.mirror(rt, m.wreq.Head, m.wreq.Body, m.wreq.More == nil)
	}
	x.trace = &m.trace
	if err := rt.Upstream.Wire(context.Background(), &m.wreq, &m.wres, &m.trace); err != nil { // the watch stands for the client
		m.failed(x, err)
		return
	}
	m.pass(x)
	m.wres.Close()
}

func (m *h2Message) failed(x *exchange, err error) {
	if errors.Is(err, h2.ErrStalled) {
		err = &bodyStalledError{}
	}
	if x.upstreamFailed(err, leftBy(err)) {
		m.st.Reset(h2.Cancel)
	}
}

// appendHead writes the request as the backend gets it.
func (m *h2Message) appendHead(b []byte, x *exchange, path string) []byte {
	b = append(b, x.method...)
	b = append(b, ' ')
	b = append(b, path...)
	if x.query != "" || strings.HasSuffix(x.rawTarget, "?") {
		b = append(b, '?')
		b = append(b, x.query...)
	}
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, x.rawHost...)
	b = append(b, "\r\n"...)
	for i := range m.st.Fields {
		f := &m.st.Fields[i]
		switch f.Name {
		case "content-length", "proxy-authorization", "proxy-authenticate", "proxy-authentication-info":
			continue
		case "trailer":
			if m.chunked {
				b = appendTrailerField(b, bytesOf(f.Value))
			}
			continue
		}
		if who, aliased := speaker(bytesOf(f.Name)); who.mute(x.trusted, aliased) || x.spends(f.Name) || x.route.Request.drops(bytesOf(f.Name)) {
			continue
		}
		b = http1.AppendText(b, f.Name, f.Value)
	}
	b = x.appendForwarding(b)
	b = x.route.Request.appendSet(b)
	switch {
	case m.chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case m.wreq.More != nil:
		b = http1.AppendLength(b, m.st.ContentLength)
	case len(m.wreq.Body) > 0 || m.field("Content-Length") != "":
		b = http1.AppendLength(b, int64(len(m.wreq.Body)))
	}
	return append(b, "\r\n"...)
}

// bytesOf is s without a copy, to be read only.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// empty waits until a body that is declared empty is: anything else makes the
// request malformed (RFC 9113 section 8.1.1), and no backend is to see it.
func (m *h2Message) empty() error {
	if m.st.ContentLength != 0 || m.st.BodyDone() {
		return nil
	}
	m.budget = m.x.snap.Limits.Stall
	if _, err := m.readBody(); err != io.EOF {
		return err
	}
	return nil
}

// prepareBody reads a body that can be held, or sets up the stream of one that
// cannot.
func (m *h2Message) prepareBody() error {
	if m.x.holds {
		m.wreq.Body = m.x.held
		return nil
	}
	n := m.st.ContentLength
	if n == 0 {
		return nil
	}
	expect := strings.EqualFold(m.field("Expect"), "100-continue")
	whole := m.st.BodyHere() && len(m.st.Trailers()) == 0 // and in memory: the stream's window is small
	if n <= maxHeld && (n > 0 && !expect || whole) {
		return m.holdShort(int(max(n, 0)))
	}
	m.chunked = n < 0
	m.wreq.Expect100, m.wreq.More = expect, m.moreFn
	return nil
}

// hold reads the whole body before it is known where it goes.
func (m *h2Message) hold(x *exchange, limit int64) ([]byte, bool) {
	m.max, m.budget = limit, x.snap.Limits.Stall
	if !m.asked && strings.EqualFold(m.field("Expect"), "100-continue") {
		m.asked = true
		if m.interim.say(m.sayContinue) != nil {
			m.failed(x, errClientGone)
			return nil, false
		}
	}
	held := make([]byte, 0, max(m.st.ContentLength, 0))
	for {
		p, err := m.readBody()
		if err != nil && err != io.EOF {
			m.failed(x, err)
			return nil, false
		}
		held = append(held, p...)
		if err == io.EOF {
			break
		}
	}
	m.max = 0
	m.read.Store(0)
	return held, true
}

// holdShort reads a whole body, of n bytes if that is not 0.
func (m *h2Message) holdShort(n int) error {
	p, err := m.st.Buffered()
	if err != nil && err != io.EOF {
		return errClientGone
	}
	m.read.Store(int64(len(p)))
	if m.st.BodyDone() { // the usual case: it came with the head
		m.wreq.Body = p
		if m.max > 0 && m.read.Load() > m.max {
			return &bodyTooLargeError{}
		}
		return nil
	}
	held := append(make([]byte, 0, n), p...)
	// To the end of the stream, not of the length: more bytes than that make
	// the request malformed (RFC 9113 section 8.1.1), and no backend is to see
	// it.
	for !m.st.BodyDone() {
		p, err = m.readBody()
		if err != nil && err != io.EOF {
			return err
		}
		if held = append(held, p...); err == io.EOF {
			break
		}
	}
	m.wreq.Body = held
	return nil
}

// readBody waits for the next bytes of the body; the client has a time for it
// that its progress prolongs.
func (m *h2Message) readBody() ([]byte, error) {
	start := time.Now()
	p, err := m.st.Next()
	m.read.Add(int64(len(p)))
	if stall := m.x.snap.Limits.Stall; stall > 0 {
		m.budget = min(m.budget-time.Since(start)+time.Duration(len(p))*time.Second/minBodyRate, stall)
	}
	switch {
	case m.max > 0 && m.read.Load() > m.max:
		return nil, &bodyTooLargeError{}
	case err == io.EOF:
		return p, io.EOF
	case errors.Is(err, h2.ErrStalled):
		return nil, &bodyStalledError{}
	case err != nil:
		return nil, errClientGone
	case m.budget < 0 && !isGRPC(m.field("Content-Type")):
		return nil, &bodyStalledError{}
	}
	return p, nil
}

// more is the stream of a body towards the backend: framed as the head says.
func (m *h2Message) more() ([]byte, error) {
	if m.end {
		return nil, io.EOF
	}
	if m.wreq.Expect100 && !m.asked {
		m.asked = true
		if m.interim.say(m.sayContinue) != nil {
			return nil, errClientGone
		}
	}
	p, err := m.readBody()
	switch {
	case err == io.EOF:
		m.end = true
		if !m.chunked {
			return p, io.EOF
		}
		m.framed = m.framed[:0]
		if len(p) > 0 {
			m.framed = http1.AppendChunk(m.framed, p)
		}
		m.framed = append(m.framed, "0\r\n"...)
		for _, f := range m.st.Trailers() {
			if inTrailer(bytesOf(f.Name)) && !m.x.route.Request.drops(bytesOf(f.Name)) {
				m.framed = http1.AppendText(m.framed, f.Name, f.Value)
			}
		}
		m.framed = append(m.framed, "\r\n"...)
		return m.framed, nil
	case err != nil:
		return nil, err
	case m.chunked && len(p) > 0:
		m.framed = http1.AppendChunk(m.framed[:0], p)
		return m.framed, nil
	}
	return p, nil
}

// sayContinue asks the client for its body (RFC 9110 section 10.1.1).
func (m *h2Message) sayContinue() error { return m.st.Informational(http.StatusContinue) }

// abort makes a call of more that waits for the client return: the body is not
// wanted any more.
func (m *h2Message) abort() { m.st.StopBody() }

// watch has cancel called when the client gives the stream up.
func (m *h2Message) watch(cancel func()) (stop func()) {
	m.st.OnCancel(cancel)
	return func() { m.st.OnCancel(nil) }
}

// hint passes an informational response on (RFC 9110 section 15.2).
func (m *h2Message) hint(res *http1.Response) error {
	if res.Status == http.StatusContinue {
		return nil
	}
	err := m.interim.say(func() error {
		for i := range res.Fields {
			if f := &res.Fields[i]; !res.Ends(f) && f.Name != http1.ContentLength {
				m.st.AddField(f.Key, f.Value)
			}
		}
		return m.st.Informational(res.Status)
	})
	if err != nil {
		return errClientGone
	}
	return nil
}

// pass sends the backend's answer to the client.
func (m *h2Message) pass(x *exchange) {
	res := &m.wres
	if res.Status == http.StatusSwitchingProtocols {
		x.problem(http.StatusBadGateway, "bad_upgrade", "The application switched to a protocol nobody asked for.")
		return
	}
	if res.Status > 599 {
		x.badStatus()
		return
	}
	m.begun, x.status = true, res.Status
	m.interim.end()
	m.addFields(x)
	done := res.Framing == http1.NoBody
	err := m.st.WriteHead(res.Status, done)
	for err == nil && !done {
		var p []byte
		var rerr error
		if p, rerr = res.Buffered(); rerr == nil && len(p) == 0 && !res.Done() {
			if err = m.st.Flush(); err != nil {
				break
			}
			p, rerr = res.Body()
		}
		if rerr == nil && res.Done() || rerr == io.EOF {
			done = true
		} else if rerr != nil {
			x.err, x.verdict = rerr, "broken_response"
			if leftBy(rerr) {
				x.verdict = "client_gone"
			}
			m.st.Reset(h2.InternalError) // half an answer must not look like a whole one
			return
		}
		x.sent += int64(len(p))
		last := done && len(res.Trailers()) == 0
		if len(p) > 0 || last {
			err = m.st.Write(p, last)
		}
		if err == nil && done && !last {
			err = m.writeTrailers()
		}
	}
	if err != nil {
		x.verdict = "client_gone"
		m.st.Reset(h2.Cancel)
	}
}

func (m *h2Message) writeTrailers() error {
	for _, f := range m.wres.Trailers() {
		m.st.AddField(f.Key, f.Value)
	}
	return m.st.WriteTrailers()
}

// addFields adds the fields of the answer's head.
func (m *h2Message) addFields(x *exchange) {
	res := &m.wres
	dated, secured := false, false
	for i := range res.Fields {
		f := &res.Fields[i]
		switch {
		case f.Name == http1.Trailer && res.Framing == http1.Chunked:
		case res.Ends(f), f.Name == http1.RequestID, isAltSvc(f.Key), x.route.Response.drops(f.Key):
			continue
		case f.Name == http1.ContentLength && res.Status == http.StatusNoContent:
			continue // RFC 9110 section 8.6
		case f.Name == http1.Date:
			dated = true
		case f.Name == http1.HSTS:
			secured = true
		}
		m.st.AddField(f.Key, f.Value)
	}
	if !dated {
		m.st.AddText("date", m.s.date.value(x.start))
	}
	if c := x.route.Response; c != nil {
		for i := range c.Set {
			m.st.AddText(strings.ToLower(c.Set[i].Name), c.Set[i].Value)
		}
	}
	m.st.AddText("x-request-id", x.id)
	if !secured && x.site.HSTS != "" {
		m.st.AddText("strict-transport-security", x.site.HSTS)
	}
	if v := x.altSvc(); v != "" {
		m.st.AddText("alt-svc", v)
	}
}
