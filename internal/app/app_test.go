package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/internal/config"
	"postern/internal/testnet"
	"postern/internal/tlsmgr"
)

// logBuffer is where a test's process logs.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// process is a running App of a test.
type process struct {
	*App
	t     *testing.T
	file  string // the configuration file, rewritten for reloads
	log   *logBuffer
	stop  context.CancelFunc
	ended chan error
}

// start runs an App with the configuration text and stops it with the test.
func start(t *testing.T, text string) *process {
	t.Helper()
	return startWith(t, text, Options{})
}

// startWith is start with options of the test's; the log, the version and the
// loading are its own.
func startWith(t *testing.T, text string, o Options) *process {
	t.Helper()
	p := &process{t: t, log: new(logBuffer), ended: make(chan error, 1)}
	p.file = filepath.Join(t.TempDir(), "postern.yaml")
	p.write(text)
	cfg, err := config.Load(p.file)
	if err != nil {
		t.Fatal(err)
	}
	o.Version, o.Log, o.Load = "test", p.log, func() (*config.Config, error) { return config.Load(p.file) }
	a, err := New(cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	p.App = a
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	go func() { p.ended <- a.Run(ctx) }() // waited for in end
	t.Cleanup(p.end)
	return p
}

func (p *process) write(text string) {
	p.t.Helper()
	if err := os.WriteFile(p.file, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// end stops the process; a second call does nothing.
func (p *process) end() {
	if p.stop == nil {
		return
	}
	p.stop()
	p.stop = nil
	select {
	case err := <-p.ended:
		if err != nil {
			p.t.Errorf("Run: %v", err)
		}
	case <-time.After(30 * time.Second):
		p.t.Error("the process did not stop")
	}
	if p.t.Failed() {
		p.t.Log(p.log.String())
	}
}

// client reaches the process under any name, by its first https listener.
func (p *process) client(roots *x509.CertPool) *http.Client {
	p.t.Helper()
	tr := &http.Transport{
		ForceAttemptHTTP2: true,
		TLSClientConfig:   &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			_, port, _ := net.SplitHostPort(addr)
			to := p.Addrs("http")
			if port == "443" {
				to = p.Addrs("https")
			}
			return new(net.Dialer).DialContext(ctx, "tcp", to[0])
		},
	}
	p.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// localRoots trusts the process's own authority.
func localRoots(t *testing.T, data string) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(tlsmgr.LocalRootPath(data))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return pool
}

// until waits for an event that only shows by asking.
func until(t *testing.T, what string, happened func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !happened() {
		select {
		case <-deadline:
			t.Fatalf("still waiting for %s", what)
		case <-tick.C:
		}
	}
}

func body(t *testing.T, res *http.Response, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", res.StatusCode, b)
}

func backend(t *testing.T, says string) string {
	t.Helper()
	return backendFunc(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, says) })
}

func backendFunc(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// freePorts finds ports that were free a moment ago: an authority must know
// them before we listen.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var out []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		out = append(out, l.Addr().(*net.TCPAddr).Port)
	}
	return out
}

// publicDNS is all of the DNS in one server: the zone org, in which every name
// is this machine.
func publicDNS(t *testing.T) *testnet.DNS {
	d := testnet.NewDNS(t, "org")
	d.AnswerAll("127.0.0.1")
	return d
}

// lookUpsAt is the part of a file that sends our own look-ups to d.
func lookUpsAt(d *testnet.DNS) string {
	_, port, _ := net.SplitHostPort(d.Addr)
	return fmt.Sprintf("dns: {resolvers: [%q], authoritative_port: %s, doh: []}", d.Addr, port)
}

func TestIssuesThroughOurListenersAndServesWithoutTheAuthority(t *testing.T) {
	for _, challenge := range []string{"http-01", "tls-alpn-01"} {
		t.Run(challenge, func(t *testing.T) {
			ports := freePorts(t, 2)
			ca := testnet.NewCA(t, testnet.CAOptions{HTTPPort: ports[0], TLSPort: ports[1], DNS: publicDNS(t)})
			data := t.TempDir()
			text := fmt.Sprintf(`email: me@example.org
listen: {http: "127.0.0.1:%d", https: "127.0.0.1:%d"}
data: %s
admin: {listen: ""}
grace: 100ms
%s
tls: {acme: {directory: %q, root: %q, challenges: [%s]}}
sites:
  - hosts: [home.example.org]
    upstream: %s
`, ports[0], ports[1], data, lookUpsAt(ca.DNS), ca.DirectoryURL, ca.RootFile, challenge, backend(t, "hello"))

			p := start(t, text)
			until(t, "the certificate", func() bool { return p.certs.Status()[0].State == tlsmgr.StateOK })
			res, err := p.client(ca.IssuerRoots).Get("https://home.example.org/")
			if got, want := body(t, res, err), "200 hello"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			orders := ca.Orders()
			p.end()

			ca.SetDown(true)
			asked := ca.Requests()
			p = start(t, text)
			res, err = p.client(ca.IssuerRoots).Get("https://home.example.org/")
			if got, want := body(t, res, err), "200 hello"; got != want {
				t.Errorf("with the authority gone: got %q, want %q", got, want)
			}
			if ca.Orders() != orders || ca.Requests() != asked {
				t.Errorf("a restart with a certificate on disk asked the authority: %d orders, %d requests more", ca.Orders()-orders, ca.Requests()-asked)
			}
		})
	}
}

