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
// Connections are dialled by the requests that need them. The only goroutine
// is the one that sends a body while Wire reads the answer; Wire and Close
// wait for it.
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

	// Idle is how long a connection is kept for another request. It must be
	// shorter than the backend's own limit. 0 means that every request gets
	// a connection of its own.
	Idle time.Duration

	// MaxIdlePerTarget bounds the idle HTTP/1.1 connections to one target;
	// beyond it the longest idle one is closed. 0 means 512.
	MaxIdlePerTarget int

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
	return slices.Equal(c.Targets, d.Targets) && c.Connect == d.Connect && c.Response == d.Response &&
		c.Idle == d.Idle && c.MaxIdlePerTarget == d.MaxIdlePerTarget && c.TLS == d.TLS
}

func (c Config) withDefaults() Config {
	if c.Connect == 0 {
		c.Connect = DefaultConnect
	}
	if c.MaxIdlePerTarget == 0 {
		c.MaxIdlePerTarget = defaultMaxIdle
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Pool reaches the backends of one route. It is safe for concurrent use.
type Pool struct {
	cfg      Config
	backends []*backend
	healths  []*health // of backends, in their order; guarded by mu
	turn     atomic.Uint64
	buffers  buffers

	mu   sync.Mutex
	down atomic.Int32 // backends that are down; written under mu
	shut bool         // guarded by mu
}

// New returns a Pool. It opens no connection.
func New(cfg Config) (*Pool, error) {
	cfg = cfg.withDefaults()
	switch {
	case len(cfg.Targets) == 0:
		return nil, errors.New("upstream: no targets, want at least one")
	case cfg.Connect < 0 || cfg.Response < 0 || cfg.Idle < 0 || cfg.MaxIdlePerTarget < 0:
		return nil, errors.New("upstream: negative limit, want 0 or more")
	}
	cfg.Targets = slices.Clone(cfg.Targets)
	p := &Pool{cfg: cfg}
	plain := newTransport(&cfg, false)
	var h2c *http.Transport
	now := time.Now()
	for _, t := range cfg.Targets {
		if t == (Target{}) {
			return nil, errors.New("upstream: empty target, want one from ParseTarget")
		}
		b := &backend{Target: t, pool: p, transport: plain, fake: t.addr, health: health{since: now}}
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
		p.healths = append(p.healths, &b.health)
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
			p.cfg.Metrics.change(b.text, -1, -btoi(!b.health.up()))
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
	LastError string    // of the last failed dial, kept after recovery; "" if there was none
	NextTry   time.Time // when a request will try it again; zero if up
}

// Status reports on every target, in the order of the configuration.
func (p *Pool) Status() []TargetStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]TargetStatus, 0, len(p.backends))
	for _, b := range p.backends {
		h := &b.health
		out = append(out, TargetStatus{b.text, h.up(), h.since, h.lastErr, h.next})
	}
	return out
}

// pick chooses the backend for the next attempt of t.
func (p *Pool) pick(t *trip) (i int, probe, ok bool) {
	if p.down.Load() == 0 && t.tried == nil {
		return int(t.turn % uint64(len(p.backends))), false, true
	}
	if t.tried == nil {
		t.tried = make([]bool, len(p.backends))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	i, probe, ok = choose(p.healths, t.tried, t.turn, time.Now())
	if probe {
		p.healths[i].probing = true
	}
	return i, probe, ok
}

func (p *Pool) downError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return &DownError{RetryAfter: retryAfter(p.healths, time.Now())}
}

// dialFailed leaves b out for a while.
func (p *Pool) dialFailed(b *backend, err error) {
	p.mu.Lock()
	changed := b.health.failed(time.Now(), err, rand.Float64())
	pause := time.Until(b.health.next)
	if changed {
		p.down.Add(1)
		p.changeLocked(b, 1)
	}
	p.mu.Unlock()
	if changed {
		p.cfg.Log.Warn("backend down", "target", b.text, "class", Class(err), "retry_in", pause, "err", err)
	}
}

// reached puts b back if it was left out.
func (p *Pool) reached(b *backend) {
	if p.down.Load() == 0 {
		return
	}
	now := time.Now()
	p.mu.Lock()
	since := b.health.since
	changed := b.health.recovered(now)
	if changed {
		p.down.Add(-1)
		p.changeLocked(b, -1)
	}
	p.mu.Unlock()
	if changed {
		p.cfg.Log.Info("backend up", "target", b.text, "down_for", now.Sub(since).Round(time.Millisecond))
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
	defer p.mu.Unlock()
	b.health.abandoned()
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
