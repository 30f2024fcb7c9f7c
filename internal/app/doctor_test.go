package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"postern/internal/doctor"
	"postern/internal/gateway"
	"postern/internal/notify"
	"postern/internal/testnet"
)

// A world in which everything works, link by link, for one house.
type world struct {
	t       *testing.T
	p       *process
	patient *patient
	lab     *testnet.Lab
	org     []*testnet.DNS
	duck    []*testnet.DNS
	api     *duckAPI
	echo    *testnet.DNS
	router  *testnet.Router
	ca      *testnet.CA
	discord *testnet.Discord
	app     *httptest.Server
	front   atomic.Pointer[http.Handler] // answers in our place; nil: we do
}

const (
	worldName  = "mypi.duckdns.org"
	worldAddr  = "203.0.113.7"
	worldToken = "a7c4d0ad-114e-40ef-ba1d-d217904a50f2"
)

// duckAPI is DuckDNS in front of its name servers.
type duckAPI struct {
	t       *testing.T
	servers []*testnet.DNS
	url     string
	down    atomic.Bool
	refuse  atomic.Bool
}

func newDuckAPI(t *testing.T, servers []*testnet.DNS) *duckAPI {
	d := &duckAPI{t: t, servers: servers}
	srv := httptest.NewServer(d)
	t.Cleanup(srv.Close)
	d.url = srv.URL
	return d
}

func (d *duckAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	switch {
	case d.down.Load():
		w.WriteHeader(http.StatusBadGateway)
	case d.refuse.Load() || q.Get("token") != worldToken || q.Get("domains") != "mypi":
		_, _ = io.WriteString(w, "KO")
	default:
		for _, s := range d.servers {
			if ip := q.Get("ip"); ip != "" {
				s.Remove(worldName, "A")
				s.Add(d.t, fmt.Sprintf("%s. 60 IN A %s", worldName, ip))
			}
			for _, name := range []string{worldName, "_acme-challenge." + worldName} {
				if q.Has("txt") {
					s.Remove(name, "TXT")
				}
				if q.Get("txt") != "" && q.Get("clear") != "true" {
					s.Add(d.t, fmt.Sprintf("%s. 60 IN TXT %q", name, q.Get("txt")))
				}
			}
		}
		_, _ = io.WriteString(w, "OK")
	}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, lab: testnet.NewLab(t), router: testnet.NewRouter(t), discord: testnet.NewDiscord(t)}
	w.org = w.lab.Zone("org", 1)
	w.duck = w.lab.Zone("duckdns.org", 2)
	w.lab.Add(worldName + ". 60 IN A " + worldAddr)
	w.api = newDuckAPI(t, w.duck)
	w.echo = testnet.NewDNS(t, "echo.test")
	w.echo.Add(t, "me.echo.test. 60 IN A "+worldAddr)
	w.ca = testnet.NewCA(t, testnet.CAOptions{CheckCAA: true, DNS: w.lab.Resolver})
	w.app = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "app") }))
	t.Cleanup(w.app.Close)
	return w
}

func (w *world) config() string {
	return fmt.Sprintf(`email: me@example.net
listen: {http: "0.0.0.0:0", https: "0.0.0.0:0"}
data: %s
admin: {listen: ""}
grace: 100ms
dns: {resolvers: [%q], authoritative_port: %d, doh: []}
public_address: {sources: [router, dns], dns: ["me.echo.test@%s"]}
port_mapping: auto
ddns: [{provider: duckdns, hosts: [%s], token: %s, endpoint: %q, ipv6: "off"}]
notify: [{discord: %q}]
tls:
  acme: {directory: %q, root: %q, challenges: [dns-01]}
  dns_provider: {provider: duckdns, token: %s, endpoint: %q}
sites: [{hosts: [%s], upstream: %q}]
`, filepath.Join(w.t.TempDir(), "data"), w.lab.Resolver.Addr, w.lab.Port, w.echo.Addr, worldName, worldToken, w.api.url, w.discord.Serve(),
		w.ca.DirectoryURL, w.ca.RootFile, worldToken, w.api.url, worldName, w.app.URL)
}

