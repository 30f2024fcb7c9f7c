package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"time"
)

// h1Worker sends requests one after the other over a kept connection.
type h1Worker struct{ *h1 }

func newH1Worker(j *job, n int, c *clients) worker { return &h1Worker{newH1(j, n, c)} }

func (w *h1Worker) prepare() error {
	_, err := w.open()
	return err
}

// unit sends one request. As every HTTP client does with a GET, it tries once
// more when a connection that was used before closed without an answer.
func (w *h1Worker) unit(t *tally) {
	begin := time.Now()
	n, err := w.try()
	if isGone(err) && errors.Is(err, errEarly) && w.used {
		t.retried++
		w.close()
		n, err = w.try()
	}
	if err != nil {
		w.close()
		t.fail(err)
		return
	}
	t.bytes += n
	t.done(time.Since(begin))
}

func (w *h1Worker) try() (int64, error) {
	if w.conn == nil {
		if _, err := w.open(); err != nil {
			return 0, fmt.Errorf("connect: %w", err)
		}
	}
	return w.exchange()
}

// connectWorker opens a connection for each request.
type connectWorker struct {
	*h1
	resume bool
}

func newConnectWorker(j *job, n int, c *clients) worker {
	w := &connectWorker{newH1(j, n, c), j.Resume}
	if j.Resume {
		w.cache = tls.NewLRUClientSessionCache(1)
	}
	return w
}

// prepare gets the first session ticket, so that all units can resume.
func (w *connectWorker) prepare() error {
	if !w.resume {
		return nil
	}
	var t tally
	w.connect(&t)
	return t.err
}

func (w *connectWorker) unit(t *tally) {
	resumed := t.resumed
	w.connect(t)
	if w.resume && t.err == nil && t.resumed == resumed {
		t.fail(errors.New("session was not resumed"))
	}
}

func (w *connectWorker) connect(t *tally) {
	defer w.close()
	begin := time.Now()
	resumed, err := w.open()
	if err != nil {
		t.fail(fmt.Errorf("connect: %w", err))
		return
	}
	if resumed {
		t.resumed++
	}
	n, err := w.exchange()
	if err != nil {
		t.fail(err)
		return
	}
	t.bytes += n
	t.done(time.Since(begin))
}

// refusedWorker connects where it must not come through: each unit is one
// attempt, however it is refused.
type refusedWorker struct{ *h1 }

func newRefusedWorker(j *job, n int, c *clients) worker { return &refusedWorker{newH1(j, n, c)} }

func (w *refusedWorker) prepare() error { return nil }

func (w *refusedWorker) unit(t *tally) {
	defer w.close()
	begin := time.Now()
	_, err := w.open()
	if err == nil {
		_, err = w.exchange()
	}
	if err == nil {
		t.fail(errors.New("answer has status 200, want a refusal"))
		return
	}
	t.done(time.Since(begin))
}
