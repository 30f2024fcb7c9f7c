package doctor

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func fixed(r Result) func(context.Context) Result {
	return func(context.Context) Result { return r }
}

// One cause gives one FAIL, however many stand on it.
func TestOneCauseOneFail(t *testing.T) {
	checks := []Check{
		{ID: "link", Component: "link", Run: fixed(OK("eth0"))},
		{ID: "route", Component: "route", Needs: []string{"link"}, Run: fixed(Bad("plug the cable in", "no default route"))},
		{ID: "router", Component: "router", Target: "192.168.0.1", Needs: []string{"route"}, Run: fixed(OK("answers"))},
		{ID: "dns", Component: "dns", Needs: []string{"router"}, Run: fixed(Bad("never seen", "never seen"))},
		{ID: "disk", Component: "disk", Needs: []string{"nowhere"}, Run: fixed(Odd("delete something", "95 %% full"))},
	}
	got := Run(t.Context(), checks)
	want := Report{[]Finding{
		{"link", "", Pass, "eth0", ""},
		{"route", "", Fail, "no default route", "plug the cable in"},
		{"router", "192.168.0.1", Skip, "waits for route", ""},
		{"dns", "", Skip, "waits for route", ""},
		{"disk", "", Warn, "95 % full", "delete something"},
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got.ExitCode() != 2 {
		t.Errorf("exit code %d", got.ExitCode())
	}
	text := `COMPONENT  TARGET       STATUS  DETAIL
link                    PASS    eth0
route                   FAIL    no default route
router     192.168.0.1  SKIP    waits for route
dns                     SKIP    waits for route
disk                    WARN    95 % full

FAIL: route: plug the cable in
WARN: disk: delete something
`
	if d := cmp.Diff(text, got.Text()); d != "" {
		t.Error(d)
	}
}

// A check that is not configured takes nothing with it.
func TestNothingToLookAt(t *testing.T) {
	got := Run(t.Context(), []Check{
		{ID: "ddns", Component: "ddns", Run: fixed(None("not configured"))},
		{Component: "names", Needs: []string{"ddns"}, Run: fixed(OK("fine"))},
	})
	if got.Checks[1].Status != Pass || got.ExitCode() != 0 || !strings.Contains(got.Text(), "no problem found") {
		t.Errorf("got %+v", got)
	}
}

// Independent checks run beside each other, one that hangs is given up, and
// one that panics is told.
func TestTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running atomic.Int32
		begin := time.Now()
		checks := []Check{
			{Component: "deaf", Timeout: 2 * time.Second, Run: func(context.Context) Result { <-make(chan int, 1); return Result{} }},
			{Component: "broken", Run: func(context.Context) Result { panic("oh") }},
		}
		leave := make(chan struct{})
		checks[0].Run = func(context.Context) Result { <-leave; return Result{} }
		for i := range 20 {
			checks = append(checks, Check{Component: fmt.Sprint("slow ", i), Run: func(ctx context.Context) Result {
				running.Add(1)
				<-ctx.Done()
				return Bad("", "%v", ctx.Err())
			}})
		}
		got := Run(t.Context(), checks)
		if took := time.Since(begin); took != limit {
			t.Errorf("took %s, want %s: all beside each other", took, limit)
		}
		if running.Load() != 20 {
			t.Errorf("%d ran", running.Load())
		}
		if f := got.Checks[0]; f.Status != Warn || f.Detail != "no result within 2s" {
			t.Errorf("deaf: %+v", f)
		}
		if f := got.Checks[1]; f.Status != Fail || f.Detail != "the check broke: oh" {
			t.Errorf("broken: %+v", f)
		}
		close(leave)
	})
}

func TestChanged(t *testing.T) {
	prev := Report{[]Finding{{"a", "", Pass, "", ""}, {"b", "", Fail, "", ""}, {"c", "", Fail, "", ""}, {"d", "", Skip, "", ""}, {"e", "", Pass, "x", ""}}}
	next := Report{[]Finding{{"a", "", Fail, "", ""}, {"b", "", Pass, "", ""}, {"c", "", Skip, "", ""}, {"d", "", Pass, "", ""}, {"e", "", Pass, "y", ""}, {"f", "", Warn, "", ""}, {"g", "", Pass, "", ""}}}
	want := []Finding{next.Checks[0], next.Checks[1], next.Checks[5]}
	if d := cmp.Diff(want, Changed(prev, next)); d != "" {
		t.Error(d)
	}
}

// What a router or a server of others says steers no terminal and starts no
// line.
func TestStrangersWords(t *testing.T) {
	got := Run(t.Context(), []Check{{Component: "router", Run: fixed(Bad("look\x1b[2J", "it says %s", "x\r\nFAIL: \u202eyou\x1b]0;t\x07"))}}).Text()
	if strings.ContainsAny(got, "\x1b\x07\r\u202e") || strings.Count(got, "\n") != 4 {
		t.Errorf("got %q", got)
	}
}
