package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// h2cBackend is an application that speaks HTTP/2 in clear text.
func h2cBackend(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return "h2c://" + s.Listener.Addr().String()
}

// An HTTP/2 backend answers an HTTP/1.1 client that still holds its body back.
func TestEarlyAnswerOfHTTP2Backend(t *testing.T) {
	target := h2cBackend(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, "no")
	})
	for _, e := range engines() {
		r := start(t, options{engine: e, sites: []testSite{proxyTo(t, target)}, limits: quick(patience)})
		for _, framing := range []string{"Content-Length: 1000\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"} {
			c := r.dial()
			send(t, c, "POST / HTTP/1.1\r\nHost: a.test\r\n"+framing)
			got, _ := ended(t, c)
			if !strings.HasPrefix(got, "HTTP/1.1 401 ") || !strings.HasSuffix(got, "no") {
				t.Errorf("%s: got %q", e.name, got)
			}
		}
	}
}

// 100 Continue is said once, also on the way to HTTP/2.
func TestExpectOfHTTP2Backend(t *testing.T) {
	target := h2cBackend(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %v", body, err)
	})
	for _, e := range engines() {
		r := start(t, options{engine: e, sites: []testSite{proxyTo(t, target)}, limits: quick(patience)})
		c := r.dial()
		send(t, c, "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
		br := bufio.NewReader(c)
		for _, want := range []string{"HTTP/1.1 100 Continue\r\n", "\r\n"} {
			if got, err := br.ReadString('\n'); got != want || err != nil {
				t.Fatalf("%s: got %q, %v, want %q", e.name, got, err, want)
			}
		}
		send(t, c, "hello")
		if got, _ := ended(t, br); !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || !strings.Contains(got, "hello <nil>") {
			t.Errorf("%s: then %q", e.name, got)
		}
	}
}
