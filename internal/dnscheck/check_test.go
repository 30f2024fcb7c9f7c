package dnscheck

import (
	"context"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/internal/testnet"
)

// house is DuckDNS in a lab: org above it with two servers, four of its own.
type house struct {
	lab  *testnet.Lab
	tld  []*testnet.DNS
	duck []*testnet.DNS
	cfg  Config
}

const home = "home.duckdns.org"

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{lab: testnet.NewLab(t)}
	h.tld = h.lab.Zone("org", 2)
	h.duck = h.lab.Zone("duckdns.org", 4)
	h.lab.Add(home + " 60 IN A 203.0.113.7")
	h.cfg = Config{
		Resolvers: []string{h.lab.Resolver.Addr}, AuthoritativePort: h.lab.Port,
		Timeout: 700 * time.Millisecond,
	}
	return h
}

// doh adds a resolver over HTTPS and its own DNS, which says the same as the
// lab's resolver until told otherwise.
func (h *house) doh(t *testing.T) (*testnet.DoH, *testnet.DNS) {
	t.Helper()
	behind := h.lab.NewResolver()
	d := testnet.NewDoH(t, behind)
	h.cfg.DoH, h.cfg.HTTP = append(h.cfg.DoH, d.URL), d.Client
	return d, behind
}

func (h *house) check(t *testing.T, q Question) Verdict {
	t.Helper()
	if q.Name == "" {
		q.Name = home
	}
	return New(h.cfg).Check(t.Context(), q)
}

// breakServers sets a fault at the first n servers.
func breakServers(servers []*testnet.DNS, n int, name, typ string, f testnet.Fault) {
	for _, d := range servers[:n] {
		d.SetFault(name, typ, f)
	}
}

func own(addrs ...string) func() []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		out = append(out, netip.MustParseAddr(a))
	}
	return func() []netip.Addr { return out }
}

func (v Verdict) String() string {
	var b strings.Builder
	b.WriteString(v.Colour.String() + " " + v.Cause.String() + ": " + v.Sentence)
	return b.String()
}

func dump(t *testing.T, v Verdict) {
	t.Helper()
	for _, f := range v.Findings {
		t.Logf("%-28s %-28s %-5s %v bad=%v %s", f.Server, f.Name, f.Type, f.RTT.Round(time.Millisecond), f.Bad, f.Result)
	}
}

