package proxy

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"postern/internal/http1"
)

// viaStd runs do with net/http's types for the current request, for what needs
// them: handlers, and backends that do not speak HTTP/1.1.
func (h *h1) viaStd(x *exchange, do func(*stdMessage)) {
	x.keepTexts()
	r, err := h.request(x)
	if err != nil {
		x.problem(http.StatusBadRequest, "bad_path", "The request target is not valid.")
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	stop := sync.OnceFunc(h.watch(cancel))
	w := &h1Writer{h: h, x: x, header: make(http.Header), unwatch: stop}
	if body, ok := r.Body.(*h1Reader); ok {
		w.body, h.shared = body, body
		defer func() { body.shut(); h.shared = nil }()
	}
	m := new(stdMessage)
	m.x.conn = h.conn
	m.w.reset(w)
	m.r = r.WithContext(ctx)
	defer m.end()
	defer cancel()
	defer stop()
	do(m)
	w.finish()
}

// request makes a net/http request of the current one.
func (h *h1) request(x *exchange) (*http.Request, error) {
	target := strings.Clone(x.rawTarget)
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return nil, err
	}
	ctx := context.WithValue(context.Background(), clientConnKey{}, h.conn) // the connection's own; viaStd adds the client's leaving
	r := (&http.Request{
		Method: strings.Clone(x.method), URL: u, RequestURI: target,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: h.req.Minor,
		Header: make(http.Header, len(h.req.Fields)), Host: strings.Clone(x.rawHost),
		ContentLength: x.length, Body: http.NoBody, RemoteAddr: h.conn.RemoteAddr().String(),
	}).WithContext(ctx)
	for i := range h.req.Fields {
		f := &h.req.Fields[i]
		if f.Name == http1.Host || f.Name == http1.ContentLength || f.Name == http1.TransferEncoding {
			continue
		}
		key := textproto.CanonicalMIMEHeaderKey(string(f.Key))
		r.Header[key] = append(r.Header[key], string(f.Value))
	}
	if x.holds {
		r.Body = io.NopCloser(bytes.NewReader(x.held))
	} else if !h.in.BodyDone() {
		h.needBuffer(bodyBuffer)
		r.Trailer = make(http.Header)
		r.Body = &h1Reader{h: h, r: r}
		if h.req.Framing != http1.Chunked {
			r.Trailer = nil
		}
	}
	return r, nil
}

// h1Reader is a request body for net/http's types. The backend's side reads it
// on a goroutine of its own, perhaps until after the answer.
type h1Reader struct {
	h    *h1
	r    *http.Request
	mu   sync.Mutex // held while the connection is read
	left []byte
	err  error
}

// shut waits for the read that is under way and ends the body: from now on
// the connection is h1's own again.
func (b *h1Reader) shut() {
	b.h.abort()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.left, b.err = nil, errUnwanted
	}
	b.h.arm(time.Time{})
}

// settled reports whether the body was read to its end; it does not wait for
// a read that is under way.
func (b *h1Reader) settled() bool {
	if !b.mu.TryLock() {
		return false
	}
	defer b.mu.Unlock()
	return b.h.in.BodyDone()
}

func (b *h1Reader) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.left) == 0 && b.err == nil {
		h := b.h
		if h.req.Expect100 && h.body.read.Load() == 0 && h.in.Buffered() == 0 {
			h.req.Expect100 = false
			if _, err := io.WriteString(h.nc, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
				return 0, errClientGone
			}
		}
		b.left, b.err = h.readBody()
		if b.err == io.EOF {
			for _, f := range h.in.Trailers() {
				b.r.Trailer.Add(string(f.Key), string(f.Value))
			}
		}
	}
	if len(b.left) == 0 {
		return 0, b.err
	}
	n := copy(p, b.left)
	b.left = b.left[n:]
	return n, nil
}

func (b *h1Reader) Close() error { return nil }

// h1Writer is the answer for net/http's types. It buffers until it is flushed
// or finished: an answer that fits is sent with its length.
type h1Writer struct {
	h        *h1
	x        *exchange
	header   http.Header
	status   int // 0: no head yet
	sentHead bool
	chunk    bool
	noBody   bool
	hijacked bool
	unwatch  func()    // ends the watch of the client; nil: there is none
	body     *h1Reader // the request's; nil: none that another goroutine reads
	held     []byte    // body bytes before the head is sent
	left     int64     // body bytes that Content-Length still promises; -1: it is not set
}

func (w *h1Writer) Header() http.Header { return w.header }

func (w *h1Writer) WriteHeader(status int) {
	switch {
	case w.status != 0 || w.hijacked:
	case status >= 100 && status < 200 && status != http.StatusSwitchingProtocols:
		w.informational(status)
	default:
		w.status = status
		w.noBody = !bodyAllowed(status) || w.x.method == http.MethodHead
		w.left = promised(w.header)
	}
}

// promised is the length that a header declares; -1 if it declares none, which
// it does not if it is no number.
func promised(h http.Header) int64 {
	n, err := strconv.ParseUint(h.Get("Content-Length"), 10, 63)
	if err != nil || len(h["Content-Length"]) > 1 {
		delete(h, "Content-Length")
		return -1
	}
	return int64(n)
}

func (w *h1Writer) informational(status int) {
	h := w.h
	if h.req.Minor == 0 {
		return
	}
	if status == http.StatusContinue {
		h.req.Expect100 = false // said now
	}
	h.out = http1.AppendStatusLine(h.out[:0], status, http.StatusText(status))
	w.appendFields(nil)
	h.out = append(h.out, "\r\n"...)
	h.flush()
}

