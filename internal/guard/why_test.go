package guard

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestWhy(t *testing.T) {
	g := New(Config{})
	a := ip("203.0.113.7")
	g.Report(a, NoRoute, Evidence{Rule: "no_route", Method: "GET", Host: "mypi.example.org", Path: "/admin"}, t0)
	g.Report(a, Scanner, Evidence{Rule: "dotenv", Family: FamilyDotenv, Method: "PROPPATCH-LONG", Host: strings.Repeat("h", 300), Path: "/.env\x00\n" + strings.Repeat("x", 300)}, t0.Add(time.Second))
	c := g.Why(a, t0.Add(time.Minute))
	if len(c.Bans) != 1 || c.Bans[0].Reason != "scanner" || c.Prefix != netip.MustParsePrefix("203.0.113.7/32") {
		t.Fatalf("%+v", c)
	}
	if len(c.Exhibits) != 2 {
		t.Fatalf("%d exhibits, want 2", len(c.Exhibits))
	}
	first, second := c.Exhibits[0], c.Exhibits[1]
	if first.Signal != NoRoute || first.Rule != "no_route" || first.Method != "GET" || first.Host != "mypi.example.org" || first.Path != "/admin" {
		t.Errorf("first %+v", first)
	}
	if d := first.Score - 2.4; d > 1e-6 || d < -1e-6 {
		t.Errorf("score after the first: %v, want 2.4", first.Score)
	}
	if second.Signal != Scanner || second.Weight != 10 || second.Score < 12 || len(second.Method) != cutMethod || len(second.Host) != cutHost || len(second.Path) != cutPath {
		t.Errorf("second %+v", second)
	}
	if d := second.At.Sub(t0.Add(time.Second)); d > time.Millisecond || d < -time.Millisecond {
		t.Errorf("second at %s", second.At)
	}
	if c.Threshold != 10 || c.Network.String() != "203.0.113.0/24" || c.NetworkThreshold != 5 || c.NetworkBans < 0.9 {
		t.Errorf("%+v", c)
	}

	// Nobody knows a stranger; the spared are said to be.
	if c := g.Why(ip("198.51.100.1"), t0); len(c.Exhibits)+len(c.Bans) != 0 || c.Score != 0 || c.Spared != "" {
		t.Errorf("a stranger: %+v", c)
	}
	if c := g.Why(ip("192.168.1.1"), t0); c.Spared == "" {
		t.Errorf("spared: %+v", c)
	}
	g.SetOwn([]netip.Addr{ip("198.51.100.9")})
	g.SetShared(func(a netip.Addr) bool { return a == ip("198.51.100.10") })
	g.Authenticated(ip("198.51.100.10"), t0)
	if c := g.Why(ip("198.51.100.9"), t0); !strings.Contains(c.Spared, "this machine") {
		t.Errorf("own: %+v", c)
	}
	if c := g.Why(ip("198.51.100.10"), t0); !c.Shared || !c.Trusted {
		t.Errorf("shared and trusted: %+v", c)
	}
}

// Few requests are kept for each address, the last ones; the table of them is
// fixed, and what is told belongs to who is asked about.
func TestEvidenceAgainstModel(t *testing.T) {
	table := newEvidence(256)
	r := rand.New(rand.NewPCG(9, 10))
	model := map[key][]string{}
	for i := range 20_000 {
		k := keyOf(v4(r.IntN(40)))
		path := fmt.Sprintf("/%d/%d", k, i)
		table.put(k, NoRoute, 1, 1, &Evidence{Path: path}, int64(i))
		model[k] = append(model[k], path)
		if n := len(model[k]); n > evidencePerAddress {
			model[k] = model[k][n-evidencePerAddress:]
		}
		got := table.of(k)
		if len(got) != len(model[k]) {
			t.Fatalf("step %d: %d kept, want %d", i, len(got), len(model[k]))
		}
		for j, e := range got {
			if x := e.export(t0, 0); x.Path != model[k][j] {
				t.Fatalf("step %d: %q, want %q", i, x.Path, model[k][j])
			}
		}
	}
	for i := range 100_000 {
		k := keyOf(v6(i))
		table.put(k, Junk, 1, 1, &Evidence{Path: "x"}, int64(20_000+i))
		if got := table.of(k); len(got) != 1 {
			t.Fatalf("%d exhibits of a newcomer", len(got))
		}
	}
}

