package proxy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/internal/upstream"
)

// seen is a request as a backend got it.
func seen(r *http.Request) string {
	body, err := io.ReadAll(r.Body)
	names := []string{}
	for name, values := range r.Header {
		if name != "Connection" && name != "Te" {
			names = append(names, fmt.Sprintf("%s=%q", name, values))
		}
	}
	slices.Sort(names)
	return fmt.Sprintf("%s %s %s %d %q %v %s", r.Method, r.Host, r.RequestURI, r.ContentLength, body, err, strings.Join(names, " "))
}

// mirrored is a route to target whose copies go to the channel.
func mirrored(t testing.TB, target string, m *Mirror) (testSite, chan string) {
	got := make(chan string, 100)
	to := backend(t, func(w http.ResponseWriter, r *http.Request) {
		got <- seen(r)
		w.WriteHeader(http.StatusInternalServerError) // which nobody learns
		_, _ = io.WriteString(w, strings.Repeat("x", 1000))
	})
	m.Pool = pool(t, upstream.Config{Idle: 4 * time.Second}, to)
	site := proxyTo(t, target)
	site.Routes[0].Mirror = m
	site.Routes[0].Request = &Change{Set: []Field{{"X-Env", "home"}}, Remove: []string{"Cookie2"}}
	return site, got
}

// TestMirror: over each engine towards each kind of backend, a copy is what the
// route's own backend gets, the route's changes included, and its answer goes
// nowhere.
func TestMirror(t *testing.T) {
	for _, kind := range []string{"http/1.1", "h2c"} {
		main := make(chan string, 1)
		h := func(w http.ResponseWriter, r *http.Request) {
			main <- seen(r)
			_, _ = io.WriteString(w, "own")
		}
		target := ""
		if kind == "h2c" {
			target = h2cBackend(t, h)
		} else {
			target = backend(t, h)
		}
		t.Run(kind, func(t *testing.T) {
			for _, h2 := range []bool{false, true} {
				site, copies := mirrored(t, target, &Mirror{Percent: 100})
				r := start(t, options{sites: []testSite{site}})
				for _, method := range []string{"GET", "DELETE", "PUT", "POST"} {
					var body io.Reader
					if method == "PUT" && kind != "h2c" || method == "POST" {
						body = strings.NewReader("some content")
					}
					req := request(t, method, "https://a.test/a%2Fb/?q=1", body)
					req.Header["X-Env"], req.Header["Cookie2"], req.Header["X-Two"] = []string{"client"}, []string{"c"}, []string{"1", "2"}
					if res, got := do(t, r.httpClient(h2), req); res.StatusCode != 200 || got != "own" {
						t.Fatalf("%s: got %d %q", method, res.StatusCode, got)
					}
					want := <-main
					if method == "POST" {
						continue // may not be repeated
					}
					if got := receive(t, copies); got != want {
						t.Errorf("h2 %t: copy\n%s\nwant\n%s", h2, got, want)
					}
				}
				r.until("three copies are counted", func() bool {
					return r.metric("postern_mirrored_requests_total", "result", "sent") == 3
				})
				if len(copies) > 0 {
					t.Errorf("one more copy: %s", <-copies)
				}
			}
		})
	}
}

func receive[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case v := <-c:
		return v
	case <-timer.C:
		t.Fatalf("nothing within %v", patience)
		panic("unreachable")
	}
}

// TestMirrorShare: so many of a hundred, and bodies that are not at hand never.
func TestMirrorShare(t *testing.T) {
	overBoth(t, func(t *testing.T, h2 bool) {
		target := backend(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
		site, copies := mirrored(t, target, &Mirror{Percent: 30, All: true})
		r := start(t, options{sites: []testSite{site}})
		c := r.httpClient(h2)
		for range 20 {
			do(t, c, request(t, "GET", "https://a.test/", nil))
		}
		r.until("six copies are counted", func() bool {
			return r.metric("postern_mirrored_requests_total", "result", "sent") == 6 && len(copies) == 6
		})
		for range 10 {
			do(t, c, request(t, "POST", "https://a.test/", strings.NewReader(strings.Repeat("x", maxHeld+1))))
		}
		if n := r.metric("postern_mirrored_requests_total", "result", "skipped"); n != 3 || len(copies) != 6 {
			t.Errorf("%v large bodies skipped, want 3; %d copies", n, len(copies))
		}
	})
}

// TestMirrorHangs: a mirror that does not answer costs the requests nothing,
// takes a bounded share of memory, and does not hold up the end.
func TestMirrorHangs(t *testing.T) {
	overBoth(t, func(t *testing.T, h2 bool) {
		target := backend(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "own") })
		site := proxyTo(t, target)
		hung := make(chan struct{})
		to := backend(t, func(http.ResponseWriter, *http.Request) { <-hung })
		t.Cleanup(func() { close(hung) })
		site.Routes[0].Mirror = &Mirror{Pool: pool(t, upstream.Config{}, to), Percent: 100}
		r := start(t, options{sites: []testSite{site}})
		c := r.httpClient(h2)
		for range mostCopies + 7 {
			if _, got := do(t, c, request(t, "GET", "https://a.test/", nil)); got != "own" {
				t.Fatalf("got %q", got)
			}
		}
		if n := r.metric("postern_mirrored_requests_total", "result", "dropped"); n != 7 {
			t.Errorf("%v dropped, want 7", n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		r.shutdown(ctx)
		if n := r.metric("postern_mirrored_requests_total", "result", "failed"); n != mostCopies {
			t.Errorf("%v failed, want %d", n, mostCopies)
		}
	})
}

// A body that was held for its signature may be larger than what is copied.
func TestMirrorBoundsHeldBodies(t *testing.T) {
	r := start(t, options{sites: []testSite{proxyTo(t, backend(t, hello))}})
	x := exchange{s: r.srv, method: http.MethodPut}
	x.mirror(&Route{Mirror: &Mirror{Percent: 100}}, nil, make([]byte, maxHeld+1), true)
	if n := r.metric("postern_mirrored_requests_total", "result", "skipped"); n != 1 {
		t.Errorf("%v copies left out, want 1", n)
	}
}
