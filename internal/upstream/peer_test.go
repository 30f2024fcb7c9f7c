package upstream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// The backends of these tests, and small things to talk to them.

// patience is how long a test waits for something that should happen at once.
const patience = 20 * time.Second

// rawServer runs handle for each connection and closes it afterwards.
func rawServer(t testing.TB, handle func(net.Conn)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rawServe(t, ln, handle)
	return ln.Addr().String()
}

func rawServe(t testing.TB, ln net.Listener, handle func(net.Conn)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	wg.Add(1)
	go func() { // ends with ln, which Cleanup closes and waits for
		defer wg.Done()
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Add(1)
			go func() {
				defer wg.Done()
				handle(c)
				_ = c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			}()
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// serve runs an HTTP/1.1 server and returns its address.
func serve(t testing.TB, h http.HandlerFunc) (addr string) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// serveH2C runs a server that speaks HTTP/2 in clear and nothing else.
func serveH2C(t testing.TB, h http.Handler) (addr string) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func newPool(t testing.TB, cfg Config, targets ...string) *Pool {
	t.Helper()
	for _, s := range targets {
		target, err := ParseTarget(s)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Targets = append(cfg.Targets, target)
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// request returns a request with the target "/". It ends with the test.
func request(t testing.TB, method, body string) *http.Request {
	t.Helper()
	var b io.Reader
	if body != "" {
		b = io.NopCloser(strings.NewReader(body)) // hides the type: no GetBody
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, method, "http://front.example/", b)
	if err != nil {
		t.Fatal(err)
	}
	r.ContentLength = int64(len(body))
	return r
}

// traced adds a Trace to r.
func traced(r *http.Request) (*http.Request, *Trace) {
	tr := new(Trace)
	return r.WithContext(WithTrace(r.Context(), tr)), tr
}

// get sends r and checks the whole response.
func get(p *Pool, r *http.Request, status int, body string) (*http.Response, error) {
	resp, err := p.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != status || string(got) != body {
		return nil, fmt.Errorf("got %d %.200q, want %d %.200q", resp.StatusCode, got, status, body)
	}
	return resp, resp.Body.Close()
}

func mustGet(t testing.TB, p *Pool, r *http.Request, status int, body string) *http.Response {
	t.Helper()
	resp, err := get(p, r, status, body)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// mustFail sends r and returns the error.
func mustFail(t testing.TB, p *Pool, r *http.Request, class string) error {
	t.Helper()
	resp, err := p.RoundTrip(r)
	if err == nil {
		_ = resp.Body.Close()
		t.Fatalf("got %s, want an error of class %s", resp.Status, class)
	}
	if got := Class(err); got != class {
		t.Fatalf("class %s, want %s: %v", got, class, err)
	}
	return err
}

// eventually waits for something that no channel tells.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("%s: not within %s", what, patience)
		case <-tick.C:
		}
	}
}

// deadAddr returns an address that refuses connections.
func deadAddr(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// h2Conn is the server side of an HTTP/2 connection, frame by frame.
type h2Conn struct {
	t      testing.TB
	c      net.Conn
	fr     *http2.Framer
	stream uint32 // of the last request
	fields []hpack.HeaderField
	ended  bool // the request has no body
	enc    *hpack.Encoder
	encBuf bytes.Buffer
}

func h2Server(t testing.TB, handle func(*h2Conn)) (addr string) {
	return rawServer(t, func(c net.Conn) {
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(c, preface); err != nil || string(preface) != http2.ClientPreface {
			return
		}
		s := &h2Conn{t: t, c: c, fr: http2.NewFramer(c, c)}
		s.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		s.fr.MaxHeaderListSize = 1 << 20
		s.enc = hpack.NewEncoder(&s.encBuf)
		if err := s.fr.WriteSettings(); err != nil {
			return
		}
		handle(s)
	})
}

// next waits for the next request; false at the end of the connection.
func (s *h2Conn) next() bool {
	for {
		f, err := s.fr.ReadFrame()
		if err != nil {
			return false
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = s.fr.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				_ = s.fr.WritePing(true, f.Data)
			}
		case *http2.MetaHeadersFrame:
			s.stream, s.ended = f.StreamID, f.StreamEnded()
			s.fields = append([]hpack.HeaderField(nil), f.Fields...)
			return true
		}
	}
}

// body waits for the end of the request's body.
func (s *h2Conn) body() (string, bool) {
	var b strings.Builder
	for !s.ended {
		f, err := s.fr.ReadFrame()
		if err != nil {
			return "", false
		}
		if f, ok := f.(*http2.DataFrame); ok {
			b.Write(f.Data())
			s.ended = f.StreamEnded()
		}
	}
	return b.String(), true
}

func (s *h2Conn) header(name string) string {
	for _, f := range s.fields {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

func (s *h2Conn) respond(stream uint32, status string, end bool) {
	s.encBuf.Reset()
	_ = s.enc.WriteField(hpack.HeaderField{Name: ":status", Value: status})
	_ = s.fr.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: s.encBuf.Bytes(), EndHeaders: true, EndStream: end,
	})
}

// quiet is for servers whose complaints are expected.
var quiet = log.New(io.Discard, "", 0)
