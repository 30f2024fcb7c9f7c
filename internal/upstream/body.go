package upstream

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// replayLimit is how much of a request body is kept so that it can be sent
// again, in bytes.
const replayLimit = 64 << 10

// replayBody lets several attempts read one request body, one after the other.
// What has been read is kept up to replayLimit. A read that an abandoned
// attempt still has under way is not lost: its bytes are kept too.
type replayBody struct {
	src  io.ReadCloser
	size int // expected length, a hint; 0 unknown

	readMu sync.Mutex // held while src is read; taken before mu

	mu      sync.Mutex
	kept    []byte // the first len(kept) bytes of the body
	keeping bool   // kept is all that has been read, and grows
	total   int    // bytes read from src; only counted while they can be replayed
	err     error  // how src ended; io.EOF is a good end
	current *bodyReader
	settled bool // no further attempt: the reader's Close closes src
	closed  bool
}

// newReplayBody returns nil for a request without a body.
func newReplayBody(r *http.Request) *replayBody {
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	b := &replayBody{src: r.Body, keeping: r.ContentLength <= replayLimit}
	if r.ContentLength > 0 && b.keeping {
		b.size = int(r.ContentLength)
	}
	return b
}

// bodyReader is the body as one attempt sees it.
type bodyReader struct {
	b      *replayBody
	off    int
	closed bool
}

// attempt returns the body from its beginning and cuts off the reader before.
// resend says whether there may be another attempt after this one.
func (b *replayBody) attempt(resend bool) io.ReadCloser {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !resend {
		b.keeping = false
	}
	b.current = &bodyReader{b: b}
	return b.current
}

// replayable reports whether another attempt would see the whole body.
func (b *replayBody) replayable() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.keeping || b.total == 0
}

// broke returns the error that reading the client's body ended with, if it was
// a bad one.
func (b *replayBody) broke() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == io.EOF {
		return nil
	}
	return b.err
}

// settle ends the attempts: the last one has its response. src is closed when
// that attempt closes its reader.
func (b *replayBody) settle() {
	if b == nil {
		return
	}
	b.mu.Lock()
	b.settled, b.keeping = true, false
	done := b.current == nil || b.current.closed
	b.mu.Unlock()
	if done {
		b.close()
	}
}

// close closes src, once.
func (b *replayBody) close() {
	if b == nil {
		return
	}
	b.mu.Lock()
	was := b.closed
	b.closed = true
	b.current = nil
	b.mu.Unlock()
	if !was {
		_ = b.src.Close() // a client's body that does not close well changes nothing for the backend
	}
}

func (r *bodyReader) Read(p []byte) (int, error) {
	if n, err, done := r.again(p); done {
		return n, err
	}
	b := r.b
	b.readMu.Lock()
	defer b.readMu.Unlock()
	// Another attempt's read may have ended while we waited for it.
	if n, err, done := r.again(p); done {
		return n, err
	}
	n, err := b.src.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.total += n
	r.off += n
	if b.keeping && len(b.kept)+n > replayLimit {
		b.keeping, b.kept = false, nil
	}
	if b.keeping && n > 0 {
		if b.kept == nil {
			b.kept = make([]byte, 0, max(n, b.size))
		}
		b.kept = append(b.kept, p[:n]...)
	}
	if err != nil {
		b.err = err
	}
	return n, err
}

// again reads from what has been kept; done means there is no need to ask src.
func (r *bodyReader) again(p []byte) (n int, err error, done bool) {
	b := r.b
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case r.closed, b.current != r:
		return 0, http.ErrBodyReadAfterClose, true
	case r.off < len(b.kept):
		n = copy(p, b.kept[r.off:])
		r.off += n
		return n, nil, true
	case r.off < b.total:
		return 0, errLeftovers, true
	case b.err != nil:
		return 0, b.err, true
	}
	if !b.keeping {
		b.kept = nil
	}
	return 0, nil, false
}

func (r *bodyReader) Close() error {
	b := r.b
	b.mu.Lock()
	r.closed = true
	last := b.settled && b.current == r
	b.mu.Unlock()
	if last {
		b.close()
	}
	return nil
}

// responseBody gives the connection back when the response is read to its end
// or closed.
type responseBody struct {
	io.ReadCloser
	conn *conn
	done atomic.Bool
}

func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.release()
	}
	return n, err
}

func (b *responseBody) Close() error {
	err := b.ReadCloser.Close()
	b.release()
	return err
}

func (b *responseBody) release() {
	if !b.done.Swap(true) {
		b.conn.release()
	}
}
