package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestNewRefuses(t *testing.T) {
	good, err := ParseTarget("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, "upstream: no targets, want at least one"},
		{Config{Targets: []Target{{}}}, "upstream: empty target, want one from ParseTarget"},
		{Config{Targets: []Target{good}, Idle: -1}, "upstream: negative limit, want 0 or more"},
	} {
		if _, err := New(tt.cfg); err == nil || err.Error() != tt.want {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
}

func TestConfigEqual(t *testing.T) {
	a, _ := ParseTarget("127.0.0.1:1")
	b, _ := ParseTarget("127.0.0.1:2")
	one := Config{Targets: []Target{a}, Idle: DefaultIdle, Log: slog.Default()}
	if !one.Equal(Config{Targets: []Target{a}, Idle: DefaultIdle, Connect: DefaultConnect}) {
		t.Error("defaults make a difference")
	}
	for _, other := range []Config{
		{Targets: []Target{b}, Idle: DefaultIdle},
		{Targets: []Target{a, b}, Idle: DefaultIdle},
		{Targets: []Target{a}},
		{Targets: []Target{a}, Idle: DefaultIdle, Response: 1},
	} {
		if one.Equal(other) {
			t.Errorf("equal to %+v", other)
		}
	}
}

// named starts a backend that answers with its name.
func named(t *testing.T, name string) string {
	return serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })
}

func ask(t *testing.T, p *Pool, r *http.Request) string {
	t.Helper()
	resp, err := p.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func TestRoundRobin(t *testing.T) {
	p := newPool(t, Config{Idle: DefaultIdle}, named(t, "a"), named(t, "b"), named(t, "c"))
	var got strings.Builder
	for range 7 {
		got.WriteString(ask(t, p, request(t, "GET", "")))
	}
	if got.String() != "abcabca" {
		t.Errorf("order %s", got.String())
	}
}

// TestFailover: a backend that cannot be reached costs no request, and gets
// none until it may be back.
func TestFailover(t *testing.T) {
	var logged strings.Builder
	m := NewMetrics(prometheus.NewRegistry())
	dead := deadAddr(t)
	p := newPool(t, Config{Idle: DefaultIdle, Metrics: m, Log: slog.New(slog.NewTextHandler(&logged, nil))},
		dead, named(t, "b"))
	r, trace := traced(request(t, "POST", "body"))
	if got := ask(t, p, r); got != "b" {
		t.Fatalf("answered by %s", got)
	}
	if trace.Attempts != 2 || trace.Target != p.backends[1].String() || trace.Retried {
		t.Errorf("trace %+v", trace)
	}
	for range 3 {
		r, trace := traced(request(t, "GET", ""))
		if got := ask(t, p, r); got != "b" || trace.Attempts != 1 {
			t.Errorf("answered by %s after %d attempts", got, trace.Attempts)
		}
	}
	st := p.Status()
	if st[0].Up || !st[1].Up || !strings.Contains(st[0].LastError, "refused") || st[0].NextTry.IsZero() {
		t.Errorf("status %+v", st)
	}
	if up := testutil.ToFloat64(m.up.WithLabelValues(dead)); up != 0 {
		t.Errorf("backend_up %v", up)
	}
	if n := testutil.ToFloat64(m.attempts.WithLabelValues(dead, classDial)); n != 1 {
		t.Errorf("%v attempts", n)
	}
	if n := strings.Count(logged.String(), "backend down"); n != 1 {
		t.Errorf("logged %d times: %s", n, logged.String())
	}
}

func TestAllDownAndBack(t *testing.T) {
	dead := deadAddr(t)
	m := NewMetrics(prometheus.NewRegistry())
	p := newPool(t, Config{Idle: DefaultIdle, Metrics: m}, dead)
	err := mustFail(t, p, request(t, "GET", ""), classDial)
	var dial *DialError
	if !errors.As(err, &dial) || !errors.Is(err, syscall.ECONNREFUSED) || dial.Target != dead {
		t.Errorf("the request that finds out gets %v", err)
	}
	err = mustFail(t, p, request(t, "GET", ""), classDown)
	var down *DownError
	if !errors.As(err, &down) || down.RetryAfter < time.Second || down.RetryAfter > lastPause {
		t.Errorf("the next one gets %#v", err)
	}
	ln, err := net.Listen("tcp", dead)
	if err != nil {
		t.Fatal(err)
	}
	rawServe(t, ln, (&script{}).handle)
	eventually(t, "recovery", func() bool {
		resp, err := p.RoundTrip(request(t, "GET", ""))
		if err != nil {
			return false
		}
		return resp.Body.Close() == nil
	})
	if st := p.Status(); !st[0].Up || st[0].LastError == "" {
		t.Errorf("status %+v", st)
	}
	if up := testutil.ToFloat64(m.up.WithLabelValues(dead)); up != 1 {
		t.Errorf("backend_up %v", up)
	}
}

func TestNameThatDoesNotResolve(t *testing.T) {
	p := newPool(t, Config{}, "app..home:3000") // not a name, so that no resolver is asked
	mustFail(t, p, request(t, "GET", ""), classDNS)
	mustFail(t, p, request(t, "GET", ""), classDown)
}

func TestCanceledDialIsNotHeldAgainstTheBackend(t *testing.T) {
	p := newPool(t, Config{}, "127.0.0.1:1")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	mustFail(t, p, request(t, "GET", "").WithContext(ctx), classCanceled)
	if st := p.Status(); !st[0].Up {
		t.Errorf("status %+v", st)
	}
}

func TestConnectTimeout(t *testing.T) {
	// It accepts and never answers the TLS handshake.
	addr := rawServer(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	p := newPool(t, Config{Connect: 30 * time.Millisecond}, "https://"+addr)
	err := mustFail(t, p, request(t, "GET", ""), classDialTime)
	var timeout *TimeoutError
	if !errors.As(err, &timeout) || timeout.Phase != "connect" || !timeout.Timeout() {
		t.Errorf("got %#v", err)
	}
	if want := "https://" + addr + ": no connection within 30ms"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	mustFail(t, p, request(t, "GET", ""), classDown)
}

func TestResponseTimeout(t *testing.T) {
	for _, scheme := range []string{"http://", "h2c://"} {
		release := make(chan struct{})
		h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			select {
			case <-release:
			case <-r.Context().Done():
			}
		})
		addr := serve(t, h)
		if scheme == "h2c://" {
			addr = serveH2C(t, h)
		}
		p := newPool(t, Config{Idle: DefaultIdle, Response: 30 * time.Millisecond}, scheme+addr)
		err := mustFail(t, p, request(t, "POST", "x"), classRespTime)
		if want := scheme + addr + ": no response within 30ms"; err.Error() != want {
			t.Errorf("got %q, want %q", err, want)
		}
		if st := p.Status(); !st[0].Up {
			t.Error("a slow answer takes the backend out")
		}
		close(release)
	}
}

