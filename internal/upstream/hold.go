package upstream

import "time"

const (
	// maxHeld bounds the requests of one pool that wait for a backend.
	maxHeld = 1024

	// While requests wait, a backend that is down is tried this often.
	holdPause = 50 * time.Millisecond
)

// waiting is what a request knows while it is held.
type waiting struct {
	until time.Time     // when it gives up; zero: it did not wait yet
	gone  chan struct{} // holds one when the client is gone
}

// hold waits until it is worth looking for a backend again. It reports false
// when it is not to wait, or not any longer. Of all that wait, one looks again
// after a short pause; the others when that one, a check or another request
// has found a backend.
func (t *trip) hold() (bool, error) {
	p := t.p
	if p.cfg.Hold <= 0 {
		return false, nil
	}
	now := time.Now()
	if t.wait.until.IsZero() {
		if p.holding.Add(1) > maxHeld {
			p.holding.Add(-1)
			return false, nil
		}
		p.cfg.Metrics.hold(1)
		t.wait.until = sooner(now.Add(p.cfg.Hold), t.until)
		t.wait.gone = make(chan struct{}, 1)
	}
	left := t.wait.until.Sub(now)
	if left <= 0 {
		return false, nil
	}
	// The watch ends before the request is sent: from then on the client is
	// the link's to watch, and two must not read its connection.
	gone := t.wait.gone
	stop := t.via.watch(func() {
		select {
		case gone <- struct{}{}:
		default:
		}
	})
	news, knocks := p.expect(now)
	pause := left
	if knocks {
		pause = min(left, holdPause)
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	err := error(nil)
	leaves := false
	select {
	case <-news:
	case <-timer.C:
		leaves = pause == left
	case <-t.ctx.Done():
		err = t.ctx.Err()
	case <-gone:
		err = errGivenUp
	}
	stop()
	if knocks {
		p.knocked(leaves || err != nil)
	}
	return err == nil, err
}

// end ends the waiting, if there was any.
func (w *waiting) end(p *Pool) {
	if w.gone == nil {
		return
	}
	w.gone = nil
	p.holding.Add(-1)
	p.cfg.Metrics.hold(-1)
}

// expect returns a channel that is closed when a backend is back, and whether
// the caller is the one that looks by itself.
func (p *Pool) expect(now time.Time) (news <-chan struct{}, knocks bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.backends {
		if soon := now.Add(holdPause); !b.health.sick && b.health.next.After(soon) {
			b.health.next = soon
		}
	}
	if p.news == nil {
		p.news = make(chan struct{})
	}
	if knocks = !p.knocking; knocks {
		p.knocking = true
	}
	return p.news, knocks
}

// knocked ends what expect began. Who leaves for good has another one take
// over.
func (p *Pool) knocked(leaves bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.knocking = false
	if leaves {
		p.tellLocked()
	}
}

// tellLocked wakes the requests that wait.
func (p *Pool) tellLocked() {
	if p.news != nil {
		close(p.news)
		p.news = nil
	}
}

// watch of net/http's carrier: the context is all there is.
func (v *roundTrip) watch(func()) func() { return func() {} }

func (v *wireTrip) watch(cancel func()) func() {
	if v.q.Watch == nil {
		return func() {}
	}
	return v.q.Watch(cancel)
}
