package route

import (
	"net/url"
	"strings"
	"testing"
)

func TestStripPrefix(t *testing.T) {
	tests := []struct{ path, prefix, want string }{ // want "": cannot
		{"/api/users", "/api", "/users"},
		{"/api/users", "/api/", "/users"},
		{"/api", "/api", "/"},
		{"/api", "/api/", "/"},
		{"/api/", "/api", "/"},
		{"/%61pi/users", "/api", "/users"},
		{"/%61%70%69", "/api", "/"},
		{"/api/us%65rs%2Fx", "/api", "/us%65rs%2Fx"},
		{"/caf%c3%a9/x", "/café", "/x"},
		{"/caf%c3%a9/x", "/caf%C3%A9", "/x"},
		{"/a/b/c", "/a/b", "/c"},
		{"/api//x", "/api", "//x"},
		{"/api/a/../b", "/api", "/a/../b"},
		{"/x", "", "/x"},
		{"/x", "/", "/x"},
		{"/a;b/c", "/a;b", "/c"},
		{"/a%25b/c", "/a%25b", "/c"},

		{"/apix", "/api", ""},
		{"/ap", "/api", ""},
		{"/API/x", "/api", ""},
		{"/x/api", "/api", ""},
		{"//api/x", "/api", ""},
		{"/api%2Fx", "/api", ""},
		{`/api\x`, "/api", ""},
		{"/a%2Fb/c", "/a/b", ""},
		{"/a/b/c", "/a%2Fb", ""},
		{"/api/../x", "/api", ""},
		{"/api/..", "/api", ""},
		{"/api/%2e%2e/x", "/api", ""},
		{"/api/..%2Fx", "/api", ""},
		{"/api/..;/x", "/api", ""},
		{"/api/a//../../x", "/api", ""},
		{"/api/%zz", "/api", ""},
		{"/%zz", "/api", ""},
		{"/%6", "/a", ""},
		{"", "/api", ""}, {"*", "", ""}, {"api", "", ""},
	}
	for _, tt := range tests {
		got, ok := StripPrefix(tt.path, tt.prefix)
		if got != tt.want || ok != (tt.want != "") {
			t.Errorf("StripPrefix(%q, %q) = %q, %v; want %q", tt.path, tt.prefix, got, ok, tt.want)
		}
	}
}

func TestRest(t *testing.T) {
	const no = "\x00"
	tests := []struct{ path, pattern, want string }{
		{"/old/a/b", "/old/*", "a/b"},
		{"/old/a%20b", "/old/*", "a%20b"},
		{"/%6fld/a", "/old/*", "a"},
		{"/old", "/old/*", ""},
		{"/old/", "/old/*", ""},
		{"/a/b", "*", "a/b"},
		{"/a/b", "", "a/b"},
		{"/a/b", "/*", "a/b"},
		{"/old//evil.example", "/old/*", "evil.example"},
		{`/old/\/evil.example`, "/old/*", "evil.example"},
		{"/ping", "/ping", ""},
		{"/pin%67", "/ping", ""},
		{"/ping/", "/ping/", ""},
		{"/", "/", ""},
		{"/ping/", "/ping", no},
		{"/ping", "/ping/", no},
		{"/ping/x", "/ping", no},
		{"/oldx", "/old/*", no},
		{"/old/../x", "/old/*", no},
	}
	for _, tt := range tests {
		got, ok := Rest(tt.path, tt.pattern)
		if !ok {
			got = no
		}
		if got != tt.want {
			t.Errorf("Rest(%q, %q) = %q, want %q", tt.path, tt.pattern, got, tt.want)
		}
	}
}

func FuzzStripPrefix(f *testing.F) {
	f.Add("/api/users", "/api")
	f.Add("/%61pi/a%2Fb", "/api/")
	f.Add("/api/..;/x", "/api")
	f.Add("/a%25/x", "/a%25")
	f.Add("/", "//")
	f.Fuzz(func(t *testing.T, path, prefix string) {
		rest, ok := StripPrefix(path, prefix)
		if !ok {
			return
		}
		if rest[0] != '/' || !strings.HasSuffix(path, rest) && rest != "/" {
			t.Fatalf("StripPrefix(%q, %q) = %q", path, prefix, rest)
		}
		if climbs(rest) {
			t.Fatalf("StripPrefix(%q, %q) = %q climbs", path, prefix, rest)
		}
		head := strings.TrimSuffix(path, rest)
		if rest == "/" && !strings.HasSuffix(path, "/") {
			head = path
		}
		got, err1 := url.PathUnescape(head)
		want, err2 := url.PathUnescape(strings.TrimRight(prefix, "/"))
		if err1 != nil || err2 != nil || got != want {
			t.Fatalf("StripPrefix(%q, %q) removed %q (%v), want %q (%v)", path, prefix, got, err1, want, err2)
		}
	})
}
