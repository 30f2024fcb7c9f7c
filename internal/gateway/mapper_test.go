package gateway

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"postern/internal/testnet"
)

// rig is a client at a fake router. The client's time is told, and the
// router's clock goes along.
type rig struct {
	t       *testing.T
	r       *testnet.Router
	c       *Client
	ahead   time.Duration
	changes []Change
}

var threePorts = []Port{{"tcp", 443, 8443}, {"tcp", 80, 8080}, {"udp", 443, 8443}}

func newRig(t *testing.T, mode func(*testnet.RouterMode), change ...func(*Config)) *rig {
	t.Helper()
	g := &rig{t: t, r: testnet.NewRouter(t)}
	if mode != nil {
		g.r.Change(mode)
	}
	change = append(change, func(cfg *Config) { cfg.OnChange = func(ch Change) { g.changes = append(g.changes, ch) } })
	g.c = newClient(t, g.r, change...)
	if m := g.r.Mode(); !m.PCP && !m.NATPMP {
		g.c.cfg.Router.Port = 1 // where nobody is: the system says so at once, as most routers do
	}
	g.c.Set(Want{Ports: threePorts})
	return g
}

// after lets time pass and has the client do a round.
func (g *rig) after(d time.Duration) {
	g.t.Helper()
	g.r.Advance(d)
	g.ahead += d
	g.c.round(g.t.Context(), time.Now().Add(g.ahead))
}

