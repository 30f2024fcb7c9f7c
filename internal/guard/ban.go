package guard

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// ErrSpared is the error of a ban by hand against an address that is never
// banned.
var ErrSpared = errors.New("it is never banned (guard.never, guard.allow, trusted_proxies or an address of this machine)")

// maxManual is the longest ban by hand.
const maxManual = 10 * 365 * 24 * time.Hour

// maxSharedBan is the longest ban of an address that many share.
const maxSharedBan = 10 * time.Minute

// ban begins a ban for a score that reached the threshold. An address that is
// banned already keeps its ban as it is: what it did since came in over
// connections from before.
func (g *Guard) ban(p *policy, got score, addr netip.Addr, now time.Time) {
	at := g.at(now)
	ticks := uint32(at / tick)
	began := g.begin(p, banRecord{
		key:    got.key,
		since:  at,
		first:  at - int64(since(ticks, got.first))*tick,
		last:   at,
		counts: got.counts,
		reason: uint8(heaviest(&got.counts, &p.weights)),
		shared: g.isShared(addr),
	}, now)
	if began && p.networkBans > 0 {
		g.banNetwork(p, got.key.network(), Signal(heaviest(&got.counts, &p.weights)), now)
	}
}

// networkLeak forgives a neighbourhood one banned address in 4 hours, so that
// so many must come within 2 hours: half a point is given.
const (
	networkLeak = 1.0 / (4 * 3600 * ticksPerSecond)
	networkHalf = 0.5
)

// banNetwork counts one more banned address of a neighbourhood, and bans the
// whole when they are many. One that holds an address that is never banned, or
// that many share, is not.
func (g *Guard) banNetwork(p *policy, k key, s Signal, now time.Time) {
	at := g.at(now)
	got, over, _ := g.networks.add(k, s, 1, networkLeak, p.networkBans-networkHalf, uint32(at/tick))
	if !over || !k.isNetwork() {
		return
	}
	net := k.prefix()
	if overlaps(p.spared, net) || overlaps(*g.own.Load(), net) || g.isShared(net.Addr()) || g.isShared(lastAddr(net)) {
		return
	}
	g.begin(p, banRecord{key: k, since: at, first: at, last: at, counts: got.counts, reason: reasonNetwork}, now)
}

