package clients

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	postern "postern/clients/go"
	"postern/internal/tlsmgr"
)

// crowded is a postern that may ban loopback, and is patient with a machine that
// is busy. It has the callers ci, with an API key, and shop, who signs. Everybody
// may ask for what is not below /api.
type crowded struct {
	*home
	key       string
	roots     *x509.CertPool
	strangers atomic.Int64 // requests without X-Caller that reached the backend
}

// newCrowded starts it; aws are addresses of AWS for it.
func newCrowded(t *testing.T, aws ...string) *crowded {
	t.Helper()
	c := &crowded{home: &home{t: t, data: t.TempDir(), addr: "127.0.0.1", port: "0"}, key: rand.Text(), roots: x509.NewCertPool()}
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Caller") == "" {
			c.strangers.Add(1)
			http.NotFound(w, r)
			return
		}
		_, _ = io.Copy(w, r.Body)
	}))
	t.Cleanup(backend.Close)
	c.extra = fmt.Sprintf(`
guard: {never: [], aws_ranges: "off"}
limits: {header_timeout: 2m, idle_timeout: 2m, handshake_timeout: 1m}
callers:
  ci: {api_key_hash: ["sha256:%x"]}
  shop: {signature: {key_id: shop, secret: %q}}
sites:
  - hosts: [home.test, localhost]
    routes:
      - {path: /api/*, callers: [ci, shop], upstream: %[3]q}
      - {path: /*, upstream: %[3]q}
`, sha256.Sum256([]byte(c.key)), shopSecret, backend.URL)
	if len(aws) > 0 {
		knowAWS(t, c.data, aws)
	}
	c.start()
	t.Cleanup(func() { c.stop() })
	root, err := os.ReadFile(tlsmgr.LocalRootPath(c.data))
	if err != nil || !c.roots.AppendCertsFromPEM(root) {
		t.Fatalf("the root: %v", err)
	}
	return c
}

// knowAWS writes the file that the list of AWS's addresses is kept in.
func knowAWS(t *testing.T, data string, addrs []string) {
	t.Helper()
	type prefix struct {
		Prefix string `json:"ip_prefix"`
	}
	var list struct {
		Token    string   `json:"syncToken"`
		Prefixes []prefix `json:"prefixes"`
	}
	list.Token = "1"
	for _, a := range addrs {
		list.Prefixes = append(list.Prefixes, prefix{a + "/32"})
	}
	for i := range 4000 { // a list that is short is not believed
		list.Prefixes = append(list.Prefixes, prefix{fmt.Sprintf("198.18.%d.%d/32", i>>8, i&255)})
	}
	file, err := json.Marshal(map[string]any{"version": 1, "read": time.Now(), "list": list})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "aws-ranges.json"), file, 0o600); err != nil {
		t.Fatal(err)
	}
}

// from is a client with an address of its own.
func (c *crowded) from(t *testing.T, addr string) *http.Client {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.roots}, DialContext: dialer.DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 2 * patience}
}

// call is one request that must be answered as it is wanted, signed or with
// the key.
func (c *crowded) call(ctx context.Context, client *http.Client, signed, last bool) error {
	body := []byte(`{"order":1}`)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://localhost:"+c.port+"/api/orders", bytes.NewReader(body))
	if err != nil {
		return err
	}
	if signed {
		req.Header.Set("X-Postern-Nonce", rand.Text())
		postern.Sign(req, body, postern.Credentials{ID: "shop", Secret: shopSecret, Region: "home", Service: "postern"}, time.Now())
	} else {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	req.Header.Set("X-Caller", "1") // for the backend, which counts the others
	req.Close = last
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || !bytes.Equal(got, body)) {
		err = fmt.Errorf("%s: %.200s", resp.Status, got)
	}
	return err
}

