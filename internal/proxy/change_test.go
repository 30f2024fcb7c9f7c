package proxy

import (
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"postern/internal/upstream"
)

// TestChange: over each engine towards each kind of backend, a route's changes
// reach the backend and the client, and no spelling of a field or a trailer
// gets round them.
func TestChange(t *testing.T) {
	for _, kind := range []string{"http/1.1", "h2c"} {
		h := func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // the trailers follow
			for _, name := range []string{"X-Env", "x_env", "X_ENV", "Cookie2"} {
				for _, v := range append(r.Header.Values(name), r.Header[name]...) {
					w.Header().Add("Got", name+"="+v)
				}
			}
			for name, values := range r.Trailer {
				if len(values) == 0 {
					continue // announced, and not sent
				}
				w.Header().Add("Got", "trailer "+name)
			}
			w.Header().Set("Server", "secret/1.0")
			w.Header().Set("X-Frame-Options", "ALLOWALL")
			w.Header().Set("X-Other", "stays")
		}
		target := backend(t, h)
		if kind == "h2c" {
			target = h2cBackend(t, h)
		}
		t.Run(kind, func(t *testing.T) {
			overBoth(t, func(t *testing.T, h2 bool) {
				site := proxyTo(t, target)
				site.Routes[0].Request = &Change{Set: []Field{{"X-Env", "home"}}, Remove: []string{"Cookie2"}}
				site.Routes[0].Response = &Change{Set: []Field{{"X-Frame-Options", "DENY"}}, Remove: []string{"server"}}
				r := start(t, options{sites: []testSite{site}})
				req := request(t, "POST", "https://a.test/", io.MultiReader(strings.NewReader("body")))
				req.Header["X-Env"] = []string{"client"}
				req.Header["X_ENV"] = []string{"client"}
				req.Header["Cookie2"] = []string{"client"}
				req.Trailer = http.Header{"X-Env": {"client"}}
				res, _ := do(t, r.httpClient(h2), req)
				got := strings.Join(res.Header["Got"], "; ")
				if got != "X-Env=home; X-Env=home" { // by both ways to look
					t.Errorf("the backend got %q", got)
				}
				for name, want := range map[string]string{"Server": "", "X-Frame-Options": "DENY", "X-Other": "stays"} {
					if got := strings.Join(res.Header[name], ", "); got != want {
						t.Errorf("%s: %q, want %q", name, got, want)
					}
				}
			})
		})
	}
}

func TestBalanceKey(t *testing.T) {
	client := netip.MustParseAddr("192.0.2.7")
	a16 := client.As16()
	address := upstream.Key(a16[:])
	for _, tt := range []struct {
		name   string
		by     *HashBy
		fields http.Header
		want   uint64
	}{
		{"not by hash", nil, nil, 0},
		{"address", &HashBy{}, nil, address},
		{"header", &HashBy{Header: "X-User"}, http.Header{"X-User": {"ann"}}, upstream.Key("ann")},
		{"no header", &HashBy{Header: "X-User"}, nil, address},
		{"cookie", &HashBy{Cookie: "sid"}, http.Header{"Cookie": {"a=b; sid=7; c=d"}}, upstream.Key("7")},
		{"cookie in a second field", &HashBy{Cookie: "sid"}, http.Header{"Cookie": {"a=b", "sid=7"}}, upstream.Key("7")},
		{"another cookie that ends like it", &HashBy{Cookie: "sid"}, http.Header{"Cookie": {"xsid=7"}}, address},
	} {
		x := &exchange{client: client, msg: &stdMessage{r: &http.Request{Header: tt.fields}}}
		if got := x.balanceKey(&Route{HashBy: tt.by}); got != tt.want {
			t.Errorf("%s: %x, want %x", tt.name, got, tt.want)
		}
	}
}
