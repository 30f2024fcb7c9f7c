package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"postern/internal/config"
	"postern/internal/guard"
)

// TestMain lets the processes of the comparison be copies of the test binary.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		os.Exit(runRole(role))
	}
	os.Exit(m.Run())
}

// The whole way, with the smallest load, on postern alone.
func TestCompare(t *testing.T) {
	if !supported {
		t.Skip("the comparison reads /proc and needs Linux")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("go is not on PATH, so postern cannot be built")
	}
	dir := t.TempDir()
	var log bytes.Buffer
	args := []string{"-quick", "-rounds", "2", "-only", "h1-c1", "-peers", "postern", "-out", dir, "-name", "test"}
	if err := drive(t.Context(), args, &log); err != nil {
		t.Fatalf("%v\n%s", err, &log)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "test.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(raw, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Rows) != 1 || len(r.Rows[0].Samples["postern"]) != 2 {
		t.Fatalf("report holds no two samples:\n%s\n%s", raw, &log)
	}
	for _, s := range r.Rows[0].Samples["postern"] {
		if s.Units != 5000 || s.Failed != 0 || s.Error != "" {
			t.Errorf("%d units done and %d failed (%s), want 5000 and 0", s.Units, s.Failed, s.Error)
		}
		if s.CPU < 1 || s.CPU > 10000 || s.P50 <= 0 || s.P99 < s.P50 || s.PSS < megabyte {
			t.Errorf("sample is not believable: %+v", s)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "test.md"))
	if err != nil || !strings.Contains(string(text), "| h1-c1 | request | ") {
		t.Errorf("test.md: %v\n%s", err, text)
	}
}

// postern's own template stays a configuration that postern accepts.
func TestPosternConfigs(t *testing.T) {
	for _, l := range loads() {
		text := render(t, "postern.yaml", &l)
		if _, err := config.Parse("postern.yaml", []byte(text), func(string) (string, bool) { return "", false }); err != nil {
			t.Errorf("%s: %v", l.name, err)
		}
	}
}

// What postern finds in its folder is that many bans.
func TestBans(t *testing.T) {
	all := loads()
	s := commonSetup(t, &all[indexOf(all, "bans-100000")])
	c := &contestant{peer: peerByName("postern")}
	if err := c.write(s); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	g := guard.New(guard.Config{File: filepath.Join(s.Dir, "data", "bans.json"), MaxBans: s.Bans})
	g.Load(now)
	if got := len(g.Bans(now)); got != banCount {
		t.Errorf("%d bans, want %d", got, banCount)
	}
	for _, a := range s.bannedAddrs()[:10] {
		if !g.Banned(a, now) {
			t.Errorf("%s is not banned", a)
		}
	}
}

// The peers' own checks, where they are installed.
func TestPeerConfigs(t *testing.T) {
	for name, check := range map[string]func(file string) []string{
		"nginx": func(file string) []string {
			return []string{"-t", "-q", "-p", filepath.Dir(file), "-e", file + ".log", "-c", file}
		},
		"haproxy": func(file string) []string { return []string{"-c", "-q", "-f", file} },
		"caddy":   func(file string) []string { return []string{"validate", "--adapter", "caddyfile", "--config", file} },
	} {
		t.Run(name, func(t *testing.T) {
			program, err := exec.LookPath(name)
			if err != nil {
				t.Skip(name + " is not installed")
			}
			for _, l := range loads() {
				if l.setup == nil && l.name != "h1-c1" {
					continue // the same configuration
				}
				c := &contestant{peer: peerByName(name)}
				s := commonSetup(t, &l)
				if err := c.write(s); err != nil {
					t.Fatal(err)
				}
				cmd := exec.CommandContext(t.Context(), program, check(filepath.Join(s.Dir, c.config))...)
				cmd.Dir = s.Dir
				cmd.Env = append(os.Environ(), "HOME="+s.Dir)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%s: %v\n%s", l.name, err, out)
				}
			}
		})
	}
}

func commonSetup(t *testing.T, l *load) *setup {
	t.Helper()
	dir := t.TempDir()
	s := &setup{
		Dir: dir, Cert: filepath.Join(dir, "c.pem"), Key: filepath.Join(dir, "k.pem"), Backend: "127.0.0.1:1",
		HTTP: 2, HTTPS: 3, Admin: 4, Workers: 1, Files: 1000, Connections: 400, Guard: true, Hosts: []string{"app." + domain},
	}
	if err := makeCertificate(s.Cert, s.Key); err != nil {
		t.Fatal(err)
	}
	if l.setup != nil {
		l.setup(s)
	}
	return s
}

