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

	// NetworkBans is how many addresses of one neighbourhood (/24, /48) must
	// be banned within about 2 hours for the whole of it to be banned. 0
	// means 5, negative that no neighbourhood is.
	NetworkBans int
	// MaxSharedBan is the longest ban of an address that SetShared knows. 0
	// means 10m.
	MaxSharedBan time.Duration
	// Trust is how long an address that was Authenticated is spared. 0 means
	// 1h, negative that it is not.
	Trust time.Duration
	// Decoys are paths nobody has a reason to ask for, byte for byte; one
	// request for one costs what Decoy weighs.
	Decoys []string

	// Connections bounds the connections open at once. 0 means 4096.
	Connections int
	// PerAddress bounds those of one address (IPv6: one /64 network). The
	// addresses that are never banned are not bound by it, nor are those that
	// were Authenticated lately; those that SetShared knows may have a quarter
	// of Connections, if that is more. 0 means 64, negative means no bound.
	PerAddress int
	// Accepts is how often one address may open a connection, AcceptBurst
	// how many at once. The addresses that are never banned are not bound by
	// it, nor are those that were Authenticated lately; those that SetShared
	// knows may do 10 times as much. The zero Rate means 30 a second and 150,
	// one with negative Events no bound.
	Accepts     Rate
	AcceptBurst int
	// Requests bounds the requests of one address under way at once, in the
	// same way. 0 means 256, negative no bound.
	Requests int

	// Slots is the number of addresses whose score is kept; 40 bytes each.
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
	// OnEvent is told of everything in EventKind, bans included. It is called
	// on the path of a request or connection, from many goroutines, and must
	// not block. nil means nobody is told. Fixed.
	OnEvent func(Event)
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
	shared atomic.Pointer[func(netip.Addr) bool]
	listed atomic.Pointer[func(netip.Addr) (string, bool)]

	epoch    time.Time // see at
	scores   *scores
	networks *scores // of neighbourhoods: a point for each address banned
	bans     *bans
	conns    *conns
	requests *conns // under way
	trust    *trust
	evidence *evidence
	answers  *answers
	crowd    crowd
	tally    tally

	file       string
	saver      saver
	onBan      func(Ban)
	onEvent    func(Event)
	log        *slog.Logger
	metrics    *metrics
	limitTold  [numLimits]atomic.Int64
	servedTold atomic.Int64
	fullTold   atomic.Int64
}

// policy is the part of a Config that Reconfigure changes, ready for use.
type policy struct {
	mode       Mode
	spared     []netip.Prefix
	proxies    []netip.Prefix // of spared, those that tell whom they speak for
	weights    [numSignals]float32
	threshold  float32
	leak       float32 // points per tick
	firstBan   time.Duration
	maxBan     time.Duration
	forget     time.Duration
	total      int
	perAddress int

	networkBans float32       // 0: none
	maxShared   time.Duration // of a ban
	trust       time.Duration // 0: none
	decoys      map[string]struct{}
	acceptRate  Rate
	acceptBurst int
	accepts     *Limiter // nil: no bound
	crowded     *Limiter // accepts, for shared addresses
	perRequests int      // 0: no bound
}

