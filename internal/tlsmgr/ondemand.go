package tlsmgr

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"
)

// OnDemand says for which names that no site lists a certificate may be
// obtained at the first handshake.
type OnDemand struct {
	// Allow lists host names and one-label wildcards like "*.example.org".
	Allow []string

	// Ask is an http or https URL that decides about names Allow does not
	// cover: it is called with ?domain=NAME and allows with status 200. It
	// has 2 s; redirects are not followed. Answers are kept for a minute.
	// Empty: only Allow decides.
	Ask string

	// PerHour is how many attempts to get a new name from an ACME authority
	// may be made in any hour, all names together. The names below a
	// wildcard are chosen by whoever connects, and the authority's limits
	// are ours to keep. Zero means 20.
	PerHour int
}

const (
	onDemandHeld    = 1000             // certificates for names no site lists, at most
	onDemandAtOnce  = 4                // attempts at the same time
	onDemandTimeout = 90 * time.Second // for one attempt
	onDemandWait    = 30 * time.Second // that a handshake waits for one
	memorySize      = 1024             // names remembered per table, the oldest leaves first
)

func (o OnDemand) normal() (OnDemand, error) {
	allow := make([]string, 0, len(o.Allow))
	for _, a := range o.Allow {
		n, err := canonicalHost(a)
		if err != nil {
			return o, fmt.Errorf("tls on_demand allow: %w", err)
		}
		allow = append(allow, n)
	}
	o.Allow = allow
	if o.Ask != "" {
		u, err := url.Parse(o.Ask)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return o, errors.New("tls on_demand ask: not a URL we can call, want http://host/path or https://host/path")
		}
	}
	if o.PerHour <= 0 {
		o.PerHour = 20
	}
	return o, nil
}

// onDemandRules is OnDemand ready for handshakes.
type onDemandRules struct {
	allow   nameMap[struct{}]
	ask     string
	perHour int
}

func newOnDemandRules(o OnDemand) *onDemandRules {
	r := &onDemandRules{allow: newNameMap[struct{}](), ask: o.Ask, perHour: o.PerHour}
	for _, a := range o.Allow {
		r.allow.set(a, struct{}{})
	}
	return r
}

// listed reports whether Allow covers name.
func (r *onDemandRules) listed(name string) bool { _, ok := r.allow.find(name); return ok }

// named reports whether Allow has exactly name. The user wrote it, so it may
// be what no stranger's name may be, such as localhost.
func (r *onDemandRules) named(name string) bool { _, ok := r.allow.exact[name]; return ok }

// mayKeep reports whether a certificate obtained under earlier rules may stay
// in memory under these.
func (r *onDemandRules) mayKeep(name string) bool { return r.ask != "" || r.listed(name) }

// allowed decides about a name no site lists. Nothing that is not allowed
// reaches the storage or the authority.
func (m *Manager) allowed(ctx context.Context, r *onDemandRules, name string) bool {
	if _, exact := r.allow.exact[name]; exact {
		return true // the owner wrote it, be it a single label such as localhost
	}
	if r.named(name) {
		return true
	}
	if !plausibleName(name) {
		return false
	}
	if r.listed(name) {
		return true
	}
	if r.ask == "" {
		return false
	}
	// What we hold is served whatever the asked service says or does: its
	// outage must not become ours.
	if m.eng.holds(name) {
		return true
	}
	ok, err := m.asks.ask(ctx, r.ask, name)
	switch {
	case err != nil:
		m.metrics.asked("error")
		m.log.Debug("on-demand question got no answer", "name", name, "err", err)
	case ok:
		m.metrics.asked("allowed")
	default:
		m.metrics.asked("refused")
	}
	return ok && err == nil
}

// plausibleName keeps out what no authority would certify: addresses, single
// labels, and what is not a host name.
func plausibleName(name string) bool {
	return strings.Contains(name, ".") && !isAddr(name) && validLabels(name)
}

// obtainOnDemand gets a certificate for an allowed name into memory. Handshakes
// for the same name share one attempt. The attempt outlives the handshake: a
// client that gave up finds the certificate when it comes again.
func (m *Manager) obtainOnDemand(ctx context.Context, name string) error {
	done := m.flight.DoChan(name, func() (any, error) {
		m.ending.Lock()
		if m.closed {
			m.ending.Unlock()
			return nil, errNoCertificate
		}
		m.busy.Add(1)
		m.ending.Unlock()
		defer m.busy.Done()
		return nil, m.coldObtain(name)
	})
	wait := time.NewTimer(onDemandWait)
	defer wait.Stop()
	select {
	case r := <-done:
		return r.Err
	case <-wait.C:
		return errNoCertificate
	case <-ctx.Done():
		return ctx.Err()
	}
}

