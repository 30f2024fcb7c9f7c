package proxy

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"postern/internal/route"
)

func TestClientBehind(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	tests := []struct {
		name   string
		values []string
		want   string
	}{
		{"none", nil, "10.0.0.1"},
		{"one", []string{"192.0.2.1"}, "192.0.2.1"},
		{"the last that is no proxy", []string{"6.6.6.6, 192.0.2.1, 10.0.0.2"}, "192.0.2.1"},
		{"over several fields", []string{"6.6.6.6, 192.0.2.1", "10.0.0.2"}, "192.0.2.1"},
		{"all proxies", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		{"unreadable ends the search", []string{"192.0.2.1, unknown, 10.0.0.2"}, "10.0.0.2"},
		{"unreadable last", []string{"192.0.2.1, _hidden"}, "10.0.0.1"},
		{"empty element", []string{"192.0.2.1,, 10.0.0.2"}, "10.0.0.2"},
		{"with port", []string{"192.0.2.1:80"}, "192.0.2.1"},
		{"v6 with port", []string{"[2001:db9::1]:80"}, "2001:db9::1"},
		{"v6 in brackets", []string{"[2001:db9::1]"}, "2001:db9::1"},
		{"v4 in v6", []string{"::ffff:192.0.2.1"}, "192.0.2.1"},
		{"zone", []string{"fe80::1%eth0"}, "fe80::1"},
	}
	for _, tt := range tests {
		if got := clientBehind(trusted, netip.MustParseAddr("10.0.0.1"), tt.values); got.String() != tt.want {
			t.Errorf("%s: got %v, want %s", tt.name, got, tt.want)
		}
	}
}

func TestUpgradeOf(t *testing.T) {
	tests := []struct{ connection, upgrade, want string }{
		{"Upgrade", "websocket", "websocket"},
		{"keep-alive, upgrade", "WebSocket", "WebSocket"},
		{"Upgrade", "tcp/1", "tcp/1"},
		{"", "websocket", ""},
		{"Upgrade", "", ""},
		{"Upgrade", "h2c", ""},
		{"Upgrade", "H2C", ""},
		{"Upgrade", "h2c/1", ""},
		{"Upgrade", "HTTP/2.0", ""},
		{"Upgrade", "TLS/1.2", ""},
		{"Upgrade", "websocket,h2c", ""},
		{"Upgrade", "web socket", ""},
	}
	for _, tt := range tests {
		if got := upgradeOf(http.Header{"Connection": {tt.connection}, "Upgrade": {tt.upgrade}}); got != tt.want {
			t.Errorf("%q %q: got %q, want %q", tt.connection, tt.upgrade, got, tt.want)
		}
	}
}

// FuzzClientBehind: the client is the peer, or an address of the list that no
// untrusted element follows.
func FuzzClientBehind(f *testing.F) {
	for _, s := range []string{"", "192.0.2.1", "6.6.6.6, 10.0.0.2", "[::1]:80,", " , ", "10.0.0.1:99999", "::ffff:10.0.0.1"} {
		f.Add(s, "10.1.1.1")
	}
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	peer := netip.MustParseAddr("10.0.0.9")
	f.Fuzz(func(t *testing.T, a, b string) {
		got := clientBehind(trusted, peer, []string{a, b})
		if !got.IsValid() || got.Zone() != "" || got.Is4In6() {
			t.Fatalf("%q %q: got %v", a, b, got)
		}
		if got == peer {
			return
		}
		// Appending what cannot be trusted must not bring up an earlier element.
		if again := clientBehind(trusted, peer, []string{a, b, "198.51.100.7"}); again.String() != "198.51.100.7" {
			t.Fatalf("%q %q: an appended stranger gave %v", a, b, again)
		}
	})
}

// FuzzSplitTarget: path and query are pieces of the target, in order.
func FuzzSplitTarget(f *testing.F) {
	for _, s := range []string{"/", "/a?b", "//x?y?z", "*", "http://a.test/x", "HTTPS://a.test?y", "http://a.test", "/x://y", "http://", "", "?"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		path, query := splitTarget(target)
		if strings.Contains(path, "?") {
			t.Fatalf("%q: path %q", target, path)
		}
		if query != "" && !strings.HasSuffix(target, "?"+query) {
			t.Fatalf("%q: query %q", target, query)
		}
		if strings.HasPrefix(target, "/") && !strings.HasPrefix(target, path) {
			t.Fatalf("%q: path %q", target, path)
		}
	})
}

func FuzzValidID(f *testing.F) {
	for _, s := range []string{"", "a", "a b", "é", "x\n", strings.Repeat("a", 129), "Root=1-67891233-abcdef012345678912345678"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, id string) {
		if validID(id) && (len(id) > 128 || strings.ContainsAny(id, " \"\\,;\r\n\x00") || !utf8.ValidString(id)) {
			t.Fatalf("accepted %q", id)
		}
	})
}

// FuzzRedirect: what a browser makes of the Location stays on the host and
// below the path that the configuration names.
func FuzzRedirect(f *testing.F) {
	for _, s := range []string{"/x", "//evil.example", "/\\evil.example", "/%2f%2fevil.example", "/.evil.example", "/@evil.example", "/../x", "/%2e%2e/x", "/:80", "/%09/x", "/..;/x", "/..%5cx"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, rest string) {
		for _, tt := range []struct{ base, host, path string }{
			{"/", "a.test", "/"}, {"/new/", "a.test", "/new/"}, {"https://example.org/", "example.org", "/"},
			{"https://example.org/new/", "example.org", "/new/"}, {"https://example.org", "example.org", "/"},
		} {
			below, ok := route.Rest("/old"+rest, "/old/*")
			if !ok || !staysBelow(tt.base, below) {
				continue
			}
			page := &url.URL{Scheme: "https", Host: "a.test", Path: "/old/x"}
			to, err := page.Parse(asBrowser(tt.base + below))
			if err != nil {
				continue // a browser goes nowhere
			}
			if to.Host != tt.host || !strings.HasPrefix(to.EscapedPath()+"/", tt.path) {
				t.Fatalf("%q after %q leads to %v", below, tt.base, to)
			}
		}
	})
}

// asBrowser drops and turns what browsers do (WHATWG URL, 4.4).
func asBrowser(s string) string {
	s = strings.NewReplacer("\t", "", "\n", "", "\r", "").Replace(s)
	s, _, _ = strings.Cut(s, "?")
	s, _, _ = strings.Cut(s, "#")
	return strings.ReplaceAll(s, `\`, "/")
}

// FuzzForwarded: whatever host is let in, the element stays one element.
func FuzzForwarded(f *testing.F) {
	for _, s := range []string{"a.test", "a.test:80", "[::1]:80", `a";for=6.6.6.6;x="`, "a,b", "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, host string) {
		if _, ok := route.CanonicalHost(host); !ok {
			return
		}
		got := forwardedElement(netip.MustParseAddr("2001:db8::1"), host, "https")
		if want := `for="[2001:db8::1]";host="` + host + `";proto=https`; got != want || strings.ContainsAny(host, "\"\\,;\r\n ") {
			t.Fatalf("%q: got %s", host, got)
		}
	})
}