func newPolicy(cfg Config) *policy {
	never := cfg.Never
	if never == nil {
		never = DefaultNever()
	}
	p := &policy{
		mode:       cfg.Mode,
		spared:     spares(never, cfg.Allow, cfg.TrustedProxies),
		proxies:    spares(cfg.TrustedProxies),
		threshold:  float32(orDefault(cfg.Threshold, defaultThreshold)),
		firstBan:   orDefault(cfg.FirstBan, defaultFirstBan),
		maxBan:     orDefault(cfg.MaxBan, defaultMaxBan),
		forget:     orDefault(cfg.Forget, defaultForget),
		total:      orDefault(cfg.Connections, defaultConnections),
		perAddress: defaultPerAddress,
	}
	p.layers(cfg)
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

// layers sets what neighbourhoods, callers, decoys and limits need.
func (p *policy) layers(cfg Config) {
	if cfg.NetworkBans >= 0 {
		p.networkBans = float32(orDefault(cfg.NetworkBans, defaultNetworkBans))
	}
	p.maxShared = min(orDefault(cfg.MaxSharedBan, maxSharedBan), p.maxBan)
	if cfg.Trust >= 0 {
		p.trust = orDefault(cfg.Trust, defaultTrust)
	}
	if len(cfg.Decoys) > 0 {
		p.decoys = make(map[string]struct{}, len(cfg.Decoys))
		for _, path := range cfg.Decoys {
			p.decoys[path] = struct{}{}
		}
	}
	p.acceptRate, p.acceptBurst = cfg.Accepts, cfg.AcceptBurst
	if p.acceptRate == (Rate{}) {
		p.acceptRate, p.acceptBurst = Rate{defaultAccepts, time.Second}, defaultAcceptBurst
	}
	if cfg.Requests >= 0 {
		p.perRequests = orDefault(cfg.Requests, defaultRequests)
	}
}

// takeAccepts gives p the limiter of old, if it bounds the same.
func (g *Guard) takeAccepts(p, old *policy) {
	if old != nil && old.acceptRate == p.acceptRate && old.acceptBurst == p.acceptBurst {
		p.accepts, p.crowded = old.accepts, old.crowded
		return
	}
	p.accepts = g.NewLimiter(p.acceptRate, p.acceptBurst, acceptSlots)
	p.crowded = g.NewLimiter(Rate{p.acceptRate.Events * sharedAccepts, p.acceptRate.Per}, p.acceptBurst*sharedAccepts, acceptSlots)
}

const (
	// acceptSlots is how many addresses the rate of connections is kept for.
	acceptSlots = 4096
	// Behind one shared address there may be a burst of a thousand functions,
	// none of which has shown yet who it is. It gets so many times the rate of
	// an address, and one part in so many of all connections.
	sharedAccepts     = 10
	sharedConnections = 4
)

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
		epoch:    time.Now(),
		scores:   newScores(orDefault(cfg.Slots, defaultSlots)),
		networks: newScores(defaultNetworks),
		bans:     newBans(orDefault(cfg.MaxBans, defaultMaxBans)),
		conns:    newConns(p.total),
		requests: newConns(p.total),
		trust:    newTrust(trustSlots),
		evidence: newEvidence(evidenceAddresses),
		answers:  newAnswers(answerSlots),
		file:     cfg.File,
		onBan:    cfg.OnBan,
		onEvent:  cfg.OnEvent,
		log:      cfg.Log,
	}
	g.tally.since = g.epoch
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	g.own.Store(new([]netip.Prefix))
	g.metrics = newMetrics(g, cfg.Metrics)
	g.takeAccepts(p, nil)
	g.policy.Store(p)
	return g
}