// states is "443/tcp mapped by pcp, …".
func (g *rig) states() string {
	var out []string
	for _, m := range g.c.Status().Mappings {
		s := m.Port.String() + " " + string(m.State)
		if m.Protocol != "" {
			s += " by " + string(m.Protocol)
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

func (g *rig) wantStates(want string) {
	g.t.Helper()
	if got := g.states(); got != want {
		g.t.Errorf("got %s\nwant %s\nmappings %+v", got, want, g.c.Status().Mappings)
	}
}

func (g *rig) wantTable(n int) {
	g.t.Helper()
	if got := g.r.Table(); len(got) != n {
		g.t.Errorf("the router's table is %v, want %d entries", got, n)
	}
}

// told returns what OnChange was told since the last call.
func (g *rig) told() string {
	var out []string
	for _, ch := range g.changes {
		s := string(ch.What)
		if ch.Mapping.External != (netip.Addr{}) || ch.Mapping.Proto != "" {
			s += " " + ch.Mapping.Port.String()
		}
		out = append(out, s)
	}
	g.changes = nil
	return strings.Join(out, ", ")
}

func speak(pcp, pmp, upnp, igd2 bool) func(*testnet.RouterMode) {
	return func(m *testnet.RouterMode) { m.PCP, m.NATPMP, m.UPnP, m.IGD2 = pcp, pmp, upnp, igd2 }
}

// routers that speak one protocol each, as many homes have them.
var routers = []struct {
	name string
	mode func(*testnet.RouterMode)
	by   Protocol
}{
	{"PCP beside UPnP", speak(true, false, true, true), PCP},
	{"NAT-PMP beside UPnP", speak(false, true, true, true), NATPMP},
	{"UPnP 2", func(m *testnet.RouterMode) { m.PCP, m.Refuse = false, false; m.NATPMP = false }, UPnP},
	{"UPnP 1", func(m *testnet.RouterMode) { m.PCP, m.NATPMP, m.IGD2 = false, false, false }, UPnP},
}

// quick is for routers that are silent on one of their ports: each silence
// takes the whole timeout.
func quick(cfg *Config) { cfg.Timeout = 3 * time.Second }

func all(by Protocol) string {
	s := " mapped by " + string(by)
	return "443/tcp" + s + ", 80/tcp" + s + ", 443/udp" + s
}

func TestMappingIsKept(t *testing.T) {
	for _, tt := range routers {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newRig(t, tt.mode)
			g.after(0)
			g.wantStates(all(tt.by))
			if got := g.told(); got != "address, mapped 443/tcp, mapped 80/tcp, mapped 443/udp" {
				t.Errorf("told %s", got)
			}
			for _, m := range g.r.Table() {
				want := map[uint16]uint16{443: 8443, 80: 8080}[m.External]
				if m.Client != g.r.Addr || m.Internal != want || m.Lease != time.Hour {
					t.Errorf("the router has %+v, want port %d of %s for an hour", m, want, g.r.Addr)
				}
			}
			for range 3 {
				g.after(31 * time.Minute) // longer than a lease altogether
				g.wantTable(3)
			}
			g.r.Reboot()
			g.wantTable(0)
			g.after(time.Minute)
			g.wantTable(3)
			g.wantStates(all(tt.by))
			if got := g.told(); got != "" {
				t.Errorf("told %s, want nothing: all was well again before anybody could notice", got)
			}
			g.c.Set(Want{Ports: threePorts[:1]})
			g.after(time.Minute)
			g.wantTable(1)
			g.c.Set(Want{Ports: []Port{{"tcp", 443, 9443}}})
			g.after(time.Minute)
			if got := g.r.Table(); len(got) != 1 || got[0].Internal != 9443 {
				t.Errorf("the router has %v, want 443 at our new port alone", got)
			}
			g.c.leave(t.Context())
			g.wantTable(0)
			if got := g.told(); got != "not_wanted 80/tcp, not_wanted 443/udp, not_wanted 443/tcp" {
				t.Errorf("told %s", got)
			}
		})
	}
}

func TestConflict(t *testing.T) {
	for _, tt := range routers {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newRig(t, tt.mode)
			g.r.Give("tcp", 443, "192.168.1.7", 443, "camera\x1b[2J")
			g.after(0)
			s := " mapped by " + string(tt.by)
			g.wantStates("443/tcp conflict, 80/tcp" + s + ", 443/udp" + s)
			m := g.c.Status().Mappings[0]
			if m.Holder == nil || m.Holder.String() != "192.168.1.7:443 (camera?[2J)" && m.Holder.String() != "192.168.1.7:443 (camera�[2J)" {
				t.Errorf("the holder is %v, want the camera", m.Holder)
			}
			if strings.ContainsRune(m.Reason+m.Action(), 0x1b) {
				t.Errorf("%q or %q holds an escape character of the router", m.Reason, m.Action())
			}
			if got := g.told(); got != "address, not_mapped 443/tcp, mapped 80/tcp, mapped 443/udp" {
				t.Errorf("told %s", got)
			}
			g.after(time.Minute)
			g.wantTable(3) // the camera's is untouched
			if got := g.told(); got != "" {
				t.Errorf("told %s again", got)
			}
			g.r.Forget() // the camera is gone, and so is all else
			g.after(lastRetry)
			g.after(lastRetry)
			g.wantStates(all(tt.by))
			if got := g.told(); got != "mapped 443/tcp" {
				t.Errorf("told %s", got)
			}
		})
	}
}

func TestConflictThatNobodyNames(t *testing.T) {
	g := newRig(t, speak(true, true, false, false), quick)
	g.r.Give("tcp", 443, "192.168.1.7", 443, "camera")
	g.after(0)
	g.wantStates("443/tcp conflict, 80/tcp mapped by pcp, 443/udp mapped by pcp")
	if m := g.c.Status().Mappings[0]; m.Holder != nil || !strings.Contains(m.Action(), "who has 443/tcp") {
		t.Errorf("holder %v, action %q, want none known", m.Holder, m.Action())
	}
	g.wantTable(3)
}

// A mapping that the owner made by hand to us is as good as ours, and stays.
func TestMappedByHand(t *testing.T) {
	for _, tt := range routers {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newRig(t, tt.mode)
			g.r.Give("tcp", 443, "127.0.0.1", 8443, "web server")
			g.after(0)
			ms := g.c.Status().Mappings
			if ms[0].State != Mapped || !ms[0].ByHand || ms[1].ByHand {
				t.Errorf("got %+v, want 443/tcp mapped by hand, 80/tcp by us", ms[:2])
			}
			g.after(time.Hour)
			g.c.leave(t.Context())
			if got := g.r.Table(); len(got) != 1 || got[0].Description != "web server" {
				t.Errorf("the router has %v after we left, want what the owner made alone", got)
			}
		})
	}
}

