package caller

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"

	"postern/internal/durable"
)

const (
	fetchTime    = 5 * time.Second    // for all of one fetch
	refetchAfter = 10 * time.Second   // the least time between two fetches from one issuer
	refreshEvery = time.Hour          // without anybody asking
	retryEvery   = 30 * time.Second   // after a fetch that came to nothing
	maxStale     = 7 * 24 * time.Hour // keys are believed for, without a fetch
	keysWait     = 2 * time.Second    // how long a request waits for keys
	maxWaiting   = 64                 // requests that wait for the keys of one issuer

	maxKeySet     = 256 << 10 // bytes of a document
	maxKeys       = 64        // of one issuer
	maxKid        = 256       // bytes of a key's name
	minRSA        = 2048      // bits
	maxRSA        = 8192      // bits: more would cost us more than the sender
	keySetVersion = 1
)

// source says where the keys of an issuer are.
type source struct {
	issuer string
	url    string // of the key set; "": the issuer's discovery document tells
	roots  string // the PEM of the roots trusted for it; "": the system's
	near   bool   // the key set must be on the issuer's own host
}

// keySet is the public keys of one issuer: what was fetched last, also by an
// earlier process, and the fetching of others. A Registry keeps it over
// reloads.
type keySet struct {
	source
	file    string
	client  *http.Client
	version *atomic.Uint64 // counts up when keys change
	wake    func()         // tells Run that pending is set
	metrics *metrics

	keys atomic.Pointer[shownKeys] // nil: none are known

	mu      sync.Mutex
	pending chan struct{} // guarded by mu; closed when the fetch under way ends, nil when none is wanted
	running bool          // guarded by mu; Run has taken pending
	waiting int           // guarded by mu
	tried   time.Time     // guarded by mu; when the last fetch ended
	err     error         // guarded by mu; of the last fetch
}

// shownKeys is what an issuer showed. It is never changed.
type shownKeys struct {
	at   time.Time // by our wall clock
	list []jose.JSONWebKey
}

// keyFile is how keys are kept on disk.
type keyFile struct {
	Version int               `json:"v"`
	Issuer  string            `json:"issuer"`
	Fetched time.Time         `json:"fetched"`
	Keys    []jose.JSONWebKey `json:"keys"`
}

// newKeySet makes the key set of a source with what dir has of it.
func (r *Registry) newKeySet(src source) (*keySet, error) {
	var roots *x509.CertPool
	if src.roots != "" {
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(src.roots)) {
			return nil, fmt.Errorf("issuer %s: its ca file holds no certificate in PEM", src.issuer)
		}
	}
	sum := sha256.Sum256([]byte(src.issuer + "\n" + src.url))
	s := &keySet{
		source: src, file: filepath.Join(r.dir, "jwks-"+hex.EncodeToString(sum[:8])+".json"),
		client: newClient(roots), version: &r.keysVersion, metrics: r.metrics, wake: r.wakeUp,
	}
	raw, err := readBounded(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	var f keyFile
	if err == nil {
		err = stdjson.Unmarshal(raw, &f)
	}
	if err != nil || f.Version != keySetVersion || f.Issuer != src.issuer {
		r.log.Warn("kept keys of an issuer are not readable and fetched again", "issuer", src.issuer, "file", s.file, "err", err)
		return s, nil
	}
	if list := usable(f.Keys); len(list) > 0 {
		s.keys.Store(&shownKeys{f.Fetched, list})
	}
	return s, nil
}

