package upstream

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// backend is a target with its connections. What it is thought of is guarded by
// the pool's lock, the connections by mu.
type backend struct {
	Target
	pool      *Pool
	transport *http.Transport
	fake      string             // address for net/http, which never uses it
	tlsBoth   *tls.Config        // offers h2 and http/1.1; nil without TLS
	tlsOne    *tls.Config        // offers http/1.1, for upgrades
	answered  prometheus.Counter // nil without metrics
	weight    float64
	active    atomic.Int64 // requests under way

	health   health
	breaker  *breaker // nil: none
	out      bool     // no request goes there, but to try it
	since    time.Time
	starts   bool      // it came back and starts slowly
	special  bool      // out or starts
	checking bool      // a check is under way
	checkAt  time.Time // of the next check; zero: none was planned yet

	mu      sync.Mutex
	idle    shelf[*conn] // HTTP/1.1, for RoundTrip
	links   shelf[*link] // HTTP/1.1, for Wire
	keep    keepAlive
	shared  []*conn   // HTTP/2, open
	dialing *dialCall // the one dial towards a backend that speaks HTTP/2
	h2      bool      // it does, as far as we know
	sweeper *time.Timer
	armed   bool // sweeper runs
	closed  bool
}

// usable reports whether a request may go to b, and whether it then finds out
// if b is back. The pool's lock is held.
func (b *backend) usable(now time.Time) (ok, probe bool) {
	ok, probe = b.health.usable(now)
	if !ok {
		return false, false
	}
	closed, trial := b.breaker.usable(now)
	return closed, probe || trial
}

// begins notes that a request finds out whether b is back. The pool's lock is
// held.
func (b *backend) begins() {
	b.health.probing = !b.health.up()
	if b.breaker.open() {
		b.breaker.trying = true
	}
}

// dialCall lets the requests that arrive together share one new HTTP/2
// connection.
type dialCall struct {
	done chan struct{}
	err  error // set before done is closed
	gone bool  // err is about the caller's context
}

// want says which connection a request can use.
type want struct {
	fresh bool  // HTTP/1.1: one that has carried no request yet
	h1    bool  // not HTTP/2
	not   *conn // HTTP/2: any but this one
}

