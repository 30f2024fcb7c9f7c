package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/internal/http1"
)

// lane is an engine with a backend that keeps what it got. Clients come over
// memory, so that what they send reaches the engine in exactly the pieces they
// sent it in.
type lane struct {
	*rig
	recorder *recorder
	slow     bool // the engine rests 500 ms before it closes, as net/http does
}

func newLane(t testing.TB, e engine) *lane {
	t.Helper()
	rec := newRecorder(t)
	site := proxyTo(t, rec.addr)
	site.hosts = []string{"a.test", "a", "b", "a.example", "127.0.0.1", "example.org"}
	l := &lane{recorder: rec, slow: e.name != "own"}
	l.rig = start(t, options{engine: e, sites: []testSite{site},
		limits: Limits{Header: 4 << 10, Handshake: patience, HeaderIn: patience, Idle: patience, Stall: patience}})
	l.srv.snap.Load().Access = nil
	return l
}

// memConn is the server's end of a connection in memory. A Read returns what
// one Write of the client wrote, if there is room.
type memConn struct {
	in, out net.Conn
	closed  chan struct{}
	once    sync.Once
}

func (c *memConn) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *memConn) Write(p []byte) (int, error) { return c.out.Write(p) }
func (c *memConn) CloseWrite() error           { return c.out.Close() }
func (c *memConn) LocalAddr() net.Addr         { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }
func (c *memConn) RemoteAddr() net.Addr        { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9} }

func (c *memConn) SetReadDeadline(t time.Time) error  { return c.in.SetReadDeadline(t) }
func (c *memConn) SetWriteDeadline(t time.Time) error { return c.out.SetWriteDeadline(t) }
func (c *memConn) SetDeadline(t time.Time) error {
	return errors.Join(c.in.SetReadDeadline(t), c.out.SetWriteDeadline(t))
}

func (c *memConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return errors.Join(c.in.Close(), c.out.Close())
}

// outcome is what came of one connection, as far as it must not depend on the
// engine nor on how the bytes were cut.
type outcome struct {
	answers []string // final and informational ones
	end     string   // "open", "closed", "hung"
	backend []string // what it got
}

func (o outcome) String() string {
	return fmt.Sprintf("answers %q\nend     %s\nbackend %q", o.answers, o.end, o.backend)
}

// expectation is what a strict reader makes of a client's bytes.
type expectation struct {
	methods []string    // of the requests that are complete, bodies included
	phase   http1.Phase // where the bytes end
	cut     bool        // they end in a request, or break in a body

	bodies    []bool // of methods: which had one
	emptyLine bool   // one came before a request, or might
}

func expect(input []byte) (e expectation) {
	f := http1.NewFollower(http1.Limits{Head: 4 << 10})
	begun := 0
	for i := range input {
		before := f.Requests()
		e.emptyLine = e.emptyLine || i == begun && input[i] == '\r'
		_, err := f.Feed(input[i : i+1])
		if f.Requests() > before {
			line, _, _ := strings.Cut(strings.TrimLeft(string(input[begun:i+1]), "\r\n"), " ")
			e.methods = append(e.methods, line)
			e.bodies = append(e.bodies, f.Phase() == http1.Body)
		}
		if err == nil && f.Phase() == http1.Idle {
			begun = i + 1
		}
	}
	e.phase = f.Phase()
	_, err := f.Feed(nil)
	bad, _ := errors.AsType[*http1.SyntaxError](err)
	inBody := e.phase == http1.Body || bad != nil && bad.InBody
	if inBody {
		e.methods = e.methods[:len(e.methods)-1]
	}
	e.cut = inBody || e.phase == http1.Head
	return e
}

// hangs is how long a connection may say nothing before it counts as hung.
const hangs = 5 * time.Second

// run sends input in pieces and returns what comes of it.
func (l *lane) run(t testing.TB, pieces [][]byte) (o outcome) {
	t.Helper()
	want := expect(slices.Concat(pieces...))
	fromClient, toServer := net.Pipe()
	toClient, fromServer := net.Pipe()
	c := &memConn{in: fromClient, out: fromServer, closed: make(chan struct{})}
	l.srv.accept(c, KindHTTP)
	answered := make(chan struct{}) // what is complete
	var writing sync.WaitGroup
	writing.Go(func() { // ends with the pieces or the connection; waited for below
		for _, p := range pieces {
			if len(p) == 0 {
				continue
			}
			if _, err := toServer.Write(p); err != nil {
				return
			}
		}
		if want.cut { // a line of a body is judged at its end, which may never come
			<-answered
			_ = toServer.Close()
		}
	})
	_ = toClient.SetReadDeadline(time.Now().Add(hangs))
	br := bufio.NewReader(toClient)
	for i := 0; i < len(want.methods) && o.end == ""; i++ {
		o.answer(br, want.methods[i])
	}
	close(answered)
	if o.end == "" && want.phase == http1.Idle {
		writing.Wait()
		o.probe(br, toServer)
	}
	for o.end == "" { // the answer to what is malformed
		o.answer(br, http.MethodGet)
	}
	_ = toServer.Close()
	_ = toClient.Close()
	writing.Wait()
	if !l.slow {
		within(t, "the end of the connection", c.closed)
	}
	o.backend = l.recorder.take()
	return o
}

