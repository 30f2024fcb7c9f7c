package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Why a request was tried again; metric labels.
const (
	retryDial    = "dial"    // the backend could not be reached, another was
	retryStale   = "stale"   // the pooled connection had died
	retryRefused = "refused" // the backend had not begun
)

// maxRefused bounds how often a backend may refuse one request.
const maxRefused = 3

// trip is one request on its way through the backends, whatever carries it.
type trip struct {
	p       *Pool
	ctx     context.Context // of this one request
	via     carrier
	tr      *Trace
	turn    uint64
	key     uint64 // for balancing by Hash
	tried   []bool // backends that are not to be tried now; nil while there are none
	want    want
	resends int
	tries   int // attempts whose requests may have reached a backend
	start   time.Time
	until   time.Time // when the client stops waiting for the head of the answer; zero: it does not say
	total   time.Time // when the time of all tries is over; zero: there is no such limit, or nothing was sent yet
	wait    waiting
}

// carrier makes the attempts of one trip, one after the other: by net/http
// (roundTrip) or on our own connections (wireTrip).
type carrier interface {
	// open gets a connection to b, from its pool or a new one. Its errors are
	// dialError's or the context's.
	open(ctx context.Context, b *backend, w want) error

	// send makes one attempt on the connection of open. by is when the time
	// of all tries is over; zero: there is no such limit.
	send(ctx context.Context, by time.Time) exchange

	// replayable reports whether another attempt would see the whole body.
	replayable() bool

	// idempotent reports whether the method may be repeated.
	idempotent() bool

	// status is the answer's, after a good send.
	status() int

	// drop lets go of an answer that is not passed on.
	drop()

	// watch has the client watched while nothing is sent, until stop is
	// called; cancel may be called when it is gone.
	watch(cancel func()) (stop func())

	// broke returns the error that reading the client's body ended with.
	broke() error
}

// exchange is what came of one request on one connection.
type exchange struct {
	err      error
	late     string // the phase of a TimeoutError, if the error is one
	reused   bool   // the connection had carried a request before
	answered bool   // a byte of an answer arrived, be it of a 1xx response
	unsent   bool   // the request was refused before it was sent, and the connection is as good as before
	lost     bool   // the connection ended, not just one stream of it
	refused  bool   // the backend said that it had not begun
}

// roundTrip carries a request by net/http.
type roundTrip struct {
	r    *http.Request
	body *replayBody // nil without a body
	conn *conn       // of the last attempt
	resp *http.Response
}

func (v *roundTrip) open(ctx context.Context, b *backend, w want) (err error) {
	if b.h2c && w.h1 {
		return &RequestError{Target: b.text, Err: errUpgradeOverH2}
	}
	w.not = v.conn
	v.conn, err = b.get(ctx, w)
	return err
}

func (v *roundTrip) send(_ context.Context, by time.Time) (x exchange) {
	if by.IsZero() {
		v.resp, x = v.conn.send(v.r, v.body)
		return x
	}
	// The answer's body lives in this context, too: it has no deadline, and
	// ends with the request's.
	ctx, cancel := context.WithCancel(v.r.Context())
	timer := time.AfterFunc(time.Until(by), cancel)
	v.resp, x = v.conn.send(v.r.WithContext(ctx), v.body)
	if timer.Stop() {
		return x
	}
	if x.err == nil {
		_ = v.resp.Body.Close() // it came too late
		v.resp = nil
	}
	x.err, x.late = errResponse, "response"
	return x
}

func (v *roundTrip) replayable() bool { return v.body.replayable() }
func (v *roundTrip) broke() error     { return v.body.broke() }
func (v *roundTrip) status() int      { return v.resp.StatusCode }
func (v *roundTrip) idempotent() bool {
	repeatable, _ := v.r.Context().Value(repeatKey{}).(bool)
	return repeatable || idempotent(v.r.Method)
}

type (
	repeatKey struct{}
	untilKey  struct{}
)

