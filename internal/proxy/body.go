package proxy

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// bodyTooLargeError: the client sent more than the route allows.
type bodyTooLargeError struct{}

func (*bodyTooLargeError) Error() string { return "The request body is larger than allowed here." }

// bodyStalledError: the client stopped sending in the middle of a body.
type bodyStalledError struct{}

func (*bodyStalledError) Error() string { return "The request body stopped coming." }

// minBodyRate is what a body must bring to keep its connection beyond the
// first stall period, in bytes per second: enough for the slowest line, far
// more than a slow-loris sends.
const minBodyRate = 500

// bodyLinger is how long a request body that nobody wants is waited for, so
// that its connection can be used again or closed without a reset.
const bodyLinger = time.Second

// clientBody is a request body on its way to the backend. Reading is bounded
// by size, by silence and by a least rate; only the time spent waiting for
// the client counts, not the time the backend takes.
type clientBody struct {
	body    io.ReadCloser
	h1      bool // reading and closing exclude each other, and deadlines pass unseen between reads
	bounded bool
	stall   time.Duration // 0: no deadlines
	hints   *earlyHints   // asks the client for the body before the first read; nil: it does not wait
	trailer http.Header   // the request's own, filled by the engine at the end
	change  *Change       // of the route; its fields are none for a trailer
	over    chan struct{} // closed with the exchange, or when nobody wants the body

	// Used by the reading side alone.
	left   int64         // bytes still allowed, when bounded
	budget time.Duration // how long the client may still keep us waiting

	mu       sync.Mutex
	control  *http.ResponseController // guarded by mu; nil: the exchange is over
	idle     sync.Cond                // on mu; reading has become false
	reading  bool                     // guarded by mu
	closed   bool                     // guarded by mu; nobody wants the rest
	done     bool                     // guarded by mu; read to its end
	released bool                     // guarded by mu; over is closed
	came     int64                    // guarded by mu; bytes that were read
	err      error                    // guarded by mu; why it ended otherwise
}

func (b *clientBody) Read(p []byte) (int, error) {
	if b.hints != nil {
		if !b.hints.awaitBody(b.over) {
			return 0, http.ErrBodyReadAfterClose
		}
		b.hints = nil
	}
	start := time.Now()
	if !b.begin(start) {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.body.Read(p)
	return b.end(n, err, start)
}

// begin arms the deadline of one read.
func (b *clientBody) begin(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.reading = true
	if b.control != nil && b.stall > 0 {
		_ = b.control.SetReadDeadline(now.Add(b.budget))
	}
	return true
}

// end takes stock: each byte buys the time it may take at the least rate, up
// to a full stall period. After the last one there is no deadline: a client
// may wait for its answer in silence.
func (b *clientBody) end(n int, err error, start time.Time) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = false
	b.came += int64(n)
	b.idle.Broadcast()
	b.budget = min(b.budget-time.Since(start)+time.Duration(n)*time.Second/minBodyRate, b.stall)
	if b.control != nil && b.stall > 0 && !b.closed && (err != nil || !b.h1) {
		_ = b.control.SetReadDeadline(time.Time{})
	}
	if b.bounded {
		if b.left -= int64(n); b.left < 0 {
			n, err = 0, &bodyTooLargeError{}
		}
	}
	switch {
	case err == nil:
		return n, nil
	case err == io.EOF:
		b.done = true
		cleanTrailer(b.trailer)
		b.change.strip(b.trailer)
		return n, err
	case b.closed:
		return n, http.ErrBodyReadAfterClose
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = &bodyStalledError{}
	}
	b.err = err
	return n, err
}

// finished reports whether the body was read to its end.
func (b *clientBody) finished() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.done
}

// unwanted reports whether reading was ended from our side on HTTP/1.1.
func (b *clientBody) unwanted() bool {
	if b == nil || !b.h1 {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed && !b.done
}

// failure is why the body broke off; nil if it did not, or b is nil. gone says
// that the request's context is over, which on HTTP/1.1 may be net/http's
// reaction to the very read that is about to fail.
func (b *clientBody) failure(gone bool) error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for gone && b.h1 && b.reading {
		b.idle.Wait()
	}
	return b.err
}

// stop ends the deadlines: the backend's side may read on after the exchange,
// when the connection already serves the next request. What is left of the
// body is not waited for, or only a little.
func (b *clientBody) stop(cut bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.control != nil && b.h1 && !b.done {
		last := time.Now()
		if !cut {
			last = last.Add(bodyLinger)
		}
		_ = b.control.SetReadDeadline(last)
	}
	b.control = nil
	b.release()
}

// release lets go of a read that waits for the backend's word. b.mu is held.
func (b *clientBody) release() {
	if !b.released {
		b.released = true
		close(b.over)
	}
}

// Close ends a read that is under way. On HTTP/1.1 the rest is net/http's to
// read or leave: closing its body would wait for the client.
func (b *clientBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	b.release()
	switch {
	case b.done:
		return nil
	case !b.h1:
		return b.body.Close()
	case b.reading && b.control != nil:
		_ = b.control.SetReadDeadline(past())
	}
	return nil
}

// settleBody prepares the engine for an answer that begins before the request
// body has been read. A short rest of one that nobody wants is read first,
// but not waited for; one that the backend's side may still be reading is left
// alone, and the connection ends with the answer (RFC 9112 section 9.3).
func (m *stdMessage) settleBody() {
	if m.r.ProtoMajor != 1 || m.r.ContentLength == 0 {
		return
	}
	control := http.NewResponseController(m.w.ResponseWriter)
	switch {
	case m.body == nil:
		_ = control.SetReadDeadline(time.Now().Add(bodyLinger))
	case !m.body.finished():
		_ = control.EnableFullDuplex()
		m.w.Header()["Connection"] = []string{"close"}
	}
}

// copyBody streams a response body. One of unknown length is flushed at each
// piece: it may be an event stream.
func (m *stdMessage) copyBody(x *exchange, res *http.Response) error {
	if x.method == http.MethodHead || res.ContentLength == 0 {
		return nil
	}
	buf := x.s.pools.copies.Get().(*[bodyBuffer]byte)
	defer x.s.pools.copies.Put(buf)
	control := http.NewResponseController(&m.w)
	flush := res.ContentLength < 0
	for {
		n, err := res.Body.Read(buf[:])
		if n > 0 {
			m.guardWrites(x)
			if _, werr := m.w.Write(buf[:n]); werr != nil {
				return werr
			}
			if flush && err == nil {
				if ferr := control.Flush(); ferr != nil {
					return ferr
				}
			}
		}
		if err == io.EOF {
			m.guardWrites(x) // what is still buffered goes out when the handler ends
			return nil
		}
		if err != nil {
			return err
		}
		m.unguardWrites()
	}
}

// guardWrites gives the writes of an HTTP/2 or HTTP/3 stream a deadline, for its client
// may leave the window shut; on HTTP/1.1 the connection's own serves. The
// engine resets the stream when it passes, be a write under way or not, so it
// must not stand while we wait for the backend.
func (m *stdMessage) guardWrites(x *exchange) {
	if stall := x.conn.stall; !m.guarded && m.r.ProtoMajor > 1 && stall > 0 {
		m.guarded = true
		_ = http.NewResponseController(m.w.ResponseWriter).SetWriteDeadline(time.Now().Add(stall))
	}
}

func (m *stdMessage) unguardWrites() {
	if m.guarded {
		m.guarded = false
		_ = http.NewResponseController(m.w.ResponseWriter).SetWriteDeadline(time.Time{})
	}
}
