package http1

import (
	"net/netip"
	"strings"
)

// start reads the empty line that may precede a request line, and the method.
func (f *Follower) start(q []byte) (int, Reason) {
	c := q[0]
	switch f.state {
	case stIdle, stStart:
		// RFC 9112 section 2.2: at least one empty line is to be ignored
		// here, for clients that end a body with an extra CRLF. One is.
		switch {
		case class[c]&inToken != 0:
			f.state, f.pos = stMethod, 0
			return 0, ok
		case c == '\r' && f.state == stIdle:
			f.state = stStartLF
			return 1, ok
		case c == '\r':
			return 0, EmptyLines
		case c == ' ' || c == '\t':
			return 0, BadRequestLine
		}
		return 0, lineEndOr(c, BadMethod)
	case stStartLF:
		if c != '\n' {
			return 0, BareCR
		}
		f.state = stStart
		return 1, ok
	}
	n := run(q, inToken)
	if f.pos+n > maxMethod {
		return maxMethod - f.pos, MethodTooLong
	}
	copy(f.name[f.pos:], q[:n])
	f.pos += n
	if n == len(q) {
		return n, ok
	}
	switch c := q[n]; c {
	case ' ':
		method := f.name[:f.pos]
		f.connect = string(method) == "CONNECT"
		f.options = string(method) == "OPTIONS"
		f.state = stTarget
		return n + 1, ok
	case '\r', '\t':
		return n, BadRequestLine
	default:
		return n, lineEndOr(c, BadMethod)
	}
}

// target reads the request target in one of its four forms (RFC 9112 section
// 3.2), and the space after it.
func (f *Follower) target(q []byte) (int, Reason) {
	switch f.state {
	case stTarget:
		return f.targetStart(q[0])
	case stScheme:
		return f.scheme(q[0])
	case stAuthority:
		return f.authority(q)
	case stStar:
		return f.endTarget(q[0])
	case stPct1, stPct2:
		if unhex[q[0]] > 15 {
			return 0, lineEndOr(q[0], BadTarget)
		}
		if f.state++; f.state > stPct2 {
			f.state = stPath
		}
		return 1, ok
	}
	set := uint8(inPath)
	if f.state == stQuery {
		set = inQuery
	}
	n := run(q, set)
	if n == len(q) {
		return n, ok
	}
	if f.state == stPath {
		switch q[n] {
		case '%':
			f.state = stPct1
			return n + 1, ok
		case '?':
			f.state = stQuery
			return n + 1, ok
		}
	}
	m, why := f.endTarget(q[n])
	return n + m, why
}

func (f *Follower) targetStart(c byte) (int, Reason) {
	switch {
	case c == ' ' || c == '\t' || c == '\r':
		return 0, BadRequestLine
	case f.connect:
		f.state = stAuthority
		return 0, ok
	case c == '/':
		f.state = stPath
		return 1, ok
	case c == '*' && f.options:
		f.state = stStar
		return 1, ok
	case lower(c) == 'h':
		f.state, f.pos = stScheme, 0
		return 0, ok
	}
	return 0, lineEndOr(c, BadTarget)
}

// scheme reads "http://" or "https://".
func (f *Follower) scheme(c byte) (int, Reason) {
	f.name[f.pos] = lower(c)
	f.pos++
	got := string(f.name[:f.pos])
	switch {
	case got == "http://" || got == "https://":
		f.state = stAuthority
	case !strings.HasPrefix("http://", got) && !strings.HasPrefix("https://", got):
		return 0, lineEndOr(c, BadTarget)
	}
	return 1, ok
}

// authority reads the host and port of an absolute-form or authority-form
// target. User information is refused (RFC 9110 section 4.2.4).
func (f *Follower) authority(q []byte) (int, Reason) {
	n := run(q, inHost)
	if n > maxHost-f.hostLen {
		return maxHost - f.hostLen, BadTarget
	}
	f.addHost(q[:n])
	if n == len(q) {
		return n, ok
	}
	c := q[n]
	if c != ' ' && (f.connect || c != '/' && c != '?') {
		return n, notTarget(c)
	}
	port, valid := splitAuthority(f.host[:f.hostLen])
	if !valid || f.connect && port == "" {
		return n, BadTarget
	}
	f.absolute = !f.connect
	switch c {
	case '/':
		f.state = stPath
		return n + 1, ok
	case '?':
		f.state = stQuery
		return n + 1, ok
	}
	m, why := f.endTarget(c)
	return n + m, why
}

