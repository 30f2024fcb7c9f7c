package tlsmgr

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

const (
	letsEncrypt     = "https://acme-v02.api.letsencrypt.org/directory"
	reachTimeout    = 5 * time.Second  // to fetch a directory: what a black-holed authority costs
	requestTimeout  = 10 * time.Second // for one request of an attempt
	pollTimeout     = 2 * time.Minute  // for the authority to validate
	shortlived      = "shortlived"     // the profile for addresses, where the directory lists it
	maxDirectory    = 256 << 10
	userAgentString = "postern"
)

// authority is one ACME authority and our account there. acmez speaks the
// protocol; ours are the HTTP client, which learns Retry-After and keeps a
// dead authority from stalling the others (acmez fetches directories under
// one lock of the whole process), and the account. Its methods may be called
// from several goroutines.
type authority struct {
	cfg     ACME
	email   string
	key     string // names its folders in the storage
	host    string // for people and metrics
	log     *slog.Logger
	storage storage
	open    *openChallenges
	dns01   acmez.Solver // nil: none
	direct  *http.Client // for the directory
	client  *http.Client // for everything else

	mu        sync.Mutex
	directory []byte // as fetched; guarded by mu
	fetched   time.Time
	meta      acme.Directory

	register chan struct{} // holds one token: who has it may make an account
}

// storage is where accounts and certificates are kept: certmagic's.
type storage interface {
	Store(ctx context.Context, key string, value []byte) error
	Load(ctx context.Context, key string) ([]byte, error)
	List(ctx context.Context, path string, recursive bool) ([]string, error)
	Filename(key string) string
}

func newAuthority(cfg ACME, email string, st storage, open *openChallenges, log *slog.Logger) (*authority, error) {
	if cfg.Directory == "" {
		cfg.Directory = letsEncrypt
	}
	u, err := url.Parse(cfg.Directory)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("tls acme directory: %q is not a URL, want one like %s", cfg.Directory, letsEncrypt)
	}
	a := &authority{
		cfg: cfg, email: email, host: u.Host, key: issuerKey(u), log: log, storage: st, open: open,
		register: make(chan struct{}, 1),
	}
	roots, err := cfg.roots()
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: reachTimeout, KeepAlive: time.Minute}).DialContext,
		TLSHandshakeTimeout:   reachTimeout,
		ResponseHeaderTimeout: requestTimeout,
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConnsPerHost:   2,
		ForceAttemptHTTP2:     true,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
	}
	a.direct = &http.Client{Timeout: reachTimeout, Transport: transport}
	a.client = &http.Client{Timeout: requestTimeout, Transport: listener{a, transport}}
	return a, nil
}

