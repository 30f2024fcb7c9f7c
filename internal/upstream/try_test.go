package upstream

import (
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// The ways a request takes: on our own connections, and by net/http over both
// protocols.
func everyWay(t *testing.T, test func(t *testing.T, scheme string, wire bool)) {
	for _, way := range []struct {
		name, scheme string
		wire         bool
	}{{"wire", "http://", true}, {"http1", "http://", false}, {"h2c", "h2c://", false}} {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			test(t, way.scheme, way.wire)
		})
	}
}

// serveScheme runs a server for the scheme and returns its target.
func serveScheme(t testing.TB, scheme string, h http.HandlerFunc) string {
	if scheme == "h2c://" {
		return scheme + serveH2C(t, h)
	}
	return scheme + serve(t, h)
}

// silent reads requests and does not answer as long as the test runs.
func silent(t testing.TB, scheme string) (target string) {
	done := make(chan struct{})
	target = serveScheme(t, scheme, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-done:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(done) })
	return target
}

// outcomeOf sends a GET either way and returns the trace, the answer and the
// error.
func outcomeOf(t *testing.T, p *Pool, wire bool, method, content string) (tr Trace, status int, body string, err error) {
	t.Helper()
	if wire {
		w := exchangeWire(t, p, wireRequest(method, content))
		return w.trace, w.status, w.body, errors.Join(w.err, w.bodyErr)
	}
	r, trace := traced(request(t, method, content))
	resp, err := p.RoundTrip(r)
	if err != nil {
		return *trace, 0, "", err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return *trace, resp.StatusCode, string(got), err
}

// TestTry: a backend that does not answer in the time of one try is left for
// the next one, long before the time of all tries is over.
func TestTry(t *testing.T) {
	everyWay(t, func(t *testing.T, scheme string, wire bool) {
		good := serveScheme(t, scheme, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "b") })
		// More tries than are needed, should the good one be slow here, too.
		p := newPool(t, Config{
			Idle: DefaultIdle, Response: patience, Try: 300 * time.Millisecond,
			Retry: &Retry{Tries: 10, Budget: 1, Late: true},
		}, silent(t, scheme), good)
		tr, status, body, err := outcomeOf(t, p, wire, "GET", "")
		if err != nil || status != 200 || body != "b" || tr.Attempts < 2 || !tr.Retried {
			t.Errorf("got %d %q, %v, %+v", status, body, err, tr)
		}
	})
}

// TestTryIsNotAllTries: the rules for retries decide what follows a try.
func TestTryIsNotAllTries(t *testing.T) {
	everyWay(t, func(t *testing.T, scheme string, wire bool) {
		const try = 30 * time.Millisecond
		for _, tt := range []struct {
			name     string
			retry    *Retry
			method   string
			attempts int
			after    time.Duration
		}{
			{"as often as configured", &Retry{Tries: 3, Budget: 1, Late: true}, "GET", 3, try},
			{"not for this reason", &Retry{Tries: 3, Budget: 1, Closed: true}, "GET", 1, try},
			{"not for a POST", &Retry{Tries: 3, Budget: 1, Late: true}, "POST", 1, try},
		} {
			p := newPool(t, Config{Idle: DefaultIdle, Response: patience, Try: try, Retry: tt.retry}, silent(t, scheme), silent(t, scheme))
			tr, _, _, err := outcomeOf(t, p, wire, tt.method, "")
			var late *TimeoutError
			if !errors.As(err, &late) || late.Phase != "response" || late.After != tt.after || tr.Attempts != tt.attempts {
				t.Errorf("%s: got %v, %+v", tt.name, err, tr)
			}
		}
	})
}