func TestPermanentLeasesOnly(t *testing.T) {
	g := newRig(t, func(m *testnet.RouterMode) { m.PCP, m.NATPMP, m.PermanentOnly = false, false, true })
	g.after(0)
	g.wantStates(all(UPnP))
	for _, m := range g.c.Status().Mappings {
		if m.Lease != 0 || !m.Expires.IsZero() {
			t.Errorf("%s: lease %s until %s, want no end", m.Port, m.Lease, m.Expires)
		}
	}
	adds := g.r.Asked("AddPortMapping")
	g.after(100 * time.Hour)
	if got := g.r.Asked("AddPortMapping"); got != adds {
		t.Errorf("asked for %d mappings again that have no end", got-adds)
	}
	g.r.Forget()
	g.after(time.Minute)
	g.wantTable(3)
	g.c.leave(t.Context())
	g.wantTable(0)

	// What a crash left behind is ours: taken over, and removed in the end.
	again := newRig(t, func(m *testnet.RouterMode) { m.PCP, m.NATPMP, m.PermanentOnly = false, false, true })
	again.r.Give("tcp", 443, "127.0.0.1", 8443, ourName)
	again.after(0)
	again.c.leave(t.Context())
	again.wantTable(0)
}

func TestRefusedAndPretended(t *testing.T) {
	g := newRig(t, func(m *testnet.RouterMode) { m.Refuse = true })
	g.after(0)
	g.wantStates("443/tcp refused, 80/tcp refused, 443/udp refused")
	if m := g.c.Status().Mappings[0]; !strings.Contains(m.Reason, "not authorized") || !strings.Contains(m.Action(), "forward 443/tcp to 127.0.0.1 port 8443") {
		t.Errorf("reason %q, action %q", m.Reason, m.Action())
	}
	g.r.Change(func(m *testnet.RouterMode) { m.Refuse = false })
	g.after(firstRetry + time.Minute)
	g.wantStates(all(PCP))

	p := newRig(t, func(m *testnet.RouterMode) { m.PCP, m.NATPMP, m.Pretend = false, false, true }, quick)
	p.after(0)
	p.wantStates("443/tcp failed, 80/tcp failed, 443/udp failed")
	if m := p.c.Status().Mappings[0]; !strings.Contains(m.Reason, "has no such mapping") {
		t.Errorf("reason %q, want that the router did not do what it said", m.Reason)
	}
}

// A router that falls silent has not lost our mapping yet; when the lease is
// over that is told once, and so is its return.
func TestSilence(t *testing.T) {
	g := newRig(t, nil)
	g.after(0)
	g.wantStates(all(PCP))
	g.told()
	patient := g.c.cfg.Timeout
	g.c.cfg.Timeout = time.Second
	g.r.Change(func(m *testnet.RouterMode) { m.Hang = true })
	g.after(40 * time.Minute)
	g.wantStates(all(PCP))
	if got := g.told(); got != "silent" {
		t.Errorf("told %s", got)
	}
	g.after(21 * time.Minute)
	g.wantStates("443/tcp failed, 80/tcp failed, 443/udp failed")
	if got := g.told(); got != "lost 443/tcp, lost 80/tcp, lost 443/udp" {
		t.Errorf("told %s", got)
	}
	g.r.Change(func(m *testnet.RouterMode) { m.Hang = false })
	g.c.cfg.Timeout = patient
	g.after(lastRetry)
	g.wantStates(all(PCP))
	if got := g.told(); got != "back, mapped 443/tcp, mapped 80/tcp, mapped 443/udp" {
		t.Errorf("told %s", got)
	}
}

