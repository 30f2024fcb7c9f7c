package guard

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestKey(t *testing.T) {
	seen := map[key]netip.Prefix{}
	for _, s := range []string{
		"0.0.0.0", "255.255.255.255", "203.0.113.7", "::", "2001:db8::1", "2001:db8:0:1::1", "ffff:ffff:ffff:ffff::",
		"fe80::1%eth0", "64:ff9b::1",
	} {
		addr := canonical(ip(s))
		k := keyOf(addr)
		if k == 0 {
			t.Errorf("%s: key 0, which is for an empty slot", s)
		}
		p := k.prefix()
		if !p.Contains(addr) || p.Bits() != map[bool]int{true: 32, false: 64}[addr.Is4()] {
			t.Errorf("%s: prefix %s", s, p)
		}
		if other, ok := seen[k]; ok {
			t.Errorf("%s and %s share a key", s, other)
		}
		seen[k] = p
	}
	if keyOf(netip.Addr{}) != 0 {
		t.Error("the zero address has a key")
	}
}

// The ban table against a map: after any sequence of changes, readers see
// what the model holds, and the heap is in order.
func TestBansAgainstModel(t *testing.T) {
	const size, keys = 100, 300
	r := rand.New(rand.NewPCG(1, 2))
	table := newBans(size)
	type entry struct{ until int64 }
	model := map[key]entry{}
	var now int64
	for step := range 50_000 {
		now += r.Int64N(20)
		k := key(1 + r.Uint64N(keys))
		switch r.IntN(10) {
		default:
			until := now + r.Int64N(10_000)
			if _, ok := model[k]; !ok && len(model) == size {
				var first int64 = 1 << 62
				for _, e := range model {
					first = min(first, e.until)
				}
				var gone []key
				for k, e := range model {
					if e.until == first {
						gone = append(gone, k)
					}
				}
				byHand := r.IntN(3) == 0
				ban := banRecord{key: k, until: until}
				if byHand {
					ban.reason = reasonManual
				}
				evicted, full := table.putLocked(ban, now)
				if full != (first > now && !byHand) || evicted != (first > now && byHand) {
					t.Fatalf("step %d: evicted = %v, full = %v, by hand = %v, the first of the others lasts %d more", step, evicted, full, byHand, first-now)
				}
				if full {
					continue
				}
				// Of several that end first, any may go.
				left := slices.DeleteFunc(gone, func(k key) bool { return table.until(k) != never })
				if len(left) != 1 {
					t.Fatalf("step %d: %d of those that end first are gone, want 1", step, len(left))
				}
				delete(model, left[0])
			} else if evicted, full := table.putLocked(banRecord{key: k, until: until}, now); evicted || full {
				t.Fatalf("step %d: evicted = %v, full = %v with room left", step, evicted, full)
			}
			model[k] = entry{until}
		case 0, 1:
			_, want := model[k]
			if got := table.dropLocked(k); got != want {
				t.Fatalf("step %d: drop = %v, want %v", step, got, want)
			}
			delete(model, k)
		case 2:
			limit := now - 5_000
			table.forgetLocked(limit)
			maps.DeleteFunc(model, func(_ key, e entry) bool { return e.until < limit })
		}
		if step%50 == 0 {
			checkBans(t, table, func(k key) int64 {
				if e, ok := model[k]; ok {
					return e.until
				}
				return never
			}, keys, len(model))
		}
	}
}

func checkBans(t *testing.T, table *bans, want func(key) int64, keys, n int) {
	t.Helper()
	if len(table.heap) != n {
		t.Fatalf("%d entries, want %d", len(table.heap), n)
	}
	for k := key(1); k <= key(keys); k++ {
		if got := table.until(k); got != want(k) {
			t.Fatalf("key %d: until %d, want %d", k, got, want(k))
		}
		r := table.getLocked(k)
		if (r != nil) != (want(k) != never) {
			t.Fatalf("key %d: record %v, want until %d", k, r, want(k))
		}
		if r != nil && (r.key != k || r.until != want(k) || table.heap[r.place] != table.entries[table.slotLocked(k)]) {
			t.Fatalf("key %d: record %+v is not its own", k, r)
		}
	}
	for i := 1; i < len(table.heap); i++ {
		if table.end(int32(i)) < table.end(int32((i-1)/2)) {
			t.Fatalf("heap out of order at %d", i)
		}
	}
}

