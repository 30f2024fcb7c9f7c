package guard

import (
	"net/netip"
	"slices"
)

// DefaultNever returns the networks that are never banned unless Config.Never
// says otherwise: this machine, the home's network, and the carrier's network
// between a router and the Internet, where an address tells nothing about who
// is behind it. The slice is the caller's.
func DefaultNever() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("127.0.0.0/8"),    // loopback, RFC 1122
		netip.MustParsePrefix("10.0.0.0/8"),     // private, RFC 1918
		netip.MustParsePrefix("172.16.0.0/12"),  // private, RFC 1918
		netip.MustParsePrefix("192.168.0.0/16"), // private, RFC 1918
		netip.MustParsePrefix("169.254.0.0/16"), // link-local, RFC 3927
		netip.MustParsePrefix("100.64.0.0/10"),  // carrier-grade NAT, RFC 6598
		netip.MustParsePrefix("::1/128"),        // loopback, RFC 4291
		netip.MustParsePrefix("fc00::/7"),       // unique local, RFC 4193
		netip.MustParsePrefix("fe80::/10"),      // link-local, RFC 4291
	}
}

// spares returns the given networks in canonical form: masked, and IPv4 ones
// as such when they were written as mapped into IPv6.
func spares(lists ...[]netip.Prefix) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range slices.Concat(lists...) {
		if !p.IsValid() {
			continue
		}
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		all = append(all, p.Masked())
	}
	return all
}

// ownNetworks returns what is spared for our own addresses: an IPv4 address
// alone, but the whole /64 of an IPv6 one, for that is the home's network.
func ownNetworks(addrs []netip.Addr) []netip.Prefix {
	var all []netip.Prefix
	for _, addr := range addrs {
		addr = canonical(addr)
		switch {
		case !addr.IsValid(), addr.IsUnspecified(), addr.IsLoopback(), addr.IsLinkLocalUnicast():
		case addr.Is4():
			all = append(all, netip.PrefixFrom(addr, 32))
		default:
			all = append(all, netip.PrefixFrom(addr, 64).Masked())
		}
	}
	return all
}

// contains reports whether the canonical addr is in one of the networks.
func contains(networks []netip.Prefix, addr netip.Addr) bool {
	for _, p := range networks {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// overlaps reports whether net shares an address with one of the networks.
func overlaps(networks []netip.Prefix, net netip.Prefix) bool {
	for _, p := range networks {
		if p.Overlaps(net) {
			return true
		}
	}
	return false
}

// lastAddr is the last address of net.
func lastAddr(net netip.Prefix) netip.Addr {
	b := net.Addr().As16()
	from := net.Bits()
	if net.Addr().Is4() {
		from += 96
	}
	for i := from; i < 128; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a := netip.AddrFrom16(b)
	if net.Addr().Is4() {
		return a.Unmap()
	}
	return a
}
