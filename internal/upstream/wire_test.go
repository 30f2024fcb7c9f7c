package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// wireRequest returns a request for "/" with a complete body.
func wireRequest(method, body string) *WireRequest {
	head := method + " / HTTP/1.1\r\nHost: front.example\r\n"
	if body != "" {
		head += "Content-Length: " + strconv.Itoa(len(body)) + "\r\n"
	}
	return &WireRequest{Head: []byte(head + "\r\n"), IsHead: method == "HEAD", Body: []byte(body)}
}

// wired is the answer to one WireRequest.
type wired struct {
	status   int
	body     string
	fields   map[string]string
	trailers []string
	err      error // of Wire
	bodyErr  error // of Body, io.EOF left out
	trace    Trace
}

// exchangeWire sends q, reads the whole answer and closes it.
func exchangeWire(t testing.TB, p *Pool, q *WireRequest) (w wired) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var res WireResponse
	if w.err = p.Wire(ctx, q, &res, &w.trace); w.err != nil {
		return w
	}
	defer res.Close()
	w.status, w.fields = res.Status, map[string]string{}
	for _, f := range res.Fields {
		w.fields[strings.ToLower(string(f.Key))] = string(f.Value)
	}
	w.body, w.bodyErr = readWire(&res)
	for _, f := range res.Trailers() {
		w.trailers = append(w.trailers, string(f.Key)+"="+string(f.Value))
	}
	return w
}

func readWire(res *WireResponse) (string, error) {
	var b strings.Builder
	for {
		p, err := res.Body()
		b.Write(p)
		if err == io.EOF {
			return b.String(), nil
		}
		if err != nil {
			return b.String(), err
		}
	}
}

// want complains about anything but a good answer.
func (w wired) want(t testing.TB, status int, body string) wired {
	t.Helper()
	if w.err != nil || w.bodyErr != nil {
		t.Fatalf("got errors %v, %v, want %d %.60q", w.err, w.bodyErr, status, body)
	}
	if w.status != status || w.body != body {
		t.Fatalf("got %d %.60q, want %d %.60q", w.status, w.body, status, body)
	}
	return w
}

// fails complains about anything but an error of a class.
func (w wired) fails(t testing.TB, class string) error {
	t.Helper()
	err := w.err
	if err == nil {
		err = w.bodyErr
	}
	if got := Class(err); got != class {
		t.Fatalf("got %d %.60q and class %s, want %s: %v", w.status, w.body, got, class, err)
	}
	return err
}

func TestWireKeepsConnections(t *testing.T) {
	s := new(script)
	p := newPool(t, Config{Idle: patience}, rawServer(t, s.handle))
	for i := range 3 {
		w := exchangeWire(t, p, wireRequest("GET", "")).want(t, 200, "")
		if w.trace.Reused != (i > 0) || w.trace.Attempts != 1 || w.trace.FirstByte <= 0 || w.trace.Target == "" {
			t.Errorf("request %d: trace %+v", i, w.trace)
		}
	}
	exchangeWire(t, p, wireRequest("POST", "hello")).want(t, 200, "")
	want := "[1:GET  1:GET  1:GET  1:POST hello]"
	if got := fmt.Sprint(s.requests()); got != want {
		t.Errorf("backend saw %s, want %s", got, want)
	}
}

func TestWireBodies(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 20<<10) // 320 KiB
	for _, tt := range []struct {
		name, method, answer string
		status               int
		body                 string
		trailers             []string
		reusable             bool
	}{
		{"length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", nil, true},
		{"bare line feeds", "GET", "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", 200, "hello", nil, true},
		{"large", "GET", "HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(len(big)) + "\r\n\r\n" + big, 200, big, nil, true},
		{"chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 200, "abcde", nil, true},
		{"trailers", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\n", 200, "a", []string{"X-Sum=1", "Y=2"}, true},
		{"until close", "GET", "HTTP/1.1 200 OK\r\n\r\nthe end", 200, "the end", nil, false},
		{"HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\n\r\nthe end", 200, "the end", nil, false},
		{"HTTP/1.0 kept", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", 200, "ok", nil, true},
		{"told to close", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", 200, "ok", nil, false},
		{"HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, "", nil, true},
		{"HEAD, chunked", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, "", nil, true},
		{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", 204, "", nil, true},
		{"304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, "", nil, true},
		{"no reason", "GET", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, "", nil, true},
		{"long head", "GET", "HTTP/1.1 200 OK\r\nX: " + big[:200<<10] + "\r\nContent-Length: 2\r\n\r\nok", 200, "ok", nil, true},
		{"bytes too many", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n", 200, "ok", nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &script{}
			s.steps = append(s.steps, func(c net.Conn, _ *bufio.Reader, _ *http.Request) bool {
				_, err := io.WriteString(c, tt.answer)
				return err == nil && !strings.Contains(tt.answer, "the end")
			})
			p := newPool(t, Config{Idle: patience}, rawServer(t, s.handle))
			w := exchangeWire(t, p, wireRequest(tt.method, "")).want(t, tt.status, tt.body)
			if got, want := fmt.Sprint(w.trailers), fmt.Sprint(tt.trailers); got != want {
				t.Errorf("trailers %s, want %s", got, want)
			}
			w = exchangeWire(t, p, wireRequest("GET", "")).want(t, 200, "")
			if w.trace.Reused != tt.reusable {
				t.Errorf("reused %t, want %t", w.trace.Reused, tt.reusable)
			}
		})
	}
}

func TestWireMalformed(t *testing.T) {
	for _, answer := range []string{
		"SSH-2.0-OpenSSH_9.2\r\n",
		"HTTP/2 200 OK\r\n\r\n",
		"HTTP/1.1 2x0 OK\r\n\r\n",
		"HTTP/1.1  200 OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
		"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxHead) + "\r\n\r\n",
		strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 40) + okEmpty,
	} {
		s := &script{steps: []step{say(answer)}}
		p := newPool(t, Config{Idle: patience}, rawServer(t, s.handle))
		w := exchangeWire(t, p, wireRequest("GET", ""))
		if w.err == nil {
			t.Errorf("%.60q: got %d", answer, w.status)
			continue
		}
		var e *ResponseError
		if !errors.As(w.err, &e) || w.trace.Attempts != 1 {
			t.Errorf("%.60q: got %v after %d attempts, want one and a ResponseError", answer, w.err, w.trace.Attempts)
		}
	}
}
