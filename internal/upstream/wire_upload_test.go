package upstream

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"postern/internal/http1"
)

// client is the body of an upload: chunk after chunk, then what after says.
type client struct {
	chunk  []byte
	count  int           // chunks; -1 endless
	end    error         // after them; io.EOF comes with the last
	abort  chan struct{} // closed by Abort
	block  bool          // after them wait for Abort
	calls  atomic.Int32
	aborts atomic.Int32
}

var errClient = errors.New("client went away")

func chunks(chunk string, count int) *client {
	return &client{chunk: http1.AppendChunk(nil, []byte(chunk)), count: count, end: io.EOF, abort: make(chan struct{})}
}

// on makes q a chunked upload of c.
func (c *client) on(q *WireRequest) *WireRequest {
	q.Head = []byte("POST / HTTP/1.1\r\nHost: front.example\r\nTransfer-Encoding: chunked\r\n\r\n")
	q.More, q.Abort = c.more, c.stop
	return q
}

func (c *client) more() ([]byte, error) {
	c.calls.Add(1)
	select {
	case <-c.abort:
		return nil, errors.New("aborted")
	default:
	}
	if c.count != 0 {
		c.count--
		return c.chunk, nil
	}
	if c.block {
		<-c.abort
		return nil, errors.New("aborted")
	}
	if c.end != io.EOF {
		return nil, c.end
	}
	return http1.AppendLastChunk(nil, []http1.Field{{Key: []byte("X-Sum"), Value: []byte("1")}}), io.EOF
}

func (c *client) stop() {
	c.aborts.Add(1)
	close(c.abort)
}

func TestWireUpload(t *testing.T) {
	for _, count := range []int{0, 1, 1000} { // up to 5 MB
		var body, trailer string
		addr := rawServer(t, func(c net.Conn) {
			br := bufio.NewReader(c)
			for {
				r, b, err := readRequest(br)
				if err != nil {
					return
				}
				body, trailer = b, r.Trailer.Get("X-Sum")
				_, _ = io.WriteString(c, "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Back: 2\r\n\r\n")
			}
		})
		p := newPool(t, Config{Idle: patience, Response: patience}, addr)
		chunk := strings.Repeat("abcde", 1000)
		c := chunks(chunk, count)
		w := exchangeWire(t, p, c.on(new(WireRequest))).want(t, 201, "ok")
		if body != strings.Repeat(chunk, count) || trailer != "1" {
			t.Errorf("%d chunks: %d bytes and trailer %q arrived", count, len(body), trailer)
		}
		if fmt.Sprint(w.trailers) != "[X-Back=2]" || c.aborts.Load() != 0 {
			t.Errorf("%d chunks: trailers %s, %d aborts", count, w.trailers, c.aborts.Load())
		}
		exchangeWire(t, p, wireRequest("GET", "")).want(t, 201, "ok")
	}
}

// The connection of an upload that was answered at its end is used again.
func TestWireUploadKeepsConnection(t *testing.T) {
	s := new(script)
	p := newPool(t, Config{Idle: patience}, rawServer(t, s.handle))
	for range 10 {
		exchangeWire(t, p, chunks("x", 3).on(new(WireRequest))).want(t, 200, "")
		if !exchangeWire(t, p, wireRequest("GET", "")).want(t, 200, "").trace.Reused {
			t.Error("the connection was not used again")
		}
	}
}

// So is one whose upload ends a moment after its answer.
func TestWireAnswerOvertakesUpload(t *testing.T) {
	s := new(script)
	p := newPool(t, Config{Idle: patience}, rawServer(t, s.handle))
	read := make(chan struct{})
	q := chunks("x", 1).on(new(WireRequest))
	whole := append(http1.AppendChunk(nil, []byte("x")), "0\r\n\r\n"...)
	q.More = func() ([]byte, error) {
		if p := whole; p != nil {
			whole = nil
			return p, nil
		}
		<-read
		return nil, io.EOF
	}
	var res WireResponse
	if err := p.Wire(t.Context(), q, &res, nil); err != nil {
		t.Fatal(err)
	}
	if !res.Done() {
		t.Fatal("the answer has no body")
	}
	close(read)
	res.Close()
	if len(p.backends[0].links.list) != 1 {
		t.Error("the connection was not kept")
	}
}

