package upstream

import (
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

func TestPause(t *testing.T) {
	for _, tt := range []struct {
		n      int
		chance float64
		want   time.Duration
	}{
		{1, 0, time.Second},
		{2, 0, 2 * time.Second},
		{4, 0, 8 * time.Second},
		{5, 0, 10 * time.Second},
		{math.MaxInt, 0, 10 * time.Second},
		{1, 0.5, 900 * time.Millisecond},
		{5, 0.999999, 8 * time.Second},
	} {
		if got := pause(tt.n, tt.chance).Round(time.Millisecond); got != tt.want {
			t.Errorf("pause(%d, %v) = %s, want %s", tt.n, tt.chance, got, tt.want)
		}
	}
}

// TestHealthStory follows one backend through an outage.
func TestHealthStory(t *testing.T) {
	var h health
	now := time.Unix(1e9, 0)
	refused := errors.New("connection refused")
	check := func(what string, ok, probe bool) {
		t.Helper()
		if gotOK, gotProbe := h.usable(now); gotOK != ok || gotProbe != probe {
			t.Errorf("%s: usable %t, probe %t; want %t, %t", what, gotOK, gotProbe, ok, probe)
		}
	}
	check("new", true, false)
	if !h.failed(now, refused, 0) {
		t.Error("the first failure changes nothing")
	}
	check("down", false, false)
	if h.failed(now, refused, 0) {
		t.Error("a second request that was already dialling brings the backend down again")
	}
	now = now.Add(time.Second)
	check("after 1s", true, true)
	h.probing = true
	check("while another request probes", false, false)
	h.abandoned()
	check("after a probe that was called off", true, true)
	h.probing = true
	if h.failed(now, refused, 0) {
		t.Error("a failed probe counts as a change")
	}
	now = now.Add(1999 * time.Millisecond)
	check("before 2s", false, false)
	now = now.Add(time.Millisecond)
	check("after 2s", true, true)
	h.probing = true
	if !h.recovered() || h.recovered() {
		t.Error("recovery is not one change")
	}
	check("back", true, false)
	if h.lastErr != "connection refused" {
		t.Errorf("last error %q", h.lastErr)
	}
	h.failed(now, refused, 0)
	if got := h.next.Sub(now); got != time.Second {
		t.Errorf("after recovery the pause is %s, want 1s again", got)
	}
}

// TestUsableInTurn: what is down or was tried gives its turns to all the
// others alike.
func TestUsableInTurn(t *testing.T) {
	now := time.Unix(1e9, 0)
	up := health{}
	down := health{failures: 1, next: now.Add(time.Second)}
	due := health{failures: 1, next: now}
	for _, tt := range []struct {
		name  string
		hs    []health
		tried []bool
		want  []int // for turn 0, 1, 2…; -1 none
		probe int   // index that comes with probe; -1 none
	}{
		{"all up", []health{up, up, up}, []bool{false, false, false}, []int{0, 1, 2, 0}, -1},
		{"one down: even shares for the others", []health{up, down, up}, []bool{false, false, false}, []int{0, 2, 0, 2}, -1},
		{"one tried", []health{up, up, up}, []bool{true, false, false}, []int{1, 2, 1, 2}, -1},
		{"due comes back into turn", []health{up, due}, []bool{false, false}, []int{0, 1, 0}, 1},
		{"all down", []health{down, down}, []bool{false, false}, []int{-1, -1}, -1},
		{"the rest is down", []health{up, down}, []bool{true, false}, []int{-1, -1}, -1},
	} {
		for turn, want := range tt.want {
			cs := make([]candidate, len(tt.hs))
			for i := range tt.hs {
				use, probe := tt.hs[i].usable(now)
				cs[i].probe = probe
				if use && !tt.tried[i] {
					cs[i].share = 1
				}
			}
			i := choose(cs, draw{even: true, turn: uint64(turn)})
			if i != want || i >= 0 && cs[i].probe != (i == tt.probe) {
				t.Errorf("%s, turn %d: %d; want %d", tt.name, turn, i, want)
			}
		}
	}
}

func TestRetryAfter(t *testing.T) {
	a, b := mustTarget(t, "127.0.0.1:1"), mustTarget(t, "127.0.0.1:2")
	for _, tt := range []struct {
		next []time.Duration
		want time.Duration
	}{
		{[]time.Duration{8 * time.Second, 3 * time.Second}, 3 * time.Second},
		{[]time.Duration{10 * time.Millisecond}, time.Second},
		{[]time.Duration{-time.Second}, time.Second}, // another request is trying it
	} {
		synctest.Test(t, func(t *testing.T) {
			p, err := New(Config{Targets: []Target{a, b}[:len(tt.next)]})
			if err != nil {
				t.Fatal(err)
			}
			for i, d := range tt.next {
				p.backends[i].health = health{failures: 1, next: time.Now().Add(d)}
			}
			var down *DownError
			if err := p.downError(); !errors.As(err, &down) || down.RetryAfter != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func mustTarget(t testing.TB, s string) Target {
	t.Helper()
	target, err := ParseTarget(s)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// TestCheckStory follows one backend through active checks.
func TestCheckStory(t *testing.T) {
	rule := &Check{Healthy: 2, Unhealthy: 3}
	bad := errors.New("check /: status 500, want 200-399")
	now := time.Unix(1e9, 0)
	next := now.Add(10 * time.Second)
	var h health
	step := func(what string, err error, up bool) {
		t.Helper()
		h.checked(err, rule, next)
		if h.up() != up {
			t.Errorf("%s: up %t, want %t", what, h.up(), up)
		}
	}
	step("passed", nil, true)
	step("one bad", bad, true)
	step("two bad", bad, true)
	step("good in between", nil, true)
	step("one bad", bad, true)
	step("two bad", bad, true)
	step("three bad", bad, false)
	if ok, _ := h.usable(now.Add(time.Hour)); ok || !h.next.Equal(next) {
		t.Errorf("a sick backend may be tried by a request: %t, next %s", ok, h.next)
	}
	h.recovered()
	if h.up() {
		t.Error("an old request made a sick backend well")
	}
	step("one good", nil, false)
	step("bad again", bad, false)
	step("one good", nil, false)
	step("two good", nil, true)
	h.failed(now, errors.New("refused"), 0)
	if h.up() {
		t.Error("up after a failed dial")
	}
	step("a check passed after a failed dial", nil, true)
}

func TestResendRule(t *testing.T) {
	died := facts{reused: true, broken: true, replayable: true}
	with := func(change func(*facts)) facts {
		f := died
		change(&f)
		return f
	}
	for _, tt := range []struct {
		name string
		f    facts
		want string
	}{
		{"a pooled connection died", died, retryStale},
		{"a fresh one died", with(func(f *facts) { f.reused = false }), ""},
		{"once already", with(func(f *facts) { f.resends = 1 }), ""},
		{"a byte came back", with(func(f *facts) { f.answered = true }), ""},
		{"the body is gone", with(func(f *facts) { f.replayable = false }), ""},
		{"the client is gone, or the time is up", with(func(f *facts) { f.final = true }), ""},
		{"only the stream was reset", with(func(f *facts) { f.broken = false }), ""},
		{"refused on a fresh connection", facts{refused: true, replayable: true}, retryRefused},
		{"refused again", facts{refused: true, replayable: true, resends: 2}, retryRefused},
		{"refused too often", facts{refused: true, replayable: true, resends: 3}, ""},
		{"refused, but the body is gone", facts{refused: true}, ""},
	} {
		if got := resend(tt.f); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
