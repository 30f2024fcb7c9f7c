package h2

import "time"

// fieldList collects fields, names in lower case, as one text.
type fieldList struct {
	text   []byte
	ends   []fieldEnd
	bad    bool
	length int64 // of content-length; -1: there is none
}

type fieldEnd struct{ name, value int } // offsets in text

func (l *fieldList) reset() {
	l.text, l.ends, l.bad, l.length = l.text[:0], l.ends[:0], false, -1
}

func addField[T string | []byte](l *fieldList, name, value T) {
	start := len(l.text)
	if start == 0 {
		l.length = -1
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c-'A' < 26 {
			c |= 0x20
		}
		l.bad = l.bad || class[c]&inName == 0
		l.text = append(l.text, c)
	}
	end := len(l.text)
	switch string(l.text[start:]) {
	case "":
		l.bad = true
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		l.text = l.text[:start]
		return
	case "content-length":
		n, ok := parseLength(value)
		l.bad = l.bad || !ok || l.length >= 0 && l.length != n
		if l.length >= 0 {
			l.text = l.text[:start]
			return
		}
		l.length = n
	}
	l.bad = l.bad || !plain(value)
	l.text = append(l.text, value...)
	l.ends = append(l.ends, fieldEnd{end, len(l.text)})
}

func (l *fieldList) add(name, value []byte) { addField(l, name, value) }

// AddField adds a field to the head, informational response or trailers that
// is written next; both are copied. The name may be in any case. Fields that
// belong to an HTTP/1.1 connection are left out (RFC 9113 section 8.2.2).
func (s *Stream) AddField(name, value []byte) { addField(&s.head, name, value) }

// AddText is AddField for strings.
func (s *Stream) AddText(name, value string) { addField(&s.head, name, value) }

// WriteHead sends the response head with the fields added before; end says
// that there is no body. Responses that can have none (to HEAD, 204, 304) end
// in any case. Unless it ends, the head may wait for the first bytes of the
// body, for Flush, or for a Next that waits.
func (s *Stream) WriteHead(status int, end bool) error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	defer s.head.reset()
	switch {
	case s.err != nil:
		return s.err
	case s.sentHead:
		return ErrHeadSent
	case status < 200 || status > 999:
		return ErrStatus
	case s.head.bad:
		return ErrField
	}
	s.bodyless = s.Method == "HEAD" || status == 204 || status == 304
	end = end || s.bodyless
	if len(s.head.ends) > 0 {
		s.length = s.head.length
	}
	if end && !s.bodyless && s.length > 0 {
		return c.cut(s)
	}
	if err := s.room(); err != nil {
		return err
	}
	s.sentHead = true
	c.appendHead(s.id, status, &s.head, end)
	if end {
		s.ended()
	}
	return nil
}

// Informational sends a 1xx response at once (RFC 9110 section 15.2).
func (s *Stream) Informational(status int) error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	defer s.head.reset()
	switch {
	case s.err != nil:
		return s.err
	case s.sentHead:
		return ErrHeadSent
	case status < 100 || status > 199 || status == 101:
		return ErrStatus
	case s.head.bad:
		return ErrField
	}
	if err := s.room(); err != nil {
		return err
	}
	c.appendHead(s.id, status, &s.head, false)
	c.flush()
	return nil
}

// Write sends bytes of the body; p is copied. end says that they are the last.
// It waits until the client takes them. Bytes may be kept back until there are
// more, until Flush, end, a Next that waits, or the handler's return.
func (s *Stream) Write(p []byte, end bool) error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := s.open(int64(len(p))); err != nil {
		return err
	}
	if end && s.length >= 0 && s.sent+int64(len(p)) != s.length {
		return c.cut(s)
	}
	for {
		if err := s.room(); err != nil {
			return err
		}
		n := int(min(int64(len(p)), s.sendWindow, c.sendWindow, maxData))
		switch {
		case len(p) == 0 && !end:
			return nil
		case n <= 0 && len(p) > 0:
			if err := s.waitWindow(); err != nil {
				return err
			}
			continue
		}
		flags := uint8(0)
		last := end && n == len(p)
		if last {
			flags = flagEndStream
		}
		c.wbuf = c.srv.bufs.room(c.wbuf, frameHeader+n)
		c.appendHeader(n, frameData, flags, s.id)
		c.wbuf = append(c.wbuf, p[:n]...)
		p = p[n:]
		s.sent += int64(n)
		s.sendWindow -= int64(n)
		c.sendWindow -= int64(n)
		c.control.earn(2)
		if last {
			s.ended()
			return nil
		}
	}
}

// open checks that n more bytes of body may be written. mu is held.
func (s *Stream) open(n int64) error {
	switch {
	case s.err != nil:
		return s.err
	case !s.sentHead:
		return ErrNoHead
	case s.bodyless && n > 0:
		return ErrNoBody
	case s.sentEnd:
		return ErrEnded
	case s.length >= 0 && s.sent+n > s.length:
		return s.c.cut(s)
	}
	return nil
}

// cut resets a stream whose response contradicts its content-length: the
// client must not take it for complete. mu is held.
func (c *Conn) cut(s *Stream) error {
	c.appendReset(s.id, InternalError)
	s.onCancel = nil // the handler is told by the error
	c.drop(s, ErrLength, byUs)
	c.flush()
	return ErrLength
}

// room waits until little enough is waiting to be written. mu is held.
func (s *Stream) room() error {
	c := s.c
	for s.err == nil && len(c.wbuf) >= highWater {
		if c.writing {
			c.waitSpace(s)
		} else {
			c.flush()
		}
	}
	return s.err
}

// waitWindow waits until the client opens a window. mu is held.
func (s *Stream) waitWindow() error {
	c := s.c
	for s.err == nil && (s.sendWindow <= 0 || c.sendWindow <= 0) {
		if len(c.wbuf) > 0 && !c.writing {
			c.flush()
			continue
		}
		c.blocked++
		s.wait(&s.writeSince, s.writeStall)
		c.blocked--
	}
	s.writeSince = time.Time{}
	return s.err
}

// ended is END_STREAM sent. mu is held.
func (s *Stream) ended() {
	c := s.c
	s.sentEnd = true
	if s.recvEnd {
		c.finished(s)
	}
	c.flushSoon()
}

// WriteTrailers ends the response with the fields added before. Without any it
// is Write(nil, true).
func (s *Stream) WriteTrailers() error {
	if len(s.head.ends) == 0 && !s.head.bad {
		return s.Write(nil, true)
	}
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	defer s.head.reset()
	if err := s.open(0); err != nil {
		return err
	}
	if s.head.bad {
		return ErrField
	}
	if s.length >= 0 && s.sent != s.length {
		return c.cut(s)
	}
	if err := s.room(); err != nil {
		return err
	}
	c.appendHead(s.id, 0, &s.head, true)
	s.ended()
	return nil
}

// Flush sends what was written.
func (s *Stream) Flush() error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	c.flush()
	return nil
}
