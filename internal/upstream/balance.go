package upstream

import (
	"context"
	"math"
	"math/rand/v2"
	"time"
)

// Balance is how a pool spreads requests over its targets. Each way minds the
// targets' weights, and leaves out those that are down.
type Balance uint8

// The ways to balance.
const (
	// RoundRobin lets the targets take turns.
	RoundRobin Balance = iota

	// LeastRequests takes the target with the fewest requests under way.
	LeastRequests

	// RandomTwo takes the one of two targets, drawn at random, that has
	// fewer requests under way: nearly as even as LeastRequests, and without
	// its rush towards a target that answers fast because it is broken.
	RandomTwo

	// Hash sends requests of one key to one target. When a target is lost,
	// only its own keys move, evenly to the others (rendezvous hashing).
	Hash
)

// candidate is a target as choosing sees it.
type candidate struct {
	share  float64 // its weight, less while it starts slowly; 0: left out
	active float64 // requests under way
	seed   uint64  // of its name
	lead   float64 // smooth round robin: what it is owed; kept between choices
	probe  bool    // the request finds out whether it is back
}

// draw is what a choice depends on besides the candidates.
type draw struct {
	by        Balance
	even      bool // all weights are the same
	turn, key uint64
	chance    func() float64 // from [0,1)
}

// choose returns the candidate for one request; -1: there is none.
func choose(cs []candidate, d draw) int {
	switch d.by {
	case LeastRequests:
		return leastBusy(cs, d.turn)
	case RandomTwo:
		return twoChoices(cs, d.chance)
	case Hash:
		return rendezvous(cs, d.key)
	}
	if d.even {
		return inTurn(cs, d.turn)
	}
	return smooth(cs)
}

// inTurn takes the one whose turn it is among those that are not left out, so
// that the neighbour of one that is down does not get its share on top.
func inTurn(cs []candidate, turn uint64) int {
	n := uint64(0)
	for i := range cs {
		if cs[i].share > 0 {
			n++
		}
	}
	if n == 0 {
		return -1
	}
	skip := turn % n
	for i := range cs {
		if cs[i].share <= 0 {
			continue
		}
		if skip == 0 {
			return i
		}
		skip--
	}
	return -1
}

// smooth is weighted round robin without bursts: each candidate earns its
// share with every choice, and the richest one pays for all.
func smooth(cs []candidate) int {
	best, total := -1, 0.0
	for i := range cs {
		c := &cs[i]
		if c.share <= 0 {
			c.lead = 0
			continue
		}
		c.lead += c.share
		total += c.share
		if best < 0 || c.lead > cs[best].lead {
			best = i
		}
	}
	if best >= 0 {
		cs[best].lead -= total
	}
	return best
}

// load is how busy a candidate would be with one request more, by its share.
func (c *candidate) load() float64 { return (c.active + 1) / c.share }

// leastBusy takes the least busy one; among equals, the one whose turn it is.
func leastBusy(cs []candidate, turn uint64) int {
	best, n := -1, uint64(len(cs))
	for k := range n {
		i := int((turn + k) % n)
		if cs[i].share > 0 && (best < 0 || cs[i].load() < cs[best].load()) {
			best = i
		}
	}
	return best
}

// twoChoices draws two different candidates and takes the less busy one.
func twoChoices(cs []candidate, chance func() float64) int {
	first := drawOne(cs, -1, chance)
	if first < 0 {
		return first
	}
	second := drawOne(cs, first, chance)
	if second < 0 || cs[first].active <= cs[second].active {
		return first
	}
	return second
}

// drawOne draws a candidate other than not, by share.
func drawOne(cs []candidate, not int, chance func() float64) int {
	total := 0.0
	for i := range cs {
		if i != not {
			total += cs[i].share
		}
	}
	at, last := chance()*total, -1
	for i := range cs {
		if i == not || cs[i].share <= 0 {
			continue
		}
		last = i
		if at -= cs[i].share; at < 0 {
			break
		}
	}
	return last
}

// rendezvous takes the candidate with the highest score for the key. A score
// depends on the key, the name and the share of one candidate alone, which is
// what keeps the others' keys where they are (highest random weight).
func rendezvous(cs []candidate, key uint64) int {
	best, most := -1, 0.0
	for i := range cs {
		c := &cs[i]
		if c.share <= 0 {
			continue
		}
		u := (float64(mix(key^c.seed)>>11) + 0.5) / (1 << 53) // in (0,1)
		if score := -c.share / math.Log(u); best < 0 || score > most {
			best, most = i, score
		}
	}
	return best
}

// mix spreads the bits of x (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Key is the key for balancing by Hash that stands for s (FNV-1a, 64 bits). It
// is the same in every process, so that a restart moves nobody.
func Key[S ~string | ~[]byte](s S) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

type keyKey struct{}

// WithKey returns a context that makes RoundTrip balance by key, if its pool
// balances by Hash.
func WithKey(ctx context.Context, key uint64) context.Context {
	return context.WithValue(ctx, keyKey{}, key)
}

func keyOf(ctx context.Context) uint64 {
	key, _ := ctx.Value(keyKey{}).(uint64)
	return key
}

// firstShare is what a backend gets of its share at the beginning of a slow
// start: more than nothing, or it would never be tried.
const firstShare = 0.1

// ramp is how much of its share a backend gets that is back for age.
func ramp(age, slow time.Duration) float64 {
	if slow <= 0 || age >= slow {
		return 1
	}
	return firstShare + (1-firstShare)*max(0, float64(age)/float64(slow))
}

// pick chooses the backend for the next attempt of t.
func (p *Pool) pick(t *trip) (i int, probe, ok bool) {
	if p.special.Load() == 0 && t.tried == nil && p.plain {
		return int(t.turn % uint64(len(p.backends))), false, true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	even := p.even
	for i, b := range p.backends {
		use, probe := b.usable(now)
		c := &p.candidates[i]
		c.share, c.probe = 0, probe
		if !use || t.tried != nil && t.tried[i] {
			continue
		}
		c.share, c.active = b.weight, float64(b.active.Load())
		if b.special && !b.out {
			p.settleLocked(b, now) // it may have started by now
			c.share *= ramp(now.Sub(b.since), p.cfg.SlowStart)
			even = even && !b.special
		}
	}
	i = choose(p.candidates, draw{by: p.cfg.Balance, even: even, turn: t.turn, key: t.key, chance: rand.Float64})
	if i < 0 {
		return 0, false, false
	}
	if probe = p.candidates[i].probe; probe {
		p.backends[i].begins()
	}
	return i, probe, true
}
