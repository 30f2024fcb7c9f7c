package app

import (
	"crypto/tls"
	"net"
	"net/netip"
	"slices"

	"postern/internal/config"
	"postern/internal/tlsmgr"
)

// ownAddresses are the addresses of this machine's interfaces.
func ownAddresses() []netip.Addr {
	nets, err := net.InterfaceAddrs()
	if err != nil {
		return nil // the guard spares loopback and private ones anyway
	}
	var out []netip.Addr
	for _, n := range nets {
		if p, err := netip.ParsePrefix(n.String()); err == nil {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out
}

// tlsConfig translates what the file says about certificates. A host that
// tls.on_demand.allow names is obtained at its first handshake instead of at
// the start.
func tlsConfig(cfg *config.Config) tlsmgr.Config {
	t := &cfg.TLS
	out := tlsmgr.Config{
		Dir:         cfg.Data,
		Issuer:      t.Issuer,
		Email:       t.Email,
		DefaultHost: t.DefaultHost,
		MinVersion:  tls.VersionTLS12,
		ACME:        authorities(t.ACME),
		Challenge:   t.Challenge,
		CheckEvery:  t.Retry.Check, AttemptsPerHour: t.Retry.AttemptsPerHour,
	}
	if t.MinVersion == "1.3" {
		out.MinVersion = tls.VersionTLS13
	}
	if out.Email == "" {
		out.Email = cfg.Email
	}
	var onDemand []string
	if o := t.OnDemand; o != nil {
		onDemand = o.Allow
		out.OnDemand = &tlsmgr.OnDemand{Allow: o.Allow, Ask: o.Ask}
	}
	if len(cfg.Listen.HTTPS) == 0 {
		return out
	}
	out.ClientCerts = asksForCertificates(cfg)
	for _, ip := range t.IP {
		if ip == config.PublicIP {
			out.PublicAddrs = publicAddresses
		} else if a, err := netip.ParseAddr(ip); err == nil { // checked by config
			out.IPs = append(out.IPs, a)
		}
	}
	for i := range cfg.Sites {
		s := &cfg.Sites[i]
		if s.TLS != nil {
			out.Files = append(out.Files, tlsmgr.FileCert{Hosts: s.Hosts, Cert: s.TLS.Cert, Key: s.TLS.Key})
			continue
		}
		for _, h := range s.Hosts {
			if !slices.Contains(onDemand, h) {
				out.Names = append(out.Names, h)
			}
		}
	}
	return out
}

func authorities(list config.ACMEs) []tlsmgr.ACME {
	var out []tlsmgr.ACME
	for _, a := range list {
		ca := tlsmgr.ACME{Directory: a.Directory, RootFile: a.Root, Profile: a.Profile, Challenges: a.Challenges}
		if e := a.EAB; e != nil {
			ca.EAB = &tlsmgr.EAB{KeyID: e.KID, MACKey: e.HMAC.Reveal()}
		}
		out = append(out, ca)
	}
	return out
}

// publicAddresses are those of this machine's interfaces that the open
// Internet can reach. Behind a router with NAT there are none.
func publicAddresses() []netip.Addr {
	return slices.DeleteFunc(ownAddresses(), func(a netip.Addr) bool {
		return !a.IsGlobalUnicast() || a.IsPrivate() || carrierNAT.Contains(a)
	})
}

// carrierNAT is RFC 6598.
var carrierNAT = netip.MustParsePrefix("100.64.0.0/10")