// TestSendTimeout: a backend that stops reading an upload.
func TestSendTimeout(t *testing.T) {
	done := make(chan struct{})
	addr := rawServer(t, func(net.Conn) { <-done })
	defer close(done)
	p := newPool(t, Config{Response: 50 * time.Millisecond}, addr)
	mustFail(t, p, request(t, "POST", strings.Repeat("x", 16<<20)), classSendTime)
}

func TestConnectionsAreReused(t *testing.T) {
	for _, scheme := range []string{"http://", "h2c://"} {
		var conns atomic.Int32
		var addr string
		if scheme == "h2c://" {
			addr = h2Server(t, func(s *h2Conn) {
				conns.Add(1)
				for s.next() {
					s.respond(s.stream, "200", true)
				}
			})
		} else {
			addr = rawServer(t, func(c net.Conn) { conns.Add(1); (&script{}).handle(c) })
		}
		for _, tt := range []struct {
			idle time.Duration
			want int32
		}{{time.Minute, 1}, {0, 5}} {
			conns.Store(0)
			p := newPool(t, Config{Idle: tt.idle}, scheme+addr)
			for range 5 {
				mustGet(t, p, request(t, "GET", ""), 200, "")
			}
			if got := conns.Load(); got != tt.want {
				t.Errorf("%s idle %s: %d connections, want %d", scheme, tt.idle, got, tt.want)
			}
			p.Close()
		}
	}
}

// TestManyRequestsShareAnHTTP2Connection, also when they arrive before it is
// there.
func TestManyRequestsShareAnHTTP2Connection(t *testing.T) {
	var conns atomic.Int32
	s := serveH2C(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	addr := rawServer(t, func(c net.Conn) {
		conns.Add(1)
		relay(c, s)
	})
	p := newPool(t, Config{Idle: time.Minute}, "h2c://"+addr)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := get(p, request(t, "POST", "x"), 200, ""); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := conns.Load(); got != 1 {
		t.Errorf("%d connections, want 1", got)
	}
}

// relay copies between c and a connection to addr until either ends.
func relay(c net.Conn, addr string) {
	d, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(d, c); _ = d.Close() })
	wg.Go(func() { _, _ = io.Copy(c, d); _ = c.Close() })
	wg.Wait()
}

// TestIdleConnectionsAreClosed by us, before the backend has to.
func TestIdleConnectionsAreClosed(t *testing.T) {
	for _, scheme := range []string{"http://", "h2c://"} {
		closed := make(chan time.Time, 1)
		var addr string
		if scheme == "h2c://" {
			addr = h2Server(t, func(s *h2Conn) {
				for s.next() {
					s.respond(s.stream, "200", true)
				}
				closed <- time.Now()
			})
		} else {
			addr = rawServer(t, func(c net.Conn) { (&script{}).handle(c); closed <- time.Now() })
		}
		const idle = 40 * time.Millisecond
		p := newPool(t, Config{Idle: idle}, scheme+addr)
		for range 3 {
			mustGet(t, p, request(t, "GET", ""), 200, "")
		}
		last := time.Now()
		select {
		case at := <-closed:
			if at.Sub(last) < idle/2 {
				t.Errorf("%s closed after %s", scheme, at.Sub(last))
			}
		case <-time.After(patience):
			t.Fatalf("%s still open", scheme)
		}
	}
}

