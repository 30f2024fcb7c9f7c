// Package http1 knows the HTTP/1.1 wire format (RFC 9112) and no policy.
//
// Its Follower reads along with the client's bytes on their way to an HTTP
// engine and stops them at the first byte that the RFC forbids or that two
// parsers could read differently. The engine behind may then be as tolerant
// as it likes: it sees no head whose end or whose body's end is in doubt.
//
// Request, Response and Stream are the engine of our own: heads taken apart in
// place, and bodies as slices of one buffer. They read what a Follower, or the
// stricter of two readings, let through.
package http1

import (
	"encoding/binary"
	"math"
	"sync/atomic"
)

// What a Limits field of zero means.
const (
	DefaultHead    = 32 << 10 // bytes
	DefaultFields  = 128
	DefaultTrailer = 4 << 10 // bytes
)

// Bounds without a setting: no honest client comes near them.
const (
	maxMethod   = 32      // bytes of a method
	maxHost     = 262     // bytes of host and port: 255 for a name, ':', five digits, one spare
	maxExt      = 256     // bytes of extensions after one chunk size
	maxExtTotal = 4 << 10 // bytes of chunk extensions in one body
)

// Limits bound what one request may carry. Zero fields take the defaults.
type Limits struct {
	// Head is the largest request head in bytes: the request line, the
	// header fields and the empty line that ends them. Default 32 KiB.
	Head int

	// Fields is the largest number of header fields in a head, and of
	// trailer fields after a chunked body. Default 128.
	Fields int

	// Trailer is the largest trailer section in bytes. Default 4 KiB.
	Trailer int
}

// Phase is where in the stream of requests the last byte left a Follower.
type Phase uint8

// The phases.
const (
	Idle   Phase = iota // between requests: no byte of the next one has come
	Head                // within a request head
	Body                // within a request body, its framing or its trailers
	Opaque              // no longer HTTP: Follower.Opaque was called
	Broken              // a SyntaxError was returned; nothing passes any more
)

// Follower follows the client-to-server half of one HTTP/1.1 connection, in
// clear text. The zero value is ready to use with the default limits. It keeps
// some 400 bytes of state, allocates nothing but its one error, and gives the
// same answer however the stream is cut into Feed calls.
//
// Feed, Phase and InHead are for the one goroutine that reads the connection.
// Opaque and Requests may be called from any.
type Follower struct {
	// Limits may be changed between requests only.
	Limits Limits

	opaque   atomic.Bool
	requests atomic.Int64
	err      *SyntaxError

	state   state
	budget  int // bytes the head or trailer section may still take
	fields  int // field lines so far
	pos     int // position within the element being read; its length at the end
	hostLen int
	left    uint64 // bytes left of a body or chunk; the value while it is read
	ext     int    // bytes of extensions in this chunk's line
	exts    int    // bytes of extensions in this body

	special  special
	padded   bool // white space after a special value has begun
	connect  bool
	options  bool
	absolute bool // the target carried an authority: Host must equal it
	minor0   bool // HTTP/1.0
	hasHost  bool
	hasLen   bool
	chunked  bool
	trailer  bool // field lines are trailers

	length uint64          // Content-Length
	name   [maxMethod]byte // method, scheme or lower-case field name
	host   [maxHost]byte   // lower-case authority of target or Host
}

type state uint8

// The order matters: up to stVersionLF is the request line, up to stEndLF the
// head (or the trailers), then come bodies.
const (
	stIdle state = iota
	stStartLF
	stStart
	stMethod
	stTarget
	stScheme
	stAuthority
	stPath
	stPct1
	stPct2
	stQuery
	stStar
	stVersion
	stVersionLF
	stFirstField
	stField
	stName
	stSpecial
	stValue
	stValueLF
	stEndLF
	stChunkSize
	stChunkExt
	stChunkLF
	stDataCR
	stDataLF
	stBody
	stChunkData
)

// special marks the fields that decide where a message goes and ends.
type special uint8

