// Package feeds keeps lists of addresses that others say are hostile, and says
// whether an address is on one: the decisions of a CrowdSec security engine,
// plain-text blocklists by URL, and the countries and networks of a database
// in MaxMind's format. It refuses nothing itself; whom it may concern at all
// is the guard's to say.
//
// A feed that is down keeps its last good copy, in memory and on the disk; so
// does one whose answer makes no sense. What an answer may be is bounded in
// bytes and in entries.
//
// Lookup reads one atomic pointer to tables that never change; it takes no
// lock and allocates nothing.
package feeds

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Bounds of a feed.
const (
	// MaxFeeds is how many feeds there may be.
	MaxFeeds = 16
	// maxEntries is how many networks a feed may list; a table needs 8 bytes
	// for one of IPv4 and 32 for one of IPv6.
	maxEntries = 500_000
	// maxBody bounds an answer after decompression, and the copy on the disk.
	maxBody = 64 << 20
	// widest4 and widest6 are the shortest prefixes a list may hold: a wider
	// one is a mistake that would shut out half the Internet.
	widest4, widest6 = 8, 16
)

// saveEvery bounds how often a feed that changes all the time is written.
const saveEvery = time.Minute

// A Feed is one source of addresses: its name and exactly one of the rest.
type Feed struct {
	// Name is the metric label and the file's name.
	Name string
	// CrowdSec asks a security engine's local API.
	CrowdSec *CrowdSec
	// Blocklist fetches a text file.
	Blocklist *Blocklist
	// Geo reads a database.
	Geo *Geo
}

// CrowdSec says where the local API of a security engine is.
type CrowdSec struct {
	// URL is its base, such as http://127.0.0.1:8080.
	URL string
	// Key is the bouncer's API key. It is never printed.
	Key string
	// Interval is the time between questions. 0 means 10s.
	Interval time.Duration
}

// Blocklist says where a list is.
type Blocklist struct {
	// URL may hold a secret: of it, only the host is ever printed.
	URL string
	// Interval is the time between fetches. 0 means 1h.
	Interval time.Duration
}

// Geo says what is listed of a database. With an allow list everything is
// listed that is on none of them, also what the database does not know.
type Geo struct {
	// File is a database in MaxMind's format, of countries or of networks.
	File string
	// DenyCountries and AllowCountries are ISO 3166-1 codes in capitals.
	DenyCountries, AllowCountries []string
	// DenyASNs and AllowASNs are numbers of autonomous systems.
	DenyASNs, AllowASNs []uint32
	// Interval is the time between looks at the file. 0 means 1m.
	Interval time.Duration
}

// Config is what Lists work with.
type Config struct {
	// Feeds are the sources, at most MaxFeeds, with names of their own.
	Feeds []Feed
	// Dir is where the last good copies are kept; it is made when needed. ""
	// keeps them in memory alone.
	Dir string
	// Log is told when a feed is down and when it works again; nil means
	// nobody.
	Log *slog.Logger
	// Registerer takes the metrics; nil means they are not registered.
	Registerer prometheus.Registerer
}

// Lists are the feeds of a process. New makes them; all methods are safe for
// concurrent use.
type Lists struct {
	dir     string
	log     *slog.Logger
	metrics *metrics
	now     atomic.Pointer[[]listed] // read only once it is here
	changed chan struct{}            // holds one

	mu    sync.Mutex
	feeds []*feed // guarded by mu; the slice is replaced, never changed
}

// listed is what Lookup knows of one feed.
type listed struct {
	name  string
	table *table
	// others tells that the table is of those who are not listed.
	others bool
}

// A feed is a source and what is known of it.
type feed struct {
	Feed
	source source
	loaded sync.Once // guards source until it was loaded; run has it then

	mu     sync.Mutex
	listed *listed // guarded by mu; nil: nothing is known yet
	status Status  // guarded by mu
}

// Status is how one feed is doing.
type Status struct {
	// Name is the feed's.
	Name string
	// Entries is how many networks it lists.
	Entries int
	// Fetched is when it last answered; zero if it never did.
	Fetched time.Time
	// Err is what is wrong, nil if nothing is.
	Err error
	// Since is when it went wrong.
	Since time.Time
}

// A source is where the entries of a feed come from. It is used by one
// goroutine at a time.
type source interface {
	// load takes what was kept on the disk at the path.
	load(path string, now time.Time) (*listed, int, time.Time, error)
	// poll asks for news. A nil listed means that there are none. There may
	// be some beside an error: what was listed has ended.
	poll(ctx context.Context, now time.Time) (*listed, int, error)
	// save keeps on the disk what is known.
	save(path string) error
	// pause is the time to the next poll when so many in a row went wrong.
	pause(failures int) time.Duration
}

// New makes Lists. It reads nothing yet: Load does, and Run.
func New(cfg Config) *Lists {
	l := &Lists{dir: cfg.Dir, log: cfg.Log, changed: make(chan struct{}, 1)}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	l.now.Store(new([]listed))
	l.metrics = newMetrics(l, cfg.Registerer)
	l.apply(cfg.Feeds)
	return l
}

