package config

import (
	"fmt"
	"slices"
	"strings"
)

// pattern is a parsed route path: a path alone, or everything at and below a
// prefix ("" for every path).
type pattern struct {
	path   string
	prefix bool
}

// covers reports whether every path that o takes is taken by p.
func (p pattern) covers(o pattern) bool {
	if !p.prefix {
		return p == o
	}
	return o.path == p.path || strings.HasPrefix(o.path, p.path+"/")
}

// parsePattern reads the path of a route. The way out is in every error.
func parsePattern(s string) (pattern, error) {
	var none pattern
	if s == "" || s == "*" || s == "/*" {
		return pattern{prefix: true}, nil
	}
	path, prefix := strings.CutSuffix(s, "/*")
	if s[0] != '/' {
		if strings.Contains(s, "://") {
			return none, fmt.Errorf("%q is a URL, want a path such as /api/*", redactURL(s))
		}
		return none, fmt.Errorf("%q does not begin with a slash; did you mean %q?", s, "/"+s)
	}
	if i := strings.IndexByte(path, '*'); i >= 0 {
		if i == len(s)-1 {
			return none, fmt.Errorf(`%q: "*" stands for whole segments only; did you mean %q?`, s, strings.TrimSuffix(s, "*")+"/*")
		}
		return none, fmt.Errorf(`%q: "*" is allowed at the end only, want a form such as "/api/*"`, s)
	}
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		return none, fmt.Errorf("%q: a route matches paths, not queries; did you mean %q?", s, s[:i])
	}
	if strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' || r == ';' }) {
		return none, fmt.Errorf("%q holds a backslash, a semicolon or a control character, which backends read in different ways; write the path without", s)
	}
	if strings.Contains(path, "%") {
		return none, fmt.Errorf("%q is percent-encoded, want the path decoded, as requests are compared decoded", s)
	}
	segs := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for i, seg := range segs {
		last := i == len(segs)-1
		if seg == "." || seg == ".." || seg == "" && (!last || prefix) {
			return none, fmt.Errorf("%q has an empty or dot segment, which no request has when it is compared; write it without", s)
		}
	}
	return pattern{path, prefix}, nil
}

func (c *checker) routes(path string, s *Site) {
	if len(s.Routes) == 0 && len(s.Upstream) == 0 && !c.written(path+".upstream") && !c.broken[path+".routes"] && !c.unknown[path] {
		c.errorf(path, "has neither upstream nor routes, want upstream: 127.0.0.1:3000 or routes: with what is served")
	}
	if len(s.Routes) > maxRoutes {
		c.errorf(path+".routes", "%d routes, want at most %d in one site", len(s.Routes), maxRoutes)
		return
	}
	var before []seenRoute
	for i := range s.Routes {
		at := index(path+".routes", i)
		if c.broken[at] {
			continue
		}
		r := &s.Routes[i]
		c.methods(at+".methods", r)
		pat, ok := c.path(at, r)
		c.route(at, r, pat, ok, before)
		if !ok || c.isBroken(at+".methods") {
			continue
		}
		c.unreachable(at, pat, r.Methods, before)
		before = append(before, seenRoute{at, pat, r.Methods})
	}
	if len(s.Upstream) > 0 && !c.isBroken(path+".upstream") {
		c.unreachable(path+".upstream", pattern{prefix: true}, nil, before)
	}
}

// path parses the path of a route; ok is false when it was reported.
func (c *checker) path(at string, r *Route) (pat pattern, ok bool) {
	if c.isBroken(at + ".path") {
		return pat, false
	}
	if c.written(at+".path") && r.Path == "" {
		c.errorf(at+".path", `is empty, want a path such as "/api/*"; remove the key to take every path`)
		return pat, false
	}
	pat, err := parsePattern(r.Path)
	if err != nil {
		c.errorf(at+".path", "%v", err)
		return pat, false
	}
	if !pat.prefix && len(pat.path) > 1 && strings.HasSuffix(pat.path, "/") {
		c.warnf(at+".path", "takes %s alone and nothing below it; write %s* if that is meant", pat.path, pat.path)
	}
	return pat, true
}

// seenRoute is a route that comes before another one.
type seenRoute struct {
	at      string
	pat     pattern
	methods []string
}

