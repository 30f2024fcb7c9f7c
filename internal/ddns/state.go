package ddns

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"postern/internal/durable"
)

// store is what survives a restart: what was believed and what was written, so
// that nothing is written again that stands.
type store struct {
	file string
	log  *slog.Logger

	mu     sync.Mutex
	data   stateFile // guarded by mu
	broken bool      // guarded by mu; the file cannot be written
}

// stateFile is the file.
type stateFile struct {
	Version  int           `json:"version"`
	Since    time.Time     `json:"since,omitzero"` // when the addresses were last others
	Believed Addresses     `json:"believed"`
	Records  []recordState `json:"records,omitempty"`
}

// recordState is what we know of one name's records.
type recordState struct {
	Provider string `json:"provider"`
	Name     string `json:"name"`
	Addresses
	Ours bool      `json:"ours,omitempty"` // the AAAA record is of our making
	At   time.Time `json:"at"`
}

const (
	stateVersion = 1
	maxRecords   = 256 // names; those not heard of for longest go
)

func loadStore(file string, log *slog.Logger) *store {
	s := &store{file: file, log: log}
	var f stateFile
	if readState(file, log, &f, func() error {
		b := f.Believed
		switch {
		case f.Version != stateVersion:
			return fmt.Errorf("version %d, want %d", f.Version, stateVersion)
		case b.V4.IsValid() && !b.V4.Is4() || b.V6.IsValid() && !b.V6.Is6():
			return fmt.Errorf("believed addresses %s, want one of each family", b)
		}
		return nil
	}) {
		s.data = f
	}
	s.data.Version = stateVersion
	return s
}

func (s *store) addresses() Addresses {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.data.Believed
}

func (s *store) since() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.data.Since
}

func (s *store) setAddresses(a Addresses, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data.Believed, s.data.Since = a, now
	s.saveLocked()
}

func (s *store) record(provider, name string) recordState {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.data.Records {
		if r.Provider == provider && r.Name == name {
			return r
		}
	}
	return recordState{}
}

func (s *store) setRecord(provider, name string, a Addresses, ours bool, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data.Records = slices.DeleteFunc(s.data.Records, func(r recordState) bool { return r.Provider == provider && r.Name == name })
	s.data.Records = append(s.data.Records, recordState{provider, name, a, ours, now})
	if over := len(s.data.Records) - maxRecords; over > 0 {
		s.data.Records = slices.Delete(s.data.Records, 0, over)
	}
	s.saveLocked()
}

func (s *store) saveLocked() {
	if s.file == "" {
		return
	}
	data, err := json.MarshalIndent(s.data, "", "  ")
	if err == nil {
		err = durable.WriteFile(s.file, data, 0o600)
	}
	if (err != nil) != s.broken {
		if s.broken = err != nil; s.broken {
			s.log.Error("the public address cannot be kept; after a restart records may be written once more", "err", err)
		}
	}
}
