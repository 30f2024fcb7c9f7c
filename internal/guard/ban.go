package guard

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"
)

// ErrSpared is the error of a ban by hand against an address that is never
// banned.
var ErrSpared = errors.New("it is never banned (guard.never, guard.allow, trusted_proxies or an address of this machine)")

// maxManual is the longest ban by hand.
const maxManual = 10 * 365 * 24 * time.Hour

// ban begins a ban for a score that reached the threshold. An address that is
// banned already keeps its ban as it is: what it did since came in over
// connections from before.
func (g *Guard) ban(p *policy, got score, now time.Time) {
	at := g.at(now)
	ticks := uint32(at / tick)
	r := banRecord{
		key:    got.key,
		since:  at,
		first:  at - int64(since(ticks, got.first))*tick,
		last:   at,
		counts: got.counts,
		reason: uint8(heaviest(got.counts, &p.weights)),
	}
	g.bans.mu.Lock()
	// Asked under the lock, so that Reconfigure leaves no trial ban behind.
	r.trial = g.policy.Load().mode == Detect
	if old := g.bans.getLocked(r.key); old != nil {
		if old.until > at {
			old.last, old.counts = at, old.counts.merge(got.counts)
			g.bans.mu.Unlock()
			return
		}
		if old.until > at-int64(p.forget) && old.trial == r.trial {
			r.past = old.past + 1
		}
	}
	r.past = min(r.past, maxPast)
	r.until = at + int64(banTime(p.firstBan, p.maxBan, int(r.past), rand.Float64()))
	evicted := g.bans.putLocked(r, at)
	g.bans.mu.Unlock()

	if evicted {
		g.metrics.banEvictions.Inc()
	}
	g.metrics.ban(r.reason)
	if g.onBan != nil {
		g.onBan(g.export(&r, "", now))
	}
}

// maxPast bounds the number of past bans that is kept.
const maxPast = 100

// banTime is how long a ban lasts after so many before it. chance, in [0, 1),
// spreads it by 20 % either way, so that nobody can tell when to come back.
func banTime(first, longest time.Duration, past int, chance float64) time.Duration {
	d := longest
	switch past {
	case 0:
		d = first
	case 1:
		d = longest
		if first < longest/6 {
			d = 6 * first
		}
	}
	return min(longest, time.Duration(float64(d)*(0.8+0.4*chance)))
}

// heaviest returns the signal that added most to a score.
func heaviest(c counts, weights *[numSignals]float32) Signal {
	var best Signal
	var most float32
	for s := range Signal(numSignals) {
		if sum := float32(c.of(s)) * weights[s]; sum > most {
			best, most = s, sum
		}
	}
	return best
}

// Bans returns the bans that last at the time now, trial ones included, the
// one that ends last first.
func (g *Guard) Bans(now time.Time) []Ban {
	at := g.at(now)
	records, notes, _ := g.bans.snapshot(func(r *banRecord) bool { return r.until > at })
	all := make([]Ban, len(records))
	for i := range records {
		all[i] = g.export(&records[i], notes[records[i].key], now)
	}
	return all
}

// Ban bans addr (IPv6: its /64 network) by hand for ttl, at most 10 years; a
// ban it has is replaced. note tells people why and is kept with it. The
// error is ErrSpared for an address that is never banned.
func (g *Guard) Ban(addr netip.Addr, ttl time.Duration, note string, now time.Time) error {
	p := g.policy.Load()
	addr = canonical(addr)
	if ttl <= 0 || ttl > maxManual {
		return fmt.Errorf("ban %s: for %s, want more than 0 and at most %s", addr, ttl, maxManual)
	}
	if g.spared(p, addr) {
		return fmt.Errorf("ban %s: %w", addr, ErrSpared)
	}
	at := g.at(now)
	r := banRecord{key: keyOf(addr), since: at, until: at + int64(ttl), reason: reasonManual}
	g.bans.mu.Lock()
	if old := g.bans.getLocked(r.key); old != nil && old.until > at-int64(p.forget) {
		r.past = old.past
	}
	evicted := g.bans.putLocked(r, at)
	if note != "" {
		g.bans.notes[r.key] = note
	}
	g.bans.mu.Unlock()
	if evicted {
		g.metrics.banEvictions.Inc()
	}
	g.metrics.ban(r.reason)
	return nil
}

// Unban ends the ban of addr (IPv6: of its /64 network), forgets the ones
// before it and the score, and reports whether there was a ban that lasted.
func (g *Guard) Unban(addr netip.Addr, now time.Time) bool {
	k := keyOf(canonical(addr))
	g.scores.drop(k)
	g.bans.mu.Lock()
	defer g.bans.mu.Unlock()
	r := g.bans.getLocked(k)
	if r == nil {
		return false
	}
	lasted := r.until > g.at(now)
	g.bans.dropLocked(k)
	return lasted
}

// dropTrials removes what was banned on trial.
func (t *bans) dropTrials() {
	trials, _, _ := t.snapshot(func(r *banRecord) bool { return r.trial })
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range trials {
		if have := t.getLocked(r.key); have != nil && have.trial {
			t.dropLocked(r.key)
		}
	}
}

// export turns a record into what others see.
func (g *Guard) export(r *banRecord, note string, now time.Time) Ban {
	at := g.at(now)
	when := func(t int64) time.Time { return now.Add(time.Duration(t - at)) }
	b := Ban{
		Prefix: r.key.prefix(),
		Reason: reasonName(r.reason),
		Since:  when(r.since),
		Until:  when(r.until),
		Past:   int(r.past),
		Trial:  r.trial,
		Note:   note,
	}
	if r.counts != 0 {
		b.First, b.Last = when(r.first), when(r.last)
	}
	for s := range Signal(numSignals) {
		if n := r.counts.of(s); n > 0 {
			b.Signals = append(b.Signals, SignalCount{s, n})
		}
	}
	return b
}

// reasonName returns the text and metric label of a record's reason.
func reasonName(reason uint8) string {
	if reason == reasonManual {
		return "manual"
	}
	return Signal(reason).String()
}

// reasonNamed is the inverse of reasonName.
func reasonNamed(name string) (uint8, bool) {
	if name == "manual" {
		return reasonManual, true
	}
	s, ok := signalNamed(name)
	return uint8(s), ok
}
