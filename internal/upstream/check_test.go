package upstream

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// watchPools runs a Watch of the pools until the test ends.
func watchPools(t testing.TB, pools ...*Pool) {
	t.Helper()
	w := new(Watch)
	w.Set(pools)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }() // ends with cancel
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestActiveCheck follows a backend over each protocol from well to sick and
// back, without a request.
func TestActiveCheck(t *testing.T) {
	for _, proto := range []string{"http", "h2c"} {
		t.Run(proto, func(t *testing.T) {
			var sick atomic.Bool
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.URL.Path == "/healthz" && r.Host != "app.internal", r.URL.Path == "/healthz" && r.Method != "GET":
					t.Errorf("asked %s for %s", r.Method, r.Host)
				case r.URL.Path == "/healthz" && sick.Load():
					w.WriteHeader(http.StatusInternalServerError)
				}
				_, _ = io.WriteString(w, "a")
			})
			addr := ""
			if proto == "h2c" {
				addr = "h2c://" + serveH2C(t, h)
			} else {
				addr = serve(t, h)
			}
			m := NewMetrics(prometheus.NewRegistry())
			p := newPool(t, Config{Idle: DefaultIdle, Metrics: m, Check: &Check{
				Path: "/healthz?deep", Host: "app.internal", Interval: 10 * time.Millisecond, Timeout: patience, Healthy: 2, Unhealthy: 2, From: 200, To: 399,
			}}, addr, named(t, "b"))
			watchPools(t, p)
			eventually(t, "a check", func() bool {
				return testutil.ToFloat64(m.checks.WithLabelValues(addr, "passed")) > 0
			})
			sick.Store(true)
			eventually(t, "the backend to be left out", func() bool { return !p.Status()[0].Up })
			if s := p.Status()[0]; !strings.Contains(s.LastError, "check /healthz?deep: status 500, want 200-399") {
				t.Errorf("status %+v", s)
			}
			for range 4 {
				mustGet(t, p, request(t, "GET", ""), 200, "b")
			}
			if up := testutil.ToFloat64(m.up.WithLabelValues(addr)); up != 0 {
				t.Errorf("up is %v", up)
			}
			sick.Store(false)
			eventually(t, "the backend to be back", func() bool { return p.Status()[0].Up })
		})
	}
}

func TestCheckTimeout(t *testing.T) {
	addr := rawServer(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	p := newPool(t, Config{Check: &Check{Path: "/", Interval: time.Millisecond, Timeout: 20 * time.Millisecond, Healthy: 1, Unhealthy: 1, From: 200, To: 399}}, addr)
	watchPools(t, p)
	eventually(t, "the backend to be left out", func() bool { return !p.Status()[0].Up })
	if s := p.Status()[0]; s.LastError != "check /: no answer within 20ms" {
		t.Errorf("status %+v", s)
	}
}

// TestPassiveRecovery: without a Check, a backend that was down is known to be
// back without a request.
func TestPassiveRecovery(t *testing.T) {
	addr := deadAddr(t)
	p := newPool(t, Config{Idle: DefaultIdle}, addr)
	watchPools(t, p)
	mustFail(t, p, request(t, "GET", ""), classDial)
	if p.Status()[0].Up {
		t.Fatal("up after a failed dial")
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	rawServe(t, ln, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	eventually(t, "the backend to be back", func() bool { return p.Status()[0].Up })
}

func TestJitter(t *testing.T) {
	for chance, want := range map[float64]time.Duration{0: 9 * time.Second, 0.5: 10 * time.Second, 0.999999999: 11 * time.Second} {
		if got := jitter(10*time.Second, chance).Round(time.Millisecond); got != want {
			t.Errorf("chance %v: %s, want %s", chance, got, want)
		}
	}
}