const (
	ordinary special = iota
	fieldHost
	fieldLength
	fieldCoding
)

// NewFollower returns a Follower with the given limits.
func NewFollower(l Limits) *Follower { return &Follower{Limits: l} }

// Feed reads the next bytes of the stream. The first n of them may be handed
// on to the engine behind. A non-nil err is a *SyntaxError for the byte p[n];
// it is final: every later call returns it again with n = 0. The line feed
// that would complete a refused head, chunk line or trailer section is never
// among the n bytes. p is not kept.
func (f *Follower) Feed(p []byte) (n int, err error) {
	if f.opaque.Load() {
		return len(p), nil
	}
	if f.err != nil {
		return 0, f.err
	}
	for n < len(p) {
		q := p[n:]
		var m int
		why := ok
		switch {
		case f.state >= stBody:
			m = f.skip(q)
		case f.state > stEndLF:
			m, why = f.chunkLine(q)
		default:
			m, why = f.section(q)
		}
		n += m
		if why != ok {
			f.err = &SyntaxError{Reason: why, Status: why.Status(), InBody: f.state > stEndLF || f.trailer}
			return n, f.err
		}
	}
	return n, nil
}

// Opaque makes every later byte pass unread: after an upgrade or a CONNECT the
// stream is not HTTP any more. There is no way back.
func (f *Follower) Opaque() { f.opaque.Store(true) }

// Requests is the number of complete request heads that passed.
func (f *Follower) Requests() int64 { return f.requests.Load() }

// InHead reports whether a request head has begun and is not complete.
func (f *Follower) InHead() bool { return f.Phase() == Head }

// Phase is where the stream stands. An empty line before a request line does
// not begin a head.
func (f *Follower) Phase() Phase {
	switch {
	case f.opaque.Load():
		return Opaque
	case f.err != nil:
		return Broken
	case f.state <= stStart:
		return Idle
	case f.state <= stEndLF && !f.trailer:
		return Head
	}
	return Body
}

// skip passes body bytes.
func (f *Follower) skip(q []byte) int {
	n := uint64(len(q))
	if n > f.left {
		n = f.left
	}
	f.left -= n
	if f.left == 0 {
		if f.state == stBody {
			f.state = stIdle
		} else {
			f.state = stDataCR
		}
	}
	return int(n)
}

// section reads a head or a trailer section, up to its end or the end of q.
func (f *Follower) section(q []byte) (n int, why Reason) {
	if f.state == stIdle {
		f.reset()
	}
	if f.budget == 0 {
		return 0, f.tooLong()
	}
	if len(q) > f.budget {
		q = q[:f.budget]
	}
	for n < len(q) && f.state <= stEndLF {
		var m int
		switch {
		case f.state <= stMethod:
			m, why = f.start(q[n:])
		case f.state < stVersion:
			m, why = f.target(q[n:])
		case f.state <= stVersionLF:
			m, why = f.version(q[n:])
		default:
			m, why = f.field(q[n:])
		}
		n += m
		if why != ok {
			break
		}
		if f.state == stIdle { // complete, without a body
			return n, ok
		}
	}
	f.budget -= n
	return n, why
}

// reset prepares for the next request; called at its first byte.
func (f *Follower) reset() {
	f.budget = orDefault(f.Limits.Head, DefaultHead)
	f.fields, f.pos, f.hostLen, f.exts = 0, 0, 0, 0
	f.left, f.length = 0, 0
	f.connect, f.options, f.absolute, f.minor0 = false, false, false, false
	f.hasHost, f.hasLen, f.chunked, f.trailer = false, false, false, false
}

func orDefault(n, def int) int {
	if n <= 0 {
		return def
	}
	return n
}

func (f *Follower) tooLong() Reason {
	switch {
	case f.trailer:
		return TrailerTooLong
	case f.state <= stVersionLF:
		return RequestLineTooLong
	}
	return HeadTooLong
}

