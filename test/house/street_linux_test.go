package house

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Addresses inside the namespaces. miniupnpd maps nothing when its own is
// private or reserved, those for documentation included, so that these are
// borrowed.
const (
	homeAddr   = "192.168.77.9"
	routerLAN  = "192.168.77.1"
	firstWAN   = "11.0.0.2"
	secondWAN  = "11.0.0.66"
	thirdWAN   = "11.0.0.130"
	pppGateway = "11.0.0.1"
	carrierWAN = "100.64.7.2" // RFC 6598
	cgnGateway = "100.64.7.1"
	provider   = "11.1.0.2" // the provider's own, towards the others
	callerAddr = "11.1.0.9"
	dnsAddr    = "11.1.0.53"
	echoAddr   = "11.1.0.54"
	apiAddr    = "10.80.0.1" // plain HTTP is for private addresses only
)

// street is the namespaces: home behind its router, the router at its
// provider, and whatever else there is outside.
type street struct {
	t   *testing.T
	dir string

	home, router, provider, outside namespace

	wan string // the router's address
}

// namespace is a network namespace that has a name.
type namespace struct{ name string }

// do runs fn in the namespace. Sockets that fn makes stay there. The thread
// comes back: programs that it started end with it.
func (n namespace) do(fn func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer here.Close()
	there, err := os.Open(filepath.Join("/run/netns", n.name))
	if err != nil {
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("setns %s: %w", n.name, err)
	}
	defer func() {
		if err := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(err) // the thread would go on with what is not for it
		}
	}()
	return fn()
}

