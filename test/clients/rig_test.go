package clients

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"postern/internal/app"
	"postern/internal/config"
	"postern/internal/tlsmgr"
)

// patience bounds each client; nothing waits that long unless it is broken.
const patience = 60 * time.Second

// rig is a running postern at https://localhost:port with a certificate of
// the local authority.
type rig struct {
	base string // https://localhost:port
	addr string // 127.0.0.1:port
	root string // the authority's root, a PEM file
	tls  *tls.Config
}

// start runs a postern with these routes (lines of YAML) until the test ends.
func start(t *testing.T, routes ...string) *rig {
	t.Helper()
	data := t.TempDir()
	file := fmt.Sprintf(`
listen: {http: "", https: "127.0.0.1:0"}
admin: {listen: ""}
data: %q
log: {level: warn, access: false}
tls: {issuer: local, on_demand: {allow: [localhost]}}
sites:
  - hosts: [localhost]
    routes:
      - %s
`, data, strings.Join(routes, "\n      - "))
	cfg, err := config.Parse("test.yaml", []byte(file), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	a, err := app.New(cfg, app.Options{Version: "test", Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("postern ended: %v", err)
		}
	})
	r := &rig{addr: a.Addrs("https")[0], root: tlsmgr.LocalRootPath(data)}
	_, port, err := net.SplitHostPort(r.addr)
	if err != nil {
		t.Fatal(err)
	}
	r.base = "https://localhost:" + port
	pem, err := os.ReadFile(r.root)
	if err != nil {
		t.Fatal(err)
	}
	r.tls = &tls.Config{ServerName: "localhost", RootCAs: x509.NewCertPool()}
	if !r.tls.RootCAs.AppendCertsFromPEM(pem) {
		t.Fatalf("%s holds no certificate", r.root)
	}
	return r
}

// all is the route that sends everything to a backend.
func all(backend string) string { return fmt.Sprintf(`{path: /*, upstream: %q}`, backend) }

// program returns the path of a program after trying it with args. Without it
// the test is skipped, or fails where nothing may be missing.
func program(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		var out []byte
		if out, err = exec.CommandContext(t.Context(), path, args...).CombinedOutput(); err != nil {
			err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
		}
	}
	if err != nil {
		missing(t, err.Error())
	}
	return path
}

func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("POSTERN_CI") != "" {
		t.Fatalf("%s; with POSTERN_CI set nothing may be missing", why)
	}
	t.Skip(why)
}

// node tries Node, with what the script imports.
func node(t *testing.T, packages ...string) string {
	t.Helper()
	path := program(t, "node", "-e", "if (typeof fetch !== 'function') process.exit(1)")
	for _, p := range packages {
		if _, err := os.Stat(filepath.Join("node_modules", p)); err != nil {
			missing(t, fmt.Sprintf("the npm package %s is not there: npm ci --prefix test/clients", p))
		}
	}
	return path
}

// run runs a client to its end and returns what it printed.
func (r *rig) run(t *testing.T, path string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS="+r.root, "NODE_OPTIONS=--dns-result-order=ipv4first", "NO_PROXY=*", "no_proxy=*")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(path), strings.Join(args, " "), err, out)
	}
	return string(out)
}

// backend is the app behind the proxy.
type backend struct {
	*httptest.Server
	held chan struct{} // closed when a request to /hold has come
	gone chan struct{} // closed when it was given up
	mu   sync.Mutex
	acks map[string]chan struct{} // by the id of an event stream
}

func newBackend(t *testing.T, configure ...func(*http.Server)) *backend {
	t.Helper()
	b := &backend{held: make(chan struct{}), gone: make(chan struct{}), acks: make(map[string]chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", hello)
	mux.HandleFunc("/count", count)
	mux.HandleFunc("/big", big)
	mux.HandleFunc("/status", answer)
	mux.HandleFunc("/hold", b.hold)
	mux.HandleFunc("/held", b.when(b.held, "held\n"))
	mux.HandleFunc("/gone", b.when(b.gone, "gone\n"))
	mux.HandleFunc("/events", b.events)
	mux.HandleFunc("/ack", func(_ http.ResponseWriter, r *http.Request) { b.ack(r.FormValue("id")) <- struct{}{} })
	mux.HandleFunc("/ws", echoMessages)
	mux.HandleFunc("/no-ws", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "not here", http.StatusForbidden) })
	b.Server = httptest.NewUnstartedServer(mux)
	for _, c := range configure {
		c(b.Config)
	}
	b.Start()
	t.Cleanup(b.Close)
	return b
}

// hello tells what the backend was asked.
func hello(w http.ResponseWriter, r *http.Request) {
	body, err := json.Marshal(map[string]any{"target": r.RequestURI, "proto": r.Proto, "host": r.Host, "header": r.Header})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // the client checks what arrives
}

func count(w http.ResponseWriter, r *http.Request) {
	sum := sha256.New()
	n, err := io.Copy(sum, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, `{"bytes":%d,"sha256":%q}`, n, hex.EncodeToString(sum.Sum(nil)))
}

func big(w http.ResponseWriter, r *http.Request) {
	n, _ := strconv.ParseInt(r.FormValue("n"), 10, 64)
	_, _ = io.CopyN(w, zeros{}, n)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func answer(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Backend", "go")
	code, _ := strconv.Atoi(r.FormValue("code"))
	w.WriteHeader(code)
}

// hold answers never; it tells when it was asked and when that was given up.
func (b *backend) hold(_ http.ResponseWriter, r *http.Request) {
	close(b.held)
	<-r.Context().Done()
	close(b.gone)
}

func (b *backend) when(happened chan struct{}, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-happened:
			_, _ = io.WriteString(w, text)
		case <-r.Context().Done():
		}
	}
}

func (b *backend) ack(id string) chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.acks[id] == nil {
		b.acks[id] = make(chan struct{}, 1)
	}
	return b.acks[id]
}

// events sends five events, each when the one before was acknowledged.
func (b *backend) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for n := 1; n <= 5; n++ {
		fmt.Fprintf(w, "data: %d\n\n", n)
		if err := http.NewResponseController(w).Flush(); err != nil || n == 5 {
			return
		}
		select {
		case <-b.ack(r.FormValue("id")):
		case <-r.Context().Done():
			return
		}
	}
}

// echoMessages sends every message back, and closes as "close CODE REASON"
// says.
func echoMessages(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"echo.v1"}, InsecureSkipVerify: true})
	if err != nil {
		return // Accept has answered
	}
	defer conn.CloseNow()
	conn.SetReadLimit(4 << 20)
	for {
		kind, data, err := conn.Read(r.Context())
		if err != nil {
			return
		}
		var code websocket.StatusCode
		var reason string
		if n, _ := fmt.Sscanf(string(data), "close %d %s", &code, &reason); n == 2 {
			_ = conn.Close(code, reason) // the client looks at what came
			return
		}
		if conn.Write(r.Context(), kind, data) != nil {
			return
		}
	}
}
