package upstream

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var errTest = errors.New("connection refused")

// TestBreakerStory follows one circuit through closed, open and half-open.
func TestBreakerStory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &breaker{rule: Breaker{Errors: 0.5, Min: 4, Window: 10 * time.Second, Open: 5 * time.Second}}
		check := func(what string, ok, probe bool) {
			t.Helper()
			if gotOK, gotProbe := k.usable(time.Now()); gotOK != ok || gotProbe != probe {
				t.Errorf("%s: usable %t, probe %t; want %t, %t", what, gotOK, gotProbe, ok, probe)
			}
		}
		note := func(outcomes ...bool) {
			for _, bad := range outcomes {
				k.note(time.Now(), bad)
			}
		}
		note(true, true, true)
		check("three failures of at least four", true, false)
		time.Sleep(11 * time.Second)
		note(true, false, false)
		check("the old ones are forgotten", true, false)
		note(true)
		check("two of four", false, false)
		if k.why != "circuit open: 2 of 4 requests failed" {
			t.Errorf("why: %s", k.why)
		}
		note(false)
		check("an answer to an earlier request", false, false)
		time.Sleep(5 * time.Second)
		check("half-open", true, true)
		k.trying = true
		check("one at a time", false, false)
		note(true)
		check("the trial failed", false, false)
		time.Sleep(5 * time.Second)
		k.trying = true
		note(false)
		check("the trial went well", true, false)
		note(true, true)
		check("it starts from nothing", true, false)
	})
}

// TestBreaker opens and closes the circuit of a real backend.
func TestBreaker(t *testing.T) {
	var broken atomic.Bool
	bad := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if broken.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
		_, _ = io.WriteString(w, "a")
	})
	const open = 100 * time.Millisecond
	p := newPool(t, Config{Idle: DefaultIdle, Breaker: &Breaker{Errors: 0.5, Min: 5, Window: time.Minute, Open: open}}, bad, named(t, "b"))
	broken.Store(true)
	failed := 0
	for range 40 {
		if w := exchangeWire(t, p, wireRequest("GET", "")); w.err != nil {
			t.Fatal(w.err)
		} else if w.status == 500 {
			failed++
		}
	}
	if failed < 5 || failed > 10 {
		t.Errorf("%d requests met the bad backend, want 5 and a few trials", failed)
	}
	if s := p.Status()[0]; s.Up || !strings.Contains(s.LastError, "circuit open") {
		t.Errorf("status %+v", s)
	}
	broken.Store(false)
	eventually(t, "the circuit to close", func() bool {
		if w := exchangeWire(t, p, wireRequest("GET", "")); w.err != nil {
			t.Fatal(w.err)
		}
		return p.Status()[0].Up
	})
}
