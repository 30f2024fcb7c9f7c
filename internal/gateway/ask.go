package gateway

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// discard is the port of the mapping that is made, and removed at once, to
// learn the address by PCP alone (RFC 6887 section 11.6).
const discard = 9

// ask learns the router's address. The caller has the turn.
func (c *Client) ask(ctx context.Context, now time.Time) (Answer, error) {
	h, err := c.route4()
	if err != nil {
		return Answer{}, err
	}
	c.meet(h.router)
	first := c.talk.last
	switch {
	case c.mappedBy(PCP, h):
		first = PCP // its clock is the one that matters then
	case first == PCP:
		first = NATPMP // which needs no mapping for it
	}
	order := []Protocol{NATPMP, UPnP, PCP}
	if i := slices.Index(order, first); i > 0 {
		order = append([]Protocol{first}, slices.Delete(order, i, i+1)...)
	}
	var errs []error
	noWAN := false
	for len(order) > 0 {
		p := order[0]
		order = order[1:]
		a, err := c.askBy(ctx, p, h, now)
		if ctx.Err() != nil {
			return Answer{}, fmt.Errorf("router %s: %w", h.router, ctx.Err())
		}
		c.metrics.question(p, err)
		c.noteQuiet(p, err, now)
		if err == nil {
			c.talk.last = p
			a.Gateway, a.Protocol, a.At, a.Kind = h.router, p, now, KindOf(a.Addr)
			if c.talk.device != nil {
				a.Router = c.talk.device.name
			}
			return a, nil
		}
		if p == NATPMP && errors.Is(err, errVersion) && len(order) == 2 {
			order = []Protocol{PCP, UPnP} // it said that it speaks that one
		}
		noWAN = noWAN || errors.Is(err, ErrNoWAN)
		errs = append(errs, fmt.Errorf("%s: %w", p, err))
	}
	why := ErrSilent
	if noWAN {
		why = ErrNoWAN
	}
	return Answer{}, fmt.Errorf("router %s: %w (%w)", h.router, why, errors.Join(errs...))
}

// quietFor is how long a protocol that nobody answers is left alone while
// another one works.
const quietFor = 10 * time.Minute

// noteQuiet remembers whether a protocol was answered.
func (c *Client) noteQuiet(p Protocol, err error, now time.Time) {
	switch {
	case err == nil && !c.talk.quiet[p].IsZero():
		clear(c.talk.quiet) // the router is back: perhaps with everything
	case err != nil && !isRefusal(err) && !errors.Is(err, ErrNoWAN):
		c.talk.quiet[p] = now
	}
}

// isQuiet tells whether to spare a protocol a question.
func (c *Client) isQuiet(p Protocol, now time.Time) bool {
	at := c.talk.quiet[p]
	return !at.IsZero() && now.Sub(at) < quietFor && c.talk.last != "" && c.talk.last != p
}

func (c *Client) mappedBy(p Protocol, h hop) bool {
	return slices.ContainsFunc(c.talk.entries, func(e *entry) bool {
		return e.state == Mapped && e.proto == p && e.router == h.router
	})
}

// meet forgets what is known of another router.
func (c *Client) meet(router netip.Addr) {
	t := &c.talk
	if t.gateway == router {
		return
	}
	if t.gateway.IsValid() {
		c.log.Info("another router", "router", router.String(), "before", t.gateway.String())
	}
	t.gateway, t.last, t.device, t.device6 = router, "", nil, nil
	clear(t.quiet)
}

func (c *Client) askBy(ctx context.Context, p Protocol, h hop, now time.Time) (Answer, error) {
	switch p {
	case NATPMP:
		return c.askPMP(ctx, h, now)
	case PCP:
		return c.askPCP(ctx, h, now)
	}
	return c.askUPnP(ctx, h)
}

func (c *Client) control(router netip.Addr) netip.AddrPort {
	return netip.AddrPortFrom(router, c.cfg.Router.Port)
}

func (c *Client) askPMP(ctx context.Context, h hop, now time.Time) (Answer, error) {
	var r pmpResponse
	err := c.exchange(ctx, netip.Addr{}, c.control(h.router), pmpAddressRequest(), func(b []byte) (err error) {
		r, err = parsePMPResponse(b, pmpAddress)
		return err
	})
	pe, refused := errors.AsType[*pmpError](err)
	if err == nil || refused {
		c.noteEpoch(NATPMP, h.router, r.epoch, now)
	}
	switch {
	case refused && pe.code == pmpNetworkFailure:
		return Answer{}, fmt.Errorf("%w (%w)", ErrNoWAN, err)
	case err != nil:
		return Answer{}, err
	case r.addr.IsUnspecified():
		return Answer{}, ErrNoWAN
	}
	return Answer{Addr: r.addr}, nil
}

