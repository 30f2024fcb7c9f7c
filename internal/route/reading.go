package route

import (
	"math/bits"
	"strings"
)

// reading is a set of choices that servers make differently about a path. All
// readings decode percent-encoding once ("%252e" is the three characters
// "%2e", never a dot: a backend that decodes twice is on its own) and keep
// three characters encoded unless a choice below says otherwise: %2F, %5C and
// %25, so that decoding is unambiguous.
//
// The combinations of the choices that a path gives occasion for are its
// readings. With none of them it is the path as sent (Express); with merged
// and dotted what nginx sees; with slashed too what servers that decode before
// they split see (net/http's URL.Path); with dotted alone what WHATWG's URL
// sees; with params what Tomcat sees.
type reading uint8

const (
	slashed reading = 1 << iota // %2F separates segments
	turned                      // "\" and %5C separate segments
	merged                      // an empty segment is dropped
	dotted                      // "." and ".." segments are resolved
	params                      // ";" and what follows it in a segment is dropped
)

// stackPath is the length in bytes up to which a path that is not plain is read
// without an allocation (a backslash counts for three, as it may become %5C).
const stackPath = 512

// maxWork bounds the bytes read for one path over all its readings, some 0.2 ms.
// Up to it a path with one choice may have 32 KiB and one with all five 2 KiB.
const maxWork = 64 << 10

// tooMany reports whether a path has more readings than its length allows.
// Nothing honest does; it counts as Ambiguous.
func tooMany(p string, features reading) bool {
	return len(p)<<bits.OnesCount8(uint8(features)) > maxWork
}

// plain reports whether a path has one reading only, which is itself: no
// encoding, no backslash, no parameter, no empty or dot segment.
func plain(p string) bool {
	if p == "" || p[0] != '/' {
		return false
	}
	for i := range len(p) {
		switch kinds[p[i]] {
		case kindPlain:
		case kindSlash:
			if i+1 == len(p) {
				return true
			}
			switch p[i+1] {
			case '/':
				return false
			case '.':
				if dotSegment(p[i+1:]) {
					return false
				}
			}
		default:
			return false
		}
	}
	return true
}

// dotSegment reports whether s begins with a "." or ".." segment, or with
// dots that something unusual follows.
func dotSegment(s string) bool {
	n := 0
	for n < len(s) && s[n] == '.' {
		n++
	}
	return n <= 2 && (n == len(s) || kinds[s[n]] != kindPlain)
}

type kind uint8

const (
	kindBad   kind = iota // control, space, DEL, non-ASCII, "?", "#"
	kindPlain             //
	kindSlash             // "/"
	kindMark              // "%", "\", ";"
)

var kinds = func() (t [256]kind) {
	for c := '!'; c <= '~'; c++ {
		t[c] = kindPlain
	}
	t['?'], t['#'] = kindBad, kindBad
	t['/'] = kindSlash
	t['%'], t['\\'], t[';'] = kindMark, kindMark, kindMark
	return t
}()

// unit decodes the character at p[i]: its byte, whether it was encoded, and
// where the next one begins; next is 0 for broken encoding.
func unit(p string, i int) (c byte, encoded bool, next int) {
	if p[i] != '%' {
		return p[i], false, i + 1
	}
	if i+2 >= len(p) {
		return 0, true, 0
	}
	hi, lo := hexValue(p[i+1]), hexValue(p[i+2])
	if hi > 15 || lo > 15 {
		return 0, true, 0
	}
	return hi<<4 | lo, true, i + 3
}

func hexValue(c byte) byte {
	switch {
	case c-'0' < 10:
		return c - '0'
	case c|0x20-'a' < 6:
		return c | 0x20 - 'a' + 10
	}
	return 0xff
}

// scan checks a path's characters and finds which choices can make a
// difference to it.
func scan(p string) (features reading, valid bool) {
	if p == "" || p[0] != '/' {
		return 0, false
	}
	dots, other, inParam := 0, false, false // of the segment so far
	for i := 1; i < len(p); {
		c, encoded, next := unit(p, i)
		switch {
		case next == 0:
			return 0, false
		case encoded && (c < ' ' || c == 0x7f):
			return 0, false
		case !encoded && kinds[c] == kindBad:
			return 0, false
		}
		i = next
		switch {
		case c == '/' || c == '\\':
			if c == '\\' {
				features |= turned
			} else if encoded {
				features |= slashed
			}
			features |= segmentFeatures(dots, other)
			if dots == 0 && !other {
				features |= merged
			}
			dots, other, inParam = 0, false, false
		case c == ';':
			features |= params
			inParam = true
		case inParam:
		case c == '.':
			dots++
		default:
			other = true
		}
	}
	return features | segmentFeatures(dots, other), true
}

