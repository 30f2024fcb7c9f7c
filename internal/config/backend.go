package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// backend is one parsed upstream.
type backend struct {
	scheme string // http, https, h2c or unix
	host   string // name or address, the socket's path for unix
	port   int
}

const backendForms = `want "host:port", "https://host", "h2c://host:port" or "unix:/path/to/socket"`

// parseBackend reads an upstream. The way out is in every error.
func parseBackend(s string) (backend, error) {
	var none backend
	bare := strings.TrimPrefix(s, ":")
	switch {
	case s == "":
		return none, errors.New("is empty, " + backendForms)
	case bare != "" && strings.Trim(bare, "0123456789") == "":
		return none, fmt.Errorf("%q is a port alone; did you mean 127.0.0.1:%s?", s, bare)
	case strings.ContainsAny(s, ", "):
		return none, fmt.Errorf("%q has a space or a comma; write several backends as a list: [a:3000, b:3000]", redactURL(s))
	}
	if sock, ok := strings.CutPrefix(s, "unix:"); ok {
		return backend{scheme: "unix", host: sock}, checkSocket(sock)
	}
	if strings.HasPrefix(s, "/") {
		return none, fmt.Errorf("%q is a path; did you mean unix:%s?", s, s)
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		if path := strings.IndexByte(s, '/'); path >= 0 {
			return none, pathInBackend(s[path:], s[:path])
		}
		return hostPort("http", s, s)
	}
	switch scheme {
	case "http", "https", "h2c":
		return parseBackendURL(scheme, rest)
	case "grpc", "ws", "wss", "grpcs":
		good := map[string]string{"grpc": "h2c", "grpcs": "https", "ws": "http", "wss": "https"}[scheme]
		return none, fmt.Errorf("scheme %s is spoken through %s; did you mean %s://%s?", scheme, good, good, redactURL(rest))
	default:
		return none, fmt.Errorf("scheme %q is unknown, want http, https, h2c or unix%s", scheme, didYouMean(scheme, []string{"http", "https", "h2c", "unix"}))
	}
}

func parseBackendURL(scheme, rest string) (backend, error) {
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		return backend{}, fmt.Errorf("holds a user name or password, which a backend's address has no place for; write %s://%s", scheme, rest[i+1:])
	}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		return backend{}, pathInBackend(rest[i:], scheme+"://"+rest[:i])
	}
	full := scheme + "://" + rest
	if scheme == "https" && !hasPort(rest) {
		rest += ":443"
	}
	return hostPort(scheme, rest, full)
}

// hasPort reports whether an authority ends in a port, or means to.
func hasPort(authority string) bool {
	return strings.LastIndexByte(authority, ':') > strings.LastIndexByte(authority, ']')
}

func pathInBackend(path, host string) error {
	if path == "/" {
		return fmt.Errorf("ends in a slash, which a backend's address does not; write %s", host)
	}
	return fmt.Errorf("has the path %q, but a backend has none: it gets the client's path; write %s, and strip_prefix on the route to shorten the path", path, host)
}

func hostPort(scheme, s, full string) (backend, error) {
	var none backend
	if ip, err := netip.ParseAddr(s); err == nil && ip.Is6() {
		return none, fmt.Errorf("%q is an IPv6 address without a port, want [%s]:PORT", full, s)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		if !hasPort(s) {
			return none, fmt.Errorf("%q has no port; write %s:3000 with the port of your app", full, full)
		}
		return none, fmt.Errorf("%q is not a backend, %s", full, backendForms)
	}
	n, err := parsePort(port, 1)
	if err != nil {
		return none, err
	}
	ip, ipErr := netip.ParseAddr(host)
	switch {
	case ipErr == nil && ip.IsUnspecified():
		return none, fmt.Errorf("%q is where an app listens, not where it is reached; did you mean 127.0.0.1:%d?", full, n)
	case ipErr != nil && !isDialName(host):
		return none, fmt.Errorf("%q: %q is not a host name, %s", full, host, backendForms)
	}
	return backend{scheme, strings.ToLower(host), n}, nil
}

// isDialName reports whether the resolver may know the name; container
// networks use underscores.
func isDialName(s string) bool {
	if s == "" || len(s) > 253 || s[0] == '-' || s[0] == '.' {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	last := s[strings.LastIndexByte(s, '.')+1:]
	return !strings.Contains(s, "..") && strings.Trim(last, "0123456789") != ""
}

// checkSocket checks the path of a unix socket.
func checkSocket(path string) error {
	const longest = 103 // sun_path has 104 bytes on the narrowest systems
	switch {
	case path == "":
		return errors.New("unix: has no path, want one such as unix:/run/app.sock")
	case strings.HasPrefix(path, "//"):
		return fmt.Errorf("unix:%s has slashes too many; did you mean unix:/%s?", path, strings.TrimLeft(path, "/"))
	case strings.HasPrefix(path, "@"):
		return fmt.Errorf("unix:%s is an abstract socket, want the path of a socket file", path)
	case strings.HasPrefix(path, "~"):
		return fmt.Errorf(`unix:%s: "~" means nothing here; write "unix:${HOME}%s"`, path, path[1:])
	case len(path) > longest:
		return fmt.Errorf("the socket's path has %d bytes, want at most %d; systems take no longer ones", len(path), longest)
	case strings.ContainsRune(path, 0):
		return errors.New("the socket's path holds a NUL byte")
	}
	return nil
}

// redactURL hides the user name and password of a URL, for messages.
func redactURL(s string) string {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		scheme, rest = "", s
	} else {
		scheme += "://"
	}
	authority, tail := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		authority = "…@" + authority[i+1:]
	}
	return scheme + authority + tail
}

// checkURL checks an absolute http or https URL without user and fragment.
func checkURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Opaque != "" || u.Scheme == "" || u.Host == "" || strings.ContainsAny(s, " \t\n"):
		return nil, fmt.Errorf("%q is not a URL, want one such as https://host/path", redactURL(s))
	case u.User != nil:
		return nil, errors.New("the URL holds a user name or password, want one without")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("%q has the scheme %s, want https or http", s, u.Scheme)
	case u.Hostname() == "":
		return nil, fmt.Errorf("%q has no host, want one such as https://host/path", s)
	case u.Port() != "":
		if _, err := parsePort(u.Port(), 1); err != nil {
			return nil, err
		}
	case strings.HasSuffix(u.Host, ":"):
		return nil, fmt.Errorf("%q has no port after the colon, want a number or no colon", s)
	}
	return u, nil
}

// isLoopbackHost reports whether a host is this machine by its spelling.
func isLoopbackHost(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().IsLoopback()
	}
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}
