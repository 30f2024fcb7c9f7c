package proxy

import (
	"crypto/rand"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
)

// clientBehind returns the client a trusted proxy speaks for: the last
// address of X-Forwarded-For, given as values, that is not itself a trusted proxy. peer
// is who sent the request; a list that cannot be read ends the search there, since
// what stands before it may be the client's invention.
func clientBehind(trusted []netip.Prefix, peer netip.Addr, values []string) netip.Addr {
	client := peer
	for i := len(values) - 1; i >= 0; i-- {
		rest := values[i]
		for rest != "" {
			var last string
			if j := strings.LastIndexByte(rest, ','); j >= 0 {
				rest, last = rest[:j], rest[j+1:]
			} else {
				rest, last = "", rest
			}
			a, ok := parseHop(strings.TrimSpace(last))
			if !ok {
				return client
			}
			client = a
			if !contains(trusted, a) {
				return client
			}
		}
	}
	return client
}

// parseHop reads one element of X-Forwarded-For: an address, with or without
// a port.
func parseHop(s string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Unmap().WithZone(""), true
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap().WithZone(""), true
	}
	if len(s) > 2 && s[0] == '[' && s[len(s)-1] == ']' {
		if a, err := netip.ParseAddr(s[1 : len(s)-1]); err == nil {
			return a.Unmap().WithZone(""), true
		}
	}
	return netip.Addr{}, false
}

// requestIDs makes request ids: a random part for the process and a count.
type requestIDs struct {
	prefix string
	count  *atomic.Uint64
}

func newRequestIDs() requestIDs {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return requestIDs{prefix: hex.EncodeToString(b[:]) + "-", count: new(atomic.Uint64)}
}

func (g requestIDs) next() string { return text(g.append(nil)) }

func (g requestIDs) append(b []byte) []byte {
	b = append(b, g.prefix...)
	return strconv.AppendUint(b, g.count.Add(1), 36)
}

// requestID keeps the id a trusted hop gave, and makes one otherwise.
func (x *exchange) requestID(room []byte) string {
	if x.trusted {
		if id := x.msg.field("X-Request-Id"); validID(id) {
			return id
		}
	}
	return text(x.s.ids.append(room))
}

// validID reports whether an id can go into logs and headers as it is.
func validID(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	for i := 0; i < len(id); i++ {
		switch c := id[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("-_.:=+/@", c) >= 0:
		default:
			return false
		}
	}
	return true
}
