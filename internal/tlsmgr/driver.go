package tlsmgr

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// The driver obtains first certificates. Renewals are certmagic's:
// it looks every ten minutes, asks for ARI windows and spaces its
// own retries. A driver that knows about DNS outages replaces drive, keeps
// engine.obtain, engine.load and engine.renewDue, and feeds states as this one
// does; nothing else in the package decides about attempts.

const (
	attemptTimeout = 3 * time.Minute
	attemptsAtOnce = 4
	driverLook     = time.Minute // at the latest, look again
)

// nameState is what happened to a managed name.
type nameState struct {
	fails       int       // attempts in a row that failed
	next        time.Time // no attempt before; zero means at once
	lastAttempt time.Time
	lastError   string // in the authority's words; empty after a success
	lastErrorAt time.Time
}

// states holds one nameState for each managed name.
type states struct {
	mu sync.Mutex
	m  map[string]nameState // guarded by mu
}

func newStates() *states { return &states{m: map[string]nameState{}} }

// keep forgets every name but those given, and learns new ones.
func (s *states) keep(names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := make(map[string]nameState, len(names))
	for _, n := range names {
		st := s.m[n]
		st.next = time.Time{} // a reload may have cured the cause: try at once
		next[n] = st
	}
	s.m = next
}

func (s *states) get(name string) nameState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m[name]
}

// all returns a copy.
func (s *states) all() map[string]nameState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.m)
}

// update changes the state of a name that is still managed, and returns what
// it was.
func (s *states) update(name string, f func(*nameState)) (before nameState, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ok := s.m[name]
	if !ok {
		return st, false
	}
	before = st
	f(&st)
	s.m[name] = st
	return before, true
}

// kick makes the driver look again.
func (m *Manager) kick() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// drive obtains missing certificates until ctx ends.
func (m *Manager) drive(ctx context.Context) error {
	var renewals errgroup.Group // one look at what is due; it may wait for ARI answers, so it does not hold up the rest
	renewals.Go(func() error { m.eng.renewDue(ctx); return nil })
	defer func() { _ = renewals.Wait() }()

	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		case <-timer.C:
		}
		next := m.pass(ctx)
		timer.Reset(max(time.Until(next), time.Second/10))
	}
}

// pass makes one attempt for each name that needs one now, and returns when to
// look again. It waits for the attempts.
func (m *Manager) pass(ctx context.Context) time.Time {
	now := time.Now()
	due, next := dueNames(m.states.all(), m.eng.holds, now)
	var g errgroup.Group
	g.SetLimit(attemptsAtOnce)
	for _, name := range due {
		g.Go(func() error { m.attempt(ctx, name); return nil })
	}
	_ = g.Wait() // the attempts report through states
	if len(due) > 0 {
		_, next = dueNames(m.states.all(), m.eng.holds, time.Now())
	}
	return next
}

// dueNames is the pure rule: the names without a certificate whose time has
// come, sorted, and when the next one's will.
func dueNames(all map[string]nameState, holds func(string) bool, now time.Time) (due []string, next time.Time) {
	next = now.Add(driverLook)
	for name, st := range all {
		switch {
		case holds(name):
		case !st.next.After(now):
			due = append(due, name)
		case st.next.Before(next):
			next = st.next
		}
	}
	slices.Sort(due)
	return due, next
}

// attempt tries once to get name into memory.
func (m *Manager) attempt(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	st := m.states.get(name)
	began := time.Now()
	err := m.eng.obtain(ctx, name, st.fails)
	if err == nil {
		if err = m.eng.load(ctx, name); err != nil {
			m.setAside(name, err)
		}
		m.dropUnwanted(name)
	}
	if ctx.Err() == context.Canceled {
		return // we are stopping; that is nobody's failure
	}
	m.metrics.attempt("obtain", err)
	if err == nil {
		m.states.update(name, func(s *nameState) { *s = nameState{lastAttempt: began} })
		m.log.Info("certificate obtained", "name", name, "issuer", m.eng.label())
		return
	}
	f := explain(err)
	after := retryAfter(st.fails+1, f.kind)
	before, ok := m.states.update(name, func(s *nameState) {
		s.fails++
		s.next = time.Now().Add(after)
		s.lastAttempt, s.lastErrorAt, s.lastError = began, time.Now(), f.words
	})
	if ok && before.lastError != f.words {
		m.log.Warn("certificate not obtained", "name", name, "err", f.words, "retry_in", after)
	} else {
		m.log.Debug("certificate not obtained again", "name", name, "err", f.words, "retry_in", after)
	}
}

// dropUnwanted lets go of a certificate whose name a reload took away while it
// was being obtained.
func (m *Manager) dropUnwanted(name string) {
	if t := m.table.Load(); !t.wants(name) {
		m.eng.forget(t.wants)
	}
}

// retryAfter is how long to wait after the nth failure in a row. An authority
// that said no counts the failure (Let's Encrypt allows five an hour for a
// name), one that was not reached does not.
func retryAfter(fails int, kind failureKind) time.Duration {
	steps := []time.Duration{time.Minute, 10 * time.Minute, 20 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour}
	switch kind {
	case failedElse:
		steps = []time.Duration{15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute}
	case failedLimited:
		steps = []time.Duration{time.Hour, 2 * time.Hour, 4 * time.Hour}
	}
	return steps[min(max(fails, 1), len(steps))-1]
}

// onEvent hears of certmagic's attempts. First certificates are told about by
// whoever asked for them; what is left are the renewals.
func (m *Manager) onEvent(ev event) {
	if !ev.renewal {
		return
	}
	m.metrics.attempt("renew", ev.err)
	if ev.err == nil {
		m.states.update(ev.name, func(s *nameState) { *s = nameState{lastAttempt: time.Now()} })
		m.log.Info("certificate renewed", "name", ev.name, "issuer", m.eng.label())
		return
	}
	f := explain(ev.err)
	before, ok := m.states.update(ev.name, func(s *nameState) {
		s.lastAttempt, s.lastErrorAt, s.lastError = time.Now(), time.Now(), f.words
	})
	if ok && before.lastError == f.words {
		m.log.Debug("certificate not renewed again", "name", ev.name, "err", f.words)
		return
	}
	m.log.Warn("certificate not renewed", "name", ev.name, "err", f.words)
}
