package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestSlowAttacks: slowhttptest in its three modes, then 200 handshakes for
// names that are not ours, against the real program; people at another address
// are served beside it. How long they waited is told and not judged.
func TestSlowAttacks(t *testing.T) {
	tool, err := exec.LookPath("slowhttptest")
	if err != nil {
		if os.Getenv("POSTERN_CI") != "" {
			t.Fatal("slowhttptest is not installed, and .ci/run installs it")
		}
		t.Skip("slowhttptest is not installed")
	}
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	bin := filepath.Join(t.TempDir(), "proxy")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	s := newScene(t.TempDir())
	defer s.close()
	b, err := startBackend("app", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.backends["app"] = b
	file := filepath.Join(s.dir, "postern.yaml")
	text := fmt.Sprintf(`
listen: {http: "127.0.0.1:0", https: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
data: data
tls: {issuer: local}
guard: {never: [192.0.2.0/24], aws_ranges: "off"}
sites: [{hosts: [127.0.0.1, a.test], http: serve, upstream: %q}]
`, b.addr)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := s.start("postern", exec.Command(bin, "run", "-c", file))
	if err != nil {
		t.Fatal(err)
	}
	m, log := p.log.wait(ready, 0)
	if m == nil {
		t.Fatalf("it does not serve:\n%s", log)
	}
	clear := string(listens["HTTP"].FindSubmatch(log[m[0]:m[1]])[1])
	secure := string(listens["HTTPS"].FindSubmatch(log[m[0]:m[1]])[1])
	for _, mode := range []struct {
		name string
		args []string
	}{
		{"slow heads", []string{"-H", "-i", "2", "-x", "24"}},
		{"slow bodies", []string{"-B", "-i", "2", "-s", "8192", "-x", "10"}},
		{"slow reading", []string{"-X", "-w", "256", "-y", "512", "-n", "2", "-z", "16"}},
	} {
		t.Run(mode.name, func(t *testing.T) {
			besides(t, clear, func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				args := append(mode.args, "-c", "400", "-r", "200", "-l", "6", "-p", "2", "-u", "http://"+clear+"/")
				if out, err := exec.CommandContext(ctx, tool, args...).CombinedOutput(); ctx.Err() != nil {
					t.Errorf("slowhttptest: %v\n%s", err, out)
				}
			})
		})
	}
	t.Run("handshakes for other names", func(t *testing.T) {
		besides(t, clear, func() {
			for range 200 {
				d := tls.Dialer{NetDialer: from("127.0.0.3"), Config: &tls.Config{ServerName: "other.example", InsecureSkipVerify: true}}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				if c, err := d.DialContext(ctx, "tcp", secure); err == nil {
					_ = c.Close()
					t.Error("a handshake for another name came about")
				}
				cancel()
			}
		})
	})
}

// from dials from one of this machine's loopback addresses.
func from(addr string) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}, Timeout: 20 * time.Second}
}

// besides makes honest requests from an address of their own while attack
// runs: on a connection that is kept, and on new ones.
func besides(t *testing.T, addr string, attack func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); attack() }() // waited for below
	var mu sync.Mutex
	var took []time.Duration
	failed := 0
	var all sync.WaitGroup
	for _, kept := range []bool{true, false} {
		all.Go(func() {
			client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DialContext: from("127.0.0.2").DialContext, DisableKeepAlives: !kept}}
			defer client.CloseIdleConnections()
			pause := time.NewTicker(50 * time.Millisecond) // new connections stay below their rate
			defer pause.Stop()
			for {
				select {
				case <-done:
					return
				case <-pause.C:
				}
				began := time.Now()
				err := askOnce(client, "http://"+addr+"/")
				mu.Lock()
				if took = append(took, time.Since(began)); err != nil {
					failed++
					t.Logf("kept alive %v: %v", kept, err)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	<-done
	if len(took) == 0 {
		return // over before anybody asked
	}
	slices.Sort(took)
	t.Logf("%d requests beside it, %d failed, half within %v, 99 of 100 within %v", len(took), failed, took[len(took)/2], took[len(took)*99/100])
	if failed*1000 > len(took) {
		t.Errorf("%d of %d failed, want at most 1 in 1000", failed, len(took))
	}
}

func askOnce(client *http.Client, url string) error {
	res, err := client.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	return nil
}
