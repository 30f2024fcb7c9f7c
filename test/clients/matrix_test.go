package clients

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	postern "postern/clients/go"
	"postern/internal/tlsmgr"
)

var update = flag.Bool("update", false, "write the matrix of clients to docs/callers.md")

// lanes is how many clients of one kind call with each method.
const lanes = 3

// matrixClients are the clients of the matrix, those without our helper first.
var matrixClients = []struct {
	kind    string // of the driver
	program string // go: this binary; java: left out where there is none
	helper  bool
}{
	{"https", "node", false},
	{"fetch", "node", false},
	{"axios", "node", false},
	{"undici", "node", false},
	{"requests", "python3", false},
	{"urllib3", "python3", false},
	{"http.client", "python3", false},
	{"h1", "go", false},
	{"h2", "go", false},
	{"java", "java", false},
	{"helper", "node", true},
	{"helper", "python3", true},
	{"helper", "go", true},
}

// matrixScenario is what happens between the calls that make a connection and
// those that count.
type matrixScenario struct {
	name   string
	fresh  bool          // there are no calls before
	frozen bool          // the clients are, while it happens
	freeze time.Duration // and for how long
	happen func(m *matrix)
	dead   bool // no name can be looked up from then on
	// chance tells that it may depend on what a client sees first, the end of
	// its connection or its next request: with -update it is played 3 times.
	chance bool
	// spared tells that nobody should notice, with or without a helper: the
	// connections of known callers are kept.
	spared bool
}

var matrixScenarios = []matrixScenario{
	{name: "fresh", fresh: true, spared: true},
	{name: "reuse", spared: true},
	{name: "frozen 2 s", frozen: true, freeze: 2 * time.Second, spared: true},
	{name: "frozen 8 s", frozen: true, freeze: 8 * time.Second, spared: true},
	{name: "frozen 70 s", frozen: true, freeze: 70 * time.Second, spared: true},
	{name: "backend restarted", happen: func(m *matrix) { m.backend.restart(m.t) }, spared: true},
	{name: "postern restarted", happen: func(m *matrix) { m.home.stop(); m.home.start() }, chance: true},
	{name: "postern restarted, frozen", frozen: true, happen: func(m *matrix) { m.home.stop(); m.home.start() }, chance: true},
	{name: "new address, frozen", frozen: true, happen: (*matrix).move, chance: true},
	{name: "restart and DNS dead, frozen", frozen: true, happen: func(m *matrix) { m.home.stop(); m.home.start() }, dead: true},
}

// The clients people have, and ours, through what happens to callers. With our
// helper no call ends in an error, and none is done twice; without it the
// errors make the table of docs/callers.md (-update).
func TestMatrix(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute and many processes")
	}
	t.Parallel()
	long := *update || os.Getenv("POSTERN_CI") != ""
	if !long {
		t.Log("without the freeze of 70 s, which takes POSTERN_CI=1 or -update")
	}
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Skipf("loopback has one address only: %v", err)
	}
	_ = l.Close()
	m := newMatrix(t)
	for _, s := range matrixScenarios {
		if s.freeze > 10*time.Second && !long {
			continue
		}
		m.play(s)
		for range 2 {
			if *update && s.chance {
				m.play(s)
			}
		}
	}
	for _, c := range m.clients {
		for _, s := range matrixScenarios {
			for i, method := range []string{"GET", "POST"} {
				errs := c.errors[s.name][i]
				if failed := failures(errs); failed > 0 && (c.helper || s.spared) {
					t.Errorf("%s, %s: %d of %d %ss failed: %q", c.label, s.name, failed, len(errs), method, errs)
				}
			}
		}
	}
	if n := m.backend.twice(); n > 0 {
		t.Errorf("%d calls reached the backend twice", n)
	}
	table := m.table()
	t.Log("\n" + table)
	if *update && !t.Failed() {
		writeMatrix(t, table)
	}
}

func failures(errs []string) (failed int) {
	for _, e := range errs {
		if e != "" {
			failed++
		}
	}
	return failed
}

// matrix is a postern, its backend, and the clients.
type matrix struct {
	t       *testing.T
	home    *home
	backend *restarting
	clients []*matrixClient
}

func newMatrix(t *testing.T) *matrix {
	t.Helper()
	key := rand.Text()
	b := &restarting{keys: map[string]int{}}
	b.start(t, "127.0.0.1:0")
	t.Cleanup(func() { _ = b.server.Close() })
	h := &home{t: t, data: t.TempDir(), addr: "127.0.0.1", port: "0"}
	h.extra = fmt.Sprintf(`
callers:
  ci: {api_key_hash: ["sha256:%x"]}
sites:
  - hosts: [home.test]
    callers: [ci]
    routes:
      - {path: /*, upstream: "http://%s", idempotency: true}
`, sha256.Sum256([]byte(key)), b.addr)
	h.start()
	t.Cleanup(func() { h.stop() })
	m := &matrix{t: t, home: h, backend: b}
	for _, c := range matrixClients {
		if client := startMatrixClient(t, c.kind, c.program, h, key); client != nil {
			client.helper = c.helper
			m.clients = append(m.clients, client)
		}
	}
	return m
}

