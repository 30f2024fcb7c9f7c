package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
)

// upnp6 returns the router's device as IPv6 reaches it: IGD 2 lets a machine
// open pinholes to the address it asks from only (WANIPv6FirewallControl:1
// section 2.3.3).
func (c *Client) upnp6(ctx context.Context, h hop, local netip.Addr) (*device, error) {
	if d := c.talk.device6; d != nil {
		return d, nil
	}
	to := c.cfg.Router.SSDP6
	if !to.IsValid() {
		to = netip.AddrPortFrom(netip.MustParseAddr("ff02::c").WithZone(h.iface), 1900)
	}
	// The router answers from its address on this link, which may be another
	// one than its link-local one that the route names.
	near := netip.PrefixFrom(local, 64).Masked()
	var router netip.Addr
	location, err := c.search(ctx, local, to, func(a netip.Addr) bool {
		if a.WithZone("") == h.router.WithZone("") || near.Contains(a) && a != local || local.IsLoopback() {
			router = a
			return true
		}
		return false
	})
	if err != nil {
		return nil, err
	}
	d, err := c.fetchDevice(ctx, local, location, router)
	if err != nil {
		return nil, err
	}
	if d.firewall == nil {
		return nil, errNoFirewall
	}
	c.talk.device6 = d
	return d, nil
}

// errNoFirewall means that a UPnP device has no service for pinholes.
var errNoFirewall = errors.New("the router offers no WANIPv6FirewallControl")

// mapPinhole opens the router's IPv6 firewall by UPnP, or keeps it open.
func (c *Client) mapPinhole(ctx context.Context, at *attempt, e *entry) (grant, error) {
	d, err := c.pinholeDevice(ctx, at, e)
	if err != nil {
		return grant{}, err
	}
	enabled, allowed, err := c.firewallStatus(ctx, d)
	switch {
	case err != nil:
		c.talk.device6 = nil // perhaps at another port by now
		return grant{}, err
	case !enabled: // nothing is filtered
		return grant{proto: UPnP, byHand: true, lease: c.cfg.Lease}, nil
	case !allowed:
		return grant{}, &upnpError{"AddPinhole", upnpNotAuthorized, "the router takes no pinholes"}
	}
	lease := c.leaseSeconds()
	if e.state == Mapped && e.proto == UPnP && !e.byHand && !e.remake {
		err := c.updatePinhole(ctx, d, e.id, lease)
		if err == nil {
			return grant{proto: UPnP, lease: leaseOf(lease), addr: e.addr, id: e.id}, nil
		}
		if upnpCode(err) != upnpNoSuchPinhole {
			return grant{}, err
		}
	}
	id, err := c.addPinhole(ctx, d, e.Proto, e.internal.Addr(), e.Internal, lease)
	if err != nil {
		return grant{}, err
	}
	return grant{proto: UPnP, lease: leaseOf(lease), id: id}, nil
}

// pinholeDevice is the device as IPv6 reaches it, else as IPv4 does.
func (c *Client) pinholeDevice(ctx context.Context, at *attempt, e *entry) (*device, error) {
	d, err := c.upnp6(ctx, at.hop6, e.internal.Addr())
	if err == nil {
		return d, nil
	}
	if at.hop4.router.IsValid() {
		if d, err4 := c.upnp(ctx, at.hop4); err4 == nil && d.firewall != nil {
			return d, nil
		}
	}
	return nil, fmt.Errorf("pinhole service: %w", err)
}

func (c *Client) closePinhole(ctx context.Context, at *attempt, e *entry) error {
	d, err := c.pinholeDevice(ctx, at, e)
	if err != nil {
		return err
	}
	return c.deletePinhole(ctx, d, e.id)
}
