package upstream

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestWireResend(t *testing.T) {
	big := strings.Repeat("x", replayLimit+1)
	for _, tt := range []struct {
		name, method, body string
		more               bool
		steps              []step
		class              string
		seen               string
		trace              Trace
	}{
		{"GET on a pooled connection that closes", "GET", "", false, []step{answer, hangUp}, classOK,
			"1:GET  1:GET  2:GET ", Trace{Attempts: 2, Retried: true}},
		{"POST", "POST", "payload", false, []step{answer, hangUp}, classOK,
			"1:GET  1:POST payload 2:POST payload", Trace{Attempts: 2, Retried: true}},
		{"POST of 64 KiB", "POST", big[1:], false, []step{answer, hangUp}, classOK,
			"1:GET  1:POST xxxxxxxx 2:POST xxxxxxxx", Trace{Attempts: 2, Retried: true}},
		{"once, not endlessly", "POST", "payload", false, []step{answer, hangUp, hangUp}, classClosed,
			"1:GET  1:POST payload 2:POST payload", Trace{Attempts: 2, Retried: true}},
		{"a byte of the answer arrived", "GET", "", false, []step{answer, say("H")}, classClosed,
			"1:GET  1:GET ", Trace{Attempts: 1, Reused: true}},
		{"an informational response arrived", "GET", "", false, []step{answer, say("HTTP/1.1 103 Early Hints\r\n\r\n")}, classClosed,
			"1:GET  1:GET ", Trace{Attempts: 1, Reused: true}},
		{"an answer that is not HTTP", "GET", "", false, []step{answer, say("SSH-2.0-OpenSSH_9.2\r\n\r\n")}, classGarbled,
			"1:GET  1:GET ", Trace{Attempts: 1, Reused: true}},
		{"a fresh connection", "GET", "", false,
			[]step{say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"), hangUp}, classClosed,
			"1:GET  2:GET ", Trace{Attempts: 1}},
		{"a body that is too large takes a fresh connection", "POST", big, false, []step{answer}, classOK,
			"1:GET  2:POST xxxxxxxx", Trace{Attempts: 1}},
		{"so does one that is not at hand", "POST", "payload", true, []step{answer, hangUp}, classClosed,
			"1:GET  2:POST payload", Trace{Attempts: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &script{steps: tt.steps}
			p := newPool(t, Config{Idle: patience}, rawServer(t, s.handle))
			exchangeWire(t, p, wireRequest("GET", "")).want(t, 200, "")
			q := wireRequest(tt.method, tt.body)
			if tt.more {
				q.More, q.Body = slices2more(q.Body), nil
			}
			w := exchangeWire(t, p, q)
			if got := Class(w.err); got != tt.class {
				t.Fatalf("class %s, want %s: %v", got, tt.class, w.err)
			}
			if got := strings.Join(s.requests(), " "); got != tt.seen {
				t.Errorf("backend saw %q, want %q", got, tt.seen)
			}
			w.trace.Target, w.trace.FirstByte = "", 0
			if w.trace != tt.trace {
				t.Errorf("trace %+v, want %+v", w.trace, tt.trace)
			}
		})
	}
}

// slices2more returns the slices one after the other.
func slices2more(parts ...[]byte) func() ([]byte, error) {
	return func() ([]byte, error) {
		if len(parts) == 0 {
			return nil, io.EOF
		}
		p := parts[0]
		parts = parts[1:]
		return p, nil
	}
}

// Every cut of an answer is an error or a body that breaks off: never a hang,
// and never a good answer that is not the whole one.
func TestWireAnswerCut(t *testing.T) {
	for name, whole := range map[string]string{
		"length":  "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\n0123456789",
		"chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n0123\r\n6;a=b\r\n456789\r\n0\r\nX-Sum: 1\r\n\r\n",
		"bare LF": "HTTP/1.1 200 OK\nContent-Length: 10\n\n0123456789",
	} {
		for _, reset := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/reset %t", name, reset), func(t *testing.T) {
				var cutAt atomic.Int32
				addr := rawServer(t, func(c net.Conn) {
					br := bufio.NewReader(c)
					if _, _, err := readRequest(br); err != nil {
						return
					}
					_, _ = io.WriteString(c, whole[:cutAt.Load()])
					if reset {
						_ = c.(*net.TCPConn).SetLinger(0)
					}
				})
				p := newPool(t, Config{Idle: patience}, addr)
				for cut := range len(whole) {
					cutAt.Store(int32(cut))
					w := exchangeWire(t, p, wireRequest("GET", ""))
					if w.err == nil && w.bodyErr == nil {
						t.Fatalf("cut at %d (%q): a good answer: %d %q", cut, whole[:cut], w.status, w.body)
					}
					if w.err != nil && w.body != "" || !strings.HasPrefix("0123456789", w.body) {
						t.Fatalf("cut at %d: body %q with %v", cut, w.body, w.err)
					}
					var e *ResponseError
					if w.err != nil && !errors.As(w.err, &e) {
						t.Fatalf("cut at %d: got %T %v, want a ResponseError", cut, w.err, w.err)
					}
					if c := Class(w.bodyErr); w.bodyErr != nil && c != classClosed && c != classReset {
						t.Fatalf("cut at %d: body error of class %s: %v", cut, c, w.bodyErr)
					}
				}
				cutAt.Store(int32(len(whole)))
				if !reset {
					exchangeWire(t, p, wireRequest("GET", "")).want(t, 200, "0123456789")
				}
			})
		}
	}
}

