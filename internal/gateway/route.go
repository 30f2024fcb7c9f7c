package gateway

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// hop is the way out of this machine.
type hop struct {
	router netip.Addr   // with a zone if it is link-local
	iface  string       // "" if told by Config
	own    []netip.Addr // our stable global addresses there; IPv6 only
}

// Flags of a route, RTF_UP and RTF_GATEWAY of linux/route.h.
const (
	routeUp      = 0x1
	routeGateway = 0x2
)

// Flags of an address, IFA_F_… of linux/if_addr.h: temporary (RFC 8981),
// duplicate, deprecated, tentative.
const notStable = 0x01 | 0x08 | 0x20 | 0x40

// maxPinholeAddrs is how many of our IPv6 addresses get pinholes.
const maxPinholeAddrs = 4

// parseRoutes4 reads /proc/net/route: the default route with the lowest
// metric.
func parseRoutes4(text string) (hop, error) {
	best, found := hop{}, int64(math.MaxInt64)
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 8 || f[1] != "00000000" || f[7] != "00000000" {
			continue
		}
		flags, err1 := strconv.ParseUint(f[3], 16, 32)
		metric, err2 := strconv.ParseInt(f[6], 10, 64)
		raw, err3 := strconv.ParseUint(f[2], 16, 32)
		if err1 != nil || err2 != nil || err3 != nil || flags&(routeUp|routeGateway) != routeUp|routeGateway || metric >= found {
			continue
		}
		var a [4]byte
		binary.NativeEndian.PutUint32(a[:], uint32(raw)) // the bytes as they lie in memory, printed as a number
		best, found = hop{router: netip.AddrFrom4(a), iface: f[0]}, metric
	}
	if !best.router.IsValid() {
		return hop{}, ErrNoGateway
	}
	return best, nil
}

// parseRoutes6 reads /proc/net/ipv6_route.
func parseRoutes6(text string) (hop, error) {
	best, found := hop{}, uint64(math.MaxUint64)
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 10 || f[1] != "00" || strings.Trim(f[0], "0") != "" {
			continue
		}
		flags, err1 := strconv.ParseUint(f[8], 16, 32)
		metric, err2 := strconv.ParseUint(f[5], 16, 32)
		a, ok := parseHex6(f[4])
		if err1 != nil || err2 != nil || !ok || flags&(routeUp|routeGateway) != routeUp|routeGateway || metric >= found {
			continue
		}
		if a.IsLinkLocalUnicast() {
			a = a.WithZone(f[9])
		}
		best, found = hop{router: a, iface: f[9]}, metric
	}
	if !best.router.IsValid() {
		return hop{}, ErrNoGateway
	}
	return best, nil
}

// parseAddrs6 reads /proc/net/if_inet6: the global addresses of iface that
// stay. Those of the private range (RFC 4193) need no pinhole.
func parseAddrs6(text, iface string) []netip.Addr {
	var out []netip.Addr
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 6 || f[5] != iface || f[3] != "00" || len(out) == maxPinholeAddrs {
			continue
		}
		flags, err := strconv.ParseUint(f[4], 16, 32)
		a, ok := parseHex6(f[0])
		if err != nil || !ok || flags&notStable != 0 || !a.IsGlobalUnicast() || a.IsPrivate() {
			continue
		}
		out = append(out, a)
	}
	return out
}

func parseHex6(s string) (netip.Addr, bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 16 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom16([16]byte(b)), true
}

// route4 is where to ask about IPv4.
func (c *Client) route4() (hop, error) {
	if g := c.cfg.Router.Gateway; g.IsValid() {
		return hop{router: g}, nil
	}
	return defaultRoute4()
}

// route6 is where to ask about IPv6.
func (c *Client) route6() (hop, error) {
	r := c.cfg.Router
	if r.Gateway6.IsValid() {
		return hop{router: r.Gateway6, iface: r.Gateway6.Zone(), own: r.Local6}, nil
	}
	h, err := defaultRoute6()
	if r.Local6 != nil {
		h.own = r.Local6
	}
	return h, err
}

// localAddr is the address the router sees us by. Connecting a UDP socket
// sends nothing.
func localAddr(router netip.Addr) (netip.Addr, error) {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(router, 9)))
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}
