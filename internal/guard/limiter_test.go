package guard

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestLimiterStory(t *testing.T) {
	l := NewLimiter(Rate{2, time.Second}, 3, 0)
	a, b := ip("203.0.113.7"), ip("203.0.113.8")
	const ms = time.Millisecond
	for i, tt := range []struct {
		after time.Duration
		addr  netip.Addr
		want  Decision
	}{
		{0, a, Decision{true, 3, 2, 1500 * ms, 0, 500 * ms}},
		{0, a, Decision{true, 3, 1, 1500 * ms, 0, 1000 * ms}},
		{0, a, Decision{true, 3, 0, 1500 * ms, 0, 1500 * ms}},
		{0, a, Decision{false, 3, 0, 1500 * ms, 500 * ms, 1500 * ms}},
		{0, b, Decision{true, 3, 2, 1500 * ms, 0, 500 * ms}}, // somebody else
		{499 * ms, a, Decision{false, 3, 0, 1500 * ms, 1 * ms, 1001 * ms}},
		{500 * ms, a, Decision{true, 3, 0, 1500 * ms, 0, 1500 * ms}},
		{10 * time.Second, a, Decision{true, 3, 2, 1500 * ms, 0, 500 * ms}},    // all forgiven
		{-time.Hour, a, Decision{false, 3, 0, 1500 * ms, 500 * ms, 1500 * ms}}, // clock set back: no hour's wait
		{-time.Hour + 500*ms, a, Decision{true, 3, 0, 1500 * ms, 0, 1500 * ms}},
	} {
		if got := l.Take(tt.addr, t0.Add(tt.after)); got != tt.want {
			t.Errorf("event %d: got %+v, want %+v", i, got, tt.want)
		}
	}
}

func TestLimiterRates(t *testing.T) {
	for _, tt := range []struct {
		rate   Rate
		burst  int
		limit  int // 0: nothing is bounded
		window time.Duration
	}{
		{Rate{20, time.Second}, 40, 40, 2 * time.Second},
		{Rate{300, time.Minute}, 0, 300, time.Minute},
		{Rate{5000, time.Hour}, 10, 10, 7200 * time.Millisecond},
		{Rate{1, 24 * time.Hour}, 0, 1, 24 * time.Hour},
		{Rate{3, time.Second}, 0, 3, time.Second - 1}, // thirds do not add up
		{Rate{0, time.Second}, 5, 0, 0},
		{Rate{5, 0}, 5, 0, 0},
		{Rate{-1, -1}, 5, 0, 0},
		{Rate{2_000_000_000, time.Second}, 0, 2_000_000_000, 2 * time.Second}, // clamped to one a nanosecond
		{Rate{1, 1e17}, 2_000_000_000, 3, 3e17},
	} {
		for i, d := range []Decision{
			NewLimiter(tt.rate, tt.burst, 0).Take(v4(1), t0),
			NewSingle(tt.rate, tt.burst).Take(t0),
		} {
			if !d.OK || d.Limit != tt.limit || d.Window != tt.window {
				t.Errorf("%+v, burst %d, kind %d: got %+v, want limit %d in %s", tt.rate, tt.burst, i, d, tt.limit, tt.window)
			}
		}
	}
}

// Against a model in exact arithmetic: the events let in within any window
// never exceed burst plus what the rate gives, and none that fits is refused.
func TestLimiterAgainstModel(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for range 200 {
		rate := Rate{1 + r.IntN(50), time.Duration(1+r.IntN(100)) * 100 * time.Millisecond}
		burst := 1 + r.IntN(60)
		l, s := NewLimiter(rate, burst, 0), NewSingle(rate, burst)
		interval := int64(rate.Per) / int64(rate.Events)
		tokens, last, now := int64(burst)*interval, int64(0), int64(0) // in nanoseconds
		for range 200 {
			now += r.Int64N(3 * interval)
			tokens = min(tokens+now-last, int64(burst)*interval)
			last = now
			want := tokens >= interval
			if want {
				tokens -= interval
			}
			at := t0.Add(time.Duration(now))
			got, single := l.Take(v6(3), at), s.Take(at)
			if got != single {
				t.Fatalf("limiter %+v, single %+v", got, single)
			}
			if got.OK != want || int64(got.Remaining) != tokens/interval ||
				int64(got.Reset) != int64(burst)*interval-tokens || (!want && int64(got.RetryAfter) != interval-tokens) {
				t.Fatalf("rate %+v burst %d: got %+v with %d of %d left, want OK = %v", rate, burst, got, tokens, interval, want)
			}
		}
	}
}

// Who obeys RetryAfter is let in.
func TestRetryAfterIsEnough(t *testing.T) {
	l := NewLimiter(Rate{7, time.Second}, 2, 0)
	now := t0
	for range 100 {
		d := l.Take(v4(1), now)
		if !d.OK {
			now = now.Add(d.RetryAfter)
			if d = l.Take(v4(1), now); !d.OK {
				t.Fatalf("refused again after waiting: %+v", d)
			}
		}
	}
}

func TestLimiterKeepsTheHeaviest(t *testing.T) {
	g := New(Config{})
	l := g.NewLimiter(Rate{1, time.Second}, 10, 1)
	heavy := v4(1 << 20)
	for range 10 {
		l.Take(heavy, t0)
	}
	for i := range 10_000 {
		l.Take(v4(i), t0)
	}
	if d := l.Take(heavy, t0); d.OK {
		t.Errorf("got %+v: those who used little pushed out the one who used most", d)
	}
}

func TestSingleConcurrent(t *testing.T) {
	s := NewSingle(Rate{100, time.Hour}, 100)
	var let atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				if s.Take(t0).OK {
					let.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if let.Load() != 100 {
		t.Errorf("%d let in, want 100", let.Load())
	}
}

func TestRateLimitFields(t *testing.T) {
	for _, tt := range []struct {
		name                string
		d                   Decision
		policy, state, wait string
	}{
		{"default", Decision{OK: true, Limit: 100, Remaining: 50, Window: time.Minute, Reset: 30 * time.Second},
			`"default";q=100;w=60`, `"default";r=50;t=30`, "0"},
		{"site", Decision{OK: true, Limit: 40, Remaining: 39, Window: 1999 * time.Millisecond, Reset: time.Millisecond},
			`"site";q=40;w=2`, `"site";r=39;t=1`, "0"},
		{"route", Decision{Limit: 2, Window: 3 * time.Second, RetryAfter: 1200 * time.Millisecond, Reset: 3 * time.Second},
			`"route";q=2;w=3`, `"route";r=0;t=2`, "2"},
		{"a\"b\\c\r\nd", Decision{OK: true}, `"abcd";q=0;w=0`, `"abcd";r=0;t=0`, "0"},
	} {
		if got := string(tt.d.AppendPolicy(nil, tt.name)); got != tt.policy {
			t.Errorf("%q: policy %s, want %s", tt.name, got, tt.policy)
		}
		if got := string(tt.d.AppendState(nil, tt.name)); got != tt.state {
			t.Errorf("%q: state %s, want %s", tt.name, got, tt.state)
		}
		if got := string(tt.d.AppendRetryAfter(nil)); got != tt.wait {
			t.Errorf("%q: retry after %s, want %s", tt.name, got, tt.wait)
		}
	}
}
