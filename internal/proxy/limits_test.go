package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"postern/internal/guard"
)

// nobodySpared makes a guard judge loopback as anybody.
func nobodySpared() guard.Config { return guard.Config{Never: []netip.Prefix{}} }

// ended reads c to its end and returns what came.
func ended(t testing.TB, c io.Reader) (string, error) {
	t.Helper()
	b, err := io.ReadAll(c)
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		t.Fatalf("the connection is still open after %v; it said %q", patience, b)
	}
	return string(b), err
}

func TestSlowHead(t *testing.T) {
	l := quick(patience)
	l.HeaderIn = 50 * time.Millisecond
	r := start(t, options{limits: l})
	c := r.dial()
	send(t, c, "GET / HTTP/1.1\r\nHo")
	if got, _ := ended(t, c); strings.Contains(got, "200") {
		t.Errorf("got %q", got)
	}
	wait(t, "the count", func() bool { return r.metric("postern_refused_connections_total", "reason", "header_timeout") == 1 })
}

func TestSlowHandshake(t *testing.T) {
	l := quick(patience)
	l.Handshake = 50 * time.Millisecond
	r := start(t, options{limits: l})
	c := dialTCP(t, r.secure)
	send(t, c, "\x16\x03\x01")
	if got, _ := ended(t, c); got != "" {
		t.Errorf("got %q", got)
	}
	wait(t, "the count", func() bool { return r.metric("postern_tls_handshakes_total", "result", "timeout") == 1 })
}

func TestIdle(t *testing.T) {
	l := quick(patience)
	l.Idle = 50 * time.Millisecond
	r := start(t, options{limits: l})
	for _, c := range []net.Conn{r.dial(), r.dialTLS("http/1.1")} {
		send(t, c, "GET /ping HTTP/1.1\r\nHost: probe.test\r\n\r\n")
		if got, err := ended(t, c); !strings.HasSuffix(got, "pong\n") || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	}
}

// A body below the least rate is cut with 408; one that keeps to it lives on
// for longer than any single period.
func TestSlowBody(t *testing.T) {
	target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, err)
	})
	const stall = 150 * time.Millisecond
	r := start(t, options{sites: []testSite{proxyTo(t, target)}, limits: quick(stall)})
	head := "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000\r\n\r\n"

	c := r.dial()
	send(t, c, head+"x")
	if got, _ := ended(t, c); !strings.Contains(got, " 408 ") || !strings.Contains(got, "body_stalled") {
		t.Errorf("stalled: got %q", got)
	}

	c = r.dial()
	send(t, c, head)
	began := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range 10 { // 100 bytes in 50 ms: 2000 a second
		<-tick.C
		send(t, c, strings.Repeat("x", 100))
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(res.Body); string(body) != "1000 <nil>" || time.Since(began) < 2*stall {
		t.Errorf("steady: got %q after %v", body, time.Since(began))
	}
}

// What the backend takes its time for does not count against the client.
func TestSlowBackend(t *testing.T) {
	const stall = 400 * time.Millisecond // the client itself may be this late, on a busy machine
	target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.CopyN(io.Discard, r.Body, 1)
		rest := time.NewTimer(2 * stall)
		<-rest.C
		m, err2 := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n+m, err, err2)
	})
	overBoth(t, func(t *testing.T, h2 bool) {
		r := start(t, options{sites: []testSite{proxyTo(t, target)}, limits: quick(stall)})
		req := request(t, "POST", "https://a.test/", io.LimitReader(zeros{}, 16<<20))
		req.ContentLength = 16 << 20
		if res, body := do(t, r.httpClient(h2), req); res.StatusCode != 200 || body != "16777216 <nil> <nil>" {
			t.Errorf("got %d %q", res.StatusCode, body)
		}
	})
}

