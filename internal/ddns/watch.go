package ddns

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"os"
	"slices"
	"sync"
	"time"

	"postern/internal/durable"
)

// The parts of a DNS host that are watched.
const (
	partAPI     = "api"         // takes our calls
	partServers = "nameservers" // answer
	partAccess  = "access"      // our credentials are good for the name
	partRecord  = "record"      // the name servers have what we set
)

// Notice tells people that something at a DNS host went wrong, or that it is
// over. There is one of each for an outage, also across restarts.
type Notice struct {
	Provider string    `json:"provider"`
	Part     string    `json:"part"`           // api, nameservers, access or record
	Name     string    `json:"name,omitempty"` // the record, where it is about one
	Sentence string    `json:"sentence"`       // for people; what strangers said in it is quoted
	Since    time.Time `json:"since"`          // of the first failure
	Ended    time.Time `json:"ended,omitzero"` // zero: it has not
}

// bounds of the history
const (
	keepHistory = 7 * 24 * time.Hour
	maxOutages  = 512
	maxSentence = 300
)

// patience is how many failures in a row make an outage of a part.
func patience(part string) int {
	if part == partAccess || part == partRecord {
		return 1 // they were judged with care before
	}
	return 2
}

type watchKey struct{ provider, part, name string }

// failing is a part that failed last.
type failing struct {
	times int
	since time.Time
}

// watcher knows what is down, and what was in the last week.
type watcher struct {
	file    string
	log     *slog.Logger
	metrics *metrics

	mu      sync.Mutex
	doubts  map[watchKey]failing // guarded by mu; not yet an outage
	outages []Notice             // guarded by mu; the oldest first
	broken  bool                 // guarded by mu; the file cannot be written
}

// historyFile is the file.
type historyFile struct {
	Version int      `json:"version"`
	Outages []Notice `json:"outages"`
}

const historyVersion = 1

// newWatcher reads the history. One that cannot be read is moved aside.
func newWatcher(file string, log *slog.Logger, m *metrics) *watcher {
	w := &watcher{file: file, log: log, metrics: m, doubts: map[watchKey]failing{}}
	var f historyFile
	if readState(file, log, &f, func() error {
		if f.Version != historyVersion {
			return fmt.Errorf("version %d, want %d", f.Version, historyVersion)
		}
		return nil
	}) {
		w.outages = f.Outages
	}
	return w
}

// readState reads a JSON file into v; check judges it. A file that is not
// there is no trouble; a broken one is moved aside, and v is to be forgotten.
func readState(file string, log *slog.Logger, v any, check func() error) bool {
	if file == "" {
		return false
	}
	data, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return false
	}
	if err == nil {
		if err = json.Unmarshal(data, v); err == nil {
			err = check()
		}
	}
	if err == nil {
		return true
	}
	aside := file + ".broken"
	if moveErr := os.Rename(file, aside); moveErr != nil {
		aside = ""
	}
	log.Warn("state file unreadable, moved aside; it starts anew", "file", file, "aside", aside, "err", err)
	return false
}

// show sets the gauges of what is open since before the start.
func (w *watcher) show() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.outages {
		if n.Ended.IsZero() {
			w.metrics.up(n.Provider, n.Part, false)
		}
	}
}

// openLocked returns the outage that has not ended, or nil.
func (w *watcher) openLocked(k watchKey) *Notice {
	for i := range w.outages {
		n := &w.outages[i]
		if n.Ended.IsZero() && n.Provider == k.provider && n.Part == k.part && n.Name == k.name {
			return n
		}
	}
	return nil
}

// pace is how soon to look again at a part that failed at the last look.
func (w *watcher) pace(id, part string) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := watchKey{id, part, ""}
	switch {
	case w.doubts[k].times > 0:
		return firstPause
	case w.openLocked(k) != nil:
		return time.Minute
	}
	return math.MaxInt64
}

