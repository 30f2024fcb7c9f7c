// Package testnet has the hostile world that tests run against, in process and
// on loopback: an ACME authority with Boulder's CAA step, an AWS account that
// checks signatures, and a DNS server that fails on demand. Only tests import
// it.
package testnet

import (
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
)

// Paths of Pebble's front end that the counters know.
const (
	pathNewOrder   = "/order-plz"
	pathNewAccount = "/sign-me-up"
	pathChallenge  = "/chalZ/"
)

// pebbleEnv sets what Pebble reads from the environment in its constructors:
// no waits before a validation, the usual 5 % of nonces refused so that every
// test meets one now and then, and no authorization used twice. It is set once
// for the process, because testing's Setenv forbids parallel tests.
var pebbleEnv = sync.OnceValue(func() error {
	for k, v := range map[string]string{
		"PEBBLE_VA_NOSLEEP":      "1",
		"PEBBLE_WFE_NONCEREJECT": "5",
		"PEBBLE_AUTHZREUSE":      "0",
	} {
		if err := os.Setenv(k, v); err != nil {
			return err
		}
	}
	return nil
})

// CAOptions says what kind of authority NewCA makes.
type CAOptions struct {
	// HTTPPort and TLSPort are where the authority connects to for http-01
	// and tls-alpn-01, on the addresses the DNS gives. Zero: a port where
	// nothing answers.
	HTTPPort, TLSPort int

	// DNS is the resolver the authority asks. Nil: one of its own, in which
	// every name is 127.0.0.1.
	DNS *DNS

	// CheckCAA makes the authority look up CAA after a validation, and fail
	// with Boulder's words. Pebble itself never does.
	CheckCAA bool

	// CAATimeout is how long one of three CAA queries may take. Zero: 200 ms.
	CAATimeout time.Duration

	// Profiles are the certificate profiles and their lifetimes. Nil:
	// classic with 90 days, shortlived with 160 hours.
	Profiles map[string]time.Duration

	// EAB are the external account keys by their key id, base64url without
	// padding. Not empty: accounts must be bound to one of them.
	EAB map[string]string

	// Log gets Pebble's own log. Nil discards it.
	Log io.Writer
}

// CA is an ACME authority in this process, ended at the end of the test.
// Pebble leaves one goroutine behind for each. Its methods may be called from
// several goroutines.
//
// Tests that run in parallel need different names: certmagic keeps the open
// challenges of the whole process by name, and one test's clean-up would take
// another's challenge away.
type CA struct {
	DirectoryURL string         // RFC 8555 section 7.1.1
	RootPEM      []byte         // of the authority's own HTTPS endpoint
	RootFile     string         // the same as a file
	IssuerRoots  *x509.CertPool // verifies the certificates it issues
	DNS          *DNS           // the resolver it asks

	opt   CAOptions
	store *db.MemoryStore

	mu       sync.Mutex
	down     bool
	front    func(http.ResponseWriter, *http.Request) bool
	requests int
	orders   []time.Time
	accounts int
	failed   []string
}

// NewCA starts an authority.
func NewCA(t testing.TB, opt CAOptions) *CA {
	t.Helper()
	if err := pebbleEnv(); err != nil {
		t.Fatal(err)
	}
	if opt.DNS == nil {
		opt.DNS = NewDNS(t)
		opt.DNS.AnswerAll("127.0.0.1")
	}
	if opt.CAATimeout == 0 {
		opt.CAATimeout = 200 * time.Millisecond
	}
	if opt.Profiles == nil {
		opt.Profiles = map[string]time.Duration{"classic": 90 * 24 * time.Hour, "shortlived": 160 * time.Hour}
	}
	if opt.Log == nil {
		opt.Log = io.Discard
	}
	if opt.HTTPPort == 0 {
		opt.HTTPPort = 1
	}
	if opt.TLSPort == 0 {
		opt.TLSPort = 1
	}
	profiles := make(map[string]ca.Profile, len(opt.Profiles))
	for name, life := range opt.Profiles {
		profiles[name] = ca.Profile{ValidityPeriod: uint64(life / time.Second)}
	}
	lg := log.New(opt.Log, "pebble ", 0)
	c := &CA{opt: opt, DNS: opt.DNS, store: db.NewMemoryStore()}
	for kid, key := range opt.EAB {
		if err := c.store.AddExternalAccountKeyByID(kid, key); err != nil {
			t.Fatal(err)
		}
	}
	impl := ca.New(lg, c.store, "", "ecdsa", 0, 1, profiles)
	check := va.New(lg, opt.HTTPPort, opt.TLSPort, true, opt.DNS.Addr, c.store)
	front := wfe.New(lg, c.store, check, impl, []string{"letsencrypt.org"}, true, len(opt.EAB) > 0, 1, 1)
	srv := httptest.NewUnstartedServer(c.gate(front.Handler()))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // connections cut by SetDown
	srv.StartTLS()
	t.Cleanup(srv.Close)

	c.DirectoryURL = srv.URL + wfe.DirectoryPath
	c.RootPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	c.RootFile = filepath.Join(t.TempDir(), "acme-root.pem")
	if err := os.WriteFile(c.RootFile, c.RootPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	c.IssuerRoots = x509.NewCertPool()
	c.IssuerRoots.AddCert(impl.GetRootCert(0).Cert)
	return c
}

// SetDown makes the authority cut every connection without an answer, or
// answer again.
func (c *CA) SetDown(down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = down
}

// SetFront puts f before every request: when it returns true it has answered.
// With it a test makes the authority hang, or answer 429 or 503. Nil takes it
// away.
func (c *CA) SetFront(f func(http.ResponseWriter, *http.Request) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.front = f
}

// Block makes the authority refuse a name and those below it.
func (c *CA) Block(t testing.TB, name string) {
	t.Helper()
	if err := c.store.AddBlockedDomain(name); err != nil {
		t.Fatal(err)
	}
}

// Requests is how many requests arrived, also while down.
func (c *CA) Requests() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.requests
}

// Orders is how many orders were made. A newOrder request whose nonce was
// refused made none and does not count.
func (c *CA) Orders() int { return len(c.OrderTimes()) }

// OrderTimes are the times of Orders.
func (c *CA) OrderTimes() []time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]time.Time(nil), c.orders...)
}

// Accounts is how many newAccount requests were answered with a new account.
func (c *CA) Accounts() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.accounts
}

// Failed are the words of the authorizations that the CAA step failed.
func (c *CA) Failed() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.failed...)
}

// gate stands before Pebble: switches, counters and the CAA step.
func (c *CA) gate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		down, front := c.down, c.front
		c.requests++
		c.mu.Unlock()
		if down {
			panic(http.ErrAbortHandler) // net/http cuts the connection
		}
		if front != nil && front(w, r) {
			return
		}
		if r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, pathChallenge) && c.opt.CheckCAA {
			c.challenge(next, w, r)
			return
		}
		seen := &statusWriter{ResponseWriter: w}
		next.ServeHTTP(seen, r)
		if r.Method != http.MethodPost || seen.status != http.StatusCreated {
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		switch r.URL.Path {
		case pathNewOrder:
			c.orders = append(c.orders, time.Now())
		case pathNewAccount:
			c.accounts++
		}
	})
}

// statusWriter remembers the status.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (s *statusWriter) WriteHeader(code int) {
	s.status = code
	s.ResponseWriter.WriteHeader(code)
}
