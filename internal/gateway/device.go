package gateway

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// Bounds on what a device may make us read.
const (
	maxDescription = 256 << 10 // bytes of a description
	maxReply       = 64 << 10  // bytes of an answer to a SOAP call
	maxDepth       = 6         // devices within devices
	maxServices    = 16        // that we look at
)

// The services we know, by preference.
const (
	serviceIP2      = "urn:schemas-upnp-org:service:WANIPConnection:2"
	serviceIP1      = "urn:schemas-upnp-org:service:WANIPConnection:1"
	servicePPP      = "urn:schemas-upnp-org:service:WANPPPConnection:1"
	serviceFirewall = "urn:schemas-upnp-org:service:WANIPv6FirewallControl:1"
)

// service is one that a device offers.
type service struct {
	kind    string
	control *url.URL
}

// device is a router's UPnP description, as far as we need it.
type device struct {
	addr     netip.Addr // where it is; its services are there too
	name     string     // maker and model, clipped
	wan      []service  // that have addresses and port mappings, the best first
	firewall *service   // for IPv6; nil: none
	http     *http.Client
}

// description is the XML of UPnP Device Architecture 2.0 section 2.3.
type description struct {
	URLBase string    `xml:"URLBase"`
	Device  xmlDevice `xml:"device"`
}

type xmlDevice struct {
	Manufacturer string       `xml:"manufacturer"`
	Model        string       `xml:"modelName"`
	Friendly     string       `xml:"friendlyName"`
	Services     []xmlService `xml:"serviceList>service"`
	Devices      []xmlDevice  `xml:"deviceList>device"`
}

type xmlService struct {
	Type    string `xml:"serviceType"`
	Control string `xml:"controlURL"`
}

// parseDescription reads what is at location. Services that are not at the
// router's own address are left out; without any other it is refused.
func parseDescription(b []byte, location *url.URL, router netip.Addr) (*device, error) {
	if len(b) > maxDescription {
		return nil, fmt.Errorf("UPnP description of more than %d bytes", maxDescription)
	}
	var d description
	if err := xml.Unmarshal(b, &d); err != nil {
		return nil, fmt.Errorf("UPnP description: %s", clip(err.Error()))
	}
	base := location
	if d.URLBase != "" {
		var err error
		if base, err = onRouter(strings.TrimSpace(d.URLBase), nil, router); err != nil {
			return nil, fmt.Errorf("UPnP description: URLBase: %w", err)
		}
	}
	out := &device{addr: router, name: routerName(d.Device)}
	found := map[string][]service{}
	var elsewhere error
	left := maxServices
	var walk func(xmlDevice, int)
	walk = func(dev xmlDevice, depth int) {
		if depth > maxDepth {
			return
		}
		for _, s := range dev.Services {
			kind := strings.TrimSpace(s.Type)
			switch kind {
			case serviceIP2, serviceIP1, servicePPP, serviceFirewall:
			default:
				continue
			}
			if left--; left < 0 {
				return
			}
			u, err := onRouter(strings.TrimSpace(s.Control), base, router)
			if err != nil {
				elsewhere = err
				continue
			}
			found[kind] = append(found[kind], service{kind, u})
		}
		for _, sub := range dev.Devices {
			walk(sub, depth+1)
		}
	}
	walk(d.Device, 1)
	for _, kind := range []string{serviceIP2, serviceIP1, servicePPP} {
		out.wan = append(out.wan, found[kind]...)
	}
	if f := found[serviceFirewall]; len(f) > 0 {
		out.firewall = &f[0]
	}
	switch {
	case len(out.wan) == 0 && out.firewall == nil && elsewhere != nil:
		return nil, fmt.Errorf("UPnP description: control URL: %w", elsewhere)
	case len(out.wan) == 0 && out.firewall == nil:
		return nil, errors.New("UPnP description: no WANIPConnection, WANPPPConnection or WANIPv6FirewallControl")
	}
	return out, nil
}

func routerName(d xmlDevice) string {
	name := strings.TrimSpace(d.Model)
	if name == "" {
		name = strings.TrimSpace(d.Friendly)
	}
	if maker := strings.TrimSpace(d.Manufacturer); maker != "" && !strings.HasPrefix(name, maker) {
		name = maker + " " + name
	}
	return clip(name)
}

// routerClient speaks HTTP with one host only: no proxy, no redirect, no name
// to look up, and bodies that end.
func routerClient(local netip.Addr) *http.Client {
	d := &net.Dialer{}
	if local.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	return &http.Client{
		Transport: bounded{&http.Transport{
			DialContext:            d.DialContext,
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 16 << 10,
		}, maxReply},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the router sends us elsewhere, which a router has no reason to")
		},
	}
}

// bounded ends each body after most bytes.
type bounded struct {
	rt   http.RoundTripper
	most int64
}

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := b.rt.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	most := b.most
	if r.Method == http.MethodGet {
		most = maxDescription + 1
	}
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(res.Body, most), res.Body}
	return res, nil
}

// fetchDevice reads the description at location, which search found.
func (c *Client) fetchDevice(ctx context.Context, local netip.Addr, location *url.URL, router netip.Addr) (*device, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	client := routerClient(local)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, location.String(), nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil { // it may quote what the router sent
		return nil, fmt.Errorf("UPnP description: %s", clip(err.Error()))
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("UPnP description: HTTP status %d", res.StatusCode)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("UPnP description: %s", clip(err.Error()))
	}
	d, err := parseDescription(b, location, router)
	if err != nil {
		return nil, err
	}
	d.http = client
	return d, nil
}

func portOf(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	return "80"
}
