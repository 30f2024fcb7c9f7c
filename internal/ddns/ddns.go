// Package ddns learns the public addresses of this house and keeps DNS records
// at them.
//
// Sources of several kinds are asked what our IPv4 address is; decide.go has
// the rule by which their answers move it. The IPv6 address is a stable one of
// an interface. What is believed goes to every DNS host that is configured,
// each with a goroutine of its own, so that one that is down holds up no
// other: written only when it differs, confirmed at the zone's own name
// servers, and tried again for ever. The hosts are watched as two things, their
// API and their name servers, because one often fails without the other.
package ddns

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"postern/internal/dnsapi"
	"postern/internal/dnscheck"
)

// Records is a DNS host that can be told addresses: a dnsapi.Addrs.
type Records interface {
	// SetAddrs makes v4 the only A record and v6 the only AAAA record of
	// name. The record of the zero Addr is left as it is.
	SetAddrs(ctx context.Context, name string, v4, v6 netip.Addr) error

	// ClearV6 takes v6 out of name's AAAA records. v4 is what the A record
	// is, for hosts that can only clear both.
	ClearV6(ctx context.Context, name string, v4, v6 netip.Addr) error

	// Probe asks something that changes nothing.
	Probe(ctx context.Context, name string) error
}

// Addresses are the public addresses of this house. A zero Addr is not known,
// or not there.
type Addresses struct {
	V4 netip.Addr `json:"ipv4,omitzero"`
	V6 netip.Addr `json:"ipv6,omitzero"`
}

// List returns those there are.
func (a Addresses) List() []netip.Addr {
	var out []netip.Addr
	for _, x := range []netip.Addr{a.V4, a.V6} {
		if x.IsValid() {
			out = append(out, x)
		}
	}
	return out
}

// String is for people: "203.0.113.7 and 2001:db8::7", or "none".
func (a Addresses) String() string {
	switch l := a.List(); len(l) {
	case 0:
		return "none"
	case 1:
		return l[0].String()
	default:
		return l[0].String() + " and " + l[1].String()
	}
}

// Entry is one DNS host and the names it keeps.
type Entry struct {
	Provider string          // as dnsapi.New takes it
	Settings dnsapi.Settings // likewise
	Hosts    []string        // absolute names
	NoV6     bool            // no AAAA record; one that we set is cleared

	// Interval is how often the name servers are asked whether the records
	// still stand, and the API whether it is there. Zero means 5 min.
	Interval time.Duration
}

