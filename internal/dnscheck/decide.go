package dnscheck

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// decide is the verdict on facts. It is pure. Each rule adds what it finds
// wrong; the worst is the verdict, and among equals the first, because what
// explains the others is looked for first.
func decide(f *facts) Verdict {
	var v Verdict
	for _, a := range f.answers {
		v.Findings = append(v.Findings, a.finding())
	}
	problems := f.problems(&v)
	worst := problem{Green, OK, f.fine()}
	for _, p := range problems {
		if p.colour > worst.colour || p.colour == Green && worst.colour == Green && worst.cause == OK {
			worst = p
		}
	}
	v.Colour, v.Cause, v.Sentence = worst.colour, worst.cause, worst.sentence
	return v
}

// problems runs the rules in the order of what explains what.
func (f *facts) problems(v *Verdict) []problem {
	if f.unfinished {
		return []problem{{Red, Unfinished, "the check was stopped before the answers came"}}
	}
	if !f.alive(roleZone, roleParent, roleResolver, roleDoH) {
		return []problem{{Red, Offline, "no DNS server answers from here, neither resolvers nor the name's own; the Internet connection may be down"}}
	}
	var out []problem
	add := func(p problem, found bool) {
		if found {
			out = append(out, p)
		}
	}
	add(f.port53())
	for i := range f.zones {
		if f.fiction {
			break
		}
		whole := f.zoneUp(i)
		out = append(out, whole...)
		if slices.ContainsFunc(whole, func(p problem) bool { return p.colour == Red }) {
			return out // nothing more can be said
		}
	}
	if f.q.byAddress() {
		out = append(out, f.addresses()...)
	}
	out = append(out, f.policy(v)...)
	out = append(out, f.records()...)
	for i := range f.zones {
		if !f.fiction {
			add(f.partly(i))
		}
	}
	add(f.resolverFails())
	add(f.blockedResolver())
	return out
}

// fine is the sentence of a name without problems.
func (f *facts) fine() string {
	z := f.zones[0]
	if n := len(f.best(roleZone, z.own.apex, query{z.own.apex, "SOA"})); n > 0 {
		return fmt.Sprintf("%s answer (%d of %d)", owner(z.own.apex), n, n)
	}
	return "DNS answers"
}

// port53 finds networks that block or answer what goes to port 53. Then the
// silence or the words of the "authoritative" servers mean nothing, and fiction
// is set.
func (f *facts) port53() (problem, bool) {
	z := f.zones[0]
	if z.own.apex == "" {
		return problem{}, false
	}
	resolved := f.byResolvers(query{f.q.Name, "A"}).count(isAnswered) > 0
	asked := len(f.serverAnswers(roleParent, z.parent.apex)) > 0
	if asked && resolved && !f.alive(roleZone, roleParent) {
		f.fiction = true
		return problem{Amber, Port53Blocked, "this network lets no question through to port 53 of other servers; only resolvers could be asked"}, true
	}
	seenThrough := slices.ContainsFunc(f.best(roleDoH, "", query{f.q.Name, "A"}), isAnswered)
	if f.impersonated(roleZone) && (f.impersonated(roleParent) || seenThrough) {
		f.fiction = true
		return problem{Amber, Port53Intercepted, "port 53 is intercepted on this network: a resolver answers in place of the authoritative servers"}, true
	}
	return f.contradiction()
}

// impersonated reports whether all that the servers of a role said has the
// marks of a resolver: recursion offered, and no authority.
func (f *facts) impersonated(r role) bool {
	spoken := false
	for _, a := range f.answers {
		if a.server.role == r && spoke(a.status) {
			if a.status != stLame || !a.ra {
				return false
			}
			spoken = true
		}
	}
	return spoken
}