func (f *Follower) endTarget(c byte) (int, Reason) {
	if c != ' ' {
		return 0, notTarget(c)
	}
	f.state, f.pos = stVersion, 0
	return 1, ok
}

// notTarget names what a byte that cannot stand in a target means.
func notTarget(c byte) Reason {
	switch c {
	case '\n':
		return BareLF
	case '\r':
		return MissingVersion
	case '\t':
		return BadRequestLine
	}
	return BadTarget
}

// version reads "HTTP/1.0" or "HTTP/1.1" and the end of the line.
func (f *Follower) version(q []byte) (int, Reason) {
	const want = "HTTP/1."
	c := q[0]
	switch {
	case f.state == stVersionLF:
		if c != '\n' {
			return 0, BareCR
		}
		f.state = stFirstField
		return 1, ok
	case f.pos < len(want):
		if c != want[f.pos] {
			return 0, f.notVersion(c)
		}
	case f.pos == len(want):
		if c != '0' && c != '1' {
			return 0, f.notVersion(c)
		}
		f.minor0 = c == '0'
	default:
		if c != '\r' {
			return 0, f.notVersion(c)
		}
		f.state = stVersionLF
	}
	f.pos++
	return 1, ok
}

// notVersion tells another version of HTTP from another kind of line.
func (f *Follower) notVersion(c byte) Reason {
	if f.pos >= len("HTTP/") && isDigit(c) {
		return UnsupportedVersion
	}
	return lineEndOr(c, BadRequestLine)
}

// field reads header and trailer field lines (RFC 9112 section 5) and the
// empty line after the last.
func (f *Follower) field(q []byte) (int, Reason) {
	switch f.state {
	case stFirstField, stField:
		return f.fieldStart(q[0])
	case stName:
		return f.fieldName(q)
	case stSpecial:
		return f.specialValue(q)
	case stValue:
		n := valueRun(q)
		if n == len(q) {
			return n, ok
		}
		if q[n] != '\r' {
			return n, lineEndOr(q[n], BadValue)
		}
		f.state = stValueLF
		return n + 1, ok
	}
	if q[0] != '\n' {
		return 0, BareCR
	}
	if f.state == stEndLF {
		f.endSection()
	} else {
		f.state = stField
	}
	return 1, ok
}

func (f *Follower) fieldStart(c byte) (int, Reason) {
	switch {
	case class[c]&inToken != 0:
		if f.fields == orDefault(f.Limits.Fields, DefaultFields) {
			return 0, TooManyFields
		}
		f.fields++
		f.state, f.pos = stName, 0
		return 0, ok
	case c == '\r':
		if why := f.endHead(); why != ok {
			return 0, why
		}
		f.state = stEndLF
		return 1, ok
	case c == ' ' || c == '\t':
		if f.state == stFirstField {
			return 0, LeadingSpace
		}
		return 0, ObsFold
	case c == ':':
		return 0, EmptyName
	}
	return 0, lineEndOr(c, BadName)
}

func (f *Follower) fieldName(q []byte) (int, Reason) {
	n := run(q, inToken)
	if f.pos < len(f.name) {
		copy(f.name[f.pos:], q[:n])
	}
	f.pos += n
	if n == len(q) {
		return n, ok
	}
	switch c := q[n]; c {
	case ':':
		if why := f.fieldNamed(); why != ok {
			return n, why
		}
		return n + 1, ok
	case ' ', '\t':
		return n, SpaceBeforeColon
	default:
		return n, lineEndOr(c, BadName)
	}
}

// fieldNamed is called at the colon.
func (f *Follower) fieldNamed() Reason {
	f.special, f.state = f.kind(), stValue
	if f.special == ordinary {
		return ok
	}
	if f.trailer {
		return ForbiddenTrailer
	}
	f.state, f.pos, f.padded, f.left = stSpecial, 0, false, 0
	switch f.special {
	case fieldHost:
		if f.hasHost {
			return DuplicateHost
		}
		f.hasHost = true
		if !f.absolute {
			f.hostLen = 0
		}
	case fieldLength:
		if f.chunked {
			return LengthAndCoding
		}
		if f.hasLen {
			return DuplicateLength
		}
		f.hasLen = true
	case fieldCoding:
		switch {
		case f.hasLen:
			return LengthAndCoding
		case f.chunked:
			return DuplicateCoding
		case f.minor0:
			return CodingInHTTP10
		}
		f.chunked = true
	}
	return ok
}

