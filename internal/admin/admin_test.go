package admin

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const token = "0123456789abcdef"

// fakeListener has an address and nothing else.
type fakeListener struct {
	net.Listener
	addr net.Addr
}

func (l fakeListener) Addr() net.Addr { return l.addr }

func tcp(ip string) net.Listener {
	return fakeListener{addr: &net.TCPAddr{IP: net.ParseIP(ip), Port: 9180}}
}

func handlerFor(t *testing.T, cfg Config) http.Handler {
	t.Helper()
	if cfg.Listener == nil {
		cfg.Listener = tcp("127.0.0.1")
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s.server.Handler
}

func get(h http.Handler, target string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	r.Host = "localhost:9180"
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestNewRefusesPublicAddressWithoutToken(t *testing.T) {
	for _, ip := range []string{"0.0.0.0", "::", "192.0.2.1", "10.0.0.1"} {
		if _, err := New(Config{Listener: tcp(ip)}); err == nil || !strings.Contains(err.Error(), "set admin.token") {
			t.Errorf("%s: error %v, want one that asks for a token", ip, err)
		}
		if _, err := New(Config{Listener: tcp(ip), Token: token}); err != nil {
			t.Errorf("%s with a token: %v", ip, err)
		}
	}
	if _, err := New(Config{}); err == nil {
		t.Error("no listener: no error")
	}
}

func TestGate(t *testing.T) {
	unix := fakeListener{addr: &net.UnixAddr{Name: "/run/a.sock", Net: "unix"}}
	tests := []struct {
		name   string
		cfg    Config
		header []string
		want   int
	}{
		{"localhost", Config{}, nil, 200},
		{"localhost in capitals", Config{}, []string{"Host", "LOCALHOST"}, 200},
		{"IPv4", Config{}, []string{"Host", "127.0.0.1:9180"}, 200},
		{"IPv6", Config{}, []string{"Host", "[::1]:9180"}, 200},
		{"IPv6 without a port", Config{}, []string{"Host", "[::1]"}, 200},
		{"a rebound name", Config{}, []string{"Host", "evil.example:9180"}, 403},
		{"a name that opens like ours", Config{}, []string{"Host", "localhost.evil.example"}, 403},
		{"a name that opens like an address", Config{}, []string{"Host", "127.0.0.1.evil.example"}, 403},
		{"no host", Config{}, []string{"Host", ""}, 403},
		{"a configured name", Config{Hosts: []string{"Pi.lan"}}, []string{"Host", "pi.LAN:9180"}, 200},
		{"any name on a unix socket", Config{Listener: unix}, []string{"Host", "postern"}, 200},
		{"any name with a token from elsewhere", Config{Listener: tcp("0.0.0.0"), Token: token},
			[]string{"Host", "pi.lan", "Authorization", "Bearer " + token}, 200},

		{"typed address", Config{}, []string{"Sec-Fetch-Site", "none"}, 200},
		{"own page", Config{}, []string{"Sec-Fetch-Site", "same-origin"}, 200},
		{"other site", Config{}, []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"other port", Config{}, []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"own origin", Config{}, []string{"Origin", "http://localhost:9180"}, 200},
		{"other origin", Config{}, []string{"Origin", "https://evil.example"}, 403},
		{"opaque origin", Config{}, []string{"Origin", "null"}, 403},
		{"other site with the token", Config{Token: token}, []string{"Sec-Fetch-Site", "cross-site", "Authorization", "Bearer " + token}, 403},

		{"no token", Config{Token: token}, nil, 401},
		{"wrong token", Config{Token: token}, []string{"Authorization", "Bearer 0123456789abcdeX"}, 401},
		{"prefix of the token", Config{Token: token}, []string{"Authorization", "Bearer 0123"}, 401},
		{"no token on a unix socket", Config{Listener: unix, Token: token}, nil, 401},
		{"token", Config{Token: token}, []string{"Authorization", "Bearer " + token}, 200},
		{"token, scheme in lower case", Config{Token: token}, []string{"Authorization", "bearer " + token}, 200},
		{"token as password", Config{Token: token}, []string{"Authorization", "Basic YW55OjAxMjM0NTY3ODlhYmNkZWY="}, 200},
		{"wrong password", Config{Token: token}, []string{"Authorization", "Basic YW55OngK"}, 401},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := handlerFor(t, tt.cfg)
			for _, path := range []string{"/healthz", "/metrics", "/debug/pprof/", "/"} {
				w := get(h, path, tt.header...)
				if w.Code != tt.want {
					t.Errorf("%s: status %d, want %d: %s", path, w.Code, tt.want, w.Body)
				}
				if got := w.Header().Get("WWW-Authenticate") != ""; got != (tt.want == 401) {
					t.Errorf("%s: WWW-Authenticate %q with status %d", path, w.Header().Get("WWW-Authenticate"), w.Code)
				}
				if strings.Contains(w.Body.String(), token) {
					t.Errorf("%s: the answer tells the token", path)
				}
			}
		})
	}
}

