package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"postern/internal/http1"
)

// link is one HTTP/1.1 connection of Wire. It carries one exchange at a time
// and belongs to its goroutine; idle, it lies on its backend's shelf without a
// buffer.
type link struct {
	b    *backend
	nc   net.Conn
	base net.Conn // below TLS; nc without
	peek *peek    // at base
	in   http1.Stream
	mem  memory
	one  [1]byte       // for looking into the TLS layer
	uses int           // exchanges begun
	idle time.Duration // before this exchange

	// This exchange.
	q      *WireRequest
	ctx    context.Context // a field because Body has none: it is Wire's
	got    int64           // bytes read
	sent   int64           // bytes written
	full   bool            // the last read filled the buffer: more is waiting
	spoilt bool            // the connection cannot carry another exchange
	told   int             // seconds of the answer's Keep-Alive
	bad    error           // what reading the client's body ended with
	by     time.Time       // when the time of all tries is over; zero: no such limit
	up     upload

	// Deadlines; see Read.
	readBy   time.Time // the read deadline that is set; zero: none or unknown
	writeBy  time.Time // the write deadline that is set; zero none
	until    time.Time // when waiting ends; zero never
	untilErr error     // and what it ends with
	givenUp  atomic.Bool
	cancel   func() // giveUp, made once
}

// Within quick, answers cost no look at the clock of the request: a read
// deadline between quick and twice that is kept on the connection, and moved
// only when it comes nearer. It is what calls Watch.
const quick = 100 * time.Millisecond

// longAgo wakes a read.
var longAgo = time.Date(1970, 1, 1, 0, 0, 1, 0, time.UTC)

// link returns a connection for one exchange of Wire, from the pool if one
// will do.
func (b *backend) link(ctx context.Context, w want) (*link, error) {
	for !w.fresh {
		now := time.Now()
		b.mu.Lock()
		l, idle, ok := b.links.take(now, b.limitLocked(now))
		b.mu.Unlock()
		if !ok {
			break
		}
		if l.quiet() {
			l.idle = idle
			return l, nil
		}
		b.foundClosed(idle)
		_ = l.base.Close()
	}
	nc, base, err := b.connect(ctx, b.tlsOne)
	if err != nil {
		return nil, err
	}
	b.pool.cfg.Metrics.opened(b.text)
	b.pool.reached(b)
	l := &link{b: b, nc: nc, base: base, peek: newPeek(base)}
	l.cancel = l.giveUp
	l.in.Reset(l, nil)
	return l, nil
}

// quiet reports whether an idle connection is open with nothing to read: a byte
// would be taken for the beginning of the next answer.
func (l *link) quiet() bool {
	if tc, ok := l.nc.(*tls.Conn); ok {
		below := tc.NetConn().(*pausable)
		below.paused = true
		n, err := tc.Read(l.one[:])
		below.paused = false
		if n > 0 || err != errPaused {
			return false
		}
	}
	return l.peek.quiet()
}

// pausable is the connection below TLS. While it is paused, reading from the
// TLS layer gives what that has read already, or errPaused.
type pausable struct {
	net.Conn
	paused bool // belongs to the goroutine that reads
}

// errPaused is a timeout, which the TLS layer does not take for the end.
var errPaused = os.ErrDeadlineExceeded

func (c *pausable) Read(p []byte) (int, error) {
	if c.paused {
		return 0, errPaused
	}
	return c.Conn.Read(p)
}

// foundClosed learns from a connection that was closed while it was idle.
func (b *backend) foundClosed(idle time.Duration) {
	now := time.Now()
	b.mu.Lock()
	b.keep.closed(b.pool.cfg.Idle, idle, now)
	limit := b.limitLocked(now)
	b.mu.Unlock()
	b.pool.cfg.Metrics.foundClosed(b.text)
	b.pool.cfg.Metrics.idleLimit(b.text, limit)
}

// keepLink puts l on the shelf. It reports false if there is no room for it.
func (b *backend) keepLink(l *link) bool {
	if l.told > 0 {
		now := time.Now()
		b.mu.Lock()
		changed := b.keep.tell(l.told)
		limit := b.limitLocked(now)
		b.mu.Unlock()
		if changed {
			b.pool.cfg.Metrics.idleLimit(b.text, limit)
		}
	}
	return shelve(b, &b.links, l)
}

// Close closes an idle connection in good order.
func (l *link) Close() error { return l.nc.Close() }

// giveUp ends the exchange from another goroutine.
func (l *link) giveUp() {
	l.givenUp.Store(true)
	_ = l.base.SetReadDeadline(longAgo)
}

