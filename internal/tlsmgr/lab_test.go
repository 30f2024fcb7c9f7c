package tlsmgr

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/internal/testnet"
)

// The incident in real time, against a real authority and with the real check:
// the renewal is due, CAA is dropped for 20 s, and comes back.
func TestIncidentInRealTime(t *testing.T) {
	t.Parallel()
	l := newLab(t, 250*time.Millisecond, nil)
	var mu sync.Mutex
	var said []Notice
	l.cfg.OnNotice = func(n Notice) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, n)
	}
	l.cfg.CheckEvery = time.Second
	l.open(false)
	first := served(t, l.door, l.name, l.ca.IssuerRoots)
	l.stop()
	l.m.Close()
	orders := l.ca.Orders()

	l.dns.SetFault(l.name, "CAA", testnet.Drop)
	l.open(true)
	began := time.Now()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for time.Since(began) < 20*time.Second {
		<-tick.C
		leaf, err := l.door.dial(l.name, l.ca.IssuerRoots)
		if err != nil || leaf.SerialNumber.Cmp(first.SerialNumber) != 0 {
			t.Fatalf("after %v: %v, serial %v", time.Since(began), err, leaf)
		}
	}
	if n := l.ca.Orders() - orders; n != 0 || len(l.ca.Failed()) != 0 {
		t.Errorf("%d orders and %d failed authorizations during the outage, want none", n, len(l.ca.Failed()))
	}
	l.dns.SetFault(l.name, "CAA", testnet.NoFault)
	back := time.Now()
	eventually(t, "the renewal", func() bool {
		leaf, err := l.door.dial(l.name, l.ca.IssuerRoots)
		return err == nil && leaf.SerialNumber.Cmp(first.SerialNumber) != 0
	})
	if took := time.Since(back); took > 5*time.Second {
		t.Errorf("renewed %v after the recovery, want less than 5 s", took)
	}
	eventually(t, "both notices", func() bool { mu.Lock(); defer mu.Unlock(); return len(said) >= 2 })
	mu.Lock()
	defer mu.Unlock()
	checkPair(t, said, "dns")
	if !strings.Contains(said[0].Sentence, "CAA") {
		t.Errorf("told %q", said[0].Sentence)
	}
	if n := len(l.ca.Failed()); n != 0 {
		t.Errorf("%d failed authorizations, want none", n)
	}
}

// An address has a certificate of its own that needs no DNS, and it is what a
// client gets that connects by address.
func TestAddressCertificate(t *testing.T) {
	t.Parallel()
	for _, challenge := range []string{challengeHTTP, challengeALPN} {
		t.Run(challenge, func(t *testing.T) {
			l := newLab(t, 250*time.Millisecond, nil)
			l.cfg.Challenge = challenge
			l.cfg.IPs = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
			l.dns.SetFault("*", "*", testnet.Drop) // no DNS at all
			l.open(false)
			leaf := served(t, l.door, "127.0.0.1", l.ca.IssuerRoots)
			if life := leaf.NotAfter.Sub(leaf.NotBefore).Round(time.Hour); life != 160*time.Hour {
				t.Errorf("lifetime %v, want the short-lived profile's", life)
			}
			eventually(t, "the check of the name", func() bool { return l.status().Waiting == "dns" })
			var got []string
			for _, s := range l.m.Status() {
				got = append(got, s.Name+" "+s.State+" "+s.Waiting)
			}
			if want := []string{"127.0.0.1 ok ", l.name + " missing dns"}; !slices.Equal(got, want) {
				t.Errorf("status %q, want %q", got, want)
			}
			// Behind a router the local address is another one.
			for name, want := range map[string]bool{"127.0.0.1": true, "203.0.113.9": false} {
				if _, err := l.m.getCertificate(clientHello(name)); (err == nil) != want {
					t.Errorf("server name %s: %v", name, err)
				}
			}
			if own := l.m.addrs.Load().find("192.168.1.7", true); own != "127.0.0.1" {
				t.Errorf("a client that named nothing is served %q", own)
			}
		})
	}
}

// An authority that swallows connections costs 5 s, once, and the other ones
// nothing.
func TestBlackHoleAndASecondAuthority(t *testing.T) {
	t.Parallel()
	l := newLab(t, 250*time.Millisecond, nil)
	hole := testnet.NewCA(t, testnet.CAOptions{})
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	hole.SetFront(testnet.Hang(release))
	l.cfg.ACME = append([]ACME{{Directory: hole.DirectoryURL, RootFile: hole.RootFile}}, l.cfg.ACME...)
	l.cfg.Names = append(l.cfg.Names, "b-"+l.name, "c-"+l.name)
	l.open(false)
	began := time.Now()
	for _, n := range l.cfg.Names {
		served(t, l.door, n, l.ca.IssuerRoots)
	}
	if took := time.Since(began); took > 12*time.Second {
		t.Errorf("three names took %v past a black hole", took)
	}
	var got []string
	for _, a := range l.m.Authorities() {
		got = append(got, a.State)
	}
	if !slices.Equal(got, []string{StateDown, StateOK}) {
		t.Errorf("authorities %q", got)
	}
	if n := len(must(filepath.Glob(filepath.Join(l.cfg.Dir, "certificates", "*")))); n < 1 {
		t.Error("nothing stored")
	}
}

// Certmagic cannot reach an authority without the driver: its own renewals end
// at the gate.
func TestGateRefusesWhatTheDriverDidNotAsk(t *testing.T) {
	t.Parallel()
	l := newLab(t, 250*time.Millisecond, nil)
	l.open(false)
	served(t, l.door, l.name, l.ca.IssuerRoots)
	requests := l.ca.Requests()
	i := l.m.eng.now.Load().list[0]
	if err := i.config.RenewCertAsync(t.Context(), l.name, true); err == nil || !strings.Contains(err.Error(), errNotAsked.Error()) {
		t.Errorf("renewal %v, want %v", err, errNotAsked)
	}
	if err := i.config.ObtainCertAsync(t.Context(), "other-"+l.name); err == nil || !strings.Contains(err.Error(), errNotAsked.Error()) {
		t.Errorf("obtaining %v, want %v", err, errNotAsked)
	}
	if n := l.ca.Requests() - requests; n != 0 {
		t.Errorf("the authority was asked %d times", n)
	}
}
