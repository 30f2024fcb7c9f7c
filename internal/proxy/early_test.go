package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// readUntil reads from br to the end of the first text that ends in suffix.
func readUntil(t testing.TB, br *bufio.Reader, suffix string) string {
	t.Helper()
	var b strings.Builder
	for !strings.HasSuffix(b.String(), suffix) {
		c, err := br.ReadByte()
		if err != nil {
			t.Fatalf("got %q: %v; want %q", b.String(), err, suffix)
		}
		b.WriteByte(c)
	}
	return b.String()
}

// each runs f for every connection of a raw backend, on a goroutine of its
// own, and closes it.
func (b *rawBackend) each(t testing.TB, f func(c net.Conn, br *bufio.Reader)) {
	var serving sync.WaitGroup
	done, over := make(chan struct{}), make(chan struct{})
	go func() { // ends with the test, which waits for it
		defer close(over)
		for {
			select {
			case c := <-b.conns:
				serving.Go(func() {
					defer c.Close()
					_ = c.SetDeadline(time.Now().Add(patience))
					f(c, bufio.NewReader(c))
				})
			case <-done:
				return
			}
		}
	}()
	t.Cleanup(func() { close(done); <-over; serving.Wait() })
}

// An answer may begin and end while the body is still coming. What is told of
// the connection then must be true, and nobody may read for the upload who is
// not its goroutine: the race detector looks on.
func TestAnswerDuringUpload(t *testing.T) {
	b := newRawBackend(t)
	b.each(t, func(c net.Conn, br *bufio.Reader) {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		status := req.URL.Path[1:]
		_, _ = fmt.Fprintf(c, "HTTP/1.1 %s X\r\nContent-Length: 2\r\n\r\nok", status)
		_, _ = io.Copy(io.Discard, req.Body)
	})
	for _, secure := range []bool{false, true} {
		r := start(t, options{sites: []testSite{proxyTo(t, b.addr)}, limits: quick(patience)})
		for i := range 60 {
			path := []string{"200", "404", "999"}[i%3]
			var c net.Conn
			if secure {
				c = r.dialTLS("http/1.1")
			} else {
				c = r.dial()
			}
			send(t, c, "POST /"+path+" HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
			var writing sync.WaitGroup
			writing.Go(func() { // ends with the connection or the last chunk; waited for below
				for range 200 {
					if _, err := io.WriteString(c, "3\r\nabc\r\n"); err != nil {
						return
					}
				}
				_, _ = io.WriteString(c, "0\r\n\r\n")
			})
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			body, err := io.ReadAll(res.Body)
			if want := strings.Replace(path, "999", "502", 1); err != nil || fmt.Sprint(res.StatusCode) != want || want != "502" && string(body) != "ok" {
				t.Errorf("%s: got %d %q, %v", path, res.StatusCode, body, err)
			}
			_ = c.Close()
			writing.Wait()
		}
	}
}

// A backend may say 100 and the final answer in one breath. The 100 must not
// come behind the beginning of the answer.
func TestContinueAndAnswer(t *testing.T) {
	b := newRawBackend(t)
	b.each(t, func(c net.Conn, br *bufio.Reader) {
		for {
			if _, err := http.ReadRequest(br); err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-A: 1\r\nX-B: 2\r\nContent-Length: 4\r\n\r\n")
			_, _ = io.WriteString(c, "good")
		}
	})
	r := start(t, options{sites: []testSite{proxyTo(t, b.addr)}, limits: quick(patience)})
	for range 200 {
		c := r.dial()
		send(t, c, "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
		br := bufio.NewReader(c)
		head := readUntil(t, br, "\r\n\r\n")
		if strings.HasPrefix(head, "HTTP/1.1 100 ") {
			head = readUntil(t, br, "\r\n\r\n")
		}
		if body := readUntil(t, br, "good"); body != "good" || !strings.HasPrefix(head, "HTTP/1.1 200 ") {
			t.Fatalf("got %q %q", head, body)
		}
		_ = c.Close()
	}
	client := r.httpClient(true)
	for range 200 {
		body, hold := io.Pipe() // nothing comes of it
		req := request(t, "POST", "https://a.test/", body)
		req.ContentLength = 5
		req.Header.Set("Expect", "100-continue")
		ctx, cancel := context.WithCancel(t.Context())
		res, err := client.Do(req.WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		cancel()
		_ = hold.Close()
		if err != nil || string(got) != "good" || res.Header.Get("X-A") != "1" || res.Header.Get("X-B") != "2" {
			t.Fatalf("h2: got %d %v %q, %v", res.StatusCode, res.Header, got, err)
		}
	}
}

// A body on its way to an HTTP/2 backend that has answered already belongs to
// its request alone, however late the backend's side lets go of it.
func TestUploadOutlivesAnswerOfHTTP2Backend(t *testing.T) {
	target := h2cBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/early" {
			fmt.Fprint(w, "early")
			return
		}
		n := 0
		buf := make([]byte, 4096)
		for {
			m, err := r.Body.Read(buf)
			for _, c := range buf[:m] {
				if c != 'B' {
					fmt.Fprintf(w, "foreign byte %q", c)
					return
				}
			}
			if n += m; err != nil {
				fmt.Fprint(w, n, err)
				return
			}
		}
	})
	r := start(t, options{sites: []testSite{proxyTo(t, target)}, limits: quick(patience)})
	var clients sync.WaitGroup
	for i := range 4 {
		c := r.httpClient(true)
		clients.Go(func() { // ends by itself; waited for below
			for j := range 60 {
				fill, path, want := byte('B'), "/", fmt.Sprint(100000, io.EOF)
				if (i+j)%2 == 0 {
					fill, path, want = 'A', "/early", "early"
				}
				req, err := http.NewRequestWithContext(t.Context(), "POST", "https://a.test"+path, io.LimitReader(filled(fill), 100000))
				if err != nil {
					t.Error(err)
					return
				}
				res, err := c.Do(req)
				if err != nil {
					t.Errorf("%s: %v", path, err)
					return
				}
				body, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if string(body) != want || err != nil {
					t.Errorf("%s: got %d %q, %v; want %q", path, res.StatusCode, body, err, want)
					return
				}
			}
		})
	}
	clients.Wait()
}

