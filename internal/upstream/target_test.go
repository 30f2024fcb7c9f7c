package upstream

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

func TestParseTarget(t *testing.T) {
	for _, tt := range []struct {
		in, network, addr, scheme, name string
		h2c                             bool
	}{
		{in: "127.0.0.1:3000", network: "tcp", addr: "127.0.0.1:3000", scheme: "http", name: "127.0.0.1"},
		{in: "app:3000", network: "tcp", addr: "app:3000", scheme: "http", name: "app"},
		{in: "[::1]:3000", network: "tcp", addr: "[::1]:3000", scheme: "http", name: "::1"},
		{in: "http://app", network: "tcp", addr: "app:80", scheme: "http", name: "app"},
		{in: "http://[::1]", network: "tcp", addr: "[::1]:80", scheme: "http", name: "::1"},
		{in: "http://app:8080", network: "tcp", addr: "app:8080", scheme: "http", name: "app"},
		{in: "https://app", network: "tcp", addr: "app:443", scheme: "https", name: "app"},
		{in: "https://[fe80::1%25eth0]:8443", network: "tcp", addr: "[fe80::1%25eth0]:8443", scheme: "https", name: "fe80::1"},
		{in: "h2c://app:50051", network: "tcp", addr: "app:50051", scheme: "http", name: "app", h2c: true},
		{in: "h2c://app", network: "tcp", addr: "app:80", scheme: "http", name: "app", h2c: true},
		{in: "unix:/run/app.sock", network: "unix", addr: "/run/app.sock", scheme: "http", name: "localhost"},
		{in: "unix:///run/app.sock", network: "unix", addr: "/run/app.sock", scheme: "http", name: "localhost"},
	} {
		got, err := ParseTarget(tt.in)
		if err != nil {
			t.Errorf("ParseTarget(%q): %v", tt.in, err)
			continue
		}
		if got.network != tt.network || got.addr != tt.addr || got.scheme() != tt.scheme ||
			got.serverName() != tt.name || got.h2c != tt.h2c || got.String() != tt.in {
			t.Errorf("ParseTarget(%q) = %+v", tt.in, got)
		}
	}
}

func TestParseTargetRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":                      `upstream "": want host:port, with an IPv6 address in brackets`,
		"app":                   `upstream "app": want a port from 1 to 65535`,
		":3000":                 `upstream ":3000": want host:port, with an IPv6 address in brackets`,
		"app:0":                 `upstream "app:0": want a port from 1 to 65535`,
		"app:70000":             `upstream "app:70000": want a port from 1 to 65535`,
		"app:http":              `upstream "app:http": want a port from 1 to 65535`,
		"::1:3000":              `upstream "::1:3000": want host:port, with an IPv6 address in brackets`,
		"http://":               `upstream "http://": want host:port, with an IPv6 address in brackets`,
		"http://app:80/x":       `upstream "http://app:80/x": want host:port and nothing after it; paths belong to routes`,
		"http://u:p@app:80":     `upstream "http://<secret>@app:80": want host:port and nothing after it; paths belong to routes`,
		"http://app:80?x":       `upstream "http://app:80?x": want host:port and nothing after it; paths belong to routes`,
		"a b:80":                `upstream "a b:80": want host:port and nothing after it; paths belong to routes`,
		"ftp://app:21":          `upstream "ftp://app:21": want http, https, h2c or unix before the colon`,
		"unix:run/app.sock":     `upstream "unix:run/app.sock": want an absolute path after unix:`,
		"unix:":                 `upstream "unix:": want an absolute path after unix:`,
		"unix:/run/\x00app":     `upstream "unix:/run/\x00app": want an absolute path after unix:`,
		"https://app:443\r\nX:": `upstream "https://app:443\r\nX:": want host:port and nothing after it; paths belong to routes`,
	} {
		_, err := ParseTarget(in)
		if err == nil {
			t.Errorf("ParseTarget(%q) has no error, want %q", in, want)
			continue
		}
		if got := err.Error(); got != want {
			t.Errorf("ParseTarget(%q):\n got %s\nwant %s", in, got, want)
		}
	}
}

