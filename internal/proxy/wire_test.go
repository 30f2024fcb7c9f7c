package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"postern/internal/guard"
	"postern/internal/upstream"
)

// The wire scripts of testdata/wire: what a client sends, what reaches the
// backend, what comes back, byte for byte. testdata/wire/README.md describes
// their language. Every engine must pass them.
func TestWire(t *testing.T) {
	files, err := filepath.Glob("testdata/wire/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, e := range engines() {
		t.Run(e.name, func(t *testing.T) {
			for _, file := range files {
				t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
					src, err := os.ReadFile(file)
					if err != nil {
						t.Fatal(err)
					}
					for _, s := range parseScripts(t, file, string(src)) {
						for _, bytewise := range []bool{false, true} {
							s, name := s, s.name
							if s.bytewise = bytewise; bytewise {
								name += ", byte by byte"
							}
							t.Run(name, func(t *testing.T) {
								t.Parallel()
								runScript(t, e, s)
							})
						}
					}
				})
			}
		})
	}
}

// wireSetups are the servers a script may ask for, by name.
func wireSetups(t testing.TB, name, backend string) (o options, secure bool) {
	site := proxyTo(t, backend)
	o.limits = Limits{Header: 4 << 10, Handshake: patience, HeaderIn: patience, Idle: patience, Stall: patience}
	rt := &site.Routes[0]
	switch name {
	case "proxy":
	case "trusted":
		o.trusted = loopback
	case "https":
		site.HSTS, secure = "max-age=31536000", true
	case "redirect":
		site.HTTP = HTTPRedirect
		o.httpsPort = 8443
	case "strip":
		rt.Pattern, rt.StripPrefix = "/api/*", "/api"
	case "maxbody":
		rt.MaxBody = 10
	case "rate":
		rt.Rate = &Rate{Policy: "default", Limiter: guard.NewLimiter(guard.Rate{Events: 1, Per: time.Hour}, 1, 0)}
	case "timeout":
		rt.Upstream = pool(t, upstream.Config{Idle: time.Second, Response: 100 * time.Millisecond}, backend)
	case "down":
		rt.Upstream = pool(t, upstream.Config{Idle: time.Second}, closedPort(t))
	case "detect":
		o.guard.Mode = guard.Detect
	case "off":
		o.guard.Mode = guard.Off
	case "routes":
		site.Routes = []Route{
			{Pattern: "/get", Upstream: rt.Upstream},
			{Pattern: "/old/*", Redirect: &Redirect{To: "https://example.org/new/*", Status: 308}},
			{Pattern: "/base/*", Redirect: &Redirect{To: "/*", Status: 302}},
			{Pattern: "/moved", Redirect: &Redirect{To: "https://example.org/here?x=1", Status: 301}},
			{Pattern: "/say", Respond: &Respond{Status: 200, Body: "hello\n", Type: "text/plain; charset=utf-8"}},
			{Pattern: "/empty", Respond: &Respond{Status: 204}},
			{Pattern: "/admin/*", Respond: &Respond{Status: 403, Body: "no\n", Type: "text/plain"}},
			{Pattern: "/a/*", Upstream: rt.Upstream},
		}
		site.methods = map[string][]string{"/get": {"GET", "POST"}}
	default:
		t.Fatalf("unknown setup %q", name)
	}
	o.sites = []testSite{site}
	return o, secure
}

// script is one story of a file.
type script struct {
	name, file, setup string
	bytewise          bool // what the client sends comes in single bytes
	line              int
	steps             []step
}

// step is one thing that happens: "> client", "< upstream chunked", "= open".
type step struct {
	words []string
	data  string // what follows, with macros and escapes still in it
	line  int
}

