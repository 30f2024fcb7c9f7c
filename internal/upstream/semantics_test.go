package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestHostAndHeaderGoOutAsGiven(t *testing.T) {
	heads := make(chan *http.Request, 1)
	p := newPool(t, Config{Idle: DefaultIdle}, serve(t, func(_ http.ResponseWriter, r *http.Request) { heads <- r }))
	r := request(t, "GET", "")
	r.Host = "mypi.duckdns.org"
	r.Close = true
	r.Header["User-Agent"] = []string{""}
	r.Header["X-Twice"] = []string{"a", "b"}
	mustGet(t, p, r, 200, "")
	got := <-heads
	if got.Host != "mypi.duckdns.org" || got.Close {
		t.Errorf("host %s, close %t", got.Host, got.Close)
	}
	if fmt.Sprint(got.Header) != "map[X-Twice:[a b]]" {
		t.Errorf("header %v: something was added or lost", got.Header)
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &script{}
	rawServe(t, ln, s.handle)
	p := newPool(t, Config{Idle: DefaultIdle}, "unix:"+path)
	mustGet(t, p, request(t, "GET", ""), 200, "")
	mustGet(t, p, request(t, "POST", "x"), 200, "")
	if got := fmt.Sprint(s.requests()); got != "[1:GET  1:POST x]" {
		t.Errorf("the backend saw %s", got)
	}
	p = newPool(t, Config{}, "unix:"+path+".not")
	mustFail(t, p, request(t, "GET", ""), classDial)
}

// upgradeEcho answers an upgrade and echoes until the other side ends, then
// says bye.
func upgradeEcho(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		_, _ = io.WriteString(w, r.Proto)
		return
	}
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	_, _ = io.Copy(c, rw)
	_, _ = io.WriteString(c, "bye")
}

func checkUpgrade(t *testing.T, p *Pool, halfClose bool) {
	t.Helper()
	r := request(t, "GET", "")
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "echo")
	resp, err := p.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	rw, ok := resp.Body.(io.ReadWriteCloser)
	if !ok || resp.StatusCode != 101 {
		t.Fatalf("got %s with a %T", resp.Status, resp.Body)
	}
	defer rw.Close()
	for range 3 {
		if _, err := io.WriteString(rw, "hello"); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(rw, got); err != nil || string(got) != "hello" {
			t.Fatalf("echo %q, %v", got, err)
		}
	}
	if !halfClose {
		return
	}
	if err := rw.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(rw); err != nil || string(got) != "bye" {
		t.Errorf("after the half close: %q, %v", got, err)
	}
}

func TestUpgrade(t *testing.T) {
	checkUpgrade(t, newPool(t, Config{Idle: DefaultIdle}, serve(t, upgradeEcho)), true)
	h2c := serveH2C(t, http.HandlerFunc(upgradeEcho))
	p := newPool(t, Config{Idle: DefaultIdle}, "h2c://"+h2c)
	r := request(t, "GET", "")
	r.Header.Set("Upgrade", "echo")
	mustFail(t, p, r, classRequest)
}

// serveTLS returns its address, which its certificate is valid for, and a
// client configuration that trusts it.
func serveTLS(t *testing.T, h2 bool, h http.HandlerFunc) (string, *tls.Config) {
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = h2
	s.Config.ErrorLog = quiet
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s.Listener.Addr().String(), &tls.Config{RootCAs: roots}
}

func TestTLS(t *testing.T) {
	for _, tt := range []struct {
		h2   bool
		want string
	}{{false, "HTTP/1.1"}, {true, "HTTP/2.0"}} {
		addr, cfg := serveTLS(t, tt.h2, upgradeEcho)
		p := newPool(t, Config{Idle: DefaultIdle, TLS: cfg}, "https://"+addr)
		mustGet(t, p, request(t, "GET", ""), 200, tt.want)
		r, trace := traced(request(t, "GET", ""))
		mustGet(t, p, r, 200, tt.want)
		if !trace.Reused {
			t.Errorf("%s: trace %+v", tt.want, trace)
		}
		// An upgrade needs HTTP/1.1, whatever ALPN would have chosen, and
		// leaves the other connections as they are.
		checkUpgrade(t, p, false)
		mustGet(t, p, request(t, "GET", ""), 200, tt.want)
	}
}