// A refusal in the middle of an upload reaches the client, whatever the
// backend does with the rest.
func TestWireEarlyAnswer(t *testing.T) {
	const refusal = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig"
	for _, tt := range []struct {
		name  string
		close bool // after the answer; else the rest is left unread
	}{{"closed", true}, {"left unread", false}} {
		for _, block := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/client waits %t", tt.name, block), func(t *testing.T) {
				done := make(chan struct{})
				defer close(done)
				addr := rawServer(t, func(c net.Conn) {
					br := bufio.NewReader(c)
					if _, err := http.ReadRequest(br); err != nil {
						return
					}
					_, _ = io.WriteString(c, refusal)
					if tt.close {
						_ = c.(*net.TCPConn).CloseWrite() // a reset could overtake the answer
						_, _ = io.Copy(io.Discard, io.LimitReader(br, 1<<20))
						return
					}
					<-done
				})
				c := chunks(strings.Repeat("x", 10_000), -1)
				if block {
					c.count, c.block = 3, true
				}
				p := newPool(t, Config{Idle: patience, Response: patience}, addr)
				exchangeWire(t, p, c.on(new(WireRequest))).want(t, 413, "big")
				if len(p.backends[0].links.list) != 0 {
					t.Error("the connection was kept")
				}
				if n := c.aborts.Load(); n > 1 || n == 0 && !tt.close {
					t.Errorf("%d aborts", n)
				}
			})
		}
	}
}

// Answers may come while the request is still sent.
func TestWireFullDuplex(t *testing.T) {
	addr := rawServer(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		buf := make([]byte, 100)
		for {
			n, err := r.Body.Read(buf)
			if n > 0 {
				_, _ = fmt.Fprintf(c, "%x\r\n%s\r\n", n, bytes.ToUpper(buf[:n]))
			}
			if err != nil {
				_, _ = io.WriteString(c, "0\r\n\r\n")
				return
			}
		}
	})
	p := newPool(t, Config{Idle: patience, Response: patience}, addr)
	parts := make(chan string)
	q := (&client{}).on(new(WireRequest))
	q.Abort = func() { close(parts) }
	q.More = func() ([]byte, error) {
		s, ok := <-parts
		if !ok {
			return nil, errClient
		}
		if s == "" {
			return http1.AppendLastChunk(nil, nil), io.EOF
		}
		return http1.AppendChunk(nil, []byte(s)), nil
	}
	var res WireResponse
	if err := p.Wire(t.Context(), q, &res, nil); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"one", "two", "three"} {
		parts <- s
		if b, err := res.Body(); string(b) != strings.ToUpper(s) || err != nil {
			t.Fatalf("got %q, %v", b, err)
		}
	}
	parts <- ""
	if b, err := res.Body(); err != io.EOF {
		t.Fatalf("got %q, %v", b, err)
	}
	res.Close()
}

func TestWireClientBreaksOff(t *testing.T) {
	done := make(chan struct{})
	addr := rawServer(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		_, _, _ = readRequest(br)
		<-done
	})
	t.Cleanup(func() { close(done) })
	p := newPool(t, Config{Idle: patience, Response: patience}, addr)
	c := chunks("x", 3)
	c.end = errClient
	w := exchangeWire(t, p, c.on(new(WireRequest)))
	if err := w.fails(t, classRequest); !errors.Is(err, errClient) || w.trace.Attempts != 1 {
		t.Errorf("got %v, %+v", err, w.trace)
	}
	if c.aborts.Load() != 0 {
		t.Error("aborted although it was over")
	}
}

// The error of an exchange is not the one that Abort made More return.
func TestWireAbortIsNotTheCause(t *testing.T) {
	addr := rawServer(t, func(c net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "what?\r\n\r\n")
		_, _ = io.Copy(io.Discard, c)
	})
	p := newPool(t, Config{Idle: patience}, addr)
	c := chunks("x", 3)
	c.block = true
	exchangeWire(t, p, c.on(new(WireRequest))).fails(t, classGarbled)
	if c.aborts.Load() != 1 {
		t.Errorf("%d aborts", c.aborts.Load())
	}
}