// contradiction compares what the zone's servers say with what resolvers over
// HTTPS see, whom no router can impersonate.
func (f *facts) contradiction() (problem, bool) {
	last := len(f.zones) - 1
	ours := addrsOf(f.at(last, "A").answers)
	var theirs []netip.Addr
	for _, a := range f.best(roleDoH, "", query{f.q.Name, "A"}) {
		theirs = append(theirs, a.addrs...)
	}
	if len(ours) == 0 || len(theirs) == 0 || slices.ContainsFunc(theirs, func(a netip.Addr) bool { return slices.Contains(ours, a) }) {
		return problem{}, false
	}
	if slices.ContainsFunc(ours, func(a netip.Addr) bool { return slices.Contains(f.own, a) }) {
		return problem{}, false // it has just changed, and resolvers keep the old one for its TTL
	}
	sentence := fmt.Sprintf("port 53 is intercepted on this network, or the address has just changed: %s say A is %s, resolvers over HTTPS say %s",
		f.at(last, "A").subject, addrList(ours), addrList(theirs))
	f.fiction = slices.ContainsFunc(theirs, func(a netip.Addr) bool { return slices.Contains(f.own, a) })
	return problem{Amber, Port53Intercepted, sentence}, true
}

// addrsOf are the addresses of all answers, each once.
func addrsOf(as []answer) []netip.Addr {
	var out []netip.Addr
	for _, a := range as {
		for _, ip := range a.addrs {
			if !slices.Contains(out, ip) {
				out = append(out, ip)
			}
		}
	}
	return out
}

// zoneUp judges a zone's servers as a whole, and those of the zone above.
func (f *facts) zoneUp(i int) []problem {
	z := f.zones[i]
	if z.own.apex == "" || !z.own.usable() {
		return []problem{{Amber, NSUnknown, fmt.Sprintf("nobody says which name servers %s has", plain(z.ask))}}
	}
	var out []problem
	up := view{subject: owner(z.parent.apex), query: query{z.own.apex, "NS"}, answers: f.best(roleParent, z.parent.apex, query{z.own.apex, "NS"})}
	gone := up.count(func(a answer) bool {
		return a.status == stNXDomain || a.status == stOK && len(a.ns) == 0
	})
	switch n := len(up.answers); {
	case n > 0 && 2*gone > n:
		out = append(out, problem{Red, NotDelegated, fmt.Sprintf("%s know nothing of %s: the name has expired or was given up", up.subject, plain(z.own.apex))})
	case n > 0 && up.count(isAnswered) == 0:
		out = append(out, problem{Amber, ParentTimeout, fmt.Sprintf("%s do not say where %s is (%s)", up.subject, plain(z.own.apex), tally(up.answers, n))})
	}
	servers := f.serverAnswers(roleZone, z.own.apex)
	worst := make([]answer, 0, len(servers)) // of servers that answered nothing, one answer that says why
	lame := 0
	for _, as := range servers {
		if slices.ContainsFunc(as, isAnswered) {
			continue
		}
		j := slices.IndexFunc(as, func(a answer) bool { return a.query.typ == "SOA" })
		worst = append(worst, as[max(j, 0)])
		if slices.ContainsFunc(as, func(a answer) bool { return a.status == stLame || a.query.typ == "SOA" && a.status == stRefused }) {
			lame++
		}
	}
	n := len(servers)
	switch {
	case n == 0:
		return append(out, problem{Amber, NSUnknown, fmt.Sprintf("%s cannot be reached from this network, which lacks IPv4 or IPv6; only resolvers could be asked", owner(z.own.apex))})
	case len(worst) < n:
		return out
	}
	slices.SortFunc(worst, func(a, b answer) int { return compare(a.server.name, b.server.name) })
	silent := 0
	for _, a := range worst {
		if !spoke(a.status) {
			silent++
		}
	}
	switch {
	case 2*silent >= n:
		out = append(out, problem{Red, NSTimeout, fmt.Sprintf("%s do not answer at all (%s)%s", owner(z.own.apex), tally(worst, n), z.hint())})
	case 2*lame >= n:
		out = append(out, problem{Red, Lame, fmt.Sprintf("%s do not know the zone %s (%s)", owner(z.own.apex), plain(z.own.apex), tally(worst, n))})
	default:
		out = append(out, problem{Red, NSError, fmt.Sprintf("%s fail at everything (%s)", owner(z.own.apex), tally(worst, n))})
	}
	return out
}

// hint says that the servers are those of an earlier check.
func (z zone) hint() string {
	if z.remembered {
		return "; these are the ones that worked last, nobody tells others"
	}
	return ""
}