// The connection table against a map.
func TestConnsAgainstModel(t *testing.T) {
	const limit = 200
	r := rand.New(rand.NewPCG(3, 4))
	table := newConns(10)
	table.grow(limit)
	model := map[key]int{}
	total := 0
	for step := range 100_000 {
		k := key(r.Uint64N(400))
		perKey := r.IntN(4)
		if r.IntN(100) < 52 {
			want := None
			switch {
			case total >= limit:
				want = TotalConnections
			case perKey > 0 && model[k] >= perKey:
				want = AddressConnections
			}
			if got := table.open(k, limit, perKey); got != want {
				t.Fatalf("step %d: open = %s, want %s", step, got, want)
			}
			if want == None {
				model[k]++
				total++
			}
		} else {
			if model[k] > 0 {
				model[k]--
				total--
			}
			table.close(k)
		}
		if table.count() != total {
			t.Fatalf("step %d: %d open, want %d", step, table.count(), total)
		}
		if step%100 == 0 {
			for k, n := range model {
				if got := table.slots[table.home(k)].n; got != n {
					t.Fatalf("step %d: key %d has %d, want %d", step, k, got, n)
				}
			}
		}
	}
}

// The score table against a map, with few keys: nobody is pushed out, so the
// two must agree.
func TestScoresAgainstModel(t *testing.T) {
	type entry struct {
		points float64
		last   uint32
	}
	r := rand.New(rand.NewPCG(5, 6))
	table := newScores(1 << 14)
	const threshold, leak = 10, 1.0 / 960
	model := map[key]entry{}
	now := uint32(1<<32 - 5000) // the ticks wrap around
	for step := range 50_000 {
		now += r.Uint32N(100)
		k, weight := key(1+r.Uint64N(200)), r.Float32()*4
		e := model[k]
		if left := e.points - leak*float64(now-e.last); left > 0 {
			e.points = left
		} else {
			e.points = 0
		}
		e.points, e.last = e.points+float64(weight), now
		got, over, evicted := table.add(k, NoRoute, weight, leak, threshold, now)
		if d := e.points - threshold; (d > 1e-3 && !over) || (d < -1e-3 && over) || evicted {
			t.Fatalf("step %d: over = %v, evicted = %v with %v points", step, over, evicted, e.points)
		}
		if d := e.points - float64(got.points); d > 1e-3 || d < -1e-3 {
			t.Fatalf("step %d: %v points, want %v", step, got.points, e.points)
		}
		if over {
			e.points = 0
		}
		model[k] = e
	}
}

func TestScoreCounts(t *testing.T) {
	table := newScores(0)
	var got score
	for i := range 300 {
		got, _, _ = table.add(1, Timeout, 0.01, 0, 10, uint32(i))
	}
	if n := got.counts.of(Timeout); n != maxCount || got.counts.of(RateLimited) != 0 || got.counts.of(NoRoute) != 0 {
		t.Errorf("counts %x, want 255 timeouts and nothing else", got.counts)
	}
	if got.first != 0 || got.last != 299 {
		t.Errorf("seen from %d to %d, want 0 to 299", got.first, got.last)
	}
	// When all points are forgiven, the story starts again.
	got, _, _ = table.add(1, NoRoute, 1, 1, 10, 1000)
	if got.first != 1000 || got.counts != (counts{}.add(NoRoute)) {
		t.Errorf("after all is forgiven: %+v", got)
	}
	if m := got.counts.merge((counts{}.add(NoRoute).add(Junk))); m.of(NoRoute) != 2 || m.of(Junk) != 1 {
		t.Errorf("merged counts %x", m)
	}
}

// A clock that goes backwards neither forgives nor adds.
func TestScoreClockBackwards(t *testing.T) {
	table := newScores(0)
	table.add(1, NoRoute, 4, 1, 10, 1000)
	if got, over, _ := table.add(1, NoRoute, 4, 1, 10, 900); over || got.points != 8 {
		t.Errorf("got %+v, over = %v, want 8 points", got, over)
	}
}

