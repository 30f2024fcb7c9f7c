package dnscheck

import (
	"fmt"
	"net/netip"
	"slices"
)

// addresses judges A and AAAA, which http-01 and tls-alpn-01 go to.
func (f *facts) addresses() []problem {
	last := len(f.zones) - 1
	v4, v6 := f.at(last, "A"), f.at(last, "AAAA")
	if alias := func(a answer) bool { return len(a.aliases) > 0 || a.referral }; !v4.hasAddrs() && v4.count(alias) > 0 {
		// An alias, or a zone of its own, that nobody told us of before.
		v4, v6 = f.byResolvers(query{f.q.Name, "A"}), f.byResolvers(query{f.q.Name, "AAAA"})
	}
	var out []problem
	if p, bad := v4.failed(ATimeout, AError, AError); bad {
		out = append(out, p)
	}
	if p, bad := v6.failed(AAAATimeout, AAAAError, AAAAError); bad {
		out = append(out, p)
	}
	answered := v4.count(isAnswered)
	nx := v4.count(func(a answer) bool { return a.status == stNXDomain && len(a.addrs) == 0 })
	switch {
	case nx > 0 && (nx == answered || v4.zone && 2*nx > answered): // of resolvers, one that knows it is enough
		return append(out, problem{Red, NXDomain, fmt.Sprintf("%s does not exist, say %s", plain(v4.query.name), v4.subject)})
	case nx > 0 && v4.zone:
		out = append(out, problem{Amber, NXDomain, fmt.Sprintf("%s does not exist, say %d of %d of %s", plain(v4.query.name), nx, len(v4.answers), v4.subject)})
	}
	if !v4.hasAddrs() && !v6.hasAddrs() && answered > 0 {
		return append(out, problem{Red, AMissing, fmt.Sprintf("%s has no address: neither A nor AAAA", plain(v4.query.name))})
	}
	return append(out, f.compareOwn(v4, v6)...)
}

func (v view) hasAddrs() bool { return v.count(func(a answer) bool { return len(a.addrs) > 0 }) > 0 }

// compareOwn holds the addresses against ours, if we know them.
func (f *facts) compareOwn(v4, v6 view) []problem {
	var own4, own6 []netip.Addr
	for _, a := range f.own {
		if a = a.Unmap(); a.Is4() {
			own4 = append(own4, a)
		} else {
			own6 = append(own6, a)
		}
	}
	var out []problem
	if len(own4) > 0 {
		if p, bad := v4.foreign(own4, AWrong, "A points to %s, this house is %s"); bad {
			out = append(out, p)
		}
		if !v4.hasAddrs() && v4.count(isAnswered) > 0 {
			out = append(out, problem{Amber, AMissing, fmt.Sprintf("%s has no A, this house is %s", plain(v4.query.name), addrList(own4))})
		}
	}
	if len(f.own) > 0 {
		format := "AAAA is stale: it points to %s, this house is %s"
		mine := own6
		if len(own6) == 0 {
			format, mine = "AAAA is stale: it points to %s, this house has no IPv6 address but %s", own4
		}
		if p, bad := v6.foreign(mine, AAAAStale, format); bad {
			out = append(out, p)
		}
		return out
	}
	if p, bad := v4.disagree(); bad {
		out = append(out, p)
	}
	return out
}

// foreign finds addresses that are not in own: red if most servers hand one
// out, else amber.
func (v view) foreign(own []netip.Addr, cause Cause, format string) (problem, bool) {
	var alien []netip.Addr
	servers := 0
	for _, a := range v.answers {
		mine := true
		for _, ip := range a.addrs {
			if slices.Contains(own, ip) {
				continue
			}
			mine = false
			if !slices.Contains(alien, ip) {
				alien = append(alien, ip)
			}
		}
		if !mine {
			servers++
		}
	}
	if servers == 0 {
		return problem{}, false
	}
	p := problem{Red, cause, fmt.Sprintf(format, addrList(alien), addrList(own))}
	if answered := v.count(isAnswered); 2*servers < answered {
		p.colour = Amber
		p.sentence += fmt.Sprintf(" (at %d of %d servers)", servers, answered)
	}
	return p, true
}

// disagree finds servers of one zone that hand out different addresses.
func (v view) disagree() (problem, bool) {
	var first *answer
	for i := range v.answers {
		a := &v.answers[i]
		if !a.status.answered() || !v.zone {
			continue
		}
		slices.SortFunc(a.addrs, netip.Addr.Compare)
		if first == nil {
			first = a
		} else if !slices.Equal(first.addrs, a.addrs) {
			return problem{Amber, NSDisagree, fmt.Sprintf("%s disagree on %s: %s says %s, %s says %s", v.subject, v.query.typ,
				plain(first.server.name), orNone(first.addrs), plain(a.server.name), orNone(a.addrs))}, true
		}
	}
	return problem{}, false
}

