package route

import (
	"net/netip"
	"strings"
)

// CanonicalHost brings the value of a Host field, an :authority or a server
// name to the form that Table.Site knows: lower-case ASCII without port and
// without the dot at the end; IPv6 addresses in brackets and in the form of
// RFC 5952. It is not ok for anything that is not a host: labels have 1 to 63
// letters, digits, "-" and "_", do not begin or end with "-", and make at most
// 253 bytes (RFC 1123 section 2.1; "_" is common in practice). A last label
// that is a number makes it an IPv4 address, which must then be one in plain
// form: 127.1 and 0x7f.0.0.1 mean different things to different parsers. A
// port is 1 to 65535, after a colon. Nothing is allocated if raw is canonical
// but for port and dot.
func CanonicalHost(raw string) (host string, ok bool) {
	if raw == "" {
		return "", false
	}
	if raw[0] == '[' {
		return canonicalV6(raw)
	}
	name := raw
	if colon := strings.IndexByte(raw, ':'); colon >= 0 {
		if !validPort(raw[colon+1:]) {
			return "", false
		}
		name = raw[:colon]
	}
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > 253 {
		return "", false
	}
	upper := false
	start := 0 // of the label
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '.' {
			c := name[i]
			if c-'A' < 26 {
				upper = true
			} else if c-'a' >= 26 && c-'0' >= 10 && c != '-' && c != '_' {
				return "", false
			}
			continue
		}
		if i == start || i-start > 63 || name[start] == '-' || name[i-1] == '-' {
			return "", false
		}
		if i < len(name) {
			start = i + 1
		}
	}
	if isNumber(name[start:]) && !isV4(name) {
		return "", false
	}
	if upper {
		name = strings.ToLower(name)
	}
	return name, true
}

func canonicalV6(raw string) (string, bool) {
	end := strings.IndexByte(raw, ']')
	if end < 0 {
		return "", false
	}
	if rest := raw[end+1:]; rest != "" && (rest[0] != ':' || !validPort(rest[1:])) {
		return "", false
	}
	addr, err := netip.ParseAddr(raw[1:end])
	if err != nil || !addr.Is6() || addr.Zone() != "" {
		return "", false
	}
	var stack [48]byte
	canonical := append(addr.AppendTo(append(stack[:0], '[')), ']')
	if string(canonical) == raw[:end+1] {
		return raw[:end+1], true
	}
	return string(canonical), true
}

func validPort(s string) bool {
	n := 0
	for i := range len(s) {
		if s[i]-'0' >= 10 || i == 5 {
			return false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n >= 1 && n <= 65535
}

// isNumber follows WHATWG URL's "ends in a number": digits, or 0x and digits.
func isNumber(label string) bool {
	digits := true
	for i := range len(label) {
		digits = digits && label[i]-'0' < 10
	}
	if digits {
		return true
	}
	if len(label) < 2 || label[0] != '0' || label[1]|0x20 != 'x' {
		return false
	}
	for i := 2; i < len(label); i++ {
		if hexValue(label[i]) > 15 {
			return false
		}
	}
	return true
}

// isV4 is four numbers from 0 to 255 without leading zeros. netip.ParseAddr
// would do, but for the error it allocates.
func isV4(s string) bool {
	parts := 0
	for part := range strings.SplitSeq(s, ".") {
		if parts++; len(part) > 3 || len(part) > 1 && part[0] == '0' {
			return false
		}
		n := 0
		for i := range len(part) {
			if part[i]-'0' >= 10 {
				return false
			}
			n = n*10 + int(part[i]-'0')
		}
		if n > 255 {
			return false
		}
	}
	return parts == 4
}

// isAddress is for canonical hosts.
func isAddress(host string) bool { return host[0] == '[' || isV4(host) }

func hasPort(host string) bool {
	colon := strings.LastIndexByte(host, ':')
	return colon > strings.LastIndexByte(host, ']') && colon >= 0
}
