package tlsmgr

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"postern/internal/dnscheck"
	"postern/internal/durable"
)

// record is what is remembered about one name. It is a value: copies share
// only what nobody changes in place.
type record struct {
	// Of the DNS.
	Colour   dnscheck.Colour `json:"colour"`
	Cause    string          `json:"cause,omitempty"`
	Sentence string          `json:"sentence,omitempty"`
	Since    time.Time       `json:"since,omitzero"`  // that colour
	Doubt    int             `json:"doubt,omitempty"` // looks in a row that contradict Colour
	Forbids  []string        `json:"forbids,omitempty"`

	// Of attempts.
	Tries       map[string][]time.Time `json:"tries,omitempty"`    // by account; the last hour
	Pauses      map[string]pause       `json:"pauses,omitempty"`   // by account; for this name alone
	Turn        int                    `json:"turn,omitempty"`     // which route is next
	Prefer      string                 `json:"prefer,omitempty"`   // the challenge that worked last
	Fails       int                    `json:"fails,omitempty"`    // in a row, that the authority counted
	Stumbles    int                    `json:"stumbles,omitempty"` // in a row, that it did not
	Next        time.Time              `json:"next,omitzero"`      // no attempt before
	LastAttempt time.Time              `json:"last_attempt,omitzero"`
	LastError   string                 `json:"last_error,omitempty"` // in the authority's words; empty after a success
	Meaning     string                 `json:"meaning,omitempty"`    // the same for people
	LastErrorAt time.Time              `json:"last_error_at,omitzero"`

	// Of the certificate's renewal time.
	ARI *renewalInfo `json:"ari,omitempty"`

	// The outage people were told of. Nil: none.
	Outage *Notice `json:"outage,omitempty"`
}

// pause keeps an account from being used for a name.
type pause struct {
	Until time.Time `json:"until"`
	Why   reason    `json:"why"`
}

// renewalInfo is what the authority said about renewing one certificate.
type renewalInfo struct {
	Serial string    `json:"serial"`
	At     time.Time `json:"at,omitzero"` // chosen in the window; zero: it gave none
	Start  time.Time `json:"start,omitzero"`
	End    time.Time `json:"end,omitzero"`
	AskAt  time.Time `json:"ask_at"` // ask again then
}

// freeAt is when an attempt at account is within perHour attempts in any hour.
func (r *record) freeAt(account string, perHour int, now time.Time) time.Time {
	tries := r.triesSince(account, now.Add(-budgetHour))
	if len(tries) < perHour {
		return time.Time{}
	}
	return tries[len(tries)-perHour].Add(budgetHour)
}

// triesSince are the attempts at account after t, oldest first.
func (r *record) triesSince(account string, t time.Time) []time.Time {
	tries := r.Tries[account]
	i := 0
	for i < len(tries) && !tries[i].After(t) {
		i++
	}
	return tries[i:]
}

// try notes an attempt.
func (r *record) try(account string, now time.Time) {
	next := make(map[string][]time.Time, len(r.Tries)+1)
	for a := range r.Tries {
		if left := r.triesSince(a, now.Add(-budgetHour)); len(left) > 0 {
			next[a] = slices.Clone(left)
		}
	}
	next[account] = append(next[account], now)
	r.Tries, r.LastAttempt = next, now
}

func (r *record) pauseAccount(account string, p pause) {
	next := maps.Clone(r.Pauses)
	if next == nil {
		next = map[string]pause{}
	}
	next[account] = p
	r.Pauses = next
}

// health is what is remembered about one authority and account.
type health struct {
	Until     time.Time `json:"until,omitzero"` // not asked before
	Why       reason    `json:"why,omitempty"`
	Fails     int       `json:"fails,omitempty"`
	Since     time.Time `json:"since,omitzero"` // of the first failure in a row
	LastError string    `json:"last_error,omitempty"`
}

