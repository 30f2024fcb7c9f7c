package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/net/http2"
)

const okEmpty = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

// readRequest reads one request with its body.
func readRequest(br *bufio.Reader) (*http.Request, string, error) {
	r, err := http.ReadRequest(br)
	if err != nil {
		return nil, "", err
	}
	body, err := io.ReadAll(r.Body)
	return r, string(body), err
}

// script is a backend that plays one step for each request, over all its
// connections; a step that returns false closes the connection. Requests
// beyond the script are answered with 200.
type script struct {
	mu    sync.Mutex
	seen  []string // "connection:method body", guarded by mu
	conns int
	steps []func(c net.Conn, br *bufio.Reader, r *http.Request) bool
}

func (s *script) handle(c net.Conn) {
	s.mu.Lock()
	s.conns++
	id := s.conns
	s.mu.Unlock()
	br := bufio.NewReader(c)
	for {
		r, body, err := readRequest(br)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.seen = append(s.seen, fmt.Sprintf("%d:%s %.8s", id, r.Method, body))
		step := answer
		if len(s.steps) > 0 {
			step, s.steps = s.steps[0], s.steps[1:]
		}
		s.mu.Unlock()
		if !step(c, br, r) {
			return
		}
	}
}

func (s *script) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.seen...)
}

func answer(c net.Conn, _ *bufio.Reader, _ *http.Request) bool {
	_, err := io.WriteString(c, okEmpty)
	return err == nil
}

func hangUp(net.Conn, *bufio.Reader, *http.Request) bool { return false }

func say(s string) func(net.Conn, *bufio.Reader, *http.Request) bool {
	return func(c net.Conn, _ *bufio.Reader, _ *http.Request) bool {
		_, _ = io.WriteString(c, s)
		return false
	}
}

type step = func(net.Conn, *bufio.Reader, *http.Request) bool

func TestResend(t *testing.T) {
	const get, post = "GET", "POST"
	for _, tt := range []struct {
		name   string
		method string
		body   string
		steps  []step
		class  string // of the second request
		seen   []string
		trace  Trace
	}{
		{
			name: "GET on a pooled connection that closes", method: get,
			steps: []step{answer, hangUp}, class: classOK,
			seen:  []string{"1:HEAD ", "1:GET ", "2:GET "},
			trace: Trace{Attempts: 2, Retried: true},
		}, {
			name: "POST", method: post, body: "payload",
			steps: []step{answer, hangUp}, class: classOK,
			seen:  []string{"1:HEAD ", "1:POST payload", "2:POST payload"},
			trace: Trace{Attempts: 2, Retried: true},
		}, {
			name: "once, not endlessly", method: post, body: "payload",
			steps: []step{answer, hangUp, hangUp}, class: classClosed,
			seen:  []string{"1:HEAD ", "1:POST payload", "2:POST payload"},
			trace: Trace{Attempts: 2, Retried: true},
		}, {
			name: "a byte of the answer arrived", method: get,
			steps: []step{answer, say("H")}, class: classGarbled,
			seen:  []string{"1:HEAD ", "1:GET "},
			trace: Trace{Attempts: 1, Reused: true},
		}, {
			name: "an informational response arrived", method: get,
			steps: []step{answer, say("HTTP/1.1 103 Early Hints\r\n\r\n")}, class: classClosed,
			seen:  []string{"1:HEAD ", "1:GET "},
			trace: Trace{Attempts: 1, Reused: true},
		}, {
			name: "an answer that is not HTTP", method: get,
			steps: []step{answer, say("SSH-2.0-OpenSSH_9.2\r\n\r\n")}, class: classGarbled,
			seen:  []string{"1:HEAD ", "1:GET "},
			trace: Trace{Attempts: 1, Reused: true},
		}, {
			name: "a fresh connection", method: get,
			steps: []step{say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"), hangUp}, class: classClosed,
			seen:  []string{"1:HEAD ", "2:GET "},
			trace: Trace{Attempts: 1},
		}, {
			name: "a body that cannot be kept takes a fresh connection", method: post,
			body:  strings.Repeat("x", replayLimit+1),
			steps: []step{answer}, class: classOK,
			seen:  []string{"1:HEAD ", "2:POST xxxxxxxx"},
			trace: Trace{Attempts: 1},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &script{steps: tt.steps}
			p := newPool(t, Config{Idle: time.Minute}, rawServer(t, s.handle))
			mustGet(t, p, request(t, "HEAD", ""), 200, "")
			r, trace := traced(request(t, tt.method, tt.body))
			if tt.class == classOK {
				mustGet(t, p, r, 200, "")
			} else {
				mustFail(t, p, r, tt.class)
			}
			if got := fmt.Sprint(s.requests()); got != fmt.Sprint(tt.seen) {
				t.Errorf("the backend saw %s, want %s", got, tt.seen)
			}
			trace.FirstByte = 0
			tt.trace.Target = p.backends[0].String()
			if *trace != tt.trace {
				t.Errorf("trace %+v, want %+v", *trace, tt.trace)
			}
		})
	}
}

