package tlsmgr

import (
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/internal/testnet"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// house is a Manager behind a plain and a TLS listener, with an authority that
// connects to them. Its name differs from every other house's: certmagic keeps
// open challenges by name for the whole process, and tests run in parallel.
type house struct {
	name string
	ca   *testnet.CA
	http net.Listener
	tls  net.Listener
	m    atomic.Pointer[Manager] // who answers http-01
}

var houses atomic.Int64

// clockIsSet is a Config.Clock: the machines tests run on need no time service.
func clockIsSet() (synced bool, up time.Duration) { return true, time.Hour }

func newHouse(t *testing.T, opt testnet.CAOptions) *house {
	t.Helper()
	h := &house{name: fmt.Sprintf("home%d.test.example", houses.Add(1)), http: listen(t), tls: listen(t)}
	opt.HTTPPort, opt.TLSPort = portOf(h.http), portOf(h.tls)
	h.ca = testnet.NewCA(t, opt)
	srv := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m := h.m.Load(); m == nil || !m.HandleHTTPChallenge(w, r) {
			http.Error(w, "no challenge here", http.StatusTeapot)
		}
	})}
	done := make(chan struct{})
	go func() { // Cleanup waits for it
		defer close(done)
		_ = srv.Serve(h.http)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return h
}

// config is a Config for the house's authority.
func (h *house) config(dir string, names ...string) Config {
	return Config{Dir: dir, Email: "who@example.org", Names: names,
		ACME:       []ACME{{Directory: h.ca.DirectoryURL, RootFile: h.ca.RootFile, Profile: "classic"}},
		Clock:      clockIsSet,
		ListenHost: "127.0.0.1", HTTPPort: portOf(h.http), HTTPSPort: portOf(h.tls)}
}

// open makes the Manager and opens the door.
func (h *house) open(t *testing.T, cfg Config) (*Manager, *door) {
	t.Helper()
	m := mustNew(t, cfg)
	h.m.Store(m)
	return m, openDoorOn(t, h.tls, m.TLSConfig())
}

func TestACMEIssuesAndRestartsWithoutAuthority(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		challenge string
	}{
		{"http-01"},
		{"tls-alpn-01"},
	} {
		t.Run(tc.challenge, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, testnet.CAOptions{CheckCAA: true})
			cfg := h.config(t.TempDir(), h.name)
			cfg.Challenge = tc.challenge
			m, d := h.open(t, cfg)
			stop := run(t, m)
			first := served(t, d, h.name, h.ca.IssuerRoots)
			stop()
			m.Close()
			if n := h.ca.Orders(); n != 1 {
				t.Errorf("orders %d, want 1", n)
			}
			if life := first.NotAfter.Sub(first.NotBefore).Round(time.Hour); life != 90*24*time.Hour {
				t.Errorf("lifetime %v, want the classic profile's", life)
			}

			h.ca.SetDown(true)
			requests := h.ca.Requests()
			again := mustNew(t, cfg) // no Run: what is on disk is served at once
			d2 := openDoor(t, again.TLSConfig())
			leaf, err := d2.dial(h.name, h.ca.IssuerRoots)
			if err != nil {
				t.Fatal(err)
			}
			if leaf.SerialNumber.Cmp(first.SerialNumber) != 0 {
				t.Errorf("serial %v after the restart, want %v", leaf.SerialNumber, first.SerialNumber)
			}
			if n := h.ca.Requests(); n != requests {
				t.Errorf("the authority was asked %d times by a restart", n-requests)
			}
		})
	}
}

func TestAuthorityDownFailsFastAndRecovers(t *testing.T) {
	t.Parallel()
	h := newHouse(t, testnet.CAOptions{})
	h.ca.SetDown(true)
	cfg := h.config(t.TempDir(), h.name)
	book := &logBook{}
	cfg.Log = slog.New(slog.NewTextHandler(book, &slog.HandlerOptions{Level: slog.LevelDebug}))
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(book)
		}
	})
	m, d := h.open(t, cfg)
	run(t, m)
	eventually(t, "a failed attempt", func() bool { return m.Status()[0].LastError != "" })
	begun := time.Now()
	if _, err := d.dial(h.name, h.ca.IssuerRoots); err == nil {
		t.Fatal("served without a certificate")
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("handshake without a certificate took %v", took)
	}
	eventually(t, "a refusal", func() bool { return len(d.refusals()) > 0 })
	if got := d.refusals(); !slices.Equal(got, []string{"no_certificate"}) {
		t.Errorf("refusals %q", got)
	}
	if s := m.Status()[0]; s.State != StateMissing || s.NextAttempt.IsZero() || s.Waiting != "authority" || s.AttemptsLeft != 4 {
		t.Errorf("status %+v", s)
	}
	h.ca.SetDown(false)
	if err := m.Apply(cfg); err != nil { // a reload tries at once
		t.Fatal(err)
	}
	served(t, d, h.name, h.ca.IssuerRoots)
	if s := m.Status()[0]; s.State != StateOK || s.LastError != "" {
		t.Errorf("status after recovery %+v", s)
	}
}

