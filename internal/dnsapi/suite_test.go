package dnsapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// host is the zone behind a fake API: sets of records by name and type.
type host struct {
	t testing.TB

	mu     sync.Mutex
	sets   map[string][]string
	ids    map[string]string // of a record: "name type value" by id
	last   int
	broken http.HandlerFunc // answers instead; nil: the API
	calls  []string
}

func (h *host) key(name, typ string) string { return canonical(name) + " " + typ }

func (h *host) get(name, typ string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.sets[h.key(name, typ)])
}

func (h *host) set(name, typ string, values []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(values) == 0 {
		delete(h.sets, h.key(name, typ))
		return
	}
	h.sets[h.key(name, typ)] = slices.Clone(values)
}

// add is for hosts that give each record an id.
func (h *host) add(name, typ, value string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last++
	id := fmt.Sprint(1000 + h.last)
	h.ids[id] = h.key(name, typ) + " " + value
	h.sets[h.key(name, typ)] = append(h.sets[h.key(name, typ)], value)
	return id
}

func (h *host) drop(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	rec, ok := h.ids[id]
	if !ok {
		return false
	}
	delete(h.ids, id)
	p := strings.SplitN(rec, " ", 3)
	k := p[0] + " " + p[1]
	if i := slices.Index(h.sets[k], p[2]); i >= 0 {
		h.sets[k] = slices.Delete(h.sets[k], i, i+1)
	}
	return true
}

// list returns id, name, type and value of records, in the order made.
func (h *host) list() (out [][4]string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, rec := range h.ids {
		p := strings.SplitN(rec, " ", 3)
		out = append(out, [4]string{id, p[0], p[1], p[2]})
	}
	slices.SortFunc(out, func(a, b [4]string) int { return strings.Compare(a[0], b[0]) })
	return out
}

func (h *host) breakWith(f http.HandlerFunc) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.broken = f
}

// unexpected fails loudly: the client asked for what the documents do not
// have.
func (h *host) unexpected(w http.ResponseWriter, r *http.Request) {
	h.t.Errorf("unexpected call: %s %s", r.Method, r.URL)
	http.Error(w, "unexpected", http.StatusTeapot)
}

// newHost serves api in front of an empty zone.
func newHost(t testing.TB, api func(h *host, w http.ResponseWriter, r *http.Request)) (*host, string) {
	t.Helper()
	h := &host{t: t, sets: map[string][]string{}, ids: map[string]string{}}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		broken := h.broken
		h.calls = append(h.calls, r.Method+" "+r.URL.Path)
		h.mu.Unlock()
		if broken != nil {
			broken(w, r)
			return
		}
		api(h, w, r)
	}))
	t.Cleanup(srv.Close)
	return h, srv.URL
}

