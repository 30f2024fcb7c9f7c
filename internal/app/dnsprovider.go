package app

import (
	"reflect"

	"github.com/mholt/acmez/v3"

	"postern/internal/config"
	"postern/internal/dnsapi"
	"postern/internal/dnscheck"
	"postern/internal/tlsmgr"
)

// dns01 keeps the solver of dns-01 over reloads that leave it as it is: it
// knows whose turn it is at a host with room for one record.
type dns01 struct {
	provider string
	settings dnsapi.Settings
	dns      config.DNS
	solver   acmez.Solver // nil: none yet
}

// next returns d, or a new one if cfg wants another. It changes nothing.
func (d dns01) next(cfg *config.Config, check *dnscheck.Checker, opt tlsmgr.DNS01Config) (dns01, error) {
	p := cfg.TLS.DNSProvider
	if p == nil {
		return dns01{}, nil
	}
	want := dns01{provider: p.Provider, settings: dnsSettings(p), dns: cfg.DNS}
	if d.solver != nil && d.provider == want.provider && d.settings == want.settings && reflect.DeepEqual(d.dns, want.dns) {
		return d, nil
	}
	client, err := dnsapi.New(want.provider, want.settings)
	if err != nil {
		return dns01{}, err
	}
	opt.Records, opt.Alias, opt.Seen = client, check.Alias, check.SeeTXT
	want.solver = tlsmgr.NewDNS01(opt)
	return want, nil
}

// dnsSettings translates what the file says about a DNS host.
func dnsSettings(p *config.DNSProvider) dnsapi.Settings {
	return dnsapi.Settings{
		Token: p.Token.Reveal(), Key: p.Key, Secret: p.Secret.Reveal(), Zone: p.Zone,
		Subdomain: p.Subdomain, Algorithm: p.Algorithm, Endpoint: p.Endpoint,
	}
}
