package h2

import (
	"io"
	"sync"
	"time"
)

// Field is a header field of a request, or a trailer field. The name is in
// lower case; the value has no control characters and no white space at its
// ends.
type Field struct{ Name, Value string }

// Stream is a request and its response. It belongs to the handler that was
// called with it, until that returns; then it is used for another request. A
// handler may read the body on one goroutine and write the response on
// another, if it waits for both before it returns. The other methods are for
// any goroutine of the handler.
type Stream struct {
	// The request, as RFC 9113 section 8.3 makes it well formed. Path is the
	// raw :path: it begins with a slash and has only visible ASCII, no "#",
	// and well-formed percent escapes; "*" with OPTIONS; "" with CONNECT.
	// Authority is :authority or Host, which agree if both came. Scheme is
	// "https" or "http".
	Method    string
	Scheme    string
	Authority string
	Path      string

	// Fields are the others, in the order they came, without Host. There are
	// no connection-specific ones. Cookie crumbs are one field.
	Fields []Field

	// ContentLength is the length of the body: 0 when there is none, -1 when
	// the client did not say. A body of another length is reset.
	ContentLength int64

	c    *Conn
	id   uint32
	cond sync.Cond // L is c.mu; anything below changed

	recvEnd    bool
	unwanted   bool   // StopBody was called
	recvWindow int    // what the client may still send
	credit     int    // consumed and not told yet
	held       int    // counted in the connection's window and not given back
	received   int64  // bytes of the body
	in         []byte // received, not taken yet
	out        []byte // what Next returned
	rest       []byte // of out, for Read
	trailers   []Field

	sentHead   bool
	sentEnd    bool
	bodyless   bool
	sendWindow int64
	length     int64 // of the response's content-length; -1: none
	sent       int64
	head       fieldList

	answered time.Time // the handler returned before the request's end; zero: it has not

	err      error
	done     chan struct{}
	onCancel func()
	calling  bool // onCancel is being called

	readSince, writeSince time.Time // when waiting began; zero: not waiting
	readStall, writeStall time.Duration
}

// newStream returns a Stream for the next request.
func (c *Conn) newStream(id uint32) *Stream {
	st, _ := c.srv.streams.Get().(*Stream)
	if st == nil {
		st = new(Stream)
	}
	st.c, st.id = c, id
	st.cond.L = &c.mu
	st.ContentLength, st.length = -1, -1
	st.recvWindow = c.cfg.StreamWindow
	st.readStall, st.writeStall = c.cfg.StallTimeout, c.cfg.StallTimeout
	c.mu.Lock()
	st.sendWindow = c.streamWindow
	c.mu.Unlock()
	return st
}

// release recycles a Stream nobody uses any more.
func (c *Conn) release(st *Stream) {
	if st.in != nil {
		c.srv.bufs.put(st.in)
	}
	if st.out != nil {
		c.srv.bufs.put(st.out)
	}
	clear(st.Fields)
	fields, head := st.Fields[:0], st.head
	head.reset()
	*st = Stream{Fields: fields, head: head}
	c.srv.streams.Put(st)
}

// Conn returns the connection the request came on.
func (s *Stream) Conn() *Conn { return s.c }

// ID is the stream's number on its connection.
func (s *Stream) ID() uint32 { return s.id }

// SetStall sets how long the request body and the response may stand still,
// as Config.StallTimeout describes. Zero is for ever.
func (s *Stream) SetStall(read, write time.Duration) {
	s.c.mu.Lock()
	s.readStall, s.writeStall = read, write
	s.c.mu.Unlock()
}

// Next returns the next bytes of the request body, as many as have come, and
// waits if none have. The slice is valid until the next call of Next, Read or
// Buffered, which is also what lets the client send as many further bytes. At
// the end it returns io.EOF.
func (s *Stream) Next() ([]byte, error) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s.taken()
	for s.err == nil && len(s.in) == 0 && !s.recvEnd && !s.unwanted {
		if len(c.wbuf) > 0 && !c.writing {
			c.flush()
			continue
		}
		s.wait(&s.readSince, s.readStall)
	}
	s.readSince = time.Time{}
	return s.take()
}

