package upstream

import (
	"errors"
	"testing"
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
		{1 << 40, 0, 10 * time.Second},
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
	if !h.recovered(now) || h.recovered(now) {
		t.Error("recovery is not one change")
	}
	check("back", true, false)
	if h.lastErr != "connection refused" || !h.since.Equal(now) {
		t.Errorf("last error %q, since %s", h.lastErr, h.since)
	}
	h.failed(now, refused, 0)
	if got := h.next.Sub(now); got != time.Second {
		t.Errorf("after recovery the pause is %s, want 1s again", got)
	}
}

func TestChoose(t *testing.T) {
	now := time.Unix(1e9, 0)
	up := func() *health { return &health{} }
	down := func() *health { return &health{failures: 1, next: now.Add(time.Second)} }
	due := func() *health { return &health{failures: 1, next: now} }
	for _, tt := range []struct {
		name  string
		hs    []*health
		tried []bool
		want  []int // for turn 0, 1, 2…; -1 none
		probe int   // index that comes with probe; -1 none
	}{
		{"all up", []*health{up(), up(), up()}, []bool{false, false, false}, []int{0, 1, 2, 0}, -1},
		{"one down: even shares for the others", []*health{up(), down(), up()}, []bool{false, false, false}, []int{0, 2, 0, 2}, -1},
		{"one tried", []*health{up(), up(), up()}, []bool{true, false, false}, []int{1, 2, 1, 2}, -1},
		{"due comes back into turn", []*health{up(), due()}, []bool{false, false}, []int{0, 1, 0}, 1},
		{"all down", []*health{down(), down()}, []bool{false, false}, []int{-1, -1}, -1},
		{"the rest is down", []*health{up(), down()}, []bool{true, false}, []int{-1, -1}, -1},
	} {
		for turn, want := range tt.want {
			i, probe, ok := choose(tt.hs, tt.tried, uint64(turn), now)
			if !ok {
				i = -1
			}
			if i != want || probe != (ok && i == tt.probe) {
				t.Errorf("%s, turn %d: %d, probe %t; want %d", tt.name, turn, i, probe, want)
			}
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Unix(1e9, 0)
	at := func(d time.Duration) *health { return &health{failures: 1, next: now.Add(d)} }
	for _, tt := range []struct {
		hs   []*health
		want time.Duration
	}{
		{[]*health{at(8 * time.Second), at(3 * time.Second)}, 3 * time.Second},
		{[]*health{at(10 * time.Millisecond)}, time.Second},
		{[]*health{at(-time.Second)}, time.Second}, // another request is trying it
	} {
		if got := retryAfter(tt.hs, now); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
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
