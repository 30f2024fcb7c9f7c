package tlsmgr

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"
)

// engine is the only code that knows certmagic. It never uses certmagic's
// package-wide defaults (any program importing it could change them): every
// field that New would fill from them is set here.
//
// Two certmagic configurations share one cache. "hot" has the bare issuers and
// belongs to every certificate in memory: certmagic's maintenance renews with
// it, and only a bare *ACMEIssuer sends ARI's "replaces" (RFC 9773 section 5).
// "first" obtains certificates we do not have; its issuers are wrapped so that
// they never ask a person at the terminal, and each knows one challenge type:
// a second one in the same attempt would count as a second failure at the
// authority. Neither has certmagic's on-demand mode: that hangs
// handshakes for minutes, and drops live certificates when a decision function
// says no; see ondemand.go for ours.
type engine struct {
	cache   *certmagic.Cache
	storage *certmagic.FileStorage
	log     *slog.Logger
	zap     *zap.Logger
	event   func(event)
	now     atomic.Pointer[issuers]

	mu     sync.Mutex
	loaded map[string]string // name in memory -> where it was loaded from; guarded by mu
}

// issuers are the configurations in use; replaced as a whole on reload.
type issuers struct {
	hot   *certmagic.Config
	first []*certmagic.Config // one for each challenge type; attempts take turns
	key   string              // where hot's certificates are stored
	label string              // acme or local
}

// event is what the engine tells about an attempt to get a certificate.
type event struct {
	name    string
	renewal bool
	err     error // nil: obtained
}

// errNotStored tells "there is none" from "it does not load".
var errNotStored = errors.New("no certificate in storage")

// shortTimeout shortens the time one HTTP request to an authority may take.
// The client of an issuer cannot be reached, and acmez fetches directories
// under one process-wide lock: with the default of 30 s a black-holed
// authority stops every other one for a minute and a half. This is the one
// package variable of certmagic that is ever set.
var shortTimeout = sync.OnceFunc(func() { certmagic.HTTPTimeout = 5 * time.Second })

// newEngine starts certmagic's maintenance goroutine; close ends it.
func newEngine(dir string, log *slog.Logger, on func(event)) *engine {
	shortTimeout()
	e := &engine{
		storage: &certmagic.FileStorage{Path: dir},
		log:     log,
		zap:     newZap(log),
		event:   on,
		loaded:  map[string]string{},
	}
	e.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) {
			if n := e.now.Load(); n != nil {
				return n.hot, nil
			}
			return nil, errors.New("no issuer configured")
		},
		Logger: e.zap,
	})
	return e
}

// prepare builds the issuers of cfg without using them yet.
func (e *engine) prepare(cfg Config) (*issuers, error) {
	if cfg.Issuer == issuerLocal {
		ca, err := openLocalCA(localDir(cfg.Dir), e.log)
		if err != nil {
			return nil, err
		}
		hot := e.config(true)
		hot.Issuers = []certmagic.Issuer{localIssuer{ca}}
		return &issuers{hot: hot, first: []*certmagic.Config{hot}, key: localIssuer{ca}.IssuerKey(), label: issuerLocal}, nil
	}
	tmpl, err := e.acmeTemplate(cfg)
	if err != nil {
		return nil, err
	}
	out := &issuers{hot: e.config(false), label: issuerACME}
	tmpl.DisableHTTPChallenge = !cfg.ACME.HTTP01 || cfg.HTTPPort == 0
	tmpl.DisableTLSALPNChallenge = !cfg.ACME.TLSALPN01 || cfg.HTTPSPort == 0
	bare := e.acmeIssuer(out.hot, tmpl)
	out.hot.Issuers = []certmagic.Issuer{bare}
	out.key = bare.IssuerKey()
	for _, only := range []struct{ noHTTP, noALPN bool }{{false, true}, {true, false}} {
		if (!only.noHTTP && tmpl.DisableHTTPChallenge) || (!only.noALPN && tmpl.DisableTLSALPNChallenge) {
			continue
		}
		one := tmpl
		one.DisableHTTPChallenge, one.DisableTLSALPNChallenge = only.noHTTP, only.noALPN
		c := e.config(false)
		c.Issuers = []certmagic.Issuer{quietIssuer{e.acmeIssuer(c, one)}}
		out.first = append(out.first, c)
	}
	return out, nil
}

// config makes a certmagic configuration with every field set that New would
// otherwise take from the package defaults.
func (e *engine) config(noARI bool) *certmagic.Config {
	return certmagic.New(e.cache, certmagic.Config{
		Storage:            e.storage,
		Issuers:            []certmagic.Issuer{}, // set by the caller; nil would mean the defaults
		KeySource:          certmagic.StandardKeyGenerator{KeyType: certmagic.P256},
		RenewalWindowRatio: certmagic.DefaultRenewalWindowRatio,
		OnEvent:            e.onEvent,
		ShouldEmitFunc:     func(string) bool { return false }, // only asked about the event of every handshake
		// No authority we know staples usefully any more, and with it on,
		// loading a certificate from disk could wait for the network.
		OCSP:                certmagic.OCSPConfig{DisableStapling: true},
		DisableStorageCheck: true, // New checks the folder once; this would write 10 KiB at every attempt
		DisableARI:          noARI,
		Logger:              e.zap,
	})
}

