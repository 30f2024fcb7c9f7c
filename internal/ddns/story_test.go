package ddns

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/internal/dnsapi"
	"postern/internal/dnscheck"
)

func story(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

func TestAddressStories(t *testing.T) {
	three := []Kind{Router, DNSEcho, HTTPSEcho}
	story(t, "the router sees it first, the others are asked at once", func(t *testing.T) {
		r := newRig(t, three)
		r.start()
		r.pass(time.Second)
		r.wants("at first", r.believed(), home1)
		r.pass(90 * time.Second) // the echo services are not due for minutes
		r.say(home2, "router", "dns", "https")
		r.pass(time.Minute)
		r.wants("a minute later", r.believed(), home2)
		r.wants("changes told", len(r.changes), 2)
		r.stop()
	})
	story(t, "a link changes, everybody is asked at once", func(t *testing.T) {
		r := newRig(t, three)
		told := 0
		r.cfg.OnLink = func() { told++ }
		r.start()
		r.pass(30 * time.Second)
		r.say(home2, "router", "dns", "https")
		r.link()
		r.wants("links told to others", told, 1)
		r.pass(3 * time.Second)
		r.wants("after 3 s", r.believed(), home2)
		before := r.asked["dns"]
		for range 100 {
			r.link() // a cable with a loose contact
			r.pass(100 * time.Millisecond)
		}
		if n := r.asked["dns"] - before; n > 7 {
			t.Errorf("asked %d times in 10 s", n)
		}
		r.stop()
	})
	story(t, "a liar is asked no oftener than the pace in the long run", func(t *testing.T) {
		r := newRig(t, three)
		r.say(liar, "https")
		r.start()
		r.pass(time.Hour)
		r.wants("believed", r.believed(), home1)
		r.pass(24 * time.Hour)
		r.wants("believed", r.believed(), home1)
		if n := r.asked["https"]; n > 25*12+20 {
			t.Errorf("the liar was asked %d times in 25 h", n)
		}
		r.stop()
	})
	story(t, "the router alone: three times in a row", func(t *testing.T) {
		r := newRig(t, []Kind{Router})
		r.start()
		r.wants("at once", r.believed(), netip.Addr{})
		r.pass(time.Minute)
		r.wants("soon", r.believed(), home1)
		r.say(liar, "router") // once
		r.pass(time.Minute)
		r.say(home1, "router")
		r.pass(10 * time.Minute)
		r.wants("after a slip of the tongue", r.believed(), home1)
		r.say(home2, "router")
		r.pass(3 * time.Minute)
		r.wants("for good", r.believed(), home2)
		r.stop()
	})
	story(t, "everything is down, then it comes back with another address", func(t *testing.T) {
		r := newRig(t, three)
		r.start()
		r.pass(time.Minute)
		r.say(netip.Addr{}, "router", "dns", "https")
		r.pass(8 * time.Hour)
		r.wants("meanwhile", r.believed(), home1)
		r.say(home2, "router", "dns", "https")
		r.pass(time.Minute + time.Second)
		r.wants("a minute after", r.believed(), home2)
		r.stop()
	})
	story(t, "a source that panics", func(t *testing.T) {
		r := newRig(t, three)
		r.cfg.Sources[0].Addr = nil
		r.start()
		r.pass(time.Minute)
		r.wants("believed", r.believed(), home1)
		r.stop()
	})
	story(t, "carrier NAT: the router has an address that nobody reaches", func(t *testing.T) {
		r := newRig(t, three)
		r.say(cgnat, "router")
		r.start()
		r.pass(time.Minute)
		r.wants("believed", r.believed(), home1)
		r.stop()
	})
}

func TestRecordStories(t *testing.T) {
	two := []Kind{DNSEcho, HTTPSEcho}
	const name = "duckdns.example"
	want := Addresses{V4: home1}
	story(t, "set once, then left alone", func(t *testing.T) {
		r := newRig(t, two, "duckdns")
		r.start()
		r.pass(time.Minute)
		duck := r.hosts["duckdns"]
		r.wants("records", duck.has(name), want)
		r.pass(48 * time.Hour)
		r.wants("calls", duck.calls, 1)
		r.wants("notices", len(r.told()), 0)
		r.stop()
	})
	story(t, "right already: never written", func(t *testing.T) {
		r := newRig(t, two, "duckdns")
		duck := r.hosts["duckdns"]
		duck.records[name] = want
		r.start()
		r.pass(24 * time.Hour)
		r.wants("calls", duck.calls, 0)
		r.stop()
	})
	story(t, "an outage is told once at each end, and another host goes on", func(t *testing.T) {
		r := newRig(t, two, "duckdns", "desec")
		r.hosts["duckdns"].api = unreachable()
		r.start()
		r.pass(time.Minute)
		r.wants("the other", r.hosts["desec"].has("desec.example"), want)
		r.pass(3 * 24 * time.Hour)
		r.wants("notices", len(r.told()), 1)
		r.hosts["duckdns"].set(func(f *fakeHost) { f.api = nil })
		r.pass(longestPause + time.Second)
		r.wants("records", r.hosts["duckdns"].has(name), want)
		told := r.told()
		r.wants("notices", len(told), 2)
		if len(told) == 2 {
			n := told[1]
			if n.Part != partAPI || n.Ended.Sub(n.Since) < 3*24*time.Hour || !strings.Contains(n.Sentence, "72h") {
				t.Errorf("the end: %+v", n)
			}
		}
		r.stop()
	})
	story(t, "a wrong token is no outage, and another one is tried at once", func(t *testing.T) {
		r := newRig(t, two, "duckdns")
		duck := r.hosts["duckdns"]
		duck.api = rejected()
		r.start()
		r.pass(24 * time.Hour)
		told := r.told()
		if len(told) != 1 || told[0].Part != partAccess || told[0].Name != name {
			t.Fatalf("told %+v", told)
		}
		if duck.calls > 12 {
			t.Errorf("%d calls in a day with a token that is refused", duck.calls)
		}
		duck.set(func(f *fakeHost) { f.api = nil })
		cfg := r.cfg
		cfg.Entries = []Entry{{Provider: "duckdns", Settings: dnsapi.Settings{Token: "the right one"}, Hosts: []string{name}}}
		if err := r.m.Apply(cfg); err != nil {
			t.Fatal(err)
		}
		r.pass(time.Minute)
		r.wants("records", duck.has(name), want)
		told = r.told()
		if len(told) != 2 || told[1].Ended.IsZero() {
			t.Errorf("told %+v", told)
		}
		r.stop()
	})
}

func TestPatienceStories(t *testing.T) {
	two := []Kind{DNSEcho, HTTPSEcho}
	const name = "duckdns.example"
	want := Addresses{V4: home1}
	story(t, "a host asks for patience", func(t *testing.T) {
		r := newRig(t, two, "duckdns")
		duck := r.hosts["duckdns"]
		duck.api = &dnsapi.Error{Provider: "x", Op: "set", Kind: dnsapi.ErrLimited, RetryAfter: 3 * time.Hour}
		r.start()
		r.pass(2 * time.Hour)
		r.wants("calls", duck.calls, 1)
		duck.set(func(f *fakeHost) { f.api = nil })
		r.pass(time.Hour + time.Minute)
		r.wants("records", duck.has(name), want)
		r.wants("notices", len(r.told()), 0)
		r.stop()
	})
	story(t, "somebody changes the record: it is set again, and told if that does not help", func(t *testing.T) {
		r := newRig(t, two, "duckdns")
		duck := r.hosts["duckdns"]
		r.start()
		r.pass(2 * time.Hour)
		duck.set(func(f *fakeHost) { f.records[name] = Addresses{V4: liar} })
		r.pass(10 * time.Minute)
		r.wants("records", duck.has(name), want)
		told := r.told()
		if len(told) != 2 || told[0].Part != partRecord || !strings.Contains(told[0].Sentence, "no such record") || told[1].Ended.IsZero() {
			t.Errorf("told %+v", told)
		}
		r.wants("writes", duck.writes, 2)
		r.stop()
	})
	story(t, "our own line is down: no DNS host is blamed", func(t *testing.T) {
		r := newRig(t, two, "duckdns")
		duck := r.hosts["duckdns"]
		r.start()
		r.pass(time.Hour)
		r.say(netip.Addr{}, "dns", "https")
		r.pass(12 * time.Minute) // what was heard last has become old
		duck.set(func(f *fakeHost) { f.api, f.servers = unreachable(), true })
		r.pass(12 * time.Hour)
		r.wants("notices", len(r.told()), 0)
		duck.set(func(f *fakeHost) { f.api, f.servers = nil, false })
		r.say(home2, "dns", "https")
		r.pass(2 * time.Minute)
		r.wants("records", duck.has(name), Addresses{V4: home2})
		r.stop()
	})
	story(t, "the name servers cannot be found: it is written all the same", func(t *testing.T) {
		r := newRig(t, two, "duckdns")
		see := r.cfg.See
		r.cfg.See = func(ctx context.Context, n string, a netip.Addr) (dnscheck.Seen, error) {
			_, _ = see(ctx, n, a)
			return dnscheck.Seen{}, errors.New("no resolver")
		}
		r.start()
		r.pass(24 * time.Hour)
		r.wants("records", r.hosts["duckdns"].has(name), want)
		r.wants("calls", r.hosts["duckdns"].calls, 1)
		r.wants("notices", len(r.told()), 0)
		r.stop()
	})
}

func TestIPv6Stories(t *testing.T) {
	two := []Kind{DNSEcho, HTTPSEcho}
	const name = "duckdns.example"
	eth := func(a netip.Addr) LocalAddr { return LocalAddr{Addr: a, Link: "eth0", Default: true} }
	story(t, "a new prefix is followed, a lost one is cleared after a while", func(t *testing.T) {
		r := newRig(t, two, "duckdns")
		duck := r.hosts["duckdns"]
		r.link(eth(six1))
		r.start()
		r.pass(time.Minute)
		r.wants("records", duck.has(name), Addresses{home1, six1})
		r.link(eth(six2))
		r.pass(10 * time.Second)
		r.wants("the new prefix", duck.has(name), Addresses{home1, six2})
		r.link()
		r.pass(9 * time.Minute)
		r.wants("it may come back", duck.has(name), Addresses{home1, six2})
		r.pass(3 * time.Minute)
		r.wants("it did not", duck.has(name), Addresses{V4: home1})
		r.wants("cleared", duck.cleared, 1)
		r.link(eth(six1))
		r.pass(10 * time.Second)
		r.wants("another day", duck.has(name), Addresses{home1, six1})
		r.stop()
	})
	story(t, "off: ours is cleared, after a reload", func(t *testing.T) {
		r := newRig(t, two, "duckdns")
		duck := r.hosts["duckdns"]
		r.link(eth(six1))
		r.start()
		r.pass(time.Minute)
		cfg := r.cfg
		cfg.Entries = []Entry{cfg.Entries[0]}
		cfg.Entries[0].NoV6 = true
		if err := r.m.Apply(cfg); err != nil {
			t.Fatal(err)
		}
		r.pass(time.Minute)
		r.wants("records", duck.has(name), Addresses{V4: home1})
		r.wants("writes", duck.writes, 1)
		r.stop()
	})
	story(t, "a host that cannot take it away is told of once, and IPv4 goes on", func(t *testing.T) {
		r := newRig(t, two, "duckdns")
		duck := r.hosts["duckdns"]
		duck.clear = &dnsapi.Error{Provider: "x", Op: "clear", Kind: dnsapi.ErrRejected, RetryAfter: 24 * time.Hour}
		r.link(eth(six1))
		r.start()
		r.pass(time.Minute)
		r.link()
		r.pass(time.Hour)
		r.wants("notices", len(r.told()), 1)
		r.say(home2, "dns", "https")
		r.pass(10 * time.Minute)
		r.wants("records", duck.has(name), Addresses{home2, six1})
		r.stop()
	})
	story(t, "off: what others set stays", func(t *testing.T) {
		r := newRig(t, two, "duckdns")
		duck := r.hosts["duckdns"]
		duck.records[name] = Addresses{home2, six2}
		r.cfg.Entries[0].NoV6 = true
		r.link(eth(six1))
		r.start()
		r.pass(time.Hour)
		r.wants("records", duck.has(name), Addresses{home1, six2})
		r.stop()
	})
}

// files gives the rig a folder.
func files(t *testing.T, r *rig) {
	dir := t.TempDir()
	r.cfg.File, r.cfg.History = filepath.Join(dir, "addresses.json"), filepath.Join(dir, "dns-hosts.json")
}

func TestRestartStories(t *testing.T) {
	two := []Kind{DNSEcho, HTTPSEcho}
	const name = "duckdns.example"
	story(t, "everything is down at the start: the last address is used", func(t *testing.T) {
		r := newRig(t, two, "duckdns")
		files(t, r)
		r.start()
		r.pass(time.Minute)
		r.stop()
		r.say(netip.Addr{}, "dns", "https")
		r.hosts["duckdns"].set(func(f *fakeHost) { f.api, f.servers = unreachable(), true })
		r.start()
		r.wants("at once", r.believed(), home1)
		r.wants("sure of it", r.m.Sure(), false)
		r.pass(time.Hour)
		r.wants("later", r.believed(), home1)
		r.wants("calls", r.hosts["duckdns"].calls, 1)
		r.stop()
	})
	story(t, "nothing is written again after a restart", func(t *testing.T) {
		r := newRig(t, two, "duckdns")
		files(t, r)
		r.link(LocalAddr{Addr: six1, Default: true})
		for range 5 {
			r.start()
			r.pass(time.Hour)
			r.stop()
		}
		r.wants("calls", r.hosts["duckdns"].calls, 1)
		r.link()
		r.start()
		r.pass(time.Hour)
		r.wants("the address we set before the restart", r.hosts["duckdns"].has(name), Addresses{V4: home1})
		r.stop()
	})
	story(t, "an outage lasts over a restart and is told once at each end", func(t *testing.T) {
		r := newRig(t, two, "duckdns")
		files(t, r)
		duck := r.hosts["duckdns"]
		r.start()
		r.pass(time.Hour)
		duck.set(func(f *fakeHost) { f.servers = true })
		r.pass(time.Hour)
		r.stop()
		r.start()
		r.pass(time.Hour)
		r.wants("notices", len(r.told()), 1)
		duck.set(func(f *fakeHost) { f.servers = false })
		r.pass(10 * time.Minute)
		told := r.told()
		if len(told) != 2 || told[1].Part != partServers || told[1].Ended.Sub(told[1].Since) < 2*time.Hour {
			t.Errorf("told %+v", told)
		}
		r.wants("history", len(r.m.History()), 1)
		r.pass(8 * 24 * time.Hour)
		r.wants("history a week later", len(r.m.History()), 0)
		r.stop()
	})
	story(t, "what is not configured any more is not in trouble", func(t *testing.T) {
		r := newRig(t, two, "duckdns", "desec")
		files(t, r)
		for _, f := range r.hosts {
			f.api = unreachable()
		}
		r.start()
		r.pass(time.Hour)
		r.wants("open", len(r.m.Status().Outages), 2)
		r.stop()
		r.cfg.Entries = r.cfg.Entries[:1]
		r.start()
		r.wants("open after the restart", len(r.m.Status().Outages), 1)
		cfg := r.cfg
		cfg.Entries = nil
		if err := r.m.Apply(cfg); err != nil {
			t.Fatal(err)
		}
		r.wants("open after the reload", len(r.m.Status().Outages), 0)
		r.stop()
	})
	story(t, "broken files are moved aside", func(t *testing.T) {
		for _, text := range []string{"{", `{"version": 7}`, `{"version": 1, "believed": {"ipv4": "2001:db8::1"}}`, ""} {
			r := newRig(t, two, "duckdns")
			files(t, r)
			for _, f := range []string{r.cfg.File, r.cfg.History} {
				if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			r.start()
			r.pass(time.Minute)
			r.wants("believed", r.believed(), home1)
			if _, err := os.Stat(r.cfg.File + ".broken"); err != nil {
				t.Errorf("%q: %v", text, err)
			}
			r.stop()
		}
	})
}

func TestReloadStories(t *testing.T) {
	two := []Kind{DNSEcho, HTTPSEcho}
	const name = "duckdns.example"
	story(t, "a reload takes over what is the same", func(t *testing.T) {
		r := newRig(t, two, "duckdns", "desec")
		r.start()
		r.pass(time.Hour)
		cfg := r.cfg
		cfg.Entries = []Entry{cfg.Entries[1], cfg.Entries[0]}
		cfg.Entries[1].Interval = time.Hour
		if err := r.m.Apply(cfg); err != nil {
			t.Fatal(err)
		}
		r.pass(time.Hour)
		for p, f := range r.hosts {
			r.wants(p+": calls", f.calls, 1)
		}
		cfg.Entries = cfg.Entries[:1]
		if err := r.m.Apply(cfg); err != nil {
			t.Fatal(err)
		}
		r.say(home2, "dns", "https")
		r.pass(time.Hour)
		r.wants("desec", r.hosts["desec"].has("desec.example").V4, home2)
		r.wants("duckdns, which is not asked for any more", r.hosts["duckdns"].has(name).V4, home1)
		cfg.Client = func(string, dnsapi.Settings) (Records, error) { return nil, errDown }
		cfg.Entries = []Entry{{Provider: "new", Hosts: []string{name}}}
		if err := r.m.Apply(cfg); !errors.Is(err, errDown) {
			t.Errorf("error %v", err)
		}
		r.say(home1, "dns", "https")
		r.pass(time.Hour)
		r.wants("after a reload that was refused", r.hosts["desec"].has("desec.example").V4, home1)
		r.stop()
	})
}
