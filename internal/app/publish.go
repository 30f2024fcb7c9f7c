package app

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"postern/internal/config"
	"postern/internal/ddns"
	"postern/internal/notify"
	"postern/internal/publish"
)

// newPublisher makes the publisher of the process, without targets.
func (a *App) newPublisher() {
	a.onAddress = append(a.onAddress, a.believe)
	a.publisher = publish.New(publish.Config{Facts: a.endpoint, OnOutage: a.publishTold, Log: a.log, Registerer: a.registry})
}

// publishTold tells people about a target that cannot be written, once when it
// begins and once when it is over.
func (a *App) publishTold(o publish.Outage) {
	text := "The endpoint cannot be published. " + fmt.Sprint(o.Err)
	if !o.Ended.IsZero() {
		text = fmt.Sprintf("The endpoint is published at %s again, after %s.", o.Target, o.Ended.Sub(o.Since).Round(time.Second))
	}
	a.tell(notify.Message{Kind: notify.Notice, Args: map[string]string{"sentence": text}})
}

// publishTargets translates what the file says.
func publishTargets(cfg *config.Config) []publish.Target {
	var out []publish.Target
	for _, p := range cfg.Publish {
		t := publish.Target{Names: p.Names, Port: p.Port}
		if s := p.SSM; s != nil {
			t.SSM = &publish.SSM{Region: s.Region, Parameter: s.Parameter, Key: awsKey(s.KeyFile, s.AccessKey, s.Secret), Endpoint: s.Endpoint, RootFile: s.Root}
		}
		if s := p.S3; s != nil {
			t.S3 = &publish.S3{Region: s.Region, Bucket: s.Bucket, Object: s.Key, Key: awsKey(s.KeyFile, s.AccessKey, s.Secret), Endpoint: s.Endpoint, RootFile: s.Root}
		}
		if s := p.Route53; s != nil {
			t.Route53 = &publish.Route53{Zone: s.Zone, Name: s.Name, TTL: s.TTL.Round(time.Second), Key: awsKey(s.KeyFile, s.AccessKey, s.Secret), Endpoint: s.Endpoint, RootFile: s.Root}
		}
		if s := p.Webhook; s != nil {
			t.Webhook = &publish.Webhook{URL: s.URL, Secret: s.Secret.Reveal(), RootFile: s.Root}
		}
		out = append(out, t)
	}
	return out
}

func awsKey(file, id string, secret config.Secret) publish.Key {
	return publish.Key{File: file, ID: id, Secret: secret.Reveal()}
}

// endpoint is what callers are told about this house.
func (a *App) endpoint() publish.Facts {
	a.mu.Lock()
	cfg, port := a.cfg, a.publicPortLocked()
	a.mu.Unlock()
	f := publish.Facts{Names: endpointNames(cfg), Port: port}
	f.IPv4, f.IPv6 = a.publicPair()
	if len(f.Names) > 0 {
		f.Fingerprint = publish.Fingerprint(a.certs.Leaf(f.Names[0]))
	}
	return f
}

// publicPortLocked is the port of HTTPS as seen from outside: a router that
// brings its own to us is asked for 443, wherever we listen. a.mu is held.
func (a *App) publicPortLocked() int {
	if a.cfg.PortMapping == config.PortMappingAuto {
		if _, ok := outerPort(a.addrsLocked("https")); ok {
			return publicHTTPS
		}
	}
	return a.httpsPort()
}

// endpointNames are the hosts that a certificate can be checked for.
func endpointNames(cfg *config.Config) []string {
	var out []string
	for _, s := range cfg.Sites {
		for _, h := range s.Hosts {
			if _, err := netip.ParseAddr(strings.Trim(h, "[]")); err != nil && !strings.HasPrefix(h, "*.") {
				out = append(out, h)
			}
		}
	}
	return out
}

// believe takes note of the public addresses that were found, and publishes
// them. It does not block.
func (a *App) believe(_, now ddns.Addresses) {
	a.believed.Store(&now)
	a.publisher.Changed()
}

// publicPair is what was told last; before that, what was believed at the
// start or, failing that, what this machine's own interfaces have.
func (a *App) publicPair() (v4, v6 netip.Addr) {
	if p := a.believed.Load(); p != nil {
		return p.V4, p.V6
	}
	for _, addr := range a.publicAddresses() {
		if addr.Is4() && !v4.IsValid() {
			v4 = addr
		} else if addr.Is6() && !v6.IsValid() {
			v6 = addr
		}
	}
	return v4, v6
}
