package config

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

func (c *checker) publicAddress() {
	p := &c.cfg.PublicAddress
	const path = "public_address"
	c.cfg.AskPublicAddress = c.written(path)
	for i := range p.Sources {
		at := c.item(path+".sources", i)
		c.choice(at, &p.Sources[i], SourceRouter, SourceDNS, SourceHTTPS)
		c.at(at, func() {
			if slices.Contains(p.Sources[:i], p.Sources[i]) {
				c.errorf(at, "%s is given twice; keep one", p.Sources[i])
			}
		})
	}
	for i := range p.HTTPS {
		at := c.item(path+".https", i)
		c.at(at, func() { c.echoURL(at, p.HTTPS[:i], p.HTTPS[i]) })
	}
	for i := range p.DNS {
		at := c.item(path+".dns", i)
		c.at(at, func() {
			spec, err := parseEcho(p.DNS[i])
			switch {
			case err != nil:
				c.errorf(at, "%v", err)
				return
			case slices.Contains(p.DNS[:i], spec):
				c.errorf(at, "%s is given twice; keep one", spec)
			}
			p.DNS[i] = spec
		})
	}
	for _, kind := range []struct {
		name string
		list []string
	}{{SourceDNS, p.DNS}, {SourceHTTPS, p.HTTPS}} {
		at := path + "." + kind.name
		if slices.Contains(p.Sources, kind.name) && len(kind.list) == 0 && !c.isBroken(at) {
			c.errorf(at, "is empty, want somebody to ask, or %s left out of public_address.sources", kind.name)
		}
	}
	c.pace(path+".interval", p.Interval, allNearby(p))
}

// pace checks how often strangers are asked.
func (c *checker) pace(at string, d time.Duration, nearby bool) {
	c.atLeastTime(at, d, time.Second)
	c.at(at, func() {
		if d >= time.Second && d < time.Minute && !nearby {
			c.warnf(at, "%s is oftener than free services like to be asked; a minute or more is enough", formatDuration(d))
		}
	})
}

// allNearby reports whether every source is this machine or this house.
func allNearby(p *PublicAddress) bool {
	for _, s := range p.HTTPS {
		if u, err := checkURL(s); err != nil || !nearby(u.Hostname()) {
			return false
		}
	}
	for _, s := range p.DNS {
		_, server, _ := strings.Cut(s, "@")
		if host, _, err := net.SplitHostPort(server); err != nil || !nearby(host) {
			return false
		}
	}
	return true
}

func (c *checker) echoURL(at string, before []string, text string) {
	u, err := checkURL(text)
	switch {
	case text == "":
		c.errorf(at, "is empty, want a URL such as https://api.ipify.org")
	case err != nil:
		c.errorf(at, "%v", err)
	case u.Scheme != "https" && !isLoopbackHost(u.Hostname()):
		c.errorf(at, "%q is not https, without which anyone on the way could answer; plain http is for a loopback address only", text)
	case slices.Contains(before, text):
		c.errorf(at, "%s is given twice; keep one", text)
	}
}

// parseEcho reads "whoami.cloudflare@1.1.1.1:853" and returns it with its
// port.
func parseEcho(s string) (string, error) {
	const forms = `want name@server such as "whoami.cloudflare@1.1.1.1:853"`
	name, server, ok := strings.Cut(s, "@")
	if !ok || name == "" || server == "" {
		return "", fmt.Errorf("%q is not a name to ask for and a server, %s", s, forms)
	}
	if _, err := canonicalHost(name); err != nil || strings.Contains(name, "*") {
		return "", fmt.Errorf("%q: %q is no name to ask for, %s", s, name, forms)
	}
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		host, port = strings.Trim(server, "[]"), "53"
	}
	if _, err := netip.ParseAddr(host); err != nil {
		if _, err := canonicalHost(host); err != nil || strings.ContainsAny(host, "*/") {
			return "", fmt.Errorf("%q: %q is no server, %s", s, host, forms)
		}
	}
	if _, err := parsePort(port, 1); err != nil {
		return "", fmt.Errorf("%q: %w", s, err)
	}
	return name + "@" + net.JoinHostPort(host, port), nil
}

