package dnscheck

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// Seen is what a name's authoritative servers say about one value of a record.
type Seen struct {
	With    int      // servers that have the value
	Without []string // servers that answer without it, for people: "ns1.example.org (192.0.2.1): no TXT record"
	Silent  []string // servers that give no answer that counts, and what became of it
}

// SeeTXT asks every authoritative server of name's zone whether name has a TXT
// record with value, past every cache. name must not be an alias: see Alias.
// It ends within the time of a check. The error says that no server of the
// zone can be found.
func (c *Checker) SeeTXT(ctx context.Context, name, value string) (Seen, error) {
	return c.see(ctx, query{canonical(name), "TXT"}, func(rrs []dns.RR) string { return judgeTXT(rrs, value) })
}

// SeeAddr asks every authoritative server of name's zone whether addr is the
// only address of its family that name has. Otherwise it is as SeeTXT.
func (c *Checker) SeeAddr(ctx context.Context, name string, addr netip.Addr) (Seen, error) {
	typ := "A"
	if addr.Is6() {
		typ = "AAAA"
	}
	return c.see(ctx, query{canonical(name), typ}, func(rrs []dns.RR) string { return judgeAddr(rrs, typ, addr) })
}

// see asks every server of the zone that q.name is in. judge says what is
// wrong with the records that one has for the name, "" if nothing.
func (c *Checker) see(ctx context.Context, q query, judge func([]dns.RR) string) (Seen, error) {
	ctx, cancel := context.WithTimeout(ctx, 4*c.cfg.Timeout)
	defer cancel()
	z := c.zoneOf(ctx, q.name, c.resolvers())
	servers := serversToAsk(roleZone, z.own, c.cfg.AuthoritativePort)
	if len(servers) == 0 {
		return Seen{}, fmt.Errorf("%s: no resolver tells the name servers of its zone", q.name)
	}
	said := make([]string, len(servers))
	kinds := make([]int, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() { kinds[i], said[i] = c.seeAt(ctx, s, q, judge) })
	}
	wg.Wait()
	var out Seen
	for i, s := range servers {
		switch kinds[i] {
		case seenHas:
			out.With++
		case seenHasNot:
			out.Without = append(out.Without, s.String()+": "+said[i])
		case seenSilent:
			out.Silent = append(out.Silent, s.String()+": "+said[i])
		}
	}
	return out, nil
}

// What one server says.
const (
	seenSilent = iota
	seenHas
	seenHasNot
	seenElsewhere // this machine has no way to the server
)

// seeAt asks one server.
func (c *Checker) seeAt(ctx context.Context, s server, q query, judge func([]dns.RR) string) (kind int, said string) {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(q.name), dns.StringToType[q.typ])
	m.RecursionDesired = false
	m.SetEdns0(udpSize, false)
	in, _, err := c.ask.overPort53(ctx, s.addr, m, q)
	a := answer{server: s, query: q}
	switch {
	case err != nil:
		a.status, a.detail = failure(err)
	case !answers(in, q):
		a.status = stUnreadable
	default:
		a.read(in)
	}
	switch {
	case a.status == stNoRoute:
		return seenElsewhere, ""
	case !a.status.answered():
		return seenSilent, a.result()
	case a.referral:
		return seenSilent, "it refers to another server"
	}
	var own []dns.RR
	for _, rr := range in.Answer {
		if canonical(rr.Header().Name) == q.name {
			own = append(own, rr)
		}
	}
	if wrong := judge(own); wrong != "" {
		return seenHasNot, wrong
	}
	return seenHas, ""
}

func judgeTXT(rrs []dns.RR, value string) string {
	others := 0
	for _, rr := range rrs {
		x, ok := rr.(*dns.TXT)
		if !ok {
			continue
		}
		if strings.Join(x.Txt, "") == value {
			return ""
		}
		others++
	}
	if others > 0 {
		return "another TXT record"
	}
	return "no TXT record"
}

func judgeAddr(rrs []dns.RR, typ string, addr netip.Addr) string {
	var have []string
	for _, rr := range rrs {
		switch rr := rr.(type) {
		case *dns.A:
			have = append(have, rr.A.String())
		case *dns.AAAA:
			have = append(have, rr.AAAA.String())
		}
	}
	switch {
	case len(have) == 1 && have[0] == addr.String():
		return ""
	case len(have) == 0:
		return "no " + typ + " record"
	}
	return strings.Join(have[:min(len(have), 4)], ", ")
}

// Alias follows the CNAMEs of name and returns the name they end at, name
// itself if it has none. The error says that no resolver answered.
func (c *Checker) Alias(ctx context.Context, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*c.cfg.Timeout)
	defer cancel()
	name = canonical(name)
	// TXT and not CNAME: its answer holds the whole chain.
	a := c.lookUp(ctx, query{name, "TXT"}, c.resolvers())
	if !a.status.answered() {
		return "", fmt.Errorf("%s: is it an alias? no resolver answers: %s", name, a.result())
	}
	if n := len(a.aliases); n > 0 {
		return a.aliases[n-1], nil
	}
	return name, nil
}
