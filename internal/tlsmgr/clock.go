package tlsmgr

import (
	"time"
)

const (
	clockSlack   = 5 * time.Minute // steps back of this much are corrections
	clockPatient = 5 * time.Minute // after the machine's start: time services take that long
)

// clockTrusted decides whether the clock can be believed. A machine without a
// battery for its clock (a Raspberry Pi) starts in the past, and until a time
// service has set it, certificates look not yet valid and waits look endless.
//
// A kernel that says it is synchronised is believed. One that does not may be
// in a container or on a host that sets the clock some other way, so it is
// believed after a while, but never about a time before one that was already
// seen, or before the newest certificate began.
func clockTrusted(synced bool, up time.Duration, now, seen, newest time.Time) bool {
	if synced {
		return true
	}
	last := seen
	if newest.After(last) {
		last = newest
	}
	if now.Before(last.Add(-clockSlack)) {
		return false
	}
	return up >= clockPatient
}

// clock reports whether the clock can be believed now. Our own authority does
// not care.
func (m *Manager) clock(now time.Time) bool {
	if !m.eng.counts() {
		return true
	}
	synced, up := m.settings.Load().clock()
	if synced {
		return true
	}
	var newest time.Time
	for _, h := range *m.eng.held.Load() {
		if b := h.cert.Leaf.NotBefore; b.After(newest) {
			newest = b
		}
	}
	return clockTrusted(synced, up, now, m.ledger.lastSeen(), newest)
}