// take returns what has come. mu is held.
func (s *Stream) take() ([]byte, error) {
	switch {
	case s.err != nil:
		return nil, s.err
	case s.unwanted:
		return nil, ErrUnwanted
	case len(s.in) > 0:
		s.in, s.out = s.out, s.in
		return s.out, nil
	case s.recvEnd:
		return nil, io.EOF
	}
	return nil, nil
}

// StopBody makes Next, also one that waits on another goroutine, return
// ErrUnwanted from now on: the rest of the request body is not wanted. The
// response is not touched.
func (s *Stream) StopBody() {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.unwanted = true
	s.cond.Broadcast()
}

// Buffered is Next without waiting: it returns nothing when nothing has come.
func (s *Stream) Buffered() ([]byte, error) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s.taken()
	return s.take()
}

// BodyHere reports whether the whole rest of the body has come: the next call
// of Next or Buffered returns all of it, or io.EOF.
func (s *Stream) BodyHere() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.recvEnd
}

// BodyDone reports whether the body was handed out to its end: nothing came
// behind what Next or Buffered returned last, and nothing will. Bytes that
// come after that call make it false until they are taken too.
func (s *Stream) BodyDone() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.recvEnd && len(s.in) == 0
}

// taken takes back what Next returned last. mu is held.
func (s *Stream) taken() {
	s.rest = nil
	if len(s.out) == 0 {
		return
	}
	before := len(s.c.wbuf)
	s.consume(len(s.out))
	s.out = s.out[:0]
	if len(s.c.wbuf) > before {
		s.c.flush()
	}
}

