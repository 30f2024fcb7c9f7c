package proxy

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// altSvcAge is how long a client remembers that HTTP/3 is here, in seconds.
const altSvcAge = "86400"

// altSvc is the value of Alt-Svc (RFC 7838 section 3), "" for none. The port
// is the one the client came to, as its URL has it: behind a router that maps
// ports it is not the listener's. Who came through a trusted proxy did not
// come to us, and cannot.
func (x *exchange) altSvc() string {
	if !x.snap.HTTP3 || !x.secure || x.conn.kind == KindH3 {
		return ""
	}
	if len(x.snap.Trusted) > 0 && contains(x.snap.Trusted, x.conn.peer) {
		return ""
	}
	i := strings.LastIndexByte(x.rawHost, ':')
	if i < 0 || strings.HasSuffix(x.rawHost, "]") || x.rawHost[i:] == ":" || x.rawHost[i:] == ":443" {
		return `h3=":443"; ma=` + altSvcAge
	}
	port := x.rawHost[i+1:]
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return ""
	}
	return `h3=":` + port + `"; ma=` + altSvcAge
}

// isAltSvc reports the field by which a backend tells where else it is, which
// is not where its clients are.
func isAltSvc(key []byte) bool {
	return len(key) == len("alt-svc") && strings.EqualFold(text(key), "alt-svc")
}

// wantsTunnel reports an extended CONNECT (RFC 9220). quic-go offers it in its
// settings whether its user knows it or not, so a browser that believes it is
// no scanner.
func (m *stdMessage) wantsTunnel() bool {
	return m.r.ProtoMajor == 3 && m.r.Method == http.MethodConnect && m.r.Proto != "HTTP/3.0"
}

// h3Body makes a body of http3 what net/http's are: its trailers come in the
// map that was announced with the head.
type h3Body struct {
	io.ReadCloser
	r         *http.Request
	announced http.Header
	first     [1]byte
	ahead     int   // of first, read and not handed on yet
	err       error // met when first was read
}

func (b *h3Body) Read(p []byte) (int, error) {
	if b.ahead > 0 && len(p) > 0 {
		b.ahead = 0
		p[0] = b.first[0]
		return 1, nil
	}
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		for field := range b.announced {
			b.announced[field] = b.r.Trailer[field]
		}
	}
	return n, err
}

// settleLength learns whether an HTTP/3 request has a body when it does not
// say so. http3 does not tell: the stream's end may come with the head or
// later. Methods that hardly ever have a body are waited for, so that a GET
// goes to the backend as a GET without one; others are taken to have one.
func (m *stdMessage) settleLength(x *exchange) {
	r := m.r
	if r.ProtoMajor != 3 || r.Body == nil {
		return
	}
	delete(r.Header, "Host") // http3 leaves it beside :authority
	b := &h3Body{ReadCloser: r.Body, r: r, announced: r.Trailer}
	r.Body = b
	if r.ContentLength >= 0 || !seldomWithBody(r.Method) {
		return
	}
	control := http.NewResponseController(m.w.ResponseWriter)
	if stall := x.snap.Limits.Stall; stall > 0 {
		_ = control.SetReadDeadline(time.Now().Add(stall))
		defer func() { _ = control.SetReadDeadline(time.Time{}) }()
	}
	for range 16 { // frames may be empty
		b.ahead, b.err = b.ReadCloser.Read(b.first[:])
		if b.ahead > 0 || b.err != nil {
			break
		}
	}
	if b.ahead == 0 && b.err == io.EOF {
		r.Body, r.ContentLength, x.length = http.NoBody, 0, 0
	}
}

// seldomWithBody reports the methods for which RFC 9110 gives a body no
// meaning.
func seldomWithBody(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodDelete, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}
