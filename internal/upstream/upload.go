package upstream

import (
	"errors"
	"io"
	"os"
	"time"
)

// upload is the sending of a body that is not at hand yet. It runs beside the
// reading of the answer, so that an early one is noticed and answers may come
// while the request is still sent.
type upload struct {
	running  bool       // started, and its end not taken from over
	answered bool       // the head of the final answer is there
	over     chan error // gets the one result of each upload; holds it
	run      func()     // link.upload, made once
}

// errStalled: the backend stopped reading the request.
var errStalled = errors.New("no progress sending the request")

// bodyError is an error of WireRequest.More.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// startUpload sends the rest of the body in a goroutine, which Read, finish or
// abandon wait for. Until it is over the read deadline is its to set.
func (l *link) startUpload() {
	l.until, l.untilErr = time.Time{}, nil
	l.setReadBy(time.Time{})
	if l.up.over == nil {
		l.up.over = make(chan error, 1)
		l.up.run = l.upload
	}
	l.up.running, l.up.answered = true, false
	go l.up.run()
}

func (l *link) upload() {
	err := l.sendMore()
	// Whoever waits for an answer begins to count the time now. The deadline
	// is set before the channel tells, so that it never hits what comes after.
	_ = l.base.SetReadDeadline(longAgo)
	l.up.over <- err
}

func (l *link) sendMore() error {
	for {
		p, more := l.q.More()
		if more != nil && more != io.EOF {
			return &bodyError{more}
		}
		if err := l.put(p); err != nil {
			return err
		}
		if more != nil {
			return nil
		}
	}
}

// readBeside reads while the upload is under way. It returns 0, nil when that
// is over.
func (l *link) readBeside(p []byte) (int, error) {
	select {
	case err := <-l.up.over:
		return 0, l.ended(err)
	default:
	}
	n, err := l.nc.Read(p)
	if n > 0 {
		return n, nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, l.ended(<-l.up.over)
	}
	return 0, err
}

// lastBytes is how long a connection whose answer was read to its end waits
// for its upload. An answer to the whole request often overtakes the news that
// the last bytes were written.
const lastBytes = 20 * time.Millisecond

// uploadEnds waits for the end of the upload, but not for a client that is
// slow or a backend that does not read. It reports whether the connection is
// good for another exchange.
func (l *link) uploadEnds() bool {
	select {
	case err := <-l.up.over:
		return l.ended(err) == nil && !l.spoilt
	default:
	}
	timer := time.NewTimer(lastBytes)
	defer timer.Stop()
	select {
	case err := <-l.up.over:
		return l.ended(err) == nil && !l.spoilt
	case <-timer.C:
		return false
	}
}

// ended takes note of the end of the upload. A failed write is no error here:
// the answer may be there, and if it is not, the connection's end is.
func (l *link) ended(err error) error {
	l.up.running = false
	l.readBy = time.Time{}
	if !l.up.answered {
		l.await()
	}
	var bad *bodyError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &bad):
		l.spoilt = true
		l.bad = bad.err
		return bad
	case isTimeout(err):
		l.spoilt = true
		return errStalled
	}
	l.spoilt = true
	return nil
}

// write sends a head, and as much of a body with it as the buffer holds, which
// is free until the answer is read.
func (l *link) write(head, body []byte) error {
	if buf := l.mem.small[:]; len(body) > 0 && len(head) < len(buf) {
		n := copy(buf, head)
		m := copy(buf[n:], body)
		head, body = buf[:n+m], body[m:]
	}
	if err := l.put(head); err != nil {
		return err
	}
	return l.put(body)
}

// put writes p. Beyond the first bytes of a request, which fit the socket
// buffers of any kernel, the write deadline limits the time without progress.
func (l *link) put(p []byte) error {
	stall := l.b.pool.cfg.Response
	for len(p) > 0 {
		q := p[:min(len(p), largeBuffer)]
		if stall > 0 && l.sent+int64(len(q)) > stallFrom {
			if now := time.Now(); l.writeBy.Sub(now) < stall-stall/4 {
				l.writeBy = now.Add(stall)
				_ = l.base.SetWriteDeadline(l.writeBy) // a dead connection shows when it is written to
			}
		}
		n, err := l.nc.Write(q)
		l.sent += int64(n)
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}
