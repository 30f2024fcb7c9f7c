package dnscheck

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"postern/internal/testnet"
)

// What resolvers over HTTPS add to a check.
func TestDoH(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		do   func(*testing.T, *house, *testnet.DoH, *testnet.DNS)
		q    Question
		want string
	}{
		{"agrees", nil, Question{}, "green ok: DuckDNS's name servers answer (4 of 4)"},
		{"down", func(_ *testing.T, _ *house, d *testnet.DoH, _ *testnet.DNS) {
			d.SetFront(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusBadGateway); return true })
		}, Question{}, "green resolver_blocked: DOH does not answer here; the name's own servers do"},
		{"a captive portal", func(_ *testing.T, _ *house, d *testnet.DoH, _ *testnet.DNS) {
			d.SetFront(func(w http.ResponseWriter, _ *http.Request) bool {
				_, _ = io.WriteString(w, "<html>log in</html>")
				return true
			})
		}, Question{}, "green resolver_blocked: DOH does not answer here; the name's own servers do"},
		{"redirects", func(_ *testing.T, _ *house, d *testnet.DoH, _ *testnet.DNS) {
			d.SetFront(func(w http.ResponseWriter, r *http.Request) bool {
				http.Redirect(w, r, "https://192.0.2.1/", http.StatusFound)
				return true
			})
		}, Question{}, "green resolver_blocked: DOH does not answer here; the name's own servers do"},
		{"endless", func(_ *testing.T, _ *house, d *testnet.DoH, _ *testnet.DNS) {
			d.SetFront(func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Content-Type", dohType)
				_, _ = w.Write(make([]byte, 1<<20))
				return true
			})
		}, Question{}, "green resolver_blocked: DOH does not answer here; the name's own servers do"},
		{"another address", func(t *testing.T, _ *house, _ *testnet.DoH, behind *testnet.DNS) {
			behind.Answer(t, home+" 60 IN A 198.51.100.9")
		}, Question{}, "amber port53_intercepted: port 53 is intercepted on this network, or the address has just changed: DuckDNS's name servers say A is 203.0.113.7, resolvers over HTTPS say 198.51.100.9"},
		{"another address, which is ours", func(t *testing.T, h *house, _ *testnet.DoH, behind *testnet.DNS) {
			h.cfg.Own = own("198.51.100.9")
			behind.Answer(t, home+" 60 IN A 198.51.100.9")
		}, Question{}, "amber port53_intercepted: port 53 is intercepted on this network, or the address has just changed: DuckDNS's name servers say A is 203.0.113.7, resolvers over HTTPS say 198.51.100.9"},
		{"the address from before", func(t *testing.T, h *house, _ *testnet.DoH, behind *testnet.DNS) {
			h.cfg.Own = own("203.0.113.7")
			behind.Answer(t, home+" 60 IN A 198.51.100.9")
		}, Question{}, "green ok: DuckDNS's name servers answer (4 of 4)"},
		{"finds the servers when resolvers are blocked", func(_ *testing.T, h *house, _ *testnet.DoH, _ *testnet.DNS) {
			h.cfg.Resolvers = []string{"127.0.0.1:1"}
		}, Question{CAs: []string{"letsencrypt.org"}}, "green resolver_blocked: resolver 127.0.0.1:1 does not answer here; the name's own servers do"},
		{"sees through an interception", func(_ *testing.T, h *house, _ *testnet.DoH, _ *testnet.DNS) {
			h.lab.Add(home + ` 60 IN CAA 0 issue "ca.example"`)
			h.lab.Intercept(h.lab.NewResolver())
		}, Question{CAs: []string{"letsencrypt.org"}}, "red caa_forbids: CAA of home.duckdns.org forbids letsencrypt.org: it allows ca.example"},
		{"judges alone where port 53 is blocked", func(_ *testing.T, h *house, _ *testnet.DoH, behind *testnet.DNS) {
			h.cfg.AuthoritativePort, h.cfg.Resolvers = 1, []string{"127.0.0.1:1"}
			behind.SetFault(home, "CAA", testnet.ServFail)
		}, Question{}, "red caa_servfail: resolvers fail at CAA of home.duckdns.org (1 of 1 answered SERVFAIL)"},
		{"knows of no servers", func(_ *testing.T, h *house, _ *testnet.DoH, behind *testnet.DNS) {
			h.lab.Resolver.SetFault("*", "NS", testnet.Refused)
			behind.SetFault("*", "NS", testnet.Refused)
		}, Question{}, "amber ns_unknown: nobody says which name servers home.duckdns.org has"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			d, behind := h.doh(t)
			if tc.do != nil {
				tc.do(t, h, d, behind)
			}
			v := h.check(t, tc.q)
			if want := strings.ReplaceAll(tc.want, "DOH", d.URL); v.String() != want {
				t.Errorf("got  %s\nwant %s", v, want)
				dump(t, v)
			}
		})
	}
}

