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

// clientBody is a request body on its way to the backend. Reading is bounded
// by size, by silence and by a least rate.
type clientBody struct {
	body    io.ReadCloser
	bounded bool
	left    int64 // bytes still allowed, when bounded
	stall   time.Duration

	mu      sync.Mutex
	control *http.ResponseController // guarded by mu; nil: no deadlines, or the exchange is over
	due     time.Time                // guarded by mu; when the read deadline passes
}

func (b *clientBody) Read(p []byte) (int, error) {
	b.allow(0, nil)
	n, err := b.body.Read(p)
	b.allow(n, err)
	if b.bounded {
		if b.left -= int64(n); b.left < 0 {
			return 0, &bodyTooLargeError{}
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = &bodyStalledError{}
	}
	return n, err
}

// allow moves the deadline for n bytes of progress: each buys the time it may
// take at the least rate, up to a full stall period from now. After the last
// byte there is none: a client may wait for its answer in silence.
func (b *clientBody) allow(n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.control == nil {
		return
	}
	if err != nil {
		_ = b.control.SetReadDeadline(time.Time{})
		return
	}
	now := time.Now()
	switch {
	case b.due.IsZero():
		b.due = now.Add(b.stall)
	case n > 0:
		b.due = b.due.Add(time.Duration(n) * time.Second / minBodyRate)
		if limit := now.Add(b.stall); b.due.After(limit) {
			b.due = limit
		}
	default:
		return
	}
	_ = b.control.SetReadDeadline(b.due)
}

// stop ends the deadlines: the backend's side may read on after the exchange,
// when the connection already serves the next request.
func (b *clientBody) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.control = nil
}

func (b *clientBody) Close() error { return b.body.Close() }

// copyBuffers hold what is on its way to a client.
var copyBuffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// copyBody streams a response body. One of unknown length is flushed at each
// piece: it may be an event stream.
func (m *stdMessage) copyBody(x *exchange, res *http.Response) error {
	if x.method == http.MethodHead || res.ContentLength == 0 {
		return nil
	}
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	control := http.NewResponseController(&m.w)
	flush := res.ContentLength < 0
	stream := m.r.ProtoMajor == 2 && x.conn.stall > 0 // on h1 the connection's own write deadline serves
	var due time.Time
	for {
		n, err := res.Body.Read(*buf)
		if n > 0 {
			if stream {
				if now := time.Now(); due.Sub(now) < x.conn.stall-time.Second {
					due = now.Add(x.conn.stall)
					_ = control.SetWriteDeadline(due)
				}
			}
			if _, werr := m.w.Write((*buf)[:n]); werr != nil {
				return werr
			}
			if flush && err == nil {
				if ferr := control.Flush(); ferr != nil {
					return ferr
				}
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
