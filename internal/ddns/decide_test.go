package ddns

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func ruleset(kinds ...Kind) rules {
	fresh := map[Kind]time.Duration{}
	for _, k := range Kinds() {
		fresh[k] = 10 * time.Minute
	}
	return rules{kinds: kinds, fresh: fresh, silent: 15 * time.Minute, gap: 10 * time.Second, started: noon.Add(-time.Hour)}
}

// says is a vote of a moment ago.
func says(k Kind, name string, a netip.Addr, run int) vote {
	return vote{kind: k, name: name, addr: a, at: noon.Add(-time.Minute), run: run}
}

func old(v vote, age time.Duration) vote {
	v.at = noon.Add(-age)
	return v
}

func TestDecide(t *testing.T) {
	all := []Kind{Router, DNSEcho, HTTPSEcho}
	none := netip.Addr{}
	for _, c := range []struct {
		name    string
		current netip.Addr
		kinds   []Kind
		votes   []vote
		want    netip.Addr
		pending bool
	}{
		{"nobody says anything", home1, all, nil, home1, false},
		{"nobody ever said anything", none, all, nil, none, false},
		{"all confirm", home1, all, []vote{says(Router, "r", home1, 1), says(DNSEcho, "d", home1, 1), says(HTTPSEcho, "h", home1, 1)}, home1, false},
		{"two kinds agree on the first", none, all, []vote{says(DNSEcho, "d", home1, 1), says(HTTPSEcho, "h", home1, 1)}, home1, false},
		{"two kinds agree on a change", home1, all, []vote{says(Router, "r", home2, 1), says(DNSEcho, "d", home2, 1)}, home2, false},
		{"two of three, the router is stale", home1, all, []vote{says(Router, "r", home1, 90), says(DNSEcho, "d", home2, 1), says(HTTPSEcho, "h", home2, 1)}, home2, false},
		{"one lies, others confirm", home1, all, []vote{says(Router, "r", home1, 1), says(DNSEcho, "d", liar, 99), says(HTTPSEcho, "h", home1, 1)}, home1, true},
		{"one lies, others are down", home1, all, []vote{says(DNSEcho, "d", liar, 99)}, home1, true},
		{"one lies, one other confirms", home1, all, []vote{says(Router, "r", home1, 9), says(DNSEcho, "d", liar, 99)}, home1, true},
		{"all differ", home1, all, []vote{says(Router, "r", home2, 9), says(DNSEcho, "d", liar, 9), says(HTTPSEcho, "h", home1, 9)}, home1, true},
		{"a tie of two changes", home1, []Kind{Router, DNSEcho, HTTPSEcho, Interface},
			[]vote{says(Router, "r", home2, 9), says(Interface, "i", home2, 9), says(DNSEcho, "d", liar, 9), says(HTTPSEcho, "h", liar, 9)}, home1, true},
		{"two against two", home1, []Kind{Router, DNSEcho, HTTPSEcho, Interface},
			[]vote{says(Router, "r", home1, 9), says(Interface, "i", home1, 9), says(DNSEcho, "d", home2, 9), says(HTTPSEcho, "h", home2, 9)}, home1, true},
		{"answers that are too old do not count", home1, all, []vote{old(says(Router, "r", home2, 9), 11*time.Minute), says(DNSEcho, "d", home2, 1)}, home1, true},
		{"a carrier's address is no opinion", home1, all, []vote{says(Router, "r", cgnat, 9), says(DNSEcho, "d", home2, 1), says(HTTPSEcho, "h", home2, 1)}, home2, false},
		{"nobody publishes a carrier's address", none, []Kind{Router}, []vote{says(Router, "r", cgnat, 9)}, none, false},
		{"nor a private one", none, []Kind{Router}, []vote{says(Router, "r", netip.MustParseAddr("192.168.1.1"), 9)}, none, false},

		{"two of one kind are one", home1, all, []vote{says(HTTPSEcho, "h1", home2, 1), says(HTTPSEcho, "h2", home2, 1)}, home1, true},
		{"one of three of a kind lies", home1, []Kind{HTTPSEcho}, []vote{says(HTTPSEcho, "h1", home1, 9), says(HTTPSEcho, "h2", liar, 9), says(HTTPSEcho, "h3", home1, 9)}, home1, false},
		{"a kind that is split has no opinion", home1, all, []vote{says(HTTPSEcho, "h1", home2, 9), says(HTTPSEcho, "h2", liar, 9), says(DNSEcho, "d", home2, 1)}, home1, true},

		{"the only kind, once", home1, []Kind{DNSEcho}, []vote{says(DNSEcho, "d", home2, 1)}, home1, true},
		{"the only kind, twice", home1, []Kind{DNSEcho}, []vote{says(DNSEcho, "d", home2, 2)}, home1, true},
		{"the only kind, three times", home1, []Kind{DNSEcho}, []vote{says(DNSEcho, "d", home2, 3)}, home2, false},
		{"the only kind, one of its sources new to it", home1, []Kind{DNSEcho}, []vote{says(DNSEcho, "d1", home2, 3), says(DNSEcho, "d2", home2, 1)}, home1, true},
		{"others are down for long, two sources insist", home1, all, []vote{says(HTTPSEcho, "h1", home2, 3), says(HTTPSEcho, "h2", home2, 3)}, home2, false},
		{"others are down for long, one source insists", home1, all, []vote{says(HTTPSEcho, "h", home2, 99)}, home1, true},
		{"the same, with nothing to lose", none, all, []vote{says(HTTPSEcho, "h", home2, 3)}, home2, false},
		{"others are down since just now", home1, all, []vote{says(HTTPSEcho, "h1", home2, 3), says(HTTPSEcho, "h2", home2, 3), old(says(DNSEcho, "d", home1, 9), 12*time.Minute)}, home1, true},

		{"this machine alone has it", none, []Kind{Interface}, []vote{says(Interface, "eth0", home1, 3)}, home1, false},
		{"this machine has two", none, []Kind{Interface}, []vote{says(Interface, "a", home1, 3), says(Interface, "b", home2, 3)}, none, true},
		{"this machine has two, one is seen outside", none, []Kind{Interface, DNSEcho}, []vote{says(Interface, "a", home1, 1), says(Interface, "b", home2, 1), says(DNSEcho, "d", home2, 1)}, home2, false},
	} {
		got := decide(noon, c.current, c.votes, ruleset(c.kinds...))
		if got.addr != c.want || got.pending != c.pending {
			t.Errorf("%s: %v, pending %v, want %v, %v", c.name, got.addr, got.pending, c.want, c.pending)
		}
	}
}