func TestOnlyGetAndHead(t *testing.T) {
	h := handlerFor(t, Config{})
	for _, tt := range []struct {
		method string
		want   int
	}{{"GET", 200}, {"HEAD", 200}, {"POST", 405}, {"DELETE", 405}, {"OPTIONS", 405}} {
		r := httptest.NewRequest(tt.method, "/healthz", nil)
		r.Host = "localhost"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tt.want {
			t.Errorf("%s: status %d, want %d", tt.method, w.Code, tt.want)
		}
		if tt.want == 405 && w.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: Allow %q", tt.method, w.Header().Get("Allow"))
		}
	}
	if w := get(h, "/nothing"); w.Code != 404 {
		t.Errorf("/nothing: status %d, want 404", w.Code)
	}
}

func TestHealthzAndReadyz(t *testing.T) {
	tree, _ := example()
	notReady := errors.New("draining")
	tests := []struct {
		name, path string
		health     func() Node
		ready      func() error
		status     int
		body       string
	}{
		{"alive", "/healthz", nil, nil, 200, "ok\n"},
		{"failing", "/healthz", func() Node { return tree }, nil, 503,
			"fail\ncertificates / mypi.duckdns.org: CAA lookup timed out at ns1.duckdns.org again\n"},
		{"a warning is no failure", "/healthz", func() Node { return Node{Name: "p", State: Warn} }, nil, 200, "ok\n"},
		{"ready", "/readyz", nil, nil, 200, "ready\n"},
		{"not ready", "/readyz", nil, func() error { return notReady }, 503, "draining\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := get(handlerFor(t, Config{Health: tt.health, Ready: tt.ready}), tt.path)
			if w.Code != tt.status || w.Body.String() != tt.body {
				t.Errorf("got %d %q, want %d %q", w.Code, w.Body, tt.status, tt.body)
			}
		})
	}
}

func TestHealthFormats(t *testing.T) {
	tree, _ := example()
	h := handlerFor(t, Config{Health: func() Node { return tree }})
	tests := []struct {
		target, accept string
		status         int
		kind           string
	}{
		{"/health", "", 200, "application/json"},
		{"/health", "*/*", 200, "application/json"},
		{"/health", "text/plain", 200, "text/plain; charset=utf-8"},
		{"/health", "Text/Plain; q=0.9, application/json", 200, "text/plain; charset=utf-8"},
		{"/health", "application/json, text/plain", 200, "application/json"},
		{"/health?format=text", "application/json", 200, "text/plain; charset=utf-8"},
		{"/health?format=json", "text/plain", 200, "application/json"},
		{"/health?format=xml", "", 400, "text/plain; charset=utf-8"},
	}
	for _, tt := range tests {
		w := get(h, tt.target, "Accept", tt.accept)
		if kind := w.Header().Get("Content-Type"); w.Code != tt.status || kind != tt.kind {
			t.Errorf("%s, Accept %q: %d %s, want %d %s", tt.target, tt.accept, w.Code, kind, tt.status, tt.kind)
		}
	}
	var got Node
	if err := json.Unmarshal(get(h, "/health").Body.Bytes(), &got); err != nil || got.State != Fail {
		t.Errorf("JSON tree: %v, state %q, want %q", err, got.State, Fail)
	}
}

func TestMetricsFormats(t *testing.T) {
	reg := prometheus.NewRegistry()
	hist := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "postern_test_seconds", Help: "h", NativeHistogramBucketFactor: 1.1})
	reg.MustRegister(hist)
	hist.Observe(1)
	h := handlerFor(t, Config{Gatherer: reg})
	for _, tt := range []struct{ accept, kind string }{
		{"", "text/plain"},
		{"application/openmetrics-text; version=1.0.0", "application/openmetrics-text"},
		{"application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited", "application/vnd.google.protobuf"},
	} {
		w := get(h, "/metrics", "Accept", tt.accept)
		if kind := w.Header().Get("Content-Type"); w.Code != 200 || !strings.HasPrefix(kind, tt.kind) {
			t.Errorf("Accept %q: %d %s, want 200 %s", tt.accept, w.Code, kind, tt.kind)
		}
	}
}

func TestPage(t *testing.T) {
	tree, _ := example()
	tree.Children = append(tree.Children, Node{Name: "<script>alert(1)</script>", State: Warn, Detail: `"><img src=x>`})
	w := get(handlerFor(t, Config{Health: func() Node { return tree }, Version: "v1.2.3"}), "/")
	body := w.Body.String()
	for _, part := range []string{"v1.2.3", "1 thing fails", "mypi.duckdns.org", "CAA lookup timed out", "see below", "&lt;script&gt;", "unknown"} {
		if !strings.Contains(body, part) {
			t.Errorf("the page lacks %q", part)
		}
	}
	for _, part := range []string{"<script", "<img", "http://", "https://", "//"} {
		if strings.Contains(body, part) {
			t.Errorf("the page has %q in it", part)
		}
	}
	policy := w.Header().Get("Content-Security-Policy")
	if !strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "style-src 'sha256-") {
		t.Errorf("policy %q", policy)
	}
	// The style sheet as sent, which html/template may change, has the hash.
	_, rest, _ := strings.Cut(body, "<style>")
	style, _, _ := strings.Cut(rest, "</style>")
	hash := sha256.Sum256([]byte(style))
	if want := "'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'"; !strings.Contains(policy, want) {
		t.Errorf("policy %q does not allow the style sheet, want %s", policy, want)
	}
}