// filled is an endless body of one byte.
type filled byte

func (f filled) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(f)
	}
	return len(p), nil
}

// A connection that is in the middle of an answer as Shutdown begins ends with
// it, although its head said nothing of that.
func TestShutdownDuringAnswer(t *testing.T) {
	b := newRawBackend(t)
	r := start(t, options{sites: []testSite{proxyTo(t, b.addr)}, limits: quick(patience)})
	c := r.dial()
	send(t, c, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	up := b.accept(t)
	send(t, up, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
	br := bufio.NewReader(c)
	readUntil(t, br, "\r\n\r\nab")
	cut := make(chan int, 1)
	go func() { cut <- r.shutdown(t.Context()) }() // waited for below
	wait(t, "the drain", r.srv.leaving.Load)
	send(t, up, "cd")
	if got, err := ended(t, br); got != "cd" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if n := within(t, "the end", cut); n != 0 {
		t.Errorf("%d connections cut", n)
	}
}

// The time for a head is over with the head: a body that is slower than that
// is none of its business.
func TestHeadDeadlineEndsWithHead(t *testing.T) {
	target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, err)
	})
	for _, stall := range []time.Duration{0, patience} {
		l := quick(stall)
		l.HeaderIn = 60 * time.Millisecond
		r := start(t, options{sites: []testSite{proxyTo(t, target)}, limits: l})
		for _, pieces := range [][]string{
			{"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\n", "a", "b"},
			{"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n", "2", "\r\nab\r\n0\r\n\r\n"},
			{"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n2", "\r\nab\r\n0", "\r\n\r\n"},
			{"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r", "\n0\r\n\r\n"},
		} {
			c := r.dial()
			for _, p := range pieces {
				send(t, c, p)
				rest := time.NewTimer(100 * time.Millisecond)
				<-rest.C
			}
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Errorf("stall %v, %q: %v", stall, pieces, err)
				continue
			}
			if body, _ := io.ReadAll(res.Body); string(body) != "2 <nil>" {
				t.Errorf("stall %v, %q: got %d %q", stall, pieces, res.StatusCode, body)
			}
		}
	}
}

