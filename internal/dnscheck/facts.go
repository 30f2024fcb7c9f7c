package dnscheck

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// facts is all that a verdict depends on.
type facts struct {
	q          Question
	unfinished bool
	own        []netip.Addr // empty: not known
	zones      []zone       // the name's, then that of the name it is an alias of
	answers    []answer
	fiction    bool // what came from port 53 is not to be believed: only resolvers count
}

// problem is one thing that is wrong.
type problem struct {
	colour   Colour
	cause    Cause
	sentence string
}

// view is who was asked one query and what they said: one answer for each
// server, the best of its addresses.
type view struct {
	subject string // "DuckDNS's name servers"
	query   query
	answers []answer
	zone    bool // the zone's own servers, whose majority counts; else resolvers, one of which is enough
	silent  bool // the name goes without saying
}

// best are the best answers of the servers in a role for a zone, one for
// each server and query, without those that this network cannot reach.
func (f *facts) best(r role, zone string, q query) []answer {
	var out []answer
	for _, a := range f.answers {
		if a.server.role != r || a.query != q || zone != "" && a.server.zone != zone {
			continue
		}
		i := slices.IndexFunc(out, func(b answer) bool { return b.server.name == a.server.name })
		switch {
		case i < 0:
			out = append(out, a)
		case a.rank() > out[i].rank():
			out[i] = a
		}
	}
	return slices.DeleteFunc(out, func(a answer) bool { return a.status == stNoRoute })
}

// serverAnswers groups the answers of a role and zone by server.
func (f *facts) serverAnswers(r role, zone string) map[string][]answer {
	out := make(map[string][]answer)
	seen := make(map[query]bool)
	for _, a := range f.answers {
		if a.server.role != r || zone != "" && a.server.zone != zone || seen[a.query] {
			continue
		}
		seen[a.query] = true
		for _, b := range f.best(r, zone, a.query) {
			out[b.server.name] = append(out[b.server.name], b)
		}
	}
	return out
}

// alive reports whether the role answered anything at all, even badly.
func (f *facts) alive(roles ...role) bool {
	return slices.ContainsFunc(f.answers, func(a answer) bool { return slices.Contains(roles, a.server.role) && spoke(a.status) })
}

// spoke reports whether a DNS answer came back.
func spoke(s status) bool {
	switch s {
	case stTimeout, stUnreachable, stNoRoute, stHTTP, stUnreadable:
		return false
	}
	return true
}

// byResolvers are the answers of resolvers that work; those over HTTPS alone
// if there are any and what comes from port 53 is fiction.
func (f *facts) byResolvers(q query) view {
	v := view{subject: "resolvers", query: q}
	works := make(map[string]bool)
	doh := false
	for _, a := range f.answers {
		if !a.server.role.authoritative() && spoke(a.status) {
			works[a.server.name] = true
			doh = doh || a.server.role == roleDoH
		}
	}
	for _, a := range f.answers {
		if a.server.role.authoritative() || a.query != q || !works[a.server.name] || f.fiction && doh && a.server.role != roleDoH {
			continue
		}
		v.answers = append(v.answers, a)
	}
	return v
}

// at returns who is to be believed about a query of zone i.
func (f *facts) at(i int, typ string) view {
	z := f.zones[i]
	q := query{z.ask, typ}
	if typ == "SOA" {
		q.name = z.own.apex
	}
	if as := f.best(roleZone, z.own.apex, q); z.own.apex != "" && len(as) > 0 && !f.fiction {
		return view{subject: owner(z.own.apex), query: q, answers: as, zone: true, silent: i == 0}
	}
	q.name = f.q.Name
	return f.byResolvers(q)
}

// caa returns who is to be believed about the CAA of a label.
func (f *facts) caa(label string) view {
	q := query{label, "CAA"}
	z := f.zones[0]
	if as := f.best(roleZone, z.own.apex, q); z.own.apex != "" && len(as) > 0 && !f.fiction {
		return view{subject: owner(z.own.apex), query: q, answers: as, zone: true, silent: label == f.q.Name}
	}
	return f.byResolvers(q)
}

// count tells how many answers satisfy is.
func (v view) count(is func(answer) bool) int {
	n := 0
	for _, a := range v.answers {
		if is(a) {
			n++
		}
	}
	return n
}

