package ddns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"postern/internal/dnsapi"
)

// worker keeps the records of one entry. One goroutine runs it; mu guards what
// Apply and Status reach.
type worker struct {
	m    *Manager
	id   string
	wake chan struct{} // holds one: the addresses or the entry changed

	mu    sync.Mutex
	entry *entry
	hosts []*host // guarded by mu, and so are they

	probed time.Time // when the API was last known to answer, or not to; of the goroutine alone
}

// newWorkers makes the workers of the settings, keeping those that go on.
func (m *Manager) newWorkers(set *settings, before []*worker) []*worker {
	var out []*worker
	for _, e := range set.entries {
		i := slices.IndexFunc(before, func(w *worker) bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.entry.id == e.id && w.entry.Settings == e.Settings
		})
		if i >= 0 {
			before[i].setEntry(e)
			out = append(out, before[i])
			continue
		}
		w := &worker{m: m, id: e.id, wake: make(chan struct{}, 1)}
		w.setEntry(e)
		out = append(out, w)
	}
	for _, w := range before {
		if !slices.ContainsFunc(out, func(o *worker) bool { return o.id == w.id }) {
			m.metrics.drop(w.id)
		}
	}
	return out
}

// setEntry gives the worker other hosts or another pace.
func (w *worker) setEntry(e *entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var hosts []*host
	for _, name := range e.Hosts {
		if i := slices.IndexFunc(w.hosts, func(h *host) bool { return h.name == name }); i >= 0 {
			hosts = append(hosts, w.hosts[i])
			continue
		}
		r := w.m.state.record(e.Provider, name)
		hosts = append(hosts, &host{name: name, set: r.Addresses, ours: r.Ours})
	}
	w.entry, w.hosts = e, hosts
	ping(w.wake)
}

// run does what the plan says until ctx is done.
func (w *worker) run(ctx context.Context) {
	w.probed = time.Now()
	for ctx.Err() == nil {
		next := w.step(ctx)
		t := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
		case <-t.C:
		case <-w.wake:
		}
		t.Stop()
	}
}

// step does one thing, if there is one to do, and returns when to come again.
func (w *worker) step(ctx context.Context) time.Time {
	set := w.m.set.Load()
	want := w.m.Addresses()
	w.mu.Lock()
	e, hosts := w.entry, slices.Clone(w.hosts)
	w.mu.Unlock()
	if e.NoV6 {
		want.V6 = netip.Addr{}
	}
	now := time.Now()
	next := now.Add(e.Interval)
	pending := false
	for _, h := range hosts {
		w.mu.Lock()
		h.wanted(want)
		do, at := plan(now, h, want, e.Interval, set.See != nil)
		pending = pending || h.kind != nil
		w.mu.Unlock()
		switch do {
		case actLook:
			w.look(ctx, set, e, h, want)
			return time.Now()
		case actSet, actClear:
			w.call(ctx, e, h, want, do)
			return time.Now()
		}
		next = earlier(next, at)
	}
	if pending || len(hosts) == 0 {
		return next // calls that are due tell how the API is
	}
	probe := w.probed.Add(min(e.Interval, w.m.watch.pace(w.id, partAPI)))
	if !now.Before(probe) {
		err := e.client.Probe(ctx, hosts[0].name)
		if ctx.Err() == nil {
			w.probed = time.Now()
			w.m.api(w.id, hosts[0].name, err)
		}
		return time.Now()
	}
	return earlier(next, probe)
}

// call writes at the DNS host.
func (w *worker) call(ctx context.Context, e *entry, h *host, want Addresses, do act) {
	var err error
	w.mu.Lock()
	had := h.set
	w.mu.Unlock()
	switch do {
	case actClear:
		v4 := want.V4
		if !v4.IsValid() {
			v4 = had.V4
		}
		err = e.client.ClearV6(ctx, h.name, v4, had.V6)
	default:
		err = e.client.SetAddrs(ctx, h.name, want.V4, want.V6)
	}
	if ctx.Err() != nil && err != nil {
		return
	}
	now := time.Now()
	w.probed = now
	w.mu.Lock()
	h.called(now, want, do, err)
	set, ours, held := h.set, h.ours, h.held
	w.mu.Unlock()
	w.m.metrics.wrote(w.id, err, now)
	if err == nil {
		w.m.log.Info("dns record set", "provider", w.id, "name", h.name, "addresses", set.String())
		w.m.state.setRecord(e.Provider, h.name, set, ours, now)
	} else {
		w.m.log.Debug("dns record not set", "provider", w.id, "name", h.name, "retry_in", held.Sub(now), "err", err)
	}
	w.m.api(w.id, h.name, err)
}

// api tells the watch what a call to the API says about it.
func (m *Manager) api(id, name string, err error) {
	now := time.Now()
	_, kind := kindOf(err)
	switch {
	case err == nil:
		m.watch.good(m, id, partAPI, "", now)
		m.watch.good(m, id, partAccess, name, now)
	case errors.Is(kind, dnsapi.ErrUnreachable):
		if m.online.Load() {
			m.watch.bad(m, id, partAPI, "", err.Error(), now)
		}
	default:
		m.watch.good(m, id, partAPI, "", now)
		if errors.Is(kind, dnsapi.ErrRejected) {
			m.watch.bad(m, id, partAccess, name, err.Error(), now)
		}
	}
}

// look asks the name servers.
func (w *worker) look(ctx context.Context, set *settings, e *entry, h *host, want Addresses) {
	w.mu.Lock()
	addrs := h.set
	if h.looked.IsZero() {
		addrs = want
	}
	w.mu.Unlock()
	s := sight{right: true}
	var failure error
	for _, a := range addrs.List() {
		seen, err := set.See(ctx, h.name, a)
		if err != nil {
			failure = err
			continue
		}
		s.add(seen)
	}
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	w.mu.Lock()
	before := h.set
	h.saw(now, addrs, s)
	after, ours, wrong := h.set, h.ours, h.wrong
	w.mu.Unlock()
	if before != after {
		w.m.state.setRecord(e.Provider, h.name, after, ours, now)
	}
	w.m.seen(w.id, h.name, s, wrong, failure)
}

// seen tells the watch what the name servers are like.
func (m *Manager) seen(id, name string, s sight, wrong bool, failure error) {
	now := time.Now()
	switch {
	case s.answered > s.silent:
		m.watch.good(m, id, partServers, "", now)
	case s.silent > 0 && m.online.Load():
		m.watch.bad(m, id, partServers, "", fmt.Sprintf("%d of %d questions to the name servers of %s got no answer", s.silent, s.silent+s.answered, name), now)
	case failure != nil:
		m.log.Debug("the name servers are not known", "provider", id, "name", name, "err", failure)
	}
	switch {
	case wrong:
		m.watch.bad(m, id, partRecord, name, "the name servers show something else: "+s.odd, now)
	case s.answered > 0 && s.right:
		m.watch.good(m, id, partRecord, name, now)
	}
}
