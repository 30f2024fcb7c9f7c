package dnscheck

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestNames(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for _, c := range Causes() {
		s := c.String()
		if s == "" || s == "unknown" || seen[s] || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
			t.Errorf("cause %d is %q", c, s)
		}
		seen[s] = true
	}
	if endOfCauses.String() != "unknown" || Green.String() != "green" || Amber.String() != "amber" || Red.String() != "red" || Colour(9).String() != "red" {
		t.Error("names of colours and causes")
	}
}

// Names that need no DNS, or are none.
func TestNoQuestion(t *testing.T) {
	t.Parallel()
	c := New(Config{Resolvers: []string{"127.0.0.1:1"}, AuthoritativePort: 1, Timeout: time.Second})
	for name, want := range map[string]string{
		"203.0.113.7":   "green ok: an address needs no DNS",
		"2001:db8::1":   "green ok: an address needs no DNS",
		"":              "red not_a_name: the name is empty, want a DNS name",
		"*.":            `red not_a_name: "*." is not a DNS name`,
		"a b.example":   `red not_a_name: "a b.example" is not a DNS name`,
		"a..example":    `red not_a_name: "a..example" is not a DNS name`,
		"x\n.example":   `red not_a_name: "x\n.example" is not a DNS name`,
		"a.*.b.example": `red not_a_name: "a.*.b.example" is not a DNS name`,
	} {
		if v := c.Check(context.Background(), Question{Name: name}); v.String() != want || v.At.IsZero() {
			t.Errorf("%q: got %s, want %s", name, v, want)
		}
	}
}

func TestNormal(t *testing.T) {
	t.Parallel()
	q, err := Question{Name: "*.Home.DuckDNS.org."}.normal()
	if err != nil || q.Name != home || !q.Wildcard {
		t.Errorf("got %+v, %v", q, err)
	}
	if got := ancestors(home); !slices.Equal(got, []string{home, "duckdns.org", "org"}) {
		t.Errorf("got %v", got)
	}
}

// lab facts: four servers, each with a status for each query.
func factsOf(q Question, statuses map[string][]status) *facts {
	f := &facts{q: q, zones: []zone{{ask: q.Name, own: someZone("example.org"), parent: someZone("org")}}}
	for _, typ := range []string{"A", "AAAA", "SOA", "CAA"} {
		for i, st := range statuses[typ] {
			name := "ns" + string(rune('1'+i)) + ".example.org"
			a := answer{server: server{role: roleZone, zone: "example.org", name: name}, query: query{q.Name, typ}, status: st, aa: true}
			if typ == "A" && st == stOK {
				a.addrs = []netip.Addr{netip.MustParseAddr("203.0.113.7")}
			}
			f.answers = append(f.answers, a)
		}
	}
	f.answers = append(f.answers, answer{server: server{role: roleParent, zone: "org", name: "a.org"}, query: query{"example.org", "NS"}, status: stOK, ns: []string{"x"}})
	return f
}

// The thresholds of the package comment, at both sides of each.
func TestThresholds(t *testing.T) {
	t.Parallel()
	ok, to, sf, no := stOK, stTimeout, stServFail, stNoRoute
	fine := []status{ok, ok, ok, ok}
	for _, tc := range []struct {
		name string
		caa  []status
		a    []status
		want string
	}{
		{"all", fine, fine, "green ok"},
		{"1 of 3 bad: 2/3 are good", []status{ok, ok, to}, []status{ok, ok, ok}, "green ns_partly_down"},
		{"2 of 4 bad", []status{ok, ok, to, sf}, fine, "amber ns_partly_down"},
		{"CAA: half is no majority", []status{ok, to}, []status{ok, ok}, "amber ns_partly_down"},
		{"CAA: 2 of 3", []status{ok, to, to}, []status{ok, ok, ok}, "red caa_timeout"},
		{"CAA: mixed, silence is half", []status{ok, to, sf}, []status{ok, ok, ok}, "red caa_timeout"},
		{"CAA: SERVFAIL prevails", []status{to, sf, sf}, []status{ok, ok, ok}, "red caa_servfail"},
		{"A: one good server is enough to be amber", fine, []status{ok, to, to, to}, "amber ns_partly_down"},
		{"A: none", fine, []status{to, to, to, sf}, "red a_timeout"},
		{"IPv6 servers without IPv6 do not count", []status{ok, no, no, no}, []status{ok, no, no, no}, "green ok"},
	} {
		f := factsOf(Question{Name: "example.org"}, map[string][]status{"A": tc.a, "AAAA": tc.a[:1], "SOA": tc.a[:1], "CAA": tc.caa})
		if v := decide(f); v.Colour.String()+" "+v.Cause.String() != tc.want {
			t.Errorf("%s: got %s, want %s", tc.name, v, tc.want)
		}
	}
}

