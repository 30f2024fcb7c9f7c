package http1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// wireCase is one file of testdata/wire; its README has the format.
type wireCase struct {
	name, want, phase string
	requests          int64 // -1: not stated
	wire              []byte
}

func wireCases(t testing.TB) []wireCase {
	t.Helper()
	files, err := filepath.Glob("testdata/wire/*.txt")
	if err != nil || len(files) < 80 {
		t.Fatalf("testdata/wire: %d cases, %v", len(files), err)
	}
	var all []wireCase
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		c := wireCase{name: strings.TrimSuffix(filepath.Base(file), ".txt"), requests: -1}
		header, body, found := strings.Cut(string(src), "\n\n")
		if !found {
			t.Fatalf("%s: no empty line", file)
		}
		for line := range strings.SplitSeq(header, "\n") {
			key, value, _ := strings.Cut(line, ": ")
			switch key {
			case "want":
				c.want = value
			case "phase":
				c.phase = value
			case "requests":
				if c.requests, err = strconv.ParseInt(value, 10, 64); err != nil {
					t.Fatalf("%s: %v", file, err)
				}
			default:
				if !strings.HasPrefix(line, "# ") {
					t.Fatalf("%s: line %q", file, line)
				}
			}
		}
		c.wire = unescape(t, file, strings.ReplaceAll(body, "\n", ""))
		all = append(all, c)
	}
	return all
}

func unescape(t testing.TB, file, s string) []byte {
	t.Helper()
	var out []byte
	for s != "" {
		if s[0] == '"' { // needs no escape here
			out, s = append(out, '"'), s[1:]
			continue
		}
		c, multibyte, rest, err := strconv.UnquoteChar(s, '"')
		if err != nil || multibyte {
			t.Fatalf("%s: at %q: %v", file, s, err)
		}
		out, s = append(out, byte(c)), rest
	}
	return out
}

// feed hands wire to a new Follower in pieces of the sizes that next gives.
func feed(l Limits, wire []byte, next func(left int) int) (*Follower, int, error) {
	f := NewFollower(l)
	total := 0
	for len(wire) > 0 {
		size := next(len(wire))
		n, err := f.Feed(wire[:size])
		total += n
		if err != nil {
			return f, total, err
		}
		if n != size {
			return f, total, fmt.Errorf("n = %d of %d without an error", n, size)
		}
		wire = wire[size:]
	}
	return f, total, nil
}

func atOnce(left int) int { return left }
func byByte(int) int      { return 1 }

func reasonOf(t testing.TB, err error) string {
	t.Helper()
	if err == nil {
		return "ok"
	}
	var se *SyntaxError
	if !errors.As(err, &se) {
		t.Fatalf("error %T %v, want a *SyntaxError", err, err)
	}
	if se.Status != se.Reason.Status() {
		t.Errorf("%v: status %d, want %d", se.Reason, se.Status, se.Reason.Status())
	}
	return se.Reason.String()
}

var phaseNames = map[Phase]string{Idle: "idle", Head: "head", Body: "body", Opaque: "opaque", Broken: "broken"}

func TestWire(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range wireCases(t) {
		t.Run(c.name, func(t *testing.T) {
			f, n, err := feed(Limits{}, c.wire, atOnce)
			if got := reasonOf(t, err); got != c.want {
				t.Fatalf("reason %s, want %s\npassed %q\nleft   %q", got, c.want, c.wire[:n], c.wire[n:])
			}
			seen[c.want] = true
			if c.requests >= 0 && f.Requests() != c.requests {
				t.Errorf("%d requests, want %d", f.Requests(), c.requests)
			}
			if got := phaseNames[f.Phase()]; c.phase != "" && got != c.phase {
				t.Errorf("phase %s, want %s", got, c.phase)
			}
			if err != nil {
				if again, err2 := f.Feed([]byte("x")); again != 0 || err2 != err {
					t.Errorf("Feed after the error: %d, %v; want 0 and the same error", again, err2)
				}
				if f.Phase() != Broken {
					t.Errorf("phase %s, want broken", phaseNames[f.Phase()])
				}
			}
			sameForAnySplit(t, Limits{}, c.wire)
			sameAsNetHTTP(t, f, c.wire[:n])
		})
	}
	for _, r := range Reasons() {
		switch r {
		case HeadTooLong, RequestLineTooLong, TrailerTooLong: // TestLimits
			continue
		}
		if !seen[r.String()] {
			t.Errorf("no case in testdata/wire has the reason %s", r)
		}
	}
}