// endHead is called at the carriage return of the empty line, so that a head
// refused as a whole never shows its end.
func (f *Follower) endHead() Reason {
	switch {
	case f.trailer:
		return ok
	case !f.hasHost:
		return MissingHost
	case f.connect && (f.chunked || f.length > 0):
		return ConnectContent
	}
	return ok
}

// endSection is called at the line feed of the empty line.
func (f *Follower) endSection() {
	switch {
	case f.trailer:
		f.state = stIdle
		return
	case f.chunked:
		f.startChunk()
	case f.length > 0:
		f.left = f.length
		f.state = stBody
	default:
		f.state = stIdle
	}
	f.requests.Add(1)
}

func (f *Follower) startChunk() {
	f.state, f.pos, f.left, f.ext = stChunkSize, 0, 0, 0
}

// chunkLine reads chunk sizes, their extensions and the line ends around the
// data (RFC 9112 section 7.1).
func (f *Follower) chunkLine(q []byte) (n int, why Reason) {
	for n < len(q) && f.state > stEndLF && f.state < stBody {
		c := q[n]
		switch f.state {
		case stChunkSize:
			why = f.chunkSize(c)
		case stChunkExt:
			why = f.chunkExt(c)
		case stChunkLF:
			if c != '\n' {
				return n, BareCR
			}
			f.endChunkLine()
		case stDataCR:
			if c != '\r' {
				return n, lineEndOr(c, BadChunkEnd)
			}
			f.state = stDataLF
		case stDataLF:
			if c != '\n' {
				return n, BareCR
			}
			f.startChunk()
		}
		if why != ok {
			return n, why
		}
		n++
	}
	return n, ok
}

// chunkSize takes a byte of a chunk size. RFC 9112 section 7.1 lets white
// space precede an extension's semicolon; parsers differ about it, and nobody
// sends it in good faith.
func (f *Follower) chunkSize(c byte) Reason {
	if d := unhex[c]; d < 16 {
		if f.pos == 16 || f.left > math.MaxInt64>>4 {
			return ChunkTooLarge
		}
		f.left = f.left<<4 | uint64(d)
		f.pos++
		return ok
	}
	switch {
	case c == '\n':
		return BareLF
	case f.pos == 0:
		return BadChunkSize
	case c == '\r':
		f.state = stChunkLF
	case c == ';':
		f.state = stChunkExt
	default:
		return BadChunkSize
	}
	return ok
}

func (f *Follower) chunkExt(c byte) Reason {
	switch {
	case c == '\r':
		f.state = stChunkLF
		return ok
	case c == '\n':
		return BareLF
	case c != '\t' && (c < ' ' || c > '~'):
		return BadChunkExt
	case f.ext == maxExt || f.exts == maxExtTotal:
		return ChunkExtTooLong
	}
	f.ext++
	f.exts++
	return ok
}

func (f *Follower) endChunkLine() {
	if f.left > 0 {
		f.state = stChunkData
		return
	}
	f.trailer = true
	f.fields = 0
	f.budget = orDefault(f.Limits.Trailer, DefaultTrailer)
	f.state = stField
}

// lineEndOr names a line feed that came without its carriage return, or else
// gives why.
func lineEndOr(c byte, why Reason) Reason {
	if c == '\n' {
		return BareLF
	}
	return why
}

// valueRun is the number of leading bytes of q that may stand in a field value:
// HTAB, SP, VCHAR and obs-text (RFC 9110 section 5.5).
func valueRun(q []byte) int {
	const (
		ones = 0x0101010101010101
		tops = 0x8080808080808080
	)
	n := 0
	for {
		for len(q)-n >= 8 {
			x := binary.LittleEndian.Uint64(q[n:])
			low := (x - ones*0x20) &^ x // a top bit for each byte below SP
			y := x ^ ones*0x7f
			del := (y - ones) &^ y // and for each DEL
			if (low|del)&tops != 0 {
				break
			}
			n += 8
		}
		end := min(n+8, len(q))
		for n < end && class[q[n]]&inValue != 0 {
			n++
		}
		if n < end || n == len(q) {
			return n
		}
	}
}
