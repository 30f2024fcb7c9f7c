package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
)

// BenchmarkProxy is the cost of one keep-alive request with a small answer,
// client and backend in the same process included. own are our engines,
// reference is net/http in their place, std net/http with
// httputil.ReverseProxy; none is client and backend without a proxy. cpu-µs is the
// process's CPU time per request.
func BenchmarkProxy(b *testing.B) {
	answer := []byte(`{"status":"ok","value":12345}`)
	target := backend(b, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer)
	})
	r := start(b, options{sites: []testSite{proxyTo(b, target)}, limits: quick(patience)})
	r.srv.snap.Load().Access = nil
	ref := start(b, options{engine: engines()[1], sites: []testSite{proxyTo(b, target)}, limits: quick(patience)})
	ref.srv.snap.Load().Access = nil

	to, err := url.Parse("http://" + target)
	if err != nil {
		b.Fatal(err)
	}
	handler := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(to)
		p.SetXForwarded()
	}}
	std := func(secure bool) *rig {
		s := httptest.NewUnstartedServer(handler)
		if secure {
			s.TLS = testTLS(b)
			s.EnableHTTP2 = true
			s.StartTLS()
		} else {
			s.Start()
		}
		b.Cleanup(s.Close)
		return &rig{t: b, clear: s.Listener.Addr().String(), secure: s.Listener.Addr().String()}
	}
	for _, bb := range []struct {
		name string
		url  string
		h2   bool
	}{{"h1_clear", "http://a.test/", false}, {"h1_tls", "https://a.test/", false}, {"h2", "https://a.test/", true}} {
		secure := bb.url[4] == 's'
		for _, e := range []struct {
			name string
			rig  *rig
		}{{"own", r}, {"reference", ref}, {"std", std(secure)}} {
			b.Run(bb.name+"/"+e.name, func(b *testing.B) { benchClient(b, e.rig.httpClient(bb.h2), bb.url) })
		}
	}
	b.Run("h1_clear/none", func(b *testing.B) { benchClient(b, http.DefaultClient, fmt.Sprint("http://", target)) })
}

func benchClient(b *testing.B, c *http.Client, url string) {
	b.ReportAllocs()
	one := func() {
		res, err := c.Get(url)
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
	}
	one()
	cpu := cpuTime()
	for b.Loop() {
		one()
	}
	b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
}

// BenchmarkWire is what one request over HTTP/1.1 costs when client and backend
// only move bytes: nearly all of it is the proxy's and the kernel's.
func BenchmarkWire(b *testing.B) {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 29\r\n\r\n{\"status\":\"ok\",\"value\":12345}")
	raw := newRawBackend(b)
	raw.each(b, func(c net.Conn, br *bufio.Reader) {
		var buf [4096]byte
		for n := 0; ; {
			m, err := br.Read(buf[n:])
			if err != nil {
				return
			}
			if n += m; bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
				if n = 0; wrote(c, answer) != nil {
					return
				}
			}
		}
	})
	for i, name := range []string{"own", "reference"} {
		r := start(b, options{engine: engines()[i], sites: []testSite{proxyTo(b, raw.addr)}, limits: quick(patience)})
		r.srv.snap.Load().Access = nil
		b.Run("clear/"+name, func(b *testing.B) { benchWire(b, r.dial()) })
		b.Run("tls/"+name, func(b *testing.B) { benchWire(b, r.dialTLS("http/1.1")) })
	}
}

func wrote(c net.Conn, p []byte) error {
	_, err := c.Write(p)
	return err
}

func benchWire(b *testing.B, c net.Conn) { benchFields(b, c, "") }