// TestTriesTogether: the time of all tries ends the last one early, and no
// backend is blamed for it.
func TestTriesTogether(t *testing.T) {
	everyWay(t, func(t *testing.T, scheme string, wire bool) {
		const total = 700 * time.Millisecond
		p := newPool(t, Config{
			Idle: DefaultIdle, Response: total, Try: 200 * time.Millisecond,
			Retry: &Retry{Tries: 10, Budget: 1, Late: true},
		}, silent(t, scheme), silent(t, scheme))
		tr, _, _, err := outcomeOf(t, p, wire, "GET", "")
		var late *TimeoutError
		if !errors.As(err, &late) || Class(err) != classRespTime || late.After != total || tr.Attempts == 10 {
			t.Errorf("got %v, %+v", err, tr)
		}
		for _, s := range p.Status() {
			if !s.Up {
				t.Errorf("%s is down: %s", s.Target, s.LastError)
			}
		}
	})
}

// TestTryWithoutRetry: there is one try, which has the whole time.
func TestTryWithoutRetry(t *testing.T) {
	const limit = 30 * time.Millisecond
	p := newPool(t, Config{Idle: DefaultIdle, Response: limit, Try: time.Millisecond}, silent(t, "http://"))
	var late *TimeoutError
	if _, _, _, err := outcomeOf(t, p, true, "GET", ""); !errors.As(err, &late) || late.After != limit {
		t.Errorf("got %v", err)
	}
}

// TestTriesLeaveTheBody: the time of all tries ends with the head of the
// answer; its body may take longer.
func TestTriesLeaveTheBody(t *testing.T) {
	everyWay(t, func(t *testing.T, scheme string, wire bool) {
		const total = 3 * time.Second
		rest := make(chan struct{})
		good := serveScheme(t, scheme, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "a")
			w.(http.Flusher).Flush()
			<-rest
			_, _ = io.WriteString(w, "b")
		})
		p := newPool(t, Config{
			Idle: DefaultIdle, Response: total, Try: 300 * time.Millisecond,
			Retry: &Retry{Tries: 10, Budget: 1, Late: true},
		}, silent(t, scheme), good)
		go func() { // ends with the timer; the answer below waits for it
			timer := time.NewTimer(total + 500*time.Millisecond)
			defer timer.Stop()
			<-timer.C
			close(rest)
		}()
		tr, status, body, err := outcomeOf(t, p, wire, "GET", "")
		if err != nil || status != 200 || body != "ab" {
			t.Errorf("got %d %q, %v, %+v", status, body, err, tr)
		}
		<-rest
	})
}

// TestTriesConnect: the time of all tries bounds connecting, too.
func TestTriesConnect(t *testing.T) {
	everyWay(t, func(t *testing.T, scheme string, wire bool) {
		deaf, err := net.Listen("tcp", "127.0.0.1:0") // accepts nothing: TLS never answers
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = deaf.Close() })
		p := newPool(t, Config{
			Idle: DefaultIdle, Connect: patience, Response: 500 * time.Millisecond, Try: 100 * time.Millisecond,
			Retry: &Retry{Tries: 10, Budget: 1, Late: true},
		}, silent(t, scheme), "https://"+deaf.Addr().String())
		_, _, _, err = outcomeOf(t, p, wire, "GET", "")
		if Class(err) != classRespTime {
			t.Errorf("got %v", err)
		}
		for _, s := range p.Status() {
			if !s.Up {
				t.Errorf("%s is down: %s", s.Target, s.LastError)
			}
		}
	})
}

// TestRetryBodies: what was sent on a new connection is sent again as well,
// as long as it is held.
func TestRetryBodies(t *testing.T) {
	everyWay(t, func(t *testing.T, scheme string, wire bool) {
		for range 2 { // so that either backend is the first
			echo := func(status int) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					w.WriteHeader(status)
					_, _ = w.Write(body)
				}
			}
			p := newPool(t, Config{Idle: DefaultIdle, Retry: &Retry{Tries: 2, Budget: 1, Status: []int{503}}},
				serveScheme(t, scheme, echo(503)), serveScheme(t, scheme, echo(200)))
			if _, status, body, err := outcomeOf(t, p, wire, "PUT", "hello"); err != nil || status != 200 || body != "hello" {
				t.Errorf("got %d %q, %v", status, body, err)
			}
		}
	})
}