// start runs postern in the world and waits until all is well.
func (w *world) start() {
	w.t.Helper()
	w.p = startWith(w.t, w.config(), Options{Router: routerOf(w.router)})
	a := w.p.App
	until(w.t, "the address", func() bool { return a.address.Addresses().V4 == netip.MustParseAddr(worldAddr) })
	until(w.t, "the certificate", func() bool { return a.certs.Status()[0].State == "ok" })
	until(w.t, "the mappings", func() bool {
		s := a.gateway.Status()
		for _, m := range s.Mappings {
			if m.State != "mapped" {
				return false
			}
		}
		return len(s.Mappings) > 0
	})
	w.examine()
}

// examine makes the patient anew, on a machine without faults, with the public
// address led back to us.
func (w *world) examine() *patient {
	a := w.p.App
	a.mu.Lock()
	cfg := a.cfg
	a.mu.Unlock()
	p := newPatient(cfg, a)
	p.machine = goodMachine()
	p.outside = func(ctx context.Context, port string) (net.Conn, error) {
		if h := w.front.Load(); h != nil {
			client, server := net.Pipe()
			go func() { // ends with the pipe
				_ = http.Serve(&oneConn{c: server}, *h)
			}()
			return client, nil
		}
		kind := map[string]string{"80": "http", "443": "https"}[port]
		_, at, _ := net.SplitHostPort(a.Addrs(kind)[0])
		return new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", at))
	}
	w.patient = p
	return p
}

// oneConn is a listener with one connection.
type oneConn struct {
	c    net.Conn
	done bool
}

func (l *oneConn) Accept() (net.Conn, error) {
	if l.done {
		return nil, errors.New("no more")
	}
	l.done = true
	return l.c, nil
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return l.c.LocalAddr() }

func goodMachine() machine {
	return machine{
		addrs:  func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("192.168.1.5")}, nil },
		gate:   func() (netip.Addr, string, error) { return netip.MustParseAddr("127.0.0.1"), "eth0", nil },
		synced: func() (bool, error) { return true, nil },
		disk:   func(string) (uint64, uint64, error) { return 8 << 30, 16 << 30, nil },
		memory: func() (uint64, uint64, error) { return 1 << 30, 4 << 30, nil },
		files:  func() (int, int, error) { return 20, 1 << 20, nil },
	}
}

// TestWorldIsWell: nothing is wrong in a world where nothing is.
func TestWorldIsWell(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	r := w.patient.examine(t.Context())
	if r.Worst() != doctor.Pass {
		t.Fatalf("something is wrong:\n%s", r.Text())
	}
	seen := make(map[string]bool)
	for _, f := range r.Checks {
		if f.Status == doctor.Pass {
			seen[f.Component] = true
		}
	}
	for _, c := range []string{"config", "data folder", "clock", "disk", "memory", "file descriptors", "link", "default route",
		"internet", "name servers", "address record", "TXT", "CAA", "router", "carrier NAT", "double NAT", "port mapping",
		"public address", "DDNS API", "DDNS access", "reached from outside", "authority", "certificate", "backend", "messages"} {
		if !seen[c] {
			t.Errorf("%s did not pass:\n%s", c, r.Text())
		}
	}
	if strings.Contains(r.Text(), worldToken) {
		t.Error("the report shows the token")
	}
}