// coldObtain loads name from disk, or spends one attempt on it under the same
// rule and the same memory as the driver's names.
func (m *Manager) coldObtain(name string) error {
	rules := m.table.Load().onDemand
	if rules == nil {
		return errNoCertificate // a reload took the rules away meanwhile
	}
	err := m.eng.load(name)
	if err == nil {
		return nil
	}
	if !errors.Is(err, errNotStored) {
		m.setAside(name, err)
	}
	if m.onDemandCount() >= onDemandHeld {
		m.metrics.onDemandRefused("full")
		return errNoCertificate
	}
	if !m.drv.begin(name, doAttempt) {
		return errNoCertificate
	}
	defer m.drv.end(name, nil)
	if !m.cold.enter() {
		m.metrics.onDemandRefused("busy")
		return errNoCertificate
	}
	defer m.cold.leave()
	ctx, cancel := context.WithTimeout(m.ctx, onDemandTimeout)
	defer cancel()
	if reason := m.coldStep(ctx, name, rules.perHour); reason != "" {
		m.metrics.onDemandRefused(reason)
		return errNoCertificate
	}
	if m.eng.certificate(name) == nil {
		return errNoCertificate
	}
	return nil
}

// coldStep does what the rule says about name until it says wait, at most one
// attempt. It returns why nothing was tried, or "".
func (m *Manager) coldStep(ctx context.Context, name string, perHour int) string {
	for checked := false; ; checked = true {
		now := time.Now()
		s := m.situation(name, now)
		act := decide(&s, now)
		switch {
		case act.do == doCheck && !checked:
			m.check(ctx, name)
			continue
		case act.do != doAttempt:
			return coldReason(act.why)
		case !m.cold.spend(now, perHour, m.eng.counts()):
			return "budget"
		}
		m.attempt(ctx, name, act)
		return ""
	}
}

// coldReason is the metric label of a reason to wait.
func coldReason(why reason) string {
	switch why {
	case whyBackoff, whyAmber:
		return "backoff"
	case whyBudget, whyLimited:
		return "budget"
	case whyAuthority, whyForbidden, whyNoWay:
		return "authority"
	case whyClock, whyStorage:
		return "machine"
	}
	return "dns"
}

// onDemandCount is how many certificates in memory belong to no site.
func (m *Manager) onDemandCount() int {
	t, n := m.table.Load(), 0
	for _, name := range m.eng.names() {
		if t.onDemandName(name) {
			n++
		}
	}
	return n
}

// coldStart bounds what strangers can make us ask of an authority.
type coldStart struct {
	mu      sync.Mutex
	begun   []time.Time // attempts of the last hour, oldest first; guarded by mu
	running int         // guarded by mu
}

// enter takes a slot; false: all are taken.
func (c *coldStart) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running >= onDemandAtOnce {
		return false
	}
	c.running++
	return true
}

func (c *coldStart) leave() {
	c.mu.Lock()
	c.running--
	c.mu.Unlock()
}

// spend takes one of the hour's attempts; false: they are spent. counted is
// false for an authority that limits nobody.
func (c *coldStart) spend(now time.Time, perHour int, counted bool) bool {
	if !counted {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.begun) > 0 && now.Sub(c.begun[0]) >= time.Hour {
		c.begun = c.begun[1:]
	}
	if len(c.begun) >= perHour {
		return false
	}
	c.begun = append(c.begun, now)
	return true
}

// memory remembers a value for a bounded number of names; the one unused for
// longest goes first. Not for concurrent use.
type memory[T any] struct {
	size  int
	at    map[string]*list.Element
	order *list.List // of memoryItem[T], most recent in front
}

type memoryItem[T any] struct {
	key   string
	value T
}

func newMemory[T any](size int) *memory[T] {
	return &memory[T]{size: size, at: map[string]*list.Element{}, order: list.New()}
}

func (m *memory[T]) get(key string) (T, bool) {
	e, ok := m.at[key]
	if !ok {
		var none T
		return none, false
	}
	m.order.MoveToFront(e)
	return e.Value.(memoryItem[T]).value, true
}

func (m *memory[T]) put(key string, v T) {
	m.drop(key)
	m.at[key] = m.order.PushFront(memoryItem[T]{key, v})
	if len(m.at) > m.size {
		m.drop(m.order.Back().Value.(memoryItem[T]).key)
	}
}

func (m *memory[T]) drop(key string) {
	if e, ok := m.at[key]; ok {
		m.order.Remove(e)
		delete(m.at, key)
	}
}
