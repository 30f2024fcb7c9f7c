package upstream

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// equals returns candidates of the given shares.
func equals(shares ...float64) []candidate {
	cs := make([]candidate, len(shares))
	for i, share := range shares {
		cs[i] = candidate{share: share, seed: mix(Key("10.0.0." + strconv.Itoa(i)))}
	}
	return cs
}

func TestSmoothRoundRobin(t *testing.T) {
	for _, tt := range []struct {
		shares []float64
		want   string
	}{
		{[]float64{5, 1, 1}, "aabacaaaabacaa"}, // no bursts: nginx's own order
		{[]float64{1, 2}, "babbab"},
		{[]float64{3, 0, 1}, "aacaaaca"}, // the middle one is left out
		{[]float64{0, 0}, "--"},
	} {
		cs, got := equals(tt.shares...), ""
		for range tt.want {
			if i := choose(cs, draw{}); i < 0 {
				got += "-"
			} else {
				got += string(rune('a' + i))
			}
		}
		if got != tt.want {
			t.Errorf("shares %v: %s, want %s", tt.shares, got, tt.want)
		}
	}
}

func TestLeastBusy(t *testing.T) {
	for _, tt := range []struct {
		name   string
		shares []float64
		active []float64
		turn   uint64
		want   int
	}{
		{"fewest", []float64{1, 1, 1}, []float64{2, 0, 1}, 0, 1},
		{"a weight of three may have thrice as many", []float64{3, 1}, []float64{2, 0}, 0, 0},
		{"and not more", []float64{3, 1}, []float64{3, 0}, 0, 1},
		{"among equals the one whose turn it is", []float64{1, 1, 1}, []float64{1, 1, 1}, 5, 2},
		{"left out", []float64{0, 1}, []float64{0, 9}, 0, 1},
		{"nobody", []float64{0, 0}, []float64{0, 0}, 0, -1},
	} {
		cs := equals(tt.shares...)
		for i := range cs {
			cs[i].active = tt.active[i]
		}
		if got := choose(cs, draw{by: LeastRequests, turn: tt.turn}); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestTwoChoices(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	// Requests that stay: power of two choices keeps the worst close to the
	// mean, where single draws would leave it several times above.
	cs := equals(1, 1, 1, 1, 1, 1, 1, 1)
	for range 8000 {
		cs[choose(cs, draw{by: RandomTwo, chance: r.Float64})].active++
	}
	for i := range cs {
		if math.Abs(cs[i].active-1000) > 10 {
			t.Errorf("target %d has %v requests, want about 1000", i, cs[i].active)
		}
	}
	for range 100 {
		if i := choose(equals(0, 1, 0), draw{by: RandomTwo, chance: r.Float64}); i != 1 {
			t.Fatalf("took %d, want the only one that is not left out", i)
		}
	}
	if i := choose(equals(0, 0), draw{by: RandomTwo, chance: r.Float64}); i != -1 {
		t.Errorf("took %d of none", i)
	}
}

// TestHashDistribution: shares are even or as the weights say, and the loss of
// a target moves its own keys alone, evenly to the others.
func TestHashDistribution(t *testing.T) {
	const keys = 40_000
	at := func(cs []candidate) []int {
		out := make([]int, keys)
		for k := range out {
			out[k] = choose(cs, draw{by: Hash, key: Key(fmt.Sprint("client ", k))})
		}
		return out
	}
	counts := func(list []int) map[int]int {
		m := map[int]int{}
		for _, i := range list {
			m[i]++
		}
		return m
	}
	near := func(what string, got int, share float64) {
		t.Helper()
		if want := share * keys; math.Abs(float64(got)-want) > want/20 {
			t.Errorf("%s: %d keys, want %.0f give or take 5 %%", what, got, want)
		}
	}
	all := at(equals(1, 1, 1, 1))
	for i, n := range counts(all) {
		near(fmt.Sprint("target ", i), n, 0.25)
	}
	weighted := counts(at(equals(3, 1)))
	near("weight 3", weighted[0], 0.75)
	near("weight 1", weighted[1], 0.25)

	without := at(equals(1, 1, 0, 1))
	moved := map[int]int{}
	for k := range all {
		switch {
		case all[k] == 2:
			moved[without[k]]++
		case all[k] != without[k]:
			t.Fatalf("key %d moved from %d to %d, which are both up", k, all[k], without[k])
		}
	}
	for _, i := range []int{0, 1, 3} {
		near(fmt.Sprint("moved to ", i), moved[i], 0.25/3)
	}
	// A slow start takes keys to the target that is back, and moves no other.
	for k, i := range at(equals(1, 1, 0.1, 1)) {
		if i != 2 && i != without[k] {
			t.Fatalf("key %d moved from %d to %d in the slow start of 2", k, without[k], i)
		}
	}
}

func TestRamp(t *testing.T) {
	for _, tt := range []struct {
		age, slow time.Duration
		want      float64
	}{
		{0, 10 * time.Second, 0.1},
		{5 * time.Second, 10 * time.Second, 0.55},
		{10 * time.Second, 10 * time.Second, 1},
		{-time.Second, 10 * time.Second, 0.1}, // the clock went back
		{0, 0, 1},
	} {
		if got := ramp(tt.age, tt.slow); math.Abs(got-tt.want) > 1e-9 {
			t.Errorf("%s of %s: %v, want %v", tt.age, tt.slow, got, tt.want)
		}
	}
}

// TestSlowStart follows the shares of a backend that came back.
func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New(Config{Targets: []Target{mustTarget(t, "127.0.0.1:1"), mustTarget(t, "127.0.0.1:2")}, SlowStart: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		second := func(n int) (got int) {
			for turn := range n {
				i, _, ok := p.pick(&trip{turn: uint64(turn)})
				if !ok {
					t.Fatal("no backend")
				}
				got += i
			}
			return got
		}
		if got := second(100); got != 50 {
			t.Errorf("at first %d of 100, want half", got)
		}
		p.dialFailed(p.backends[1], errTest)
		if got := second(100); got != 0 {
			t.Errorf("while it is down %d of 100", got)
		}
		p.reached(p.backends[1])
		for _, want := range []int{90, 355, 432, 479} { // share/(1+share) of 1000, at 0, 5, 7.5 and 9.3 s
			if got := second(1000); got < want-12 || got > want+12 {
				t.Errorf("%s after its return: %d of 1000, want about %d", time.Since(p.backends[1].since), got, want)
			}
			time.Sleep(map[int]time.Duration{90: 5 * time.Second, 355: 2500 * time.Millisecond, 432: 1800 * time.Millisecond, 479: time.Second}[want])
		}
		second(1)
		if got := second(1000); got != 500 || p.special.Load() != 0 {
			t.Errorf("after the slow start %d of 1000, %d special", got, p.special.Load())
		}
	})
}

// TestPickAllocatesNothing holds every way to balance to that.
func TestPickAllocatesNothing(t *testing.T) {
	a, b := mustTarget(t, "127.0.0.1:1"), mustTarget(t, "127.0.0.1:2")
	for by := RoundRobin; by <= Hash; by++ {
		p, err := New(Config{Targets: []Target{a, b}, Weights: []int{2, 1}, Balance: by})
		if err != nil {
			t.Fatal(err)
		}
		tr := &trip{key: 7}
		if n := testing.AllocsPerRun(100, func() { tr.turn++; p.pick(tr) }); n != 0 {
			t.Errorf("balance %d: %v allocations", by, n)
		}
	}
}

// TestHashByKey: the key reaches the choice over both ways in.
func TestHashByKey(t *testing.T) {
	p := newPool(t, Config{Idle: DefaultIdle, Balance: Hash}, named(t, "a"), named(t, "b"), named(t, "c"))
	used := map[string]bool{}
	for key := range uint64(20) {
		q := wireRequest("GET", "")
		q.Key = mix(key)
		name := exchangeWire(t, p, q).body
		used[name] = true
		for range 3 {
			r := request(t, "GET", "")
			if got := ask(t, p, r.WithContext(WithKey(r.Context(), mix(key)))); got != name {
				t.Fatalf("key %d went to %s and to %s", key, name, got)
			}
		}
	}
	if len(used) != 3 {
		t.Errorf("20 keys used %v, want three backends", used)
	}
}
