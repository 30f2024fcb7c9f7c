package dnscheck

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/miekg/dns"
)

// message packs an answer to name and typ with records as in a zone file.
func message(t testing.TB, name, typ string, do func(*dns.Msg), records ...string) []byte {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), dns.StringToType[typ])
	m.Response, m.Authoritative = true, true
	for _, r := range records {
		rr, err := dns.NewRR(r)
		if err != nil {
			t.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	if do != nil {
		do(m)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func record(t testing.TB, text string) dns.RR {
	t.Helper()
	rr, err := dns.NewRR(text)
	if err != nil {
		t.Fatal(err)
	}
	return rr
}

func TestRead(t *testing.T) {
	t.Parallel()
	soa := record(t, "duckdns.org. 60 IN SOA ns1.duckdns.org. a.b. 1 2 3 4 5")
	zone := server{role: roleZone, zone: "duckdns.org", name: "ns1.duckdns.org", addr: "192.0.2.1:53"}
	for _, tc := range []struct {
		name string
		typ  string
		from server
		b    []byte
		want status
		text string
	}{
		{"address", "A", zone, message(t, home, "A", nil, home+". 60 IN A 192.0.2.7"), stOK, "192.0.2.7"},
		{"somebody else's address", "A", zone, message(t, home, "A", nil, "evil.example. 60 IN A 192.0.2.7"), stOK, "none, and no SOA with it"},
		{"none", "CAA", zone, message(t, home, "CAA", func(m *dns.Msg) { m.Ns = []dns.RR{soa} }), stOK, "none"},
		{"none without SOA", "CAA", zone, message(t, home, "CAA", nil), stOK, "none, and no SOA with it"},
		{"CAA", "CAA", zone, message(t, home, "CAA", nil, home+`. 60 IN CAA 128 issue "x; y=\"z"`), stOK, `128 issue "x; y=\"z"`},
		{"alias", "A", zone, message(t, home, "A", nil, home+". 60 IN CNAME a.example.", "a.example. 60 IN CNAME b.example.", "b.example. 60 IN A 192.0.2.7"), stOK, "alias of a.example, alias of b.example, 192.0.2.7"},
		{"alias in a circle", "A", zone, message(t, home, "A", nil, home+". 60 IN CNAME a.example.", "a.example. 60 IN CNAME "+home+"."), stOK, "alias of a.example, alias of home.duckdns.org, alias of a.example, alias of home.duckdns.org, alias of a.example, alias of home.duckdns.org, 2 more"},
		{"DNAME", "A", zone, message(t, home, "A", nil, "duckdns.org. 60 IN DNAME example.net.", home+". 0 IN CNAME home.example.net."), stOK, "alias of home.example.net"},
		{"no such name", "A", zone, message(t, home, "A", func(m *dns.Msg) { m.Rcode = 3; m.Ns = []dns.RR{soa} }), stNXDomain, "NXDOMAIN"},
		{"not authoritative", "A", zone, message(t, home, "A", func(m *dns.Msg) { m.Authoritative = false }, home+". 60 IN A 192.0.2.7"), stLame, "not authoritative"},
		{"from a resolver", "A", server{role: roleResolver}, message(t, home, "A", func(m *dns.Msg) { m.Authoritative = false }, home+". 60 IN A 192.0.2.7"), stOK, "192.0.2.7"},
		{"referral downwards", "NS", server{role: roleParent, zone: "org"}, message(t, home, "NS", func(m *dns.Msg) {
			m.Authoritative = false
			m.Ns = []dns.RR{record(t, "duckdns.org. 60 IN NS ns1.duckdns.org.")}
		}), stOK, "ns1.duckdns.org"},
		{"referral upwards", "NS", zone, message(t, home, "NS", func(m *dns.Msg) {
			m.Authoritative = false
			m.Ns = []dns.RR{record(t, ". 60 IN NS a.root-servers.net.")}
		}), stLame, "not authoritative"},
		{"referral elsewhere", "NS", zone, message(t, home, "NS", func(m *dns.Msg) {
			m.Authoritative = false
			m.Ns = []dns.RR{record(t, "evil.duckdns.org. 60 IN NS a.evil.")}
		}), stLame, "not authoritative"},
		{"SERVFAIL with a reason", "CAA", zone, message(t, home, "CAA", func(m *dns.Msg) {
			m.Rcode = dns.RcodeServerFailure
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: 22, ExtraText: "at\ndelegation"}}
		}), stServFail, `SERVFAIL (No Reachable Authority "at\ndelegation")`},
		{"odd rcode", "A", zone, message(t, home, "A", func(m *dns.Msg) { m.Rcode = 12 }), stRcode, "rcode 12"},
		{"cut", "A", zone, message(t, home, "A", func(m *dns.Msg) { m.Truncated = true }), stUnreadable, "unreadable answer"},
		{"a name that is none", "NS", zone, message(t, home, "NS", nil, home+`. 60 IN NS a\"b\010.example.`), stOK, `"a\\\"b\\010.example"`},
	} {
		m, err := parse(tc.b)
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		q := query{home, tc.typ}
		if !answers(m, q) {
			t.Errorf("%s: does not answer", tc.name)
		}
		a := answer{server: tc.from, query: q}
		a.read(m)
		if a.status != tc.want || a.result() != tc.text {
			t.Errorf("%s: got %d %q, want %d %q", tc.name, a.status, a.result(), tc.want, tc.text)
		}
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		do   func(*dns.Msg)
		want bool
	}{
		{"yes", nil, true},
		{"in other letters", func(m *dns.Msg) { m.Question[0].Name = "HOME.DuckDNS.org." }, true},
		{"a question", func(m *dns.Msg) { m.Response = false }, false},
		{"another name", func(m *dns.Msg) { m.Question[0].Name = "other.duckdns.org." }, false},
		{"another type", func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA }, false},
		{"no question", func(m *dns.Msg) { m.Question = nil }, false},
		{"an error without question", func(m *dns.Msg) { m.Question, m.Rcode = nil, dns.RcodeFormatError }, true},
		{"another opcode", func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, false},
	} {
		m, err := parse(message(t, home, "A", tc.do))
		if err != nil {
			t.Fatal(err)
		}
		if got := answers(m, query{home, "A"}); got != tc.want {
			t.Errorf("%s: got %v", tc.name, got)
		}
	}
}