// TestSentences breaks exactly one thing and reads what people are told.
func TestSentences(t *testing.T) {
	t.Parallel()
	le := []string{"letsencrypt.org"}
	for _, tc := range []struct {
		name string
		do   func(*testing.T, *house)
		q    Question
		want string
	}{
		{"all is well", nil, Question{CAs: le, Challenge: "http-01"},
			"green ok: DuckDNS's name servers answer (4 of 4)"},
		{"the incident", func(_ *testing.T, h *house) { breakServers(h.duck, 4, home, "CAA", testnet.Drop) }, Question{},
			"red caa_timeout: DuckDNS's name servers do not answer CAA (4 of 4 timed out)"},
		{"the incident, in part", func(_ *testing.T, h *house) { breakServers(h.duck, 3, home, "CAA", testnet.Drop) }, Question{},
			"red caa_timeout: DuckDNS's name servers do not answer CAA (3 of 4 timed out)"},
		{"CAA of the zone", func(_ *testing.T, h *house) { breakServers(h.duck, 4, "duckdns.org", "CAA", testnet.Drop) }, Question{},
			"red caa_timeout: DuckDNS's name servers do not answer CAA of duckdns.org (4 of 4 timed out)"},
		{"CAA at half of them", func(_ *testing.T, h *house) { breakServers(h.duck, 2, home, "CAA", testnet.Drop) }, Question{},
			"amber ns_partly_down: DuckDNS's name servers are partly down (2 of 4 timed out; CAA of home.duckdns.org at ns1.duckdns.org)"},
		{"one of four is down", func(_ *testing.T, h *house) { breakServers(h.duck, 1, "*", "*", testnet.Drop) }, Question{},
			"green ns_partly_down: DuckDNS's name servers are partly down (1 of 4 timed out; A of home.duckdns.org at ns1.duckdns.org)"},
		{"CAA SERVFAIL", func(_ *testing.T, h *house) { breakServers(h.duck, 4, home, "CAA", testnet.ServFail) }, Question{},
			"red caa_servfail: DuckDNS's name servers fail at CAA (4 of 4 answered SERVFAIL)"},
		{"CAA NOTIMP", func(_ *testing.T, h *house) { breakServers(h.duck, 4, home, "CAA", testnet.NotImp) }, Question{},
			"red caa_error: DuckDNS's name servers refuse CAA (4 of 4 answered NOTIMP)"},
		{"CAA of the top-level domain", func(_ *testing.T, h *house) { breakServers(h.tld, 2, "org", "CAA", testnet.ServFail) }, Question{},
			"red caa_servfail: resolvers fail at CAA of org (1 of 1 answered SERVFAIL)"},
		{"CAA records below end the climb", func(_ *testing.T, h *house) {
			h.lab.Add("duckdns.org. 60 IN CAA 0 issue \"letsencrypt.org\"")
			breakServers(h.tld, 2, "org", "CAA", testnet.ServFail)
		}, Question{CAs: le}, "green ok: DuckDNS's name servers answer (4 of 4)"},
		{"CAA forbids", func(_ *testing.T, h *house) {
			h.lab.Add("duckdns.org. 60 IN CAA 0 issue \"ca.example\"", "duckdns.org. 60 IN CAA 0 issue \"pki.goog; cansignhttpexchanges=yes\"")
		}, Question{CAs: le}, "red caa_forbids: CAA of duckdns.org forbids letsencrypt.org: it allows ca.example, pki.goog"},
		{"CAA allows nobody", func(_ *testing.T, h *house) { h.lab.Add(home + " 60 IN CAA 0 issue \";\"") }, Question{CAs: le},
			"red caa_forbids: CAA of home.duckdns.org forbids letsencrypt.org: it allows nobody"},
		{"CAA at one server only", func(t *testing.T, h *house) { h.duck[2].Add(t, home+" 60 IN CAA 0 issue \"ca.example\"") }, Question{CAs: le},
			"amber caa_forbids: CAA of home.duckdns.org forbids letsencrypt.org: it allows ca.example (so say 1 of 4 servers)"},
		{"CAA by another method", func(_ *testing.T, h *house) {
			h.lab.Add(home + " 60 IN CAA 0 issue \"letsencrypt.org; validationmethods=dns-01\"")
		}, Question{CAs: le, Challenge: "http-01"},
			"red caa_forbids: CAA of home.duckdns.org allows letsencrypt.org only by \"dns-01\""},
		{"CAA critical", func(_ *testing.T, h *house) { h.lab.Add(home + " 60 IN CAA 128 tbs \"x\"") }, Question{CAs: le},
			"red caa_forbids: CAA of home.duckdns.org holds the critical property \"tbs\", which no authority may pass over"},
		{"wrong A", func(_ *testing.T, h *house) { h.cfg.Own = own("198.51.100.9") }, Question{},
			"red a_wrong: A points to 203.0.113.7, this house is 198.51.100.9"},
		{"A is ours", func(_ *testing.T, h *house) { h.cfg.Own = own("203.0.113.7") }, Question{},
			"green ok: DuckDNS's name servers answer (4 of 4)"},
		{"wrong A at one", func(t *testing.T, h *house) {
			h.cfg.Own = own("203.0.113.7")
			h.duck[0].Remove(home, "A")
			h.duck[0].Add(t, home+" 60 IN A 192.0.2.1")
		}, Question{}, "amber a_wrong: A points to 192.0.2.1, this house is 203.0.113.7 (at 1 of 4 servers)"},
		{"servers disagree", func(t *testing.T, h *house) {
			h.duck[0].Remove(home, "A")
			h.duck[0].Add(t, home+" 60 IN A 192.0.2.1")
		}, Question{}, "amber ns_disagree: DuckDNS's name servers disagree on A: ns1.duckdns.org says 192.0.2.1, ns2.duckdns.org says 203.0.113.7"},
		{"stale AAAA", func(_ *testing.T, h *house) {
			h.lab.Add(home + " 60 IN AAAA 2001:db8::7")
			h.cfg.Own = own("203.0.113.7", "2001:db8::1")
		}, Question{}, "red aaaa_stale: AAAA is stale: it points to 2001:db8::7, this house is 2001:db8::1"},
		{"AAAA without IPv6", func(_ *testing.T, h *house) {
			h.lab.Add(home + " 60 IN AAAA 2001:db8::7")
			h.cfg.Own = own("203.0.113.7")
		}, Question{}, "red aaaa_stale: AAAA is stale: it points to 2001:db8::7, this house has no IPv6 address but 203.0.113.7"},
		{"no address", func(_ *testing.T, h *house) {
			for _, d := range h.duck {
				d.Remove(home, "A")
			}
		}, Question{}, "red a_missing: home.duckdns.org has no address: neither A nor AAAA"},
		{"A silent", func(_ *testing.T, h *house) { breakServers(h.duck, 4, home, "A", testnet.Drop) }, Question{},
			"red a_timeout: DuckDNS's name servers do not answer A (4 of 4 timed out)"},
		{"A SERVFAIL", func(_ *testing.T, h *house) { breakServers(h.duck, 4, home, "A", testnet.ServFail) }, Question{},
			"red a_error: DuckDNS's name servers fail at A (4 of 4 answered SERVFAIL)"},
		{"AAAA silent", func(_ *testing.T, h *house) { breakServers(h.duck, 4, home, "AAAA", testnet.Drop) }, Question{},
			"red aaaa_timeout: DuckDNS's name servers do not answer AAAA (4 of 4 timed out)"},
		{"AAAA refused", func(_ *testing.T, h *house) { breakServers(h.duck, 4, home, "AAAA", testnet.Refused) }, Question{},
			"red aaaa_error: DuckDNS's name servers refuse AAAA (4 of 4 answered REFUSED)"},
		{"SOA silent", func(_ *testing.T, h *house) { breakServers(h.duck, 4, "duckdns.org", "SOA", testnet.Drop) }, Question{},
			"red soa_timeout: DuckDNS's name servers do not answer SOA (4 of 4 timed out)"},
		{"SOA SERVFAIL", func(_ *testing.T, h *house) { breakServers(h.duck, 4, "duckdns.org", "SOA", testnet.ServFail) }, Question{},
			"red soa_error: DuckDNS's name servers fail at SOA (4 of 4 answered SERVFAIL)"},
		{"no SOA with no records", func(_ *testing.T, h *house) { breakServers(h.duck, 4, home, "CAA", testnet.NoSOA) }, Question{},
			"amber soa_missing: DuckDNS's name servers say that there is no CAA without the SOA that belongs to it (4 of 4), which some resolvers take for a failure"},
		{"no such name", nil, Question{Name: "gone.duckdns.org"},
			"red nxdomain: gone.duckdns.org does not exist, say DuckDNS's name servers"},
		{"all servers silent", func(_ *testing.T, h *house) { breakServers(h.duck, 4, "*", "*", testnet.Drop) }, Question{},
			"red ns_timeout: DuckDNS's name servers do not answer at all (4 of 4 timed out)"},
		{"all servers fail", func(_ *testing.T, h *house) { breakServers(h.duck, 4, "*", "*", testnet.ServFail) }, Question{},
			"red ns_error: DuckDNS's name servers fail at everything (4 of 4 answered SERVFAIL)"},
		{"all servers lame", func(_ *testing.T, h *house) { breakServers(h.duck, 4, "*", "*", testnet.Lame) }, Question{},
			"red lame: DuckDNS's name servers do not know the zone duckdns.org (4 of 4 are not authoritative)"},
		{"all servers refuse", func(_ *testing.T, h *house) { breakServers(h.duck, 4, "*", "*", testnet.Refused) }, Question{},
			"red lame: DuckDNS's name servers do not know the zone duckdns.org (4 of 4 answered REFUSED)"},
		{"garbage", func(_ *testing.T, h *house) { breakServers(h.duck, 4, home, "CAA", testnet.Garbage) }, Question{},
			"red caa_timeout: DuckDNS's name servers do not answer CAA (4 of 4 answered unreadably)"},
		{"truncated", func(_ *testing.T, h *house) { breakServers(h.duck, 4, "*", "*", testnet.Truncate) }, Question{},
			"green ok: DuckDNS's name servers answer (4 of 4)"},
		{"no EDNS", func(_ *testing.T, h *house) { breakServers(h.duck, 4, "*", "*", testnet.FormErr) }, Question{},
			"green ok: DuckDNS's name servers answer (4 of 4)"},
		{"TCP only", func(_ *testing.T, h *house) { breakServers(h.duck, 4, "*", "*", testnet.DropUDP) }, Question{},
			"amber ns_partly_down: DuckDNS's name servers are partly down (4 of 4 answered late or in part; A of home.duckdns.org at ns1.duckdns.org)"},
		{"slow", func(_ *testing.T, h *house) {
			for _, d := range h.duck {
				d.SetDelay(time.Minute)
			}
			breakServers(h.duck, 4, home, "CAA", testnet.Delay)
		}, Question{}, "red caa_timeout: DuckDNS's name servers do not answer CAA (4 of 4 timed out)"},
		{"parents silent", func(_ *testing.T, h *house) { breakServers(h.tld, 2, "duckdns.org", "NS", testnet.Drop) }, Question{},
			"amber parent_timeout: the name servers of org do not say where duckdns.org is (2 of 2 timed out)"},
		{"expired", func(_ *testing.T, h *house) { h.lab.Expire("duckdns.org") }, Question{},
			"red not_delegated: the name servers of org know nothing of duckdns.org: the name has expired or was given up"},
		{"resolver blocked", func(_ *testing.T, h *house) { h.cfg.Resolvers = append(h.cfg.Resolvers, "127.0.0.1:1") }, Question{},
			"green resolver_blocked: resolver 127.0.0.1:1 does not answer here; the name's own servers do"},
		{"resolvers fail", func(_ *testing.T, h *house) { h.lab.Resolver.SetFault(home, "CAA", testnet.ServFail) }, Question{},
			"amber resolver_fails: resolvers answer CAA of home.duckdns.org with SERVFAIL although DuckDNS's name servers answer: either DNSSEC of the zone is broken, or they have not noticed a recovery yet (1 of 1 answered SERVFAIL)"},
		{"port 53 intercepted", func(_ *testing.T, h *house) {
			h.lab.Intercept(h.lab.NewResolver())
		}, Question{}, "amber port53_intercepted: port 53 is intercepted on this network: a resolver answers in place of the authoritative servers"},
		{"port 53 blocked", func(_ *testing.T, h *house) { h.cfg.AuthoritativePort = 1 }, Question{},
			"amber port53_blocked: this network lets no question through to port 53 of other servers; only resolvers could be asked"},
		{"offline", func(_ *testing.T, h *house) { h.cfg.AuthoritativePort, h.cfg.Resolvers = 1, []string{"127.0.0.1:1"} }, Question{},
			"red offline: no DNS server answers from here, neither resolvers nor the name's own; the Internet connection may be down"},
		{"TXT SERVFAIL", func(_ *testing.T, h *house) {
			breakServers(h.duck, 4, "_acme-challenge."+home, "TXT", testnet.ServFail)
		}, Question{Challenge: "dns-01"},
			"red txt_error: DuckDNS's name servers fail at TXT of _acme-challenge.home.duckdns.org (4 of 4 answered SERVFAIL)"},
		{"TXT silent", func(_ *testing.T, h *house) { breakServers(h.duck, 4, "_acme-challenge."+home, "TXT", testnet.Drop) }, Question{Challenge: "dns-01"},
			"red txt_timeout: DuckDNS's name servers do not answer TXT of _acme-challenge.home.duckdns.org (4 of 4 timed out)"},
		{"A does not matter to dns-01", func(_ *testing.T, h *house) {
			h.cfg.Own = own("198.51.100.9")
			breakServers(h.duck, 4, home, "AAAA", testnet.Drop)
		}, Question{Challenge: "dns-01", Wildcard: true}, "green ok: DuckDNS's name servers answer (4 of 4)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			if tc.do != nil {
				tc.do(t, h)
			}
			if v := h.check(t, tc.q); v.String() != tc.want {
				t.Errorf("got  %s\nwant %s", v, tc.want)
				dump(t, v)
			}
		})
	}
}

