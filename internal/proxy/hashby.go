package proxy

import (
	"strings"

	"postern/internal/upstream"
)

// HashBy says what a route that balances by hash goes by: a header field, a
// cookie, or, with neither, the client's address, which also stands in for a
// field or cookie that a request does not have.
type HashBy struct {
	Header string
	Cookie string
}

// balanceKey is what the route's pool balances by. It allocates nothing for
// addresses and header fields.
func (x *exchange) balanceKey(rt *Route) uint64 {
	by := rt.HashBy
	if by == nil {
		return 0
	}
	value := ""
	switch {
	case by.Header != "":
		value = x.msg.field(by.Header)
	case by.Cookie != "":
		value = cookie(x.msg.list("Cookie"), by.Cookie)
	}
	if value != "" {
		return upstream.Key(value)
	}
	addr := x.client.As16()
	return upstream.Key(addr[:])
}

// cookie returns the value of a cookie; HTTP/2 may spread cookies over several
// fields (RFC 9113 section 8.2.3).
func cookie(fields []string, name string) string {
	for _, field := range fields {
		for pair := range strings.SplitSeq(field, ";") {
			if k, v, ok := strings.Cut(strings.TrimSpace(pair), "="); ok && k == name {
				return v
			}
		}
	}
	return ""
}