// A million sources of each kind: memory stays within its bound, no ban is
// lost, and who misbehaves in the middle of the flood is banned nonetheless.
func TestFlood(t *testing.T) {
	reg := prometheus.NewRegistry()
	before := heap()
	g := New(Config{Metrics: reg})
	l := g.NewLimiter(Rate{20, time.Second}, 40, 0)
	const banned = 10_000
	now := t0
	for i := range banned {
		g.Observe(v4(50_000_000+i), Junk, now)
		g.Observe(v6(50_000_000+i), Junk, now)
	}
	const sources = 1_000_000
	for i := range sources {
		if i%1000 == 0 {
			now = now.Add(50 * time.Millisecond)
		}
		for _, addr := range []netip.Addr{v4(i), v6(i)} {
			g.Observe(addr, NoRoute, now)
			l.Take(addr, now)
			if i%100 == 0 && g.AllowConn(addr, now).Allowed {
				g.ConnClosed(addr)
			}
		}
	}
	grown := int64(heap()) - int64(before)
	t.Logf("memory grew by %.1f MB", float64(grown)/1e6)
	if grown > 8e6 {
		t.Errorf("memory grew by %d bytes, want at most 8 MB", grown)
	}
	lost := 0
	for i := range banned {
		if !g.Banned(v4(50_000_000+i), now) || !g.Banned(v6(50_000_000+i), now) {
			lost++
		}
	}
	left := 0
	for _, b := range g.Bans(now) {
		if b.Reason != "network" {
			left++
		}
	}
	if lost > 0 || left != 2*banned {
		t.Errorf("%d bans lost, %d left, want all %d", lost, left, 2*banned)
	}
	if n := testutil.ToFloat64(g.metrics.scoreEvictions); n < sources {
		t.Errorf("%v evictions from the score table, want about %d", n, 2*sources)
	}
	if n := testutil.ToFloat64(g.metrics.limiterEvictions); n == 0 {
		t.Error("no evictions from the limiter, want some")
	}
	if n := testutil.ToFloat64(g.metrics.banEvictions); n != 0 {
		t.Errorf("%v evictions from the ban table, want none", n)
	}
	g.Observe(v4(3), Junk, now)
	if !g.Banned(v4(3), now) {
		t.Error("not banned in the middle of the flood")
	}
	runtime.KeepAlive(l)
}

// heap returns the bytes in use.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// More bans than there is room for: those that last stay, whoever comes.
func TestTooManyBans(t *testing.T) {
	g := New(Config{MaxBans: 100})
	for i := range 100 {
		if err := g.Ban(v4(i), time.Hour+time.Duration(i)*time.Minute, "note", t0); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 1000 {
		g.Observe(v4(1000+i), Junk, t0) // 10 minutes each
	}
	got := g.Bans(t0)
	if len(got) != 100 || len(g.bans.notes) != 100 {
		t.Fatalf("%d bans and %d notes, want 100 and 100", len(got), len(g.bans.notes))
	}
	for i := range 100 {
		if !g.Banned(v4(i), t0) {
			t.Errorf("the ban of %s had to go", v4(i))
		}
	}
	if n := testutil.ToFloat64(g.metrics.bansNotKept); n != 1000 {
		t.Errorf("%v bans not kept, want 1000", n)
	}
	// A ban by hand finds room: the one that ends first goes.
	if err := g.Ban(v4(5000), time.Hour, "", t0); err != nil {
		t.Fatal(err)
	}
	if g.Banned(v4(0), t0) || !g.Banned(v4(5000), t0) || testutil.ToFloat64(g.metrics.banEvictions) != 1 {
		t.Error("a ban by hand did not take the place of the one that ends first")
	}
}

// Readers run while bans come and go. One that stays is seen by all of them,
// all the time; run with -race.
func TestConcurrent(t *testing.T) {
	g := New(Config{MaxBans: 64, Slots: 256, Connections: 100, PerAddress: 50})
	l := g.NewLimiter(Rate{10, time.Second}, 0, 256)
	s := NewSingle(Rate{10, time.Second}, 0)
	stays := v4(9_999)
	if err := g.Ban(stays, 1000*time.Hour, "", t0); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var writers, readers sync.WaitGroup
	for w := range 2 {
		writers.Go(func() {
			for i := range 5_000 {
				now := t0.Add(time.Duration(i) * time.Second)
				g.Observe(v4((i*7+w)%1000), Signal(i%numSignals), now)
				if i%10 == 0 {
					g.Unban(v4(i%1000), now)
				}
				if i%500 == 0 {
					g.Bans(now)
					g.SetOwn([]netip.Addr{v6(i)})
					g.Reconfigure(Config{Connections: 100 + i})
				}
			}
		})
	}
	for r := range 2 {
		readers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				if !g.Banned(stays, t0) {
					t.Error("a ban that lasts was not seen")
					return
				}
				addr := v4((i + r) % 100)
				if g.AllowConn(addr, t0).Allowed {
					g.ConnClosed(addr)
				}
				l.Take(addr, t0)
				s.Take(t0)
			}
		})
	}
	writers.Wait()
	close(done)
	readers.Wait()
	if n := g.conns.count(); n != 0 {
		t.Errorf("%d connections open at the end, want 0", n)
	}
}
