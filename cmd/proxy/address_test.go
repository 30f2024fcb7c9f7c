package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/internal/testnet"
)

// TestAddressReachesTheRecord runs the command with a DuckDNS and echo
// services on loopback, the HTTPS one trusted by SSL_CERT_FILE: it finds the
// address, writes it, follows a change and not a lie, tells an outage and its
// end once, and knows the address after a restart with everything down.
func TestAddressReachesTheRecord(t *testing.T) {
	lab := testnet.NewLab(t)
	lab.Zone("org", 1)
	servers := lab.Zone("duckdns.org", 2)
	const name = "mypi.duckdns.org"
	duck := testnet.NewDNSHost(t, testnet.DNSHostOptions{Provider: "duckdns", Zone: name})
	follow(t, duck, servers)
	first, second, lie := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("198.51.100.20"), netip.MustParseAddr("203.0.113.66")
	echo := testnet.NewEcho(t, first)

	s := newScene(t.TempDir())
	defer s.close()
	file := filepath.Join(s.dir, "postern.yaml")
	text := fmt.Sprintf(`
listen: {http: "127.0.0.1:0", https: ""}
admin: {listen: "unix:admin.sock"}
data: %s
dns: {resolvers: [%q], authoritative_port: %d, doh: []}
public_address: {sources: [dns, https], https: [%q], dns: ["whoami.cloudflare@%s"], interval: 1s}
ddns: [{provider: duckdns, hosts: [%s], token: %s, endpoint: %q, ipv6: off, interval: 1s}]
sites: [{hosts: [%s], routes: [{respond: {body: "a\n"}}]}]
`, filepath.Join(s.dir, "data"), lab.Resolver.Addr, lab.Port, echo.HTTPS, echo.DNS, name, testnet.HostSecret, duck.URL, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(as string) (*process, func(string) string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "proxy", "run", "-c", file)
		cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+echo.RootFile)
		p, err := s.start(as, cmd)
		if err != nil {
			t.Fatal(err)
		}
		return p, func(want string) string {
			t.Helper()
			at, line := p.log.wait(regexp.MustCompile(want), p.mark)
			if at == nil {
				t.Fatalf("no line %s in the log:\n%s", want, p.log.text)
			}
			p.mark = at[1]
			return string(line)
		}
	}
	has := func(want netip.Addr) {
		t.Helper()
		if got := duck.Get(name, "A"); !slices.Equal(got, []string{want.String()}) {
			t.Errorf("the record is %q, want %v", got, want)
		}
	}
	stop := func(p *process) {
		t.Helper()
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		<-p.ended
		if strings.Contains(string(p.log.text), testnet.HostSecret) {
			t.Error("the log shows the token")
		}
	}

	p, log := run("first")
	log(`"msg":"public address changed".*"is":"192\.0\.2\.10`)
	log(`"msg":"dns record set","provider":"duckdns","name":"mypi\.duckdns\.org","addresses":"192\.0\.2\.10"`)
	has(first)
	echo.SayHTTPS(lie) // nobody believes it: the next line is about the truth
	asked := echo.Asked("https")
	waitFor(t, "the lie to be heard", func() bool { return echo.Asked("https") >= asked+4 })
	has(first)
	echo.Say(second)
	log(`"msg":"dns record set","provider":"duckdns","name":"mypi\.duckdns\.org","addresses":"198\.51\.100\.20"`)
	has(second)
	waitFor(t, "the health tree to tell", func() bool {
		out, _ := exec.CommandContext(t.Context(), "proxy", "health", "-c", file).CombinedOutput() // exit code 1: no certificate
		return strings.Contains(string(out), "mypi.duckdns.org at duckdns") && strings.Contains(string(out), "198.51.100.20, seen at the name servers")
	})
	duck.BreakWith(testnet.HostOutages()["Jetty 404"])
	log(`"msg":"dns host in trouble","provider":"duckdns","part":"api"`)
	duck.BreakWith(nil)
	log(`"msg":"dns host is well again","provider":"duckdns","part":"api"`)
	stop(p)
	if n := strings.Count(string(p.log.text), `"msg":"dns record set"`); n != 2 {
		t.Errorf("%d writes for two addresses", n)
	}

	echo.Break(testnet.EchoError)
	duck.BreakWith(testnet.HostOutages()["502"])
	p, log = run("second")
	log(`"msg":"serving"`)
	stop(p)
	state, err := os.ReadFile(filepath.Join(s.dir, "data", "addresses.json"))
	if err != nil || !strings.Contains(string(state), second.String()) || strings.Contains(string(state), testnet.HostSecret) {
		t.Errorf("the state is %s, %v", state, err)
	}
}

// waitFor waits for an event that only shows by asking.
func waitFor(t *testing.T, what string, happened func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !happened() {
		select {
		case <-deadline:
			t.Fatalf("still waiting for %s", what)
		case <-tick.C:
		}
	}
}

// follow has name servers answer what the DNS host was told.
func follow(t *testing.T, host *testnet.DNSHost, servers []*testnet.DNS) {
	host.OnChange(func(name, typ string, values []string) {
		for _, d := range servers {
			d.Remove(name, typ)
			for _, v := range values {
				d.Add(t, fmt.Sprintf("%s 60 IN %s %s", name, typ, v))
			}
		}
	})
}
