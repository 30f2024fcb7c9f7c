package guard

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"
)

// trust remembers which addresses proved who they are not long ago. It is a
// fixed table like scores: a caller that is pushed out is remembered again
// with its next request.
type trust struct {
	seed  maphash.Seed
	mask  uint64
	used  atomic.Bool // somebody was ever trusted; without, nobody looks
	locks [stripes]stripe
	slots []arrival // guarded by the lock of their set; tat is when trust ends
}

// trustSlots is how many addresses are remembered; 16 bytes each.
const trustSlots = 4096

func newTrust(n int) *trust {
	n = roundSlots(n)
	return &trust{seed: maphash.MakeSeed(), mask: uint64(n/ways - 1), slots: make([]arrival, n)}
}

// put makes k trusted until the given time, in place of the one of its set
// whose trust ends first.
func (t *trust) put(k key, until int64) {
	set := k.hash(t.seed) & t.mask
	lock := &t.locks[set%stripes]
	lock.Lock()
	defer lock.Unlock()
	slots := t.slots[set*ways : set*ways+ways]
	first := &slots[0]
	for i := range slots {
		s := &slots[i]
		if s.key == k || s.key == 0 {
			first = s
			break
		}
		if s.tat < first.tat {
			first = s
		}
	}
	*first = arrival{k, until}
	t.used.Store(true)
}

// has reports whether k is trusted at the time now.
func (t *trust) has(k key, now int64) bool {
	if !t.used.Load() {
		return false
	}
	set := k.hash(t.seed) & t.mask
	lock := &t.locks[set%stripes]
	lock.Lock()
	defer lock.Unlock()
	for _, s := range t.slots[set*ways : set*ways+ways] {
		if s.key == k {
			return s.tat > now
		}
	}
	return false
}

// Authenticated tells that a request of addr proved who sent it, at the time
// now. For Config.Trust from then on, the address is not scored, so that no
// ban begins, and one that it has refuses requests of strangers rather than
// connections: callers share addresses with others. It never waits, and may be
// called for every such request.
func (g *Guard) Authenticated(addr netip.Addr, now time.Time) {
	p := g.policy.Load()
	if k := keyOf(canonical(addr)); k != 0 && p.trust > 0 {
		g.trust.put(k, g.at(now)+int64(p.trust))
	}
}

// Trusted reports whether addr was Authenticated lately.
func (g *Guard) Trusted(addr netip.Addr, now time.Time) bool {
	return g.trust.has(keyOf(canonical(addr)), g.at(now))
}
