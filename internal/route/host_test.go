package route

import (
	"net"
	"net/netip"
	"strings"
	"testing"
)

func TestCanonicalHost(t *testing.T) {
	label63 := strings.Repeat("a", 63)
	name253 := label63 + "." + label63 + "." + label63 + "." + strings.Repeat("b", 61)
	tests := []struct{ raw, want string }{ // want "": refused
		{"example.org", "example.org"},
		{"EXAMPLE.Org", "example.org"},
		{"example.org:443", "example.org"},
		{"example.org.", "example.org"},
		{"Example.org.:8443", "example.org"},
		{"localhost", "localhost"},
		{"a_b._c.example", "a_b._c.example"},
		{"xn--caf-dma.example", "xn--caf-dma.example"},
		{"1.example", "1.example"},
		{"3com.com", "3com.com"},
		{"example.0a", "example.0a"},
		{"127.0.0.1", "127.0.0.1"},
		{"127.0.0.1:80", "127.0.0.1"},
		{"[::1]", "[::1]"},
		{"[::1]:8080", "[::1]"},
		{"[2001:DB8:0:0::1]", "[2001:db8::1]"},
		{"[::ffff:192.0.2.1]", "[::ffff:192.0.2.1]"},
		{label63 + ".example", label63 + ".example"},
		{name253, name253},
		{name253 + ".", name253},

		{"", ""}, {".", ""}, {"..", ""}, {":80", ""}, {"example.org..", ""}, {"a..b", ""}, {".a", ""},
		{"a b", ""}, {" a", ""}, {"a ", ""}, {"a\t", ""}, {"a\x00", ""}, {"a\n", ""}, {"a\x7f", ""},
		{"a/b", ""}, {"u@a", ""}, {"a%2eb", ""}, {"a,b", ""}, {"a;b", ""}, {"*.a", ""}, {"café", ""}, {"a\\b", ""},
		{"-a", ""}, {"a-", ""}, {"a-.b", ""}, {"a.-b", ""},
		{"a:", ""}, {"a:0", ""}, {"a:65536", ""}, {"a:000080", ""}, {"a:+80", ""}, {"a:80:80", ""}, {"a:8o", ""}, {"a: 80", ""}, {"a:80.", ""},
		{"127.1", ""}, {"0x7f.0.0.1", ""}, {"0x7f000001", ""}, {"2130706433", ""}, {"127.0.0.256", ""}, {"127.0.0.01", ""}, {"1.2.3.4.5", ""}, {"a.1", ""}, {"a.0x", ""}, {"127.0.0.1.2", ""},
		{"::1", ""}, {"[::1", ""}, {"[::1]x", ""}, {"[::1]:", ""}, {"[]", ""}, {"[127.0.0.1]", ""}, {"[fe80::1%eth0]", ""}, {"[::g]", ""}, {"[::1]]", ""},
		{label63 + "a.example", ""}, {name253 + "b", ""},
	}
	for _, tt := range tests {
		got, ok := CanonicalHost(tt.raw)
		if got != tt.want || ok != (tt.want != "") {
			t.Errorf("CanonicalHost(%q) = %q, %v; want %q", tt.raw, got, ok, tt.want)
		}
	}
}

func FuzzCanonicalHost(f *testing.F) {
	for _, s := range []string{"example.org:443", "A.b.", "[::1]:80", "127.0.0.1", "0x7f.1", "[fe80::1%25x]", "a_b", "a..b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		host, ok := CanonicalHost(raw)
		if !ok {
			if host != "" {
				t.Fatalf("%q: refused with %q", raw, host)
			}
			return
		}
		if again, ok := CanonicalHost(host); again != host || !ok {
			t.Fatalf("%q: %q is not canonical, but %q, %v", raw, host, again, ok)
		}
		if with, ok := CanonicalHost(host + ":443"); with != host || !ok {
			t.Fatalf("%q with a port: %q, %v", host, with, ok)
		}
		if strings.ToLower(host) != host || strings.ContainsAny(host, " \x00/@%") || len(host) > 253 {
			t.Fatalf("%q: %q", raw, host)
		}
		name, port, err := net.SplitHostPort(host + ":443")
		if err != nil || port != "443" {
			t.Fatalf("%q: net reads %q, %q, %v", host, name, port, err)
		}
		if addr, err := netip.ParseAddr(name); err == nil && addr.String() != name {
			t.Fatalf("%q: the address %v", host, addr)
		}
	})
}
