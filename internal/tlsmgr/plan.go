package tlsmgr

import (
	"time"

	"postern/internal/dnscheck"
)

// This file is the rule. decide looks at what is known about one name and says
// what to do now, or when to look again. It has no clock, no network and no
// log; the driver acts on it.

const (
	checkCalm    = time.Hour        // between checks while nothing is wrong
	checkConfirm = time.Second      // a recovery is believed when it is seen twice
	amberEvery   = 15 * time.Minute // between attempts while some name servers fail
	clockEvery   = 10 * time.Second // between looks at a clock that is not set
	lookEvery    = time.Minute      // between looks for a new address, and at a disk that cannot be written
	lookCalm     = 10 * time.Minute // at the latest, look again
	budgetHour   = time.Hour
)

// deed is what to do about a name.
type deed uint8

const (
	doWait    deed = iota
	doCheck        // ask the DNS
	doAsk          // ask the authority when to renew
	doAttempt      // spend one attempt
)

// reason is why a name waits; its text is a metric label and part of what
// people are told.
type reason string

// The reasons to wait.
const (
	whyNothing   reason = ""           // nothing is due
	whyClock     reason = "clock"      // the clock is not set
	whyDNS       reason = "dns"        // the check is red
	whyAmber     reason = "dns_partly" // the check is amber and an attempt was made not long ago
	whyBackoff   reason = "backoff"    // an attempt failed not long ago
	whyBudget    reason = "budget"     // the attempts of this hour are spent
	whyAuthority reason = "authority"  // no authority can be reached
	whyLimited   reason = "rate_limit" // the authority told us to wait
	whyForbidden reason = "forbidden"  // no authority may or will certify the name
	whyNoWay     reason = "no_way"     // no challenge can be answered
	whyStorage   reason = "storage"    // nothing can be written
)

// action is the answer of decide.
type action struct {
	do       deed
	until    time.Time // doWait: look again then
	why      reason    // doWait: what holds it up, if something is due
	route    route     // doAttempt
	replaces bool      // doAttempt: tell the authority which certificate goes (RFC 9773 section 5)
	forced   bool      // doAttempt: whatever the DNS says
}

// route is one way to a certificate: an authority and a challenge type.
type route struct {
	account   string // authority and account; the key of budgets and pauses
	challenge string
	until     time.Time // the authority is not asked before
	why       reason    // why not
	forbidden bool      // CAA, as our own check read it
}

// situation is all that decide looks at.
type situation struct {
	held    bool      // a certificate is in memory
	lost    bool      // and storage lost its copy
	renewAt time.Time // of the certificate held
	askAt   time.Time // when to ask for the renewal time again; zero: never
	asked   bool      // a person wants a new one now

	gated     bool      // the DNS decides
	checkedAt time.Time // zero: not in this process
	clock     bool      // false: the clock is not set
	storage   bool      // false: the last write failed

	rec     record
	routes  []route
	counted bool          // attempts are limited
	perHour int           // for one name and account
	every   time.Duration // between checks while it is not green
}

// dueAt is when a new certificate is wanted; zero is at once.
func (s *situation) dueAt() time.Time {
	if !s.held || s.lost || s.asked {
		return time.Time{}
	}
	return s.renewAt
}

// checkAt is when the DNS should be asked again.
func (s *situation) checkAt() time.Time {
	switch {
	case s.checkedAt.IsZero():
		return time.Time{}
	case s.rec.Doubt > 0:
		return s.checkedAt.Add(min(checkConfirm, s.every))
	case s.rec.Colour != dnscheck.Green || s.rec.Fails > 0:
		return s.checkedAt.Add(s.every)
	}
	return s.checkedAt.Add(checkCalm)
}

