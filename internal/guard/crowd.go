package guard

import (
	"net/netip"
	"sync"
	"sync/atomic"
)

// crowd finds out whether all clients come to us with one address, because a
// router or the bridge of a container puts its own in the place of theirs. A
// ban would then shut out everybody, so bans are switched off.
//
// An address of this machine or of the local network says nothing by itself:
// it may be the owner's. It is taken for a mask when no public client was seen
// among the last connections, almost all of them were its own, and it did
// what only strangers do.
type crowd struct {
	masked atomic.Bool

	mu      sync.Mutex
	run     int // guarded by mu; connections since the last from a public address
	suspect key // guarded by mu; who makes up most of the run, if anybody
	lead    int // guarded by mu; connections of suspect less those of others
	public  int // guarded by mu; connections from public addresses while masked
}

const (
	crowdRun  = 64 // connections that make a run
	crowdLead = 48 // of them, the suspect's lead
	crowdSeen = 16 // public connections that end it
)

// note counts a connection; unmasked tells that it was the one that proved
// that clients are told apart again.
func (c *crowd) note(k key, local bool) (unmasked bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !local {
		c.run, c.lead, c.suspect = 0, 0, 0
		if !c.masked.Load() {
			return false
		}
		if c.public++; c.public < crowdSeen {
			return false
		}
		c.public = 0
		c.masked.Store(false)
		return true
	}
	c.run = min(c.run+1, 4*crowdRun)
	switch {
	case c.suspect == k:
		c.lead = min(c.lead+1, 4*crowdRun)
	case c.lead == 0:
		c.suspect, c.lead = k, 1
	default:
		c.lead--
	}
	return false
}

// accuse tells that k did what only strangers do. It reports whether k was
// found to be a mask just now.
func (c *crowd) accuse(k key) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.suspect != k || c.run < crowdRun || c.lead < crowdLead || c.masked.Load() {
		return false
	}
	c.public = 0
	c.masked.Store(true)
	return true
}

// carrierNAT is RFC 6598.
func carrierNAT(a netip.Addr) bool {
	if !a.Is4() {
		return false
	}
	b := a.As4()
	return b[0] == 100 && b[1]&0xc0 == 64
}

// local reports whether the canonical addr is of this machine or of a network
// around it. Loopback that may be banned is a test, and is not meant; nor is a
// trusted proxy, which tells the addresses of those behind it.
func (g *Guard) local(p *policy, addr netip.Addr) bool {
	switch {
	case !addr.IsValid(), contains(p.proxies, addr):
		return false
	case addr.IsLoopback():
		return contains(p.spared, addr)
	case addr.IsPrivate(), addr.IsLinkLocalUnicast(), carrierNAT(addr):
		return true
	}
	return contains(*g.own.Load(), addr)
}

// BansOff reports whether bans are switched off because all clients share one
// address, and which. What to do about it is told in docs/guard.md.
func (g *Guard) BansOff() (addr netip.Addr, off bool) {
	if !g.crowd.masked.Load() {
		return netip.Addr{}, false
	}
	g.crowd.mu.Lock()
	defer g.crowd.mu.Unlock()
	return g.crowd.suspect.prefix().Addr(), true
}
