package dnsapi

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// primary is a server that takes dynamic updates for example.org, signed with
// one key.
type primary struct {
	t    testing.TB
	addr string

	mu      sync.Mutex
	records []dns.RR
	rcode   int  // of updates; 0: they are carried out
	bare    bool // answers are not signed
}

const (
	tsigName   = "home."
	tsigSecret = "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IDEyMzQ="
)

func newPrimary(t testing.TB) *primary {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &primary{t: t, addr: l.Addr().String()}
	up := make(chan struct{})
	srv := &dns.Server{
		Listener: l, Handler: p, TsigSecret: map[string]string{tsigName: tsigSecret}, NotifyStartedFunc: func() { close(up) },
		MsgAcceptFunc: func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }, // the default refuses updates
	}
	done := make(chan struct{})
	go func() { // Cleanup waits for it
		defer close(done)
		_ = srv.ActivateAndServe()
	}()
	<-up
	t.Cleanup(func() {
		_ = srv.Shutdown()
		<-done
	})
	return p
}

// ServeDNS implements dns.Handler: RFC 2136 section 3, without prerequisites.
func (p *primary) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(r)
	tsig := r.IsTsig()
	switch {
	case tsig == nil || w.TsigStatus() != nil:
		m.Rcode = dns.RcodeNotAuth
		_ = w.WriteMsg(m)
		return
	case r.Opcode == dns.OpcodeQuery && r.Question[0].Qtype == dns.TypeSOA:
		soa, _ := dns.NewRR("example.org. 60 IN SOA ns1.example.org. h.example.org. 1 2 3 4 5")
		switch name := dns.CanonicalName(r.Question[0].Name); {
		case name == "example.org.":
			m.Answer = append(m.Answer, soa)
		case dns.IsSubDomain("example.org.", name):
			m.Rcode, m.Ns = dns.RcodeNameError, append(m.Ns, soa)
		default:
			m.Rcode = dns.RcodeRefused
		}
	case r.Opcode == dns.OpcodeUpdate && p.rcode != 0:
		m.Rcode = p.rcode
	case r.Opcode == dns.OpcodeUpdate && r.Question[0].Name == "example.org.":
		for _, rr := range r.Ns {
			p.apply(rr)
		}
	default:
		p.t.Errorf("unexpected message: %v", r)
	}
	if !p.bare {
		m.SetTsig(tsig.Hdr.Name, tsig.Algorithm, 300, time.Now().Unix())
	}
	_ = w.WriteMsg(m)
}

func (p *primary) apply(rr dns.RR) {
	same := func(x dns.RR) bool {
		return x.Header().Name == rr.Header().Name && x.Header().Rrtype == rr.Header().Rrtype
	}
	switch rr.Header().Class {
	case dns.ClassINET:
		if !slices.ContainsFunc(p.records, func(x dns.RR) bool { return dns.IsDuplicate(x, rr) }) {
			p.records = append(p.records, rr)
		}
	case dns.ClassNONE: // delete this record
		c := dns.Copy(rr)
		c.Header().Class = dns.ClassINET
		p.records = slices.DeleteFunc(p.records, func(x dns.RR) bool { return dns.IsDuplicate(x, c) })
	case dns.ClassANY: // delete the set
		p.records = slices.DeleteFunc(p.records, same)
	}
}

func (p *primary) have() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, rr := range p.records {
		out = append(out, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (p *primary) set(rcode int, bare bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rcode, p.bare = rcode, bare
}

func TestRFC2136(t *testing.T) {
	p := newPrimary(t)
	c := mustNew(t, "rfc2136", Settings{Key: "home", Secret: tsigSecret}, p.addr)
	ctx := t.Context()
	step := func(err error, want string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if got := p.have(); got != want {
			t.Fatalf("the server has %s, want %s", got, want)
		}
	}
	step(c.AddTXT(ctx, home, values1), quote(values1))
	step(c.AddTXT(ctx, home+".", values1), quote(values1))
	step(c.AddTXT(ctx, home, values2), quote(values1)+" "+quote(values2))
	step(c.RemoveTXT(ctx, home, values1), quote(values2))
	step(c.RemoveTXT(ctx, home, values2), "")
	addrs := c.(Addrs)
	v4, v6 := netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8::7")
	step(addrs.SetAddrs(ctx, "home.example.org", v4, v6), "2001:db8::7 203.0.113.7")
	step(addrs.SetAddrs(ctx, "home.example.org", v4.Next(), netip.Addr{}), "2001:db8::7 203.0.113.8")
	step(addrs.Probe(ctx, "home.example.org"), "2001:db8::7 203.0.113.8")
	step(addrs.ClearV6(ctx, "home.example.org", v4, v6.Next()), "2001:db8::7 203.0.113.8")
	step(addrs.ClearV6(ctx, "home.example.org", v4, v6), "203.0.113.8")
	step(addrs.ClearV6(ctx, "home.example.org", v4, v6), "203.0.113.8")
}

func TestRFC2136Refused(t *testing.T) {
	p := newPrimary(t)
	good := Settings{Key: "home", Secret: tsigSecret}
	for _, c := range []struct {
		name  string
		s     Settings
		rcode int
		bare  bool
		ask   string
		want  error
	}{
		{"wrong key", Settings{Key: "home", Secret: "d3Jvbmcgd3JvbmcgISE="}, 0, false, home, ErrRejected},
		{"unknown key", Settings{Key: "work", Secret: tsigSecret}, 0, false, home, ErrRejected},
		{"may not", good, dns.RcodeRefused, false, home, ErrRejected},
		{"broken", good, dns.RcodeServerFailure, false, home, ErrUnreachable},
		{"not signed", good, 0, true, home, ErrUnreachable},
		{"another zone", good, 0, false, "x.example.com", ErrRejected},
		{"outside the configured zone", Settings{Key: "home", Secret: tsigSecret, Zone: "example.net"}, 0, false, home, ErrRejected},
	} {
		t.Run(c.name, func(t *testing.T) {
			p.set(c.rcode, c.bare)
			err := mustNew(t, "rfc2136", c.s, p.addr).AddTXT(t.Context(), c.ask, values1)
			e, ok := errors.AsType[*Error](err)
			if !ok || !errors.Is(err, c.want) {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if strings.Contains(e.Error(), c.s.Secret) {
				t.Errorf("the error shows the key: %v", e)
			}
			t.Log(err)
		})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	expect(t, "nobody there", mustNew(t, "rfc2136", good, l.Addr().String()).AddTXT(t.Context(), home, values1), ErrUnreachable)
}
