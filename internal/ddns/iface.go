package ddns

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// LocalAddr is an address of one of this machine's interfaces.
type LocalAddr struct {
	Addr netip.Addr
	Link string // the interface's name

	// Temporary: a privacy address (RFC 8981) that is gone tomorrow.
	Temporary bool
	// Deprecated: its preferred lifetime is over (RFC 4862 section 5.5.4).
	Deprecated bool
	// Tentative: not yet proven to be nobody else's, or proven the contrary.
	Tentative bool
	// Preferred is what is left of the preferred lifetime; for one without
	// an end, or where the system does not tell, the longest there is.
	Preferred time.Duration
	// Default: the interface has a default route of the address's family, or
	// the system does not tell.
	Default bool
}

// freshPrefix is how much longer another address has to be preferred before
// it takes the place of a good one. Routers renew the lifetimes of a prefix
// that is in use at least twice an hour (RFC 4861 section 6.2.1); one that
// falls behind by more is what an earlier connection left over.
const freshPrefix = time.Hour

// chooseV6 picks the IPv6 address that callers should use: a stable one that
// the Internet reaches. current stays while it is as good as any. The zero
// Addr: there is none.
func chooseV6(current netip.Addr, all []LocalAddr) netip.Addr {
	var good []LocalAddr
	for _, a := range all {
		if a.Addr.Is6() && !a.Addr.Is4In6() && Public(a.Addr) && !a.Temporary && !a.Deprecated && !a.Tentative {
			good = append(good, a)
		}
	}
	if len(good) == 0 {
		return netip.Addr{}
	}
	best := slices.MaxFunc(good, func(a, b LocalAddr) int {
		return cmp.Or(compareBool(a.Default, b.Default), cmp.Compare(a.Preferred, b.Preferred), b.Addr.Compare(a.Addr))
	})
	i := slices.IndexFunc(good, func(a LocalAddr) bool { return a.Addr == current })
	if i >= 0 && good[i].Default == best.Default && best.Preferred-good[i].Preferred <= freshPrefix {
		return current
	}
	return best.Addr
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// publicV4 are the interfaces' public IPv4 addresses, in order.
func publicV4(all []LocalAddr) []netip.Addr {
	var out []netip.Addr
	for _, a := range all {
		if a.Addr.Is4() && Public(a.Addr) && !a.Deprecated {
			out = append(out, a.Addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}