// A check ends with its context, and says so when that was cancelled.
func TestCancelled(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.cfg.Timeout = time.Hour
	breakServers(h.duck, 4, "*", "*", testnet.Drop)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan Verdict)
	go func() { done <- New(h.cfg).Check(ctx, Question{Name: home}) }()
	for h.duck[0].Asked(home, "CAA") == 0 {
		select {
		case v := <-done:
			t.Fatal(v)
		default:
		}
	}
	cancel()
	if v := <-done; v.Cause != Unfinished || v.Colour != Red {
		t.Error(v)
	}
}

// The servers that worked last are asked when nobody tells any.
func TestMemory(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.cfg.File = filepath.Join(t.TempDir(), "dns.json")
	if v := h.check(t, Question{}); v.Colour != Green {
		t.Fatal(v)
	}
	h.cfg.Resolvers = []string{"127.0.0.1:1"} // and a new process
	if v := h.check(t, Question{}); v.Colour != Green || v.Cause != ResolverBlocked {
		t.Error(v)
	}
	breakServers(h.duck, 4, "*", "*", testnet.Drop)
	want := "red ns_timeout: DuckDNS's name servers do not answer at all (4 of 4 timed out); these are the ones that worked last, nobody tells others"
	if v := h.check(t, Question{}); v.String() != want {
		t.Errorf("got  %s\nwant %s", v, want)
	}
	h.cfg.File = ""
	if v := h.check(t, Question{}); v.Cause != Offline {
		t.Error(v)
	}
}