func parseScripts(t testing.TB, file, src string) []script {
	t.Helper()
	var all []script
	var s *script
	for i, line := range strings.Split(strings.TrimSuffix(src, "\n"), "\n") {
		directive := len(line) > 2 && line[1] == ' ' && strings.IndexByte("><=!", line[0]) >= 0
		switch {
		case strings.HasPrefix(line, "== "):
			if s != nil && len(s.steps) > 0 { // the empty line between two stories
				last := &s.steps[len(s.steps)-1]
				last.data = strings.TrimSuffix(last.data, "\r\n")
			}
			all = append(all, script{name: line[3:], file: file, line: i + 1})
			s = &all[len(all)-1]
		case s == nil, len(s.steps) == 0 && (line == "" || line[0] == '#'):
		case strings.HasPrefix(line, "setup ") && len(s.steps) == 0:
			s.setup = line[len("setup "):]
		case directive:
			s.steps = append(s.steps, step{words: strings.Fields(line), line: i + 1})
		case len(s.steps) == 0:
			t.Fatalf("%s:%d: %q, want a comment, setup or a step", file, i+1, line)
		default:
			last := &s.steps[len(s.steps)-1]
			if cut, ok := strings.CutSuffix(line, `\`); ok {
				last.data += cut
			} else {
				last.data += line + "\r\n"
			}
		}
	}
	return all
}

// wireRun is a script under way.
type wireRun struct {
	t        *testing.T
	s        script
	at       step
	client   *peer
	backend  *rawBackend
	upstream *peer
	broken   bool // a write failed, so the reset was told already
}

// peer is one end the script speaks for.
type peer struct {
	net.Conn
	r *bufio.Reader
}

func newPeer(c net.Conn) *peer { return &peer{Conn: c, r: bufio.NewReader(c)} }

func runScript(t *testing.T, e engine, s script) {
	b := newRawBackend(t)
	o, secure := wireSetups(t, s.setup, b.addr)
	o.engine = e
	rig := start(t, o)
	w := &wireRun{t: t, s: s, backend: b}
	if secure {
		w.client = newPeer(rig.dialTLS("http/1.1"))
	} else {
		w.client = newPeer(rig.dial())
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("access: %s\nlog: %s", rig.access, rig.log)
		}
	})
	for _, w.at = range s.steps {
		w.step()
	}
	if len(b.conns) > 0 {
		t.Errorf("%s:%d: the backend got a connection the script does not name", s.file, s.line)
	}
}

func (w *wireRun) fatalf(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("%s:%d: %s: %s", w.s.file, w.at.line, strings.Join(w.at.words, " "), fmt.Sprintf(format, args...))
}

func (w *wireRun) step() {
	verb, who := w.at.words[0], w.at.words[1]
	switch {
	case verb == "=":
		w.ends(who)
	case verb == "!":
		w.breaks()
	case verb == ">" && who == "client":
		w.write(w.client)
	case verb == ">" && who == "upstream":
		if w.upstream == nil {
			w.upstream = newPeer(w.backend.accept(w.t))
		}
		w.write(w.upstream)
	case verb == "<" && who == "client":
		w.expect(w.client)
	case verb == "<" && who == "upstream":
		if w.upstream == nil || slices.Contains(w.at.words, "new") {
			w.upstream = newPeer(w.backend.accept(w.t))
		}
		w.expect(w.upstream)
	default:
		w.fatalf("unknown step")
	}
}

// write sends the step's bytes. A server that has already answered and closed
// may not take them all.
func (w *wireRun) write(p *peer) {
	data := []byte(unescape(w.t, expandFiller(w.at.data)))
	var err error
	bytewise := w.s.bytewise && p == w.client && !slices.Contains(w.at.words, "whole")
	for i := 0; bytewise && i < 400 && len(data) > 1 && err == nil; i++ {
		_, err = p.Write(data[:1])
		data = data[1:]
	}
	if err == nil {
		_, err = p.Write(data)
	}
	w.broken = w.broken || err != nil
	if err != nil && !bytewise && !slices.Contains(w.at.words, "partly") {
		w.fatalf("%v", err)
	}
}

// ends checks what becomes of the client's connection.
func (w *wireRun) ends(how string) {
	if how == "open" {
		send(w.t, w.client, "GET /ping HTTP/1.1\r\nHost: probe.test\r\n\r\n")
		w.at.data = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nX-Request-Id: {id}\r\nDate: {any}\r\n\r\npong\n"
		w.expect(w.client)
		return
	}
	rest, err := io.ReadAll(w.client.r)
	if len(rest) > 0 {
		w.fatalf("got %.200q more", rest)
	}
	switch {
	case how == "closed" && err != nil, how == "reset" && !isReset(err) && !w.broken, how == "cut" && err != nil && !isReset(err):
		w.fatalf("the connection ended with %v", err)
	}
}

// breaks ends a connection: "! upstream closes", "! client resets".
func (w *wireRun) breaks() {
	p := w.client
	if w.at.words[1] == "upstream" {
		p = w.upstream
		w.upstream = nil
	}
	if w.at.words[2] == "resets" {
		if t, ok := p.Conn.(*net.TCPConn); ok {
			_ = t.SetLinger(0)
		}
	}
	_ = p.Close()
}

// expect reads one message, or bytes if the step says so, and compares.
func (w *wireRun) expect(p *peer) {
	w.t.Helper()
	want := expandMacros(w.at.data)
	if slices.Contains(w.at.words, "bytes") {
		w.expectBytes(p, want)
		return
	}
	head, body, ok := strings.Cut(want, "\r\n\r\n")
	if !ok {
		w.fatalf("the script's head has no end")
	}
	w.expectHead(p, strings.Split(head, "\r\n"))
	if slices.Contains(w.at.words, "chunked") {
		w.expectChunked(p, body)
	} else {
		w.expectBytes(p, body)
	}
}

func (w *wireRun) expectHead(p *peer, want []string) {
	w.t.Helper()
	var got []string
	for {
		line, err := p.r.ReadString('\n')
		if err != nil {
			w.fatalf("got %q %q: %v", got, line, err)
		}
		if line == "\r\n" {
			break
		}
		got = append(got, strings.TrimSuffix(line, "\r\n"))
	}
	if len(got) == 0 || !pattern(w.t, want[0]).MatchString(latin1(got[0])) {
		w.fatalf("start line\n got %q\nwant %q", got, want[0])
	}
	w.compareFields(got[1:], want[1:])
}

// compareFields compares field lines in any order; names in any case.
func (w *wireRun) compareFields(got, want []string) {
	w.t.Helper()
	got = slices.Clone(got)
	for _, field := range want {
		field, optional := strings.CutPrefix(field, "{maybe}")
		re := pattern(w.t, lowerName(field))
		i := slices.IndexFunc(got, func(line string) bool { return re.MatchString(latin1(lowerName(line))) })
		if i < 0 && optional {
			continue
		}
		if i < 0 {
			w.fatalf("missing %q\n got %q", field, got)
		}
		got = slices.Delete(got, i, i+1)
	}
	if len(got) > 0 {
		w.fatalf("unexpected fields %q", got)
	}
}

func lowerName(field string) string {
	name, value, _ := strings.Cut(field, ":")
	return strings.ToLower(name) + ":" + value
}

// expectBytes reads until what came matches, and not a byte more.
func (w *wireRun) expectBytes(p *peer, want string) {
	w.t.Helper()
	re := pattern(w.t, want)
	var got []byte
	for !re.MatchString(latin1(string(got))) {
		c, err := p.r.ReadByte()
		if err != nil {
			w.fatalf("\n got %.300q: %v\nwant %.300q", got, err, want)
		}
		got = append(got, c)
	}
}

// expectChunked reads a chunked body: how it is cut into chunks is the
// sender's choice, what it says is not.
func (w *wireRun) expectChunked(p *peer, want string) {
	w.t.Helper()
	body, trailer, _ := strings.Cut(want, "{trailer}\r\n")
	var got bytes.Buffer
	for {
		line, err := p.r.ReadString('\n')
		if err != nil {
			w.fatalf("got %q: %v", got.Bytes(), err)
		}
		size, err := strconv.ParseUint(strings.TrimSuffix(line, "\r\n"), 16, 32)
		if err != nil {
			w.fatalf("chunk size: %v", err)
		}
		if size == 0 {
			break
		}
		if _, err := io.CopyN(&got, p.r, int64(size)+2); err != nil {
			w.fatalf("got %q: %v", got.Bytes(), err)
		}
		got.Truncate(got.Len() - 2)
		if slices.Contains(w.at.words, "unfinished") && pattern(w.t, body).MatchString(latin1(got.String())) {
			return
		}
	}
	if !pattern(w.t, body).MatchString(latin1(got.String())) {
		w.fatalf("\n got %q\nwant %q", got.Bytes(), body)
	}
	var fields []string
	for {
		line, err := p.r.ReadString('\n')
		if err != nil {
			w.fatalf("trailer: %v", err)
		}
		if line == "\r\n" {
			break
		}
		fields = append(fields, strings.TrimSuffix(line, "\r\n"))
	}
	w.compareFields(fields, strings.FieldsFunc(trailer, func(r rune) bool { return r == '\r' || r == '\n' }))
}

// expandMacros writes out what many scripts expect.
func expandMacros(s string) string {
	s = strings.ReplaceAll(s, "{forwarding}", "Host: a.test\r\nForwarded: for=127.0.0.1;host=\"a.test\";proto=http\r\n"+
		"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: a.test\r\nX-Forwarded-Proto: http\r\nX-Real-Ip: 127.0.0.1\r\nX-Request-Id: {id}")
	s = strings.ReplaceAll(s, "{own}", "Date: {any}\r\nX-Request-Id: {id}")
	s = strings.ReplaceAll(s, "{problem}", "Content-Type: application/problem+json\r\nCache-Control: no-store\r\nProxy-Status: postern; error={any}\r\nContent-Length: {any}\r\nDate: {any}\r\nX-Request-Id: {id}")
	s = strings.ReplaceAll(s, "{reason 502 any}", "{reason 502 anyreason}")
	reason := regexp.MustCompile(`\{reason (\d+) (\w+)\}\r\n`)
	s = reason.ReplaceAllString(s, `{"type":"about:blank","title":"{any}","status":$1,"detail":"{any}","reason":"$2","request_id":"{id}"}`+"\n")
	return strings.ReplaceAll(s, `"anyreason"`, `"{any}"`)
}

// expandFiller writes out {a*1000}.
func expandFiller(s string) string {
	return regexp.MustCompile(`\{([^{}*]+)\*(\d+)\}`).ReplaceAllStringFunc(s, func(m string) string {
		text, count, _ := strings.Cut(m[1:len(m)-1], "*")
		n, err := strconv.Atoi(count)
		if err != nil {
			return m
		}
		return strings.Repeat(strings.ReplaceAll(text, "\\n", "\r\n"), n)
	})
}

// unescape reads \xNN and \\.
func unescape(t testing.TB, s string) string {
	t.Helper()
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case strings.HasPrefix(s[i:], `\x`) && i+3 < len(s):
			c, err := strconv.ParseUint(s[i+2:i+4], 16, 8)
			if err != nil {
				t.Fatalf("escape in %q: %v", s, err)
			}
			b.WriteByte(byte(c))
			i += 3
		case strings.HasPrefix(s[i:], `\\`):
			b.WriteByte('\\')
			i++
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// pattern compiles what a script expects: {id} is a request id, {any} is
// whatever fits on the line.
func pattern(t testing.TB, want string) *regexp.Regexp {
	t.Helper()
	var b strings.Builder
	b.WriteString(`\A`)
	rest := expandFiller(want)
	for rest != "" {
		i := strings.Index(rest, "{id}")
		j := strings.Index(rest, "{any}")
		switch {
		case i >= 0 && (j < 0 || i < j):
			b.WriteString(regexp.QuoteMeta(latin1(unescape(t, rest[:i]))) + `[-A-Za-z0-9_.:=+/@]+`)
			rest = rest[i+len("{id}"):]
		case j >= 0:
			b.WriteString(regexp.QuoteMeta(latin1(unescape(t, rest[:j]))) + `[^\r\n]*`)
			rest = rest[j+len("{any}"):]
		default:
			b.WriteString(regexp.QuoteMeta(latin1(unescape(t, rest))))
			rest = ""
		}
	}
	return regexp.MustCompile(b.String() + `\z`)
}

// latin1 makes each byte a character, for regexp knows no other bytes.
func latin1(s string) string {
	r := make([]rune, 0, len(s))
	for i := 0; i < len(s); i++ {
		r = append(r, rune(s[i]))
	}
	return string(r)
}
