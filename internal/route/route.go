// Package route matches a host and a path to a route. It is pure: strings in,
// an index out.
//
// Servers do not agree on what a path means: whether %2F separates segments,
// whether // is one slash, when /../ is removed, whether ";x" belongs to a
// segment. A rule for /admin/* is worth little if the backend reads another
// path than the rule did. A path is therefore matched in every reading that
// its bytes allow, and one that selects different routes in different readings
// is Ambiguous, to be refused. See reading.go.
package route

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Site is a set of hosts that share routes.
type Site struct {
	// Hosts are names ("example.org"), addresses ("192.0.2.1", "[2001:db8::1]")
	// or wildcards for one label ("*.example.org"). At least one; each host
	// belongs to one site of a table.
	Hosts []string

	// Routes are tried in this order; the first that takes path and method
	// wins.
	Routes []Route
}

// Route says which requests a route takes.
type Route struct {
	// Path is "/ping" for that path alone; "/api/*" for /api and all below
	// it, but not /apix; "", "*" or "/*" for every path. It is compared with
	// the decoded path: "/café" and "/caf%C3%A9" are the same. Upper and
	// lower case differ.
	Path string

	// Methods are the methods taken. GET includes HEAD. Empty: every method.
	Methods []string
}

// Kind is the outcome of a Match.
type Kind uint8

// The outcomes.
const (
	NoRoute          Kind = iota // no route takes the path: 404
	Matched                      // Result.Route takes it
	MethodNotAllowed             // routes take the path, none the method: 405 with Result.Allow
	Ambiguous                    // different readings of the path select differently: 400
	BadPath                      // broken percent-encoding, a control character, above the root: 400
)

// String is fit for a log or a metric label.
func (k Kind) String() string {
	switch k {
	case NoRoute:
		return "no_route"
	case Matched:
		return "matched"
	case MethodNotAllowed:
		return "method_not_allowed"
	case Ambiguous:
		return "ambiguous"
	case BadPath:
		return "bad_path"
	}
	return "unknown"
}

// Result is what Match found.
type Result struct {
	Route int    // index into Site.Routes; -1 unless Matched
	Kind  Kind   //
	Allow string // for MethodNotAllowed: the value of an Allow field, sorted
}

// Error is one thing wrong with the sites given to New.
type Error struct {
	Site  int // index into the sites
	Route int // index into the site's routes; -1: it is about a host
	Value string
	Msg   string
}

func (e *Error) Error() string {
	if e.Route < 0 {
		return fmt.Sprintf("site %d: host %q: %s", e.Site+1, e.Value, e.Msg)
	}
	return fmt.Sprintf("site %d, route %d: %q: %s", e.Site+1, e.Route+1, e.Value, e.Msg)
}

// Table finds sites and routes. It does not change after New, so any number of
// goroutines may use it.
type Table struct {
	exact map[string]int
	wild  map[string]int // by what follows "*."
	sites []site
}

