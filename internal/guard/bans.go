package guard

import (
	"cmp"
	"hash/maphash"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Ban is one address that is refused, and why.
type Ban struct {
	// Prefix is what is banned: an IPv4 address (/32), an IPv6 /64 network, or
	// a neighbourhood (/24, /48).
	Prefix netip.Prefix
	// Reason is the name of the signal that weighed most, "network" for a
	// neighbourhood of many that were banned, or "manual".
	Reason string
	// Since and Until bound the ban.
	Since, Until time.Time
	// First and Last are when the first and the last of Signals were seen.
	// Both are zero for a ban by hand.
	First, Last time.Time
	// Signals are what counted, in the order of their declaration.
	Signals []SignalCount
	// Past is the number of earlier bans that were not forgotten yet.
	Past int
	// Trial tells that the guard only detects: nothing is refused.
	Trial bool
	// Drop tells that its packets may be dropped before they reach us. It is
	// false on trial, for addresses others share with it (AWS), and while
	// bans are switched off.
	Drop bool
	// Note is what the operator gave as reason for a ban by hand.
	Note string
}

// A SignalCount tells how often a signal was seen. It stops counting at 255.
type SignalCount struct {
	Signal Signal
	Count  int
}

// The reasons that are no signals: a ban by hand, and one of a neighbourhood.
const (
	reasonManual  = 0xff
	reasonNetwork = 0xfe
)

// never is the end of a ban that is not there.
const never = math.MinInt64

// bans holds who is banned and who was: an entry stays when its ban is over,
// so that the next one is longer, until it is forgotten or its room is
// needed. It holds max entries; a further one replaces the one whose ban ended
// first. A ban that lasts makes room for nothing but a ban by hand: a flood
// cannot get anybody out of here.
//
// Readers take no lock: they probe slots, an open-addressing table at most
// half full whose fields are atomic. Writers hold mu. Times are nanoseconds
// since the guard's epoch.
type bans struct {
	seed  maphash.Seed
	slots []banSlot
	// gen is odd while entries change places, which may hide one from a
	// reader; a reader looks again if gen moved meanwhile.
	gen atomic.Uint64
	// networks is how many entries are neighbourhoods; without any, nobody
	// looks for one.
	networks atomic.Int32

	mu      sync.Mutex
	entries []int32        // guarded by mu; slot -> record
	records []banRecord    // guarded by mu; fixed length
	heap    []int32        // guarded by mu; records, the ban that ends first on top
	free    []int32        // guarded by mu; records given back
	notes   map[key]string // guarded by mu; of bans by hand only
	version uint64         // guarded by mu; changes with what is persisted
}

type banSlot struct {
	key   atomic.Uint64
	until atomic.Int64
}

// A banRecord is what readers need not see.
type banRecord struct {
	key         key
	since       int64
	until       int64
	first, last int64
	counts      counts
	place       int32 // in heap
	past        uint8
	reason      uint8 // a Signal, reasonManual or reasonNetwork
	trial       bool
	shared      bool // an address many share, see Guard.SetShared
}

func newBans(n int) *bans {
	size := 64
	for size < 2*n {
		size *= 2
	}
	return &bans{
		seed:    maphash.MakeSeed(),
		slots:   make([]banSlot, size),
		entries: make([]int32, size),
		records: make([]banRecord, 0, n),
		heap:    make([]int32, 0, n),
		notes:   make(map[key]string),
	}
}

// until returns when k's ban ends, or ended; never if there is none. It takes
// no lock and allocates nothing.
func (t *bans) until(k key) int64 {
	// A writer moves entries for less than a microsecond, and only when a ban
	// is taken away. Should it be stopped in the middle of that, what was
	// found last has to do.
	const tries = 64
	got := int64(never)
	for range tries {
		gen := t.gen.Load()
		got = t.probe(k)
		if gen&1 == 0 && t.gen.Load() == gen {
			break
		}
	}
	return got
}

// probe looks for k once.
func (t *bans) probe(k key) int64 {
	mask := uint64(len(t.slots) - 1)
	// The bound only matters to a reader that is overtaken by many writers.
	for i, left := k.hash(t.seed)&mask, len(t.slots); left > 0; i, left = (i+1)&mask, left-1 {
		slot := &t.slots[i]
		switch slot.key.Load() {
		case uint64(k):
			until := slot.until.Load()
			// Between the two loads the slot may have become another's.
			if slot.key.Load() == uint64(k) {
				return until
			}
			return never
		case 0:
			return never
		}
	}
	return never
}

// banned reports whether k, or its neighbourhood, is banned at the time now.
func (t *bans) banned(k key, now int64) bool {
	if until := t.until(k); until != never && until > now {
		return true
	}
	if t.networks.Load() == 0 {
		return false
	}
	until := t.until(k.network())
	return until != never && until > now
}

// putLocked makes r the entry of r.key. evicted tells that a ban that still
// lasted had to go for it; full that r was not kept, because all others last.
func (t *bans) putLocked(r banRecord, now int64) (evicted, full bool) {
	i := t.slotLocked(r.key)
	known := t.slots[i].key.Load() == uint64(r.key)
	if !known && len(t.heap) == cap(t.heap) && t.records[t.heap[0]].until > now && r.reason != reasonManual {
		return false, true
	}
	t.version++
	if r.reason != reasonManual {
		delete(t.notes, r.key)
	}
	if known {
		old := &t.records[t.entries[i]]
		r.place = old.place
		*old = r
		t.slots[i].until.Store(r.until)
		t.fixLocked(old.place)
		return false, false
	}
	if len(t.heap) == cap(t.heap) {
		first := &t.records[t.heap[0]]
		evicted = first.until > now
		t.dropLocked(first.key)
		i = t.slotLocked(r.key) // entries may have moved
	}
	n := t.recordLocked()
	r.place = int32(len(t.heap))
	t.records[n] = r
	t.heap = append(t.heap, n)
	t.fixLocked(r.place)
	t.entries[i] = n
	t.slots[i].until.Store(r.until)
	t.slots[i].key.Store(uint64(r.key))
	if r.key.isNetwork() {
		t.networks.Add(1)
	}
	return evicted, false
}

// recordLocked returns the index of a record nobody uses.
func (t *bans) recordLocked() int32 {
	if n := len(t.free); n > 0 {
		r := t.free[n-1]
		t.free = t.free[:n-1]
		return r
	}
	t.records = append(t.records, banRecord{})
	return int32(len(t.records) - 1)
}

// getLocked returns k's entry, nil if there is none.
func (t *bans) getLocked(k key) *banRecord {
	if i := t.slotLocked(k); t.slots[i].key.Load() != 0 {
		return &t.records[t.entries[i]]
	}
	return nil
}

// slotLocked returns the slot of k, or the empty one where it would go.
func (t *bans) slotLocked(k key) uint64 {
	mask := uint64(len(t.slots) - 1)
	i := k.hash(t.seed) & mask
	for {
		if have := t.slots[i].key.Load(); have == 0 || have == uint64(k) {
			return i
		}
		i = (i + 1) & mask
	}
}

// dropLocked removes k's entry and reports whether there was one.
func (t *bans) dropLocked(k key) bool {
	i := t.slotLocked(k)
	if t.slots[i].key.Load() == 0 {
		return false
	}
	t.version++
	n := t.entries[i]
	t.unheapLocked(t.records[n].place)
	t.free = append(t.free, n)
	if t.records[n].reason == reasonManual {
		delete(t.notes, k)
	}
	if k.isNetwork() {
		t.networks.Add(-1)
	}

	// Close the gap, so that no later key of the same run gets out of reach.
	t.gen.Add(1)
	mask := uint64(len(t.slots) - 1)
	for j := (i + 1) & mask; ; j = (j + 1) & mask {
		moved := key(t.slots[j].key.Load())
		if moved == 0 {
			break
		}
		if (j-moved.hash(t.seed))&mask < (j-i)&mask {
			continue
		}
		// never comes first: no reader may see one's key with the other's end.
		t.slots[i].until.Store(never)
		t.slots[i].key.Store(uint64(moved))
		t.slots[i].until.Store(t.slots[j].until.Load())
		t.entries[i] = t.entries[j]
		i = j
	}
	t.slots[i].until.Store(never)
	t.slots[i].key.Store(0)
	t.gen.Add(1)
	return true
}

// forgetLocked removes the entries whose ban ended before the time limit.
func (t *bans) forgetLocked(limit int64) {
	for len(t.heap) > 0 && t.records[t.heap[0]].until < limit {
		t.dropLocked(t.records[t.heap[0]].key)
	}
}

// active counts the bans that last at the time now.
func (t *bans) active(now int64) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, i := range t.heap {
		if t.records[i].until > now {
			n++
		}
	}
	return n
}

