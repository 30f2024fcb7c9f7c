package guard

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

var ip = netip.MustParseAddr

func prefixes(texts ...string) []netip.Prefix {
	all := []netip.Prefix{}
	for _, s := range texts {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func TestObserveBans(t *testing.T) {
	const public = "203.0.113.7"
	every := func(d time.Duration, s Signal, n int) []event {
		var all []event
		for i := range n {
			all = append(all, event{time.Duration(i) * d, s})
		}
		return all
	}
	for _, tt := range []struct {
		name   string
		addr   string
		events []event
		want   bool
	}{
		{"one shape nobody asks", public, every(0, BadShape, 1), true},
		{"one attack protocol", public, every(0, Junk, 1), true},
		{"one scanner path", public, every(0, Scanner, 1), true},
		{"our address as host, once", public, every(0, UnknownHost, 1), false},
		{"our address as host, twice", public, every(time.Second, UnknownHost, 2), true},
		{"no server name, twice, an hour apart", public, every(time.Hour, NoServerName, 2), false},
		{"a page and its icon, mistyped twice", public, every(time.Second, NoRoute, 4), false},
		{"five paths in a row", public, every(time.Second, NoRoute, 5), true},
		{"a monitor of a path that is gone, for a day", public, every(5*time.Minute, NoRoute, 288), false},
		{"https typed at the wrong port, twice", public, every(time.Second, TLSOnHTTP, 2), false},
		{"a browser's spare connections", public, every(100*time.Millisecond, Timeout, 12), false},
		{"slow connections all the time", public, every(100*time.Millisecond, Timeout, 25), true},
		{"a burst of 100 over the limit", public, every(0, RateLimited, 100), false},
		{"thousands over the limit", public, every(10*time.Millisecond, RateLimited, 300), true},
		{"mixed", public, []event{{0, NoServerName}, {1, NoRoute}, {2, HTTPOnTLS}}, true},
		{"loopback", "127.0.0.1", every(0, Junk, 3), false},
		{"private", "192.168.1.20", every(0, Junk, 3), false},
		{"private, mapped", "::ffff:192.168.1.20", every(0, Junk, 3), false},
		{"carrier-grade NAT", "100.64.3.4", every(0, Junk, 3), false},
		{"link-local with a zone", "fe80::1%eth0", every(0, Junk, 3), false},
		{"unique local", "fd00::7", every(0, Junk, 3), false},
		{"public IPv6", "2001:db8:1::7", every(0, Junk, 1), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := New(Config{})
			addr := ip(tt.addr)
			var end time.Time
			for _, e := range tt.events {
				end = t0.Add(e.after)
				g.Observe(addr, e.signal, end)
			}
			if got := g.Banned(addr, end); got != tt.want {
				t.Errorf("banned = %v, want %v", got, tt.want)
			}
			if got := g.AllowConn(addr, end); got.Allowed == tt.want {
				t.Errorf("AllowConn = %+v, want allowed = %v", got, !tt.want)
			}
		})
	}
}

type event struct {
	after  time.Duration
	signal Signal
}

// The spellings of one client are one client, and nothing more is.
func TestWhoIsBanned(t *testing.T) {
	for _, tt := range []struct {
		did, asks string
		want      bool
	}{
		{"203.0.113.7", "203.0.113.7", true},
		{"203.0.113.7", "::ffff:203.0.113.7", true},
		{"::ffff:203.0.113.7", "203.0.113.7", true},
		{"203.0.113.7", "203.0.113.8", false},
		{"2001:db8:1:2::7", "2001:db8:1:2:ffff::1", true},
		{"2001:db8:1:2::7", "2001:db8:1:3::7", false},
		{"2001:db8:1:2::7%eth0", "2001:db8:1:2::8%eth1", true},
		{"::2", "::3", true}, // the /64 whose key would be 0
		{"::2", "203.0.113.7", false},
	} {
		t.Run(tt.did+" then "+tt.asks, func(t *testing.T) {
			g := New(Config{})
			g.Observe(ip(tt.did), Junk, t0)
			if got := g.Banned(ip(tt.asks), t0); got != tt.want {
				t.Errorf("banned = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestSpared(t *testing.T) {
	cfg := Config{
		Never:          prefixes("198.51.100.0/24"),
		Allow:          prefixes("2001:db8:1:2::5/128", "::ffff:203.0.113.0/120"),
		TrustedProxies: prefixes("192.0.2.1/32"),
	}
	g := New(cfg)
	g.SetOwn([]netip.Addr{ip("203.0.114.1"), ip("2001:db8:9:9::1"), {}, ip("::"), ip("127.0.0.1")})
	for _, tt := range []struct {
		addr string
		want bool
	}{
		{"198.51.100.9", true},
		{"203.0.113.77", true},
		{"192.0.2.1", true},
		{"192.0.2.2", false},
		{"203.0.114.1", true},
		{"203.0.114.2", false},
		{"2001:db8:9:9::1", true},
		{"2001:db8:9:9::2", true}, // our own home network
		{"2001:db8:9:a::2", false},
		{"127.0.0.1", false}, // Never replaces the built-in list
	} {
		g.Observe(ip(tt.addr), Junk, t0)
		if got := !g.Banned(ip(tt.addr), t0); got != tt.want {
			t.Errorf("%s: spared = %v, want %v", tt.addr, got, tt.want)
		}
		if err := g.Ban(ip(tt.addr), time.Hour, "", t0); errors.Is(err, ErrSpared) != tt.want {
			t.Errorf("%s: ban by hand: %v, want spared = %v", tt.addr, err, tt.want)
		}
	}

	// A neighbour in the same /64 network is banned; the spared one is not.
	g.Observe(ip("2001:db8:1:2::6"), Junk, t0)
	if !g.Banned(ip("2001:db8:1:2::6"), t0) || g.Banned(ip("2001:db8:1:2::5"), t0) {
		t.Error("a /64 network with a spared address in it: want the others banned, not that one")
	}
	if v := g.AllowConn(ip("2001:db8:1:2::5"), t0); !v.Allowed {
		t.Errorf("AllowConn of the spared one = %+v", v)
	}

	// What is spared later is let in at once.
	cfg.Allow = append(cfg.Allow, prefixes("192.0.2.2/32")...)
	g.Reconfigure(cfg)
	if g.Banned(ip("192.0.2.2"), t0) {
		t.Error("banned although allowed since")
	}
	// The zero address (a unix socket) is nobody's.
	g.Observe(netip.Addr{}, Junk, t0)
	if v := g.AllowConn(netip.Addr{}, t0); !v.Allowed {
		t.Errorf("AllowConn of the zero address = %+v", v)
	}
	g.ConnClosed(netip.Addr{})
}

func TestEscalation(t *testing.T) {
	g := New(Config{})
	addr := ip("203.0.113.7")
	now := t0
	between := func(low, high time.Duration) time.Duration {
		t.Helper()
		g.Observe(addr, Junk, now)
		b := g.Bans(now)
		if len(b) != 1 {
			t.Fatalf("%d bans, want 1", len(b))
		}
		d := b[0].Until.Sub(now)
		if d < low || d > high {
			t.Errorf("ban of %s after %d others, want %s to %s", d, b[0].Past, low, high)
		}
		return d
	}
	now = now.Add(between(8*time.Minute, 12*time.Minute))
	if g.Banned(addr, now) {
		t.Error("banned at the end of the ban")
	}
	now = now.Add(between(48*time.Minute, 72*time.Minute))
	now = now.Add(between(19*time.Hour, 24*time.Hour))
	now = now.Add(between(19*time.Hour, 24*time.Hour))
	// 6 quiet days are not enough, 7 are.
	now = now.Add(6 * 24 * time.Hour)
	now = now.Add(between(19*time.Hour, 24*time.Hour))
	now = now.Add(7*24*time.Hour + time.Second)
	between(8*time.Minute, 12*time.Minute)
}

func TestBanTime(t *testing.T) {
	const m, h = time.Minute, time.Hour
	for _, tt := range []struct {
		first, longest time.Duration
		past           int
		chance         float64
		want           time.Duration
	}{
		{10 * m, 24 * h, 0, 0, 8 * m},
		{10 * m, 24 * h, 0, 0.5, 10 * m},
		{10 * m, 24 * h, 1, 0.5, h},
		{10 * m, 24 * h, 2, 0.5, 24 * h},
		{10 * m, 24 * h, 2, 0.999, 24 * h},
		{10 * m, 24 * h, 99, 0, 24 * h * 8 / 10},
		{10 * m, 30 * m, 1, 0.5, 30 * m},
		{24 * h, 24 * h, 0, 0.75, 24 * h},
	} {
		if got := banTime(tt.first, tt.longest, tt.past, tt.chance); got.Round(time.Second) != tt.want {
			t.Errorf("banTime(%s, %s, %d, %v) = %s, want %s", tt.first, tt.longest, tt.past, tt.chance, got, tt.want)
		}
	}
}

func TestBanRecord(t *testing.T) {
	var told []Ban
	g := New(Config{OnBan: func(b Ban) { told = append(told, b) }})
	addr := ip("2001:db8:1:2::7")
	g.Observe(addr, NoRoute, t0)
	g.Observe(addr, NoRoute, t0.Add(10*time.Second))
	g.Observe(addr, NoRoute, t0.Add(20*time.Second))
	g.Observe(addr, UnknownHost, t0.Add(30*time.Second))
	g.Observe(addr, NoRoute, t0.Add(40*time.Second)) // while banned: counted, no second ban
	want := Ban{
		Prefix:  netip.MustParsePrefix("2001:db8:1:2::/64"),
		Reason:  "no_route",
		Since:   t0.Add(30 * time.Second),
		First:   t0,
		Last:    t0.Add(30 * time.Second),
		Signals: []SignalCount{{UnknownHost, 1}, {NoRoute, 3}},
		Drop:    true,
	}
	near := cmpopts.EquateApproxTime(time.Second / 8)
	opts := cmp.Options{near, cmpopts.IgnoreFields(Ban{}, "Until"), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}
	if diff := cmp.Diff([]Ban{want}, told, opts); diff != "" {
		t.Errorf("OnBan got (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Ban{want}, g.Bans(t0.Add(50*time.Second)), opts); diff != "" {
		t.Errorf("Bans (-want +got):\n%s", diff)
	}

	// What is done over connections from before the ban adds to its record.
	g.Observe(addr, Junk, t0.Add(60*time.Second))
	want.Last = t0.Add(60 * time.Second)
	want.Signals = []SignalCount{{Junk, 1}, {UnknownHost, 1}, {NoRoute, 4}}
	if diff := cmp.Diff([]Ban{want}, g.Bans(t0.Add(70*time.Second)), opts); diff != "" {
		t.Errorf("Bans after more (-want +got):\n%s", diff)
	}
	if len(told) != 1 {
		t.Errorf("OnBan called %d times, want once", len(told))
	}
}

func TestManualBan(t *testing.T) {
	g := New(Config{OnBan: func(b Ban) { t.Errorf("OnBan(%+v) for a ban by hand", b) }})
	addr := ip("203.0.113.7")
	for _, ttl := range []time.Duration{0, -time.Hour, 11 * 365 * 24 * time.Hour} {
		if err := g.Ban(addr, ttl, "", t0); err == nil {
			t.Errorf("ban for %s: got nil, want an error", ttl)
		}
	}
	if err := g.Ban(addr, time.Hour, "was rude", t0); err != nil {
		t.Fatal(err)
	}
	b := g.Bans(t0)
	if len(b) != 1 || b[0].Reason != "manual" || b[0].Note != "was rude" || !b[0].Until.Equal(t0.Add(time.Hour)) || !b[0].First.IsZero() {
		t.Errorf("Bans = %+v", b)
	}
	if !g.Unban(addr, t0) || g.Banned(addr, t0) {
		t.Error("still banned after Unban")
	}
	if g.Unban(addr, t0) {
		t.Error("Unban of one who is not banned said yes")
	}
	// Unban forgets the score and the past.
	for range 4 {
		g.Observe(addr, NoRoute, t0)
	}
	g.Unban(addr, t0)
	g.Observe(addr, NoRoute, t0)
	if g.Banned(addr, t0) {
		t.Error("score was kept by Unban")
	}
}

func TestModes(t *testing.T) {
	addr := ip("203.0.113.7")
	reg := prometheus.NewPedanticRegistry()
	cfg := Config{Mode: Detect, PerAddress: 1, Connections: 3, Metrics: reg}
	g := New(cfg)
	g.Observe(addr, Junk, t0)
	if b := g.Bans(t0); len(b) != 1 || !b[0].Trial {
		t.Errorf("detect: Bans = %+v, want one on trial", b)
	}
	if g.Banned(addr, t0) {
		t.Error("detect: banned")
	}
	check := func(what string, got, want Verdict) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %+v, want %+v", what, got, want)
		}
	}
	other := ip("203.0.113.8")
	check("detect, banned", g.AllowConn(addr, t0), Verdict{true, true, Banned})
	check("detect, banned request", g.AllowRequest(addr, t0), Verdict{true, true, Banned})
	check("detect", g.AllowConn(other, t0), Verdict{true, false, None})
	check("detect, over the cap", g.AllowConn(other, t0), Verdict{true, true, AddressConnections})
	check("detect, over the total", g.AllowConn(other, t0), Verdict{false, false, TotalConnections})
	check("detect, banned, over the total", g.AllowConn(addr, t0), Verdict{false, false, TotalConnections})

	// Nobody agreed to the trial bans, so they go; the connections stay.
	cfg.Mode = Enforce
	g.Reconfigure(cfg)
	if b := g.Bans(t0); len(b) != 0 {
		t.Errorf("after detect: Bans = %+v, want none", b)
	}
	check("enforce, over the total", g.AllowConn(ip("203.0.113.9"), t0), Verdict{false, false, TotalConnections})
	g.ConnClosed(addr)
	check("enforce, over the cap", g.AllowConn(other, t0), Verdict{false, false, AddressConnections})
	g.Observe(addr, Junk, t0)
	check("enforce, banned", g.AllowConn(addr, t0), Verdict{false, false, Banned})
	check("enforce, banned request", g.AllowRequest(addr, t0), Verdict{false, false, Banned})
	if b := g.Bans(t0); len(b) != 1 || b[0].Past != 0 {
		t.Errorf("Bans = %+v, want one without a past", b)
	}

	cfg.Mode = Off
	g.Reconfigure(cfg)
	check("off, banned before", g.AllowConn(addr, t0), Verdict{true, false, None})
	check("off, banned request", g.AllowRequest(addr, t0), Verdict{true, false, None})
	check("off, over the total", g.AllowConn(other, t0), Verdict{false, false, TotalConnections})
	g.Observe(ip("203.0.113.9"), Junk, t0)
	if len(g.Bans(t0)) != 1 {
		t.Error("off: banned somebody")
	}

	if got, err := testutil.GatherAndLint(reg); err != nil || len(got) > 0 {
		t.Errorf("lint: %v, %v", got, err)
	}
	const want = `
# HELP postern_guard_verdicts_total Decisions about connections and requests, by what spoke against them and whether they were let in.
# TYPE postern_guard_verdicts_total counter
postern_guard_verdicts_total{effect="allowed",layer="connection",reason="none"} 2
postern_guard_verdicts_total{effect="allowed",layer="request",reason="none"} 1
postern_guard_verdicts_total{effect="refused",layer="connection",reason="address_connections"} 1
postern_guard_verdicts_total{effect="refused",layer="connection",reason="address_rate"} 0
postern_guard_verdicts_total{effect="refused",layer="connection",reason="banned"} 1
postern_guard_verdicts_total{effect="refused",layer="connection",reason="listed"} 0
postern_guard_verdicts_total{effect="refused",layer="connection",reason="total_connections"} 4
postern_guard_verdicts_total{effect="refused",layer="request",reason="address_requests"} 0
postern_guard_verdicts_total{effect="refused",layer="request",reason="banned"} 1
postern_guard_verdicts_total{effect="refused",layer="request",reason="listed"} 0
postern_guard_verdicts_total{effect="would_refuse",layer="connection",reason="address_connections"} 1
postern_guard_verdicts_total{effect="would_refuse",layer="connection",reason="address_rate"} 0
postern_guard_verdicts_total{effect="would_refuse",layer="connection",reason="banned"} 1
postern_guard_verdicts_total{effect="would_refuse",layer="connection",reason="listed"} 0
postern_guard_verdicts_total{effect="would_refuse",layer="connection",reason="total_connections"} 0
postern_guard_verdicts_total{effect="would_refuse",layer="request",reason="address_requests"} 0
postern_guard_verdicts_total{effect="would_refuse",layer="request",reason="banned"} 1
postern_guard_verdicts_total{effect="would_refuse",layer="request",reason="listed"} 0
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "postern_guard_verdicts_total"); err != nil {
		t.Error(err)
	}
}

func TestConnectionCaps(t *testing.T) {
	g := New(Config{Connections: 10, PerAddress: 3})
	a, lan := ip("2001:db8:1:2::1"), ip("192.168.1.5")
	for i := range 3 {
		if v := g.AllowConn(netip.AddrFrom16(withLast(a, byte(i))), t0); !v.Allowed {
			t.Errorf("connection %d of a /64 network: %+v", i, v)
		}
	}
	if v := g.AllowConn(a, t0); v.Allowed || v.Reason != AddressConnections {
		t.Errorf("fourth connection of a /64 network: %+v", v)
	}
	for i := range 7 {
		if v := g.AllowConn(lan, t0); !v.Allowed {
			t.Errorf("connection %d of a spared address: %+v", i, v)
		}
	}
	if v := g.AllowConn(lan, t0); v.Allowed || v.Reason != TotalConnections {
		t.Errorf("eleventh connection: %+v", v)
	}
	g.ConnClosed(ip("198.51.100.1")) // never opened
	g.ConnClosed(a)
	if v := g.AllowConn(a, t0); !v.Allowed {
		t.Errorf("after one closed: %+v", v)
	}
	g.Reconfigure(Config{Connections: 1000, PerAddress: -1, Accepts: Rate{-1, 0}})
	for i := range 990 {
		if v := g.AllowConn(a, t0); !v.Allowed {
			t.Fatalf("connection %d without a cap: %+v", i, v)
		}
	}
	for range 993 {
		g.ConnClosed(a)
	}
	for range 7 {
		g.ConnClosed(lan)
	}
	if n := g.conns.count(); n != 0 {
		t.Errorf("%d connections open, want 0", n)
	}
}

func withLast(a netip.Addr, last byte) [16]byte {
	b := a.As16()
	b[15] = last
	return b
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	g := New(Config{Metrics: reg, NetworkBans: -1})
	for s := range Signal(numSignals) {
		g.Observe(v4(int(s)), s, time.Now())
	}
	g.Observe(v4(0), Signal(numSignals), time.Now()) // out of the set: ignored
	if err := g.Ban(v4(100), time.Hour, "", time.Now()); err != nil {
		t.Fatal(err)
	}
	g.AllowConn(v4(101), time.Now())
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	const want = `
# HELP postern_guard_bans Addresses and networks that are banned at present.
# TYPE postern_guard_bans gauge
postern_guard_bans 6
# HELP postern_guard_connections Connections that are open at present.
# TYPE postern_guard_connections gauge
postern_guard_connections 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "postern_guard_bans", "postern_guard_connections"); err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(reg, "postern_guard_signals_total"); err != nil || n != numSignals {
		t.Errorf("%d signal series, %v, want %d", n, err, numSignals)
	}
	if n, err := testutil.GatherAndCount(reg, "postern_guard_bans_total"); err != nil || n != numSignals+2 {
		t.Errorf("%d ban series, %v, want %d", n, err, numSignals+2)
	}
}

// The package comment holds the table of weights that people read.
func TestWeightsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	weights := DefaultWeights()
	if len(weights) != numSignals {
		t.Errorf("%d weights, want one for each of %d signals", len(weights), numSignals)
	}
	found := map[string]bool{}
	for line := range strings.Lines(string(doc)) {
		f := strings.Fields(strings.TrimPrefix(line, "//"))
		if len(f) < 3 {
			continue
		}
		if s, ok := SignalNamed(f[0]); ok {
			found[f[0]] = f[1] == fmt.Sprint(weights[s])
		}
	}
	for s := range Signal(numSignals) {
		if !found[s.String()] {
			t.Errorf("doc.go: no line that says %s costs %v", s, weights[s])
		}
	}
}

func TestNames(t *testing.T) {
	seen := []string{}
	for s := range Signal(numSignals) {
		seen = append(seen, s.String())
		if got, ok := SignalNamed(s.String()); !ok || got != s {
			t.Errorf("SignalNamed(%q) = %v, %v", s.String(), got, ok)
		}
	}
	slices.Sort(seen)
	if len(slices.Compact(seen)) != numSignals || slices.Contains(seen, "") {
		t.Errorf("names %v, want %d distinct ones", seen, numSignals)
	}
	for _, m := range []struct {
		name string
		want Mode
		ok   bool
	}{{"enforce", Enforce, true}, {"detect", Detect, true}, {"off", Off, true}, {"", Enforce, false}} {
		if got, err := ParseMode(m.name); got != m.want || (err == nil) != m.ok {
			t.Errorf("ParseMode(%q) = %v, %v", m.name, got, err)
		}
	}
	if Signal(200).String() != "unknown" || Reason(200).String() != "unknown" || Protocol(200).String() != "unknown" {
		t.Error("a value out of its set has a name of its own")
	}
}
