package gateway

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"postern/internal/testnet"
)

// at points a Config at a fake router.
func at(r *testnet.Router) Router {
	return Router{
		Gateway: r.Addr, Port: r.Port, SSDP: r.SSDP,
		Gateway6: netip.IPv6Loopback(), Local6: []netip.Addr{},
		Announce: netip.MustParseAddrPort("127.0.0.1:0"),
	}
}

func newClient(t *testing.T, r *testnet.Router, change ...func(*Config)) *Client {
	t.Helper()
	cfg := Config{Router: at(r), Timeout: 30 * time.Second, Registerer: prometheus.NewPedanticRegistry()}
	for _, f := range change {
		f(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// impatient is for tests in which somebody does not answer.
func impatient(cfg *Config) { cfg.Timeout = 300 * time.Millisecond }

func TestPublicAddr(t *testing.T) {
	speak := func(pcp, pmp, upnp bool) func(*testnet.RouterMode) {
		return func(m *testnet.RouterMode) { m.PCP, m.NATPMP, m.UPnP = pcp, pmp, upnp }
	}
	wan := func(s string) func(*testnet.RouterMode) {
		return func(m *testnet.RouterMode) { m.WAN = netip.MustParseAddr(s) }
	}
	tests := []struct {
		name     string
		mode     func(*testnet.RouterMode)
		addr     string
		protocol Protocol
		kind     Kind
	}{
		{"everything", speak(true, true, true), "203.0.113.7", NATPMP, Public},
		{"PCP alone", speak(true, false, false), "203.0.113.7", PCP, Public},
		{"NAT-PMP alone", speak(false, true, false), "203.0.113.7", NATPMP, Public},
		{"UPnP beside a PCP that refuses", func(m *testnet.RouterMode) { m.NATPMP, m.Refuse = false, true }, "203.0.113.7", UPnP, Public},
		{"UPnP 1 beside a PCP that refuses", func(m *testnet.RouterMode) { m.NATPMP, m.Refuse, m.IGD2 = false, true, false }, "203.0.113.7", UPnP, Public},
		{"carrier NAT", wan("100.72.1.2"), "100.72.1.2", NATPMP, CarrierNAT},
		{"double NAT", wan("192.168.0.10"), "192.168.0.10", NATPMP, DoubleNAT},
		{"a lie", func(m *testnet.RouterMode) { m.Tell = netip.MustParseAddr("198.51.100.9") }, "198.51.100.9", NATPMP, Public},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := testnet.NewRouter(t)
			r.Change(tt.mode)
			c := newClient(t, r)
			for range 2 { // the second time by what is known
				a, err := c.PublicAddr(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if a.Addr.String() != tt.addr || a.Protocol != tt.protocol || a.Kind != tt.kind || a.Gateway != r.Addr {
					t.Errorf("got %+v, want %s by %s, %s", a, tt.addr, tt.protocol, tt.kind)
				}
			}
			if got := r.Table(); len(got) != 0 {
				t.Errorf("asking left mappings behind: %v", got)
			}
			if tt.protocol == UPnP && r.Asked("ssdp") > 2 {
				t.Errorf("searched %d times, want once with two targets", r.Asked("ssdp"))
			}
		})
	}
}

func TestUPnPAlone(t *testing.T) {
	r := testnet.NewRouter(t)
	r.Change(func(m *testnet.RouterMode) { m.PCP, m.NATPMP = false, false })
	c := newClient(t, r, func(cfg *Config) { cfg.Timeout = 5 * time.Second })
	a, err := c.PublicAddr(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if a.Protocol != UPnP || a.Router != "testnet Fake 3000" {
		t.Errorf("got %s by %q, want UPnP by testnet Fake 3000", a.Protocol, a.Router)
	}
}

func TestPublicAddrErrors(t *testing.T) {
	tests := []struct {
		name string
		mode func(*testnet.RouterMode)
		want error
		cfg  func(*Config)
	}{
		{"speaks nothing", func(m *testnet.RouterMode) { m.PCP, m.NATPMP, m.UPnP = false, false, false }, ErrSilent, impatient},
		{"hangs", func(m *testnet.RouterMode) { m.Hang = true }, ErrSilent, impatient},
		{"its line is down", func(m *testnet.RouterMode) { m.WAN = netip.Addr{} }, ErrNoWAN, func(*Config) {}},
		{"sends garbage", func(m *testnet.RouterMode) { m.Garbage = []byte("\x00\x80 SSH-2.0-dropbear") }, ErrSilent, impatient},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := testnet.NewRouter(t)
			r.Change(tt.mode)
			c := newClient(t, r, tt.cfg)
			a, err := c.PublicAddr(t.Context())
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, %v, want %v", a, err, tt.want)
			}
			if s := c.Status(); s.Err == nil || s.Asked.IsZero() || s.Answer != nil {
				t.Errorf("status %+v, want the error and no answer", s)
			}
		})
	}
}

func TestPublicAddrEndsWithItsContext(t *testing.T) {
	r := testnet.NewRouter(t)
	r.Change(func(m *testnet.RouterMode) { m.Hang = true })
	c := newClient(t, r, func(cfg *Config) { cfg.Timeout = time.Hour })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.PublicAddr(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the end of the context", err)
	}
	if s := c.Status(); !s.Asked.IsZero() {
		t.Errorf("status %+v, want nothing: the question was called off", s)
	}
}