// listen opens a TCP and a UDP socket at addr in the namespace.
func (n namespace) listen(t *testing.T, addr string) (l net.Listener, pc net.PacketConn) {
	t.Helper()
	err := n.do(func() (err error) {
		if l, err = net.Listen("tcp", addr); err != nil {
			return err
		}
		pc, err = net.ListenPacket("udp", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.Close()
		_ = pc.Close()
	})
	return l, pc
}

// dial connects to an address, not a name, from the caller's own.
func (n namespace) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(callerAddr)}}
	if network == "udp" {
		d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(callerAddr)}
	}
	err = n.do(func() (err error) {
		conn, err = d.DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("POSTERN_CI") != "" && os.Geteuid() == 0 {
		t.Fatalf("%s; with POSTERN_CI set nothing may be missing", why)
	}
	t.Skip(why)
}

func newStreet(t *testing.T) *street {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	for _, tool := range []string{"ip", "nft", "miniupnpd"} {
		if _, err := exec.LookPath(tool); err != nil {
			// The fake router of testnet answers, but forwards nothing.
			missing(t, tool+" is missing, so there is no router that forwards")
		}
	}
	s := &street{t: t, dir: t.TempDir()}
	for role, n := range map[string]*namespace{"home": &s.home, "router": &s.router, "provider": &s.provider, "outside": &s.outside} {
		n.name = fmt.Sprintf("postern-house-%d-%s", os.Getpid(), role)
		if out, err := exec.Command("ip", "netns", "add", n.name).CombinedOutput(); err != nil {
			t.Skipf("no network namespace can be made here: %s", out)
		}
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", n.name).Run() })
	}
	s.batch(`
link add lan netns ROUTER type veth peer name eth0 netns HOME
link add wan netns ROUTER type veth peer name street netns PROVIDER
link add far netns PROVIDER type veth peer name eth0 netns OUTSIDE`)
	for _, n := range []namespace{s.router, s.provider} {
		if out, err := s.in(n, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward").CombinedOutput(); err != nil || len(out) > 0 {
			t.Skipf("no routing in a namespace here: %v %s", err, out)
		}
	}
	s.at(s.home, `
link set lo up
link set eth0 up
addr add `+homeAddr+`/24 dev eth0
route add default via `+routerLAN)
	s.at(s.router, `
link set lo up
link set lan up
link set wan up
addr add `+routerLAN+`/24 dev lan`)
	s.at(s.provider, `
link set lo up
link set street up
link set far up
addr add `+pppGateway+`/24 dev street
addr add `+cgnGateway+`/24 dev street
addr add `+provider+`/24 dev far
route add `+apiAddr+` via 11.1.0.1`)
	s.at(s.outside, `
link set lo up
link set eth0 up
addr add 11.1.0.1/24 dev eth0
addr add `+callerAddr+`/24 dev eth0
addr add `+dnsAddr+`/24 dev eth0
addr add `+echoAddr+`/24 dev eth0
addr add `+apiAddr+`/32 dev eth0
route add default via `+provider)
	s.rules(s.provider, `
table ip carrier {
  chain postrouting { type nat hook postrouting priority 100; ip saddr 100.64.0.0/10 oifname "far" masquerade; }
}`)
	s.rules(s.router, `
table inet filter {
  chain forward { type filter hook forward priority 0; policy drop; ct state established,related accept; iifname "lan" accept; jump miniupnpd; }
  chain miniupnpd { }
  chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
  chain postrouting { type nat hook postrouting priority 100; jump postrouting_miniupnpd; oifname "wan" ip saddr 192.168.77.0/24 masquerade; }
  chain prerouting_miniupnpd { }
  chain postrouting_miniupnpd { }
}`)
	return s
}

// in is a command that runs in a namespace.
func (s *street) in(n namespace, args ...string) *exec.Cmd {
	cmd := exec.Command("ip", append([]string{"netns", "exec", n.name}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// batch has ip do several things.
func (s *street) batch(lines string, args ...string) {
	s.t.Helper()
	cmd := exec.Command("ip", append(args, "-batch", "-")...)
	names := strings.NewReplacer("HOME", s.home.name, "ROUTER", s.router.name, "PROVIDER", s.provider.name, "OUTSIDE", s.outside.name)
	cmd.Stdin = strings.NewReader(strings.TrimSpace(names.Replace(lines)) + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("ip: %v\n%s%s", err, out, lines)
	}
}

func (s *street) at(n namespace, lines string) { s.t.Helper(); s.batch(lines, "-n", n.name) }

func (s *street) rules(n namespace, text string) {
	s.t.Helper()
	cmd := s.in(n, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Skipf("no nftables in a namespace here: %s", out)
	}
}

// away is how long the router has no address when it gets another one: long
// enough for it to tell that, and to be asked.
const away = 700 * time.Millisecond

// give has the provider give the router another address, as after a nightly
// cut. What goes to the one before is lost from then on. It returns when.
func (s *street) give(addr, gateway string) time.Time {
	s.t.Helper()
	if s.wan != "" {
		s.at(s.provider, "route add blackhole "+s.wan)
	}
	s.at(s.router, "addr flush dev wan")
	<-time.After(away)
	s.at(s.router, `
addr add `+addr+`/24 dev wan
route add default via `+gateway)
	s.wan = addr
	return time.Now()
}

// boot starts Debian's miniupnpd on the router.
func (s *street) boot() {
	s.t.Helper()
	conf := filepath.Join(s.dir, "miniupnpd.conf")
	text := `ext_ifname=wan
listening_ip=lan
enable_natpmp=yes
enable_upnp=yes
secure_mode=yes
system_uptime=no
min_lifetime=120
max_lifetime=86400
uuid=7a4d1f5e-5a5b-4c7e-9d6b-1a2b3c4d5e6f
allow 0-65535 192.168.77.0/24 0-65535
deny 0-65535 0.0.0.0/0 0-65535
`
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	version, _ := exec.Command("miniupnpd", "--version").CombinedOutput()
	first, _, _ := strings.Cut(string(version), "\n")
	s.t.Logf("the router is Debian's %s", first)
	p := s.run(s.in(s.router, "miniupnpd", "-d", "-f", conf, "-P", filepath.Join(s.dir, "miniupnpd.pid")))
	eventually(s.t, "miniupnpd listens", func() bool { return strings.Contains(p.text(), "Listening for NAT-PMP/PCP") })
}

// process is a program that serves until the test ends.
type process struct {
	cmd *exec.Cmd

	mu  sync.Mutex
	log bytes.Buffer
}

// run starts a program and ends it after the test.
func (s *street) run(cmd *exec.Cmd) *process {
	s.t.Helper()
	p := &process{cmd: cmd}
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	name := filepath.Base(cmd.Args[4])
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	read, exited := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewReader(r)
		for {
			line, err := lines.ReadString('\n')
			p.mu.Lock()
			p.log.WriteString(line)
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	go func() {
		_ = cmd.Wait()
		_ = w.Close()
		close(exited)
	}()
	s.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			<-exited
		}
		<-read
		if s.t.Failed() {
			s.t.Logf("%s said:\n%s", name, p.text())
		}
	})
	return p
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// soon is how long anything may take that has no limit of its own.
const soon = time.Minute

// eventually waits for something that happens elsewhere.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(soon)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: did not happen within %s", what, soon)
		}
	}
}
