package clients

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	bigint "math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	postern "postern/clients/go"
	"postern/internal/testnet"
)

// helperOptions are what the drivers of all helpers read.
type helperOptions struct {
	Names     []string            `json:"names"`
	Audience  string              `json:"audience"`
	KeyID     string              `json:"keyId"`
	Secret    string              `json:"secret"`
	APIKey    string              `json:"apiKey"`
	Parameter string              `json:"parameter"`
	Bucket    string              `json:"bucket"`
	Key       string              `json:"key"`
	URL       string              `json:"url"`
	Relay     string              `json:"relay"`
	Address   string              `json:"address"`
	CA        string              `json:"ca"`
	Timeout   int                 `json:"timeout"` // ms
	Connect   int                 `json:"connect"` // ms
	DNS       map[string][]string `json:"dns"`     // nil for a name: no answer ever
	Adapter   string              `json:"adapter"`
}

// helperCall is one line to a driver.
type helperCall struct {
	Method  string              `json:"method"`
	Path    string              `json:"path"`
	Body    string              `json:"body"`
	Request string              `json:"request"` // Lambda's request id
	DNS     map[string][]string `json:"dns"`     // from now on
	Later   int                 `json:"later"`   // seconds that the wall clock goes ahead first; not in Go
}

// helperAnswer is one line from it.
type helperAnswer struct {
	Status int    `json:"status"`
	Body   string `json:"body"`
	Error  string `json:"error"`
}

// driverEnv holds the options of the Go helper's driver, which is this binary
// started again (TestMain).
const driverEnv = "POSTERN_TEST_HELPER"

type requestID struct{}

func driveGo(options string) error {
	var o helperOptions
	if err := json.Unmarshal([]byte(options), &o); err != nil {
		return err
	}
	roots := x509.NewCertPool()
	file, err := os.ReadFile(o.CA)
	if err != nil {
		return err
	}
	roots.AppendCertsFromPEM(file)
	dns := o.DNS
	home := postern.New(postern.Options{Names: o.Names, Audience: o.Audience, KeyID: o.KeyID, Secret: o.Secret, APIKey: o.APIKey,
		Endpoint: postern.Endpoint{Parameter: o.Parameter, Bucket: o.Bucket, Key: o.Key, URL: o.URL}, Relay: o.Relay, Address: o.Address, RootCAs: roots,
		Timeout: time.Duration(o.Timeout) * time.Millisecond, ConnectTimeout: time.Duration(o.Connect) * time.Millisecond,
		Lookup: func(ctx context.Context, name string) ([]string, error) {
			addrs, ok := dns[name]
			switch {
			case !ok:
				return nil, errors.New("no such host")
			case addrs == nil:
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return addrs, nil
		},
		RequestID: func(ctx context.Context) string { id, _ := ctx.Value(requestID{}).(string); return id },
	})
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var c helperCall
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return err
		}
		if c.DNS != nil {
			dns = c.DNS
		}
		out := goCall(home, o.Names[0], c)
		if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
			return err
		}
	}
	return lines.Err()
}

func goCall(home *postern.Client, name string, c helperCall) helperAnswer {
	ctx := context.WithValue(context.Background(), requestID{}, c.Request)
	req, err := http.NewRequestWithContext(ctx, c.Method, "https://"+name+c.Path, strings.NewReader(c.Body))
	if err != nil {
		return helperAnswer{Error: err.Error()}
	}
	if c.Body != "" {
		req.Header.Set("Content-Type", "text/plain")
	}
	resp, err := home.Do(req)
	if err != nil {
		return helperAnswer{Error: err.Error()}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return helperAnswer{Error: err.Error()}
	}
	return helperAnswer{Status: resp.StatusCode, Body: string(body)}
}

