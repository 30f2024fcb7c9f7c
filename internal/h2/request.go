package h2

import (
	"encoding/binary"
	"strings"
	"time"

	"golang.org/x/net/http2/hpack"
)

// block is the header block being received.
type block struct {
	id       uint32  // zero: none is
	st       *Stream // the stream it opens
	trailer  bool    // it ends a stream that is open
	trailers []Field
	ignore   bool // decoded for the table only
	end      bool // END_STREAM
	frames   int  // CONTINUATION
	size     int  // as SETTINGS_MAX_HEADER_LIST_SIZE counts
	raw      int  // bytes on the wire
	fields   int

	malformed bool
	bad       bool // well formed, but not a request we can name: 400
	tooLarge  bool
	regular   bool // a field that is not a pseudo-header came
	pseudo    uint8
	host      string
	hasHost   bool
	cookies   int
}

const (
	hasMethod = 1 << iota
	hasScheme
	hasAuthority
	hasPath
)

// onHeaders begins a header block (RFC 9113 section 6.2).
func (c *Conn) onHeaders(h header, p []byte) error {
	if h.id&1 == 0 {
		return c.protocol(ProtocolError, "HEADERS on a stream that clients do not open")
	}
	p, selfish, err := c.unwrap(h, p)
	if err != nil {
		return err
	}
	c.block = block{id: h.id, end: h.has(flagEndStream)}
	b := &c.block
	if h.id <= c.topID {
		if err := c.oldStream(); err != nil {
			return err
		}
	} else {
		c.topID = h.id
		b.st = c.newStream(h.id)
	}
	b.malformed = selfish
	c.dec.SetEmitEnabled(!b.ignore)
	return c.fragment(p, h.has(flagEndHeaders))
}

// unwrap cuts padding and priority off a HEADERS payload.
func (c *Conn) unwrap(h header, p []byte) (rest []byte, selfish bool, err error) {
	pad := 0
	if h.has(flagPadded) {
		if len(p) < 1 {
			return nil, false, c.protocol(FrameSizeError, "padded HEADERS without a padding length")
		}
		pad = int(p[0])
		p = p[1:]
	}
	if h.has(flagPriority) {
		if len(p) < 5 {
			return nil, false, c.protocol(FrameSizeError, "HEADERS shorter than its priority")
		}
		selfish = binary.BigEndian.Uint32(p)&maxWindow == h.id
		p = p[5:]
	}
	if pad > len(p) {
		return nil, false, c.protocol(ProtocolError, "padding longer than its frame")
	}
	return p[:len(p)-pad], selfish, nil
}

// oldStream decides what HEADERS on a stream that exists, or existed, are.
func (c *Conn) oldStream() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := &c.block
	st := c.streams[b.id]
	switch {
	case st != nil && st.recvEnd:
		return c.protocol(StreamClosed, "HEADERS after the end of a request")
	case st != nil:
		b.trailer = true
		return nil
	}
	switch c.gone.find(b.id) {
	case byUs:
		b.ignore = true // it was on its way
		return c.charge(1)
	case byClient:
		return c.protocol(StreamClosed, "HEADERS on a closed stream")
	}
	return c.protocol(ProtocolError, "stream opened below an earlier one")
}

// onContinuation goes on with a header block. An endless one (CVE-2023-45288)
// is cut by its number of frames and by the bytes of the block.
func (c *Conn) onContinuation(h header, p []byte) error {
	b := &c.block
	if b.id == 0 {
		return c.protocol(ProtocolError, "CONTINUATION without HEADERS")
	}
	if b.frames++; b.frames > maxContinue || b.tooLarge || b.malformed {
		return c.abuse(AbuseContinuation, "header block goes on and on")
	}
	return c.fragment(p, h.has(flagEndHeaders))
}

