// Package upstream reaches the backends of one route: it pools connections,
// spreads requests, leaves out backends that cannot be reached, and sends a
// request again when that is safe.
//
// Safe means: nothing of the request was sent (the dial failed), so that any
// method goes on to the next backend; or the backend said that it did not
// begin (HTTP/2 REFUSED_STREAM, GOAWAY); or a pooled connection died before a
// byte of an answer came back, which is what a backend's own keep-alive limit
// looks like from here. The last case is a guess, and a right one nearly
// always: the request goes out once more, on a fresh connection, whatever its
// method. A request whose body cannot be sent twice takes a fresh HTTP/1.1
// connection to begin with.
//
// There are two ways in: RoundTrip, by net/http, for HTTP/2 on either side, and
// Wire, on our own connections, for HTTP/1.1. They share everything but the
// idle connections.
//
// Beyond that a pool does what its Config asks for: Balance spreads requests
// by weight, load or key; Check asks the backends how they are; Breaker leaves
// one alone that answers badly, and SlowStart brings one back gently; Retry
// sends again what may have reached a backend, within a budget; Hold lets
// requests wait while there is no backend. Which backend gets a request is one
// rule over shares (choose), and a backend that is out has none.
//
// Connections are dialled by the requests that need them, and by Watch, which
// runs the checks of many pools. The other goroutine is the one that sends a
// body while Wire reads the answer; Wire and Close wait for it, as Watch.Run
// does for its own.
package upstream

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// What a route gets that says nothing else.
const (
	DefaultConnect  = 3 * time.Second
	DefaultResponse = 60 * time.Second
	DefaultIdle     = 4 * time.Second // Node closes after 5s

	// Hundreds of clients at once must not make every other request dial.
	defaultMaxIdle = 512
)

// Config is what a Pool needs to know.
type Config struct {
	// Targets are the backends, at least one, in the order in which they
	// take turns.
	Targets []Target

	// Connect limits opening a connection, name lookup and TLS handshake
	// included. 0 means DefaultConnect.
	Connect time.Duration

	// Response limits the time from the end of the request to the head of
	// the response, and, while an HTTP/1.1 request with a body is being
	// sent, the time without progress. 0 means no limit.
	Response time.Duration

	// Try limits for one try what Response limits otherwise: the try is given
	// up, and Retry says whether another one follows. Response then limits
	// all tries together, from the end of the first request to the head of an
	// answer; only the time in Hold is not counted. 0, or no Retry: each try
	// has Response.
	Try time.Duration

	// Idle is how long a connection is kept for another request. It must be
	// shorter than the backend's own limit. 0 means that every request gets
	// a connection of its own.
	Idle time.Duration

	// MaxIdlePerTarget bounds the idle HTTP/1.1 connections to one target;
	// beyond it the longest idle one is closed. 0 means 512.
	MaxIdlePerTarget int

	// Balance is how requests are spread; see WithKey and WireRequest.Key for
	// Hash.
	Balance Balance

	// Weights are the shares of Targets, 1 or more each. nil: all the same.
	Weights []int

	// Check is the active health check. nil: none; only failed dials tell.
	Check *Check

	// SlowStart is how long a backend that was out takes to get its whole
	// share again, which grows from a tenth. 0: it has it at once.
	SlowStart time.Duration

	// Breaker leaves backends alone that answer badly. nil: none.
	Breaker *Breaker

	// Retry sends requests again that may have reached a backend. nil: never.
	Retry *Retry

	// Hold is how long a request waits while no backend can be reached.
	// 0: not at all. At most 1024 wait at a time.
	Hold time.Duration

	// TLS is the base of the client configuration towards https targets:
	// RootCAs, Certificates, ServerName, InsecureSkipVerify. It is cloned.
	// nil means: the system's roots, the target's host as server name.
	TLS *tls.Config

	// Log hears when a backend goes down and when it is back. nil: nobody.
	Log *slog.Logger

	// Metrics may be shared by all pools. nil: nothing is counted.
	Metrics *Metrics
}

// Equal reports whether a pool made from c can serve instead of one made from
// d, so that a reload can keep it with its connections. TLS counts by
// identity; Log and Metrics do not count.
func (c Config) Equal(d Config) bool {
	c, d = c.withDefaults(), d.withDefaults()
	return slices.Equal(c.Targets, d.Targets) && c.Connect == d.Connect && c.Response == d.Response && c.Try == d.Try &&
		c.Idle == d.Idle && c.MaxIdlePerTarget == d.MaxIdlePerTarget && c.TLS == d.TLS &&
		c.Balance == d.Balance && slices.Equal(c.Weights, d.Weights) && same(c.Check, d.Check) && c.SlowStart == d.SlowStart &&
		same(c.Breaker, d.Breaker) && c.Retry.equal(d.Retry) && c.Hold == d.Hold
}