// TestDoctorNamesTheBrokenLink breaks one link each time, and wants one FAIL
// with what to do about it, or, where it says so, one WARN or a word.
func TestDoctorNamesTheBrokenLink(t *testing.T) {
	t.Parallel()
	none := func() (netip.Addr, string, error) { return netip.Addr{}, "", nil }
	all := func(w *world, f testnet.Fault) {
		w.lab.Resolver.SetFault("*", "*", f)
		for _, s := range append(w.org, w.duck...) {
			s.SetFault("*", "*", f)
		}
	}
	page := func(w *world, server, title string) {
		h := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Server", server)
			fmt.Fprintf(w, "<html><title>%s</title>", title)
		}))
		w.front.Store(&h)
	}
	for _, c := range []struct {
		name      string
		before    func(w *world) // the start
		breaks    func(w *world)
		component string
		status    doctor.Status
		action    string
		detail    string
	}{
		{name: "the cable is out", breaks: func(w *world) { w.patient.machine.addrs = func() ([]netip.Addr, error) { return nil, nil } },
			component: "link", action: "plug the network cable in"},
		{name: "no default route", breaks: func(w *world) { w.patient.machine.gate = none }, component: "default route", action: "set the router as default gateway"},
		{name: "the clock runs free", breaks: func(w *world) { w.patient.machine.synced = func() (bool, error) { return false, nil } },
			component: "clock", status: doctor.Warn, action: "start a time service"},
		{name: "the disk is full", breaks: func(w *world) {
			w.patient.machine.disk = func(string) (uint64, uint64, error) { return 4096, 16 << 30, nil }
		},
			component: "disk", action: "make room"},
		{name: "memory is short", breaks: func(w *world) {
			w.patient.machine.memory = func() (uint64, uint64, error) { return 8 << 20, 1 << 30, nil }
		},
			component: "memory", status: doctor.Warn, action: "lower limits.connections"},
		{name: "descriptors are used up", breaks: func(w *world) { w.patient.machine.files = func() (int, int, error) { return 1020, 1024, nil } },
			component: "file descriptors", action: "raise LimitNOFILE="},
		{name: "others may read the data", breaks: func(w *world) { _ = os.Chmod(w.patient.cfg.Data, 0o755) },
			component: "data folder", status: doctor.Warn, action: "chmod 700"},
		{name: "nothing answers", breaks: func(w *world) { all(w, testnet.Drop); w.echo.SetFault("*", "*", testnet.Drop) }, component: "internet", action: "restart the router"},
		{name: "the DNS host is down", breaks: func(w *world) {
			for _, s := range w.duck {
				s.SetFault("*", "*", testnet.Drop)
			}
		}, component: "name servers", action: "it is the DNS host's to mend"},
		{name: "the record is wrong", breaks: func(w *world) {
			for _, s := range w.duck {
				s.Remove(worldName, "A")
				s.Add(w.t, worldName+". 60 IN A 198.51.100.9")
			}
		}, component: "address record", action: "let postern keep the record"},
		{name: "the name is gone", breaks: func(w *world) {
			for _, s := range w.duck {
				s.SetFault(worldName, "*", testnet.NXDomain)
				s.SetFault("_acme-challenge."+worldName, "*", testnet.NXDomain)
			}
		}, component: "address record", action: "make the name at the DNS host"},
		{name: "CAA is not answered", breaks: func(w *world) {
			for _, s := range w.duck {
				s.SetFault(worldName, "CAA", testnet.Drop)
			}
		}, component: "CAA", action: "it is the DNS host's to mend"},
		{name: "TXT fails", breaks: func(w *world) {
			for _, s := range w.duck {
				s.SetFault("_acme-challenge."+worldName, "TXT", testnet.ServFail)
			}
		}, component: "TXT", action: "it is the DNS host's to mend"},
		{name: "the router is silent", breaks: func(w *world) {
			w.router.Change(func(m *testnet.RouterMode) { m.PCP, m.NATPMP, m.UPnP = false, false, false })
		},
			component: "router", action: "turn on UPnP or NAT-PMP"},
		{name: "the line is down", breaks: func(w *world) {
			w.router.Change(func(m *testnet.RouterMode) { m.WAN = netip.Addr{} })
			w.echo.SetFault("*", "*", testnet.ServFail)
		}, component: "router", action: "look at the router's status page"},
		{name: "the router keeps a private address to itself", breaks: func(w *world) { w.router.Change(func(m *testnet.RouterMode) { m.WAN = netip.Addr{} }) },
			component: "carrier NAT", action: "look for the WAN address on the router's own page", detail: "seen outside as " + worldAddr},
		{name: "carrier NAT", breaks: func(w *world) {
			w.router.Change(func(m *testnet.RouterMode) { m.WAN = netip.MustParseAddr("100.64.3.4") })
		},
			component: "carrier NAT", action: "ask the internet provider for a public IPv4 address"},
		{name: "double NAT", breaks: func(w *world) {
			w.router.Change(func(m *testnet.RouterMode) { m.WAN = netip.MustParseAddr("192.168.0.2") })
		},
			component: "double NAT", action: "bridge mode"},
		{name: "another device has the port", before: func(w *world) { w.router.Give("tcp", 443, "192.168.1.77", 443, "camera") }, breaks: func(*world) {},
			component: "port mapping", action: "camera"},
		{name: "the sources disagree", breaks: func(w *world) {
			w.echo.Remove("me.echo.test", "A")
			w.echo.Add(w.t, "me.echo.test. 60 IN A 198.51.100.9")
		}, component: "public address", action: "VPN or a second line"},
		{name: "the DDNS API is down", breaks: func(w *world) { w.api.down.Store(true) }, component: "DDNS API", action: "a second ddns entry"},
		{name: "the token is wrong", before: func(w *world) {
			w.api.refuse.Store(true)
			for _, s := range w.duck {
				s.Remove(worldName, "A")
				s.Add(w.t, worldName+". 60 IN A 198.51.100.9")
			}
		}, breaks: func(w *world) {
			until(w.t, "the refusal", func() bool { return len(w.p.address.Outages()) > 0 })
		}, component: "DDNS access", action: "correct ddns[0]"},
		{name: "another server answers", breaks: func(w *world) { page(w, "nginx", "Welcome") }, component: "reached from outside", action: "forward port 80 of the router"},
		{name: "the router's page answers", breaks: func(w *world) { page(w, "GoAhead-Webs", "FRITZ!Box 7590") }, component: "reached from outside",
			status: doctor.Warn, action: "turn off remote administration"},
		{name: "no way back from inside", breaks: func(w *world) {
			w.patient.outside = func(context.Context, string) (net.Conn, error) { return nil, errors.New("connection refused") }
		}, component: "reached from outside", status: doctor.Skip, detail: "cannot tell from inside"},
		{name: "the application is down", breaks: func(w *world) { w.app.Close() }, component: "backend", action: "start the application"},
		{name: "the webhook is gone", breaks: func(w *world) {
			w.discord.Set(testnet.DiscordGone)
			w.p.tell(notify.Message{Kind: notify.CertTrouble, Args: map[string]string{"name": "a", "sentence": "b"}})
			until(w.t, "the channel to be given up", func() bool { return w.p.outbox.Status()[0].Disabled })
		}, component: "messages", action: "make a new webhook"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if c.before != nil {
				c.before(w)
				w.p = startWith(t, w.config(), Options{Router: routerOf(w.router)})
				until(t, "an address", func() bool { return w.p.address.Addresses().V4.IsValid() })
				w.examine()
			} else {
				w.start()
			}
			c.breaks(w)
			if c.status == "" {
				c.status = doctor.Fail
			}
			var r doctor.Report
			until(t, "the diagnosis", func() bool { // what the process learns by itself may take a moment
				r = w.patient.examine(t.Context())
				return wanted(r, c.component, c.status, c.action, c.detail)
			})
			for _, f := range r.Checks {
				if f.Status == doctor.Fail && (c.status != doctor.Fail || f.Component != c.component) {
					t.Errorf("one more FAIL: %+v\n%s", f, r.Text())
				}
			}
		})
	}
}