// fitForLog fails on text that a line of a log or a terminal cannot take.
func fitForLog(t *testing.T, text string) {
	t.Helper()
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		t.Errorf("not fit for a log: %q", text)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(message(f, home, "A", nil, home+". 60 IN A 192.0.2.7"))
	f.Add(message(f, home, "CAA", nil, home+`. 60 IN CAA 0 issue "letsencrypt.org"`))
	f.Add(message(f, home, "NS", func(m *dns.Msg) {
		m.Authoritative = false
		m.Ns = []dns.RR{record(f, "duckdns.org. 60 IN NS ns1.duckdns.org.")}
		m.Extra = []dns.RR{record(f, "ns1.duckdns.org. 60 IN A 192.0.2.1")}
	}))
	f.Add(message(f, home, "A", nil, home+". 60 IN CNAME "+home+"."))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parse(b)
		if err != nil {
			return
		}
		for _, typ := range []string{"A", "AAAA", "CAA", "NS", "SOA", "TXT"} {
			for _, s := range []server{{role: roleZone, zone: "duckdns.org"}, {role: roleParent, zone: "org"}, {role: roleDoH, name: "https://a/"}} {
				q := query{home, typ}
				_ = answers(m, q)
				a := answer{server: s, query: q}
				a.read(m)
				if len(a.addrs)+len(a.caa) > maxRecords || len(a.ns) > maxServers || len(a.aliases) > maxAliases || len(a.glue) > maxServers+1 {
					t.Errorf("unbounded: %+v", a)
				}
				fd := a.finding()
				fitForLog(t, fd.Server+fd.Name+fd.Type+fd.Result)
				z := zone{ask: home, own: delegation{apex: "duckdns.org"}, parent: delegation{apex: "org"}}
				v := decide(&facts{q: Question{Name: home, CAs: []string{"letsencrypt.org"}}, zones: []zone{z}, answers: []answer{a}})
				fitForLog(t, v.Sentence)
			}
		}
	})
}

func FuzzDoHResponse(f *testing.F) {
	f.Add(200, dohType, message(f, home, "A", nil, home+". 60 IN A 192.0.2.7"))
	f.Add(200, dohType+"; charset=x", []byte{0, 0, 0x80})
	f.Add(302, "text/html", []byte("<html>"))
	f.Fuzz(func(t *testing.T, code int, kind string, body []byte) {
		m, err := readDoH(&http.Response{StatusCode: code, Header: http.Header{"Content-Type": {kind}}, Body: io.NopCloser(bytes.NewReader(body))})
		if (m == nil) == (err == nil) {
			t.Fatalf("message %v and error %v", m, err)
		}
		if m != nil && code != http.StatusOK {
			t.Errorf("status %d was taken for an answer", code)
		}
		if s, text := failure(err); err != nil && (s.answered() || strings.ContainsAny(text, "\r\n")) {
			t.Errorf("%v became %d %q", err, s, text)
		}
	})
}
