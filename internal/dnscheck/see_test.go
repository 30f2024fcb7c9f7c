package dnscheck

import (
	"net/netip"
	"strings"
	"testing"

	"postern/internal/testnet"
)

func TestSeeTXT(t *testing.T) {
	const name, value = "_acme-challenge." + home, "the-value"
	h := newHouse(t)
	c := New(h.cfg)
	see := func(what string, with, without, silent int) {
		t.Helper()
		got, err := c.SeeTXT(t.Context(), strings.ToUpper(name)+".", value)
		if err != nil {
			t.Fatal(err)
		}
		if got.With != with || len(got.Without) != without || len(got.Silent) != silent {
			t.Errorf("%s: %+v, want %d with, %d without, %d silent", what, got, with, without, silent)
		}
	}
	see("before", 0, 4, 0)
	h.duck[0].Add(t, name+` 60 IN TXT "the-value"`)
	h.duck[1].Add(t, name+` 60 IN TXT "the-" "value"`, name+` 60 IN TXT "old"`)
	h.duck[2].Add(t, name+` 60 IN TXT "old"`)
	see("half way", 2, 2, 0)
	h.duck[2].SetFault(name, "TXT", testnet.ServFail)
	h.duck[3].SetFault(name, "TXT", testnet.Drop)
	see("two are down", 2, 0, 2)
	breakServers(h.duck, 4, name, "TXT", testnet.Lame)
	see("nobody speaks for the zone", 0, 0, 4)
}

func TestSeeAddr(t *testing.T) {
	const name = "see." + home
	h := newHouse(t)
	c := New(h.cfg)
	v4, v6 := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")
	see := func(what string, a netip.Addr, with, without, silent int) {
		t.Helper()
		got, err := c.SeeAddr(t.Context(), strings.ToUpper(name)+".", a)
		if err != nil {
			t.Fatal(err)
		}
		if got.With != with || len(got.Without) != without || len(got.Silent) != silent {
			t.Errorf("%s: %+v, want %d with, %d without, %d silent", what, got, with, without, silent)
		}
	}
	see("before", v4, 0, 4, 0)
	for i, rr := range []string{"A 192.0.2.7", "A 192.0.2.8", "AAAA 2001:db8::7", "A 192.0.2.7"} {
		h.duck[i].Add(t, name+" 60 IN "+rr)
	}
	see("some", v4, 2, 2, 0)
	see("IPv6", v6, 1, 3, 0)
	h.duck[0].Add(t, name+" 60 IN A 192.0.2.9")
	see("one beside it is one too many", v4, 1, 3, 0)
	h.duck[3].SetFault(name, "A", testnet.Drop)
	see("one is down", v4, 0, 3, 1)
	got, err := c.SeeAddr(t.Context(), name, v4)
	if err != nil || !strings.Contains(strings.Join(got.Without, "; "), "192.0.2.8") {
		t.Errorf("what else they have: %+v, %v", got, err)
	}
}

func TestSeeTXTWithoutServers(t *testing.T) {
	h := newHouse(t)
	h.lab.Resolver.SetFault("*", "*", testnet.ServFail)
	if _, err := New(h.cfg).SeeTXT(t.Context(), home, "x"); err == nil || !strings.Contains(err.Error(), "no resolver tells the name servers") {
		t.Errorf("error %v", err)
	}
}

func TestAliasFollowed(t *testing.T) {
	h := newHouse(t)
	h.lab.Add("_acme-challenge.a.duckdns.org 60 IN CNAME b.duckdns.org", "b.duckdns.org 60 IN CNAME Here.duckdns.org")
	c := New(h.cfg)
	for name, want := range map[string]string{
		"_acme-challenge.a.duckdns.org": "here.duckdns.org",
		"_acme-challenge." + home:       "_acme-challenge." + home,
	} {
		if got, err := c.Alias(t.Context(), name); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
	h.lab.Resolver.SetFault("*", "TXT", testnet.ServFail)
	if got, err := c.Alias(t.Context(), home); err == nil {
		t.Errorf("with a dead resolver: %q, want an error", got)
	}
}