// Read is the io.Reader over Next.
func (s *Stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(s.rest) == 0 {
		b, err := s.Next()
		if err != nil {
			return 0, err
		}
		s.rest = b
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// Trailers returns the request's trailer fields once Next has returned io.EOF.
func (s *Stream) Trailers() []Field {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.trailers
}

// wait waits for a change, at most as long as stall allows. mu is held.
func (s *Stream) wait(since *time.Time, stall time.Duration) {
	if since.IsZero() && stall > 0 {
		*since = time.Now()
		s.c.arm(stall, *since)
	}
	s.cond.Wait()
}

// stall reports whether waiting since then is too long, and has the timer look
// again if not. mu is held.
func (s *Stream) stall(since time.Time, limit time.Duration, now time.Time) bool {
	if since.IsZero() || limit <= 0 {
		return false
	}
	if now.Sub(since) >= limit {
		return true
	}
	s.c.arm(limit, since)
	return false
}

// consume gives n received bytes back to the windows. mu is held.
func (s *Stream) consume(n int) {
	n = min(n, s.held)
	s.held -= n
	s.c.giveBack(n)
	if s.recvEnd || s.err != nil {
		return
	}
	if s.credit += n; s.credit >= s.c.cfg.StreamWindow/2 {
		s.c.appendWindow(s.id, s.credit)
		s.recvWindow += s.credit
		s.credit = 0
	}
}

// giveBack opens the connection's window again. The client is told when half
// of it is used up. mu is held.
func (c *Conn) giveBack(n int) {
	if c.credit += n; c.credit >= c.cfg.ConnWindow/2 && !c.stopped {
		c.appendWindow(0, c.credit)
		c.recvWindow += c.credit
		c.credit = 0
	}
}

// Done returns a channel that is closed when the client resets the stream, the
// body stalls or the connection ends. OnCancel is cheaper.
func (s *Stream) Done() <-chan struct{} {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.done == nil {
		s.done = make(chan struct{})
		if s.err != nil {
			close(s.done)
		}
	}
	return s.done
}

// Err is why the stream ended early: a *StreamError, ErrStalled, ErrClosed or
// ErrLength; nil while it has not.
func (s *Stream) Err() error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.err
}

// OnCancel has f called when the stream ends as Done describes, at once if it
// has. There is one f at a time; nil takes it away, and when OnCancel has
// returned no earlier f runs. f must not block nor call OnCancel. It is never
// called after the handler has returned.
func (s *Stream) OnCancel(f func()) {
	s.c.mu.Lock()
	for s.calling {
		s.cond.Wait()
	}
	if s.err == nil {
		s.onCancel, f = f, nil
	}
	s.c.mu.Unlock()
	if f != nil {
		f()
	}
}

// Reset ends the stream with an error code, whatever was sent of the response.
func (s *Stream) Reset(code ErrCode) {
	c := s.c
	c.mu.Lock()
	if s.err != nil || s.recvEnd && s.sentEnd {
		c.mu.Unlock()
		return
	}
	c.appendReset(s.id, code)
	f := c.drop(s, &StreamError{Code: code}, byUs)
	c.flush()
	c.mu.Unlock()
	if f != nil {
		f()
	}
}

// drop ends a stream early and returns what to call without mu, which is held;
// nil if nothing is.
func (c *Conn) drop(st *Stream, err error, by closer) func() {
	c.remove(st, by)
	if st.err != nil {
		return nil
	}
	st.err = err
	c.giveBack(st.held)
	st.held = 0
	st.cond.Broadcast()
	if c.waiting > 0 {
		c.space.Broadcast()
	}
	if st.done != nil {
		close(st.done)
	}
	f := st.onCancel
	if f == nil {
		return nil
	}
	st.onCancel, st.calling = nil, true
	return func() {
		f()
		c.mu.Lock()
		st.calling = false
		st.cond.Broadcast()
		c.mu.Unlock()
	}
}

// finished is the regular end of a stream: both sides are done. mu is held.
func (c *Conn) finished(st *Stream) {
	c.remove(st, byClient)
	c.resets.earn(1)
}

// remove takes a stream off the open ones. mu is held.
func (c *Conn) remove(st *Stream, by closer) {
	if c.streams[st.id] != st {
		return
	}
	delete(c.streams, st.id)
	c.gone.add(st.id, by)
	if len(c.streams) == 0 {
		c.idleSince = time.Now()
		c.arm(c.idleTimeout(), c.idleSince)
		c.maybeDone()
	}
}

// drainTime is how long a client may take to notice that its request was
// answered before all of it was sent. Then the stream is reset, as RFC 9113
// section 8.1 allows at once; but curl 7.88 takes a reset that comes together
// with the response for an error.
const drainTime = time.Second

// bury is the end of a stream that was answered early. mu is held.
func (c *Conn) bury(st *Stream, by closer) {
	c.remove(st, by)
	c.release(st)
}

// handled ends a stream whose handler has returned, and returns the next one
// for its goroutine, nil if there is none.
func (c *Conn) handled(st *Stream) *Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	for st.calling {
		st.cond.Wait()
	}
	st.onCancel = nil
	switch {
	case st.err != nil:
	case !st.sentEnd:
		c.appendReset(st.id, InternalError)
		c.drop(st, &StreamError{Code: InternalError}, byUs)
	case !st.recvEnd:
		c.resets.earn(1)
		st.answered = time.Now()
		c.arm(drainTime, st.answered)
	}
	c.giveBack(st.held)
	st.held = 0
	if st.answered.IsZero() {
		c.release(st)
	} // else the reader or the timer buries it, at any moment from here on
	c.flushSoon()
	for len(c.pending) > 0 {
		next := c.pending[0]
		c.pending = append(c.pending[:0], c.pending[1:]...)
		if next.err == nil {
			return next
		}
		c.release(next)
	}
	c.handlers--
	c.maybeDone()
	if c.handlers == 0 {
		c.idle.Broadcast()
	}
	return nil
}
