// Package awsip knows which addresses belong to AWS. Lambda functions call
// from there, from addresses they share with everybody else who rents one, so
// such an address says little about who asks.
//
// It works from a copy of its own until it has read the list AWS publishes
// (ip-ranges.json), which it then reads once a day, and keeps on disk.
package awsip

import (
	"cmp"
	_ "embed"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

//go:embed shipped.txt
var shippedText string

// A Set is a set of addresses. The zero value is empty. It is never changed.
type Set struct {
	v4 []span // of whole addresses
	v6 []span // of the first 64 bits
}

// A span is all numbers from first to last.
type span struct{ first, last uint64 }

// Shipped returns the copy that comes with this program. It panics when that
// cannot be read, which a test rules out.
func Shipped() *Set {
	s, err := parseText(shippedText)
	if err != nil {
		panic("awsip: " + err.Error())
	}
	return s
}

// Has reports whether a is in the set. It allocates nothing.
func (s *Set) Has(a netip.Addr) bool {
	a = a.Unmap()
	switch {
	case a.Is4():
		b := a.As4()
		return has(s.v4, uint64(binary.BigEndian.Uint32(b[:])))
	case a.Is6():
		b := a.As16()
		return has(s.v6, binary.BigEndian.Uint64(b[:8]))
	}
	return false
}

// Overlaps reports whether p has an address that is in the set. It allocates
// nothing.
func (s *Set) Overlaps(p netip.Prefix) bool {
	p = p.Masked()
	switch {
	case !p.IsValid():
		return false
	case p.Addr().Is4():
		b := p.Addr().As4()
		first := uint64(binary.BigEndian.Uint32(b[:]))
		return meets(s.v4, span{first, first | (1<<(32-p.Bits()) - 1)})
	}
	b := p.Addr().As16()
	first := binary.BigEndian.Uint64(b[:8])
	return meets(s.v6, span{first, first | (1<<(64-min(p.Bits(), 64)) - 1)})
}

// meets reports whether a number of want is in spans.
func meets(spans []span, want span) bool {
	i, found := slices.BinarySearchFunc(spans, want.first, func(s span, n uint64) int { return cmp.Compare(s.last, n) })
	return found || i < len(spans) && spans[i].first <= want.last
}

func has(spans []span, n uint64) bool {
	lo, hi := 0, len(spans)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if spans[mid].last < n {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo < len(spans) && spans[lo].first <= n
}

// Len is the number of separate spans.
func (s *Set) Len() int { return len(s.v4) + len(s.v6) }

// newSet makes a set of networks; IPv6 ones longer than /64 count as that.
func newSet(networks []netip.Prefix) *Set {
	s := new(Set)
	for _, p := range networks {
		p = p.Masked()
		if p.Addr().Is4() {
			b := p.Addr().As4()
			first := uint64(binary.BigEndian.Uint32(b[:]))
			s.v4 = append(s.v4, span{first, first | (1<<(32-p.Bits()) - 1)})
			continue
		}
		b := p.Addr().As16()
		first := binary.BigEndian.Uint64(b[:8])
		s.v6 = append(s.v6, span{first, first | (1<<(64-min(p.Bits(), 64)) - 1)})
	}
	s.v4, s.v6 = merge(s.v4), merge(s.v6)
	return s
}

// merge sorts spans and joins those that touch.
func merge(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	out := spans[:0]
	for _, s := range spans {
		if n := len(out); n > 0 && (s.first <= out[n-1].last || s.first == out[n-1].last+1) {
			out[n-1].last = max(out[n-1].last, s.last)
			continue
		}
		out = append(out, s)
	}
	return slices.Clip(out)
}

// parseText reads networks between white space; "#" begins a comment.
func parseText(text string) (*Set, error) {
	var all []netip.Prefix
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		for _, field := range strings.Fields(line) {
			p, err := netip.ParsePrefix(field)
			if err != nil {
				return nil, err
			}
			all = append(all, p)
		}
	}
	return newSet(all), nil
}

// published is ip-ranges.json, as far as it is read. See "AWS IP address
// ranges" in the documentation of Amazon VPC.
type published struct {
	SyncToken string `json:"syncToken"`
	Prefixes  []struct {
		Prefix netip.Prefix `json:"ip_prefix"`
	} `json:"prefixes"`
	Prefixes6 []struct {
		Prefix netip.Prefix `json:"ipv6_prefix"`
	} `json:"ipv6_prefixes"`
}

// The bounds of a list that can be true. One beyond them would spare half of
// the Internet, or nobody.
const (
	fewest   = 500
	widest4  = 8
	widest6  = 20
	mostIPv4 = 1 << 29 // addresses; AWS has a fifth of that
)

// parse reads ip-ranges.json and refuses what cannot be it.
func parse(data []byte) (*Set, error) {
	var list published
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, err
	}
	if list.SyncToken == "" {
		return nil, errors.New("it has no syncToken")
	}
	var all []netip.Prefix
	for _, p := range list.Prefixes {
		if !p.Prefix.IsValid() || !p.Prefix.Addr().Is4() || p.Prefix.Bits() < widest4 {
			return nil, fmt.Errorf("%q is no IPv4 network AWS can have", p.Prefix)
		}
		all = append(all, p.Prefix)
	}
	for _, p := range list.Prefixes6 {
		if !p.Prefix.IsValid() || !p.Prefix.Addr().Is6() || p.Prefix.Addr().Is4In6() || p.Prefix.Bits() < widest6 {
			return nil, fmt.Errorf("%q is no IPv6 network AWS can have", p.Prefix)
		}
		all = append(all, p.Prefix)
	}
	if len(all) < fewest {
		return nil, fmt.Errorf("it has %d networks, want at least %d", len(all), fewest)
	}
	s := newSet(all)
	var sum uint64
	for _, v := range s.v4 {
		sum += v.last - v.first + 1
	}
	if sum > mostIPv4 {
		return nil, fmt.Errorf("it has %d IPv4 addresses, far more than AWS", sum)
	}
	return s, nil
}
