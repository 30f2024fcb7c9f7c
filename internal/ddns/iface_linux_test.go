package ddns

import (
	"context"
	"net/netip"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// inNetwork runs f on a thread with an empty network of its own, which ends
// with it.
func inNetwork(t *testing.T, f func(ip func(args ...string))) {
	t.Helper()
	tool, err := exec.LookPath("ip")
	if err != nil {
		t.Skip("no ip(8), which makes the addresses")
	}
	done := make(chan string)
	go func() { // waited for
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with its network
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			done <- "a network namespace needs root: " + err.Error()
			return
		}
		f(func(args ...string) {
			if out, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
				t.Errorf("ip %v: %v: %s", args, err, out)
			}
		})
	}()
	if why := <-done; why != "" {
		t.Skip(why)
	}
}

// TestKernelAddresses: which addresses the kernel calls stable, and that it
// tells when they change.
func TestKernelAddresses(t *testing.T) {
	inNetwork(t, func(ip func(...string)) {
		ip("link", "set", "lo", "up")
		ip("addr", "add", "192.0.2.1/32", "dev", "lo")
		ip("addr", "add", "2001:db8:1::7/128", "dev", "lo", "nodad")
		ip("addr", "add", "2001:db8:2::7/128", "dev", "lo", "nodad", "valid_lft", "3600", "preferred_lft", "0")
		ip("addr", "add", "fd00::7/128", "dev", "lo", "nodad")
		ip("-6", "route", "add", "default", "dev", "lo")
		all, err := localAddrs()
		if err != nil {
			t.Error(err)
			return
		}
		find := func(a string) LocalAddr {
			for _, l := range all {
				if l.Addr == netip.MustParseAddr(a) {
					return l
				}
			}
			t.Errorf("%s is not among %+v", a, all)
			return LocalAddr{}
		}
		if l := find("2001:db8:1::7"); l.Deprecated || l.Tentative || l.Temporary || !l.Default || l.Link != "lo" || l.Preferred < 1000*time.Hour {
			t.Errorf("a good one: %+v", l)
		}
		if l := find("2001:db8:2::7"); !l.Deprecated {
			t.Errorf("one whose time is over: %+v", l)
		}
		if l := find("192.0.2.1"); l.Default || l.Link != "lo" {
			t.Errorf("an IPv4 one: %+v", l)
		}
		if got := chooseV6(netip.Addr{}, all); got != netip.MustParseAddr("2001:db8:1::7") {
			t.Errorf("chosen %v", got)
		}

		// The socket belongs to the network of the thread that opens it.
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		changes := 0
		sock, err := openLinks()
		if err != nil {
			t.Error(err)
			return
		}
		ip("addr", "add", "2001:db8:3::7/128", "dev", "lo", "nodad")
		if err := sock.follow(ctx, func() { changes++; cancel() }); err != nil || changes == 0 {
			t.Errorf("%d changes told, %v", changes, err)
		}
	})
}