// sameForAnySplit checks that the way a stream is cut changes nothing.
func sameForAnySplit(t testing.TB, l Limits, wire []byte) {
	t.Helper()
	want, wantN, wantErr := feed(l, wire, atOnce)
	check := func(how string, next func(int) int) {
		t.Helper()
		f, n, err := feed(l, wire, next)
		if n != wantN || reasonOf(t, err) != reasonOf(t, wantErr) || f.Requests() != want.Requests() || f.Phase() != want.Phase() {
			t.Fatalf("%s: n %d, %s, %d requests, %s\nat once: n %d, %s, %d requests, %s\nwire %q", how,
				n, reasonOf(t, err), f.Requests(), phaseNames[f.Phase()],
				wantN, reasonOf(t, wantErr), want.Requests(), phaseNames[want.Phase()], wire)
		}
	}
	check("byte by byte", byByte)
	rng := rand.New(rand.NewPCG(uint64(len(wire)), 1))
	for range 8 {
		check("random pieces", func(left int) int { return 1 + rng.IntN(min(left, 40)) })
	}
	if len(wire) < 300 {
		for at := 1; at < len(wire); at++ {
			first := true
			check("cut at "+strconv.Itoa(at), func(left int) int {
				if first {
					first = false
					return at
				}
				return left
			})
		}
	}
}

// sameAsNetHTTP checks what passed a Follower against net/http: it must find
// as many heads, with the same framing, and nothing to complain about.
func sameAsNetHTTP(t testing.TB, f *Follower, passed []byte) {
	t.Helper()
	r := bufio.NewReaderSize(bytes.NewReader(passed), 64<<10)
	for i := range f.Requests() {
		skipEmptyLine(r)
		req, err := http.ReadRequest(r)
		if err != nil {
			// net/http also reads the Trailer field; that is stricter than
			// the wire format and does no harm.
			if strings.Contains(err.Error(), "bad trailer key") {
				return
			}
			t.Fatalf("net/http refuses head %d: %v\npassed %q", i, err, passed)
		}
		if len(req.Header["Content-Length"]) > 1 || len(req.TransferEncoding) > 1 || (req.ContentLength > 0 && len(req.TransferEncoding) > 0) {
			t.Fatalf("net/http sees two framings in head %d: %q", i, passed)
		}
		_, err = io.Copy(io.Discard, req.Body)
		last := i == f.Requests()-1
		switch {
		case err == nil:
		case last && (f.Phase() == Body || f.Phase() == Broken):
			return // the body is not complete, for net/http neither
		case strings.Contains(err.Error(), "too much non-data"), strings.Contains(err.Error(), "suspiciously long trailer"):
			return // a limit of its own
		default:
			t.Fatalf("net/http refuses body %d: %v\npassed %q", i, err, passed)
		}
		if last && f.Phase() == Body {
			t.Fatalf("net/http sees a complete body %d, the Follower does not\npassed %q", i, passed)
		}
	}
	skipEmptyLine(r)
	if req, err := http.ReadRequest(r); err == nil {
		t.Fatalf("net/http sees one more head: %s %s\npassed %q", req.Method, req.RequestURI, passed)
	}
}