// WithUntil returns a context that tells RoundTrip when the client stops
// waiting for the head of the answer: later than that, the answer is a
// TimeoutError. The body has no such limit.
func WithUntil(ctx context.Context, t time.Time) context.Context {
	return context.WithValue(ctx, untilKey{}, t)
}

// WithRepeatable returns a context that says of a request what its method does
// not: that it may be repeated, because the application, told by an
// Idempotency-Key, takes it for the same.
func WithRepeatable(ctx context.Context) context.Context {
	return context.WithValue(ctx, repeatKey{}, true)
}

func (v *roundTrip) drop() {
	_, _ = io.CopyN(io.Discard, v.resp.Body, 4<<10) // a short one to its end, so that the connection is kept
	_ = v.resp.Body.Close()                         // nobody wants the rest
	v.resp = nil
}

// RoundTrip sends r to one of the backends and returns the response, as
// http.RoundTripper asks. It does not change r, and closes r.Body in any case,
// perhaps after it returned: a server's handler must not rely on the body
// being unused before it closed it.
//
// It sends r.URL's path and query (see SetTarget), r.Method, r.Header, r.Body,
// r.Trailer, and r.Host as Host or :authority. Scheme, address and r.Close are
// ignored. Nothing is added to the header fields but the framing; without
// User-Agent field net/http adds its own (an empty value keeps it out). Hop by
// hop fields are the caller's work, but Connection and Upgrade belong there
// for an upgrade; its response is 101 and has an io.ReadWriteCloser as Body.
// As in net/http, ContentLength 0 with a Body means an unknown length.
//
// Informational responses go to httptrace's Got1xxResponse in r's context.
//
// Errors are *DownError (503), *DialError and *ResponseError (502),
// *TimeoutError (504), *RequestError, or wrap the context's own error when the
// client is gone; Class names them all.
func (p *Pool) RoundTrip(r *http.Request) (*http.Response, error) {
	start := time.Now()
	v := &roundTrip{r: r, body: newReplayBody(r)}
	t := trip{p: p, ctx: r.Context(), start: start, via: v, tr: traceOf(r.Context()), turn: p.turn.Add(1) - 1}
	if p.cfg.Balance == Hash {
		t.key = keyOf(r.Context())
	}
	t.until, _ = r.Context().Value(untilKey{}).(time.Time)
	t.want.h1 = len(r.Header["Upgrade"]) > 0
	// A body that does not fit the replay buffer must not meet a connection
	// that the backend is just closing.
	t.want.fresh = v.body != nil && (r.ContentLength <= 0 || r.ContentLength > replayLimit)
	if err := t.run(); err != nil {
		if r.Body != nil && v.body == nil {
			_ = r.Body.Close() // http.NoBody
		}
		v.body.close()
		return nil, err
	}
	v.body.settle()
	t.tr.FirstByte = time.Since(start)
	v.resp.Request = r
	return v.resp, nil
}

// run goes from backend to backend until one answers.
func (t *trip) run() error {
	if t.p.cfg.Retry != nil {
		t.p.budget.earn(t.p.cfg.Retry.Budget)
	}
	err := t.backends()
	t.wait.end(t.p)
	return err
}

func (t *trip) backends() error {
	var last error
	sent := false // last came of a request that was sent
	for {
		i, probe, ok := t.p.pick(t)
		if !ok && sent && t.tried != nil {
			t.tried, sent = nil, false // once more the one that there is
			continue
		}
		if !ok {
			begin := time.Now()
			wait, err := t.hold()
			if !t.total.IsZero() {
				t.total = t.total.Add(time.Since(begin))
			}
			switch {
			case err != nil:
				return fmt.Errorf("request given up while no backend was up: %w", err)
			case wait:
				t.tried = nil
				continue
			case last == nil:
				return t.p.downError()
			}
			return last
		}
		if last != nil && t.tried != nil && !sent {
			t.p.cfg.Metrics.retry(retryDial)
		}
		tries := t.tries
		next, err := t.on(t.p.backends[i], probe)
		if !next {
			return err
		}
		last, sent = err, t.tries > tries
		if t.tried == nil {
			t.tried = make([]bool, len(t.p.backends))
		}
		t.tried[i] = true
	}
}

