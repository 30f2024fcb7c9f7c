package gateway

import (
	"errors"
	"net/netip"
	"time"
)

const (
	// firstRetry is how long after a failure a mapping is tried again; each
	// further one waits twice as long, up to lastRetry.
	firstRetry = 15 * time.Second
	lastRetry  = 10 * time.Minute

	// soonest is how close together two tries to renew may be (RFC 6887
	// section 11.2.1 says 4 s).
	soonest = 15 * time.Second
)

// need is one mapping that should be there now.
type need struct {
	Port
	internal netip.AddrPort
	router   netip.Addr // that has to map it
}

// entry is one mapping: what is wanted and how far we are.
type entry struct {
	need
	state  State
	since  time.Time
	tried  int // failures in a row
	next   time.Time
	remake bool // the router lost it, or gave it to somebody else
	blind  bool // not asked for: the router told no address

	// Of a mapped one.
	proto   Protocol
	byHand  bool
	addr    netip.Addr // external, where known
	lease   time.Duration
	expires time.Time // zero: never
	made    time.Time
	id      uint16 // of a UPnP pinhole

	holder *Holder
	err    error
}

// same tells whether n is what e is about. Pinholes are known by their address
// too: each address of ours has its own.
func (e *entry) same(n need) bool {
	return e.Proto == n.Proto && e.External == n.External && e.v6() == n.internal.Addr().Is6() &&
		(!e.v6() || e.internal == n.internal)
}

func (e *entry) v6() bool { return e.internal.Addr().Is6() }

func (e *entry) mapping() Mapping {
	m := Mapping{Port: e.Port, Addr: e.internal.Addr(), State: e.state, Since: e.since, Next: e.next, Holder: e.holder}
	if e.err != nil {
		m.Reason, m.lineDown = e.err.Error(), errors.Is(e.err, ErrNoWAN)
	}
	if e.state == Mapped {
		m.Protocol, m.ByHand, m.External, m.Lease, m.Expires = e.proto, e.byHand, e.addr, e.lease, e.expires
	}
	return m
}

// verb is what to do about a mapping.
type verb string

const (
	makeIt   verb = "make"   // ask for it, by any protocol
	renewIt  verb = "renew"  // ask again, by the protocol that has it
	removeIt verb = "remove" // give it back
	forgetIt verb = "forget" // nothing to give back, or nobody to give it to
	moveIt   verb = "move"   // give back, then make: our address changed
)

// step is one thing to do.
type step struct {
	do verb
	e  *entry
	to need // of make and move: as it should be
}

// plan says what to do now, so that needs come true. What need not be touched
// is not in it. It changes nothing.
func plan(now time.Time, needs []need, entries []*entry) []step {
	var steps []step
	for _, e := range entries {
		n, wanted := find(needs, e)
		switch {
		case !wanted && e.state == Mapped && !e.byHand:
			steps = append(steps, step{removeIt, e, need{}})
		case !wanted:
			steps = append(steps, step{forgetIt, e, need{}})
		case e.router != n.router: // the old one is out of reach
			steps = append(steps, step{makeIt, e, n})
		case e.internal != n.internal && e.state == Mapped && !e.byHand:
			steps = append(steps, step{moveIt, e, n})
		case e.internal != n.internal, e.state == Mapped && e.remake:
			steps = append(steps, step{makeIt, e, n})
		case now.Before(e.next):
		case e.state != Mapped:
			steps = append(steps, step{makeIt, e, n})
		case !e.expires.IsZero() && !now.Before(e.expires):
			steps = append(steps, step{makeIt, e, n}) // it ran out while we could not renew it
		case !e.next.IsZero():
			steps = append(steps, step{renewIt, e, n})
		}
	}
	for _, n := range needs {
		known := false
		for _, e := range entries {
			known = known || e.same(n)
		}
		if !known {
			steps = append(steps, step{makeIt, &entry{need: n, state: Wanted, since: now}, n})
		}
	}
	return steps
}

func find(needs []need, e *entry) (need, bool) {
	for _, n := range needs {
		if e.same(n) {
			return n, true
		}
	}
	return need{}, false
}

// wakeAt is when the next of the entries wants something, at the latest at
// limit.
func wakeAt(entries []*entry, limit time.Time) time.Time {
	for _, e := range entries {
		if !e.next.IsZero() && e.next.Before(limit) {
			limit = e.next
		}
	}
	return limit
}

// grant is what a router gave.
type grant struct {
	proto  Protocol
	lease  time.Duration // 0: for ever
	addr   netip.Addr    // external; zero: not told
	byHand bool
	id     uint16
}

// granted notes a mapping that was made or renewed. It is renewed when half of
// it is over (RFC 6887 section 11.2.1).
func (e *entry) granted(now time.Time, g grant) {
	if e.state != Mapped {
		e.since = now
	}
	e.state, e.proto, e.byHand, e.addr, e.lease, e.id = Mapped, g.proto, g.byHand, g.addr, g.lease, g.id
	e.made, e.remake, e.tried, e.err, e.holder = now, false, 0, nil, nil
	e.blind = false
	e.expires, e.next = time.Time{}, time.Time{}
	if g.lease > 0 {
		e.expires, e.next = now.Add(g.lease), now.Add(max(g.lease/2, soonest))
	}
}

// holds tells whether what the router granted is not over.
func (e *entry) holds(now time.Time) bool {
	return e.state == Mapped && (e.expires.IsZero() || now.Before(e.expires))
}

// notRenewed notes that the router did not answer: what it granted still
// holds, and half of the rest later it is asked again.
func (e *entry) notRenewed(now time.Time, err error) {
	e.err = err
	if e.expires.IsZero() {
		return
	}
	e.next = now.Add(max(e.expires.Sub(now)/2, soonest))
	if e.next.After(e.expires) {
		e.next = e.expires
	}
}

// refusal is why a mapping is not there.
type refusal struct {
	state  State // Conflict, Refused or Failed
	err    error
	holder *Holder
	wait   time.Duration // at least, as the router asks
}

// failed notes that a mapping is not there.
func (e *entry) failed(now time.Time, r refusal) {
	if e.state != r.state {
		e.since = now
	}
	wait := lastRetry
	if e.tried < 10 {
		wait = min(firstRetry<<e.tried, lastRetry)
	}
	e.tried++
	e.next = now.Add(max(wait, min(r.wait, 3*lastRetry)))
	e.state, e.err, e.holder = r.state, r.err, r.holder
	e.proto, e.byHand, e.lease, e.expires, e.remake, e.addr = "", false, 0, time.Time{}, false, netip.Addr{}
}
