package gateway

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	natpmp "github.com/jackpal/go-nat-pmp"
)

// The test against a real router runs in three network namespaces: home,
// router (with NAT and Debian's miniupnpd) and outside. This binary runs
// itself in home and outside; what it is to be there, this variable says.
const roleVar = "POSTERN_GATEWAY_ROLE"

// Addresses inside the namespaces. miniupnpd maps nothing when its own is
// private or reserved, the ones for documentation included, so these are
// borrowed; nothing leaves the namespaces.
const (
	homeAddr    = "192.168.77.9"
	cameraAddr  = "192.168.77.10"
	homeAddr6   = "2a00:77::9"
	routerLAN   = "192.168.77.1"
	routerWAN   = "11.0.0.2"
	outsideAddr = "11.0.0.1"
)

// house is the namespaces.
type house struct {
	t                     *testing.T
	home, router, outside string
	dir                   string
	daemon                *exec.Cmd
}

func newHouse(t *testing.T) *house {
	for _, tool := range []string{"ip", "nft", "miniupnpd"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("POSTERN_CI") == "1" && os.Geteuid() == 0 {
				t.Fatalf("%s is missing, and .ci/run installs it", tool)
			}
			t.Skipf("%s is missing, so no real router can be asked", tool)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	name := func(role string) string { return fmt.Sprintf("postern-gw-%d-%s", os.Getpid(), role) }
	h := &house{t: t, home: name("home"), router: name("router"), outside: name("out"), dir: t.TempDir()}
	for _, n := range []string{h.home, h.router, h.outside} {
		if out, err := exec.CommandContext(t.Context(), "ip", "netns", "add", n).CombinedOutput(); err != nil {
			t.Skipf("no network namespace can be made here: %s", out)
		}
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", n).Run() })
	}
	h.ip("link add lan netns ROUTER type veth peer name eth0 netns HOME")
	h.ip("link add wan netns ROUTER type veth peer name eth0 netns OUTSIDE")
	forward := exec.CommandContext(t.Context(), "ip", "netns", "exec", h.router, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")
	if out, err := forward.CombinedOutput(); err != nil || len(out) > 0 {
		t.Skipf("no routing in a namespace here: %v %s", err, out)
	}
	for _, line := range []string{
		"-n HOME link set lo up", "-n ROUTER link set lo up", "-n OUTSIDE link set lo up",
		"-n ROUTER addr add " + routerLAN + "/24 dev lan", "-n ROUTER addr add 2a00:77::1/64 dev lan nodad",
		"-n ROUTER addr add fe80::1/64 dev lan nodad",
		"-n ROUTER addr add " + routerWAN + "/24 dev wan", "-n ROUTER addr add 2a00:88::2/64 dev wan nodad",
		"-n HOME addr add " + homeAddr + "/24 dev eth0", "-n HOME addr add " + cameraAddr + "/24 dev eth0",
		"-n HOME addr add " + homeAddr6 + "/64 dev eth0 nodad",
		"-n OUTSIDE addr add " + outsideAddr + "/24 dev eth0", "-n OUTSIDE addr add 2a00:88::1/64 dev eth0 nodad",
		"-n ROUTER link set lan up", "-n ROUTER link set wan up", "-n HOME link set eth0 up", "-n OUTSIDE link set eth0 up",
		"-n HOME route add default via " + routerLAN, "-n HOME -6 route add default via fe80::1 dev eth0",
		"-n ROUTER route add default via " + outsideAddr, "-n ROUTER -6 route add default via 2a00:88::1",
		"-n OUTSIDE -6 route add 2a00:77::/64 via 2a00:88::2",
	} {
		h.ip(line)
	}
	return h
}

func (h *house) ip(line string) {
	h.t.Helper()
	args := strings.Fields(strings.NewReplacer("HOME", h.home, "ROUTER", h.router, "OUTSIDE", h.outside).Replace(line))
	if out, err := exec.CommandContext(h.t.Context(), "ip", args...).CombinedOutput(); err != nil {
		h.t.Fatalf("ip %s: %v\n%s", line, err, out)
	}
}

// boot starts the router with an empty table and a rule of its own, "" for
// none.
func (h *house) boot(rule string) {
	h.t.Helper()
	if h.daemon != nil {
		_ = h.daemon.Process.Kill()
		_ = h.daemon.Wait()
	}
	rules := `
table inet filter { }
delete table inet filter
table inet filter {
  chain forward { type filter hook forward priority 0; policy drop; ct state established,related accept; iifname "lan" accept; jump miniupnpd; }
  chain miniupnpd { }
  chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
  chain postrouting { type nat hook postrouting priority 100; jump postrouting_miniupnpd; oifname "wan" ip saddr 192.168.77.0/24 masquerade; }
  chain prerouting_miniupnpd { }
  chain postrouting_miniupnpd { }
}`
	nft := exec.CommandContext(h.t.Context(), "ip", "netns", "exec", h.router, "nft", "-f", "-")
	nft.Stdin = strings.NewReader(rules)
	if out, err := nft.CombinedOutput(); err != nil {
		h.t.Skipf("no nftables in a namespace here: %s", out)
	}
	conf := filepath.Join(h.dir, "miniupnpd.conf")
	text := `ext_ifname=wan
ext_ifname6=wan
listening_ip=lan
enable_natpmp=yes
enable_upnp=yes
secure_mode=yes
system_uptime=no
min_lifetime=120
max_lifetime=86400
uuid=7a4d1f5e-5a5b-4c7e-9d6b-1a2b3c4d5e6f
` + rule + `
allow 0-65535 192.168.77.0/24 0-65535
deny 0-65535 0.0.0.0/0 0-65535
`
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	h.daemon = exec.Command("ip", "netns", "exec", h.router, "miniupnpd", "-d", "-f", conf, "-P", filepath.Join(h.dir, "pid"))
	h.daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := h.daemon.StderrPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.daemon.Start(); err != nil {
		h.t.Fatal(err)
	}
	d := h.daemon
	h.t.Cleanup(func() { _ = d.Wait() })
	ready, ended := make(chan struct{}), make(chan struct{})
	var all bytes.Buffer
	go func() {
		defer close(ended)
		lines := bufio.NewScanner(log)
		for lines.Scan() {
			fmt.Fprintln(&all, lines.Text())
			if strings.Contains(lines.Text(), "Listening for NAT-PMP/PCP") {
				close(ready)
			}
		}
	}()
	h.t.Cleanup(func() {
		_ = d.Process.Kill()
		<-ended
		if h.t.Failed() {
			h.t.Logf("the router:\n%s", all.String())
		}
	})
	select {
	case <-ready:
	case <-ended:
		h.t.Fatalf("miniupnpd ended:\n%s", all.String())
	case <-time.After(time.Minute):
		h.t.Fatal("miniupnpd did not get ready within a minute")
	}
}

// as runs a role of this binary in a namespace.
func (h *house) as(ns, role string) *exec.Cmd {
	cmd := exec.CommandContext(h.t.Context(), "ip", "netns", "exec", ns, os.Args[0], "-test.run=^TestRole$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), roleVar+"="+role)
	return cmd
}

// reach tells whether a caller outside gets to home within d.
func (h *house) reach(addr string, d time.Duration) bool {
	h.t.Helper()
	out, err := h.as(h.outside, "dial "+d.String()+" "+addr).CombinedOutput()
	if err != nil {
		h.t.Fatalf("%v\n%s", err, out)
	}
	return bytes.Contains(out, []byte("reached home"))
}

func TestMiniupnpd(t *testing.T) {
	h := newHouse(t)
	h.boot("")
	cmd := h.as(h.home, "home")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	lines := bufio.NewScanner(io.TeeReader(out, &log))
	until := func(word string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), "SAYS "+word) {
				return
			}
		}
		t.Fatalf("home ended before it said %q:\n%s", word, log.String())
	}
	goOn := func() { _, _ = io.WriteString(in, "\n") }

	until("nothing mapped")
	// What shall be open is waited for, what shall be closed only for a moment.
	const patient, brief = time.Minute, time.Second
	inside6 := "[" + homeAddr6 + "]:8443"
	if h.reach(routerWAN+":443", brief) || h.reach(inside6, brief) {
		t.Error("home can be reached before anything is mapped")
	}
	goOn()
	until("mapped")
	if !h.reach(routerWAN+":443", patient) {
		t.Error("home cannot be reached by IPv4 through the mapping")
	}
	if !h.reach(inside6, patient) {
		t.Error("home cannot be reached by IPv6 through the pinhole")
	}
	h.boot("")
	goOn()
	until("mapped again")
	if !h.reach(routerWAN+":443", patient) {
		t.Error("home cannot be reached after the router's restart")
	}
	goOn()
	until("gave back")
	if h.reach(routerWAN+":443", brief) || h.reach(inside6, brief) {
		t.Error("home can be reached after everything was given back")
	}
	h.boot("deny 443 192.168.77.0/24 0-65535")
	goOn()
	for lines.Scan() {
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("home: %v\n%s", err, log.String())
	}
}