// skipEmptyLine does what net/http's server does too, after a POST.
func skipEmptyLine(r *bufio.Reader) {
	if p, err := r.Peek(2); err == nil && string(p) == "\r\n" {
		if _, err := r.Discard(2); err != nil {
			panic(err)
		}
	}
}

// headReader is a second, simple reading of a head that passed, to compare
// net/http's with: split at spaces, line ends and first colons.
func headReader(head string) (method, target string, fields map[string][]string) {
	line, rest, _ := strings.Cut(strings.TrimPrefix(head, "\r\n"), "\r\n")
	parts := strings.Split(line, " ")
	fields = map[string][]string{}
	for field := range strings.SplitSeq(rest, "\r\n") {
		name, value, found := strings.Cut(field, ":")
		if found {
			name = strings.ToLower(name)
			fields[name] = append(fields[name], strings.Trim(value, " \t"))
		}
	}
	return parts[0], parts[1], fields
}

// sameHead checks that net/http reads a single passed head as headReader does.
func sameHead(t testing.TB, head []byte) {
	t.Helper()
	method, target, fields := headReader(string(head))
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(strings.TrimPrefix(string(head), "\r\n"))))
	if err != nil {
		if strings.Contains(err.Error(), "bad trailer key") {
			return
		}
		t.Fatalf("net/http: %v\nhead %q", err, head)
	}
	if req.Method != method || req.RequestURI != target {
		t.Fatalf("net/http reads %q %q, want %q %q", req.Method, req.RequestURI, method, target)
	}
	if host := fields["host"]; len(host) != 1 || method != "CONNECT" && !strings.EqualFold(req.Host, host[0]) {
		t.Fatalf("net/http reads host %q, want %q", req.Host, host)
	}
	length, coding := fields["content-length"], fields["transfer-encoding"]
	switch {
	case len(length) > 0 && len(coding) > 0 || len(length) > 1 || len(coding) > 1:
		t.Fatalf("passed with lengths %q and codings %q", length, coding)
	case len(coding) == 1:
		if len(req.TransferEncoding) != 1 || req.ContentLength != -1 {
			t.Fatalf("coding %q: net/http reads %q, length %d", coding, req.TransferEncoding, req.ContentLength)
		}
	case len(length) == 1:
		if want, err := strconv.ParseInt(length[0], 10, 64); err != nil || req.ContentLength != want {
			t.Fatalf("length %q: net/http reads %d", length, req.ContentLength)
		}
	case req.ContentLength != 0 || len(req.TransferEncoding) != 0:
		if method == "PRI" || req.ContentLength == -1 && strings.EqualFold(req.Header.Get("Upgrade"), "h2c") {
			return
		}
		t.Fatalf("no body: net/http reads length %d, coding %q", req.ContentLength, req.TransferEncoding)
	}
}

func FuzzFollower(f *testing.F) {
	for _, c := range wireCases(f) {
		f.Add(c.wire)
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		if len(wire) > 4096 {
			return
		}
		fo, n, err := feed(Limits{}, wire, atOnce)
		reasonOf(t, err)
		if n < 0 || n > len(wire) || err == nil && n != len(wire) {
			t.Fatalf("n = %d of %d, %v", n, len(wire), err)
		}
		sameForAnySplit(t, Limits{}, wire)
		sameAsNetHTTP(t, fo, wire[:n])

		// The first head, alone.
		one := NewFollower(Limits{})
		for i := range n {
			if _, err := one.Feed(wire[i : i+1]); err != nil {
				t.Fatal(err)
			}
			if one.Requests() == 1 {
				sameHead(t, wire[:i+1])
				break
			}
		}
	})
}

