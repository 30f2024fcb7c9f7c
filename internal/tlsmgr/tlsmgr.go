// Package tlsmgr owns the certificates: which names have one, where it comes
// from, how fresh it is; it hands out one *tls.Config for the listeners.
//
// A certificate comes from one of four places: files of the user, an ACME
// authority (RFC 8555), a local authority of our own (for demos and for names
// no public authority can check), or, for names that no site lists but the
// on-demand rules allow, from the authority at the first handshake.
//
// When an attempt is made is decided by a pure rule (plan.go) and done by the
// driver (driver.go, attempt.go): never while the DNS would make it fail, at
// most so many times an hour, one authority and one challenge type at a time,
// all of it remembered on disk (ledger.go). acmez speaks ACME (authority.go);
// certmagic lays out the storage and keeps its locks, and only engine.go knows
// it.
package tlsmgr

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"postern/internal/dnscheck"

	"github.com/mholt/acmez/v3"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"
)

// Config says which certificates to hold. New and Apply copy what they need;
// the caller may reuse the value.
type Config struct {
	// Dir is the data folder. Certificates, the ACME account, the local
	// authority and the session ticket keys live below it. It is made when
	// missing, and only this process may write there. Required; Apply cannot
	// change it.
	Dir string

	// Issuer is "acme" or "local". Empty means "acme".
	Issuer string

	// Email is the contact given to the authority. May be empty.
	Email string

	// ACME are the authorities used when Issuer is "acme", the preferred one
	// first. One that is down, limits us or will not certify a name is passed
	// over. Empty means Let's Encrypt.
	ACME []ACME

	// Challenge is "auto", or one of "http-01", "tls-alpn-01" and "dns-01" to
	// use no other. Empty means auto: whatever can be answered, one type for
	// each attempt, the next attempt another.
	Challenge string

	// DNS01 solves dns-01. Nil: that challenge is not used, and wildcards
	// cannot be had from a public authority. Its Present must return quickly
	// and its optional Wait (acmez.Waiter) wait until the record is seen.
	DNS01 acmez.Solver

	// Check asks the DNS about a name before attempts at an authority are
	// spent on it. It may take a few seconds and is called from several
	// goroutines. Nil: always green.
	Check func(context.Context, dnscheck.Question) dnscheck.Verdict

	// CheckEvery is the time between checks while a name is not green. Zero
	// means 30 s. While it is green the check repeats every hour.
	CheckEvery time.Duration

	// AttemptsPerHour is how many attempts may be made in any hour for one
	// name at one authority. Zero means 4, below Let's Encrypt's limit of 5
	// failures.
	AttemptsPerHour int

	// IPs are public addresses to hold a short-lived certificate for (RFC
	// 8738), and PublicAddrs tells more of them, which may change; it is
	// called often and must not block. While it returns none, the last ones
	// stay. The local issuer takes them too.
	IPs         []netip.Addr
	PublicAddrs func() []netip.Addr

	// Clock tells whether a time service has set the clock, and how long the
	// machine has been up. Nil asks the kernel (adjtimex(2) on Linux;
	// elsewhere the clock is believed).
	Clock func() (synced bool, up time.Duration)

	// OnNotice hears of outages, once when one begins and once when it ends,
	// also across restarts. It must not block. Nil: nobody hears.
	OnNotice func(Notice)

	// OnDemand allows certificates for names that are not in Names. Nil
	// allows none.
	OnDemand *OnDemand

	// MinVersion is the lowest TLS version spoken, as in crypto/tls. Zero
	// means TLS 1.2.
	MinVersion uint16

	// DefaultHost, one of Names or of the hosts of Files, answers clients
	// that send no server name or connect by an IP address that is not a
	// site. Empty: they are refused before the handshake costs anything.
	// Clients that ask for an unknown name are refused either way.
	DefaultHost string

	// Names are the hosts whose certificates are obtained and renewed by
	// themselves: DNS names, IP addresses and one-label wildcards such as
	// "*.example.org", which need a local issuer or dns-01.
	Names []string

	// Files are certificates the user brings. A host in both Names and Files
	// is served from the file.
	Files []FileCert

	// ClientCerts are the hosts, wildcards included, whose clients are asked
	// for a certificate. One that has none, or any one at all, is served: who
	// signed it is for others to look at.
	ClientCerts []string

	// ListenHost, HTTPPort and HTTPSPort are where our own listeners accept
	// the authority's http-01 and tls-alpn-01 connections. A port of zero
	// means there is no such listener and that challenge is not used. When
	// they are known only after listening, see SetChallengeAddrs.
	ListenHost string
	HTTPPort   int
	HTTPSPort  int

	// Log gets what a person should know. Nil discards.
	Log *slog.Logger

	// Registerer gets the metrics. Nil: none. Apply cannot change it.
	Registerer prometheus.Registerer
}

