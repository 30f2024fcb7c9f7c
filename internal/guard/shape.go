package guard

import "strings"

// Groups of the patterns below: what decides alone, and what asks for a
// closer look.
const (
	shapeNever = iota
	shapeDots
)

// shapeTexts are the texts no caller has in a request target, whatever is behind
// us. The list is short on purpose: it also binds the routes that are
// configured. The price is that somebody who searches his own pages for
// "/etc/passwd" by a query is refused.
var shapeTexts = []patternGroup{
	shapeNever: {"never", []string{
		"\x00",
		"/etc/passwd", "/etc/shadow", "/proc/self/environ", "/windows/win.ini",
		"${jndi:", "${${", // CVE-2021-44228 and its disguises
		"^/shell?cd ", ";cd /tmp", "cd /tmp;", "cd /tmp ", // Mozi and its kin
		"allow_url_include", "auto_prepend_file", // CVE-2012-1823, CVE-2024-4577
		"php:/input", "php:/filter",
		"eval-stdin.php",            // CVE-2017-9841
		"/think/app/invokefunction", // CVE-2018-20062
		"class.module.classloader",  // CVE-2022-22965
	}},
	shapeDots: {"dots", []string{"/../", "/..?", "/..#", "/..;", "/..$"}},
}

// shapes finds shapeTexts in a request target.
var shapes = newMatcher(shapeTexts)

// Shape reports whether a request is of a shape that is never legitimate, and
// as which signal it counts. method and target are those of the request line,
// byte for byte; host is the Host field or :authority, as sent or in
// canonical form. It is pure and allocates nothing.
//
// The shapes are: CONNECT (an extended CONNECT, RFC 8441, must not be asked
// about), TRACE, TRACK, DEBUG and PRI; a target in absolute form (RFC 9112
// section 3.2.2) for another host; a path that leads above the root, or is
// spelled with encoded dots to go up; a NUL; and texts of well-known attacks
// such as ${jndi: and /etc/passwd, also percent-encoded once or twice. A
// target of no form that fits its method is Malformed.
func (g *Guard) Shape(method, target, host string) (Signal, bool) {
	return shape(method, target, host)
}

func shape(method, target, host string) (Signal, bool) {
	switch method {
	case "CONNECT", "TRACE", "TRACK", "DEBUG", "PRI":
		return BadShape, true
	}
	if target == "*" && method == "OPTIONS" {
		return 0, false
	}
	if target == "" || target[0] != '/' {
		scheme, rest, ok := strings.Cut(target, "://")
		if !ok || !isScheme(scheme) {
			return Malformed, true
		}
		end := strings.IndexAny(rest, "/?#")
		if end < 0 {
			end = len(rest)
		}
		if !sameHost(rest[:end], host) {
			return BadShape, true
		}
		target = rest[end:]
	}
	if hasBadText(target) {
		return BadShape, true
	}
	return 0, false
}

// hasBadText looks for shapes in a path and query.
func hasBadText(target string) bool {
	walked := false
	for i, state := 0, shapes.start; ; {
		var group int
		group, i, state = shapes.find(target, i, state)
		switch group {
		case shapeNever:
			return true
		case shapeDots:
			if !walked && goesUp(target) {
				return true
			}
			walked = true
		}
		if i >= len(target) {
			return false
		}
	}
}

// goesUp reports whether the path of target leads above the root, or goes up
// in a spelling that only serves to hide it: encoded dots, or "..;" (which
// some servers cut off at the semicolon). Slashes may be spelled "\", %2f and
// %5c.
func goesUp(target string) bool {
	depth := 0
	var seg segment
	for i := 0; i < len(target) && target[i] != '?' && target[i] != '#'; {
		c, encoded := target[i], false
		i++
		if c == '%' {
			at := i
			c, i = unescape(target, i)
			encoded = i > at
		}
		if c != '/' && c != '\\' {
			seg.read(c, encoded)
			continue
		}
		if seg.leaves(&depth) {
			return true
		}
		seg = segment{}
	}
	return seg.leaves(&depth)
}

// A segment is what goesUp knows of the part of a path between two slashes.
type segment struct {
	length int  // up to a semicolon after dots alone
	dots   int  // at its start
	hidden bool // a dot was encoded, or a semicolon follows the dots
	ended  bool // by that semicolon
}

func (s *segment) read(c byte, encoded bool) {
	switch {
	case s.ended:
	case c == '.' && s.dots == s.length:
		s.dots++
		s.length++
		s.hidden = s.hidden || encoded
	case c == ';' && s.dots == s.length && s.dots > 0:
		s.hidden, s.ended = true, true
	default:
		s.length++
	}
}

// leaves applies the segment to depth and reports whether that is bad.
func (s *segment) leaves(depth *int) bool {
	switch {
	case s.length == 0, s.length == 1 && s.dots == 1:
	case s.length == 2 && s.dots == 2:
		*depth--
		return s.hidden || *depth < 0
	default:
		*depth++
	}
	return false
}

// isScheme reports whether s is a URI scheme (RFC 3986 section 3.1).
func isScheme(s string) bool {
	if s == "" || !isLetter(s[0]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isLetter(c) && (c < '0' || c > '9') && c != '+' && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

// sameHost compares two authorities but for port, case and a final dot. User
// information makes them different (RFC 9110 section 4.2.4).
func sameHost(a, b string) bool {
	a, b = bareHost(a), bareHost(b)
	return a != "" && strings.EqualFold(a, b)
}

// bareHost cuts off the port and a final dot.
func bareHost(s string) string {
	if i := strings.LastIndexByte(s, ':'); i >= 0 && strings.IndexByte(s[i:], ']') < 0 {
		s = s[:i]
	}
	return strings.TrimSuffix(s, ".")
}
