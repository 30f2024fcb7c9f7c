package upstream

import (
	"fmt"
	"time"
)

// Breaker is when a backend that answers, but badly, is left alone.
type Breaker struct {
	Errors float64       // open when this share of the requests failed, above 0 up to 1
	Min    int           // but not before this many were made within Window
	Window time.Duration // what is looked back at
	Open   time.Duration // how long the backend is left alone before one request tries it
}

const breakerSlots = 10

// breaker is the circuit breaker of one backend: closed, open, or, when its
// time is over, open for one request at a time that tries the backend. The
// pool's lock guards it. A nil breaker is always closed.
type breaker struct {
	rule   Breaker
	slots  [breakerSlots]struct{ at, all, bad int64 }
	opened bool
	until  time.Time // when a request may try the backend; only if opened
	trying bool      // one does
	why    string    // of the last opening
}

func (k *breaker) open() bool { return k != nil && k.opened }

// usable is as health.usable.
func (k *breaker) usable(now time.Time) (ok, probe bool) {
	if !k.open() {
		return true, false
	}
	due := !k.trying && !now.Before(k.until)
	return due, due
}

// note counts one outcome. Whether the state changed is to be seen from open.
func (k *breaker) note(now time.Time, bad bool) {
	switch {
	case k.opened && !k.trying:
		return // sent before it opened: that says nothing new
	case k.opened && bad:
		k.trying, k.until = false, now.Add(k.rule.Open)
		return
	case k.opened:
		*k = breaker{rule: k.rule, why: k.why}
	}
	at := now.UnixNano() / max(1, int64(k.rule.Window/breakerSlots))
	slot := &k.slots[uint64(at)%breakerSlots]
	if slot.at != at {
		slot.at, slot.all, slot.bad = at, 0, 0
	}
	slot.all++
	if !bad {
		return
	}
	slot.bad++
	var sum, sumBad int64
	for _, s := range k.slots {
		if s.at > at-breakerSlots {
			sum, sumBad = sum+s.all, sumBad+s.bad
		}
	}
	if sum >= int64(k.rule.Min) && float64(sumBad) >= k.rule.Errors*float64(sum) {
		k.opened, k.until = true, now.Add(k.rule.Open)
		k.why = fmt.Sprintf("circuit open: %d of %d requests failed", sumBad, sum)
	}
}
