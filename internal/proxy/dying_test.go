package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// sample is an answer of a backend that dies in the middle of it.
type sample struct {
	name, wire string
	body       string
	whole      int // so many bytes are a whole answer; -1: it ends with the connection
}

func samples() (all []sample) {
	const body = "0123456789abcdefghij"
	add := func(name, wire string, whole int) { all = append(all, sample{name, wire, body, whole}) }
	length := "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 20\r\n\r\n" + body
	add("length", length, len(length))
	chunked := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\nf;x=y\r\n56789abcdefghij\r\n0\r\nX-Sum: 1\r\n\r\n"
	add("chunked", chunked, len(chunked))
	add("close", "HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n"+body, -1)
	add("early hints", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"+length, len("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")+len(length))
	return all
}

// dying answers with the first bytes of a sample and closes or resets; the
// path of the request is "/sample/bytes/how".
func dying(t testing.TB) *rawBackend {
	b := newRawBackend(t)
	all := samples()
	b.each(t, func(c net.Conn, br *bufio.Reader) {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		var which, upto int
		var how string
		if _, err := fmt.Sscanf(strings.ReplaceAll(req.URL.Path, "/", " "), "%d %d %s", &which, &upto, &how); err != nil {
			return
		}
		_, _ = io.WriteString(c, all[which].wire[:upto])
		if t, ok := c.(*net.TCPConn); ok && how == "resets" {
			_ = t.SetLinger(0)
		}
	})
	return b
}

// A backend dies after each byte of its answer. No client takes what it got
// for the whole answer, unless it is; only one that ends with its connection
// cannot tell, and only if that ended in good order.
func TestBackendDiesAtEachByte(t *testing.T) {
	b := dying(t)
	r := start(t, options{sites: []testSite{proxyTo(t, b.addr)}, limits: quick(patience)})
	h2 := r.httpClient(true)
	for _, client := range []string{"HTTP/1.1", "HTTP/1.0", "h2"} {
		t.Run(strings.ReplaceAll(client, "/", " "), func(t *testing.T) {
			for which, s := range samples() {
				step := 1
				if underRace {
					step = 5
				}
				for upto := 0; upto <= len(s.wire); upto += step {
					for _, how := range []string{"closes", "resets"} {
						path := fmt.Sprintf("/%d/%d/%s", which, upto, how)
						var status int
						var body string
						var err error
						if client == "h2" {
							status, body, err = h2Fetch(t, h2, path)
						} else {
							status, body, err = h1Fetch(t, r, client, path)
						}
						// A reset may overtake what was sent before it.
						whole := upto == s.whole || s.whole < 0 && how == "closes" && upto >= len(s.wire)-len(s.body)
						switch {
						case err == nil && status == 200 && !whole && !(s.whole < 0 && how == "closes"):
							t.Errorf("%s cut at %d, %s: a complete answer, %q", s.name, upto, how, body)
						case err == nil && status == 200 && !strings.HasPrefix(s.body, body):
							t.Errorf("%s cut at %d, %s: got %q", s.name, upto, how, body)
						case err == nil && status != 200 && status != 502:
							t.Errorf("%s cut at %d, %s: status %d", s.name, upto, how, status)
						case how == "closes" && whole && (err != nil || status != 200 || body != s.body[:len(body)] || upto == len(s.wire) && body != s.body):
							t.Errorf("%s whole, %s: got %d %q, %v", s.name, how, status, body, err)
						}
					}
				}
			}
		})
	}
}

// h1Fetch is a strict client of HTTP/1.x.
func h1Fetch(t testing.TB, r *rig, proto, path string) (status int, body string, err error) {
	t.Helper()
	c := r.dial()
	defer c.Close()
	send(t, c, "GET "+path+" "+proto+"\r\nHost: a.test\r\n\r\n")
	br := bufio.NewReader(c)
	for status == 0 || status == http.StatusEarlyHints {
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			return 0, "", err
		}
		b, err := io.ReadAll(res.Body)
		if status, body = res.StatusCode, string(b); err != nil {
			return status, body, err
		}
	}
	return status, body, nil
}

