package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"golang.org/x/net/http2"
)

// goroutines that a test leaves behind would show as more than before.
func goroutines() int { return runtime.NumGoroutine() }

// Shutdown lets requests in flight end, turns new ones away, and cuts what
// has no end: the WebSocket.
func TestShutdownDrains(t *testing.T) {
	release := make(chan struct{})
	var begun sync.WaitGroup
	begun.Add(2)
	target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ws" {
			c, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			defer c.CloseNow()
			_, _, _ = c.Read(r.Context())
			return
		}
		begun.Done()
		<-release
		fmt.Fprint(w, "done")
	})
	r := start(t, options{sites: []testSite{proxyTo(t, target)}, limits: quick(patience)})
	results := make(chan error, 2)
	for _, h2 := range []bool{false, true} {
		c := r.httpClient(h2)
		req := request(t, "GET", "https://a.test/", nil)
		go func() { // ends with the answer, which is waited for
			res, err := c.Do(req)
			if err == nil {
				var body []byte
				body, err = io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err == nil && string(body) != "done" {
					err = fmt.Errorf("got %q", body)
				}
			}
			results <- err
		}()
	}
	ws, _, err := websocket.Dial(t.Context(), "wss://a.test/ws", &websocket.DialOptions{HTTPClient: r.httpClient(false)})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	begun.Wait()

	ctx, cancel := context.WithCancel(t.Context())
	cut := make(chan int, 1)
	go func() { cut <- r.shutdown(ctx) }() // waited for below
	wait(t, "the drain", r.srv.Draining)
	wait(t, "closed listeners", func() bool { return !connects(r.clear) })
	close(release)
	for range 2 {
		if err := within(t, "an answer", results); err != nil {
			t.Error(err)
		}
	}
	wait(t, "the WebSocket to be alone", func() bool { return r.metric("postern_connections_open") == 1 })
	cancel()
	if n := within(t, "the end", cut); n != 1 {
		t.Errorf("%d connections cut, want the WebSocket's", n)
	}
	if _, _, err := ws.Read(t.Context()); err == nil {
		t.Error("the WebSocket lives on")
	}
}

func connects(addr string) bool {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// An idle h2 client is told to leave.
func TestShutdownSaysGoAway(t *testing.T) {
	r := start(t, options{sites: []testSite{proxyTo(t, closedPort(t))}, limits: quick(patience)})
	f := h2Get(t, r.dialTLS("h2"), 65535)
	done := make(chan int, 1)
	wait(t, "the request", func() bool { return r.metric("postern_requests_total") == 1 })
	go func() { done <- r.shutdown(t.Context()) }() // waited for below
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("no GOAWAY: %v", err)
		}
		if g, ok := frame.(*http2.GoAwayFrame); ok {
			if g.ErrCode != http2.ErrCodeNo {
				t.Errorf("GOAWAY says %v", g.ErrCode)
			}
			break
		}
	}
	if n := within(t, "the end", done); n != 0 {
		t.Errorf("%d connections cut", n)
	}
}