// fragment decodes a piece of the block.
func (c *Conn) fragment(p []byte, last bool) error {
	b := &c.block
	if b.raw += len(p); b.raw > 2*c.cfg.MaxHeaderList {
		return c.abuse(AbuseContinuation, "header block over twice SETTINGS_MAX_HEADER_LIST_SIZE")
	}
	if _, err := c.dec.Write(p); err != nil {
		if err == hpack.ErrStringLength {
			return c.abuse(AbuseContinuation, "header field over SETTINGS_MAX_HEADER_LIST_SIZE")
		}
		return c.protocol(CompressionError, "header block that does not decode")
	}
	if !last {
		c.headBegan(header{kind: frameHeaders})
		return nil
	}
	if c.dec.Close() != nil {
		return c.protocol(CompressionError, "header block that ends within a field")
	}
	return c.blockEnds()
}

// onField is told every field of the block by the decoder.
func (c *Conn) onField(f hpack.HeaderField) {
	b := &c.block
	b.size += int(f.Size())
	b.fields++
	if b.size > c.cfg.MaxHeaderList || b.fields > c.cfg.MaxFields+4 {
		b.tooLarge = true
		c.dec.SetEmitEnabled(false)
		return
	}
	if f.Name == "" {
		b.malformed = true
		return
	}
	if f.Name[0] == ':' {
		if b.regular || b.trailer || !b.pseudoField(f) {
			b.malformed = true
		}
		return
	}
	b.regular = true
	if !b.field(f) {
		b.malformed = true
	}
}

// pseudoField takes a pseudo-header (RFC 9113 section 8.3.1); false if the
// request is malformed.
func (b *block) pseudoField(f hpack.HeaderField) bool {
	bit, to := uint8(0), (*string)(nil)
	switch f.Name {
	case ":method":
		bit, to = hasMethod, &b.st.Method
	case ":scheme":
		bit, to = hasScheme, &b.st.Scheme
	case ":authority":
		bit, to = hasAuthority, &b.st.Authority
	case ":path":
		bit, to = hasPath, &b.st.Path
	default:
		return false
	}
	if b.pseudo&bit != 0 || !plain(f.Value) {
		return false
	}
	b.pseudo |= bit
	*to = f.Value
	return true
}

// field takes any other field; false if the request is malformed (RFC 9113
// section 8.2).
func (b *block) field(f hpack.HeaderField) bool {
	if !all(f.Name, inName) || !plain(f.Value) {
		return false
	}
	switch f.Name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		return false
	case "te":
		if f.Value != "trailers" {
			return false
		}
	case "host":
		if b.hasHost || b.trailer {
			return false
		}
		b.host, b.hasHost = f.Value, true
		return true // Authority tells it
	case "content-length":
		n, ok := parseLength(f.Value)
		if !ok || b.trailer || b.st.ContentLength >= 0 {
			return false
		}
		b.st.ContentLength = n
	case "cookie":
		if b.cookies++; b.cookies > 1 && !b.trailer {
			b.joinCookie(f.Value)
			return true
		}
	}
	if b.trailer {
		b.trailers = append(b.trailers, Field{f.Name, f.Value})
	} else {
		b.st.Fields = append(b.st.Fields, Field{f.Name, f.Value})
	}
	return true
}

// joinCookie puts the crumbs of a cookie together (RFC 9113 section 8.2.3).
func (b *block) joinCookie(v string) {
	for i := range b.st.Fields {
		if f := &b.st.Fields[i]; f.Name == "cookie" {
			f.Value += "; " + v
			return
		}
	}
}

// blockEnds opens the stream, or ends its request.
func (c *Conn) blockEnds() error {
	b := c.block
	c.block = block{}
	c.mu.Lock()
	c.blockSince = time.Time{}
	var cancelled func()
	var err error
	switch {
	case b.ignore:
	case b.trailer:
		err = c.trailersEnd(&b, &cancelled)
	default:
		err = c.requestBegins(&b)
	}
	c.mu.Unlock()
	if cancelled != nil {
		cancelled()
	}
	return err
}