// answer reads one answer with the informational ones before it.
func (o *outcome) answer(br *bufio.Reader, method string) {
	for {
		res, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			o.end = "closed"
			if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
				o.end = "hung"
			}
			return
		}
		body, err := io.ReadAll(res.Body)
		text := fmt.Sprintf("%d %s", res.StatusCode, canonical(res.Header, "Date", "Connection", "Content-Length", "Trailer"))
		switch {
		case err != nil:
			o.answers, o.end = append(o.answers, fmt.Sprintf("%s %q, then cut", text, body)), "closed"
			return
		case strings.HasPrefix(res.Header.Get("Content-Type"), "application/problem+json"):
			text = fmt.Sprintf("%d problem", res.StatusCode)
		default:
			text += fmt.Sprintf(" %q %s", body, canonical(res.Trailer))
		}
		o.answers = append(o.answers, text)
		if res.StatusCode >= 200 {
			if res.Close {
				o.end = "closed"
			}
			return
		}
	}
}

// probe asks once more, to see whether the connection serves on.
func (o *outcome) probe(br *bufio.Reader, to io.Writer) {
	go func() { // ends with the pipe, which the caller closes
		_, _ = io.WriteString(to, "GET /ping HTTP/1.1\r\nHost: probe.test\r\n\r\n")
	}()
	res, err := http.ReadResponse(br, nil)
	o.end = "closed"
	if err == nil {
		if body, err := io.ReadAll(res.Body); err == nil && string(body) == "pong\n" {
			o.end = "open"
		}
	} else if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		o.end = "hung"
	}
}

// canonical is a header without what differs from one answer to the next.
func canonical(h http.Header, without ...string) string {
	var fields []string
	for name, values := range h {
		if name == "X-Request-Id" || slices.Contains(without, name) {
			continue
		}
		for _, v := range values {
			fields = append(fields, strings.ToLower(name)+":"+v)
		}
	}
	slices.Sort(fields)
	return strings.Join(fields, "|")
}

// recorder is a backend that keeps what it gets, in canonical form, and holds
// it to RFC 9112: what a proxy sends must have one reading.
type recorder struct {
	addr string
	mu   sync.Mutex
	got  []string // guarded by mu
}

func newRecorder(t testing.TB) *recorder {
	b := newRawBackend(t)
	r := &recorder{addr: b.addr}
	b.each(t, r.serve)
	return r
}

func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.got
	r.got = nil
	return got
}

func (r *recorder) add(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, s)
}

// strictReader has a Follower read along.
type strictReader struct {
	io.Reader
	f   http1.Follower
	bad error
}

func (s *strictReader) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if s.bad == nil {
		_, s.bad = s.f.Feed(p[:n])
	}
	return n, err
}

func (r *recorder) serve(c net.Conn, first *bufio.Reader) {
	_ = c.SetDeadline(time.Time{}) // the proxy keeps connections for longer than one test waits
	strict := &strictReader{Reader: first}
	strict.f.Limits = http1.Limits{Head: 1 << 20, Fields: 1 << 10, Trailer: 1 << 20}
	br := bufio.NewReader(strict)
	for count := int64(1); ; count++ {
		req, err := http.ReadRequest(br)
		if err != nil {
			if strict.bad != nil || !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !isReset(err) && !errors.Is(err, net.ErrClosed) {
				r.add(fmt.Sprintf("garbage: %v, %v", err, strict.bad))
			}
			return
		}
		if strings.EqualFold(req.Header.Get("Expect"), "100-continue") {
			_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n") // a lost connection shows at the answer
		}
		body, err := io.ReadAll(req.Body)
		if strict.bad != nil || strict.f.Requests() != count && br.Buffered() == 0 {
			r.add(fmt.Sprintf("two readings: %v, %d requests at the %dth", strict.bad, strict.f.Requests(), count))
		}
		if err != nil {
			return // an upload that broke off
		}
		r.add(fmt.Sprintf("%s %s %s host:%s %s %q trailer %s", req.Method, req.RequestURI, req.Proto, req.Host,
			canonical(req.Header, "Content-Length", "Trailer"), body, canonical(req.Trailer)))
		if _, err := io.WriteString(c, scripted(req, len(body))); err != nil || strings.Contains(req.RequestURI, "close") {
			return
		}
	}
}

// scripted is the answer a path asks for.
func scripted(req *http.Request, n int) string {
	body := fmt.Sprintf("%s %d", req.Method, n)
	length := fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body))
	if req.Method == http.MethodHead {
		return "HTTP/1.1 200 OK\r\nX-Of: head\r\n" + length
	}
	switch uri := req.RequestURI; {
	case strings.Contains(uri, "chunked"):
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n-\r\n%x\r\n%s\r\n0\r\nX-Sum: %d\r\n\r\n", len(body), body, n)
	case strings.Contains(uri, "close"):
		return "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body
	case strings.Contains(uri, "204"):
		return "HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n"
	case strings.Contains(uri, "304"):
		return "HTTP/1.1 304 Not Modified\r\nEtag: \"x\"\r\nContent-Length: 9\r\n\r\n"
	case strings.Contains(uri, "103"):
		return "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n" + length + body
	case strings.Contains(uri, "500"):
		return "HTTP/1.1 500 Oops\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n" + length + body
	}
	return "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n" + length + body
}
