package dnscheck

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// Seen is what a name's authoritative servers say about one TXT value.
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
	ctx, cancel := context.WithTimeout(ctx, 4*c.cfg.Timeout)
	defer cancel()
	name = canonical(name)
	z := c.zoneOf(ctx, name, c.resolvers())
	servers := serversToAsk(roleZone, z.own, c.cfg.AuthoritativePort)
	if len(servers) == 0 {
		return Seen{}, fmt.Errorf("%s: no resolver tells the name servers of its zone", name)
	}
	said := make([]string, len(servers))
	kinds := make([]int, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() { kinds[i], said[i] = c.txtAt(ctx, s, name, value) })
	}
	wg.Wait()
	var out Seen
	for i, s := range servers {
		switch kinds[i] {
		case txtHas:
			out.With++
		case txtHasNot:
			out.Without = append(out.Without, s.String()+": "+said[i])
		case txtSilent:
			out.Silent = append(out.Silent, s.String()+": "+said[i])
		}
	}
	return out, nil
}

// What one server says about a TXT value.
const (
	txtSilent = iota
	txtHas
	txtHasNot
	txtElsewhere // this machine has no way to the server
)

// txtAt asks one server.
func (c *Checker) txtAt(ctx context.Context, s server, name, value string) (kind int, said string) {
	q := query{name, "TXT"}
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), dns.TypeTXT)
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
		return txtElsewhere, ""
	case !a.status.answered():
		return txtSilent, a.result()
	case a.referral:
		return txtSilent, "it refers to another server"
	}
	others := 0
	for _, rr := range in.Answer {
		x, ok := rr.(*dns.TXT)
		if !ok || canonical(x.Hdr.Name) != name {
			continue
		}
		if strings.Join(x.Txt, "") == value {
			return txtHas, ""
		}
		others++
	}
	if others > 0 {
		return txtHasNot, "another TXT record"
	}
	return txtHasNot, "no TXT record"
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
