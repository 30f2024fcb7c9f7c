package app

import (
	"github.com/prometheus/client_golang/prometheus"

	"postern/internal/config"
	"postern/internal/idempotency"
	"postern/internal/proxy"
)

// onceStores keep the answers to requests that may be sent again: those of
// known callers, and those of strangers in a smaller room of their own.
type onceStores struct {
	callers, strangers *idempotency.Store[proxy.StoredAnswer]
}

func newOnceStores(reg prometheus.Registerer) onceStores {
	who := func(name string) prometheus.Registerer {
		return prometheus.WrapRegistererWith(prometheus.Labels{"who": name}, reg)
	}
	return onceStores{
		callers:   idempotency.New[proxy.StoredAnswer](idempotency.Config{Registerer: who("callers")}),
		strangers: idempotency.New[proxy.StoredAnswer](idempotency.Config{MaxBytes: 4 << 20, MaxEntries: 1024, MaxWaiting: 64, Registerer: who("strangers")}),
	}
}

// once keeps the repetitions of a route's requests from happening again.
func once(s onceStores, scope string, c *config.Idempotency) *proxy.Once {
	if c == nil {
		return nil
	}
	return &proxy.Once{
		Store: s.callers, Strangers: s.strangers, Scope: scope,
		Required: c.Required, Wait: c.Wait, MaxBody: int64(c.MaxBody), MaxAnswer: int64(c.MaxAnswer),
	}
}