func TestMaxIdle(t *testing.T) {
	const max, burst = 3, 10
	var open atomic.Int32
	gate := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Add(burst)
	addr := rawServer(t, func(c net.Conn) {
		open.Add(1)
		defer open.Add(-1)
		(&script{steps: []step{func(c net.Conn, br *bufio.Reader, r *http.Request) bool {
			waiting.Done()
			<-gate
			return answer(c, br, r)
		}}}).handle(c)
	})
	p := newPool(t, Config{Idle: time.Minute, MaxIdlePerTarget: max}, addr)
	var wg sync.WaitGroup
	for range burst {
		wg.Go(func() {
			if _, err := get(p, request(t, "GET", ""), 200, ""); err != nil {
				t.Error(err)
			}
		})
	}
	waiting.Wait()
	close(gate)
	wg.Wait()
	eventually(t, "idle connections down to the maximum", func() bool { return open.Load() == max })
}

// TestClose: idle connections go at once, busy ones after their exchange, and
// a request that still comes is served.
func TestClose(t *testing.T) {
	for _, scheme := range []string{"http://", "h2c://"} {
		var open atomic.Int32
		begun, gate := make(chan struct{}), make(chan struct{})
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "PUT" {
				close(begun)
				<-gate
			}
		})
		backend := serve(t, h)
		if scheme == "h2c://" {
			backend = serveH2C(t, h)
		}
		addr := rawServer(t, func(c net.Conn) { open.Add(1); relay(c, backend); open.Add(-1) })
		p := newPool(t, Config{Idle: time.Minute}, scheme+addr)
		mustGet(t, p, request(t, "GET", ""), 200, "")
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := get(p, request(t, "PUT", ""), 200, ""); err != nil {
				t.Error(err)
			}
		})
		<-begun
		p.Close()
		close(gate)
		wg.Wait()
		mustGet(t, p, request(t, "GET", ""), 200, "")
		p.Close()
		eventually(t, scheme+" connections closed", func() bool { return open.Load() == 0 })
	}
}

func TestMetricsLint(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := NewMetrics(reg)
	addr := named(t, "a")
	p := newPool(t, Config{Metrics: m}, addr)
	q := newPool(t, Config{Metrics: m}, addr)
	ask(t, p, request(t, "GET", ""))
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		t.Errorf("%s: %s", problem.Metric, problem.Text)
	}
	p.Close()
	p.Close()
	if n := testutil.CollectAndCount(m.up); n != 1 {
		t.Errorf("%d gauges while a pool has the target", n)
	}
	q.Close()
	if n := testutil.CollectAndCount(m.up); n != 0 {
		t.Errorf("%d gauges after the last pool is closed", n)
	}
	if n := testutil.ToFloat64(m.conns.WithLabelValues(addr)); n != 1 {
		t.Errorf("%v connections opened", n)
	}
}

func TestClass(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{nil, "ok"},
		{&DownError{}, "all_down"},
		{dialError("a", 1, "connect", &net.DNSError{Err: "no such host"}), "dns"},
		{dialError("a", 1, "connect", syscall.ECONNREFUSED), "dial"},
		{dialError("a", 1, "tls", errors.New("bad certificate")), "tls"},
		{dialError("a", 1, "connect", context.DeadlineExceeded), "dial_timeout"},
		{&TimeoutError{Phase: "send"}, "send_timeout"},
		{&TimeoutError{Phase: "response"}, "response_timeout"},
		{&ResponseError{Err: syscall.ECONNRESET}, "reset"},
		{&ResponseError{Err: io.EOF}, "closed"},
		{&ResponseError{Err: errors.New("malformed HTTP response")}, "malformed"},
		{&RequestError{Err: io.ErrUnexpectedEOF}, "request"},
		{context.Canceled, "canceled"},
		{context.DeadlineExceeded, "deadline"},
		{io.ErrUnexpectedEOF, "closed"}, // from a response body
		{errors.New("strange"), "other"},
	} {
		if got := Class(tt.err); got != tt.want {
			t.Errorf("Class(%v) = %s, want %s", tt.err, got, tt.want)
		}
	}
}

func TestErrorsAreSafeToLog(t *testing.T) {
	err := &ResponseError{Target: "a:1", Err: errors.New("bad\x1b[31m\r\nline " + strings.Repeat("x", 1000))}
	got := err.Error()
	if strings.ContainsAny(got, "\x1b\r\n") || len(got) > 400 {
		t.Errorf("got %q", got)
	}
}