func TestWireExpectContinue(t *testing.T) {
	for _, tt := range []struct {
		name   string
		first  string // what the backend says to the head
		status int
		calls  bool // More is called
		infos  string
		reused bool
	}{
		{"agreed", "HTTP/1.1 100 Continue\r\n\r\n", 200, true, "[100]", true},
		{"agreed after a hint", "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n", 200, true, "[103 100]", true},
		{"refused", "HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n", 417, false, "[]", false},
		{"ignored", "", 200, true, "[]", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := new(script)
			var conns atomic.Int32
			addr := rawServer(t, func(c net.Conn) {
				if conns.Add(1) > 1 {
					s.handle(c)
					return
				}
				br := bufio.NewReader(c)
				r, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, tt.first)
				if body, err := io.ReadAll(r.Body); err != nil || string(body) != "aaa" {
					return
				}
				_, _ = io.WriteString(c, okEmpty)
				_, _, _ = readRequest(br)
				_, _ = io.WriteString(c, okEmpty)
			})
			p := newPool(t, Config{Idle: patience, Response: patience}, addr)
			c := chunks("a", 3)
			q := c.on(new(WireRequest))
			q.Expect100 = true
			infos := []int{}
			q.Informational = func(r *http1.Response) error {
				if c.calls.Load() > 0 {
					t.Error("More was called before 100")
				}
				infos = append(infos, r.Status)
				return nil
			}
			exchangeWire(t, p, q).want(t, tt.status, "")
			if (c.calls.Load() > 0) != tt.calls || fmt.Sprint(infos) != tt.infos || c.aborts.Load() != 0 {
				t.Errorf("More was called %d times, aborted %d, answers %v, want %s", c.calls.Load(), c.aborts.Load(), infos, tt.infos)
			}
			w := exchangeWire(t, p, wireRequest("GET", "")).want(t, 200, "")
			if w.trace.Reused != tt.reused || w.trace.Attempts != 1 {
				t.Errorf("trace %+v, want reused %t, at once", w.trace, tt.reused)
			}
		})
	}
}

// A large body at hand, refused before it was read: the answer counts.
func TestWireLargeBodyRefused(t *testing.T) {
	addr := rawServer(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		_, _ = http.ReadRequest(br)
		_, _ = io.WriteString(c, "HTTP/1.1 413 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		_, _ = io.Copy(io.Discard, io.LimitReader(c, 8<<20))
	})
	p := newPool(t, Config{Idle: patience, Response: patience}, addr)
	exchangeWire(t, p, wireRequest("POST", strings.Repeat("x", 8<<20))).want(t, 413, "")
}

func TestWireUpgrade(t *testing.T) {
	for _, behind := range []string{"", "already here"} {
		addr := rawServer(t, func(c net.Conn) {
			br := bufio.NewReader(c)
			_, _ = http.ReadRequest(br)
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"+behind)
			_, _ = io.Copy(c, br)
		})
		p := newPool(t, Config{Idle: patience, Response: patience}, addr)
		q := wireRequest("GET", "")
		q.Upgrade = true
		var res WireResponse
		if err := p.Wire(t.Context(), q, &res, nil); err != nil {
			t.Fatal(err)
		}
		if res.Status != 101 || string(res.Response.Upgrade) != "echo" {
			t.Fatalf("got %d %q", res.Status, res.Response.Upgrade)
		}
		nc, unread := res.Takeover()
		if nc == nil {
			t.Fatal("no connection")
		}
		if again, _ := res.Takeover(); again != nil {
			t.Error("taken over twice")
		}
		res.Close()
		_, _ = io.WriteString(nc, "hello")
		got, err := io.ReadAll(io.LimitReader(io.MultiReader(bytes.NewReader(unread), nc), int64(len(behind)+5)))
		if string(got) != behind+"hello" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		_ = nc.Close()
		if len(p.backends[0].links.list) != 0 {
			t.Error("the connection was kept")
		}
	}
	// Another answer to an upgrade is an answer like others.
	s := new(script)
	p := newPool(t, Config{Idle: patience}, rawServer(t, s.handle))
	q := wireRequest("GET", "")
	q.Upgrade = true
	exchangeWire(t, p, q).want(t, 200, "")
	var res WireResponse
	if err := p.Wire(t.Context(), q, &res, nil); err != nil {
		t.Fatal(err)
	}
	if nc, _ := res.Takeover(); nc != nil {
		t.Error("a 200 was taken over")
	}
	res.Close()
}

func TestWireAfterClose(t *testing.T) {
	s := &script{steps: []step{say("HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(5) + "\r\n\r\nhello")}}
	p := newPool(t, Config{Idle: patience}, rawServer(t, s.handle))
	var res WireResponse
	if err := p.Wire(t.Context(), wireRequest("GET", ""), &res, nil); err != nil {
		t.Fatal(err)
	}
	if res.Done() {
		t.Error("done before the body was read")
	}
	res.Close()
	res.Close()
	if len(p.backends[0].links.list) != 0 {
		t.Error("a connection with an unread body was kept")
	}
	if _, err := res.Body(); err != errClosed {
		t.Errorf("Body: got %v", err)
	}
	if _, err := res.Buffered(); err != errClosed {
		t.Errorf("Buffered: got %v", err)
	}
	if res.Trailers() != nil || !res.Done() {
		t.Error("something is left")
	}
}
