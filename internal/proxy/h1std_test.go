package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// A handler that says one length and writes another must not make the client
// take the next answer's bytes for this one's, and what it puts into a field
// stays in that field.
func TestHandlerAnswers(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) bool {
		switch name := strings.TrimPrefix(r.URL.Path, "/.well-known/acme-challenge/"); name {
		case "short":
			w.Header().Set("Content-Length", "10")
			fmt.Fprint(w, "abc")
		case "long":
			w.Header().Set("Content-Length", "2")
			_, err := fmt.Fprint(w, "abc")
			if err == nil && r.Method == http.MethodGet {
				t.Error("writing more than declared gave no error")
			}
		case "inject":
			w.Header().Set("X-A", "1\r\nX-Injected: 2")
			w.Header().Set("X-B\r\nX-Injected", "3")
			fmt.Fprint(w, "abc")
		case "large":
			_, _ = io.WriteString(w, strings.Repeat("x", 3*headBuffer))
		default:
			w.WriteHeader(http.StatusNoContent)
			fmt.Fprint(w, "abc")
		}
		return true
	}
	const next = "GET /ping HTTP/1.1\r\nHost: probe.test\r\nConnection: close\r\n\r\n"
	r := start(t, options{sites: []testSite{proxyTo(t, closedPort(t))}, limits: quick(patience), challenge: handler})
	for _, tt := range []struct{ method, name, body string }{
		{"GET", "short", "abc"}, {"GET", "long", "ab"}, {"GET", "inject", "abc"}, {"GET", "none", ""},
		{"HEAD", "short", ""}, {"HEAD", "long", ""}, {"HEAD", "inject", ""}, {"HEAD", "large", ""},
	} {
		c := r.dial()
		send(t, c, tt.method+" /.well-known/acme-challenge/"+tt.name+" HTTP/1.1\r\nHost: a.test\r\n\r\n"+next)
		got, _ := ended(t, c)
		head, rest, _ := strings.Cut(got, "\r\n\r\n")
		body, second, open := strings.Cut(rest, "HTTP/1.1 ")
		if body != tt.body || strings.Contains(head, "Injected") || open && !strings.HasSuffix(second, "pong\n") {
			t.Errorf("%s %s: got %q", tt.method, tt.name, got)
		}
		if cut := tt.method == "GET" && tt.name == "short"; cut == open {
			t.Errorf("%s %s: another answer: %v; %q", tt.method, tt.name, open, got)
		}
	}
}
