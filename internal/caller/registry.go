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
}

// Registry is what is remembered about callers as long as the process lives.
// Its methods may be called from any goroutine.
type Registry struct {
	dir     string
	log     *slog.Logger
	metrics *metrics
	book    atomic.Pointer[Book] // the one in use; nil before Use

	mu    sync.Mutex       // one change of the files at a time
	usage map[string]int64 // guarded by mu: when keys were last used
	saved map[string]int64 // guarded by mu: what the file has of it
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
	r := &Registry{dir: cfg.Dir, log: cfg.Log, metrics: newMetrics(cfg.Registerer), usage: make(map[string]int64)}
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

// Use makes b the Book that Run and Reload look after.
func (r *Registry) Use(b *Book) { r.book.Store(b) }

// Reload reads the store again: what `proxy caller add` and the like changed
// counts from then on. On an error nothing has changed.
func (r *Registry) Reload() error {
	b := r.book.Load()
	if b == nil {
		return nil
	}
	t, err := b.readKeys()
	if err != nil {
		return err
	}
	b.keys.Store(t)
	r.log.Info("callers read again", "keys", len(t.list))
	return nil
}

// saveEvery is how often it is written when keys were last used.
const saveEvery = 5 * time.Minute

// Run looks after what the Registry remembers until ctx ends, and writes it
// then. It returns nil.
func (r *Registry) Run(ctx context.Context) error {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	defer r.save()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			r.save()
		}
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

// save writes usage.json when it changed.
func (r *Registry) save() {
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