func reply(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// subject is one client and the fake of its API.
type subject struct {
	provider string
	settings Settings
	wrong    Settings // the same with credentials that the host refuses
	name     string   // a name in the zone
	stranger string   // a name in no zone; "": the host does not tell
	single   bool     // one value only
	keeps    bool     // cannot remove
	api      func(h *host, w http.ResponseWriter, r *http.Request)
}

const (
	goodToken = "tok-3f9c8a7e5b6d4c2a91e0"
	badToken  = "tok-ffffffffffffffffffff"
	home      = "_acme-challenge.home.example.org"
	values1   = "LHDhK3oGRvkiefQnx7OOczTY5Tic_xZ6HcMOc_gmtoM"
	values2   = "Zk1GiL4RMeCJgBSgI5XG2P1PCuHWa0Q4mRqmDvkrW7k"
)

func subjects() []subject {
	token := Settings{Token: goodToken}
	wrong := Settings{Token: badToken}
	pair := Settings{Key: "pk1-name", Secret: goodToken}
	wrongPair := Settings{Key: "pk1-name", Secret: badToken}
	acme, wrongACME := pair, wrongPair
	acme.Subdomain, wrongACME.Subdomain = "8e5700ea-a4bf-41c7-8a77-e990661dcc6a", "8e5700ea-a4bf-41c7-8a77-e990661dcc6a"
	return []subject{
		{provider: "duckdns", settings: token, wrong: wrong, name: "_acme-challenge.home.duckdns.org", stranger: home, single: true, api: duckdnsAPI},
		{provider: "desec", settings: token, wrong: wrong, name: "_acme-challenge.home.dedyn.io", stranger: "x.example.com", api: desecAPI},
		{provider: "cloudflare", settings: token, wrong: wrong, name: home, stranger: "x.example.com", api: cloudflareAPI},
		{provider: "route53", settings: pair, wrong: wrongPair, name: home, stranger: "x.example.com", api: route53API},
		{provider: "dynv6", settings: token, wrong: wrong, name: "_acme-challenge.home.dynv6.net", stranger: "x.example.com", api: dynv6API},
		{provider: "porkbun", settings: pair, wrong: wrongPair, name: home, stranger: "x.example.com", api: porkbunAPI},
		{provider: "gandi", settings: token, wrong: wrong, name: home, stranger: "x.example.com", api: gandiAPI},
		{provider: "hetzner", settings: token, wrong: wrong, name: home, stranger: "x.example.com", api: hetznerAPI},
		{provider: "digitalocean", settings: token, wrong: wrong, name: home, stranger: "x.example.com", api: digitaloceanAPI},
		{provider: "acme-dns", settings: acme, wrong: wrongACME, name: acme.Subdomain + ".auth.example.org", stranger: home, keeps: true, api: acmednsAPI},
	}
}

func mustNew(t testing.TB, name string, s Settings, endpoint string) Provider {
	t.Helper()
	s.Endpoint = endpoint
	p, err := New(name, s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestTXT adds, repeats and removes values at every host.
func TestTXT(t *testing.T) {
	for _, s := range subjects() {
		t.Run(s.provider, func(t *testing.T) {
			t.Parallel()
			h, url := newHost(t, s.api)
			p := mustNew(t, s.provider, s.settings, url)
			if p.Name() != s.provider {
				t.Errorf("name %q, want %q", p.Name(), s.provider)
			}
			step := func(what string, err error, want ...string) {
				t.Helper()
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				got := h.get(s.name, "TXT")
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Fatalf("%s: the host has %q, want %q", what, got, want)
				}
			}
			ctx := t.Context()
			step("add", p.AddTXT(ctx, s.name, values1), values1)
			if (p.Slot(s.name) != "") != s.single {
				t.Errorf("slot %q", p.Slot(s.name))
			}
			switch {
			case s.single:
				step("add another", p.AddTXT(ctx, s.name, values2), values2)
				step("remove", p.RemoveTXT(ctx, s.name, values2))
				step("remove again", p.RemoveTXT(ctx, s.name, values2))
				return
			case s.keeps:
				step("remove", p.RemoveTXT(ctx, s.name, values1), values1)
				return
			}
			step("add again, with a dot", p.AddTXT(ctx, strings.ToUpper(s.name)+".", values1), values1)
			step("add another", p.AddTXT(ctx, s.name, values2), values1, values2)
			step("remove the first", p.RemoveTXT(ctx, s.name, values1), values2)
			step("remove it again", p.RemoveTXT(ctx, s.name, values1), values2)
			step("remove the last", p.RemoveTXT(ctx, s.name, values2))
			step("remove it again", p.RemoveTXT(ctx, s.name, values2))
		})
	}
}

// TestTogether: two certificates at once lose no value of each other's.
func TestTogether(t *testing.T) {
	for _, s := range subjects() {
		if s.single || s.keeps {
			continue
		}
		t.Run(s.provider, func(t *testing.T) {
			t.Parallel()
			h, url := newHost(t, s.api)
			p := mustNew(t, s.provider, s.settings, url)
			var wg sync.WaitGroup
			for _, v := range []string{values1, values2} {
				wg.Go(func() {
					if err := p.AddTXT(t.Context(), s.name, v); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if got := h.get(s.name, "TXT"); len(got) != 2 {
				t.Errorf("the host has %q, want both values", got)
			}
		})
	}
}

func expect(t *testing.T, what string, err, kind error) *Error {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok || !errors.Is(err, kind) {
		t.Fatalf("%s: %v, want an *Error that is %v", what, err, kind)
	}
	for _, k := range []error{ErrRejected, ErrLimited, ErrUnreachable} {
		if !errors.Is(k, kind) && errors.Is(err, k) {
			t.Errorf("%s: %v is %v too", what, err, k)
		}
	}
	for _, secret := range []string{goodToken, badToken} {
		if strings.Contains(fmt.Sprintf("%v %+v %#v", err, e.Detail, e.Means), secret) {
			t.Errorf("%s: the error shows the token: %v", what, err)
		}
		for u := error(e); u != nil; u = errors.Unwrap(u) {
			if strings.Contains(u.Error(), secret) {
				t.Errorf("%s: a cause shows the token: %v", what, u)
			}
		}
	}
	if strings.Contains(err.Error(), "://") {
		t.Errorf("%s: the error shows a URL: %v", what, err)
	}
	return e
}

// TestRejected: what a person has to change.
func TestRejected(t *testing.T) {
	for _, s := range subjects() {
		t.Run(s.provider, func(t *testing.T) {
			t.Parallel()
			_, url := newHost(t, s.api)
			p := mustNew(t, s.provider, s.wrong, url)
			err := p.AddTXT(t.Context(), s.name, values1)
			expect(t, "wrong token", err, ErrRejected)
			t.Log(err)
			if s.stranger == "" {
				return
			}
			p = mustNew(t, s.provider, s.settings, url)
			err = p.AddTXT(t.Context(), s.stranger, values1)
			expect(t, "name of somebody else", err, ErrRejected)
			t.Log(err)
		})
	}
}

const jetty = `<html><head><title>Error 404 Not Found</title></head><body><h2>HTTP ERROR 404</h2><hr>Powered by Jetty:// 9.4.31</body></html>`

// outages are the shapes seen in the wild, and what our own network adds.
func outages() map[string]http.HandlerFunc {
	html := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html;charset=utf-8")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	return map[string]http.HandlerFunc{
		"Jetty 404": html(404, jetty),
		"502":       html(502, "<html><body>Bad Gateway</body></html>"),
		"503 empty": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) },
		"500 JSON":  func(w http.ResponseWriter, _ *http.Request) { reply(w, 500, `{"message":"oops"}`) },
		"portal":    html(200, "<!DOCTYPE html><html>Welcome to the hotel</html>"),
		"firewall":  html(403, "<html>Sorry, you have been blocked</html>"),
		"404 text":  func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "404 page not found", http.StatusNotFound) },
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://example.org/", http.StatusFound)
		},
		"cut":           func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"too long":      func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, maxAnswer+100)) },
		"wrong content": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") },
	}
}

