package app

import (
	"fmt"
	"path/filepath"
	"time"

	"postern/internal/config"
	"postern/internal/guard"
	"postern/internal/proxy"
)

// guardConfig translates what the file says about refusing.
func guardConfig(cfg *config.Config) (guard.Config, error) {
	mode, err := guard.ParseMode(cfg.Guard.Mode)
	if err != nil {
		return guard.Config{}, err
	}
	weights, err := guardWeights(&cfg.Guard.Weights)
	if err != nil {
		return guard.Config{}, err
	}
	b := &cfg.Guard.Bans
	out := guard.Config{
		Mode:           mode,
		Never:          cfg.Guard.Never,
		Allow:          cfg.Guard.Allow,
		TrustedProxies: cfg.TrustedProxies,
		Weights:        weights,
		Threshold:      float64(b.Threshold),
		Leak:           b.Forgive,
		FirstBan:       b.First,
		MaxBan:         b.Max,
		Forget:         b.Forget,
		MaxBans:        b.Keep,
		NetworkBans:    orNone(b.Network),
		MaxSharedBan:   b.AWS,
		Trust:          orNone(cfg.Guard.Trust),
		Decoys:         cfg.Guard.Decoys,
		Requests:       orNone(cfg.Guard.Limits.Requests),
		Connections:    connectionLimit(cfg.Limits.Connections),
		PerAddress:     cfg.Limits.ConnectionsPerAddress,
		File:           filepath.Join(cfg.Data, "bans.json"),
	}
	if r := cfg.Guard.Limits.NewConnections; r != nil {
		out.Accepts, out.AcceptBurst = guard.Rate{Events: r.Rate.Events, Per: r.Rate.Per}, r.Burst
	}
	return out, nil
}

// orNone turns 0, which is none in the file, into what is none for the guard.
func orNone[T int | time.Duration](v T) T {
	if v == 0 {
		return -1
	}
	return v
}

func guardWeights(w *config.Weights) (map[guard.Signal]float64, error) {
	out := make(map[guard.Signal]float64)
	for name, points := range w.Values() {
		s, ok := guard.SignalNamed(name)
		if !ok {
			return nil, fmt.Errorf("guard.weights.%s: the guard knows no such thing", name)
		}
		out[s] = points
	}
	return out, nil
}

type sharedQuota struct {
	limit config.RateLimit
	quota *proxy.Quota
}

// addressRates are the limits of one client address over all sites.
func (b *built) addressRates(g *guard.Guard, cfg *config.Guard, before *built) []*proxy.Rate {
	var out []*proxy.Rate
	if r := b.rate(g, "all", "address", cfg.RateLimit, before); r != nil {
		out = append(out, r)
	}
	if l := &cfg.Limits; l.Rate.Events > 0 {
		out = append(out, b.rate(g, "limits", "address", &config.RateLimit{Rate: l.Rate, Burst: l.Burst}, before))
	}
	return out
}

// quota returns the limit of everybody together for a scope, with what is used
// up of it if it did not change.
func (b *built) quota(scope, policy string, kind guard.Limit, r *config.RateLimit, before *built) *proxy.Quota {
	if r == nil {
		return nil
	}
	key := policy + " " + scope
	if before != nil {
		if old := before.quotas[key]; old != nil && old.limit == *r {
			b.quotas[key] = old
			return old.quota
		}
	}
	q := &proxy.Quota{Policy: policy, Limit: kind, Single: guard.NewSingle(guard.Rate{Events: r.Rate.Events, Per: r.Rate.Per}, r.Burst)}
	b.quotas[key] = &sharedQuota{limit: *r, quota: q}
	return q
}

// routeLimits gives rt what bounds it whoever asks: its own limits, or those
// for each route.
func (b *built) routeLimits(rt *proxy.Route, scope string, cfg *config.Config, r *config.Route, before *built) {
	l := r.Limits
	if l == nil {
		l = cfg.Guard.Limits.PerRoute
	}
	if l == nil {
		return
	}
	if l.Rate.Events > 0 {
		rt.Quota = b.quota(scope, "route_total", guard.LimitRouteRate, &config.RateLimit{Rate: l.Rate, Burst: l.Burst}, before)
	}
	if l.Requests <= 0 {
		return
	}
	rt.Gate = &proxy.RouteGate{Most: int32(min(l.Requests, 1<<30))}
	if before != nil {
		if old := before.gates[scope]; old != nil && old.Most == rt.Gate.Most {
			rt.Gate = old
		}
	}
	b.gates[scope] = rt.Gate
}

// guardEvent tells the log about what the guard sees, and whoever else wants
// to know. It is called on a request's path.
func (a *App) guardEvent(e guard.Event) {
	a.kernelEvent(e)
	switch e.Kind {
	case guard.EventBan:
		msg := "banned"
		if e.Ban.Trial {
			msg = "would ban"
		}
		a.log.Info(msg, "address", e.Ban.Prefix.String(), "reason", e.Ban.Reason, "until", e.Ban.Until, "bans_before", e.Ban.Past)
	case guard.EventUnban:
		a.log.Info("ban ended by hand", "address", e.Ban.Prefix.String(), "reason", e.Ban.Reason)
	case guard.EventServed:
		a.log.Warn("a backend published what only scanners ask for", "client", e.Addr.String(), "family", e.Rule, "host", e.Host, "path", e.Path)
	case guard.EventFlood:
		a.log.Warn("limit hit", "limit", e.Rule, "client", e.Addr.String())
	case guard.EventMode:
		a.log.Warn("guard mode changed", "mode", e.Mode.String())
	}
	for _, told := range a.onGuard {
		told(e)
	}
}
