package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"go/format"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/internal/config"
	"postern/internal/testnet"
)

// callersConfig has a Lambda, a phone with a certificate, and a key.
func callersConfig(a *testnet.AWS, data, app string) string {
	return fmt.Sprintf(`
listen: {http: "127.0.0.1:0", https: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
data: %s
tls: {issuer: local}
callers:
  orders: {aws: {issuer: %q, ca: %q, audience: "https://home.example", role: %q, function: %q}}
  phone: {mtls: true}
  ci: {}
sites:
  - hosts: [mypi.duckdns.org]
    callers: [orders, ci]
    upstream: %s
  - hosts: [phone.duckdns.org]
    callers: phone
    upstream: %s
`, data, a.Issuer, a.RootFile, testnet.AWSRole, testnet.AWSFunction, app, app)
}

// TestCallers is the whole way: what AWS, the command and the built-in
// authority give out is taken by the running postern and told to the backend,
// over connections that ask for a certificate only where one is of use.
func TestCallers(t *testing.T) {
	aws := testnet.NewAWS(t)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s", r.Header.Get("X-Postern-Caller"), r.Header.Get("X-Postern-Caller-Method"), r.Header.Get("X-Postern-Caller-Aws-Function"))
	}))
	defer backend.Close()
	data := t.TempDir()
	p := start(t, callersConfig(aws, data, strings.TrimPrefix(backend.URL, "http://")))
	cfg, err := config.Load(p.file)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "two certificates", func() bool { return strings.Count(p.log.String(), `"certificate obtained"`) == 2 })
	roots := localRoots(t, data)
	var key, cert, notes bytes.Buffer
	for _, made := range []struct {
		o   NewCaller
		out *bytes.Buffer
	}{{NewCaller{Name: "ci"}, &key}, {NewCaller{Name: "phone", MTLS: true}, &cert}} {
		if err := AddCaller(cfg, made.o, made.out, &notes); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	if err := ReloadCallers(ctx, p.AdminAddr(), ""); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert.Bytes(), cert.Bytes())
	if err != nil {
		t.Fatal(err)
	}

	var asked sync.Map // server name -> whether a certificate was asked for
	c := p.client(roots)
	c.Timeout = 40 * time.Second
	tlsConfig := c.Transport.(*http.Transport).TLSClientConfig
	tlsConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		asked.Store("asked", true)
		return &pair, nil
	}
	var seen bytes.Buffer
	watching, stopWatching := context.WithCancel(ctx)
	watched := make(chan error, 1)
	lines := &lockedLines{b: &seen}
	go func() { watched <- WatchCallers(watching, p.AdminAddr(), "", lines) }() // waited for below
	get := func(url, field, value string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if field != "" {
			req.Header.Set(field, value)
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(body)
	}
	for _, tc := range []struct {
		url, field, value string
		status            int
		want              string
	}{
		{"https://mypi.duckdns.org/", "Authorization", "Bearer " + aws.Token(nil), 200, "orders aws_jwt " + testnet.AWSFunction},
		{"https://mypi.duckdns.org/", "X-Api-Key", strings.TrimSpace(key.String()), 200, "ci api_key "},
		{"https://mypi.duckdns.org/", "", "", 401, "no_credentials"},
	} {
		if status, body := get(tc.url, tc.field, tc.value); status != tc.status || !strings.Contains(body, tc.want) {
			t.Errorf("%s %s: %d %s, want %d %s", tc.url, tc.field, status, body, tc.status, tc.want)
		}
	}
	if _, ok := asked.Load("asked"); ok {
		t.Error("a site without callers that have certificates asked for one")
	}
	if status, body := get("https://phone.duckdns.org/", "", ""); status != 200 || body != "phone mtls " {
		t.Errorf("with a certificate: %d %s", status, body)
	}
	// What comes while nobody reads is kept; what came before the first look is not.
	for !strings.Contains(lines.String(), "orders by aws_jwt") {
		if ctx.Err() != nil {
			t.Fatalf("nothing was seen:\n%s", lines)
		}
		get("https://mypi.duckdns.org/", "Authorization", "Bearer "+aws.Token(nil))
	}
	stopWatching()
	if err := <-watched; err != nil {
		t.Error(err)
	}
	list, err := Callers(ctx, p.AdminAddr(), "")
	if err != nil {
		t.Fatal(err)
	}
	used := false
	for _, i := range list {
		used = used || i.Caller == "ci" && !i.Used.IsZero() && i.State == "ok"
	}
	if !used {
		t.Errorf("nothing tells when the key of ci was used: %+v", list)
	}
	if log := p.log.String(); strings.Contains(log, strings.TrimSpace(key.String())) || strings.Contains(log, "BEGIN PRIVATE KEY") {
		t.Error("a secret is in the log")
	}
}

