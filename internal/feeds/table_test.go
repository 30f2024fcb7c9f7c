package feeds

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestTable compares a table with the networks it was made of, at their edges
// and beside them.
func TestTable(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		var prefixes []netip.Prefix
		var b builder
		for range 1 + rng.IntN(40) {
			var p netip.Prefix
			if rng.IntN(2) == 0 {
				p = netip.PrefixFrom(address4(rng.Uint32()&0x0000ffff|0xc0000000), 16+rng.IntN(17)).Masked()
			} else {
				p = netip.PrefixFrom(address6(addr6{0x2001_0db8_0000_0000 | rng.Uint64N(4), rng.Uint64()}), 60+rng.IntN(69)).Masked()
			}
			prefixes = append(prefixes, p)
			b.addPrefix(p)
		}
		table := b.table()
		for _, p := range prefixes {
			for _, a := range []netip.Addr{p.Addr(), p.Addr().Prev(), lastOf(p), lastOf(p).Next(), address4(rng.Uint32())} {
				if !a.IsValid() {
					continue
				}
				want := slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
				if got := table.contains(a); got != want {
					t.Fatalf("round %d: contains(%s) = %t, want %t of %v", round, a, got, want, prefixes)
				}
			}
		}
		for i := 1; i < len(table.v4); i++ {
			if table.v4[i].first <= table.v4[i-1].last+1 {
				t.Fatalf("ranges %v and %v touch", table.v4[i-1], table.v4[i])
			}
		}
	}
}

// TestIndexedTable compares a table with an index to one without.
func TestIndexedTable(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var b builder
	for range 3 * indexFrom {
		b.addPrefix(netip.PrefixFrom(address4(rng.Uint32()), 14+rng.IntN(19)))
	}
	table := b.table()
	plain := *table
	plain.top = nil
	if table.top == nil {
		t.Fatalf("no index for %d ranges", len(table.v4))
	}
	check := func(n uint32) {
		if got, want := table.contains(address4(n)), plain.contains(address4(n)); got != want {
			t.Fatalf("contains(%s) = %t, want %t", address4(n), got, want)
		}
	}
	for _, s := range table.v4 {
		for _, n := range []uint32{s.first - 1, s.first, s.last, s.last + 1, s.first &^ 0xffff, s.last | 0xffff, rng.Uint32()} {
			check(n)
		}
	}
	check(0)
	check(^uint32(0))
}

func TestTableEnds(t *testing.T) {
	var b builder
	for _, p := range []string{"0.0.0.0/8", "255.0.0.0/8", "255.255.255.255/32", "::/16", "ff00::/8", "ffff:ffff:ffff:ffff::/64"} {
		b.addPrefix(netip.MustParsePrefix(p))
	}
	table := b.table()
	for a, want := range map[string]bool{
		"0.0.0.0": true, "0.255.255.255": true, "1.0.0.0": false, "254.255.255.255": false, "255.0.0.0": true, "255.255.255.255": true,
		"::": true, "0:ffff::": true, "1::": false, "feff:ffff::": false, "ff00::": true, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff": true,
	} {
		if got := table.contains(netip.MustParseAddr(a)); got != want {
			t.Errorf("contains(%s) = %t, want %t", a, got, want)
		}
	}
	if b.add(netip.MustParseAddr("2.0.0.0"), netip.MustParseAddr("1.0.0.0")) || b.add(netip.MustParseAddr("1.0.0.0"), netip.MustParseAddr("::")) {
		t.Error("a range that is none was taken")
	}
}

