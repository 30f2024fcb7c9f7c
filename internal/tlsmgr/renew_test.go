package tlsmgr

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"postern/internal/testnet"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// age replaces the stored local certificate for name by one that was signed
// long ago.
func age(t *testing.T, dir, name string, ago time.Duration) {
	t.Helper()
	ca := must(readLocalCA(LocalRootPath(dir), filepath.Join(localDir(dir), "root-key.pem"), time.Now()))
	base := filepath.Join(dir, "certificates", localIssuer{ca}.IssuerKey(), name, name)
	pair := must(tls.LoadX509KeyPair(base+".crt", base+".key"))
	der := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{name}}, pair.PrivateKey))
	csr := must(x509.ParseCertificateRequest(der))
	chain := must(ca.sign(t.Context(), csr, time.Now().Add(-ago)))
	if err := os.WriteFile(base+".crt", chain, 0o600); err != nil {
		t.Fatal(err)
	}
}

// The machine was off for a while: what it holds is served at once, and
// renewed without waiting for certmagic's ten-minute look.
func TestDueAtStart(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		ago   time.Duration
		state string
	}{
		{"due", 23 * time.Hour, StateExpiring},
		{"expired", 30 * time.Hour, StateExpired},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			host := tc.name + ".example" // certmagic's renewal jobs are one per name and process
			cfg := Config{Dir: t.TempDir(), Names: []string{host}}
			localManager(t, cfg).Close()
			age(t, cfg.Dir, host, tc.ago)
			cfg.Issuer = "local"
			m := mustNew(t, cfg)
			if s := m.Status()[0]; s.State != tc.state {
				t.Fatalf("state %s, want %s", s.State, tc.state)
			}
			d := openDoor(t, m.TLSConfig())
			if _, err := d.dial(host, nil); err != nil {
				t.Errorf("not served while due: %v", err)
			}
			run(t, m)
			eventually(t, "the renewal", func() bool { return m.Status()[0].State == StateOK })
			if _, err := d.dial(host, localRoots(t, cfg.Dir)); err != nil {
				t.Error(err)
			}
			if n := testutil.ToFloat64(m.metrics.attempts.WithLabelValues("renew", "ok")); n != 1 {
				t.Errorf("renewals counted %v, want 1", n)
			}
		})
	}
}

// Five days of virtual time: leaves of 24 h never run out, and the ticket keys
// rotate, with nothing but Run at work.
func TestDaysGoBy(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m := must(New(Config{Dir: dir, Issuer: "local", Names: []string{"days.example"}}))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }() // waited for below
		synctest.Wait()
		time.Sleep(time.Second)
		seen := map[string]bool{}
		keys := m.tickets.current()
		for hour := range 5 * 24 {
			s := m.Status()[0]
			if s.State != StateOK {
				t.Errorf("hour %d: %s %s", hour, s.State, s.LastError)
			}
			seen[s.NotAfter.String()] = true
			time.Sleep(time.Hour)
		}
		if n := len(seen); n < 9 || n > 11 {
			t.Errorf("%d certificates in five days, want one every 12 hours", n)
		}
		if now := m.tickets.current(); len(now) != ticketKeep || slices.Contains(now, keys[0]) {
			t.Errorf("ticket keys were not rotated: %d", len(now))
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		m.Close()
		time.Sleep(time.Minute) // certmagic's lock keepers notice that their files are gone
	})
}

// An authority that swallows connections costs an attempt a few seconds, and
// handshakes nothing.
func TestBlackHoledAuthority(t *testing.T) {
	t.Parallel()
	h := newHouse(t, testnet.CAOptions{})
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	h.ca.SetFront(func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return true
	})
	cfg := h.config(t.TempDir(), h.name)
	cfg.Files = []FileCert{{Hosts: []string{"file.example"}, Cert: filepath.Join(cfg.Dir, "c.pem"), Key: filepath.Join(cfg.Dir, "k.pem")}}
	writePair(t, cfg.Files[0].Cert, cfg.Files[0].Key, "file", time.Now().Add(time.Hour), "file.example")
	m, d := h.open(t, cfg)
	stop := run(t, m)
	eventually(t, "the attempt", func() bool { return h.ca.Requests() > 0 })
	begun := time.Now()
	if _, err := d.dial("file.example", nil); err != nil {
		t.Error(err)
	}
	if _, err := d.dial(h.name, nil); err == nil {
		t.Error("served without a certificate")
	}
	if took := time.Since(begun); took > 4*time.Second {
		t.Errorf("handshakes took %v while the authority hung", took)
	}
	stop() // ends the attempt too
	if took := time.Since(begun); took > 8*time.Second {
		t.Errorf("stopping took %v", took)
	}
}
