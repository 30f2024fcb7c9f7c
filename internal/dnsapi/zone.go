package dnsapi

import (
	"context"
	"strings"
	"sync"
)

// canonical is a name in lower case without the dot at its end.
func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// within reports whether name is zone or below it. Both are canonical.
func within(name, zone string) bool { return name == zone || strings.HasSuffix(name, "."+zone) }

// relative is name as seen from its zone; "" at the apex.
func relative(name, zone string) string {
	return strings.TrimSuffix(strings.TrimSuffix(name, zone), ".")
}

// orAt is the name of the apex as many APIs write it.
func orAt(rel string) string {
	if rel == "" {
		return "@"
	}
	return rel
}

// ancestors are the zones name may be in, the nearest first: itself, and what
// is above, down to two labels. A label with an underscore is no zone, but for
// the name itself.
func ancestors(name string) []string {
	var out []string
	for rest := name; strings.Count(rest, ".") >= 1 && len(out) < 12; {
		if !strings.HasPrefix(rest, "_") {
			out = append(out, rest)
		}
		_, rest, _ = strings.Cut(rest, ".")
	}
	return out
}

// nearest is the longest of zones that holds name, or "".
func nearest(name string, zones []string) string {
	best := ""
	for _, z := range zones {
		if z = canonical(z); z != "" && within(name, z) && len(z) > len(best) {
			best = z
		}
	}
	return best
}

// zone is where a name's records are.
type zone struct {
	name string // canonical
	id   string // the host's own name for it
	ttl  int    // the lowest allowed; 0: not told
}

// zoneCache remembers zones, so that cleaning up does not search again. The
// zero value is empty.
type zoneCache struct {
	mu sync.Mutex
	m  map[string]zone
}

// find returns the zone of name, looked up once. An error is not remembered.
func (c *zoneCache) find(ctx context.Context, name string, look func(context.Context, string) (zone, error)) (zone, error) {
	c.mu.Lock()
	z, ok := c.m[name]
	c.mu.Unlock()
	if ok {
		return z, nil
	}
	z, err := look(ctx, name)
	if err != nil {
		return zone{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil || len(c.m) >= maxCached {
		c.m = map[string]zone{}
	}
	c.m[name] = z
	return z, nil
}

// forget drops name: its zone turned out to be gone.
func (c *zoneCache) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.m, name)
}

// quote writes a TXT value as in a zone file (RFC 1035 section 5.1). Ours have
// no character that needs a backslash but are quoted all the same.
func quote(value string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `"`
}

// unquote is what quote wrote, or a host that leaves the quotes out.
func unquote(s string) string {
	s = strings.TrimSpace(s)
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(s[1 : len(s)-1])
	}
	return s
}
