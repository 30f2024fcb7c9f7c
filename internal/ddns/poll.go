package ddns

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// poller is what the loop that asks the sources knows.
type poller struct {
	m       *Manager
	votes   []vote
	asked   map[string]time.Time // when each source was asked last
	started time.Time
	last    time.Time // the last round for everybody
	hurry   time.Time // when everybody is asked again; zero: when due
	tries   int       // rounds since the answers last fitted
	v6Gone  time.Time // since when there is no IPv6 address; zero: there is
}

// poll asks sources when they are due, until ctx is done.
func (m *Manager) poll(ctx context.Context) {
	now := time.Now()
	p := &poller{m: m, asked: map[string]time.Time{}, started: now, hurry: now}
	for ctx.Err() == nil {
		set := m.set.Load()
		now = time.Now()
		all := !p.hurry.IsZero() && !now.Before(p.hurry)
		p.round(ctx, set, p.due(set, now, all))
		if ctx.Err() != nil {
			return
		}
		if all {
			p.last = now
		}
		p.settle(set, time.Now(), all)
		p.wait(ctx, set)
	}
}

func sourceKey(s Source) string { return string(s.Kind) + " " + s.Name }

// period is how often a source is asked.
func (s *settings) period(k Kind) time.Duration {
	if k == Router {
		return s.router
	}
	return s.Interval
}

// due lists the sources to ask now. Nobody is asked twice within kickGap.
func (p *poller) due(set *settings, now time.Time, all bool) []Source {
	var out []Source
	for _, s := range set.Sources {
		at, asked := p.asked[sourceKey(s)]
		wait := set.period(s.Kind)
		if all {
			wait = min(wait, kickGap)
		}
		if !asked || now.Sub(at) >= wait {
			out = append(out, s)
		}
	}
	return out
}

// round asks the given sources, all at once, and this machine.
func (p *poller) round(ctx context.Context, set *settings, due []Source) {
	addrs := make([]netip.Addr, len(due))
	errs := make([]error, len(due))
	var wg sync.WaitGroup
	for i, s := range due {
		p.asked[sourceKey(s)] = time.Now()
		wg.Go(func() { addrs[i], errs[i] = s.ask(ctx) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	for i, s := range due {
		p.m.metrics.answered(s.Kind, errs[i])
		p.m.heard(s, errs[i])
		if errs[i] == nil {
			p.votes = hear(p.votes, vote{kind: s.Kind, name: s.Name, addr: addrs[i], at: now}, set.rules.gap)
		}
	}
	p.forget(set)
	v6 := p.local(set, now)
	r := set.rules
	r.started = p.started
	if slices.ContainsFunc(p.votes, func(v vote) bool { return v.kind == Interface }) {
		r.kinds = append(slices.Clone(r.kinds), Interface)
	}
	was := p.m.Addresses()
	d := decide(now, was.V4, p.votes, r)
	p.m.online.Store(online(now, p.votes, r))
	p.m.believe(Addresses{d.addr, v6}, p.votes, now)
}

// forget drops the votes of sources that are not asked any more.
func (p *poller) forget(set *settings) {
	p.votes = slices.DeleteFunc(p.votes, func(v vote) bool {
		return v.kind != Interface && !slices.ContainsFunc(set.Sources, func(s Source) bool { return s.Kind == v.kind && s.Name == v.name })
	})
}

// local reads this machine's addresses: public IPv4 ones become votes, the
// best IPv6 one is returned.
func (p *poller) local(set *settings, now time.Time) netip.Addr {
	old := p.m.Addresses().V6
	all, err := set.Local()
	p.m.heard(Source{Kind: Interface, Name: "interfaces"}, err)
	if err != nil {
		return old
	}
	v4 := publicV4(all)
	p.votes = slices.DeleteFunc(p.votes, func(v vote) bool { return v.kind == Interface && !slices.Contains(v4, v.addr) })
	for _, a := range v4 {
		p.votes = hear(p.votes, vote{kind: Interface, name: a.String(), addr: a, at: now}, set.rules.gap)
	}
	v6 := chooseV6(old, all)
	switch {
	case v6.IsValid() || !old.IsValid():
		p.v6Gone = time.Time{}
	case p.v6Gone.IsZero():
		p.v6Gone = now
	}
	if !v6.IsValid() && now.Sub(p.v6Gone) < v6Grace {
		return old // a link that is down for a moment
	}
	return v6
}

// online reports whether an echo service answered lately; true if none is
// asked.
func online(now time.Time, votes []vote, r rules) bool {
	asked := false
	for _, k := range []Kind{DNSEcho, HTTPSEcho} {
		asked = asked || slices.Contains(r.kinds, k)
	}
	return !asked || slices.ContainsFunc(votes, func(v vote) bool {
		return (v.kind == DNSEcho || v.kind == HTTPSEcho) && now.Sub(v.at) <= r.fresh[v.kind]
	})
}

// settle plans another round for everybody while answers do not fit together,
// or nobody stands for what is believed: at once at first, then at growing
// distances.
func (p *poller) settle(set *settings, now time.Time, all bool) {
	current := p.m.Addresses().V4
	r := set.rules
	supported, otherwise := false, false
	for _, ops := range opinions(now, p.votes, r) {
		for _, o := range ops {
			supported = supported || o.addr == current
			otherwise = otherwise || o.addr != current
		}
	}
	p.m.sure.Store(supported)
	if supported && !otherwise {
		p.tries, p.hurry = 0, time.Time{}
		return
	}
	if !all && p.hurry.After(now) {
		return // planned
	}
	longest := set.Interval
	if !supported {
		longest = min(longest, eagerInterval)
	}
	var wait time.Duration // at once: those who were not asked this time
	if p.tries > 0 {
		wait = min(r.gap<<min(p.tries-1, 10), longest)
	}
	p.tries++
	p.hurry = now.Add(min(wait, longest))
}

// wait ends when a source is due or somebody kicks.
func (p *poller) wait(ctx context.Context, set *settings) {
	next := p.hurry
	for _, s := range set.Sources {
		if at := p.asked[sourceKey(s)].Add(set.period(s.Kind)); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	local := time.Now().Add(routerInterval) // this machine is looked at every minute
	if next.IsZero() || local.Before(next) {
		next = local
	}
	t := time.NewTimer(time.Until(next))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-p.m.kick:
		p.tries = 0
		if p.hurry = time.Now(); p.hurry.Sub(p.last) < kickGap {
			p.hurry = p.last.Add(kickGap)
		}
	}
}

// heard remembers what a source's trouble is, for Status, and logs a change.
func (m *Manager) heard(s Source, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	m.mu.Lock()
	old := m.told[sourceKey(s)]
	m.told[sourceKey(s)] = text
	m.mu.Unlock()
	if text != old {
		m.log.Debug("a source of the public address", "kind", s.Kind, "source", s.Name, "err", err)
	}
}

// believe makes next the addresses of this house.
func (m *Manager) believe(next Addresses, votes []vote, now time.Time) {
	m.mu.Lock()
	old := m.addrs
	m.addrs, m.votes = next, slices.Clone(votes)
	workers := m.workers
	m.mu.Unlock()
	m.metrics.addresses(next)
	if old == next {
		return
	}
	m.metrics.changed(old, next)
	m.state.setAddresses(next, now)
	m.log.Info("public address changed", "was", old.String(), "is", next.String())
	if f := m.set.Load().OnAddress; f != nil {
		f(old, next)
	}
	for _, w := range workers {
		ping(w.wake)
	}
}
