package guard

import (
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestNetworkKeys(t *testing.T) {
	for _, tt := range []struct{ addr, net string }{
		{"203.0.113.7", "203.0.113.0/24"},
		{"0.0.0.1", "0.0.0.0/24"},
		{"255.255.255.255", "255.255.255.0/24"},
		{"2001:db8:1:2::7", "2001:db8:1::/48"},
		{"2001:db8:1::7", "2001:db8:1::/48"},
		{"ffff:ffff:ffff:ffff::1", "ffff:ffff:ffff::/48"},
	} {
		k := keyOf(ip(tt.addr))
		net := k.network()
		if got := net.prefix().String(); got != tt.net || !net.isNetwork() || k.isNetwork() || net.network() != net {
			t.Errorf("%s: neighbourhood %s, want %s", tt.addr, got, tt.net)
		}
		if back, ok := keyOfPrefix(netip.MustParsePrefix(tt.net)); !ok || back != net {
			t.Errorf("%s: key %x, %v, want %x", tt.net, back, ok, net)
		}
	}
	for _, p := range []string{"203.0.113.0/25", "10.0.0.0/8", "2001:db8::/47", "2001:db8::1/128", "0.0.0.0/0", "203.0.113.7/24"} {
		if _, ok := keyOfPrefix(netip.MustParsePrefix(p)); ok {
			t.Errorf("%s is taken", p)
		}
	}
}

// Five of a neighbourhood are a ban of the whole; one that comes again, or
// five over a day, are not.
func TestNeighbourhood(t *testing.T) {
	in := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}) }
	in6 := func(i int) netip.Addr {
		a := ip("2001:db8:5::").As16()
		a[7] = byte(i)
		return netip.AddrFrom16(a)
	}
	other := map[bool]netip.Addr{false: ip("203.0.114.1"), true: ip("2001:db8:6::1")}
	for _, tt := range []struct {
		name  string
		cfg   Config
		addrs int
		gap   time.Duration
		setup func(*Guard)
		v6    bool
		want  bool
	}{
		{"four", Config{}, 4, time.Minute, nil, false, false},
		{"five", Config{}, 5, time.Minute, nil, false, true},
		{"five of a /48", Config{}, 5, time.Minute, nil, true, true},
		{"five within two hours", Config{}, 5, 29 * time.Minute, nil, false, true},
		{"five in a day", Config{}, 5, 5 * time.Hour, nil, false, false},
		{"two where two are enough", Config{NetworkBans: 2}, 2, time.Second, nil, false, true},
		{"never", Config{NetworkBans: -1}, 50, time.Second, nil, false, false},
		{"one of ours in it", Config{}, 50, time.Second, func(g *Guard) { g.SetOwn([]netip.Addr{ip("203.0.113.200")}) }, false, false},
		{"one that is allowed in it", Config{Allow: prefixes("203.0.113.128/25")}, 50, time.Second, nil, false, false},
		{"of AWS", Config{}, 50, time.Second, func(g *Guard) { g.SetShared(func(a netip.Addr) bool { return a.Is4() }) }, false, false},
		{"on trial", Config{Mode: Detect}, 5, time.Second, nil, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := New(tt.cfg)
			if tt.setup != nil {
				tt.setup(g)
			}
			now := t0
			addr := in
			if tt.v6 {
				addr = in6
			}
			for i := range tt.addrs {
				if i > 0 {
					now = now.Add(tt.gap)
				}
				g.Observe(addr(1+i), Scanner, now)
				g.Observe(addr(1+i), Scanner, now) // banned already: no second count
			}
			if got := g.Banned(addr(100), now); got != tt.want {
				t.Errorf("a neighbour is banned: %v, want %v", got, tt.want)
			}
			if g.Banned(other[tt.v6], now) {
				t.Error("the next neighbourhood is banned")
			}
			nets := 0
			for _, b := range g.Bans(now) {
				if b.Reason == "network" {
					nets++
				}
			}
			if tt.cfg.Mode == Enforce && (nets == 1) != tt.want {
				t.Errorf("%d networks listed", nets)
			}
		})
	}
}

