package app

import (
	"slices"
	"testing"

	"postern/internal/config"
	"postern/internal/dnsapi"
	"postern/internal/dnscheck"
	"postern/internal/tlsmgr"
)

// TestProvidersAgree: the file's providers are those that have a client.
func TestProvidersAgree(t *testing.T) {
	if got, want := config.DNSProviders(), dnsapi.Names(); !slices.Equal(got, want) {
		t.Errorf("the file knows %q, the clients are %q", got, want)
	}
}

// TestDNS01Kept: a reload that leaves the DNS host alone keeps the solver,
// which knows whose turn it is there.
func TestDNS01Kept(t *testing.T) {
	cfg := config.Default()
	check := dnscheck.New(dnscheck.Config{})
	next := func(d dns01) dns01 {
		t.Helper()
		out, err := d.next(cfg, check, tlsmgr.DNS01Config{})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	none := next(dns01{})
	if none.solver != nil {
		t.Error("a solver without a provider")
	}
	cfg.TLS.DNSProvider = &config.DNSProvider{Provider: "desec", Token: config.NewSecret("one")}
	first := next(none)
	cfg.TLS.DNSProvider = &config.DNSProvider{Provider: "desec", Token: config.NewSecret("one")}
	if again := next(first); again.solver != first.solver || first.solver == nil {
		t.Error("the same provider made another solver")
	}
	cfg.TLS.DNSProvider = &config.DNSProvider{Provider: "desec", Token: config.NewSecret("two")}
	if other := next(first); other.solver == first.solver {
		t.Error("another token kept the solver")
	}
	cfg.TLS.DNSProvider = &config.DNSProvider{Provider: "desec"}
	if _, err := first.next(cfg, check, tlsmgr.DNS01Config{}); err == nil {
		t.Error("no error without a token")
	}
}
