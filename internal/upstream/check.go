package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// Check is an active health check: a GET that every target of a pool is asked
// again and again.
type Check struct {
	Path     string        // of the request, query included
	Host     string        // its Host; "": the target's own
	Interval time.Duration // between two checks of one target, give or take a tenth
	Timeout  time.Duration // for one check, connection included

	// A target that is up is left out after Unhealthy checks that were not
	// passed in a row, and one that is not comes back after Healthy ones
	// that were.
	Healthy, Unhealthy int

	// From and To bound the statuses that pass.
	From, To int
}

// maxChecks bounds the checks under way at one time.
const maxChecks = 32

// Watch checks the targets of pools: those with a Check by it, and those
// without, while a dial has failed, by dialling them, so that they are known
// to be back without a request. The zero value has no pools. It is safe for
// concurrent use.
type Watch struct {
	mu    sync.Mutex
	pools []*Pool       // guarded by mu
	wake  chan struct{} // guarded by mu; holds one
}

// Set makes pools those that are watched.
func (w *Watch) Set(pools []*Pool) {
	w.mu.Lock()
	w.pools = pools
	w.mu.Unlock()
	for _, p := range pools {
		p.watch.Store(w)
	}
	w.poke()
}

// poke makes Run look at once.
func (w *Watch) poke() {
	select {
	case w.bell() <- struct{}{}:
	default:
	}
}

func (w *Watch) bell() chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wake == nil {
		w.wake = make(chan struct{}, 1)
	}
	return w.wake
}

// Run checks until ctx is done. It runs once at a time. The goroutines of the
// checks are its own: it waits for them.
func (w *Watch) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	slots := make(chan struct{}, maxChecks)
	bell := w.bell()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-bell:
		case <-timer.C:
		}
		w.mu.Lock()
		pools := w.pools
		w.mu.Unlock()
		now, next := time.Now(), time.Now().Add(time.Hour)
		for _, p := range pools {
			for _, b := range p.backends {
				due, at := p.dueCheck(b, now, len(slots) == cap(slots))
				if !due {
					next = earlier(next, at)
					continue
				}
				slots <- struct{}{} // there is room: only this goroutine takes it
				running.Go(func() {
					p.check(ctx, b)
					<-slots
					w.poke()
				})
			}
		}
		timer.Reset(max(time.Until(next), time.Millisecond))
	}
}

func earlier(a, b time.Time) time.Time {
	if b.IsZero() || a.Before(b) {
		return a
	}
	return b
}

// dueCheck reports whether b is to be checked now, and notes that it is then,
// or when it is; zero: when something changes. full: there is no room now.
func (p *Pool) dueCheck(b *backend, now time.Time, full bool) (due bool, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case b.checking || p.shut:
		return false, time.Time{}
	case p.cfg.Check != nil && b.checkAt.IsZero(): // not all at once after a start
		b.checkAt = now.Add(time.Duration(rand.Float64() * float64(min(p.cfg.Check.Interval, time.Second))))
		at = b.checkAt
	case p.cfg.Check != nil:
		at = b.checkAt
	case b.health.up() || b.health.probing:
		return false, time.Time{}
	default:
		at = b.health.next
	}
	if full || now.Before(at) {
		return false, at
	}
	b.checking = true
	if p.cfg.Check == nil {
		b.health.probing = true
	}
	return true, at
}

// check checks b once and notes what it finds.
func (p *Pool) check(ctx context.Context, b *backend) {
	rule := p.cfg.Check
	var err error
	if rule == nil {
		err = b.knock(ctx)
	} else {
		err = b.ask(ctx, rule)
	}
	if ctx.Err() != nil {
		p.mu.Lock()
		b.checking = false
		b.health.abandoned()
		p.mu.Unlock()
		return
	}
	if rule == nil {
		p.mu.Lock()
		b.checking = false
		p.mu.Unlock()
		switch {
		case err == nil:
			p.reached(b)
		case isLocal(err):
			p.abandoned(b)
		default:
			p.dialFailed(b, err)
		}
		return
	}
	result := "passed"
	if err != nil {
		result = "failed"
	}
	p.cfg.Metrics.check(b.text, result)
	now := time.Now()
	p.mu.Lock()
	b.checking = false
	b.checkAt = now.Add(jitter(rule.Interval, rand.Float64()))
	since := b.since
	b.health.checked(err, rule, b.checkAt)
	changed := p.settleLocked(b, now)
	out := b.out
	p.mu.Unlock()
	if changed {
		p.logChange(b, out, now.Sub(since), "check", err)
	}
}

// jitter is d, less or more by up to a tenth. chance is from [0,1).
func jitter(d time.Duration, chance float64) time.Duration {
	return d - d/10 + time.Duration(chance*float64(d)/5)
}

func (p *Pool) logChange(b *backend, out bool, since time.Duration, class string, err error) {
	if !out {
		p.cfg.Log.Info("backend up", "target", b.text, "down_for", since.Round(time.Millisecond))
		return
	}
	attrs := []any{slog.String("target", b.text), slog.String("class", class)}
	if err != nil {
		attrs = append(attrs, slog.Any("err", err))
	}
	p.cfg.Log.Warn("backend down", attrs...)
}

// knock opens a connection and closes it.
func (b *backend) knock(ctx context.Context) error {
	nc, _, err := b.connect(ctx, b.tlsOne)
	if err == nil {
		_ = nc.Close() // nothing was sent on it
	}
	return err
}

// ask makes the request of an active check, on a connection of its own.
func (b *backend) ask(ctx context.Context, rule *Check) error {
	ctx, cancel := context.WithTimeoutCause(ctx, rule.Timeout, errCheckLate)
	defer cancel()
	c, err := b.dial(ctx, false)
	if err != nil {
		return checkError(ctx, rule, err)
	}
	defer c.Close()
	r := (&http.Request{
		Method: http.MethodGet, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		URL: &url.URL{Opaque: rule.Path}, Host: rule.Host,
		Header: http.Header{"User-Agent": {"postern-health-check"}},
	}).WithContext(ctx)
	if r.Host == "" {
		r.Host = b.host
	}
	resp, err := c.cc.RoundTrip(c.plain(r))
	if err != nil {
		return checkError(ctx, rule, err)
	}
	// A check that closes early would look like a client that left.
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	_ = resp.Body.Close() // all of it was read, or none is wanted
	if resp.StatusCode < rule.From || resp.StatusCode > rule.To {
		return fmt.Errorf("check %s: status %d, want %d-%d", rule.Path, resp.StatusCode, rule.From, rule.To)
	}
	return nil
}

var errCheckLate = errors.New("no answer in time")

func checkError(ctx context.Context, rule *Check, err error) error {
	if ctx.Err() != nil && context.Cause(ctx) == errCheckLate {
		return fmt.Errorf("check %s: no answer within %s", rule.Path, rule.Timeout)
	}
	return fmt.Errorf("check %s: %w", rule.Path, err)
}

// plain is outgoing for a connection that serves one check.
func (c *conn) plain(r *http.Request) *http.Request {
	out := c.outgoing(r)
	if c.tap != nil {
		c.tap.begin(c.requestLine(out))
	}
	return out
}