func TestNothingWanted(t *testing.T) {
	g := newRig(t, nil)
	g.c.Set(Want{})
	if next := g.c.round(t.Context(), time.Now()); !next.IsZero() {
		t.Errorf("wants to come again at %s, want never", next)
	}
	for _, what := range []string{"nat-pmp address", "pcp map", "ssdp"} {
		if n := g.r.Asked(what); n != 0 {
			t.Errorf("%s asked %d times, want never", what, n)
		}
	}
}

// The router knows our mappings by the secret of the file, also after a crash.
func TestSecretSurvives(t *testing.T) {
	file := filepath.Join(t.TempDir(), "gateway.json")
	r := testnet.NewRouter(t)
	r.Change(speak(true, false, false, false))
	states := func(file string) string {
		g := &rig{t: t, r: r}
		g.c = newClient(t, r, quick, func(cfg *Config) { cfg.File = file })
		g.c.Set(Want{Ports: threePorts[:1]})
		g.after(0)
		return g.states()
	}
	if got := states(file); got != "443/tcp mapped by pcp" {
		t.Fatal(got)
	}
	if got := states(file); got != "443/tcp mapped by pcp" {
		t.Errorf("after a crash: %s", got)
	}
	if got := states(filepath.Join(t.TempDir(), "other.json")); got != "443/tcp refused" {
		t.Errorf("with another secret: %s, want it refused: the mapping is somebody else's", got)
	}
}

func TestPCPWithoutOptions(t *testing.T) {
	g := newRig(t, func(m *testnet.RouterMode) { m.NoOptions = true })
	g.r.Give("udp", 443, "192.168.1.7", 443, "camera")
	g.after(0)
	g.wantStates("443/tcp mapped by pcp, 80/tcp mapped by pcp, 443/udp conflict")
	g.wantTable(3)
}

func TestShortLeases(t *testing.T) {
	g := newRig(t, func(m *testnet.RouterMode) { m.MaxLease = 2 * time.Minute })
	g.after(0)
	now := time.Now().Add(g.ahead)
	if at := wakeAt(g.c.talk.entries, now.Add(time.Hour)); at.After(now.Add(time.Minute)) || at.Before(now.Add(50*time.Second)) {
		t.Errorf("comes again in %s, want half of the 2 minutes granted", at.Sub(now))
	}
	g.after(time.Minute)
	g.after(time.Minute)
	g.wantTable(3)
}

func TestPinholes(t *testing.T) {
	me := netip.IPv6Loopback()
	for _, tt := range []struct {
		name string
		mode func(*testnet.RouterMode)
		by   Protocol
	}{
		{"PCP", nil, PCP},
		{"UPnP", speak(false, true, true, true), UPnP},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newRig(t, tt.mode, quick)
			if !g.r.Addr6.IsValid() {
				t.Skip("this machine has no IPv6")
			}
			g.c.cfg.Router.Local6, g.c.cfg.Router.SSDP6 = []netip.Addr{me}, g.r.SSDP6
			g.c.Set(Want{Ports: threePorts[:1]})
			g.after(0)
			six := func() (Mapping, testnet.RouterMapping) {
				t.Helper()
				ms, table := g.c.Status().Mappings, g.r.Table()
				at := slices.IndexFunc(table, func(m testnet.RouterMapping) bool { return m.Client.Is6() })
				if len(ms) != 2 || at < 0 {
					t.Fatalf("got %+v, the router has %v, want a mapping and a pinhole", ms, table)
				}
				return ms[1], table[at]
			}
			m, has := six()
			if !m.IsPinhole() || m.State != Mapped || m.Protocol != tt.by || has.Client != me || has.Internal != 8443 || has.External != 8443 {
				t.Errorf("got %+v, the router has %v, want our own port open by %s", m, has, tt.by)
			}
			g.after(31 * time.Minute)
			g.after(31 * time.Minute)
			six()
			g.r.Reboot()
			g.after(time.Minute)
			six()
			g.c.leave(t.Context())
			g.wantTable(0)
		})
	}
}

