// Package service runs the long-lived goroutines of the process and stops
// them together.
//
// A Group is told what there is to run and what there is to undo, in the
// order in which things are built. Run starts the tasks; when it ends, what
// was registered last is stopped first, so that a task never outlives what it
// stands on: listeners drain before the ban table is written, and the ban
// table is written before the log file is closed.
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"
)

const (
	// defaultGrace is how long stopping may take unless StopWithin says
	// otherwise.
	defaultGrace = 10 * time.Second

	// lastCall is what is left to the remaining steps, all at once, when one
	// of them has used up the grace: a listener that hangs must not cost the
	// ban table its last write.
	lastCall = time.Second

	// A worker that ended is started again after firstBackoff, then twice as
	// long each time up to maxBackoff. It starts over with firstBackoff once
	// it ran for calm.
	firstBackoff = time.Second
	maxBackoff   = time.Minute
	calm         = time.Minute
)

// Group runs named tasks and stops them in the reverse order of their
// registration. Its methods may be called from several goroutines. Make one
// with New; it starts no goroutine before Run.
type Group struct {
	log    *slog.Logger
	failed chan error    // first error of an essential task; holds one
	begun  chan struct{} // closed when stopping begins

	mu    sync.Mutex
	grace time.Duration   // guarded by mu
	state state           // guarded by mu
	ctx   context.Context // guarded by mu; parent of the tasks', set by Run
	steps []*step         // guarded by mu; in the order of registration
}

type state int

const (
	idle state = iota
	running
	stopping
)

// step is one thing to stop: a task (run is set) or a hook (stop is set).
type step struct {
	name string
	run  func(context.Context) error
	keep bool // restart it rather than end the group
	stop func(context.Context) error

	cancel context.CancelFunc // of a task that was started
	done   chan struct{}      // closed when the task or hook has returned

	// The rest is guarded by Group.mu.
	err      error // the last error of a worker, or how the step ended
	running  bool
	restarts int
	since    time.Time // when running last changed
}

// New returns an empty group. A nil log discards what would be logged.
func New(log *slog.Logger) *Group {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Group{
		log:    log,
		failed: make(chan error, 1),
		begun:  make(chan struct{}),
		grace:  defaultGrace,
	}
}

// StopWithin sets how long all stopping together may take; the default is
// 10 s. Zero or less cancels everything at once. It may be called at any time
// and counts when stopping begins.
func (g *Group) StopWithin(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.grace = d
}

// Go registers an essential task: when fn returns an error or panics, the
// group stops and Run returns that error. fn may also return nil, early, when
// its work is done. fn must return soon after its context is done; what it
// returns then counts only if it is not the context's own error.
//
// Before Run the task waits for Run; during Run it starts at once; when the
// group is stopping it never starts.
func (g *Group) Go(name string, fn func(context.Context) error) {
	g.add(&step{name: name, run: fn})
}

// Keep registers a worker that is meant to live as long as the group: when fn
// returns before its context is done, or panics, that is logged and fn is
// called again, after 1 s at first, then twice as long each time up to a
// minute. A worker that ran for a minute starts over with 1 s. It never ends
// the group. Otherwise it is as Go.
func (g *Group) Keep(name string, fn func(context.Context) error) {
	g.add(&step{name: name, run: fn, keep: true})
}

// OnStop registers fn to be called once when the group stops, after
// everything that was registered later has ended. Its context ends with the
// time that is left. It is not called when the group is already stopping.
func (g *Group) OnStop(name string, fn func(context.Context) error) {
	g.add(&step{name: name, stop: fn})
}

func (g *Group) add(s *step) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state == stopping {
		g.log.Debug("not started: stopping", "task", s.name)
		return
	}
	g.steps = append(g.steps, s)
	if g.state == running && s.run != nil {
		g.startLocked(s)
	}
}

func (g *Group) startLocked(s *step) {
	ctx, cancel := context.WithCancel(g.ctx)
	s.cancel, s.done = cancel, make(chan struct{})
	s.running, s.since = true, time.Now()
	go func() {
		defer close(s.done)
		defer cancel()
		if s.keep {
			g.keepRunning(ctx, s)
		} else {
			g.runOnce(ctx, s)
		}
	}()
}

// Run starts the tasks and blocks until ctx is done or an essential task
// failed. Then it stops everything, last registered first: a task's context
// is cancelled and its return awaited; a hook is called. When the time of
// StopWithin is over, all that is left is stopped at once and gets one more
// second.
//
// The result joins the error of the essential task, the errors of hooks, and
// one that names what had not stopped in time; it is nil when ctx was done
// and everything stopped well. Run may be called once.
func (g *Group) Run(ctx context.Context) error {
	g.mu.Lock()
	if g.state != idle {
		g.mu.Unlock()
		return errors.New("service group: Run called twice, want once")
	}
	g.state = running
	// The tasks end one by one and in order, not all together with ctx.
	g.ctx = context.WithoutCancel(ctx)
	if ctx.Err() == nil {
		for _, s := range g.steps {
			if s.run != nil {
				g.startLocked(s)
			}
		}
	}
	g.mu.Unlock()

	var failure error
	select {
	case <-ctx.Done():
	case failure = <-g.failed:
	}
	stopped := g.stopAll(ctx)
	if failure == nil {
		select {
		case failure = <-g.failed: // it failed as the stop began
		default:
		}
	}
	return errors.Join(failure, stopped)
}

