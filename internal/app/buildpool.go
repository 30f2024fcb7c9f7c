package app

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"postern/internal/config"
	"postern/internal/proxy"
	"postern/internal/upstream"
)

// poolConfig is how a route uses its backends, without the backends.
func poolConfig(s *config.Site, r *config.Route) upstream.Config {
	t := r.Timeout
	cfg := upstream.Config{
		Connect:   pick(t.Connect, s.Timeout.Connect, upstream.DefaultConnect),
		Response:  pick(t.Response, s.Timeout.Response, upstream.DefaultResponse),
		Try:       pick(t.Try, s.Timeout.Try, 0),
		Idle:      pick(t.Idle, s.Timeout.Idle, upstream.DefaultIdle),
		Balance:   balance(r.Balance),
		SlowStart: r.SlowStart,
		Hold:      r.Hold,
		Retry:     retry(r.Retry),
	}
	if h := r.Health; h != nil {
		cfg.Check = &upstream.Check{
			Path: h.Path, Host: h.Host, Interval: h.Interval, Timeout: h.Timeout,
			Healthy: h.Healthy, Unhealthy: h.Unhealthy, From: h.Status.From, To: h.Status.To,
		}
	}
	if b := r.Breaker; b != nil {
		cfg.Breaker = &upstream.Breaker{Errors: float64(b.Errors) / 100, Min: b.Min, Window: b.Window, Open: b.Open}
	}
	return cfg
}

func balance(s string) upstream.Balance {
	switch s {
	case "least_requests":
		return upstream.LeastRequests
	case "random_two":
		return upstream.RandomTwo
	case "hash":
		return upstream.Hash
	}
	return upstream.RoundRobin
}

// hashBy is nil unless the route balances by hash.
func hashBy(r *config.Route) *proxy.HashBy {
	if balance(r.Balance) != upstream.Hash {
		return nil
	}
	switch kind, name, _ := strings.Cut(r.HashBy, ":"); kind {
	case "header":
		return &proxy.HashBy{Header: name}
	case "cookie":
		return &proxy.HashBy{Cookie: name}
	}
	return &proxy.HashBy{}
}

func retry(r *config.Retries) *upstream.Retry {
	if r == nil {
		return nil
	}
	out := &upstream.Retry{Tries: r.Tries, Budget: float64(r.Budget) / 100, All: r.Methods == "all"}
	for _, on := range r.On {
		switch on {
		case "closed":
			out.Closed = true
		case "timeout":
			out.Late = true
		case "malformed":
			out.Bad = true
		default:
			if status, err := strconv.Atoi(on); err == nil { // as config checked
				out.Status = append(out.Status, status)
			}
		}
	}
	return out
}

// change is nil when nothing is changed.
func change(f config.FieldChanges) *proxy.Change {
	if len(f.Set)+len(f.Remove) == 0 {
		return nil
	}
	c := &proxy.Change{Remove: f.Remove}
	for _, name := range slices.Sorted(maps.Keys(f.Set)) {
		c.Set = append(c.Set, proxy.Field{Name: name, Value: f.Set[name]})
	}
	return c
}