// TestResendReplaysPartlyReadBody: the first attempt has sent some of the body
// while the client is still sending it.
func TestResendReplaysPartlyReadBody(t *testing.T) {
	gotHalf := make(chan struct{})
	var conns atomic.Int32
	addr := rawServer(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		if conns.Add(1) > 1 {
			r, body, err := readRequest(br)
			if err != nil {
				return
			}
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Length: %d\r\n\r\n%s", len(body), r.ContentLength, body)
			return
		}
		if _, _, err := readRequest(br); err != nil {
			return
		}
		_, _ = io.WriteString(c, okEmpty)
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		if _, err := io.ReadFull(r.Body, make([]byte, 20000)); err != nil {
			return
		}
		close(gotHalf)
	})
	p := newPool(t, Config{Idle: time.Minute}, addr)
	mustGet(t, p, request(t, "GET", ""), 200, "")
	pr, pw := io.Pipe()
	whole := strings.Repeat("0123456789", 4000)
	go func() { // ends when the body was read
		_, _ = io.WriteString(pw, whole[:20000])
		<-gotHalf
		_, _ = io.WriteString(pw, whole[20000:])
		_ = pw.Close()
	}()
	r, trace := traced(request(t, "POST", ""))
	r.Body, r.ContentLength = pr, int64(len(whole))
	resp := mustGet(t, p, r, 200, whole)
	if !trace.Retried || resp.Header.Get("X-Length") != "40000" {
		t.Errorf("trace %+v, length %s", trace, resp.Header.Get("X-Length"))
	}
}

func TestClientGoneIsNotResent(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s := &script{}
	closed := make(chan struct{})
	s.steps = []step{answer, func(_ net.Conn, br *bufio.Reader, _ *http.Request) bool {
		cancel()
		_, _ = br.ReadByte() // until the proxy hangs up
		close(closed)
		return false
	}}
	p := newPool(t, Config{Idle: time.Minute}, rawServer(t, s.handle))
	mustGet(t, p, request(t, "GET", ""), 200, "")
	err := mustFail(t, p, request(t, "POST", "x").WithContext(ctx), classCanceled)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-closed
	if n := len(s.requests()); n != 2 {
		t.Errorf("the backend saw %v", s.requests())
	}
}

// TestEarlyAnswerToUpload: a backend that refuses an upload answers and closes
// without reading it. The answer must arrive, not the broken pipe.
func TestEarlyAnswerToUpload(t *testing.T) {
	for range 20 {
		addr := rawServer(t, func(c net.Conn) {
			if _, err := http.ReadRequest(bufio.NewReaderSize(c, 16)); err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno\n")
		})
		p := newPool(t, Config{Idle: time.Minute}, addr)
		mustGet(t, p, request(t, "POST", strings.Repeat("x", 4<<20)), 413, "no\n")
		p.Close()
	}
}