// Backends' answers: who looks for what is not there, or guesses, is banned;
// who works, or is at it with ids, is not.
func TestAnswered(t *testing.T) {
	word := func(i int) string { return "/" + strings.Repeat(string(rune('a'+i%26)), 1+i/26) }
	for _, tt := range []struct {
		name   string
		answer func(i int) (status int, path string)
		n      int
		gap    time.Duration
		want   bool
	}{
		{"a word list", func(i int) (int, string) { return 404, word(i) }, 30, time.Second, true},
		{"a word list, slowly", func(i int) (int, string) { return 404, word(i) }, 200, 2 * time.Minute, false},
		{"one path that is gone", func(int) (int, string) { return 404, "/gone" }, 1000, time.Second, false},
		{"ids that are gone", func(i int) (int, string) { return 404, fmt.Sprintf("/api/items/%d", i) }, 1000, time.Second, false},
		{"uuids that are gone", func(i int) (int, string) { return 404, fmt.Sprintf("/o/6fa459ea-ee8a-3ca4-894e-%012x", i*7919+1) }, 1000, time.Second, false},
		{"a page with many dead links, read on", func(i int) (int, string) {
			if i%2 == 0 {
				return 200, word(i)
			}
			return 404, word(i)
		}, 200, time.Second, false},
		{"guessing a password", func(int) (int, string) { return 401, "/login" }, 30, time.Second, true},
		{"a forbidden corner, once in a while", func(i int) (int, string) { return 403, "/private" }, 100, 3 * time.Minute, false},
		{"three wrong passwords, then in", func(i int) (int, string) {
			if i < 3 {
				return 401, "/login"
			}
			return 200, "/"
		}, 200, time.Second, false},
		{"a broken backend", func(i int) (int, string) { return 500 + i%4, word(i) }, 200, time.Second, false},
		{"bad requests", func(i int) (int, string) { return 400 + 22*(i%2), word(i) }, 200, time.Second, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := New(Config{})
			a := ip("203.0.113.7")
			now, banned := t0, false
			for i := range tt.n {
				status, path := tt.answer(i)
				g.Answered(a, status, path, Evidence{}, now)
				banned = banned || g.Banned(a, now)
				now = now.Add(tt.gap)
			}
			if banned != tt.want {
				t.Errorf("banned: %v, want %v", banned, tt.want)
			}
		})
	}
	g := New(Config{})
	g.Authenticated(ip("203.0.113.7"), t0)
	for i := range 100 {
		g.Answered(ip("203.0.113.7"), 404, word(i), Evidence{}, t0)
	}
	if g.Banned(ip("203.0.113.7"), t0) {
		t.Error("a caller's address is banned for what it does not find")
	}
}

func TestPathHash(t *testing.T) {
	same := [][]string{
		{"/items/1", "/items/22", "/items/999999"},
		{"/o/6fa459ea-ee8a-3ca4-894e-db77e160355e", "/o/00000000-0000-0000-0000-000000000001"},
		{"/c/8f3a1c2d9e", "/c/0011223344556677"},
	}
	for _, list := range same {
		for _, p := range list[1:] {
			if pathHash(p) != pathHash(list[0]) {
				t.Errorf("%s and %s count as two", p, list[0])
			}
		}
	}
	seen := map[uint32]string{}
	for _, p := range []string{"", "/", "/admin", "/admins", "/backup", "/face", "/feedface", "/a/b", "/a-b", "/items/1/x", "/items/x"} {
		h := pathHash(p)
		if h == 0 || seen[h] != "" {
			t.Errorf("%q counts as %q", p, seen[h])
		}
		seen[h] = p
	}
}