// decide is the rule.
func decide(s *situation, now time.Time) action {
	due := s.dueAt()
	if due.After(now) {
		if s.gated && !s.checkAt().After(now) {
			return action{do: doCheck}
		}
		if !s.askAt.IsZero() && !s.askAt.After(now) && s.clock {
			return action{do: doAsk}
		}
		return wait(whyNothing, now, due, s.checkAt(), s.askAt)
	}
	if !s.clock {
		return wait(whyClock, now, now.Add(clockEvery))
	}
	if s.gated && !s.checkAt().After(now) {
		return action{do: doCheck}
	}
	if s.gated && s.rec.Colour == dnscheck.Red {
		return wait(whyDNS, now, s.checkAt())
	}
	if s.rec.Next.After(now) {
		if !s.storage {
			return wait(whyStorage, now, s.rec.Next, s.gateAt())
		}
		return wait(whyBackoff, now, s.rec.Next, s.gateAt())
	}
	if s.gated && s.rec.Colour == dnscheck.Amber {
		if at := s.rec.LastAttempt.Add(amberEvery); at.After(now) {
			return wait(whyAmber, now, at, s.gateAt())
		}
	}
	r, at, why := s.pick(now)
	if why != whyNothing {
		return wait(why, now, at, s.gateAt())
	}
	if s.gated && s.checkedAt.Add(s.every).Before(now) {
		return action{do: doCheck} // no attempt on old news
	}
	return action{do: doAttempt, route: r, replaces: s.held && s.rec.Fails%2 == 0}
}

// gateAt is checkAt for names that have one, else never.
func (s *situation) gateAt() time.Time {
	if !s.gated {
		return time.Time{}
	}
	return s.checkAt()
}

// wait looks again at the earliest of the times that are in the future.
func wait(why reason, now time.Time, times ...time.Time) action {
	until := now.Add(lookCalm)
	for _, t := range times {
		if t.After(now) && t.Before(until) {
			until = t
		}
	}
	return action{do: doWait, why: why, until: until}
}

// pick takes the first way that is open, beginning with the one whose turn it
// is. When none is, it says when the first will be, and what closes it.
func (s *situation) pick(now time.Time) (route, time.Time, reason) {
	if len(s.routes) == 0 {
		return route{}, time.Time{}, whyNoWay
	}
	var first time.Time
	why := whyForbidden
	for i := range s.routes {
		r := s.routes[(s.rec.Turn+i)%len(s.routes)]
		if r.forbidden {
			continue
		}
		at, because := s.openAt(r, now)
		if !at.After(now) {
			return r, time.Time{}, whyNothing
		}
		if first.IsZero() || at.Before(first) {
			first, why = at, because
		}
	}
	return route{}, first, why
}

// openAt is when r may be taken.
func (s *situation) openAt(r route, now time.Time) (time.Time, reason) {
	at, why := r.until, r.why
	if p, ok := s.rec.Pauses[r.account]; ok && p.Until.After(at) {
		at, why = p.Until, p.Why
	}
	if s.counted {
		if free := s.rec.freeAt(r.account, s.perHour, now); free.After(at) {
			at, why = free, whyBudget
		}
	}
	return at, why
}

// renewalTime is when to renew: at the time chosen in the authority's window
// (RFC 9773 section 4.2), but never in the first fiftieth or the last
// twentieth of the lifetime;
// without a window when a third of the lifetime is left, or half of it when
// that is less than ten days, as Let's Encrypt advises.
func renewalTime(notBefore, notAfter, chosen time.Time) time.Time {
	life := notAfter.Sub(notBefore)
	if !chosen.IsZero() {
		if first := notBefore.Add(life / 50); chosen.Before(first) { // or one that always says "now" is asked for ever
			return first
		}
		if last := notAfter.Add(-life / 20); chosen.After(last) {
			return last
		}
		return chosen
	}
	if life < 10*24*time.Hour {
		return notAfter.Add(-life / 2)
	}
	return notAfter.Add(-life / 3)
}

// backoff is how long to wait after the nth failure in a row. An authority
// that said no counts the failure (Let's Encrypt allows five an hour for a
// name), so the fourth comes after half an hour. chance, from 0 to 1, spreads
// the attempts of many houses.
func backoff(fails int, kind failureKind, chance float64) time.Duration {
	steps := []time.Duration{time.Minute, 10 * time.Minute, 20 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour}
	switch kind {
	case failedElse:
		steps = []time.Duration{15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute}
	case failedUnreached:
		steps = []time.Duration{10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute}
	case failedLimited:
		steps = []time.Duration{time.Hour, 2 * time.Hour, 4 * time.Hour}
	}
	d := steps[min(max(fails, 1), len(steps))-1]
	return d + time.Duration(chance*float64(d)/5)
}

// offTheHour moves a time away from the full hour, when everybody's timers
// fire and authorities are slowest.
func offTheHour(t time.Time, chance float64) time.Time {
	if m := t.Minute(); m == 59 || m == 0 {
		return t.Add(2*time.Minute + time.Duration(chance*float64(5*time.Minute)))
	}
	return t
}