// Nothing is left running: connections in every state, then the end.
func TestNoGoroutineIsLeft(t *testing.T) {
	target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, "x")
	})
	before := goroutines()
	r := start(t, options{sites: []testSite{proxyTo(t, target)}, limits: quick(patience)})
	clients := []*http.Client{r.httpClient(false), r.httpClient(true)}
	for _, c := range clients {
		do(t, c, request(t, "POST", "https://a.test/", strings.NewReader("abc")))
	}
	r.dial()
	dialTCP(t, r.secure)
	send(t, r.dial(), "GET / HT")
	send(t, r.dial(), "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n\r\nab")
	send(t, r.dialTLS("h2"), http2.ClientPreface)
	wait(t, "the upload", func() bool { return r.metric("postern_requests_in_flight") == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r.shutdown(ctx)
	for _, c := range clients {
		c.CloseIdleConnections()
	}
	for _, s := range r.srv.snap.Load().Sites {
		for _, rt := range s.Routes {
			if rt.Upstream != nil {
				rt.Upstream.Close()
			}
		}
	}
	// The backend's own connections end with ours; a few goroutines are its.
	wait(t, "the goroutines to end", func() bool { return goroutines() <= before+2 })
	if n := r.metric("postern_connections_open"); n != 0 {
		t.Errorf("%v connections open", n)
	}
}

// A reload under load loses no request.
func TestApplyUnderLoad(t *testing.T) {
	one := backend(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "one") })
	two := backend(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "two") })
	o := options{sites: []testSite{proxyTo(t, one)}, limits: quick(patience)}
	r := start(t, o)
	other := o
	other.sites = []testSite{proxyTo(t, two)}
	var stop atomic.Bool
	var clients sync.WaitGroup
	var served atomic.Int64
	for _, h2 := range []bool{false, true} {
		for range 2 {
			c := r.httpClient(h2)
			clients.Go(func() { // ends with stop; waited for below
				for !stop.Load() {
					res, err := c.Get("https://a.test/")
					if err != nil {
						t.Error(err)
						return
					}
					body, err := io.ReadAll(res.Body)
					_ = res.Body.Close()
					if s := string(body); err != nil || s != "one" && s != "two" {
						t.Errorf("got %q, %v", s, err)
						return
					}
					served.Add(1)
				}
			})
		}
	}
	for i := range 50 {
		r.srv.Apply(r.snapshot([]options{other, o}[i%2]))
		want := served.Load() + 4
		wait(t, "requests after the reload", func() bool { return served.Load() >= want || t.Failed() })
	}
	stop.Store(true)
	clients.Wait()
}

// One line, quoted, bounded, without the query.
func TestAccessLine(t *testing.T) {
	target := backend(t, func(http.ResponseWriter, *http.Request) {})
	for _, logQuery := range []bool{false, true} {
		r := start(t, options{sites: []testSite{proxyTo(t, target)}, limits: quick(patience), logQuery: logQuery})
		req := request(t, "GET", "https://a.test/"+strings.Repeat("p", 3000)+"?token=secret", nil)
		req.Header.Set("User-Agent", "a\"b\tc é "+strings.Repeat("u", 3000))
		do(t, r.httpClient(true), req)
		wait(t, "the line", func() bool { return strings.HasSuffix(r.access.String(), "\n") })
		line := r.access.String()
		if strings.Count(line, "\n") != 1 || len(line) > 3000 || strings.Contains(line, "\t") {
			t.Errorf("not one bounded line: %q", line)
		}
		if got := strings.Contains(line, "secret"); got != logQuery {
			t.Errorf("query in the line: %v", got)
		}
		for _, want := range []string{"client=127.0.0.1 ", "method=GET ", "host=a.test ", "proto=h2 ", "tls=true ", "status=200 ", "site=a.test ", "route=/* ", "request_id=", "upstream="} {
			if !strings.Contains(line, want) {
				t.Errorf("no %s in %q", want, line)
			}
		}
	}
}

func TestMetricsLint(t *testing.T) {
	target := backend(t, func(http.ResponseWriter, *http.Request) {})
	r := start(t, options{sites: []testSite{proxyTo(t, target)}, limits: quick(patience)})
	for _, h2 := range []bool{false, true} {
		do(t, r.httpClient(h2), request(t, "POST", "https://a.test/", strings.NewReader("x")))
	}
	r.until("both exchanges on record", func() bool { // a client has its answer before
		return r.metric("postern_requests_total", "site", "a.test", "code", "2xx") == 2
	})
	families, err := r.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	if got := r.metric("postern_requests_in_flight"); got != 0 {
		t.Errorf("in flight: %v", got)
	}
}

