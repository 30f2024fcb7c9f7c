package http1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// pieces reads from a text, as many bytes at a time as next says.
type pieces struct {
	left []byte
	next func(left int) int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.left) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.left[:min(p.next(len(p.left)), len(p.left))])
	p.left = p.left[n:]
	return n, nil
}

// message is what was read of one message.
type message struct {
	start    string // method and target, or status
	fields   []string
	body     string
	trailers []string
}

func (m message) String() string {
	return fmt.Sprintf("%s %q %q %q", m.start, m.fields, m.body, m.trailers)
}

func texts(fields []Field) (out []string) {
	for _, f := range fields {
		out = append(out, textproto.CanonicalMIMEHeaderKey(string(f.Key))+": "+string(f.Value))
	}
	return out
}

// readAll reads messages until the end or an error.
func readAll(s *Stream, head func() (message, error)) (all []message, err error) {
	for {
		m, err := head()
		if err != nil {
			return all, err
		}
		var body []byte
		if p, err := s.BufferedBody(); err == nil { // an error is told again
			body = append(body, p...)
		}
		for err == nil {
			var p []byte
			p, err = s.Body()
			body = append(body, p...)
		}
		m.body, m.trailers = string(body), texts(s.Trailers())
		if err != io.EOF || !s.BodyDone() {
			return append(all, m), fmt.Errorf("body: %w", err)
		}
		all = append(all, m)
	}
}

// readResponses reads the answers to GET in wire. Informational ones are
// answers like others.
func readResponses(src io.Reader, size int) ([]message, error) {
	var s Stream
	var r Response
	s.Reset(src, make([]byte, size))
	return readAll(&s, func() (message, error) {
		for {
			if head := s.ResponseHead(); head != nil {
				if err := r.Parse(head, false); err != nil {
					return message{}, err
				}
				s.BeginBody(r.Framing, r.Length)
				return message{start: fmt.Sprint(r.Status), fields: texts(r.Fields)}, nil
			}
			if err := s.Fill(); err != nil {
				if err == io.EOF && s.Buffered() > 0 {
					err = io.ErrUnexpectedEOF
				}
				return message{}, err
			}
		}
	})
}

func readRequests(src io.Reader, size int) ([]message, error) {
	var s Stream
	var f Follower
	var r Request
	s.Reset(src, make([]byte, size))
	return readAll(&s, func() (message, error) {
		for {
			head, err := s.RequestHead(&f)
			if err != nil {
				return message{}, err
			}
			if head != nil {
				if err := r.Parse(head); err != nil {
					return message{}, err
				}
				s.BeginBody(r.Framing, r.Length)
				return message{start: string(r.Method) + " " + string(r.Target), fields: texts(r.Fields)}, nil
			}
			if err := s.Fill(); err != nil {
				if err == io.EOF && f.InHead() {
					err = io.ErrUnexpectedEOF
				}
				return message{}, err
			}
		}
	})
}

type readFunc func(src io.Reader, size int) ([]message, error)

