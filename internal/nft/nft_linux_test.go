package nft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// soon is how long an event may take on a machine that is busy otherwise.
const soon = time.Minute

// space is a network namespace of a test's own: no rule of the machine is
// ever touched. It has lo with 127.0.0.0/8, fd00:1::1, fd00:2::1 and fd00:3::1.
type space struct{ fd int }

func newSpace(t *testing.T) space {
	t.Helper()
	ip, err := exec.LookPath("ip")
	if err != nil {
		if os.Getenv("POSTERN_CI") != "" {
			t.Fatal("ip (iproute2) is missing")
		}
		t.Skip("ip (iproute2) is missing: no network of the test's own")
	}
	var s space
	done := make(chan error)
	go func() { // the thread ends with the goroutine, and nobody else gets it
		runtime.LockOSThread()
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("a network namespace needs CAP_SYS_ADMIN: %w", err)
			}
			for _, args := range []string{"link set lo up", "-6 addr add fd00:1::1/64 dev lo nodad", "-6 addr add fd00:2::1/64 dev lo nodad", "-6 addr add fd00:3::1/64 dev lo nodad"} {
				if out, err := exec.Command(ip, strings.Fields(args)...).CombinedOutput(); err != nil {
					return fmt.Errorf("ip %s: %w: %s", args, err, out)
				}
			}
			s.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			return err
		}()
	}()
	if err := <-done; err != nil {
		t.Skipf("no network of the test's own: %v", err)
	}
	t.Cleanup(func() { _ = unix.Close(s.fd) })
	conn, err := nftables.New(nftables.WithNetNSFd(s.fd))
	if err == nil {
		_, err = conn.ListTables()
	}
	if err != nil {
		t.Skipf("nftables does not work in a network of the test's own: %v", err)
	}
	return s
}

