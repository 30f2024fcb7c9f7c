package app

import (
	"postern/internal/config"
	"postern/internal/guard"
	"postern/internal/proxy"
)

// accounts are what the callers may use. What they have used of it stays used
// across a reload, and so does how far they are ahead of a rate that is the
// same.
func (b *built) accounts(cfg *config.Config, before *built) map[string]*proxy.Account {
	b.rates = make(map[string]config.Quota)
	out := make(map[string]*proxy.Account, len(cfg.Callers))
	for name, c := range cfg.Callers {
		if c == nil {
			continue
		}
		var old *proxy.Account
		if before != nil {
			old = before.snapshot.Accounts[name]
		}
		a := (&proxy.Account{Wait: c.Wait}).Since(old)
		if q := c.Quota; q != nil {
			a.Requests, a.Bytes = int32(min(q.Requests, 1<<30)), int64(q.Bytes)
			a.Rate = guard.NewSingle(guard.Rate{Events: q.Rate.Events, Per: q.Rate.Per}, q.Burst)
			if old != nil && before.rates[name].Rate == q.Rate && before.rates[name].Burst == q.Burst {
				a.Rate = old.Rate
			}
			b.rates[name] = *q
		}
		out[name] = a
	}
	return out
}
