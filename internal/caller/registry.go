package caller

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"postern/internal/durable"
)

// Config is what a Registry works with.
type Config struct {
	// Dir is the folder of its files; made when it is missing. Required.
	Dir string
	// Log gets what a person may want to read; nil discards it.
	Log *slog.Logger
	// Registerer gets the metrics; nil registers none.
	Registerer prometheus.Registerer
	// Clock tells whether a time service has set the clock, and how long the
	// machine has been up; nil asks the system.
	Clock func() (synced bool, up time.Duration)
}

// Registry is what is remembered about callers as long as the process lives.
// Its methods may be called from any goroutine.
type Registry struct {
	dir     string
	log     *slog.Logger
	metrics *metrics
	clock   *clock
	replays *replays
	book    atomic.Pointer[Book] // the one in use; nil before Use

	keysVersion atomic.Uint64 // counts up when an issuer's keys change
	wake        chan struct{} // has something when Run has to look

	reading sync.Mutex // held from reading the store until its keys count, so that none replaces newer ones

	mu    sync.Mutex       // one change of the files at a time
	usage map[string]int64 // guarded by mu: when keys were last used
	saved map[string]int64 // guarded by mu: what the file has of it

	sets map[source]*keySet // guarded by mu

	authority *authority // guarded by mu; nil: not opened yet
	tokenKey  []byte     // guarded by mu; nil: not read yet

	stsCalls atomic.Int32 // that are under way

	watch watch
}

// New returns a Registry. It reads its files, starts no goroutine and touches
// no network.
func New(cfg Config) (*Registry, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("callers: %w", err)
	}
	r := &Registry{dir: cfg.Dir, log: cfg.Log, metrics: newMetrics(cfg.Registerer), usage: make(map[string]int64), sets: make(map[source]*keySet), wake: make(chan struct{}, 1)}
	if cfg.Clock == nil {
		cfg.Clock = systemClock
	}
	r.clock = newClock(filepath.Join(cfg.Dir, clockName), cfg.Clock, cfg.Log)
	start := time.Now()
	known, _ := r.clock.judge(start)
	r.replays = newReplays(start, known, r.clock.trusted.Load, r.metrics)
	path := filepath.Join(cfg.Dir, usageName)
	used, err := readUsage(path)
	if err != nil { // it is only told to people
		cfg.Log.Warn("when API keys were last used is not known any more", "err", err)
	}
	for name, unix := range used {
		r.usage[name] = unix
	}
	return r, nil
}

// used returns when keys were last used.
func (r *Registry) used() map[string]int64 {
	r.noteUsage()
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[string]int64, len(r.usage))
	for name, unix := range r.usage {
		out[name] = unix
	}
	return out
}

// Use makes b the Book that Run and Reload look after; nil for none.
func (r *Registry) Use(b *Book) {
	r.book.Store(b)
	r.mu.Lock()
	keep := make(map[source]*keySet)
	if b != nil {
		for _, s := range b.keySets() {
			keep[s.source] = s
		}
	}
	r.sets = keep
	r.mu.Unlock()
	// What changed since b was prepared was told to the Book before it.
	if _, err := r.readStore(); err != nil {
		r.log.Warn("keys that were changed meanwhile are not known", "err", err)
	}
	r.wakeUp()
}

// wakeUp has Run look for something to do.
func (r *Registry) wakeUp() {
	select {
	case r.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// keySetOf returns the key set of a source, the running one if there is one.
func (r *Registry) keySetOf(src source) (*keySet, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sets[src]; s != nil {
		return s, nil
	}
	return r.newKeySet(src)
}

// Reload reads the store again: what `proxy caller add` and the like changed
// counts from then on. On an error nothing has changed.
func (r *Registry) Reload() error {
	t, err := r.readStore()
	if t != nil {
		r.log.Info("callers read again", "keys", len(t.list))
	}
	return err
}

// readStore gives the Book in use the keys that the store has now; nil when
// there is none.
func (r *Registry) readStore() (*keyTable, error) {
	r.reading.Lock()
	defer r.reading.Unlock()
	b := r.book.Load()
	if b == nil {
		return nil, nil
	}
	t, err := b.readKeys()
	if err != nil {
		return nil, err
	}
	b.keys.Store(t)
	return t, nil
}

const (
	saveEvery = 15 * time.Minute // how often the last use of keys and the time are written
	lookEvery = 10 * time.Second // how often it is looked whether keys are due, and the clock is set
)

// Run fetches the keys of issuers and looks after what the Registry remembers,
// until ctx ends; then it writes that. It waits for what it starts, and
// returns nil. Not twice at the same time.
func (r *Registry) Run(ctx context.Context) error {
	var fetching sync.WaitGroup
	defer fetching.Wait()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	defer r.save()
	saved := time.Now()
	for {
		now := time.Now()
		r.clock.look(now)
		if now.Sub(saved) >= saveEvery {
			r.save()
			saved = now
		}
		if b := r.book.Load(); b != nil {
			for _, s := range b.keySets() {
				if s.due(now) {
					fetching.Go(func() { r.fetch(ctx, s) }) // waited for above
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-r.wake:
		}
	}
}

// fetch gets an issuer's keys and tells of a change for the worse or the
// better.
func (r *Registry) fetch(ctx context.Context, s *keySet) {
	_, before := s.status()
	err := s.fetch(ctx)
	switch {
	case ctx.Err() != nil:
	case err != nil && before == nil:
		r.log.Warn("the keys of an issuer are not to be had; those known are used on", "issuer", s.issuer, "err", err)
	case err == nil && before != nil:
		r.log.Info("the keys of an issuer are to be had again", "issuer", s.issuer)
	}
}

// noteUsage takes over what the keys of the Book know.
func (r *Registry) noteUsage() {
	b := r.book.Load()
	if b == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := make(map[string]int64, len(r.usage)) // keys that are gone are forgotten
	for _, k := range b.keys.Load().list {
		name := k.hash.short()
		if unix := max(k.lastUsed.Load(), r.usage[name]); unix > 0 {
			now[name] = unix
		}
	}
	r.usage = now
}

// save writes the time, and usage.json when it changed.
func (r *Registry) save() {
	if r.book.Load() == nil {
		return // nobody is known: there is nothing to remember
	}
	r.clock.save(time.Now())
	r.noteUsage()
	r.mu.Lock()
	defer r.mu.Unlock()
	same := len(r.usage) == len(r.saved)
	for name, unix := range r.usage {
		same = same && r.saved[name] == unix
	}
	if same {
		return
	}
	raw, err := json.Marshal(usageFile{Version: 1, Used: r.usage})
	if err == nil {
		err = durable.WriteFile(filepath.Join(r.dir, usageName), raw, 0o600)
	}
	if err != nil {
		r.log.Warn("when API keys were last used is not written", "err", err)
		return
	}
	r.saved = make(map[string]int64, len(r.usage))
	for name, unix := range r.usage {
		r.saved[name] = unix
	}
}