func (f *Follower) kind() special {
	var want string
	var s special
	switch f.pos {
	case len("host"):
		want, s = "host", fieldHost
	case len("content-length"):
		want, s = "content-length", fieldLength
	case len("transfer-encoding"):
		want, s = "transfer-encoding", fieldCoding
	default:
		return ordinary
	}
	for i := range want {
		if lower(f.name[i]) != want[i] {
			return ordinary
		}
	}
	return s
}

// specialValue reads the value of a field that decides about framing or
// destination, and refuses its first byte out of place.
func (f *Follower) specialValue(q []byte) (int, Reason) {
	for n, c := range q {
		switch {
		case c == ' ' || c == '\t':
			f.padded = f.pos > 0
		case c == '\r':
			if why := f.endSpecial(); why != ok {
				return n, why
			}
			f.state = stValueLF
			return n + 1, ok
		case c == '\n':
			return n, BareLF
		case class[c]&inValue == 0:
			return n, BadValue
		default:
			if f.padded || !f.specialByte(c) {
				return n, f.badSpecial()
			}
			f.pos++
		}
	}
	return len(q), ok
}

func (f *Follower) specialByte(c byte) bool {
	switch f.special {
	case fieldLength:
		// Nineteen digits fit a uint64; above 2^63-1 it is too large for
		// somebody (RFC 9112 section 6.3, item 5).
		if !isDigit(c) || f.pos == 19 {
			return false
		}
		f.left = f.left*10 + uint64(c-'0')
		return f.left < 1<<63
	case fieldCoding:
		return f.pos < len("chunked") && lower(c) == "chunked"[f.pos]
	default:
		if f.absolute {
			return f.pos < f.hostLen && f.host[f.pos] == lower(c)
		}
		if class[c]&inHost == 0 || f.hostLen == maxHost {
			return false
		}
		f.addHost([]byte{c})
		return true
	}
}

// endSpecial is called at the end of a special value. An empty Host is
// well-formed (RFC 9110 section 7.2); whether it names a site is not ours.
func (f *Follower) endSpecial() Reason {
	valid := true
	switch f.special {
	case fieldLength:
		valid = f.pos > 0
		f.length = f.left
	case fieldCoding:
		valid = f.pos == len("chunked")
	case fieldHost:
		if f.absolute {
			valid = f.pos == f.hostLen
		} else if f.pos > 0 {
			_, valid = splitAuthority(f.host[:f.hostLen])
		}
	}
	if !valid {
		return f.badSpecial()
	}
	return ok
}

func (f *Follower) badSpecial() Reason {
	switch f.special {
	case fieldLength:
		return BadLength
	case fieldCoding:
		return UnsupportedCoding
	}
	if f.absolute {
		return HostMismatch
	}
	return BadHost
}

func (f *Follower) addHost(p []byte) {
	for _, c := range p {
		f.host[f.hostLen] = lower(c)
		f.hostLen++
	}
}

// splitAuthority checks "host", "host:port" or the same with an address in
// brackets; the bytes are known to be of the class inHost. The port may be
// empty (RFC 3986 section 3.2.3).
func splitAuthority(a []byte) (port string, valid bool) {
	host, rest := a, []byte(nil)
	if len(a) > 0 && a[0] == '[' {
		end := strings.IndexByte(string(a), ']')
		if end < 0 {
			return "", false
		}
		addr, err := netip.ParseAddr(string(a[1:end]))
		if err != nil || !addr.Is6() {
			return "", false
		}
		rest = a[end+1:]
	} else {
		for i, c := range a {
			if c == ':' {
				host, rest = a[:i], a[i:]
				break
			}
		}
		if len(host) == 0 {
			return "", false
		}
		for _, c := range host {
			if c == '[' || c == ']' {
				return "", false
			}
		}
	}
	if len(rest) == 0 {
		return "", true
	}
	if rest[0] != ':' || len(rest) > len(":65535") {
		return "", false
	}
	n := 0
	for _, c := range rest[1:] {
		if !isDigit(c) {
			return "", false
		}
		n = n*10 + int(c-'0')
	}
	if n > 65535 {
		return "", false
	}
	return string(rest[1:]), true
}
