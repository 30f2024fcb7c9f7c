package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// ourName is how our mappings are called in the router's table.
const ourName = "postern"

// watchPolls is how many times longer Config.Poll is without a mapping: who
// only waits for announcements need not ask.
const watchPolls = 10

// leaveWithin bounds giving the mappings back when Run ends.
const leaveWithin = 3 * time.Second

// Run keeps what Set asked for until ctx is done, then gives the mappings
// back. It returns nil. With nothing to do it asks nobody anything.
func (c *Client) Run(ctx context.Context) error {
	defer c.leave(ctx)
	var e ears
	defer c.tune(ctx, &e, false)
	for ctx.Err() == nil {
		next := c.round(ctx, time.Now())
		c.tune(ctx, &e, !next.IsZero())
		if !c.sleep(ctx, next) {
			break
		}
	}
	return nil
}

// sleep waits until next (zero: for ever), or until there is something to do.
func (c *Client) sleep(ctx context.Context, next time.Time) bool {
	var timer <-chan time.Time
	if !next.IsZero() {
		t := time.NewTimer(max(time.Until(next), time.Second))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-c.wake:
	case <-timer:
	}
	return true
}

// round asks for the address, looks whether the mappings are there, and does
// what plan says. It returns when to come again, zero for never.
func (c *Client) round(ctx context.Context, now time.Time) time.Time {
	c.mu.Lock()
	want := c.want
	c.mu.Unlock()
	if err := c.take(ctx); err != nil {
		return time.Time{}
	}
	defer c.give()
	if !want.Watch && len(want.Ports) == 0 && len(c.talk.entries) == 0 {
		c.publish(false)
		return time.Time{}
	}
	a, err := c.ask(ctx, now)
	if ctx.Err() != nil {
		return time.Time{}
	}
	if len(want.Ports) > 0 || want.Watch {
		c.noteAnswer(a, err)
	}
	c.keep(ctx, want.Ports, err, now)
	c.publish(want.Watch || len(want.Ports) > 0)
	if len(want.Ports) == 0 {
		return now.Add(watchPolls * c.cfg.Poll)
	}
	return wakeAt(c.talk.entries, now.Add(c.cfg.Poll))
}

// attempt is what one round knows beside the client.
type attempt struct {
	now  time.Time
	hop4 hop
	hop6 hop
	ask  error // why the router told no address; nil: it did

	dead6 map[Protocol]error // that did not answer in this round, for IPv6
}

// keep brings the mappings to what is wanted.
func (c *Client) keep(ctx context.Context, ports []Port, ask error, now time.Time) {
	at := attempt{now: now, ask: ask}
	needs := c.needs(ports, &at)
	c.verify(ctx, &at)
	for _, e := range c.talk.entries {
		if e.blind && ask == nil {
			e.blind, e.tried, e.next = false, 0, now // the line is back
		}
	}
	for _, s := range plan(now, needs, c.talk.entries) {
		if ctx.Err() != nil {
			return
		}
		c.act(ctx, &at, s)
	}
}

// needs lists what should be there, given the routes and addresses of now.
func (c *Client) needs(ports []Port, at *attempt) []need {
	var needs []need
	var err error
	if at.hop4, err = c.route4(); err == nil {
		if local, err := localAddr(at.hop4.router); err == nil {
			for _, p := range ports {
				needs = append(needs, need{p, netip.AddrPortFrom(local, p.Internal), at.hop4.router})
			}
		}
	}
	if at.hop6, err = c.route6(); err == nil {
		for _, own := range at.hop6.own {
			for _, p := range ports {
				needs = append(needs, need{p, netip.AddrPortFrom(own, p.Internal), at.hop6.router})
			}
		}
	}
	return needs
}

