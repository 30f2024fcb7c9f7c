package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// errNoIPv6 is NAT-PMP's answer to IPv6.
var errNoIPv6 = errors.New("knows no IPv6")

// conflictError means that another device has the port.
type conflictError struct {
	port   Port
	holder *Holder // nil: the router does not tell
}

func (e *conflictError) Error() string {
	if e.holder == nil {
		return fmt.Sprintf("the router does not give us %s: another device has it, or the router keeps it for itself", e.port)
	}
	return fmt.Sprintf("%s is taken by %s", e.port, e.holder)
}

// keptError means that the router gives nobody the port, although nobody has
// it.
type keptError struct{ port Port }

func (e *keptError) Error() string {
	return fmt.Sprintf("nobody has %s, and yet the router does not give it to us", e.port)
}

// isRefusal tells an answer of the router from the lack of one.
func isRefusal(err error) bool {
	_, conflict := errors.AsType[*conflictError](err)
	_, kept := errors.AsType[*keptError](err)
	_, pcp := errors.AsType[*pcpError](err)
	_, pmp := errors.AsType[*pmpError](err)
	return conflict || kept || pcp || pmp || upnpCode(err) != 0
}

// judge says what an error of mapBy means.
func judge(err error) *refusal {
	r := &refusal{state: Failed, err: err}
	if e, ok := errors.AsType[*conflictError](err); ok {
		r.state, r.holder = Conflict, e.holder
	}
	if _, ok := errors.AsType[*keptError](err); ok {
		r.state = Refused
	}
	if e, ok := errors.AsType[*pcpError](err); ok {
		r.wait = time.Duration(e.lifetime) * time.Second
		if e.code == pcpNotAuthorized {
			r.state = Refused
		}
	}
	if e, ok := errors.AsType[*pmpError](err); ok && e.code == pmpNotAuthorized {
		r.state = Refused
	}
	switch upnpCode(err) {
	case upnpNotAuthorized, upnpSamePorts:
		r.state = Refused
	case upnpConflict, upnpOtherMechanism:
		r.state = Conflict
	}
	return r
}

// rank orders what is to be told when the protocols disagree: who has the port
// says more than a refusal, and that more than silence.
func rank(s State) int {
	switch s {
	case Conflict:
		return 2
	case Refused:
		return 1
	}
	return 0
}

func (c *Client) leaseSeconds() uint32 { return uint32(min(c.cfg.Lease, 24*time.Hour) / time.Second) }

// bounds of a lease that we believe: a router may not make us ask it all the
// time, nor never again.
func leaseOf(seconds uint32) time.Duration {
	return min(max(time.Duration(seconds)*time.Second, 2*soonest), 24*time.Hour)
}

// external is the port outside: a pinhole translates nothing.
func (e *entry) external() uint16 {
	if e.v6() {
		return e.Internal
	}
	return e.External
}

func (c *Client) pcpRequest(e *entry, local netip.Addr) mapRequest {
	return mapRequest{
		nonce: c.nonce(e.router), client: local, proto: protoNumber(e.Proto),
		internal: e.Internal, external: e.external(), addr: e.addr, lifetime: c.leaseSeconds(), prefer: true,
	}
}

// mapPCP asks for a mapping or a pinhole by PCP.
func (c *Client) mapPCP(ctx context.Context, h hop, e *entry, now time.Time) (grant, error) {
	req := c.pcpRequest(e, e.internal.Addr())
	r, err := c.pcpAgain(ctx, h, req, now)
	pe, _ := errors.AsType[*pcpError](err)
	if pe != nil && pe.code == pcpUnsuppOption {
		req.prefer = false
		r, err = c.pcpAgain(ctx, h, req, now)
		pe, _ = errors.AsType[*pcpError](err)
	}
	switch {
	case pe != nil && pe.code == pcpCannotExternal:
		return c.askHolder(ctx, h, e, now)
	case err != nil:
		return grant{}, err
	case r.external != req.external:
		c.undoPCP(ctx, h, req, now)
		return c.askHolder(ctx, h, e, now)
	}
	return grant{proto: PCP, lease: leaseOf(r.lifetime), addr: r.addr}, nil
}

// pcpAgain asks for a mapping by PCP, at the external address that it had. A
// router that has another address by now refuses that (RFC 6887 section 13.2;
// miniupnpd always does); then at whichever it has.
func (c *Client) pcpAgain(ctx context.Context, h hop, req mapRequest, now time.Time) (mapResponse, error) {
	r, err := c.pcp(ctx, h, req, now)
	if pe, ok := errors.AsType[*pcpError](err); ok && pe.code == pcpCannotExternal && req.addr.IsValid() {
		req.addr = netip.Addr{}
		r, err = c.pcp(ctx, h, req, now)
	}
	return r, err
}

// unmapPCP gives a mapping back (RFC 6887 section 15).
func (c *Client) unmapPCP(ctx context.Context, h hop, e *entry, now time.Time) error {
	req := c.pcpRequest(e, e.internal.Addr())
	req.lifetime, req.external, req.addr, req.prefer = 0, 0, netip.Addr{}, false
	_, err := c.pcp(ctx, h, req, now)
	return err
}