// do calls f with the sockets of the namespace.
func (s space) do(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(s.fd, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// serve accepts connections until the test ends and returns the port.
func (s space) serve(t *testing.T) uint16 {
	t.Helper()
	var l net.Listener
	err := s.do(func() (err error) {
		l, err = net.Listen("tcp", "[::]:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-ended })
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// dial connects from an address to the port.
func (s space) dial(from string, port uint16, patience time.Duration) error {
	to := "127.0.0.1"
	if strings.Contains(from, ":") {
		to = "fd00:3::1"
	}
	return s.do(func() error {
		d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := d.Dial("tcp", net.JoinHostPort(to, fmt.Sprint(port)))
		if err == nil {
			_ = c.Close()
		}
		return err
	})
}

// passes and drops assert what happens to a client.
func (s space) passes(t *testing.T, from string, port uint16) {
	t.Helper()
	if err := s.dial(from, port, soon); err != nil {
		t.Errorf("%s: %v, want a connection", from, err)
	}
}

func (s space) drops(t *testing.T, from string, port uint16) {
	t.Helper()
	var timeout interface{ Timeout() bool }
	if err := s.dial(from, port, 300*time.Millisecond); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("%s: %v, want no answer at all", from, err)
	}
}

// elements lists a set as the kernel has it.
func (s space) elements(f form) ([]nftables.SetElement, error) {
	i := slices.IndexFunc(forms, func(known struct {
		form
		set string
	}) bool {
		return known.form == f
	})
	conn, err := nftables.New(nftables.WithNetNSFd(s.fd))
	if err != nil {
		return nil, err
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: "postern"}
	kind := nftables.TypeIPAddr
	if f.v6 {
		kind = nftables.TypeIP6Addr
	}
	return conn.GetSetElements(&nftables.Set{Table: table, Name: forms[i].set, KeyType: kind})
}

// count is the number of elements of all sets, -1 without a table.
func (s space) count() int {
	n := 0
	for _, f := range forms {
		all, err := s.elements(f.form)
		if err != nil {
			return -1
		}
		n += len(all)
	}
	return n
}

// eventually waits for something another goroutine or the kernel does.
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

// bench is a Drop in a namespace, with the bans a guard would have.
type bench struct {
	space
	*Drop
	log *lines

	mu   sync.Mutex
	bans []Ban
}

func newBench(t *testing.T, cfg Config) *bench {
	t.Helper()
	b := &bench{space: newSpace(t), log: new(lines)}
	cfg.NetNS, cfg.Log = b.fd, slog.New(slog.NewTextHandler(b.log, nil))
	cfg.Bans = func() []Ban {
		b.mu.Lock()
		defer b.mu.Unlock()
		return append([]Ban(nil), b.bans...)
	}
	b.Drop = New(cfg)
	return b
}

// ban does what a guard does.
func (b *bench) ban(prefix string, d time.Duration) {
	ban := Ban{netip.MustParsePrefix(prefix), time.Now().Add(d)}
	b.mu.Lock()
	b.bans = append(b.bans, ban)
	b.mu.Unlock()
	b.Put(ban)
}

// run starts the Drop and returns what ends it.
func (b *bench) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	eventually(t, "the table is in place", func() bool { return b.Status().Active })
	return stop
}

// lines is a log.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

func TestBannedCannotConnect(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	b := newBench(t, Config{Registerer: reg, Spares: func(p netip.Prefix) bool { return p.Contains(netip.MustParseAddr("127.0.0.7")) }})
	ours, other := b.serve(t), b.serve(t)
	b.SetPorts([]uint16{ours}, nil)
	b.ban("127.0.0.66/32", time.Hour) // before the start
	stop := b.run(t)
	b.drops(t, "127.0.0.66", ours)

	b.ban("127.0.0.5/32", time.Hour)
	b.ban("127.0.0.7/32", time.Hour) // spared
	b.ban("fd00:1::/64", time.Hour)
	eventually(t, "three bans are in the kernel", func() bool { return b.count() == 3 })
	b.drops(t, "127.0.0.5", ours)
	b.drops(t, "fd00:1::1", ours)
	b.passes(t, "127.0.0.6", ours)
	b.passes(t, "127.0.0.7", ours)
	b.passes(t, "fd00:2::1", ours)
	b.passes(t, "127.0.0.5", other) // not our port
	if got := b.Status().Banned; got != 3 {
		t.Errorf("Status: %d banned, want 3", got)
	}
	eventually(t, "the effect was verified", func() bool { return b.log.count("kernel drop is in effect") == 1 })

	b.Remove(netip.MustParsePrefix("127.0.0.5/32"))
	b.Remove(netip.MustParsePrefix("127.0.0.99/32")) // never was there
	eventually(t, "a ban was taken back", func() bool { return b.count() == 2 })
	b.passes(t, "127.0.0.5", ours)
	b.drops(t, "127.0.0.66", ours)
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v %v", problems, err)
	}

	stop()
	if got := b.count(); got != -1 {
		t.Errorf("%d elements after the exit, want no table", got)
	}
	b.passes(t, "127.0.0.66", ours)
	if b.log.count("level=ERROR") > 0 {
		t.Errorf("the log has errors:\n%s", b.log.buf.String())
	}
}

func TestBannedNetworks(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{})
	port := b.serve(t)
	b.SetPorts([]uint16{port}, nil)
	b.ban("127.0.9.0/24", time.Hour)
	b.ban("fd00:1::/48", time.Hour)
	b.run(t)
	b.drops(t, "127.0.9.200", port)
	b.drops(t, "fd00:1::1", port)
	b.passes(t, "127.0.8.200", port)
	b.passes(t, "fd00:2::1", port)
}

// HTTP/3 comes over UDP.
func TestBannedDatagrams(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{})
	var ours, other net.PacketConn
	err := b.do(func() (err error) {
		if ours, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			return err
		}
		other, err = net.ListenPacket("udp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	defer other.Close()
	b.SetPorts(nil, []uint16{uint16(ours.LocalAddr().(*net.UDPAddr).Port)})
	b.ban("127.0.0.5/32", time.Hour)
	b.run(t)
	send := func(from string, to net.PacketConn) {
		t.Helper()
		err := b.do(func() error {
			d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}
			c, err := d.Dial("udp", to.LocalAddr().String())
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte(from))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	first := func(c net.PacketConn) string {
		t.Helper()
		buf := make([]byte, 64)
		if err := c.SetReadDeadline(time.Now().Add(soon)); err != nil {
			t.Fatal(err)
		}
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	send("127.0.0.5", ours)
	send("127.0.0.6", ours)
	if got := first(ours); got != "127.0.0.6" {
		t.Errorf("the first datagram that came is of %s, want 127.0.0.6", got)
	}
	send("127.0.0.5", other)
	if got := first(other); got != "127.0.0.5" {
		t.Errorf("another port got a datagram of %s, want 127.0.0.5", got)
	}
}

// A kernel that takes a ban and does not have it afterwards is told of.
func TestNoEffect(t *testing.T) {
	b := newBench(t, Config{})
	table, err := b.install()
	if err != nil {
		t.Fatal(err)
	}
	b.verify(table, Ban{netip.MustParsePrefix("127.0.0.5/32"), time.Now().Add(time.Hour)})
	if b.log.count("kernel drop has no effect") != 1 || testutil.ToFloat64(b.metrics.errors) != 1 {
		t.Errorf("want a line that there is no effect:\n%s", b.log.buf.String())
	}
	if err := b.uninstall(); err != nil {
		t.Error(err)
	}
}

// What is lifted without a word is noticed when everything is compared.
func TestComparedWithAllBans(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{})
	b.run(t)
	b.ban("127.0.0.5/32", time.Hour)
	b.ban("127.0.0.6/32", time.Hour)
	eventually(t, "two bans are in the kernel", func() bool { return b.count() == 2 })
	b.mu.Lock()
	b.bans = []Ban{b.bans[1], {netip.MustParsePrefix("127.0.7.0/24"), time.Now().Add(time.Hour)}}
	b.mu.Unlock()
	eventually(t, "one ban was lifted, another one came", func() bool {
		old, err4 := b.elements(form{false, 32})
		net, errNet := b.elements(form{false, 24})
		return err4 == nil && errNet == nil && len(old) == 1 && len(net) == 1
	})
}

func TestTenThousandBans(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{})
	port := b.serve(t)
	b.SetPorts([]uint16{port}, []uint16{port})
	b.run(t)
	for i := range 10000 {
		b.ban(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 32).String(), time.Hour)
	}
	b.ban("127.0.0.5/32", time.Hour)
	eventually(t, "all bans are in the kernel", func() bool { return b.count() == 10001 })
	b.drops(t, "127.0.0.5", port)
	b.passes(t, "127.0.0.6", port)

	// The bans are also there when the table is read anew.
	b.Resync()
	before := testutil.ToFloat64(b.metrics.rebuilds)
	eventually(t, "the table was made anew", func() bool { return testutil.ToFloat64(b.metrics.rebuilds) > before && b.count() == 10001 })
	for i := range 300 { // more than one batch
		b.Remove(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, 0, 0}).Next(), 32))
		b.Remove(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 32))
	}
	eventually(t, "300 bans were taken back", func() bool { return b.count() == 9701 })
}