// Stopping is closed when the group begins to stop.
func (g *Group) Stopping() <-chan struct{} { return g.begun }

// stopAll stops what is registered and returns what went wrong.
func (g *Group) stopAll(parent context.Context) error {
	g.mu.Lock()
	g.state = stopping
	close(g.begun)
	grace, steps := g.grace, g.steps
	g.steps = nil
	g.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.WithoutCancel(parent), grace)
	defer cancel()
	last := len(steps) - 1
	for ; last >= 0 && ctx.Err() == nil; last-- {
		g.halt(ctx, steps[last])
		wait(ctx, steps[last])
	}

	end, cancel := context.WithTimeout(context.WithoutCancel(parent), lastCall)
	defer cancel()
	for i := last; i >= 0; i-- {
		g.halt(end, steps[i])
	}
	var errs []error
	var late []string
	for i := len(steps) - 1; i >= 0; i-- {
		s := steps[i]
		if ctx.Err() != nil {
			wait(end, s)
		}
		switch {
		case s.done == nil: // a task that was never started
		case !isDone(s):
			late = append(late, s.name)
		case !s.keep && s.err != nil && !errors.Is(s.err, context.Canceled):
			errs = append(errs, fmt.Errorf("stop %s: %w", s.name, s.err))
		}
	}
	if late != nil {
		errs = append(errs, fmt.Errorf("still running %v after the order to stop: %s", grace, strings.Join(late, ", ")))
	}
	return errors.Join(errs...)
}

// halt tells s to stop and does not wait for it.
func (g *Group) halt(ctx context.Context, s *step) {
	if s.run != nil {
		if s.cancel != nil {
			s.cancel()
		}
		return
	}
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		s.err = g.call(ctx, s.name, s.stop)
	}()
}

// wait returns when s has stopped or ctx is done.
func wait(ctx context.Context, s *step) {
	if s.done == nil {
		return
	}
	select {
	case <-s.done:
	case <-ctx.Done():
	}
}

func isDone(s *step) bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// runOnce runs an essential task. If it ends by itself, an error ends the
// group and success removes the task from it.
func (g *Group) runOnce(ctx context.Context, s *step) {
	err := g.call(ctx, s.name, s.run)
	g.mu.Lock()
	defer g.mu.Unlock()
	s.running, s.since = false, time.Now()
	if ctx.Err() != nil {
		s.err = err
		return
	}
	if err != nil {
		select {
		case g.failed <- fmt.Errorf("%s: %w", s.name, err):
		default: // another failure is already ending the group
			s.err = err
		}
		return
	}
	for i, other := range g.steps {
		if other == s {
			g.steps = append(g.steps[:i:i], g.steps[i+1:]...)
			break
		}
	}
}

// keepRunning runs a worker until ctx is done.
func (g *Group) keepRunning(ctx context.Context, s *step) {
	pause := firstBackoff
	for {
		start := time.Now()
		err := g.call(ctx, s.name, s.run)
		if ctx.Err() != nil {
			g.note(s, false, err)
			return
		}
		if err == nil {
			err = errors.New("returned early")
		}
		g.note(s, false, err)
		if time.Since(start) >= calm {
			pause = firstBackoff
		}
		g.log.Error("worker ended, will be restarted", "task", s.name, "retry_in", pause, "err", err)
		if !sleep(ctx, pause) {
			return
		}
		pause = min(2*pause, maxBackoff)
		g.note(s, true, nil)
	}
}

// note records that the worker s ended (with err) or was started again. The
// last error stays known after a restart.
func (g *Group) note(s *step, running bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.running, s.since = running, time.Now()
	if running {
		s.restarts++
	}
	if err != nil {
		s.err = err
	}
}

// call runs fn and turns a panic into an error. The stack goes to the log,
// because an error is one line.
func (g *Group) call(ctx context.Context, name string, fn func(context.Context) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			g.log.Error("panic", "task", name, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return fn(ctx)
}

// sleep waits for d and reports false when ctx was done first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// Task says how one registered task is doing.
type Task struct {
	Name     string
	Running  bool      // false: not started yet, or waiting to be restarted
	Since    time.Time // when Running last changed; zero before Run
	Restarts int       // how often it was started again since Run
	Err      error     // why it last ended; nil if it never did
}

// Tasks returns the registered tasks in the order of their registration, for
// a health report. It is empty once the group is stopping.
func (g *Group) Tasks() []Task {
	g.mu.Lock()
	defer g.mu.Unlock()
	var tasks []Task
	for _, s := range g.steps {
		if s.run != nil {
			tasks = append(tasks, Task{Name: s.name, Running: s.running, Since: s.since, Restarts: s.restarts, Err: s.err})
		}
	}
	return tasks
}