// What is for a proxy alone reaches no backend, whichever protocol it comes by.
func TestProxyCredentials(t *testing.T) {
	target := backend(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header) })
	overBoth(t, func(t *testing.T, h2 bool) {
		r := start(t, options{sites: []testSite{proxyTo(t, target)}, limits: quick(patience)})
		req := request(t, "GET", "https://a.test/", nil)
		for _, name := range []string{"Proxy-Authorization", "Proxy-Authenticate", "Proxy-Authentication-Info"} {
			req.Header.Set(name, "secret")
		}
		if _, body := do(t, r.httpClient(h2), req); strings.Contains(body, "secret") {
			t.Errorf("the backend got %s", body)
		}
	})
}

// While a backend thinks, the client is watched, by reading. What it sends
// instead of leaving is the next request's, from its first byte on.
func TestRequestWhileBackendThinks(t *testing.T) {
	for _, secure := range []bool{false, true} {
		b := newRawBackend(t)
		r := start(t, options{sites: []testSite{proxyTo(t, b.addr)}, limits: quick(patience)})
		c := net.Conn(nil)
		if c = r.dial(); secure {
			c = r.dialTLS("http/1.1")
		}
		send(t, c, "GET /1 HTTP/1.1\r\nHost: a.test\r\n\r\n")
		up := b.accept(t)
		br := bufio.NewReader(up)
		for i, next := range []string{"POST /2 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc", "GET /3 HTTP/1.1\r\nHost: a.test\r\n\r\n", ""} {
			req, err := http.ReadRequest(br)
			if err != nil || req.URL.Path != fmt.Sprint("/", i+1) {
				t.Fatalf("TLS %v: the backend got %v, %v", secure, req, err)
			}
			_, _ = io.Copy(io.Discard, req.Body)
			for _, piece := range []string{next[:min(1, len(next))], next[min(1, len(next)):]} {
				watched := time.NewTimer(250 * time.Millisecond) // until the proxy watches
				<-watched.C
				send(t, c, piece)
			}
			send(t, up, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n/%d", i+1))
		}
		in := bufio.NewReader(c)
		for i := range 3 {
			res, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatalf("TLS %v: answer %d: %v", secure, i+1, err)
			}
			if body, err := io.ReadAll(res.Body); string(body) != fmt.Sprint("/", i+1) || err != nil || res.Close {
				t.Errorf("TLS %v: answer %d: %q, %v", secure, i+1, body, err)
			}
		}
	}
}

// A connection whose upload nobody wanted to the end, but that came to its end
// all the same, serves on: no deadline is left over.
func TestConnectionAfterUnwantedBody(t *testing.T) {
	b := newRawBackend(t)
	b.each(t, func(c net.Conn, br *bufio.Reader) {
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			if req.URL.Path == "/garbage" {
				_, _ = io.CopyN(io.Discard, req.Body, 1)
				_, _ = io.WriteString(c, "HTTP/1.1 999 no\r\nContent-Length: 0\r\n\r\n")
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	l := quick(patience)
	l.Idle = 0
	r := start(t, options{sites: []testSite{proxyTo(t, b.addr)}, limits: l})
	kept := 0
	for range 50 {
		c := r.dial()
		br := bufio.NewReader(c)
		send(t, c, "POST /garbage HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
		send(t, c, "0\r\n\r\n")
		res, err := http.ReadResponse(br, nil)
		if err != nil || res.StatusCode != 502 {
			t.Fatalf("got %v, %v", res, err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		if res.Close {
			_ = c.Close()
			continue
		}
		kept++
		send(t, c, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
		if res, err = http.ReadResponse(br, nil); err != nil || res.StatusCode != 200 {
			t.Fatalf("after %d: then %v, %v", kept, res, err)
		}
		_ = c.Close()
	}
	t.Logf("%d of 50 connections served on", kept)
}