func TestLongerBanReplacesShorter(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{})
	b.run(t)
	left := func() time.Duration {
		all, err := b.elements(form{false, 32})
		if err != nil || len(all) != 1 {
			return 0
		}
		return all[0].Expires
	}
	b.ban("127.0.0.5/32", 10*time.Minute)
	eventually(t, "the ban is in the kernel", func() bool { return left() > 0 })
	if got := left(); got > 10*time.Minute {
		t.Errorf("the kernel has %s left, want at most 10m", got)
	}
	b.ban("127.0.0.5/32", 24*time.Hour)
	eventually(t, "the ban lasts longer", func() bool { return left() > 23*time.Hour })
}

func TestFlushedByAnotherProgram(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{})
	b.run(t)
	b.ban("127.0.0.5/32", time.Hour)
	eventually(t, "the ban is in the kernel", func() bool { return b.count() == 1 })

	conn, err := nftables.New(nftables.WithNetNSFd(b.fd))
	if err != nil {
		t.Fatal(err)
	}
	conn.FlushRuleset()
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	b.ban("127.0.0.6/32", time.Hour) // finds out
	eventually(t, "both bans are in the kernel", func() bool { return b.count() == 2 })
	if b.log.count("removed by another program") != 1 {
		t.Errorf("the log does not tell that the table was removed:\n%s", b.log.buf.String())
	}
}

