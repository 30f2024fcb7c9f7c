package upstream

import "time"

// How long a backend stays out after a failed dial: firstPause, doubled with
// each failure in a row up to lastPause, less up to a fifth so that routes
// with the same backend do not knock at the same moment.
const (
	firstPause = time.Second
	lastPause  = 10 * time.Second
)

// health is what passive checks know about a backend. The zero value is up.
type health struct {
	failures int       // failed dials in a row; 0 is up
	since    time.Time // of the last change between up and down
	next     time.Time // when it may be tried again; only if down
	probing  bool      // a request is trying it right now
	lastErr  string    // of the last failed dial, also after recovery
}

func (h *health) up() bool { return h.failures == 0 }

// usable reports whether a request may go to the backend, and whether it is
// the one request that finds out if a backend that was down is back.
func (h *health) usable(now time.Time) (ok, probe bool) {
	if h.up() {
		return true, false
	}
	due := !h.probing && !now.Before(h.next)
	return due, due
}

// failed notes a failed dial and reports whether the backend was up until now.
// chance is from [0,1).
func (h *health) failed(now time.Time, err error, chance float64) (changed bool) {
	changed = h.up()
	// Requests that were already dialling when the backend went down say
	// nothing new: they must not double the pause.
	if changed || h.probing {
		h.failures++
		h.next = now.Add(pause(h.failures, chance))
	}
	if changed {
		h.since = now
	}
	h.probing = false
	h.lastErr = clean(err)
	return changed
}

// recovered notes that the backend answered and reports whether it was down.
func (h *health) recovered(now time.Time) (changed bool) {
	if h.up() {
		return false
	}
	h.failures, h.probing, h.since, h.next = 0, false, now, time.Time{}
	return true
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

// choose picks the backend whose turn it is among those that are usable and
// not yet tried, so that the neighbour of a backend that is down does not get
// its share on top. probe is as in usable.
func choose(hs []*health, tried []bool, turn uint64, now time.Time) (i int, probe, ok bool) {
	n := uint64(0)
	for i, h := range hs {
		if use, _ := h.usable(now); use && !tried[i] {
			n++
		}
	}
	if n == 0 {
		return 0, false, false
	}
	skip := turn % n
	for i, h := range hs {
		use, probe := h.usable(now)
		if !use || tried[i] {
			continue
		}
		if skip == 0 {
			return i, probe, true
		}
		skip--
	}
	return 0, false, false
}

// retryAfter is the time until the first backend may be tried again.
func retryAfter(hs []*health, now time.Time) time.Duration {
	d := lastPause
	for _, h := range hs {
		d = min(d, h.next.Sub(now))
	}
	// A probe under way leaves a time in the past; clients count in seconds.
	return max(d, time.Second)
}
