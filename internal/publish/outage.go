package publish

import (
	"errors"
	"math/rand/v2"
	"time"
)

// trouble is a run of failures. The zero value is none.
type trouble struct {
	failures int
	since    time.Time
	told     bool
}

const (
	// tellAfter failures in a row are an outage. Two in a row are a hiccup
	// that nobody needs to hear of. A refusal is told at once: waiting does
	// not mend a wrong key.
	tellAfter = 3

	firstWait = time.Second
	maxWait   = 5 * time.Minute
)

// failed notes a failure and returns the outage if it is to be told now.
func (t *trouble) failed(err error, now time.Time) *Outage {
	if t.failures == 0 {
		t.since = now
	}
	t.failures++
	if t.told || t.failures < tellAfter && !refused(err) {
		return nil
	}
	t.told = true
	return &Outage{Since: t.since, Err: err}
}

// worked notes a success and returns the end of an outage if one was told.
func (t *trouble) worked(now time.Time) *Outage {
	was := *t
	*t = trouble{}
	if !was.told {
		return nil
	}
	return &Outage{Since: was.since, Ended: now}
}

// wait is how long to wait after err: twice as long after each failure, with
// a fifth of chance, so that targets do not come in step; longer if we were
// asked to.
func (t *trouble) wait(err error) time.Duration {
	d := maxWait
	if shift := t.failures - 1; shift < 10 {
		d = min(maxWait, firstWait<<max(shift, 0))
	}
	d += time.Duration((rand.Float64() - 0.5) * 0.4 * float64(d))
	if e, ok := errors.AsType[*Error](err); ok && e.RetryAfter > d {
		d = min(e.RetryAfter, time.Hour)
	}
	return d
}

func refused(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && (e.Kind == ErrDenied || e.Kind == ErrRejected)
}