// TestOneLiar: whatever one source says, as often and as long as it likes,
// does not move an address that another kind of source tells truly; and a true
// change that two kinds tell gets through beside it.
func TestOneLiar(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	addrs := []netip.Addr{home1, home2, liar, cgnat, netip.MustParseAddr("10.0.0.1")}
	kinds := []Kind{Router, DNSEcho, HTTPSEcho}
	for range 20000 {
		truth := home1
		lying := kinds[rnd.IntN(3)]
		var votes []vote
		honest := 0
		for _, k := range kinds {
			switch {
			case k == lying:
				votes = append(votes, says(k, "liar", addrs[rnd.IntN(len(addrs))], 1+rnd.IntN(1000)))
			case rnd.IntN(3) > 0:
				votes = append(votes, says(k, "honest", truth, 1+rnd.IntN(5)))
				honest++
			}
		}
		rnd.Shuffle(len(votes), func(i, j int) { votes[i], votes[j] = votes[j], votes[i] })
		if got := decide(noon, truth, votes, ruleset(kinds...)); got.addr != truth {
			t.Fatalf("%d honest, votes %+v: %v", honest, votes, got.addr)
		}
		if got := decide(noon, home2, votes, ruleset(kinds...)); honest == 2 && got.addr != truth {
			t.Fatalf("a true change did not get through: %+v: %v", votes, got.addr)
		}
	}
}

// TestOrderDoesNotMatter, and nothing but what somebody said is ever believed.
func TestOrderDoesNotMatter(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	addrs := []netip.Addr{home1, home2, liar}
	for range 5000 {
		var votes []vote
		for i := range 1 + rnd.IntN(6) {
			v := says(Kinds()[rnd.IntN(4)], string(rune('a'+i)), addrs[rnd.IntN(3)], 1+rnd.IntN(4))
			votes = append(votes, old(v, time.Duration(rnd.IntN(20))*time.Minute))
		}
		kinds := Kinds()[:1+rnd.IntN(4)]
		first := decide(noon, home1, votes, ruleset(kinds...))
		said := first.addr == home1
		for _, v := range votes {
			said = said || v.addr == first.addr
		}
		if !said {
			t.Fatalf("%v out of nowhere: %+v", first.addr, votes)
		}
		for range 4 {
			rnd.Shuffle(len(votes), func(i, j int) { votes[i], votes[j] = votes[j], votes[i] })
			if again := decide(noon, home1, votes, ruleset(kinds...)); again != first {
				t.Fatalf("%v, in another order %v: %+v", first, again, votes)
			}
		}
	}
}