func TestLimits(t *testing.T) {
	head := func(size int) string { // a head of exactly size bytes
		const a, z = "GET / HTTP/1.1\r\nHost: a\r\nX: ", "\r\n\r\n"
		return a + strings.Repeat("x", size-len(a)-len(z)) + z
	}
	line := func(size int) string {
		const a, z = "GET /", " HTTP/1.1\r\nHost: a\r\n\r\n"
		return a + strings.Repeat("x", size-len(a)-len(z)) + z
	}
	trailer := func(size int) string {
		const a, z = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "X: "
		return a + z + strings.Repeat("x", size-len(z)-4) + "\r\n\r\n"
	}
	exts := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1;"+strings.Repeat("e", 256)+"\r\nx\r\n", 16)
	tests := []struct {
		name string
		l    Limits
		wire string
		want string
	}{
		{"head at the default", Limits{}, head(DefaultHead), "ok"},
		{"head over the default", Limits{}, head(DefaultHead + 1), "head_too_long"},
		{"two heads at the limit", Limits{Head: 100}, head(100) + head(100), "ok"},
		{"head over the limit", Limits{Head: 100}, head(100) + head(101), "head_too_long"},
		{"line over the default", Limits{}, line(2 * DefaultHead), "request_line_too_long"},
		{"limit within the last line end", Limits{Head: 100}, head(100)[:99] + "x", "bare_cr"},
		{"fields at the limit", Limits{Fields: 2}, "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n", "ok"},
		{"fields over the limit", Limits{Fields: 1}, "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n", "too_many_fields"},
		{"trailer at the default", Limits{}, trailer(DefaultTrailer), "ok"},
		{"trailer over the default", Limits{}, trailer(DefaultTrailer + 1), "trailer_too_long"},
		{"trailer fields", Limits{Fields: 2}, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\nA: b\r\nA: b\r\n\r\n", "too_many_fields"},
		{"extensions at the limit", Limits{}, exts + "1\r\nx\r\n", "ok"},
		{"extensions over the limit", Limits{}, exts + "1;e\r\nx\r\n", "chunk_ext_too_long"},
		{"name longer than memory", Limits{}, "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("n", 5000) + ": x\r\n\r\n", "ok"},
		{"host longer than memory", Limits{}, "GET / HTTP/1.1\r\nHost: " + strings.Repeat("n", 300) + "\r\n\r\n", "bad_host"},
		{"target's host longer than memory", Limits{}, "GET http://" + strings.Repeat("n", 300) + "/ HTTP/1.1\r\n\r\n", "bad_target"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, n, err := feed(tt.l, []byte(tt.wire), atOnce)
			if got := reasonOf(t, err); got != tt.want {
				t.Errorf("reason %s, want %s (after %d bytes)", got, tt.want, n)
			}
			sameForAnySplit(t, tt.l, []byte(tt.wire))
		})
	}
}

// TestNoCompleteHead: whatever is wrong with a head, the engine behind must
// never see its end.
func TestNoCompleteHead(t *testing.T) {
	for _, c := range wireCases(t) {
		f, n, err := feed(Limits{}, c.wire, atOnce)
		if err == nil {
			continue
		}
		// Drop the good requests that passed first.
		r := bufio.NewReader(bytes.NewReader(c.wire[:n]))
		for range f.Requests() {
			skipEmptyLine(r)
			req, err := http.ReadRequest(r)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			_, _ = io.Copy(io.Discard, req.Body) // incomplete in the cases about bodies
		}
		rest, _ := io.ReadAll(r)
		if bytes.Contains(rest, []byte("\n\n")) || bytes.Contains(rest, []byte("\r\n\r\n")) {
			t.Errorf("%s: the engine sees %q", c.name, rest)
		}
	}
}

func TestPhases(t *testing.T) {
	var f Follower // the zero value
	steps := []struct {
		wire  string
		phase Phase
	}{
		{"", Idle},
		{"\r", Idle},
		{"\n", Idle},
		{"G", Head},
		{"ET / HTTP/1.1\r\nHost: a\r\n\r", Head},
		{"\n", Idle},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n", Body},
		{"x", Body},
		{"x", Idle},
		{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Body},
		{"0\r\nX: y\r\n", Body},
		{"\r\n", Idle},
		{"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", Idle},
	}
	for i, s := range steps {
		if n, err := f.Feed([]byte(s.wire)); n != len(s.wire) || err != nil {
			t.Fatalf("step %d: %d, %v", i, n, err)
		}
		if f.Phase() != s.phase || f.InHead() != (s.phase == Head) {
			t.Errorf("step %d: phase %s, in head %v; want %s", i, phaseNames[f.Phase()], f.InHead(), phaseNames[s.phase])
		}
	}
	f.Opaque()
	if n, err := f.Feed([]byte("\x81\x05hello")); n != 7 || err != nil || f.Phase() != Opaque {
		t.Errorf("after Opaque: %d, %v, phase %s", n, err, phaseNames[f.Phase()])
	}
	if f.Requests() != 4 {
		t.Errorf("%d requests, want 4", f.Requests())
	}
}

func TestReasons(t *testing.T) {
	names := map[string]bool{}
	for _, r := range Reasons() {
		name := r.String()
		if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_0123456789") != "" || names[name] {
			t.Errorf("reason %d: name %q", r, name)
		}
		names[name] = true
		switch r.Status() {
		case 400, 414, 431, 501, 505:
		default:
			t.Errorf("%s: status %d", r, r.Status())
		}
		if text := (&SyntaxError{Reason: r}).Error(); !strings.HasPrefix(text, "HTTP/1.1 request: ") || len(text) < 30 {
			t.Errorf("%s: text %q", r, text)
		}
	}
	if got := Reason(200); got.String() != "unknown" || got.Status() != 400 {
		t.Errorf("an unknown reason is %s, %d", got, got.Status())
	}
}