func TestOnDemandAsksOnlyForAllowedNames(t *testing.T) {
	ports := freePorts(t, 2)
	ca := testnet.NewCA(t, testnet.CAOptions{HTTPPort: ports[0], TLSPort: ports[1], DNS: publicDNS(t)})
	p := start(t, fmt.Sprintf(`email: me@example.org
listen: {http: "127.0.0.1:%d", https: "127.0.0.1:%d"}
data: %s
admin: {listen: ""}
grace: 100ms
%s
tls:
  acme: {directory: %q, root: %q, challenges: [http-01]}
  on_demand: {allow: ["*.home.example.org"]}
sites:
  - hosts: ["*.home.example.org"]
    upstream: %s
`, ports[0], ports[1], t.TempDir(), lookUpsAt(ca.DNS), ca.DirectoryURL, ca.RootFile, backend(t, "hello")))
	client := p.client(ca.IssuerRoots)
	for _, name := range []string{"evil.example", "home.example.org", "a.b.home.example.org", "203.0.113.7"} {
		if res, err := client.Get("https://" + name + "/"); err == nil {
			_ = res.Body.Close()
			t.Errorf("%s: a handshake came about", name)
		}
	}
	if ca.Requests() != 0 {
		t.Fatalf("names that are not allowed caused %d requests to the authority", ca.Requests())
	}
	res, err := client.Get("https://cam.home.example.org/")
	if got, want := body(t, res, err), "200 hello"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if ca.Orders() != 1 {
		t.Errorf("got %d orders, want 1", ca.Orders())
	}
}

// localFile is a configuration with the local authority and everything on
// free ports.
func localFile(data, rest string) string {
	return fmt.Sprintf(`listen: {http: "127.0.0.1:0", https: "127.0.0.1:0"}
data: %s
admin: {listen: "127.0.0.1:0"}
grace: 100ms
tls: {issuer: local}
%s`, data, rest)
}

func TestStartsWithEverythingDown(t *testing.T) {
	ports := freePorts(t, 3)
	p := start(t, fmt.Sprintf(`listen: {http: "127.0.0.1:0", https: "127.0.0.1:0"}
data: %s
email: me@example.org
grace: 100ms
admin: {listen: ""}
dns: {resolvers: ["127.0.0.1:1"], doh: []}
tls: {acme: {directory: "https://127.0.0.1:%d/directory"}}
sites:
  - hosts: [dead.example.org]
    http: serve
    routes:
      - {path: /dead, upstream: "127.0.0.1:%d"}
      - {path: /nowhere, upstream: "no-such-host.invalid:80"}
      - {path: /live, upstream: "%s"}
      - {path: /ping, respond: {body: pong}}
`, t.TempDir(), ports[0], ports[1], backend(t, "alive")))
	client := p.client(nil)
	for _, c := range []struct{ path, want string }{
		{"/live", "200 alive"},
		{"/ping", "200 pong"},
		{"/dead", "502 "},
		{"/dead", "503 "},
		{"/nowhere", "502 "},
		{"/live", "200 alive"},
	} {
		res, err := client.Get("http://dead.example.org" + c.path)
		got := body(t, res, err)
		if !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.path, got, c.want)
		}
		if strings.HasPrefix(c.want, "50") {
			if ct := res.Header.Get("Content-Type"); ct != "application/problem+json" {
				t.Errorf("%s: Content-Type %q", c.path, ct)
			}
			if !strings.Contains(got, res.Header.Get("X-Request-Id")) {
				t.Errorf("%s: the request id is not in the document: %s", c.path, got)
			}
		}
		if strings.HasPrefix(c.want, "503") && res.Header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", c.path)
		}
	}
}

func TestReloadAddsRemovesAndKeeps(t *testing.T) {
	data := t.TempDir()
	site := func(host, to string) string {
		return fmt.Sprintf("  - {hosts: [%s], http: serve, upstream: %q}\n", host, to)
	}
	one, two := backend(t, "one"), backend(t, "two")
	p := start(t, localFile(data, "sites:\n"+site("one.test", one)))
	before := p.Addrs("https")
	client := p.client(localRoots(t, data))
	get := func(host string) string {
		res, err := client.Get("http://" + host + "/")
		if err != nil {
			return "closed"
		}
		return body(t, res, nil)
	}
	if got := get("one.test"); got != "200 one" {
		t.Fatal(got)
	}
	if got := get("two.test"); got != "closed" {
		t.Fatal(got)
	}
	p.write(localFile(data, "sites:\n"+site("two.test", two)))
	if err := p.Reload(); err != nil {
		t.Fatal(err)
	}
	if got := get("two.test"); got != "200 two" {
		t.Error(got)
	}
	if got := get("one.test"); got != "closed" {
		t.Error(got)
	}
	if after := p.Addrs("https"); after[0] != before[0] {
		t.Errorf("the listener moved from %s to %s", before, after)
	}
	until(t, "the new certificate", func() bool { return p.certs.Status()[0].State == tlsmgr.StateOK })
	res, err := client.Get("https://two.test/")
	if got := body(t, res, err); got != "200 two" {
		t.Error(got)
	}
	if res, err := client.Get("https://one.test/"); err == nil {
		_ = res.Body.Close()
		t.Error("the removed host is still served over TLS")
	}
}

