package app

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"postern/internal/admin"
	"postern/internal/gateway"
	"postern/internal/testnet"
)

// routerAt points the process at a fake router.
func routerAt(r *testnet.Router) Options {
	return Options{Router: gateway.Router{
		Gateway: r.Addr, Port: r.Port, SSDP: r.SSDP,
		Gateway6: netip.IPv6Loopback(), Local6: []netip.Addr{}, // no pinholes
		Announce: netip.MustParseAddrPort("127.0.0.1:0"),
	}}
}

const mappingFile = `
listen: {http: "0.0.0.0:0", https: "0.0.0.0:0"}
http3: true
port_mapping: %s
admin: {listen: ""}
data: %s
tls: {issuer: local}
grace: 1s
notify: {discord: "%s"}
sites:
  - hosts: [a.example.org]
    routes: [{respond: {body: ok}}]
`

// child returns the branch of the health tree with the name.
func child(n admin.Node, name string) (admin.Node, bool) {
	for _, c := range n.Children {
		if c.Name == name {
			return c, true
		}
	}
	return admin.Node{}, false
}

// The ports of the listeners are mapped, followed over reloads, and given
// back; who holds a port is told.
func TestPortMapping(t *testing.T) {
	r, d := testnet.NewRouter(t), testnet.NewDiscord(t)
	r.Give("tcp", 80, "192.168.1.7", 80, "camera")
	data, hook := t.TempDir(), d.Serve()
	file := func(mode string) string { return fmt.Sprintf(mappingFile, mode, data, hook) }
	p := startWith(t, file("auto"), routerAt(r))
	mapped := func(n int) func() bool {
		return func() bool {
			found := 0
			for _, m := range r.Table() {
				if m.Client == r.Addr {
					found++
				}
			}
			return found == n
		}
	}
	until(t, "two ports are mapped", mapped(2))
	for _, m := range r.Table() {
		if m.Client != r.Addr {
			continue
		}
		_, port, _ := net.SplitHostPort(p.Addrs("https")[0])
		if m.External != 443 || strconv.Itoa(int(m.Internal)) != port {
			t.Errorf("mapped %v, want 443 to our port %s", m, port)
		}
	}
	told(t, d, "192.168.1.7:80")
	until(t, "health names the camera", func() bool {
		n, ok := child(p.Health(), "router")
		m, found := child(n, "port 80/tcp")
		return ok && found && m.State == admin.Warn && strings.Contains(m.Detail, "192.168.1.7:80 (camera)") && strings.Contains(n.Detail, r.WAN.String())
	})
	if a, err := p.RouterAddr(t.Context()); err != nil || a != r.WAN {
		t.Errorf("the router's address is %v, %v, want %s", a, err, r.WAN)
	}

	p.write(file("off"))
	if err := p.Reload(); err != nil {
		t.Fatal(err)
	}
	until(t, "the mappings are given back", mapped(0))
	until(t, "health knows no router", func() bool { _, ok := child(p.Health(), "router"); return !ok })

	p.write(file("auto"))
	if err := p.Reload(); err != nil {
		t.Fatal(err)
	}
	until(t, "two ports are mapped again", mapped(2))
	p.end()
	if !mapped(0)() {
		t.Errorf("left behind: %v", r.Table())
	}
}

// Without the key nobody talks to the router.
func TestPortMappingIsOffByDefault(t *testing.T) {
	r := testnet.NewRouter(t)
	p := startWith(t, localFile(t.TempDir(), `
sites:
  - hosts: [a.example.org]
    routes: [{respond: {body: ok}}]
`), routerAt(r))
	if err := p.Reload(); err != nil {
		t.Fatal(err)
	}
	p.end()
	for _, what := range []string{"pcp map", "nat-pmp address", "ssdp"} {
		if n := r.Asked(what); n != 0 {
			t.Errorf("%s: asked %d times, want never", what, n)
		}
	}
}

func TestOuterPort(t *testing.T) {
	for _, tt := range []struct {
		addrs []string
		want  uint16
	}{
		{nil, 0},
		{[]string{"127.0.0.1:8443"}, 0},
		{[]string{"[::1]:8443", "[::]:443"}, 443},
		{[]string{"192.168.1.9:8443", "0.0.0.0:443"}, 8443},
	} {
		if got, ok := outerPort(tt.addrs); got != tt.want || ok != (tt.want != 0) {
			t.Errorf("%v: got %d, want %d", tt.addrs, got, tt.want)
		}
	}
}
