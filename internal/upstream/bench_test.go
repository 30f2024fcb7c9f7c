package upstream

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// benchServer answers every request with 200 and a small body, at the least
// cost: what is measured is the client.
func benchServer(b *testing.B) string {
	return rawServer(b, func(c net.Conn) {
		br := bufio.NewReader(c)
		answer := []byte("HTTP/1.1 200 OK\r\nContent-Length: 12\r\nContent-Type: text/plain\r\n\r\nhello, world")
		for {
			n := 0
			for {
				line, err := br.ReadSlice('\n')
				if err != nil {
					return
				}
				if len(line) == 2 {
					break
				}
				if len(line) == 20 && strings.HasPrefix(string(line), "Content-Length: ") {
					n = int(line[16]-'0')*10 + int(line[17]-'0')
				}
			}
			if _, err := br.Discard(n); err != nil {
				return
			}
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	})
}

func benchmark(b *testing.B, rt http.RoundTripper, addr, body string) {
	r := request(b, "GET", "")
	r.URL.Host = addr
	r.Header.Set("User-Agent", "bench")
	if body != "" {
		r.Method, r.ContentLength = "POST", int64(len(body))
	}
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		if body != "" {
			r.Body = io.NopCloser(strings.NewReader(body))
		}
		resp, err := rt.RoundTrip(r)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			b.Fatal(err)
		}
		_ = resp.Body.Close()
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	addr := benchServer(b)
	body := strings.Repeat("x", 64)
	transport := &http.Transport{DisableCompression: true, IdleConnTimeout: time.Minute}
	defer transport.CloseIdleConnections()
	b.Run("pool/GET", func(b *testing.B) {
		benchmark(b, newPool(b, Config{Idle: time.Minute, Response: time.Minute}, addr), addr, "")
	})
	b.Run("transport/GET", func(b *testing.B) {
		t := transport.Clone()
		t.ResponseHeaderTimeout = time.Minute
		defer t.CloseIdleConnections()
		benchmark(b, t, addr, "")
	})
	b.Run("pool/POST64", func(b *testing.B) {
		benchmark(b, newPool(b, Config{Idle: time.Minute, Response: time.Minute}, addr), addr, body)
	})
	b.Run("transport/POST64", func(b *testing.B) {
		t := transport.Clone()
		t.ResponseHeaderTimeout = time.Minute
		defer t.CloseIdleConnections()
		benchmark(b, t, addr, body)
	})
}

func BenchmarkPick(b *testing.B) {
	p := newPool(b, Config{}, "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")
	b.Run("all up", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			t := trip{turn: p.turn.Add(1)}
			p.pick(&t)
		}
	})
	b.Run("one down", func(b *testing.B) {
		p.dialFailed(p.backends[0], io.EOF)
		b.ReportAllocs()
		for b.Loop() {
			t := trip{turn: p.turn.Add(1)}
			p.pick(&t)
		}
	})
}