func same[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}

func (c Config) withDefaults() Config {
	if c.Connect == 0 {
		c.Connect = DefaultConnect
	}
	if c.Retry == nil {
		c.Try = 0
	}
	if c.MaxIdlePerTarget == 0 {
		c.MaxIdlePerTarget = defaultMaxIdle
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// oneTry is how long one try waits for its answer; 0: for ever.
func (c *Config) oneTry() time.Duration {
	if c.Try > 0 {
		return c.Try
	}
	return c.Response
}

// Pool reaches the backends of one route. It is safe for concurrent use.
type Pool struct {
	cfg      Config
	backends []*backend
	even     bool // the weights are all the same
	plain    bool // while all backends are up, they take turns
	turn     atomic.Uint64
	budget   budget
	holding  atomic.Int32 // requests that are held
	watch    atomic.Pointer[Watch]
	buffers  buffers

	mu         sync.Mutex
	special    atomic.Int32  // backends that are out or starting slowly; written under mu
	candidates []candidate   // of backends, in their order; guarded by mu
	news       chan struct{} // closed when a backend is back; guarded by mu, nil if nobody waits
	knocking   bool          // a held request looks for backends; guarded by mu
	shut       bool          // guarded by mu
}

// New returns a Pool. It opens no connection.
func New(cfg Config) (*Pool, error) {
	cfg = cfg.withDefaults()
	switch {
	case len(cfg.Targets) == 0:
		return nil, errors.New("upstream: no targets, want at least one")
	case cfg.Weights != nil && (len(cfg.Weights) != len(cfg.Targets) || slices.Min(cfg.Weights) < 1):
		return nil, errors.New("upstream: weights do not fit the targets, want 1 or more for each")
	case cfg.Connect < 0 || cfg.Response < 0 || cfg.Try < 0 || cfg.Idle < 0 || cfg.MaxIdlePerTarget < 0:
		return nil, errors.New("upstream: negative limit, want 0 or more")
	}
	cfg.Targets = slices.Clone(cfg.Targets)
	p := &Pool{cfg: cfg, candidates: make([]candidate, len(cfg.Targets))}
	p.even = cfg.Weights == nil || slices.Min(cfg.Weights) == slices.Max(cfg.Weights)
	p.plain = cfg.Balance == RoundRobin && p.even || len(cfg.Targets) == 1
	p.budget.have.Store(mostSaved)
	plain := newTransport(&cfg, false)
	var h2c *http.Transport
	now := time.Now()
	for i, t := range cfg.Targets {
		if t == (Target{}) {
			return nil, errors.New("upstream: empty target, want one from ParseTarget")
		}
		b := &backend{Target: t, pool: p, transport: plain, fake: t.addr, since: now, weight: 1}
		if cfg.Weights != nil {
			b.weight = float64(cfg.Weights[i])
		}
		if cfg.Breaker != nil {
			b.breaker = &breaker{rule: *cfg.Breaker}
		}
		p.candidates[i].seed = mix(Key(t.text))
		b.answered = cfg.Metrics.answered(t.text)
		switch {
		case t.h2c && h2c == nil:
			h2c = newTransport(&cfg, true)
			fallthrough
		case t.h2c:
			b.transport = h2c
		case t.tls:
			b.tlsBoth = clientTLS(cfg.TLS, t, "h2", "http/1.1")
			b.tlsOne = clientTLS(cfg.TLS, t, "http/1.1")
		case t.network == "unix":
			b.fake = "localhost:80"
		}
		p.backends = append(p.backends, b)
	}
	for _, t := range cfg.Targets {
		cfg.Metrics.change(t.text, 1, 0)
		cfg.Metrics.idleLimit(t.text, cfg.Idle)
	}
	return p, nil
}

func clientTLS(base *tls.Config, t Target, protos ...string) *tls.Config {
	cfg := new(tls.Config)
	if base != nil {
		cfg = base.Clone()
	}
	if cfg.ServerName == "" {
		cfg.ServerName = t.serverName()
	}
	if cfg.ClientSessionCache == nil {
		cfg.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	}
	cfg.NextProtos = protos
	return cfg
}

// Close closes the idle connections now and the others after their exchange.
// Requests that come later are still served, each on a connection of its own:
// a reload may close a pool that a request has just been given.
func (p *Pool) Close() {
	p.mu.Lock()
	was := p.shut
	p.shut = true
	if !was {
		for _, b := range p.backends {
			p.cfg.Metrics.change(b.text, -1, -btoi(b.out))
		}
	}
	p.mu.Unlock()
	for _, b := range p.backends {
		b.close()
	}
}

// TargetStatus is what the pool thinks of one backend.
type TargetStatus struct {
	Target    string
	Up        bool
	Since     time.Time // of the last change, or of New
	LastError string    // of the last failed dial or check, kept after recovery, or why the circuit is open; "" if there was none
	NextTry   time.Time // when a request will try it again; zero if up
}

// Status reports on every target, in the order of the configuration.
func (p *Pool) Status() []TargetStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]TargetStatus, 0, len(p.backends))
	for _, b := range p.backends {
		s := TargetStatus{b.text, !b.out, b.since, b.health.lastErr, b.health.next}
		if b.breaker.open() && b.health.up() {
			s.LastError, s.NextTry = b.breaker.why, b.breaker.until
		}
		out = append(out, s)
	}
	return out
}