// wireTargets are request-targets that must reach the backend byte for byte.
var wireTargets = []string{
	"/",
	"*",
	"/a%2fb%2Fc",
	"/a//b/./c/../d",
	"//x//y",
	"//host.example/path?q",
	`//x"y{z}|`,
	"///",
	`/a"b{c}|d\e^f<g>` + "`",
	"/%zz",
	"//%zz",
	"/a?",
	"/a??b",
	"/a?b=c|d&e=%2f#",
	"/a#b",
	"/http://x/y",
	"/a:b@c;d=e,f!g$h&i'(j)*k+l~m",
	"/caf\xc3\xa9/\xff\x80",
	"/" + strings.Repeat("long/", 2000),
	"//" + strings.Repeat(`lo"ng/`, 2000),
}

func TestTargetUnchangedOnHTTP1(t *testing.T) {
	lines := make(chan string, 1)
	addr := rawServer(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		for {
			line, err := br.ReadString('\n')
			if err != nil {
				return
			}
			for h := ""; err == nil && h != "\r\n"; {
				h, err = br.ReadString('\n')
			}
			lines <- strings.TrimSuffix(line, "\r\n")
			_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
		}
	})
	p := newPool(t, Config{Idle: DefaultIdle}, addr)
	for _, target := range wireTargets {
		r := request(t, "OPTIONS", "")
		if err := SetTarget(r, target); err != nil {
			t.Errorf("SetTarget(%.40q): %v", target, err)
			continue
		}
		before := r.URL.Opaque
		resp, err := p.RoundTrip(r)
		if err != nil {
			t.Errorf("%.40q: %v", target, err)
			continue
		}
		_ = resp.Body.Close()
		if got, want := <-lines, "OPTIONS "+target+" HTTP/1.1"; got != want {
			t.Errorf("request line %.80q, want %.80q", got, want)
		}
		if r.URL.Opaque != before {
			t.Errorf("RoundTrip changed the request's URL to %.80q", r.URL.Opaque)
		}
	}
}

func TestTargetUnchangedOnHTTP2(t *testing.T) {
	paths := make(chan string, 1)
	addr := h2Server(t, func(s *h2Conn) {
		for s.next() {
			paths <- s.header(":path")
			s.respond(s.stream, "204", true)
		}
	})
	p := newPool(t, Config{Idle: DefaultIdle}, "h2c://"+addr)
	for _, target := range wireTargets {
		r := request(t, "OPTIONS", "")
		if err := SetTarget(r, target); err != nil {
			t.Errorf("SetTarget(%.40q): %v", target, err)
			continue
		}
		resp, err := p.RoundTrip(r)
		if err != nil {
			t.Errorf("%.40q: %v", target, err)
			continue
		}
		_ = resp.Body.Close()
		if got := <-paths; got != target {
			t.Errorf(":path %.80q, want %.80q", got, target)
		}
	}
}

func TestSetTargetRefuses(t *testing.T) {
	for _, target := range []string{"", "a", "http://x/", "/a b", "/a\r\nX: y", "/\x00", "/\x7f", "**", "?a"} {
		r := request(t, "GET", "")
		if err := SetTarget(r, target); err == nil {
			t.Errorf("SetTarget(%q) has no error", target)
		}
	}
}

func TestURLWithoutSetTarget(t *testing.T) {
	got := make(chan string, 1)
	p := newPool(t, Config{}, serve(t, func(w http.ResponseWriter, r *http.Request) { got <- r.RequestURI }))
	r, err := http.NewRequestWithContext(context.Background(), "GET", "http://ignored/a%2fb?c=d", nil)
	if err != nil {
		t.Fatal(err)
	}
	mustGet(t, p, r, 200, "")
	if uri := <-got; uri != "/a%2fb?c=d" {
		t.Errorf("request target %q", uri)
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"127.0.0.1:80", "https://[::1]:1", "unix:/x", "h2c://a", "//", "[", "a:b:c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		target, err := ParseTarget(s)
		if err != nil {
			return
		}
		again, err := ParseTarget(target.String())
		if err != nil || again != target {
			t.Errorf("%q does not survive: %+v, %v", s, again, err)
		}
		if hasOddBytes(target.addr) || target.host == "" {
			t.Errorf("%q gives address %q, host %q", s, target.addr, target.host)
		}
	})
}
