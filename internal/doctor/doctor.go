// Package doctor examines a chain of things that all have to work, and names
// the link that is broken.
//
// A check says on which others it stands. One whose ground failed is skipped,
// so that one cause gives one FAIL. Checks that do not depend on each other
// run at the same time. What the checks look at is the caller's.
package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Status is what a check came to.
type Status string

// The four words of a report.
const (
	Pass Status = "PASS"
	Warn Status = "WARN" // works, but a person should look some time
	Fail Status = "FAIL" // does not work
	Skip Status = "SKIP" // not looked at: not configured, or what it stands on failed
)

// rank orders what is told from good to bad. A skipped check is no news.
func (s Status) rank() int {
	switch s {
	case Warn:
		return 1
	case Fail:
		return 2
	}
	return 0
}

// Result is what a check found.
type Result struct {
	Status Status

	// Detail is one line: the fact, or the cause.
	Detail string

	// Action is what a person can do about a WARN or FAIL, one sentence.
	Action string
}

// OK, Bad, Odd and None are the usual results.
func OK(format string, args ...any) Result { return Result{Pass, fmt.Sprintf(format, args...), ""} }

// Bad is a FAIL with its action.
func Bad(action, format string, args ...any) Result {
	return Result{Fail, fmt.Sprintf(format, args...), action}
}

// Odd is a WARN with its action.
func Odd(action, format string, args ...any) Result {
	return Result{Warn, fmt.Sprintf(format, args...), action}
}

// None is a SKIP: there is nothing to look at, and why.
func None(format string, args ...any) Result { return Result{Skip, fmt.Sprintf(format, args...), ""} }

// Check is one link of the chain.
type Check struct {
	// ID is what others name it by in Needs. It is unique in a list.
	ID string

	// Component and Target are the first two columns: what kind of thing,
	// and which one. Target may be empty.
	Component, Target string

	// Needs are the IDs of the checks it stands on, which stand earlier in
	// the list. While one of them failed or was skipped for such a reason, it
	// is skipped. An ID that is not in the list stands for nothing.
	Needs []string

	// Timeout bounds Run's context. Zero means 5 s.
	Timeout time.Duration

	// Run looks. It must return soon after its context ends; a look that
	// does not is given up and reported, not waited for.
	Run func(context.Context) Result
}

// Finding is a check and what it came to, as a report tells it.
type Finding struct {
	Component string `json:"component"`
	Target    string `json:"target"`
	Status    Status `json:"status"`
	Detail    string `json:"detail"`
	Action    string `json:"action"` // "": nothing to do
}

// Report is what all checks came to, in their order.
type Report struct {
	Checks []Finding `json:"checks"`
}

// Worst is the worst status but Skip.
func (r Report) Worst() Status {
	worst := Pass
	for _, f := range r.Checks {
		if f.Status.rank() > worst.rank() {
			worst = f.Status
		}
	}
	return worst
}

// ExitCode is 0 when all is well, 1 when something is odd and 2 when something
// does not work.
func (r Report) ExitCode() int { return r.Worst().rank() }

// limit is how long a check may take when it does not say.
const limit = 5 * time.Second

// slack is how long past its time a check is waited for.
const slack = 500 * time.Millisecond

// Run makes the checks, each as soon as what it stands on is known, and
// returns when all have ended or ctx has: what is under way then is reported
// as such. It starts goroutines and waits for them, but for a look that does
// not heed its context.
func Run(ctx context.Context, checks []Check) Report {
	r := Report{Checks: make([]Finding, len(checks))}
	runs := make([]*run, len(checks))
	byID := make(map[string]*run, len(checks))
	var all sync.WaitGroup
	for i := range checks {
		c := &checks[i]
		x := &run{done: make(chan struct{}), name: strings.TrimSpace(c.Component + " " + c.Target)}
		for _, id := range c.Needs {
			if on := byID[id]; on != nil { // earlier ones only: no circle can be
				x.on = append(x.on, on)
			}
		}
		runs[i] = x
		if c.ID != "" {
			byID[c.ID] = x
		}
		all.Go(func() { // waited for below
			defer close(x.done)
			x.do(ctx, c)
			r.Checks[i] = Finding{c.Component, c.Target, x.result.Status, line(x.result.Detail), line(x.result.Action)}
		})
	}
	all.Wait()
	return r
}

// run is one check under way.
type run struct {
	name   string
	on     []*run
	done   chan struct{} // closed when the rest is set
	cause  string        // the check that failed, if this stands on it or is it
	result Result
}

func (x *run) do(ctx context.Context, c *Check) {
	for _, on := range x.on {
		<-on.done
		if on.cause != "" && x.cause == "" {
			x.cause = on.cause
		}
	}
	if x.cause != "" {
		x.result = None("waits for %s", x.cause)
		return
	}
	x.result = look(ctx, c)
	if x.result.Status == Fail {
		x.cause = x.name
	}
}

// look runs one check within its time.
func look(ctx context.Context, c *Check) Result {
	within := c.Timeout
	if within <= 0 {
		within = limit
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	found := make(chan Result, 1)
	go func() { // ends with its context; one that hangs all the same is told and left
		defer func() {
			if p := recover(); p != nil {
				found <- Bad("report this as a bug", "the check broke: %v", p)
			}
		}()
		found <- c.Run(ctx)
	}()
	late := time.NewTimer(within + slack)
	defer late.Stop()
	select {
	case r := <-found:
		return r
	case <-late.C:
		return Odd("run the doctor again when the machine has less to do", "no result within %s", within)
	}
}

// line keeps what came from elsewhere on one line.
func line(s string) string { return strings.Join(strings.Fields(s), " ") }

// Changed returns the findings of next whose status is another than in prev,
// and those of next that are not well and new, in next's order. What was
// skipped before or is now is no change.
func Changed(prev, next Report) []Finding {
	was := make(map[[2]string]Status, len(prev.Checks))
	for _, f := range prev.Checks {
		was[[2]string{f.Component, f.Target}] = f.Status
	}
	return slices.DeleteFunc(slices.Clone(next.Checks), func(f Finding) bool {
		before, known := was[[2]string{f.Component, f.Target}]
		switch {
		case f.Status == Skip:
			return true
		case !known, before == Skip:
			return f.Status == Pass
		}
		return before == f.Status
	})
}