// A ban of a neighbourhood ends with a ban by hand taken back, and is kept
// over a restart.
func TestNeighbourhoodUnban(t *testing.T) {
	file := t.TempDir() + "/bans.json"
	g := New(Config{File: file, NetworkBans: 2})
	g.Observe(ip("203.0.113.1"), Junk, t0)
	g.Observe(ip("203.0.113.2"), Junk, t0)
	if !g.Banned(ip("203.0.113.9"), t0) {
		t.Fatal("no ban of the neighbourhood")
	}
	if err := g.save(t0); err != nil {
		t.Fatal(err)
	}
	again := New(Config{File: file})
	again.Load(t0)
	if !again.Banned(ip("203.0.113.9"), t0) || again.bans.networks.Load() != 1 {
		t.Error("not restored")
	}
	if !g.Unban(ip("203.0.113.9"), t0) {
		t.Error("nothing to end for a neighbour")
	}
	if g.Banned(ip("203.0.113.9"), t0) || !g.Banned(ip("203.0.113.1"), t0) {
		t.Error("the end of the neighbourhood's ban is not the end of it, or of more")
	}
	if g.bans.networks.Load() != 0 {
		t.Errorf("%d networks counted, want 0", g.bans.networks.Load())
	}
	if err := g.BanPrefix(netip.MustParsePrefix("203.0.113.0/24"), time.Hour, "", t0); err != nil || !g.Banned(ip("203.0.113.77"), t0) {
		t.Errorf("ban of a network by hand: %v", err)
	}
	if !g.UnbanPrefix(netip.MustParsePrefix("203.0.113.0/24"), t0) || g.Banned(ip("203.0.113.77"), t0) {
		t.Error("a network is not let in again")
	}
	for _, p := range []string{"203.0.113.0/25", "192.168.1.0/24"} {
		if err := g.BanPrefix(netip.MustParsePrefix(p), time.Hour, "", t0); err == nil {
			t.Errorf("%s was banned", p)
		}
	}
}

// Addresses that many share: short bans, by the request, never for the kernel.
func TestShared(t *testing.T) {
	var told []Event
	g := New(Config{OnEvent: func(e Event) { told = append(told, e) }})
	aws, other := ip("198.51.100.7"), ip("203.0.113.7")
	g.SetShared(func(a netip.Addr) bool { return a == aws })
	now := t0
	for i := range 4 { // the fourth ban of anybody else lasts a day
		g.Observe(aws, Scanner, now)
		g.Observe(other, Scanner, now)
		if !g.Banned(aws, now) || g.AllowRequest(aws, now).Allowed {
			t.Fatalf("ban %d: a stranger's request is let in", i)
		}
		if v := g.AllowConn(aws, now); !v.Allowed || v.Would {
			t.Errorf("ban %d: connection: %+v, want it let in", i, v)
		}
		if g.AllowConn(other, now).Allowed || !g.Cuts(other, now) || g.Cuts(aws, now) {
			t.Errorf("ban %d: an address of its own keeps its connection, or a shared one does not", i)
		}
		for _, b := range g.Bans(now) {
			if b.Prefix.Addr() == aws && (b.Until.Sub(b.Since) > 10*time.Minute || b.Drop) {
				t.Errorf("ban %d: %+v, want at most 10m and not for the kernel", i, b)
			}
		}
		if d := g.Drops(now); len(d) != 1 || d[0].Prefix.Addr() != other {
			t.Errorf("for the kernel: %+v", d)
		}
		if now = now.Add(10*time.Minute + time.Second); g.Banned(aws, now) {
			t.Errorf("ban %d lasts longer than 10 minutes", i)
		}
		now = now.Add(25 * time.Hour)
	}
	for _, e := range told {
		if e.Kind == EventBan && e.Ban.Prefix.Addr() == aws && e.Ban.Drop {
			t.Error("an event has the kernel drop a shared address")
		}
	}
	g.SetShared(nil)
	g.Observe(aws, Scanner, now)
	if g.AllowConn(aws, now).Allowed {
		t.Error("shared by nobody, and still let in")
	}
}

// What was shared before a restart is none of the kernel's after it.
func TestSharedAfterRestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bans.json")
	aws := ip("198.51.100.7")
	shared := func(a netip.Addr) bool { return a == aws }
	g := New(Config{File: file})
	g.SetShared(shared)
	g.Observe(aws, Scanner, time.Now())
	if err := g.save(time.Now()); err != nil {
		t.Fatal(err)
	}
	again := New(Config{File: file})
	again.SetShared(shared)
	again.Load(time.Now())
	if b := again.Bans(time.Now()); len(b) != 1 || b[0].Drop {
		t.Errorf("%+v", b)
	}
}

