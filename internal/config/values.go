package config

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Rate is a number of events per stretch of time. The zero value is no rate.
type Rate struct {
	Events int           // at least 1
	Per    time.Duration // at least 1ms
}

const rateForms = `want a number per time such as "20/s", "300/m", "5000/h" or "1/10s"`

// ParseRate reads "20/s", "300/m", "5000/h", "100/d" or "1/10s".
func ParseRate(s string) (Rate, error) {
	num, per, ok := strings.Cut(s, "/")
	if !ok {
		return Rate{}, fmt.Errorf("%q is not a rate, %s", s, rateForms)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(num), 10, 31)
	if err != nil {
		return Rate{}, fmt.Errorf("%q is not a rate, %s", s, rateForms)
	}
	if n == 0 {
		return Rate{}, fmt.Errorf("rate %q lets nothing through, want at least 1 event; leave the limit out to have none", s)
	}
	per = strings.TrimSpace(per)
	if per != "" && (per[0] < '0' || per[0] > '9') {
		per = "1" + per // "20/s" is "20/1s"
	}
	d, err := ParseDuration(per)
	if err != nil || d < time.Millisecond {
		return Rate{}, fmt.Errorf("%q is not a rate, %s", s, rateForms)
	}
	return Rate{Events: int(n), Per: d}, nil
}

// String returns the shortest spelling that ParseRate reads as r.
func (r Rate) String() string {
	if r == (Rate{}) {
		return ""
	}
	per := formatDuration(r.Per)
	switch r.Per {
	case time.Second, time.Minute, time.Hour, 24 * time.Hour:
		per = per[1:]
	}
	return strconv.Itoa(r.Events) + "/" + per
}

// UnmarshalText reads what ParseRate reads.
func (r *Rate) UnmarshalText(b []byte) (err error) {
	*r, err = ParseRate(string(b))
	return err
}

// Size is a number of bytes, never negative.
type Size int64

// ParseSize reads a number of bytes, or a number with k, m or g (powers of
// 1024), in either case and with or without "b" or "ib".
func ParseSize(s string) (Size, error) {
	bad := func() (Size, error) {
		return 0, fmt.Errorf(`%q is not a size, want bytes or a whole number with k, m or g such as "64k"`, s)
	}
	digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
	n, err := strconv.ParseInt(s[:digits], 10, 64)
	if err != nil {
		return bad()
	}
	shift := 0
	unit := strings.ToLower(strings.TrimSpace(s[digits:]))
	switch unit {
	case "", "b":
	case "k", "kb", "kib":
		shift = 10
	case "m", "mb", "mib":
		shift = 20
	case "g", "gb", "gib":
		shift = 30
	default:
		return bad()
	}
	if n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("size %q is larger than any machine", s)
	}
	return Size(n << shift), nil
}

// String returns the shortest spelling that ParseSize reads as s.
func (s Size) String() string {
	for _, u := range []struct {
		shift int
		unit  string
	}{{30, "g"}, {20, "m"}, {10, "k"}} {
		if s != 0 && s%(1<<u.shift) == 0 {
			return strconv.FormatInt(int64(s>>u.shift), 10) + u.unit
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// UnmarshalText reads what ParseSize reads.
func (s *Size) UnmarshalText(b []byte) (err error) {
	*s, err = ParseSize(string(b))
	return err
}

// ParseDuration reads Go's durations ("1h30m", "250ms") and days ("7d",
// "1d12h"); a lone 0 needs no unit. The result may be negative.
func ParseDuration(s string) (time.Duration, error) {
	const forms = `such as "30s", "5m", "24h" or "7d"`
	bad := func() (time.Duration, error) {
		return 0, fmt.Errorf("%q is not a duration, want a number with a unit %s", s, forms)
	}
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		if f := strings.Trim(s, "0"); f == "" {
			return 0, nil
		}
		return 0, fmt.Errorf("duration %q has no unit, want one %s", s, forms)
	}
	days, rest, ok := strings.Cut(s, "d")
	if !ok {
		d, err := time.ParseDuration(s)
		if err != nil {
			return bad()
		}
		return d, nil
	}
	n, err := strconv.ParseUint(days, 10, 31)
	if err != nil {
		return bad()
	}
	if n > math.MaxInt64/uint64(24*time.Hour) {
		return 0, fmt.Errorf("duration %q is longer than 292 years", s)
	}
	d := time.Duration(n) * 24 * time.Hour
	if rest == "" {
		return d, nil
	}
	more, err := time.ParseDuration(rest)
	if err != nil || strings.HasPrefix(rest, "-") || strings.HasPrefix(rest, "+") {
		return bad()
	}
	if d+more < d {
		return 0, fmt.Errorf("duration %q is longer than 292 years", s)
	}
	return d + more, nil
}

// formatDuration writes d without the zero tail of time.Duration.String:
// 10m, not 10m0s; days as d.
func formatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// ParsePrefix reads a network such as "10.0.0.0/8" or a single address.
func ParsePrefix(s string) (netip.Prefix, error) {
	none := netip.Prefix{}
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return none, fmt.Errorf("%q has a zone, want the address without %%%s", s, a.Zone())
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return none, fmt.Errorf(`%q is not a network, want one such as "10.0.0.0/8", "fd00::/8" or a single address`, s)
	case p.Addr().Is4In6():
		return none, fmt.Errorf(`%q is an IPv4 network in IPv6 clothes, want it written as IPv4`, s)
	case p != p.Masked():
		return none, fmt.Errorf("%q has bits beyond its length; did you mean %s?", s, p.Masked())
	}
	return p, nil
}
