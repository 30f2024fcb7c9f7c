package dnscheck

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func someZone(apex string) delegation {
	return delegation{apex: apex, servers: []nameServer{{Name: "ns1." + apex, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}}}
}

func TestMemoryFile(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	cfg := Config{File: filepath.Join(t.TempDir(), "ns.json"), Log: slog.New(slog.NewTextHandler(&log, nil))}
	loadMemory(cfg).keep([]delegation{someZone("duckdns.org"), someZone("org")})
	m := loadMemory(cfg)
	d, ok := m.deepest([]string{home, "duckdns.org", "org"})
	if !ok || d.apex != "duckdns.org" || len(m.addrs("org", "ns1.org")) != 1 || m.addrs("org", "ns2.org") != nil {
		t.Errorf("got %+v %v", d, ok)
	}
	info, err := os.Stat(cfg.File)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info, err)
	}

	// What is the same is not written again.
	if err := os.Remove(cfg.File); err != nil {
		t.Fatal(err)
	}
	m.keep([]delegation{someZone("org")})
	if _, err := os.Stat(cfg.File); err == nil {
		t.Error("written although nothing changed")
	}
	cfg.ReadOnly = true
	loadMemory(cfg).keep([]delegation{someZone("org")})
	if _, err := os.Stat(cfg.File); err == nil {
		t.Error("written although read-only")
	}
	if log.Len() > 0 {
		t.Errorf("log: %s", &log)
	}

	// What is broken is told, and replaced.
	cfg.ReadOnly = false
	for _, text := range []string{"{", `{"version": 9}`} {
		log.Reset()
		if err := os.WriteFile(cfg.File, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		m = loadMemory(cfg)
		if !strings.Contains(log.String(), "unreadable") {
			t.Errorf("%s: log: %s", text, &log)
		}
		m.keep([]delegation{someZone("org")})
		if _, ok := loadMemory(cfg).deepest([]string{"org"}); !ok {
			t.Errorf("%s was not replaced", text)
		}
	}

	// What does not work is told once.
	log.Reset()
	cfg.File = filepath.Join(cfg.File, "below", "a-file")
	m = &memory{file: cfg.File, log: cfg.Log, zones: map[string][]nameServer{}, writing: true}
	m.keep([]delegation{someZone("org")})
	m.keep([]delegation{someZone("net")})
	if n := strings.Count(log.String(), "not remembered"); n != 1 {
		t.Errorf("told %d times: %s", n, &log)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	m := loadMemory(Config{})
	for i := range maxRemember + 10 {
		m.keep([]delegation{someZone(fmt.Sprintf("z%d.example", i))})
	}
	if len(m.zones) != maxRemember {
		t.Errorf("%d zones", len(m.zones))
	}
	last := fmt.Sprintf("z%d.example", maxRemember+9)
	if _, ok := m.deepest([]string{last}); !ok {
		t.Error("the newest is not among them")
	}
}