// bad notes a failure; enough of them in a row are an outage.
func (w *watcher) bad(m *Manager, id, part, name, why string, now time.Time) {
	k := watchKey{id, part, name}
	w.mu.Lock()
	if w.openLocked(k) != nil {
		w.mu.Unlock()
		return
	}
	f := w.doubts[k]
	if f.times++; f.times == 1 {
		f.since = now
	}
	if f.times < patience(part) {
		w.doubts[k] = f
		w.mu.Unlock()
		return
	}
	delete(w.doubts, k)
	n := Notice{Provider: id, Part: part, Name: name, Since: f.since, Sentence: bound(sentence(id, part, name) + ": " + why)}
	w.outages = append(w.outages, n)
	w.saveLocked(now)
	w.mu.Unlock()
	w.metrics.up(id, part, false)
	m.notify(n)
}

// good notes that a part works.
func (w *watcher) good(m *Manager, id, part, name string, now time.Time) {
	k := watchKey{id, part, name}
	w.mu.Lock()
	delete(w.doubts, k)
	var told Notice
	if n := w.openLocked(k); n != nil {
		n.Ended = now
		told = *n
		told.Sentence = fmt.Sprintf("%s is over after %v", sentence(id, part, name), now.Sub(n.Since).Round(time.Second))
		w.saveLocked(now)
	}
	w.mu.Unlock()
	w.metrics.up(id, part, true)
	if !told.Since.IsZero() {
		m.notify(told)
	}
}

// retain forgets what is open about hosts and names that entries do not have
// any more: nobody would ever see the end of it.
func (w *watcher) retain(entries []*entry) {
	names := map[string][]string{}
	for _, e := range entries {
		names[e.id] = e.Hosts
	}
	gone := func(provider, name string) bool {
		hosts, known := names[provider]
		return !known || name != "" && !slices.Contains(hosts, name)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for k := range w.doubts {
		if gone(k.provider, k.name) {
			delete(w.doubts, k)
		}
	}
	w.outages = slices.DeleteFunc(w.outages, func(n Notice) bool { return n.Ended.IsZero() && gone(n.Provider, n.Name) })
}

// sentence says what is wrong, without the reason.
func sentence(id, part, name string) string {
	switch part {
	case partAPI:
		return "the API of " + id + " does not take calls"
	case partServers:
		return "the name servers of " + id + " do not answer"
	case partAccess:
		return id + " refuses to change " + name
	}
	return "the record of " + name + " at " + id + " is not what we set"
}

func bound(s string) string {
	if len(s) > maxSentence {
		return s[:maxSentence] + "…"
	}
	return s
}

// saveLocked drops what is old and writes the file.
func (w *watcher) saveLocked(now time.Time) {
	w.outages = slices.DeleteFunc(w.outages, func(n Notice) bool { return !n.Ended.IsZero() && now.Sub(n.Ended) > keepHistory })
	for over := len(w.outages) - maxOutages; over > 0; over-- {
		i := slices.IndexFunc(w.outages, func(n Notice) bool { return !n.Ended.IsZero() })
		w.outages = slices.Delete(w.outages, max(i, 0), max(i, 0)+1)
	}
	if w.file == "" {
		return
	}
	data, err := json.Marshal(historyFile{historyVersion, w.outages})
	if err == nil {
		err = durable.WriteFile(w.file, data, 0o600)
	}
	if (err != nil) != w.broken {
		if w.broken = err != nil; w.broken {
			w.log.Error("the history of the dns hosts cannot be written; it is lost at the next start", "err", err)
		}
	}
}

// history returns the outages of the last seven days and those that have not
// ended, the oldest first.
func (w *watcher) history(now time.Time) []Notice {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.outages), func(n Notice) bool { return !n.Ended.IsZero() && now.Sub(n.Ended) > keepHistory })
}

// notify tells about an outage.
func (m *Manager) notify(n Notice) {
	m.metrics.noticed(n)
	if f := m.set.Load().OnNotice; f != nil {
		f(n)
	}
}

// Outages returns the outages of the last seven days and those that have not
// ended, the oldest first. It does not block.
func (m *Manager) Outages() []Notice { return m.watch.history(time.Now()) }