func (c *checker) ddns() {
	owner := map[string]string{} // provider and host -> where
	for i := range c.cfg.DDNS {
		d := &c.cfg.DDNS[i]
		path := c.item("ddns", i)
		known := c.provider(path, &d.Provider, ddnsProviders(), &d.Algorithm, map[string]string{
			"token": d.Token.Reveal(), "key": d.Key, "secret": d.Secret.Reveal(), "zone": d.Zone,
			"algorithm": d.Algorithm, "endpoint": d.Endpoint,
		})
		if known && d.Provider != "rfc2136" {
			c.basePath(path+".endpoint", d.Endpoint)
		}
		if len(d.Hosts) == 0 && !c.isBroken(path+".hosts") && !c.unknown[path] {
			c.errorf(path+".hosts", "is missing, want the names to keep, such as [mypi.duckdns.org]")
		}
		for j := range d.Hosts {
			at := c.item(path+".hosts", j)
			c.at(at, func() { c.ddnsHost(at, d, j, known, owner) })
		}
		c.choice(path+".ipv6", &d.IPv6, "auto", "off")
		c.pace(path+".interval", d.Interval, true)
		c.at(path+".interval", func() {
			if d.Interval > 24*time.Hour {
				c.errorf(path+".interval", "%s is too long, want 24h or less: a record that somebody changed would stay wrong", formatDuration(d.Interval))
			}
		})
	}
}

// basePath refuses the path that people copy with the address of an API.
func (c *checker) basePath(at, value string) {
	c.at(at, func() {
		u, err := checkURL(value)
		if value == "" || err != nil || strings.Trim(u.Path, "/") == "" {
			return
		}
		c.errorf(at, "%q has a path, want the base URL %s://%s alone; the path is added", redactURL(value), u.Scheme, u.Host)
	})
}

func (c *checker) ddnsHost(at string, d *DDNS, j int, known bool, owner map[string]string) {
	host, err := canonicalHost(d.Hosts[j])
	switch {
	case err != nil:
		c.errorf(at, "%v", err)
		return
	case isIP(host):
		c.errorf(at, "%s is an IP address, want a name", host)
		return
	case strings.HasPrefix(host, "*."):
		c.errorf(at, "%s is a wildcard, want the name itself; most hosts answer for what is below it too", host)
		return
	}
	d.Hosts[j] = host
	key := d.Provider + " " + host
	if first, ok := owner[key]; ok {
		c.errorf(at, "%s is at %s already, in %s; keep one", host, d.Provider, c.where(first))
		return
	}
	owner[key] = at
	if known {
		c.providerHost(at, d, host)
	}
}

// providerHost finds the mistakes in a name that its provider makes knowable.
func (c *checker) providerHost(at string, d *DDNS, host string) {
	under := map[string]string{"duckdns": "duckdns.org"}[d.Provider]
	switch {
	case under != "" && (uuidForm.MatchString(host) || uuidForm.MatchString(strings.TrimSuffix(host, "."+under))):
		c.errorf(at, "is a token and not a name, want the name here and this as token; are they swapped?")
	case under != "" && !strings.Contains(host, "."):
		c.errorf(at, "%s is not a full name; did you mean %q?", host, host+"."+under)
	case under != "" && host == under:
		c.errorf(at, "%s is the provider's own name, want yours below it, such as mypi.%s", host, under)
	case under != "" && !strings.HasSuffix(host, "."+under):
		hint := ""
		if label, _, ok := strings.Cut(host, ".duck"); ok && label != "" {
			hint = fmt.Sprintf("; did you mean %q?", label+"."+under)
		}
		c.errorf(at, "%s is not below %s, where every name of %s is%s", host, under, d.Provider, hint)
	case under != "" && strings.Count(host, ".") > strings.Count(under, ".")+1:
		c.errorf(at, "%s is below a name at %s, which answers for it by itself; want %s", host, d.Provider, lastLabels(host, strings.Count(under, ".")+2))
	case !strings.Contains(host, "."):
		c.errorf(at, "%s is not a full name, want one such as mypi.example.org", host)
	case d.Provider == "desec" && strings.HasSuffix(host, ".dedyn.com"), d.Provider == "desec" && strings.HasSuffix(host, ".dedyn.net"):
		c.errorf(at, "%s is not below dedyn.io; did you mean %q?", host, host[:len(host)-len(".dedyn.com")]+".dedyn.io")
	case !c.served(host) && !c.isBroken("sites"):
		c.warnf(at, "no site has the host %s, so its requests will be refused", host)
	}
}

// lastLabels are the last n labels of a name.
func lastLabels(host string, n int) string {
	labels := strings.Split(host, ".")
	return strings.Join(labels[max(0, len(labels)-n):], ".")
}