// on tries one backend. next means that another may be tried.
func (t *trip) on(b *backend, probe bool) (next bool, err error) {
	if probe {
		defer t.p.abandoned(b) // does nothing if something was found out
	}
	for {
		t.tr.Target = b.text
		t.tr.Attempts++
		if err := t.open(b); err != nil {
			return t.notReached(b, err)
		}
		x := t.via.send(t.ctx, t.limit())
		t.tr.Reused = x.reused
		if !x.reused || x.err == nil {
			t.p.reached(b)
		}
		if x.err == nil {
			return t.answered(b)
		}
		err = t.failure(b, x)
		t.p.cfg.Metrics.attempt(b.text, Class(err))
		reason := resend(facts{
			final:      !isResponseError(err),
			answered:   x.answered,
			reused:     x.reused,
			broken:     x.lost,
			refused:    x.refused,
			replayable: t.via.replayable(),
			resends:    t.resends,
		})
		if reason == "" {
			return t.failed(b, x, err)
		}
		t.resends++
		t.tr.Retried = true
		t.want.fresh = true
		t.p.cfg.Metrics.retry(reason)
	}
}

// end is when the time for the whole request is over, for backends and client
// together; zero: never.
func (t *trip) end() time.Time { return sooner(t.total, t.until) }

// sooner is the earlier of two times; zero stands for never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// open gets a connection to b, in the time that is left.
func (t *trip) open(b *backend) error {
	end := t.end()
	if end.IsZero() {
		return t.via.open(t.ctx, b, t.want)
	}
	ctx, cancel := context.WithDeadline(t.ctx, end)
	defer cancel()
	return t.via.open(ctx, b, t.want)
}

// limit returns when the time of all tries is over, for the next one; zero for
// the first: its own limit is the shorter one. The time begins here, or when
// the first try is found to have taken all of its own.
func (t *trip) limit() time.Time {
	cfg := &t.p.cfg
	switch {
	case cfg.Try <= 0 || cfg.Response <= 0:
		return t.until
	case t.tries > 0:
		return t.end()
	}
	t.total = time.Now().Add(cfg.Response)
	return t.until
}

// overdue reports whether the time of all tries is over.
func (t *trip) overdue() bool {
	end := t.end()
	return !end.IsZero() && !time.Now().Before(end)
}

// after is the limit that was reached: the client's, or else limit.
func (t *trip) after(limit time.Duration) time.Duration {
	if t.impatient() {
		return t.until.Sub(t.start).Round(time.Millisecond)
	}
	return limit
}

// impatient reports whether it was the client's time that is over, which says
// nothing about a backend.
func (t *trip) impatient() bool { return !t.until.IsZero() && !time.Now().Before(t.until) }

// answered deals with an answer's head.
func (t *trip) answered(b *backend) (next bool, err error) {
	if b.answered != nil {
		b.answered.Inc()
	}
	rule := t.p.cfg.Retry
	if b.breaker == nil && rule == nil {
		return false, nil
	}
	status := t.via.status()
	t.p.judge(b, status >= 500)
	if rule == nil || status < 500 {
		return false, nil
	}
	if !t.again(outcome{class: classOK, status: status, answered: true}) {
		return false, nil
	}
	t.via.drop()
	return true, &ResponseError{Target: b.text, Err: fmt.Errorf("status %d, and no backend to try again", status)}
}

// failed deals with an attempt that came to nothing after its request was
// sent, perhaps in part.
func (t *trip) failed(b *backend, x exchange, err error) (next bool, _ error) {
	if isResponseError(err) || x.late != "" && t.ctx.Err() == nil && !t.impatient() {
		t.p.judge(b, true)
	}
	if t.p.cfg.Retry == nil && t.p.cfg.Hold <= 0 {
		return false, err
	}
	if x.late == "response" && t.tries == 0 && !t.total.IsZero() {
		t.total = time.Now().Add(t.p.cfg.Response - t.p.cfg.Try)
	}
	return t.again(outcome{class: Class(err), answered: x.answered}), err
}

