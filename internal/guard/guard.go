package guard

import (
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A Mode says what the guard does with what it finds.
type Mode uint8

const (
	// Enforce refuses.
	Enforce Mode = iota
	// Detect scores and keeps trial bans, tells what would have been refused,
	// and refuses nothing but connections over the total.
	Detect
	// Off neither scores nor bans; what was banned before is let in. The
	// bound on connections in total holds.
	Off
)

// ParseMode returns the mode of a name as written in the config: enforce,
// detect or off.
func ParseMode(name string) (Mode, error) {
	switch name {
	case "enforce":
		return Enforce, nil
	case "detect":
		return Detect, nil
	case "off":
		return Off, nil
	}
	return Enforce, fmt.Errorf("guard mode %q, want enforce, detect or off", name)
}

// Config is what a Guard works with. The zero value enforces the defaults and
// keeps its bans in memory only. Reconfigure takes every field but those said
// to be fixed.
type Config struct {
	// Mode says whether anything is refused.
	Mode Mode

	// Never holds the networks that are never banned. nil means
	// DefaultNever; an empty slice means none.
	Never []netip.Prefix
	// Allow holds more of them.
	Allow []netip.Prefix
	// TrustedProxies are never banned either: what is done through them is
	// done by others.
	TrustedProxies []netip.Prefix

	// Weights holds the points each signal costs. A signal that is missing
	// costs its default; 0 only counts it.
	Weights map[Signal]float64
	// Threshold is the score that bans. 0 means 10.
	Threshold float64
	// Leak is how long it takes for one point to be forgiven. 0 means 1m.
	Leak time.Duration

	// FirstBan is how long the first ban of an address lasts, the second
	// lasts 6 times as long, further ones last MaxBan; give or take 20 %, and
	// never longer than MaxBan. 0 means 10m and 24h.
	FirstBan, MaxBan time.Duration
	// Forget is how long after the end of its last ban an address starts
	// again with FirstBan. 0 means 7 days.
	Forget time.Duration

	// Connections bounds the connections open at once. 0 means 4096.
	Connections int
	// PerAddress bounds those of one address (IPv6: one /64 network); the
	// addresses that are never banned are not bound by it. 0 means 64,
	// negative means no bound.
	PerAddress int

	// Slots is the number of addresses whose score is kept; 32 bytes each.
	// 0 means 65536. Fixed.
	Slots int
	// MaxBans is the number of bans kept, those that ended and are not
	// forgotten included; about 100 bytes each. 0 means 32768. Fixed.
	MaxBans int

	// File is where bans survive a restart; "" means nowhere. Fixed.
	File string
	// OnBan is told of each ban as it begins, also of trial ones, but not of
	// those by hand. It is called on the path of the request and must not
	// block. nil means nobody is told. Fixed.
	OnBan func(Ban)
	// Log gets a line for what goes wrong with File. nil means none. Fixed.
	Log *slog.Logger
	// Metrics takes the guard's metrics. nil means they are not registered.
	// Fixed.
	Metrics prometheus.Registerer
}

// A Guard decides about addresses. New makes one; all methods are safe for
// concurrent use. It holds no resources: it needs no closing, but Run has to
// end for the last bans to be saved.
type Guard struct {
	policy atomic.Pointer[policy]
	own    atomic.Pointer[[]netip.Prefix]

	epoch  time.Time // see at
	scores *scores
	bans   *bans
	conns  *conns

	file    string
	saver   saver
	onBan   func(Ban)
	log     *slog.Logger
	metrics *metrics
}

// policy is the part of a Config that Reconfigure changes, ready for use.
type policy struct {
	mode       Mode
	spared     []netip.Prefix
	weights    [numSignals]float32
	threshold  float32
	leak       float32 // points per tick
	firstBan   time.Duration
	maxBan     time.Duration
	forget     time.Duration
	total      int
	perAddress int
}

func newPolicy(cfg Config) *policy {
	never := cfg.Never
	if never == nil {
		never = DefaultNever()
	}
	p := &policy{
		mode:       cfg.Mode,
		spared:     spares(never, cfg.Allow, cfg.TrustedProxies),
		threshold:  float32(orDefault(cfg.Threshold, defaultThreshold)),
		firstBan:   orDefault(cfg.FirstBan, defaultFirstBan),
		maxBan:     orDefault(cfg.MaxBan, defaultMaxBan),
		forget:     orDefault(cfg.Forget, defaultForget),
		total:      orDefault(cfg.Connections, defaultConnections),
		perAddress: defaultPerAddress,
	}
	leak := orDefault(cfg.Leak, defaultLeak)
	p.leak = float32(1 / (leak.Seconds() * ticksPerSecond))
	p.firstBan = min(p.firstBan, p.maxBan)
	if cfg.PerAddress != 0 {
		p.perAddress = max(cfg.PerAddress, 0)
	}
	for s, w := range DefaultWeights() {
		p.weights[s] = float32(w)
	}
	for s, w := range cfg.Weights {
		if int(s) < numSignals {
			p.weights[s] = float32(max(w, 0))
		}
	}
	return p
}

// orDefault returns v, or def when v is not positive.
func orDefault[T int | float64 | time.Duration](v, def T) T {
	if v > 0 {
		return v
	}
	return def
}

// New makes a Guard. It starts no goroutine and reads no file: Load restores
// the bans of the last run, Run keeps them.
func New(cfg Config) *Guard {
	p := newPolicy(cfg)
	g := &Guard{
		epoch:  time.Now(),
		scores: newScores(orDefault(cfg.Slots, defaultSlots)),
		bans:   newBans(orDefault(cfg.MaxBans, defaultMaxBans)),
		conns:  newConns(p.total),
		file:   cfg.File,
		onBan:  cfg.OnBan,
		log:    cfg.Log,
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	g.policy.Store(p)
	g.own.Store(new([]netip.Prefix))
	g.metrics = newMetrics(g, cfg.Metrics)
	return g
}

// Reconfigure makes the guard work with cfg from now on, but for the fields
// that are fixed. Scores, bans and open connections stay, except that trial
// bans go when the mode changes: nobody agreed to them.
func (g *Guard) Reconfigure(cfg Config) {
	p := newPolicy(cfg)
	g.conns.grow(p.total)
	old := g.policy.Swap(p)
	if old.mode != p.mode {
		g.bans.dropTrials()
	}
}

// SetOwn says which public addresses this machine has. They are never banned,
// nor is the /64 network of an IPv6 one: it is the home's. Loopback and
// link-local addresses in the list are left out: whether they are spared is
// up to Config.Never. The list replaces the one given before.
func (g *Guard) SetOwn(addrs []netip.Addr) {
	own := ownNetworks(addrs)
	g.own.Store(&own)
}

// at is the guard's time: nanoseconds since it was made, by the monotonic
// clock where now has one, so that a step of the wall clock, as it comes after
// the start of a machine without a battery, neither ends nor prolongs a ban.
func (g *Guard) at(now time.Time) int64 { return int64(now.Sub(g.epoch)) }

const tick = int64(time.Second) / ticksPerSecond

// spared reports whether the canonical addr is never banned. An address that
// is unknown (a unix socket) is nobody's to ban.
func (g *Guard) spared(p *policy, addr netip.Addr) bool {
	return !addr.IsValid() || contains(p.spared, addr) || contains(*g.own.Load(), addr)
}

// AllowConn decides about a connection that was just accepted from addr. When
// the verdict allows it, it is counted as open and the caller must call
// ConnClosed when it ends. The zero Addr stands for a peer without an
// address, which only the total binds.
func (g *Guard) AllowConn(addr netip.Addr, now time.Time) Verdict {
	p := g.policy.Load()
	addr = canonical(addr)
	banned := p.mode != Off && g.bans.banned(keyOf(addr), g.at(now)) && !g.spared(p, addr)
	v := Verdict{Reason: Banned}
	if !banned || p.mode == Detect {
		v = g.countConn(p, addr, banned)
	}
	return g.metrics.verdict(layerConnection, v)
}

// countConn counts a connection unless a cap refuses it. banned tells that
// enforcing would have refused it for a ban.
func (g *Guard) countConn(p *policy, addr netip.Addr, banned bool) Verdict {
	k, perAddress := keyOf(addr), p.perAddress
	if p.mode == Off {
		perAddress = 0
	}
	reason := g.conns.open(k, p.total, perAddress)
	// Who is spared is asked only now, because it costs more than all the rest.
	over := reason == AddressConnections && !g.spared(p, addr)
	if reason == AddressConnections && (!over || p.mode == Detect) {
		reason = g.conns.open(k, p.total, 0)
	}
	switch {
	case reason != None:
		return Verdict{Reason: reason}
	case banned:
		return Verdict{Allowed: true, Would: true, Reason: Banned}
	case over:
		return Verdict{Allowed: true, Would: true, Reason: AddressConnections}
	}
	return Verdict{Allowed: true}
}

// ConnClosed takes back what an AllowConn that allowed counted.
func (g *Guard) ConnClosed(addr netip.Addr) {
	g.conns.close(keyOf(canonical(addr)))
}

// AllowRequest decides about a request whose client is addr, on a connection
// that was let in before: behind a trusted proxy the two differ, and a ban
// may have begun meanwhile.
func (g *Guard) AllowRequest(addr netip.Addr, now time.Time) Verdict {
	p := g.policy.Load()
	addr = canonical(addr)
	v := Verdict{Allowed: true}
	if p.mode != Off && g.bans.banned(keyOf(addr), g.at(now)) && !g.spared(p, addr) {
		v = Verdict{Allowed: p.mode == Detect, Would: p.mode == Detect, Reason: Banned}
	}
	return g.metrics.verdict(layerRequest, v)
}

// Banned reports whether addr is refused at the time now. It counts nothing.
func (g *Guard) Banned(addr netip.Addr, now time.Time) bool {
	p := g.policy.Load()
	addr = canonical(addr)
	return p.mode == Enforce && g.bans.banned(keyOf(addr), g.at(now)) && !g.spared(p, addr)
}

// Observe adds what addr did to its score, and bans it when that is enough.
// It allocates nothing unless a ban begins, and never blocks.
func (g *Guard) Observe(addr netip.Addr, s Signal, now time.Time) {
	if int(s) >= numSignals {
		return
	}
	g.metrics.signals[s].Inc()
	p := g.policy.Load()
	addr = canonical(addr)
	if p.mode == Off || p.weights[s] == 0 || g.spared(p, addr) {
		return
	}
	at := g.at(now)
	got, over, evicted := g.scores.add(keyOf(addr), s, p.weights[s], p.leak, p.threshold, uint32(at/tick))
	if evicted {
		g.metrics.scoreEvictions.Inc()
	}
	if over {
		g.ban(p, got, now)
	}
}

// Mode is the mode the guard works in now.
func (g *Guard) Mode() Mode { return g.policy.Load().mode }