// records judges the queries that only have to be answered.
func (f *facts) records() []problem {
	var out []problem
	for i := range f.zones {
		if f.zones[i].own.apex == "" || f.fiction {
			continue
		}
		if p, bad := f.at(i, "SOA").failed(SOATimeout, SOAError, SOAError); bad {
			out = append(out, p)
		}
	}
	if f.q.byAddress() {
		return out
	}
	q := query{acmeName(f.q.Name), "TXT"}
	v := f.byResolvers(q)
	if apex := f.zones[0].own.apex; !f.fiction && apex != "" {
		v = view{subject: owner(apex), query: q, answers: f.best(roleZone, apex, q), zone: true}
	}
	if v.count(func(a answer) bool { return len(a.aliases) > 0 }) > 0 {
		v = f.byResolvers(q) // acme-dns, say: the servers behind the alias have to answer too
	}
	if p, bad := v.failed(TXTTimeout, TXTError, TXTError); bad {
		out = append(out, p)
	}
	return out
}

// partly judges servers of a zone that fail while others do not.
func (f *facts) partly(i int) (problem, bool) {
	z := f.zones[i]
	servers := f.serverAnswers(roleZone, z.own.apex)
	var bad []answer
	noSOA := 0
	for _, as := range servers {
		as = slices.DeleteFunc(slices.Clone(as), func(a answer) bool { return a.good() || !f.matters(a.query) })
		if len(as) == 0 {
			continue
		}
		slices.SortFunc(as, func(a, b answer) int { return a.rank() - b.rank() })
		bad = append(bad, as[0])
		if as[0].status.answered() && as[0].noSOA {
			noSOA++
		}
	}
	n := len(servers)
	if len(bad) == 0 {
		return problem{}, false
	}
	slices.SortFunc(bad, func(a, b answer) int { return compare(a.server.name, b.server.name) })
	colour := Amber
	if 3*(n-len(bad)) >= 2*n {
		colour = Green
	}
	if noSOA == len(bad) {
		return problem{colour, SOAMissing, fmt.Sprintf("%s say that there is no %s without the SOA that belongs to it (%d of %d), which some resolvers take for a failure", owner(z.own.apex), bad[0].query.typ, noSOA, n)}, true
	}
	return problem{colour, NSPartlyDown, fmt.Sprintf("%s are partly down (%s; %s of %s at %s)", owner(z.own.apex), tally(bad, n), bad[0].query.typ, plain(bad[0].query.name), plain(bad[0].server.name))}, true
}

// matters reports whether the challenge depends on the query.
func (f *facts) matters(q query) bool {
	if q.typ == "A" || q.typ == "AAAA" {
		return f.q.byAddress()
	}
	return true
}

// resolverFails finds names that no resolver can resolve although the servers
// answer, as when DNSSEC is broken, which the servers themselves do not check.
// It may also be what resolvers keep from an outage that is over.
func (f *facts) resolverFails() (problem, bool) {
	if f.fiction || f.zones[0].own.apex == "" {
		return problem{}, false
	}
	for _, typ := range []string{"A", "CAA"} {
		v := f.byResolvers(query{f.q.Name, typ})
		n := len(v.answers)
		if typ == "A" && !f.q.byAddress() || n == 0 || v.count(func(a answer) bool { return a.status == stServFail }) < n {
			continue
		}
		return problem{Amber, ResolverFails, fmt.Sprintf("resolvers answer %s with SERVFAIL although %s answer: either DNSSEC of the zone is broken, or they have not noticed a recovery yet (%s)",
			v.what(), owner(f.zones[0].own.apex), tally(v.answers, n))}, true
	}
	return problem{}, false
}

// blockedResolver remarks on resolvers that say nothing to anything.
func (f *facts) blockedResolver() (problem, bool) {
	works, all := make(map[string]bool), []string{}
	for _, a := range f.answers {
		if a.server.role.authoritative() {
			continue
		}
		if !slices.Contains(all, a.server.String()) {
			all = append(all, a.server.String())
		}
		works[a.server.String()] = works[a.server.String()] || spoke(a.status)
	}
	blocked := slices.DeleteFunc(slices.Clone(all), func(s string) bool { return works[s] })
	if len(blocked) == 0 {
		return problem{}, false
	}
	verb := "does"
	if len(blocked) > 1 {
		verb = "do"
	}
	return problem{Green, ResolverBlocked, fmt.Sprintf("%s %s not answer here; the name's own servers do", strings.Join(blocked, " and "), verb)}, true
}