// get returns a connection, from the pool if one will do. Errors are those of
// dialError, or ctx's.
func (b *backend) get(ctx context.Context, w want) (*conn, error) {
	for {
		b.mu.Lock()
		if c := b.takeLocked(w); c != nil {
			b.mu.Unlock()
			return c, nil
		}
		single := (b.h2c || b.h2) && !w.h1
		if !single {
			b.mu.Unlock()
			c, err := b.dial(ctx, w.h1)
			if err == nil {
				b.opened(c, w.h1)
			}
			return c, err
		}
		call := b.dialing
		if call == nil {
			call = &dialCall{done: make(chan struct{})}
			b.dialing = call
			b.mu.Unlock()
			return b.lead(ctx, call)
		}
		b.mu.Unlock()
		select {
		case <-call.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if call.err != nil && !call.gone {
			return nil, call.err
		}
	}
}

// lead dials for all who wait on call.
func (b *backend) lead(ctx context.Context, call *dialCall) (*conn, error) {
	c, err := b.dial(ctx, false)
	if err == nil {
		b.opened(c, false)
	}
	b.mu.Lock()
	b.dialing = nil
	b.mu.Unlock()
	call.err, call.gone = err, ctx.Err() != nil
	close(call.done)
	return c, err
}

// opened notes a new connection, which the caller holds.
func (b *backend) opened(c *conn, h1 bool) {
	b.pool.cfg.Metrics.opened(b.text)
	b.pool.reached(b)
	b.mu.Lock()
	defer b.mu.Unlock()
	if !h1 {
		b.h2 = c.tap == nil
	}
	if c.tap == nil {
		_ = c.cc.Reserve() // it is new: the first stream is ours
		c.lastUse = time.Now()
		b.shared = append(b.shared, c)
		b.armLocked(b.period())
	}
}

// takeLocked takes a connection out of the pool or reserves a stream on one.
func (b *backend) takeLocked(w want) *conn {
	if !w.h1 {
		for i := len(b.shared) - 1; i >= 0; i-- {
			c, now := b.shared[i], time.Now()
			if c == w.not || c.cc.InFlight() == 0 && b.expired(c, now) || c.cc.Reserve() != nil {
				continue
			}
			c.lastUse = now
			return c
		}
	}
	for !w.fresh {
		now := time.Now()
		c, _, ok := b.idle.take(now, b.limitLocked(now))
		if !ok {
			return nil
		}
		if c.cc.Err() == nil {
			return c
		}
	}
	return nil
}

// limitLocked is how long an idle HTTP/1.1 connection is kept.
func (b *backend) limitLocked(now time.Time) time.Duration {
	return b.keep.limit(b.pool.cfg.Idle, now)
}

// put keeps an HTTP/1.1 connection for the next request. It reports false if
// there is no room for it.
func (b *backend) put(c *conn) bool { return shelve(b, &b.idle, c) }

func shelve[C io.Closer](b *backend, s *shelf[C], c C) bool {
	b.mu.Lock()
	if b.closed || b.pool.cfg.Idle <= 0 {
		b.mu.Unlock()
		return false
	}
	now := time.Now()
	oldest, full := s.put(c, now, b.pool.cfg.MaxIdlePerTarget)
	if !b.armed {
		b.armLocked(b.limitLocked(now))
	}
	b.mu.Unlock()
	if full {
		_ = oldest.Close()
	}
	return true
}

// touch notes that a stream of a shared connection ended.
func (b *backend) touch(c *conn) {
	b.mu.Lock()
	c.lastUse = time.Now()
	b.mu.Unlock()
}

// expired reports whether a shared connection was idle too long.
func (b *backend) expired(c *conn, now time.Time) bool {
	return idleFor(c.lastUse, now) >= b.pool.cfg.Idle
}

// period is how often the sweeper looks at connections it cannot date.
func (b *backend) period() time.Duration {
	if b.closed || b.pool.cfg.Idle <= 0 {
		return time.Second
	}
	return b.pool.cfg.Idle
}

func (b *backend) armLocked(d time.Duration) {
	switch {
	case b.armed:
		return
	case b.sweeper == nil:
		b.sweeper = time.AfterFunc(d, b.sweep)
	default:
		b.sweeper.Reset(d)
	}
	b.armed = true
}

// sweep closes what has been idle too long. It runs on its own only while
// there are connections to watch.
func (b *backend) sweep() {
	now := time.Now()
	var dead []io.Closer
	b.mu.Lock()
	b.armed = false
	limit := b.limitLocked(now)
	if b.closed {
		limit = 0
	}
	dead = b.idle.expire(dead, now, limit)
	dead = b.links.expire(dead, now, limit)
	next := b.period()
	if d, ok := b.idle.left(now, limit); ok {
		next = min(next, d)
	}
	if d, ok := b.links.left(now, limit); ok {
		next = min(next, d)
	}
	open := b.shared[:0]
	for _, c := range b.shared {
		busy := c.cc.InFlight() > 0
		switch {
		case c.cc.Err() != nil:
			continue
		case !busy && (b.closed || b.expired(c, now)):
			dead = append(dead, c)
			continue
		case !busy:
			next = min(next, max(b.pool.cfg.Idle-idleFor(c.lastUse, now), time.Millisecond))
		}
		open = append(open, c)
	}
	clear(b.shared[len(open):])
	b.shared = open
	if len(b.shared)+len(b.idle.list)+len(b.links.list) > 0 {
		b.armLocked(next)
	}
	b.mu.Unlock()
	for _, c := range dead {
		_ = c.Close()
	}
}

// close closes the idle connections now and the others after their exchange.
func (b *backend) close() {
	b.mu.Lock()
	b.closed = true
	if b.armed {
		b.sweeper.Stop()
	}
	b.mu.Unlock()
	b.sweep()
}