// TestHear: answers in quick succession are one, another address starts anew.
func TestHear(t *testing.T) {
	var votes []vote
	at := noon
	hearAt := func(d time.Duration, a netip.Addr) int {
		at = at.Add(d)
		votes = hear(votes, vote{kind: DNSEcho, name: "d", addr: a, at: at}, 10*time.Second)
		return votes[0].run
	}
	for i, c := range []struct {
		after time.Duration
		addr  netip.Addr
		want  int
	}{{0, home1, 1}, {time.Second, home1, 1}, {8 * time.Second, home1, 1}, {time.Second, home1, 2}, {time.Minute, home1, 3}, {time.Minute, home2, 1}, {time.Second, home1, 1}} {
		if got := hearAt(c.after, c.addr); got != c.want {
			t.Errorf("answer %d: run %d, want %d", i, got, c.want)
		}
	}
	if len(votes) != 1 {
		t.Errorf("%d votes of one source", len(votes))
	}
}

func TestPublic(t *testing.T) {
	for s, want := range map[string]bool{
		"8.8.8.8": true, "192.0.2.1": true, "10.1.2.3": false, "172.16.0.1": false, "192.168.0.1": false,
		"100.64.0.1": false, "100.128.0.1": true, "127.0.0.1": false, "169.254.1.1": false, "0.1.2.3": false,
		"224.0.0.1": false, "255.255.255.255": false, "240.0.0.1": false,
		"2001:db8::1": true, "fe80::1": false, "fd00::1": false, "::1": false, "ff02::1": false, "fe80::1%eth0": false, "64:ff9b::1": false,
	} {
		if got := Public(netip.MustParseAddr(s)); got != want {
			t.Errorf("%s: %v, want %v", s, got, want)
		}
	}
	if Public(netip.Addr{}) {
		t.Error("no address at all is public")
	}
}

func TestChooseV6(t *testing.T) {
	good := func(a netip.Addr, preferred time.Duration) LocalAddr {
		return LocalAddr{Addr: a, Preferred: preferred, Default: true}
	}
	with := func(l LocalAddr, f func(*LocalAddr)) LocalAddr { f(&l); return l }
	for _, c := range []struct {
		name    string
		current netip.Addr
		all     []LocalAddr
		want    netip.Addr
	}{
		{"none", six1, nil, netip.Addr{}},
		{"one", netip.Addr{}, []LocalAddr{good(six1, time.Hour)}, six1},
		{"a temporary one does not count", netip.Addr{}, []LocalAddr{with(good(six1, time.Hour), func(l *LocalAddr) { l.Temporary = true })}, netip.Addr{}},
		{"nor one that nobody has proven", netip.Addr{}, []LocalAddr{with(good(six1, time.Hour), func(l *LocalAddr) { l.Tentative = true })}, netip.Addr{}},
		{"nor private, local or IPv4", netip.Addr{}, []LocalAddr{good(netip.MustParseAddr("fd00::1"), time.Hour), good(netip.MustParseAddr("fe80::1"), time.Hour), good(home1, time.Hour)}, netip.Addr{}},
		{"the current one stays", six2, []LocalAddr{good(six1, 2*time.Hour), good(six2, 90*time.Minute)}, six2},
		{"a deprecated one goes", six1, []LocalAddr{with(good(six1, 0), func(l *LocalAddr) { l.Deprecated = true }), good(six2, time.Hour)}, six2},
		{"the old prefix is not renewed", six1, []LocalAddr{good(six1, 2*time.Hour), good(six2, 4*time.Hour)}, six2},
		{"the link that leads outside", six1, []LocalAddr{with(good(six1, 24*time.Hour), func(l *LocalAddr) { l.Default = false }), good(six2, time.Hour)}, six2},
		{"equals: always the same", netip.Addr{}, []LocalAddr{good(six2, time.Hour), good(six1, time.Hour)}, six1},
	} {
		if got := chooseV6(c.current, c.all); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