// ACME names an authority that speaks RFC 8555.
type ACME struct {
	// Directory is the URL of RFC 8555 section 7.1.1. Empty means Let's
	// Encrypt's production directory.
	Directory string

	// RootFile is a PEM file with the roots to trust for the directory
	// itself. Empty means the system's.
	RootFile string

	// Profile is asked for in each order (draft-ietf-acme-profiles). Empty:
	// the authority's default.
	Profile string

	// EAB binds the account to one the authority knows (RFC 8555 section
	// 7.3.4). Nil: none.
	EAB *EAB

	// Challenges are those this authority may be given, out of http-01,
	// tls-alpn-01 and dns-01. Empty means all.
	Challenges []string
}

// EAB is an external account binding. MACKey is a secret.
type EAB struct {
	KeyID  string
	MACKey string // base64url without padding, as the authority gave it
}

// Manager holds the certificates. Its methods may be called from several
// goroutines.
type Manager struct {
	log     *slog.Logger
	dir     string
	eng     *engine
	tickets *tickets
	metrics *metrics
	asks    *asker
	cold    *coldStart
	open    *openChallenges
	ledger  *ledger
	drv     *driver

	table    atomic.Pointer[table]
	serve    atomic.Pointer[serving]
	settings atomic.Pointer[settings]
	addrs    atomic.Pointer[ownAddrs]

	apply sync.Mutex // one Apply or SetChallengeAddrs at a time
	cfg   Config     // guarded by apply
	wake  chan struct{}

	ctx    context.Context // ends with Close; on-demand issuance outlives the handshake that began it
	cancel context.CancelFunc
	once   sync.Once
	flight singleflight.Group
	busy   sync.WaitGroup // on-demand issuance under way

	ending sync.Mutex
	closed bool // guarded by ending: no new issuance
}

// New reads what is on disk and is ready to serve it: after New returns, every
// certificate of cfg that the data folder or a file holds is in memory. It
// touches no network. The caller must Close the Manager, also when Run was
// never called: certmagic's cache owns a goroutine from the moment it exists,
// and Close waits for its end.
//
// Errors name the file or the setting, the reason and the way out.
func New(cfg Config) (*Manager, error) {
	cfg, err := cfg.normal()
	if err != nil {
		return nil, err
	}
	if err := checkDir(cfg.Dir); err != nil {
		return nil, err
	}
	tk, err := loadTickets(filepath.Join(cfg.Dir, "tickets.json"), cfg.Log)
	if err != nil {
		return nil, err
	}
	m := &Manager{
		log: cfg.Log, dir: cfg.Dir, tickets: tk,
		asks: newAsker(), cold: &coldStart{}, open: newOpenChallenges(), drv: newDriver(),
		ledger: loadLedger(filepath.Join(cfg.Dir, "attempts.json"), cfg.Log),
		wake:   make(chan struct{}, 1),
	}
	m.addrs.Store(newOwnAddrs(nil))
	// The Manager's own life, not a caller's: an issuance begun by a handshake
	// must not end because that client hung up.
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.metrics = newMetrics(m)
	m.eng = newEngine(cfg.Dir, cfg.Log)
	if err := m.setUp(cfg); err != nil {
		m.Close()
		return nil, err
	}
	if cfg.Registerer != nil {
		if err := m.metrics.register(cfg.Registerer); err != nil {
			m.Close()
			return nil, err
		}
	}
	return m, nil
}

// Apply takes a new configuration, for a reload. Everything that can be
// refused is done first: after an error nothing has changed. Names that are no
// longer configured are not served any more when Apply returns; their
// certificates stay on disk. Dir, Log and Registerer keep their first values,
// and so do the challenge addresses unless cfg has ports.
func (m *Manager) Apply(cfg Config) error {
	m.apply.Lock()
	addrs := m.cfg
	m.apply.Unlock()
	cfg.Dir, cfg.Log = m.dir, m.log
	if cfg.HTTPPort == 0 && cfg.HTTPSPort == 0 {
		cfg.ListenHost, cfg.HTTPPort, cfg.HTTPSPort = addrs.ListenHost, addrs.HTTPPort, addrs.HTTPSPort
	}
	cfg, err := cfg.normal()
	if err != nil {
		return err
	}
	if err := m.setUp(cfg); err != nil {
		return err
	}
	m.ledger.retry()
	m.kick()
	return nil
}

