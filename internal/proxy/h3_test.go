package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"postern/internal/guard"
)

// h3Door is an HTTP/3 listener of a rig.
type h3Door struct {
	*QUICListener
	addr  string
	stop  context.CancelFunc // of ServeQUIC's context
	ended chan error
}

// listenH3 serves HTTP/3 until the test ends.
func (r *rig) listenH3() *h3Door {
	r.t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	d := &h3Door{QUICListener: NewQUICListener(pc), addr: pc.LocalAddr().String(), stop: cancel, ended: make(chan error, 1)}
	go func() { d.ended <- r.srv.ServeQUIC(ctx, d.QUICListener) }() // ends with the listener
	r.t.Cleanup(func() {
		d.Cut()
		cancel()
		if err := within(r.t, "the end of ServeQUIC", d.ended); err != nil {
			r.t.Errorf("ServeQUIC: %v", err)
		}
	})
	return d
}

// clientH3 speaks HTTP/3 to d whatever the host. mod may change how.
func clientH3(t testing.TB, d *h3Door, mod ...func(*http3.Transport)) *http.Client {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp := &quic.Transport{Conn: pc}
	tr := &http3.Transport{
		TLSClientConfig: clientTLS(http3.NextProtoH3), DisableCompression: true,
		Dial: func(ctx context.Context, _ string, cfg *tls.Config, conf *quic.Config) (*quic.Conn, error) {
			to, err := net.ResolveUDPAddr("udp", d.addr)
			if err != nil {
				return nil, err
			}
			return udp.DialEarly(ctx, to, cfg, conf)
		},
	}
	for _, f := range mod {
		f(tr)
	}
	t.Cleanup(func() {
		_ = tr.Close()
		_ = udp.Close()
		_ = pc.Close()
	})
	return &http.Client{Transport: tr, Timeout: 60 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func withServerName(name string) func(*http3.Transport) {
	return func(tr *http3.Transport) { tr.TLSClientConfig.ServerName = name }
}

func backendOf(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	b := httptest.NewServer(h)
	t.Cleanup(b.Close)
	return b.Listener.Addr().String()
}

// answered is an answer's status and body.
func answered(t testing.TB, res *http.Response, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(res.StatusCode, " ", string(b))
}

func TestH3Exchanges(t *testing.T) {
	b := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		w.Header().Set("Alt-Svc", `h3=":1"`)
		fmt.Fprintf(w, "%s %s %s %d %v %q %v xff=%s proto=%s te=%v", r.Method, r.Host, r.RequestURI, r.ContentLength, r.TransferEncoding, body, err,
			r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"), r.Header["Transfer-Encoding"])
	})
	r := start(t, options{sites: []testSite{proxyTo(t, b)}})
	c := clientH3(t, r.listenH3())

	res, err := c.Get("https://a.test/x%2Fy?q=1")
	if err != nil {
		t.Fatal(err)
	}
	if res.ProtoMajor != 3 || res.Header.Get("X-Request-Id") == "" || res.Header["Alt-Svc"] != nil {
		t.Errorf("got %s %v", res.Proto, res.Header)
	}
	if got, want := answered(t, res, nil), `200 GET a.test /x%2Fy?q=1 0 [] "" <nil> xff=127.0.0.1 proto=https te=[]`; got != want {
		t.Errorf("GET: got %s, want %s", got, want)
	}
	res, err = c.Post("https://a.test/p", "text/plain", strings.NewReader("hello"))
	if got, want := answered(t, res, err), `200 POST a.test /p 5 [] "hello" <nil> xff=127.0.0.1 proto=https te=[]`; got != want {
		t.Errorf("POST: got %s, want %s", got, want)
	}
	res, err = c.Post("https://a.test/p", "text/plain", io.MultiReader(strings.NewReader("hello"))) // of unknown length
	if got, want := answered(t, res, err), `200 POST a.test /p -1 [chunked] "hello" <nil> xff=127.0.0.1 proto=https te=[]`; got != want {
		t.Errorf("POST without a length: got %s, want %s", got, want)
	}
	req, _ := http.NewRequest(http.MethodDelete, "https://a.test/d", io.MultiReader(strings.NewReader("body all the same")))
	res, err = c.Do(req)
	if got, want := answered(t, res, err), `200 DELETE a.test /d -1 [chunked] "body all the same" <nil> xff=127.0.0.1 proto=https te=[]`; got != want {
		t.Errorf("DELETE: got %s, want %s", got, want)
	}
	res, err = c.Head("https://a.test/h")
	if got := answered(t, res, err); got != "200 " {
		t.Errorf("HEAD: got %s", got)
	}
	res, err = c.Get("https://probe.test/ping") // answered here; same connection, for it names *.test
	if got := answered(t, res, err); got != "200 pong\n" {
		t.Errorf("respond: got %s", got)
	}

	for name, n := range map[string]float64{"postern_connections_total": 1, "postern_connections_open": 1} {
		if got := r.metric(name, "listener", "h3"); got < n {
			t.Errorf("%s{listener=h3} = %v", name, got)
		}
	}
	wait(t, "six requests with label h3", func() bool { return r.metric("postern_requests_total", "proto", "h3") == 6 })
	if got := r.metric("postern_tls_handshakes_total", "result", "ok"); got < 1 {
		t.Errorf("handshakes: %v", got)
	}
	if log := r.access.String(); !strings.Contains(log, "proto=h3") || !strings.Contains(log, "tls=true") {
		t.Errorf("access log: %s", log)
	}
}

func TestH3Large(t *testing.T) {
	const size = 24 << 20
	chunk := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	want := sha256.New()
	for range size / len(chunk) {
		_, _ = want.Write(chunk)
	}
	b := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			h := sha256.New()
			n, err := io.Copy(h, r.Body)
			fmt.Fprintf(w, "%d %x %v", n, h.Sum(nil), err)
			return
		}
		for range size / len(chunk) {
			_, _ = w.Write(chunk)
		}
	})
	r := start(t, options{sites: []testSite{proxyTo(t, b)}, limits: Limits{Stall: patience}})
	c := clientH3(t, r.listenH3())

	res, err := c.Get("https://a.test/big")
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	if n, err := io.Copy(h, res.Body); n != size || err != nil || !bytes.Equal(h.Sum(nil), want.Sum(nil)) {
		t.Errorf("download: %d bytes, %v", n, err)
	}
	_ = res.Body.Close()
	up := make([]io.Reader, size/len(chunk))
	for i := range up {
		up[i] = bytes.NewReader(chunk)
	}
	res, err = c.Post("https://a.test/big", "application/octet-stream", io.MultiReader(up...))
	if got, want := answered(t, res, err), fmt.Sprintf("200 %d %x <nil>", size, want.Sum(nil)); got != want {
		t.Errorf("upload: got %s, want %s", got, want)
	}
}

