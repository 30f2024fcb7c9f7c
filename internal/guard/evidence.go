package guard

import (
	"hash/maphash"
	"net/netip"
	"time"
)

// Evidence is what an operator is shown of something that counted. The texts
// are a stranger's, byte for byte; they are cut when they are kept. All may
// be empty. They are not used after the call.
type Evidence struct {
	// Rule is what matched, from a closed set of words: the family of a
	// scanner path, the protocol of first bytes, the reason of a refusal.
	Rule string
	// Method, Host and Path are of the request line and the Host field.
	Method, Host, Path string
	// Family is the family of a Scanner; "" for anything else.
	Family Family
}

// What is kept of a request, in bytes, and of how many.
const (
	cutRule   = 20
	cutMethod = 8
	cutHost   = 28
	cutPath   = 48

	evidencePerAddress = 4
	evidenceAddresses  = 512
)

// evidence remembers the last requests that counted, for some addresses: a
// fixed table like scores, in which the address that was quiet for longest
// goes first. It allocates nothing when it takes, only when it is asked.
type evidence struct {
	seed  maphash.Seed
	mask  uint64
	locks [stripes]stripe
	slots []evidenceSlot // guarded by the lock of their set
}

type evidenceSlot struct {
	key  key
	last int64
	n    uint32 // entries ever put
	ring [evidencePerAddress]exhibit
}

// An exhibit is one request that counted.
type exhibit struct {
	at            int64
	weight, score float32
	signal        Signal
	sizes         [4]uint8
	text          [cutRule + cutMethod + cutHost + cutPath]byte
}

func newEvidence(n int) *evidence {
	n = roundSlots(n)
	return &evidence{seed: maphash.MakeSeed(), mask: uint64(n/ways - 1), slots: make([]evidenceSlot, n)}
}

func (t *evidence) put(k key, s Signal, weight, score float32, ev *Evidence, now int64) {
	set := k.hash(t.seed) & t.mask
	lock := &t.locks[set%stripes]
	lock.Lock()
	defer lock.Unlock()
	slots := t.slots[set*ways : set*ways+ways]
	slot := &slots[0]
	for i := range slots {
		if slots[i].key == k || slots[i].key == 0 {
			slot = &slots[i]
			break
		}
		if slots[i].last < slot.last {
			slot = &slots[i]
		}
	}
	if slot.key != k {
		slot.key, slot.n = k, 0
	}
	e := &slot.ring[slot.n%evidencePerAddress]
	slot.n++
	slot.last = now
	e.at, e.signal, e.weight, e.score = now, s, weight, score
	at := 0
	for i, part := range [...]struct {
		text string
		most int
	}{{ev.Rule, cutRule}, {ev.Method, cutMethod}, {ev.Host, cutHost}, {ev.Path, cutPath}} {
		n := copy(e.text[at:at+part.most], part.text)
		e.sizes[i] = uint8(n)
		at += n
	}
}

// of returns what is kept for k, the oldest first.
func (t *evidence) of(k key) []exhibit {
	set := k.hash(t.seed) & t.mask
	lock := &t.locks[set%stripes]
	lock.Lock()
	defer lock.Unlock()
	for i := range t.slots[set*ways : set*ways+ways] {
		slot := &t.slots[set*ways+uint64(i)]
		if slot.key != k {
			continue
		}
		n := min(slot.n, evidencePerAddress)
		out := make([]exhibit, 0, n)
		for j := slot.n - n; j != slot.n; j++ {
			out = append(out, slot.ring[j%evidencePerAddress])
		}
		return out
	}
	return nil
}

// An Exhibit is one request, or connection, that counted against an address.
type Exhibit struct {
	At     time.Time
	Signal Signal
	// Weight is the points it cost, Score what the address had after it.
	Weight, Score float64
	// Rule is from a closed set of words; "" when there is none.
	Rule string
	// Method, Host and Path are what a stranger sent, cut to 8, 28 and 48
	// bytes, otherwise as it came: quote them.
	Method, Host, Path string
}

// A Case is what the guard knows about one address.
type Case struct {
	// Prefix is who is judged: the address, or its /64 network.
	Prefix netip.Prefix
	// Spared says why the address is never banned; "" when it may be.
	Spared string
	// Shared tells that it is one of a range others use too (AWS): its bans
	// are short, and refuse requests rather than connections.
	Shared bool
	// Trusted tells that callers proved who they are from there lately.
	Trusted bool
	// Bans are the ones that last now, its own and its neighbourhood's.
	Bans []Ban
	// Score is its points now, Threshold what bans.
	Score, Threshold float64
	// Network is its neighbourhood; NetworkBans how many addresses of it were
	// banned lately, by points that are forgiven with time; a ban of the
	// whole takes NetworkThreshold of them.
	Network                       netip.Prefix
	NetworkBans, NetworkThreshold float64
	// Signals are what counted and is not forgiven.
	Signals []SignalCount
	// Exhibits are the last requests that counted, the oldest first; few are
	// kept, and only for the addresses seen last.
	Exhibits []Exhibit
}

// Why tells what the guard knows about addr.
func (g *Guard) Why(addr netip.Addr, now time.Time) Case {
	p := g.policy.Load()
	addr = canonical(addr)
	k, at := keyOf(addr), g.at(now)
	ticks := uint32(at / tick)
	score := g.scores.of(k, p.leak, ticks)
	c := Case{
		Prefix: k.prefix(), Shared: g.isShared(addr), Trusted: g.trust.has(k, at),
		Score: float64(score.points), Threshold: float64(p.threshold),
		Network:     k.network().prefix(),
		NetworkBans: float64(g.networks.of(k.network(), networkLeak, ticks).points), NetworkThreshold: float64(p.networkBans),
	}
	switch {
	case contains(p.spared, addr):
		c.Spared = "guard.never, guard.allow or trusted_proxies"
	case contains(*g.own.Load(), addr):
		c.Spared = "an address of this machine"
	}
	records, notes, _ := g.bans.snapshot(func(r *banRecord) bool { return r.until > at && (r.key == k || r.key == k.network()) })
	for i := range records {
		c.Bans = append(c.Bans, g.export(&records[i], notes[records[i].key], now))
	}
	if score.points > 0 {
		c.Signals = signalCounts(&score.counts)
	}
	for _, e := range g.evidence.of(k) {
		c.Exhibits = append(c.Exhibits, e.export(now, at))
	}
	return c
}

func (e *exhibit) export(now time.Time, at int64) Exhibit {
	var texts [4]string
	from := 0
	for i, n := range e.sizes {
		texts[i] = string(e.text[from : from+int(n)])
		from += int(n)
	}
	return Exhibit{
		At: now.Add(time.Duration(e.at - at)), Signal: e.signal, Weight: float64(e.weight), Score: float64(e.score),
		Rule: texts[0], Method: texts[1], Host: texts[2], Path: texts[3],
	}
}