// unreachable reports a route that an earlier one leaves nothing for.
func (c *checker) unreachable(at string, pat pattern, methods []string, before []seenRoute) {
	for _, b := range before {
		if c.unknown[b.at] { // its path may be what was misspelt
			continue
		}
		if b.pat.covers(pat) && coversMethods(b.methods, methods) {
			c.errorf(at, "is never reached, as %s takes all its requests first; move it up or remove it", c.where(b.at))
			return
		}
	}
}

// coversMethods reports whether a route with the methods a takes all of b.
// None means every method, and GET includes HEAD.
func coversMethods(a, b []string) bool {
	if len(a) == 0 {
		return true
	}
	if len(b) == 0 {
		return false
	}
	for _, m := range b {
		if !slices.Contains(a, m) && (m != "HEAD" || !slices.Contains(a, "GET")) {
			return false
		}
	}
	return true
}

// methods brings the methods of a route into upper case.
func (c *checker) methods(path string, r *Route) {
	if len(r.Methods) == 0 && c.written(path) && !c.broken[path] {
		c.errorf(path, "is empty, want methods such as [GET, POST]; remove the key to take every method")
	}
	seen := map[string]bool{}
	for i := range r.Methods {
		at := c.item(path, i)
		c.at(at, func() {
			m := strings.ToUpper(r.Methods[i])
			if err := checkMethod(m); err != nil {
				c.errorf(at, "%v", err)
			} else if seen[m] {
				c.errorf(at, "%s is given twice; keep one", m)
			}
			seen[m] = true
			r.Methods[i] = m
		})
	}
}

func checkMethod(m string) error {
	known := []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"}
	extra := []string{"PROPFIND", "PROPPATCH", "MKCOL", "MKCALENDAR", "COPY", "MOVE", "LOCK", "UNLOCK", "SEARCH", "REPORT", "PURGE", "LINK", "UNLINK", "ACL", "BIND", "REBIND", "UNBIND", "MERGE", "SUBSCRIBE", "UNSUBSCRIBE", "NOTIFY"}
	switch {
	case m == "*" || m == "ANY" || m == "ALL":
		return fmt.Errorf("%q is not a method; remove the key to take every method", m)
	case m == "":
		return fmt.Errorf("is empty, want a method such as GET")
	case m == "CONNECT":
		return fmt.Errorf("CONNECT is refused before routing, as postern is no forward proxy; remove it")
	case slices.Contains(known, m) || slices.Contains(extra, m):
		return nil
	case strings.ContainsAny(m, ", |"):
		return fmt.Errorf("%q is more than one method; write a list: [GET, POST]", m)
	case strings.ContainsFunc(m, func(r rune) bool { return !isTokenChar(r) }):
		return fmt.Errorf("%q is not a method (RFC 9110 section 9.1), want one such as GET", m)
	}
	if n := nearest(m, known); n != "" {
		return fmt.Errorf("%q is unknown; did you mean %s?", m, n)
	}
	return nil
}

// isTokenChar reports whether r may be in a token (RFC 9110 section 5.6.2).
func isTokenChar(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}

// route checks what a route does. pat is its path when ok.
func (c *checker) route(at string, r *Route, pat pattern, ok bool, before []seenRoute) {
	var does []string
	for _, key := range []string{"upstream", "redirect", "respond"} {
		if c.written(at + "." + key) {
			does = append(does, key)
		}
	}
	switch {
	case len(does) == 0 && !c.unknown[at]:
		c.errorf(at, "does nothing, want one of upstream, redirect and respond")
	case len(does) > 1:
		c.errorf(at, "has %s, want one of them", strings.Join(does, " and "))
	}
	c.callerNames(at+".callers", r.Callers)
	c.upstreams(at+".upstream", r.Upstream)
	c.timeout(at+".timeout", &r.Timeout)
	c.rateLimit(at+".rate_limit", r.RateLimit)
	c.routeLimits(at+".limits", r.Limits)
	if len(does) == 1 && does[0] != "upstream" {
		for _, key := range slices.Concat([]string{"strip_prefix", "timeout"}, backendKeys) {
			if c.written(at + "." + key) {
				c.errorf(at+"."+key, "goes with upstream, but this route has %s; remove it", does[0])
			}
		}
	} else if c.written(at+".strip_prefix") && ok {
		c.at(at+".strip_prefix", func() { c.stripPrefix(at+".strip_prefix", r.StripPrefix, pat) })
	}
	c.backends(at, r)
	c.tryAlone(at+".timeout.try", r.Retry != nil || c.isBroken(at+".retry"))
	if r.Redirect != nil && !c.broken[at+".redirect"] {
		c.redirect(at+".redirect", r.Redirect, pat, ok, before)
	}
	if r.Respond != nil && !c.broken[at+".respond"] {
		c.respond(at+".respond", r.Respond)
	}
}

