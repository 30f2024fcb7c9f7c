package proxy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/internal/idempotency"
)

// onceRig is a route with keys in front of an application that counts.
type onceRig struct {
	*rig
	calls  atomic.Int32
	gate   chan struct{} // /gate waits for it
	inside chan struct{} // told when a request is at the gate
}

func startOnce(t *testing.T, o Once) *onceRig {
	r := &onceRig{gate: make(chan struct{}), inside: make(chan struct{}, 100)}
	site := proxyTo(t, backend(t, func(w http.ResponseWriter, q *http.Request) {
		n := r.calls.Add(1)
		body, _ := io.ReadAll(q.Body)
		switch q.URL.Path {
		case "/gate":
			r.inside <- struct{}{}
			<-r.gate
		case "/busy":
			w.WriteHeader(503)
			return
		case "/long":
			w.Write(make([]byte, 5000))
			return
		}
		w.Header().Set("X-Call", fmt.Sprint(n))
		w.WriteHeader(201)
		fmt.Fprintf(w, "call %d: %d bytes", n, len(body))
	}))
	if o.Wait == 0 {
		o.Wait = patience
	}
	o.Store, o.Strangers = idempotency.New[StoredAnswer](idempotency.Config{}), idempotency.New[StoredAnswer](idempotency.Config{MaxEntries: 100})
	o.MaxBody, o.MaxAnswer = 1000, 1000
	site.Routes[0].Once = &o
	r.rig = start(t, options{sites: []testSite{site}, limits: quick(patience)})
	return r
}

type onceAnswer struct {
	status   int
	body     string
	call     string
	replayed bool
}