// The trouble this program exists for, as far as this version goes: the words
// of the authority reach the status, and one attempt costs one failed
// authorization.
func TestCAAOutageIsTold(t *testing.T) {
	t.Parallel()
	h := newHouse(t, testnet.CAOptions{CheckCAA: true, CAATimeout: time.Second})
	h.ca.DNS.SetFault(h.name, "CAA", testnet.Drop)
	book := &logBook{}
	cfg := h.config(t.TempDir(), h.name)
	cfg.Log = book.logger()
	m, _ := h.open(t, cfg)
	run(t, m)
	want := "While processing CAA for " + h.name + ": DNS problem: query timed out looking up CAA for " + h.name
	eventually(t, "a failed attempt", func() bool { return m.Status()[0].LastError != "" })
	s := m.Status()[0]
	if s.LastError != want {
		t.Errorf("last error %q\nwant %q", s.LastError, want)
	}
	if n := len(h.ca.Failed()); n != 1 {
		t.Errorf("one attempt cost %d failed authorizations, want 1", n)
	}
	if left := time.Until(s.NextAttempt); left < 30*time.Second {
		t.Errorf("next attempt in %v, want the back-off of a refusal", left)
	}
	eventually(t, "the warning", func() bool { return strings.Contains(book.String(), "certificate not obtained") })
	if n := strings.Count(book.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, book)
	}
}

func TestOnDemandOnlyForAllowedNames(t *testing.T) {
	t.Parallel()
	h := newHouse(t, testnet.CAOptions{})
	cfg := h.config(t.TempDir())
	cfg.OnDemand = &OnDemand{Allow: []string{"*.apps.test.example", "exact.test.example"}}
	m, d := h.open(t, cfg)
	run(t, m)
	for _, name := range []string{"evil.example", "test.example", "apps.test.example", "a.b.apps.test.example",
		"-x.apps.test.example", "under_score.apps.test.example", "localhost"} {
		if _, err := d.dial(name, h.ca.IssuerRoots); err == nil {
			t.Errorf("%s was served", name)
		}
	}
	if n := h.ca.Requests(); n != 0 {
		t.Errorf("refused names made %d requests at the authority", n)
	}
	if got := stored(t, cfg.Dir); len(got) != 0 {
		t.Errorf("refused names left %q", got)
	}
	eventually(t, "seven refusals", func() bool { return len(d.refusals()) == 7 })
	if got := slices.Compact(d.refusals()); !slices.Equal(got, []string{"unknown_server_name"}) {
		t.Errorf("refusals %q", got)
	}

	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := d.dial("A.apps.test.example", h.ca.IssuerRoots); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := h.ca.Orders(); n != 1 {
		t.Errorf("eight handshakes made %d orders, want 1", n)
	}
	if got := stored(t, cfg.Dir); !slices.Equal(got, []string{"a.apps.test.example"}) {
		t.Errorf("stored %q", got)
	}
	if n := m.OnDemandCount(); n != 1 {
		t.Errorf("on-demand certificates %d, want 1", n)
	}
	if len(m.Status()) != 0 {
		t.Errorf("status lists names no site has: %+v", m.Status())
	}

	// A reload that takes the rules away takes the name away.
	cfg.OnDemand = nil
	if err := m.Apply(cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := d.dial("a.apps.test.example", h.ca.IssuerRoots); err == nil {
		t.Error("served after its rule was removed")
	}
	if n := m.OnDemandCount(); n != 0 {
		t.Errorf("on-demand certificates %d after the reload, want 0", n)
	}
}

func TestOnDemandFailureIsNotRepeated(t *testing.T) {
	t.Parallel()
	h := newHouse(t, testnet.CAOptions{CheckCAA: true, CAATimeout: time.Second})
	h.ca.DNS.SetFault("bad.apps.test.example", "CAA", testnet.ServFail)
	cfg := h.config(t.TempDir())
	reg := prometheus.NewRegistry()
	cfg.Registerer = reg
	cfg.OnDemand = &OnDemand{Allow: []string{"*.apps.test.example"}, PerHour: 2}
	m, d := h.open(t, cfg)
	for range 5 {
		if _, err := d.dial("bad.apps.test.example", h.ca.IssuerRoots); err == nil {
			t.Fatal("served")
		}
	}
	if n := h.ca.Orders(); n != 1 {
		t.Errorf("five handshakes made %d orders, want 1", n)
	}
	if got := testutil.ToFloat64(m.metrics.refused.WithLabelValues("backoff")); got != 4 {
		t.Errorf("refused for back-off %v, want 4", got)
	}
	if _, err := d.dial("good.apps.test.example", h.ca.IssuerRoots); err != nil {
		t.Error(err)
	}
	// The hour's budget is spent, for every name.
	if _, err := d.dial("more.apps.test.example", h.ca.IssuerRoots); err == nil {
		t.Error("served beyond the budget")
	}
	if n := h.ca.Orders(); n != 2 {
		t.Errorf("orders %d, want 2", n)
	}
	if got := testutil.ToFloat64(m.metrics.refused.WithLabelValues("budget")); got != 1 {
		t.Errorf("refused for budget %v, want 1", got)
	}
}

func TestChallengeHandlerAnswersOnlyOpenChallenges(t *testing.T) {
	t.Parallel()
	h := newHouse(t, testnet.CAOptions{})
	m := mustNew(t, h.config(t.TempDir(), h.name))
	h.m.Store(m)
	for _, path := range []string{"/.well-known/acme-challenge/token", "/.well-known/acme-challenge/", "/"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+h.http.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = h.name
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusTeapot {
			t.Errorf("%s answered %d, want it left alone", path, resp.StatusCode)
		}
	}
}

func TestExternalAccountBinding(t *testing.T) {
	t.Parallel()
	key := "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
	h := newHouse(t, testnet.CAOptions{EAB: map[string]string{"kid-1": key}})
	cfg := h.config(t.TempDir(), h.name)
	cfg.ACME[0].EAB = &EAB{KeyID: "kid-1", MACKey: key}
	m, d := h.open(t, cfg)
	run(t, m)
	served(t, d, h.name, h.ca.IssuerRoots)
	if n := h.ca.Accounts(); n != 1 {
		t.Errorf("accounts %d, want 1", n)
	}
}
