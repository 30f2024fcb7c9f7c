package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"postern/internal/testnet"
)

// proxyCommand runs the command and returns what it printed, with its exit
// code.
func proxyCommand(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "proxy", args...)
	cmd.Dir = t.TempDir()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out.String(), errs.String(), exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), 0
}

// certs check tells what a certificate authority would meet, without a running
// postern.
func TestCertsCheck(t *testing.T) {
	lab := testnet.NewLab(t)
	lab.Zone("org", 1)
	duck := lab.Zone("duckdns.org", 2)
	lab.Add("mypi.duckdns.org. 60 IN A 127.0.0.1")
	data := t.TempDir()
	file := filepath.Join(data, "postern.yaml")
	text := fmt.Sprintf(`
data: %s
dns: {resolvers: [%q], authoritative_port: %d, doh: []}
sites: [{hosts: [mypi.duckdns.org], upstream: "127.0.0.1:3000"}]
`, data, lab.Resolver.Addr, lab.Port)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs, code := proxyCommand(t, "certs", "check", "-c", file, "mypi.duckdns.org")
	if code != 0 || errs != "" || !strings.HasSuffix(out, "\nmypi.duckdns.org: green: DuckDNS's name servers answer (2 of 2)\n") {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	row := regexp.MustCompile(`(?m)^ +ns2\.duckdns\.org \(127\.0\.0\.\d+\) +mypi\.duckdns\.org +A +\d+m?s +127\.0\.0\.1$`)
	if !row.MatchString(out) {
		t.Errorf("no row matches %s in\n%s", row, out)
	}
	if _, err := os.Stat(filepath.Join(data, "nameservers.json")); err == nil {
		t.Error("the file of the running postern was written")
	}

	lab.Add(`duckdns.org. 60 IN CAA 0 issue "ca.example"`)
	out, errs, code = proxyCommand(t, "certs", "check", "-c", file, "mypi.duckdns.org")
	if code != 1 || errs != "" || !strings.HasSuffix(out, "\nmypi.duckdns.org: red: CAA of duckdns.org forbids letsencrypt.org: it allows ca.example\n") {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	for _, d := range duck {
		d.SetFault("*", "CAA", testnet.ServFail)
	}
	out, _, code = proxyCommand(t, "certs", "check", "-c", file, "mypi.duckdns.org")
	if code != 1 || !strings.Contains(out, "\n! ") || !strings.HasSuffix(out, ": red: DuckDNS's name servers fail at CAA (2 of 2 answered SERVFAIL)\n") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	for _, args := range [][]string{{"certs", "check"}, {"certs", "check", "a", "b"}, {"certs", "chekc"}} {
		if out, errs, code = proxyCommand(t, args...); code != 1 || out != "" || !strings.Contains(errs, "proxy certs") {
			t.Errorf("%q: exit code %d\n%s%s", args, code, out, errs)
		}
	}
}