// begin prepares an exchange.
func (l *link) begin(ctx context.Context, q *WireRequest) {
	l.uses++
	l.b.active.Add(1)
	l.q, l.ctx = q, ctx
	l.got, l.sent, l.full, l.spoilt, l.told, l.bad = 0, 0, false, false, 0, nil
	l.until, l.untilErr = time.Time{}, nil
	if !l.writeBy.IsZero() {
		l.writeBy = time.Time{}
		_ = l.base.SetWriteDeadline(time.Time{}) // a dead connection shows when it is written to
	}
	l.mem.small = l.b.pool.buffers.getSmall()
	l.in.SetBuffer(l.mem.small[:])
}

// send carries one exchange up to the head of the final answer. After an error
// l must be abandoned.
func (l *link) send(ctx context.Context, by time.Time, q *WireRequest, res *http1.Response) (x exchange) {
	x.reused, x.lost = l.uses > 0, true
	l.begin(ctx, q)
	l.by = by
	x.err = l.first()
	for infos := 0; x.err == nil; infos++ {
		var head []byte
		if head, x.err = l.head(); x.err == errContinue {
			x.err = nil
			l.startUpload()
			continue
		}
		if x.err == nil {
			x.err = res.Parse(head, q.IsHead)
		}
		if x.err != nil {
			break
		}
		if res.Status >= 200 || res.Status == 101 {
			x.err = l.final(res)
			break
		}
		x.err = l.informational(res, infos)
	}
	x.answered = l.got > 0
	switch {
	case x.err == errResponse:
		x.late = "response"
	case errors.Is(x.err, errStalled):
		x.late = "send"
	}
	return x
}

// first sends what is at hand, and sees that the rest follows.
func (l *link) first() error {
	q := l.q
	if err := l.write(q.Head, q.Body); err != nil {
		if isTimeout(err) {
			return errStalled
		}
		// A backend that refuses an upload answers and closes: the reading
		// side finds the answer, or the same failure.
		l.spoilt = true
		l.await()
		return nil
	}
	switch {
	case q.More == nil:
		l.await()
	case q.Expect100 && len(q.Body) == 0:
		l.until, l.untilErr = time.Now().Add(time.Second), errContinue
	default:
		l.startUpload()
	}
	return nil
}

// await starts the time that the backend has for its answer.
func (l *link) await() {
	l.until, l.untilErr = l.by, errResponse
	if d := l.b.pool.cfg.oneTry(); d > 0 {
		if end := time.Now().Add(d); l.by.IsZero() || end.Before(l.by) {
			l.until = end
		}
	}
}

// informational deals with an answer before the answer.
func (l *link) informational(res *http1.Response, before int) error {
	if before >= 32 {
		return errManyInfo
	}
	if l.q.Informational != nil {
		if err := l.q.Informational(res); err != nil {
			return errors.Join(errGivenUp, err)
		}
	}
	if res.Status == 100 && l.untilErr == errContinue {
		l.startUpload()
	}
	return nil
}

// final prepares reading the body of the answer.
func (l *link) final(res *http1.Response) error {
	if res.Status == 101 && !l.q.Upgrade {
		return errSwitched
	}
	if l.untilErr == errContinue || res.Status == 101 || !res.Persist {
		l.spoilt = true
	}
	l.told = res.IdleFor
	l.until, l.untilErr = time.Time{}, nil
	l.up.answered = true
	l.in.BeginBody(res.Framing, res.Length)
	return nil
}

// head reads the next head. It is valid until more is read.
func (l *link) head() ([]byte, error) {
	for {
		if head := l.in.ResponseHead(); head != nil {
			return head, nil
		}
		err := l.in.Fill()
		switch {
		case err == http1.ErrTooLong:
			if !l.grow() {
				return nil, errHeadLong
			}
		case err == io.EOF && l.got > 0:
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		case !beginsHTTP(l.in.Unread()):
			return nil, errNoHTTP
		}
	}
}

// beginsHTTP spares waiting for the end of something that is no head.
func beginsHTTP(p []byte) bool {
	const want = "HTTP/1."
	n := min(len(p), len(want))
	return string(p[:n]) == want[:n]
}

// nextBody returns the next bytes of the answer's body.
func (l *link) nextBody() ([]byte, error) {
	if l.full && l.in.Buffered() == 0 && !l.in.BodyDone() {
		l.enlarge()
	}
	return l.in.Body()
}

// finish ends an exchange whose answer was good.
func (l *link) finish() {
	good := !l.spoilt && l.in.BodyDone() && l.in.Buffered() == 0
	if good && l.up.running {
		good = l.uploadEnds()
	}
	if !good {
		l.abandon()
		return
	}
	l.end()
	if !l.b.keepLink(l) {
		_ = l.nc.Close() // nothing is left to lose on it
	}
}

// abandon closes the connection and waits for the upload.
func (l *link) abandon() {
	_ = l.base.Close()
	if l.up.running {
		if l.q.Abort != nil {
			l.q.Abort()
		}
		l.ended(<-l.up.over)
	}
	l.end()
}

