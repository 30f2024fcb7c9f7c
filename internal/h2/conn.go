package h2

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2/hpack"
)

// preface is what a client sends first (RFC 9113 section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Conn is one connection. Serve is called once; Shutdown and Close may be
// called from anywhere at any time.
type Conn struct {
	// User is the caller's; set before Serve.
	User any

	srv *Server
	cfg *Config
	nc  net.Conn

	// Of the goroutine in Serve.
	buf    []byte // unread is buf[r:w]; small[:] or from srv.bufs
	r, w   int
	small  [512]byte
	greet  int // bytes of the preface that have come
	synced bool
	dec    *hpack.Decoder
	block  block
	body   payload
	topID  uint32 // highest stream the client opened

	mu       sync.Mutex
	streams  map[uint32]*Stream // open or half closed
	gone     closedRing
	pending  []*Stream // wait for a handler to end
	handlers int
	idle     sync.Cond // handlers or writing changed
	space    sync.Cond // wbuf was taken, or writing ended
	waiting  int       // in space
	blocked  int       // streams that wait for a window
	resets   budget
	control  budget
	taken    uint32 // the last stream that was given to a handler, or refused above it
	enc      *encoder

	// Flow control, in bytes.
	sendWindow   int64 // what the client still takes on the connection
	streamWindow int64 // its SETTINGS_INITIAL_WINDOW_SIZE
	peerFrame    int   // its SETTINGS_MAX_FRAME_SIZE, as far as we use it
	recvWindow   int   // what the client may still send
	credit       int   // consumed and not told yet

	wbuf     []byte    // frames to write
	urgent   bool      // some of them are no response's
	writing  bool      // somebody writes, or is about to
	soon     bool      // somebody waits a moment, then writes
	deadline time.Time // of writes
	fixed    bool      // deadline is not moved any more
	closing  bool      // Close was called
	broken   bool      // a write failed; nothing more is written

	err      error // why the connection ends
	shut     bool  // Shutdown came before Serve
	stopped  bool  // nothing is read or written any more
	goaway   goawayStage
	goawayID uint32
	goawayAt time.Time

	timer      *time.Timer
	due        time.Time // when timer fires; zero: it is not set
	start      time.Time
	served     bool          // a request came
	rest       time.Duration // instead of Config's IdleTimeout; 0: that
	idleSince  time.Time     // zero while a stream is open
	blockSince time.Time     // the head being received began; zero: none is
}

type goawayStage uint8

const (
	goawayNone goawayStage = iota
	goawayWarned
	goawayFinal
)

// goawayGrace is how long streams that cross with the first GOAWAY are waited
// for, unless the client answers our PING sooner (RFC 9113 section 6.8).
const goawayGrace = time.Second

// shutdownPing marks the PING that measures the time between the two GOAWAYs.
var shutdownPing = [8]byte{'p', 'o', 's', 't', 'e', 'r', 'n', '!'}

// NewConn returns a connection over nc, which has agreed on "h2" and from
// which nothing has been read. The Conn owns nc once Serve is called.
func (s *Server) NewConn(nc net.Conn) *Conn {
	now := time.Now()
	c := &Conn{
		srv: s, cfg: &s.cfg, nc: nc,
		streams:      make(map[uint32]*Stream),
		resets:       newBudget(s.cfg.Resets, now),
		control:      newBudget(s.cfg.Control, now),
		sendWindow:   firstWindow,
		streamWindow: firstWindow,
		peerFrame:    maxFrame,
		recvWindow:   s.cfg.ConnWindow,
		start:        now,
		idleSince:    now,
	}
	c.buf = c.small[:]
	c.idle.L, c.space.L = &c.mu, &c.mu
	c.dec = hpack.NewDecoder(maxPeerTable, c.onField)
	c.dec.SetMaxStringLength(s.cfg.MaxHeaderList)
	return c
}

// SetIdle changes Config.IdleTimeout for this connection; d must be positive.
// It may be called at any time.
func (c *Conn) SetIdle(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rest = d
}

// idleTimeout is how long the connection may rest. mu is held.
func (c *Conn) idleTimeout() time.Duration {
	if c.rest > 0 {
		return c.rest
	}
	return c.cfg.IdleTimeout
}

// NetConn returns the connection below.
func (c *Conn) NetConn() net.Conn { return c.nc }