func TestH3EventStreamAndCancel(t *testing.T) {
	gone := make(chan struct{})
	more := make(chan string)
	b := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		for {
			select {
			case s := <-more:
				fmt.Fprintf(w, "data: %s\n\n", s)
				_ = http.NewResponseController(w).Flush()
			case <-r.Context().Done():
				close(gone)
				return
			}
		}
	})
	r := start(t, options{sites: []testSite{proxyTo(t, b)}})
	c := clientH3(t, r.listenH3())
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "https://a.test/events", nil)
	res, err := c.Do(req) // the head comes before any event
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	in := bufio.NewScanner(res.Body)
	for _, s := range []string{"one", "two"} {
		more <- s
		if !in.Scan() || in.Text() != "data: "+s || !in.Scan() {
			t.Fatalf("got %q, %v", in.Text(), in.Err())
		}
	}
	cancel()
	within(t, "the backend's end", gone)
	wait(t, "the access line", func() bool { return strings.Contains(r.access.String(), "verdict=client_gone") })
}

func TestH3Trailers(t *testing.T) {
	b := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "body")
		w.Header().Set("X-Sum", "got "+r.Trailer.Get("X-Client-Sum")+r.Trailer.Get("X-Forwarded-For"))
		w.Header().Set(http.TrailerPrefix+"X-Late", "unannounced")
	})
	r := start(t, options{sites: []testSite{proxyTo(t, b)}})
	c := clientH3(t, r.listenH3())
	req, _ := http.NewRequest(http.MethodPost, "https://a.test/", io.MultiReader(strings.NewReader("x")))
	req.Trailer = http.Header{"X-Client-Sum": {"42"}, "X-Forwarded-For": {"192.0.2.1"}}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.ReadAll(res.Body); err != nil {
		t.Fatal(err)
	}
	if got := res.Trailer; got.Get("X-Sum") != "got 42" || got.Get("X-Late") != "unannounced" {
		t.Errorf("trailers: got %v", got)
	}
}

