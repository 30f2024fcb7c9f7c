package app

import (
	"fmt"
	"log/slog"
	"reflect"
	"time"

	"postern/internal/caller"
	"postern/internal/config"
	"postern/internal/guard"
	"postern/internal/proxy"
	"postern/internal/route"
	"postern/internal/upstream"
)

// built is what one reading of the configuration became: the proxy's
// snapshot and what must be closed when nobody uses it any more. A later
// built may share pools and limiters with it.
type built struct {
	snapshot *proxy.Snapshot
	pools    map[string]*sharedPool
	limiters map[string]*sharedLimiter
	quotas   map[string]*sharedQuota
	gates    map[string]*proxy.RouteGate
	rates    map[string]config.Quota // of callers
}

type sharedPool struct {
	cfg  upstream.Config
	pool *upstream.Pool
}

type sharedLimiter struct {
	rate    config.RateLimit
	limiter *guard.Limiter
}

// parts is what build needs of the running process.
type parts struct {
	log       *slog.Logger
	access    *slog.Logger
	guard     *guard.Guard
	callers   *caller.Registry
	metrics   *upstream.Metrics
	once      onceStores
	httpsPort int
}

// build translates cfg. What is unchanged since before (nil: nothing) is
// taken over: connections to backends, and how much of a rate is used up.
func build(cfg *config.Config, before *built, p parts) (*built, error) {
	b := &built{pools: make(map[string]*sharedPool), limiters: make(map[string]*sharedLimiter), quotas: make(map[string]*sharedQuota), gates: make(map[string]*proxy.RouteGate)}
	snap := &proxy.Snapshot{
		Trusted:   cfg.TrustedProxies,
		HTTPSPort: p.httpsPort,
		HTTP3:     cfg.HTTP3,
		Access:    p.access,
		LogQuery:  cfg.Log.Query,
		Limits: proxy.Limits{
			Header:     int(cfg.Limits.Header),
			Handshake:  cfg.Limits.HandshakeTimeout,
			HeaderIn:   cfg.Limits.HeaderTimeout,
			Idle:       cfg.Limits.IdleTimeout,
			CallerIdle: cfg.Limits.CallerIdleTimeout,
			Stall:      cfg.Limits.StallTimeout,
			Grace:      cfg.Grace,
		},
		Rates:  b.addressRates(p.guard, &cfg.Guard, before),
		Total:  b.quota("all", "total", guard.LimitTotalRate, cfg.Guard.Limits.Total, before),
		Tarpit: cfg.Guard.Tarpit,
	}
	var err error
	if snap.Callers, err = callerBook(p.callers, cfg); err != nil {
		return nil, err
	}
	snap.Accounts = b.accounts(cfg, before)
	b.snapshot = snap
	var table []route.Site
	for i := range cfg.Sites {
		site, routes, err := b.site(cfg, &cfg.Sites[i], before, p)
		if err != nil {
			b.closeNew(before)
			return nil, err
		}
		snap.Sites = append(snap.Sites, site)
		table = append(table, routes)
	}
	if snap.Table, err = route.New(table); err != nil {
		b.closeNew(before)
		return nil, err
	}
	return b, nil
}

func (b *built) site(cfg *config.Config, s *config.Site, before *built, p parts) (proxy.Site, route.Site, error) {
	name := s.Hosts[0]
	out := proxy.Site{Name: name, HTTP: httpMode(s.HTTP), HSTS: hsts(s.HSTS), Rate: b.rate(p.guard, name, "site", s.RateLimit, before)}
	table := route.Site{Hosts: s.Hosts}
	for i, r := range s.AllRoutes() {
		rt := proxy.Route{
			Name: r.Path, Pattern: r.Path, StripPrefix: r.StripPrefix,
			Rate:    b.rate(p.guard, fmt.Sprint(name, " ", i, " ", r.Path), "route", r.RateLimit, before),
			MaxBody: maxBody(cfg, s, &r),
			Open:    r.Open != nil && *r.Open,
		}
		b.routeLimits(&rt, fmt.Sprint(name, " ", i, " ", r.Path), cfg, &r, before)
		var err error
		if rt.Callers, err = access(b.snapshot.Callers, r.Callers); err != nil {
			return out, table, fmt.Errorf("site %s: route %s: %w", name, r.Path, err)
		}
		switch {
		case r.Redirect != nil:
			rt.Redirect = &proxy.Redirect{To: r.Redirect.To, Status: r.Redirect.Status}
		case r.Respond != nil:
			rt.Respond = &proxy.Respond{Status: r.Respond.Status, Body: r.Respond.Body, Type: r.Respond.Type}
		default:
			pool, err := b.pool(s, &r, before, p)
			if err != nil {
				return out, table, err
			}
			rt.Upstream, rt.HashBy = pool, hashBy(&r)
			if rt.Mirror, err = b.mirror(s, &r, before, p); err != nil {
				return out, table, err
			}
			rt.Request, rt.Response = change(r.Headers.Request), change(r.Headers.Response)
			rt.Once = once(p.once, name+" "+r.Path, r.Idempotency)
		}
		out.Routes = append(out.Routes, rt)
		table.Routes = append(table.Routes, route.Route{Path: r.Path, Methods: r.Methods})
	}
	return out, table, nil
}

