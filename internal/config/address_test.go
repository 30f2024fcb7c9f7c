package config

import (
	"fmt"
	"strings"
	"testing"
)

// TestAddressWarnings: what is allowed and hardly meant.
func TestAddressWarnings(t *testing.T) {
	const site = "\nsites:\n  - hosts: [mypi.duckdns.org]\n    upstream: 127.0.0.1:3000\n"
	const token = "token: a7c4d0ad-114e-40ef-ba1d-d217904a50f2"
	for src, want := range map[string]string{
		"ddns: [{provider: duckdns, hosts: [mypi.duckdns.org], " + token + "}]":                                                  "",
		"ddns: [{provider: duckdns, hosts: [other.duckdns.org], " + token + "}]":                                                 "1: ddns[0].hosts[0]: no site has the host other.duckdns.org",
		"public_address: {interval: 10s}":                                                                                        "1: public_address.interval: 10s is oftener than free services like",
		"public_address: {sources: [https], https: ['https://127.0.0.1:8443/'], dns: ['who.test@127.0.0.1:5300'], interval: 1s}": "",
	} {
		cfg, err := parse("postern.yaml", []byte("email: me@mail.net\n"+src+site), testEnv())
		if err != nil {
			t.Errorf("%s: %v", src, err)
			continue
		}
		got := strings.ReplaceAll(fmt.Sprint(cfg.Warnings), "postern.yaml:2", "1")
		if (want == "") != (len(cfg.Warnings) == 0) || !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %q", src, got, want)
		}
	}
}

// TestAddressDefaults: an entry says little, the rest is filled in.
func TestAddressDefaults(t *testing.T) {
	cfg, err := parse("postern.yaml", []byte("ddns: [{provider: DESEC, hosts: [MyPi.dedyn.io.], token: t}]\nsites:\n  - hosts: [mypi.dedyn.io]\n    upstream: 127.0.0.1:3000\n"), testEnv())
	if err != nil {
		t.Fatal(err)
	}
	d := cfg.DDNS[0]
	if d.Provider != "desec" || d.Hosts[0] != "mypi.dedyn.io" || d.IPv6 != "auto" || d.Interval != defaultDDNSInterval {
		t.Errorf("%+v", d)
	}
	if p := cfg.PublicAddress; len(p.Sources) != 3 || len(p.HTTPS) == 0 || len(p.DNS) == 0 || p.Interval != defaultDDNSInterval {
		t.Errorf("%+v", p)
	}
	if !cfg.WantsPublicAddress() || Default().WantsPublicAddress() {
		t.Error("the public address is wanted where something depends on it, and only there")
	}
}
