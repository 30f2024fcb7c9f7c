package testnet

import (
	"net"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// ask sends one question and returns the rcode, the answers and whether there
// was an answer at all.
func ask(t *testing.T, d *DNS, network, name, typ string) (*dns.Msg, bool) {
	t.Helper()
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), dns.StringToType[typ])
	c := &dns.Client{Net: network, Timeout: 300 * time.Millisecond}
	in, _, err := c.Exchange(q, d.Addr)
	if err != nil {
		if ne, ok := err.(net.Error); !ok || !ne.Timeout() {
			t.Fatalf("%s %s over %s: %v", name, typ, network, err)
		}
		return nil, false
	}
	return in, true
}

func TestDNSFaults(t *testing.T) {
	t.Parallel()
	d := NewDNS(t, "duck.example")
	d.Add(t, "home.duck.example. 60 IN A 192.0.2.7", `home.duck.example. 60 IN CAA 0 issue "letsencrypt.org"`)
	for _, tc := range []struct {
		fault   Fault
		answers bool
		rcode   int
	}{
		{NoFault, true, dns.RcodeSuccess},
		{Drop, false, 0},
		{ServFail, true, dns.RcodeServerFailure},
		{NotImp, true, dns.RcodeNotImplemented},
		{Refused, true, dns.RcodeRefused},
		{NXDomain, true, dns.RcodeNameError},
		{NoFault, true, dns.RcodeSuccess},
	} {
		d.SetFault("home.duck.example", "CAA", tc.fault)
		for _, network := range []string{"udp", "tcp"} {
			in, ok := ask(t, d, network, "HOME.duck.example", "CAA")
			if ok != tc.answers || ok && in.Rcode != tc.rcode {
				t.Errorf("fault %d over %s: answered %v %v", tc.fault, network, ok, in)
			}
			if in, ok := ask(t, d, network, "home.duck.example", "A"); !ok || len(in.Answer) != 1 {
				t.Errorf("fault %d on CAA also hits A over %s: %v", tc.fault, network, in)
			}
		}
	}
	d.SetFault("*", "*", Truncate)
	if in, _ := ask(t, d, "udp", "home.duck.example", "A"); !in.Truncated || len(in.Answer) != 0 {
		t.Errorf("truncated over udp: %v", in)
	}
	if in, _ := ask(t, d, "tcp", "home.duck.example", "A"); in.Truncated || len(in.Answer) != 1 {
		t.Errorf("whole over tcp: %v", in)
	}
	d.SetFault("*", "*", Delay)
	d.SetDelay(time.Millisecond)
	if in, ok := ask(t, d, "udp", "home.duck.example", "A"); !ok || len(in.Answer) != 1 {
		t.Errorf("late answer: %v", in)
	}
}

func TestDNSZone(t *testing.T) {
	t.Parallel()
	d := NewDNS(t, "duck.example")
	d.Add(t, "home.duck.example. 60 IN A 192.0.2.7")
	for _, tc := range []struct {
		name, typ      string
		rcode, answers int
		soa            bool
	}{
		{"duck.example", "SOA", 0, 1, false},
		{"duck.example", "NS", 0, 1, false},
		{"home.duck.example", "A", 0, 1, false},
		{"home.duck.example", "AAAA", 0, 0, true},
		{"gone.duck.example", "A", dns.RcodeNameError, 0, true},
		{"elsewhere.example", "A", dns.RcodeNameError, 0, false},
	} {
		in, _ := ask(t, d, "udp", tc.name, tc.typ)
		if in.Rcode != tc.rcode || len(in.Answer) != tc.answers || (len(in.Ns) == 1) != tc.soa {
			t.Errorf("%s %s:\n%v", tc.name, tc.typ, in)
		}
	}
	if n := d.Asked("home.duck.example", "A"); n != 1 {
		t.Errorf("asked %d times, want 1", n)
	}
	d.Remove("home.duck.example", "A")
	if in, _ := ask(t, d, "udp", "home.duck.example", "A"); len(in.Answer) != 0 {
		t.Errorf("removed record answered: %v", in)
	}
}

// The wording is Boulder's: what people see in their logs.
func TestCAAWords(t *testing.T) {
	t.Parallel()
	c := NewCA(t, CAOptions{CheckCAA: true, CAATimeout: time.Second})
	c.DNS.Add(t,
		`good.test.example. 60 IN CAA 0 issue "letsencrypt.org"`,
		`other.test.example. 60 IN CAA 0 issue "ca.example"`,
		`odd.test.example. 60 IN CAA 128 tbs "unknown"`,
	)
	c.DNS.SetFault("drop.test.example", "CAA", Drop)
	c.DNS.SetFault("fail.test.example", "CAA", ServFail)
	c.DNS.SetFault("parent.example", "CAA", Refused)
	var got []string
	for _, name := range []string{"fine.test.example", "good.test.example", "a.good.test.example", "other.test.example",
		"odd.test.example", "drop.test.example", "fail.test.example", "home.parent.example"} {
		words := "ok"
		if err := c.caa(t.Context(), name); err != nil {
			words = err.Error()
		}
		got = append(got, name+": "+words)
	}
	want := []string{
		"fine.test.example: ok",
		"good.test.example: ok",
		"a.good.test.example: ok",
		"other.test.example: CAA record for other.test.example prevents issuance",
		"odd.test.example: CAA record for odd.test.example prevents issuance",
		"drop.test.example: DNS problem: query timed out looking up CAA for drop.test.example",
		"fail.test.example: DNS problem: SERVFAIL looking up CAA for fail.test.example - the domain's nameservers may be malfunctioning",
		"home.parent.example: DNS problem: REFUSED looking up CAA for parent.example",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
}
