package h2

import (
	"context"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestH2spec runs the conformance tests of github.com/summerwind/h2spec, all
// of them.
func TestH2spec(t *testing.T) {
	tool, err := exec.LookPath("h2spec")
	if err != nil {
		t.Skip("h2spec is not on PATH: go install github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible")
	}
	s := startSite(t, Config{Handler: func(s *Stream) {
		for {
			if _, err := s.Next(); err != nil {
				break
			}
		}
		s.AddText("content-type", "text/plain")
		s.WriteHead(200, false)
		s.Write([]byte("hello, h2spec\n"), true)
	}})
	host, port, _ := net.SplitHostPort(s.addr)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, tool, "-h", host, "-p", port, "-t", "-k", "-o", "2").CombinedOutput()
	t.Log(string(out[max(0, len(out)-200):]))
	if err != nil || !strings.Contains(string(out), " 0 failed") {
		t.Errorf("h2spec: %v\n%s", err, out)
	}
}
