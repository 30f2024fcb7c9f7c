package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/huin/goupnp/soap"
)

// Error codes of UPnP (Device Architecture 2.0 section 3.2.2, WANIPConnection:2
// section 2.6.1, WANIPv6FirewallControl:1 section 2.4) that we act on.
const (
	upnpInvalidAction  = 401
	upnpOptional       = 602
	upnpNotAuthorized  = 606
	upnpNoSuchPinhole  = 704
	upnpNoSuchEntry    = 714
	upnpConflict       = 718
	upnpSamePorts      = 724
	upnpPermanentOnly  = 725
	upnpOtherMechanism = 729
)

// upnpError is a fault that a router answered.
type upnpError struct {
	action string
	code   int
	text   string // clipped
}

func (e *upnpError) Error() string {
	if e.text == "" {
		return fmt.Sprintf("UPnP %s: error %d", e.action, e.code)
	}
	return fmt.Sprintf("UPnP %s: error %d (%s)", e.action, e.code, e.text)
}

// upnpCode is the code of an error of the router, 0 of any other.
func upnpCode(err error) int {
	if e, ok := errors.AsType[*upnpError](err); ok {
		return e.code
	}
	return 0
}

// call runs one action. in and out are structs of strings.
func (c *Client) call(ctx context.Context, d *device, s service, action string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	client := soap.SOAPClient{EndpointURL: *s.control, HTTPClient: *d.http}
	err := client.PerformActionCtx(ctx, s.kind, action, in, out)
	if err == nil {
		return nil
	}
	if f, ok := errors.AsType[*soap.SOAPFaultError](err); ok {
		return &upnpError{action, f.Detail.UPnPError.Errorcode, clip(f.Detail.UPnPError.ErrorDescription)}
	}
	if ctx.Err() != nil {
		return fmt.Errorf("UPnP %s: %w", action, ctx.Err())
	}
	return fmt.Errorf("UPnP %s: %s", action, clip(strings.TrimPrefix(err.Error(), "goupnp: ")))
}

// externalAddress asks a WAN service. A service that is not connected has
// none.
func (c *Client) externalAddress(ctx context.Context, d *device, s service) (netip.Addr, error) {
	var out struct{ NewExternalIPAddress string }
	if err := c.call(ctx, d, s, "GetExternalIPAddress", nil, &out); err != nil {
		return netip.Addr{}, err
	}
	text := strings.TrimSpace(out.NewExternalIPAddress)
	if text == "" {
		return netip.Addr{}, ErrNoWAN
	}
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Unmap().Is4() {
		return netip.Addr{}, fmt.Errorf("UPnP GetExternalIPAddress: %q is no IPv4 address", clip(text))
	}
	if a = a.Unmap(); a.IsUnspecified() {
		return netip.Addr{}, ErrNoWAN
	}
	return a, nil
}

// portEntry is a mapping that the router has, whoever made it.
type portEntry struct {
	client      string // as the router gives it, clipped
	port        uint16
	enabled     bool
	description string // clipped
	lease       uint32 // seconds; 0: for ever
}

// lookUp asks who has an external port. The bool is false when nobody has.
func (c *Client) lookUp(ctx context.Context, d *device, s service, proto string, external uint16) (portEntry, bool, error) {
	in := struct{ NewRemoteHost, NewExternalPort, NewProtocol string }{"", strconv.Itoa(int(external)), strings.ToUpper(proto)}
	var out struct{ NewInternalPort, NewInternalClient, NewEnabled, NewPortMappingDescription, NewLeaseDuration string }
	err := c.call(ctx, d, s, "GetSpecificPortMappingEntry", &in, &out)
	if upnpCode(err) == upnpNoSuchEntry {
		return portEntry{}, false, nil
	}
	if err != nil {
		return portEntry{}, false, err
	}
	e := portEntry{client: clip(out.NewInternalClient), description: clip(out.NewPortMappingDescription)}
	port, err := strconv.ParseUint(strings.TrimSpace(out.NewInternalPort), 10, 16)
	if err != nil || e.client == "" {
		return portEntry{}, false, nil // some routers answer an empty entry for none
	}
	e.port = uint16(port)
	lease, err := strconv.ParseUint(strings.TrimSpace(out.NewLeaseDuration), 10, 32)
	if err == nil {
		e.lease = uint32(lease)
	}
	e.enabled = parseUPnPBool(out.NewEnabled)
	return e, true, nil
}

