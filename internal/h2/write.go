package h2

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"time"
)

// What is written goes into wbuf, frame by frame, under mu. flush takes the
// buffer and writes it without mu; what comes meanwhile is written next, by
// the same goroutine or by one that waits for room.

// tlsRecord is how much a TLS record holds. Frames and writes are cut so that
// they fill records.
const (
	tlsRecord = 16 << 10
	maxData   = tlsRecord - frameHeader
)

// appendHeader appends a frame header. All but responses are urgent: nobody
// else has a reason to write them.
func (c *Conn) appendHeader(length int, kind, flags uint8, id uint32) {
	c.urgent = c.urgent || kind > frameHeaders && kind != frameContinuation
	c.wbuf = append(c.srv.bufs.room(c.wbuf, frameHeader),
		byte(length>>16), byte(length>>8), byte(length), kind, flags,
		byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

func (c *Conn) append32(v uint32) {
	c.wbuf = binary.BigEndian.AppendUint32(c.srv.bufs.room(c.wbuf, 4), v)
}

func (c *Conn) appendReset(id uint32, code ErrCode) {
	c.appendHeader(4, frameReset, 0, id)
	c.append32(uint32(code))
}

func (c *Conn) appendWindow(id uint32, by int) {
	c.appendHeader(4, frameWindow, 0, id)
	c.append32(uint32(by))
}

func (c *Conn) appendGoAway(last uint32, code ErrCode) {
	c.appendHeader(8, frameGoAway, 0, 0)
	c.append32(last)
	c.append32(uint32(code))
}

func (c *Conn) appendPing(data [8]byte, ack bool) {
	flags := uint8(0)
	if ack {
		flags = flagAck
	}
	c.appendHeader(8, framePing, flags, 0)
	c.wbuf = append(c.srv.bufs.room(c.wbuf, 8), data[:]...)
}

// appendSettings appends what the server says first.
func (c *Conn) appendSettings() {
	settings := [...]struct {
		id uint16
		v  uint32
	}{
		{settingMaxStreams, c.cfg.MaxStreams},
		{settingWindow, uint32(c.cfg.StreamWindow)},
		{settingHeaderList, uint32(c.cfg.MaxHeaderList)},
		{settingNoPriorities, 1},
	}
	c.appendHeader(6*len(settings), frameSettings, 0, 0)
	for _, s := range settings {
		c.wbuf = binary.BigEndian.AppendUint16(c.srv.bufs.room(c.wbuf, 6), s.id)
		c.append32(s.v)
	}
	if more := c.cfg.ConnWindow - firstWindow; more > 0 {
		c.appendWindow(0, more)
	}
}

// appendHead appends a header block: a response head, or trailers if status
// is zero.
func (c *Conn) appendHead(id uint32, status int, l *fieldList, end bool) {
	if c.enc == nil {
		c.enc = newEncoder()
	}
	// A field takes at most its text and two lengths.
	c.wbuf = c.srv.bufs.room(c.wbuf, frameHeader+16+len(l.text)+10*len(l.ends))
	at := len(c.wbuf)
	c.appendHeader(0, frameHeaders, 0, id)
	b := c.enc.begin(c.wbuf)
	if status != 0 {
		b = c.enc.status(b, status)
	}
	start := 0
	for _, e := range l.ends {
		b = c.enc.field(b, l.text[start:e.value], e.name-start)
		start = e.value
	}
	c.wbuf = b
	flags := uint8(0)
	if end {
		flags = flagEndStream
	}
	c.frameBlock(at, id, flags)
}

// frameBlock fills in the frame header at an offset of wbuf, after which the
// block is; a block too large for one frame goes on in CONTINUATION frames.
func (c *Conn) frameBlock(at int, id uint32, flags uint8) {
	n := len(c.wbuf) - at - frameHeader
	if n <= c.peerFrame {
		c.wbuf[at], c.wbuf[at+1], c.wbuf[at+2] = byte(n>>16), byte(n>>8), byte(n)
		c.wbuf[at+4] = flags | flagEndHeaders
		return
	}
	rest := append([]byte(nil), c.wbuf[at+frameHeader:]...)
	c.wbuf = c.wbuf[:at]
	kind := uint8(frameHeaders)
	for len(rest) > 0 {
		n := min(len(rest), c.peerFrame)
		if n == len(rest) {
			flags |= flagEndHeaders
		}
		c.appendHeader(n, kind, flags, id)
		c.wbuf = append(c.srv.bufs.room(c.wbuf, n), rest[:n]...)
		rest = rest[n:]
		kind, flags = frameContinuation, 0
	}
}

// maxTurns is how often in a row a handler's goroutine writes what others have
// to send, before it goes on with its own work.
const maxTurns = 8

// flush writes what is waiting, unless somebody does already. mu is held, and
// released in between.
func (c *Conn) flush() {
	if c.writing {
		return
	}
	c.writing = true
	for turn := 0; len(c.wbuf) > 0; turn++ {
		if turn > 0 && c.waiting > 0 {
			break // one of those goes on, and this goroutine with its own work
		}
		if turn == maxTurns {
			c.srv.workers.run(job{c, nil}) // which now is the one that writes
			return
		}
		out := c.wbuf
		c.wbuf, c.urgent = nil, false
		if c.waiting > 0 {
			c.space.Broadcast()
		}
		if !c.broken {
			if err := c.write(out); err != nil {
				c.writeFailed(err)
			}
		}
		c.srv.bufs.put(out)
	}
	c.writing = false
	if c.waiting > 0 {
		c.space.Broadcast()
	}
	if c.stopped {
		c.idle.Broadcast()
	}
}

// write writes out, a TLS record at a time, each within the stall timeout. mu
// is held, and released in between.
func (c *Conn) write(out []byte) error {
	for len(out) > 0 {
		if d := c.cfg.StallTimeout; d > 0 && !c.fixed {
			// Setting a deadline costs more than looking at the clock.
			if now := time.Now(); c.deadline.Sub(now) < d/2 {
				c.deadline = now.Add(d)
				c.nc.SetWriteDeadline(c.deadline)
			}
		}
		n := min(len(out), tlsRecord)
		c.mu.Unlock()
		_, err := c.nc.Write(out[:n])
		c.mu.Lock()
		if err != nil {
			return err
		}
		out = out[n:]
	}
	return nil
}

// writeFailed ends a connection that takes no more. mu is held.
func (c *Conn) writeFailed(err error) {
	c.broken = true
	if c.stopped {
		return
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.report(AbuseSlowRead)
	}
	c.stop(err)
}

// flushSoon is flush for a response that is complete: others may be about to
// be, and leave with it. mu is held, and released in between.
func (c *Conn) flushSoon() {
	if c.writing || c.soon || len(c.wbuf) == 0 {
		return
	}
	if c.handlers > 1 {
		c.soon = true
		c.mu.Unlock()
		runtime.Gosched()
		c.mu.Lock()
		c.soon = false
	}
	c.flush()
	if c.stopped {
		c.idle.Broadcast()
	}
}

// flushElsewhere has another goroutine write what is waiting, if it is urgent:
// a response that is not complete is left to its handler. mu is held.
func (c *Conn) flushElsewhere() {
	if c.writing || c.soon || !c.urgent || len(c.wbuf) == 0 {
		return
	}
	c.writing = true
	c.srv.workers.run(job{c, nil})
}

// do is the work of a job.
func (c *Conn) do(st *Stream) {
	if st == nil {
		c.mu.Lock()
		c.writing = false
		c.flush()
		c.idle.Broadcast()
		c.mu.Unlock()
		return
	}
	for st != nil {
		c.cfg.Handler(st)
		st = c.handled(st)
	}
}

// waitSpace waits until the buffer was taken. mu is held.
func (c *Conn) waitSpace(st *Stream) {
	c.waiting++
	for len(c.wbuf) >= highWater && c.writing && st.err == nil && !c.stopped {
		c.space.Wait()
	}
	c.waiting--
	c.flush()
}
