package scanners

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the table to docs/scanners.md")

const tableFile = "../../docs/scanners.md"

// tool is a scanner, at a pace and with a list that are bounded.
type tool struct {
	name string
	args func(base, port, words string) []string
}

var tools = []tool{
	{"gobuster", func(base, _, words string) []string {
		return []string{"dir", "-u", base, "-w", words, "-t", "4", "--delay", "10ms", "-q", "--no-progress", "--no-error", "--timeout", "2s"}
	}},
	{"ffuf", func(base, _, words string) []string {
		return []string{"-u", base + "/FUZZ", "-w", words, "-t", "4", "-p", "0.01", "-timeout", "2", "-s"}
	}},
	{"dirb", func(base, _, words string) []string {
		return []string{base + "/", words, "-S", "-w", "-r", "-z", "5"}
	}},
	{"nmap", func(_, port, _ string) []string {
		return []string{"-Pn", "-n", "-T4", "-sT", "-p", port, "--host-timeout", "11s", "--script",
			"+http-enum,+http-git,+http-headers,+http-methods,+http-title,+http-robots.txt,+http-wordpress-enum,+http-shellshock,+http-open-proxy,+http-config-backup,+http-backup-finder",
			"127.0.0.1"}
	}},
}

// scan runs one tool to its end, or to the bound.
func (s tool) scan(t *testing.T, path, addr, words string) {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, s.args("http://"+addr, port, words)...)
	cmd.Dir = t.TempDir()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	// A scanner that meets a closed door ends with an error. One that could
	// not be started at all is another thing.
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) && ctx.Err() == nil {
		t.Fatalf("%s: %v: %s", s.name, err, out)
	}
}

func reachable(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

// result is one cell of the table.
type result struct {
	reached int64
	seen    int
	banned  bool
	calls   *calls
}

// try has one tool scan one server, while the owner calls.
func (s tool) try(t *testing.T, start func(*testing.T, layout, *backend) server, l layout, words string) result {
	t.Helper()
	path := program(t, s.name)
	b := newBackend(t)
	door := start(t, l, b)
	c := startCalls(t, door.addr)
	s.scan(t, path, door.addr, words)
	r := result{reached: b.strangers.Load(), calls: c}
	c.stop()
	eventually(t, "the scanner was noticed", func() bool { return door.seen() > 0 || door.banned() })
	r.seen, r.banned = door.seen(), door.banned()
	t.Logf("%s: %d requests of %d answered reached the backend, banned: %t; %d of %d calls refused", s.name, r.reached, r.seen, r.banned, c.refused, c.done)
	return r
}

// TestScanners holds postern to its promise, and prints what nginx with
// fail2ban does with the same scanners at the same pace.
func TestScanners(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	words := words(t) // in a folder without a comma, at which dirb would split
	table := make(map[string][columns]string)
	for i, column := range [columns]struct {
		name   string
		start  func(*testing.T, layout, *backend) server
		layout layout
		most   int64 // requests that may reach the backend; below 0: it is not ours
	}{
		{"postern, routes declared", startPostern, declared, 1},
		{"postern, all paths, open", startPostern, open, 40},
		{"postern, all paths", startPostern, everything, 100},
		{"nginx and fail2ban, routes declared", startNginx, declared, -1},
		{"nginx and fail2ban, all paths", startNginx, everything, -1},
	} {
		for _, s := range tools {
			t.Run(column.name+"/"+s.name, func(t *testing.T) {
				r := s.try(t, column.start, column.layout, words)
				row := table[s.name]
				row[i] = fmt.Sprintf("%d (of %d)", r.reached, r.seen)
				table[s.name] = row
				if column.most < 0 {
					return
				}
				if !r.banned && r.seen > 4 { // paths of no route: the fifth is a ban
					t.Errorf("%d requests of the scanner were seen, and it was not banned", r.seen)
				}
				if r.calls.refused > 0 || r.calls.done == 0 {
					t.Errorf("%d of %d calls of the owner refused, want none: %v", r.calls.refused, r.calls.done, r.calls.first)
				}
				if r.reached > column.most {
					t.Errorf("%d requests reached the backend, want %d at most", r.reached, column.most)
				}
			})
		}
	}
	if *update && !t.Failed() {
		writeTable(t, table)
	}
}

// columns is the number of columns of results.
const columns = 5

// version is the first line a program tells about itself.
func version(name string, args ...string) string {
	out, _ := exec.Command(name, args...).CombinedOutput() // some end with an error after it
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); strings.ContainsAny(line, "0123456789") {
			return line
		}
	}
	return "unknown"
}

func writeTable(t *testing.T, table map[string][columns]string) {
	t.Helper()
	var b strings.Builder
	b.WriteString(`# Scanners

Requests of a scanner that reached the backend, counted by the backend, and in
brackets how many the front door answered, refusals included. Lower is better.
The table is written by ` + "`go test ./test/scanners -update`" + ` on one machine, over
loopback.

| scanner | postern, routes declared | postern, all paths, ` + "`open: true`" + ` | postern, all paths | nginx + fail2ban, routes declared | nginx + fail2ban, all paths |
|---|---|---|---|---|---|
`)
	for _, s := range tools {
		row := table[s.name]
		for i := range row {
			if row[i] == "" {
				row[i] = "not run"
			}
		}
		fmt.Fprintf(&b, "| %s | %s |\n", s.name, strings.Join(row[:], " | "))
	}
	fmt.Fprintf(&b, `
How it was done:

- Routes declared: the site has /api/* and /healthz and nothing else; nginx
  answers 404 to the rest itself. All paths: one route takes everything, and the
  backend answers 404. With `+"`open: true`"+` postern is told that what only scanners
  ask for is no part of it; without, it has the backend's answers to go by.
- postern runs with its defaults, but for guard.never, which is empty so that
  loopback may be banned, and without looking for AWS's list.
- fail2ban has its jails for nginx as shipped (botsearch, bad-request, http-auth,
  limit-req), and one for 10 answers of 404 in 10 minutes, which is not shipped
  and most people lack. A ban is a deny line for nginx and a reload.
- The scanners know the site's name, keep to some 400 requests a second at most,
  and are stopped after %s. The list is dirb's common.txt.
- Meanwhile the owner calls every 50 ms from another address; of the calls
  through postern none was refused.

Versions: %s; %s; %s; %s; dirb %s; fail2ban %s.
`, bound, strings.TrimPrefix(version("nginx", "-v"), "nginx version: "), strings.TrimSuffix(version("nmap", "--version"), " ( https://nmap.org )"), "gobuster "+version("gobuster", "version"), strings.Replace(version("ffuf", "-V"), " version:", "", 1),
		strings.TrimPrefix(version("dirb"), "DIRB "), strings.TrimPrefix(version("fail2ban-server", "--version"), "Fail2Ban "))
	if err := os.WriteFile(tableFile, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