// TestDiagnosisIsTold: people hear once of what fails and once of its end, and
// of nothing that another watch tells.
func TestDiagnosisIsTold(t *testing.T) {
	var d doctorRoom
	now := time.Now()
	find := func(component string, s doctor.Status) doctor.Finding {
		return doctor.Finding{Component: component, Target: "443/tcp", Status: s, Detail: "held by camera", Action: "free it"}
	}
	var got []string
	for i, f := range []doctor.Finding{
		find("port mapping", doctor.Fail), find("port mapping", doctor.Fail), find("backend", doctor.Fail),
		find("port mapping", doctor.Warn), find("port mapping", doctor.Pass), find("port mapping", doctor.Pass), find("disk", doctor.Pass),
	} {
		if m, ok := d.message(f, now.Add(time.Duration(i)*time.Minute)); ok {
			got = append(got, fmt.Sprint(m.Kind, " ", m.Args))
		}
	}
	want := []string{
		"address_trouble map[name:port mapping 443/tcp sentence:held by camera; free it]",
		"address_well map[lasted:4m name:port mapping 443/tcp]",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// wanted reports whether r holds the diagnosis.
func wanted(r doctor.Report, component string, status doctor.Status, action, detail string) bool {
	for _, f := range r.Checks {
		if f.Component == component && f.Status == status && strings.Contains(f.Action, action) && strings.Contains(f.Detail, detail) {
			return true
		}
	}
	return false
}

func routerOf(r *testnet.Router) gateway.Router {
	return gateway.Router{
		Gateway: r.Addr, Port: r.Port, SSDP: r.SSDP,
		Gateway6: netip.IPv6Loopback(), Local6: []netip.Addr{}, Announce: netip.MustParseAddrPort("127.0.0.1:0"),
	}
}
