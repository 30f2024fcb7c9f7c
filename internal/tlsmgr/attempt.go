package tlsmgr

import (
	"context"
	"errors"
	"time"

	"postern/internal/dnscheck"

	"github.com/mholt/acmez/v3/acme"
)

// errRed ends an attempt at the last moment.
var errRed = errors.New("the DNS turned red")

// attempt spends one attempt on name. Before anything is spent it sees that
// the authority is there and that the result can be kept, and has the attempt
// on disk: a crash forgets none.
func (m *Manager) attempt(ctx context.Context, name string, act action) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	i := m.eng.byKey(act.route.account)
	if i == nil {
		return // a reload took the authority away
	}
	operation := "obtain"
	if m.eng.holds(name) {
		operation = "renew"
	}
	if err := m.eng.storage.writable(act.route.account, name); err != nil {
		m.ledger.unwritable(err)
		m.ledger.update(name, func(r *record) { r.Next = time.Now().Add(lookEvery) })
		return
	}
	if err := i.reach(ctx); err != nil {
		m.failed(ctx, name, act, operation, explain(err, time.Time{}, time.Now()))
		return
	}
	if err := m.spend(name, act, time.Now()); err != nil {
		m.ledger.update(name, func(r *record) { r.Next = time.Now().Add(lookEvery) })
		return
	}
	at := &attempt{challenge: act.route.challenge, profile: i.profileFor(name), allowed: func() error {
		if !act.forced && m.gated(name) && m.ledger.get(name).Colour == dnscheck.Red {
			return errRed
		}
		return nil
	}}
	if leaf, from := m.eng.source(name); act.replaces && from == i {
		at.replaces = leaf
	}
	err := m.eng.attempt(ctx, i, name, at)
	if err == nil {
		if err = m.eng.load(name); err != nil {
			m.setAside(name, err)
		}
		m.dropUnwanted(name)
	}
	if err != nil {
		m.failed(ctx, name, act, operation, explain(err, at.retryAfter(), time.Now()))
		return
	}
	m.succeeded(name, act, operation, i, at.renewalInfo())
}

// spend writes down that an attempt begins. After an error none may.
func (m *Manager) spend(name string, act action, now time.Time) error {
	var was record
	m.ledger.update(name, func(r *record) {
		was = *r
		if m.eng.counts() {
			r.try(act.route.account, now)
		} else {
			r.LastAttempt = now
		}
	})
	err := m.ledger.save(now)
	if err != nil {
		m.ledger.update(name, func(r *record) { r.Tries, r.LastAttempt = was.Tries, was.LastAttempt })
	}
	return err
}

func (m *Manager) succeeded(name string, act action, operation string, i *issuer, info *acme.RenewalInfo) {
	now := time.Now()
	leaf := m.eng.find(name)
	var ari *renewalInfo
	if info != nil && leaf != nil {
		ari = &renewalInfo{Serial: serialOf(leaf)}
		ari.learn(*info, now)
	}
	m.metrics.attempt(operation, nil)
	m.ledger.update(name, func(r *record) {
		r.Fails, r.Stumbles, r.Turn, r.Next = 0, 0, 0, time.Time{}
		r.LastError, r.Meaning, r.LastErrorAt = "", "", time.Time{}
		r.Prefer, r.Pauses, r.ARI = act.route.challenge, nil, ari
	})
	m.ledger.updateHealth(act.route.account, func(h *health) { *h = health{} })
	m.saveQuietly(now)
	words := "certificate obtained"
	if operation == "renew" {
		words = "certificate renewed"
	}
	until := time.Time{}
	if leaf != nil {
		until = leaf.NotAfter
	}
	m.log.Info(words, "name", name, "authority", i.label(), "challenge", act.route.challenge, "not_after", until)
}

// failed writes down what went wrong and when to come again.
func (m *Manager) failed(ctx context.Context, name string, act action, operation string, f failure) {
	if errors.Is(ctx.Err(), context.Canceled) {
		return // we are stopping; that is nobody's failure
	}
	now, account := time.Now(), act.route.account
	m.metrics.attempt(operation, errors.New(f.words))
	before := m.ledger.get(name)
	chance := m.drv.chance()
	after := m.ledger.updateHealth(account, func(h *health) { h.fail(f, now, chance) })
	rec := m.ledger.update(name, func(r *record) { r.fail(account, f, now, chance) })
	m.saveQuietly(now)
	args := []any{"name", name, "authority", account, "challenge", act.route.challenge, "err", f.words, "meaning", f.means}
	switch {
	case rec.Next.After(now):
		args = append(args, "next", rec.Next)
	case after.Until.After(now):
		args = append(args, "authority_next", after.Until)
	}
	if before.LastError != f.words {
		m.log.Warn("certificate not "+map[string]string{"obtain": "obtained", "renew": "renewed"}[operation], args...)
	} else {
		m.log.Debug("certificate still not there", args...)
	}
}

// fail is what a failure means for the authority.
func (h *health) fail(f failure, now time.Time, chance float64) {
	switch {
	case f.kind == failedRefused || f.kind == failedForbidden:
		if h.Why != whyLimited {
			*h = health{} // it works, it just said no
		}
		return
	case f.kind == failedElse || f.kind == failedLimited && f.named:
		return
	}
	if h.Fails++; h.Fails == 1 {
		h.Since = now
	}
	h.LastError, h.Why = f.words, whyAuthority
	h.Until = now.Add(backoff(h.Fails, f.kind, chance))
	if f.kind == failedLimited {
		h.Why = whyLimited
	}
	if !f.until.IsZero() {
		h.Until, h.Why = f.until, whyLimited
	}
}

// fail is what a failure means for the name.
func (r *record) fail(account string, f failure, now time.Time, chance float64) {
	r.LastError, r.Meaning, r.LastErrorAt = f.words, f.means, now
	switch f.kind {
	case failedElse:
		r.Stumbles++
		r.Next = now.Add(backoff(r.Stumbles, f.kind, chance))
	case failedUnreached:
		r.Stumbles++ // the authority waits, and the name goes to the next one
	case failedLimited:
		r.Stumbles++
		if f.named {
			until := f.until
			if until.IsZero() {
				until = now.Add(backoff(r.Stumbles, f.kind, chance))
			}
			r.pauseAccount(account, pause{until, whyLimited})
		}
	case failedForbidden:
		r.Fails++
		r.pauseAccount(account, pause{now.Add(forbiddenFor), whyForbidden})
	case failedRefused:
		r.Fails++
		r.Turn++
		r.Next = offTheHour(now.Add(backoff(r.Fails, f.kind, chance)), chance)
	}
}

// dropUnwanted lets go of a certificate whose name a reload took away while it
// was being obtained.
func (m *Manager) dropUnwanted(name string) {
	if !m.wants(name) {
		m.eng.forget(m.wants)
	}
}
