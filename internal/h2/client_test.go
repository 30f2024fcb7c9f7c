package h2

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// testTLS returns settings of a server and of a client that trusts it.
func testTLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	server = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}},
		NextProtos:   []string{"h2"}, DynamicRecordSizingDisabled: true,
	}
	return server, &tls.Config{RootCAs: roots, ServerName: "localhost", NextProtos: []string{"h2"}}
}

// site is a TLS listener whose connections a Server serves.
type site struct {
	srv    *Server
	url    string
	addr   string
	client *tls.Config

	mu    sync.Mutex
	conns []*Conn
	errs  chan error // of every Serve
}

// startSite serves until the test ends, and checks that no goroutine is left.
func startSite(t testing.TB, cfg Config) *site {
	t.Helper()
	before := runtime.NumGoroutine()
	server, client := testTLS(t)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{srv: NewServer(cfg), addr: ln.Addr().String(), client: client, errs: make(chan error, 1000)}
	s.url = "https://" + s.addr
	var running sync.WaitGroup
	running.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				if err := nc.(*tls.Conn).Handshake(); err != nil {
					nc.Close()
					return
				}
				c := s.srv.NewConn(nc)
				s.mu.Lock()
				s.conns = append(s.conns, c)
				s.mu.Unlock()
				s.errs <- c.Serve()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		s.mu.Lock()
		for _, c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		running.Wait()
		s.srv.Close()
		waitFor(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= before })
	})
	return s
}

// waitFor polls, for what the kernel or another package decides.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			buf := make([]byte, 1<<20)
			t.Fatalf("waited 10 s for %s\n%s", what, buf[:runtime.Stack(buf, true)])
		}
	}
}

// clients are the clients every exchange is tried with.
func (s *site) clients(t testing.TB) map[string]*http.Client {
	std := &http.Transport{TLSClientConfig: s.client.Clone(), ForceAttemptHTTP2: true}
	//lint:ignore SA1019 programs that people have use it
	x := &http2.Transport{TLSClientConfig: s.client.Clone()}
	t.Cleanup(func() {
		std.CloseIdleConnections()
		//lint:ignore SA1019 as above
		x.CloseIdleConnections()
	})
	return map[string]*http.Client{"net/http": {Transport: std}, "x/net/http2": {Transport: x}}
}

// demo answers like a small web server.
func demo(s *Stream) {
	switch s.Path {
	case "/hello":
		s.AddText("Content-Type", "text/plain")
		s.AddText("Content-Length", "6")
		s.WriteHead(200, false)
		s.Write([]byte("hello\n"), true)
	case "/echo":
		s.WriteHead(200, false)
		for {
			b, err := s.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				return
			}
			if s.Write(b, false) != nil || s.Flush() != nil {
				return
			}
		}
		for _, f := range s.Trailers() {
			s.AddText("x-"+f.Name, f.Value)
		}
		s.WriteTrailers()
	case "/count":
		n, err := io.Copy(io.Discard, s)
		if err != nil {
			return
		}
		s.WriteHead(200, false)
		s.Write(fmt.Append(nil, n), true)
	case "/early":
		s.WriteHead(403, true)
	case "/wait":
		s.WriteHead(200, false)
		s.Flush()
		<-s.Done()
	default:
		var n int
		if _, err := fmt.Sscanf(s.Path, "/bytes/%d", &n); err != nil {
			s.WriteHead(404, true)
			return
		}
		s.AddText("content-length", fmt.Sprint(n))
		s.WriteHead(200, n == 0)
		piece := bytes.Repeat([]byte("0123456789abcdef"), 2048)
		for n > 0 {
			k := min(n, len(piece))
			n -= k
			if s.Write(piece[:k], n == 0) != nil {
				return
			}
		}
	}
}

func fetch(c *http.Client, req *http.Request) (int, []byte, error) {
	res, err := c.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	if res.ProtoMajor != 2 {
		return 0, nil, errors.New("not HTTP/2")
	}
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, b, err
}