func render(t *testing.T, name string, l *load) string {
	t.Helper()
	tmpl, err := template.ParseFS(configs, "peers/"+name)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := tmpl.Execute(&text, commonSetup(t, l)); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

func TestParseStat(t *testing.T) {
	const rest = " S 17 4711 4711 0 -1 4194560 2071 88 0 0 123 45 6 7 20 0 9 0 5432 1 2"
	for _, c := range []struct {
		name, line, err string
	}{
		{"plain", "4711 (nginx)" + rest, ""},
		{"spaces and parentheses in the name", "4711 (a) b) 1 2 (c" + ")" + rest, ""},
		{"no name", "4711 nginx" + rest, "parentheses"},
		{"cut off", "4711 (nginx) S 17 4711", "3 fields"},
		{"no number", strings.Replace("4711 (nginx)"+rest, " 123 ", " x ", 1), "field 14"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseStat([]byte(c.line))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want one with %q", err, c.err)
				}
				return
			}
			want := procStat{17, 1230 * time.Millisecond, 450 * time.Millisecond, 60 * time.Millisecond, 70 * time.Millisecond}
			if err != nil || got != want {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
		})
	}
}

func TestParsePSS(t *testing.T) {
	const good = "55d0-7ffe ---p 00000000 00:00 0  [rollup]\nRss:    9000 kB\nPss:    1234 kB\nPss_Anon:  1000 kB\n"
	if got, err := parsePSS([]byte(good)); err != nil || got != 1234<<10 {
		t.Errorf("got %d, %v, want %d", got, err, 1234<<10)
	}
	for _, bad := range []string{"", "Rss: 1 kB\n", "Pss: 1\n", "Pss: x kB\n", "Pss: 1 MB\n"} {
		if got, err := parsePSS([]byte(bad)); err == nil {
			t.Errorf("%q: got %d, want an error", bad, got)
		}
	}
}

// The time of a process and of a child that has ended are both counted.
func TestCPUOf(t *testing.T) {
	if !supported {
		t.Skip("reads /proc and needs Linux")
	}
	before, err := cpuOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	x := 0.0
	for time.Since(begin) < 60*time.Millisecond {
		x += math.Sqrt(float64(len(os.Args)))
	}
	after, err := cpuOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if got := after.since(before).total; got <= 0 || got > 10*time.Second {
		t.Errorf("CPU time grew by %v in %v of work (%v)", got, time.Since(begin), x)
	}
	if n, err := pssOf(os.Getpid()); err != nil || n < 1<<20 {
		t.Errorf("PSS is %d, %v, want more than 1 MB", n, err)
	}
	if _, err := cpuOf(1 << 30); err == nil {
		t.Error("a process that does not exist has a CPU time")
	}
}

func TestStatistics(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		values            []float64
		median, low, high float64
	}{
		{nil, nan, nan, nan},
		{[]float64{nan}, nan, nan, nan},
		{[]float64{3}, 3, 3, 3},
		{[]float64{9, 1, 4}, 4, 1, 9},
		{[]float64{9, 1, nan, 4, 6}, 5, 1, 9},
	} {
		low, high := spread(c.values)
		for _, pair := range [][2]float64{{median(c.values), c.median}, {low, c.low}, {high, c.high}} {
			if pair[0] != pair[1] && !(math.IsNaN(pair[0]) && math.IsNaN(pair[1])) {
				t.Errorf("%v: median %v, from %v to %v, want %v, %v, %v", c.values, median(c.values), low, high, c.median, c.low, c.high)
			}
		}
	}
	if got, want := ratios([]float64{2, 9, 8, 5}, []float64{1, 3, 0}), []float64{2, 3}; !slices.Equal(got, want) {
		t.Errorf("ratios are %v, want %v", got, want)
	}
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[i] = i + 1
	}
	if a, b, c, d := quantile(hundred, 0.5), quantile(hundred, 0.99), quantile(hundred, 1), quantile([]int(nil), 0.5); a != 50 || b != 99 || c != 100 || d != 0 {
		t.Errorf("quantiles of 1 to 100 are %d, %d, %d, and %d of nothing", a, b, c, d)
	}
}

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		only []string
		want string
		err  bool
	}{
		{[]string{"h2", "h1-c1"}, "h1-c1 h2", false},
		{[]string{"banned*", "banned"}, "banned banned-clear", false},
		{[]string{"h3"}, "", true},
		{[]string{"x*"}, "", true},
	} {
		got, err := choose(c.only)
		var names []string
		for _, l := range got {
			names = append(names, l.name)
		}
		if (err != nil) != c.err || strings.Join(names, " ") != c.want {
			t.Errorf("%v: got %v, %v, want %q", c.only, names, err, c.want)
		}
	}
	if all, err := choose(nil); err != nil || len(all) != len(loads()) {
		t.Errorf("no names choose %d loads (%v), want all", len(all), err)
	}
}

