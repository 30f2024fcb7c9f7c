package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// backendKeys are the keys of a route that say how its backends are used.
var backendKeys = []string{"balance", "hash_by", "health", "slow_start", "breaker", "retry", "hold", "idempotency", "headers", "mirror"} // read only

// maxWeight is what one backend may have of another one's share.
const maxWeight = 1000

// splitWeight splits "host:port weight=N". Without a weight it is 1. What else
// is wrong with the address is parseBackend's to say.
func splitWeight(s string) (addr string, weight int, err error) {
	addr, more, ok := strings.Cut(s, " ")
	if !ok {
		return s, 1, nil
	}
	text, ok := strings.CutPrefix(strings.TrimSpace(more), "weight=")
	if !ok {
		return s, 1, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxWeight {
		return addr, 0, fmt.Errorf("weight %q, want a whole number from 1 to %d", text, maxWeight)
	}
	return addr, n, nil
}

// Targets returns the addresses and their weights. It is for a config without
// errors.
func (u Upstreams) Targets() (addrs []string, weights []int) {
	for _, s := range u {
		addr, weight, _ := splitWeight(s) // was checked
		addrs, weights = append(addrs, addr), append(weights, weight)
	}
	return addrs, weights
}

// siteBackends checks how the route that a site's upstream is short for uses
// its backends.
func (c *checker) siteBackends(at string, s *Site) {
	if len(s.Upstream) == 0 && !c.isBroken(at+".upstream") && !c.unknown[at] {
		for _, key := range backendKeys {
			if c.written(at + "." + key) {
				c.errorf(at+"."+key, "goes with the site's upstream, which it does not have; move it to the routes it is for")
			}
		}
		return
	}
	r := s.upstreamRoute()
	c.backends(at, &r)
	s.Balance = r.Balance // in its one spelling
}

// backends checks how a route uses its backends.
func (c *checker) backends(at string, r *Route) {
	c.choice(at+".balance", &r.Balance, "round_robin", "least_requests", "random_two", "hash")
	c.at(at+".hash_by", func() {
		kind, name, named := strings.Cut(r.HashBy, ":")
		switch {
		case c.written(at+".hash_by") && r.Balance != "hash" && !c.isBroken(at+".balance"):
			c.errorf(at+".hash_by", "goes with balance: hash, which this route does not have; add it or remove hash_by")
		case r.HashBy == "address":
		case kind != "header" && kind != "cookie" || !named:
			c.errorf(at+".hash_by", "%q is unknown, want address, header:NAME or cookie:NAME", r.HashBy)
		case name == "" || strings.ContainsFunc(name, func(r rune) bool { return !isTokenChar(r) }):
			c.errorf(at+".hash_by", "%q is not the name of a %s, want one such as %s:session", name, kind, kind)
		}
	})
	c.notNegative(at+".slow_start", r.SlowStart)
	c.notNegative(at+".hold", r.Hold)
	c.at(at+".hold", func() {
		if r.Hold > time.Minute {
			c.errorf(at+".hold", "%s is longer than clients wait, want 1m or less", formatDuration(r.Hold))
		}
	})
	if len(r.Upstream) == 1 && r.SlowStart > 0 {
		c.warnf(at+".slow_start", "there is one backend, which has the whole share anyway")
	}
	if r.Idempotency != nil && !c.isBroken(at+".idempotency") {
		c.idempotency(at+".idempotency", r.Idempotency)
	}
	if r.Health != nil && !c.isBroken(at+".health") {
		c.health(at+".health", r.Health)
	}
	if b := r.Breaker; b != nil && !c.isBroken(at+".breaker") {
		c.percent(at+".breaker.errors", b.Errors)
		c.atLeast(at+".breaker.min", b.Min, 1)
		c.atLeastTime(at+".breaker.window", b.Window, 100*time.Millisecond)
		c.atLeastTime(at+".breaker.open", b.Open, 100*time.Millisecond)
	}
	if r.Mirror != nil && !c.isBroken(at+".mirror") {
		c.mirror(at+".mirror", r.Mirror)
	}
	c.fieldChanges(at+".headers.request", &r.Headers.Request, ownRequestFields)
	c.fieldChanges(at+".headers.response", &r.Headers.Response, ownResponseFields)
	if r.Retry != nil && !c.isBroken(at+".retry") {
		c.retries(at+".retry", r.Retry)
	}
}

func (c *checker) mirror(path string, m *Mirror) {
	to := path + ".to"
	if !c.written(to) && len(m.To) > 0 {
		to = path // written as one text
	}
	if len(m.To) == 0 && !c.written(to) && !c.unknown[path] {
		c.errorf(to, "is missing, want a backend such as 127.0.0.1:3000")
	}
	c.upstreams(to, m.To)
	for i, s := range m.To {
		if strings.HasPrefix(s, "h2c://") {
			c.errorf(c.item(to, i), "copies are sent as HTTP/1.1, which an h2c backend does not speak; write it without h2c://")
		}
	}
	c.percent(path+".percent", m.Percent)
	c.choice(path+".methods", &m.Methods, "idempotent", "all")
}

// Fields that are not the file's to change, in lower case: of any message, of
// requests, and of answers, where hsts has a key of its own.
var (
	connectionFields = []string{ // read only
		"connection", "proxy-connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "http2-settings",
		"content-length", "proxy-authenticate", "proxy-authorization", "proxy-authentication-info", "expect", "x-request-id",
	}
	ownRequestFields  = []string{"host", "forwarded", "x-real-ip", "proxy"}      // read only
	ownResponseFields = []string{"alt-svc", "strict-transport-security", "date"} // read only
)

func (c *checker) fieldChanges(path string, f *FieldChanges, own []string) {
	seen := map[string]string{}
	name := func(at, name string) {
		plain := strings.ReplaceAll(strings.ToLower(name), "_", "-")
		switch first, dup := seen[plain]; {
		case name == "" || strings.ContainsFunc(name, func(r rune) bool { return !isTokenChar(r) }):
			c.errorf(at, "%q is not a field name (RFC 9110 section 5.1), want one such as X-Env", name)
		case slices.Contains(own, plain) || slices.Contains(connectionFields, plain) || strings.HasPrefix(plain, "x-forwarded-") || strings.HasPrefix(plain, "x-postern-"):
			c.errorf(at, "%s is postern's own to set or leave out; remove it here", name)
		case dup:
			c.errorf(at, "%s is in %s already; keep one", name, first)
		}
		seen[plain] = c.where(at)
	}
	for _, key := range slices.Sorted(maps.Keys(f.Set)) {
		at := path + ".set." + key
		c.at(at, func() {
			name(at, key)
			if v := f.Set[key]; strings.ContainsFunc(v, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) || strings.TrimSpace(v) != v {
				c.errorf(at, "the value has a control character, or a space at an end, which no field has (RFC 9110 section 5.5)")
			}
		})
	}
	for i, key := range f.Remove {
		at := c.item(path+".remove", i)
		c.at(at, func() { name(at, key) })
	}
}

func (c *checker) percent(path string, p Percent) {
	c.at(path, func() {
		if p < 1 || p > 100 {
			c.errorf(path, "%s is out of bounds, want 1%% to 100%%", p)
		}
	})
}

func (c *checker) health(path string, h *HealthCheck) {
	at := path + ".path"
	if !c.written(at) {
		at = path // written as one text, or missing
	}
	c.at(at, func() {
		switch {
		case h.Path == "" && c.unknown[path]:
		case h.Path == "":
			c.errorf(at, "has no path, want one such as path: /healthz")
		case h.Path[0] != '/':
			c.errorf(at, "%q does not begin with a slash; did you mean %q?", h.Path, "/"+strings.TrimPrefix(h.Path, "/"))
		case strings.ContainsFunc(h.Path, func(r rune) bool { return r <= ' ' || r > '~' || r == '#' }):
			c.errorf(at, "%q holds a character that no request has; percent-encode it", h.Path)
		}
	})
	c.at(path+".host", func() {
		if strings.ContainsFunc(h.Host, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/?#@", r) }) {
			c.errorf(path+".host", "%q is not a host, want a name such as app.internal", h.Host)
		}
	})
	c.atLeastTime(path+".interval", h.Interval, 100*time.Millisecond)
	c.atLeastTime(path+".timeout", h.Timeout, 10*time.Millisecond)
	c.atLeast(path+".healthy", h.Healthy, 1)
	c.atLeast(path+".unhealthy", h.Unhealthy, 1)
}

func (c *checker) retries(path string, r *Retries) {
	c.at(path+".tries", func() {
		if r.Tries < 2 || r.Tries > 10 {
			c.errorf(path+".tries", "%d tries, want 2 to 10; the first one counts", r.Tries)
		}
	})
	c.percent(path+".budget", r.Budget)
	c.choice(path+".methods", &r.Methods, "idempotent", "all")
	if len(r.On) == 0 && c.written(path+".on") && !c.broken[path+".on"] {
		c.errorf(path+".on", "is empty, so that nothing would be sent again; name reasons such as [closed, 503] or remove retry")
	}
	known := []string{"closed", "timeout", "malformed", "500", "502", "503", "504"}
	for i, word := range r.On {
		at := c.item(path+".on", i)
		c.at(at, func() {
			switch {
			case slices.Contains([]string{"dial", "stale", "refused"}, word):
				c.errorf(at, "%s is always in force, as nothing reached a backend then; remove it", word)
			case !slices.Contains(known, word):
				c.errorf(at, "%q is unknown, want %s%s", word, oneOf(known), didYouMean(word, known))
			case slices.Contains(r.On[:i], word):
				c.errorf(at, "%s is given twice; keep one", word)
			}
		})
	}
}

// Percent is a share of a hundred.
type Percent int

// UnmarshalText reads "50%" or "50".
func (p *Percent) UnmarshalText(b []byte) error {
	s := string(b)
	n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(s, "%")))
	if err != nil {
		return fmt.Errorf(`%q is not a percentage, want a whole number such as "50%%"`, s)
	}
	*p = Percent(n)
	return nil
}

// String returns what UnmarshalText reads.
func (p Percent) String() string { return strconv.Itoa(int(p)) + "%" }

// StatusRange is the statuses from From to To.
type StatusRange struct{ From, To int }

// UnmarshalText reads "200" or "200-399".
func (r *StatusRange) UnmarshalText(b []byte) error {
	from, to, isRange := strings.Cut(string(b), "-")
	if !isRange {
		to = from
	}
	a, errA := strconv.Atoi(strings.TrimSpace(from))
	z, errZ := strconv.Atoi(strings.TrimSpace(to))
	if errA != nil || errZ != nil || a < 200 || z > 599 || a > z {
		return fmt.Errorf(`%q is not a range of statuses, want one such as "200-399" or "200"`, b)
	}
	r.From, r.To = a, z
	return nil
}

// String returns what UnmarshalText reads.
func (r StatusRange) String() string {
	if r.From == r.To {
		return strconv.Itoa(r.From)
	}
	return fmt.Sprintf("%d-%d", r.From, r.To)
}