// Strangers choose no label value: whatever they send, the series stay few.
func TestSeriesAreBounded(t *testing.T) {
	r := start(t, options{sites: []testSite{proxyTo(t, closedPort(t))}, limits: quick(patience)})
	for i := range 1000 {
		c := r.dial()
		switch i % 5 {
		case 0:
			_, _ = fmt.Fprintf(c, "M%d / HTTP/1.1\r\nHost: a.test\r\n\r\n", i)
		case 1:
			_, _ = fmt.Fprintf(c, "GET /%d HTTP/1.1\r\nHost: h%d.example\r\n\r\n", i, i)
		case 2:
			_, _ = fmt.Fprintf(c, "GET /%d HTTP/1.1\r\nHost: a.test\r\nX-%d: 1\r\n\r\n", i, i)
		case 3:
			_, _ = fmt.Fprintf(c, "GET / HTTP/1.%d\r\nHost: a.test\r\n\r\n", i)
		case 4:
			_, _ = fmt.Fprintf(c, "%d junk\r\n\r\n", i)
		}
		_, _ = bufio.NewReader(c).ReadByte()
		_ = c.Close()
	}
	wait(t, "the connections' end", func() bool { return r.metric("postern_connections_open") == 0 })
	families, err := r.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := 0
	for _, f := range families {
		series += len(f.GetMetric())
	}
	if series > 60 {
		t.Errorf("%d series", series)
	}
}

// A panic of ours is no client's noise: the request ends, the operator hears
// of it, the server goes on.
func TestPanic(t *testing.T) {
	site := proxyTo(t, closedPort(t))
	o := options{sites: []testSite{site}, limits: quick(patience), challenge: func(http.ResponseWriter, *http.Request) bool { panic("oops") }}
	r := start(t, o)
	c := r.dial()
	send(t, c, "GET /.well-known/acme-challenge/x HTTP/1.1\r\nHost: a.test\r\n\r\n")
	if got, _ := ended(t, c); got != "" {
		t.Errorf("got %q", got)
	}
	wait(t, "the log", func() bool { return strings.Contains(r.log.String(), "oops") })
	if got := r.metric("postern_requests_in_flight"); got != 0 {
		t.Errorf("in flight: %v", got)
	}
	c = r.dial()
	send(t, c, "GET /ping HTTP/1.1\r\nHost: probe.test\r\n\r\n")
	if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
		t.Error(err)
	}
}

// Backends that answer before they have read, and die at every byte, under
// many clients: answers belong to their requests and nothing is written twice.
func TestRoughBackend(t *testing.T) {
	var count atomic.Int64
	target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Id")
		switch count.Add(1) % 4 {
		case 0: // early answer
			fmt.Fprint(w, id)
		case 1:
			_, _ = io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, id)
		case 2: // dies in the answer
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, id)
			panic(http.ErrAbortHandler)
		case 3:
			w.WriteHeader(http.StatusEarlyHints)
			_, _ = io.CopyN(io.Discard, r.Body, 10)
			fmt.Fprint(w, id)
		}
	})
	r := start(t, options{sites: []testSite{proxyTo(t, target)}, limits: quick(patience)})
	var clients sync.WaitGroup
	for i := range 8 {
		c := r.httpClient(i%2 == 0)
		clients.Go(func() { // ends by itself; waited for below
			for j := range 50 {
				id := fmt.Sprintf("%d-%d", i, j)
				req, err := http.NewRequest("POST", "https://a.test/", strings.NewReader(strings.Repeat("x", j*2000)))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("X-Id", id)
				res, err := c.Do(req)
				if err != nil {
					continue // the connection was cut with the answer
				}
				body, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if res.StatusCode == 200 && err == nil && string(body) != id {
					t.Errorf("%s got %d %q", id, res.StatusCode, body)
				}
			}
		})
	}
	clients.Wait()
	wait(t, "the end of all", func() bool { return r.metric("postern_requests_in_flight") == 0 })
	if n := r.metric("postern_http_engine_messages_total", "kind", "superfluous_header"); n != 0 {
		t.Errorf("%v answers were begun twice", n)
	}
	if n := r.metric("postern_http_engine_messages_total", "kind", "panic"); n != 0 {
		t.Errorf("%v panics", n)
	}
}
