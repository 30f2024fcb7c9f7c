package route

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
)

func table(t testing.TB, routes ...Route) *Table {
	t.Helper()
	tab, err := New([]Site{{Hosts: []string{"example.org"}, Routes: routes}})
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func paths(patterns ...string) (routes []Route) {
	for _, p := range patterns {
		routes = append(routes, Route{Path: p})
	}
	return routes
}

func TestMatchPaths(t *testing.T) {
	tests := []struct {
		name     string
		patterns []string
		path     string
		want     string // the pattern, or a Kind
	}{
		{"prefix itself", []string{"/api/*"}, "/api", "/api/*"},
		{"prefix with a slash", []string{"/api/*"}, "/api/", "/api/*"},
		{"below a prefix", []string{"/api/*"}, "/api/a/b", "/api/*"},
		{"not below a prefix", []string{"/api/*"}, "/apix", "no_route"},
		{"above a prefix", []string{"/api/v1/*"}, "/api", "no_route"},
		{"case matters", []string{"/api/*"}, "/API/x", "no_route"},
		{"exact", []string{"/ping"}, "/ping", "/ping"},
		{"exact is not below", []string{"/ping"}, "/ping/x", "no_route"},
		{"exact is not with a slash", []string{"/ping"}, "/ping/", "no_route"},
		{"exact with a slash", []string{"/ping/"}, "/ping/", "/ping/"},
		{"exact with a slash is not without", []string{"/ping/"}, "/ping", "no_route"},
		{"root alone", []string{"/"}, "/", "/"},
		{"root is not all", []string{"/"}, "/a", "no_route"},
		{"all", []string{"*"}, "/a/b", "*"},
		{"all, empty", []string{""}, "/", ""},
		{"all, slash star", []string{"/*"}, "/", "/*"},
		{"order before length", []string{"/*", "/api/*"}, "/api/x", "/*"},
		{"order before exactness", []string{"/api/*", "/api/ping"}, "/api/ping", "/api/*"},
		{"the first of equals", []string{"/x/*", "/api/*", "/api/*"}, "/api/x", "/api/*"},
		{"the longer one first", []string{"/api/v1/*", "/api/*"}, "/api/v1/x", "/api/v1/*"},

		{"encoded letters", []string{"/api/*", "*"}, "/%61p%69/x", "/api/*"},
		{"encoded letters, exact", []string{"/ping", "*"}, "/pin%67", "/ping"},
		{"encoded, either case", []string{"/café", "*"}, "/caf%c3%A9", "/café"},
		{"an encoded pattern", []string{"/caf%C3%a9/*", "*"}, "/caf%C3%A9/x", "/caf%C3%a9/*"},
		{"a space", []string{"/my file", "*"}, "/my%20file", "/my file"},
		{"sub-delimiters", []string{"/a:b@c/*", "*"}, "/a%3Ab%40c/x", "/a:b@c/*"},
		{"an encoded question mark", []string{"/a%3Fb", "*"}, "/a%3Fb", "/a%3Fb"},
		{"encoded in one route only", []string{"/api/*"}, "/api/a%20b%2Fc", "/api/*"},

		{"double slash in a rule's way", []string{"/admin/*", "*"}, "//admin/x", "ambiguous"},
		{"double slash within a rule", []string{"/admin/*", "*"}, "/admin//x", "/admin/*"},
		{"double slash in a longer rule", []string{"/a/b/*", "*"}, "/a//b/x", "ambiguous"},
		{"dot in a rule's way", []string{"/admin/*", "*"}, "/./admin/x", "ambiguous"},
		{"dot dot out", []string{"/public/*", "*"}, "/public/../admin", "ambiguous"},
		{"dot dot into", []string{"/admin/*", "*"}, "/x/../admin", "ambiguous"},
		{"encoded dot dot", []string{"/public/*", "*"}, "/public/%2e%2E/admin", "ambiguous"},
		{"half encoded dot dot", []string{"/public/*", "*"}, "/public/.%2e/admin", "ambiguous"},
		{"dot dot at the end", []string{"/public/a/*", "*"}, "/public/a/..", "ambiguous"},
		{"dot dot within one rule", []string{"/public/*", "*"}, "/public/a/../b", "/public/*"},
		{"dots with one rule", []string{"*"}, "/a/../b/./c//d", "*"},
		{"hidden files are names", []string{"/.well-known/*", "*"}, "/.well-known/acme-challenge/x", "/.well-known/*"},
		{"three dots are a name", []string{"/a/*", "*"}, "/a/.../x", "/a/*"},
		{"encoded slash", []string{"/admin/*", "*"}, "/admin%2Fx", "ambiguous"},
		{"encoded slash, lower case", []string{"/a/b", "*"}, "/a%2fb", "ambiguous"},
		{"encoded slash behind the rule", []string{"/api/*", "*"}, "/api/a%2Fb", "/api/*"},
		{"encoded slash and dots", []string{"/public/*", "*"}, "/public/..%2Fadmin", "ambiguous"},
		{"encoded slash and dots only", []string{"/public/*", "*"}, "/public/x%2F..%2F..%2Fadmin", "ambiguous"},
		{"backslash", []string{"/admin/*", "*"}, `/admin\x`, "ambiguous"},
		{"encoded backslash", []string{"/public/*", "*"}, "/public/..%5cadmin", "ambiguous"},
		{"backslash first", []string{"/admin/*", "*"}, `/\admin`, "ambiguous"},
		{"parameter", []string{"/admin/*", "*"}, "/admin;x=1/y", "ambiguous"},
		{"parameter and dots", []string{"/public/*", "*"}, "/public/..;/admin", "ambiguous"},
		{"encoded parameter and dots", []string{"/public/*", "*"}, "/public/..%3B/admin", "ambiguous"},
		{"parameter behind the rule", []string{"/api/*", "*"}, "/api/a;v=1/b", "/api/*"},
		{"dots without merging", []string{"/p/p/*", "/p/*"}, "/p/a//../../p/z", "ambiguous"},
		{"twice encoded stays", []string{"/public/*", "*"}, "/public/%252e%252e/admin", "/public/*"},
		{"twice encoded slash stays", []string{"/a/b", "*"}, "/a%252Fb", "*"},

		{"above the root", []string{"*"}, "/..", "bad_path"},
		{"above the root later", []string{"*"}, "/a/../../b", "bad_path"},
		{"above the root, encoded", []string{"*"}, "/%2e%2e/etc/passwd", "bad_path"},
		{"above the root, encoded slash", []string{"*"}, "/..%2fetc/passwd", "bad_path"},
		{"above the root, merged", []string{"*"}, "/a//../../b", "bad_path"},
		{"above the root, parameter", []string{"*"}, "/..;/manager/html", "bad_path"},
		{"above the root, one choice only", []string{"/a/*", "*"}, "/a%2Fb/../../x", "bad_path"},
		{"broken encoding", []string{"*"}, "/%%32%65", "bad_path"},
		{"cut encoding", []string{"*"}, "/a%2", "bad_path"},
		{"NUL", []string{"*"}, "/a%00.png", "bad_path"},
		{"line feed", []string{"*"}, "/a%0aSet-Cookie:x", "bad_path"},
		{"DEL", []string{"*"}, "/a%7f", "bad_path"},
		{"raw control", []string{"*"}, "/a\tb", "bad_path"},
		{"raw space", []string{"*"}, "/a b", "bad_path"},
		{"raw high byte", []string{"*"}, "/café", "bad_path"},
		{"query", []string{"*"}, "/a?b", "bad_path"},
		{"fragment", []string{"*"}, "/a#b", "bad_path"},
		{"empty", []string{"*"}, "", "bad_path"},
		{"no slash", []string{"*"}, "a/b", "bad_path"},
		{"absolute", []string{"*"}, "http://a/", "bad_path"},
		{"encoded first slash", []string{"*"}, "%2Fa", "bad_path"},
		{"asterisk", []string{"*"}, "*", "bad_path"},
		{"no routes", nil, "/", "no_route"},

		{"long and plain", []string{"*"}, "/" + strings.Repeat("a/", 20_000), "*"},
		{"long with spaces", []string{"*"}, "/" + strings.Repeat("a%20", 8_000), "*"},
		{"long with one choice", []string{"*"}, "/" + strings.Repeat("a%2F", 8_000), "*"},
		{"long with all choices", []string{"*"}, "/" + strings.Repeat(`a%2Fb\c;d//e/./`, 200), "ambiguous"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := table(t, paths(tt.patterns...)...).Match(0, "GET", tt.path)
			text := got.Kind.String()
			if got.Kind == Matched {
				text = tt.patterns[got.Route]
			} else if got.Route != -1 {
				t.Errorf("route %d, want -1", got.Route)
			}
			if text != tt.want {
				t.Errorf("Match(%q) = %q, want %q", tt.path, text, tt.want)
			}
			if got.Kind == Matched && got.Route != slices.Index(tt.patterns, tt.want) {
				t.Errorf("route %d is not the first", got.Route)
			}
		})
	}
}