// A client that does not read is cut off, and the backend with it.
func TestStalledReader(t *testing.T) {
	for _, protocol := range []string{"clear", "http/1.1", "h2"} {
		t.Run(strings.ReplaceAll(protocol, "/", "_"), func(t *testing.T) {
			t.Parallel()
			over := make(chan struct{})
			target := backend(t, func(w http.ResponseWriter, r *http.Request) {
				defer close(over)
				_, _ = io.CopyN(w, zeros{}, 1<<30)
			})
			r := start(t, options{sites: []testSite{proxyTo(t, target)}, limits: quick(100 * time.Millisecond)})
			switch protocol {
			case "clear":
				send(t, r.dial(), "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
			case "http/1.1":
				send(t, r.dialTLS(protocol), "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
			default:
				h2Get(t, r.dialTLS(protocol), 65535)
			}
			within(t, "the end at the backend", over)
		})
	}
}

// h2Get sends one GET with the given stream window and returns the framer.
func h2Get(t *testing.T, c net.Conn, window uint32) *http2.Framer {
	t.Helper()
	send(t, c, http2.ClientPreface)
	f := http2.NewFramer(c, c)
	if err := f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "a.test"}, {":path", "/"}} {
		if err := enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	return f
}

// A client that opens no window gets not even a problem document's body; its
// stream must not be held for it.
func TestShutWindow(t *testing.T) {
	r := start(t, options{sites: []testSite{proxyTo(t, closedPort(t))}, limits: quick(100 * time.Millisecond)})
	f := h2Get(t, r.dialTLS("h2"), 0)
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := frame.(*http2.RSTStreamFrame); ok {
			return
		}
	}
}

func TestConnectionCaps(t *testing.T) {
	g := nobodySpared()
	g.PerAddress = 2
	r := start(t, options{guard: g, limits: quick(patience)})
	a, b := r.dial(), r.dial()
	for _, c := range []net.Conn{a, b} {
		send(t, c, "GET /ping HTTP/1.1\r\nHost: probe.test\r\n\r\n")
		if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
			t.Fatal(err)
		}
	}
	mustBeRefused(t, r.clear)
	_ = a.Close()
	wait(t, "a free place", func() bool {
		c, err := net.Dial("tcp", r.clear)
		if err != nil {
			return false
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(c, "GET /ping HTTP/1.1\r\nHost: probe.test\r\n\r\n")
		_, err = http.ReadResponse(bufio.NewReader(c), nil)
		return err == nil
	})
}

