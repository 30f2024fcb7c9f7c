package dnsapi

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/internal/testnet"
)

var (
	test4 = netip.MustParseAddr("203.0.113.7")
	test6 = netip.MustParseAddr("2001:db8::7")
)

// addrSubjects are the hosts that keep addresses and have a fake, with a name.
func addrSubjects() []subject {
	out := slices.DeleteFunc(subjects(), func(s subject) bool { return s.keeps })
	for i := range out {
		out[i].name = strings.TrimPrefix(out[i].name, "_acme-challenge.")
	}
	return append(out, subject{
		provider: "dyndns2", name: "home.example.org", stranger: "x.example.com",
		settings: Settings{Key: testnet.HostKey, Secret: goodToken}, wrong: Settings{Key: testnet.HostKey, Secret: badToken},
	})
}

func mustNewAddrs(t testing.TB, name string, s Settings, endpoint string) Addrs {
	t.Helper()
	s.Endpoint = endpoint
	p, err := NewAddrs(name, s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestAddrs sets, keeps and clears addresses at every host.
func TestAddrs(t *testing.T) {
	for _, s := range addrSubjects() {
		t.Run(s.provider, func(t *testing.T) {
			t.Parallel()
			h, url := newHost(t, s.provider)
			p := mustNewAddrs(t, s.provider, s.settings, url)
			if p.Name() != s.provider {
				t.Errorf("name %q, want %q", p.Name(), s.provider)
			}
			step := func(what string, err error, want4, want6 string) {
				t.Helper()
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				got4, got6 := strings.Join(h.Get(s.name, "A"), ","), strings.Join(h.Get(s.name, "AAAA"), ",")
				if got4 != want4 || got6 != want6 {
					t.Fatalf("%s: the host has %q and %q, want %q and %q", what, got4, got6, want4, want6)
				}
			}
			ctx := t.Context()
			step("IPv4", p.SetAddrs(ctx, s.name, test4, netip.Addr{}), "203.0.113.7", "")
			step("both", p.SetAddrs(ctx, strings.ToUpper(s.name)+".", test4.Next(), test6), "203.0.113.8", "2001:db8::7")
			step("IPv6", p.SetAddrs(ctx, s.name, netip.Addr{}, test6.Next()), "203.0.113.8", "2001:db8::8")
			step("none", p.SetAddrs(ctx, s.name, netip.Addr{}, netip.Addr{}), "203.0.113.8", "2001:db8::8")
			calls := len(h.Calls())
			step("probe", p.Probe(ctx, s.name), "203.0.113.8", "2001:db8::8")
			if len(h.Calls()) == calls {
				t.Error("probe asked nobody")
			}
			if s.provider == "dyndns2" {
				expect(t, "clear", p.ClearV6(ctx, s.name, test4.Next(), test6.Next()), ErrRejected)
				return
			}
			step("clear", p.ClearV6(ctx, s.name, test4.Next(), test6.Next()), "203.0.113.8", "")
			step("clear again", p.ClearV6(ctx, s.name, test4.Next(), test6.Next()), "203.0.113.8", "")
			if s.provider == "duckdns" || s.provider == "dynv6" {
				return // one address of each kind is all they hold
			}
			h.Set(s.name, "A", "192.0.2.1", "192.0.2.2")
			h.Set(s.name, "AAAA", "2001:db8::1", test6.String())
			step("one of several", p.SetAddrs(ctx, s.name, test4, netip.Addr{}), "203.0.113.7", "2001:db8::1,2001:db8::7")
			step("clear ours", p.ClearV6(ctx, s.name, test4, test6), "203.0.113.7", "2001:db8::1")
		})
	}
}

// TestAddrsUnchanged: what is right already is only looked at.
func TestAddrsUnchanged(t *testing.T) {
	for _, s := range addrSubjects() {
		if s.provider == "duckdns" || s.provider == "dynv6" || s.provider == "dyndns2" {
			continue // they cannot be looked at
		}
		h, url := newHost(t, s.provider)
		p := mustNewAddrs(t, s.provider, s.settings, url)
		h.Set(s.name, "A", test4.String())
		h.Set(s.name, "AAAA", test6.String())
		h.OnChange(func(name, typ string, values []string) {
			t.Errorf("%s: %s %s became %q", s.provider, name, typ, values)
		})
		if err := p.SetAddrs(t.Context(), s.name, test4, test6); err != nil {
			t.Errorf("%s: %v", s.provider, err)
		}
	}
}

// TestAddrsBelowZone: names below a zone of dynv6 are records.
func TestAddrsBelowZone(t *testing.T) {
	h, url := newHost(t, "dynv6")
	p := mustNewAddrs(t, "dynv6", Settings{Token: goodToken}, url)
	const name = "app.home.dynv6.net"
	for _, a := range []netip.Addr{test4, test4.Next()} {
		if err := p.SetAddrs(t.Context(), name, a, test6); err != nil {
			t.Fatal(err)
		}
		if got := h.Get(name, "A"); !slices.Equal(got, []string{a.String()}) {
			t.Errorf("A %q, want %v", got, a)
		}
	}
	if err := p.ClearV6(t.Context(), name, test4, test6); err != nil || len(h.Get(name, "AAAA")) != 0 {
		t.Errorf("%v, AAAA %q", err, h.Get(name, "AAAA"))
	}
}

// TestAddrsRefusedAndDown: a no is told from an outage, in writing and in
// probing, and neither shows the secret.
func TestAddrsRefusedAndDown(t *testing.T) {
	for _, s := range addrSubjects() {
		t.Run(s.provider, func(t *testing.T) {
			t.Parallel()
			h, url := newHost(t, s.provider)
			wrong := mustNewAddrs(t, s.provider, s.wrong, url)
			expect(t, "wrong token", wrong.SetAddrs(t.Context(), s.name, test4, test6), ErrRejected)
			right := func() Addrs { return mustNewAddrs(t, s.provider, s.settings, url) }
			expect(t, "name of somebody else", right().SetAddrs(t.Context(), s.stranger, test4, test6), ErrRejected)
			for what, f := range testnet.HostOutages() {
				h.BreakWith(f)
				expect(t, what, right().SetAddrs(t.Context(), s.name, test4, test6), ErrUnreachable)
				if what == "Jetty 404" || what == "502" || what == "cut" {
					if err := right().Probe(t.Context(), s.name); s.provider != "dyndns2" || what != "Jetty 404" {
						expect(t, "probe, "+what, err, ErrUnreachable)
					}
				}
			}
			h.BreakWith(testnet.HostHang)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			expect(t, "hang", right().SetAddrs(ctx, s.name, test4, test6), ErrUnreachable)
			expect(t, "probe, hang", right().Probe(ctx, s.name), ErrUnreachable)
		})
	}
}

// TestDynDNS2Words: what the protocol's words mean to a client: who is told no
// stays away for a day, whoever hears of the host's own trouble for half an
// hour.
func TestDynDNS2Words(t *testing.T) {
	h, url := newHost(t, "dyndns2")
	p := mustNewAddrs(t, "dyndns2", Settings{Key: testnet.HostKey, Secret: goodToken}, url)
	for _, c := range []struct {
		status int
		body   string
		kind   error
		wait   time.Duration
	}{
		{200, "good 203.0.113.7", nil, 0},
		{200, "nochg 203.0.113.7\r\n", nil, 0},
		{200, "nochg", nil, 0},
		{200, "badauth", ErrRejected, dynHold},
		{401, "badauth", ErrRejected, dynHold},
		{401, "", ErrRejected, 0},
		{200, "!donator", ErrRejected, dynHold},
		{200, "nohost", ErrRejected, dynHold},
		{404, "nohost", ErrRejected, dynHold},
		{200, "notfqdn", ErrRejected, dynHold},
		{200, "numhost", ErrRejected, dynHold},
		{200, "abuse", ErrRejected, dynHold},
		{403, "abuse", ErrRejected, dynHold},
		{200, "badagent", ErrRejected, dynHold},
		{200, "911", ErrUnreachable, dynWait},
		{500, "911", ErrUnreachable, dynWait},
		{200, "dnserr", ErrUnreachable, dynWait},
		{200, "", ErrUnreachable, 0},
		{200, "goodbye", ErrUnreachable, 0},
		{200, "<html>good</html>", ErrUnreachable, 0},
		{429, "slow", ErrLimited, 0},
	} {
		h.BreakWith(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(c.status)
			_, _ = w.Write([]byte(c.body))
		})
		err := p.SetAddrs(t.Context(), "home.example.org", test4, netip.Addr{})
		if c.kind == nil {
			if err != nil {
				t.Errorf("%q: %v", c.body, err)
			}
			continue
		}
		if e := expect(t, c.body, err, c.kind); e.RetryAfter != c.wait {
			t.Errorf("%d %q: wait %v, want %v", c.status, c.body, e.RetryAfter, c.wait)
		}
	}
}

// TestDynDNS2Sends: both addresses always go along, because the host would
// take the caller's for one that is missing; credentials only to the update.
func TestDynDNS2Sends(t *testing.T) {
	h, url := newHost(t, "dyndns2")
	p := mustNewAddrs(t, "dyndns2", Settings{Key: testnet.HostKey, Secret: goodToken}, url+"/")
	var asked []string
	h.BreakWith(func(w http.ResponseWriter, r *http.Request) {
		user, _, ok := r.BasicAuth()
		asked = append(asked, r.URL.String()+" "+user)
		if ok != (r.URL.Path == "/nic/update") {
			t.Errorf("%s: credentials %v", r.URL, ok)
		}
		_, _ = w.Write([]byte("good"))
	})
	for _, a := range [][2]netip.Addr{{test4, test6}, {test4, {}}, {{}, test6}, {}} {
		if err := p.SetAddrs(t.Context(), "Home.example.org.", a[0], a[1]); err != nil {
			t.Error(err)
		}
	}
	if err := p.Probe(t.Context(), "home.example.org"); err != nil {
		t.Error(err)
	}
	want := []string{
		"/nic/update?hostname=home.example.org&myip=203.0.113.7&myipv6=2001%3Adb8%3A%3A7 pk1-name",
		"/nic/update?hostname=home.example.org&myip=203.0.113.7 pk1-name",
		"/nic/update?hostname=home.example.org&myip=2001%3Adb8%3A%3A7 pk1-name",
		"/ ",
	}
	if !slices.Equal(asked, want) {
		t.Errorf("asked\n%q, want\n%q", asked, want)
	}
}

// TestDuckDNSProbe: a call without a token is answered KO by one that is
// there, and the token does not travel for it.
func TestDuckDNSProbe(t *testing.T) {
	h, url := newHost(t, "duckdns")
	p := mustNewAddrs(t, "duckdns", Settings{Token: goodToken}, url)
	h.BreakWith(func(w http.ResponseWriter, r *http.Request) {
		if got, want := r.URL.String(), "/update?domains=home"; got != want {
			t.Errorf("asked %s, want %s", got, want)
		}
		_, _ = w.Write([]byte("KO"))
	})
	if err := p.Probe(t.Context(), "home.duckdns.org"); err != nil {
		t.Error(err)
	}
}

// TestMakersKeepTheirWord: a client can do what the table says, and no more is
// claimed.
func TestMakersKeepTheirWord(t *testing.T) {
	s := Settings{Token: goodToken, Key: "k", Secret: "c2VjcmV0", Endpoint: "http://127.0.0.1:1", Subdomain: "s"}
	for _, m := range makers() {
		if m.name == "rfc2136" {
			s.Endpoint = "127.0.0.1:1"
		} else {
			s.Endpoint = "http://127.0.0.1:1"
		}
		c, err := m.make(s)
		if err != nil {
			t.Fatal(err)
		}
		_, txt := c.(Provider)
		_, addrs := c.(Addrs)
		if txt != (m.can&forTXT != 0) || addrs != (m.can&forAddrs != 0) {
			t.Errorf("%s: TXT %v, addresses %v, the table says %b", m.name, txt, addrs, m.can)
		}
	}
	if _, err := NewAddrs("acme-dns", s); err == nil || errors.Is(err, ErrRejected) {
		t.Errorf("acme-dns for addresses: %v", err)
	}
}