// A server whose answers come at the second try is not good, but not dead.
func TestLate(t *testing.T) {
	t.Parallel()
	f := factsOf(Question{Name: "example.org"}, map[string][]status{"A": {stOK, stOK}, "CAA": {stOK, stOK}})
	for i := range f.answers {
		f.answers[i].late = f.answers[i].query.typ == "CAA"
	}
	if v := decide(f); v.Colour != Amber || v.Cause != NSPartlyDown {
		t.Error(v)
	}
}

// Several authorities: one that is allowed is enough, the others are named.
func TestForbids(t *testing.T) {
	t.Parallel()
	f := factsOf(Question{Name: "example.org", CAs: []string{"letsencrypt.org", "pki.goog"}}, map[string][]status{"A": {stOK}, "CAA": {stOK}})
	for i := range f.answers {
		if f.answers[i].query.typ == "CAA" {
			f.answers[i].caa = caaSet("0 issue pki.goog")
		}
	}
	if v := decide(f); v.Colour != Green || !slices.Equal(v.Forbids, []string{"letsencrypt.org"}) {
		t.Error(v, v.Forbids)
	}
}

// What IPv6-only servers say cannot be heard without IPv6.
func TestNoFamily(t *testing.T) {
	t.Parallel()
	f := factsOf(Question{Name: "example.org"}, map[string][]status{"A": {stNoRoute}, "CAA": {stNoRoute}, "SOA": {stNoRoute}})
	f.answers = append(f.answers,
		answer{server: server{role: roleDoH, name: "d"}, query: query{"example.org", "A"}, status: stOK, addrs: []netip.Addr{netip.MustParseAddr("203.0.113.7")}},
		answer{server: server{role: roleDoH, name: "d"}, query: query{"example.org", "CAA"}, status: stOK})
	if v := decide(f); v.Colour != Amber || v.Cause != NSUnknown || !strings.Contains(v.Sentence, "lacks IPv4 or IPv6") {
		t.Error(v)
	}
}

// A top-level domain that does not exist is fatal, as it is for Boulder; a
// private authority may know better.
func TestTopLevel(t *testing.T) {
	t.Parallel()
	f := &facts{q: Question{Name: "nas.lan"}, zones: []zone{{ask: "nas.lan"}}}
	r := server{role: roleResolver, name: "192.168.1.1:53"}
	doh := server{role: roleDoH, name: "https://9.9.9.9/dns-query"}
	f.answers = []answer{
		{server: r, query: query{"nas.lan", "A"}, status: stOK, addrs: []netip.Addr{netip.MustParseAddr("192.168.1.5")}},
		{server: doh, query: query{"nas.lan", "A"}, status: stNXDomain},
		{server: r, query: query{"lan", "CAA"}, status: stNXDomain},
		{server: doh, query: query{"lan", "CAA"}, status: stNXDomain},
	}
	if v := decide(f); v.Colour != Amber || v.Cause != NSUnknown {
		t.Error(v)
	}
	f.q.CAs = []string{"letsencrypt.org"}
	if v := decide(f); v.Colour != Red || v.Sentence != "the top-level domain lan does not exist" {
		t.Error(v)
	}
}

func TestSystemResolvers(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "resolv.conf")
	text := "search lan\nnameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver rubbish\noptions edns0\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := systemResolvers(file), []string{"192.0.2.1:53", "[2001:db8::1]:53"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := systemResolvers(file + "x"); got != nil {
		t.Errorf("got %v without a file", got)
	}
}