// mustBeRefused opens a connection that ends without a byte, perhaps before
// connect returns.
func mustBeRefused(t testing.TB, addr string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if got, _ := ended(t, c); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestBannedAddress(t *testing.T) {
	r := start(t, options{guard: nobodySpared(), limits: quick(patience)})
	if err := r.guard.Ban(netip.MustParseAddr("127.0.0.1"), time.Hour, "test", time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{r.clear, r.secure} {
		mustBeRefused(t, addr)
	}
	if r.metric("postern_connections_total") != 0 {
		t.Error("a banned address counts as a connection")
	}
}

// Scanning bans, and the ban holds on connections that are open already.
func TestScannerIsBanned(t *testing.T) {
	r := start(t, options{guard: nobodySpared(), limits: quick(patience), sites: []testSite{proxyTo(t, closedPort(t))}})
	open := r.dial()
	send(t, open, "GET /ping HTTP/1.1\r\nHost: probe.test\r\n\r\n")
	br := bufio.NewReader(open)
	if _, err := http.ReadResponse(br, nil); err != nil {
		t.Fatal(err)
	}
	send(t, r.dial(), "GET /.env HTTP/1.1\r\nHost: probe.test\r\n\r\n")
	wait(t, "the ban", func() bool { return r.guard.Banned(netip.MustParseAddr("127.0.0.1"), time.Now()) })
	_, _ = io.WriteString(open, "GET /ping HTTP/1.1\r\nHost: probe.test\r\n\r\n")
	if got, _ := ended(t, br); got != "pong\n" { // the first answer's body
		t.Errorf("the banned client got %q", got)
	}
}

func TestProxyProtocol(t *testing.T) {
	g := nobodySpared()
	r := start(t, options{guard: g, trusted: loopback, limits: quick(patience), sites: []testSite{proxyTo(t, closedPort(t))}})
	header := func(version byte, addr string) string {
		h := proxyproto.HeaderProxyFromAddrs(version, &net.TCPAddr{IP: net.ParseIP(addr), Port: 1}, &net.TCPAddr{IP: net.ParseIP("192.0.2.2"), Port: 2})
		b, err := h.Format()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, version := range []byte{1, 2} {
		c := dialTCP(t, r.secure)
		send(t, c, header(version, "203.0.113.9"))
		tc := tls.Client(c, clientTLS("http/1.1"))
		send(t, tc, "GET /ping HTTP/1.1\r\nHost: probe.test\r\nConnection: close\r\n\r\n")
		if got, _ := ended(t, tc); !strings.HasSuffix(got, "pong\n") {
			t.Errorf("version %d: got %q", version, got)
		}
	}
	wait(t, "the access lines", func() bool { return strings.Count(r.access.String(), "client=203.0.113.9") == 2 })
	if err := r.guard.Ban(netip.MustParseAddr("203.0.113.9"), time.Hour, "", time.Now()); err != nil {
		t.Fatal(err)
	}
	c := r.dial()
	send(t, c, header(2, "203.0.113.9"))
	if got, _ := ended(t, c); got != "" {
		t.Errorf("a banned client behind a trusted proxy got %q", got)
	}
	c = r.dial()
	send(t, c, "PROXY TCP9 nonsense\r\n")
	if got, _ := ended(t, c); got != "" {
		t.Errorf("a broken header got %q", got)
	}
	wait(t, "the count", func() bool { return r.metric("postern_refused_connections_total", "reason", "proxy_protocol") == 1 })
}

func TestHandshakeResults(t *testing.T) {
	tests := []struct {
		want string
		act  func(c net.Conn)
	}{
		{"no_server_name", func(c net.Conn) { _ = tls.Client(c, &tls.Config{InsecureSkipVerify: true}).Handshake() }},
		{"unknown_server_name", func(c net.Conn) { _ = tls.Client(c, &tls.Config{ServerName: "other.example"}).Handshake() }},
		{"no_common_parameters", func(c net.Conn) {
			_ = tls.Client(c, &tls.Config{ServerName: "a.test", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}).Handshake()
		}},
		{"client_alert", func(c net.Conn) { _ = tls.Client(c, &tls.Config{ServerName: "a.test"}).Handshake() }},
		{"client_gone", func(c net.Conn) { send(t, c, "\x16\x03\x01\x02\x00"); _ = c.Close() }},
		{"not_tls", func(c net.Conn) { send(t, c, "GET / HTTP/1.1\r\n\r\n") }},
		{"ok", func(c net.Conn) { _ = tls.Client(c, clientTLS("h2")).Handshake() }},
	}
	for _, tt := range tests {
		t.Run(tt.want, func(t *testing.T) {
			r := start(t, options{limits: quick(patience)})
			tt.act(dialTCP(t, r.secure))
			wait(t, "the count", func() bool { return r.metric("postern_tls_handshakes_total", "result", tt.want) == 1 })
			if got := r.metric("postern_tls_handshakes_total"); got != 1 {
				t.Errorf("%v handshakes", got)
			}
		})
	}
}

// TestRefusedHello: who asks for a name that is not here gets no byte, or an
// alert while the guard only looks on.
func TestRefusedHello(t *testing.T) {
	for _, tt := range []struct {
		mode guard.Mode
		want float64
	}{{guard.Enforce, 0}, {guard.Detect, 7}, {guard.Off, 7}} {
		r := start(t, options{limits: quick(patience), guard: guard.Config{Mode: tt.mode}})
		_ = tls.Client(dialTCP(t, r.secure), &tls.Config{ServerName: "other.example"}).Handshake()
		wait(t, "the end", func() bool {
			return r.metric("postern_connections_open") == 0 && r.metric("postern_received_bytes_total") > 0
		})
		if got := r.metric("postern_sent_bytes_total"); got != tt.want {
			t.Errorf("mode %v: %v bytes sent, want %v", tt.mode, got, tt.want)
		}
	}
}