func TestMatchMethods(t *testing.T) {
	tab := table(t,
		Route{Path: "/items/*", Methods: []string{"GET", "PURGE"}},
		Route{Path: "/items/*", Methods: []string{"POST"}},
		Route{Path: "/items/new", Methods: []string{"PUT", "HEAD"}},
		Route{Path: "/any/*"},
		Route{Path: "*", Methods: []string{"OPTIONS"}},
	)
	tests := []struct {
		method, path string
		want         Result
	}{
		{"GET", "/items/1", Result{0, Matched, ""}},
		{"HEAD", "/items/1", Result{0, Matched, ""}},
		{"PURGE", "/items/1", Result{0, Matched, ""}},
		{"POST", "/items/1", Result{1, Matched, ""}},
		{"PUT", "/items/new", Result{2, Matched, ""}},
		{"HEAD", "/items/new", Result{0, Matched, ""}},
		{"PUT", "/items/1", Result{-1, MethodNotAllowed, "GET, HEAD, OPTIONS, POST, PURGE"}},
		{"DELETE", "/items/new", Result{-1, MethodNotAllowed, "GET, HEAD, OPTIONS, POST, PUT, PURGE"}},
		{"get", "/items/1", Result{-1, MethodNotAllowed, "GET, HEAD, OPTIONS, POST, PURGE"}},
		{"BREW", "/any/x", Result{3, Matched, ""}},
		{"OPTIONS", "/items/1", Result{4, Matched, ""}},
		{"OPTIONS", "*", Result{4, Matched, ""}},
		{"GET", "*", Result{-1, BadPath, ""}},
		{"BREW", "/", Result{-1, MethodNotAllowed, "OPTIONS"}},
		{"DELETE", "/items/a%20b", Result{-1, MethodNotAllowed, "GET, HEAD, OPTIONS, POST, PURGE"}},
		{"POST", "/x/../items/1", Result{-1, Ambiguous, ""}},
	}
	for _, tt := range tests {
		want := tt.want
		if want.Allow != "" {
			names := strings.Split(want.Allow, ", ")
			slices.Sort(names)
			want.Allow = strings.Join(names, ", ")
		}
		if got := tab.Match(0, tt.method, tt.path); got != want {
			t.Errorf("%s %s: %+v, want %+v", tt.method, tt.path, got, want)
		}
	}
	if got := tab.Match(-1, "GET", "/"); got.Kind != NoRoute || got.Route != -1 {
		t.Errorf("no site: %+v", got)
	}
	if got := tab.Match(1, "GET", "/"); got.Kind != NoRoute || got.Route != -1 {
		t.Errorf("no such site: %+v", got)
	}
	only := table(t, Route{Path: "/items/*"})
	if got := only.Match(0, "OPTIONS", "*"); got.Kind != NoRoute {
		t.Errorf("OPTIONS * without a route for all: %+v", got)
	}
}