// TestCallersStartWithIssuerDown: a house whose callers' issuer hangs starts
// and serves the others.
func TestCallersStartWithIssuerDown(t *testing.T) {
	aws := testnet.NewAWS(t)
	aws.SetFault("issuer", testnet.AWSHangs)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("X-Postern-Caller")) }))
	defer backend.Close()
	data := t.TempDir()
	p := start(t, callersConfig(aws, data, strings.TrimPrefix(backend.URL, "http://")))
	cfg, err := config.Load(p.file)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "two certificates", func() bool { return strings.Count(p.log.String(), `"certificate obtained"`) == 2 })
	roots := localRoots(t, data)
	var key bytes.Buffer
	if err := AddCaller(cfg, NewCaller{Name: "ci"}, &key, io.Discard); err != nil {
		t.Fatal(err)
	}
	if err := p.callers.Reload(); err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://mypi.duckdns.org/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Api-Key", strings.TrimSpace(key.String()))
	c := p.client(roots)
	c.Timeout = 40 * time.Second
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); string(body) != "ci" {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}

// lockedLines takes lines from another goroutine.
type lockedLines struct {
	mu sync.Mutex
	b  *bytes.Buffer // guarded by mu
}

func (l *lockedLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestSnippets: what is printed is a program, in whatever way the caller proves
// itself.
func TestSnippets(t *testing.T) {
	cfg, err := config.Parse("postern.yaml", []byte(`
data: /tmp
callers:
  orders: {aws: {issuer: "https://x.tokens.sts.global.api.aws", audience: "https://mypi.duckdns.org", role: "arn:aws:iam::123456789012:role/o"}}
  shop: {signature: {key_id: shop-1, secret: "01234567890123456789012345678901"}}
  ci: {}
  phone: {mtls: true}
sites:
  - {hosts: [mypi.duckdns.org, "*.apps.mypi.duckdns.org"], tls: {cert: a.pem, key: b.pem}, callers: [orders, shop, ci, phone], routes: [{path: /orders/*, upstream: "127.0.0.1:3000"}]}
`), os.LookupEnv)
	if err != nil {
		t.Fatal(err)
	}
	for name, proof := range map[string]string{"orders": "https://mypi.duckdns.org", "shop": "shop-1", "ci": "POSTERN_KEY"} {
		for _, language := range []string{"node", "python", "go"} {
			text, err := CallerSnippet(cfg, name, language)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(text, proof) || !strings.Contains(text, "mypi.duckdns.org") || strings.Contains(text, "apps.") || !strings.Contains(text, "/orders/") || strings.Contains(text, "0123456789") {
				t.Errorf("%s in %s:\n%s", name, language, text)
			}
			if language != "go" {
				continue
			}
			if _, err := parser.ParseFile(token.NewFileSet(), "main.go", text, 0); err != nil {
				t.Errorf("%s: %v\n%s", name, err, text)
			}
			if formatted, err := format.Source([]byte(text)); err != nil || string(formatted) != text {
				t.Errorf("%s is not formatted:\n%s", name, text)
			}
		}
	}
	if _, err := CallerSnippet(cfg, "phone", "node"); err == nil || !strings.Contains(err.Error(), "has none of them") {
		t.Errorf("phone: %v", err)
	}
}
