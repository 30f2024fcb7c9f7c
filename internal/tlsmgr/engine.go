package tlsmgr

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
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
// certmagic generates keys, keeps its locks and lays the storage out; its
// issuers are ours, and so is what is served: certificates are read from the
// storage into a map that handshakes look into without a lock. certmagic's
// cache stays empty, so that its own maintenance has nothing to renew, and
// should it ever try, onEvent says no: every attempt is the driver's.
type engine struct {
	cache   *certmagic.Cache
	storage *journal
	log     *slog.Logger
	zap     *zap.Logger
	now     atomic.Pointer[issuers]

	mu   sync.Mutex                       // one change of held at a time
	held atomic.Pointer[map[string]*held] // by name; never changed, only replaced
}

// held is a certificate in memory.
type held struct {
	cert *tls.Certificate // with its Leaf
	from string           // the issuer key it was loaded from
}

// issuers are the authorities in use; replaced as a whole on reload.
type issuers struct {
	list  []*issuer
	label string // acme or local
}

// issuer is one authority and the certmagic configuration that stores what it
// issues.
type issuer struct {
	certifier
	config *certmagic.Config
}

// certifier is what certificates come from: an ACME authority or our own.
type certifier interface {
	IssuerKey() string                                                                 // names its folders
	label() string                                                                     // for people and metrics
	reach(ctx context.Context) error                                                   // is it there?
	issue(ctx context.Context, csr *x509.CertificateRequest) (acme.Certificate, error) // once
	challenges(name string, on []string) []string                                      // that may be used for name
	profileFor(name string) string                                                     // for an order
	identities() []string                                                              // in CAA records
	accountURI(ctx context.Context) string                                             // in CAA records
	renewalInfo(ctx context.Context, leaf *x509.Certificate) (acme.RenewalInfo, error) // RFC 9773
}

var (
	errNotStored = errors.New("no certificate in storage")
	errNotAsked  = errors.New("the driver did not ask for this")
)

// tenYears keeps certmagic's maintenance from waking up (five times it must
// fit a time.Duration).
const tenYears = 10 * 365 * 24 * time.Hour

// newEngine starts certmagic's maintenance goroutine; close ends it.
func newEngine(dir string, log *slog.Logger) *engine {
	e := &engine{storage: newJournal(dir), log: log, zap: newZap(log)}
	e.held.Store(&map[string]*held{})
	e.breakLocks() // of a process that was killed; the folder is this one's alone
	e.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) {
			return nil, errNotAsked // the cache holds nothing
		},
		RenewCheckInterval: tenYears, OCSPCheckInterval: tenYears,
		Logger: e.zap,
	})
	return e
}

// issuer makes the certmagic configuration for c, with every field set that
// New would otherwise take from the package defaults.
func (e *engine) issuer(c certifier) *issuer {
	return &issuer{certifier: c, config: certmagic.New(e.cache, certmagic.Config{
		Storage:             e.storage,
		Issuers:             []certmagic.Issuer{adapter{c}},
		KeySource:           certmagic.StandardKeyGenerator{KeyType: certmagic.P256},
		RenewalWindowRatio:  certmagic.DefaultRenewalWindowRatio,
		OnEvent:             e.onEvent,
		ShouldEmitFunc:      func(string) bool { return false }, // only asked about the event of every handshake
		OCSP:                certmagic.OCSPConfig{DisableStapling: true},
		DisableStorageCheck: true, // the driver looks before it spends an attempt
		DisableARI:          true, // the driver asks
		Logger:              e.zap,
	})}
}

// adapter is a certifier as certmagic wants it.
type adapter struct{ certifier }

// Issue implements certmagic.Issuer.
func (a adapter) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	chain, err := a.issue(ctx, csr)
	if err != nil {
		return nil, err
	}
	return &certmagic.IssuedCertificate{Certificate: chain.ChainPEM, Metadata: chain}, nil
}

// use makes i the issuers from now on.
func (e *engine) use(i *issuers) { e.now.Store(i) }

// label names the kind of issuer in use: acme or local.
func (e *engine) label() string { return e.now.Load().label }

// counts reports whether the authorities in use limit how much is asked of
// them.
func (e *engine) counts() bool { return e.label() == issuerACME }

// onEvent is the gate: an error returned for cert_obtaining ends the attempt
// before any authority hears of it. ErrNoRetry, because without it certmagic
// would hold its lock and try again for a month.
func (e *engine) onEvent(ctx context.Context, name string, _ map[string]any) error {
	if name != "cert_obtaining" {
		return nil
	}
	at := attemptOf(ctx)
	if at == nil {
		return certmagic.ErrNoRetry{Err: errNotAsked}
	}
	if at.allowed != nil {
		if err := at.allowed(); err != nil {
			return certmagic.ErrNoRetry{Err: err}
		}
	}
	return nil
}

