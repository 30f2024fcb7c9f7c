package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"time"

	"postern/internal/h2"
)

// viaStd runs do with net/http's types for the current request, for what needs
// them: handlers, and backends that do not speak HTTP/1.1.
func (m *h2Message) viaStd(x *exchange, do func(*stdMessage)) {
	x.keepTexts()
	r, err := m.request(x)
	if err != nil {
		x.problem(http.StatusBadRequest, "bad_path", "The request target is not valid.")
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	m.st.OnCancel(cancel)
	defer m.st.OnCancel(nil)
	if body, ok := r.Body.(*h2Reader); ok {
		defer body.shut()
	}
	w := &h2Writer{m: m, header: make(http.Header)}
	std := new(stdMessage)
	std.x.conn = m.conn
	std.w.reset(w)
	std.r = r.WithContext(ctx)
	defer std.end()
	do(std)
	w.finish()
}

// request makes a net/http request of the stream's.
func (m *h2Message) request(x *exchange) (*http.Request, error) {
	st := m.st
	target := strings.Clone(st.Path)
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return nil, err
	}
	ctx := context.WithValue(context.Background(), clientConnKey{}, m.conn) // the stream's own; viaStd adds the client's leaving
	r := (&http.Request{
		Method: strings.Clone(st.Method), URL: u, RequestURI: target,
		Proto: "HTTP/2.0", ProtoMajor: 2,
		Header: make(http.Header, len(st.Fields)), Host: strings.Clone(st.Authority),
		ContentLength: x.length, Body: http.NoBody, RemoteAddr: m.conn.RemoteAddr().String(),
	}).WithContext(ctx)
	for i := range st.Fields {
		f := &st.Fields[i]
		key := textproto.CanonicalMIMEHeaderKey(f.Name)
		switch key {
		case "Content-Length":
			continue
		case "Trailer":
			r.Trailer = make(http.Header)
			for name := range strings.SplitSeq(f.Value, ",") {
				r.Trailer[textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name))] = nil
			}
			continue
		}
		r.Header[key] = append(r.Header[key], strings.Clone(f.Value))
	}
	if x.holds {
		r.Body = io.NopCloser(bytes.NewReader(x.held))
	} else if st.ContentLength != 0 {
		r.Body = &h2Reader{m: m, r: r}
	}
	return r, nil
}

// h2Reader is a request body for net/http's types. The backend's side reads
// and closes it on goroutines of its own, perhaps after the answer, when the
// stream is another request's.
type h2Reader struct {
	m    *h2Message
	r    *http.Request
	life sync.RWMutex // held for reading while the stream is used
	over bool         // guarded by life
}

// shut ends a read that is under way and waits for it.
func (b *h2Reader) shut() {
	b.m.st.StopBody()
	b.life.Lock()
	defer b.life.Unlock()
	b.over = true
}

func (b *h2Reader) Read(p []byte) (int, error) {
	b.life.RLock()
	defer b.life.RUnlock()
	if b.over {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.m.st.Read(p)
	b.m.read.Add(int64(n))
	switch {
	case err == io.EOF:
		for _, f := range b.m.st.Trailers() {
			if b.r.Trailer == nil {
				b.r.Trailer = make(http.Header)
			}
			key := textproto.CanonicalMIMEHeaderKey(f.Name)
			b.r.Trailer[key] = append(b.r.Trailer[key], f.Value)
		}
	case errors.Is(err, h2.ErrStalled):
		err = &bodyStalledError{}
	}
	return n, err
}

func (b *h2Reader) Close() error {
	b.life.RLock()
	defer b.life.RUnlock()
	if !b.over {
		b.m.st.StopBody()
	}
	return nil
}

// h2Writer is the answer for net/http's types.
type h2Writer struct {
	m        *h2Message
	header   http.Header
	status   int
	sentHead bool
}

func (w *h2Writer) Header() http.Header { return w.header }

// WriteHeader keeps a final head until there is more: an answer that ends with
// it says so in the head.
func (w *h2Writer) WriteHeader(status int) {
	if w.status != 0 {
		return
	}
	if status >= 100 && status < 200 {
		w.addFields()
		_ = w.m.st.Informational(status) // a client that is gone shows at the next write
		return
	}
	w.status, w.m.begun = status, true
}

// sendHead sends the head, once.
func (w *h2Writer) sendHead(end bool) error {
	if w.sentHead {
		return nil
	}
	w.WriteHeader(http.StatusOK)
	w.sentHead = true
	if w.header.Get("Date") == "" {
		w.header.Set("Date", w.m.s.date.value(w.m.x.start))
	}
	w.addFields()
	return w.m.st.WriteHead(w.status, end)
}

func (w *h2Writer) addFields() {
	for key, values := range w.header {
		if strings.HasPrefix(key, http.TrailerPrefix) {
			continue
		}
		for _, v := range values {
			if goodField(key, v) {
				w.m.st.AddText(key, strings.TrimSpace(v))
			}
		}
	}
}

func (w *h2Writer) Write(p []byte) (int, error) {
	if err := w.sendHead(false); err != nil {
		return 0, err
	}
	if w.m.x.method == http.MethodHead || !bodyAllowed(w.status) {
		return len(p), nil
	}
	if err := w.m.st.Write(p, false); err != nil {
		return 0, err
	}
	return len(p), nil
}

// FlushError sends what was written.
func (w *h2Writer) FlushError() error {
	if err := w.sendHead(false); err != nil {
		return err
	}
	return w.m.st.Flush()
}

// SetReadDeadline and SetWriteDeadline leave deadlines to the stream's own.
func (w *h2Writer) SetReadDeadline(time.Time) error  { return nil }
func (w *h2Writer) SetWriteDeadline(time.Time) error { return nil }

// finish ends the answer with its trailers.
func (w *h2Writer) finish() {
	if w.m.begun && w.status == 0 { // answered by the exchange itself
		return
	}
	trailers := trailerFields(w.header)
	if !w.sentHead && len(trailers) == 0 {
		_ = w.sendHead(true) // a client that is gone has no use for it
		return
	}
	if w.sendHead(false) != nil {
		return
	}
	for _, f := range trailers {
		w.m.st.AddField(f.Key, f.Value)
	}
	_ = w.m.st.WriteTrailers()
}

func (m *h2Message) challenge(f func(http.ResponseWriter, *http.Request) bool) (done bool) {
	r, err := m.request(&m.x)
	if err != nil {
		return false
	}
	w := &h2Writer{m: m, header: make(http.Header)}
	if done = f(w, r); done {
		w.finish()
		m.x.status = w.status
	}
	return done
}