// TestUnreachable: what passes by itself.
func TestUnreachable(t *testing.T) {
	for _, s := range subjects() {
		t.Run(s.provider, func(t *testing.T) {
			t.Parallel()
			h, url := newHost(t, s.api)
			for what, f := range outages() {
				if what == "wrong content" && s.provider == "acme-dns" {
					continue // it has nothing to read in a success
				}
				h.breakWith(f)
				err := mustNew(t, s.provider, s.settings, url).AddTXT(t.Context(), s.name, values1)
				expect(t, what, err, ErrUnreachable)
			}
			release := make(chan struct{})
			h.breakWith(func(_ http.ResponseWriter, r *http.Request) {
				select {
				case <-release:
				case <-r.Context().Done():
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			err := mustNew(t, s.provider, s.settings, url).AddTXT(ctx, s.name, values1)
			cancel()
			close(release)
			expect(t, "hang", err, ErrUnreachable)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("hang: %v, want a deadline", err)
			}
			l := httptest.NewServer(nil)
			l.Close()
			expect(t, "nobody there", mustNew(t, s.provider, s.settings, l.URL).AddTXT(t.Context(), s.name, values1), ErrUnreachable)
		})
	}
}

// TestLimited keeps Retry-After.
func TestLimited(t *testing.T) {
	for _, s := range subjects() {
		t.Run(s.provider, func(t *testing.T) {
			t.Parallel()
			h, url := newHost(t, s.api)
			h.breakWith(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", "17")
				reply(w, http.StatusTooManyRequests, `{"detail":"Request was throttled for `+goodToken+`."}`)
			})
			e := expect(t, "429", mustNew(t, s.provider, s.settings, url).AddTXT(t.Context(), s.name, values1), ErrLimited)
			if e.RetryAfter != 17*time.Second {
				t.Errorf("retry after %v, want 17s", e.RetryAfter)
			}
		})
	}
}

// TestAddrs sets addresses where a host's client can.
func TestAddrs(t *testing.T) {
	v4, v6 := netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8::7")
	for _, s := range subjects() {
		_, url := newHost(t, s.api)
		if _, ok := mustNew(t, s.provider, s.settings, url).(Addrs); !ok {
			continue
		}
		t.Run(s.provider, func(t *testing.T) {
			t.Parallel()
			h, url := newHost(t, s.api)
			p := mustNew(t, s.provider, s.settings, url).(Addrs)
			name := strings.TrimPrefix(s.name, "_acme-challenge.")
			step := func(err error, want4, want6 string) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
				if got := strings.Join(h.get(name, "A"), ","); got != want4 {
					t.Errorf("A %q, want %q", got, want4)
				}
				if got := strings.Join(h.get(name, "AAAA"), ","); got != want6 {
					t.Errorf("AAAA %q, want %q", got, want6)
				}
			}
			step(p.SetAddrs(t.Context(), name, v4, netip.Addr{}), "203.0.113.7", "")
			step(p.SetAddrs(t.Context(), name, v4.Next(), v6), "203.0.113.8", "2001:db8::7")
			step(p.SetAddrs(t.Context(), name, netip.Addr{}, v6.Next()), "203.0.113.8", "2001:db8::8")
			step(p.SetAddrs(t.Context(), name, netip.Addr{}, netip.Addr{}), "203.0.113.8", "2001:db8::8")
			wrong := mustNew(t, s.provider, s.wrong, url).(Addrs)
			expect(t, "wrong token", wrong.SetAddrs(t.Context(), name, v4, v6), ErrRejected)
		})
	}
}
