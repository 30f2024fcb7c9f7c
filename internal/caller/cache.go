package caller

import (
	"container/list"
	"crypto/sha256"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxVerified = 4096             // tokens that were verified
	maxRefused  = 1024             // tokens that were refused
	keepRefused = 10 * time.Second // how long a refusal is remembered
)

// cache remembers what tokens were worth, by their hash. Those that were
// refused have a room of their own, so that nobody can push out good ones by
// sending bad ones. What was judged with other keys of the issuers does not
// count any more.
type cache struct {
	version *atomic.Uint64 // of the issuers' keys
	metrics *metrics
	good    room
	bad     room
}

// room is a bounded map that forgets what was used longest ago.
type room struct {
	max  int
	mu   sync.Mutex
	by   map[[sha256.Size]byte]*list.Element // guarded by mu
	used list.List                           // guarded by mu; of *remembered, the latest first
}

type remembered struct {
	hash    [sha256.Size]byte
	res     Result
	until   time.Time
	version uint64
}

func newCache(version *atomic.Uint64, m *metrics) *cache {
	c := &cache{version: version, metrics: m}
	c.good.max, c.bad.max = maxVerified, maxRefused
	c.good.by, c.bad.by = make(map[[sha256.Size]byte]*list.Element), make(map[[sha256.Size]byte]*list.Element)
	return c
}

// find returns what the token with the hash is worth, if that is known.
func (c *cache) find(hash *[sha256.Size]byte, now time.Time) (Result, bool) {
	version := c.version.Load()
	if res, ok := c.good.find(hash, version, now); ok {
		return res, true
	}
	return c.bad.find(hash, version, now)
}

// add remembers what a token is worth until then; a zero time: not at all.
func (c *cache) add(hash *[sha256.Size]byte, res Result, until time.Time, version uint64, now time.Time) {
	if !until.After(now) {
		return
	}
	to := &c.good
	if res.Identity == nil {
		to = &c.bad
	}
	if to.add(&remembered{*hash, res, until, version}) {
		c.metrics.evicted.Inc()
	}
}

func (r *room) find(hash *[sha256.Size]byte, version uint64, now time.Time) (Result, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.by[*hash]
	if e == nil {
		return Result{}, false
	}
	m := e.Value.(*remembered)
	if m.version != version || now.After(m.until) {
		r.used.Remove(e)
		delete(r.by, *hash)
		return Result{}, false
	}
	r.used.MoveToFront(e)
	return m.res, true
}

func (r *room) add(m *remembered) (evicted bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.by[m.hash]; e != nil {
		e.Value = m
		r.used.MoveToFront(e)
		return false
	}
	r.by[m.hash] = r.used.PushFront(m)
	if r.used.Len() <= r.max {
		return false
	}
	oldest := r.used.Back()
	r.used.Remove(oldest)
	delete(r.by, oldest.Value.(*remembered).hash)
	return true
}
