package app

import (
	"crypto/tls"
	"net"
	"net/netip"
	"path/filepath"
	"slices"

	"postern/internal/config"
	"postern/internal/guard"
	"postern/internal/tlsmgr"
)

// guardConfig translates what the file says about refusing.
func guardConfig(cfg *config.Config) (guard.Config, error) {
	mode, err := guard.ParseMode(cfg.Guard.Mode)
	if err != nil {
		return guard.Config{}, err
	}
	return guard.Config{
		Mode:           mode,
		Never:          cfg.Guard.Never,
		Allow:          cfg.Guard.Allow,
		TrustedProxies: cfg.TrustedProxies,
		FirstBan:       cfg.Guard.Bans.First,
		MaxBan:         cfg.Guard.Bans.Max,
		Connections:    connectionLimit(cfg.Limits.Connections),
		PerAddress:     cfg.Limits.ConnectionsPerAddress,
		File:           filepath.Join(cfg.Data, "bans.json"),
	}, nil
}

// banned tells the log about a new ban. It is called on a request's path.
func (a *App) banned(b guard.Ban) {
	if b.Trial {
		a.log.Info("would ban", "address", b.Prefix.String(), "reason", b.Reason, "until", b.Until)
		return
	}
	a.log.Info("banned", "address", b.Prefix.String(), "reason", b.Reason, "until", b.Until, "bans_before", b.Past)
}

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
		ACME: []tlsmgr.ACME{{
			Directory: t.ACME.Directory, RootFile: t.ACME.Root, Profile: t.ACME.Profile,
			Challenges: t.ACME.Challenges,
		}},
	}
	if t.MinVersion == "1.3" {
		out.MinVersion = tls.VersionTLS13
	}
	if out.Email == "" {
		out.Email = cfg.Email
	}
	if e := t.ACME.EAB; e != nil {
		out.ACME[0].EAB = &tlsmgr.EAB{KeyID: e.KID, MACKey: e.HMAC.Reveal()}
	}
	var onDemand []string
	if o := t.OnDemand; o != nil {
		onDemand = o.Allow
		out.OnDemand = &tlsmgr.OnDemand{Allow: o.Allow, Ask: o.Ask}
	}
	if len(cfg.Listen.HTTPS) == 0 {
		return out
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
