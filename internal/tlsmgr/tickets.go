package tlsmgr

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"postern/internal/durable"
)

const (
	ticketRotation = 24 * time.Hour // a new key encrypts after this long
	ticketKeep     = 3              // older keys still decrypt
)

// ticketKey is one entry of tickets.json.
type ticketKey struct {
	Created time.Time `json:"created"`
	Key     []byte    `json:"key"` // 32 bytes
}

// tickets keeps the session ticket keys on disk, so that clients resume after
// a restart. The file is a secret: whoever reads it can decrypt resumed
// sessions of the last three days.
type tickets struct {
	path string
	mu   sync.Mutex
	keys []ticketKey // newest first; guarded by mu
}

// loadTickets reads path. A missing, damaged or outdated file is replaced: at
// worst, clients pay a full handshake once.
func loadTickets(path string, log *slog.Logger) (*tickets, error) {
	t := &tickets{path: path}
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("session ticket keys: %w", err)
	default:
		keys, perr := parseTickets(raw)
		if perr != nil {
			log.Warn("session ticket keys are damaged, starting with new ones", "file", path, "err", perr)
		}
		t.keys = keys
	}
	_, err = t.rotate(time.Now())
	return t, err
}

// parseTickets reads tickets.json.
func parseTickets(raw []byte) ([]ticketKey, error) {
	var doc struct{ Keys []ticketKey }
	if err := json.Unmarshal(raw, &doc); err != nil {
		// The cause may quote the file, and the file is a secret.
		return nil, errors.New("not JSON of the expected form")
	}
	for i, k := range doc.Keys {
		if len(k.Key) != 32 {
			return nil, fmt.Errorf("key %d has %d bytes, want 32", i, len(k.Key))
		}
	}
	slices.SortStableFunc(doc.Keys, func(a, b ticketKey) int { return b.Created.Compare(a.Created) })
	return doc.Keys[:min(len(doc.Keys), ticketKeep)], nil
}

// nextTickets is the pure rule: which keys are in use at now, and whether a new
// one must be made. A key from the future (the clock was wrong) counts as due.
func nextTickets(keys []ticketKey, now time.Time) (keep []ticketKey, due bool) {
	for _, k := range keys {
		if now.Sub(k.Created) < ticketKeep*ticketRotation {
			keep = append(keep, k)
		}
	}
	due = len(keep) == 0 || now.Sub(keep[0].Created) >= ticketRotation || keep[0].Created.After(now.Add(time.Hour))
	if due && len(keep) > ticketKeep-1 {
		keep = keep[:ticketKeep-1]
	}
	return keep, due
}

// rotate makes a new key when one is due and reports whether it did.
func (t *tickets) rotate(now time.Time) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	keep, due := nextTickets(t.keys, now)
	if !due {
		t.keys = keep
		return false, nil
	}
	k := ticketKey{Created: now.UTC(), Key: make([]byte, 32)}
	rand.Read(k.Key)
	keys := append([]ticketKey{k}, keep...)
	raw, err := json.Marshal(struct{ Keys []ticketKey }{keys})
	if err != nil {
		return false, err
	}
	if err := durable.WriteFile(t.path, raw, 0o600); err != nil {
		return false, fmt.Errorf("session ticket keys: %w", err)
	}
	t.keys = keys
	return true, nil
}

// current returns the keys for tls.Config.SetSessionTicketKeys.
func (t *tickets) current() [][32]byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([][32]byte, len(t.keys))
	for i, k := range t.keys {
		out[i] = [32]byte(k.Key)
	}
	return out
}