func TestForeignTablesAreLeftAlone(t *testing.T) {
	b := newBench(t, Config{})
	conn, err := nftables.New(nftables.WithNetNSFd(b.fd))
	if err != nil {
		t.Fatal(err)
	}
	conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "filter"})
	conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "postern"})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	b.run(t)()
	tables, err := conn.ListTables()
	if err != nil || len(tables) != 2 {
		t.Errorf("tables after the exit: %d (%v), want the two that were there", len(tables), err)
	}
}

// TestDropThenDie is no test: it is the process that TestCrash kills.
func TestDropThenDie(t *testing.T) {
	var port uint16
	var end int64
	if _, err := fmt.Sscanf(os.Getenv("POSTERN_NFT_VICTIM"), "%d %d", &port, &end); err != nil {
		t.Skip("only TestCrash starts this, in a process of its own")
	}
	bans := []Ban{{netip.MustParsePrefix("127.0.0.5/32"), time.UnixMilli(end)}}
	d := New(Config{NetNS: 3, Bans: func() []Ban { return bans }})
	d.SetPorts([]uint16{port}, nil)
	done := make(chan error, 1)
	go func() { done <- d.Run(t.Context()) }()
	eventually(t, "the table is in place", func() bool { return d.Status().Active })
	fmt.Println("in place")
	<-done
}

func TestCrash(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{})
	port := b.serve(t)
	end := time.Now().Add(8 * time.Second)
	victim := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDropThenDie$", "-test.v")
	victim.Env = append(os.Environ(), fmt.Sprintf("POSTERN_NFT_VICTIM=%d %d", port, end.UnixMilli()))
	victim.ExtraFiles = []*os.File{os.NewFile(uintptr(dup(t, b.fd)), "netns")}
	out := new(lines)
	victim.Stdout, victim.Stderr = out, out
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the process has banned", func() bool { return out.count("in place") > 0 })
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait()
	_ = victim.ExtraFiles[0].Close()

	if err := b.dial("127.0.0.5", port, 300*time.Millisecond); err == nil && time.Now().Before(end) {
		t.Error("the ban ended with the process")
	}
	b.passes(t, "127.0.0.6", port)
	eventually(t, "the kernel lets go by itself", func() bool { return b.dial("127.0.0.5", port, time.Second) == nil })
	if b.count() != 0 {
		t.Errorf("%d elements in the table that was left, want an empty one", b.count())
	}

	// The next process replaces what was left.
	b.ban("127.0.0.6/32", time.Hour)
	b.SetPorts([]uint16{port}, nil)
	stop := b.run(t)
	b.drops(t, "127.0.0.6", port)
	stop()
	if got := b.count(); got != -1 {
		t.Errorf("%d elements after the exit, want no table", got)
	}
}

func dup(t *testing.T, fd int) int {
	t.Helper()
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestWithoutTheRight(t *testing.T) {
	s := newSpace(t)
	log := new(lines)
	d := New(Config{Log: slog.New(slog.NewTextHandler(log, nil)), Bans: func() []Ban { return nil }})
	err := s.do(func() error { // on a thread that nobody uses afterwards
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&hdr, &none[0]); err != nil {
			t.Errorf("give up every capability: %v", err)
		}
		_, err := d.install()
		return err
	})
	if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "AmbientCapabilities=") {
		t.Errorf("install without CAP_NET_ADMIN: %v, want what to do about it", err)
	}
	d.tell(err)
	d.tell(err)
	if log.count("level=ERROR") != 1 || d.Status().Active || d.Status().Err == nil {
		t.Errorf("want one line, got %+v and\n%s", d.Status(), log.buf.String())
	}
	if err := d.uninstall(); err != nil {
		t.Errorf("uninstall of nothing: %v", err)
	}
}
