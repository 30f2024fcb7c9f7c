package h2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// size is how many bytes a field takes when it is sent for the nth time.
func TestEncoderSizes(t *testing.T) {
	e := newEncoder()
	dec := hpack.NewDecoder(maxPeerTable, nil)
	tests := []struct {
		name, value string
		sizes       [4]int
		sensitive   bool
	}{
		{"content-type", "application/json", [4]int{19, 18, 1, 1}, false},
		{"x-frame-options", "DENY", [4]int{22, 22, 1, 1}, false},
		{"set-cookie", "sid=secret", [4]int{13, 13, 13, 13}, true},
		{"authorization", "Bearer secret", [4]int{16, 16, 16, 16}, true},
		{"x-large", strings.Repeat("v", 2000), [4]int{2012, 2012, 2012, 2012}, false},
	}
	for _, tt := range tests {
		for i, want := range tt.sizes {
			b := e.field(nil, []byte(tt.name+tt.value), len(tt.name))
			if len(b) != want {
				t.Errorf("%s, time %d: %d bytes, want %d", tt.name, i+1, len(b), want)
			}
			f, err := dec.DecodeFull(b)
			if err != nil || len(f) != 1 || f[0].Name != tt.name || f[0].Value != tt.value || f[0].Sensitive != tt.sensitive {
				t.Errorf("%s, time %d: got %v, %v", tt.name, i+1, f, err)
			}
		}
	}
}

// Many different fields, over and over, stay in step with the client's table
// at every size.
func TestEncoderEviction(t *testing.T) {
	for _, size := range []uint32{0, 40, 100, 1000, 4096, 65536} {
		e := newEncoder()
		dec := hpack.NewDecoder(maxPeerTable, nil)
		e.setMax(size)
		for i := range 3000 {
			if i == 1500 {
				e.setMax(0)
				e.setMax(size)
			}
			name, value := fmt.Sprintf("x-%d", i*i%71), strings.Repeat("v", i*7%50)
			b := e.begin(nil)
			for range 2 {
				b = e.field(b, []byte(name+value), len(name))
			}
			f, err := dec.DecodeFull(b)
			if err != nil || len(f) != 2 || f[0].Name != name || f[1].Value != value {
				t.Fatalf("size %d, block %d: got %v, %v", size, i, f, err)
			}
		}
	}
}

// What a handler must not do is an error, and never a malformed response.
func TestResponseRules(t *testing.T) {
	head := func(s *Stream) { s.WriteHead(200, false) }
	tests := []struct {
		name    string
		method  string
		respond func(s *Stream) error
		err     error
		want    []string
	}{
		{"body before head", "GET", func(s *Stream) error { return s.Write([]byte("x"), true) }, ErrNoHead, []string{"RST_STREAM 1 INTERNAL_ERROR"}},
		{"trailers before head", "GET", func(s *Stream) error { s.AddText("a", "b"); return s.WriteTrailers() }, ErrNoHead, []string{"RST_STREAM 1 INTERNAL_ERROR"}},
		{"two heads", "GET", func(s *Stream) error { head(s); err := s.WriteHead(200, true); s.Write(nil, true); return err }, ErrHeadSent,
			[]string{"HEADERS 1 :status=200", "DATA 1 0 end"}},
		{"1xx as the head", "GET", func(s *Stream) error { return s.WriteHead(103, true) }, ErrStatus, []string{"RST_STREAM 1 INTERNAL_ERROR"}},
		{"101", "GET", func(s *Stream) error { return s.Informational(101) }, ErrStatus, []string{"RST_STREAM 1 INTERNAL_ERROR"}},
		{"1xx after the head", "GET", func(s *Stream) error { head(s); return s.Informational(103) }, ErrHeadSent,
			[]string{"HEADERS 1 :status=200", "RST_STREAM 1 INTERNAL_ERROR"}},
		{"after the end", "GET", func(s *Stream) error { s.WriteHead(200, true); return s.Write([]byte("x"), false) }, ErrEnded,
			[]string{"HEADERS 1 :status=200 end"}},
		{"no end", "GET", func(s *Stream) error { head(s); return s.Write([]byte("x"), false) }, nil,
			[]string{"HEADERS 1 :status=200", "DATA 1 1", "RST_STREAM 1 INTERNAL_ERROR"}},
		{"body for HEAD", "HEAD", func(s *Stream) error {
			s.AddText("content-length", "5")
			head(s)
			return s.Write([]byte("hello"), true)
		}, ErrNoBody,
			[]string{"HEADERS 1 :status=200 content-length=5 end"}},
		{"body for 304", "GET", func(s *Stream) error { s.WriteHead(304, false); return s.Write([]byte("hello"), true) }, ErrNoBody,
			[]string{"HEADERS 1 :status=304 end"}},
		{"body too long", "GET", func(s *Stream) error { s.AddText("content-length", "2"); head(s); return s.Write([]byte("abc"), false) }, ErrLength,
			[]string{"HEADERS 1 :status=200 content-length=2", "RST_STREAM 1 INTERNAL_ERROR"}},
		{"body too short", "GET", func(s *Stream) error { s.AddText("content-length", "2"); head(s); return s.Write([]byte("a"), true) }, ErrLength,
			[]string{"HEADERS 1 :status=200 content-length=2", "RST_STREAM 1 INTERNAL_ERROR"}},
		{"no body with a length", "GET", func(s *Stream) error { s.AddText("content-length", "2"); return s.WriteHead(200, true) }, ErrLength,
			[]string{"RST_STREAM 1 INTERNAL_ERROR"}},
		{"line feed in a value", "GET", func(s *Stream) error { s.AddText("a", "b\nc"); return s.WriteHead(200, true) }, ErrField, []string{"RST_STREAM 1 INTERNAL_ERROR"}},
		{"pseudo-header", "GET", func(s *Stream) error { s.AddText(":status", "200"); return s.WriteHead(200, true) }, ErrField, []string{"RST_STREAM 1 INTERNAL_ERROR"}},
		{"two lengths", "GET", func(s *Stream) error {
			s.AddText("content-length", "2")
			s.AddText("content-length", "3")
			return s.WriteHead(200, true)
		}, ErrField, []string{"RST_STREAM 1 INTERNAL_ERROR"}},
		{"fields of HTTP/1.1", "GET", func(s *Stream) error {
			for _, n := range []string{"Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade"} {
				s.AddText(n, "x")
			}
			s.AddField([]byte("X-Kept"), []byte("1"))
			return s.WriteHead(200, true)
		}, nil, []string{"HEADERS 1 :status=200 x-kept=1 end"}},
		{"fields do not leak into the trailers", "GET", func(s *Stream) error {
			s.AddText("a", "1")
			head(s)
			s.AddText("b", "2")
			return s.WriteTrailers()
		}, nil, []string{"HEADERS 1 :status=200 a=1", "HEADERS 1 b=2 end"}},
		{"reset", "GET", func(s *Stream) error { head(s); s.Reset(HTTP11Required); return s.Flush() }, &StreamError{Code: HTTP11Required},
			[]string{"HEADERS 1 :status=200", "RST_STREAM 1 HTTP_1_1_REQUIRED"}},
		{"unusual status", "GET", func(s *Stream) error { return s.WriteHead(418, true) }, nil, []string{"HEADERS 1 :status=418 end"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got error
			cfg := Config{Handler: func(s *Stream) { got = tt.respond(s) }}
			rawOpen(t, cfg, func(c *raw) {
				fields := get("/")
				fields[1] = tt.method
				c.ask(1, true, fields...)
				c.expect(tt.want...)
				var se *StreamError
				if !errors.Is(got, tt.err) && !errors.As(got, &se) {
					t.Errorf("got %v, want %v", got, tt.err)
				}
			})
		})
	}
}

