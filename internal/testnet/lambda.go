package testnet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Lambda is the Runtime API of AWS Lambda
// (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html), from which
// a function in a process of its own takes its invocations. It ends with the
// test. Its methods may be called from several goroutines.
type Lambda struct {
	Addr string // what AWS_LAMBDA_RUNTIME_API is set to

	queue chan *invocation
	stop  chan struct{}

	mu      sync.Mutex
	running map[string]*invocation
}

type invocation struct {
	id, event string
	deadline  time.Time
	result    chan result
}

type result struct {
	body string
	err  error
}

// NewLambda starts a Runtime API.
func NewLambda(t testing.TB) *Lambda {
	t.Helper()
	l := &Lambda{queue: make(chan *invocation, 100), stop: make(chan struct{}), running: map[string]*invocation{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", l.next)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/{kind}", l.done)
	mux.HandleFunc("POST /2018-06-01/runtime/init/error", l.initError)
	s := httptest.NewServer(mux)
	l.Addr = strings.TrimPrefix(s.URL, "http://")
	t.Cleanup(func() {
		close(l.stop)
		s.CloseClientConnections()
		s.Close()
	})
	return l
}

// Queue hands an event to the function, which may be frozen, and returns what
// waits for its result. id is the request id, "" for a new one; limit is the
// time the function is told it has.
func (l *Lambda) Queue(id, event string, limit time.Duration) (wait func(context.Context) (string, error)) {
	if id == "" {
		id = rand.Text()
	}
	v := &invocation{id: id, event: event, deadline: time.Now().Add(limit), result: make(chan result, 1)}
	l.queue <- v
	return func(ctx context.Context) (string, error) {
		select {
		case r := <-v.result:
			return r.body, r.err
		case <-ctx.Done():
			return "", fmt.Errorf("invocation %s: no result: %w", id, ctx.Err())
		}
	}
}

func (l *Lambda) next(w http.ResponseWriter, r *http.Request) {
	select {
	case v := <-l.queue:
		l.mu.Lock()
		l.running[v.id] = v
		l.mu.Unlock()
		h := w.Header()
		h.Set("Lambda-Runtime-Aws-Request-Id", v.id)
		h.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(v.deadline.UnixMilli(), 10))
		h.Set("Lambda-Runtime-Invoked-Function-Arn", AWSFunction)
		h.Set("Lambda-Runtime-Trace-Id", "Root=1-5e1b4151-5ac6c58dc39a6a1c0e2b1c3a;Sampled=0")
		h.Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, v.event) // a runtime that is gone gives no result
	case <-r.Context().Done():
	case <-l.stop:
	}
}

func (l *Lambda) done(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 6<<20)) // Lambda's own limit
	l.mu.Lock()
	v := l.running[r.PathValue("id")]
	delete(l.running, r.PathValue("id"))
	l.mu.Unlock()
	if v == nil || err != nil {
		http.Error(w, `{"errorType":"InvalidRequestID"}`, http.StatusBadRequest)
		return
	}
	out := result{body: string(body)}
	if r.PathValue("kind") != "response" {
		out = result{err: fmt.Errorf("the function failed: %s", body)}
	}
	v.result <- out
	w.WriteHeader(http.StatusAccepted)
}

// initError fails what is queued: the function will never run.
func (l *Lambda) initError(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20)) // what there is of it
	w.WriteHeader(http.StatusAccepted)
	for {
		select {
		case v := <-l.queue:
			v.result <- result{err: errors.New("the function did not start: " + string(body))}
		default:
			return
		}
	}
}