// helper is a helper in a process of its own.
type helper struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startHelper starts the driver of a kind: node, python, go, and python's
// adapters requests and urllib3.
func startHelper(t *testing.T, kind string, o helperOptions, env ...string) *helper {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = 50_000 // for a loaded machine; nothing waits so long unless it is broken
	}
	if o.Connect == 0 {
		o.Connect = 10_000
	}
	h := &helper{t: t}
	options := func() string {
		b, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	ctx, cancel := context.WithCancel(context.Background())
	switch kind {
	case "node":
		h.cmd = exec.CommandContext(ctx, installed(t, "node"), "helper.mjs", options())
	case "go":
		h.cmd = exec.CommandContext(ctx, os.Args[0])
		env = append(env, driverEnv+"="+options())
	case "python":
		h.cmd = exec.CommandContext(ctx, installed(t, "python3"), "helper.py", options())
	default:
		path, err := exec.LookPath("python3")
		if err == nil {
			err = exec.CommandContext(t.Context(), path, "-c", "import "+kind).Run()
		}
		if err != nil {
			t.Skipf("python3 with %s is not installed", kind)
		}
		o.Adapter = kind
		h.cmd = exec.CommandContext(ctx, path, "helper.py", options())
	}
	h.cmd.Env = append(os.Environ(), env...)
	h.cmd.Stderr = t.Output()
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var err error
	if h.in, err = h.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.out = bufio.NewReader(out)
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = h.in.Close() // it ends with its input
		timer := time.AfterFunc(patience, cancel)
		defer timer.Stop()
		if err := h.cmd.Wait(); err != nil {
			t.Errorf("the %s helper ended: %v", kind, err)
		}
		cancel()
	})
	return h
}

// installed is where a program is. Unlike program it does not try it first:
// many tests start the helpers many times.
func installed(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, err.Error())
	}
	return path
}

func (h *helper) send(c helperCall) {
	h.t.Helper()
	b, err := json.Marshal(c)
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.in.Write(append(b, '\n')); err != nil {
		h.t.Fatal(err)
	}
}

func (h *helper) answer() helperAnswer {
	h.t.Helper()
	type read struct {
		line []byte
		err  error
	}
	got := make(chan read, 1)
	go func() {
		line, err := h.out.ReadBytes('\n')
		got <- read{line, err}
	}()
	select {
	case r := <-got:
		var a helperAnswer
		if r.err != nil || json.Unmarshal(r.line, &a) != nil {
			h.t.Fatalf("the helper said %q, %v", r.line, r.err)
		}
		return a
	case <-time.After(2 * patience):
		h.t.Fatal("the helper does not answer")
	}
	return helperAnswer{}
}

func (h *helper) call(method, path, body string) helperAnswer {
	h.t.Helper()
	h.send(helperCall{Method: method, Path: path, Body: body})
	return h.answer()
}

// works calls and expects 200 with this body.
func (h *helper) works(c helperCall, want string) {
	h.t.Helper()
	h.send(c)
	if a := h.answer(); a.Status != 200 || a.Error != "" || !strings.Contains(a.Body, want) {
		h.t.Errorf("%s %s: %+v, want 200 with %q", c.Method, c.Path, a, want)
	}
}

// signal stops or continues the helper, as Lambda freezes and thaws.
func (h *helper) signal(s syscall.Signal) {
	h.t.Helper()
	if err := syscall.Kill(-h.cmd.Process.Pid, s); err != nil {
		h.t.Fatal(err)
	}
}

// everyHelper runs a test with each of the three.
func everyHelper(t *testing.T, test func(t *testing.T, kind string)) {
	for _, kind := range []string{"node", "python", "go"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			test(t, kind)
		})
	}
}

// house is a scripted server with a certificate for home.test.
type house struct {
	*httptest.Server
	ca   string // PEM file
	host string
	port string

	mu     sync.Mutex
	conns  map[net.Conn]int // requests so far
	opened int
	seen   []*http.Request
	bodies []string
	script func(w http.ResponseWriter, r *http.Request, nth int) bool // nth request of its connection
}

type connKey struct{}

