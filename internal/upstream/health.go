package upstream

import "time"

// How long a backend stays out after a failed dial: firstPause, doubled with
// each failure in a row up to lastPause, less up to a fifth so that routes
// with the same backend do not knock at the same moment.
const (
	firstPause = time.Second
	lastPause  = 10 * time.Second
)

// health is what failed dials and active checks say of a backend. The zero
// value is up.
type health struct {
	failures int       // failed dials in a row
	sick     bool      // active checks say that it is not to be used, and only they take it back
	good     int       // active checks passed in a row
	bad      int       // active checks not passed in a row
	next     time.Time // when it may be tried again; only if down
	probing  bool      // a request or the watch is trying it right now
	lastErr  string    // of the last failed dial or check, also after recovery
}

func (h *health) up() bool { return h.failures == 0 && !h.sick }

// usable reports whether a request may go to the backend, and whether it is
// the one request that finds out if a backend that was down is back.
func (h *health) usable(now time.Time) (ok, probe bool) {
	if h.up() {
		return true, false
	}
	if h.sick {
		return false, false
	}
	due := !h.probing && !now.Before(h.next)
	return due, due
}

// failed notes a failed dial and reports whether it is the first in a row.
// chance is from [0,1).
func (h *health) failed(now time.Time, err error, chance float64) (changed bool) {
	changed = h.failures == 0
	// Requests that were already dialling when the backend went down say
	// nothing new: they must not double the pause.
	if changed || h.probing {
		h.failures++
		h.next = now.Add(pause(h.failures, chance))
	}
	h.probing = false
	h.lastErr = clean(err)
	return changed
}

// recovered notes that the backend was reached and reports whether dials to it
// had failed.
func (h *health) recovered() (changed bool) {
	if h.failures == 0 {
		return false
	}
	h.failures, h.probing = 0, false
	if !h.sick {
		h.next = time.Time{}
	}
	return true
}

// checked notes the outcome of an active check; err nil: it was passed. One
// that is passed shows that dials do not fail any more, too.
func (h *health) checked(err error, rule *Check, next time.Time) {
	if err != nil {
		h.good, h.bad = 0, h.bad+1
		h.lastErr = clean(err)
		h.sick = h.sick || h.bad >= rule.Unhealthy
	} else {
		h.good, h.bad = h.good+1, 0
		h.sick = h.sick && h.good < rule.Healthy
		h.recovered()
	}
	switch {
	case h.sick:
		h.next = next
	case h.failures == 0:
		h.next = time.Time{}
	}
}

// abandoned takes back a probe that found nothing out: the next request is the
// probe.
func (h *health) abandoned() { h.probing = false }

// pause is how long a backend stays out after n failures in a row, n > 0.
func pause(n int, chance float64) time.Duration {
	d := lastPause
	if n < 5 { // 1s, 2s, 4s, 8s
		d = firstPause << (n - 1)
	}
	return d - time.Duration(chance*float64(d)/5)
}