func (c *checker) stripPrefix(at, strip string, pat pattern) {
	want := strings.TrimSuffix(strings.TrimSuffix(strip, "*"), "/")
	switch {
	case want == "":
		c.errorf(at, "%q leaves the path as it is; remove the key, or write the part to be removed, such as /api", strip)
	case want[0] != '/':
		c.errorf(at, "%q does not begin with a slash; did you mean %q?", strip, "/"+want)
	case want != strip:
		c.errorf(at, "%q ends in more than a name; did you mean %q?", strip, want)
	case pat.path != strip && !strings.HasPrefix(pat.path, strip+"/"):
		c.errorf(at, "%q is not how the route's path %s begins; write path: %s/*, or remove the key", strip, pat, strip)
	}
}

// String returns the pattern as it is written.
func (p pattern) String() string {
	if p.prefix {
		return p.path + "/*"
	}
	return p.path
}

func (c *checker) redirect(path string, r *Redirect, pat pattern, ok bool, before []seenRoute) {
	c.at(path+".status", func() {
		if !slices.Contains([]int{301, 302, 303, 307, 308}, r.Status) {
			c.errorf(path+".status", "%d is not a redirect, want 301, 302, 303, 307 or 308", r.Status)
		}
	})
	at := path + ".to"
	switch {
	case c.isBroken(at):
		return
	case !c.written(at) && c.unknown[path]:
		return
	case !c.written(at):
		at = path // written as one text
	}
	to, star := strings.CutSuffix(r.To, "*")
	switch {
	case r.To == "":
		c.errorf(at, "is empty, want to: with a URL such as https://example.org/new or a path such as /new")
	case strings.ContainsFunc(r.To, func(r rune) bool { return r <= ' ' || r > '~' || r == '\\' }):
		c.errorf(at, "%q holds a character that no URL has; percent-encode it", redactURL(r.To))
	case strings.Contains(to, "*"):
		c.errorf(at, `%q: "*" is allowed at the end only`, redactURL(r.To))
	case star && ok && !pat.prefix:
		c.errorf(at, `%q ends in "*", but the route's path %s has none to take it from`, redactURL(r.To), pat)
	case strings.HasPrefix(to, "//"):
		c.errorf(at, "%q names a host without a scheme; write https:%s, or one slash for a path", r.To, r.To)
	case strings.HasPrefix(to, "/"):
		if ok && redirectsToItself(pat, to, star, before) {
			c.errorf(at, "%q is taken by this same route (%s), so the client would go round in circles; narrow the path", r.To, pat)
		}
	default:
		if !strings.Contains(to, "://") {
			c.errorf(at, "%q is neither a URL nor a path; did you mean %q or %q?", r.To, "https://"+r.To, "/"+r.To)
		} else if _, err := checkURL(to); err != nil {
			c.errorf(at, "%v", err)
		}
	}
}

// redirectsToItself reports whether a redirect to a path comes back to the
// route, as no earlier one takes it.
func redirectsToItself(pat pattern, to string, star bool, before []seenRoute) bool {
	if i := strings.IndexAny(to, "?#"); i >= 0 {
		to = to[:i]
	}
	target := pattern{path: to}
	if star {
		target = pattern{strings.TrimSuffix(to, "/"), true}
	}
	for _, b := range before {
		if b.pat.covers(target) && coversMethods(b.methods, []string{"GET"}) {
			return false
		}
	}
	return pat.covers(target)
}

func (c *checker) respond(path string, r *Respond) {
	c.at(path+".status", func() {
		if r.Status < 200 || r.Status > 599 {
			c.errorf(path+".status", "%d is not a final status, want 200 to 599", r.Status)
		}
	})
	if (r.Status == 204 || r.Status == 304) && r.Body != "" {
		c.errorf(path+".body", "an answer with status %d has no body (RFC 9110); remove it or change the status", r.Status)
	}
	c.at(path+".type", func() {
		if r.Type == "" || strings.ContainsFunc(r.Type, func(r rune) bool { return r < ' ' || r > '~' }) || !strings.Contains(r.Type, "/") {
			c.errorf(path+".type", `%q is not a content type, want one such as "application/json"`, r.Type)
		}
	})
}