// A proxy that is named in trusted_proxies is no mask, and naming it ends one,
// as people are told: those behind it are told apart by what it says.
func TestTrustedProxyIsNoMask(t *testing.T) {
	proxy := ip("192.168.1.2")
	g := New(Config{Accepts: Rate{-1, 0}})
	connect := func() {
		for range 100 {
			if g.AllowConn(proxy, t0).Allowed {
				g.ConnClosed(proxy)
			}
		}
	}
	connect()
	g.Observe(proxy, Scanner, t0)
	if _, off := g.BansOff(); !off {
		t.Fatal("bans are on although all clients have one address")
	}
	g.Reconfigure(Config{Accepts: Rate{-1, 0}, TrustedProxies: prefixes("192.168.1.2/32")})
	connect()
	if _, off := g.BansOff(); off {
		t.Error("bans are off although the proxy is named")
	}
	g.Observe(proxy, Flood, t0)
	if _, off := g.BansOff(); off {
		t.Error("what a trusted proxy passes on switches bans off")
	}
	g.Observe(ip("203.0.113.9"), Scanner, t0)
	if !g.Banned(ip("203.0.113.9"), t0) {
		t.Error("a scanner behind the proxy is not banned")
	}
}

// Who proved who it is: nothing counts for an hour, and a ban does not cut the
// connection it would prove itself on again.
func TestTrust(t *testing.T) {
	g := New(Config{})
	a := ip("203.0.113.7")
	g.Authenticated(a, t0)
	for range 10 {
		g.Observe(a, Scanner, t0.Add(59*time.Minute))
	}
	if g.Banned(a, t0.Add(59*time.Minute)) || !g.Trusted(a, t0.Add(59*time.Minute)) {
		t.Error("banned while trusted")
	}
	if err := g.Ban(a, 10*time.Hour, "", t0); err != nil {
		t.Fatal(err)
	}
	if !g.AllowConn(a, t0).Allowed || g.AllowRequest(a, t0).Allowed || g.Cuts(a, t0) {
		t.Error("a banned address of a caller is not judged by the request")
	}
	late := t0.Add(61 * time.Minute)
	if g.AllowConn(a, late).Allowed || g.Trusted(a, late) || !g.Cuts(a, late) {
		t.Error("trusted after its time")
	}
	g.Observe(ip("203.0.113.8"), Scanner, t0)
	if !g.Banned(ip("203.0.113.8"), t0) {
		t.Error("trust of one spares another")
	}
	off := New(Config{Trust: -1})
	off.Authenticated(a, t0)
	if off.Observe(a, Scanner, t0); !off.Banned(a, t0) {
		t.Error("trusted although nobody is to be")
	}
}

// The table of trust against a map: nobody is trusted who should not be, and
// with room, nobody is forgotten.
func TestTrustAgainstModel(t *testing.T) {
	table := newTrust(1 << 12)
	model := map[key]int64{}
	now := int64(1)
	for i := range 20_000 {
		now += int64(i % 7)
		k := keyOf(v4(i * 7919 % 300))
		if i%3 == 0 {
			table.put(k, now+500)
			model[k] = now + 500
		}
		if got, want := table.has(k, now), model[k] > now; got != want {
			t.Fatalf("step %d: trusted = %v, want %v", i, got, want)
		}
	}
	// A flood of callers: the last is known, and nobody who never came.
	for i := range 100_000 {
		k := keyOf(v6(i))
		table.put(k, now+500)
		if !table.has(k, now) {
			t.Fatalf("caller %d is forgotten at once", i)
		}
	}
	if table.has(keyOf(v4(1<<20)), now) {
		t.Error("a stranger is trusted")
	}
}

func TestAccepts(t *testing.T) {
	var told []Event
	cfg := Config{Accepts: Rate{10, time.Second}, AcceptBurst: 20, PerAddress: -1, OnEvent: func(e Event) { told = append(told, e) }}
	g := New(cfg)
	a, lan := ip("203.0.113.7"), ip("192.168.1.7")
	refused := 0
	for range 50 {
		if v := g.AllowConn(a, t0); !v.Allowed {
			refused++
			if v.Reason != AddressRate {
				t.Fatalf("%+v", v)
			}
		}
		if v := g.AllowConn(lan, t0); !v.Allowed {
			t.Fatalf("spared, and refused: %+v", v)
		}
	}
	if refused != 30 {
		t.Errorf("%d of 50 refused, want 30", refused)
	}
	if len(told) != 1 || told[0].Kind != EventFlood || told[0].Rule != "handshakes" || told[0].Addr != a {
		t.Errorf("told %+v, want one flood", told)
	}
	g.Reconfigure(cfg) // keeps what is used up
	if g.AllowConn(a, t0).Allowed {
		t.Error("a reload gave it all back")
	}
	if !g.AllowConn(a, t0.Add(time.Second)).Allowed {
		t.Error("nothing is free a second later")
	}
	cfg.Mode = Detect
	g.Reconfigure(cfg)
	for range 50 {
		if v := g.AllowConn(a, t0.Add(time.Second)); !v.Allowed {
			t.Fatalf("detect refuses: %+v", v)
		}
	}
}

