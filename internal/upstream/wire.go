package upstream

import (
	"bytes"
	"context"
	"errors"
	"net"
	"time"

	"postern/internal/http1"
)

// WireRequest is one HTTP/1.1 request as it goes to a backend, for Pool.Wire.
// It is the caller's, and can be used again when the response is closed, or
// when Wire has returned an error.
type WireRequest struct {
	// Head is the complete head, its empty line included. It is sent as it
	// stands: that it is well-formed and fits the body is the caller's work.
	Head []byte

	// Key is what a pool that balances by Hash goes by.
	Key uint64

	// Until is when the client stops waiting for the head of the answer:
	// later than that, Wire returns a TimeoutError. The body has no such
	// limit. Zero: the client does not say.
	Until time.Time

	// IsHead says that the method is HEAD, whose answers have no body.
	IsHead bool

	// Body are the body's bytes at hand, in the framing that Head tells. It
	// is the complete body if More is nil. A complete body of up to 64 KiB
	// is sent again when a pooled connection turns out to be closed; for any
	// other a new connection is opened.
	Body []byte

	// More returns the next framed bytes behind Body; io.EOF, alone or with
	// the last bytes, ends the body, and any other error is the client's and
	// ends the exchange with a RequestError. The bytes are used until the
	// next call. More runs on a goroutine of its own, one call at a time,
	// until the upload has ended, and never after Wire returned an error or
	// after Close. nil: Body is all.
	More func() ([]byte, error)

	// Abort is called when the rest of More's body is not wanted any more:
	// by Wire before it returns an error, or by Close. It must make the call
	// of More that is under way, and any other, return soon with an error:
	// they are waited for. It is called from Wire's or Close's goroutine, at
	// most once for each attempt. nil: More returns soon in any case.
	Abort func()

	// Expect100 says that Head carries Expect: 100-continue. If Body is empty
	// and More is not nil, More is not called before the backend said 100 or
	// a second passed. After a final answer it is not called at all; the
	// connection is not used again then.
	Expect100 bool

	// Upgrade says that Head asks for another protocol, so that 101 is a good
	// answer (see Takeover).
	Upgrade bool

	// Informational gets each answer of 1xx but 101, 100 included, in the
	// goroutine of Wire; its fields are valid until it returns. An error
	// means that the client is gone and ends the exchange. nil: they are
	// dropped.
	Informational func(*http1.Response) error

	// Watch is called when the backend has been silent for 100 to 200 ms,
	// with the request sent, in Wire or Body: whoever has the client's
	// connection watches it until stop is called, and calls cancel, from any
	// goroutine, when it is gone. stop must wait until cancel is not called
	// any more. A cancelled exchange ends with an error of class "canceled".
	// Watch is not called while More's upload lasts: More sees the client
	// go. nil: nobody watches.
	Watch func(cancel func()) (stop func())
}

// WireResponse is the answer to a WireRequest. It belongs to the caller, for
// one goroutine, and must be closed unless Wire returned an error. It may be
// used again for another request afterwards, which saves its allocations.
type WireResponse struct {
	// Response is the parsed head. It lies in the connection's buffer: valid
	// until the first call of Body, Takeover or Close.
	http1.Response

	via wireTrip
}

// wireTrip carries a request on our own connections.
type wireTrip struct {
	q     *WireRequest
	head  *http1.Response
	link  *link // of the last attempt; nil when it was given back
	bad   error // what reading the client's body ended with
	trace Trace // for callers without one
}

