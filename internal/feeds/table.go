package feeds

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// A table is a set of addresses: sorted ranges that neither touch nor
// overlap. It never changes.
type table struct {
	v4 []span4
	v6 []span6
	// top narrows the search among many: v4[top[n]] is the first range that
	// ends at or after n<<16. nil for few ranges.
	top []uint32
}

// indexFrom is how many ranges of IPv4 make the index of 256 KiB worth while.
const indexFrom = 4096

type span4 struct{ first, last uint32 }

type span6 struct{ first, last addr6 }

// addr6 is an IPv6 address as a number.
type addr6 struct{ hi, lo uint64 }

func (a addr6) compare(b addr6) int {
	return cmp.Or(cmp.Compare(a.hi, b.hi), cmp.Compare(a.lo, b.lo))
}

// next is the address after a; that after the last one is the first.
func (a addr6) next() addr6 {
	if a.lo++; a.lo == 0 {
		a.hi++
	}
	return a
}

func number4(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func number6(a netip.Addr) addr6 {
	b := a.As16()
	return addr6{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func address4(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

func address6(n addr6) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], n.hi)
	binary.BigEndian.PutUint64(b[8:], n.lo)
	return netip.AddrFrom16(b)
}

// contains reports whether addr, which is not an IPv4 one in IPv6 clothes, is
// in the table.
func (t *table) contains(addr netip.Addr) bool {
	if addr.Is4() {
		x := number4(addr)
		lo, hi := 0, len(t.v4)
		if t.top != nil {
			lo, hi = int(t.top[x>>16]), int(t.top[x>>16+1])
			hi = min(hi+1, len(t.v4))
		}
		for lo < hi {
			if mid := int(uint(lo+hi) >> 1); t.v4[mid].last < x {
				lo = mid + 1
			} else {
				hi = mid
			}
		}
		return lo < len(t.v4) && t.v4[lo].first <= x
	}
	x := number6(addr)
	lo, hi := 0, len(t.v6)
	for lo < hi {
		if mid := int(uint(lo+hi) >> 1); t.v6[mid].last.compare(x) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo < len(t.v6) && t.v6[lo].first.compare(x) <= 0
}

// A builder collects what becomes a table.
type builder struct {
	v4 []span4
	v6 []span6
}

// add adds the addresses from first to last, both of one family. It reports
// false if that is no range.
func (b *builder) add(first, last netip.Addr) bool {
	first, last = first.Unmap(), last.Unmap()
	if !first.IsValid() || first.BitLen() != last.BitLen() || last.Less(first) {
		return false
	}
	if first.Is4() {
		b.v4 = append(b.v4, span4{number4(first), number4(last)})
	} else {
		b.v6 = append(b.v6, span6{number6(first), number6(last)})
	}
	return true
}

func (b *builder) addPrefix(p netip.Prefix) bool { return b.add(p.Masked().Addr(), lastOf(p)) }

// lastOf is the last address of a network.
func lastOf(p netip.Prefix) netip.Addr {
	if p.Addr().Is4() {
		return address4(number4(p.Addr()) | uint32(uint64(1)<<(32-p.Bits())-1))
	}
	n := number6(p.Addr())
	switch host := 128 - p.Bits(); {
	case host >= 64:
		n.lo = ^uint64(0)
		n.hi |= 1<<(host-64) - 1
	default:
		n.lo |= 1<<host - 1
	}
	return address6(n)
}

func (b *builder) size() int { return len(b.v4) + len(b.v6) }

// table makes the table. The builder is used up.
func (b *builder) table() *table {
	slices.SortFunc(b.v4, func(x, y span4) int { return cmp.Compare(x.first, y.first) })
	slices.SortFunc(b.v6, func(x, y span6) int { return x.first.compare(y.first) })
	t := new(table)
	for _, s := range b.v4 {
		n := len(t.v4) - 1
		switch {
		case n < 0 || t.v4[n].last != ^uint32(0) && s.first > t.v4[n].last+1:
			t.v4 = append(t.v4, s)
		case s.last > t.v4[n].last:
			t.v4[n].last = s.last
		}
	}
	for _, s := range b.v6 {
		n := len(t.v6) - 1
		end := addr6{^uint64(0), ^uint64(0)}
		switch {
		case n < 0 || t.v6[n].last != end && s.first.compare(t.v6[n].last.next()) > 0:
			t.v6 = append(t.v6, s)
		case s.last.compare(t.v6[n].last) > 0:
			t.v6[n].last = s.last
		}
	}
	t.v4, t.v6 = slices.Clip(t.v4), slices.Clip(t.v6)
	if len(t.v4) >= indexFrom {
		t.top = make([]uint32, 1<<16+1)
		at := 0
		for n := range t.top {
			for at < len(t.v4) && uint64(t.v4[at].last) < uint64(n)<<16 {
				at++
			}
			t.top[n] = uint32(at)
		}
	}
	return t
}