// attempt is one attempt to have name certified by i; load brings the result
// into memory. certmagic's "sync" functions are those without a retry loop;
// the others keep the storage lock for up to 30 days.
func (e *engine) attempt(ctx context.Context, i *issuer, name string, at *attempt) error {
	ctx = withAttempt(ctx, at)
	if e.storage.complete(i.IssuerKey(), name) {
		return i.config.RenewCertSync(ctx, name, true)
	}
	return i.config.ObtainCertSync(ctx, name)
}

// load puts the stored certificate for name into memory: of all authorities in
// use the one that began last. It is errNotStored when there is none.
func (e *engine) load(name string) error {
	best, err := e.read(name)
	if err != nil {
		return err
	}
	e.put(name, best)
	return nil
}

// read is load without keeping it.
func (e *engine) read(name string) (*held, error) {
	var best *held
	var errs []error
	for _, i := range e.now.Load().list {
		cert, err := e.storage.pair(i.IssuerKey(), name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			errs = append(errs, err)
		case best == nil || cert.Leaf.NotBefore.After(best.cert.Leaf.NotBefore):
			best = &held{cert, i.IssuerKey()}
		}
	}
	switch {
	case best != nil:
		return best, nil
	case len(errs) > 0:
		return nil, errors.Join(errs...)
	}
	return nil, errNotStored
}

func (e *engine) put(name string, h *held) {
	e.mu.Lock()
	defer e.mu.Unlock()
	next := maps.Clone(*e.held.Load())
	next[name] = h
	e.held.Store(&next)
}

// certificate is what is served for a name, or nil. It takes no lock.
func (e *engine) certificate(name string) *tls.Certificate {
	if h := (*e.held.Load())[name]; h != nil {
		return h.cert
	}
	return nil
}

// find returns the certificate that is served for exactly name, or nil.
func (e *engine) find(name string) *x509.Certificate {
	if c := e.certificate(name); c != nil {
		return c.Leaf
	}
	return nil
}

// holds reports whether name is in memory and from an issuer in use.
func (e *engine) holds(name string) bool {
	h := (*e.held.Load())[name]
	return h != nil && e.byKey(h.from) != nil
}

// byKey finds an issuer in use, or nil.
func (e *engine) byKey(key string) *issuer {
	n := e.now.Load()
	if n == nil {
		return nil
	}
	for _, i := range n.list {
		if i.IssuerKey() == key {
			return i
		}
	}
	return nil
}

// names are those in memory, sorted.
func (e *engine) names() []string { return slices.Sorted(maps.Keys(*e.held.Load())) }

// lost reports whether the storage does not have any more what is in memory.
func (e *engine) lost(name string) bool {
	h := (*e.held.Load())[name]
	return h != nil && !e.storage.complete(h.from, name)
}

// forget drops certificates from memory whose name is not wanted any more.
func (e *engine) forget(wanted func(string) bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	next := maps.Clone(*e.held.Load())
	maps.DeleteFunc(next, func(name string, _ *held) bool { return !wanted(name) })
	e.held.Store(&next)
}

// quarantine moves the stored files of name that do not load aside and
// returns where to.
func (e *engine) quarantine(name string) (string, error) {
	var to string
	var errs []error
	for _, i := range e.now.Load().list {
		if _, err := e.storage.pair(i.IssuerKey(), name); err == nil || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		from := e.storage.Filename(certmagic.StorageKeys.CertsSitePrefix(i.IssuerKey(), name))
		to = from + ".unreadable-" + time.Now().UTC().Format("20060102T150405.000Z")
		errs = append(errs, os.Rename(from, to))
	}
	return to, errors.Join(errs...)
}

// close ends certmagic's maintenance.
func (e *engine) close() {
	e.cache.Stop()
	e.breakLocks()
}

// breakLocks removes certmagic's lock files: one left behind would hold up an
// attempt until it is stale. (certmagic.CleanUpOwnLocks would also break the
// locks of other caches of this process.)
func (e *engine) breakLocks() {
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

// The forms certmagic stores things in.
func decodeKey(pem []byte) (crypto.Signer, error) { return certmagic.PEMDecodePrivateKey(pem) }
func encodeKey(key crypto.Signer) ([]byte, error) { return certmagic.PEMEncodePrivateKey(key) }
func safeKey(s string) string                     { return certmagic.StorageKeys.Safe(s) }

// siteKeys are the storage keys of a certificate.
func siteKeys(issuerKey, name string) (cert, key, meta string) {
	return certmagic.StorageKeys.SiteCert(issuerKey, name),
		certmagic.StorageKeys.SitePrivateKey(issuerKey, name),
		certmagic.StorageKeys.SiteMeta(issuerKey, name)
}

// certmagicStorage keeps files and locks in a folder.
type certmagicStorage = certmagic.FileStorage

func newFileStorage(dir string) *certmagicStorage { return &certmagicStorage{Path: dir} }

// certificateMeta checks the third file of a certificate.
func certificateMeta(raw []byte) error {
	var r certmagic.CertificateResource
	if err := json.Unmarshal(raw, &r); err != nil {
		return fmt.Errorf("certificate metadata: %w", err)
	}
	return nil
}