// verify looks at mappings whose protocol has no clock that tells a restart.
func (c *Client) verify(ctx context.Context, at *attempt) {
	for _, e := range c.talk.entries {
		if e.state != Mapped || e.v6() || e.proto != UPnP || e.router != at.hop4.router || at.ask != nil {
			continue
		}
		gone := false
		err := c.withUPnP(ctx, at.hop4, func(d *device) error {
			pe, there, err := c.lookUpAt(ctx, d, e.Port)
			gone = err == nil && (!there || !pe.is(e.internal))
			return err
		})
		if err != nil || !gone {
			continue
		}
		c.log.Info("mapping is gone from the router", "port", e.Port.String())
		for _, other := range c.talk.entries { // it may have restarted: a firewall has no table to look at
			other.remake = other.remake || other == e || other.v6() && other.proto == UPnP
		}
	}
}

// is tells whether the entry leads to addr.
func (pe portEntry) is(addr netip.AddrPort) bool {
	a, err := netip.ParseAddr(pe.client)
	return err == nil && a.Unmap() == addr.Addr().Unmap() && pe.port == addr.Port() && pe.enabled
}

// act does one step and tells what came of it.
func (c *Client) act(ctx context.Context, at *attempt, s step) {
	e := s.e
	before := e.mapping()
	switch s.do {
	case forgetIt, removeIt:
		if s.do == removeIt {
			if err := c.remove(ctx, at, e); err != nil {
				c.log.Warn("mapping not removed, the router will drop it when it runs out", "port", e.Port.String(), "err", err)
			} else {
				c.log.Info("mapping removed", "port", e.Port.String(), "to", e.internal.String())
			}
			c.tell(Change{What: MappingRemoved, Mapping: before})
		}
		c.drop(e)
		return
	case moveIt:
		if err := c.remove(ctx, at, e); err != nil {
			c.log.Warn("mapping to our former address not removed", "port", e.Port.String(), "to", e.internal.String(), "err", err)
		}
	}
	if !c.knows(e) {
		c.talk.entries = append(c.talk.entries, e)
	}
	if s.do == renewIt {
		if done := c.renew(ctx, at, e); done {
			return
		}
	}
	if e.need == s.to && !e.v6() && at.ask != nil && e.holds(at.now) {
		// The router is without an address, perhaps for a moment: what it
		// granted is no news until it is over.
		e.notRenewed(at.now, at.ask)
		e.remake = true
		return
	}
	e.need = s.to
	g, r := c.obtain(ctx, at, e)
	if ctx.Err() != nil {
		return
	}
	if r == nil {
		e.granted(at.now, g)
	} else {
		e.failed(at.now, *r)
		e.blind = !e.v6() && at.ask != nil
	}
	c.report(before, e)
}

// report tells what became of a mapping, if it is news.
func (c *Client) report(before Mapping, e *entry) {
	m := e.mapping()
	facts := []any{"port", m.Port.String(), "to", e.internal.String()}
	switch {
	case m.State == Mapped && before.State != Mapped:
		c.log.Info("mapped", append(facts, "protocol", string(m.Protocol), "lease", m.Lease.String(), "by_hand", m.ByHand)...)
		c.tell(Change{What: MappingMade, Mapping: m})
	case m.State != Mapped && before.State == Mapped:
		c.log.Warn("mapping lost", append(facts, "state", string(m.State), "reason", m.Reason, "action", m.Action())...)
		c.tell(Change{What: MappingLost, Mapping: m})
	case m.State != before.State:
		c.log.Warn("not mapped", append(facts, "state", string(m.State), "reason", m.Reason, "action", m.Action())...)
		c.tell(Change{What: MappingFailed, Mapping: m})
	}
}

func (c *Client) knows(e *entry) bool {
	for _, other := range c.talk.entries {
		if other == e {
			return true
		}
	}
	return false
}

func (c *Client) drop(e *entry) {
	for i, other := range c.talk.entries {
		if other == e {
			c.talk.entries = append(c.talk.entries[:i:i], c.talk.entries[i+1:]...)
			return
		}
	}
}

