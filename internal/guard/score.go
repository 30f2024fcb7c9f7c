package guard

import (
	"hash/maphash"
)

// scores is how suspicious each address is: a fixed table in which a key may
// live in any of the 4 slots of its set, so that looking, adding and evicting
// cost the same however many addresses come. A flood of new addresses pushes
// out the oldest of their set; it costs somebody a few points of suspicion,
// never a ban, and is counted.
type scores struct {
	seed  maphash.Seed
	mask  uint64 // number of sets - 1
	locks [stripes]stripe
	slots []score // guarded by the lock of their set
}

// A score is 40 bytes: a set is less than three cache lines.
type score struct {
	key    key
	points float32
	first  uint32 // ticks, see tick
	last   uint32
	counts counts
}

// A tick is a sixteenth of a second, counted from an epoch that does not
// matter: ticks are compared by their difference, which is good for 4 years
// either way.
const ticksPerSecond = 16

// since returns how many ticks went from then to now; 0 when the clock went
// backwards.
func since(now, then uint32) uint32 {
	if d := int32(now - then); d > 0 {
		return uint32(d)
	}
	return 0
}

func newScores(n int) *scores {
	n = roundSlots(n)
	return &scores{seed: maphash.MakeSeed(), mask: uint64(n/ways - 1), slots: make([]score, n)}
}

// add puts weight on k's score, which leaks by leak points a tick, and
// returns the score as it is now. When it reached the threshold it starts
// again from nothing. evicted tells that an address whose score still
// mattered had to go.
func (t *scores) add(k key, s Signal, weight, leak, threshold float32, now uint32) (got score, over, evicted bool) {
	set := k.hash(t.seed) & t.mask
	lock := &t.locks[set%stripes]
	lock.Lock()
	defer lock.Unlock()

	slot, evicted := t.find(set, k, leak, now)
	slot.points = slot.left(leak, now)
	if slot.points == 0 {
		slot.first, slot.counts = now, counts{}
	}
	slot.points += weight
	slot.counts = slot.counts.add(s)
	slot.last = now
	got = *slot
	if slot.points >= threshold {
		slot.points = 0
		return got, true, evicted
	}
	return got, false, evicted
}

// find returns k's slot in set, making it from an empty or the oldest one.
func (t *scores) find(set uint64, k key, leak float32, now uint32) (slot *score, evicted bool) {
	slots := t.slots[set*ways : set*ways+ways]
	oldest := &slots[0]
	for i := range slots {
		switch slots[i].key {
		case k:
			return &slots[i], false
		case 0:
			slots[i].key = k
			return &slots[i], false
		}
		if since(now, slots[i].last) > since(now, oldest.last) {
			oldest = &slots[i]
		}
	}
	evicted = oldest.left(leak, now) > 0
	*oldest = score{key: k}
	return oldest, evicted
}

// left is what remains of the points at now.
func (s *score) left(leak float32, now uint32) float32 {
	return max(0, s.points-leak*float32(since(now, s.last)))
}

// of returns what k's score is at now.
func (t *scores) of(k key, leak float32, now uint32) score {
	set := k.hash(t.seed) & t.mask
	lock := &t.locks[set%stripes]
	lock.Lock()
	defer lock.Unlock()
	for i := range ways {
		if s := t.slots[set*ways+uint64(i)]; s.key == k {
			s.points = s.left(leak, now)
			return s
		}
	}
	return score{key: k}
}

// drop forgets k's points.
func (t *scores) drop(k key) {
	set := k.hash(t.seed) & t.mask
	lock := &t.locks[set%stripes]
	lock.Lock()
	defer lock.Unlock()
	for i := range ways {
		if s := &t.slots[set*ways+uint64(i)]; s.key == k {
			s.points = 0
		}
	}
}