func (e *engine) acmeTemplate(cfg Config) (certmagic.ACMEIssuer, error) {
	t := certmagic.ACMEIssuer{
		CA:                        cfg.ACME.Directory,
		Email:                     cfg.Email,
		Agreed:                    true,
		Profile:                   cfg.ACME.Profile,
		ListenHost:                cfg.ListenHost,
		AltHTTPPort:               cfg.HTTPPort,
		AltTLSALPNPort:            cfg.HTTPSPort,
		DisableDistributedSolvers: true, // one node: no challenge files on disk
		CertObtainTimeout:         2 * time.Minute,
		HTTPProxy:                 http.ProxyFromEnvironment,
		Logger:                    e.zap,
	}
	if t.CA == "" {
		t.CA = certmagic.LetsEncryptProductionCA
	}
	if b := cfg.ACME.EAB; b != nil {
		t.ExternalAccount = &acme.EAB{KeyID: b.KeyID, MACKey: b.MACKey}
	}
	if f := cfg.ACME.RootFile; f != "" {
		pemBytes, err := os.ReadFile(f)
		if err != nil {
			return t, fmt.Errorf("tls acme root: %w", err)
		}
		t.TrustedRoots = x509.NewCertPool()
		if !t.TrustedRoots.AppendCertsFromPEM(pemBytes) {
			return t, fmt.Errorf("tls acme root: %s holds no certificate, want PEM", f)
		}
	}
	return t, nil
}

func (e *engine) acmeIssuer(cfg *certmagic.Config, t certmagic.ACMEIssuer) *certmagic.ACMEIssuer {
	iss := certmagic.NewACMEIssuer(cfg, t)
	iss.TestCA = "" // certmagic would send retries to Let's Encrypt's staging authority first
	return iss
}

// label names the kind of issuer in use: acme or local.
func (e *engine) label() string { return e.now.Load().label }

// counts reports whether the authority in use limits how much is asked of it.
func (e *engine) counts() bool { return e.label() == issuerACME }

// use makes i the issuers from now on.
func (e *engine) use(i *issuers) { e.now.Store(i) }

// onEvent hears certmagic. An error returned for cert_obtaining would abort the
// attempt: the place for a gate that knows the DNS is down (with
// certmagic.ErrNoRetry; nowhere else, or certificates in memory are lost).
func (e *engine) onEvent(_ context.Context, name string, data map[string]any) error {
	ev := event{}
	switch name {
	case "cert_obtained":
	case "cert_failed":
		if ev.err, _ = data["error"].(error); ev.err == nil {
			ev.err = errors.New("no reason given")
		}
	default:
		return nil
	}
	ev.name, _ = data["identifier"].(string)
	ev.renewal, _ = data["renewal"].(bool)
	e.event(ev)
	return nil
}

// load puts the stored certificate for name into memory, and lets go of older
// ones for the same name. It is errNotStored when there is none.
func (e *engine) load(ctx context.Context, name string) error {
	n := e.now.Load()
	cert, err := n.hot.CacheManagedCertificate(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return errNotStored
	}
	if err != nil {
		return err
	}
	var old []string
	for _, c := range e.cache.AllMatchingCertificates(name) {
		if c.Hash() != cert.Hash() && slices.Contains(c.Names, name) && !slices.Contains(old, c.Hash()) {
			old = append(old, c.Hash())
		}
	}
	if len(old) > 0 {
		e.cache.Remove(old)
	}
	e.mu.Lock()
	e.loaded[name] = n.key
	e.mu.Unlock()
	return nil
}

// obtain makes one attempt to get a first certificate for name and stores it;
// load brings it into memory. turn picks the challenge type. The local issuer
// waits for nothing but the disk. (certmagic's "sync" is the one without a
// retry loop; the other keeps the storage lock for up to 30 days.)
func (e *engine) obtain(ctx context.Context, name string, turn int) error {
	n := e.now.Load()
	if len(n.first) == 0 {
		return errors.New("no listener for an ACME challenge: http-01 needs the http listener, tls-alpn-01 the https one")
	}
	return n.first[turn%len(n.first)].ObtainCertSync(ctx, name)
}

// renewDue starts the renewal of what is due and returns; certmagic does the
// same by itself every ten minutes.
func (e *engine) renewDue(ctx context.Context) {
	if err := e.cache.RenewManagedCertificates(ctx); err != nil {
		e.log.Warn("renewal could not start", "err", err)
	}
}