// sameForAnyCut reads wire in one piece, byte by byte, and cut in two at every
// offset.
func sameForAnyCut(t testing.TB, read readFunc, wire []byte) ([]message, error) {
	t.Helper()
	const size = 4096
	want, wantErr := read(&pieces{wire, atOnce}, size)
	cuts := []int{-1}
	for i := 1; i < min(len(wire), 300); i++ {
		cuts = append(cuts, i)
	}
	for _, cut := range cuts {
		next := byByte
		if cut > 0 {
			next = func(left int) int { return max(left-(len(wire)-cut), 1<<20*btoi(left <= len(wire)-cut)) }
		}
		got, err := read(&pieces{wire, next}, size)
		if fmt.Sprint(got) != fmt.Sprint(want) || fmt.Sprint(err) != fmt.Sprint(wantErr) {
			t.Fatalf("%q cut at %d:\ngot  %v %v\nwant %v %v", wire, cut, got, err, want, wantErr)
		}
	}
	return want, wantErr
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

var streamCases = []struct {
	name, wire string
	want       string // the bodies, one after the other, and trailers
	err        string // of the message after them; "" for a good end
}{
	{"length, twice", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 404 No\r\nContent-Length: 1\r\n\r\nd", "abc|d", ""},
	{"length, cut", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", "ab", "body: unexpected EOF"},
	{"nothing after no body", "HTTP/1.1 204 OK\r\n\r\nHTTP/1.1 304 OK\r\n\r\n", "|", ""},
	{"until close", "HTTP/1.1 200 OK\r\n\r\nabc", "abc", ""},
	{"until close, empty", "HTTP/1.1 200 OK\r\n\r\n", "", ""},
	{"informational", "HTTP/1.1 103 X\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", "|a", ""},
	{"head cut", "HTTP/1.1 200 OK\r\nContent-Le", "", "unexpected EOF"},
	{"head of line feeds", "HTTP/1.1 200 OK\nContent-Length: 1\n\na", "a", ""},
	{"chunked", chunkedHead + "1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "abc", ""},
	{"chunk of many digits", chunkedHead + "0000000000000A\r\n0123456789\r\n00\r\n\r\n", "0123456789", ""},
	{"extensions", chunkedHead + "1;a=b\r\na\r\n0;x=\"y\"\r\n\r\n", "a", ""},
	{"trailers", chunkedHead + "1\r\na\r\n0\r\nX: y \r\nx-z:\r\n\r\n", "a X: y X-Z: ", ""},
	{"chunked, then another", chunkedHead + "1\r\na\r\n0\r\nX: y\r\n\r\n" + chunkedHead + "0\r\n\r\n", "a X: y|", ""},
	{"cut in data", chunkedHead + "5\r\nabc", "abc", "body: unexpected EOF"},
	{"cut in size", chunkedHead + "1\r\na\r\n5", "a", "body: unexpected EOF"},
	{"cut before the end", chunkedHead + "1\r\na\r\n0\r\n", "a", "body: unexpected EOF"},
	{"size without digits", chunkedHead + "\r\n", "", bad},
	{"size with a sign", chunkedHead + "+1\r\na\r\n0\r\n\r\n", "", bad},
	{"size with 0x", chunkedHead + "0x1\r\na\r\n0\r\n\r\n", "", bad},
	{"size with a space", chunkedHead + "1 \r\na\r\n0\r\n\r\n", "", bad},
	{"size of 16 digits", chunkedHead + "0000000000000001\r\na\r\n0\r\n\r\n", "", bad},
	{"size that overflows", chunkedHead + "fffffffffffffffff\r\na\r\n0\r\n\r\n", "", bad},
	{"line feed after size", chunkedHead + "1\na\r\n0\r\n\r\n", "", bad},
	{"line feed after data", chunkedHead + "1\r\na\n0\r\n\r\n", "a", bad},
	{"data too long", chunkedHead + "1\r\nabc\r\n0\r\n\r\n", "a", bad},
	{"control character in an extension", chunkedHead + "1;\x01\r\na\r\n0\r\n\r\n", "", bad},
	{"carriage return in an extension", chunkedHead + "1;\ra\r\na\r\n0\r\n\r\n", "", bad},
	{"long extension", chunkedHead + "1;" + strings.Repeat("x", maxExt) + "\r\na\r\n0\r\n\r\n", "", bad},
	{"many extensions", chunkedHead + strings.Repeat("1;"+strings.Repeat("x", maxExt-1)+"\r\na\r\n", 33) + "0\r\n\r\n", strings.Repeat("a", 32), bad},
	{"trailer with Content-Length", chunkedHead + "0\r\nContent-Length: 1\r\n\r\n", "", bad},
	{"trailer with Transfer-Encoding", chunkedHead + "0\r\nTransfer-encoding: chunked\r\n\r\n", "", bad},
	{"trailer with Host", chunkedHead + "0\r\nHost: x\r\n\r\n", "", bad},
	{"trailer without colon", chunkedHead + "0\r\nX\r\n\r\n", "", bad},
	{"trailer folded", chunkedHead + "0\r\nX: a\r\n b\r\n\r\n", " X: a", bad},
	{"trailer with line feed", chunkedHead + "0\r\nX: a\n\r\n", "", bad},
	{"trailer with NUL", chunkedHead + "0\r\nX: \x00\r\n\r\n", "", bad},
	{"many trailers", chunkedHead + "0\r\n" + strings.Repeat("X: a\r\n", DefaultFields+1) + "\r\n", strings.Repeat(" X: a", DefaultFields), bad},
}

const (
	chunkedHead = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	bad         = "body: http1: malformed chunk"
)

func TestStream(t *testing.T) {
	for _, tt := range streamCases {
		t.Run(tt.name, func(t *testing.T) {
			all, err := sameForAnyCut(t, readResponses, []byte(tt.wire))
			var bodies []string
			for _, m := range all {
				bodies = append(bodies, strings.Join(append([]string{m.body}, m.trailers...), " "))
			}
			if got := strings.Join(bodies, "|"); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if err == io.EOF {
				err = errors.New("")
			}
			if err.Error() != tt.err {
				t.Errorf("got error %q, want %q", err, tt.err)
			}
		})
	}
}

// The same framing with the same bytes in both directions.
func TestStreamRequests(t *testing.T) {
	const next = "GET /2 HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, tt := range []struct{ name, wire, want, err string }{
		{"pipelined", "GET /1 HTTP/1.1\r\nHost: x\r\n\r\n" + next, "[GET /1 GET /2]", "EOF"},
		{"body, then the next", "POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" + next, "[POST /1abc GET /2]", "EOF"},
		{"chunked, then the next", "POST /1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n1\r\nd\r\n0\r\nA: b\r\n\r\n" + next,
			"[POST /1abcd GET /2]", "EOF"},
		{"empty line between", "POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc\r\n" + next, "[POST /1abc GET /2]", "EOF"},
		{"two empty lines between", "GET /1 HTTP/1.1\r\nHost: x\r\n\r\n\r\n\r\n" + next, "[GET /1]", "HTTP/1.1 request: " + reasons[EmptyLines].text},
		{"refused head", "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\n\r\n", "[GET /1]", "HTTP/1.1 request: " + reasons[MissingHost].text},
		{"cut", "GET /1 HTTP/1.1\r\nHost", "[]", "unexpected EOF"},
		{"body that looks like a request", "POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 28\r\n\r\n" + next + next, "[POST /1" + next + " GET /2]", "EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			all, err := sameForAnyCut(t, readRequests, []byte(tt.wire))
			got := []string{}
			for _, m := range all {
				got = append(got, m.start+m.body)
			}
			if fmt.Sprint(got) != tt.want || err.Error() != tt.err {
				t.Errorf("got %q %v, want %q %s", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestStreamLimits(t *testing.T) {
	long := "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 100)
	if _, err := readResponses(strings.NewReader(long), 64); err != ErrTooLong {
		t.Errorf("long head: got %v", err)
	}
	if _, err := readResponses(strings.NewReader(chunkedHead+"1;"+strings.Repeat("x", 100)), 64); !errors.Is(err, ErrTooLong) {
		t.Errorf("long chunk line: got %v", err)
	}
	if _, err := readResponses(strings.NewReader(chunkedHead+strings.Repeat("x", maxChunkLines+2)), 2*maxChunkLines); err == nil || err.Error() != bad {
		t.Errorf("endless chunk line: got %v", err)
	}
	if _, err := readResponses(strings.NewReader("x"), 0); err != errNoBuf {
		t.Errorf("no buffer: got %v", err)
	}
	broken := errors.New("broken")
	if _, err := readResponses(io.MultiReader(strings.NewReader(chunkedHead+"5\r\na"), iotest.ErrReader(broken)), 64); !errors.Is(err, broken) {
		t.Errorf("broken connection: got %v", err)
	}
}

// A malformed body stays malformed, however often it is asked for.
func TestStreamErrorStays(t *testing.T) {
	var s Stream
	s.Reset(strings.NewReader("zz\r\n1\r\na\r\n0\r\n\r\n"), make([]byte, 64))
	s.BeginBody(Chunked, 0)
	for range 3 {
		if p, err := s.Body(); err != ErrBody || p != nil {
			t.Fatalf("got %q, %v", p, err)
		}
		if p, err := s.BufferedBody(); err != ErrBody || p != nil {
			t.Fatalf("buffered: got %q, %v", p, err)
		}
	}
}

// Small chunks that arrived together are one slice, and BufferedBody never
// reads.
func TestStreamJoinsChunks(t *testing.T) {
	var s Stream
	var in bytes.Buffer
	s.Reset(&in, make([]byte, 256))
	s.BeginBody(Chunked, 0)
	if p, err := s.BufferedBody(); p != nil || err != nil {
		t.Fatalf("nothing read: got %q, %v", p, err)
	}
	in.WriteString("1\r\na\r\n2\r\nbc\r\n3\r\nd")
	if err := s.Fill(); err != nil {
		t.Fatal(err)
	}
	p, err := s.BufferedBody()
	if string(p) != "abcd" || err != nil {
		t.Fatalf("got %q, %v", p, err)
	}
	if cap(p) != len(p) {
		t.Errorf("capacity %d: an append would overwrite what is unread", cap(p))
	}
	in.WriteString("ef\r\n0\r\n\r\nHTTP")
	if p, err := s.Body(); string(p) != "ef" || err != nil || !s.BodyDone() {
		t.Fatalf("got %q, %v, done %t", p, err, s.BodyDone())
	}
	if got := string(s.Unread()); got != "HTTP" {
		t.Errorf("unread %q", got)
	}
}

func TestStreamBuffers(t *testing.T) {
	var s Stream
	s.Reset(strings.NewReader("HTTP/1.1 200 OK\r\nX: y\r\n\r\nabc"), make([]byte, 20))
	if err := s.Fill(); err != nil {
		t.Fatal(err)
	}
	if head := s.ResponseHead(); head != nil {
		t.Fatalf("got head %q", head)
	}
	if err := s.Fill(); err != ErrTooLong {
		t.Fatalf("got %v, want ErrTooLong", err)
	}
	if old := s.SetBuffer(make([]byte, 40)); len(old) != 20 || s.Cap() != 40 {
		t.Fatalf("old %d, new %d", len(old), s.Cap())
	}
	if err := s.Fill(); err != nil {
		t.Fatal(err)
	}
	if head := s.ResponseHead(); string(head) != "HTTP/1.1 200 OK\r\nX: y\r\n\r\n" {
		t.Fatalf("got head %q", head)
	}
	if got := string(s.Unread()); got != "abc" || s.Buffered() != 3 {
		t.Fatalf("unread %q", got)
	}
	if !s.Push([]byte(strings.Repeat("d", 37))) || s.Push([]byte("e")) {
		t.Fatal("37 bytes fit, one more does not")
	}
	s.BeginBody(ByLength, 40)
	if p, err := s.Body(); len(p) != 40 || err != nil || s.BodyLeft() != 0 {
		t.Fatalf("got %q, %v", p, err)
	}
	if s.SetBuffer(nil); s.Cap() != 0 || s.Buffered() != 0 {
		t.Error("buffer not given back")
	}
}

func TestStreamAllocations(t *testing.T) {
	request := []byte(warmRequest + strings.Repeat("x", 27))
	response := []byte(warmResponse + strings.Repeat("y", 27))
	chunked := []byte(chunkedHead + "5\r\nhello\r\n0\r\n\r\n")
	var f Follower
	var in, out Stream
	var r Request
	var w Response
	var src, back bytes.Reader
	in.Reset(&src, make([]byte, 4096))
	out.Reset(&back, make([]byte, 4096))
	if n := testing.AllocsPerRun(100, func() {
		src.Reset(request)
		_ = in.Fill()
		head, err := in.RequestHead(&f)
		if err != nil || r.Parse(head) != nil {
			t.Fatal("no request")
		}
		in.BeginBody(r.Framing, r.Length)
		if p, err := in.Body(); len(p) != 27 || err != nil || !in.BodyDone() {
			t.Fatal("no body")
		}
		for _, wire := range [][]byte{response, chunked} {
			back.Reset(wire)
			_ = out.Fill()
			if w.Parse(out.ResponseHead(), false) != nil {
				t.Fatal("no response")
			}
			out.BeginBody(w.Framing, w.Length)
			if p, err := out.BufferedBody(); len(p) == 0 || err != nil || !out.BodyDone() {
				t.Fatal("no body")
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestAppend(t *testing.T) {
	b := AppendStatusLine(nil, 200, "OK")
	b = AppendText(b, "A", "b")
	b = AppendField(b, []byte("C"), []byte("d"))
	b = AppendText(b, "Transfer-Encoding", "chunked")
	b = append(b, "\r\n"...)
	b = AppendChunk(b, []byte(strings.Repeat("x", 300)))
	b = AppendLastChunk(b, []Field{{Key: []byte("T"), Value: []byte("u")}})
	b = AppendStatusLine(b, 404, "")
	b = AppendLength(b, 1)
	b = append(b, "\r\ny"...)
	all, err := readResponses(bytes.NewReader(b), 1024)
	if err != io.EOF || len(all) != 2 {
		t.Fatalf("got %v, %v", all, err)
	}
	want := []message{
		{"200", []string{"A: b", "C: d", "Transfer-Encoding: chunked"}, strings.Repeat("x", 300), []string{"T: u"}},
		{"404", []string{"Content-Length: 1"}, "y", nil},
	}
	if fmt.Sprint(all) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", all, want)
	}
}

// sameResponse compares what was read of one answer with net/http's reading.
//
// Known differences, which none of our heads shows: net/http joins folded
// lines, takes several equal lengths for one field, and adds "Connection:
// close" to Close. It takes fields out of the header that we keep:
// Transfer-Encoding, Content-Length where the body has another end, and Trailer
// from a chunked message, of which it refuses one that announces Content-Length,
// Transfer-Encoding or Trailer itself: we look at the trailers that come.
func sameResponse(t testing.TB, m message, br *bufio.Reader) bool {
	t.Helper()
	resp, err := http.ReadResponse(br, nil)
	if err != nil && strings.Contains(err.Error(), "bad trailer key") {
		return false
	}
	if err != nil {
		t.Errorf("%v: net/http does not read it: %v", m, err)
		return false
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("%v: net/http does not read its body: %v", m, err)
		return false
	}
	if got := fmt.Sprint(resp.StatusCode); got != m.start || string(body) != m.body {
		t.Errorf("got %v, net/http has %s %q", m, got, body)
		return false
	}
	sameFields(t, m, m.fields, resp.Header)
	sameFields(t, m, m.trailers, resp.Trailer)
	return true
}

func sameFields(t testing.TB, m message, ours []string, theirs map[string][]string) {
	t.Helper()
	left := map[string][]string{}
	for _, f := range ours {
		k, v, _ := strings.Cut(f, ": ")
		left[k] = append(left[k], v)
	}
	if len(left["Transfer-Encoding"]) > 0 {
		delete(left, "Trailer")
	}
	for _, k := range []string{"Transfer-Encoding", "Content-Length", "Connection", "Host"} {
		delete(left, k)
	}
	for k, want := range theirs {
		if slices.Contains([]string{"Content-Length", "Connection"}, k) {
			continue
		}
		if fmt.Sprint(left[k]) != fmt.Sprint(want) {
			t.Errorf("%v: %s is %q, net/http has %q", m, k, left[k], want)
		}
		delete(left, k)
	}
	if len(left) > 0 {
		t.Errorf("%v: net/http does not have %v", m, left)
	}
}

func FuzzResponses(f *testing.F) {
	for _, tt := range streamCases {
		f.Add([]byte(tt.wire))
	}
	f.Add([]byte("HTTP/1.1 200 OK\r\nTrailer: A, B\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\nA: b\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTrailer: A\r\nContent-Length: 1\r\n\r\nx")) // net/http keeps this Trailer
	f.Add([]byte("HTTP/1.1 200 OK\r\nTrailer: Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"))
	f.Add([]byte("HTTP/1.0 200 OK\nConnection: keep-alive\nKeep-Alive: timeout=5\nContent-Length: 1\n\nx"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		all, err := sameForAnyCut(t, readResponses, wire)
		if strings.HasPrefix(err.Error(), "body: ") {
			all = all[:len(all)-1] // not complete
		}
		br := bufio.NewReader(bytes.NewReader(wire))
		for _, m := range all {
			if !sameResponse(t, m, br) {
				return
			}
		}
	})
}

func FuzzRequests(f *testing.F) {
	for _, c := range wireCases(f) {
		f.Add(c.wire)
	}
	f.Add([]byte("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		all, err := sameForAnyCut(t, readRequests, wire)
		if strings.HasPrefix(err.Error(), "body: ") {
			all = all[:len(all)-1]
		}
		br := bufio.NewReader(bytes.NewReader(wire))
		for _, m := range all {
			skipEmptyLine(br)
			r, err := http.ReadRequest(br)
			if err != nil && strings.Contains(err.Error(), "bad trailer key") {
				return // as in sameResponse
			}
			if err != nil {
				t.Fatalf("%v: net/http does not read it: %v", m, err)
			}
			body, err := io.ReadAll(r.Body)
			if err != nil || string(body) != m.body || r.Method+" "+r.RequestURI != m.start {
				t.Fatalf("got %v, net/http has %s %s %q, %v", m, r.Method, r.RequestURI, body, err)
			}
			sameFields(t, m, m.fields, r.Header)
			sameFields(t, m, m.trailers, r.Trailer)
		}
	})
}