// end lets go of what belongs to the exchange.
func (l *link) end() {
	l.b.active.Add(-1)
	l.q, l.ctx = nil, nil
	l.in.SetBuffer(nil)
	l.b.pool.buffers.put(&l.mem)
}

// takeover hands the connection over, with what has been read from it.
func (l *link) takeover() (net.Conn, []byte) {
	var unread []byte
	if l.in.Buffered() > 0 {
		unread = append(unread, l.in.Unread()...)
	}
	_ = l.base.SetDeadline(time.Time{}) // a dead connection shows when it is used
	l.end()
	return l.nc, unread
}

// Read is what the stream reads from: the connection, with the waiting done.
// It returns a byte or a final error.
func (l *link) Read(p []byte) (int, error) {
	if l.up.running {
		n, err := l.readBeside(p)
		if n > 0 || err != nil {
			return l.have(n, len(p)), err
		}
	}
	l.armQuick()
	n, err := l.nc.Read(p)
	if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		n, err = l.readPatiently(p)
	}
	if n > 0 {
		err = nil // it comes again
	}
	return l.have(n, len(p)), err
}

func (l *link) have(n, space int) int {
	l.got += int64(n)
	l.full = n == space
	return n
}

// armQuick sees that the read deadline is at least quick away, or at the limit.
func (l *link) armQuick() {
	now := time.Now()
	limit, _ := l.limit()
	d := l.readBy.Sub(now)
	if d >= quick && d <= 2*quick && (limit.IsZero() || !limit.Before(l.readBy)) {
		return
	}
	by := now.Add(2 * quick)
	if !limit.IsZero() && limit.Before(by) {
		by = limit
	}
	l.setReadBy(by)
}

func (l *link) setReadBy(t time.Time) {
	l.readBy = t
	_ = l.base.SetReadDeadline(t) // a dead connection shows when it is read
}

// limit is when waiting ends, and the error it ends with.
func (l *link) limit() (time.Time, error) {
	t, err := l.until, l.untilErr
	if end, ok := l.ctx.Deadline(); ok && (t.IsZero() || end.Before(t)) {
		t, err = end, context.DeadlineExceeded
	}
	return t, err
}

// readPatiently waits up to the limit, and not longer than the client does.
func (l *link) readPatiently(p []byte) (int, error) {
	limit, late := l.limit()
	if !limit.IsZero() && !time.Now().Before(limit) {
		return 0, late
	}
	l.setReadBy(limit)
	stop := l.watch()
	n, err := l.nc.Read(p)
	stop()
	switch {
	case l.givenUp.Load():
		return 0, errGivenUp
	case n == 0 && errors.Is(err, os.ErrDeadlineExceeded):
		return 0, late
	}
	return n, err
}

// watch has the client and the context watched until stop is called.
func (l *link) watch() (stop func()) {
	var unwatch func()
	if l.q.Watch != nil {
		unwatch = l.q.Watch(l.cancel)
	}
	ran := make(chan struct{})
	release := context.AfterFunc(l.ctx, func() {
		l.cancel()
		close(ran)
	})
	return func() {
		if unwatch != nil {
			unwatch()
		}
		if !release() {
			<-ran
		}
	}
}

// Sizes of buffers. Nearly every answer's head and short body fit the small
// one; large bodies are read with the large one, for fewer system calls.
const (
	smallBuffer = 16 << 10
	largeBuffer = 64 << 10
	maxHead     = 256 << 10 // of an answer
)

// memory is what the buffer of a link is made of.
type memory struct {
	small *[smallBuffer]byte
	large *[largeBuffer]byte
}

// enlarge exchanges the buffer for the large one.
func (l *link) enlarge() {
	if l.mem.large == nil && l.in.Cap() < largeBuffer {
		l.mem.large = l.b.pool.buffers.getLarge()
		l.in.SetBuffer(l.mem.large[:])
	}
}

// grow makes room for a long head.
func (l *link) grow() bool {
	switch {
	case l.in.Cap() < largeBuffer:
		l.enlarge()
	case l.in.Cap() < maxHead:
		l.in.SetBuffer(make([]byte, maxHead))
	default:
		return false
	}
	return true
}

// buffers keeps the buffers of a pool's idle connections.
type buffers struct{ small, large sync.Pool }

func (b *buffers) getSmall() *[smallBuffer]byte {
	if p, ok := b.small.Get().(*[smallBuffer]byte); ok {
		return p
	}
	return new([smallBuffer]byte)
}

func (b *buffers) getLarge() *[largeBuffer]byte {
	if p, ok := b.large.Get().(*[largeBuffer]byte); ok {
		return p
	}
	return new([largeBuffer]byte)
}

func (b *buffers) put(m *memory) {
	if m.small != nil {
		b.small.Put(m.small)
	}
	if m.large != nil {
		b.large.Put(m.large)
	}
	*m = memory{}
}