func TestClients(t *testing.T) {
	s := startSite(t, Config{Handler: demo})
	big := bytes.Repeat([]byte("postern "), 700_000)
	tests := []struct {
		name, method, path string
		body               []byte
		chunked            bool
		status             int
		want               string
		size               int
	}{
		{"get", "GET", "/hello", nil, false, 200, "hello\n", 6},
		{"head", "HEAD", "/hello", nil, false, 200, "", 0},
		{"not found", "GET", "/nothing", nil, false, 404, "", 0},
		{"post", "POST", "/echo", []byte("abc"), false, 200, "abc", 3},
		{"post without a length", "POST", "/echo", []byte("abc"), true, 200, "abc", 3},
		{"large upload", "POST", "/count", big, false, 200, fmt.Sprint(len(big)), 7},
		{"large download", "GET", "/bytes/12345678", nil, false, 200, "", 12345678},
		{"large both ways", "POST", "/echo", big, true, 200, string(big), len(big)},
		{"answer before the body", "POST", "/early", big, false, 403, "", 0},
	}
	for name, c := range s.clients(t) {
		for _, tt := range tests {
			t.Run(name+"/"+tt.name, func(t *testing.T) {
				var body io.Reader
				if tt.body != nil {
					body = bytes.NewReader(tt.body)
					if tt.chunked {
						body = struct{ io.Reader }{body}
					}
				}
				req, _ := http.NewRequest(tt.method, s.url+tt.path, body)
				status, got, err := fetch(c, req)
				if err != nil || status != tt.status || len(got) != tt.size || tt.want != "" && string(got) != tt.want {
					t.Errorf("got %d, %d bytes, %v; want %d, %d bytes", status, len(got), err, tt.status, tt.size)
				}
			})
		}
	}
}

func TestClientTrailers(t *testing.T) {
	s := startSite(t, Config{Handler: demo})
	for name, c := range s.clients(t) {
		req, _ := http.NewRequest("POST", s.url+"/echo", struct{ io.Reader }{strings.NewReader("abc")})
		req.Trailer = http.Header{"Sum": {"42"}}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(name, err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if got := res.Trailer.Get("X-Sum"); got != "42" {
			t.Errorf("%s: trailer %q, want 42", name, got)
		}
	}
}

func TestManyStreams(t *testing.T) {
	s := startSite(t, Config{Handler: demo})
	for name, c := range s.clients(t) {
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				for j := range 5 {
					n := (i*7919 + j*104729) % 60_000
					req, _ := http.NewRequest("GET", fmt.Sprintf("%s/bytes/%d", s.url, n), nil)
					if _, b, err := fetch(c, req); err != nil || len(b) != n {
						t.Errorf("%s: got %d bytes, %v; want %d", name, len(b), err, n)
					}
				}
			})
		}
		wg.Wait()
	}
}

func TestCancel(t *testing.T) {
	ended := make(chan error, 10)
	s := startSite(t, Config{Handler: func(s *Stream) {
		called := make(chan struct{})
		s.OnCancel(func() { close(called) })
		s.WriteHead(200, false)
		s.Flush()
		<-called
		<-s.Done()
		ended <- s.Err()
	}})
	for name, c := range s.clients(t) {
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, "GET", s.url+"/", nil)
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(name, err)
		}
		cancel()
		var se *StreamError
		if err := <-ended; !errors.As(err, &se) || !se.Remote || se.Code != Cancel {
			t.Errorf("%s: stream ended with %v, want CANCEL by the client", name, err)
		}
		res.Body.Close()
	}
}

// A connection that shuts down fails no request of a client that has others
// to make: what is on its way is answered, what came too late is sent again
// on a new connection.
func TestShutdownUnderLoad(t *testing.T) {
	s := startSite(t, Config{Handler: demo})
	for name, c := range s.clients(t) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for j := range 60 {
					n := j * 1000
					req, _ := http.NewRequest("GET", fmt.Sprintf("%s/bytes/%d", s.url, n), nil)
					if _, b, err := fetch(c, req); err != nil || len(b) != n {
						t.Errorf("%s: got %d bytes, %v; want %d", name, len(b), err, n)
					}
				}
			})
		}
		stop := make(chan struct{})
		var shut sync.WaitGroup
		shut.Go(func() {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					s.mu.Lock()
					if n := len(s.conns); n > 0 {
						// x/net/http2 gives up a request when the
						// connection it was made for ends before it.
						c := s.conns[n-1]
						c.mu.Lock()
						served := c.served
						c.mu.Unlock()
						if served {
							c.Shutdown()
						}
					}
					s.mu.Unlock()
				case <-stop:
					return
				}
			}
		})
		wg.Wait()
		close(stop)
		shut.Wait()
		s.mu.Lock()
		if len(s.conns) < 2 {
			t.Errorf("%s: nothing was shut down", name)
		}
		s.mu.Unlock()
	}
}