// again decides about a retry, and pays for it.
func (t *trip) again(o outcome) bool {
	t.tries++
	o.idempotent, o.replayable = t.via.idempotent(), t.via.replayable()
	o.tries, o.hold = t.tries, t.p.cfg.Hold > 0
	reason := t.p.cfg.Retry.again(o)
	if reason == "" || t.overdue() {
		return false
	}
	if reason != retryRestart && !t.p.budget.spend() {
		t.p.cfg.Metrics.retry(retryBroke)
		return false
	}
	t.p.cfg.Metrics.retry(reason)
	t.tr.Retried = true
	return true
}

// notReached judges an error of get.
func (t *trip) notReached(b *backend, err error) (next bool, _ error) {
	if e := t.gone(b); e != nil {
		t.p.cfg.Metrics.attempt(b.text, Class(e))
		return false, e
	}
	if t.overdue() { // which says nothing about b
		err = &TimeoutError{Target: b.text, Phase: "response", After: t.after(t.p.cfg.Response), Err: err}
		t.p.cfg.Metrics.attempt(b.text, Class(err))
		return false, err
	}
	t.p.cfg.Metrics.attempt(b.text, Class(err))
	if isRequestError(err) {
		return false, err
	}
	if !isLocal(err) {
		t.p.dialFailed(b, err)
	}
	return true, err
}

// gone returns the error of a request whose client no longer waits.
func (t *trip) gone(b *backend) error {
	ctx := t.ctx
	if ctx.Err() == nil {
		return nil
	}
	if cause := context.Cause(ctx); !errors.Is(cause, ctx.Err()) {
		return fmt.Errorf("%s: request given up: %w: %w", b.text, ctx.Err(), cause)
	}
	return fmt.Errorf("%s: request given up: %w", b.text, ctx.Err())
}

// failure turns what the carrier reported into one of our errors.
func (t *trip) failure(b *backend, x exchange) error {
	if err := t.gone(b); err != nil {
		return err
	}
	if err := t.via.broke(); err != nil {
		return &RequestError{Target: b.text, Err: err}
	}
	switch {
	case errors.Is(x.err, errGivenUp):
		return fmt.Errorf("%s: request given up: %w", b.text, context.Canceled)
	case x.err == context.DeadlineExceeded: // a moment before the context says so
		return fmt.Errorf("%s: request given up: %w", b.text, x.err)
	}
	switch {
	case x.late == "response" && !t.overdue():
		return &TimeoutError{Target: b.text, Phase: x.late, After: t.p.cfg.oneTry(), Err: x.err}
	case x.late != "":
		return &TimeoutError{Target: b.text, Phase: x.late, After: t.after(t.p.cfg.Response), Err: x.err}
	case x.unsent:
		return &RequestError{Target: b.text, Err: x.err}
	}
	return &ResponseError{Target: b.text, Err: x.err}
}

func isRequestError(err error) bool {
	var e *RequestError
	return errors.As(err, &e)
}

func isResponseError(err error) bool {
	var e *ResponseError
	return errors.As(err, &e)
}

// facts is what the rule for sending a request again looks at.
type facts struct {
	final      bool // the client is gone, the time is up, or the request is at fault
	answered   bool // a byte of an answer arrived
	reused     bool // the connection had carried a request before
	broken     bool // the connection ended, not just one stream of it
	refused    bool // the backend said that it had not begun
	replayable bool // the body is still there from its first byte
	resends    int  // so far
}

// resend returns why a failed request may be sent again; "" if it may not.
func resend(f facts) string {
	switch {
	case f.final, f.answered, !f.replayable:
		return ""
	case f.refused && f.resends < maxRefused:
		return retryRefused
	case f.reused && f.broken && f.resends == 0:
		return retryStale
	}
	return ""
}