// Serve reads and answers requests until the connection ends, then closes it
// and waits for the handlers. It returns nil when the client closed the
// connection with nothing open, when it was idle, or after Shutdown or Close;
// a *ConnError for a breach of the protocol; else what went wrong with the
// connection below.
func (c *Conn) Serve() error {
	c.mu.Lock()
	if c.stopped {
		c.mu.Unlock()
		return c.nc.Close()
	}
	c.timer = time.AfterFunc(time.Hour, c.onTimer)
	c.due = c.start.Add(time.Hour)
	c.arm(c.cfg.HeadTimeout, c.start)
	c.arm(c.cfg.IdleTimeout, c.start)
	c.appendSettings()
	c.flush()
	shut := c.shut
	c.mu.Unlock()
	if shut {
		c.Shutdown()
	}
	return c.end(c.read())
}

// read is the reading half of Serve.
func (c *Conn) read() error {
	for {
		more, err := c.step()
		if err != nil {
			return err
		}
		if more {
			continue
		}
		if err := c.fill(); err != nil {
			if err == io.EOF && c.w > c.r {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
}

// fill reads once, after what is waiting was given to somebody to write.
func (c *Conn) fill() error {
	c.mu.Lock()
	if c.stopped {
		c.mu.Unlock()
		return ErrClosed
	}
	c.flushElsewhere()
	c.mu.Unlock()
	c.makeRoom()
	n, err := c.nc.Read(c.buf[c.w:])
	c.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// makeRoom chooses the buffer for what comes next: the small one at rest, a
// large one for a large frame or a body.
func (c *Conn) makeRoom() {
	want := c.body.left
	if want == 0 && c.w-c.r >= frameHeader {
		want = frameHeader + parseHeader(c.buf[c.r:]).length
	}
	big := cap(c.buf) > len(c.small)
	switch {
	case c.r == c.w && big && want <= len(c.small):
		c.srv.bufs.put(c.buf[:0])
		c.buf = c.small[:]
		c.r, c.w = 0, 0
	case want > len(c.small) && !big:
		b := c.srv.bufs.get(frameHeader + maxFrame)
		b = b[:cap(b)]
		c.w = copy(b, c.buf[c.r:c.w])
		c.buf, c.r = b, 0
	case c.r > 0:
		c.w = copy(c.buf, c.buf[c.r:c.w])
		c.r = 0
	}
}

// step takes one thing from the buffer: the preface, a piece of a body, or a
// frame. It returns false when more must be read first.
func (c *Conn) step() (bool, error) {
	b := c.buf[c.r:c.w]
	if len(b) == 0 {
		return false, nil
	}
	if c.greet < len(preface) {
		n := min(len(b), len(preface)-c.greet)
		if string(b[:n]) != preface[c.greet:c.greet+n] {
			return false, &ConnError{ProtocolError, "connection does not begin with the HTTP/2 preface"}
		}
		c.greet += n
		c.r += n
		return true, nil
	}
	if c.body.left > 0 {
		n := min(len(b), c.body.left)
		c.r += n
		return true, c.onPayload(b[:n])
	}
	if len(b) < frameHeader {
		return false, nil
	}
	h := parseHeader(b)
	if err := c.checkOrder(h); err != nil {
		return false, err
	}
	if !h.whole() {
		c.r += frameHeader
		return true, c.onLoose(h)
	}
	end := frameHeader + h.length
	if len(b) < end {
		c.headBegan(h)
		return false, nil
	}
	c.r += end
	return true, c.onFrame(h, b[frameHeader:end:end])
}

// headBegan notes that a request head is on its way in pieces.
func (c *Conn) headBegan(h header) {
	if h.kind != frameHeaders && h.kind != frameContinuation {
		return
	}
	c.mu.Lock()
	if c.blockSince.IsZero() {
		c.blockSince = time.Now()
		c.arm(c.cfg.HeadTimeout, c.blockSince)
	}
	c.mu.Unlock()
}

// stop ends the connection: the reader wakes up and end does the rest. mu is
// held. What is waiting to be written still is.
func (c *Conn) stop(err error) {
	if c.stopped {
		return
	}
	c.stopped = true
	if c.err == nil {
		c.err = err
	}
	c.nc.SetReadDeadline(time.Unix(1, 0))
}

// Close ends the connection at once, without waiting for handlers or clients;
// Serve returns soon after.
func (c *Conn) Close() {
	c.mu.Lock()
	c.stop(nil)
	c.fixed, c.closing = true, true
	c.nc.SetDeadline(time.Unix(1, 0))
	c.mu.Unlock()
}

// Shutdown tells the client to open no further requests and lets Serve return
// when those it has are answered. It does not wait: Close ends what takes too
// long. The client is told twice, so that requests it sends in the meantime
// are still answered (RFC 9113 section 6.8).
func (c *Conn) Shutdown() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped || c.goaway != goawayNone {
		return
	}
	if c.timer == nil { // Serve was not called yet
		c.shut = true
		return
	}
	c.goaway, c.goawayAt = goawayWarned, time.Now()
	c.appendGoAway(maxWindow, NoError)
	c.appendPing(shutdownPing, false)
	c.arm(goawayGrace, c.goawayAt)
	c.flushElsewhere()
}

// lastGoAway sends the final GOAWAY: requests after those we know are not
// answered. mu is held.
func (c *Conn) lastGoAway() {
	if c.goaway == goawayFinal {
		return
	}
	c.goaway, c.goawayID = goawayFinal, c.taken
	c.appendGoAway(c.taken, NoError)
	c.flushElsewhere()
	c.maybeDone()
}

// maybeDone stops a connection that shuts down and has nothing left to do. mu
// is held.
func (c *Conn) maybeDone() {
	if c.goaway == goawayFinal && len(c.streams) == 0 && c.handlers == 0 {
		c.stop(nil)
	}
}

// end closes the connection after reading ended with err.
func (c *Conn) end(err error) error {
	c.mu.Lock()
	c.timer.Stop()
	if !c.stopped {
		c.stopped = true
		if c.err == nil && !(err == io.EOF && c.handlers == 0) {
			c.err = err
		}
	}
	c.closing = c.closing || err == io.EOF
	cancelled := c.cancelAll()
	var ce *ConnError
	if errors.As(c.err, &ce) {
		c.appendGoAway(c.taken, ce.Code)
	}
	c.mu.Unlock()
	for _, f := range cancelled {
		f()
	}
	c.lastWrites(ce)
	c.nc.Close()

	c.mu.Lock()
	defer c.mu.Unlock()
	for c.handlers > 0 || c.writing || c.soon {
		c.idle.Wait()
	}
	if cap(c.buf) > len(c.small) {
		c.srv.bufs.put(c.buf[:0])
	}
	c.buf = nil
	c.srv.bufs.put(c.wbuf)
	c.wbuf = nil
	return c.err
}

// lastWrites sends what is waiting, the GOAWAY above all, unless the client
// does not take it, and lingers.
func (c *Conn) lastWrites(ce *ConnError) {
	flood := ce != nil && ce.Code == EnhanceYourCalm
	c.mu.Lock()
	if !c.fixed {
		c.fixed = true
		wait := lingerTime
		if flood {
			wait /= 10
		}
		c.nc.SetWriteDeadline(time.Now().Add(wait))
	}
	for c.writing {
		c.idle.Wait()
	}
	c.writing = true
	out, broken := c.wbuf, c.broken
	c.wbuf = nil
	c.mu.Unlock()
	if !broken && len(out) > 0 {
		_, err := c.nc.Write(out)
		broken = err != nil
	}
	if !broken && !flood {
		c.linger()
	}
	c.mu.Lock()
	c.writing = false
	c.srv.bufs.put(out)
	c.idle.Broadcast()
	c.mu.Unlock()
}

// lingerTime is how long a connection that ends is listened to.
const lingerTime = time.Second

// linger drops what the client still sends until it closes the connection.
// Were it closed with bytes unread or on their way, a WINDOW_UPDATE say, the
// kernel would reset it, and the client could lose the end of a response or
// the GOAWAY. Clients that flood are not waited for.
func (c *Conn) linger() {
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		return
	}
	c.nc.SetReadDeadline(time.Now().Add(lingerTime))
	c.mu.Unlock()
	b := c.srv.bufs.get(4 << 10)
	for left := c.cfg.ConnWindow; left > 0; {
		n, err := c.nc.Read(b[:cap(b)])
		if err != nil {
			break
		}
		left -= n
	}
	c.srv.bufs.put(b)
}

// abuse reports and returns the error that ends the connection.
func (c *Conn) abuse(a Abuse, reason string) error {
	c.report(a)
	return &ConnError{EnhanceYourCalm, reason}
}

func (c *Conn) report(a Abuse) {
	if c.cfg.OnAbuse != nil {
		c.cfg.OnAbuse(c, a)
	}
}

// protocol is a connection error that is nothing else.
func (c *Conn) protocol(code ErrCode, reason string) error {
	c.report(AbuseProtocol)
	return &ConnError{code, reason}
}

// charge takes n from the budget of control frames. mu is held.
func (c *Conn) charge(n int) error {
	if c.control.take(n) {
		return nil
	}
	return c.abuse(AbuseControl, "too many frames that carry no request")
}

// arm makes the timer fire d after from, or sooner. Zero d is never. mu is
// held.
func (c *Conn) arm(d time.Duration, from time.Time) {
	if d <= 0 || c.timer == nil || c.stopped {
		return
	}
	at := from.Add(d)
	if c.due.IsZero() || at.Before(c.due) {
		c.due = at
		c.timer.Reset(time.Until(at))
	}
}

// onTimer looks at everything that has a deadline. Nothing but the write
// deadline is kept by the connection below, so that a request costs no timer.
func (c *Conn) onTimer() {
	c.mu.Lock()
	if c.stopped {
		c.mu.Unlock()
		return
	}
	now := time.Now()
	c.due = time.Time{}
	kind, slow := c.overdue(now)
	stalled := c.stalled(now)
	if slow {
		if kind == AbuseNoRequest {
			c.appendGoAway(c.taken, NoError)
			c.stop(nil)
		} else {
			c.stop(&ConnError{EnhanceYourCalm, "request head took too long"})
		}
	}
	if d := c.idleTimeout(); d > 0 && !c.idleSince.IsZero() && c.handlers == 0 {
		if now.Sub(c.idleSince) >= d {
			c.appendGoAway(c.taken, NoError)
			c.stop(nil)
		}
		c.arm(d, c.idleSince)
	}
	if c.goaway == goawayWarned {
		if now.Sub(c.goawayAt) >= goawayGrace {
			c.lastGoAway()
		} else {
			c.arm(goawayGrace, c.goawayAt)
		}
	}
	c.flushElsewhere()
	c.mu.Unlock()
	if slow {
		c.report(kind)
	}
	for _, f := range stalled {
		f()
	}
}

// overdue reports a head that does not come. mu is held.
func (c *Conn) overdue(now time.Time) (Abuse, bool) {
	d := c.cfg.HeadTimeout
	if d <= 0 {
		return 0, false
	}
	if !c.served {
		if now.Sub(c.start) >= d {
			return AbuseNoRequest, true
		}
		c.arm(d, c.start)
	}
	if !c.blockSince.IsZero() {
		if now.Sub(c.blockSince) >= d {
			return AbuseSlowHead, true
		}
		c.arm(d, c.blockSince)
	}
	return 0, false
}

// stalled resets the streams whose bodies stood still for too long and
// returns the callbacks to call without mu, which is held.
func (c *Conn) stalled(now time.Time) []func() {
	var calls []func()
	for _, st := range c.streams {
		if !st.answered.IsZero() {
			if st.stall(st.answered, drainTime, now) {
				c.appendReset(st.id, NoError)
				c.bury(st, byUs)
			}
			continue
		}
		read, write := st.stall(st.readSince, st.readStall, now), st.stall(st.writeSince, st.writeStall, now)
		if read || write {
			c.appendReset(st.id, Cancel)
			if f := c.drop(st, ErrStalled, byUs); f != nil {
				calls = append(calls, f)
			}
		}
	}
	return calls
}

// cancelAll ends every stream and returns the callbacks to call without mu,
// which is held.
func (c *Conn) cancelAll() []func() {
	var calls []func()
	for _, st := range c.streams {
		if f := c.drop(st, ErrClosed, byUs); f != nil {
			calls = append(calls, f)
		}
	}
	for _, st := range c.pending {
		c.release(st)
	}
	c.pending = nil
	c.space.Broadcast()
	return calls
}