func httpMode(s string) proxy.HTTPMode {
	switch s {
	case "serve":
		return proxy.HTTPServe
	case "off":
		return proxy.HTTPOff
	}
	return proxy.HTTPRedirect
}

// hsts is the value of Strict-Transport-Security (RFC 6797 section 6.1).
func hsts(h *config.HSTS) string {
	if h == nil {
		return ""
	}
	v := fmt.Sprintf("max-age=%d", int64(h.MaxAge/time.Second))
	if h.IncludeSubdomains {
		v += "; includeSubDomains"
	}
	if h.Preload {
		v += "; preload"
	}
	return v
}

func maxBody(cfg *config.Config, s *config.Site, r *config.Route) int64 {
	switch {
	case r.MaxBody != nil:
		return int64(*r.MaxBody)
	case s.MaxBody != nil:
		return int64(*s.MaxBody)
	}
	return int64(cfg.Limits.Body)
}

// pool returns the backends of one route, the running one if nothing about
// it changed.
func (b *built) pool(s *config.Site, r *config.Route, before *built, p parts) (*upstream.Pool, error) {
	return b.share(s.Hosts[0]+" "+r.Path, poolConfig(s, r), r.Upstream, before, p)
}

// mirror returns where copies of a route's requests go; nil: nowhere.
func (b *built) mirror(s *config.Site, r *config.Route, before *built, p parts) (*proxy.Mirror, error) {
	if r.Mirror == nil {
		return nil, nil
	}
	t := poolConfig(s, r)
	pool, err := b.share(s.Hosts[0]+" "+r.Path+" mirror", upstream.Config{Connect: t.Connect, Response: t.Response, Idle: t.Idle}, r.Mirror.To, before, p)
	if err != nil {
		return nil, err
	}
	return &proxy.Mirror{Pool: pool, Percent: int(r.Mirror.Percent), All: r.Mirror.Methods == "all"}, nil
}

// share returns a pool of the backends, the running one of the key if nothing
// about it changed.
func (b *built) share(key string, cfg upstream.Config, backends config.Upstreams, before *built, p parts) (*upstream.Pool, error) {
	cfg.Log, cfg.Metrics = p.log, p.metrics
	addrs, weights := backends.Targets()
	cfg.Weights = weights
	for _, text := range addrs {
		target, err := upstream.ParseTarget(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		cfg.Targets = append(cfg.Targets, target)
	}
	for b.pools[key] != nil { // the same path again, for other methods
		key += " again"
	}
	if before != nil {
		if old := before.pools[key]; old != nil && old.cfg.Equal(cfg) {
			b.pools[key] = old
			return old.pool, nil
		}
	}
	pool, err := upstream.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	b.pools[key] = &sharedPool{cfg: cfg, pool: pool}
	return pool, nil
}

// watched are the pools to be checked.
func (b *built) watched() []*upstream.Pool {
	var pools []*upstream.Pool
	for _, p := range b.pools {
		pools = append(pools, p.pool)
	}
	return pools
}

func pick(own, site *time.Duration, fallback time.Duration) time.Duration {
	switch {
	case own != nil:
		return *own
	case site != nil:
		return *site
	}
	return fallback
}

// rate returns the limiter for a scope, with what is used up of it if the
// limit did not change.
func (b *built) rate(g *guard.Guard, scope, policy string, r *config.RateLimit, before *built) *proxy.Rate {
	if r == nil {
		return nil
	}
	if before != nil {
		if old := before.limiters[policy+" "+scope]; old != nil && reflect.DeepEqual(old.rate, *r) {
			b.limiters[policy+" "+scope] = old
			return &proxy.Rate{Policy: policy, Limiter: old.limiter}
		}
	}
	l := g.NewLimiter(guard.Rate{Events: r.Rate.Events, Per: r.Rate.Per}, r.Burst, 0)
	b.limiters[policy+" "+scope] = &sharedLimiter{rate: *r, limiter: l}
	return &proxy.Rate{Policy: policy, Limiter: l}
}

// close ends every pool.
func (b *built) close() {
	for _, p := range b.pools {
		p.pool.Close()
	}
}

// closeNew ends what before does not share, after a build that came to
// nothing.
func (b *built) closeNew(before *built) {
	for key, p := range b.pools {
		if before == nil || before.pools[key] != p {
			p.pool.Close()
		}
	}
}

// retire ends what next does not share. Requests in flight keep their
// connections: Close ends only idle ones.
func (b *built) retire(next *built) {
	for key, p := range b.pools {
		if next.pools[key] != p {
			p.pool.Close()
		}
	}
}

// buildParts is called with mu held, or before the app is shared.
func (a *App) buildParts(cfg *config.Config) parts {
	return parts{log: a.log, access: a.logs.access(cfg.Log), guard: a.guard, callers: a.callers, metrics: a.metrics.upstream, once: a.once, httpsPort: a.httpsPort()}
}