// trailersEnd takes the trailers of a request (RFC 9113 section 8.1).
func (c *Conn) trailersEnd(b *block, cancelled *func()) error {
	st := c.streams[b.id]
	if st == nil { // it ended while they came
		return nil
	}
	if b.malformed || b.tooLarge || !b.end {
		c.report(AbuseMalformed)
		return c.streamFault(b.id, ProtocolError, "malformed trailers", cancelled)
	}
	st.trailers = b.trailers
	return c.requestEnds(st, cancelled)
}

// requestBegins judges a complete head and hands it to a handler. mu is held.
func (c *Conn) requestBegins(b *block) error {
	st := b.st
	if !b.tooLarge && !b.malformed {
		b.complete()
	}
	switch {
	case c.stopped || c.goaway == goawayFinal && b.id > c.goawayID:
		c.gone.add(b.id, byUs)
		c.release(st)
		return nil // RFC 9113 section 6.8: ignored
	case b.malformed:
		c.report(AbuseMalformed)
		return c.refuse(st, ProtocolError)
	case len(c.streams) >= int(c.cfg.MaxStreams), len(c.pending) >= int(c.cfg.MaxStreams):
		return c.refuse(st, RefusedStream)
	}
	c.taken = b.id
	c.served = true
	if b.tooLarge || b.bad {
		return c.answerItself(st, b)
	}
	st.recvEnd = b.end
	c.streams[b.id] = st
	c.idleSince = time.Time{}
	c.control.earn(4)
	if c.handlers >= int(c.cfg.MaxStreams) {
		c.pending = append(c.pending, st)
		return nil
	}
	c.handlers++
	c.srv.workers.run(job{c, st})
	return nil
}

// complete checks what a request needs as a whole.
func (b *block) complete() {
	st := b.st
	if b.hasHost {
		if b.pseudo&hasAuthority == 0 {
			st.Authority = b.host
		} else if st.Authority != b.host && !strings.EqualFold(st.Authority, b.host) {
			b.malformed = true
		}
	}
	switch {
	case b.pseudo&hasMethod == 0, !all(st.Method, inToken), st.Method == "", b.end && st.ContentLength > 0:
		b.malformed = true
	case st.Method == "CONNECT":
		b.malformed = b.malformed || b.pseudo != hasMethod|hasAuthority
	case b.pseudo&(hasScheme|hasPath) != hasScheme|hasPath, st.Path == "", st.Scheme != "https" && st.Scheme != "http":
		b.malformed = true
	default:
		b.bad = !goodPath(st.Path) && !(st.Path == "*" && st.Method == "OPTIONS")
	}
	b.bad = b.bad || st.Authority == "" || !all(st.Authority, inAuthority)
	if b.end && st.ContentLength < 0 {
		st.ContentLength = 0
	}
}

// refuse resets a stream before it was open. mu is held.
func (c *Conn) refuse(st *Stream, code ErrCode) error {
	c.appendReset(st.id, code)
	c.gone.add(st.id, byUs)
	c.release(st)
	if err := c.backlog(); err != nil {
		return err
	}
	return c.chargeReset()
}

// answerItself refuses a request that is well formed with 400 or 431. mu is
// held.
func (c *Conn) answerItself(st *Stream, b *block) error {
	status, kind := 400, AbuseMalformed
	if b.tooLarge {
		status, kind = 431, AbuseHeaderList
	}
	c.report(kind)
	st.head.reset()
	st.head.add([]byte("content-length"), []byte("0"))
	c.appendHead(st.id, status, &st.head, true)
	c.urgent = true
	if !b.end {
		c.appendReset(st.id, NoError)
		c.gone.add(st.id, byUs)
	} else {
		c.gone.add(st.id, byClient)
	}
	c.release(st)
	if len(c.streams) == 0 {
		c.idleSince = time.Now()
	}
	if err := c.backlog(); err != nil {
		return err
	}
	return c.charge(4)
}