// newClient returns a client for documents of one host: no redirect, nothing
// kept open.
func newClient(roots *x509.CertPool) *http.Client {
	return &http.Client{
		Timeout: fetchTime,
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			DisableKeepAlives: true, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// current returns the keys that may be believed at the time now.
func (s *keySet) current(now time.Time) []jose.JSONWebKey {
	k := s.keys.Load()
	if k == nil || now.Sub(k.at) > maxStale {
		return nil
	}
	return k.list
}

// refresh waits for a fetch of the keys, for a short while, and reports
// whether one has succeeded since it was called. Right after another fetch,
// and when too many wait already, it returns at once.
func (s *keySet) refresh() bool {
	s.mu.Lock()
	if s.pending == nil {
		if !s.tried.IsZero() && time.Since(s.tried) < refetchAfter {
			s.mu.Unlock()
			return false
		}
		s.pending = make(chan struct{})
		s.wake()
	}
	done := s.pending
	if s.waiting >= maxWaiting {
		s.mu.Unlock()
		return false
	}
	s.waiting++
	s.mu.Unlock()

	timer := time.NewTimer(keysWait)
	defer timer.Stop()
	ended := false
	select {
	case <-done:
		ended = true
	case <-timer.C:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting--
	return ended && s.err == nil
}

// due reports whether a fetch should begin now, and takes it on.
func (s *keySet) due(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running {
		return false
	}
	k := s.keys.Load()
	again := refreshEvery
	if s.err != nil {
		again = retryEvery
	}
	fresh := k != nil && now.Sub(k.at) < refreshEvery && s.tried.IsZero() // kept by an earlier process
	if s.pending == nil && (fresh || !s.tried.IsZero() && now.Sub(s.tried) < again) {
		return false
	}
	if s.pending == nil {
		s.pending = make(chan struct{})
	}
	s.running = true
	return true
}

// fetch gets the keys and tells who waits for them.
func (s *keySet) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	list, err := s.get(ctx)
	if err == nil {
		now := time.Now()
		old := s.keys.Load()
		s.keys.Store(&shownKeys{now, list})
		if old == nil || !sameKeys(old.list, list) {
			s.version.Add(1)
		}
		err = s.write(now, list)
	}
	s.metrics.fetched(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.tried, s.running = err, time.Now(), false
	close(s.pending)
	s.pending = nil
	return err
}

// get asks the issuer.
func (s *keySet) get(ctx context.Context) ([]jose.JSONWebKey, error) {
	at := s.url
	if at == "" {
		var doc struct {
			Issuer string `json:"issuer"`
			Keys   string `json:"jwks_uri"`
		}
		if err := s.document(ctx, strings.TrimSuffix(s.issuer, "/")+"/.well-known/openid-configuration", &doc); err != nil {
			return nil, err
		}
		if doc.Issuer != s.issuer {
			return nil, fmt.Errorf("issuer %s: its discovery document is of %q", s.issuer, doc.Issuer)
		}
		at = doc.Keys
		if err := s.mayAsk(at); err != nil {
			return nil, err
		}
	}
	var set struct {
		Keys []stdjson.RawMessage `json:"keys"`
	}
	if err := s.document(ctx, at, &set); err != nil {
		return nil, err
	}
	var list []jose.JSONWebKey
	for _, raw := range set.Keys[:min(len(set.Keys), maxKeys)] {
		var k jose.JSONWebKey
		if stdjson.Unmarshal(raw, &k) == nil { // of a kind that we do not know, perhaps
			list = append(list, k)
		}
	}
	if list = usable(list); len(list) == 0 {
		return nil, fmt.Errorf("issuer %s: %s shows no key that we could use", s.issuer, at)
	}
	return list, nil
}

// mayAsk judges where a discovery document says the keys are.
func (s *keySet) mayAsk(at string) error {
	u, err := url.Parse(at)
	own, ownErr := url.Parse(s.issuer)
	switch {
	case err != nil || ownErr != nil || u.Host == "":
		return fmt.Errorf("issuer %s: its jwks_uri is no URL", s.issuer)
	case u.Scheme != own.Scheme:
		return fmt.Errorf("issuer %s: its jwks_uri is not %s", s.issuer, own.Scheme)
	case s.near && u.Host != own.Host:
		return fmt.Errorf("issuer %s: its jwks_uri is at another host, %s", s.issuer, u.Host)
	}
	return nil
}

// document fetches a JSON document. Names in it are matched exactly, and one
// that is there twice is an error.
func (s *keySet) document(ctx context.Context, at string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return fmt.Errorf("issuer %s: %w", s.issuer, err)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "postern")
	res, err := s.client.Do(req)
	if err != nil {
		return fmt.Errorf("issuer %s: %w", s.issuer, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("issuer %s: %s answers %d, want 200", s.issuer, at, res.StatusCode)
	}
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxKeySet+1))
	switch {
	case err != nil:
		return fmt.Errorf("issuer %s: %w", s.issuer, err)
	case len(raw) > maxKeySet:
		return fmt.Errorf("issuer %s: %s is larger than %d bytes", s.issuer, at, maxKeySet)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("issuer %s: %s: %w", s.issuer, at, err)
	}
	return nil
}

func (s *keySet) write(now time.Time, list []jose.JSONWebKey) error {
	raw, err := stdjson.MarshalIndent(keyFile{keySetVersion, s.issuer, now.UTC(), list}, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(s.file, append(raw, '\n'), 0o600)
}

// usable are the keys that a token may be verified with: public ones for
// signatures, of kinds and sizes that are good.
func usable(list []jose.JSONWebKey) []jose.JSONWebKey {
	var out []jose.JSONWebKey
	for _, k := range list {
		if len(k.KeyID) > maxKid || k.Use != "" && k.Use != "sig" || !k.IsPublic() || !k.Valid() {
			continue
		}
		switch pub := k.Key.(type) {
		case *rsa.PublicKey:
			if bits := pub.N.BitLen(); bits < minRSA || bits > maxRSA || pub.E < 3 || pub.E%2 == 0 {
				continue
			}
		case *ecdsa.PublicKey, ed25519.PublicKey:
		default:
			continue
		}
		k.Certificates, k.CertificatesURL = nil, nil // not looked at, not kept
		k.CertificateThumbprintSHA1, k.CertificateThumbprintSHA256 = nil, nil
		out = append(out, k)
	}
	return out
}

// sameKeys reports whether two sets are the same, in the same order.
func sameKeys(a, b []jose.JSONWebKey) bool {
	x, errX := stdjson.Marshal(a)
	y, errY := stdjson.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// status tells how an issuer is.
func (s *keySet) status() (at time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.keys.Load(); k != nil {
		at = k.at
	}
	return at, s.err
}
