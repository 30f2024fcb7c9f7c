// Package house runs the real binary in a small internet of network
// namespaces: at home behind a router, with a provider, a DNS and a caller
// outside, whose address changes. It holds nothing but tests.
//
// It needs Linux, root, iproute2, nftables and miniupnpd; without one of them
// its test is skipped with the reason. Nothing leaves the namespaces.
package house