// TestRole is what the namespaces run.
func TestRole(t *testing.T) {
	role := os.Getenv(roleVar)
	switch what, dial := strings.CutPrefix(role, "dial "); {
	case dial:
		limit, addr, _ := strings.Cut(what, " ")
		timeout, err := time.ParseDuration(limit)
		if err != nil {
			t.Fatal(err)
		}
		d := net.Dialer{Timeout: timeout}
		conn, err := d.DialContext(t.Context(), "tcp", addr)
		if err != nil {
			fmt.Println("not reached:", err)
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		b, _ := io.ReadAll(conn)
		fmt.Println("reached", string(b))
	case role == "home":
		atHome(t)
	default:
		t.Skip("this is what TestMiniupnpd runs in its namespaces")
	}
}

func atHome(t *testing.T) {
	stdin := bufio.NewReader(os.Stdin)
	say := func(what string) {
		fmt.Println("SAYS " + what)
		if _, err := stdin.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", ":8443")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "home")
			_ = conn.Close()
		}
	}()
	newOne := func() *Client {
		c, err := New(Config{Timeout: 30 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := newOne()
	a, err := c.PublicAddr(t.Context())
	if err != nil || a.Addr.String() != routerWAN || a.Protocol != NATPMP || a.Gateway.String() != routerLAN {
		t.Fatalf("got %+v, %v, want %s by NAT-PMP", a, err, routerWAN)
	}
	reference(t, c)
	eachProtocol(t, newOne())
	say("nothing mapped")

	ports := []Port{{"tcp", 443, 8443}, {"udp", 443, 8443}}
	c.Set(Want{Ports: ports})
	c.round(t.Context(), time.Now())
	wantMapped(t, c, 4, PCP)
	// A clock that showed less than a few seconds cannot be seen to start over.
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(time.Minute); c.talk.epochs[epochKey{PCP, a.Gateway}].seconds < 6; {
		select {
		case <-tick.C:
			c.round(t.Context(), time.Now())
		case <-deadline:
			t.Fatal("the router's clock does not run")
		}
	}
	say("mapped")

	c.round(t.Context(), time.Now())
	wantMapped(t, c, 4, PCP)
	if s := c.Status(); s.Restarts == 0 {
		t.Errorf("status %+v, want a restart seen", s)
	}
	say("mapped again")

	c.leave(t.Context())
	say("gave back")

	c.Set(Want{Ports: ports})
	c.round(t.Context(), time.Now())
	for _, m := range c.Status().Mappings {
		if m.IsPinhole() {
			continue // the rules of this router are for IPv4
		}
		if m.State != Refused || !strings.Contains(m.Action(), "1024") {
			t.Errorf("a router that does not give 443: got %s: %s, action %q, want it refused", m.State, m.Reason, m.Action())
		}
	}
	c.leave(t.Context())
}

// reference has another client of NAT-PMP say and do the same.
func reference(t *testing.T, c *Client) {
	t.Helper()
	other := natpmp.NewClientWithTimeout(net.ParseIP(routerLAN), 30*time.Second)
	a, err := other.GetExternalAddress()
	if err != nil || netip.AddrFrom4(a.ExternalIPAddress).String() != routerWAN {
		t.Errorf("another client got %+v, %v, want %s", a, err, routerWAN)
	}
	if _, err := other.AddPortMapping("tcp", 8080, 80, 600); err != nil {
		t.Error(err)
	}
	if h, there, err := c.WhoHas(t.Context(), Port{"tcp", 80, 0}); err != nil || !there || h.Client != homeAddr || h.Port != 8080 {
		t.Errorf("80/tcp is held by %v, %v, %v, want what another client mapped", h, there, err)
	}
	if _, err := other.AddPortMapping("tcp", 8080, 0, 0); err != nil {
		t.Error(err)
	}
	if h, there, err := c.WhoHas(t.Context(), Port{"tcp", 80, 0}); err != nil || there {
		t.Errorf("80/tcp is held by %v, %v, want nobody", h, err)
	}
}

func wantMapped(t *testing.T, c *Client, n int, by Protocol) {
	t.Helper()
	s := c.Status()
	if len(s.Mappings) != n {
		t.Errorf("%d mappings, want %d", len(s.Mappings), n)
	}
	for _, m := range s.Mappings {
		if m.State != Mapped || m.Protocol != by || m.Lease == 0 {
			t.Errorf("%s for %s: %+v, want it mapped by %s", m.Port, m.Addr, m, by)
		}
	}
}

// eachProtocol maps and unmaps by each protocol, and meets another device's
// mapping.
func eachProtocol(t *testing.T, c *Client) {
	t.Helper()
	ctx, now := t.Context(), time.Now()
	at := attempt{now: now}
	needs := c.needs([]Port{{"tcp", 443, 8443}}, &at)
	if len(needs) != 2 || at.hop6.router.String() != "fe80::1%eth0" || needs[1].internal.String() != "["+homeAddr6+"]:8443" {
		t.Fatalf("needs %v by %+v, want one for each family", needs, at.hop6)
	}
	for _, p := range []Protocol{PCP, NATPMP, UPnP} {
		for _, n := range needs {
			if p == NATPMP && n.internal.Addr().Is6() {
				continue
			}
			e := &entry{need: n}
			whats := []string{"make", "renew"}
			if p == PCP && e.v6() {
				// miniupnpd 2.3.1 on nftables forgets whose a pinhole is when
				// it renews it, and then refuses to close it before its time.
				whats = whats[:1]
			}
			for _, what := range whats {
				g, err := c.mapBy(ctx, &at, p, e)
				if err != nil {
					t.Errorf("%s: %s %v: %v", what, p, n, err)
					break
				}
				if g.lease < time.Minute || g.byHand {
					t.Errorf("%s: %s %v: got %+v, want a lease", what, p, n, g)
				}
				e.granted(now, g)
			}
			if err := c.remove(ctx, &at, e); err != nil {
				t.Errorf("remove: %s %v %v: %v", p, n, n.internal, err)
			}
		}
	}
	// The camera takes 443.
	ask := func(external uint16, lifetime uint32) {
		err := c.exchange(ctx, netip.MustParseAddr(cameraAddr), c.control(at.hop4.router), pmpMapRequest(pmpMapTCP, 443, external, lifetime), func(b []byte) error {
			_, err := parsePMPResponse(b, pmpMapTCP)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	ask(443, 600)
	for _, p := range []Protocol{PCP, NATPMP, UPnP} {
		_, err := c.mapBy(ctx, &at, p, &entry{need: needs[0]})
		ce, ok := errors.AsType[*conflictError](err)
		if !ok || ce.holder == nil || ce.holder.Client != cameraAddr || ce.holder.Port != 443 {
			t.Errorf("%s: got %v, want that %s has the port", p, err, cameraAddr)
		}
	}
	ask(0, 0)
	if _, err := c.mapBy(ctx, &at, UPnP, &entry{need: needs[0]}); err != nil {
		t.Errorf("after the camera left: %v", err)
	}
	_ = c.unmapUPnP(ctx, at.hop4, &entry{need: needs[0]})
}