// SetChallengeAddrs tells where the listeners ended up, for the challenges of
// RFC 8555 section 8.3 and RFC 8737. Call it before Run when the ports were
// not known to New; a port of zero turns its challenge off.
func (m *Manager) SetChallengeAddrs(host string, httpPort, httpsPort int) error {
	m.apply.Lock()
	cfg := m.cfg
	m.apply.Unlock()
	cfg.ListenHost, cfg.HTTPPort, cfg.HTTPSPort = host, httpPort, httpsPort
	if err := m.setUp(cfg); err != nil {
		return err
	}
	m.kick()
	return nil
}

// setUp builds everything cfg asks for, then swaps it in.
func (m *Manager) setUp(cfg Config) error {
	m.apply.Lock()
	defer m.apply.Unlock()
	var before []*fileCert
	old := m.table.Load()
	if old != nil {
		before = old.files
	}
	files, err := loadFiles(cfg.Files, before, m.log)
	if err != nil {
		return err
	}
	next, err := newTable(cfg, files)
	if err != nil {
		return err
	}
	iss, err := m.prepare(cfg)
	if err != nil {
		return err
	}

	// Nothing below fails.
	m.eng.use(iss)
	m.cfg = cfg
	m.table.Store(next)
	m.settings.Store(newSettings(cfg))
	m.setServing(cfg.MinVersion, m.tickets.current())
	m.refreshAddrs()
	if old != nil {
		m.eng.forget(m.wants)
	}
	m.loadFromDisk(next.managed)
	return nil
}

// settings is what the driver needs of a Config. It never changes once
// published.
type settings struct {
	ask         func(context.Context, dnscheck.Question) dnscheck.Verdict // nil: the DNS does not decide
	check       time.Duration
	perHour     int
	challenges  []string // that can be answered here
	ips         []netip.Addr
	publicAddrs func() []netip.Addr
	clock       func() (bool, time.Duration)
	notice      func(Notice)
}

func newSettings(cfg Config) *settings {
	s := &settings{
		ask: cfg.Check, check: cfg.CheckEvery, perHour: cfg.AttemptsPerHour,
		ips: slices.Clone(cfg.IPs), publicAddrs: cfg.PublicAddrs, clock: cfg.Clock, notice: cfg.OnNotice,
	}
	for _, c := range []struct {
		name string
		on   bool
	}{{challengeHTTP, cfg.HTTPPort != 0}, {challengeALPN, cfg.HTTPSPort != 0}, {challengeDNS, cfg.DNS01 != nil}} {
		if c.on && (cfg.Challenge == challengeAuto || cfg.Challenge == c.name) {
			s.challenges = append(s.challenges, c.name)
		}
	}
	return s
}

// prepare builds the issuers of cfg without using them yet. An authority that
// stays as it was is taken over with what it knows.
func (m *Manager) prepare(cfg Config) (*issuers, error) {
	if cfg.Issuer == issuerLocal {
		ca, err := openLocalCA(localDir(cfg.Dir), m.log)
		if err != nil {
			return nil, err
		}
		return &issuers{list: []*issuer{m.eng.issuer(localIssuer{ca})}, label: issuerLocal}, nil
	}
	out := &issuers{label: issuerACME}
	for _, c := range cfg.ACME {
		a, err := newAuthority(c, cfg.Email, m.eng.storage, m.open, m.log)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out.list, func(i *issuer) bool { return i.IssuerKey() == a.key }) {
			return nil, fmt.Errorf("tls acme: the directory %s is listed twice", a.cfg.Directory)
		}
		a.dns01 = cfg.DNS01
		if was := m.eng.byKey(a.key); was != nil {
			if old, ok := was.certifier.(*authority); ok && old.cfg.Directory == a.cfg.Directory {
				a.inherit(old)
			}
		}
		out.list = append(out.list, m.eng.issuer(a))
	}
	return out, nil
}

// loadFromDisk puts the certificates the storage holds into memory. What is
// missing or unreadable is the driver's to obtain.
func (m *Manager) loadFromDisk(names []string) {
	for _, n := range names {
		if m.eng.holds(n) {
			continue
		}
		if err := m.eng.load(n); err != nil && !errors.Is(err, errNotStored) {
			m.setAside(n, err)
		}
	}
}