// lookUpAt is lookUp at the service that has mappings.
func (c *Client) lookUpAt(ctx context.Context, d *device, p Port) (portEntry, bool, error) {
	if len(d.wan) == 0 {
		return portEntry{}, false, errNoWANService
	}
	return c.lookUp(ctx, d, d.wan[0], p.Proto, p.External)
}

func parseUPnPBool(s string) bool {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "1", "true", "yes":
		return true
	}
	return false
}

// addMapping asks for a mapping. lease is in seconds, 0 for ever.
func (c *Client) addMapping(ctx context.Context, d *device, s service, p Port, client netip.Addr, lease uint32) error {
	in := struct {
		NewRemoteHost, NewExternalPort, NewProtocol, NewInternalPort, NewInternalClient, NewEnabled, NewPortMappingDescription, NewLeaseDuration string
	}{"", strconv.Itoa(int(p.External)), strings.ToUpper(p.Proto), strconv.Itoa(int(p.Internal)), client.String(), "1", ourName, strconv.FormatUint(uint64(lease), 10)}
	return c.call(ctx, d, s, "AddPortMapping", &in, nil)
}

func (c *Client) deleteMapping(ctx context.Context, d *device, s service, proto string, external uint16) error {
	in := struct{ NewRemoteHost, NewExternalPort, NewProtocol string }{"", strconv.Itoa(int(external)), strings.ToUpper(proto)}
	err := c.call(ctx, d, s, "DeletePortMapping", &in, nil)
	if upnpCode(err) == upnpNoSuchEntry {
		return nil
	}
	return err
}

// addPinhole opens the IPv6 firewall for one of our addresses and returns the
// pinhole's id. lease is in seconds.
func (c *Client) addPinhole(ctx context.Context, d *device, proto string, client netip.Addr, port uint16, lease uint32) (uint16, error) {
	in := struct{ RemoteHost, RemotePort, InternalClient, InternalPort, Protocol, LeaseTime string }{
		"", "0", client.String(), strconv.Itoa(int(port)), strconv.Itoa(int(protoNumber(proto))), strconv.FormatUint(uint64(lease), 10),
	}
	var out struct{ UniqueID string }
	if err := c.call(ctx, d, *d.firewall, "AddPinhole", &in, &out); err != nil {
		return 0, err
	}
	id, err := strconv.ParseUint(strings.TrimSpace(out.UniqueID), 10, 16)
	if err != nil {
		return 0, fmt.Errorf("UPnP AddPinhole: %q is no id", clip(out.UniqueID))
	}
	return uint16(id), nil
}

func (c *Client) updatePinhole(ctx context.Context, d *device, id uint16, lease uint32) error {
	in := struct{ UniqueID, NewLeaseTime string }{strconv.Itoa(int(id)), strconv.FormatUint(uint64(lease), 10)}
	return c.call(ctx, d, *d.firewall, "UpdatePinhole", &in, nil)
}

func (c *Client) deletePinhole(ctx context.Context, d *device, id uint16) error {
	in := struct{ UniqueID string }{strconv.Itoa(int(id))}
	err := c.call(ctx, d, *d.firewall, "DeletePinhole", &in, nil)
	if upnpCode(err) == upnpNoSuchPinhole {
		return nil
	}
	return err
}

// firewallStatus tells whether the router filters IPv6 at all, and whether it
// takes pinholes.
func (c *Client) firewallStatus(ctx context.Context, d *device) (enabled, allowed bool, err error) {
	var out struct{ FirewallEnabled, InboundPinholeAllowed string }
	if err := c.call(ctx, d, *d.firewall, "GetFirewallStatus", nil, &out); err != nil {
		return false, false, err
	}
	return parseUPnPBool(out.FirewallEnabled), parseUPnPBool(out.InboundPinholeAllowed), nil
}

func protoNumber(proto string) byte {
	if proto == "udp" {
		return protoUDP
	}
	return protoTCP
}
