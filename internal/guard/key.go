package guard

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"sync"
)

// A key names one client in every table: an IPv4 address, or the /64 network
// of an IPv6 address, which is what one subscriber gets at the least. It is
// exact and reversible, so that two clients are never taken for one. 0 is no
// client; tables use it for an empty slot.
type key uint64

const (
	// IPv4 addresses live where no /64 network can: ::/8 is reserved by the
	// IETF (RFC 4291 section 4), and the /64 that holds ::1 and :: gets a
	// value of its own there.
	keyIPv4 = 0x0000_ffff_0000_0000
	keyZero = 0x0000_fffe_0000_0000

	// Neighbourhoods, see network: an IPv4 /24 by its 24 bits, an IPv6 /48 by
	// its 48 bits below a value no address begins with.
	keyNet4 = 0x0000_fffd_0000_0000
	keyNet6 = 0x0001_0000_0000_0000
)

// canonical removes what makes two spellings of one address differ: the
// IPv4-in-IPv6 mapping (RFC 4291 section 2.5.5.2) and the zone.
func canonical(addr netip.Addr) netip.Addr {
	return addr.Unmap().WithZone("")
}

// keyOf returns the key of a canonical address; 0 for the zero Addr.
func keyOf(addr netip.Addr) key {
	switch {
	case !addr.IsValid():
		return 0
	case addr.Is4():
		b := addr.As4()
		return keyIPv4 | key(binary.BigEndian.Uint32(b[:]))
	}
	b := addr.As16()
	k := key(binary.BigEndian.Uint64(b[:8]))
	if k == 0 {
		return keyZero
	}
	return k
}

// network is the key of the neighbourhood of an address's key: its /24 or /48.
// That of a neighbourhood is itself.
func (k key) network() key {
	switch k >> 32 {
	case keyIPv4 >> 32:
		return keyNet4 | (k&0xffff_ffff)>>8
	case keyNet4 >> 32, keyZero >> 32:
		return k
	}
	if k>>48 == keyNet6>>48 {
		return k
	}
	return keyNet6 | k>>16
}

// isNetwork reports whether k is a neighbourhood's.
func (k key) isNetwork() bool { return k>>32 == keyNet4>>32 || k>>48 == keyNet6>>48 }

// keyOfPrefix returns the key of what p names: one IPv4 address, one IPv6 /64,
// or a neighbourhood. ok is false for any other prefix.
func keyOfPrefix(p netip.Prefix) (k key, ok bool) {
	if !p.IsValid() {
		return 0, false
	}
	k = keyOf(canonical(p.Addr()))
	for _, k := range [...]key{k, k.network()} {
		if k.prefix() == p {
			return k, true
		}
	}
	return 0, false
}

// prefix is the network a key stands for: a /32 or a /64, a /24 or a /48.
func (k key) prefix() netip.Prefix {
	if k.isNetwork() {
		return k.networkPrefix()
	}
	if k>>32 == keyIPv4>>32 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(k))
		return netip.PrefixFrom(netip.AddrFrom4(b), 32)
	}
	var b [16]byte
	if k != keyZero {
		binary.BigEndian.PutUint64(b[:8], uint64(k))
	}
	return netip.PrefixFrom(netip.AddrFrom16(b), 64)
}

func (k key) networkPrefix() netip.Prefix {
	if k>>32 == keyNet4>>32 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(k)<<8)
		return netip.PrefixFrom(netip.AddrFrom4(b), 24)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(k)<<16)
	return netip.PrefixFrom(netip.AddrFrom16(b), 48)
}

// hash spreads keys over a table. The seed is the process's own, so that
// nobody can choose addresses that meet in one set.
func (k key) hash(seed maphash.Seed) uint64 {
	return maphash.Comparable(seed, k)
}

// ways is the number of slots a key may live in.
const ways = 4

// stripes is the number of locks of a table. Sets share them: with far more
// stripes than cores, two goroutines hardly ever meet.
const stripes = 64

// A stripe fills a cache line of its own.
type stripe struct {
	sync.Mutex
	_ [56]byte
}

// roundSlots gives the size of a table: n raised to a power of two, and to
// 4 times the number of stripes at the least.
func roundSlots(n int) int {
	size := ways * stripes
	for size < n {
		size *= 2
	}
	return size
}
