package guard

import (
	"net/netip"
	"slices"
	"time"
)

// SetListed says whom others list as hostile, and by the name of which list.
// Such an address is refused as a banned one is: not if it is never banned; if
// SetShared knows it, or it was Authenticated lately, request by request.
// lookup must be fast, and is called from many goroutines; the names it returns
// must be few, as each becomes a metric label. nil means that nobody is listed.
// It replaces the one before.
func (g *Guard) SetListed(lookup func(netip.Addr) (list string, ok bool)) {
	if lookup == nil {
		g.listed.Store(nil)
		return
	}
	g.listed.Store(&lookup)
}

// isListed reports whether the canonical addr is refused for a list it is on,
// and counts it.
func (g *Guard) isListed(p *policy, addr netip.Addr) bool {
	lookup := g.listed.Load()
	if lookup == nil || !addr.IsValid() {
		return false
	}
	list, ok := (*lookup)(addr)
	if !ok || !g.refusable(p, addr) {
		return false
	}
	g.metrics.listed.WithLabelValues(list).Inc()
	return true
}

// against says why the canonical addr is to be refused: None if it is not.
func (g *Guard) against(p *policy, k key, addr netip.Addr, at int64) Reason {
	switch {
	case p.mode == Off:
	case g.bans.banned(k, at) && g.refusable(p, addr):
		return Banned
	case g.isListed(p, addr):
		return Listed
	}
	return None
}

// Spares reports whether a network, or a part of it, is never banned or was
// Authenticated lately: whether dropping all that comes from there would shut
// out somebody who is to be heard. p is what a ban has as its Prefix.
func (g *Guard) Spares(p netip.Prefix, now time.Time) bool {
	if slices.ContainsFunc(g.policy.Load().spared, p.Overlaps) || slices.ContainsFunc(*g.own.Load(), p.Overlaps) {
		return true
	}
	k, ok := keyOfPrefix(p)
	switch {
	case !ok:
		return false
	case k.isNetwork():
		return g.trust.within(k, g.at(now))
	}
	return g.trust.has(k, g.at(now))
}

// within reports whether anybody of a neighbourhood is trusted at the time now.
func (t *trust) within(network key, now int64) bool {
	if !t.used.Load() {
		return false
	}
	for set := range t.mask + 1 {
		lock := &t.locks[set%stripes]
		lock.Lock()
		for _, s := range t.slots[set*ways : set*ways+ways] {
			if s.key != 0 && s.tat > now && s.key.network() == network {
				lock.Unlock()
				return true
			}
		}
		lock.Unlock()
	}
	return false
}