func (p *Pool) downError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	d := lastPause
	for _, b := range p.backends {
		switch {
		case !b.health.up():
			d = min(d, b.health.next.Sub(now))
		case b.breaker.open():
			d = min(d, b.breaker.until.Sub(now))
		}
	}
	// A probe under way leaves a time in the past; clients count in seconds.
	return &DownError{RetryAfter: max(d, time.Second)}
}

// settleLocked draws the consequences of a change of what is known about b. It
// reports whether b is in or out now and was not before.
func (p *Pool) settleLocked(b *backend, now time.Time) (changed bool) {
	out := !b.health.up() || b.breaker.open()
	if changed = out != b.out; changed {
		b.out, b.since, b.starts = out, now, !out
		p.changeLocked(b, btoi(out)-btoi(!out))
		if !out {
			p.tellLocked()
		}
	}
	b.starts = b.starts && now.Sub(b.since) < p.cfg.SlowStart
	if special := out || b.starts; special != b.special {
		b.special = special
		p.special.Add(int32(btoi(special) - btoi(!special)))
	}
	return changed
}

// dialFailed leaves b out for a while.
func (p *Pool) dialFailed(b *backend, err error) {
	now := time.Now()
	p.mu.Lock()
	b.health.failed(now, err, rand.Float64())
	pause := b.health.next.Sub(now)
	changed := p.settleLocked(b, now)
	p.mu.Unlock()
	if w := p.watch.Load(); w != nil {
		w.poke()
	}
	if changed {
		p.cfg.Log.Warn("backend down", "target", b.text, "class", Class(err), "retry_in", pause, "err", err)
	}
}

// reached puts b back if failed dials had it left out.
func (p *Pool) reached(b *backend) {
	if p.special.Load() == 0 {
		return
	}
	now := time.Now()
	p.mu.Lock()
	since := b.since
	b.health.recovered()
	changed := p.settleLocked(b, now)
	p.mu.Unlock()
	if changed {
		p.logChange(b, false, now.Sub(since), "", nil)
	}
}

// judge tells the breaker of b how a request went.
func (p *Pool) judge(b *backend, bad bool) {
	if b.breaker == nil {
		return
	}
	now := time.Now()
	p.mu.Lock()
	since := b.since
	b.breaker.note(now, bad)
	changed := p.settleLocked(b, now)
	out, why := b.out, b.breaker.why
	p.mu.Unlock()
	if changed {
		var err error
		if out {
			err = errors.New(why)
		}
		p.logChange(b, out, now.Sub(since), "breaker", err)
	}
}

func (p *Pool) changeLocked(b *backend, down int) {
	if !p.shut {
		p.cfg.Metrics.change(b.text, 0, down)
	}
}

// abandoned takes back a probe of b that found nothing out.
func (p *Pool) abandoned(b *backend) {
	p.mu.Lock()
	b.health.abandoned()
	if b.breaker != nil {
		b.breaker.trying = false
	}
	down := !b.health.up()
	p.mu.Unlock()
	if w := p.watch.Load(); w != nil && down {
		w.poke() // it left the trying to the probe
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