// snapshot returns a copy of the entries that keep says yes to, the ban that
// ends last first, and the version they are of.
func (t *bans) snapshot(keep func(*banRecord) bool) (got []banRecord, notes map[key]string, version uint64) {
	notes = make(map[key]string)
	t.mu.Lock()
	for _, i := range t.heap {
		r := &t.records[i]
		if !keep(r) {
			continue
		}
		got = append(got, *r)
		if note, ok := t.notes[r.key]; ok {
			notes[r.key] = note
		}
	}
	version = t.version
	t.mu.Unlock()
	slices.SortFunc(got, func(a, b banRecord) int {
		return cmp.Or(cmp.Compare(b.until, a.until), cmp.Compare(a.key, b.key))
	})
	return got, notes, version
}

// The heap orders records by the end of their ban. container/heap would
// allocate for each.

// fixLocked moves the record at place to where it belongs.
func (t *bans) fixLocked(place int32) {
	t.upLocked(place)
	t.downLocked(place)
}

func (t *bans) upLocked(i int32) {
	for i > 0 {
		parent := (i - 1) / 2
		if !t.swapLocked(parent, i) {
			break
		}
		i = parent
	}
	t.records[t.heap[i]].place = i
}

func (t *bans) downLocked(i int32) {
	for {
		child := 2*i + 1
		if int(child) >= len(t.heap) {
			break
		}
		if r := child + 1; int(r) < len(t.heap) && t.end(r) < t.end(child) {
			child = r
		}
		if !t.swapLocked(i, child) {
			break
		}
		i = child
	}
}

// swapLocked exchanges parent and child if the child's ban ends first.
func (t *bans) swapLocked(parent, child int32) bool {
	if t.end(parent) <= t.end(child) {
		return false
	}
	t.heap[parent], t.heap[child] = t.heap[child], t.heap[parent]
	t.records[t.heap[parent]].place = parent
	t.records[t.heap[child]].place = child
	return true
}

func (t *bans) end(i int32) int64 { return t.records[t.heap[i]].until }

// unheapLocked takes the record at place out of the heap.
func (t *bans) unheapLocked(place int32) {
	last := int32(len(t.heap) - 1)
	t.heap[place] = t.heap[last]
	t.records[t.heap[place]].place = place
	t.heap = t.heap[:last]
	if place < last {
		t.fixLocked(place)
	}
}