func segmentFeatures(dots int, other bool) reading {
	if !other && (dots == 1 || dots == 2) {
		return dotted
	}
	return 0
}

// appendReading appends the path as read with the choices r to dst, which is
// empty. It is not valid if the path climbs above the root. The path passed
// scan.
func appendReading(dst []byte, p string, r reading) (path []byte, valid bool) {
	dst = append(dst, '/')
	start := 1 // of the segment being written
	inParam := false
	for i := 1; ; {
		end := i >= len(p)
		var c byte
		var encoded, separator bool
		if !end {
			c, encoded, i = unit(p, i)
			separator = c == '/' && (!encoded || r&slashed != 0) || c == '\\' && r&turned != 0
		}
		switch {
		case end || separator:
			inParam = false
			if dst, valid = closeSegment(dst, start, r, end); !valid {
				return nil, false
			}
			if end {
				return dst, true
			}
			start = len(dst)
		case inParam:
		case c == ';' && r&params != 0:
			inParam = true
		case c == '/':
			dst = append(dst, "%2F"...)
		case c == '\\':
			dst = append(dst, "%5C"...)
		case c == '%':
			dst = append(dst, "%25"...)
		default:
			dst = append(dst, c)
		}
	}
}

// closeSegment ends the segment dst[start:] and begins the next, unless the
// path ends there.
func closeSegment(dst []byte, start int, r reading, end bool) ([]byte, bool) {
	switch segment := dst[start:]; {
	case r&dotted != 0 && string(segment) == ".":
		return dst[:start], true
	case r&dotted != 0 && string(segment) == "..":
		dst = dst[:start-1]
		for len(dst) > 0 && dst[len(dst)-1] != '/' {
			dst = dst[:len(dst)-1]
		}
		return dst, len(dst) > 0
	case end, r&merged != 0 && len(segment) == 0:
		return dst, true
	}
	return append(dst, '/'), true
}

// climbs reports whether a path is broken, or leaves its root in a reading.
func climbs(p string) bool {
	if plain(p) {
		return false
	}
	features, valid := scan(p)
	if !valid {
		return true
	}
	if features&dotted == 0 {
		return false
	}
	if tooMany(p, features) {
		return true
	}
	var stack [stackPath]byte
	for r := features; ; r = (r - 1) & features {
		if _, valid := appendReading(stack[:0], p, r); !valid {
			return true
		}
		if r == 0 {
			return false
		}
	}
}

// parsePattern splits a route's path into decoded segments; below means that
// all paths below them belong to it. A pattern that no reading of a path could
// equal in all readings is refused with the reason.
func parsePattern(pattern string) (segments []string, below bool, msg string) {
	if pattern == "" || pattern == "*" || pattern == "/*" {
		return nil, true, ""
	}
	if pattern[0] != '/' {
		return nil, false, `a path begins with "/"`
	}
	path, below := strings.CutSuffix(pattern, "/*")
	var decoded strings.Builder
	for i := 0; i < len(path); {
		c, encoded, next := unit(path, i)
		switch {
		case next == 0:
			return nil, false, `broken percent-encoding; a percent sign itself cannot be part of a route's path`
		case c < ' ' || c == 0x7f:
			return nil, false, "a path has no control characters"
		case c == '*' && !encoded:
			return nil, false, `"*" stands only for everything below: "/name/*"`
		case (c == '?' || c == '#') && !encoded:
			return nil, false, "a route's path has no query and no fragment"
		case c == '\\' || c == ';' || encoded && (c == '/' || c == '%'):
			return nil, false, `backends read "\", ";", "%2F" and "%25" in different ways; a route's path cannot have them`
		}
		decoded.WriteByte(c)
		i = next
	}
	segments = strings.Split(decoded.String()[1:], "/")
	for i, s := range segments {
		switch {
		case s == "." || s == "..":
			return nil, false, `"." and ".." are resolved before matching; write the path without them`
		case s == "" && (below || i < len(segments)-1):
			return nil, false, `"//" is one slash to most backends; write the path without it`
		}
	}
	return segments, below, ""
}