// move has another postern, with the same certificates, at another address;
// the old one is gone.
func (m *matrix) move() {
	m.home.stop()
	m.home.addr = map[string]string{"127.0.0.1": "127.0.0.2", "127.0.0.2": "127.0.0.1"}[m.home.addr]
	m.home.start()
}

// play takes all clients through one scenario. They call one after the other:
// what is looked for are errors of connections, not of a machine that is busy.
func (m *matrix) play(s matrixScenario) {
	m.t.Helper()
	begin := "new"
	if !s.fresh {
		for range 2 {
			for _, c := range m.clients {
				for i, err := range c.round(begin, m.home.addr) {
					if err != "" {
						m.t.Errorf("%s, before %q: call %d: %s", c.label, s.name, i, err)
					}
				}
			}
			begin = "keep"
		}
	}
	if s.frozen {
		for _, c := range m.clients {
			c.signal(syscall.SIGSTOP)
		}
	}
	if s.happen != nil {
		s.happen(m)
	}
	if s.freeze > 0 {
		select { // the time itself is what is tried
		case <-time.After(s.freeze):
		case <-m.t.Context().Done():
		}
	}
	addr := m.home.addr
	if s.dead {
		addr = "-"
	}
	for _, c := range m.clients {
		c.send(begin, addr) // waits before the thaw, as in Lambda
		if s.frozen {
			c.signal(syscall.SIGCONT)
		}
		errs, old := c.answers(), c.errors[s.name]
		c.errors[s.name] = [2][]string{append(old[0], errs[:lanes]...), append(old[1], errs[lanes:]...)}
	}
}

// matrixClient is a client in a process of its own.
type matrixClient struct {
	t      *testing.T
	label  string
	helper bool
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    chan string            // its lines; closed at its end
	errors map[string][2][]string // by scenario, of GET and of POST; "" is none
}

// startMatrixClient starts a client. One that is optional and not there is
// told in the log, and nil.
func startMatrixClient(t *testing.T, kind, program string, h *home, key string) *matrixClient {
	t.Helper()
	root := tlsmgr.LocalRootPath(h.data)
	args, env := []string{kind, "home.test", h.port, root, key}, []string(nil)
	switch program {
	case "node":
		program = node(t, "axios", "undici")
		args = append([]string{"matrix.mjs"}, args...)
	case "python3":
		program = installed(t, program)
		if kind == "requests" || kind == "urllib3" {
			if out, err := exec.CommandContext(t.Context(), program, "-c", "import "+kind).CombinedOutput(); err != nil {
				t.Logf("left out: python3 has no %s: %s", kind, bytes.TrimSpace(out))
				return nil
			}
		}
		args = append([]string{"matrix.py"}, args...)
	case "java":
		hosts := filepath.Join(t.TempDir(), "hosts")
		path, err := exec.LookPath("javac") // whoever has it can run a source file
		if err != nil {
			t.Logf("left out: %v", err)
			return nil
		}
		if err := os.WriteFile(hosts, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		program = filepath.Join(filepath.Dir(path), "java")
		args = append([]string{"-XX:TieredStopAtLevel=1", "-Xmx96m", "-Djdk.net.hosts.file=" + hosts, "-Dsun.net.inetaddr.ttl=0", "-Dsun.net.inetaddr.negative.ttl=0", "Matrix.java"}, append(args[1:], hosts)...)
	case "go":
		options, err := json.Marshal(args)
		if err != nil {
			t.Fatal(err)
		}
		program, args, env = os.Args[0], nil, []string{matrixEnv + "=" + string(options)}
	}
	c := &matrixClient{t: t, cmd: exec.Command(program, args...), out: make(chan string, 1), errors: map[string][2][]string{}}
	c.cmd.Env = append(append(os.Environ(), env...), "NODE_EXTRA_CA_CERTS="+root, "NO_PROXY=*", "no_proxy=*")
	c.run()
	c.label = c.line()
	return c
}

func (c *matrixClient) run() {
	c.t.Helper()
	c.cmd.Stderr = c.t.Output()
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		c.t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() { // ends with the process
		defer close(c.out)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			c.out <- lines.Text()
		}
	}()
	c.t.Cleanup(func() {
		_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) // also one that is frozen
		for range c.out {
		}
		_ = c.cmd.Wait()
	})
}

func (c *matrixClient) signal(s syscall.Signal) {
	c.t.Helper()
	if err := syscall.Kill(-c.cmd.Process.Pid, s); err != nil {
		c.t.Fatal(err)
	}
}

