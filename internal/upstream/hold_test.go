package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestHoldRestart restarts the only backend three times under 50 clients: not
// one request fails.
func TestHoldRestart(t *testing.T) {
	addr := deadAddr(t)
	p := newPool(t, Config{Idle: DefaultIdle, Hold: patience}, addr)
	const clients = 50
	var stop atomic.Bool
	var served atomic.Int64
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			for !stop.Load() {
				if i%2 == 0 {
					if w := exchangeWire(t, p, wireRequest("GET", "")); w.err != nil || w.status != 200 {
						t.Errorf("over Wire: %d %v", w.status, w.err)
						return
					}
				} else if _, err := get(p, request(t, "GET", ""), 200, "up"); err != nil {
					t.Errorf("over RoundTrip: %v", err)
					return
				}
				served.Add(1)
			}
		})
	}
	for range 3 {
		eventually(t, "requests to wait", func() bool { return p.holding.Load() == clients })
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "up") })}
		done := make(chan struct{})
		go func() { _ = s.Serve(ln); close(done) }() // ends with Shutdown
		before := served.Load()
		eventually(t, "requests to be served", func() bool { return served.Load() > before+5*clients })
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		<-done
	}
	stop.Store(true)
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "up") })}
	go func() { _ = s.Serve(ln) }() // ends with Close
	wg.Wait()
	_ = s.Close()
	if n := p.holding.Load(); n != 0 {
		t.Errorf("%d are still held", n)
	}
}

// TestHoldEnds: by its time, and by the client, on both ways in.
func TestHoldEnds(t *testing.T) {
	t.Run("time", func(t *testing.T) {
		p := newPool(t, Config{Idle: DefaultIdle, Hold: 120 * time.Millisecond}, deadAddr(t))
		start := time.Now()
		exchangeWire(t, p, wireRequest("GET", "")).fails(t, classDial)
		if d := time.Since(start); d < 120*time.Millisecond || d > patience/2 {
			t.Errorf("after %s", d)
		}
	})
	t.Run("client of Wire", func(t *testing.T) {
		p := newPool(t, Config{Idle: DefaultIdle, Hold: time.Hour}, deadAddr(t))
		q := wireRequest("GET", "")
		stopped := false
		q.Watch = func(cancel func()) func() {
			cancel()
			return func() { stopped = true }
		}
		var res WireResponse
		err := p.Wire(context.Background(), q, &res, nil)
		if Class(err) != classCanceled || !stopped || p.holding.Load() != 0 {
			t.Errorf("got %v, watch ended %t, %d held", err, stopped, p.holding.Load())
		}
	})
	t.Run("client of RoundTrip", func(t *testing.T) {
		p := newPool(t, Config{Idle: DefaultIdle, Hold: time.Hour}, deadAddr(t))
		ctx, cancel := context.WithCancel(context.Background())
		result := make(chan error, 1)
		go func() { // ends with cancel
			_, err := p.RoundTrip(request(t, "GET", "").WithContext(ctx))
			result <- err
		}()
		eventually(t, "the request to wait", func() bool { return p.holding.Load() == 1 })
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) || p.holding.Load() != 0 {
			t.Errorf("got %v, %d held", err, p.holding.Load())
		}
	})
	t.Run("bound", func(t *testing.T) {
		p := newPool(t, Config{Idle: DefaultIdle, Hold: time.Hour}, deadAddr(t))
		p.holding.Store(maxHeld)
		exchangeWire(t, p, wireRequest("GET", "")).fails(t, classDial)
		if n := p.holding.Load(); n != maxHeld {
			t.Errorf("%d are held", n)
		}
	})
}

// TestHoldWatchesOnce: the client's connection has one reader, also when the
// backend that comes back is slow.
func TestHoldWatchesOnce(t *testing.T) {
	addr := deadAddr(t)
	p := newPool(t, Config{Idle: DefaultIdle, Hold: patience}, addr)
	var watching, most, times atomic.Int32
	release := make(chan struct{})
	q := wireRequest("GET", "")
	q.Watch = func(func()) func() {
		n := watching.Add(1)
		most.Store(max(most.Load(), n))
		times.Add(1)
		return func() { watching.Add(-1) }
	}
	result := make(chan error, 1)
	go func() { // ends with release
		var res WireResponse
		err := p.Wire(context.Background(), q, &res, nil)
		if err == nil {
			res.Close()
		}
		result <- err
	}()
	eventually(t, "the request to wait", func() bool { return p.holding.Load() == 1 && watching.Load() == 1 })
	arrived := make(chan struct{})
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-release
		_, _ = io.WriteString(w, "up")
	})}
	go func() { _ = s.Serve(ln) }() // ends with Close
	defer s.Close()
	<-arrived
	eventually(t, "another watch", func() bool { return times.Load() > 1 })
	close(release)
	if err := <-result; err != nil {
		t.Error(err)
	}
	if n := most.Load(); n != 1 || watching.Load() != 0 {
		t.Errorf("%d watched the client at once, %d still do", n, watching.Load())
	}
}
