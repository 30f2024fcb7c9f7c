package proxy

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
)

// BenchmarkProxy is the cost of one keep-alive request with a small answer,
// client and backend in the same process included; std is net/http with
// httputil.ReverseProxy in the same place, for the ratio. cpu-µs is the
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
		for name, rig := range map[string]*rig{"postern": r, "reference": ref, "std": std(secure)} {
			b.Run(bb.name+"/"+name, func(b *testing.B) { benchClient(b, rig.httpClient(bb.h2), bb.url) })
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
