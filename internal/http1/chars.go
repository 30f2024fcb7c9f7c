package http1

// Character classes, as bits of class.
const (
	inToken = 1 << iota // tchar: methods and field names (RFC 9110 section 5.6.2)
	inValue             // HTAB, SP, VCHAR, obs-text: field values
	inPath              // visible ASCII but % ? #
	inQuery             // visible ASCII but #: RFC 3986 leaves no fragment in a target
	inHost              // host and port, without percent-encoding and user information
)

// class and unhex are written once, here.
var class = func() (t [256]uint8) {
	for i := range t {
		c := byte(i)
		alnum := isDigit(c) || lower(c) >= 'a' && lower(c) <= 'z'
		visible := c > ' ' && c < 0x7f
		if alnum || oneOf(c, "!#$%&'*+-.^_`|~") {
			t[i] |= inToken
		}
		if visible || c == ' ' || c == '\t' || c >= 0x80 {
			t[i] |= inValue
		}
		if visible && !oneOf(c, "%?#") {
			t[i] |= inPath
		}
		if visible && c != '#' {
			t[i] |= inQuery
		}
		if alnum || oneOf(c, "-._~:[]") {
			t[i] |= inHost
		}
	}
	return t
}()

// unhex is the value of a hexadecimal digit, or more than 15.
var unhex = func() (t [256]uint8) {
	for i := range t {
		t[i] = 0xff
		switch c := lower(byte(i)); {
		case isDigit(c):
			t[i] = c - '0'
		case c >= 'a' && c <= 'f':
			t[i] = c - 'a' + 10
		}
	}
	return t
}()

// run is the number of leading bytes of q in the class.
func run(q []byte, set uint8) int {
	for i, c := range q {
		if class[c]&set == 0 {
			return i
		}
	}
	return len(q)
}

func oneOf(c byte, set string) bool {
	for i := range len(set) {
		if set[i] == c {
			return true
		}
	}
	return false
}

func isDigit(c byte) bool { return c-'0' < 10 }

// lower maps A to Z only.
func lower(c byte) byte {
	if c-'A' < 26 {
		return c | 0x20
	}
	return c
}