func (v *wireTrip) open(ctx context.Context, b *backend, w want) (err error) {
	if b.h2c {
		return &RequestError{Target: b.text, Err: errWireOverH2}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	v.link, err = b.link(ctx, w)
	return err
}

func (v *wireTrip) send(ctx context.Context, by time.Time) exchange {
	l := v.link
	x := l.send(ctx, by, v.q, v.head)
	if x.err != nil {
		if x.reused && !x.answered && responseClass(x.err) != classGarbled && x.late == "" {
			l.b.foundClosed(l.idle)
		}
		v.bad, v.link = l.bad, nil
		l.abandon()
	}
	return x
}

func (v *wireTrip) replayable() bool {
	return v.q.More == nil && len(v.q.Body) <= replayLimit
}

func (v *wireTrip) broke() error { return v.bad }
func (v *wireTrip) status() int  { return v.head.Status }

func (v *wireTrip) idempotent() bool {
	method, _, _ := bytes.Cut(v.q.Head, []byte(" "))
	return idempotent(string(method))
}

// drop ends the exchange of an answer that is not passed on.
func (v *wireTrip) drop() {
	l := v.link
	v.link = nil
	_, _ = l.in.BufferedBody() // a short one may be here to its end
	l.finish()
}

// Wire sends q to one of the backends and returns when the head of the answer
// is there, in res. The rest is read with res.Body. Backends, health, limits,
// sending again, metrics and errors are RoundTrip's; the idle connections are
// Wire's own.
//
// ctx is for the process going down and for deadlines. It is not looked at
// while the backend answers within 100 ms, and costs nothing then; q.Watch is
// the way to notice that a client is gone. tr is filled in and may be nil.
//
// A warm exchange allocates nothing. Wire starts a goroutine only for q.More,
// and Wire and Close wait for it.
func (p *Pool) Wire(ctx context.Context, q *WireRequest, res *WireResponse, tr *Trace) error {
	start := time.Now()
	v := &res.via
	if tr == nil {
		tr = &v.trace
	}
	*tr = Trace{}
	v.q, v.head, v.link, v.bad = q, &res.Response, nil, nil
	t := trip{p: p, ctx: ctx, start: start, via: v, tr: tr, turn: p.turn.Add(1) - 1, key: q.Key, until: q.Until}
	t.want = want{h1: true, fresh: !v.replayable()}
	err := t.run()
	v.q = nil
	if err != nil {
		return err
	}
	tr.FirstByte = time.Since(start)
	return nil
}

// SpeaksHTTP1 reports whether Wire can be used: no target is h2c. Towards
// https targets Wire offers HTTP/1.1 only.
func (p *Pool) SpeaksHTTP1() bool {
	for _, b := range p.backends {
		if b.h2c {
			return false
		}
	}
	return true
}

// Buffered returns body bytes that are here already, without waiting: nil if
// there are none. They are valid until the next call of a method of r.
func (r *WireResponse) Buffered() ([]byte, error) {
	if r.via.link == nil {
		return nil, errClosed
	}
	return r.via.link.in.BufferedBody()
}

// Done reports whether the body was handed out to its end.
func (r *WireResponse) Done() bool { return r.via.link == nil || r.via.link.in.BodyDone() }

// Body returns the next bytes of the body, decoded from the chunked coding. It
// waits for them if there are none; at the end it returns io.EOF. They are
// valid until the next call of a method of r. A body that breaks off is
// io.ErrUnexpectedEOF or the connection's error; Class sorts it.
func (r *WireResponse) Body() ([]byte, error) {
	if r.via.link == nil {
		return nil, errClosed
	}
	return r.via.link.nextBody()
}

// Trailers are the trailer fields, when Body has returned io.EOF. They are
// valid until Close.
func (r *WireResponse) Trailers() []http1.Field {
	if r.via.link == nil {
		return nil
	}
	return r.via.link.in.Trailers()
}

// Takeover ends HTTP on the connection after a 101 and hands it over, with the
// bytes that have been read from it already. No deadline is set. r is closed
// then, but the connection is the caller's to close. Without a 101 it returns
// nil.
func (r *WireResponse) Takeover() (net.Conn, []byte) {
	l := r.via.link
	if l == nil || r.Status != 101 {
		return nil, nil
	}
	r.via.link = nil
	return l.takeover()
}

// Close ends the exchange. The connection goes back to the pool if the body
// was read to its end and the upload is over, and is closed otherwise. A
// second Close does nothing.
func (r *WireResponse) Close() {
	if l := r.via.link; l != nil {
		r.via.link = nil
		l.finish()
	}
}

var (
	errWireOverH2 = errors.New("the backend was configured as h2c, and the request came for HTTP/1.1")
	errClosed     = errors.New("upstream: response used after Close")
	errNoHTTP     = errors.New("the answer is not HTTP/1.0 or HTTP/1.1")
	errManyInfo   = errors.New("more than 32 informational responses")
	errSwitched   = errors.New("status 101 without a request for an upgrade")
	errResponse   = errors.New("no response in time")
	errContinue   = errors.New("no 100 Continue in time")
	errHeadLong   = errors.New("the head of the answer is longer than 256 KiB")
)