func (c *Client) pmp(ctx context.Context, h hop, e *entry, external uint16, lifetime uint32, now time.Time) (pmpResponse, error) {
	op := byte(pmpMapTCP)
	if e.Proto == "udp" {
		op = pmpMapUDP
	}
	var r pmpResponse
	err := c.exchange(ctx, netip.Addr{}, c.control(h.router), pmpMapRequest(op, e.Internal, external, lifetime), func(b []byte) (err error) {
		r, err = parsePMPResponse(b, op)
		if err == nil && r.internal != e.Internal {
			return errOther
		}
		return err
	})
	if _, refused := errors.AsType[*pmpError](err); err == nil || refused {
		c.noteEpoch(NATPMP, h.router, r.epoch, now)
	}
	return r, err
}

// mapPMP asks by NAT-PMP. A router that has given the port to somebody else
// answers with another one (RFC 6886 section 3.3).
func (c *Client) mapPMP(ctx context.Context, h hop, e *entry, now time.Time) (grant, error) {
	r, err := c.pmp(ctx, h, e, e.External, c.leaseSeconds(), now)
	if err != nil {
		return grant{}, err
	}
	if r.external != e.External {
		_, _ = c.pmp(context.WithoutCancel(ctx), h, e, 0, 0, now) // that one is of no use
		return c.askHolder(ctx, h, e, now)
	}
	return grant{proto: NATPMP, lease: leaseOf(r.lifetime)}, nil
}

func (c *Client) unmapPMP(ctx context.Context, h hop, e *entry, now time.Time) error {
	_, err := c.pmp(ctx, h, e, 0, 0, now)
	return err
}

// askHolder finds out, by UPnP, who has a port that we could not get. It is
// good news if the owner forwarded it to us by hand.
func (c *Client) askHolder(ctx context.Context, h hop, e *entry, now time.Time) (grant, error) {
	taken := &conflictError{port: e.Port}
	if e.v6() || c.isQuiet(UPnP, now) {
		return grant{}, taken
	}
	var pe portEntry
	var there bool
	err := c.withUPnP(ctx, h, func(d *device) (err error) {
		pe, there, err = c.lookUpAt(ctx, d, e.Port)
		return err
	})
	if ctx.Err() == nil {
		c.noteQuiet(UPnP, err, now)
	}
	switch {
	case err != nil:
		return grant{}, taken
	case !there:
		return grant{}, &keptError{e.Port}
	}
	if pe.is(e.internal) {
		return grant{proto: UPnP, byHand: true}, nil
	}
	taken.holder = &Holder{pe.client, pe.port, pe.description}
	return grant{}, taken
}

// mapUPnP asks by UPnP IGD. Version 1 routers let a mapping of another device
// be overwritten, so who has it is asked first; and some say yes and do
// nothing, so it is looked at afterwards.
func (c *Client) mapUPnP(ctx context.Context, h hop, e *entry) (g grant, err error) {
	err = c.withUPnP(ctx, h, func(d *device) (err error) {
		g, err = c.mapAt(ctx, d, e)
		return err
	})
	return g, err
}

func (c *Client) mapAt(ctx context.Context, d *device, e *entry) (grant, error) {
	if len(d.wan) == 0 {
		return grant{}, errNoWANService
	}
	s := d.wan[0]
	if pe, there, err := c.lookUp(ctx, d, s, e.Proto, e.External); err == nil && there {
		switch {
		case !pe.is(e.internal) && !(pe.description == ourName && pe.client == e.internal.Addr().String()):
			return grant{}, &conflictError{e.Port, &Holder{pe.client, pe.port, pe.description}}
		case pe.is(e.internal) && pe.description != ourName:
			return grant{proto: UPnP, byHand: true}, nil
		}
	}
	lease := c.leaseSeconds()
	err := c.addMapping(ctx, d, s, e.Port, e.internal.Addr(), lease)
	if upnpCode(err) == upnpPermanentOnly {
		lease = 0
		err = c.addMapping(ctx, d, s, e.Port, e.internal.Addr(), lease)
	}
	if err != nil && upnpCode(err) != upnpConflict {
		return grant{}, err
	}
	pe, there, lookErr := c.lookUp(ctx, d, s, e.Proto, e.External)
	switch {
	case err != nil: // the conflict
		taken := &conflictError{port: e.Port}
		if lookErr == nil && there {
			taken.holder = &Holder{pe.client, pe.port, pe.description}
		}
		return grant{}, taken
	case lookErr == nil && !there:
		return grant{}, errors.New("the router says that it mapped the port, and has no such mapping")
	case lookErr == nil && !pe.is(e.internal):
		return grant{}, &conflictError{e.Port, &Holder{pe.client, pe.port, pe.description}}
	case lookErr == nil && pe.lease < lease:
		lease = pe.lease
	}
	g := grant{proto: UPnP}
	if lease > 0 {
		g.lease = leaseOf(lease)
	}
	return g, nil
}

// unmapUPnP gives a mapping back, unless it is not ours any more.
func (c *Client) unmapUPnP(ctx context.Context, h hop, e *entry) error {
	return c.withUPnP(ctx, h, func(d *device) error {
		pe, there, err := c.lookUpAt(ctx, d, e.Port)
		if err == nil && (!there || !pe.is(e.internal)) || errors.Is(err, errNoWANService) {
			return nil
		}
		return c.deleteMapping(ctx, d, d.wan[0], e.Proto, e.External)
	})
}
