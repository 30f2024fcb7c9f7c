package gateway

import "net/netip"

// Kind is what a router's address says about the line behind it. It is a
// metric label.
type Kind string

// The kinds.
const (
	// Public can be reached from the Internet, for all we can see.
	Public Kind = "public"

	// CarrierNAT is the provider's own NAT (RFC 6598, RFC 6333): nobody can
	// reach this line by IPv4, whatever is forwarded.
	CarrierNAT Kind = "carrier_nat"

	// DoubleNAT is a private network (RFC 1918): there is one more router in
	// front, which must forward too.
	DoubleNAT Kind = "double_nat"

	// Unusable is an address no line has: unspecified, loopback, link-local,
	// multicast, reserved.
	Unusable Kind = "unusable"
)

var (
	carrierNAT = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598
	dsLite     = netip.MustParsePrefix("192.0.0.0/29")  // RFC 6333 section 5.7
	thisNet    = netip.MustParsePrefix("0.0.0.0/8")     // RFC 791 section 3.2
	reserved   = netip.MustParsePrefix("240.0.0.0/4")   // RFC 1112 section 4
	benchmark  = netip.MustParsePrefix("198.18.0.0/15") // RFC 2544
)

// KindOf classifies an IPv4 address of a router. The networks for
// documentation count as public: no line has them, and every example does.
func KindOf(a netip.Addr) Kind {
	a = a.Unmap()
	switch {
	case !a.Is4() || !a.IsGlobalUnicast() || thisNet.Contains(a) || reserved.Contains(a) || benchmark.Contains(a):
		return Unusable
	case carrierNAT.Contains(a), dsLite.Contains(a):
		return CarrierNAT
	case a.IsPrivate():
		return DoubleNAT
	}
	return Public
}
