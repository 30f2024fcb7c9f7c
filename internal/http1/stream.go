package http1

import (
	"bytes"
	"errors"
	"io"
)

// Stream reads heads and bodies from one direction of a connection. What it
// hands out are slices of its buffer, valid until the next call. It is for one
// goroutine.
//
// The buffer may be exchanged while nothing is in it, so that an idle
// connection holds none.
type Stream struct {
	src  io.Reader
	buf  []byte
	r, w int // unread is buf[r:w]

	fed  int // of a head being read: bytes already shown to the follower
	body bodyState
}

type bodyState struct {
	framing Framing
	left    uint64 // bytes left of the body, or of the chunk
	stage   chunkStage
	exts    int // bytes of chunk lines and trailers seen, bounded
	done    bool
	bad     error // what the body broke off with
	trailer []Field
}

type chunkStage uint8

const (
	atSize chunkStage = iota
	inData
	afterData
	inTrailer
)

// Errors of bodies.
var (
	// ErrTooLong: a head or trailer section does not fit the buffer.
	ErrTooLong = errors.New("http1: head longer than the limit")
	ErrBody    = errors.New("http1: malformed chunk")
	errNoBuf   = errors.New("http1: stream without a buffer")
)

// Reset makes s read from src with buf as its buffer; nothing is unread.
func (s *Stream) Reset(src io.Reader, buf []byte) {
	*s = Stream{src: src, buf: buf, body: bodyState{trailer: s.body.trailer[:0]}}
}

// Buffered is the number of unread bytes.
func (s *Stream) Buffered() int { return s.w - s.r }

// Unread returns the unread bytes, for whoever takes the connection over.
func (s *Stream) Unread() []byte { return s.buf[s.r:s.w] }

// SetBuffer exchanges the buffer and returns the old one; unread bytes move
// along, which buf must hold.
func (s *Stream) SetBuffer(buf []byte) (old []byte) {
	old = s.buf
	n := copy(buf, s.buf[s.r:s.w])
	s.buf, s.r, s.w = buf, 0, n
	return old
}

// Cap is the size of the buffer.
func (s *Stream) Cap() int { return len(s.buf) }

// Push adds bytes that were read from src by another way. They must fit.
func (s *Stream) Push(p []byte) bool {
	s.room(len(p))
	if len(s.buf)-s.w < len(p) {
		return false
	}
	s.w += copy(s.buf[s.w:], p)
	return true
}

// room moves unread bytes to the front when there are fewer than n free ones
// behind them.
func (s *Stream) room(n int) {
	if s.r == s.w {
		s.r, s.w = 0, 0
	} else if s.r > 0 && len(s.buf)-s.w < n {
		s.w = copy(s.buf, s.buf[s.r:s.w])
		s.r = 0
	}
}