// A backend that closes idle connections at any moment costs nobody an error,
// and no request reaches its application twice.
func TestWireKill(t *testing.T) {
	const clients, each = 50, 60
	var mu sync.Mutex
	seen := map[string]int{}
	addr := rawServer(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		for {
			r, body, err := readRequest(br)
			if err != nil {
				return
			}
			mu.Lock()
			seen[r.Header.Get("Id")]++
			mu.Unlock()
			if want := r.Header.Get("Size"); strconv.Itoa(len(body)) != want {
				t.Errorf("body of %d bytes, want %s", len(body), want)
			}
			if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
				return
			}
			_ = c.SetReadDeadline(time.Now().Add(time.Millisecond + rand.N(49*time.Millisecond)))
		}
	})
	p := newPool(t, Config{Idle: patience, Response: patience}, addr)
	body := strings.Repeat("x", replayLimit)
	var wg sync.WaitGroup
	for client := range clients {
		wg.Go(func() {
			var res WireResponse
			var tr Trace
			for i := range each {
				id := fmt.Sprintf("%d-%d", client, i)
				method, size := "GET", 0
				if i%2 == 1 {
					method, size = "POST", rand.IntN(replayLimit)+1
				}
				q := WireRequest{
					Head: fmt.Appendf(nil, "%s / HTTP/1.1\r\nHost: x\r\nId: %s\r\nSize: %d\r\nContent-Length: %d\r\n\r\n", method, id, size, size),
					Body: []byte(body[:size]),
				}
				if err := p.Wire(t.Context(), &q, &res, &tr); err != nil {
					t.Errorf("%s %s: %v, %+v", method, id, err, tr)
					continue
				}
				if got, err := readWire(&res); got != "ok" || err != nil {
					t.Errorf("%s %s: got %q, %v", method, id, got, err)
				}
				res.Close()
				<-time.After(rand.N(60 * time.Millisecond)) // part of the load: connections are idle meanwhile
			}
		})
	}
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	if len(seen) != clients*each {
		t.Errorf("%d requests arrived, want %d", len(seen), clients*each)
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s arrived %d times", id, n)
		}
	}
}

// A connection that was closed, or written to, while it was idle is not used.
func TestWireIdleConnection(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(net.Conn)
	}{
		{"closed", func(c net.Conn) { _ = c.(*net.TCPConn).CloseWrite() }},
		{"reset", func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0); _ = c.Close() }},
		{"poisoned", func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conns := make(chan net.Conn, 2)
			addr := rawServer(t, func(c net.Conn) {
				conns <- c
				new(script).handle(c)
			})
			reg := prometheus.NewRegistry()
			p := newPool(t, Config{Idle: patience, Metrics: NewMetrics(reg)}, addr)
			exchangeWire(t, p, wireRequest("GET", "")).want(t, 200, "")
			tt.do(<-conns)
			b := p.backends[0]
			eventually(t, "the end of the idle connection", func() bool { return !b.links.list[0].conn.peek.quiet() })
			w := exchangeWire(t, p, wireRequest("POST", "x")).want(t, 200, "")
			if w.trace.Reused || w.trace.Attempts != 1 {
				t.Errorf("trace %+v, want one attempt on a fresh connection", w.trace)
			}
			if n := testutil.ToFloat64(p.cfg.Metrics.closed); n != 1 {
				t.Errorf("%v connections found closed, want 1", n)
			}
		})
	}
}

