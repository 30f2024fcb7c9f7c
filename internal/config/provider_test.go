package config

import (
	"slices"
	"testing"
)

// TestProviders: each provider with what it wants is accepted, and dns-01 then
// proves wildcards and needs no listener for the challenge.
func TestProviders(t *testing.T) {
	good := map[string]string{
		"acme-dns":     "endpoint: 'http://192.168.1.5:8080', key: user, secret: pass, subdomain: 8e5700ea-a4bf-41c7-8a77-e990661dcc6a",
		"cloudflare":   "token: tok",
		"desec":        "token: tok, endpoint: 'http://127.0.0.1:9000'",
		"digitalocean": "token: tok",
		"duckdns":      "token: A7C4D0AD-114e-40ef-ba1d-d217904a50f2",
		"dynv6":        "token: tok",
		"gandi":        "token: tok",
		"hetzner":      "token: tok",
		"porkbun":      "key: pk1_a, secret: sk1_b",
		"rfc2136":      "endpoint: ns1.example.org, key: home, secret: c2VjcmV0, zone: example.org, algorithm: HMAC-SHA512",
		"route53":      "key: ASIAEXAMPLE, secret: sec, token: session, zone: Z1D633PJN98FT9",
	}
	for _, name := range DNSProviders() {
		src := "tls: {dns_provider: {provider: " + name + ", " + good[name] + "}}\n" +
			"sites:\n  - hosts: ['*.home.example.net', home.example.net]\n    upstream: 127.0.0.1:3000\n"
		cfg, err := parse("postern.yaml", []byte(src), testEnv())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		p := cfg.TLS.DNSProvider
		if p == nil || p.Provider != name {
			t.Errorf("%s: %+v", name, p)
		}
		if got := cfg.TLS.ACME[0].Challenges; !slices.Equal(got, []string{"http-01", "tls-alpn-01", "dns-01"}) {
			t.Errorf("%s: challenges %q", name, got)
		}
	}
	if len(good) != len(DNSProviders()) {
		t.Errorf("%d providers, want %d", len(DNSProviders()), len(good))
	}
	src := "listen: {http: ''}\ntls: {challenge: dns-01, dns_provider: {provider: desec, token: t}}\n" +
		"sites:\n  - hosts: [home.example.net]\n    upstream: 127.0.0.1:3000\n"
	if _, err := parse("postern.yaml", []byte(src), testEnv()); err != nil {
		t.Error(err)
	}
}

// TestSingleEntry: one entry needs no list, for ddns and publish as for notify.
func TestSingleEntry(t *testing.T) {
	src := "ddns: {provider: desec, hosts: [mypi.dedyn.io], token: t}\n" +
		"publish: {webhook: {url: 'https://hooks.example.net/postern', secret: an-example-of-a-long-secret}}\n" +
		"sites: [{hosts: [mypi.dedyn.io], upstream: '127.0.0.1:3000'}]\n"
	cfg, err := parse("postern.yaml", []byte(src), testEnv())
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.DDNS) != 1 || cfg.DDNS[0].Provider != "desec" || cfg.DDNS[0].IPv6 != "auto" {
		t.Errorf("ddns %+v, want one entry with its defaults", cfg.DDNS)
	}
	if len(cfg.Publish) != 1 {
		t.Errorf("publish %+v, want one entry", cfg.Publish)
	}
}