func h2Fetch(t testing.TB, c *http.Client, path string) (status int, body string, err error) {
	t.Helper()
	res, err := c.Do(request(t, "GET", "https://a.test"+path, nil))
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

// A backend that closes connections after resting for some milliseconds, just
// when the next request may be coming: nobody notices.
func TestKill(t *testing.T) {
	b := newRawBackend(t)
	var closed atomic.Int64
	b.each(t, func(c net.Conn, br *bufio.Reader) {
		for served := 0; ; served++ {
			if served > 0 { // a connection that never answered was not idle
				_ = c.SetReadDeadline(time.Now().Add(time.Duration(1+rand.IntN(50)) * time.Millisecond))
			}
			if _, err := br.Peek(1); err != nil {
				closed.Add(1)
				return
			}
			_ = c.SetReadDeadline(time.Now().Add(patience))
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			n, err := io.Copy(io.Discard, req.Body)
			if err != nil {
				return
			}
			text := fmt.Sprintf("%s %s %d", req.Method, req.URL.Path, n)
			if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text); err != nil {
				return
			}
		}
	})
	r := start(t, options{sites: []testSite{proxyTo(t, b.addr)}, limits: quick(patience)})
	const clients, rounds = 50, 40
	var all sync.WaitGroup
	for i := range clients {
		c := r.httpClient(i%2 == 0)
		url := "https://a.test"
		if i%4 == 1 {
			url = "http://a.test"
		}
		all.Go(func() { // ends by itself; waited for below
			for j := range rounds {
				if err := killRound(t.Context(), c, url, i, j); err != nil {
					t.Error(err)
					return
				}
				rest := time.NewTimer(time.Duration(rand.IntN(40)) * time.Millisecond)
				<-rest.C
			}
		})
	}
	all.Wait()
	if closed.Load() < clients {
		t.Errorf("the backend closed %d connections only", closed.Load())
	}
}

func killRound(ctx context.Context, c *http.Client, url string, i, j int) error {
	method, size := http.MethodGet, 0
	var body io.Reader
	if j%2 == 1 {
		method, size = http.MethodPost, []int{0, 1, 1000, 16 << 10, 40000, 64 << 10}[rand.IntN(6)]
		body = strings.NewReader(strings.Repeat("x", size))
	}
	path := fmt.Sprintf("/%d/%d", i, j)
	req, err := http.NewRequestWithContext(ctx, method, url+path, body)
	if err != nil {
		return err
	}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if want := fmt.Sprintf("%s %s %d", method, path, size); err != nil || res.StatusCode != 200 || string(got) != want {
		return fmt.Errorf("%s %s of %d bytes: got %d %q, %v", method, path, size, res.StatusCode, got, err)
	}
	return nil
}

// Reloads that give every route a new pool and close the old one, under load:
// no request fails, and a WebSocket lives on.
func TestReloadsUnderLoad(t *testing.T) {
	target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ws" {
			c, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			defer c.CloseNow()
			for {
				typ, data, err := c.Read(r.Context())
				if err != nil || c.Write(r.Context(), typ, data) != nil {
					return
				}
			}
		}
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %s %d", r.Method, r.URL.Path, n)
	})
	o := options{sites: []testSite{proxyTo(t, target)}, limits: quick(patience)}
	r := start(t, o)
	ws, _, err := websocket.Dial(t.Context(), "wss://a.test/ws", &websocket.DialOptions{HTTPClient: r.httpClient(false)})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	var stop atomic.Bool
	var served atomic.Int64
	var clients sync.WaitGroup
	for i := range 8 {
		c := r.httpClient(i%2 == 0)
		clients.Go(func() { // ends with stop; waited for below
			for j := 0; !stop.Load(); j++ {
				if err := killRound(t.Context(), c, "https://a.test", i, j); err != nil {
					t.Error(err)
					return
				}
				served.Add(1)
			}
		})
	}
	for i := range 20 {
		old := o.sites[0].Routes[0].Upstream
		o.sites = []testSite{proxyTo(t, target)}
		r.srv.Apply(r.snapshot(o))
		old.Close()
		want := served.Load() + 16
		wait(t, "requests after the reload", func() bool { return served.Load() >= want || t.Failed() })
		text := fmt.Sprint("reload ", i)
		if err := ws.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if _, got, err := ws.Read(t.Context()); string(got) != text || err != nil {
			t.Fatalf("the WebSocket said %q, %v after %s", got, err, text)
		}
	}
	stop.Store(true)
	clients.Wait()
}