func TestWireNewestFirst(t *testing.T) {
	s := new(script)
	gate := make(chan struct{})
	wait := func(c net.Conn, br *bufio.Reader, r *http.Request) bool {
		<-gate
		return answer(c, br, r)
	}
	s.steps = []step{wait, wait, wait}
	p := newPool(t, Config{Idle: patience, MaxIdlePerTarget: 2}, rawServer(t, s.handle))
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { exchangeWire(t, p, wireRequest("GET", "")).want(t, 200, "") })
	}
	eventually(t, "three requests", func() bool { return len(s.requests()) == 3 })
	close(gate)
	wg.Wait()
	kept := p.backends[0].links.list
	if len(kept) != 2 {
		t.Fatalf("%d idle connections, want 2", len(kept))
	}
	newest := kept[1].conn
	for range 3 {
		exchangeWire(t, p, wireRequest("GET", "")).want(t, 200, "")
		if list := p.backends[0].links.list; len(list) != 2 || list[1].conn != newest {
			t.Fatal("the newest connection was not taken")
		}
	}
	for _, k := range kept {
		if k.conn.mem.small != nil || k.conn.in.Cap() != 0 {
			t.Error("an idle connection holds a buffer")
		}
	}
	p.Close()
	if len(p.backends[0].links.list) != 0 {
		t.Error("idle connections left after Close")
	}
	w := exchangeWire(t, p, wireRequest("GET", "")).want(t, 200, "")
	if w.trace.Reused || len(p.backends[0].links.list) != 0 {
		t.Error("a closed pool keeps connections")
	}
}

func TestWireIdleLimit(t *testing.T) {
	s := new(script)
	p := newPool(t, Config{Idle: 20 * time.Millisecond}, rawServer(t, s.handle))
	exchangeWire(t, p, wireRequest("GET", "")).want(t, 200, "")
	b := p.backends[0]
	eventually(t, "the sweeper", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.links.list) == 0
	})
	none := newPool(t, Config{Idle: 0}, rawServer(t, s.handle))
	for range 2 {
		if w := exchangeWire(t, none, wireRequest("GET", "")).want(t, 200, ""); w.trace.Reused {
			t.Error("idle 0: a connection was reused")
		}
	}
}

func TestWireLearnsKeepAlive(t *testing.T) {
	say := func(s string) step {
		return func(c net.Conn, _ *bufio.Reader, _ *http.Request) bool {
			_, err := io.WriteString(c, s)
			return err == nil
		}
	}
	told := say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nKeep-Alive: timeout=5, max=100\r\n\r\n")
	s := &script{steps: []step{told, hangUp}}
	reg := prometheus.NewRegistry()
	p := newPool(t, Config{Idle: time.Minute, Metrics: NewMetrics(reg)}, rawServer(t, s.handle))
	limit := func() float64 { return testutil.ToFloat64(p.cfg.Metrics.idle) }
	if limit() != 60 {
		t.Errorf("limit %v, want 60", limit())
	}
	exchangeWire(t, p, wireRequest("GET", "")).want(t, 200, "")
	if limit() != 4 {
		t.Errorf("limit %v after timeout=5, want 4", limit())
	}
	exchangeWire(t, p, wireRequest("GET", "")).want(t, 200, "") // sent again
	if limit() != shortestIdle.Seconds() {
		t.Errorf("limit %v after a closed connection, want %v", limit(), shortestIdle.Seconds())
	}
}

func TestKeepAlive(t *testing.T) {
	const most = time.Minute
	now := time.Now()
	var k keepAlive
	expect := func(what string, after, want time.Duration) {
		t.Helper()
		if got := k.limit(most, now.Add(after)); got != want {
			t.Errorf("%s: limit %s, want %s", what, got, want)
		}
	}
	expect("nothing known", 0, most)
	k.tell(3600)
	expect("longer than ours", 0, most)
	if !k.tell(5) || k.tell(5) {
		t.Error("a change is not told from no change")
	}
	expect("told 5s", 0, 4*time.Second)
	k.tell(1)
	expect("told 1s", 0, time.Second/2)
	k.told = 0
	k.closed(most, 8*time.Second, now)
	expect("closed after 8s", 0, 6*time.Second)
	k.closed(most, 7*time.Second, now)
	expect("closed later than that", 0, 6*time.Second)
	k.closed(most, 4*time.Second, now)
	expect("closed after 4s", 0, 3*time.Second)
	expect("a minute later", time.Minute, 6*time.Second)
	expect("three minutes later", 3*time.Minute, 24*time.Second)
	expect("five minutes later", 5*time.Minute, most)
	expect("a year later", 365*24*time.Hour, most)
	expect("the clock went back", -time.Hour, 3*time.Second)
	k.closed(most, 0, now)
	expect("closed at once", 0, shortestIdle)
}