// A thousand functions that start within ten seconds, all behind one address:
// of callers that are known, and of AWS, where it is not known yet who calls.
func TestBurstOfCallers(t *testing.T) {
	const burst = 1000
	known, cloud, stranger := ip("203.0.113.7"), ip("203.0.113.8"), ip("203.0.113.9")
	for _, within := range []time.Duration{0, 10 * time.Second} {
		g := New(Config{Connections: 4 * burst})
		g.SetShared(func(a netip.Addr) bool { return a == cloud })
		g.Authenticated(known, t0)
		refused := map[netip.Addr]map[Reason]int{known: {}, cloud: {}, stranger: {}}
		for i := range burst {
			now := t0.Add(within * time.Duration(i) / burst)
			for _, a := range []netip.Addr{known, cloud, stranger} {
				if v := g.AllowConn(a, now); !v.Allowed {
					refused[a][v.Reason]++
				}
			}
		}
		if len(refused[known])+len(refused[cloud]) != 0 {
			t.Errorf("within %s: known callers refused %v, AWS %v, want none", within, refused[known], refused[cloud])
		}
		if n := refused[stranger][AddressConnections] + refused[stranger][AddressRate]; n != burst-64 {
			t.Errorf("within %s: %v of a stranger's %d refused, want all but 64", within, refused[stranger], burst)
		}
		if v := g.AllowConn(cloud, t0.Add(within)); v.Allowed || v.Reason != AddressConnections {
			t.Errorf("within %s: %+v for more than a quarter of all connections from one address of AWS", within, v)
		}
		if v := g.AllowConn(known, t0.Add(within)); !v.Allowed {
			t.Errorf("within %s: one more of a known caller: %+v", within, v)
		}
	}

	// The rate of a shared address is a bound too.
	g := New(Config{Connections: 1 << 16, PerAddress: -1})
	g.SetShared(func(a netip.Addr) bool { return a == cloud })
	allowed := 0
	for range 4 * burst {
		if g.AllowConn(cloud, t0).Allowed {
			allowed++
		}
	}
	if allowed < burst || allowed >= 4*burst {
		t.Errorf("%d connections at once from one address of AWS, want %d and a bound", allowed, burst)
	}
}

func TestRequestsUnderWay(t *testing.T) {
	g := New(Config{Requests: 3})
	a := ip("203.0.113.7")
	for range 3 {
		if v, counted := g.BeginRequest(a, t0); !v.Allowed || !counted {
			t.Fatalf("%+v, %v", v, counted)
		}
	}
	if v, counted := g.BeginRequest(a, t0); v.Allowed || counted || v.Reason != AddressRequests {
		t.Errorf("the fourth: %+v, %v", v, counted)
	}
	if v, _ := g.BeginRequest(ip("203.0.113.8"), t0); !v.Allowed {
		t.Errorf("another address: %+v", v)
	}
	g.EndRequest(a)
	if v, counted := g.BeginRequest(a, t0); !v.Allowed || !counted {
		t.Errorf("after one ended: %+v, %v", v, counted)
	}
	for range 10 {
		if v, _ := g.BeginRequest(ip("192.168.1.1"), t0); !v.Allowed {
			t.Fatalf("spared, and refused: %+v", v)
		}
	}
	g.Authenticated(a, t0)
	if v, _ := g.BeginRequest(a, t0); !v.Allowed {
		t.Errorf("a caller's address: %+v", v)
	}
	off := New(Config{Requests: -1})
	for range 1000 {
		if v, counted := off.BeginRequest(a, t0); !v.Allowed || counted {
			t.Fatalf("no bound: %+v, %v", v, counted)
		}
	}
}

