package app

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"postern/internal/admin"
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
		OnLink:    func() { a.gateway.Poke() },
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
	if !believed.V4.IsValid() || !a.address.Sure() {
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

// addressNode is a branch of the health tree: the public address and each
// record that follows it. Nil while nothing depends on it.
func (a *App) addressNode(cfg *config.Config) []admin.Node {
	if !cfg.WantsPublicAddress() {
		return nil
	}
	s := a.address.Status()
	n := admin.Node{Name: "public address", State: admin.OK, Since: s.Since, Detail: s.Addresses.String()}
	switch {
	case !s.Addresses.V4.IsValid() && !s.Addresses.V6.IsValid():
		n.State, n.Detail = admin.Warn, "no source tells it, or they do not agree; `proxy doctor` shows each"
	case s.Addresses.V4.IsValid() && !a.address.Sure():
		n.State, n.Detail = admin.Warn, s.Addresses.String()+", which no source confirms at the moment"
	}
	for _, r := range s.Records {
		n.Children = append(n.Children, recordNode(r))
	}
	for _, o := range s.Outages {
		n.Children = append(n.Children, admin.Node{Name: o.Provider + " " + o.Part, State: admin.Warn, Since: o.Since, Detail: o.Sentence})
	}
	return []admin.Node{n}
}

func recordNode(r ddns.RecordStatus) admin.Node {
	n := admin.Node{Name: r.Name + " at " + r.Provider, State: admin.OK, Since: r.Changed, Detail: r.Addresses.String()}
	switch {
	case r.Trouble != "":
		n.State, n.Detail = admin.Warn, fmt.Sprintf("%s, but the last call was %s; next try %s", n.Detail, r.Trouble, r.RetryAt.Format(time.TimeOnly))
	case !r.Addresses.V4.IsValid() && !r.Addresses.V6.IsValid():
		n.Detail = "nothing to write: no public address is known"
	case r.Confirmed:
		n.Detail += ", seen at the name servers"
	}
	return n
}