// A client that reads slowly but steadily gets everything.
func TestSlowReader(t *testing.T) {
	const size = 4 << 20
	target := backend(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.CopyN(w, filled('x'), size) })
	overBoth(t, func(t *testing.T, h2 bool) {
		r := start(t, options{sites: []testSite{proxyTo(t, target)}, limits: quick(500 * time.Millisecond)})
		res, err := r.httpClient(h2).Do(request(t, "GET", "https://a.test/", nil))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		total := int64(0)
		for {
			n, err := io.CopyN(io.Discard, res.Body, 64<<10)
			total += n
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("after %d bytes: %v", total, err)
			}
			<-tick.C
		}
		if total != size {
			t.Errorf("got %d bytes", total)
		}
	})
}

// Clients that leave in the middle of an upload, wherever: the backend never
// takes a part for the whole, and nothing is left of them.
func TestAbortedUploads(t *testing.T) {
	var whole atomic.Int64
	target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			whole.Add(1)
		}
	})
	r := start(t, options{sites: []testSite{proxyTo(t, target)}, limits: quick(patience)})
	for _, upload := range []string{
		post("Content-Length: 20\r\n", "0123456789abcdefghij"),
		post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n6;x\r\n world\r\n0\r\nX-T: 1\r\n\r\n"),
		post("Expect: 100-continue\r\nContent-Length: 3\r\n", "abc"),
	} {
		upload = strings.Replace(upload, "Host: a\r\n", "Host: a.test\r\n", 1)
		for i := range len(upload) {
			c := r.dial()
			send(t, c, upload[:i])
			if t, ok := c.(*net.TCPConn); ok && i%2 == 0 {
				_ = t.SetLinger(0)
			}
			_ = c.Close()
		}
	}
	client := r.httpClient(true)
	for i := range 40 {
		body := io.MultiReader(io.LimitReader(filled('x'), int64(i)<<13), readerFunc(func([]byte) (int, error) { return 0, errors.New("the client leaves") }))
		req := request(t, "POST", "https://a.test/", body)
		if req.ContentLength = 1 << 20; i%2 == 0 {
			req.ContentLength = -1
		}
		if res, err := client.Do(req); err == nil {
			t.Errorf("h2, %d: got %d", i, res.StatusCode)
			_ = res.Body.Close()
		}
	}
	client.CloseIdleConnections()
	wait(t, "the end of all", func() bool { return r.srv.open() == 0 && r.metric("postern_requests_in_flight") == 0 })
	if n := whole.Load(); n != 0 {
		t.Errorf("the backend took %d uploads for complete", n)
	}
}

// TestH2spec runs the conformance tests of github.com/summerwind/h2spec
// through the whole proxy.
func TestH2spec(t *testing.T) {
	tool := os.Getenv("POSTERN_H2SPEC")
	if tool == "" {
		var err error
		if tool, err = exec.LookPath("h2spec"); err != nil {
			t.Skip("h2spec is neither in POSTERN_H2SPEC nor on PATH: go install github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible")
		}
	}
	target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, "hello, h2spec")
	})
	site := proxyTo(t, target)
	site.hosts = []string{"127.0.0.1"}
	r := start(t, options{sites: []testSite{site}, limits: quick(patience), noSNI: true})
	host, port, _ := net.SplitHostPort(r.secure)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, tool, "-h", host, "-p", port, "-t", "-k", "-o", "2").CombinedOutput()
	t.Log(string(out[max(0, len(out)-200):]))
	if err != nil || !strings.Contains(string(out), " 0 failed") {
		t.Errorf("h2spec: %v\n%s", err, out)
	}
}
