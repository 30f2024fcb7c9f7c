package guard

import (
	"hash/maphash"
	"net/netip"
	"time"
)

// answers remembers what backends answered to each address lately, as far as
// it matters: a fixed table like scores.
type answers struct {
	seed  maphash.Seed
	mask  uint64
	locks [stripes]stripe
	slots []answerSlot // guarded by the lock of their set
}

// An answerSlot is a cache line.
type answerSlot struct {
	key    key
	last   uint32 // ticks
	found  uint16 // answers that were no failure, since the first that was
	missed uint16 // distinct paths that are not there
	denied uint16
	next   uint16 // where the next path goes
	paths  [recentPaths]uint32
}

const (
	answerSlots = 1024
	recentPaths = 10
	// answersKept is how long an address must be quiet to start afresh.
	answersKept = 10 * 60 * ticksPerSecond
	// answersFree is how many failures are taken for mistakes, beside one for
	// each success.
	answersFree = 2
)

func newAnswers(n int) *answers {
	n = roundSlots(n)
	return &answers{seed: maphash.MakeSeed(), mask: uint64(n/ways - 1), slots: make([]answerSlot, n)}
}

// note adds one answer and tells whether it is a sign.
func (t *answers) note(k key, status int, path string, now uint32) (s Signal, sign bool) {
	failed := status == 404 || status == 410 || status == 401 || status == 403
	if !failed && status >= 400 {
		return 0, false
	}
	set := k.hash(t.seed) & t.mask
	lock := &t.locks[set%stripes]
	lock.Lock()
	defer lock.Unlock()
	slot := t.find(set, k, failed, now)
	if slot == nil {
		return 0, false
	}
	slot.last = now
	switch {
	case !failed:
		slot.found = min(slot.found, 1<<15) + 1
		return 0, false
	case status == 401 || status == 403:
		slot.denied = min(slot.denied, 1<<15) + 1
		return AuthFailure, slot.denied > slot.found+answersFree
	}
	hash := pathHash(path)
	for _, have := range slot.paths {
		if have == hash {
			return 0, false
		}
	}
	slot.paths[slot.next%recentPaths] = hash
	slot.next = (slot.next + 1) % recentPaths
	slot.missed = min(slot.missed, 1<<15) + 1
	return MissingPath, slot.missed > slot.found+answersFree
}

// find returns k's slot. A new one, in place of the one that was quiet for
// longest, is made for a failure only.
func (t *answers) find(set uint64, k key, make bool, now uint32) *answerSlot {
	slots := t.slots[set*ways : set*ways+ways]
	oldest := &slots[0]
	for i := range slots {
		s := &slots[i]
		if s.key == k {
			if since(now, s.last) > answersKept {
				*s = answerSlot{key: k}
			}
			return s
		}
		if oldest.key != 0 && (s.key == 0 || since(now, s.last) > since(now, oldest.last)) {
			oldest = s
		}
	}
	if !make {
		return nil
	}
	*oldest = answerSlot{key: k}
	return oldest
}

// pathHash is a hash (FNV-1a) of the shape of a path: numbers and long
// hexadecimal words count as equal, because a caller that goes through ids
// asks for one thing many times. It is never 0.
func pathHash(path string) uint32 {
	const offset, prime = 2166136261, 16777619
	h := uint32(offset)
	for i := 0; i < len(path); {
		n := idLength(path[i:])
		c := path[i]
		if n > 0 {
			c, i = '0', i+n
		} else {
			i++
		}
		h = (h ^ uint32(c)) * prime
	}
	return max(h, 1)
}

// idLength is how many bytes of s are an id: digits, or at least 8 of what
// hexadecimal numbers and UUIDs have, a digit among them.
func idLength(s string) int {
	digits, n := 0, 0
	for n < len(s) && (unhex(s[n]) <= 15 || s[n] == '-') {
		if '0' <= s[n] && s[n] <= '9' {
			digits++
		}
		n++
	}
	if n >= 8 && digits > 0 {
		return n
	}
	for n = 0; n < len(s) && '0' <= s[n] && s[n] <= '9'; n++ {
	}
	return n
}

// Answered tells what a backend answered to a request of addr for path, which
// is the raw path without the query. An address that asks for many distinct
// paths that are not there, or is denied again and again, and finds little
// else, is scored. It allocates nothing and never waits.
func (g *Guard) Answered(addr netip.Addr, status int, path string, ev Evidence, now time.Time) {
	p := g.policy.Load()
	if p.mode == Off {
		return
	}
	k := keyOf(canonical(addr))
	if k == 0 {
		return
	}
	if s, sign := g.answers.note(k, status, path, uint32(g.at(now)/tick)); sign {
		g.Report(addr, s, ev, now)
	}
}
