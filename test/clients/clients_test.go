package clients

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

func TestCurl(t *testing.T) {
	curl := program(t, "curl", "--version")
	b := newBackend(t)
	r := start(t, all(b.URL))
	upload := filepath.Join(t.TempDir(), "upload")
	if err := os.WriteFile(upload, bytes.Repeat([]byte("0123456789abcdef"), 1<<18), 0o600); err != nil {
		t.Fatal(err)
	}
	protocols := []struct{ flag, want string }{{"--http1.1", "1.1"}}
	if out := r.run(t, curl, "--version"); strings.Contains(out, "HTTP2") {
		protocols = append(protocols, struct{ flag, want string }{"--http2", "2"})
	} else {
		t.Log("this curl does not speak HTTP/2")
	}
	for _, p := range protocols {
		t.Run(p.flag, func(t *testing.T) {
			ask := func(args ...string) string {
				t.Helper()
				return r.run(t, curl, append([]string{"-q", "-sS", "--max-time", "30", "--cacert", r.root, p.flag}, args...)...)
			}
			if got := ask("-o", os.DevNull, "-w", "%{http_version} %{http_code} %{num_connects}", r.base+"/hello"); got != p.want+" 200 1" {
				t.Errorf("GET: %s", got)
			}
			if got := ask("-I", r.base+"/hello"); !strings.Contains(strings.ToLower(got), "\ncontent-length: ") || strings.Contains(got, "{") {
				t.Errorf("HEAD: %s", got)
			}
			if got := ask("-T", upload, r.base+"/count"); !strings.HasPrefix(got, `{"bytes":4194304,`) {
				t.Errorf("-T: %s", got)
			}
			if got := ask("-T", "-", r.base+"/count"); got != `{"bytes":0,"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}` {
				t.Errorf("-T -: %s", got)
			}
			if got := ask("-H", "Expect: 100-continue", "-d", "a=1", r.base+"/count"); !strings.HasPrefix(got, `{"bytes":3,`) {
				t.Errorf("Expect: %s", got)
			}
			if got := ask("-X", "OPTIONS", "-o", os.DevNull, "-w", "%{http_code}", r.base+"/status?code=204"); got != "204" {
				t.Errorf("OPTIONS: %s", got)
			}
			if got := ask("--path-as-is", r.base+"/hello?a=%2F..%2f&b=//"); !strings.Contains(got, `"target":"/hello?a=%2F..%2f\u0026b=//"`) {
				t.Errorf("the target changed: %s", got)
			}
		})
	}
}

func TestNodeFetch(t *testing.T) {
	path := node(t)
	b := newBackend(t)
	r := start(t, all(b.URL))
	r.run(t, path, "fetch.mjs", r.base)
}

func TestNodeEvents(t *testing.T) {
	path := node(t)
	b := newBackend(t)
	r := start(t, `{path: /events, upstream: "`+b.URL+`", timeout: {response: 0s}}`, all(b.URL))
	r.run(t, path, "events.mjs", r.base)
}

// A backend that closes idle connections must not be noticed by anybody.
func TestNodeKeepAlive(t *testing.T) {
	path := node(t)
	t.Run("before Go", func(t *testing.T) {
		t.Parallel()
		b := newBackend(t, func(s *http.Server) { s.IdleTimeout = 50 * time.Millisecond })
		r := start(t, all(b.URL))
		r.run(t, path, "keepalive.mjs", r.base+"/count")
	})
	t.Run("before Node", func(t *testing.T) {
		t.Parallel()
		cmd := exec.CommandContext(t.Context(), path, "backend.mjs")
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = t.Output()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = stdin.Close() // it ends with its input
			_ = cmd.Wait()
		})
		port, err := bufio.NewReader(stdout).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		r := start(t, all("127.0.0.1:"+strings.TrimSpace(port)))
		r.run(t, path, "keepalive.mjs", r.base+"/")
	})
}

func TestNodeWebSocket(t *testing.T) {
	path := node(t, "ws")
	b := newBackend(t)
	r := start(t, all(b.URL))
	r.run(t, path, "websocket.mjs", strings.Replace(r.base, "https:", "wss:", 1)+"/ws")
}

func TestPython(t *testing.T) {
	python := program(t, "python3", "-c", "import ssl, http.client, urllib.request")
	b := newBackend(t)
	r := start(t, all(b.URL))
	_, port, _ := strings.Cut(r.addr, ":")
	r.run(t, python, "client.py", "localhost", port, r.root)
}

// client is Go's own, for one protocol.
func (r *rig) client(t *testing.T, h2 bool) *http.Client {
	transport := &http.Transport{TLSClientConfig: r.tls.Clone(), Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(!h2)
	transport.Protocols.SetHTTP2(h2)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

func TestGo(t *testing.T) {
	b := newBackend(t)
	r := start(t, all(b.URL))
	for _, h2 := range []bool{false, true} {
		want := map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[h2]
		t.Run(want, func(t *testing.T) {
			c := r.client(t, h2)
			res, err := c.Get(r.base + "/hello")
			if err != nil {
				t.Fatal(err)
			}
			var seen struct {
				Proto, Host string
				Header      http.Header
			}
			if err := json.NewDecoder(res.Body).Decode(&seen); err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if res.Proto != want || res.TLS.Version != tls.VersionTLS13 || seen.Proto != "HTTP/1.1" || "https://"+seen.Host != r.base {
				t.Errorf("got %s, TLS %x; the backend saw %s for %s", res.Proto, res.TLS.Version, seen.Proto, seen.Host)
			}
			// 32 MiB each way, streamed both ways.
			const size = 32 << 20
			res, err = c.Post(r.base+"/count", "application/octet-stream", io.LimitReader(zeros{}, size))
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(res.Body)
			if err != nil || !strings.HasPrefix(string(text), fmt.Sprintf(`{"bytes":%d,`, size)) {
				t.Errorf("upload: %s, %v", text, err)
			}
			res, err = c.Get(fmt.Sprintf("%s/big?n=%d", r.base, size))
			if err != nil {
				t.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, res.Body); n != size || err != nil {
				t.Errorf("download: %d bytes, %v", n, err)
			}
			_ = res.Body.Close()
		})
	}
}

func TestGoWebSocket(t *testing.T) {
	b := newBackend(t)
	r := start(t, all(b.URL))
	conn, _, err := websocket.Dial(t.Context(), strings.Replace(r.base, "https:", "wss:", 1)+"/ws", &websocket.DialOptions{HTTPClient: r.client(t, false)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	conn.SetReadLimit(4 << 20)
	message := bytes.Repeat([]byte("x"), 1<<20)
	if err := conn.Write(t.Context(), websocket.MessageBinary, message); err != nil {
		t.Fatal(err)
	}
	if _, got, err := conn.Read(t.Context()); err != nil || !bytes.Equal(got, message) {
		t.Fatalf("%d bytes came back, %v", len(got), err)
	}
	if err := conn.Write(t.Context(), websocket.MessageText, []byte("close 4001 enough")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := conn.Read(t.Context()); websocket.CloseStatus(err) != 4001 {
		t.Errorf("got %v, want close status 4001", err)
	}
}
