package service

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// diary collects what happened, in order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) add(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, line)
}

func (d *diary) want(t *testing.T, want ...string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(d.lines, want) {
		t.Errorf("events\ngot  %q\nwant %q", d.lines, want)
	}
}

// untilDone is a well-behaved task that notes its start and end.
func (d *diary) untilDone(name string) func(context.Context) error {
	return func(ctx context.Context) error {
		d.add("start " + name)
		<-ctx.Done()
		d.add("end " + name)
		return ctx.Err()
	}
}

func (d *diary) hook(name string) func(context.Context) error {
	return func(context.Context) error {
		d.add("stop " + name)
		return nil
	}
}

func TestStopsLastFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		g := New(nil)
		g.OnStop("log file", d.hook("log file"))
		g.Keep("bans", d.untilDone("bans"))
		g.OnStop("pool", d.hook("pool"))
		g.Go("listener", d.untilDone("listener"))
		synctest.Wait()
		d.want(t) // nothing runs before Run

		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- g.Run(ctx) }()
		synctest.Wait()
		d.mu.Lock()
		slices.Sort(d.lines) // tasks start together
		d.mu.Unlock()
		cancel()
		if err := <-result; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
		d.want(t, "start bans", "start listener",
			"end listener", "stop pool", "end bans", "stop log file")
	})
}

func TestEssentialTaskEndsTheGroup(t *testing.T) {
	broken := errors.New("port taken")
	tests := []struct {
		name string
		fn   func(context.Context) error
		want string // of Run's error
	}{
		{"error", func(context.Context) error { return broken }, "listener: port taken"},
		{"panic", func(context.Context) error { panic("nil map") }, "listener: panic: nil map"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var d diary
				g := New(nil)
				g.Keep("bans", d.untilDone("bans"))
				g.Go("listener", func(ctx context.Context) error {
					synctest.Wait()
					return tt.fn(ctx)
				})
				err := g.Run(t.Context())
				if err == nil || err.Error() != tt.want {
					t.Errorf("Run = %v, want %q", err, tt.want)
				}
				if tt.name == "error" && !errors.Is(err, broken) {
					t.Errorf("Run = %v does not wrap the task's error", err)
				}
				d.want(t, "start bans", "end bans")
			})
		})
	}
}

func TestEssentialTaskMayFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(nil)
		g.Go("warm-up", func(context.Context) error { return nil })
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- g.Run(ctx) }()
		synctest.Wait()
		if tasks := g.Tasks(); len(tasks) != 0 {
			t.Errorf("tasks = %v, want the finished one forgotten", tasks)
		}
		cancel()
		if err := <-result; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	})
}

func TestWorkerIsRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		g := New(slog.New(slog.NewTextHandler(&log, nil)))
		begin := time.Now()
		var starts []time.Duration
		g.Keep("renew", func(ctx context.Context) error {
			starts = append(starts, time.Since(begin))
			switch n := len(starts); {
			case n == 1:
				panic("index out of range")
			case n == 2:
				return nil
			case n < 10:
				return errors.New("disk full")
			case n == 10: // long enough for the back-off to start over
				sleep(ctx, 2*time.Minute)
				return errors.New("disk full")
			}
			<-ctx.Done()
			return nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := g.Run(ctx); err != nil {
			t.Errorf("Run = %v: a worker ended the group", err)
		}
		var want []time.Duration
		at := time.Duration(0)
		for _, pause := range []int{0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 120 + 1} {
			at += time.Duration(pause) * time.Second
			want = append(want, at)
		}
		if !slices.Equal(starts, want) {
			t.Errorf("starts\ngot  %v\nwant %v", starts, want)
		}
		for _, part := range []string{"index out of range", "returned early", "disk full", "task=renew", "service_test.go"} {
			if !strings.Contains(log.String(), part) {
				t.Errorf("log lacks %q:\n%s", part, log.String())
			}
		}
	})
}

func TestTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(nil)
		g.OnStop("not a task", func(context.Context) error { return nil })
		calls := 0
		g.Keep("renew", func(ctx context.Context) error {
			if calls++; calls == 1 {
				return errors.New("disk full")
			}
			<-ctx.Done()
			return nil
		})
		if got := g.Tasks(); len(got) != 1 || got[0].Running || !got[0].Since.IsZero() {
			t.Errorf("before Run: %+v", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- g.Run(ctx) }()
		synctest.Wait()
		if got := g.Tasks()[0]; got.Running || got.Err == nil || got.Restarts != 0 {
			t.Errorf("while it waits to be restarted: %+v", got)
		}
		time.Sleep(time.Second) // the bubble's clock
		synctest.Wait()
		if got := g.Tasks()[0]; !got.Running || got.Err == nil || got.Restarts != 1 || time.Since(got.Since) != 0 {
			t.Errorf("after the restart: %+v", got)
		}
		cancel()
		<-result
		if got := g.Tasks(); len(got) != 0 {
			t.Errorf("after Run: %+v, want none", got)
		}
	})
}

// A step that hangs costs its own grace and no more: the others still get
// their last call, and the hanging one is named.
func TestHangingStepIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		release := make(chan struct{})
		g := New(nil)
		g.StopWithin(5 * time.Second)
		g.OnStop("bans", func(ctx context.Context) error {
			if ctx.Err() != nil {
				t.Error("the hook's context is done before it is called")
			}
			d.add("stop bans")
			return nil
		})
		g.Keep("renew", d.untilDone("renew"))
		g.Go("listener", func(context.Context) error { <-release; return nil })
		g.OnStop("drain", func(context.Context) error { <-release; return nil })
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- g.Run(ctx) }()
		synctest.Wait()
		begin := time.Now()
		cancel()
		err := <-result
		if took, want := time.Since(begin), 6*time.Second; took != want {
			t.Errorf("stopping took %v, want %v", took, want)
		}
		const want = "still running 5s after the order to stop: drain, listener"
		if err == nil || err.Error() != want {
			t.Errorf("Run = %v, want %q", err, want)
		}
		d.mu.Lock()
		slices.Sort(d.lines)
		d.mu.Unlock()
		d.want(t, "end renew", "start renew", "stop bans")
		close(release)
	})
}

func TestErrorsWhileStopping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(nil)
		g.OnStop("bans", func(context.Context) error { return errors.New("disk full") })
		g.OnStop("pool", func(context.Context) error { panic("closed twice") })
		g.Go("listener", func(ctx context.Context) error { <-ctx.Done(); return errors.New("drain: 2 cut off") })
		g.Keep("renew", func(ctx context.Context) error { <-ctx.Done(); return errors.New("interrupted") })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := g.Run(ctx)
		const want = "stop listener: drain: 2 cut off\nstop pool: panic: closed twice\nstop bans: disk full"
		if err == nil || err.Error() != want {
			t.Errorf("Run = %v\nwant %s", err, want)
		}
	})
}

func TestAddedWhileRunningAndStopping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		g := New(nil)
		g.OnStop("first", func(context.Context) error {
			g.Go("late", d.untilDone("late"))
			g.OnStop("late", d.hook("late"))
			d.add("stop first")
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- g.Run(ctx) }()
		synctest.Wait()
		select {
		case <-g.Stopping():
			t.Error("Stopping is closed while running")
		default:
		}
		g.Go("added", d.untilDone("added"))
		synctest.Wait()
		d.want(t, "start added")
		cancel()
		if err := <-result; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
		<-g.Stopping()
		synctest.Wait()
		d.want(t, "start added", "end added", "stop first")
		if err := g.Run(t.Context()); err == nil {
			t.Error("second Run = nil, want an error")
		}
	})
}

func TestRunWithContextDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		g := New(nil)
		g.OnStop("listener", d.hook("listener"))
		g.Go("serve", d.untilDone("serve"))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := g.Run(ctx); err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
		d.want(t, "stop listener")
	})
}

// A task that fails in the moment of the stop is not lost.
func TestFailureWhileOthersStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(nil)
		fail := make(chan struct{})
		g.Go("accept", func(context.Context) error { <-fail; return errors.New("socket closed") })
		g.Go("drain", func(ctx context.Context) error {
			<-ctx.Done()
			close(fail)
			synctest.Wait()
			return nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.Run(ctx); err == nil || err.Error() != "accept: socket closed" {
			t.Errorf("Run = %v, want %q", err, "accept: socket closed")
		}
	})
}

func TestNoGraceStopsAllAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		g := New(nil)
		g.StopWithin(0)
		g.OnStop("bans", d.hook("bans"))
		g.Go("serve", d.untilDone("serve"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.Run(ctx); err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
		if len(d.lines) != 3 {
			t.Errorf("events %q, want all three", d.lines)
		}
	})
}
