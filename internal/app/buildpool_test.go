package app

import (
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"postern/internal/config"
	"postern/internal/proxy"
	"postern/internal/upstream"
)

// TestPoolConfig follows each key of a route, and of a site's own upstream, to
// what the pool and the proxy make of it.
func TestPoolConfig(t *testing.T) {
	const keys = `upstream: [127.0.0.1:3000 weight=3, 127.0.0.1:3001]
        balance: hash
        hash_by: cookie:sid
        health: {path: /h, host: a.internal, interval: 3s, timeout: 1s, healthy: 4, unhealthy: 5, status: 204}
        slow_start: 6s
        breaker: {errors: 25%, min: 7, window: 8s, open: 9s}
        retry: {tries: 3, budget: 10%, on: [closed, malformed, 503], methods: all}
        hold: 5s
        mirror: {to: "127.0.0.1:3002", percent: 10%, methods: all}
        timeout: {response: 30s, try: 4s}
        headers: {request: {set: {X-B: b, X-A: a}}, response: {remove: [Server]}}
`
	t.Run("route", func(t *testing.T) {
		testPoolConfig(t, "tls: {issuer: local}\nsites:\n  - hosts: [a.test]\n    routes:\n      - "+keys)
	})
	t.Run("site", func(t *testing.T) {
		testPoolConfig(t, "tls: {issuer: local}\nsites:\n  - hosts: [a.test]\n    "+strings.ReplaceAll(keys, "\n        ", "\n    "))
	})
}

func testPoolConfig(t *testing.T, src string) {
	cfg, err := config.Parse("postern.yaml", []byte(src), func(string) (string, bool) { return t.TempDir(), true })
	if err != nil {
		t.Fatal(err)
	}
	b, err := build(cfg, nil, parts{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	rt := &b.snapshot.Sites[0].Routes[0]
	got := b.pools["a.test /*"].cfg
	want := upstream.Config{
		Targets: got.Targets, Connect: upstream.DefaultConnect, Response: 30 * time.Second, Try: 4 * time.Second, Idle: upstream.DefaultIdle,
		Balance: upstream.Hash, Weights: []int{3, 1}, SlowStart: 6 * time.Second, Hold: 5 * time.Second,
		Check:   &upstream.Check{Path: "/h", Host: "a.internal", Interval: 3 * time.Second, Timeout: time.Second, Healthy: 4, Unhealthy: 5, From: 204, To: 204},
		Breaker: &upstream.Breaker{Errors: 0.25, Min: 7, Window: 8 * time.Second, Open: 9 * time.Second},
		Retry:   &upstream.Retry{Tries: 3, Budget: 0.1, Closed: true, Bad: true, Status: []int{503}, All: true},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if want := (&proxy.HashBy{Cookie: "sid"}); !reflect.DeepEqual(rt.HashBy, want) {
		t.Errorf("hash by %+v, want %+v", rt.HashBy, want)
	}
	if want := (&proxy.Change{Set: []proxy.Field{{Name: "X-A", Value: "a"}, {Name: "X-B", Value: "b"}}}); !reflect.DeepEqual(rt.Request, want) {
		t.Errorf("request %+v, want %+v", rt.Request, want)
	}
	if want := (&proxy.Change{Remove: []string{"Server"}}); !reflect.DeepEqual(rt.Response, want) {
		t.Errorf("response %+v, want %+v", rt.Response, want)
	}
	if m := rt.Mirror; m == nil || m.Percent != 10 || !m.All || m.Pool != b.pools["a.test /* mirror"].pool || m.Pool.Status()[0].Target != "127.0.0.1:3002" {
		t.Errorf("mirror %+v", m)
	}
	again, err := build(cfg, b, parts{})
	if err != nil {
		t.Fatal(err)
	}
	if again.pools["a.test /*"] != b.pools["a.test /*"] || again.pools["a.test /* mirror"] != b.pools["a.test /* mirror"] {
		t.Error("a reload without a change made a new pool")
	}
}

// TestHealthWithoutRequests: the health tree follows the checks of a backend,
// also after a reload, while nobody asks for anything.
func TestHealthWithoutRequests(t *testing.T) {
	var sick atomic.Bool
	sick.Store(true)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/h" && sick.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer s.Close()
	dir := t.TempDir()
	text := func(unhealthy int) string {
		return fmt.Sprintf(`data: %s
listen: {http: "127.0.0.1:0", https: ""}
admin: {listen: ""}
sites:
  - hosts: [a.test]
    routes:
      - upstream: %s
        health: {path: /h, interval: 100ms, healthy: 1, unhealthy: %d}
`, dir, s.Listener.Addr(), unhealthy)
	}
	p := start(t, text(2))
	shows := func(what string) {
		t.Helper()
		deadline := time.After(20 * time.Second)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			got := p.Health().Resolve().Text(time.Now())
			if strings.Contains(got, what) {
				return
			}
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatalf("want %q in\n%s", what, got)
			}
		}
	}
	shows("check /h: status 503, want 200-399")
	sick.Store(false)
	shows("1 backend")
	sick.Store(true)
	shows("check /h: status 503")
	p.write(text(3))
	if err := p.Reload(); err != nil {
		t.Fatal(err)
	}
	shows("check /h: status 503") // by a new pool
	sick.Store(false)
	shows("1 backend")
}

// A bound beyond what is counted is none: it does not turn into one that lets
// nobody in.
func TestRouteLimitOfManyRequests(t *testing.T) {
	b := &built{quotas: make(map[string]*sharedQuota), gates: make(map[string]*proxy.RouteGate)}
	var rt proxy.Route
	b.routeLimits(&rt, "a", &config.Config{}, &config.Route{Limits: &config.RouteLimits{Requests: math.MaxInt}}, nil)
	if rt.Gate == nil || rt.Gate.Most <= 0 {
		t.Errorf("%+v", rt.Gate)
	}
}