// TestKeepAliveRace is the reason for this package: a backend that closes idle
// connections at any moment, and many clients. No request may fail, and none
// may be worked on twice.
func TestKeepAliveRace(t *testing.T) {
	clients, each := 50, 60
	if testing.Short() {
		each = 10
	}
	var mu sync.Mutex
	worked := map[string]int{} // guarded by mu
	addr := rawServer(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		// The first request has its time, as in every server.
		for idle := patience; ; idle = time.Millisecond + rand.N(49*time.Millisecond) {
			_ = c.SetReadDeadline(time.Now().Add(idle))
			if _, err := br.Peek(1); err != nil {
				return // idle for too long, perhaps with a request on its way
			}
			_ = c.SetReadDeadline(time.Now().Add(patience))
			r, body, err := readRequest(br)
			if err != nil {
				return
			}
			id := r.Header.Get("X-Id")
			mu.Lock()
			worked[id]++
			mu.Unlock()
			_, err = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s%d", len(id)+len(fmt.Sprint(len(body))), id, len(body))
			if err != nil {
				return
			}
		}
	})
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	p := newPool(t, Config{Idle: time.Minute, Metrics: m}, addr)
	var wg sync.WaitGroup
	for client := range clients {
		wg.Go(func() {
			// Clients come back at any moment around the backend's limit.
			pace := time.NewTicker(20*time.Millisecond + time.Duration(client)*time.Millisecond)
			defer pace.Stop()
			for i := range each {
				<-pace.C
				size, method := 0, "GET"
				if i%2 == 1 {
					size, method = rand.IntN(replayLimit+1), "POST"
				}
				id := fmt.Sprintf("%d.%d/", client, i)
				r := request(t, method, strings.Repeat("b", size))
				r.Header.Set("X-Id", id)
				resp, err := p.RoundTrip(r)
				if err != nil {
					t.Errorf("%s %s of %d bytes: %v", method, id, size, err)
					continue
				}
				got, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil || string(got) != fmt.Sprintf("%s%d", id, size) {
					t.Errorf("%s %s of %d bytes: got %q, %v", method, id, size, got, err)
				}
			}
		})
	}
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	if len(worked) != clients*each {
		t.Errorf("the backend worked on %d requests, want %d", len(worked), clients*each)
	}
	for id, n := range worked {
		if n != 1 {
			t.Errorf("request %s was worked on %d times", id, n)
		}
	}
	t.Logf("%v of %d requests were sent again", testutil.ToFloat64(m.retries.WithLabelValues(retryStale)), clients*each)
}

func TestResendHTTP2(t *testing.T) {
	for _, tt := range []struct {
		name   string
		second func(s *h2Conn) // what the backend does with the second request; it then closes
		class  string
		seen   int32
	}{
		{"closes the pooled connection", func(*h2Conn) {}, classOK, 3},
		{"GOAWAY below the stream", func(s *h2Conn) { _ = s.fr.WriteGoAway(1, http2.ErrCodeNo, nil) }, classOK, 3},
		{"refuses the stream", func(s *h2Conn) {
			_ = s.fr.WriteRSTStream(s.stream, http2.ErrCodeRefusedStream)
			_, _ = s.fr.ReadFrame()
		}, classOK, 3},
		{"fails the stream", func(s *h2Conn) {
			_ = s.fr.WriteRSTStream(s.stream, http2.ErrCodeInternal)
			s.next()
		}, classReset, 2},
		{"sends 103 and closes", func(s *h2Conn) { s.respond(s.stream, "103", false) }, classClosed, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var seen atomic.Int32
			addr := h2Server(t, func(s *h2Conn) {
				for s.next() {
					if _, ok := s.body(); !ok {
						return
					}
					if seen.Add(1) == 2 {
						tt.second(s)
						return
					}
					s.respond(s.stream, "204", true)
				}
			})
			p := newPool(t, Config{Idle: time.Minute}, "h2c://"+addr)
			mustGet(t, p, request(t, "GET", ""), 204, "")
			r, trace := traced(request(t, "POST", "payload"))
			if tt.class == classOK {
				mustGet(t, p, r, 204, "")
			} else {
				mustFail(t, p, r, tt.class)
			}
			if got := seen.Load(); got != tt.seen {
				t.Errorf("the backend saw %d requests, want %d", got, tt.seen)
			}
			if want := tt.class == classOK; trace.Retried != want {
				t.Errorf("trace %+v", trace)
			}
		})
	}
}

// TestRefusedForever: a backend that refuses every stream gets the request a
// bounded number of times.
func TestRefusedForever(t *testing.T) {
	var seen atomic.Int32
	addr := h2Server(t, func(s *h2Conn) {
		for s.next() {
			seen.Add(1)
			_ = s.fr.WriteRSTStream(s.stream, http2.ErrCodeRefusedStream)
		}
	})
	p := newPool(t, Config{Idle: time.Minute}, "h2c://"+addr)
	mustFail(t, p, request(t, "GET", ""), classReset)
	if got := seen.Load(); got != 1+maxRefused {
		t.Errorf("the backend saw %d requests, want %d", got, 1+maxRefused)
	}
}
