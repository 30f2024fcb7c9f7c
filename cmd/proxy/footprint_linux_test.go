package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// maxIdle is what a postern with one site may hold in memory, as README's
// Raspberry Pi would see it: 30 MB.
const maxIdle = 30 << 20

// A real build with one site stays small. How fast it starts is told and not
// judged: that depends on the machine.
func TestFootprint(t *testing.T) {
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
sites: [{hosts: [a.test], upstream: %q}]
`, b.addr)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	first := s.footprint(t, bin, file, true)
	t.Logf("without certificates on disk: idle %s, after a request %s, served after %v", mb(first.idle), mb(first.asked), first.served)
	for range 3 {
		again := s.footprint(t, bin, file, false)
		t.Logf("with certificates on disk: idle %s, after a request %s, served after %v", mb(again.idle), mb(again.asked), again.served)
		if again.idle > maxIdle || again.asked > maxIdle {
			t.Errorf("it holds %s idle and %s after a request, want at most %s", mb(again.idle), mb(again.asked), mb(maxIdle))
		}
	}
}

type footprint struct {
	idle, asked int64 // bytes
	served      time.Duration
}

func mb(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// footprint runs the program until it has served one request.
func (s *scene) footprint(t *testing.T, bin, file string, fresh bool) footprint {
	t.Helper()
	began := time.Now()
	p, err := s.start("postern", exec.Command(bin, "run", "-c", file))
	if err != nil {
		t.Fatal(err)
	}
	m, log := p.log.wait(ready, 0)
	if m == nil {
		t.Fatalf("it does not serve:\n%s", log)
	}
	s.https = string(listens["HTTPS"].FindSubmatch(log[m[0]:m[1]])[1])
	if fresh {
		if m, log := p.log.wait(regexp.MustCompile("certificate obtained"), 0); m == nil {
			t.Fatalf("no certificate:\n%s", log)
		}
	}
	out := footprint{idle: rss(t, p.cmd.Process.Pid)}
	s.newClient(true)
	if err := s.trust(filepath.Join(s.dir, "data", "local-ca", "root.pem")); err != nil {
		t.Fatal(err)
	}
	res, err := s.client.Get("https://a.test/")
	if err != nil {
		t.Fatal(err)
	}
	out.served = time.Since(began).Round(time.Millisecond)
	if a := readAnswer(res); a.status != 200 {
		t.Fatalf("status %d", a.status)
	}
	out.asked = rss(t, p.cmd.Process.Pid)
	p.kill()
	return out
}

// rss is the resident memory of a process (proc(5), VmRSS).
func rss(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(status, []byte("\nVmRSS:"))
	kb, _, _ := bytes.Cut(bytes.TrimSpace(rest), []byte(" "))
	n, err := strconv.ParseInt(string(kb), 10, 64)
	if err != nil {
		t.Fatalf("VmRSS: %v\n%s", err, status)
	}
	return n * 1024
}