func TestBackendReads(t *testing.T) {
	br := bufio.NewReader(strings.NewReader(
		"GET /a/1m?x=1 HTTP/1.1\r\nHost: h\r\nCONTENT-length:  5\r\n\r\nhello" +
			"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\n" +
			"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"))
	for i, want := range []struct {
		r    request
		body int64
	}{
		{request{path: []byte("/a/1m?x=1"), length: 5}, 5},
		{request{path: []byte("/"), length: -1}, 3},
		{request{path: []byte("/ws"), upgrade: true, key: "dGhlIHNhbXBsZSBub25jZQ=="}, 0},
	} {
		r, err := readRequest(br)
		if err != nil || string(r.path) != string(want.r.path) || r.length != want.r.length || r.upgrade != want.r.upgrade || r.key != want.r.key {
			t.Fatalf("request %d: got %+v, %v, want %+v", i, r, err, want.r)
		}
		if n, err := skipBody(br, r.length); err != nil || n != want.body {
			t.Fatalf("request %d: body of %d bytes, %v, want %d", i, n, err, want.body)
		}
	}
	if _, err := readRequest(br); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v, want EOF", err)
	}
	// The example of RFC 6455 section 1.3.
	if got, want := acceptKey("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="; got != want {
		t.Errorf("accept key is %q, want %q", got, want)
	}
}

func TestEchoFrames(t *testing.T) {
	long := strings.Repeat("x", 300)
	masked := func(s string) string {
		b := []byte(s)
		for i := range b {
			b[i] ^= "mask"[i%4]
		}
		return string(b)
	}
	var out bytes.Buffer
	in := "\x82\x85mask" + masked("hello") + "\x82\xfe\x01\x2cmask" + masked(long)
	if err := echoFrames(bufio.NewReader(strings.NewReader(in)), &out); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if got, want := out.String(), "\x82\x05hello\x82\x7e\x01\x2c"+long; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := echoFrames(bufio.NewReader(strings.NewReader("\x82\xff")), &out); !errors.Is(err, errLongFrame) {
		t.Errorf("a frame of 64 bits: %v, want %v", err, errLongFrame)
	}
}

// A report with holes in it can be printed, and its plot is well-formed.
func TestReport(t *testing.T) {
	cpu := func(v ...float64) (out []sample) {
		for _, f := range v {
			out = append(out, sample{CPU: f, PerConn: f * 1024, Units: 1})
		}
		return out
	}
	r := &report{
		Proxies: []string{"postern", "nginx", "a<b"}, About: map[string]string{"nginx": "1.22.1"}, Missing: map[string]string{"caddy": "not installed"},
		Rows: []*row{
			{Load: "h1-c1", Unit: "request", Samples: map[string][]sample{"postern": cpu(30, 50, 40), "nginx": cpu(20, 20, 20), "a<b": cpu(900)}},
			{Load: "h1-c32", Unit: "request", Samples: map[string][]sample{"postern": cpu(20), "nginx": cpu(20)}},
			{Load: "sites-1000", Unit: "request", Samples: map[string][]sample{"postern": cpu(21)}},
			{Load: "idle", Kind: measureMemory, Samples: map[string][]sample{"postern": cpu(12), "nginx": cpu(10)}},
			{Load: "h2", Unit: "request", Samples: map[string][]sample{"nginx": cpu(20)}, Missing: map[string]string{"postern": "a\nb"}},
			{Load: "reload", Kind: measureReload, Samples: map[string][]sample{"postern": {{Units: 5, Failed: 2, Retried: 1, Error: "gone"}}}},
		},
	}
	text := string(r.markdown("test"))
	for _, want := range []string{
		"| h1-c1 | request | **40 ×2.00** [1.50–2.50] | 20 | 900 ×45 |",
		"| idle | KB per connection | 12 ×1.20 | 10 | – |",
		"| h2 | request | – | 20 | – |",
		"| reload | failed | 2 | – | – |",
		"- reload, postern: 2 units failed; the first: gone",
		"- h2, postern: a\n",
		"- caddy: left out, not installed",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("report has no %q:\n%s", want, text)
		}
	}
	dec := xml.NewDecoder(bytes.NewReader(r.plot()))
	for {
		if _, err := dec.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("plot: %v\n%s", err, r.plot())
		}
	}
}

func TestOptions(t *testing.T) {
	o, err := parseOptions([]string{"-quick", "-only", "h2, h1-c1", "-with", "old=x/y"}, io.Discard)
	if err != nil || o.rounds != 3 || len(o.only) != 2 || o.with["old"] != "x/y" {
		t.Errorf("got %+v, %v", o, err)
	}
	for _, bad := range [][]string{{"h2"}, {"-with", "old"}, {"-with", "nginx=x"}, {"-rounds", "x"}} {
		if _, err := parseOptions(bad, io.Discard); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
}