func TestH3CutsHalfAnAnswer(t *testing.T) {
	b := backendOf(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	r := start(t, options{sites: []testSite{proxyTo(t, b)}})
	c := clientH3(t, r.listenH3())
	res, err := c.Get("https://a.test/")
	if err != nil {
		return // the reset overtook the head
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("half an answer was taken for a whole one: %q", b)
	}
}

func TestH3StalledBody(t *testing.T) {
	b := backendOf(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	r := start(t, options{sites: []testSite{proxyTo(t, b)}, limits: Limits{Stall: 100 * time.Millisecond}})
	c := clientH3(t, r.listenH3())
	body, feed := io.Pipe()
	defer feed.Close()
	go func() { _, _ = io.WriteString(feed, "a beginning") }() // ends with the pipe
	res, err := c.Post("https://a.test/", "text/plain", body)
	if got := answered(t, res, err); !strings.HasPrefix(got, "408 ") {
		t.Errorf("got %s, want 408", got)
	}
}

// strict bans at the first sign, loopback too.
func strict() guard.Config {
	return guard.Config{Never: []netip.Prefix{}, Threshold: 1}
}

func TestH3RefusesUnknownNames(t *testing.T) {
	r := start(t, options{guard: strict()})
	d := r.listenH3()
	for range 2 { // the first may be forged: the second has to prove that it is not
		_, err := clientH3(t, d, withServerName("elsewhere.example")).Get("https://a.test/")
		if err == nil {
			t.Fatal("served under an unknown name")
		}
		if e, ok := errors.AsType[*quic.TransportError](err); !ok || !e.ErrorCode.IsCryptoError() {
			t.Fatalf("got %v, want a TLS alert", err)
		}
		if r.guard.Banned(netip.MustParseAddr("127.0.0.1"), time.Now()) {
			break
		}
	}
	wait(t, "the ban", func() bool { return r.guard.Banned(netip.MustParseAddr("127.0.0.1"), time.Now()) })
	if got := r.metric("postern_refused_connections_total", "reason", "unknown_server_name"); got != 2 {
		t.Errorf("refused: %v, want 2", got)
	}
	wait(t, "the handshake metric", func() bool { return r.metric("postern_tls_handshakes_total", "result", "unknown_server_name") == 2 })
	wait(t, "no open connection", func() bool { return r.metric("postern_connections_open", "listener", "h3") == 0 })

	_, err := clientH3(t, d).Get("https://a.test/")
	if e, ok := errors.AsType[*quic.TransportError](err); !ok || e.ErrorCode != quic.ConnectionRefused {
		t.Errorf("banned: got %v, want CONNECTION_REFUSED", err)
	}
}

func TestH3MissingName(t *testing.T) {
	r := start(t, options{guard: strict()})
	d := r.listenH3()
	for range 2 {
		// An address for a name: crypto/tls sends none then (RFC 6066 section 3).
		if _, err := clientH3(t, d, withServerName("192.0.2.1")).Get("https://a.test/"); err == nil {
			t.Fatal("served without a name")
		}
	}
	wait(t, "the ban", func() bool { return r.guard.Banned(netip.MustParseAddr("127.0.0.1"), time.Now()) })
	if got := r.metric("postern_refused_connections_total", "reason", "no_server_name"); got != 2 {
		t.Errorf("refused: %v, want 2", got)
	}
}

// A refused request costs its stream, and the connection once the address is
// banned.
func TestH3HangUp(t *testing.T) {
	cfg := strict()
	cfg.Threshold = 20
	cfg.Weights = map[guard.Signal]float64{guard.UnknownHost: 12}
	r := start(t, options{guard: cfg})
	qc, err := quic.DialAddr(t.Context(), r.listenH3().addr, clientTLS(http3.NextProtoH3), nil)
	if err != nil {
		t.Fatal(err)
	}
	c := new(http3.Transport).NewClientConn(qc) // one connection: a Transport would dial another
	get := func(host string) error {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+host+"/ping", nil)
		res, err := c.RoundTrip(req)
		if err == nil {
			_ = res.Body.Close()
		}
		return err
	}
	if err := get("probe.test"); err != nil {
		t.Fatal(err)
	}
	err = get("other.test")
	if e, ok := errors.AsType[*http3.Error](err); !ok || e.ErrorCode != http3.ErrCodeInternalError {
		t.Fatalf("unknown host: got %v, want a reset stream", err)
	}
	if err := get("probe.test"); err != nil {
		t.Fatalf("the connection went with the stream: %v", err)
	}
	err = get("other.test")
	if e, ok := errors.AsType[*quic.ApplicationError](err); !ok || e.ErrorCode != quic.ApplicationErrorCode(http3.ErrCodeExcessiveLoad) {
		t.Errorf("banned: got %v, want the connection closed with H3_EXCESSIVE_LOAD", err)
	}
	wait(t, "no open connection", func() bool { return r.metric("postern_connections_open", "listener", "h3") == 0 })
}

func TestH3ConnectionsPerAddress(t *testing.T) {
	cfg := guard.Config{Never: []netip.Prefix{}, PerAddress: 1}
	r := start(t, options{guard: cfg})
	d := r.listenH3()
	first := clientH3(t, d)
	res, err := first.Get("https://probe.test/ping")
	if got := answered(t, res, err); got != "200 pong\n" {
		t.Fatal(got)
	}
	_, err = clientH3(t, d).Get("https://probe.test/ping")
	if e, ok := errors.AsType[*quic.TransportError](err); !ok || e.ErrorCode != quic.ConnectionRefused {
		t.Fatalf("second connection: got %v, want CONNECTION_REFUSED", err)
	}
	_ = first.Transport.(*http3.Transport).Close()
	wait(t, "the place of the first", func() bool {
		res, err := clientH3(t, d).Get("https://probe.test/ping")
		if err == nil {
			_ = res.Body.Close()
		}
		return err == nil
	})
}

// While many clients have not shown that they are where they say, all others
// must.
func TestH3RetryUnderLoad(t *testing.T) {
	r := start(t, options{})
	d := r.listenH3()
	r.srv.unproven.Add(quicMaxUnproven)
	res, err := clientH3(t, d).Get("https://probe.test/ping")
	if got := answered(t, res, err); got != "200 pong\n" {
		t.Fatal(got)
	}
	if got := r.srv.unproven.Load(); got != quicMaxUnproven {
		t.Errorf("unproven: %d, want %d: a client with a token was counted", got, quicMaxUnproven)
	}
	r.srv.unproven.Add(-quicMaxUnproven)
	res, err = clientH3(t, d).Get("https://probe.test/ping")
	if got := answered(t, res, err); got != "200 pong\n" {
		t.Fatal(got)
	}
	wait(t, "no unproven client", func() bool { return r.srv.unproven.Load() == 0 })
}

// Clients over the bound are refused at once and stay with TCP.
func TestH3Full(t *testing.T) {
	r := start(t, options{})
	d := r.listenH3()
	r.srv.quicOpen.Add(quicMaxConns)
	_, err := clientH3(t, d).Get("https://probe.test/ping")
	if e, ok := errors.AsType[*quic.TransportError](err); !ok || e.ErrorCode != quic.ConnectionRefused {
		t.Errorf("got %v, want CONNECTION_REFUSED", err)
	}
	r.srv.quicOpen.Add(-quicMaxConns)
	res, err := clientH3(t, d).Get("https://probe.test/ping")
	if got := answered(t, res, err); got != "200 pong\n" {
		t.Fatal(got)
	}
	wait(t, "one connection", func() bool { return r.srv.quicOpen.Load() == 1 })
}

// quic-go offers WebSockets over HTTP/3 in its settings; who takes the offer is
// told that it is void, and not banned for CONNECT.
func TestH3ExtendedConnect(t *testing.T) {
	r := start(t, options{guard: strict()})
	qc, err := quic.DialAddr(t.Context(), r.listenH3().addr, clientTLS(http3.NextProtoH3), nil)
	if err != nil {
		t.Fatal(err)
	}
	c := new(http3.Transport).NewClientConn(qc)
	within(t, "the settings", c.ReceivedSettings())
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodConnect, "https://probe.test/ping", http.NoBody)
	req.Proto = "websocket"
	res, err := c.RoundTrip(req)
	if got := answered(t, res, err); !strings.HasPrefix(got, "501 ") {
		t.Errorf("got %s", got)
	}
	if r.guard.Banned(netip.MustParseAddr("127.0.0.1"), time.Now()) {
		t.Error("banned for it")
	}
}