// issuerKey is certmagic's name for an authority's folders.
func issuerKey(u *url.URL) string {
	path := strings.Trim(strings.NewReplacer("/", "-", `\`, "-").Replace(u.Path), "-")
	if path == "" {
		return u.Host
	}
	return u.Host + "-" + path
}

func (c ACME) roots() (*x509.CertPool, error) {
	if c.RootFile == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(c.RootFile)
	if err != nil {
		return nil, fmt.Errorf("tls acme root: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("tls acme root: %s holds no certificate, want PEM", c.RootFile)
	}
	return pool, nil
}

// attempt is what one attempt carries to the authority through certmagic. A
// context without one may not reach an authority: see engine.onEvent.
type attempt struct {
	challenge string
	profile   string
	replaces  *x509.Certificate
	allowed   func() error // asked at the last moment; nil: yes

	mu    sync.Mutex
	until time.Time         // the last Retry-After; guarded by mu
	info  *acme.RenewalInfo // of the certificate obtained, if the authority gave one; guarded by mu
}

type attemptKey struct{}

func withAttempt(ctx context.Context, a *attempt) context.Context {
	return context.WithValue(ctx, attemptKey{}, a)
}

func attemptOf(ctx context.Context) *attempt {
	a, _ := ctx.Value(attemptKey{}).(*attempt)
	return a
}

// retryAfter is when the authority's last refusal said to come again.
func (a *attempt) retryAfter() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.until
}

// renewalInfo is what the authority said when to renew what it just issued.
func (a *attempt) renewalInfo() *acme.RenewalInfo {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.info
}

// listener hears what the authority answers to acmez, and answers the question
// for the directory from what reach fetched.
type listener struct {
	a    *authority
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (l listener) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet && r.URL.String() == l.a.cfg.Directory {
		if body := l.a.lastDirectory(); body != nil {
			return &http.Response{
				Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
				Header: http.Header{"Content-Type": {"application/json"}}, ContentLength: int64(len(body)),
				Body: io.NopCloser(bytes.NewReader(body)), Request: r,
			}, nil
		}
		return nil, errors.New("the directory was not fetched") // never under acmez's lock
	}
	resp, err := l.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if at := attemptOf(r.Context()); at != nil && resp.StatusCode >= 400 {
		at.mu.Lock()
		at.until = retryAfterHeader(resp.Header, time.Now())
		at.mu.Unlock()
	}
	return resp, nil
}

// inherit takes over what an earlier value of the same authority learned.
func (a *authority) inherit(old *authority) {
	old.mu.Lock()
	defer old.mu.Unlock()
	a.directory, a.fetched, a.meta = old.directory, old.fetched, old.meta
}

func (a *authority) lastDirectory() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.directory
}

// reach finds out within 5 s whether the authority is there. It costs it
// nothing that it counts.
func (a *authority) reach(ctx context.Context) error {
	a.mu.Lock()
	fresh := a.directory != nil && time.Since(a.fetched) < time.Second
	a.mu.Unlock()
	if fresh {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.cfg.Directory, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", userAgentString)
	resp, err := a.direct.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("no answer within %v", reachTimeout)
		}
		return &unreached{fmt.Errorf("directory of %s: %w", a.host, err)}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return &statusError{resp.StatusCode, retryAfterHeader(resp.Header, time.Now())}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDirectory))
	if err != nil {
		return &unreached{fmt.Errorf("directory of %s: %w", a.host, err)}
	}
	var dir acme.Directory
	if err := json.Unmarshal(body, &dir); err != nil || dir.NewOrder == "" {
		return &unreached{fmt.Errorf("directory of %s: what is answered there is no ACME directory (RFC 8555 section 7.1.1)", a.host)}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.directory, a.fetched, a.meta = body, time.Now(), dir
	return nil
}

// identities are the names CAA records know the authority by (RFC 8659 section
// 4.2); nil while its directory was never read.
func (a *authority) identities() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.meta.Meta != nil {
		return a.meta.Meta.CAAIdentities
	}
	if strings.HasSuffix(a.host, "api.letsencrypt.org") {
		return []string{"letsencrypt.org"}
	}
	return nil
}

// profileFor is the profile to ask for: addresses need a short-lived one where
// the authority has profiles at all.
func (a *authority) profileFor(name string) string {
	if !isAddr(name) {
		return a.cfg.Profile
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.meta.Meta != nil {
		if _, ok := a.meta.Meta.Profiles[shortlived]; ok {
			return shortlived
		}
	}
	return a.cfg.Profile
}

// challenges are the types that can be answered for name, out of those allowed
// here and everywhere.
func (a *authority) challenges(name string, on []string) []string {
	var out []string
	for _, c := range on {
		switch {
		case len(a.cfg.Challenges) > 0 && !slices.Contains(a.cfg.Challenges, c):
		case strings.HasPrefix(name, "*.") && c != challengeDNS: // RFC 8555 section 8.3 and RFC 8737 section 3
		case isAddr(name) && c == challengeDNS: // RFC 8738 section 7
		default:
			out = append(out, c)
		}
	}
	return out
}

// acmez makes a client for one attempt, or for none.
func (a *authority) acmez(at *attempt) *acmez.Client {
	c := &acmez.Client{Client: &acme.Client{
		Directory: a.cfg.Directory, HTTPClient: a.client, UserAgent: userAgentString,
		PollTimeout: pollTimeout, Logger: acmeLog(a.log, a.host),
	}}
	if at == nil {
		return c
	}
	var s acmez.Solver = solver{a.open, at.challenge}
	if at.challenge == challengeDNS {
		s = a.dns01
	}
	c.ChallengeSolvers = map[string]acmez.Solver{at.challenge: s}
	return c
}

// IssuerKey names the authority's folders in the storage, as certmagic does.
func (a *authority) IssuerKey() string { return a.key }

func (a *authority) label() string { return a.host }

// issue places one order (RFC 8555 section 7.4). The caller has called reach.
func (a *authority) issue(ctx context.Context, csr *x509.CertificateRequest) (acme.Certificate, error) {
	at := attemptOf(ctx)
	if at == nil {
		return acme.Certificate{}, errNotAsked
	}
	client := a.acmez(at)
	acct, err := a.account(ctx, client)
	if err != nil {
		return acme.Certificate{}, err
	}
	chains, err := a.order(ctx, client, acct, csr, at)
	if accountGone(err) {
		a.log.Warn("the authority does not know our account any more; a new one is made", "authority", a.host, "err", err)
		if err := a.setAside(acct); err != nil {
			return acme.Certificate{}, fmt.Errorf("account at %s: %w", a.host, err)
		}
		if acct, err = a.account(ctx, client); err != nil {
			return acme.Certificate{}, err
		}
		at.replaces = nil // it is another account's (RFC 9773 section 5)
		chains, err = a.order(ctx, client, acct, csr, at)
	}
	if at.replaces != nil && refusesReplacing(err) {
		a.log.Info("the authority does not take the order as a replacement; it is placed as any other", "authority", a.host, "err", err)
		at.replaces = nil
		chains, err = a.order(ctx, client, acct, csr, at)
	}
	if err != nil {
		return acme.Certificate{}, err
	}
	if len(chains) == 0 {
		return acme.Certificate{}, fmt.Errorf("%s sent no certificate", a.host)
	}
	at.mu.Lock()
	at.info = chains[0].RenewalInfo
	at.mu.Unlock()
	return chains[0], nil
}

func (a *authority) order(ctx context.Context, client *acmez.Client, acct acme.Account, csr *x509.CertificateRequest, at *attempt) ([]acme.Certificate, error) {
	params, err := acmez.OrderParametersFromCSR(acct, csr)
	if err != nil {
		return nil, err
	}
	params.Profile, params.Replaces = at.profile, at.replaces
	chains, err := client.ObtainCertificate(ctx, params)
	var p acme.Problem
	var own *dns01Error
	switch {
	case errors.As(err, &own):
		return nil, own
	case err != nil && !errors.As(err, &p) && ctx.Err() == nil:
		return nil, &unreached{err} // no answer that we understand
	}
	return chains, err
}

// accountGone reports whether the authority forgot or closed our account.
func accountGone(err error) bool {
	var p acme.Problem
	if !errors.As(err, &p) {
		return false
	}
	if _, authz := p.Resource.(acme.Authorization); authz {
		return false
	}
	return p.Type == acme.ProblemTypeAccountDoesNotExist ||
		p.Type == acme.ProblemTypeUnauthorized && strings.Contains(strings.ToLower(p.Detail), "account") &&
			(strings.Contains(p.Detail, "deactivated") || strings.Contains(p.Detail, "revoked") || strings.Contains(p.Detail, "not valid"))
}

// refusesReplacing reports whether an order was refused for the certificate it
// was to replace (RFC 9773 section 5): replaced already, or not known to this
// authority. Nothing was validated then, and the same order may be placed
// without it.
func refusesReplacing(err error) bool {
	var p acme.Problem
	if !errors.As(err, &p) {
		return false
	}
	if _, authz := p.Resource.(acme.Authorization); authz {
		return false
	}
	detail := strings.ToLower(p.Detail)
	return p.Type == acme.ProblemTypeAlreadyReplaced ||
		strings.Contains(detail, "replace") || strings.Contains(detail, "the given certificate")
}

// renewalInfo asks when a certificate should be renewed (RFC 9773).
func (a *authority) renewalInfo(ctx context.Context, leaf *x509.Certificate) (acme.RenewalInfo, error) {
	if err := a.reach(ctx); err != nil {
		return acme.RenewalInfo{}, err
	}
	return a.acmez(nil).GetRenewalInfo(ctx, leaf)
}