func TestParseList(t *testing.T) {
	for _, c := range []struct {
		name, text string
		in, out    []string
		err        string
	}{
		{name: "plain", text: "192.0.2.1\n2001:db8::1\r\n198.51.100.0/24\n", in: []string{"192.0.2.1", "2001:db8::1", "198.51.100.255"}, out: []string{"192.0.2.2", "2001:db8::2"}},
		{name: "comments", text: "\ufeff# list\n; list\n// list\n\n192.0.2.1 # bad\n192.0.2.2;SBL1\n192.0.2.3\t17\n192.0.2.4,x\n", in: []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"}},
		{name: "ranges", text: "192.0.2.1-192.0.2.9\n", in: []string{"192.0.2.1", "192.0.2.5", "192.0.2.9"}, out: []string{"192.0.2.10"}},
		{name: "bits beyond the length", text: "192.0.2.77/24\n", in: []string{"192.0.2.1"}},
		{name: "IPv4 in IPv6", text: "::ffff:192.0.2.1\n", in: []string{"192.0.2.1"}},
		{name: "some garbage", text: "192.0.2.1\nwhat\n192.0.2.2\n", in: []string{"192.0.2.1", "192.0.2.2"}},
		{name: "too wide", text: "192.0.2.1\n192.0.2.2\n192.0.2.3\n192.0.2.4\n0.0.0.0/0\n::/0\n1.0.0.0-200.0.0.0\n", in: []string{"192.0.2.1"}, out: []string{"8.8.8.8", "2600::1"}},
		{name: "only comments", text: "# nothing today\n", out: []string{"192.0.2.1"}},
		{name: "an error page", text: "<html>\n<body>\nTry again later\n</body>\n", err: "this is no blocklist"},
		{name: "empty", text: "", err: "the answer is empty"},
		{name: "one long line", text: strings.Repeat("1", 100<<10), err: "more than 64k"},
		{name: "huge", text: strings.Repeat("192.0.2.1\n", maxEntries+1), err: "take a smaller list"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := parseList(strings.NewReader(c.text))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want one with %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			table := b.table()
			for _, a := range c.in {
				if !table.contains(netip.MustParseAddr(a)) {
					t.Errorf("%s is not listed", a)
				}
			}
			for _, a := range c.out {
				if table.contains(netip.MustParseAddr(a)) {
					t.Errorf("%s is listed", a)
				}
			}
		})
	}
}

func FuzzParseList(f *testing.F) {
	f.Add("192.0.2.1\n2001:db8::/32 # x\n192.0.2.1-192.0.2.9\n")
	f.Add("::ffff:1.2.3.4/100\n0.0.0.0/0\n")
	f.Fuzz(func(t *testing.T, text string) {
		b, err := parseList(strings.NewReader(text))
		if err != nil {
			return
		}
		var again builder
		table := b.table()
		table.each(func(e stored) {
			if !table.contains(e.first) || !table.contains(e.last) {
				t.Errorf("%s-%s is not in the table it is from", e.first, e.last)
			}
			again.add(e.first, e.last)
		})
		if got := again.table(); !slices.Equal(got.v4, table.v4) || !slices.Equal(got.v6, table.v6) {
			t.Error("a table made of a table's ranges differs from it")
		}
	})
}

func FuzzReadDecisions(f *testing.F) {
	f.Add(`{"new":[{"id":1,"type":"ban","scope":"Ip","value":"192.0.2.1","duration":"1h"}],"deleted":null}`)
	f.Add(`{"deleted":[{"id":2}],"new":[{"id":3,"type":"ban","scope":"Range","value":"192.0.2.0/24","duration":"1h"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		added, _, err := readDecisions(strings.NewReader(text), time.Unix(0, 0))
		if err == nil && !json.Valid([]byte(strings.TrimSpace(text))) && len(added) > 0 {
			// What follows the object is not read; the object itself is valid.
			dec := json.NewDecoder(bytes.NewReader([]byte(text)))
			if err := dec.Decode(new(any)); err != nil {
				t.Errorf("%d decisions of what is no JSON: %v", len(added), err)
			}
		}
		for _, d := range added {
			if !narrow(d.prefix) || d.prefix != d.prefix.Masked() {
				t.Errorf("decision about %s", d.prefix)
			}
		}
	})
}

func BenchmarkLookup(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	l := New(Config{})
	var now []listed
	for _, name := range []string{"a", "b", "c"} {
		var list builder
		for range 100_000 {
			list.addPrefix(netip.PrefixFrom(address4(rng.Uint32()), 32))
		}
		now = append(now, listed{name: name, table: list.table()})
	}
	l.now.Store(&now)
	addrs := make([]netip.Addr, 1024)
	for i := range addrs {
		addrs[i] = address4(rng.Uint32())
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		l.Lookup(addrs[i%len(addrs)])
	}
}

func TestLookupAllocatesNothing(t *testing.T) {
	l := New(Config{})
	var b builder
	b.addPrefix(netip.MustParsePrefix("192.0.2.0/24"))
	b.addPrefix(netip.MustParsePrefix("2001:db8::/32"))
	l.now.Store(&[]listed{{name: "list", table: b.table()}})
	for _, a := range []string{"192.0.2.1", "198.51.100.1", "2001:db8::1", "::ffff:192.0.2.1"} {
		addr := netip.MustParseAddr(a)
		if n := testing.AllocsPerRun(100, func() { l.Lookup(addr) }); n != 0 {
			t.Errorf("%s: %v allocations, want none", a, n)
		}
	}
	if feed, ok := l.Lookup(netip.MustParseAddr("::ffff:192.0.2.1")); !ok || feed != "list" {
		t.Errorf("an address in IPv6 clothes: %q %t, want it listed", feed, ok)
	}
	if _, ok := l.Lookup(netip.Addr{}); ok {
		t.Error("nobody is listed")
	}
}