func (w *h1Writer) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.noBody {
		return len(p), nil
	}
	if w.left >= 0 {
		if int64(len(p)) > w.left { // what is beyond would be the next answer
			n, err := w.write(p[:w.left])
			w.left = 0
			return n, cmp.Or(err, http.ErrContentLength)
		}
		w.left -= int64(len(p))
	}
	return w.write(p)
}

func (w *h1Writer) write(p []byte) (int, error) {
	if !w.sentHead {
		if len(w.held)+len(p) <= headBuffer {
			w.held = append(w.held, p...)
			return len(p), nil
		}
		w.sendHead(-1)
	}
	return len(p), w.send(p)
}

// send writes body bytes behind what is ready.
func (w *h1Writer) send(p []byte) error {
	h := w.h
	if len(p) > 0 {
		if w.chunk {
			h.out = http1.AppendChunk(h.out, p)
		} else {
			h.out = append(h.out, p...)
		}
	}
	if len(h.out) > 0 && !h.flush() {
		return errClientGone
	}
	return nil
}

// FlushError sends what is buffered.
func (w *h1Writer) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if !w.sentHead {
		w.sendHead(-1)
	}
	return w.send(nil)
}

// sendHead readies the head; length is that of the whole body, -1 if it is not
// known.
func (w *h1Writer) sendHead(length int) {
	h := w.h
	w.sentHead, h.begun = true, true
	declared := w.header.Get("Content-Length")
	w.chunk = false
	switch {
	case w.noBody, declared != "":
	case length >= 0:
		w.header.Set("Content-Length", strconv.Itoa(length))
	case h.req.Minor == 1:
		w.chunk = true
	default:
		h.closing = true
	}
	switch {
	case h.s.leaving.Load(), w.body != nil && !w.body.settled(), w.body == nil && !h.in.BodyDone() && !h.discard():
		h.closing = true
	}
	h.out = http1.AppendStatusLine(h.out[:0], w.status, http.StatusText(w.status))
	w.appendFields(func(key string) bool { return strings.HasPrefix(key, http.TrailerPrefix) })
	if w.header.Get("Date") == "" {
		h.out = h.s.date.append(h.out, w.x.start)
	}
	if w.chunk {
		h.out = append(h.out, "Transfer-Encoding: chunked\r\n"...)
	}
	h.endHead()
	held := w.held
	w.held = nil
	if len(held) > 0 {
		if w.chunk {
			h.out = http1.AppendChunk(h.out, held)
		} else {
			h.out = append(h.out, held...)
		}
	}
}

func (w *h1Writer) appendFields(skip func(key string) bool) {
	h := w.h
	for key, values := range w.header {
		if skip != nil && skip(key) || key == "Connection" || key == "Transfer-Encoding" {
			continue
		}
		for _, v := range values {
			if goodField(key, v) {
				h.out = http1.AppendText(h.out, key, v)
			}
		}
	}
}

// goodField reports whether a handler's field can be sent. One that cannot is
// left out: a line end in it would begin another.
func goodField(key, value string) bool {
	return httpguts.ValidHeaderFieldName(key) && httpguts.ValidHeaderFieldValue(value)
}

// finish ends the answer.
func (w *h1Writer) finish() {
	if w.hijacked || w.h.begun && !w.sentHead { // taken over, or answered by the exchange itself
		return
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if !w.sentHead {
		w.sendHead(len(w.held))
	}
	if w.chunk {
		w.h.out = http1.AppendLastChunk(w.h.out, trailerFields(w.header))
	}
	if !w.noBody && w.left > 0 {
		w.h.closing = true // all that tells the client that something is missing
	}
	_ = w.send(nil) // a lost client shows as the end of the connection
}

// trailerFields are the fields that were announced, or marked with
// http.TrailerPrefix, once the body is over.
func trailerFields(h http.Header) (fields []http1.Field) {
	add := func(key string, values []string) {
		for _, v := range values {
			if !goodField(key, v) {
				continue
			}
			fields = append(fields, http1.Field{Key: []byte(key), Value: []byte(v)})
		}
	}
	for _, list := range h["Trailer"] {
		for name := range strings.SplitSeq(list, ",") {
			name = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name))
			add(name, h[name])
		}
	}
	for key, values := range h {
		if name, ok := strings.CutPrefix(key, http.TrailerPrefix); ok {
			add(name, values)
		}
	}
	return fields
}

// Hijack hands the connection over. It fails when the client has already sent
// what would be the first bytes of another protocol.
func (w *h1Writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	h := w.h
	if w.unwatch != nil {
		w.unwatch()
	}
	if h.in.Buffered() > 0 || h.peeked || !h.in.BodyDone() {
		h.tooEarly()
		return nil, nil, errTooEarly
	}
	w.hijacked, h.begun, h.closing = true, true, true
	h.arm(time.Time{})
	return h.nc, bufio.NewReadWriter(bufio.NewReader(h.nc), bufio.NewWriter(h.nc)), nil
}

// SetReadDeadline leaves reading to h1's own deadlines, but for past, which
// ends a read that is under way.
func (w *h1Writer) SetReadDeadline(t time.Time) error {
	if t.Equal(past()) {
		w.h.abort()
	}
	return nil
}

// SetWriteDeadline leaves writing to clientConn's own deadlines.
func (w *h1Writer) SetWriteDeadline(time.Time) error { return nil }

func (h *h1) challenge(f func(http.ResponseWriter, *http.Request) bool) (done bool) {
	r, err := h.request(&h.x)
	if err != nil {
		return false
	}
	w := &h1Writer{h: h, x: &h.x, header: make(http.Header)}
	if done = f(w, r); done {
		w.finish()
		h.x.status = w.status
	}
	return done
}