func TestRefusedReloadChangesNothing(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	data := t.TempDir()
	good := localFile(data, fmt.Sprintf("sites:\n  - {hosts: [one.test], http: serve, upstream: %q}\n", backend(t, "one")))
	for _, c := range []struct{ name, text, want string }{
		{"unknown key", good + "sties: []\n", "sties"},
		{"port taken", strings.Replace(good, `https: "127.0.0.1:0"`, fmt.Sprintf("https: %q", taken.Addr()), 1), "another program"},
		{"data moved", strings.Replace(good, data, t.TempDir(), 1), "restart"},
		{"missing certificate file", good + "  - {hosts: [two.test], tls: {cert: no.pem, key: no.key}, upstream: \"127.0.0.1:1\"}\n", "no.pem"},
		{"log file", good + "log: {file: /no/such/folder/access.log}\n", "/no/such/folder"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := start(t, good)
			doors := fmt.Sprint(p.Addrs("http"), p.Addrs("https"), p.AdminAddr())
			p.write(c.text)
			err := p.Reload()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want an error that names %q", err, c.want)
			}
			if now := fmt.Sprint(p.Addrs("http"), p.Addrs("https"), p.AdminAddr()); now != doors {
				t.Errorf("listeners changed from %s to %s", doors, now)
			}
			res, err := p.client(nil).Get("http://one.test/")
			if got := body(t, res, err); got != "200 one" {
				t.Error(got)
			}
			if !strings.Contains(p.log.String(), "reload refused") {
				t.Error("the log does not say that the reload was refused")
			}
			if text := p.Health().Resolve().Text(time.Now()); !strings.Contains(text, "the last reload was refused") {
				t.Errorf("health does not say it:\n%s", text)
			}
		})
	}
}

func TestScannerIsBannedOnItsFirstRequest(t *testing.T) {
	data := t.TempDir()
	p := start(t, localFile(data, fmt.Sprintf(`guard: {never: []}
sites:
  - {hosts: [one.test], http: serve, routes: [{path: "/api/*", upstream: %q}]}
`, backend(t, "one"))))
	p.guard.SetOwn(nil) // or loopback, an address of this machine, is spared
	client := p.client(nil)
	res, err := client.Get("http://one.test/api/x")
	if got := body(t, res, err); got != "200 one" {
		t.Fatal(got)
	}
	client.CloseIdleConnections()
	if res, err := client.Get("http://one.test/.env"); err == nil {
		_ = res.Body.Close()
		t.Fatalf("the probe was answered %d", res.StatusCode)
	}
	conn, err := net.Dial("tcp", p.Addrs("http")[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if n, err := conn.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a banned address got %d bytes, %v", n, err)
	}
	p.end()

	p = start(t, localFile(data, "guard: {never: []}\nsites: [{hosts: [one.test], http: serve, upstream: \"127.0.0.1:1\"}]\n"))
	if bans := p.guard.Bans(time.Now()); len(bans) != 1 || bans[0].Reason != "scanner" {
		t.Errorf("after a restart: %+v, want the ban", bans)
	}
}

func TestHealthNamesTheBackendThatIsDown(t *testing.T) {
	data := t.TempDir()
	dead := freePorts(t, 1)[0]
	p := start(t, localFile(data, fmt.Sprintf("sites:\n  - {hosts: [one.test], http: serve, upstream: \"127.0.0.1:%d\"}\n", dead)))
	res, err := p.client(nil).Get("http://one.test/")
	if got := body(t, res, err); !strings.HasPrefix(got, "502 ") {
		t.Fatal(got)
	}
	text, healthy, err := CheckHealth(t.Context(), p.AdminAddr(), "")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("127.0.0.1:%d", dead); healthy || !strings.Contains(text, want) {
		t.Errorf("healthy %v, want the line with %s:\n%s", healthy, want, text)
	}
}

func TestDemoOnce(t *testing.T) {
	var out bytes.Buffer
	if err := Demo(t.Context(), DemoOptions{Once: true, Out: &out, Version: "test"}); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	if got, want := strings.Count(out.String(), " ok\n"), len(demoCalls)+len(demoProbes); got != want {
		t.Errorf("got %d lines that end in ok, want %d:\n%s", got, want, out.String())
	}
}