// renew asks again by the protocol that has the mapping. It returns false when
// it has to be made anew.
func (c *Client) renew(ctx context.Context, at *attempt, e *entry) bool {
	g, err := c.mapBy(ctx, at, e.proto, e)
	switch {
	case ctx.Err() != nil:
		return true
	case err == nil:
		e.granted(at.now, g)
		return true
	case isRefusal(err):
		return false
	case e.expires.IsZero():
		return true
	}
	e.notRenewed(at.now, err)
	c.log.Debug("mapping not renewed", "port", e.Port.String(), "expires", e.expires, "err", err)
	return true
}

// obtain asks for a mapping by each protocol in turn. The refusal is nil when
// one gave it.
func (c *Client) obtain(ctx context.Context, at *attempt, e *entry) (grant, *refusal) {
	worst := &refusal{state: Failed, err: ErrSilent}
	if !e.v6() && at.ask != nil {
		worst.err = at.ask
		return grant{}, worst
	}
	var errs []error
	for _, p := range []Protocol{PCP, NATPMP, UPnP} {
		g, err := c.mapBy(ctx, at, p, e)
		if err == nil {
			return g, nil
		}
		if ctx.Err() != nil {
			return grant{}, worst
		}
		errs = append(errs, fmt.Errorf("%s: %w", p, err))
		if r := judge(err); rank(r.state) > rank(worst.state) {
			worst = r
		}
		if worst.state == Conflict {
			break // the router has one table for all of them
		}
	}
	worst.err = errors.Join(errs...)
	return grant{}, worst
}

// mapBy asks for a mapping by one protocol, also one that it already has.
func (c *Client) mapBy(ctx context.Context, at *attempt, p Protocol, e *entry) (grant, error) {
	if e.v6() {
		return c.mapBy6(ctx, at, p, e)
	}
	if c.isQuiet(p, at.now) {
		return grant{}, errUnanswered
	}
	var g grant
	var err error
	switch p {
	case PCP:
		g, err = c.mapPCP(ctx, at.hop4, e, at.now)
	case NATPMP:
		g, err = c.mapPMP(ctx, at.hop4, e, at.now)
	default:
		g, err = c.mapUPnP(ctx, at.hop4, e)
	}
	if ctx.Err() == nil {
		c.noteQuiet(p, err, at.now)
	}
	return g, err
}

func (c *Client) mapBy6(ctx context.Context, at *attempt, p Protocol, e *entry) (g grant, err error) {
	if err := at.dead6[p]; err != nil {
		return grant{}, err
	}
	switch p {
	case PCP:
		g, err = c.mapPCP(ctx, at.hop6, e, at.now)
	case UPnP:
		g, err = c.mapPinhole(ctx, at, e)
	default:
		return grant{}, errNoIPv6
	}
	if err != nil && !isRefusal(err) {
		if at.dead6 == nil {
			at.dead6 = make(map[Protocol]error)
		}
		at.dead6[p] = err
	}
	return g, err
}

// remove gives a mapping back.
func (c *Client) remove(ctx context.Context, at *attempt, e *entry) error {
	h := at.hop4
	if e.v6() {
		h = at.hop6
	}
	h.router = e.router
	switch {
	case e.proto == PCP:
		return c.unmapPCP(ctx, h, e, at.now)
	case e.proto == NATPMP:
		return c.unmapPMP(ctx, h, e, at.now)
	case e.v6():
		return c.closePinhole(ctx, at, e)
	}
	return c.unmapUPnP(ctx, h, e)
}

// leave gives everything back. Its context ends when Run's has, so it goes on
// without that.
func (c *Client) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWithin)
	defer cancel()
	if c.take(ctx) != nil {
		return
	}
	defer c.give()
	at := attempt{now: time.Now()}
	_ = c.needs(nil, &at)
	for _, s := range plan(at.now, nil, c.talk.entries) {
		c.act(ctx, &at, s)
	}
	c.publish(false)
}