// setAside moves a stored certificate that does not load out of the way, so
// that a new one can be obtained.
func (m *Manager) setAside(name string, why error) {
	to, err := m.eng.quarantine(name)
	if err != nil {
		m.log.Error("certificate on disk is unreadable and stays in the way", "name", name, "err", errors.Join(why, err))
		return
	}
	m.log.Warn("certificate on disk is unreadable, moved aside; a new one will be obtained", "name", name, "moved_to", to, "err", why)
}

// Run obtains what is missing, renews what is due, notices changed files and
// rotates the session ticket keys, until ctx ends. It returns nil then. It
// waits for the goroutines it starts. Not twice at the same time.
func (m *Manager) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx) // both workers end with ctx, and Wait waits for them
	g.Go(func() error { return m.drive(ctx) })
	g.Go(func() error { return m.watch(ctx) })
	return g.Wait()
}

// Close ends everything the Manager still does and waits for it. The data
// folder may be used by another Manager after that. Handshakes that come later
// are refused or served from memory; certificates are not renewed any more.
func (m *Manager) Close() {
	m.once.Do(func() {
		m.ending.Lock()
		m.closed = true
		m.ending.Unlock()
		m.cancel()
		m.busy.Wait()
		m.eng.close()
		m.asks.close()
		m.metrics.unregister()
	})
}

// TLSConfig returns the configuration for the TLS listeners. It may be cloned,
// and stays true across Apply: what changes is looked up at each handshake.
//
// A ClientHello without a server name, or with one that is not configured, is
// refused before any key exchange. The error of the handshake then has a
// method RefusalClass() string: "no_server_name", "unknown_server_name", or
// "no_certificate" for a configured name whose certificate is not there yet.
func (m *Manager) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"h2", "http/1.1", protoChallenge},
		GetConfigForClient: m.configForClient,
		GetCertificate:     m.getCertificate,
	}
}

// LocalRootPath is the PEM file with the root of the local authority, for
// clients that should trust it. The file exists once a Manager with the issuer
// "local" has been made for dir.
func LocalRootPath(dir string) string { return filepath.Join(localDir(dir), "root.pem") }

func localDir(dir string) string { return filepath.Join(dir, "local-ca") }

// normal fills defaults, brings names into their canonical form and refuses
// what cannot work.
func (c Config) normal() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("tlsmgr: data folder is empty, want a path")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	switch c.Issuer {
	case "":
		c.Issuer = issuerACME
	case issuerACME, issuerLocal:
	default:
		return c, fmt.Errorf("tls issuer: %q, want acme or local", c.Issuer)
	}
	if c.MinVersion == 0 {
		c.MinVersion = tls.VersionTLS12
	}
	if c.MinVersion != tls.VersionTLS12 && c.MinVersion != tls.VersionTLS13 {
		return c, fmt.Errorf("tls min_version: %s, want TLS 1.2 or TLS 1.3", tls.VersionName(c.MinVersion))
	}
	if err := c.normalACME(); err != nil {
		return c, err
	}
	names := make([]string, 0, len(c.Names))
	for _, n := range c.Names {
		cn, err := canonicalHost(n)
		if err != nil {
			return c, err
		}
		names = append(names, cn)
	}
	slices.Sort(names)
	c.Names = slices.Compact(names)
	if c.OnDemand != nil {
		od, err := c.OnDemand.normal()
		if err != nil {
			return c, err
		}
		c.OnDemand = &od
	}
	return c, nil
}

// normalACME is normal for what an authority is asked with.
func (c *Config) normalACME() error {
	if len(c.ACME) == 0 {
		c.ACME = []ACME{{}}
	}
	if c.Challenge == "" {
		c.Challenge = challengeAuto
	}
	all := []string{challengeAuto, challengeHTTP, challengeALPN, challengeDNS}
	if !slices.Contains(all, c.Challenge) {
		return fmt.Errorf("tls challenge: %q, want one of %s", c.Challenge, strings.Join(all, ", "))
	}
	for _, a := range c.ACME {
		for _, ch := range a.Challenges {
			if ch == challengeAuto || !slices.Contains(all, ch) {
				return fmt.Errorf("tls acme challenges: %q, want some of %s", ch, strings.Join(all[1:], ", "))
			}
		}
	}
	if c.CheckEvery <= 0 {
		c.CheckEvery = 30 * time.Second
	}
	if c.AttemptsPerHour <= 0 {
		c.AttemptsPerHour = 4
	}
	if c.Clock == nil {
		c.Clock = systemClock
	}
	return nil
}

const (
	issuerACME    = "acme"
	issuerLocal   = "local"
	challengeAuto = "auto"
)
