package proxy

import (
	"net/http"

	"postern/internal/http1"
)

// Change is what a route does to the fields of a message. A nil Change does
// nothing.
type Change struct {
	// Set are fields with one value each; whatever the message had of that
	// name goes.
	Set []Field

	// Remove are names of fields that go.
	Remove []string
}

// Field is a header field.
type Field struct{ Name, Value string }

// drops reports whether a field of the message goes. "_" counts as "-", as
// many backends cannot tell them apart (CGI, WSGI): a client must not get
// round a field that the route sets.
func (c *Change) drops(key []byte) bool {
	if c == nil {
		return false
	}
	for i := range c.Set {
		if sameName(key, c.Set[i].Name) {
			return true
		}
	}
	for _, name := range c.Remove {
		if sameName(key, name) {
			return true
		}
	}
	return false
}

func sameName(key []byte, name string) bool {
	if len(key) != len(name) {
		return false
	}
	for i := range key {
		if plain(key[i]) != plain(name[i]) {
			return false
		}
	}
	return true
}

func plain(c byte) byte {
	switch {
	case c == '_':
		return '-'
	case 'A' <= c && c <= 'Z':
		return c | 0x20
	}
	return c
}

// appendSet writes the fields that are set.
func (c *Change) appendSet(b []byte) []byte {
	if c == nil {
		return b
	}
	for i := range c.Set {
		b = http1.AppendText(b, c.Set[i].Name, c.Set[i].Value)
	}
	return b
}

// apply changes h.
func (c *Change) apply(h http.Header) {
	if c == nil {
		return
	}
	c.strip(h)
	for _, f := range c.Set {
		h[http.CanonicalHeaderKey(f.Name)] = []string{f.Value}
	}
}

// strip takes out of h what the route sets or removes. For a client's trailers
// that is all: some backends merge them into the header.
func (c *Change) strip(h http.Header) {
	if c == nil {
		return
	}
	for name := range h {
		if c.drops([]byte(name)) {
			delete(h, name)
		}
	}
}
