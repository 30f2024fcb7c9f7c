package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"postern/internal/http1"
)

// held is a backend that answers when told to.
func held(t testing.TB, answers chan string) (addr string) {
	done := make(chan struct{})
	addr = rawServer(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		for {
			if _, _, err := readRequest(br); err != nil {
				return
			}
			for s := ""; s != "."; {
				select {
				case s = <-answers:
					if s != "." {
						_, _ = io.WriteString(c, s)
					}
				case <-done:
					return
				}
			}
		}
	})
	t.Cleanup(func() { close(done) }) // runs before the server's, which waits
	return addr
}

func TestWireTimeouts(t *testing.T) {
	const limit = 30 * time.Millisecond
	quietAddr := held(t, make(chan string))
	t.Run("response", func(t *testing.T) {
		p := newPool(t, Config{Idle: patience, Response: limit}, quietAddr)
		w := exchangeWire(t, p, wireRequest("GET", ""))
		var e *TimeoutError
		if !errors.As(w.err, &e) || e.Phase != "response" || e.After != limit || w.trace.Attempts != 1 {
			t.Errorf("got %v, %+v", w.err, w.trace)
		}
	})
	t.Run("response, beyond the first wait", func(t *testing.T) {
		p := newPool(t, Config{Idle: patience, Response: 3 * quick}, quietAddr)
		start := time.Now()
		exchangeWire(t, p, wireRequest("GET", "")).fails(t, classRespTime)
		if d := time.Since(start); d < 3*quick {
			t.Errorf("after %s", d)
		}
	})
	t.Run("response, after an upload", func(t *testing.T) {
		p := newPool(t, Config{Idle: patience, Response: limit}, quietAddr)
		q := wireRequest("POST", "body")
		q.More, q.Body = slices2more(q.Body), nil
		exchangeWire(t, p, q).fails(t, classRespTime)
	})
	t.Run("informational responses do not prolong it", func(t *testing.T) {
		addr := rawServer(t, func(c net.Conn) {
			tick := time.NewTicker(limit / 3)
			defer tick.Stop()
			for range tick.C {
				if _, err := io.WriteString(c, "HTTP/1.1 102 Processing\r\n\r\n"); err != nil {
					return
				}
			}
		})
		exchangeWire(t, newPool(t, Config{Response: limit}, addr), wireRequest("GET", "")).fails(t, classRespTime)
	})
	t.Run("deadline", func(t *testing.T) {
		p := newPool(t, Config{Idle: patience}, quietAddr)
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		var res WireResponse
		if err := p.Wire(ctx, wireRequest("GET", ""), &res, nil); Class(err) != classDeadline {
			t.Errorf("got %v", err)
		}
	})
	t.Run("canceled before", func(t *testing.T) {
		p := newPool(t, Config{Idle: patience}, quietAddr)
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(errors.New("going down"))
		var res WireResponse
		if err := p.Wire(ctx, wireRequest("GET", ""), &res, nil); Class(err) != classCanceled || !strings.Contains(err.Error(), "going down") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("canceled while waiting", func(t *testing.T) {
		p := newPool(t, Config{Idle: patience}, quietAddr)
		ctx, cancel := context.WithCancel(context.Background())
		q := wireRequest("GET", "")
		q.Watch = func(func()) func() { cancel(); return func() {} }
		var res WireResponse
		if err := p.Wire(ctx, q, &res, nil); Class(err) != classCanceled {
			t.Errorf("got %v", err)
		}
	})
	t.Run("send", func(t *testing.T) {
		done := make(chan struct{})
		defer close(done)
		p := newPool(t, Config{Response: limit}, rawServer(t, func(net.Conn) { <-done }))
		for _, more := range []bool{false, true} {
			q := wireRequest("POST", strings.Repeat("x", 32<<20))
			if more {
				q.More, q.Body = slices2more(q.Body), nil
			}
			w := exchangeWire(t, p, q)
			var e *TimeoutError
			if !errors.As(w.err, &e) || e.Phase != "send" {
				t.Errorf("more %t: got %v", more, w.err)
			}
		}
	})
}

// Something that is no answer is not waited out.
func TestWireStrangeBackend(t *testing.T) {
	answers := make(chan string, 1)
	p := newPool(t, Config{Idle: patience}, held(t, answers))
	answers <- "SSH-2.0-OpenSSH_9.2\r\n"
	exchangeWire(t, p, wireRequest("GET", "")).fails(t, classGarbled)
}

// watcher counts, and gives up when told to.
type watcher struct {
	started, stopped atomic.Int32
	giveUp           bool
}

func (w *watcher) watch(cancel func()) func() {
	w.started.Add(1)
	if w.giveUp {
		cancel()
	}
	return func() { w.stopped.Add(1) }
}

func TestWireWatch(t *testing.T) {
	answers := make(chan string, 4)
	p := newPool(t, Config{Idle: patience, Response: patience}, held(t, answers))
	ask := func(w *watcher) wired {
		q := wireRequest("GET", "")
		q.Watch = func(cancel func()) func() {
			stop := w.watch(cancel)
			answers <- "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
			if !w.giveUp {
				answers <- "ok"
			}
			answers <- "."
			return stop
		}
		return exchangeWire(t, p, q)
	}
	var fast, slow, gone watcher
	answers <- "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	answers <- "."
	ask(&fast).want(t, 200, "ok")
	if fast.started.Load() != 0 {
		t.Error("watched although the answer was there")
	}
	ask(&slow).want(t, 200, "ok")
	if slow.started.Load() != 1 || slow.stopped.Load() != 1 {
		t.Errorf("watched %d times, stopped %d", slow.started.Load(), slow.stopped.Load())
	}
	gone.giveUp = true
	start := time.Now()
	ask(&gone).fails(t, classCanceled)
	if d := time.Since(start); gone.stopped.Load() != 1 || d < quick || d > patience/2 {
		t.Errorf("given up after %s, stopped %d", d, gone.stopped.Load())
	}
	if len(p.backends[0].links.list) != 0 {
		t.Error("the connection was kept")
	}
}

// A body that pauses is watched like a head, and has no limit.
func TestWireWatchesBody(t *testing.T) {
	answers := make(chan string, 4)
	p := newPool(t, Config{Idle: patience, Response: 20 * time.Millisecond}, held(t, answers))
	answers <- "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
	var w watcher
	q := wireRequest("GET", "")
	q.Watch = func(cancel func()) func() {
		stop := w.watch(cancel)
		answers <- "1\r\nb\r\n0\r\n\r\n"
		answers <- "."
		return stop
	}
	exchangeWire(t, p, q).want(t, 200, "ab")
	if w.started.Load() != 1 || w.stopped.Load() != 1 {
		t.Errorf("watched %d times, stopped %d", w.started.Load(), w.stopped.Load())
	}
	w.giveUp = true
	answers <- "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
	q.Watch = w.watch
	got := exchangeWire(t, p, q)
	if got.fails(t, classCanceled); got.status != 200 || got.body != "a" {
		t.Errorf("got %d %q", got.status, got.body)
	}
	answers <- "."
}

func TestWireInformational(t *testing.T) {
	s := &script{steps: []step{
		say("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + okEmpty),
		say("HTTP/1.1 103 Early Hints\r\n\r\n" + okEmpty),
		say("HTTP/1.1 103 Early Hints\r\n\r\n" + okEmpty),
	}}
	p := newPool(t, Config{}, rawServer(t, s.handle))
	var got []string
	q := wireRequest("GET", "")
	q.Informational = func(r *http1.Response) error {
		for _, f := range r.Fields {
			got = append(got, string(f.Key)+"="+string(f.Value))
		}
		got = append(got, http.StatusText(r.Status))
		return nil
	}
	exchangeWire(t, p, q).want(t, 200, "")
	if strings.Join(got, " ") != "Link=</a> Early Hints Processing" {
		t.Errorf("got %q", got)
	}
	q.Informational = nil
	exchangeWire(t, p, q).want(t, 200, "")
	q.Informational = func(*http1.Response) error { return os.ErrClosed }
	exchangeWire(t, p, q).fails(t, classCanceled)
}