// Reconfigure makes the guard work with cfg from now on, but for the fields
// that are fixed. Scores, bans and open connections stay, except that trial
// bans go when the mode changes: nobody agreed to them.
func (g *Guard) Reconfigure(cfg Config) {
	p := newPolicy(cfg)
	g.conns.grow(p.total)
	g.requests.grow(p.total)
	g.takeAccepts(p, g.policy.Load())
	old := g.policy.Swap(p)
	if old.mode != p.mode {
		g.bans.dropTrials()
		g.emit(Event{Kind: EventMode, At: time.Now(), Mode: p.mode})
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

// SetShared says which addresses are shared by many who have nothing to do
// with each other, such as those AWS Lambda calls from. Bans of them are short
// and refuse requests rather than connections, because a caller with valid
// credentials may come from there at any time. has must be fast, and is called
// from many goroutines; nil means that none are. It replaces the one before.
func (g *Guard) SetShared(has func(netip.Addr) bool) {
	if has == nil {
		g.shared.Store(nil)
		return
	}
	g.shared.Store(&has)
}

func (g *Guard) isShared(addr netip.Addr) bool {
	has := g.shared.Load()
	return has != nil && addr.IsValid() && (*has)(addr)
}

// refusable reports whether a ban of the canonical addr counts now. It is
// asked about banned ones only, as it costs more than all the rest.
func (g *Guard) refusable(p *policy, addr netip.Addr) bool {
	return !g.crowd.masked.Load() && !g.spared(p, addr)
}

// alone reports whether a banned address has no caller behind it: one that is
// shared, or from where a caller proved itself lately, is refused by the
// request, as the next may be a caller's.
func (g *Guard) alone(k key, addr netip.Addr, at int64) bool {
	return !g.isShared(addr) && !g.trust.has(k, at)
}

// AllowConn decides about a connection that was just accepted from addr. When
// the verdict allows it, it is counted as open and the caller must call
// ConnClosed when it ends. The zero Addr stands for a peer without an
// address, which only the total binds.
//
// A banned or listed address that SetShared knows, or that was Authenticated
// lately, is let in: its requests are judged one by one.
func (g *Guard) AllowConn(addr netip.Addr, now time.Time) Verdict {
	p := g.policy.Load()
	addr = canonical(addr)
	k, at := keyOf(addr), g.at(now)
	if g.crowd.note(k, g.local(p, addr)) {
		g.log.Warn("clients have addresses of their own again: bans are switched on")
		g.emit(Event{Kind: EventBansOn, At: now})
	}
	v := Verdict{}
	if v.Reason = g.against(p, k, addr, at); v.Reason != None && !g.alone(k, addr, at) {
		v.Reason = None
	}
	if v.Reason == None || p.mode == Detect {
		v = g.countConn(p, k, addr, v.Reason, now)
	}
	return g.metrics.verdict(layerConnection, v)
}

// countConn counts a connection unless a cap refuses it. against is what
// enforcing would have refused it for.
func (g *Guard) countConn(p *policy, k key, addr netip.Addr, against Reason, now time.Time) Verdict {
	perAddress := p.perAddress
	var over Reason
	if p.mode == Off {
		perAddress = 0
	} else if p.accepts != nil && k != 0 && !p.accepts.Take(addr, now).OK && g.tooFast(p, k, addr, now) {
		g.LimitHit(LimitAccepts, addr, now)
		if over = AddressRate; p.mode == Enforce {
			return Verdict{Reason: over}
		}
	}
	reason := g.conns.open(k, p.total, perAddress)
	if reason == AddressConnections {
		reason = g.conns.open(k, p.total, g.widerBound(p, k, addr, now))
	}
	if reason == AddressConnections {
		over = reason
		g.LimitHit(LimitAddressConnections, addr, now)
		if p.mode == Detect {
			reason = g.conns.open(k, p.total, 0)
		}
	}
	if reason == TotalConnections {
		g.LimitHit(LimitConnections, addr, now)
	}
	switch {
	case reason != None:
		return Verdict{Reason: reason}
	case against != None:
		return Verdict{Allowed: true, Would: true, Reason: against}
	case over != None:
		return Verdict{Allowed: true, Would: true, Reason: over}
	}
	return Verdict{Allowed: true}
}

// tooFast reports whether a connection over the rate of one address is really
// one too many. It is asked about those alone, as is widerBound: to find out
// who it is costs more than all the rest.
func (g *Guard) tooFast(p *policy, k key, addr netip.Addr, now time.Time) bool {
	if g.spared(p, addr) || g.trust.has(k, g.at(now)) {
		return false
	}
	return !g.isShared(addr) || !p.crowded.Take(addr, now).OK
}

// widerBound is how many connections an address may have that has perAddress
// of them; 0 is no bound.
func (g *Guard) widerBound(p *policy, k key, addr netip.Addr, now time.Time) int {
	switch {
	case g.spared(p, addr), g.trust.has(k, g.at(now)):
		return 0
	case g.isShared(addr):
		return max(p.perAddress, p.total/sharedConnections)
	}
	return p.perAddress
}

// ConnClosed takes back what an AllowConn that allowed counted.
func (g *Guard) ConnClosed(addr netip.Addr) {
	g.conns.close(keyOf(canonical(addr)))
}

// AllowRequest decides about a request whose client is addr, on a connection
// that was let in before: behind a trusted proxy the two differ, a ban may
// have begun meanwhile, and addresses that SetShared knows are refused here.
// A caller with valid credentials is let in all the same: that is the
// caller's to find out.
func (g *Guard) AllowRequest(addr netip.Addr, now time.Time) Verdict {
	p := g.policy.Load()
	addr = canonical(addr)
	k, at := keyOf(addr), g.at(now)
	v := Verdict{Allowed: true}
	if why := g.against(p, k, addr, at); why != None {
		v = Verdict{Allowed: p.mode == Detect, Would: p.mode == Detect, Reason: why}
	}
	return g.metrics.verdict(layerRequest, v)
}

// BeginRequest counts a request of addr as under way, unless it has too many
// of them already. When counted is true, EndRequest must be called with addr
// as it ends; a request that is not counted may still be allowed.
func (g *Guard) BeginRequest(addr netip.Addr, now time.Time) (v Verdict, counted bool) {
	p := g.policy.Load()
	if p.perRequests == 0 || p.mode == Off {
		return Verdict{Allowed: true}, false
	}
	addr = canonical(addr)
	k := keyOf(addr)
	switch g.requests.open(k, p.total, p.perRequests) {
	case None:
		return Verdict{Allowed: true}, true
	case TotalConnections:
		return Verdict{Allowed: true}, false // there is no room to count more
	}
	if g.spared(p, addr) || g.trust.has(k, g.at(now)) {
		return Verdict{Allowed: true}, false
	}
	g.LimitHit(LimitRequests, addr, now)
	return g.metrics.verdict(layerRequest, Verdict{Allowed: p.mode == Detect, Would: p.mode == Detect, Reason: AddressRequests}), false
}

// EndRequest takes back what BeginRequest counted.
func (g *Guard) EndRequest(addr netip.Addr) { g.requests.close(keyOf(canonical(addr))) }

// Banned reports whether addr is refused at the time now. It counts nothing.
func (g *Guard) Banned(addr netip.Addr, now time.Time) bool {
	p := g.policy.Load()
	addr = canonical(addr)
	k, at := keyOf(addr), g.at(now)
	return p.mode == Enforce && g.bans.banned(k, at) && g.refusable(p, addr)
}

// Decoy reports whether path is one of Config.Decoys. It allocates nothing.
func (g *Guard) Decoy(path string) bool {
	decoys := g.policy.Load().decoys
	if decoys == nil {
		return false
	}
	_, is := decoys[path]
	return is
}

// Observe adds what addr did to its score, and bans it when that is enough.
// It allocates nothing unless a ban begins, and never blocks.
func (g *Guard) Observe(addr netip.Addr, s Signal, now time.Time) {
	g.Report(addr, s, Evidence{}, now)
}

// Report is Observe with what an operator is shown who asks why.
func (g *Guard) Report(addr netip.Addr, s Signal, ev Evidence, now time.Time) {
	if int(s) >= numSignals {
		return
	}
	p := g.policy.Load()
	addr = canonical(addr)
	family := familyIndex(ev.Family)
	g.metrics.signal(s, family, p.mode)
	if p.mode == Off || p.weights[s] == 0 || !addr.IsValid() {
		return
	}
	k, at := keyOf(addr), g.at(now)
	if g.local(p, addr) && p.weights[s] >= p.threshold && g.crowd.accuse(k) {
		g.log.Error("all clients come with one address: bans are switched off",
			"address", addr.String(), "cause", "a router or container bridge that masquerades, or a proxy that is not in trusted_proxies")
		g.emit(Event{Kind: EventBansOff, At: now, Addr: addr})
	}
	if g.spared(p, addr) || g.trust.has(k, at) {
		return
	}
	g.tally.note(k, s, family)
	got, over, evicted := g.scores.add(k, s, p.weights[s], p.leak, p.threshold, uint32(at/tick))
	g.evidence.put(k, s, p.weights[s], got.points, &ev, at)
	if evicted {
		g.metrics.scoreEvictions.Inc()
	}
	if over && !g.crowd.masked.Load() {
		g.ban(p, got, addr, now)
	}
}

// Mode is the mode the guard works in now.
func (g *Guard) Mode() Mode { return g.policy.Load().mode }

// String returns the mode's name as written in the config.
func (m Mode) String() string {
	switch m {
	case Enforce:
		return "enforce"
	case Detect:
		return "detect"
	case Off:
		return "off"
	}
	return "unknown"
}

// Cuts reports whether a connection of addr that is open should end now: it is
// banned, and no caller may be behind the address.
func (g *Guard) Cuts(addr netip.Addr, now time.Time) bool {
	if !g.Banned(addr, now) {
		return false
	}
	addr = canonical(addr)
	return g.alone(keyOf(addr), addr, g.at(now))
}