// lambdaPost is what Node 20's fetch sends from a Lambda, more or less.
const lambdaPost = "POST /api/v1/orders/1234567890?expand=items HTTP/1.1\r\n" +
	"host: mypi.duckdns.org\r\n" +
	"connection: keep-alive\r\n" +
	"content-type: application/json\r\n" +
	"x-amzn-trace-id: Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1\r\n" +
	"authorization: Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U\r\n" +
	"accept: */*\r\n" +
	"accept-language: *\r\n" +
	"sec-fetch-mode: cors\r\n" +
	"user-agent: node\r\n" +
	"accept-encoding: gzip, deflate\r\n" +
	"content-length: 64\r\n\r\n" +
	"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

const smallGet = "GET /api/hello HTTP/1.1\r\nHost: mypi.duckdns.org\r\nUser-Agent: Go-http-client/1.1\r\nAccept-Encoding: gzip\r\n\r\n"

func chunkedUpload(chunk, count int) []byte {
	b := []byte("PUT /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
	for range count {
		b = fmt.Appendf(b, "%x\r\n%s\r\n", chunk, strings.Repeat("x", chunk))
	}
	return append(b, "0\r\n\r\n"...)
}

func TestNoAllocations(t *testing.T) {
	wire := append([]byte(lambdaPost+smallGet), chunkedUpload(100, 10)...)
	f := NewFollower(Limits{})
	if got := testing.AllocsPerRun(100, func() {
		if n, err := f.Feed(wire); n != len(wire) || err != nil {
			t.Fatal(n, err)
		}
	}); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}

func BenchmarkFollower(b *testing.B) {
	for _, bm := range []struct {
		name string
		wire []byte
	}{
		{"small_get", []byte(smallGet)},
		{"lambda_post", []byte(lambdaPost)},
		{"upload_1MB_length", []byte("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1048576\r\n\r\n" + strings.Repeat("x", 1<<20))},
		{"upload_64KB_chunks_of_4KB", chunkedUpload(4096, 16)},
		{"chunks_of_16B", chunkedUpload(16, 1000)},
	} {
		b.Run(bm.name, func(b *testing.B) {
			f := NewFollower(Limits{})
			b.SetBytes(int64(len(bm.wire)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f.Feed(bm.wire); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
