package proxy

import (
	"net/http"
	"net/netip"
	"net/textproto"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// hopByHop are the fields that belong to one connection (RFC 9110 section
// 7.6.1) and those a proxy must not pass on (sections 11.7.1 and 11.7.2).
var hopByHop = []string{ // read only
	"Connection", "Proxy-Connection", "Keep-Alive", "Te", "Transfer-Encoding", "Upgrade",
	"Proxy-Authorization", "Proxy-Authenticate", "Proxy-Authentication-Info", "Trailer",
}

// forwardingFields are set by proxies; from a client that is none they are
// lies a backend may believe.
var forwardingFields = []string{ // read only
	"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Server",
	"X-Forwarded-Prefix", "X-Forwarded-Uri", "X-Forwarded-Ssl", "X-Forwarded-Scheme", "X-Real-Ip", "X-Client-Ip", "X-Cluster-Client-Ip",
	"X-Original-Url", "X-Rewrite-Url", "X-Request-Id",
	"True-Client-Ip", "Cf-Connecting-Ip", "Fastly-Client-Ip", "X-Original-Forwarded-For",
}

// removeHopByHop deletes from h what belongs to the connection it came on,
// Connection's own list included.
func removeHopByHop(h http.Header) {
	for _, list := range h["Connection"] {
		for field := range strings.SplitSeq(list, ",") {
			if field = textproto.TrimString(field); field != "" {
				h.Del(field)
			}
		}
	}
	for _, field := range hopByHop {
		delete(h, field)
	}
}

// cleanInbound removes from a client's fields what only we or a trusted hop
// may say. A name with "_" for "-" counts as the same: many backends (CGI,
// WSGI) cannot tell them apart.
func cleanInbound(h http.Header, trusted bool) {
	if !trusted {
		for _, field := range forwardingFields {
			delete(h, field)
		}
	}
	for field := range h {
		if strings.HasPrefix(field, "X-Postern-") {
			delete(h, field)
			continue
		}
		if strings.IndexByte(field, '_') < 0 {
			continue
		}
		name := textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(field, "_", "-"))
		if reserved(name) {
			delete(h, field)
		}
	}
}

func reserved(name string) bool {
	if strings.HasPrefix(name, "X-Postern-") {
		return true
	}
	for _, list := range [...][]string{forwardingFields, hopByHop} {
		for _, f := range list {
			if f == name {
				return true
			}
		}
	}
	switch name {
	case "Host", "Content-Length", "Content-Type", "Authorization", "Cookie":
		return true
	}
	return false
}

// upgradeOf returns the protocol an Upgrade field asks for, "" if none: both
// Connection: upgrade and one Upgrade token are needed (RFC 9110 section
// 7.8).
func upgradeOf(h http.Header) string {
	if !httpguts.HeaderValuesContainsToken(h["Connection"], "Upgrade") {
		return ""
	}
	return h.Get("Upgrade")
}

// setForwarding tells the backend who asked and how.
func (x *exchange) setForwarding(h http.Header) {
	client := x.conn.client.String()
	if x.trusted {
		if prior := h["X-Forwarded-For"]; len(prior) > 0 {
			h["X-Forwarded-For"] = []string{strings.Join(prior, ", ") + ", " + client}
		} else {
			h["X-Forwarded-For"] = []string{client}
		}
		if h.Get("X-Forwarded-Host") == "" {
			h["X-Forwarded-Host"] = []string{x.r.Host}
		}
	} else {
		h["X-Forwarded-For"] = []string{client}
		h["X-Forwarded-Host"] = []string{x.r.Host}
	}
	h["X-Forwarded-Proto"] = []string{x.scheme}
	h["X-Real-Ip"] = []string{x.client.String()}
	h["X-Request-Id"] = []string{x.id}
	element := forwardedElement(x.conn.client, x.r.Host, x.scheme)
	if prior := h["Forwarded"]; x.trusted && len(prior) > 0 {
		element = strings.Join(prior, ", ") + ", " + element
	}
	h["Forwarded"] = []string{element}
}

// forwardedElement is one element of Forwarded (RFC 7239 section 4).
func forwardedElement(client netip.Addr, host, proto string) string {
	var b strings.Builder
	b.Grow(len("for=\"[]\";host=\"\";proto=") + 40 + len(host) + len(proto))
	b.WriteString("for=")
	if client.Is6() {
		b.WriteString(`"[` + client.String() + `]"`)
	} else {
		b.WriteString(client.String())
	}
	b.WriteString(`;host="`)
	b.WriteString(host) // a valid Host holds no quote or backslash
	b.WriteString(`";proto=`)
	b.WriteString(proto)
	return b.String()
}