// Config says what to ask and what to keep. Zero values are defaults.
type Config struct {
	// Sources of the IPv4 address. This machine's interfaces are looked at
	// besides.
	Sources []Source

	// Interval is how often sources are asked; the router every minute if
	// that is oftener. Zero means 5 min.
	Interval time.Duration

	// Entries are the records to keep. None: addresses are found out, and
	// nobody is told.
	Entries []Entry

	// Client makes the client of a DNS host. Nil: dnsapi.NewAddrs.
	Client func(provider string, s dnsapi.Settings) (Records, error)

	// See asks the name servers of name's zone for an address. Nil: nobody is
	// asked, and what the API says is taken for done.
	See func(ctx context.Context, name string, addr netip.Addr) (dnscheck.Seen, error)

	// File keeps what was believed and set. Empty: it is forgotten with the
	// process. History keeps the outages of the DNS hosts, likewise.
	File, History string

	// OnAddress is called after a change, also of the first address ever. It
	// must not block.
	OnAddress func(old, now Addresses)

	// OnNotice is called when something goes wrong at a DNS host, and when it
	// is over. It must not block.
	OnNotice func(Notice)

	// Local lists the addresses of this machine. Nil: the system is asked.
	Local func() ([]LocalAddr, error)

	// OnLink is called when a link or an address of this machine changed. It
	// must not block.
	OnLink func()

	// Watch calls changed when links or addresses change, until ctx is done.
	// Nil: the system tells, where it can.
	Watch func(ctx context.Context, changed func()) error

	// Log: nil discards. Registerer: nil keeps the metrics to itself. Neither
	// can be changed by Apply, nor File and History.
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

const (
	defaultInterval = 5 * time.Minute
	routerInterval  = time.Minute
	maxGap          = 10 * time.Second // between answers that count as two
	kickGap         = 2 * time.Second  // between rounds that links ask for
	eagerInterval   = time.Minute      // between rounds while nobody confirms what is believed
	v6Grace         = 10 * time.Minute // an IPv6 address may be away for as long
)

// settings are a Config in force. They do not change.
type settings struct {
	Config
	rules   rules
	entries []*entry
	router  time.Duration
}

// entry is an Entry with its client.
type entry struct {
	Entry
	id     string // label of metrics: the provider, numbered if there are several
	client Records
}

// Manager does it. Make one with New; Run does the work. Its methods may be
// called from several goroutines.
type Manager struct {
	log     *slog.Logger
	metrics *metrics
	set     atomic.Pointer[settings]
	kick    chan struct{} // holds one; something may have changed
	applied chan struct{} // holds one; set has
	online  atomic.Bool   // somebody far away answers
	sure    atomic.Bool   // a source stands for the IPv4 address believed

	state   *store
	watch   *watcher
	mu      sync.Mutex
	addrs   Addresses         // guarded by mu
	workers []*worker         // guarded by mu; in the order of the settings
	votes   []vote            // guarded by mu; for Status
	told    map[string]string // guarded by mu; the last error of a source, by kind and name
}

// New makes a Manager and reads its files; one that cannot be read is moved
// aside. It starts nothing and touches no network. The error names the entry
// that no client can be made of.
func New(cfg Config) (*Manager, error) {
	m := &Manager{log: cfg.Log, kick: make(chan struct{}, 1), applied: make(chan struct{}, 1), told: map[string]string{}}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	m.metrics = newMetrics(cfg.Registerer)
	m.online.Store(true)
	m.state = loadStore(cfg.File, m.log)
	m.watch = newWatcher(cfg.History, m.log, m.metrics)
	set, err := newSettings(cfg, nil)
	if err != nil {
		return nil, err
	}
	m.addrs = m.state.addresses()
	m.set.Store(set)
	m.workers = m.newWorkers(set, nil)
	m.watch.retain(set.entries)
	m.watch.show()
	return m, nil
}

// newSettings fills in the defaults. Clients of unchanged hosts come from
// before.
func newSettings(cfg Config, before *settings) (*settings, error) {
	if cfg.Interval <= 0 {
		cfg.Interval = defaultInterval
	}
	if cfg.Client == nil {
		cfg.Client = client
	}
	if cfg.Local == nil {
		cfg.Local = localAddrs
	}
	if cfg.Watch == nil {
		cfg.Watch = watchLinks
	}
	s := &settings{Config: cfg, router: min(cfg.Interval, routerInterval)}
	far := 2*cfg.Interval + 30*time.Second
	s.rules = rules{
		fresh:  map[Kind]time.Duration{Router: 2*s.router + 30*time.Second, Interface: far, DNSEcho: far, HTTPSEcho: far},
		silent: 3 * cfg.Interval,
		gap:    min(cfg.Interval, maxGap),
	}
	seen := map[Kind]bool{}
	for _, x := range cfg.Sources {
		if !seen[x.Kind] {
			seen[x.Kind] = true
			s.rules.kinds = append(s.rules.kinds, x.Kind)
		}
	}
	count := map[string]int{}
	for i, e := range cfg.Entries {
		if e.Interval <= 0 {
			e.Interval = defaultInterval
		}
		n := &entry{Entry: e, id: e.Provider}
		if count[e.Provider]++; count[e.Provider] > 1 {
			n.id = fmt.Sprintf("%s-%d", e.Provider, count[e.Provider])
		}
		if old := before.find(n); old != nil {
			n.client = old.client
		} else {
			var err error
			if n.client, err = cfg.Client(e.Provider, e.Settings); err != nil {
				return nil, fmt.Errorf("ddns entry %d: %w", i+1, err)
			}
		}
		s.entries = append(s.entries, n)
	}
	return s, nil
}

// find returns the entry with the same host and credentials, or nil.
func (s *settings) find(n *entry) *entry {
	if s == nil {
		return nil
	}
	for _, e := range s.entries {
		if e.id == n.id && e.Settings == n.Settings {
			return e
		}
	}
	return nil
}

// client makes a client of dnsapi.
func client(provider string, s dnsapi.Settings) (Records, error) { return dnsapi.NewAddrs(provider, s) }

// Apply changes the configuration. What is the same goes on as it was; after
// an error everything does.
func (m *Manager) Apply(cfg Config) error {
	commit, err := m.Prepare(cfg)
	if err != nil {
		return err
	}
	commit()
	return nil
}

// Prepare does all of Apply that can fail, and returns what does the rest.
func (m *Manager) Prepare(cfg Config) (commit func(), err error) {
	next, err := newSettings(cfg, m.set.Load())
	if err != nil {
		return nil, err
	}
	return func() {
		m.mu.Lock()
		m.workers = m.newWorkers(next, m.workers)
		m.watch.retain(next.entries)
		m.set.Store(next)
		m.mu.Unlock()
		ping(m.applied)
		ping(m.kick)
	}, nil
}

// Addresses returns what is believed now. It does not block.
func (m *Manager) Addresses() Addresses {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.addrs
}

// Sure reports whether a source stands for the IPv4 address that is believed.
// While none answers, as after a start with everything down, it may have become
// another one unseen. It does not block.
func (m *Manager) Sure() bool { return m.sure.Load() }

func (m *Manager) linkChanged() {
	if f := m.set.Load().OnLink; f != nil {
		f()
	}
	m.Kick()
}

// Kick has all sources asked soon, because something may have changed. It does
// not block.
func (m *Manager) Kick() { ping(m.kick) }

func ping(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is waiting already
	}
}

