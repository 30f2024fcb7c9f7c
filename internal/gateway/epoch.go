package gateway

import (
	"net/netip"
	"time"
)

// epochKey is a clock of a router: each protocol may have its own.
type epochKey struct {
	proto  Protocol
	router netip.Addr
}

// epoch is when a router's clock showed what: it starts over when the router
// forgot its mappings.
type epoch struct {
	seconds uint32
	at      time.Time
}

// restarted tells whether the router lost its state between before and now,
// after RFC 6887 section 8.5; RFC 6886 section 3.6 is the same but for the
// rounding. The first epoch seen is never a restart.
func (before epoch) restarted(now epoch) bool {
	if before.at.IsZero() {
		return false
	}
	if int64(now.seconds)+1 < int64(before.seconds) {
		return true
	}
	ours := int64(now.at.Sub(before.at) / time.Second)
	theirs := int64(now.seconds) - int64(before.seconds)
	return ours+2 < theirs-theirs/16 || theirs+2 < ours-ours/16
}

// noteEpoch remembers what a router's clock shows and, when it started over,
// has every mapping made again, also those by the protocols without a clock.
func (c *Client) noteEpoch(proto Protocol, router netip.Addr, seconds uint32, now time.Time) {
	key := epochKey{proto, router}
	next := epoch{seconds, now}
	lost := c.talk.epochs[key].restarted(next)
	c.talk.epochs[key] = next
	if !lost {
		return
	}
	c.talk.restarts++
	c.talk.device, c.talk.device6 = nil, nil // perhaps at other ports now
	c.metrics.restarts.Inc()
	c.log.Info("router restarted", "router", router.String(), "protocol", string(proto))
	for _, e := range c.talk.entries {
		if e.state == Mapped && e.made.Before(now) {
			e.remake = true
		}
	}
}
