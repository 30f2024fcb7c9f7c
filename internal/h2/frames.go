package h2

import (
	"encoding/binary"
	"time"
)

// Frame types (RFC 9113 section 6).
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	framePriority     = 0x2
	frameReset        = 0x3
	frameSettings     = 0x4
	framePush         = 0x5
	framePing         = 0x6
	frameGoAway       = 0x7
	frameWindow       = 0x8
	frameContinuation = 0x9
)

// Frame flags.
const (
	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// Settings (RFC 9113 section 6.5.2, RFC 9218 section 2.1).
const (
	settingTableSize    = 0x1
	settingPush         = 0x2
	settingMaxStreams   = 0x3
	settingWindow       = 0x4
	settingMaxFrame     = 0x5
	settingHeaderList   = 0x6
	settingNoPriorities = 0x9
)

const frameHeader = 9 // bytes

// header is a frame header.
type header struct {
	length int
	kind   uint8
	flags  uint8
	id     uint32
}

func parseHeader(b []byte) header {
	return header{
		length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		kind:   b[3],
		flags:  b[4],
		id:     binary.BigEndian.Uint32(b[5:]) & maxWindow,
	}
}

func (h header) has(flag uint8) bool { return h.flags&flag != 0 }

// whole reports whether the frame is looked at only when all of it is here.
// Bodies, and what is ignored, pass as they come.
func (h header) whole() bool {
	return h.kind != frameData && h.kind != frameGoAway && h.kind <= frameContinuation
}

// checkOrder refuses what no frame may be, and whatever interrupts a header
// block (RFC 9113 sections 3.4, 4.2 and 4.3).
func (c *Conn) checkOrder(h header) error {
	if h.length > maxFrame {
		return c.protocol(FrameSizeError, "frame longer than SETTINGS_MAX_FRAME_SIZE")
	}
	if !c.synced && (h.kind != frameSettings || h.has(flagAck)) {
		return c.protocol(ProtocolError, "connection does not begin with SETTINGS")
	}
	if c.block.id != 0 && (h.kind != frameContinuation || h.id != c.block.id) {
		return c.protocol(ProtocolError, "header block interrupted by another frame")
	}
	return nil
}

// onFrame handles a frame that is here as a whole.
func (c *Conn) onFrame(h header, p []byte) error {
	switch h.kind {
	case frameHeaders:
		return c.onHeaders(h, p)
	case frameContinuation:
		return c.onContinuation(h, p)
	}
	c.mu.Lock()
	var cancelled func()
	var err error
	switch h.kind {
	case framePriority:
		err = c.onPriority(h, p, &cancelled)
	case frameReset:
		err = c.onReset(h, p, &cancelled)
	case frameSettings:
		err = c.onSettings(h, p)
	case framePing:
		err = c.onPing(h, p)
	case frameWindow:
		err = c.onWindow(h, p, &cancelled)
	case framePush:
		err = c.protocol(ProtocolError, "PUSH_PROMISE from a client")
	}
	c.mu.Unlock()
	if cancelled != nil {
		cancelled()
	}
	return err
}

// onLoose begins a frame whose payload passes as it comes.
func (c *Conn) onLoose(h header) error {
	if h.kind == frameData {
		return c.onData(h)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.kind == frameGoAway {
		if h.id != 0 {
			return c.protocol(ProtocolError, "GOAWAY on a stream")
		}
		if h.length < 8 {
			return c.protocol(FrameSizeError, "GOAWAY shorter than 8 bytes")
		}
		if c.goaway == goawayNone {
			c.goaway, c.goawayID = goawayFinal, maxWindow // the client opens no more
			c.maybeDone()
		}
	}
	c.body = payload{left: h.length}
	return c.charge(1)
}

// onPriority ignores a priority, but for its form: RFC 9113 section 6.3.
func (c *Conn) onPriority(h header, p []byte, cancelled *func()) error {
	if h.id == 0 {
		return c.protocol(ProtocolError, "PRIORITY without a stream")
	}
	if len(p) != 5 {
		return c.streamFault(h.id, FrameSizeError, "PRIORITY of a wrong length", cancelled)
	}
	if binary.BigEndian.Uint32(p)&maxWindow == h.id {
		return c.streamFault(h.id, ProtocolError, "stream depends on itself", cancelled)
	}
	return c.charge(1)
}

// streamFault answers a breach on one stream: RST_STREAM if the stream is
// open, a connection error otherwise, which RFC 9113 section 5.4.2 leaves us
// to choose. mu is held.
func (c *Conn) streamFault(id uint32, code ErrCode, reason string, cancelled *func()) error {
	st := c.streams[id]
	if st == nil {
		return c.protocol(code, reason)
	}
	c.appendReset(id, code)
	*cancelled = c.drop(st, &StreamError{Code: code}, byUs)
	return c.chargeReset()
}

// chargeReset takes one from the budget of resets. mu is held.
func (c *Conn) chargeReset() error {
	if c.resets.take(1) {
		return nil
	}
	return c.abuse(AbuseResets, "too many requests given up before they were answered")
}

// onReset ends a stream for the client (RFC 9113 section 6.4).
func (c *Conn) onReset(h header, p []byte, cancelled *func()) error {
	if len(p) != 4 {
		return c.protocol(FrameSizeError, "RST_STREAM of a wrong length")
	}
	if h.id == 0 || h.id > c.topID || h.id&1 == 0 {
		return c.protocol(ProtocolError, "RST_STREAM on an idle stream")
	}
	st := c.streams[h.id]
	if st == nil {
		return c.charge(1)
	}
	if !st.answered.IsZero() {
		c.bury(st, byClient)
		return nil
	}
	*cancelled = c.drop(st, &StreamError{Code: ErrCode(binary.BigEndian.Uint32(p)), Remote: true}, byClient)
	return c.chargeReset()
}

// onSettings applies the client's settings (RFC 9113 section 6.5).
func (c *Conn) onSettings(h header, p []byte) error {
	if h.id != 0 {
		return c.protocol(ProtocolError, "SETTINGS on a stream")
	}
	if h.has(flagAck) {
		if len(p) != 0 {
			return c.protocol(FrameSizeError, "SETTINGS acknowledgement with a payload")
		}
		return c.charge(1)
	}
	if len(p)%6 != 0 {
		return c.protocol(FrameSizeError, "SETTINGS of a wrong length")
	}
	c.synced = true
	if err := c.charge(1 + len(p)/60); err != nil {
		return err
	}
	for ; len(p) > 0; p = p[6:] {
		v := binary.BigEndian.Uint32(p[2:])
		switch binary.BigEndian.Uint16(p) {
		case settingTableSize:
			if c.enc == nil && v != maxPeerTable {
				c.enc = newEncoder()
			}
			if c.enc != nil {
				c.enc.setMax(v)
			}
		case settingPush:
			if v > 1 {
				return c.protocol(ProtocolError, "SETTINGS_ENABLE_PUSH is neither 0 nor 1")
			}
		case settingWindow:
			if v > maxWindow {
				return c.protocol(FlowControlError, "SETTINGS_INITIAL_WINDOW_SIZE over 2^31-1")
			}
			if !c.moveWindows(int64(v) - c.streamWindow) {
				return c.protocol(FlowControlError, "SETTINGS_INITIAL_WINDOW_SIZE overflows a window")
			}
			c.streamWindow = int64(v)
		case settingMaxFrame:
			if v < maxFrame || v > 1<<24-1 {
				return c.protocol(ProtocolError, "SETTINGS_MAX_FRAME_SIZE out of range")
			}
		}
	}
	c.appendHeader(0, frameSettings, flagAck, 0)
	return c.backlog()
}

// moveWindows changes every stream's window (RFC 9113 section 6.9.2).
func (c *Conn) moveWindows(by int64) bool {
	for _, st := range c.streams {
		if st.sendWindow += by; st.sendWindow > maxWindow {
			return false
		}
		st.cond.Broadcast()
	}
	return true
}

// backlog refuses a client that makes us answer and does not read.
func (c *Conn) backlog() error {
	if len(c.wbuf) > highWater+frameHeader+maxFrame+controlBacklog {
		return c.abuse(AbuseControl, "answers to control frames are not read")
	}
	return nil
}

// onPing answers (RFC 9113 section 6.7).
func (c *Conn) onPing(h header, p []byte) error {
	if h.id != 0 {
		return c.protocol(ProtocolError, "PING on a stream")
	}
	if len(p) != 8 {
		return c.protocol(FrameSizeError, "PING of a wrong length")
	}
	if h.has(flagAck) {
		if c.goaway == goawayWarned && [8]byte(p) == shutdownPing {
			c.lastGoAway()
		}
		return c.charge(1)
	}
	c.appendPing([8]byte(p), true)
	if err := c.backlog(); err != nil {
		return err
	}
	return c.charge(1)
}

// onWindow opens a window (RFC 9113 section 6.9).
func (c *Conn) onWindow(h header, p []byte, cancelled *func()) error {
	if len(p) != 4 {
		return c.protocol(FrameSizeError, "WINDOW_UPDATE of a wrong length")
	}
	by := int64(binary.BigEndian.Uint32(p) & maxWindow)
	if by < tinyUpdate {
		if err := c.charge(1); err != nil {
			return err
		}
	}
	if h.id == 0 {
		if by == 0 {
			return c.protocol(ProtocolError, "WINDOW_UPDATE of 0")
		}
		if c.sendWindow += by; c.sendWindow > maxWindow {
			return c.protocol(FlowControlError, "window of the connection over 2^31-1")
		}
		if c.blocked > 0 {
			for _, st := range c.streams {
				st.cond.Broadcast()
			}
		}
		return nil
	}
	if h.id > c.topID || h.id&1 == 0 {
		return c.protocol(ProtocolError, "WINDOW_UPDATE on an idle stream")
	}
	st := c.streams[h.id]
	switch {
	case st == nil && by == 0:
		return c.protocol(ProtocolError, "WINDOW_UPDATE of 0")
	case st == nil:
		return c.charge(1)
	case by == 0:
		return c.streamFault(h.id, ProtocolError, "WINDOW_UPDATE of 0", cancelled)
	}
	if st.sendWindow += by; st.sendWindow > maxWindow {
		return c.streamFault(h.id, FlowControlError, "window of a stream over 2^31-1", cancelled)
	}
	st.cond.Broadcast()
	return nil
}

// payload is the rest of a frame that passes as it comes.
type payload struct {
	left int    // bytes to come, padding included
	pad  int    // of them, padding
	id   uint32 // the stream; zero: ignored
	fin  bool   // the frame ends the stream
	odd  bool   // the length of the padding comes first
}

// onData begins a DATA frame (RFC 9113 section 6.1). All of it counts against
// both windows at once.
func (c *Conn) onData(h header) error {
	c.mu.Lock()
	var cancelled func()
	err := c.dataBegins(h, &cancelled)
	if err == nil && c.body.left == 0 && c.body.id != 0 {
		err = c.dataEnds(&cancelled)
	}
	c.mu.Unlock()
	if cancelled != nil {
		cancelled()
	}
	return err
}

func (c *Conn) dataBegins(h header, cancelled *func()) error {
	if h.id == 0 || h.id > c.topID || h.id&1 == 0 {
		return c.protocol(ProtocolError, "DATA on an idle stream")
	}
	if h.length > c.recvWindow {
		return c.protocol(FlowControlError, "DATA beyond the window of the connection")
	}
	if h.length == 0 && h.has(flagPadded) {
		return c.protocol(FrameSizeError, "padded DATA without a padding length")
	}
	c.recvWindow -= h.length
	c.body = payload{left: h.length, fin: h.has(flagEndStream), odd: h.has(flagPadded)}
	if h.length == 0 && !h.has(flagEndStream) {
		if err := c.charge(1); err != nil {
			return err
		}
	}
	st := c.streams[h.id]
	if st == nil {
		c.giveBack(h.length)
		if c.gone.find(h.id) == byClient {
			return c.protocol(StreamClosed, "DATA on a closed stream")
		}
		return c.charge(1) // it was on its way when we closed the stream
	}
	switch {
	case st.recvEnd:
		c.giveBack(h.length)
		return c.streamFault(h.id, StreamClosed, "DATA after the end of a request", cancelled)
	case h.length > st.recvWindow:
		c.giveBack(h.length)
		return c.streamFault(h.id, FlowControlError, "DATA beyond the window of a stream", cancelled)
	}
	st.recvWindow -= h.length
	if !st.answered.IsZero() {
		c.giveBack(h.length)
		if h.has(flagEndStream) {
			c.appendReset(st.id, NoError) // curl 7.88 waits for one more frame
			c.bury(st, byUs)
		}
		return c.charge(1)
	}
	st.held += h.length
	c.body.id = h.id
	return nil
}

// onPayload takes bytes of the frame that has begun.
func (c *Conn) onPayload(p []byte) error {
	c.mu.Lock()
	var cancelled func()
	err := c.takePayload(p, &cancelled)
	c.mu.Unlock()
	if cancelled != nil {
		cancelled()
	}
	return err
}

func (c *Conn) takePayload(p []byte, cancelled *func()) error {
	b := &c.body
	b.left -= len(p)
	if b.id == 0 {
		return nil
	}
	st := c.streams[b.id] // nil: it ended meanwhile, and its bytes were given back
	if b.odd {
		b.odd = false
		b.pad = int(p[0])
		if p = p[1:]; b.pad > b.left+len(p) {
			return c.protocol(ProtocolError, "padding longer than its frame")
		}
		if st != nil {
			st.consume(1 + b.pad)
		}
	}
	// The padding is at the end of what is left.
	if data := b.left + len(p) - b.pad; len(p) > data {
		p = p[:max(data, 0)]
	}
	if st != nil && len(p) > 0 {
		if st.ContentLength >= 0 && st.received+int64(len(p)) > st.ContentLength {
			return c.streamFault(b.id, ProtocolError, "request body longer than its content-length", cancelled)
		}
		st.received += int64(len(p))
		st.in = append(c.srv.bufs.room(st.in, len(p)), p...)
		st.readSince = time.Time{}
		st.cond.Broadcast()
	}
	if b.left == 0 {
		return c.dataEnds(cancelled)
	}
	return nil
}

// dataEnds is the end of a DATA frame.
func (c *Conn) dataEnds(cancelled *func()) error {
	st := c.streams[c.body.id]
	if st == nil || !c.body.fin {
		return nil
	}
	return c.requestEnds(st, cancelled)
}

// requestEnds is END_STREAM. mu is held.
func (c *Conn) requestEnds(st *Stream, cancelled *func()) error {
	if !st.answered.IsZero() {
		c.bury(st, byClient)
		return nil
	}
	if st.ContentLength >= 0 && st.received != st.ContentLength {
		return c.streamFault(st.id, ProtocolError, "request body shorter than its content-length", cancelled)
	}
	st.recvEnd = true
	st.cond.Broadcast()
	if st.sentEnd {
		c.finished(st)
	}
	return nil
}
