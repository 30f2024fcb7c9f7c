package h2

// Character classes, as bits of class.
const (
	inName      = 1 << iota // tchar without upper case: field names (RFC 9113 section 8.2.1)
	inToken                 // tchar: methods
	inValue                 // HTAB, SP, VCHAR, obs-text: field values
	inTarget                // visible ASCII but #: path and query
	inAuthority             // host and port, without user information
	isHex
)

// class is written once, here.
var class = func() (t [256]uint8) {
	for i := range t {
		c := byte(i)
		digit, small, big := c-'0' < 10, c-'a' < 26, c-'A' < 26
		mark := false
		for _, m := range []byte("!#$%&'*+-.^_`|~") {
			mark = mark || m == c
		}
		if digit || small || mark {
			t[i] |= inName | inToken
		}
		if big {
			t[i] |= inToken
		}
		if c >= ' ' && c != 0x7f || c == '\t' {
			t[i] |= inValue
		}
		if c > ' ' && c < 0x7f && c != '#' {
			t[i] |= inTarget
		}
		if digit || small || big || c == '-' || c == '.' || c == '_' || c == '~' || c == ':' || c == '[' || c == ']' {
			t[i] |= inAuthority
		}
		if digit || c-'a' < 6 || c-'A' < 6 {
			t[i] |= isHex
		}
	}
	return t
}()

// all reports whether every byte of v is in the class.
func all[T string | []byte](v T, set uint8) bool {
	for i := 0; i < len(v); i++ {
		if class[v[i]]&set == 0 {
			return false
		}
	}
	return true
}

// plain reports whether v is a field value as RFC 9113 section 8.2.1 wants it:
// no control characters, no white space at either end.
func plain[T string | []byte](v T) bool {
	n := len(v)
	if n == 0 {
		return true
	}
	if v[0] == ' ' || v[0] == '\t' || v[n-1] == ' ' || v[n-1] == '\t' {
		return false
	}
	return all(v, inValue)
}

// goodPath reports whether p can be a request target in origin form: it
// begins with a slash, has no byte that would end it in HTTP/1.1, and every
// percent sign begins an escape.
func goodPath(p string) bool {
	if p == "" || p[0] != '/' {
		return false
	}
	for i := 0; i < len(p); i++ {
		c := p[i]
		if class[c]&inTarget == 0 {
			return false
		}
		if c == '%' && (i+2 >= len(p) || class[p[i+1]]&isHex == 0 || class[p[i+2]]&isHex == 0) {
			return false
		}
	}
	return true
}

// parseLength reads a content-length (RFC 9110 section 8.6).
func parseLength[T string | []byte](v T) (int64, bool) {
	if len(v) == 0 || len(v) > 18 {
		return 0, false
	}
	n := int64(0)
	for i := 0; i < len(v); i++ {
		d := v[i] - '0'
		if d > 9 {
			return 0, false
		}
		n = n*10 + int64(d)
	}
	return n, true
}
