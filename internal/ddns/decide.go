package ddns

import (
	"net/netip"
	"slices"
	"time"
)

// Kind is how a source knows our address. Two sources of one kind can be wrong
// together: behind one proxy, through one tunnel, from one cache.
type Kind string

// The kinds of sources.
const (
	Router    Kind = "router"    // the router tells the address it has outside
	DNSEcho   Kind = "dns"       // a name server tells whom it sees asking
	HTTPSEcho Kind = "https"     // a web server tells whom it sees asking
	Interface Kind = "interface" // this machine has a public address itself
)

// Kinds lists them, closest to the truth first.
func Kinds() []Kind { return []Kind{Router, Interface, DNSEcho, HTTPSEcho} }

// vote is the last answer of one source.
type vote struct {
	kind Kind
	name string
	addr netip.Addr // what it said; not always a public one
	at   time.Time  // when it said so
	run  int        // so often in a row, not counting answers within rules.gap
}

// rules are what decide weighs votes by.
type rules struct {
	kinds   []Kind                 // those that are asked
	fresh   map[Kind]time.Duration // how long an answer counts
	silent  time.Duration          // a kind that says nothing for as long is not waited for
	gap     time.Duration          // what lies between two answers that count as two
	started time.Time              // since when sources are asked
}

// loneRun is how often the only kind there is must say the same in a row.
const loneRun = 3

// decision is what to believe from now on.
type decision struct {
	addr    netip.Addr // the address to believe; current, if nothing changes
	pending bool       // somebody says otherwise: ask everybody again soon
}

// decide weighs what the sources said last against the address believed so
// far (the zero Addr: none).
//
// Every kind of source has one opinion: what more than half of its sources
// that answered lately say. A source with an address nobody outside can reach
// has none. Then another address than the current one is believed when
//
//   - two kinds have the opinion, and more than have the current one as
//     theirs; or
//   - only one kind is asked, and those who make its opinion said so three
//     times in a row; or
//   - all other kinds have been silent for long, and those who make the
//     opinion said so three times in a row, and are two sources at least,
//     unless there is no current address to lose.
//
// So one source alone, stale or lying, never moves a record that others know
// about. A tie changes nothing.
func decide(now time.Time, current netip.Addr, votes []vote, r rules) decision {
	ops := opinions(now, votes, r)
	support := map[netip.Addr]int{}
	var heard []netip.Addr
	for _, k := range Kinds() {
		for _, o := range ops[k] {
			if support[o.addr]++; support[o.addr] == 1 {
				heard = append(heard, o.addr)
			}
		}
	}
	d := decision{addr: current}
	best, tie := netip.Addr{}, false
	for _, a := range heard {
		if a == current {
			continue
		}
		d.pending = true
		switch {
		case support[a] > support[best]:
			best, tie = a, false
		case support[a] == support[best]:
			tie = true
		}
	}
	switch {
	case !best.IsValid() || tie:
	case support[best] >= 2 && support[best] > support[current],
		support[best] == 1 && support[current] == 0 && lone(now, current, best, votes, ops, r):
		return decision{addr: best}
	}
	return d
}

// opinion is an address that a kind of source stands for.
type opinion struct {
	addr    netip.Addr
	sources int // that said so
	run     int // of the one that said so the least often
}

// opinions returns what each kind stands for: one address, none if its sources
// differ. This machine's interfaces may have several, and stand for each.
func opinions(now time.Time, votes []vote, r rules) map[Kind][]opinion {
	out := map[Kind][]opinion{}
	for _, k := range Kinds() {
		var list []opinion
		answered := 0
		for _, v := range votes {
			if v.kind != k || !freshVote(now, v, r) {
				continue
			}
			answered++
			i := slices.IndexFunc(list, func(o opinion) bool { return o.addr == v.addr })
			if i < 0 {
				list = append(list, opinion{v.addr, 1, v.run})
				continue
			}
			list[i].sources++
			list[i].run = min(list[i].run, v.run)
		}
		for _, o := range list {
			if k == Interface || 2*o.sources > answered {
				out[k] = append(out[k], o)
			}
		}
	}
	return out
}

func freshVote(now time.Time, v vote, r rules) bool {
	return Public(v.addr) && now.Sub(v.at) <= r.fresh[v.kind]
}

// lone reports whether one kind of source may move the address by itself.
func lone(now time.Time, current, addr netip.Addr, votes []vote, ops map[Kind][]opinion, r rules) bool {
	for _, k := range Kinds() {
		i := slices.IndexFunc(ops[k], func(o opinion) bool { return o.addr == addr })
		if i < 0 {
			continue
		}
		o := ops[k][i]
		if k == Interface && len(ops[k]) > 1 || o.run < loneRun {
			return false
		}
		others := slices.DeleteFunc(slices.Clone(r.kinds), func(x Kind) bool { return x == k })
		if len(others) == 0 {
			return true
		}
		return allSilent(now, others, votes, r) && (o.sources >= 2 || !current.IsValid())
	}
	return false
}

// allSilent reports whether none of kinds told a public address for long.
func allSilent(now time.Time, kinds []Kind, votes []vote, r rules) bool {
	if now.Sub(r.started) < r.silent {
		return false
	}
	return !slices.ContainsFunc(votes, func(v vote) bool {
		return slices.Contains(kinds, v.kind) && Public(v.addr) && now.Sub(v.at) < r.silent
	})
}

// hear adds what a source said to the votes. Answers within gap of the last
// one count once: a source asked twice in a second has not confirmed anything.
func hear(votes []vote, v vote, gap time.Duration) []vote {
	i := slices.IndexFunc(votes, func(x vote) bool { return x.kind == v.kind && x.name == v.name })
	if i < 0 {
		v.run = 1
		return append(votes, v)
	}
	old := votes[i]
	switch v.run = 1; {
	case old.addr == v.addr && v.at.Sub(old.at) < gap:
		v.run, v.at = old.run, old.at
	case old.addr == v.addr:
		v.run = old.run + 1
	}
	votes[i] = v
	return votes
}

var (
	carrierNAT = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598
	thisNet    = netip.MustParsePrefix("0.0.0.0/8")     // RFC 791
	reserved   = netip.MustParsePrefix("240.0.0.0/4")   // RFC 1112
	globalV6   = netip.MustParsePrefix("2000::/3")      // RFC 4291 section 2.4
)

// Public reports whether an address can be one that the Internet reaches us
// at. Private, carrier-grade, link-local, multicast and reserved ones are not.
func Public(a netip.Addr) bool {
	switch {
	case !a.IsValid() || a.Zone() != "" || !a.IsGlobalUnicast() || a.IsPrivate():
		return false
	case a.Is4():
		return !carrierNAT.Contains(a) && !thisNet.Contains(a) && !reserved.Contains(a)
	}
	return globalV6.Contains(a)
}