// A stream that is flushed is never delayed, whatever the others do; answers
// that are ready together leave together.
func TestFlush(t *testing.T) {
	step := make(chan struct{})
	cfg := Config{Handler: func(s *Stream) {
		if s.Path == "/hold" {
			<-s.Done()
			return
		}
		s.WriteHead(200, false)
		for range step {
			s.Write([]byte("event"), false)
			s.Flush()
		}
		s.Write(nil, true)
	}}
	rawOpen(t, cfg, func(c *raw) {
		step = make(chan struct{})
		c.ask(1, true, get("/hold")...)
		c.ask(3, true, get("/")...)
		c.expect()
		step <- struct{}{}
		c.expect("HEADERS 3 :status=200", "DATA 3 5")
		step <- struct{}{}
		c.expect("DATA 3 5")
		close(step)
		c.expect("DATA 3 0 end")
	})
}

// A warm small request allocates nothing.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("sync.Pool forgets at random under the race detector")
	}
	answers := make(chan struct{})
	cfg := Config{Handler: func(s *Stream) {
		s.AddText("content-type", "text/plain")
		s.AddText("content-length", "6")
		s.WriteHead(200, false)
		s.Write([]byte("hello\n"), true)
	}}
	srv := NewServer(cfg)
	nc := &scriptConn{in: make(chan []byte), wrote: answers}
	c := srv.NewConn(nc)
	done := make(chan error)
	go func() { done <- c.Serve() }()
	<-answers // SETTINGS
	nc.in <- append([]byte(preface), 0, 0, 0, frameSettings, 0, 0, 0, 0, 0)
	<-answers // the acknowledgement
	var eb bytes.Buffer
	enc := hpack.NewEncoder(&eb)
	id := uint32(1)
	req := make([]byte, 0, 1000)
	ask := func() {
		if len(eb.Bytes()) == 0 || len(eb.Bytes()) > 10 {
			eb.Reset()
			for i, f := 0, get("/hello", "accept", "*/*"); i < len(f); i += 2 {
				enc.WriteField(hpack.HeaderField{Name: f[i], Value: f[i+1]})
			}
		}
		req = append(req[:0], 0, 0, byte(eb.Len()), frameHeaders, 5, byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
		req = append(req, eb.Bytes()...)
		id += 2
		nc.in <- req
		<-answers
	}
	for range 10 {
		ask()
	}
	if n := testing.AllocsPerRun(1000, ask); n > 0 {
		t.Errorf("%v allocations for a request, want none", n)
	}
	close(nc.in)
	if err := <-done; err != nil {
		t.Error(err)
	}
	srv.Close()
}

// scriptConn reads what a test sends it and tells of every write.
type scriptConn struct {
	nopConn
	in    chan []byte
	rest  []byte
	wrote chan struct{}
}

func (c *scriptConn) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		b, ok := <-c.in
		if !ok {
			return 0, io.EOF
		}
		c.rest = b
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *scriptConn) Write(p []byte) (int, error) {
	c.wrote <- struct{}{}
	return len(p), nil
}