func TestH3HeadTooLarge(t *testing.T) {
	r := start(t, options{limits: Limits{Header: 4 << 10}})
	c := clientH3(t, r.listenH3())
	req, _ := http.NewRequest(http.MethodGet, "https://probe.test/ping", nil)
	req.Header.Set("X-Large", strings.Repeat("x", 8<<10))
	res, err := c.Do(req)
	if got := answered(t, res, err); !strings.HasPrefix(got, "431 ") {
		t.Errorf("got %s", got)
	}
}

// Datagrams that are no QUIC, or only look like it, cost nobody anything.
func TestH3Junk(t *testing.T) {
	r := start(t, options{guard: strict()})
	d := r.listenH3()
	u, err := net.Dial("udp", d.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	junk := bytes.Repeat([]byte{0xc3, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x44, 0x9e}, 70) // begins as an Initial packet does
	for n := range 400 {
		p := junk[:1+(n*37)%len(junk)]
		if n%3 == 0 {
			p = append([]byte{byte(n)}, p...)
		}
		if _, err := u.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, "an answer", func() bool { // while 16 such are being looked at, by Retry
		res, err := clientH3(t, d).Get("https://probe.test/ping")
		if err != nil {
			t.Log(err)
			return false
		}
		return answered(t, res, nil) == "200 pong\n"
	})
	if r.guard.Banned(netip.MustParseAddr("127.0.0.1"), time.Now()) {
		t.Error("banned for what anybody could have sent in its name")
	}
}

func TestAltSvc(t *testing.T) {
	b := backendOf(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Alt-Svc", `h3=":1"`) })
	for _, c := range []struct {
		name    string
		http3   bool
		trusted []netip.Prefix
		url     string
		want    string
	}{
		{"forwarded", true, nil, "https://a.test/", `h3=":443"; ma=86400`},
		{"forwarded, other port", true, nil, "https://a.test:8443/", `h3=":8443"; ma=86400`},
		{"answered here", true, nil, "https://probe.test/ping", `h3=":443"; ma=86400`},
		{"refused here", true, nil, "https://probe.test/favicon.ico", `h3=":443"; ma=86400`},
		{"clear text", true, nil, "http://a.test/", ""},
		{"off", false, nil, "https://a.test/", ""},
		{"through a trusted proxy", true, loopback, "https://a.test/", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := start(t, options{sites: []testSite{proxyTo(t, b)}, trusted: c.trusted})
			snap := *r.srv.snap.Load()
			snap.HTTP3 = c.http3
			r.srv.Apply(&snap)
			for _, h2 := range []bool{false, true} {
				if h2 && strings.HasPrefix(c.url, "http:") {
					continue
				}
				res, err := r.httpClient(h2).Get(c.url)
				answered(t, res, err)
				if got := strings.Join(res.Header["Alt-Svc"], "|"); got != c.want {
					t.Errorf("h2 %v: got %q, want %q", h2, got, c.want)
				}
			}
		})
	}
}

func TestCurlHTTP3(t *testing.T) {
	out, err := exec.Command("curl", "--version").Output()
	if err != nil || !strings.Contains(string(out), "HTTP3") {
		t.Skip("no curl with HTTP/3 here")
	}
	r := start(t, options{})
	d := r.listenH3()
	_, port, _ := net.SplitHostPort(d.addr)
	out, err = exec.CommandContext(t.Context(), "curl", "-sk", "--http3-only", "--max-time", "20",
		"--resolve", "probe.test:"+port+":127.0.0.1", "-w", "%{http_version}", "https://probe.test:"+port+"/ping").CombinedOutput()
	if err != nil || string(out) != "pong\n3" {
		t.Errorf("got %q, %v", out, err)
	}
}