func TestServed(t *testing.T) {
	var told []Event
	g := New(Config{OnEvent: func(e Event) { told = append(told, e) }})
	a := ip("203.0.113.7")
	g.Served(a, 200, "h", "/index.html", t0)
	g.Served(a, 404, "h", "/.env", t0)
	g.Served(a, 200, "h", "/wp-login.php", t0) // an application may have it
	if len(told) != 0 {
		t.Fatalf("told %+v", told)
	}
	g.Served(a, 200, "h", "/app/.env"+strings.Repeat("x", 500), t0)
	g.Served(a, 200, "h", "/.git/config", t0.Add(time.Second)) // within the minute
	g.Served(a, 206, "h", "/dump.sql", t0.Add(2*time.Minute))
	if len(told) != 2 || told[0].Kind != EventServed || told[0].Rule != "dotenv" || len(told[0].Path) != 256 || told[1].Rule != "backup" {
		t.Errorf("told %+v", told)
	}
}

func TestTally(t *testing.T) {
	g := New(Config{})
	g.TakeTally(t0)
	for i := range 300 {
		g.Report(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), Scanner, Evidence{Family: FamilyPHP}, t0)
	}
	for i := range 5000 { // far more neighbourhoods than are kept
		g.Report(v4(i<<8), NoRoute, Evidence{}, t0)
	}
	g.Report(ip("198.51.100.1"), Scanner, Evidence{Family: FamilyDotenv}, t0)
	g.Report(ip("192.168.1.1"), Scanner, Evidence{Family: FamilyDotenv}, t0) // spared: not counted against anybody
	tally := g.TakeTally(t0.Add(time.Hour))
	if tally.Since != t0 || tally.Until != t0.Add(time.Hour) || tally.Bans == 0 {
		t.Errorf("%+v", tally)
	}
	if len(tally.Families) != 2 || tally.Families[0].What != FamilyPHP || tally.Families[0].Count != 300 || tally.Families[1].Count != 1 {
		t.Errorf("families %+v", tally.Families)
	}
	if len(tally.Signals) != 2 || tally.Signals[0].What != NoRoute || tally.Signals[0].Count != 5000 {
		t.Errorf("signals %+v", tally.Signals)
	}
	if len(tally.Networks) != tallyNetworks || tally.Networks[0].What.String() != "203.0.113.0/24" || tally.Networks[0].Count < 300 {
		t.Errorf("%d networks, the first %+v", len(tally.Networks), tally.Networks[0])
	}
	if again := g.TakeTally(t0.Add(2 * time.Hour)); again.Bans != 0 || len(again.Families)+len(again.Networks) != 0 || again.Since != t0.Add(time.Hour) {
		t.Errorf("after it was taken: %+v", again)
	}
}

func TestFull(t *testing.T) {
	var full int
	g := New(Config{MaxBans: 10, NetworkBans: -1, OnEvent: func(e Event) {
		if e.Kind == EventFull {
			full++
		}
	}})
	for i := range 1000 {
		g.Observe(v4(i<<8), Junk, t0)
	}
	if full != 1 || len(g.Bans(t0)) != 10 {
		t.Errorf("told %d times, %d bans, want once and 10", full, len(g.Bans(t0)))
	}
}

// All of it at once, under -race.
func TestConcurrentObservers(t *testing.T) {
	g := New(Config{MaxBans: 64, Slots: 256, OnEvent: func(Event) {}})
	g.SetShared(func(a netip.Addr) bool { return a.Is6() })
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := range 2000 {
				a, now := v4((i*31+w)%2000), t0.Add(time.Duration(i)*time.Millisecond)
				if i%2 == 0 {
					a = v6(i % 500)
				}
				g.Report(a, Signal(i%numSignals), Evidence{Rule: "r", Path: "/p"}, now)
				g.Answered(a, 404, fmt.Sprint("/", i), Evidence{}, now)
				if g.AllowConn(a, now).Allowed {
					g.ConnClosed(a)
				}
				if _, counted := g.BeginRequest(a, now); counted {
					g.EndRequest(a)
				}
				switch i % 50 {
				case 0:
					g.Authenticated(a, now)
				case 1:
					g.Why(a, now)
				case 2:
					g.TakeTally(now)
				case 3:
					g.Unban(a, now)
				case 4:
					g.Drops(now)
				}
			}
		})
	}
	all.Wait()
	if n := g.requests.count() + g.conns.count(); n != 0 {
		t.Errorf("%d counted at the end, want 0", n)
	}
}