func TestPageSummary(t *testing.T) {
	tests := []struct {
		tree  Node
		want  string
		lines int
	}{
		{Node{Name: "p", State: OK}, "all is well", 1},
		{Node{Name: "p", State: Warn, Detail: "d"}, "works, with a warning", 1},
		{Node{Name: "p"}, "not known yet", 1},
		{Node{Name: "p", Children: []Node{{Name: "a", State: Fail}, {Name: "b", State: Fail}}}, "2 things fail: a, b", 2},
		{Node{Name: "p", State: Fail, Children: []Node{{Name: "a", State: OK}}}, "1 thing fails: p", 2},
		{Node{Name: "p", Children: []Node{{Name: "a", Children: []Node{{Name: "b", State: Fail}}}, {Name: "c", State: OK}}}, "1 thing fails: b", 3},
		{Node{Name: "p", Children: []Node{{Name: "a", State: Fail}, {Name: "b", State: Fail}, {Name: "c", State: Fail}, {Name: "d", State: Fail}}}, "4 things fail: a, b, c and others", 4},
	}
	for _, tt := range tests {
		tree := tt.tree.Resolve()
		if got, n := summary(tree), len(lines(tree, time.Time{})); got != tt.want || n != tt.lines {
			t.Errorf("%+v: %q with %d lines, want %q with %d", tt.tree, got, n, tt.want, tt.lines)
		}
	}
}

// serve runs a server on l until the test ends and returns a function that
// stops it and hands back Run's error.
func serve(t *testing.T, cfg Config) (stop func() error) {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background()) // outlives t.Context for the clean-up
	result := make(chan error, 1)
	go func() { result <- s.Run(ctx) }()
	t.Cleanup(cancel)
	return func() error { cancel(); return <-result }
}

func TestFetch(t *testing.T) {
	tree, _ := example()
	dir := t.TempDir()
	for _, addr := range []string{"127.0.0.1:0", "unix:" + filepath.Join(dir, "admin.sock")} {
		l, err := Listen(addr)
		if err != nil {
			t.Fatal(err)
		}
		if l.Addr().Network() == "tcp" {
			addr = l.Addr().String()
		}
		stop := serve(t, Config{Listener: l, Token: token, Health: func() Node { return tree }})
		got, err := Fetch(t.Context(), addr, token)
		if err != nil || got.State != Fail || len(got.Causes()) != 1 {
			t.Errorf("%s: %v, %+v", addr, err, got)
		}
		for given, want := range map[string]string{
			"":                  "health from " + addr + ": a token is wanted; set admin.token",
			"wrong-wrong-wrong": "health from " + addr + ": the token is refused; is admin.token that of the running process?",
		} {
			if _, err := Fetch(t.Context(), addr, given); err == nil || err.Error() != want {
				t.Errorf("token %q: error %v, want %q", given, err, want)
			}
		}
		if err := stop(); err != nil {
			t.Errorf("%s: Run = %v, want nil", addr, err)
		}
		if _, err := Fetch(t.Context(), addr, token); err == nil || !strings.Contains(err.Error(), "is postern running") {
			t.Errorf("%s, stopped: error %v", addr, err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("the socket is still there: %v", left)
	}
}

func TestFetchFromSomethingElse(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "<html>")
	}))
	defer other.Close()
	if _, err := Fetch(t.Context(), other.Listener.Addr().String(), ""); err == nil || !strings.Contains(err.Error(), "read the tree") {
		t.Errorf("HTML: error %v", err)
	}
	missing := httptest.NewServer(http.NotFoundHandler())
	defer missing.Close()
	if _, err := Fetch(t.Context(), missing.Listener.Addr().String(), ""); err == nil || !strings.Contains(err.Error(), "status 404, want 200") {
		t.Errorf("404: error %v", err)
	}
}

func TestRunReportsBrokenListener(t *testing.T) {
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Listener: l})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := s.Run(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "admin: serve 127.0.0.1:") {
		t.Errorf("Run = %v", err)
	}
}

func TestDialable(t *testing.T) {
	for addr, want := range map[string]string{
		":9180": "127.0.0.1:9180", "0.0.0.0:1": "127.0.0.1:1", "[::]:1": "[::1]:1",
		"127.0.0.1:1": "127.0.0.1:1", "pi.lan:1": "pi.lan:1", "nonsense": "nonsense",
	} {
		if got := dialable(addr); got != want {
			t.Errorf("dialable(%q) = %q, want %q", addr, got, want)
		}
	}
}
