package guard

import (
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestListed(t *testing.T) {
	now := time.Now()
	bad := netip.MustParsePrefix("203.0.113.0/24")
	lookup := func(a netip.Addr) (string, bool) { return "drop", bad.Contains(a) }
	at := netip.MustParseAddr
	g := New(Config{Allow: []netip.Prefix{netip.MustParsePrefix("203.0.113.7/32")}})
	g.SetListed(lookup)
	g.SetOwn([]netip.Addr{at("203.0.113.8")})
	g.SetShared(func(a netip.Addr) bool { return a == at("203.0.113.9") })
	g.Authenticated(at("203.0.113.10"), now)
	for _, c := range []struct {
		name, addr    string
		conn, request bool
	}{
		{"listed", "203.0.113.1", false, false},
		{"listed, in IPv6 clothes", "::ffff:203.0.113.1", false, false},
		{"not listed", "198.51.100.1", true, true},
		{"allowed", "203.0.113.7", true, true},
		{"our own", "203.0.113.8", true, true},
		{"shared by many", "203.0.113.9", true, false},
		{"authenticated lately", "203.0.113.10", true, false},
	} {
		if v := g.AllowConn(at(c.addr), now); v.Allowed != c.conn || !c.conn && v.Reason != Listed {
			t.Errorf("%s: connection %+v, want allowed %t", c.name, v, c.conn)
		}
		if v := g.AllowRequest(at(c.addr), now); v.Allowed != c.request || !c.request && v.Reason != Listed {
			t.Errorf("%s: request %+v, want allowed %t", c.name, v, c.request)
		}
	}
	// Twice two of the listed, and twice each whose requests are judged.
	if n := testutil.ToFloat64(g.metrics.listed.WithLabelValues("drop")); n != 8 {
		t.Errorf("%v counted for the list, want 8", n)
	}

	g.Reconfigure(Config{Mode: Detect})
	if v := g.AllowConn(at("203.0.113.1"), now); !v.Allowed || !v.Would || v.Reason != Listed {
		t.Errorf("detecting: %+v, want it allowed and told", v)
	}
	g.Reconfigure(Config{Mode: Off})
	if v := g.AllowConn(at("203.0.113.1"), now); !v.Allowed || v.Would {
		t.Errorf("off: %+v, want it allowed", v)
	}
	g.Reconfigure(Config{})
	g.SetListed(nil)
	if v := g.AllowConn(at("203.0.113.1"), now); !v.Allowed {
		t.Errorf("without lists: %+v, want it allowed", v)
	}
}

func TestListedCostsNothing(t *testing.T) {
	now := time.Now()
	g := New(Config{Connections: 1 << 20})
	g.SetListed(func(a netip.Addr) (string, bool) { return "drop", a == netip.AddrFrom4([4]byte{203, 0, 113, 1}) })
	for _, a := range []string{"203.0.113.1", "198.51.100.1"} {
		addr := netip.MustParseAddr(a)
		if n := testing.AllocsPerRun(100, func() { g.AllowRequest(addr, now) }); n != 0 {
			t.Errorf("%s: %v allocations, want none", a, n)
		}
	}
}

func TestSpares(t *testing.T) {
	now := time.Now()
	g := New(Config{Never: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("2001:db8::1/128")}})
	g.SetOwn([]netip.Addr{netip.MustParseAddr("198.51.100.9")})
	g.Authenticated(netip.MustParseAddr("203.0.113.5"), now)
	g.Authenticated(netip.MustParseAddr("2001:db8:7:1::5"), now)
	for p, want := range map[string]bool{
		"192.0.2.7/32": true, "192.0.2.0/24": true, "192.0.2.8/32": false,
		"2001:db8::/64": true, "2001:db8:0:1::/64": false, "198.51.100.9/32": true, "198.51.100.0/24": true,
		"203.0.113.5/32": true, "203.0.113.6/32": false, "203.0.113.0/24": true, "203.0.112.0/24": false,
		"2001:db8:7:1::/64": true, "2001:db8:7:2::/64": false, "2001:db8:7::/48": true, "2001:db8:8::/48": false,
	} {
		if got := g.Spares(netip.MustParsePrefix(p), now); got != want {
			t.Errorf("Spares(%s) = %t, want %t", p, got, want)
		}
	}
	if later := now.Add(2 * time.Hour); g.Spares(netip.MustParsePrefix("203.0.113.5/32"), later) || g.Spares(netip.MustParsePrefix("203.0.113.0/24"), later) {
		t.Error("the trust did not end")
	}
}
