package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Bounds on what a search reads.
const (
	maxSSDP      = 4 << 10 // bytes of one answer
	maxSSDPReads = 128     // answers of one search, anybody's
	maxLocation  = 512     // bytes of a URL
)

// searchTargets are what a router may answer to: IGD 2 devices answer to both
// (UPnP Device Architecture 2.0 section 1.3.2).
var searchTargets = [...]string{ // read only
	"urn:schemas-upnp-org:device:InternetGatewayDevice:1",
	"urn:schemas-upnp-org:device:InternetGatewayDevice:2",
}

// searchRequest is an M-SEARCH. Routers answer within MX seconds.
func searchRequest(to netip.AddrPort, target string) []byte {
	return fmt.Appendf(nil, "M-SEARCH * HTTP/1.1\r\nHOST: %s\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: %s\r\n\r\n", netip.AddrPortFrom(to.Addr().WithZone(""), to.Port()), target)
}

// parseSearchAnswer returns the address of the description that an answer to
// M-SEARCH names.
func parseSearchAnswer(b []byte) (location string, err error) {
	if len(b) > maxSSDP {
		return "", fmt.Errorf("SSDP answer of more than %d bytes", maxSSDP)
	}
	tp := textproto.NewReader(bufio.NewReader(bytes.NewReader(b)))
	line, err := tp.ReadLine()
	if err != nil {
		return "", fmt.Errorf("SSDP answer without a line: %w", err)
	}
	proto, status, ok := strings.Cut(line, " ")
	if _, _, known := http.ParseHTTPVersion(proto); !ok || !known || !strings.HasPrefix(status, "200") {
		return "", errOther // NOTIFY and M-SEARCH pass by as well
	}
	h, err := tp.ReadMIMEHeader()
	if err != nil && len(h) == 0 {
		return "", fmt.Errorf("SSDP answer: %w", err)
	}
	location = h.Get("Location")
	if st := h.Get("St"); !strings.Contains(st, "InternetGatewayDevice") && !strings.Contains(st, "WAN") {
		return "", errOther // a television
	}
	if location == "" || len(location) > maxLocation {
		return "", fmt.Errorf("SSDP answer with a LOCATION of %d bytes", len(location))
	}
	return location, nil
}

// onRouter parses an address that a device named and refuses all but plain
// HTTP to one of the given hosts: a device must not send us elsewhere.
func onRouter(ref string, base *url.URL, may ...netip.Addr) (*url.URL, error) {
	if len(ref) > maxLocation {
		return nil, fmt.Errorf("URL of %d bytes", len(ref))
	}
	u, err := url.Parse(ref)
	if err != nil {
		return nil, errors.New("not a URL")
	}
	if base != nil {
		u = base.ResolveReference(u)
	}
	host, err := netip.ParseAddr(u.Hostname())
	if err != nil || u.Scheme != "http" || u.User != nil || u.Opaque != "" {
		return nil, fmt.Errorf("%q is not http:// at the router's address", clip(u.Redacted()))
	}
	port := u.Port()
	if n, err := strconv.ParseUint(port, 10, 16); port != "" && (err != nil || n == 0) {
		return nil, fmt.Errorf("%q has no usable port", clip(u.Redacted()))
	}
	for _, a := range may {
		if host.WithZone("") == a.WithZone("") {
			u.Fragment = ""
			if a.Zone() != "" { // a URL from the wire names none (RFC 6874 section 3)
				u.Host = net.JoinHostPort(a.String(), portOf(u))
			}
			return u, nil
		}
	}
	return nil, fmt.Errorf("%q is not at the router's address", clip(u.Redacted()))
}

// search looks for the router's UPnP description. Only answers that come from
// an address from allows count; they must lead to that same address.
func (c *Client) search(ctx context.Context, local netip.Addr, to netip.AddrPort, from func(netip.Addr) bool) (*url.URL, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(ctx, "udp", netip.AddrPortFrom(local, 0).String())
	if err != nil {
		return nil, err
	}
	defer pc.Close()
	stop := context.AfterFunc(ctx, func() { _ = pc.SetDeadline(time.Now()) })
	defer stop()
	conn := pc.(*net.UDPConn)
	why := errUnanswered
	buf := make([]byte, maxSSDP+1)
	reads := 0
	for wait := time.Second; ; wait *= 2 {
		for _, target := range searchTargets {
			if _, err := conn.WriteToUDPAddrPort(searchRequest(to, target), to); err != nil {
				return nil, fmt.Errorf("ssdp %s: %w", to, err)
			}
		}
		_ = conn.SetReadDeadline(time.Now().Add(wait))
		for ctx.Err() == nil {
			n, sender, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				break // time to ask again
			}
			if reads++; reads > maxSSDPReads {
				return nil, fmt.Errorf("ssdp %s: %d answers and none of the router's is good", to, reads)
			}
			addr := sender.Addr().Unmap()
			if !from(addr) {
				c.metrics.ignored.WithLabelValues("search").Inc()
				continue
			}
			location, err := parseSearchAnswer(buf[:n])
			if err == nil {
				var u *url.URL
				if u, err = onRouter(location, nil, addr); err == nil {
					return u, nil
				}
			}
			c.metrics.ignored.WithLabelValues("search").Inc()
			if !errors.Is(err, errOther) {
				why = err
			}
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("ssdp %s: %w", to, why)
		}
	}
}

// clip makes what a device sent fit for a log line: printable, and short.
func clip(s string) string {
	const most = 80
	out := make([]rune, 0, most)
	for _, r := range s {
		if len(out) == most {
			return string(out) + "…"
		}
		if !strconv.IsPrint(r) {
			r = '?'
		}
		out = append(out, r)
	}
	return strings.TrimSpace(string(out))
}