func orNone(addrs []netip.Addr) string {
	if len(addrs) == 0 {
		return "none"
	}
	return addrList(addrs)
}

// policy climbs from the name to the top-level domain (RFC 8659 section 3).
// The nearest label with records decides; a failure before it is fatal, as it
// is for Boulder. Each server of the zone is climbed with by itself: an
// authority may meet any of them.
func (f *facts) policy(v *Verdict) []problem {
	var out []problem
	var stack []view
	for _, label := range ancestors(f.q.Name) {
		at := f.caa(label)
		if len(at.answers) == 0 {
			continue // above the zone, and no resolver works: not known
		}
		if p, bad := at.failed(CAATimeout, CAAServFail, CAAError); bad {
			return append(out, p)
		}
		// A private authority may know names that the world does not, and a zone
		// whose servers answer proves that what is above it exists.
		if p, bad := topLevelGone(at); bad && len(f.q.CAs) > 0 && f.zones[0].own.apex == "" {
			return append(out, p)
		}
		if at.count(func(a answer) bool { return len(a.aliases) > 0 && len(a.caa) == 0 }) > 0 {
			at = f.behindAlias(label)
			if p, bad := at.failed(CAATimeout, CAAServFail, CAAError); bad {
				return append(out, p)
			}
		}
		stack = append(stack, at)
		if at.count(func(a answer) bool { return len(a.caa) > 0 }) == at.count(isAnswered) {
			break // whoever is asked, the climb ends here
		}
	}
	return append(out, f.allowed(stack, v)...)
}

// topLevelGone finds a top-level domain that resolvers say does not exist: the
// one case in which authorities do not take NXDOMAIN for "no records".
func topLevelGone(at view) (problem, bool) {
	if len(ancestors(at.query.name)) > 1 || at.count(isAnswered) == 0 || at.count(func(a answer) bool { return a.status == stNXDomain }) < at.count(isAnswered) {
		return problem{}, false
	}
	return problem{Red, NXDomain, fmt.Sprintf("the top-level domain %s does not exist", plain(at.query.name))}, true
}

// behindAlias is who knows the CAA of what label is an alias of: for the name
// the servers of its target, else resolvers, which follow it.
func (f *facts) behindAlias(label string) view {
	if label != f.q.Name || len(f.zones) < 2 || f.fiction || f.zones[1].own.apex == "" {
		return f.byResolvers(query{label, "CAA"})
	}
	z := f.zones[1]
	q := query{z.ask, "CAA"}
	return view{subject: owner(z.own.apex), query: q, answers: f.best(roleZone, z.own.apex, q), zone: true}
}

// allowed judges the sets that the climb met.
func (f *facts) allowed(stack []view, v *Verdict) []problem {
	if len(f.q.CAs) == 0 {
		return nil
	}
	climbers := 1
	for _, at := range stack {
		climbers = max(climbers, at.count(isAnswered))
	}
	var reason string
	some := 0 // climbers that meet a set which forbids every authority
	everywhere := make(map[string]int)
	for i := range climbers {
		label, set := climbAs(stack, i)
		forbids := 0
		for _, ca := range f.q.CAs {
			why := forbidden(set, f.q, ca)
			if len(set) == 0 || why == "" {
				continue
			}
			forbids++
			everywhere[ca]++
			if reason == "" {
				reason = "CAA of " + plain(label) + " " + why
			}
		}
		if forbids == len(f.q.CAs) {
			some++
		}
	}
	for _, ca := range f.q.CAs {
		if everywhere[ca] == climbers {
			v.Forbids = append(v.Forbids, ca)
		}
	}
	switch {
	case some == 0:
		return nil
	case some < climbers:
		return []problem{{Amber, CAAForbids, fmt.Sprintf("%s (so say %d of %d servers)", reason, some, climbers)}}
	}
	return []problem{{Red, CAAForbids, reason}}
}

// climbAs is the set that an authority meets which always asks the ith server
// that answers.
func climbAs(stack []view, i int) (label string, set []property) {
	for _, at := range stack {
		good := slices.DeleteFunc(slices.Clone(at.answers), func(a answer) bool { return !a.status.answered() })
		if len(good) == 0 {
			continue
		}
		if a := good[min(i, len(good)-1)]; len(a.caa) > 0 {
			return at.query.name, a.caa
		}
	}
	return "", nil
}