// Run works until ctx is done, and returns nil when everything it started has
// ended.
func (m *Manager) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { m.steadily(ctx, "links", m.followLinks) })
	wg.Go(func() { m.supervise(ctx) })
	m.steadily(ctx, "poll", m.poll)
	return nil
}

// steadily calls fn again until ctx is done, whatever happens in it.
func (m *Manager) steadily(ctx context.Context, what string, fn func(context.Context)) {
	for ctx.Err() == nil {
		func() {
			defer func() {
				if v := recover(); v != nil {
					m.log.Error("panic, will be restarted", "part", what, "panic", fmt.Sprint(v))
				}
			}()
			fn(ctx)
		}()
		sleep(ctx, time.Minute)
	}
}

func (m *Manager) followLinks(ctx context.Context) {
	if err := m.set.Load().Watch(ctx, m.linkChanged); err != nil && ctx.Err() == nil {
		m.log.Debug("changes of links are not told, so addresses are polled only", "err", err)
	}
}

// sleep waits for d, or for ctx.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// supervise runs the workers of the settings in force.
func (m *Manager) supervise(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	running := map[*worker]context.CancelFunc{}
	for {
		m.mu.Lock()
		want := m.workers
		m.mu.Unlock()
		wanted := map[*worker]bool{}
		for _, w := range want {
			wanted[w] = true
			if running[w] == nil {
				workCtx, cancel := context.WithCancel(ctx)
				running[w] = cancel
				wg.Go(func() { m.steadily(workCtx, "records of "+w.id, w.run) })
			}
		}
		for w, cancel := range running {
			if !wanted[w] {
				cancel()
				delete(running, w)
			}
		}
		select {
		case <-ctx.Done():
			for _, cancel := range running {
				cancel()
			}
			return
		case <-m.applied:
		}
	}
}