// ledger is the driver's memory. It is in one file, so that a restart spends
// no attempt twice and forgets no wait. Its methods may be called from several
// goroutines.
type ledger struct {
	path string
	log  *slog.Logger

	mu    sync.Mutex
	names map[string]record // guarded by mu
	cas   map[string]health // guarded by mu
	seen  time.Time         // the latest time the clock ever had; guarded by mu
	bad   bool              // the last write failed; guarded by mu

	writing sync.Mutex // one write at a time
}

// ledgerFile is the form on disk.
type ledgerFile struct {
	Names       map[string]record `json:"names"`
	Authorities map[string]health `json:"authorities"`
	Seen        time.Time         `json:"seen"`
}

// loadLedger reads path. A file that cannot be understood is moved aside: the
// authority's own limits hold whatever we forget.
func loadLedger(path string, log *slog.Logger) *ledger {
	l := &ledger{path: path, log: log, names: map[string]record{}, cas: map[string]health{}}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l
	}
	var f ledgerFile
	if err == nil {
		err = json.Unmarshal(raw, &f)
	}
	if err != nil {
		aside := path + ".unreadable-" + time.Now().UTC().Format("20060102T150405.000Z")
		log.Warn("memory of attempts is unreadable, moved aside; starting without", "file", path, "moved_to", aside, "err", errors.Join(err, os.Rename(path, aside)))
		return l
	}
	if f.Names != nil {
		l.names = f.Names
	}
	if f.Authorities != nil {
		l.cas = f.Authorities
	}
	l.seen = f.Seen
	return l
}

// save writes everything to the disk. It tells a failure once.
func (l *ledger) save(now time.Time) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	if now.After(l.seen) {
		l.seen = now
	}
	raw, err := json.Marshal(ledgerFile{l.names, l.cas, l.seen})
	l.mu.Unlock()
	if err == nil {
		err = durable.WriteFile(l.path, raw, 0o600)
	}
	l.mu.Lock()
	was := l.bad
	l.bad = err != nil
	l.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("memory of attempts: %w", err)
		if !was {
			l.log.Warn("state is not writable: no certificate is asked for until it is", "err", err)
		}
	}
	return err
}

func (l *ledger) writable() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.bad
}

func (l *ledger) lastSeen() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen
}

func (l *ledger) get(name string) record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.names[name]
}

// update changes the record of name and returns the new one.
func (l *ledger) update(name string, f func(*record)) record {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.names[name]
	f(&r)
	l.names[name] = r
	return r
}

func (l *ledger) health(account string) health {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cas[account]
}

func (l *ledger) updateHealth(account string, f func(*health)) health {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.cas[account]
	f(&h)
	l.cas[account] = h
	return h
}

// keep forgets names that are neither wanted nor spent an attempt in the last
// hour, so that names strangers chose do not pile up. It always forgets so
// much that at most memorySize unwanted ones are left.
func (l *ledger) keep(wanted func(string) bool, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	left := 0
	for name, r := range l.names {
		if wanted(name) {
			continue
		}
		if left >= memorySize || now.Sub(r.LastAttempt) > budgetHour && !r.Next.After(now) {
			delete(l.names, name)
			continue
		}
		left++
	}
}

// retry lets every name be tried at once: a reload may have cured the cause.
// What an authority asked us to wait for stays, and so do the budgets.
func (l *ledger) retry() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, r := range l.names {
		r.Next = time.Time{}
		for a, p := range r.Pauses {
			if p.Why != whyLimited {
				next := maps.Clone(r.Pauses)
				delete(next, a)
				r.Pauses = next
			}
		}
		l.names[name] = r
	}
	for a, h := range l.cas {
		if h.Why != whyLimited {
			h.Until = time.Time{}
			l.cas[a] = h
		}
	}
}

// unwritable notes that a certificate could not be written; the next save that
// works takes it back.
func (l *ledger) unwritable(err error) {
	l.mu.Lock()
	was := l.bad
	l.bad = true
	l.mu.Unlock()
	if !was {
		l.log.Warn("state is not writable: no certificate is asked for until it is", "err", err)
	}
}
