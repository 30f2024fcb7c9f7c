package proxy

import (
	"bytes"
	"net/http"
	"net/netip"
	"net/textproto"
	"strings"

	"golang.org/x/net/http/httpguts"

	"postern/internal/http1"
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
	"X-Forwarded", "X-Forwarded-By", "X-Forwarded-Protocol", "X-Forwarded-Client-Cert", "Forwarded-For", "Front-End-Https",
	"X-Originating-Ip", "X-Remote-Ip", "X-Remote-Addr", "True-Client-Ip", "Cf-Connecting-Ip", "Fastly-Client-Ip", "X-Original-Forwarded-For",
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
// may say. What we say in any case is set afterwards.
func cleanInbound(h http.Header, trusted bool) {
	for field := range h {
		if who, aliased := speaker([]byte(field)); who.mute(trusted, aliased) {
			delete(h, field)
		}
	}
}

// cleanTrailer removes from a request's trailers what may not stand there.
// The engine adds to the map when they come, so it is cleaned before and
// after.
func cleanTrailer(h http.Header) {
	for field := range h {
		if !inTrailer([]byte(field)) {
			delete(h, field)
		}
	}
}

// upgradeOf returns the protocol an Upgrade field asks for, "" if none: both
// Connection: upgrade and one Upgrade token are needed (RFC 9110 section
// 7.8). HTTP/2 and TLS are not passed on: a tunnel of them would carry
// requests past all rules.
func upgradeOf(h http.Header) string {
	values := h["Upgrade"]
	if len(values) != 1 || !httpguts.HeaderValuesContainsToken(h["Connection"], "Upgrade") || !mayUpgrade(values[0]) {
		return ""
	}
	return values[0]
}

// mayUpgrade reports whether a value of Upgrade is one protocol that may be
// passed on.
func mayUpgrade(value string) bool {
	name, version, versioned := strings.Cut(value, "/")
	if !httpguts.ValidHeaderFieldName(name) || versioned && !httpguts.ValidHeaderFieldName(version) {
		return false
	}
	for _, no := range [...]string{"h2c", "h2", "http", "tls"} {
		if strings.EqualFold(name, no) {
			return false
		}
	}
	return true
}

// forwarding is what a backend is told about who asked and how.
type forwarding struct {
	client    string // the client's address
	chain     string // X-Forwarded-For
	host      string // X-Forwarded-Host
	forwarded string // Forwarded
}

func (x *exchange) forwarding() forwarding {
	peer := x.conn.client.String()
	f := forwarding{client: peer, chain: peer, host: x.rawHost, forwarded: forwardedElement(x.conn.client, x.rawHost, x.scheme)}
	if !x.trusted {
		return f
	}
	f.client = x.client.String()
	if prior := x.msg.list("X-Forwarded-For"); len(prior) > 0 {
		f.chain = strings.Join(prior, ", ") + ", " + peer
	}
	if prior := x.msg.field("X-Forwarded-Host"); prior != "" {
		f.host = prior
	}
	if prior := x.msg.list("Forwarded"); len(prior) > 0 {
		f.forwarded = strings.Join(prior, ", ") + ", " + f.forwarded
	}
	return f
}

// forwardedElement is one element of Forwarded (RFC 7239 section 4).
func forwardedElement(client netip.Addr, host, proto string) string {
	return string(appendForwarded(nil, client.Is6(), client.String(), host, proto))
}

func appendForwarded(b []byte, v6 bool, client, host, proto string) []byte {
	b = append(b, "for="...)
	if v6 {
		b = append(b, `"[`...)
	}
	b = append(b, client...)
	if v6 {
		b = append(b, `]"`...)
	}
	b = append(b, `;host="`...)
	b = append(b, host...) // a valid Host holds no quote or backslash
	b = append(b, `";proto=`...)
	return append(b, proto...)
}

// ours reports whether a client's field must not reach the backend: only we,
// or a trusted hop, may say such things. It looks only where there is a rule.
func ours(f *http1.Field, trusted bool) bool {
	switch f.Key[0] | 0x20 {
	case 'x', 't', 'c', 'f', 'p':
	default:
		if bytes.IndexByte(f.Key, '_') < 0 {
			return false
		}
	}
	who, aliased := speaker(f.Key)
	return who.mute(trusted, aliased)
}

// speech says who may say a field to a backend.
type speech uint8

const (
	anybody   speech = iota
	lookAlike        // anybody, but not with "_" for "-": many backends (CGI, WSGI) cannot tell them apart
	untrusted        // trusted hops
	always           // only we
)

// mute reports whether a client's field is dropped.
func (s speech) mute(trusted, aliased bool) bool {
	switch s {
	case always:
		return true
	case untrusted:
		return !trusted || aliased
	case lookAlike:
		return aliased
	}
	return false
}

// speaker returns who may say a field, and whether its name has "_" for "-".
func speaker(key []byte) (who speech, aliased bool) {
	var buf [40]byte
	name := buf[:min(len(key), len(buf))]
	for i := range name {
		c := key[i]
		if c == '_' {
			c, aliased = '-', true
		} else if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		name[i] = c
	}
	switch {
	case bytes.HasPrefix(name, []byte("x-postern-")):
		return always, aliased
	case len(key) > len(buf):
		return anybody, false
	}
	return guarded[string(name)], aliased
}

// inTrailer reports whether a client may send a field as a trailer: nothing
// that has a rule (RFC 9110 section 6.5.1), for some backends merge trailers
// into the header.
func inTrailer(key []byte) bool {
	who, _ := speaker(key)
	return who == anybody
}

// appendTrailerField announces the trailers that will be passed on.
func appendTrailerField(b, value []byte) []byte {
	first := true
	for name := range bytes.SplitSeq(value, []byte(",")) {
		if name = bytes.TrimSpace(name); len(name) == 0 || !inTrailer(name) {
			continue
		}
		if first {
			b = append(b, "Trailer: "...)
		} else {
			b = append(b, ", "...)
		}
		b, first = append(b, name...), false
	}
	if !first {
		b = append(b, "\r\n"...)
	}
	return b
}

// guarded are the fields with a rule, in lower case.
var guarded = func() map[string]speech { // read only
	m := make(map[string]speech)
	for _, f := range forwardingFields {
		m[strings.ToLower(f)] = untrusted
	}
	for _, f := range hopByHop {
		m[strings.ToLower(f)] = lookAlike
	}
	for _, f := range [...]string{"host", "content-length", "content-type", "authorization", "cookie"} {
		m[f] = lookAlike
	}
	for _, f := range [...]string{"forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "x-request-id", "proxy"} {
		m[f] = always // proxy: CGI would make HTTP_PROXY of it (CVE-2016-5385)
	}
	return m
}()

// appendForwarding writes what setForwarding sets, without allocating for the
// usual client, who is no trusted hop.
func (x *exchange) appendForwarding(b []byte) []byte {
	if x.trusted {
		f := x.forwarding()
		b = http1.AppendText(b, "X-Forwarded-For", f.chain)
		b = http1.AppendText(b, "X-Forwarded-Host", f.host)
		b = http1.AppendText(b, "X-Real-Ip", f.client)
		b = http1.AppendText(b, "Forwarded", f.forwarded)
	} else {
		client := x.conn.clientText()
		b = http1.AppendText(b, "X-Forwarded-For", client)
		b = http1.AppendText(b, "X-Forwarded-Host", x.rawHost)
		b = http1.AppendText(b, "X-Real-Ip", client)
		b = append(b, "Forwarded: "...)
		b = appendForwarded(b, x.conn.client.Is6(), client, x.rawHost, x.scheme)
		b = append(b, "\r\n"...)
	}
	b = http1.AppendText(b, "X-Forwarded-Proto", x.scheme)
	if x.caller != nil {
		for _, f := range x.caller.Fields() {
			b = http1.AppendText(b, f.Name, f.Value)
		}
	}
	return http1.AppendText(b, "X-Request-Id", x.id)
}
