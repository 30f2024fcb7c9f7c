package app

import (
	"context"
	"net/netip"
	"path/filepath"
	"slices"

	"postern/internal/config"
	"postern/internal/ddns"
	"postern/internal/dnsapi"
	"postern/internal/dnscheck"
)

// newAddresses makes the keeper of the public address. It knows what was
// believed before the restart, and touches no network.
func (a *App) newAddresses(cfg *config.Config, check *dnscheck.Checker) error {
	c := a.addressConfig(cfg, check)
	c.Log, c.Registerer = a.log, a.registry
	c.File = filepath.Join(cfg.Data, "addresses.json")
	c.History = filepath.Join(cfg.Data, "dns-hosts.json")
	var err error
	if a.address, err = ddns.New(c); err != nil {
		return err
	}
	a.spareOwn()
	return nil
}

// addressConfig translates what the file says about the public address and
// the records that follow it.
func (a *App) addressConfig(cfg *config.Config, check *dnscheck.Checker) ddns.Config {
	out := ddns.Config{
		Interval:  cfg.PublicAddress.Interval,
		See:       check.SeeAddr,
		OnAddress: a.addressChanged,
		OnNotice:  a.dnsHostNoticed,
	}
	if cfg.WantsPublicAddress() {
		out.Sources = addressSources(&cfg.PublicAddress, a.RouterAddr, func(err error) {
			a.log.Error("a source of the public address is left out", "err", err)
		})
	}
	for i := range cfg.DDNS {
		d := &cfg.DDNS[i]
		out.Entries = append(out.Entries, ddns.Entry{
			Provider: d.Provider, Settings: ddnsSettings(d), Hosts: d.Hosts, NoV6: d.IPv6 == "off", Interval: d.Interval,
		})
	}
	return out
}

// addressSources are those that the file names and this process can ask. What
// the file says was checked before; one that cannot be made is left out and
// told.
func addressSources(p *config.PublicAddress, router func(context.Context) (netip.Addr, error), bad func(error)) []ddns.Source {
	var out []ddns.Source
	add := func(s ddns.Source, err error) {
		if err != nil {
			bad(err)
			return
		}
		out = append(out, s)
	}
	if slices.Contains(p.Sources, config.SourceRouter) {
		add(ddns.NewRouter(router), nil)
	}
	if slices.Contains(p.Sources, config.SourceDNS) {
		for _, spec := range p.DNS {
			add(ddns.NewDNSEcho(spec))
		}
	}
	if slices.Contains(p.Sources, config.SourceHTTPS) {
		for _, u := range p.HTTPS {
			add(ddns.NewHTTPSEcho(u))
		}
	}
	return out
}

// ddnsSettings translates what the file says about a DNS host.
func ddnsSettings(d *config.DDNS) dnsapi.Settings {
	return dnsapi.Settings{
		Token: d.Token.Reveal(), Key: d.Key, Secret: d.Secret.Reveal(), Zone: d.Zone,
		Algorithm: d.Algorithm, Endpoint: d.Endpoint,
	}
}

// knownAddresses are those that the names of this house have to point to; none
// while that is not known.
func (a *App) knownAddresses() []netip.Addr {
	believed := a.address.Addresses()
	if !believed.V4.IsValid() {
		return nil // behind a router it is what the names point to
	}
	return append(believed.List(), publicAddresses()...)
}

// publicAddresses are those that callers reach us at: what is believed or, as
// long as nothing is, those of this machine.
func (a *App) publicAddresses() []netip.Addr {
	if list := a.address.Addresses().List(); len(list) > 0 {
		return list
	}
	return publicAddresses()
}

// spareOwn keeps our own addresses from being banned: a caller in the house
// may come by the public one.
func (a *App) spareOwn() {
	a.guard.SetOwn(append(ownAddresses(), a.address.Addresses().List()...))
}

func (a *App) addressChanged(old, now ddns.Addresses) {
	a.spareOwn()
	for _, f := range a.onAddress {
		f(old, now)
	}
}

// dnsHostNoticed tells the log about trouble at a DNS host, once when it
// begins and once when it is over.
func (a *App) dnsHostNoticed(n ddns.Notice) {
	facts := []any{"provider", n.Provider, "part", n.Part, "sentence", n.Sentence, "since", n.Since}
	if n.Name != "" {
		facts = append(facts, "name", n.Name)
	}
	if n.Ended.IsZero() {
		a.log.Warn("dns host in trouble", facts...)
	} else {
		a.log.Info("dns host is well again", append(facts, "ended", n.Ended, "lasted", n.Ended.Sub(n.Since).String())...)
	}
	for _, f := range a.onDNSHost {
		f(n)
	}
}