func isAnswered(a answer) bool { return a.status.answered() }

// failed returns the problem of a query that fails: at every server, or, for
// CAA, at a majority of the zone's servers. The causes are for silence,
// SERVFAIL and any other error.
func (v view) failed(timeout, servfail, other Cause) (problem, bool) {
	n, good := len(v.answers), v.count(isAnswered)
	if n == 0 || good > 0 && (v.query.typ != "CAA" || !v.zone || 2*(n-good) <= n) {
		return problem{}, false
	}
	p := problem{colour: Red}
	silent := v.count(func(a answer) bool { return !a.status.answered() && !spoke(a.status) })
	sf := v.count(func(a answer) bool { return a.status == stServFail })
	switch {
	case 2*silent >= n-good:
		p.cause = timeout
		p.sentence = fmt.Sprintf("%s do not answer %s (%s)", v.subject, v.what(), tally(v.answers, n))
	case 2*sf >= n-good:
		p.cause = servfail
		p.sentence = fmt.Sprintf("%s fail at %s (%s)", v.subject, v.what(), tally(v.answers, n))
	default:
		p.cause = other
		p.sentence = fmt.Sprintf("%s refuse %s (%s)", v.subject, v.what(), tally(v.answers, n))
	}
	return p, true
}

// what is the query in a sentence.
func (v view) what() string {
	if v.silent {
		return v.query.typ
	}
	return v.query.typ + " of " + plain(v.query.name)
}

// tally is how many failed in which way: "3 of 4 timed out, 1 answered
// SERVFAIL".
func tally(as []answer, n int) string {
	counts := make(map[status]int)
	var order []status
	for _, a := range as {
		if a.good() {
			continue
		}
		s := a.status
		if counts[s] == 0 {
			order = append(order, s)
		}
		counts[s]++
	}
	slices.SortStableFunc(order, func(a, b status) int { return counts[b] - counts[a] })
	var parts []string
	for i, s := range order {
		verb := s.verb()
		if s.answered() {
			verb = "answered late or in part"
		}
		if counts[s] == 1 {
			verb = strings.Replace(strings.Replace(verb, "are ", "is ", 1), "know ", "knows ", 1)
		}
		if i == 0 {
			parts = append(parts, fmt.Sprintf("%d of %d %s", counts[s], n, verb))
		} else {
			parts = append(parts, fmt.Sprintf("%d %s", counts[s], verb))
		}
	}
	return strings.Join(parts, ", ")
}

// providers are the words that people know the hosts of dynamic names by.
func provider(zone string) string {
	for _, p := range []struct{ zone, word string }{
		{"duckdns.org", "DuckDNS"}, {"dedyn.io", "deSEC"}, {"dynv6.net", "dynv6"}, {"dyndns.org", "Dyn"},
		{"ddns.net", "No-IP"}, {"hopto.org", "No-IP"}, {"zapto.org", "No-IP"}, {"sytes.net", "No-IP"}, {"no-ip.org", "No-IP"},
		{"dynu.net", "Dynu"}, {"freeddns.org", "Dynu"}, {"freemyip.com", "freemyip"}, {"ddnss.de", "DDNSS"},
		{"mooo.com", "FreeDNS"}, {"afraid.org", "FreeDNS"}, {"nip.io", "nip.io"}, {"sslip.io", "sslip.io"},
		{"dynv6.com", "dynv6"}, {"v6.rocks", "dynv6"}, {"dns.army", "dynv6"}, {"dns.navy", "dynv6"}, {"v6.navy", "dynv6"},
		{"spdns.de", "Securepoint"}, {"myfritz.net", "MyFRITZ!"}, {"dynalias.com", "Dyn"},
	} {
		if within(zone, p.zone) {
			return p.word
		}
	}
	return ""
}

// owner is the subject of a sentence about a zone's servers.
func owner(zone string) string {
	if p := provider(zone); p != "" {
		return p + "'s name servers"
	}
	return "the name servers of " + plain(zone)
}

// addrList are addresses in a sentence.
func addrList(addrs []netip.Addr) string {
	var parts []string
	for i, a := range addrs {
		if i == 3 {
			parts = append(parts, fmt.Sprintf("%d more", len(addrs)-i))
			break
		}
		parts = append(parts, a.String())
	}
	return strings.Join(parts, ", ")
}
