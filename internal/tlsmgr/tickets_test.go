package tlsmgr

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// resumes makes a request and reports whether its session was a resumed one.
// A whole request, because TLS 1.3 sends tickets after the handshake.
func resumes(t *testing.T, d *door, cache tls.ClientSessionCache, version uint16) bool {
	t.Helper()
	var resumed bool
	tr := &http.Transport{DisableKeepAlives: true, DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		dialer := tls.Dialer{Config: &tls.Config{ServerName: "home.example", InsecureSkipVerify: true, MaxVersion: version, ClientSessionCache: cache}}
		c, err := dialer.DialContext(ctx, network, d.addr)
		if err == nil {
			resumed = c.(*tls.Conn).ConnectionState().DidResume
		}
		return c, err
	}}
	resp, err := tr.RoundTrip(must(http.NewRequestWithContext(t.Context(), http.MethodGet, "https://home.example/", nil)))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resumed
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestTicketsSurviveRestart(t *testing.T) {
	t.Parallel()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			t.Parallel()
			cfg := Config{Dir: t.TempDir(), Names: []string{"home.example"}}
			m := localManager(t, cfg)
			d := openDoor(t, m.TLSConfig())
			cache := tls.NewLRUClientSessionCache(4)
			if resumes(t, d, cache, version) {
				t.Fatal("the first session was resumed")
			}
			if !resumes(t, d, cache, version) {
				t.Fatal("no resumption before the restart")
			}
			m.Close()
			again := localManager(t, cfg)
			d2 := openDoor(t, again.TLSConfig())
			if !resumes(t, d2, cache, version) {
				t.Error("no resumption after the restart")
			}
			// A rotation at run time reaches the clone net/http made, and
			// the key before still decrypts.
			again.lookAround(time.Now().Add(ticketRotation))
			if got := len(again.tickets.current()); got != 2 {
				t.Errorf("%d keys after a rotation, want 2", got)
			}
			if !resumes(t, d2, cache, version) {
				t.Error("no resumption after a rotation")
			}
			// And a name that a reload took away is refused whatever the
			// client resumes.
			cfg.Names, cfg.Issuer = nil, "local"
			if err := again.Apply(cfg); err != nil {
				t.Fatal(err)
			}
			if _, err := tls.Dial("tcp", d2.addr, &tls.Config{ServerName: "home.example", InsecureSkipVerify: true, ClientSessionCache: cache}); err == nil {
				t.Error("a resumed session was served for a name no longer configured")
			}
		})
	}
}

func TestDamagedTicketsAreReplaced(t *testing.T) {
	t.Parallel()
	for _, content := range []string{"", "{", `{"Keys":[{"created":"2026-01-01T00:00:00Z","key":"AAAA"}]}`, strings.Repeat("secret", 10)} {
		path := filepath.Join(t.TempDir(), "tickets.json")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		book := &logBook{}
		tk, err := loadTickets(path, book.logger())
		if err != nil {
			t.Fatal(err)
		}
		if n := len(tk.current()); n != 1 {
			t.Errorf("%q: %d keys, want a new one", content, n)
		}
		if s := book.String(); !strings.Contains(s, "damaged") || strings.Contains(s, "secret") {
			t.Errorf("%q: log %q", content, s)
		}
		fi, err := os.Stat(path)
		if err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("file %v %v, want mode 0600", fi, err)
		}
		again, err := loadTickets(path, book.logger())
		if err != nil || !slices.Equal(again.current(), tk.current()) {
			t.Errorf("%q: the new key is not read back", content)
		}
	}
}

func TestNextTickets(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	ago := func(hours ...int) []ticketKey {
		var out []ticketKey
		for _, h := range hours {
			out = append(out, ticketKey{Created: now.Add(-time.Duration(h) * time.Hour)})
		}
		return out
	}
	for _, tc := range []struct {
		name string
		keys []ticketKey
		keep int
		due  bool
	}{
		{"none", nil, 0, true},
		{"fresh", ago(1), 1, false},
		{"a day old", ago(24), 1, true},
		{"full, newest fresh", ago(1, 25, 49), 3, false},
		{"full, newest due: the oldest makes room", ago(24, 48, 71), 2, true},
		{"too old to decrypt with", ago(2, 72), 1, false},
		{"off for a month", ago(720, 744), 0, true},
		{"from the future, the clock was wrong", ago(-100), 1, true},
		{"a little from the future", ago(-1), 1, false},
	} {
		keep, due := nextTickets(tc.keys, now)
		if len(keep) != tc.keep || due != tc.due {
			t.Errorf("%s: keep %d due %v, want %d %v", tc.name, len(keep), due, tc.keep, tc.due)
		}
	}
}

func FuzzParseTickets(f *testing.F) {
	f.Add([]byte(`{"Keys":[{"created":"2026-01-01T00:00:00Z","key":"AAAA"}]}`))
	f.Add([]byte(`{"keys":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		keys, err := parseTickets(raw)
		if err == nil && len(keys) > ticketKeep {
			t.Errorf("%d keys", len(keys))
		}
		for _, k := range keys {
			if len(k.Key) != 32 {
				t.Errorf("key of %d bytes", len(k.Key))
			}
		}
	})
}