// New builds the table, or returns every *Error, joined.
func New(sites []Site) (*Table, error) {
	t := &Table{exact: map[string]int{}, wild: map[string]int{}, sites: make([]site, len(sites))}
	var errs []error
	for i, s := range sites {
		errs = append(errs, t.addHosts(i, s.Hosts)...)
		errs = append(errs, t.sites[i].build(i, s.Routes)...)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *Table) addHosts(site int, hosts []string) (errs []error) {
	fail := func(host, msg string) { errs = append(errs, &Error{site, -1, host, msg}) }
	if len(hosts) == 0 {
		fail("", "a site has at least one host")
	}
	for _, host := range hosts {
		base, wild := strings.CutPrefix(host, "*.")
		name, valid := CanonicalHost(base)
		index := t.exact
		switch {
		case !valid:
			fail(host, `want a name, an address, or "*." and a name`)
			continue
		case hasPort(base):
			fail(host, "a host has no port here")
			continue
		case wild && isAddress(name):
			fail(host, "an address has no names below it")
			continue
		case wild:
			index = t.wild
		}
		if other, taken := index[name]; taken {
			fail(host, fmt.Sprintf("already a host of site %d", other+1))
			continue
		}
		index[name] = site
	}
	return errs
}

// Site is the index of the site that has the host, or -1. An exact host comes
// before a wildcard. The host is as CanonicalHost returned it.
func (t *Table) Site(host string) int {
	if i, found := t.exact[host]; found {
		return i
	}
	if len(t.wild) == 0 {
		return -1
	}
	if dot := strings.IndexByte(host, '.'); dot > 0 {
		if i, found := t.wild[host[dot+1:]]; found {
			return i
		}
	}
	return -1
}

// Match finds the first route of the site that takes method and path. rawPath
// is the path of the request target as the client spelled it, without query;
// "*" is for OPTIONS alone, and only a route for every path takes it. The cost
// depends on the path's length, not on the number of routes; nothing is
// allocated for paths up to 512 bytes, but Allow.
func (t *Table) Match(siteIndex int, method, rawPath string) Result {
	if siteIndex < 0 || siteIndex >= len(t.sites) {
		return Result{Route: -1}
	}
	s := &t.sites[siteIndex]
	bit := s.methodBit(method)
	if rawPath == "*" {
		if method != "OPTIONS" {
			return Result{Route: -1, Kind: BadPath}
		}
		best, allow := take(s.root.below, bit, noRoute, 0)
		return s.result(best, allow)
	}
	if plain(rawPath) {
		return s.result(s.find([]byte(rawPath), bit)) // the compiler does not copy here
	}
	features, valid := scan(rawPath)
	if !valid {
		return Result{Route: -1, Kind: BadPath}
	}
	if tooMany(rawPath, features) {
		return Result{Route: -1, Kind: Ambiguous}
	}
	return s.matchReadings(rawPath, features, bit)
}

// matchReadings compares what all readings of the path select.
func (s *site) matchReadings(rawPath string, features reading, bit uint64) Result {
	var stack [stackPath]byte
	buf := stack[:0]
	if len(rawPath) > stackPath {
		buf = make([]byte, 0, len(rawPath))
	}
	first, firstAllow := 0, uint64(0)
	differ := false
	for r := features; ; r = (r - 1) & features {
		path, valid := appendReading(buf, rawPath, r)
		if !valid {
			return Result{Route: -1, Kind: BadPath}
		}
		best, allow := s.find(path, bit)
		if r == features {
			first, firstAllow = best, allow
		} else if best != first || (allow == 0) != (firstAllow == 0) {
			differ = true // and look on: a reading above the root is worse
		}
		if r == 0 {
			break
		}
	}
	if differ {
		return Result{Route: -1, Kind: Ambiguous}
	}
	return s.result(first, firstAllow)
}

// noRoute is above every index.
const noRoute = math.MaxInt

func (s *site) result(best int, allow uint64) Result {
	switch {
	case best != noRoute:
		return Result{Route: best, Kind: Matched}
	case allow != 0:
		return Result{Route: -1, Kind: MethodNotAllowed, Allow: s.allowed(allow)}
	}
	return Result{Route: -1}
}

// site is the index of one site's routes: a tree with a level for each path
// segment.
type site struct {
	root    node
	methods []string       // by bit
	bits    map[string]int // of methods beyond the well-known
}

type node struct {
	children map[string]*node
	exact    []ref // routes for exactly this path
	below    []ref // routes for this path and all below it
}

// ref is a route at a node. Those of one list are in file order, and each
// takes a method that none before it takes, so that a list has at most 64.
type ref struct {
	route   int
	methods uint64
}

// find returns the lowest route that takes path and method, or noRoute and the
// methods that the path's routes take. path begins with a slash.
func (s *site) find(path []byte, bit uint64) (best int, allow uint64) {
	n := &s.root
	best, allow = take(n.below, bit, noRoute, 0)
	for rest := path[1:]; ; {
		end := 0
		for end < len(rest) && rest[end] != '/' {
			end++
		}
		n = n.children[string(rest[:end])]
		if n == nil {
			break
		}
		best, allow = take(n.below, bit, best, allow)
		if end == len(rest) {
			best, allow = take(n.exact, bit, best, allow)
			break
		}
		rest = rest[end+1:]
	}
	if best != noRoute {
		allow = 0
	}
	return best, allow
}

// take lowers best to the first route of the list that takes the method.
func take(list []ref, bit uint64, best int, allow uint64) (int, uint64) {
	for _, r := range list {
		if r.route >= best {
			break
		}
		if r.methods&bit != 0 {
			return r.route, allow
		}
		allow |= r.methods
	}
	return best, allow
}

func (s *site) build(index int, routes []Route) (errs []error) {
	s.methods = slices.Clone(wellKnown)
	s.bits = map[string]int{}
	for i, r := range routes {
		segments, below, msg := parsePattern(r.Path)
		if msg != "" {
			errs = append(errs, &Error{index, i, r.Path, msg})
		}
		var mask uint64
		for _, m := range r.Methods {
			bits, msg := s.addMethod(m)
			if msg != "" {
				errs = append(errs, &Error{index, i, m, msg})
			}
			mask |= bits
		}
		if len(r.Methods) == 0 {
			mask = ^uint64(0)
		}
		n := &s.root
		for _, seg := range segments {
			if n.children == nil {
				n.children = map[string]*node{}
			}
			if n.children[seg] == nil {
				n.children[seg] = &node{}
			}
			n = n.children[seg]
		}
		list := &n.exact
		if below {
			list = &n.below
		}
		var before uint64
		for _, earlier := range *list {
			before |= earlier.methods
		}
		if mask&^before != 0 {
			*list = append(*list, ref{i, mask})
		}
	}
	return errs
}

// wellKnown are the methods with the same bit in every site; methodBit has the
// same order.
var wellKnown = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}

// otherMethod is the bit of a method that no route names.
const otherMethod = 63

func (s *site) methodBit(method string) uint64 {
	switch method {
	case "GET":
		return 1 << 0
	case "HEAD":
		return 1 << 1
	case "POST":
		return 1 << 2
	case "PUT":
		return 1 << 3
	case "PATCH":
		return 1 << 4
	case "DELETE":
		return 1 << 5
	case "OPTIONS":
		return 1 << 6
	case "TRACE":
		return 1 << 7
	case "CONNECT":
		return 1 << 8
	}
	if bit, found := s.bits[method]; found {
		return 1 << bit
	}
	return 1 << otherMethod
}

// addMethod returns the bits of a method in a route, or what is wrong with it.
func (s *site) addMethod(m string) (bits uint64, msg string) {
	switch bit := s.methodBit(m); {
	case m == "GET":
		return bit | s.methodBit("HEAD"), ""
	case bit != 1<<otherMethod:
		return bit, ""
	case !isToken(m):
		return 0, "a method is a token such as GET"
	case slices.Contains(wellKnown, strings.ToUpper(m)):
		return 0, "methods are case-sensitive, want " + strings.ToUpper(m)
	case len(s.methods) == otherMethod:
		return 0, fmt.Sprintf("more than %d different methods in one site", otherMethod)
	}
	bit := len(s.methods)
	s.methods = append(s.methods, m)
	s.bits[m] = bit
	return 1 << bit, ""
}

func (s *site) allowed(mask uint64) string {
	var names []string
	for bit, name := range s.methods {
		if mask&(1<<bit) != 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		alnum := c-'0' < 10 || c|0x20-'a' < 26
		if !alnum && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}
