package dnsapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/internal/testnet"
)

// subject is one client and the fake of its API.
type subject struct {
	provider string
	settings Settings
	wrong    Settings // the same with credentials that the host refuses
	name     string   // a name in the zone
	stranger string   // a name in no zone; "": the host does not tell
	single   bool     // one value only
	keeps    bool     // cannot remove
}

// newHost is the fake of a subject's API, and where it is.
func newHost(t testing.TB, provider string) (*testnet.DNSHost, string) {
	t.Helper()
	h := testnet.NewDNSHost(t, testnet.DNSHostOptions{Provider: provider, Strict: true})
	return h, h.URL
}

func reply(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

const (
	goodToken = testnet.HostSecret
	badToken  = "tok-ffffffffffffffffffff"
	home      = "_acme-challenge.home.example.org"
	values1   = "LHDhK3oGRvkiefQnx7OOczTY5Tic_xZ6HcMOc_gmtoM"
	values2   = "Zk1GiL4RMeCJgBSgI5XG2P1PCuHWa0Q4mRqmDvkrW7k"
)

func subjects() []subject {
	token := Settings{Token: goodToken}
	wrong := Settings{Token: badToken}
	pair := Settings{Key: testnet.HostKey, Secret: goodToken}
	wrongPair := Settings{Key: testnet.HostKey, Secret: badToken}
	acme, wrongACME := pair, wrongPair
	acme.Subdomain, wrongACME.Subdomain = "8e5700ea-a4bf-41c7-8a77-e990661dcc6a", "8e5700ea-a4bf-41c7-8a77-e990661dcc6a"
	return []subject{
		{provider: "duckdns", settings: token, wrong: wrong, name: "_acme-challenge.home.duckdns.org", stranger: home, single: true},
		{provider: "desec", settings: token, wrong: wrong, name: "_acme-challenge.home.dedyn.io", stranger: "x.example.com"},
		{provider: "cloudflare", settings: token, wrong: wrong, name: home, stranger: "x.example.com"},
		{provider: "route53", settings: pair, wrong: wrongPair, name: home, stranger: "x.example.com"},
		{provider: "dynv6", settings: token, wrong: wrong, name: "_acme-challenge.home.dynv6.net", stranger: "x.example.com"},
		{provider: "porkbun", settings: pair, wrong: wrongPair, name: home, stranger: "x.example.com"},
		{provider: "gandi", settings: token, wrong: wrong, name: home, stranger: "x.example.com"},
		{provider: "hetzner", settings: token, wrong: wrong, name: home, stranger: "x.example.com"},
		{provider: "digitalocean", settings: token, wrong: wrong, name: home, stranger: "x.example.com"},
		{provider: "acme-dns", settings: acme, wrong: wrongACME, name: acme.Subdomain + ".auth.example.org", stranger: home, keeps: true},
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
			h, url := newHost(t, s.provider)
			p := mustNew(t, s.provider, s.settings, url)
			if p.Name() != s.provider {
				t.Errorf("name %q, want %q", p.Name(), s.provider)
			}
			step := func(what string, err error, want ...string) {
				t.Helper()
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				got := h.Get(s.name, "TXT")
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
			h, url := newHost(t, s.provider)
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
			if got := h.Get(s.name, "TXT"); len(got) != 2 {
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
			_, url := newHost(t, s.provider)
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

// outages are those of testnet, and answers that fit no document.
func outages() map[string]http.HandlerFunc {
	out := testnet.HostOutages()
	out["too long"] = func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, maxAnswer+100)) }
	out["wrong content"] = func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }
	return out
}

// TestUnreachable: what passes by itself.
func TestUnreachable(t *testing.T) {
	for _, s := range subjects() {
		t.Run(s.provider, func(t *testing.T) {
			t.Parallel()
			h, url := newHost(t, s.provider)
			for what, f := range outages() {
				if what == "wrong content" && s.provider == "acme-dns" {
					continue // it has nothing to read in a success
				}
				h.BreakWith(f)
				err := mustNew(t, s.provider, s.settings, url).AddTXT(t.Context(), s.name, values1)
				expect(t, what, err, ErrUnreachable)
			}
			h.BreakWith(testnet.HostHang)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			err := mustNew(t, s.provider, s.settings, url).AddTXT(ctx, s.name, values1)
			cancel()
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
			h, url := newHost(t, s.provider)
			h.BreakWith(func(w http.ResponseWriter, _ *http.Request) {
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
