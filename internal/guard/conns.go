package guard

import (
	"hash/maphash"
	"sync"
)

// conns counts open connections, by client and in total. It is an exact map
// of fixed size (open addressing, linear probing): there are never more
// clients in it than connections are allowed, so nothing is ever evicted.
type conns struct {
	seed maphash.Seed

	mu    sync.Mutex
	total int        // guarded by mu
	slots []connSlot // guarded by mu; a power of two, at most half full
}

type connSlot struct {
	key key
	n   int
}

// newConns makes a table for up to limit connections.
func newConns(limit int) *conns {
	c := &conns{seed: maphash.MakeSeed()}
	c.slots = make([]connSlot, connSlots(limit))
	return c
}

func connSlots(limit int) int {
	n := 64
	for n < 2*limit {
		n *= 2
	}
	return n
}

// open counts a connection of k, unless that makes more than total
// connections, or more than perKey of k; perKey 0 means no bound.
func (c *conns) open(k key, total, perKey int) Reason {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.total >= total {
		return TotalConnections
	}
	slot := &c.slots[c.home(k)]
	if perKey > 0 && slot.n >= perKey {
		return AddressConnections
	}
	slot.key = k
	slot.n++
	c.total++
	return None
}

// close takes back what open counted. An unknown k is ignored.
func (c *conns) close(k key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := c.home(k)
	if c.slots[i].n == 0 {
		return
	}
	c.total--
	if c.slots[i].n--; c.slots[i].n == 0 {
		c.remove(i)
	}
}

// home returns the index of k's slot, or of the empty one where it would go.
// A slot is empty when its count is 0.
func (c *conns) home(k key) uint64 {
	mask := uint64(len(c.slots) - 1)
	for i := k.hash(c.seed) & mask; ; i = (i + 1) & mask {
		if c.slots[i].n == 0 || c.slots[i].key == k {
			return i
		}
	}
}

// remove empties slot i and closes the gap, so that no later key of the same
// run of slots gets out of reach.
func (c *conns) remove(i uint64) {
	mask := uint64(len(c.slots) - 1)
	c.slots[i] = connSlot{}
	for j := (i + 1) & mask; c.slots[j].n != 0; j = (j + 1) & mask {
		if want := c.slots[j].key.hash(c.seed) & mask; (j-want)&mask >= (j-i)&mask {
			c.slots[i], c.slots[j] = c.slots[j], connSlot{}
			i = j
		}
	}
}

// grow makes room for limit connections. The table never shrinks: what is
// open now must stay counted.
func (c *conns) grow(limit int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.slots
	if connSlots(limit) <= len(old) {
		return
	}
	c.slots = make([]connSlot, connSlots(limit))
	for _, s := range old {
		if s.n > 0 {
			c.slots[c.home(s.key)] = s
		}
	}
}

// count returns the connections open in total.
func (c *conns) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total
}
