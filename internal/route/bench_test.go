package route

import (
	"fmt"
	"strings"
	"testing"
)

// manySites has n sites with two routes each; one host is a wildcard.
func manySites(t testing.TB, n int) *Table {
	t.Helper()
	sites := make([]Site, n)
	for i := range sites {
		sites[i] = Site{Hosts: []string{fmt.Sprintf("app%d.example.org", i)}, Routes: paths("/api/*", "*")}
	}
	sites[n-1].Hosts = append(sites[n-1].Hosts, "*.lan.example.org")
	tab, err := New(sites)
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func manyRoutes(t testing.TB, n int) *Table {
	t.Helper()
	routes := make([]Route, n)
	for i := range routes {
		routes[i] = Route{Path: fmt.Sprintf("/api/v1/service%d/*", i), Methods: []string{"GET", "POST"}}
	}
	return table(t, routes...)
}

func TestNoAllocations(t *testing.T) {
	tab := table(t, append(paths("/api/v1/*", "/static/*", "/.well-known/*"), Route{Path: "*", Methods: []string{"GET"}})...)
	long := "/static/" + strings.Repeat("abcdefg/", 500)
	for name, do := range map[string]func(){
		"plain":          func() { tab.Match(0, "GET", "/api/v1/orders/1234567890/items") },
		"plain, long":    func() { tab.Match(0, "GET", long) },
		"hidden":         func() { tab.Match(0, "GET", "/.well-known/acme-challenge/abc") },
		"no route":       func() { tab.Match(0, "POST", "/nothing") },
		"encoded":        func() { tab.Match(0, "GET", "/api/v1/orders/a%20rather%20long%20name%20with%20spaces%20in%20it") },
		"ambiguous":      func() { tab.Match(0, "GET", "/static/../api/v1/orders/a%2Fb;c//d/../e/f/g/h/i/j/k/l/m/n") },
		"bad":            func() { tab.Match(0, "GET", "/%00") },
		"site":           func() { tab.Site("other.example.org") },
		"host":           func() { CanonicalHost("mypi.duckdns.org") },
		"host with port": func() { CanonicalHost("mypi.duckdns.org.:443") },
		"v4 host":        func() { CanonicalHost("192.0.2.1:443") },
		"v6 host":        func() { CanonicalHost("[2001:db8::1]:443") },
		"bad host":       func() { CanonicalHost("127.0.0.1.") },
		"strip":          func() { StripPrefix("/%61pi/v1/../x", "/api") },
		"rest":           func() { Rest("/api/v1/x", "/api/*") },
	} {
		want := 0.0
		if name == "no route" {
			want = 3 // Allow
		}
		if got := testing.AllocsPerRun(100, do); got > want {
			t.Errorf("%s: %v allocations, want %v", name, got, want)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		tab := manyRoutes(b, n)
		path := fmt.Sprintf("/api/v1/service%d/orders/1234567890", n-1)
		b.Run(fmt.Sprintf("routes=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if r := tab.Match(0, "GET", path); r.Route != n-1 {
					b.Fatal(r)
				}
			}
		})
	}
	tab := table(b, paths("/api/*", "*")...)
	for _, bm := range []struct{ name, path string }{
		{"catch_all", "/index.html"},
		{"encoded", "/api/a%20b/c"},
		{"encoded_slash", "/api/a%2Fb/c"},
		{"dots", "/api/a/../b"},
		{"every_choice", `/api/a%2Fb\c;d//e/./f`},
		{"every_choice_2KB", "/api/" + strings.Repeat(`a%2Fb\c;d//e/./f/`, 118)},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if r := tab.Match(0, "GET", bm.path); r.Kind != Matched {
					b.Fatal(r)
				}
			}
		})
	}
}

func BenchmarkSite(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		tab := manySites(b, n)
		for _, host := range []string{fmt.Sprintf("app%d.example.org", n-1), "nas.lan.example.org"} {
			kind, _, _ := strings.Cut(host, ".")
			b.Run(fmt.Sprintf("sites=%d/%s", n, strings.TrimRight(kind, "0123456789")), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if i := tab.Site(host); i != n-1 {
						b.Fatal(i)
					}
				}
			})
		}
	}
}

func BenchmarkCanonicalHost(b *testing.B) {
	for _, host := range []string{"mypi.duckdns.org", "mypi.duckdns.org:443", "[2001:db8::1]:443"} {
		b.Run(host, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := CanonicalHost(host); !ok {
					b.Fatal(host)
				}
			}
		})
	}
}

func BenchmarkStripPrefix(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := StripPrefix("/api/v1/orders/1234567890", "/api"); !ok {
			b.Fatal()
		}
	}
}