func TestDecoy(t *testing.T) {
	g := New(Config{Decoys: []string{"/backup.zip"}})
	for path, want := range map[string]bool{"/backup.zip": true, "/backup.zip/": false, "/Backup.zip": false, "/": false, "": false} {
		if got := g.Decoy(path); got != want {
			t.Errorf("%q: %v, want %v", path, got, want)
		}
	}
	if New(Config{}).Decoy("/backup.zip") {
		t.Error("a decoy without any")
	}
}

// All clients come with one address: bans go off, loudly, and on again when
// clients of their own are seen.
func TestMasquerade(t *testing.T) {
	bridge, public := ip("172.17.0.1"), ip("203.0.113.7")
	for _, tt := range []struct {
		name  string
		cfg   Config
		first func(g *Guard)
		who   netip.Addr
		want  bool
	}{
		{"a bridge", Config{}, nil, bridge, true},
		{"a bridge that may be banned", Config{Never: prefixes()}, nil, bridge, true},
		{"a router's carrier address", Config{Never: prefixes()}, nil, ip("100.64.0.1"), true},
		{"rootless: loopback", Config{}, nil, ip("127.0.0.1"), true},
		{"loopback that may be banned is a test", Config{Never: prefixes()}, nil, ip("127.0.0.1"), false},
		{"one public client is one client", Config{}, nil, public, false},
		{"our own public address", Config{}, func(g *Guard) { g.SetOwn([]netip.Addr{public}) }, public, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var told []EventKind
			tt.cfg.OnEvent = func(e Event) { told = append(told, e.Kind) }
			tt.cfg.Accepts = Rate{-1, 0}
			g := New(tt.cfg)
			if tt.first != nil {
				tt.first(g)
			}
			connect := func(a netip.Addr, n int) {
				for range n {
					if g.AllowConn(a, t0).Allowed {
						g.ConnClosed(a)
					}
				}
			}
			connect(tt.who, 10)
			if _, off := g.BansOff(); off {
				t.Fatal("off after 10 connections")
			}
			connect(tt.who, 90)
			if _, off := g.BansOff(); off {
				t.Fatal("off without a sign of a stranger")
			}
			g.Observe(tt.who, Scanner, t0)
			addr, off := g.BansOff()
			if off != tt.want {
				t.Fatalf("off: %v, want %v", off, tt.want)
			}
			if !tt.want {
				return
			}
			if addr != tt.who || !slices.Contains(told, EventBansOff) || slices.Contains(told, EventBan) {
				t.Errorf("%s, told %v", addr, told)
			}
			for range 5 {
				g.Observe(tt.who, Junk, t0)
			}
			if g.Banned(tt.who, t0) || !g.AllowConn(tt.who, t0).Allowed {
				t.Error("banned although bans are off")
			}
			if err := g.Ban(public, time.Hour, "", t0); err == nil && len(g.Drops(t0)) > 0 {
				t.Error("the kernel is to drop while bans are off")
			}
			connect(ip("198.51.100.1"), 20)
			if _, off := g.BansOff(); off || !slices.Contains(told, EventBansOn) {
				t.Error("off although clients are told apart")
			}
		})
	}
}

// A house whose people come over the local network, beside clients from
// outside, has no mask, nor has one where several people come.
func TestNoMasquerade(t *testing.T) {
	for _, tt := range []struct {
		name  string
		addrs []string
	}{
		{"one outside among many inside", append(slices.Repeat([]string{"192.168.1.5"}, 50), "203.0.113.9")},
		{"three at home", []string{"192.168.1.5", "192.168.1.6", "192.168.1.7"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := New(Config{Accepts: Rate{-1, 0}})
			for range 20 {
				for _, text := range tt.addrs {
					if g.AllowConn(ip(text), t0).Allowed {
						g.ConnClosed(ip(text))
					}
				}
			}
			g.Observe(ip("192.168.1.5"), Scanner, t0)
			if _, off := g.BansOff(); off {
				t.Error("bans are off")
			}
		})
	}
}

func TestLimitHitsAreToldOnceAMinute(t *testing.T) {
	told := 0
	g := New(Config{OnEvent: func(Event) { told++ }})
	for i := range 1000 {
		g.LimitHit(LimitRate, v4(i), t0.Add(time.Duration(i)*100*time.Millisecond))
	}
	if told != 2 { // 100 s
		t.Errorf("told %d times in 100 s, want 2", told)
	}
	if n := testutil.ToFloat64(g.metrics.limits[LimitRate]); n != 1000 {
		t.Errorf("counted %v, want 1000", n)
	}
}