// What a device says must not lead us anywhere but to the router.
func TestElsewhere(t *testing.T) {
	var visits atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { visits.Add(1) }))
	defer elsewhere.Close()
	// The same server by another loopback address, which is not the router's.
	u := strings.Replace(elsewhere.URL, "127.0.0.1", "127.0.0.2", 1)
	for name, mode := range map[string]func(*testnet.RouterMode){
		"location":         func(m *testnet.RouterMode) { m.Location = u + "/rootDesc.xml" },
		"location by name": func(m *testnet.RouterMode) { m.Location = strings.Replace(elsewhere.URL, "127.0.0.1", "localhost", 1) },
		"location file":    func(m *testnet.RouterMode) { m.Location = "file:///etc/passwd" },
		"control":          func(m *testnet.RouterMode) { m.Control = u + "/ctl" },
		"redirect":         func(m *testnet.RouterMode) { m.Redirect = u },
		"redirect here":    func(m *testnet.RouterMode) { m.Redirect = elsewhere.URL },
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, func(m *testnet.RouterMode) {
				m.PCP, m.NATPMP = false, false
				mode(m)
			}, impatient)
			if a, err := g.c.PublicAddr(t.Context()); err == nil {
				t.Errorf("got %+v from a router that sends us elsewhere", a)
			}
		})
	}
	if n := visits.Load(); n != 0 {
		t.Errorf("%d requests went elsewhere, want none", n)
	}
}

// Run hears of a change at once, and gives everything back in the end.
func TestRun(t *testing.T) {
	r := testnet.NewRouter(t)
	changes, at := make(chan Change, 100), make(chan string, 1)
	c := newClient(t, r, func(cfg *Config) {
		cfg.Poll = time.Hour // so that only an announcement can tell in time
		cfg.OnChange = func(ch Change) { changes <- ch }
	})
	c.listening = func(addr string) { at <- addr }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	next := func(want What) Change {
		t.Helper()
		for {
			select {
			case ch := <-changes:
				if ch.What == want {
					return ch
				}
			case <-time.After(time.Minute):
				t.Fatalf("nothing like %q happened within a minute", want)
			}
		}
	}
	c.Set(Want{Ports: threePorts[:1]})
	next(MappingMade)
	addr := <-at
	for _, wan := range []string{"203.0.113.99", "203.0.113.100", "203.0.113.101"} { // too soon after each other
		r.Change(func(m *testnet.RouterMode) { m.WAN = netip.MustParseAddr(wan) })
		if err := r.Announce(addr); err != nil {
			t.Fatal(err)
		}
		if ch := next(AddressChanged); ch.Answer.Addr.String() != wan {
			t.Errorf("told of %s, want %s", ch.Answer.Addr, wan)
		}
	}
	c.Set(Want{})
	next(MappingRemoved)
	c.Set(Want{Ports: threePorts[:1]})
	next(MappingMade)
	cancel()
	next(MappingRemoved)
	if err := <-done; err != nil {
		t.Errorf("Run returned %v", err)
	}
	if got := r.Table(); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
	if s := c.Status(); s.Running || len(s.Mappings) != 0 {
		t.Errorf("status after the end: %+v", s)
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	g := newRig(t, nil, func(cfg *Config) { cfg.Registerer = reg })
	g.r.Give("tcp", 80, "192.168.1.7", 80, "camera")
	g.after(0)
	g.r.Reboot()
	g.after(time.Minute)
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	for _, tt := range []struct {
		got  float64
		want float64
		what string
	}{
		{testutil.ToFloat64(g.c.metrics.restarts), 1, "restarts"},
		{testutil.ToFloat64(g.c.metrics.ports.WithLabelValues("ipv4", "mapped")), 3, "mapped"},
		{testutil.ToFloat64(g.c.metrics.ports.WithLabelValues("ipv4", "conflict")), 0, "conflicts after the camera's mapping went with the restart"},
		{testutil.ToFloat64(g.c.metrics.kind.WithLabelValues("public")), 1, "public"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.what, tt.got, tt.want)
		}
	}
}
