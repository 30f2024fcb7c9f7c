// Package scanners tries real scanners against the real binary, and against
// nginx with fail2ban beside it: how many of their requests reach the backend,
// and whether callers are served meanwhile.
package scanners

import (
	"bufio"
	"bytes"
	"context"
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
)

const (
	// soon is how long a program may take to do what it was started for.
	soon = time.Minute
	// bound ends a scan. The scanners' own pace, some 400 requests a second,
	// makes it through the whole list in that time.
	bound = 8 * time.Second
	// maxWords bounds the list of words.
	maxWords = 5000
	// caller is the address from which the owner's calls come; scanners have
	// 127.0.0.1.
	caller = "127.0.0.9"
)

// program returns the path of a program. Without it the test is skipped, or
// fails where nothing may be missing.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
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

// words is dirb's own list, cut to maxWords.
func words(t *testing.T) string {
	t.Helper()
	all, err := os.ReadFile("/usr/share/dirb/wordlists/common.txt")
	if err != nil {
		missing(t, "the words of dirb: "+err.Error())
	}
	lines := bytes.SplitAfter(all, []byte("\n"))
	file := filepath.Join(t.TempDir(), "words.txt")
	if err := os.WriteFile(file, bytes.Join(lines[:min(len(lines), maxWords)], nil), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// backend is what is protected. It knows /, /api/ and /healthz.
type backend struct {
	*httptest.Server
	strangers atomic.Int64 // requests of others than the caller
}

func newBackend(t *testing.T) *backend {
	t.Helper()
	b := new(backend)
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Caller") == "" {
			b.strangers.Add(1)
		}
		switch {
		case r.URL.Path == "/", r.URL.Path == "/healthz", strings.HasPrefix(r.URL.Path, "/api/"):
			_, _ = io.WriteString(w, "hello\n")
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(b.Close)
	return b
}

// calls are the owner's, one every 50 ms, until stop.
type calls struct {
	done, refused int
	first         error
	stop          func()
}

// startCalls calls from an address of its own. Every tenth call has a
// connection of its own.
func startCalls(t *testing.T, addr string) *calls {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(caller)}}
	transport := &http.Transport{DialContext: dialer.DialContext}
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	c := new(calls)
	call := func() error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/api/ping", nil)
		if err != nil {
			return err
		}
		req.Header.Set("X-Caller", "1")
		req.Close = c.done%10 == 9
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return err
		}
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", res.Status)
		}
		return nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			if err := call(); err != nil {
				c.refused++
				if c.first == nil {
					c.first = err
				}
			}
			c.done++
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	}()
	c.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
		transport.CloseIdleConnections()
	})
	t.Cleanup(c.stop)
	return c
}

// process is a program that serves until the test ends.
type process struct {
	cmd *exec.Cmd

	mu  sync.Mutex
	log bytes.Buffer
}

// run starts a program and ends it, with everything it started, after the
// test.
func run(t *testing.T, dir, name string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(name, args...)}
	p.cmd.Dir = dir
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	r, w := io.Pipe()
	p.cmd.Stdout, p.cmd.Stderr = w, w
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewReader(r)
		for {
			line, err := lines.ReadString('\n')
			p.mu.Lock()
			p.log.WriteString(line)
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	exited := make(chan struct{})
	go func() {
		_ = p.cmd.Wait()
		_ = w.Close()
		close(exited)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(20 * time.Second):
		}
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // whoever is left of its group
		<-exited
		<-read
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(name), p.text())
		}
	})
	return p
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// eventually waits for something another process does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(soon)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: did not happen within %s", what, soon)
		}
	}
}

// freePort is one nobody listened on a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// write puts a file of a program into its folder.
func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// build makes the binary, once for all tests.
var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "postern-scanners-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "proxy")
	out, err := exec.Command("go", "build", "-buildvcs=false", "-o", path, "postern/cmd/proxy").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := build(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}