// scanners are run again and again, by the functions that newScanners returns,
// against base.
func newScanners(t *testing.T, base string) []func(context.Context) {
	t.Helper()
	var list strings.Builder
	for _, w := range []string{".env", ".git/config", "wp-login.php", "phpmyadmin", "admin.php", "api/orders", "backup.zip", "server-status"} {
		fmt.Fprintln(&list, w)
	}
	for i := range 2000 {
		fmt.Fprintf(&list, "page%d\n", i)
	}
	words := filepath.Join(t.TempDir(), "words.txt")
	if err := os.WriteFile(words, []byte(list.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var out []func(context.Context)
	for _, command := range [][]string{
		{installed(t, "gobuster"), "dir", "-u", base, "-w", words, "-k", "-t", "2", "--delay", "10ms", "-q", "--no-progress", "--no-error", "--timeout", "10s"},
		{installed(t, "ffuf"), "-u", base + "/FUZZ", "-w", words, "-t", "2", "-p", "0.01", "-timeout", "10", "-s"},
	} {
		out = append(out, func(ctx context.Context) {
			for ctx.Err() == nil {
				cmd := exec.CommandContext(ctx, command[0], command[1:]...)
				cmd.Dir = dir
				cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
				cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
				cmd.WaitDelay = 10 * time.Second
				// One that meets closed doors ends with an error.
				if text, err := cmd.CombinedOutput(); err != nil && ctx.Err() == nil && !errors.As(err, new(*exec.ExitError)) {
					t.Errorf("%s: %v: %s", command[0], err, text)
					return
				}
			}
		})
	}
	return out
}

// Callers and two scanners share one address: of the callers' requests none is
// refused, with keys and with signatures, on kept connections and on new ones.
func TestCallersAmongScanners(t *testing.T) {
	total := 10_000
	if os.Getenv("POSTERN_CI") != "" && !testing.Short() {
		total = 100_000
	}
	c := newCrowded(t)
	client := c.from(t, "127.0.0.1")
	if err := c.call(t.Context(), client, false, false); err != nil { // before the first scan
		t.Fatal(err)
	}
	scanning, stop := context.WithCancel(t.Context())
	var scanners, callers sync.WaitGroup
	defer scanners.Wait()
	defer stop()
	for _, scan := range newScanners(t, "https://localhost:"+c.port) {
		scanners.Go(func() { scan(scanning) })
	}
	const each = 100 // requests between two looks at the scanners
	var next, refused atomic.Int64
	var first atomic.Pointer[error]
	began := time.Now()
	for range 8 {
		client := c.from(t, "127.0.0.1")
		callers.Go(func() {
			for {
				n := next.Add(1)
				// At the end they wait for the scanners to have done their part.
				if t.Context().Err() != nil || n > int64(total) && (c.strangers.Load() > each || time.Since(began) > 4*patience) {
					return
				}
				if err := c.call(t.Context(), client, n%2 == 0, n%each == 0); err != nil {
					refused.Add(1)
					first.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	callers.Wait()
	took := time.Since(began)
	stop()
	scanners.Wait()
	t.Logf("%d requests of callers in %s, %d of scanners reached the backend", next.Load(), took.Round(time.Second), c.strangers.Load())
	if n := refused.Load(); n > 0 {
		t.Errorf("%d of %d requests of callers failed, the first with: %v", n, next.Load(), *first.Load())
	}
	if c.strangers.Load() == 0 {
		t.Error("the scanners never came")
	}
}

// A thousand new connections from one address, all open at once: where a known
// caller is, and of AWS, where nobody has called from before.
func TestBurstOfConnections(t *testing.T) {
	const burst = 1000
	for _, tt := range []struct{ name, addr string }{{"a known caller", "127.0.0.1"}, {"an address of AWS", "127.0.0.77"}} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCrowded(t, "127.0.0.77")
			if tt.addr == "127.0.0.1" {
				if err := c.call(t.Context(), c.from(t, tt.addr), false, true); err != nil {
					t.Fatal(err)
				}
			}
			var open sync.WaitGroup
			var next, failed atomic.Int64
			var first atomic.Pointer[error]
			conns := make([]*tls.Conn, burst)
			began := time.Now()
			for range 16 {
				open.Go(func() {
					for i := next.Add(1) - 1; i < burst; i = next.Add(1) - 1 {
						dialer := &tls.Dialer{NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(tt.addr)}}, Config: &tls.Config{RootCAs: c.roots, ServerName: "localhost"}}
						ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
						conn, err := dialer.DialContext(ctx, "tcp", "127.0.0.1:"+c.port)
						cancel()
						if err == nil {
							conns[i] = conn.(*tls.Conn)
						}
						if err != nil {
							failed.Add(1)
							first.CompareAndSwap(nil, &err)
						}
					}
				})
			}
			open.Wait()
			t.Logf("%d connections in %s", burst, time.Since(began).Round(10*time.Millisecond))
			if n := failed.Load(); n > 0 {
				t.Errorf("%d of %d connections failed, the first with: %v", n, burst, *first.Load())
			}
			for i, conn := range conns { // nobody has said a word before all are open
				if conn == nil {
					continue
				}
				if err := c.ask(conn); err != nil && !t.Failed() {
					t.Errorf("connection %d: %v", i, err)
				}
				_ = conn.NetConn().Close()
			}
		})
	}
}

// ask sends one request with the key and reads the beginning of its answer;
// the connection stays open.
func (c *crowded) ask(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(conn, "GET /api/x HTTP/1.1\r\nHost: localhost:%s\r\nX-Api-Key: %s\r\nX-Caller: 1\r\n\r\n", c.port, c.key); err != nil {
		return err
	}
	status := make([]byte, len("HTTP/1.1 200"))
	if _, err := io.ReadFull(conn, status); err != nil {
		return err
	}
	if string(status) != "HTTP/1.1 200" {
		return fmt.Errorf("%q", status)
	}
	return nil
}