// begin puts r in the table, with the time it lasts, unless its key is banned.
func (g *Guard) begin(p *policy, r banRecord, now time.Time) (began bool) {
	at := g.at(now)
	g.bans.mu.Lock()
	// Asked under the lock, so that Reconfigure leaves no trial ban behind.
	r.trial = g.policy.Load().mode == Detect
	if old := g.bans.getLocked(r.key); old != nil {
		if old.until > at {
			old.last, old.counts = at, old.counts.merge(r.counts)
			g.bans.mu.Unlock()
			return false
		}
		if old.until > at-int64(p.forget) && old.trial == r.trial {
			r.past = old.past + 1
		}
	}
	r.past = min(r.past, maxPast)
	longest := p.maxBan
	if r.shared {
		longest = p.maxShared
	}
	r.until = at + int64(banTime(min(p.firstBan, longest), longest, int(r.past), rand.Float64()))
	_, full := g.bans.putLocked(r, at)
	g.bans.mu.Unlock()

	if full {
		g.metrics.bansNotKept.Inc()
		if g.once(&g.fullTold, now) {
			g.log.Warn("the table of bans is full: further scanners are refused one by one", "bans", cap(g.bans.heap))
			g.emit(Event{Kind: EventFull, At: now, Ban: g.export(&r, "", now)})
		}
		return false
	}
	g.metrics.ban(r.reason)
	g.tally.ban()
	b := g.export(&r, "", now)
	if g.onBan != nil {
		g.onBan(b)
	}
	g.emit(Event{Kind: EventBan, At: now, Ban: b})
	return true
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
func heaviest(c *counts, weights *[numSignals]float32) Signal {
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

// Drops returns the bans of Bans whose packets may be dropped before they
// reach us.
func (g *Guard) Drops(now time.Time) []Ban {
	return slices.DeleteFunc(g.Bans(now), func(b Ban) bool { return !b.Drop })
}

// Ban bans addr (IPv6: its /64 network) by hand for ttl, at most 10 years; a
// ban it has is replaced. note tells people why and is kept with it. The
// error is ErrSpared for an address that is never banned.
func (g *Guard) Ban(addr netip.Addr, ttl time.Duration, note string, now time.Time) error {
	addr = canonical(addr)
	return g.BanPrefix(keyOf(addr).prefix(), ttl, note, now)
}

// BanPrefix is Ban for one IPv4 address (/32), an IPv6 /64 network, or a
// neighbourhood (/24, /48).
func (g *Guard) BanPrefix(net netip.Prefix, ttl time.Duration, note string, now time.Time) error {
	p := g.policy.Load()
	k, ok := keyOfPrefix(net)
	switch {
	case !ok:
		return fmt.Errorf("ban %s: want an address, an IPv4 /32 or /24, or an IPv6 /64 or /48", net)
	case ttl <= 0 || ttl > maxManual:
		return fmt.Errorf("ban %s: for %s, want more than 0 and at most %s", net, ttl, maxManual)
	case !k.isNetwork() && g.spared(p, net.Addr()), k.isNetwork() && contains(p.spared, net.Addr()) && contains(p.spared, lastAddr(net)):
		return fmt.Errorf("ban %s: %w", net, ErrSpared)
	}
	at := g.at(now)
	r := banRecord{key: k, since: at, until: at + int64(ttl), reason: reasonManual, shared: g.isShared(net.Addr()) || g.isShared(lastAddr(net))}
	g.bans.mu.Lock()
	if old := g.bans.getLocked(r.key); old != nil && old.until > at-int64(p.forget) {
		r.past = old.past
	}
	evicted, _ := g.bans.putLocked(r, at)
	if note != "" {
		g.bans.notes[r.key] = note
	}
	g.bans.mu.Unlock()
	if evicted {
		g.metrics.banEvictions.Inc()
	}
	g.metrics.ban(r.reason)
	g.emit(Event{Kind: EventBan, At: now, Ban: g.export(&r, note, now)})
	return nil
}

// Unban ends the ban of addr (IPv6: of its /64 network) and of its
// neighbourhood, forgets the ones before and the score, and reports whether
// there was a ban that lasted.
func (g *Guard) Unban(addr netip.Addr, now time.Time) bool {
	k := keyOf(canonical(addr))
	own := g.unban(k, now)
	return g.unban(k.network(), now) || own
}

// UnbanPrefix is Unban for what BanPrefix bans, and nothing around it.
func (g *Guard) UnbanPrefix(net netip.Prefix, now time.Time) bool {
	k, ok := keyOfPrefix(net)
	return ok && g.unban(k, now)
}

func (g *Guard) unban(k key, now time.Time) bool {
	if k.isNetwork() {
		g.networks.drop(k)
	} else {
		g.scores.drop(k)
	}
	g.bans.mu.Lock()
	r := g.bans.getLocked(k)
	if r == nil {
		g.bans.mu.Unlock()
		return false
	}
	gone := *r
	g.bans.dropLocked(k)
	g.bans.mu.Unlock()
	if gone.until <= g.at(now) {
		return false
	}
	g.emit(Event{Kind: EventUnban, At: now, Ban: g.export(&gone, "", now)})
	return true
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
		Drop:   !r.trial && !r.shared && !g.crowd.masked.Load() && g.policy.Load().mode == Enforce,
	}
	if !r.counts.none() {
		b.First, b.Last = when(r.first), when(r.last)
	}
	b.Signals = signalCounts(&r.counts)
	return b
}

// signalCounts lists what was counted.
func signalCounts(c *counts) (list []SignalCount) {
	for s := range Signal(numSignals) {
		if n := c.of(s); n > 0 {
			list = append(list, SignalCount{s, n})
		}
	}
	return list
}

// reasonName returns the text and metric label of a record's reason.
func reasonName(reason uint8) string {
	switch reason {
	case reasonManual:
		return "manual"
	case reasonNetwork:
		return "network"
	}
	return Signal(reason).String()
}

// reasonNamed is the inverse of reasonName.
func reasonNamed(name string) (uint8, bool) {
	switch name {
	case "manual":
		return reasonManual, true
	case "network":
		return reasonNetwork, true
	}
	s, ok := SignalNamed(name)
	return uint8(s), ok
}
