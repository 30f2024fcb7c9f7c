package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/http2"
)

// conn is one connection to a backend. On HTTP/1.1 it carries one exchange at
// a time and belongs to the attempt that took it; on HTTP/2 it is shared.
type conn struct {
	b       *backend
	cc      *http.ClientConn
	tap     *tap         // nil on HTTP/2
	uses    atomic.Int64 // exchanges begun
	lastUse time.Time    // of an HTTP/2 connection; guarded by b.mu
}

// Close closes a connection that carries nothing.
func (c *conn) Close() error { return c.cc.Close() }

// send carries r over the connection. The response's Body gives the
// connection back. body is r's and may be nil.
func (c *conn) send(r *http.Request, body *replayBody) (resp *http.Response, x exchange) {
	x.reused = c.uses.Add(1) > 1
	c.b.active.Add(1)
	out := c.outgoing(r)
	out.Body = nil
	if body != nil {
		cfg := &c.b.pool.cfg
		out.Body = body.attempt(x.reused || c.tap == nil || cfg.Retry != nil || cfg.Hold > 0)
	}
	if c.tap != nil {
		c.tap.begin(c.requestLine(out))
		resp, x.err = c.cc.RoundTrip(out)
		x.answered = c.tap.answered()
	} else {
		var answered atomic.Bool
		out = out.WithContext(httptrace.WithClientTrace(out.Context(), &httptrace.ClientTrace{
			GotFirstResponseByte: func() { answered.Store(true) },
		}))
		resp, x.err = c.cc.RoundTrip(out)
		x.answered = answered.Load()
	}
	switch {
	case x.err != nil:
		x.refused, x.lost = refused(x.err), broken(x.err)
		x.unsent = !x.answered && x.lost && !x.refused && c.cc.Available() > 0
		switch {
		case errors.Is(x.err, os.ErrDeadlineExceeded):
			x.late = "send"
		case isTimeout(x.err) && !errors.Is(x.err, syscall.ETIMEDOUT):
			x.late = "response"
		}
		c.release()
	case resp.StatusCode == http.StatusSwitchingProtocols && c.tap != nil:
		c.b.active.Add(-1)
		c.tap.upgrade() // Body is the connection, and the caller's
	case c.tap != nil && c.cc.Available() == 1:
		c.release() // there is no body to wait for
	default:
		resp.Body = &responseBody{ReadCloser: resp.Body, conn: c}
	}
	return resp, x
}

// outgoing returns the copy of r that net/http is to send.
func (c *conn) outgoing(r *http.Request) *http.Request {
	out := new(http.Request)
	*out = *r
	out.Close = false // whether the client goes on with its connection is not the backend's business
	out.GetBody = nil
	out.URL = new(url.URL)
	*out.URL = *r.URL
	out.URL.Scheme, out.URL.Host = c.b.scheme(), c.b.host
	if c.tap == nil && strings.HasPrefix(out.URL.Opaque, "//") {
		// net/url would write "http://x" for the path "//x". For HTTP/2,
		// net/http cuts the scheme and the host off again.
		host := out.Host
		if host == "" {
			host = out.URL.Host
		}
		out.URL.Opaque = "//" + host + out.URL.Opaque
	}
	return out
}

// requestLine returns a request line that net/http can write and the one that
// is meant, or nothing if net/http can write that.
func (c *conn) requestLine(out *http.Request) (placeholder, line []byte) {
	target := out.URL.Opaque
	if !strings.HasPrefix(target, "//") {
		return nil, nil
	}
	out.URL.Opaque = "/"
	method := out.Method
	if method == "" {
		method = http.MethodGet
	}
	return []byte(method + " / HTTP/1.1\r\n"), []byte(method + " " + target + " HTTP/1.1\r\n")
}

// release gives the connection back after an exchange: to the pool if it can
// carry another, else to the kernel.
func (c *conn) release() {
	c.b.active.Add(-1)
	if c.tap == nil {
		c.b.touch(c)
		return
	}
	if c.cc.Available() == 1 && c.b.put(c) {
		return
	}
	_ = c.cc.Close() // nothing is left to lose on it
}

// refused reports whether the backend said that it did not begin to work on
// the request (RFC 9113 sections 6.8 and 8.7), so that even a POST may be sent
// again.
func refused(err error) bool {
	var stream http2.StreamError
	if errors.As(err, &stream) {
		return stream.Code == http2.ErrCodeRefusedStream
	}
	// Not exported by net/http: the stream's number is above GOAWAY's, or the
	// connection closed before the stream got one.
	s := err.Error()
	return s == "http2: Transport received Server's graceful shutdown GOAWAY" || s == "http2: client conn not usable"
}

// broken reports whether err ended the connection, as against one stream of
// it.
func broken(err error) bool {
	var stream http2.StreamError
	return !errors.As(err, &stream)
}

type dialedKey struct{}

// dialed is the dial function given to net/http, which does not dial: the
// connection comes with the context.
func dialed(ctx context.Context, _, _ string) (net.Conn, error) {
	return ctx.Value(dialedKey{}).(net.Conn), nil
}

// dial opens a connection for RoundTrip. h1 asks for HTTP/1.1 where the backend has a choice.
func (b *backend) dial(ctx context.Context, h1 bool) (*conn, error) {
	cfg := b.tlsBoth
	if h1 {
		cfg = b.tlsOne
	}
	nc, _, err := b.connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	shared := b.h2c
	if tc, ok := nc.(*tls.Conn); ok {
		shared = tc.ConnectionState().NegotiatedProtocol == "h2"
	}
	c := &conn{b: b}
	if !shared {
		c.tap = &tap{Conn: nc, stall: b.pool.cfg.Response}
		nc = c.tap
	}
	c.cc, err = b.transport.NewClientConn(context.WithValue(ctx, dialedKey{}, nc), b.scheme(), b.fake)
	if err != nil {
		_ = nc.Close()
		return nil, dialError(b.text, b.pool.cfg.Connect, "connect", err)
	}
	return c, nil
}

// connect opens a connection within the pool's Connect limit, the TLS
// handshake included. base is what is below TLS, or nc itself.
func (b *backend) connect(ctx context.Context, cfg *tls.Config) (nc, base net.Conn, err error) {
	limit := b.pool.cfg.Connect
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var d net.Dialer
	base, err = d.DialContext(ctx, b.network, b.addr)
	if err != nil {
		return nil, nil, dialError(b.text, limit, "connect", err)
	}
	if !b.tls {
		return base, base, nil
	}
	tc := tls.Client(&pausable{Conn: base}, cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = base.Close()
		return nil, nil, dialError(b.text, limit, "tls", err)
	}
	return tc, base, nil
}

// newTransport returns the net/http client below the connections of a pool. It
// keeps no connections and dials none; it knows the protocols.
func newTransport(cfg *Config, h2c bool) *http.Transport {
	t := &http.Transport{
		DialContext:            dialed,
		DialTLSContext:         dialed,
		DisableCompression:     true,
		DisableKeepAlives:      cfg.Idle <= 0,
		ResponseHeaderTimeout:  cfg.oneTry(),
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		Protocols:              new(http.Protocols),
		// A backend that vanished is noticed although no request waits for
		// it: 15 s of silence, then a PING that has 10 s.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
	}
	if h2c {
		t.Protocols.SetUnencryptedHTTP2(true)
	} else {
		t.Protocols.SetHTTP1(true)
		t.Protocols.SetHTTP2(true)
	}
	return t
}