// Apply replaces the feeds. Those that stay as they were keep what they know;
// of new ones the copy on the disk is read.
func (l *Lists) Apply(feeds []Feed) {
	l.apply(feeds)
	l.Load()
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

func (l *Lists) apply(feeds []Feed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := make([]*feed, 0, len(feeds))
	for _, want := range feeds {
		i := slices.IndexFunc(l.feeds, func(f *feed) bool { return reflect.DeepEqual(f.Feed, want) })
		if i >= 0 {
			next = append(next, l.feeds[i])
			continue
		}
		next = append(next, &feed{Feed: want, source: newSource(want), status: Status{Name: want.Name}})
	}
	before := l.feeds
	l.feeds = next
	l.metrics.keep(before, next)
}

func newSource(f Feed) source {
	switch {
	case f.CrowdSec != nil:
		return newCrowdSec(*f.CrowdSec)
	case f.Blocklist != nil:
		return newBlocklist(*f.Blocklist)
	}
	return newGeo(*f.Geo)
}

// Load reads the copies on the disk, so that what is known counts from the
// first connection on. What cannot be read is told in the log and fetched
// again.
func (l *Lists) Load() {
	for _, f := range l.all() {
		l.load(f)
	}
	l.publish()
}

// load reads the copy of one feed, once.
func (l *Lists) load(f *feed) {
	f.loaded.Do(func() {
		got, entries, fetched, err := f.source.load(l.path(f), time.Now())
		if err != nil {
			l.log.Warn("feed: its copy on the disk is of no use, it will be fetched again", "feed", f.Name, "err", err)
			return
		}
		if got == nil {
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		got.name = f.Name
		f.listed, f.status.Entries, f.status.Fetched = got, entries, fetched
	})
}

// path is where the copy of a feed is, "" if nowhere.
func (l *Lists) path(f *feed) string {
	if l.dir == "" {
		return ""
	}
	return filepath.Join(l.dir, f.Name+".list")
}

func (l *Lists) all() []*feed {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.feeds
}

// publish makes what the feeds know what Lookup sees.
func (l *Lists) publish() {
	var now []listed
	for _, f := range l.all() {
		f.mu.Lock()
		if f.listed != nil {
			now = append(now, *f.listed)
		}
		f.mu.Unlock()
	}
	l.now.Store(&now)
}

// Lookup returns the name of the first feed that lists addr. It takes no lock
// and allocates nothing.
func (l *Lists) Lookup(addr netip.Addr) (feed string, ok bool) {
	addr = addr.Unmap()
	if !addr.IsValid() {
		return "", false
	}
	now := *l.now.Load()
	for i := range now {
		if now[i].table.contains(addr) != now[i].others {
			return now[i].name, true
		}
	}
	return "", false
}

// Status tells how each feed is doing.
func (l *Lists) Status() []Status {
	var out []Status
	for _, f := range l.all() {
		f.mu.Lock()
		out = append(out, f.status)
		f.mu.Unlock()
	}
	return out
}

// Run keeps the feeds fresh until ctx ends.
func (l *Lists) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		l.runAll(ctx)
	}
	return nil
}

// runAll runs the feeds there are, until they change or ctx ends.
func (l *Lists) runAll(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	for _, f := range l.all() {
		group.Go(func() { l.run(ctx, f) })
	}
	select {
	case <-ctx.Done():
	case <-l.changed:
	}
}

// run keeps one feed fresh.
func (l *Lists) run(ctx context.Context, f *feed) {
	l.load(f)
	failures := 0
	var unsaved bool
	var saved time.Time
	defer func() {
		if unsaved {
			l.save(f)
		}
	}()
	f.mu.Lock()
	fetched := f.status.Fetched
	f.mu.Unlock()
	// What was fetched before a restart is fresh for as long as it would
	// have been without one.
	wait := time.Duration(0)
	if f.CrowdSec == nil && !fetched.IsZero() {
		wait = min(max(f.source.pause(0)-time.Since(fetched), 0), f.source.pause(0))
	}
	for sleep(ctx, wait) {
		got, entries, err := f.source.poll(ctx, time.Now())
		if ctx.Err() != nil {
			return
		}
		l.note(f, got, entries, err)
		if failures++; err == nil {
			failures = 0
		}
		unsaved = unsaved || got != nil
		if unsaved && (time.Since(saved) >= saveEvery || f.Blocklist != nil) {
			l.save(f)
			unsaved, saved = false, time.Now()
		}
		wait = f.source.pause(failures)
		wait += time.Duration(rand.Float64() * 0.1 * float64(wait))
	}
}

// sleep waits for d and reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}

// note keeps and publishes what a poll found, and tells people when a feed went
// down or came back.
func (l *Lists) note(f *feed, got *listed, entries int, err error) {
	now := time.Now()
	f.mu.Lock()
	was := f.status
	if got != nil {
		got.name = f.Name
		f.listed, f.status.Entries = got, entries
	}
	if err == nil {
		f.status.Fetched, f.status.Err, f.status.Since = now, nil, time.Time{}
	} else if f.status.Err = err; was.Err == nil {
		f.status.Since = now
	}
	is := f.status
	f.mu.Unlock()
	if got != nil {
		l.publish() // before anybody is told
	}
	l.metrics.polled(f.Name, got != nil, err)
	switch {
	case err != nil && was.Err == nil:
		l.log.Warn("feed is down: its last good copy stays in use", "feed", f.Name, "entries", is.Entries, "err", err)
	case err == nil && was.Err != nil:
		l.log.Info("feed works again", "feed", f.Name, "entries", is.Entries, "down_for", now.Sub(was.Since).Round(time.Second).String())
	case err == nil && was.Fetched.IsZero():
		l.log.Info("feed works", "feed", f.Name, "entries", is.Entries)
	}
}

// save writes the copy of one feed.
func (l *Lists) save(f *feed) {
	if l.dir == "" {
		return
	}
	if err := f.source.save(l.path(f)); err != nil {
		l.log.Error("feed: its copy is not on the disk, a restart will begin without it", "feed", f.Name, "err", err)
	}
}

// limited is the error of a feed that lists too much.
func limited(what string, n int) error {
	return fmt.Errorf("%s lists more than %d networks; take a smaller list", what, n)
}
