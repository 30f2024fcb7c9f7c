package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// canonicalHost returns the spelling of a configured host that requests are
// compared with: lower case, ASCII, without a trailing dot; an IPv6 address in
// brackets, as in a Host field. The way out is in every error.
func canonicalHost(s string) (string, error) {
	switch {
	case s == "":
		return "", errors.New("is empty, want a host name such as mypi.duckdns.org")
	case len(s) > 1024: // also keeps punycode, which takes quadratic time, short
		return "", fmt.Errorf("a host name of %d bytes, want at most 253", len(s))
	case s == "*" || s == "*.":
		return "", errors.New(`"*" is every name there is; list the names, or "*.example.org" for those below one`)
	case strings.ContainsAny(s, ", "):
		return "", fmt.Errorf("%q is more than one name; write a list: [%s]", s, strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' }), ", "))
	}
	if alone := hostAlone(s); alone != s {
		return "", fmt.Errorf("%q is more than a host; write the host alone: %s", redactURL(s), alone)
	}
	if ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil {
		if ip.Zone() != "" || ip.IsUnspecified() {
			return "", fmt.Errorf("%q is no address a client can ask for, want a host name or the machine's address", s)
		}
		if ip = ip.Unmap(); ip.Is6() {
			return "[" + ip.String() + "]", nil
		}
		return ip.String(), nil
	}
	name, wild := strings.CutPrefix(s, "*.")
	name = strings.TrimSuffix(name, ".")
	if strings.Contains(name, "*") {
		return "", fmt.Errorf(`%q: "*" stands for the whole first label only, want a form such as "*.example.org"`, s)
	}
	ascii, err := idna.Lookup.ToASCII(name)
	if err != nil || ascii == "" || !utf8.ValidString(name) {
		return "", fmt.Errorf("%q is not a host name, want letters, digits and hyphens with dots between", s)
	}
	if len(ascii) > 253 {
		return "", fmt.Errorf("a host name of %d bytes, want at most 253", len(ascii))
	}
	for label := range strings.SplitSeq(ascii, ".") {
		if label == "" || len(label) > 63 {
			return "", fmt.Errorf("%q is not a host name, want labels of 1 to 63 characters between the dots", s)
		}
	}
	if isNumber(ascii[strings.LastIndex(ascii, ".")+1:]) {
		return "", fmt.Errorf("%q is neither an IP address nor a host name; does a part miss?", s)
	}
	if wild {
		if !strings.Contains(ascii, ".") {
			return "", fmt.Errorf(`%q covers a whole top-level domain, want a form such as "*.example.org"`, s)
		}
		ascii = "*." + ascii
	}
	return ascii, nil
}

// isNumber reports whether a last label makes clients take the whole host for
// an IPv4 address: digits, or hexadecimal with 0x (the URL standard, "ends in
// a number").
func isNumber(label string) bool {
	digits := "0123456789"
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		label, digits = hex, digits+"abcdef"
	}
	return strings.Trim(label, digits) == ""
}

// hostAlone strips scheme, path and port.
func hostAlone(s string) string {
	if i := strings.Index(s, "://"); i >= 0 {
		s = s[i+3:]
	}
	s = strings.TrimPrefix(s, "//")
	if i := strings.IndexAny(s, "/?#"); i >= 0 {
		s = s[:i]
	}
	if i := strings.LastIndex(s, "@"); i >= 0 {
		s = s[i+1:]
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return s
	}
	if h, _, err := net.SplitHostPort(s); err == nil {
		if strings.Contains(h, ":") {
			return "[" + h + "]"
		}
		return h
	}
	return s
}

// isIP reports whether a canonical host is an address.
func isIP(host string) bool {
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil
}

// covers reports whether a configured host, perhaps a wildcard, takes name.
func covers(pattern, name string) bool {
	if pattern == name {
		return true
	}
	base, wild := strings.CutPrefix(pattern, "*")
	if !wild || strings.HasPrefix(name, "*") {
		return false
	}
	label, ok := strings.CutSuffix(name, base)
	return ok && label != "" && !strings.Contains(label, ".")
}

// misspelt returns the name that a host was most likely meant to be, "" when
// it looks right. DuckDNS names are typed from memory more than others are.
func misspelt(host string) string {
	labels := strings.Split(host, ".")
	if len(labels) < 2 {
		return ""
	}
	n := len(labels) - 2
	rest := strings.Join(labels[:n], ".")
	if n > 0 {
		rest += "."
	}
	switch provider := labels[n] + "." + labels[n+1]; provider {
	case "duckdns.com", "duckdns.net", "duckdns.io", "duckdns.ord", "duckdns.orgg", "duckdns.rog", "duckdns.og", "duckdns.or",
		"duckdn.org", "duckdsn.org", "ducksdns.org", "dukdns.org", "duckdnss.org", "duckddns.org", "duckndns.org":
		return rest + "duckdns.org"
	}
	return ""
}

// notPublic says why no public certificate authority gives a certificate for
// host, "" when one may.
func notPublic(host string) string {
	host = strings.TrimPrefix(host, "*.")
	last := host[strings.LastIndex(host, ".")+1:]
	switch {
	case !strings.Contains(host, "."):
		return "has no dot"
	case host == "home.arpa" || strings.HasSuffix(host, ".home.arpa"):
		return "ends in .home.arpa, which is for home networks"
	}
	switch last {
	case "local", "localhost", "internal", "lan", "home", "corp", "test", "invalid", "example", "localdomain", "private", "intranet":
		return "ends in ." + last + ", which exists in private networks only"
	}
	return ""
}