func TestSites(t *testing.T) {
	tab, err := New([]Site{
		{Hosts: []string{"Example.org", "www.example.org."}},
		{Hosts: []string{"*.example.org"}},
		{Hosts: []string{"192.0.2.1", "[2001:DB8::1]", "localhost"}},
		{Hosts: []string{"*.org"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]int{
		"example.org": 0, "www.example.org": 0, "api.example.org": 1, "a.b.example.org": -1,
		"192.0.2.1": 2, "[2001:db8::1]": 2, "localhost": 2, "other.org": 3, "org": -1, "": -1, ".": -1, ".org": -1, "2.1": -1,
	} {
		if got := tab.Site(host); got != want {
			t.Errorf("Site(%q) = %d, want %d", host, got, want)
		}
	}
}

func TestNewErrors(t *testing.T) {
	manyMethods := make([]string, 64)
	for i := range manyMethods {
		manyMethods[i] = fmt.Sprintf("M%d", i)
	}
	host := []string{"a"}
	tests := []struct {
		name  string
		sites []Site
		want  string
	}{
		{"no host", []Site{{}}, `site 1: host "": a site has at least one host`},
		{"host twice", []Site{{Hosts: host}, {Hosts: []string{"A."}}}, `site 2: host "A.": already a host of site 1`},
		{"host twice in a site", []Site{{Hosts: []string{"a", "a"}}}, `already a host of site 1`},
		{"wildcard twice", []Site{{Hosts: []string{"*.a"}}, {Hosts: []string{"*.A"}}}, `site 2: host "*.A": already`},
		{"bad host", []Site{{Hosts: []string{"a b"}}}, `site 1: host "a b": want a name`},
		{"bare star", []Site{{Hosts: []string{"*"}}}, `want a name`},
		{"inner star", []Site{{Hosts: []string{"a.*.b"}}}, `want a name`},
		{"port", []Site{{Hosts: []string{"a:80"}}}, `a host has no port here`},
		{"port of an address", []Site{{Hosts: []string{"[::1]:80"}}}, `a host has no port here`},
		{"wildcard address", []Site{{Hosts: []string{"*.127.0.0.1"}}}, `an address has no names below it`},
		{"no slash", []Site{{host, paths("/", "api")}}, `site 1, route 2: "api": a path begins with "/"`},
		{"star inside", []Site{{host, paths("/a*")}}, `"*" stands only for everything below`},
		{"star segment inside", []Site{{host, paths("/a/*/b")}}, `"*" stands only for everything below`},
		{"query", []Site{{host, paths("/a?b")}}, `no query`},
		{"double slash", []Site{{host, paths("/a//b")}}, `"//" is one slash`},
		{"double slash and star", []Site{{host, paths("/a//*")}}, `"//" is one slash`},
		{"slash star", []Site{{host, paths("//*")}}, `"//" is one slash`},
		{"dots", []Site{{host, paths("/a/../b")}}, `".." are resolved`},
		{"encoded dots", []Site{{host, paths("/a/%2e/*")}}, `".." are resolved`},
		{"encoded slash", []Site{{host, paths("/a%2Fb")}}, `"%2F"`},
		{"encoded percent", []Site{{host, paths("/a%25b")}}, `"%2F" and "%25"`},
		{"backslash", []Site{{host, paths(`/a\b`)}}, `"%2F"`},
		{"semicolon", []Site{{host, paths("/a;b")}}, `";"`},
		{"broken encoding", []Site{{host, paths("/100%")}}, `broken percent-encoding`},
		{"control", []Site{{host, paths("/a%00")}}, `no control characters`},
		{"lower-case method", []Site{{host, []Route{{Methods: []string{"get"}}}}}, `"get": methods are case-sensitive, want GET`},
		{"bad method", []Site{{host, []Route{{Methods: []string{"G T"}}}}}, `a method is a token`},
		{"empty method", []Site{{host, []Route{{Methods: []string{""}}}}}, `a method is a token`},
		{"many methods", []Site{{host, []Route{{Methods: manyMethods}}}}, `more than 63 different methods`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := New(tt.sites)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want %s", err, tt.want)
			}
			var e *Error
			if !errors.As(err, &e) {
				t.Errorf("error %T, want a *Error inside", err)
			}
		})
	}
	_, err := New([]Site{{Hosts: []string{"a b"}, Routes: paths("x", "/a*")}, {}})
	if got := strings.Count(err.Error(), "\n") + 1; got != 4 {
		t.Errorf("%d errors, want all 4:\n%v", got, err)
	}
}

// reference is Match once more, slow and plain: all 32 readings of the path,
// each built as a list of segments, and a walk over the routes for each.
func reference(routes []Route, method, raw string) Result {
	bad := Result{Route: -1, Kind: BadPath}
	if raw == "" || raw[0] != '/' || strings.ContainsAny(raw, " ?#") {
		return bad
	}
	if _, err := url.PathUnescape(raw); err != nil {
		return bad
	}
	for i, c := range []byte(raw) {
		if c < 0x21 || c > 0x7e {
			return bad
		}
		if c == '%' {
			if v := raw[i+1 : i+3]; v[0] == '0' || v[0] == '1' || strings.EqualFold(v, "7f") {
				return bad
			}
		}
	}
	var all []Result
	for choice := range 32 {
		path, valid := referencePath(raw, choice&1 > 0, choice&2 > 0, choice&4 > 0, choice&8 > 0, choice&16 > 0)
		if !valid {
			return bad
		}
		r := referenceMatch(routes, method, path)
		all = append(all, r)
	}
	for _, r := range all {
		if r.Kind != all[0].Kind || r.Route != all[0].Route {
			return Result{Route: -1, Kind: Ambiguous}
		}
	}
	all[0].Allow = "" // the readings may differ; TestMatchMethods looks at it
	return all[0]
}

// keep hides from decoding what stays encoded; scan has refused the characters.
const slash, backslash, percent = "\x01", "\x02", "\x03"

var (
	keep   = strings.NewReplacer("%2F", slash, "%2f", slash, "%5C", backslash, "%5c", backslash, `\`, backslash, "%25", percent)
	unkeep = strings.NewReplacer(slash, "%2F", backslash, "%5C", percent, "%25")
)

func referencePath(raw string, slashed, turned, merged, dotted, params bool) (string, bool) {
	s, err := url.PathUnescape(keep.Replace(raw))
	if err != nil {
		return "", false
	}
	if slashed {
		s = strings.ReplaceAll(s, slash, "/")
	}
	if turned {
		s = strings.ReplaceAll(s, backslash, "/")
	}
	var out []string
	in := strings.Split(s[1:], "/")
	for i, seg := range in {
		last := i == len(in)-1
		if params {
			seg, _, _ = strings.Cut(seg, ";")
		}
		switch {
		case dotted && seg == "..":
			if len(out) == 0 {
				return "", false
			}
			out = out[:len(out)-1]
			seg = ""
		case dotted && seg == ".":
			seg = ""
		case !merged || seg != "":
			out = append(out, seg)
			continue
		}
		if last {
			out = append(out, seg)
		}
	}
	s = "/" + strings.Join(out, "/")
	return unkeep.Replace(s), true
}

func referenceMatch(routes []Route, method, path string) Result {
	kind := NoRoute
	for i, r := range routes {
		pattern, err := url.PathUnescape(r.Path)
		if err != nil {
			panic(err)
		}
		prefix, below := strings.CutSuffix(pattern, "/*")
		fits := path == pattern || pattern == "" || pattern == "*" || below && (path == prefix || strings.HasPrefix(path, prefix+"/"))
		if !fits {
			continue
		}
		if len(r.Methods) == 0 || slices.Contains(r.Methods, method) || method == "HEAD" && slices.Contains(r.Methods, "GET") {
			return Result{Route: i, Kind: Matched}
		}
		kind = MethodNotAllowed
	}
	return Result{Route: -1, Kind: kind}
}

var (
	somePatterns = []string{"", "*", "/*", "/", "/a", "/a/", "/a/*", "/a/b", "/a/b/*", "/a/b/", "/a/a/*", "/b/*", "/b/a", "/.a/*", "/a/b/c/*", "/%61%20/*", "/%C3%A9"}
	someMethods  = []string{"GET", "HEAD", "POST", "PURGE", "BREW"}
	somePieces   = []string{"/", "/", "/", "/a", "/b", "/a/b", "a", "b", "c", ".", "..", "/..", "/.", "%2e", "%2F", "%2f", `\`, "%5c", ";", "%3b", ";x=y", "%61", "%20", "%25", "%252e", "%C3%A9", "//", "*", "%2"}
)

func someRoutes(rng *rand.Rand) (routes []Route) {
	for range rng.IntN(8) {
		r := Route{Path: somePatterns[rng.IntN(len(somePatterns))]}
		for range rng.IntN(3) {
			r.Methods = append(r.Methods, someMethods[rng.IntN(4)])
		}
		routes = append(routes, r)
	}
	return routes
}

func compare(t testing.TB, tab *Table, routes []Route, method, path string) {
	t.Helper()
	got, want := tab.Match(0, method, path), reference(routes, method, path)
	got.Allow = ""
	if got != want {
		t.Fatalf("%s %q in %+v: %v %d, want %v %d", method, path, routes, got.Kind, got.Route, want.Kind, want.Route)
	}
}

func TestMatchEqualsReference(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	count := map[Kind]int{}
	for range 2000 {
		routes := someRoutes(rng)
		tab := table(t, routes...)
		for range 20 {
			path := "/"
			for range rng.IntN(7) {
				path += somePieces[rng.IntN(len(somePieces))]
			}
			method := someMethods[rng.IntN(len(someMethods))]
			compare(t, tab, routes, method, path)
			count[tab.Match(0, method, path).Kind]++
		}
	}
	for k := NoRoute; k <= BadPath; k++ {
		if count[k] < 500 {
			t.Errorf("%v came up %d times in 40,000, the test is too narrow", k, count[k])
		}
	}
}

func FuzzMatch(f *testing.F) {
	for i, p := range []string{"/a/b", "/a/../b", "/a%2Fb", `/a\b//..;/c`, "/%2e%2e/x", "/a;b%2f../c", "/%25%32%65", "*", "/\xc3\xa9"} {
		f.Add(uint64(i), "GET", p)
	}
	f.Fuzz(func(t *testing.T, seed uint64, method, path string) {
		if len(path) > 256 || path == "*" {
			return
		}
		routes := someRoutes(rand.New(rand.NewPCG(seed, 3)))
		compare(t, table(t, routes...), routes, method, path)
	})
}

// FuzzPattern: a pattern that New takes is one that some path can match, and
// the plain spelling of its path does.
func FuzzPattern(f *testing.F) {
	for _, p := range append(somePatterns, "/a/../b", "//", "/a*", "/a%2Fb", "/a;b", "/%zz", "x", "/a b", "/é") {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, pattern string) {
		tab, err := New([]Site{{Hosts: []string{"a"}, Routes: paths(pattern)}})
		if err != nil {
			return
		}
		path := pattern
		if p, below := strings.CutSuffix(pattern, "*"); below || pattern == "" {
			path = "/" + strings.TrimPrefix(p, "/") + "x"
		}
		if s, err := url.PathUnescape(path); err == nil {
			path = s
		} else {
			t.Fatalf("pattern %q was taken: %v", pattern, err)
		}
		path = (&url.URL{Path: path}).EscapedPath()
		if strings.HasPrefix(path, ".//") { // how net/url writes a path that looks like a host
			t.Fatalf("pattern %q was taken", pattern)
		}
		if got := tab.Match(0, "GET", path); got.Kind != Matched {
			t.Fatalf("pattern %q, path %q: %v", pattern, path, got.Kind)
		}
		if _, found := Rest(path, pattern); !found {
			t.Fatalf("pattern %q, path %q: no rest", pattern, path)
		}
	})
}
