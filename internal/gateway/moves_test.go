package gateway

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"postern/internal/testnet"
)

func TestAddressChanges(t *testing.T) {
	g := newRig(t, nil)
	g.c.Set(Want{Watch: true})
	g.after(0)
	g.told()
	g.r.Change(func(m *testnet.RouterMode) { m.WAN = netip.MustParseAddr("203.0.113.99") })
	g.after(time.Minute)
	if len(g.changes) != 1 || g.changes[0].What != AddressChanged || g.changes[0].Before.String() != "203.0.113.7" || g.changes[0].Answer.Addr.String() != "203.0.113.99" {
		t.Errorf("told %+v, want the change from 203.0.113.7 to 203.0.113.99", g.changes)
	}
	g.wantTable(0)
	g.told()
	g.r.Change(func(m *testnet.RouterMode) { m.WAN = netip.Addr{} })
	g.after(time.Minute)
	g.after(time.Minute)
	if got := g.told(); got != "silent" {
		t.Errorf("told %s, want once that the line is down", got)
	}
	if s := g.c.Status(); s.Answer == nil || s.Err == nil {
		t.Errorf("status %+v, want the last answer and the error", s)
	}
}

// Nobody who asked for nothing sends anything.
// A mapping goes over to the router's new address and stays ours: its lease is
// renewed, and it is given back.
func TestMappingMovesWithTheAddress(t *testing.T) {
	for i := range 2 * len(routers) {
		r, restarts := routers[i/2], i%2 == 1
		t.Run(fmt.Sprintf("%s, which restarts %t", r.name, restarts), func(t *testing.T) {
			g := newRig(t, r.mode)
			g.after(0)
			g.wantStates(all(r.by))
			next := netip.MustParseAddr("203.0.113.99")
			g.r.Change(func(m *testnet.RouterMode) { m.WAN = next })
			if restarts {
				g.r.Reboot()
			}
			g.after(time.Minute)
			g.after(40 * time.Minute)
			g.wantStates(all(r.by))
			if s := g.c.Status(); s.Answer == nil || s.Answer.Addr != next {
				t.Errorf("the router's address is %+v, want %s", s.Answer, next)
			}
			for _, m := range g.c.Status().Mappings {
				if m.ByHand || m.Lease == 0 {
					t.Errorf("%s: %+v, want it ours and for a time", m.Port, m)
				}
			}
			g.c.Set(Want{})
			g.after(time.Minute)
			g.wantTable(0)
		})
	}
}

// However long the line was down, mappings are made as soon as it is back.
func TestLineComesBack(t *testing.T) {
	for _, r := range routers {
		t.Run(r.name, func(t *testing.T) {
			g := newRig(t, r.mode)
			wan := g.r.Mode().WAN
			g.r.Change(func(m *testnet.RouterMode) { m.WAN = netip.Addr{} })
			for range 60 {
				g.after(time.Minute)
			}
			g.wantStates("443/tcp failed, 80/tcp failed, 443/udp failed")
			g.r.Change(func(m *testnet.RouterMode) { m.WAN = wan })
			g.after(time.Second)
			g.wantStates(all(r.by))
		})
	}
}

// A nightly cut is no news: the mapping is made again as soon as the line is
// back. A cut that outlasts the lease is, once.
func TestLineIsCut(t *testing.T) {
	g := newRig(t, nil)
	g.after(0)
	g.wantStates(all(PCP))
	g.told()
	wan := g.r.Mode().WAN
	cut := func(minutes int) {
		g.r.Change(func(m *testnet.RouterMode) { m.WAN = netip.Addr{} })
		g.r.Reboot()
		for range minutes {
			g.after(time.Minute)
		}
		g.r.Change(func(m *testnet.RouterMode) { m.WAN = wan })
		g.after(time.Second)
		g.wantStates(all(PCP))
		g.wantTable(3)
	}
	cut(5)
	if got := g.told(); got != "silent, back" {
		t.Errorf("told %s, want nothing about mappings", got)
	}
	cut(65)
	if got := g.told(); got != "silent, lost 443/tcp, lost 80/tcp, lost 443/udp, back, mapped 443/tcp, mapped 80/tcp, mapped 443/udp" {
		t.Errorf("told %s", got)
	}
}