func TestCloseWithOpenRequests(t *testing.T) {
	s := startSite(t, Config{Handler: demo})
	for name, c := range s.clients(t) {
		req, _ := http.NewRequest("GET", s.url+"/wait", nil)
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(name, err)
		}
		s.mu.Lock()
		s.conns[len(s.conns)-1].Close()
		s.mu.Unlock()
		if err := <-s.errs; err != nil {
			t.Errorf("%s: Serve returned %v, want nil", name, err)
		}
		if _, err := io.ReadAll(res.Body); err == nil {
			t.Errorf("%s: body ended well", name)
		}
		res.Body.Close()
	}
}

// A head larger than a frame goes on in CONTINUATION frames.
func TestLargeResponseHead(t *testing.T) {
	value := strings.Repeat("v", 3000)
	s := startSite(t, Config{Handler: func(s *Stream) {
		for i := range 20 {
			s.AddText(fmt.Sprintf("X-Field-%d", i), value)
		}
		s.WriteHead(200, true)
	}})
	for name, c := range s.clients(t) {
		for range 3 {
			res, err := c.Get(s.url + "/")
			if err != nil {
				t.Fatal(name, err)
			}
			res.Body.Close()
			for i := range 20 {
				if res.Header.Get(fmt.Sprintf("X-Field-%d", i)) != value {
					t.Errorf("%s: field %d is wrong", name, i)
				}
			}
		}
	}
}

func TestInformational(t *testing.T) {
	s := startSite(t, Config{Handler: func(s *Stream) {
		s.AddText("Link", "</style.css>; rel=preload")
		s.Informational(103)
		s.Informational(100)
		io.Copy(io.Discard, s)
		s.WriteHead(200, true)
	}})
	for name, c := range s.clients(t) {
		var early []int
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				early = append(early, code)
				return nil
			},
		})
		req, _ := http.NewRequestWithContext(ctx, "POST", s.url+"/", strings.NewReader("abc"))
		req.Header.Set("Expect", "100-continue")
		if status, _, err := fetch(c, req); err != nil || status != 200 || len(early) == 0 || early[0] != 103 {
			t.Errorf("%s: got %d, %v, early %v", name, status, err, early)
		}
	}
}

func TestCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("curl is not on PATH")
	}
	if out, _ := exec.Command(curl, "--version").Output(); !bytes.Contains(out, []byte("HTTP2")) {
		t.Skip("this curl has no HTTP/2")
	}
	s := startSite(t, Config{Handler: demo})
	file := filepath.Join(t.TempDir(), "body")
	body := bytes.Repeat([]byte("curl "), 300_000)
	if err := os.WriteFile(file, body, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"get", []string{s.url + "/hello"}, "hello\n200 2"},
		{"head", []string{"-I", "-o", os.DevNull, s.url + "/hello"}, "200 2"},
		{"post", []string{"-d", "abc", s.url + "/echo"}, "abc200 2"},
		{"upload", []string{"-T", file, s.url + "/count"}, fmt.Sprint(len(body), "200 2")},
		{"upload and download", []string{"-T", file, s.url + "/echo"}, string(body) + "200 2"},
		{"many at once", []string{"--parallel", s.url + "/hello", s.url + "/hello", s.url + "/hello"}, "hello\n200 2hello\n200 2hello\n200 2"},
		{"early answer", []string{"-T", file, s.url + "/early"}, "403 2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			args := append([]string{"-sk", "--http2", "--max-time", "20", "-w", "%{http_code} %{http_version}"}, tt.args...)
			out, err := exec.Command(curl, args...).Output()
			if err != nil || len(out) != len(tt.want) || tt.name != "many at once" && string(out) != tt.want {
				t.Errorf("got %.100q, %v; want %.100q", out, err, tt.want)
			}
		})
	}
}
