package upstream

import (
	"io"
	"net/http"
	"sync/atomic"
	"testing"
)

func TestRetryRule(t *testing.T) {
	rule := &Retry{Tries: 2, Closed: true, Late: true, Status: []int{503}}
	o := func(change func(*outcome)) outcome {
		o := outcome{class: classClosed, idempotent: true, replayable: true, tries: 1}
		change(&o)
		return o
	}
	for _, tt := range []struct {
		name string
		rule *Retry
		o    outcome
		want string
	}{
		{"closed", rule, o(func(*outcome) {}), retryClosed},
		{"reset", rule, o(func(o *outcome) { o.class = classReset }), retryClosed},
		{"a byte came back", rule, o(func(o *outcome) { o.answered = true }), ""},
		{"late", rule, o(func(o *outcome) { o.class = classRespTime }), retryTimeout},
		{"503", rule, o(func(o *outcome) { o.class, o.status, o.answered = classOK, 503, true }), retryStatus},
		{"500 is not named", rule, o(func(o *outcome) { o.class, o.status = classOK, 500 }), ""},
		{"malformed is not named", rule, o(func(o *outcome) { o.class = classGarbled }), ""},
		{"malformed", &Retry{Tries: 2, Bad: true}, o(func(o *outcome) { o.class = classGarbled }), retryBad},
		{"POST", rule, o(func(o *outcome) { o.idempotent = false }), ""},
		{"POST, all methods", &Retry{Tries: 2, Closed: true, All: true}, o(func(o *outcome) { o.idempotent = false }), retryClosed},
		{"the body is gone", rule, o(func(o *outcome) { o.replayable = false }), ""},
		{"the last try", rule, o(func(o *outcome) { o.tries = 2 }), ""},
		{"the client is gone", rule, o(func(o *outcome) { o.class = classCanceled }), ""},
		{"no rule", nil, o(func(*outcome) {}), ""},
		{"no rule, but hold", nil, o(func(o *outcome) { o.hold = true }), retryRestart},
		{"hold, POST", nil, o(func(o *outcome) { o.hold, o.idempotent = true, false }), ""},
		{"hold, for the fourth time", nil, o(func(o *outcome) { o.hold, o.tries = true, 4 }), ""},
	} {
		if got := tt.rule.again(tt.o); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestRetryOnStatus: another backend answers, over both ways in; a POST gets
// the answer there is.
func TestRetryOnStatus(t *testing.T) {
	bad := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	p := newPool(t, Config{Idle: DefaultIdle, Retry: &Retry{Tries: 2, Budget: 1, Status: []int{503}}}, bad, named(t, "b"))
	for range 4 {
		exchangeWire(t, p, wireRequest("GET", "")).want(t, 200, "b")
		mustGet(t, p, request(t, "GET", ""), 200, "b")
	}
	refused := 0
	for range 4 {
		if exchangeWire(t, p, wireRequest("POST", "x")).status == 503 {
			refused++
		}
	}
	if refused != 2 {
		t.Errorf("%d of 4 POSTs were answered 503, want the half", refused)
	}
}

// TestRetrySameBackend: with one backend, that one is asked again.
func TestRetrySameBackend(t *testing.T) {
	var n atomic.Int64
	p := newPool(t, Config{Idle: DefaultIdle, Retry: &Retry{Tries: 3, Budget: 1, Status: []int{502}}}, serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1)%3 != 0 {
			w.WriteHeader(http.StatusBadGateway)
		}
		_, _ = io.WriteString(w, "a")
	}))
	w := exchangeWire(t, p, wireRequest("GET", "")).want(t, 200, "a")
	if w.trace.Attempts != 3 || !w.trace.Retried {
		t.Errorf("trace %+v", w.trace)
	}
}

// TestRetryBudget: under total failure the backends get little more than the
// requests there are, and the clients get the answer there is.
func TestRetryBudget(t *testing.T) {
	var n atomic.Int64
	bad := func() string {
		return serve(t, func(w http.ResponseWriter, _ *http.Request) {
			n.Add(1)
			w.WriteHeader(http.StatusServiceUnavailable)
		})
	}
	p := newPool(t, Config{Idle: DefaultIdle, Retry: &Retry{Tries: 3, Budget: 0.2, Status: []int{503}}}, bad(), bad())
	const requests = 500
	for range requests {
		exchangeWire(t, p, wireRequest("GET", "")).want(t, 503, "")
	}
	if got := n.Load() - requests; got < requests/5 || got > requests/5+11 {
		t.Errorf("%d retries of %d requests, want a fifth and ten", got, requests)
	}
}