func (r *onceRig) ask(ctx context.Context, c *http.Client, path, body string, fields ...string) (onceAnswer, error) {
	req, err := http.NewRequestWithContext(ctx, "POST", "https://a.test"+path, strings.NewReader(body))
	if err != nil {
		return onceAnswer{}, err
	}
	for i := 0; i+1 < len(fields); i += 2 {
		req.Header.Add(fields[i], fields[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		return onceAnswer{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return onceAnswer{res.StatusCode, string(b), res.Header.Get("X-Call"), res.Header.Get("Idempotency-Replayed") == "true"}, err
}

func (r *onceRig) want(c *http.Client, path, body string, want onceAnswer, fields ...string) {
	r.t.Helper()
	got, err := r.ask(r.t.Context(), c, path, body, fields...)
	if err != nil || got.status != want.status || want.body != "" && got != want {
		r.t.Errorf("%s %q %q: got %+v, %v, want %+v", path, body, fields, got, err, want)
	}
}

const idem = "Idempotency-Key"

func eachProtocol(t *testing.T, f func(t *testing.T, h2 bool)) {
	for _, h2 := range []bool{false, true} {
		t.Run(map[bool]string{false: "h1", true: "h2"}[h2], func(t *testing.T) { f(t, h2) })
	}
}

func TestOnce(t *testing.T) {
	eachProtocol(t, func(t *testing.T, h2 bool) {
		r := startOnce(t, Once{})
		c := r.httpClient(h2)
		first := onceAnswer{201, "call 1: 5 bytes", "1", false}
		again := onceAnswer{201, "call 1: 5 bytes", "1", true}
		r.want(c, "/", "order", first, idem, "k1")
		r.want(c, "/", "order", again, idem, "k1")
		r.want(c, "/", "order", again, idem, `"k1"`) // the same, as RFC 9651 writes it
		r.want(r.httpClient(!h2), "/", "order", again, idem, "k1")

		// Another request, another key, another caller, another route's path.
		r.want(c, "/", "ordex", onceAnswer{status: 422}, idem, "k1")
		r.want(c, "/elsewhere", "order", onceAnswer{status: 422}, idem, "k1")
		r.want(c, "/", "order", onceAnswer{201, "call 2: 5 bytes", "2", false}, idem, "k2")
		r.want(c, "/", "order", onceAnswer{201, "call 3: 5 bytes", "3", false}, idem, "k1", "Authorization", "Bearer other")
		r.want(c, "/", "order", onceAnswer{201, "call 4: 5 bytes", "4", false}, idem, "k1", "Cookie", "session=other")

		// Without a key everything happens each time.
		r.want(c, "/", "order", onceAnswer{201, "call 5: 5 bytes", "5", false})
		r.want(c, "/", "order", onceAnswer{201, "call 6: 5 bytes", "6", false})

		// Keys that are none.
		r.want(c, "/", "order", onceAnswer{status: 400}, idem, "")
		r.want(c, "/", "order", onceAnswer{status: 400}, idem, strings.Repeat("k", 256))
		r.want(c, "/", "order", onceAnswer{status: 400}, idem, "a b")
		r.want(c, "/", "order", onceAnswer{status: 400}, idem, `"a`)
		r.want(c, "/", "order", onceAnswer{status: 400}, idem, "a", idem, "b")

		// What does not settle the matter is not kept; what is too large is
		// refused, or passed on and forgotten.
		before := r.calls.Load()
		r.want(c, "/busy", "order", onceAnswer{status: 503}, idem, "k3")
		r.want(c, "/busy", "order", onceAnswer{status: 503}, idem, "k3")
		r.want(c, "/long", "order", onceAnswer{200, strings.Repeat("\x00", 5000), "", false}, idem, "k4")
		r.want(c, "/long", "order", onceAnswer{200, strings.Repeat("\x00", 5000), "", false}, idem, "k4")
		if n := r.calls.Load() - before; n != 4 {
			t.Errorf("%d calls, want 4", n)
		}
		r.want(c, "/", strings.Repeat("x", 1001), onceAnswer{status: 413}, idem, "k5")
		if n := r.calls.Load() - before; n != 4 {
			t.Errorf("the large request reached the application")
		}
	})
}

func TestOnceRequired(t *testing.T) {
	r := startOnce(t, Once{Required: true})
	c := r.httpClient(true)
	r.want(c, "/", "order", onceAnswer{status: 400})
	res, err := c.Do(request(t, "GET", "https://a.test/", nil))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 201 {
		t.Errorf("GET without a key: %d", res.StatusCode)
	}
}

// Duplicates wait for the first, and the application sees one.
func TestOnceInFlight(t *testing.T) {
	eachProtocol(t, func(t *testing.T, h2 bool) {
		r := startOnce(t, Once{})
		c := r.httpClient(h2)
		answers := make(chan onceAnswer, 10)
		var all sync.WaitGroup
		for range cap(answers) {
			all.Go(func() {
				got, err := r.ask(t.Context(), c, "/gate", "order", idem, "k")
				if err != nil {
					t.Error(err)
				}
				answers <- got
			})
		}
		<-r.inside
		close(r.gate)
		all.Wait()
		close(answers)
		replayed := 0
		for got := range answers {
			if got.body != "call 1: 5 bytes" || got.status != 201 {
				t.Errorf("got %+v", got)
			}
			if got.replayed {
				replayed++
			}
		}
		if r.calls.Load() != 1 || replayed != cap(answers)-1 {
			t.Errorf("%d calls, %d answers replayed", r.calls.Load(), replayed)
		}
	})
}

// A Lambda that lost its patience finds the answer when it comes back.
func TestOnceAfterTheClientLeft(t *testing.T) {
	eachProtocol(t, func(t *testing.T, h2 bool) {
		r := startOnce(t, Once{})
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan error)
		go func() {
			_, err := r.ask(ctx, r.httpClient(h2), "/gate", "order", idem, "k")
			left <- err
		}()
		<-r.inside
		leave()
		if err := <-left; err == nil {
			t.Fatal("it did not leave")
		}
		close(r.gate)
		r.want(r.httpClient(h2), "/gate", "order", onceAnswer{201, "call 1: 5 bytes", "1", true}, idem, "k")
		if r.calls.Load() != 1 {
			t.Errorf("%d calls", r.calls.Load())
		}
	})
}

func TestOnceDoesNotWaitForEver(t *testing.T) {
	r := startOnce(t, Once{Wait: 10 * time.Millisecond})
	c := r.httpClient(true)
	done := make(chan error)
	go func() {
		_, err := r.ask(t.Context(), c, "/gate", "order", idem, "k")
		done <- err
	}()
	<-r.inside
	r.want(c, "/gate", "order", onceAnswer{status: 409}, idem, "k")
	close(r.gate)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The end of the grace cuts what goes on for a client that is gone, as it does
// everything else: nothing that has to be stopped afterwards waits for it.
func TestOnceEndsWithTheServer(t *testing.T) {
	eachProtocol(t, func(t *testing.T, h2 bool) {
		r := startOnce(t, Once{})
		defer close(r.gate)
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			_, err := r.ask(ctx, r.httpClient(h2), "/gate", "order", idem, "k")
			left <- err
		}()
		within(t, "the request", r.inside)
		leave()
		if err := within(t, "the client's end", left); err == nil {
			t.Error("it did not leave")
		}
		over, cut := context.WithCancel(context.Background())
		cut()
		stopped := make(chan int, 1)
		go func() { stopped <- r.shutdown(over) }()
		within(t, "the end of Shutdown", stopped)
	})
}

// However many strangers come with keys, a caller finds its answer.
func TestOnceOfCallersIsTheirs(t *testing.T) {
	site := proxyTo(t, backend(t, hello))
	o := &Once{MaxBody: 1000, MaxAnswer: 1000, Wait: patience}
	o.Store = idempotency.New[StoredAnswer](idempotency.Config{MaxEntries: 2})
	o.Strangers = idempotency.New[StoredAnswer](idempotency.Config{MaxEntries: 2})
	site.Routes[0].Once = o
	r := &onceRig{rig: start(t, options{book: callerBook(t), sites: []testSite{site}, limits: quick(patience)})}
	c := r.httpClient(true)
	r.want(c, "/", "order", onceAnswer{200, "hello", "", false}, idem, "k", "X-Api-Key", ordersKey)
	for i := range 10 {
		r.want(c, "/", "order", onceAnswer{200, "hello", "", false}, idem, fmt.Sprint(i))
	}
	r.want(c, "/", "order", onceAnswer{200, "hello", "", true}, idem, "k", "X-Api-Key", ordersKey)
}