// The Checker's own client trusts the system, so a stranger's certificate is
// as good as no answer.
func TestDoHNeedsTrust(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	d, _ := h.doh(t)
	h.cfg.HTTP = nil
	if v := h.check(t, Question{}); v.Cause != ResolverBlocked || d.Asked() != 0 {
		t.Errorf("%s, asked %d times", v, d.Asked())
	}
}

// An alias is checked in both places: where it is, and where it points.
func TestAlias(t *testing.T) {
	t.Parallel()
	const mine = "www.example.net"
	le := []string{"letsencrypt.org"}
	for _, tc := range []struct {
		name string
		do   func(*testing.T, *house)
		q    Question
		want string
	}{
		{"all is well", nil, Question{CAs: le}, "green ok: the name servers of example.net answer (2 of 2)"},
		{"target gone", func(_ *testing.T, h *house) {
			for _, d := range h.duck {
				d.Remove(home, "A")
			}
		}, Question{}, "red a_missing: home.duckdns.org has no address: neither A nor AAAA"},
		{"target's servers silent", func(_ *testing.T, h *house) { breakServers(h.duck, 4, "*", "CAA", testnet.Drop) }, Question{CAs: le},
			"red caa_timeout: DuckDNS's name servers do not answer CAA of home.duckdns.org (4 of 4 timed out)"},
		{"CAA of the target counts", func(_ *testing.T, h *house) { h.lab.Add(home + ` 60 IN CAA 0 issue "ca.example"`) }, Question{CAs: le},
			"red caa_forbids: CAA of home.duckdns.org forbids letsencrypt.org: it allows ca.example"},
		{"CAA above the target does not", func(_ *testing.T, h *house) { h.lab.Add(`duckdns.org. 60 IN CAA 0 issue "ca.example"`) }, Question{CAs: le},
			"green ok: the name servers of example.net answer (2 of 2)"},
		{"CAA above the alias does", func(_ *testing.T, h *house) { h.lab.Add(`example.net. 60 IN CAA 0 issue "ca.example"`) }, Question{CAs: le},
			"red caa_forbids: CAA of example.net forbids letsencrypt.org: it allows ca.example"},
		{"wrong address", func(_ *testing.T, h *house) { h.cfg.Own = own("198.51.100.9") }, Question{},
			"red a_wrong: A points to 203.0.113.7, this house is 198.51.100.9"},
		{"dns-01 needs only the alias", func(_ *testing.T, h *house) {
			for _, d := range h.duck {
				d.Remove(home, "A")
			}
		}, Question{Challenge: "dns-01"}, "green ok: the name servers of example.net answer (2 of 2)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.lab.Zone("net", 1)
			h.lab.Zone("example.net", 2)
			h.lab.Add(mine + " 60 IN CNAME " + home + ".")
			if tc.do != nil {
				tc.do(t, h)
			}
			tc.q.Name = mine
			if v := h.check(t, tc.q); v.String() != tc.want {
				t.Errorf("got  %s\nwant %s", v, tc.want)
				dump(t, v)
			}
		})
	}
}

// A zone's servers are found through the zone above when resolvers cannot
// tell, because nobody at the zone answers them.
func TestReferral(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	breakServers(h.duck, 4, "*", "*", testnet.Drop)
	v := h.check(t, Question{})
	if want := "red ns_timeout: DuckDNS's name servers do not answer at all (4 of 4 timed out)"; v.String() != want {
		t.Errorf("got  %s\nwant %s", v, want)
		dump(t, v)
	}
}

// A check is over in 3 1/3 tries whatever hangs: each question has its own
// bound, so the sum of them does not matter.
func TestEndsByItself(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.cfg.Timeout = 50 * time.Millisecond
	d, _ := h.doh(t)
	release := make(chan struct{})
	defer close(release)
	d.SetFront(func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return true
	})
	h.lab.Resolver.SetFault("*", "*", testnet.Drop)
	breakServers(h.duck, 4, "*", "*", testnet.Drop)
	breakServers(h.tld, 2, "*", "*", testnet.Drop)
	if v := h.check(t, Question{}); v.Colour != Red || v.Cause != Offline {
		t.Error(v)
	}
}