func TestTLSVerifies(t *testing.T) {
	addr, cfg := serveTLS(t, true, upgradeEcho)
	_, port, _ := net.SplitHostPort(addr)
	for _, tt := range []struct {
		name, target string
		cfg          *tls.Config
	}{
		{"unknown authority", "https://" + addr, nil},
		{"other name", "https://localhost:" + port, cfg},
	} {
		p := newPool(t, Config{TLS: tt.cfg}, tt.target)
		err := mustFail(t, p, request(t, "GET", ""), classTLS)
		var verify *tls.CertificateVerificationError
		if !errors.As(err, &verify) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	p := newPool(t, Config{}, "https://"+named(t, "clear"))
	err := mustFail(t, p, request(t, "GET", ""), classTLS)
	if !strings.Contains(err.Error(), "does not speak TLS") {
		t.Errorf("got %v", err)
	}
}

// TestTLSResend: the end of a TLS connection comes with a close_notify alert,
// which must not be taken for an answer.
func TestTLSResend(t *testing.T) {
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	defer cert.Close()
	roots := x509.NewCertPool()
	roots.AddCert(cert.Certificate())
	s := &script{steps: []step{answer, hangUp}}
	addr := rawServer(t, func(c net.Conn) {
		tc := tls.Server(c, &tls.Config{Certificates: cert.TLS.Certificates})
		s.handle(tc)
		_ = tc.Close()
	})
	p := newPool(t, Config{Idle: time.Minute, TLS: &tls.Config{RootCAs: roots}}, "https://"+addr)
	mustGet(t, p, request(t, "GET", ""), 200, "")
	r, trace := traced(request(t, "POST", "payload"))
	mustGet(t, p, r, 200, "")
	if !trace.Retried {
		t.Errorf("trace %+v", trace)
	}
}

func TestTrailers(t *testing.T) {
	h := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		_, _ = w.Write(body)
		w.Header().Set("X-Sum", r.Trailer.Get("X-Asked")+"!")
		w.Header().Set(http.TrailerPrefix+"X-Late", "1")
	}
	for _, target := range []string{serve(t, h), "h2c://" + serveH2C(t, http.HandlerFunc(h))} {
		p := newPool(t, Config{Idle: DefaultIdle}, target)
		r := request(t, "POST", "x")
		r.ContentLength = -1
		trailer := http.Header{"X-Asked": nil}
		r.Trailer = trailer
		r.Body = &atEOF{ReadCloser: r.Body, do: func() { trailer.Set("X-Asked", "now") }}
		resp := mustGet(t, p, r, 200, "x")
		if got := resp.Trailer.Get("X-Sum"); got != "now!" || resp.Trailer.Get("X-Late") != "1" {
			t.Errorf("%s: trailer %v", target, resp.Trailer)
		}
	}
}

type atEOF struct {
	io.ReadCloser
	do func()
}

func (b *atEOF) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.do()
	}
	return n, err
}

func TestExpectContinue(t *testing.T) {
	h := func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "PUT" {
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusExpectationFailed)
			return
		}
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	}
	p := newPool(t, Config{Idle: DefaultIdle}, serve(t, h))
	for _, tt := range []struct {
		method, body string
		status       int
		read         bool
	}{{"POST", "payload", 200, true}, {"PUT", "", 417, false}} {
		var got100 bool
		r := request(t, tt.method, "payload")
		r.Header.Set("Expect", "100-continue")
		r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{Got100Continue: func() { got100 = true }}))
		var asked bool
		r.Body = &onRead{ReadCloser: r.Body, do: func() { asked = true }}
		resp, err := p.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != tt.status || string(body) != tt.body || got100 != tt.read || asked != tt.read {
			t.Errorf("%s: %d %q, 100 %t, body read %t", tt.method, resp.StatusCode, body, got100, asked)
		}
	}
}

type onRead struct {
	io.ReadCloser
	do func()
}

func (b *onRead) Read(p []byte) (int, error) { b.do(); return b.ReadCloser.Read(p) }

func TestInformationalResponses(t *testing.T) {
	h := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusNoContent)
	}
	for _, target := range []string{serve(t, h), "h2c://" + serveH2C(t, http.HandlerFunc(h))} {
		p := newPool(t, Config{Idle: DefaultIdle}, target)
		var got []string
		r := request(t, "GET", "")
		r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				got = append(got, fmt.Sprintf("%d %s", code, h.Get("Link")))
				return nil
			},
		}))
		mustGet(t, p, r, 204, "")
		if fmt.Sprint(got) != "[103 </a.css>; rel=preload]" {
			t.Errorf("%s: got %v", target, got)
		}
	}
}

func TestCancelReachesTheBackend(t *testing.T) {
	for _, scheme := range []string{"http://", "h2c://"} {
		begun, gone := make(chan struct{}), make(chan struct{})
		h := func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
			close(begun)
			<-r.Context().Done()
			close(gone)
		}
		addr := serve(t, h)
		if scheme == "h2c://" {
			addr = serveH2C(t, http.HandlerFunc(h))
		}
		p := newPool(t, Config{Idle: DefaultIdle}, scheme+addr)
		ctx, cancel := context.WithCancel(context.Background())
		resp, err := p.RoundTrip(request(t, "GET", "").WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		<-begun
		cancel()
		<-gone
		if _, err := io.ReadAll(resp.Body); Class(err) != classCanceled {
			t.Errorf("%s body: %v", scheme, err)
		}
		_ = resp.Body.Close()
	}
}