// askPCP looks at a mapping: one of ours, which that renews, or else one that
// is made for the purpose and removed.
func (c *Client) askPCP(ctx context.Context, h hop, now time.Time) (Answer, error) {
	local, err := localAddr(h.router)
	if err != nil {
		return Answer{}, err
	}
	for _, e := range c.talk.entries {
		if e.state == Mapped && e.proto == PCP && e.router == h.router && e.internal.Addr() == local && !e.remake {
			req := c.pcpRequest(e, local)
			r, err := c.pcpAgain(ctx, h, req, now)
			if err != nil {
				return Answer{}, err
			}
			if r.external != e.External {
				e.remake = true // somebody else has our port now
			}
			e.addr = r.addr
			return answerOf(r)
		}
	}
	req := mapRequest{nonce: c.nonce(h.router), client: local, proto: protoUDP, internal: discard, lifetime: 60}
	r, err := c.pcp(ctx, h, req, now)
	if err != nil {
		return Answer{}, err
	}
	c.undoPCP(ctx, h, req, now)
	return answerOf(r)
}

// undoPCP removes what was mapped and is of no use, also when ctx is over by
// now. Otherwise it would end by itself, later.
func (c *Client) undoPCP(ctx context.Context, h hop, req mapRequest, now time.Time) {
	req.lifetime, req.external, req.addr, req.prefer = 0, 0, netip.Addr{}, false
	_, _ = c.pcp(context.WithoutCancel(ctx), h, req, now)
}

func answerOf(r mapResponse) (Answer, error) {
	if !r.addr.Is4() || r.addr.IsUnspecified() {
		return Answer{}, ErrNoWAN
	}
	return Answer{Addr: r.addr}, nil
}

// pcp asks for a mapping by PCP. A result that is not success is a *pcpError.
func (c *Client) pcp(ctx context.Context, h hop, req mapRequest, now time.Time) (mapResponse, error) {
	var r mapResponse
	err := c.exchange(ctx, req.client, c.control(h.router), req.encode(), func(b []byte) (err error) {
		if r, err = parseMapResponse(b); err != nil {
			return err
		}
		if !r.answers(req) {
			return errOther
		}
		return nil
	})
	if err != nil {
		return r, err
	}
	c.noteEpoch(PCP, h.router, r.epoch, now)
	if r.result != pcpSuccess {
		return r, &pcpError{r.result, r.lifetime}
	}
	return r, nil
}

// nonce is what a router knows our mappings by: another one at each router, and
// always the same at one (RFC 6887 section 11.2).
func (c *Client) nonce(router netip.Addr) [12]byte {
	m := hmac.New(sha256.New, c.secret[:])
	m.Write([]byte(router.WithZone("").String()))
	return [12]byte(m.Sum(nil)[:12])
}

func (c *Client) askUPnP(ctx context.Context, h hop) (a Answer, err error) {
	err = c.withUPnP(ctx, h, func(d *device) (err error) {
		a, err = c.askDevice(ctx, d)
		return err
	})
	return a, err
}

// withUPnP has do talk to the router's device. After a restart its services may
// be at another port, so one that does not answer any more is looked for again.
func (c *Client) withUPnP(ctx context.Context, h hop, do func(*device) error) error {
	known := c.talk.device != nil
	d, err := c.upnp(ctx, h)
	if err != nil {
		return err
	}
	err = do(d)
	if err == nil || !known || ctx.Err() != nil || isRefusal(err) || errors.Is(err, ErrNoWAN) {
		return err
	}
	c.talk.device = nil
	if d, err = c.upnp(ctx, h); err != nil {
		return err
	}
	return do(d)
}

// errNoWANService means a UPnP device that only knows of its firewall.
var errNoWANService = errors.New("the router's UPnP has no service for addresses and mappings")

// askDevice takes the first WAN service that has an address, and moves it to
// the front: a router may list lines that are not in use.
func (c *Client) askDevice(ctx context.Context, d *device) (Answer, error) {
	err := errNoWANService
	for i, s := range d.wan {
		var a netip.Addr
		if a, err = c.externalAddress(ctx, d, s); err == nil {
			d.wan[0], d.wan[i] = d.wan[i], d.wan[0]
			return Answer{Addr: a}, nil
		}
		if upnpCode(err) == 0 && !errors.Is(err, ErrNoWAN) {
			return Answer{}, err // it does not answer at all
		}
	}
	return Answer{}, err
}

// upnp returns the router's device, found once; it has at least one service.
func (c *Client) upnp(ctx context.Context, h hop) (*device, error) {
	if c.talk.device != nil {
		return c.talk.device, nil
	}
	local, err := localAddr(h.router)
	if err != nil {
		return nil, err
	}
	location, err := c.search(ctx, local, c.cfg.Router.SSDP, func(a netip.Addr) bool { return a == h.router })
	if err != nil {
		return nil, err
	}
	d, err := c.fetchDevice(ctx, local, location, h.router)
	if err != nil {
		return nil, err
	}
	c.talk.device = d
	return d, nil
}
