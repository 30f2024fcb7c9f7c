package upstream

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Target is one backend: where it is and what is spoken to it. It is
// comparable. Make one with ParseTarget; the zero value reaches nobody.
type Target struct {
	text    string // as configured: log lines, metric labels and errors show it
	network string // "tcp" or "unix"
	addr    string // host:port, or the path of the socket
	host    string // the name in the request's URL, and without its port the one in the certificate
	tls     bool
	h2c     bool
}

// String returns the target as it was configured.
func (t Target) String() string { return t.text }

// Dial is what net.Dial needs to reach the target.
func (t Target) Dial() (network, addr string) { return t.network, t.addr }

// ParseTarget reads one of
//
//	host:port          HTTP/1.1 in clear
//	http://host[:80]   the same
//	https://host[:443] TLS, HTTP/2 or HTTP/1.1 as the backend chooses (ALPN)
//	h2c://host[:80]    HTTP/2 in clear, with prior knowledge (RFC 9113 section 3.3)
//	unix:/path         HTTP/1.1 over a unix socket
//
// A host may be a name, an IPv4 address or an IPv6 address in brackets. Paths,
// queries and user names are refused: a route decides about paths.
func ParseTarget(s string) (Target, error) {
	t := Target{text: s, network: "tcp"}
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		path = strings.TrimPrefix(path, "//")
		if !strings.HasPrefix(path, "/") || hasOddBytes(path) {
			return Target{}, targetError(s, "want an absolute path after unix:")
		}
		t.network, t.addr, t.host = "unix", path, "localhost"
		return t, nil
	}
	rest, port := s, ""
	if scheme, after, ok := strings.Cut(s, "://"); ok {
		switch scheme {
		case "http":
			port = "80"
		case "https":
			port, t.tls = "443", true
		case "h2c":
			port, t.h2c = "80", true
		default:
			return Target{}, targetError(s, "want http, https, h2c or unix before the colon")
		}
		rest = after
	}
	if strings.ContainsAny(rest, "/?#@") || hasOddBytes(rest) {
		return Target{}, targetError(s, "want host:port and nothing after it; paths belong to routes")
	}
	host, given, err := splitHostPort(rest)
	if err != nil {
		return Target{}, targetError(s, "want host:port, with an IPv6 address in brackets")
	}
	if given != "" {
		port = given
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return Target{}, targetError(s, "want a port from 1 to 65535")
	}
	t.addr = net.JoinHostPort(host, port)
	t.host = t.addr
	return t, nil
}

// splitHostPort is net.SplitHostPort, but the port may be missing.
func splitHostPort(s string) (host, port string, err error) {
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") || !strings.Contains(s, ":") {
		s += ":"
	}
	host, port, err = net.SplitHostPort(s)
	if err == nil && host == "" {
		err = errors.New("empty host")
	}
	return host, port, err
}

func targetError(s, want string) error {
	if i := strings.LastIndexByte(s, '@'); i >= 0 { // somebody's password may be in it
		scheme, _, ok := strings.Cut(s[:i], "://")
		if s = "<secret>" + s[i:]; ok {
			s = scheme + "://" + s
		}
	}
	return fmt.Errorf("upstream %q: %s", s, want)
}

// serverName is what the backend's certificate must be valid for.
func (t Target) serverName() string {
	host, _, err := net.SplitHostPort(t.host)
	if err != nil {
		return t.host
	}
	host, _, _ = strings.Cut(host, "%") // an IPv6 zone is local to this machine
	return host
}

func (t Target) scheme() string {
	if t.tls {
		return "https"
	}
	return "http"
}

// SetTarget makes target the request-target of r (RFC 9112 section 3.2, the
// :path of HTTP/2), so that its bytes reach the backend unchanged: encoded
// slashes, doubled slashes, and bytes such as '"' or '|' that RFC 3986 would
// have encoded. It replaces r.URL; a value shared with another request is not
// touched. Only a Pool understands the result for a target that begins with
// "//".
//
// Accepted is the origin form ("/path?query") and "*". Space and control
// characters are refused: they would end the request line (RFC 9112 section
// 3.2).
func SetTarget(r *http.Request, target string) error {
	if target != "*" && !strings.HasPrefix(target, "/") {
		return fmt.Errorf("request target %.200q: want a path that begins with / or the one character *", target)
	}
	if hasOddBytes(target) {
		return fmt.Errorf("request target %.200q: want no space and no control character", target)
	}
	// net/url hands Opaque out as it stands, query included. Its one
	// exception, a leading "//", is dealt with per protocol in outgoing.
	r.URL = &url.URL{Opaque: target}
	return nil
}

func hasOddBytes(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return true
		}
	}
	return false
}