func TestHeadAndEmptyBodies(t *testing.T) {
	addr := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "5") })
	p := newPool(t, Config{Idle: DefaultIdle}, addr)
	for i := range 3 {
		r, trace := traced(request(t, "HEAD", ""))
		resp := mustGet(t, p, r, 200, "")
		if resp.ContentLength != 5 || trace.Reused != (i > 0) {
			t.Errorf("length %d, trace %+v", resp.ContentLength, trace)
		}
	}
}

func TestInvalidRequest(t *testing.T) {
	addr := named(t, "a")
	for _, target := range []string{addr, "h2c://" + serveH2C(t, http.NotFoundHandler())} {
		p := newPool(t, Config{Idle: DefaultIdle}, target)
		r := request(t, "GET", "")
		r.Header["X-Bad"] = []string{"secret\r\nvalue"}
		err := mustFail(t, p, r, classRequest)
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%v tells the value", err)
		}
		r = request(t, "GET", "")
		r.Method = "GE T"
		mustFail(t, p, r, classRequest)
	}
}

func TestBrokenRequestBody(t *testing.T) {
	broken := errors.New("client went away")
	p := newPool(t, Config{Idle: DefaultIdle}, serve(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	r := request(t, "POST", "")
	pr, pw := io.Pipe()
	_ = pw.CloseWithError(broken)
	r.Body, r.ContentLength = pr, 100
	if err := mustFail(t, p, r, classRequest); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

// TestFullDuplex: the response begins before the request has ended.
func TestFullDuplex(t *testing.T) {
	h := func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		br := bufio.NewReader(r.Body)
		for {
			line, err := br.ReadString('\n')
			if err != nil {
				return
			}
			_, _ = io.WriteString(w, line)
			_ = rc.Flush()
		}
	}
	for _, target := range []string{serve(t, h), "h2c://" + serveH2C(t, http.HandlerFunc(h))} {
		p := newPool(t, Config{Idle: DefaultIdle}, target)
		pr, pw := io.Pipe()
		r := request(t, "POST", "")
		r.Body, r.ContentLength = pr, -1
		lines := make(chan string)
		go func() { // ends with lines
			for line := range lines {
				_, _ = io.WriteString(pw, line)
			}
			_ = pw.Close()
		}()
		lines <- "one\n"
		resp, err := p.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		br := bufio.NewReader(resp.Body)
		for _, want := range []string{"one\n", "two\n", "three\n"} {
			if want != "one\n" {
				lines <- want
			}
			if got, err := br.ReadString('\n'); err != nil || got != want {
				t.Fatalf("%s: got %q, %v", target, got, err)
			}
		}
		close(lines)
		if _, err := br.ReadByte(); err != io.EOF {
			t.Errorf("%s: end %v", target, err)
		}
		_ = resp.Body.Close()
	}
}

// TestLargeBodiesAreStreamed sends and receives 200 MB and looks at the heap.
func TestLargeBodiesAreStreamed(t *testing.T) {
	const size = 200 << 20
	h := func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil || n != size {
			http.Error(w, fmt.Sprint(n, err), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(size))
		_, _ = io.Copy(w, io.LimitReader(zeros{}, size))
	}
	for _, target := range []string{serve(t, h), "h2c://" + serveH2C(t, http.HandlerFunc(h))} {
		p := newPool(t, Config{Idle: DefaultIdle}, target)
		for _, length := range []int64{size, -1} {
			most := uint64(0)
			watch := func() {
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
			}
			runtime.GC()
			watch()
			before := most
			r := request(t, "POST", "")
			r.Body = io.NopCloser(&watched{r: io.LimitReader(zeros{}, size), watch: watch})
			r.ContentLength = length
			resp, err := p.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, &watched{r: resp.Body, watch: watch})
			if err != nil || n != size || resp.StatusCode != 200 {
				t.Fatalf("%s: %s, %d bytes, %v", target, resp.Status, n, err)
			}
			_ = resp.Body.Close()
			if grown := int64(most) - int64(before); grown > 32<<20 {
				t.Errorf("%s: the heap grew by %d MB", target, grown>>20)
			}
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// watched calls watch every 8 MB.
type watched struct {
	r     io.Reader
	n     int
	watch func()
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if w.n += n; w.n >= 8<<20 {
		w.n = 0
		w.watch()
	}
	return n, err
}