// authority is a root for tests and what it signed.
type authority struct {
	file string
	leaf func(names ...string) tls.Certificate
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	now := time.Now()
	template := &x509.Certificate{SerialNumber: bigint.NewInt(1), Subject: pkix.Name{CommonName: "test root"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(err)
	root, err := x509.ParseCertificate(der)
	must(err)
	a := authority{file: filepath.Join(t.TempDir(), "root.pem")}
	must(os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	a.leaf = func(names ...string) tls.Certificate {
		leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(err)
		leaf := &x509.Certificate{SerialNumber: bigint.NewInt(2), DNSNames: names, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
		der, err := x509.CreateCertificate(rand.Reader, leaf, root, &leafKey.PublicKey, key)
		must(err)
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: leafKey}
	}
	return a
}

// newHouse serves these names (home.test without any) at 127.0.0.1.
func newHouse(t *testing.T, a authority, names ...string) *house {
	t.Helper()
	if len(names) == 0 {
		names = []string{"home.test"}
	}
	h := &house{conns: map[net.Conn]int{}, ca: a.file}
	h.Server = httptest.NewUnstartedServer(http.HandlerFunc(h.serve))
	h.TLS = &tls.Config{Certificates: []tls.Certificate{a.leaf(names...)}}
	h.Config.ErrorLog = log.New(io.Discard, "", 0)
	h.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) }
	h.Config.ConnState = func(c net.Conn, s http.ConnState) {
		h.mu.Lock()
		defer h.mu.Unlock()
		switch s {
		case http.StateNew:
			h.opened++
			h.conns[c] = 0
		case http.StateClosed, http.StateHijacked:
			delete(h.conns, c)
		}
	}
	h.StartTLS()
	t.Cleanup(func() { h.CloseClientConnections(); h.Close() })
	var err error
	if h.host, h.port, err = net.SplitHostPort(h.Listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *house) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	conn := r.Context().Value(connKey{}).(net.Conn)
	h.mu.Lock()
	h.conns[conn]++
	nth := h.conns[conn]
	h.seen, h.bodies = append(h.seen, r), append(h.bodies, string(body))
	script := h.script
	h.mu.Unlock()
	if script != nil && script(w, r, nth) {
		return
	}
	fmt.Fprintf(w, "%s %s %s %s", r.Method, r.Host, r.RequestURI, body)
}

// play sets the script: what it answers is sent, unless it returns false.
func (h *house) play(script func(w http.ResponseWriter, r *http.Request, nth int) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.script = script
}

// reset ends a connection without an answer, with RST.
func reset(w http.ResponseWriter) bool {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return false
	}
	if c, ok := conn.(*tls.Conn); ok {
		if raw, ok := c.NetConn().(*net.TCPConn); ok {
			_ = raw.SetLinger(0)
			_ = raw.Close()
		}
	}
	_ = conn.Close()
	return true
}

// cut resets every open connection, and returns how many there were.
func (h *house) cut() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.conns {
		if raw, ok := c.(*tls.Conn).NetConn().(*net.TCPConn); ok {
			_ = raw.SetLinger(0)
			_ = raw.Close()
		}
	}
	return len(h.conns)
}

func (h *house) counts() (opened, requests int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.opened, len(h.seen)
}

func (h *house) headers(name string) (out []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.seen {
		out = append(out, r.Header.Get(name))
	}
	return out
}

// options are those for this house by DNS.
func (h *house) options() helperOptions {
	return helperOptions{Names: []string{"home.test:" + h.port}, CA: h.ca, DNS: map[string][]string{"home.test": {h.host}}}
}

// blackHole is an address and a port where connections are never accepted:
// its backlog is full.
func blackHole(t *testing.T) (host, port string) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for range 10 {
		c, err := net.DialTimeout("tcp", addr, 300*time.Millisecond)
		if err != nil {
			host, port, _ = net.SplitHostPort(addr)
			return host, port
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	t.Skip("a full backlog still accepts here")
	return "", ""
}

// refusing is an address and a port where nobody listens.
func refusing(t *testing.T) (host, port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	host, port, _ = net.SplitHostPort(l.Addr().String())
	return host, port
}

// inAWS is the environment of a function in the fake account.
func inAWS(a *testnet.AWS) []string {
	return []string{"AWS_ENDPOINT_URL=" + a.URL, "AWS_REGION=" + testnet.AWSRegion, "AWS_ACCESS_KEY_ID=" + a.Lambda.ID, "AWS_SECRET_ACCESS_KEY=" + a.Lambda.Secret,
		"AWS_SESSION_TOKEN=" + a.Lambda.Session, "NODE_EXTRA_CA_CERTS=" + a.RootFile, "SSL_CERT_FILE=" + a.RootFile}
}

func documentAt(host, port string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"names":["home.test"],"ipv4":%q,"ipv6":"","port":%s,"fingerprint":"","updated":"2026-11-22T19:00:00Z"}`, host, port)
	return b.Bytes()
}
