package nft

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestSift(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	hour := now.Add(time.Hour)
	spared := netip.MustParsePrefix("192.0.2.0/24")
	d := New(Config{Spares: spared.Overlaps, Bans: func() []Ban { return nil }})
	for _, c := range []struct {
		name   string
		prefix string
		until  time.Time
		add    bool
		remove bool
	}{
		{"an address", "198.51.100.7/32", hour, true, false},
		{"a network of IPv6", "2001:db8::/64", hour, true, false},
		{"a ban that ended", "198.51.100.7/32", now, false, false},
		{"too short to tell", "198.51.100.7/32", now.Add(999 * time.Millisecond), false, false},
		{"taken back", "198.51.100.7/32", time.Time{}, false, true},
		{"spared", "192.0.2.7/32", hour, false, true},
		{"spared and taken back", "192.0.2.7/32", time.Time{}, false, true},
		{"a network of IPv4", "198.51.100.0/24", hour, true, false},
		{"a larger one", "198.51.0.0/16", hour, false, false},
		{"a network around what is spared", "192.0.2.0/24", hour, false, true},
		{"a larger one of IPv6", "2001:db8::/48", hour, true, false},
		{"one address of IPv6", "2001:db8::1/128", hour, false, false},
		{"IPv4 in IPv6", "::ffff:198.51.100.7/128", hour, false, false},
	} {
		p := netip.MustParsePrefix(c.prefix)
		add, remove := d.sift(nil, map[netip.Prefix]time.Time{p: c.until}, now)
		if got := len(add) == 1 && add[0] == (Ban{p, c.until}); got != c.add || len(add) > 1 {
			t.Errorf("%s: added %v, want %t", c.name, add, c.add)
		}
		if got := slices.Equal(remove, []netip.Prefix{p}); got != c.remove || len(remove) > 1 {
			t.Errorf("%s: removed %v, want %t", c.name, remove, c.remove)
		}
	}
}

func TestSiftBound(t *testing.T) {
	now := time.Now()
	d := New(Config{Bans: func() []Ban { return nil }})
	bans := make([]Ban, 0, maxBanned+2)
	for i := range maxBanned + 1 {
		bans = append(bans, Ban{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32), now.Add(time.Hour)})
	}
	bans = append(bans, Ban{netip.MustParsePrefix("2001:db8::/64"), now.Add(time.Hour)})
	if add, _ := d.sift(bans, nil, now); len(add) != maxBanned+1 {
		t.Errorf("%d added, want %d of IPv4 and 1 of IPv6", len(add), maxBanned)
	}
}

func TestPendingIsBounded(t *testing.T) {
	d := New(Config{Bans: func() []Ban { return nil }})
	for i := range 3 * maxPending {
		d.Put(Ban{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32), time.Now().Add(time.Hour)})
		if len(d.pending) > maxPending {
			t.Fatalf("%d changes wait, want at most %d", len(d.pending), maxPending)
		}
	}
	if !d.stale {
		t.Error("changes were lost and nobody reads everything anew")
	}
}