// certificate finds hello's name in memory, or returns nil.
func (e *engine) certificate(hello *tls.ClientHelloInfo) *tls.Certificate {
	c, err := e.now.Load().hot.GetCertificate(hello)
	if err != nil {
		return nil
	}
	return c
}

// find returns the certificate that is served for exactly name, or nil.
func (e *engine) find(name string) *x509.Certificate {
	for _, c := range e.cache.AllMatchingCertificates(name) {
		if slices.Contains(c.Names, name) {
			return c.Leaf
		}
	}
	return nil
}

// holds reports whether name is in memory and from the issuer in use.
func (e *engine) holds(name string) bool {
	e.mu.Lock()
	from, ok := e.loaded[name]
	e.mu.Unlock()
	return ok && from == e.now.Load().key
}

// count is how many names in memory are of the given kind.
func (e *engine) count(kind func(name string) bool) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for name := range e.loaded {
		if kind(name) {
			n++
		}
	}
	return n
}

// forget drops certificates from memory whose name is not wanted any more.
func (e *engine) forget(wanted func(string) bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var gone []certmagic.SubjectIssuer
	for name := range e.loaded {
		if !wanted(name) {
			gone = append(gone, certmagic.SubjectIssuer{Subject: name})
			delete(e.loaded, name)
		}
	}
	e.cache.RemoveManaged(gone)
}

// quarantine moves the stored files of name aside and returns where to.
func (e *engine) quarantine(name string) (string, error) {
	from := e.storage.Filename(certmagic.StorageKeys.CertsSitePrefix(e.now.Load().key, name))
	to := from + ".unreadable-" + time.Now().UTC().Format("20060102T150405.000Z")
	return to, os.Rename(from, to)
}

// challenge finds the open challenge for an identifier as a server name or a
// Host header gives it. certmagic keeps them for the whole process, so every
// issuer's challenge is found.
func (e *engine) challenge(id string) (certmagic.Challenge, bool) {
	return certmagic.GetACMEChallenge(strings.ToLower(id))
}

func (e *engine) challengeCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if _, ok := e.challenge(hello.ServerName); !ok {
		return nil, errNoCertificate
	}
	return e.now.Load().hot.GetCertificate(hello)
}

// solveHTTP answers an http-01 request for a challenge that is open, and
// nothing else: certmagic's own handler would answer any token (the reflection
// RFC 8555 section 8.3 warns of).
func (e *engine) solveHTTP(w http.ResponseWriter, r *http.Request) bool {
	c, ok := e.challenge(r.Host)
	return ok && certmagic.SolveHTTPChallenge(e.zap, w, r, c.Challenge)
}

// close ends certmagic's maintenance. A renewal that is under way may still
// hold its lock; a lock file left behind would hold up the next start until it
// is stale. (certmagic.CleanUpOwnLocks would also break the locks of other
// caches of this process.)
func (e *engine) close() {
	e.cache.Stop()
	left, err := filepath.Glob(filepath.Join(e.storage.Path, "locks", "*.lock"))
	if err != nil {
		return // only for a malformed pattern
	}
	for _, f := range left {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			e.log.Warn("lock file stays behind", "file", f, "err", err)
		}
	}
}

// quietIssuer is an ACME issuer that never asks questions.
type quietIssuer struct{ *certmagic.ACMEIssuer }

// PreCheck never prompts: without an e-mail address certmagic would read one
// from the terminal.
func (q quietIssuer) PreCheck(ctx context.Context, names []string, _ bool) error {
	return q.ACMEIssuer.PreCheck(ctx, names, false)
}

// localIssuer is the local authority as a certmagic issuer.
type localIssuer struct{ ca *localCA }

func (l localIssuer) IssuerKey() string { return "local-" + l.ca.id }

func (l localIssuer) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	chain, err := l.ca.sign(ctx, csr, time.Now())
	if err != nil {
		return nil, err
	}
	return &certmagic.IssuedCertificate{Certificate: chain}, nil
}

// failure is what went wrong in an attempt, in the authority's own words.
type failure struct {
	words string
	kind  failureKind
}

type failureKind uint8

const (
	failedElse    failureKind = iota // the authority was not reached, or the disk
	failedRefused                    // the authority said no: it counts there
	failedLimited                    // the authority told us to slow down
)

// explain finds the authority's words in err. They are cut to what a log line
// holds, and quoted by whoever prints them.
func explain(err error) failure {
	f := failure{words: err.Error()}
	var p acme.Problem
	if errors.As(err, &p) {
		f.kind = failedRefused
		if p.Detail != "" {
			f.words = p.Detail
		}
		if p.Type == acme.ProblemTypeRateLimited || p.Status == http.StatusTooManyRequests {
			f.kind = failedLimited
		}
	}
	if len(f.words) > 500 {
		f.words = strings.ToValidUTF8(f.words[:500], "") + "…"
	}
	return f
}