// fill reads once. It returns an error only when nothing was read.
func (s *Stream) fill() error {
	s.room(1)
	if s.w == len(s.buf) {
		if len(s.buf) == 0 {
			return errNoBuf
		}
		return ErrTooLong
	}
	n, err := s.src.Read(s.buf[s.w:])
	s.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// Fill reads once more into the buffer, for a head that is not complete.
func (s *Stream) Fill() error { return s.fill() }

// RequestHead returns the next request head, its empty line included, if it is
// complete in the buffer; nil if more must be read with Fill. f has seen every
// byte of it, and its error is returned. Bytes behind the head stay unread, and
// f is ready for the next head.
func (s *Stream) RequestHead(f *Follower) ([]byte, error) {
	unread := s.buf[s.r:s.w]
	before := f.Requests()
	from := max(s.fed-3, 0)
	end := bytes.Index(unread[from:], []byte("\r\n\r\n"))
	upto := len(unread)
	if end >= 0 {
		upto = from + end + 4
	}
	n, err := f.Feed(unread[s.fed:upto])
	s.fed += n
	if err != nil {
		return nil, err
	}
	if f.Requests() == before {
		return nil, nil // incomplete, or so far only the empty line before a request
	}
	s.fed = 0
	s.r += upto
	f.nextHead()
	return unread[:upto:upto], nil
}

// nextHead makes f expect a head although the last one had a body: a Stream
// reads bodies itself.
func (f *Follower) nextHead() { f.state = stIdle }

// ResponseHead returns the next response head if it is complete in the buffer,
// nil if more must be read with Fill.
func (s *Stream) ResponseHead() []byte {
	unread := s.buf[s.r:s.w]
	from := max(s.fed-3, 0)
	for {
		i := bytes.IndexByte(unread[from:], '\n')
		if i < 0 {
			s.fed = len(unread)
			return nil
		}
		end := from + i + 1
		switch {
		case end < len(unread) && unread[end] == '\n':
			end++
		case end+1 < len(unread) && unread[end] == '\r' && unread[end+1] == '\n':
			end += 2
		case end+1 >= len(unread): // the line after it is not here yet
			s.fed = len(unread)
			return nil
		default:
			from = end
			continue
		}
		s.fed = 0
		s.r += end
		return unread[:end:end]
	}
}

// BeginBody prepares reading the body of the message whose head was returned
// last.
func (s *Stream) BeginBody(framing Framing, length int64) {
	s.body = bodyState{framing: framing, left: uint64(max(length, 0)), trailer: s.body.trailer[:0]}
	if framing == NoBody || framing == ByLength && length == 0 {
		s.body.done = true
	}
}

// BodyDone reports whether the body was read to its end.
func (s *Stream) BodyDone() bool { return s.body.done }

// BodyLeft is the number of bytes a ByLength body still has.
func (s *Stream) BodyLeft() int64 { return int64(s.body.left) }

// Trailers are the trailer fields of a chunked body that was read to its end.
func (s *Stream) Trailers() []Field { return s.body.trailer }

// BufferedBody returns body bytes that are in the buffer already, nil if there
// are none without reading. It never blocks.
func (s *Stream) BufferedBody() ([]byte, error) {
	if s.body.done {
		return nil, nil
	}
	return s.take()
}

// Body returns the next bytes of the body, reading when there are none. At the
// end it returns io.EOF; a connection that ends before is
// io.ErrUnexpectedEOF. Chunks that are buffered come as one slice.
func (s *Stream) Body() ([]byte, error) {
	for {
		if s.body.done {
			return nil, io.EOF
		}
		p, err := s.take()
		if err != nil || len(p) > 0 {
			return p, err
		}
		if s.body.done {
			return nil, io.EOF
		}
		switch err := s.fill(); {
		case err == io.EOF && s.body.framing == UntilClose:
			s.body.done = true
		case err == io.EOF:
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		}
	}
}

// take returns buffered body bytes, none if more must be read first.
func (s *Stream) take() ([]byte, error) {
	b := &s.body
	switch b.framing {
	case ByLength:
		p := s.cut(b.left)
		if b.left -= uint64(len(p)); b.left == 0 {
			b.done = true
		}
		return p, nil
	case UntilClose:
		return s.cut(1 << 62), nil
	}
	var p []byte
	for !b.done && b.bad == nil {
		if b.stage == inData {
			q := s.cut(b.left)
			if len(q) == 0 {
				break
			}
			if b.left -= uint64(len(q)); b.left == 0 {
				b.stage = afterData
			}
			// Further chunks move to the end of the first, over the lines
			// between them: whoever hands them on writes once.
			if p == nil {
				p = q
			} else {
				p = append(p, q...)
			}
			continue
		}
		var more bool
		if more, b.bad = s.chunkLine(); !more {
			break
		}
	}
	if len(p) > 0 {
		return p[:len(p):len(p)], nil
	}
	return nil, b.bad
}

// cut takes up to n unread bytes.
func (s *Stream) cut(n uint64) []byte {
	p := s.buf[s.r:s.w]
	if uint64(len(p)) > n {
		p = p[:n]
	}
	s.r += len(p)
	return p // with the capacity to take further chunks in
}

// maxChunkLines bounds the bytes of chunk lines' extensions and trailers in
// one body.
const maxChunkLines = 8 << 10

// chunkLine reads one line of the chunked coding (RFC 9112 section 7.1); more
// is false when it is not complete in the buffer.
func (s *Stream) chunkLine() (more bool, err error) {
	b := &s.body
	unread := s.buf[s.r:s.w]
	i := bytes.IndexByte(unread, '\n')
	if i < 0 {
		if len(unread) > maxChunkLines {
			return false, ErrBody
		}
		return false, nil
	}
	if i == 0 || unread[i-1] != '\r' {
		return false, ErrBody
	}
	line := unread[:i-1]
	s.r += i + 1
	switch b.stage {
	case afterData:
		if len(line) != 0 {
			return false, ErrBody
		}
		b.stage = atSize
	case atSize:
		if b.left, err = b.chunkSize(line); err != nil {
			return false, err
		}
		b.stage = inData
		if b.left == 0 {
			b.stage = inTrailer
		}
	case inTrailer:
		if len(line) == 0 {
			b.done = true
			return true, nil
		}
		return true, b.addTrailer(line)
	}
	return true, nil
}

// chunkSize reads a chunk size; extensions are checked and dropped.
func (b *bodyState) chunkSize(line []byte) (uint64, error) {
	n, digits := uint64(0), 0
	for digits < len(line) && unhex[line[digits]] < 16 {
		if digits == 15 { // 15 digits fit an int64 and are an exabyte
			return 0, ErrBody
		}
		n = n<<4 | uint64(unhex[line[digits]])
		digits++
	}
	if digits == 0 {
		return 0, ErrBody
	}
	ext := line[digits:]
	if len(ext) > 0 && ext[0] != ';' {
		return 0, ErrBody
	}
	for _, c := range ext {
		if c != '\t' && (c < ' ' || c > '~') {
			return 0, ErrBody
		}
	}
	if b.exts += len(ext); len(ext) > maxExt || b.exts > maxChunkLines {
		return 0, ErrBody
	}
	return n, nil
}

// addTrailer keeps a trailer field. Fields that frame, route or belong to the
// connection may not come late (RFC 9110 section 6.5.1).
func (b *bodyState) addTrailer(line []byte) error {
	i := bytes.IndexByte(line, ':')
	if i <= 0 || len(b.trailer) >= DefaultFields {
		return ErrBody
	}
	// The line leaves the buffer before the body ends: it is copied.
	own := append([]byte(nil), line...)
	f := Field{Name: nameOf(own[:i]), Key: own[:i], Value: trim(own[i+1:])}
	if !plainField(&f) || f.Name.HopByHop() || f.Name == Host || f.Name == ContentLength {
		return ErrBody
	}
	if b.exts += len(line); b.exts > maxChunkLines {
		return ErrBody
	}
	b.trailer = append(b.trailer, f)
	return nil
}