// line is what the client says next.
func (c *matrixClient) line() string {
	c.t.Helper()
	select {
	case line, ok := <-c.out:
		if !ok {
			c.t.Fatalf("%s %s ended", c.cmd.Path, c.label)
		}
		return line
	case <-time.After(3 * patience):
		c.t.Fatalf("%s %s does not answer", c.cmd.Path, c.label)
	}
	return ""
}

func (c *matrixClient) send(begin, addr string) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c.in, "%s %s %d\n", begin, addr, lanes); err != nil {
		c.t.Fatal(err)
	}
}

// answers are the errors of a round, first of GET and then of POST; "" is none.
func (c *matrixClient) answers() []string {
	c.t.Helper()
	errs := strings.Split(c.line(), "\t")
	if len(errs) != 2*lanes {
		c.t.Fatalf("%s told %q, want %d results", c.label, errs, 2*lanes)
	}
	return errs
}

func (c *matrixClient) round(begin, addr string) []string {
	c.t.Helper()
	c.send(begin, addr)
	return c.answers()
}

// restarting is a backend that can be restarted where it is.
type restarting struct {
	addr   string
	server *http.Server

	mu   sync.Mutex
	keys map[string]int // by Idempotency-Key
}

func (b *restarting) start(t *testing.T, addr string) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	b.addr = l.Addr().String()
	server := &http.Server{Handler: b}
	b.server = server
	go func() { _ = server.Serve(l) }() // ends with Close
}

func (b *restarting) restart(t *testing.T) {
	t.Helper()
	if err := b.server.Close(); err != nil {
		t.Fatal(err)
	}
	b.start(t, b.addr)
}

func (b *restarting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	if r.Method == http.MethodPost {
		b.mu.Lock()
		b.keys[r.Header.Get("Idempotency-Key")]++
		b.mu.Unlock()
	}
	fmt.Fprintf(w, "%s done", r.Method)
}

// twice is how many keys came more than once.
func (b *restarting) twice() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, times := range b.keys {
		if times > 1 {
			n++
		}
	}
	return n
}

// matrixEnv holds the arguments of Go's client of the matrix, which is this
// binary started again (TestMain).
const matrixEnv = "POSTERN_TEST_MATRIX"

// matrixGo is matrix.mjs in Go.
func matrixGo(options string) error {
	var args []string
	if err := json.Unmarshal([]byte(options), &args); err != nil {
		return err
	}
	kind, host, port, key := args[0], args[1], args[2], args[4]
	file, err := os.ReadFile(args[3])
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(file)
	var address string
	look := func(_ context.Context, name string) ([]string, error) {
		if name != host || address == "-" {
			return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
		}
		return []string{address}, nil
	}
	names := map[string]string{"h1": "Go net/http, HTTP/1.1", "h2": "Go net/http, HTTP/2", "helper": "clients/go, Go"}
	fmt.Println(strings.Replace(names[kind], "Go", "Go "+strings.TrimPrefix(runtime.Version(), "go"), 1))
	client := func() http.RoundTripper {
		if kind == "helper" {
			return postern.New(postern.Options{Names: []string{host + ":" + port}, APIKey: key, RootCAs: roots, Lookup: look, Timeout: 50 * time.Second, ConnectTimeout: 10 * time.Second})
		}
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.Proxy, transport.ForceAttemptHTTP2, transport.TLSClientConfig = nil, kind == "h2", &tls.Config{RootCAs: roots}
		transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			name, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			addrs, err := look(ctx, name)
			if err != nil {
				return nil, err
			}
			return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(addrs[0], port))
		}
		return transport
	}
	var clients []http.RoundTripper
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var begin string
		var n int
		if _, err := fmt.Sscan(lines.Text(), &begin, &address, &n); err != nil {
			return err
		}
		if begin == "new" {
			clients = clients[:0]
			for range 2 * n {
				clients = append(clients, client())
			}
		}
		errs := make([]string, 2*n)
		var calls sync.WaitGroup
		for i := range errs {
			calls.Go(func() {
				method := [2]string{http.MethodGet, http.MethodPost}[i/n]
				if err := matrixCall(clients[i], method, "https://"+host+":"+port+"/x", key); err != nil {
					errs[i] = strings.Join(strings.Fields(err.Error()), " ")
				}
			})
		}
		calls.Wait()
		fmt.Println(strings.Join(errs, "\t"))
	}
	return nil
}

func matrixCall(client http.RoundTripper, method, url, key string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
	defer cancel()
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader(`{"a":1}`)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	req.Header.Set("X-Api-Key", key)
	if body != nil {
		req.Header.Set("Idempotency-Key", rand.Text())
	}
	resp, err := (&http.Client{Transport: client}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || string(text) != method+" done" {
		return fmt.Errorf("%d %s", resp.StatusCode, text)
	}
	return nil
}
