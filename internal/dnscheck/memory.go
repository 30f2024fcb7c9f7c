package dnscheck

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"

	"postern/internal/durable"
)

// memory holds the servers of the zones that answered last. Its methods may be
// called from several goroutines.
type memory struct {
	file string // "": not written
	log  *slog.Logger

	mu      sync.Mutex
	zones   map[string][]nameServer // guarded by mu; by apex, at most maxRemember
	writing bool                    // guarded by mu: the last write worked, so a failure is news
}

// memoryFile is the file's form.
type memoryFile struct {
	Version int                     `json:"version"`
	Zones   map[string][]nameServer `json:"zones"`
}

const memoryVersion = 1

func loadMemory(cfg Config) *memory {
	m := &memory{log: cfg.Log, zones: make(map[string][]nameServer), writing: true}
	if cfg.File == "" {
		return m
	}
	if !cfg.ReadOnly {
		m.file = cfg.File
	}
	b, err := os.ReadFile(cfg.File)
	if errors.Is(err, fs.ErrNotExist) {
		return m
	}
	var got memoryFile
	if err == nil {
		err = json.Unmarshal(b, &got)
	}
	if err != nil || got.Version != memoryVersion {
		cfg.Log.Warn("remembered name servers are unreadable, starting without", "file", cfg.File, "err", err)
		return m
	}
	for apex, servers := range got.Zones {
		if len(m.zones) < maxRemember && len(servers) <= maxServers {
			m.zones[apex] = servers
		}
	}
	return m
}

// deepest returns the first of labels that is a remembered zone.
func (m *memory) deepest(labels []string) (delegation, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range labels {
		if s, ok := m.zones[l]; ok {
			return delegation{apex: l, servers: slices.Clone(s)}, true
		}
	}
	return delegation{}, false
}

// addrs are the remembered addresses of one server of a zone.
func (m *memory) addrs(apex, name string) []netip.Addr {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.zones[apex] {
		if s.Name == name {
			return s.Addrs
		}
	}
	return nil
}

// keep remembers zones, and writes them down if that is news.
func (m *memory) keep(zones []delegation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	changed := false
	for _, z := range zones {
		if same(m.zones[z.apex], z.servers) {
			continue
		}
		for apex := range m.zones { // full: any one has to go
			if _, known := m.zones[z.apex]; known || len(m.zones) < maxRemember {
				break
			}
			delete(m.zones, apex)
		}
		m.zones[z.apex], changed = z.servers, true
	}
	if !changed || m.file == "" {
		return
	}
	b, err := json.MarshalIndent(memoryFile{Version: memoryVersion, Zones: m.zones}, "", "\t")
	if err == nil {
		err = durable.WriteFile(m.file, append(b, '\n'), 0o600)
	}
	if err != nil && m.writing {
		m.log.Warn("name servers are not remembered", "file", m.file, "err", err)
	}
	m.writing = err == nil
}

func same(a, b []nameServer) bool {
	return slices.EqualFunc(a, b, func(x, y nameServer) bool { return x.Name == y.Name && slices.Equal(x.Addrs, y.Addrs) })
}

// remember keeps the zones whose servers proved themselves: one of them
// answered with authority, or, for a parent, with the delegation.
func (c *Checker) remember(f *facts) {
	var good []delegation
	for _, z := range f.zones {
		for _, d := range []struct {
			role role
			delegation
		}{{roleZone, z.own}, {roleParent, z.parent}} {
			proved := slices.ContainsFunc(f.answers, func(a answer) bool {
				return a.server.role == d.role && a.server.zone == d.apex && a.status.answered()
			})
			if proved {
				good = append(good, d.delegation)
			}
		}
	}
	c.memory.keep(good)
}
