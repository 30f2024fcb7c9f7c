package config

import (
	"encoding/base64"
	"net/netip"
	"slices"
	"strings"
	"time"
)

func (c *checker) tls() {
	t := &c.cfg.TLS
	c.choice("tls.issuer", &t.Issuer, issuerACME, issuerLocal)
	c.email("email", c.cfg.Email)
	c.email("tls.email", t.Email)
	c.at("tls.min_version", func() {
		switch v := strings.TrimPrefix(strings.ToLower(t.MinVersion), "tls"); v {
		case "1.2", "1.3":
			t.MinVersion = v
		case "1.0", "1.1":
			c.errorf("tls.min_version", `%q is too old to be safe (RFC 8996), want "1.2" or "1.3"`, t.MinVersion)
		default:
			c.errorf("tls.min_version", `%q is unknown, want "1.2" or "1.3"`, t.MinVersion)
		}
	})
	c.acme()
	c.onDemand()
	c.at("tls.default_host", c.defaultHost)
	if c.needsACME() {
		c.acmeWarnings()
	}
}

// needsACME reports whether any certificate comes from an ACME authority.
func (c *checker) needsACME() bool {
	if c.cfg.TLS.Issuer != issuerACME || len(c.cfg.Listen.HTTPS) == 0 {
		return false
	}
	return c.cfg.TLS.OnDemand != nil || len(c.cfg.TLS.IP) > 0 || slices.ContainsFunc(c.cfg.Sites, func(s Site) bool { return s.TLS == nil })
}

// only reports whether every authority has this directory.
func (l ACMEs) only(directory string) bool {
	return !slices.ContainsFunc(l, func(a ACME) bool { return a.Directory != directory })
}

// acmePath is the key of the ith authority, as it was written.
func (c *checker) acmePath(i int) string {
	if c.written(index("tls.acme", 0)) {
		return index("tls.acme", i)
	}
	return "tls.acme"
}

func (c *checker) acme() {
	t := &c.cfg.TLS
	c.choice("tls.challenge", &t.Challenge, challengeAuto, challengeHTTP, challengeALPN, challengeDNS)
	c.dnsProvider()
	if t.Challenge == challengeDNS && !c.hasDNSProvider() {
		c.errorf("tls.challenge", "dns-01 needs the DNS host: write dns_provider: {provider: …, token: …} beside it")
		return
	}
	c.retry()
	c.addresses()
	if len(t.ACME) == 0 && !c.isBroken("tls.acme") {
		c.errorf("tls.acme", "is an empty list; name an authority, or leave the key out for Let's Encrypt")
	}
	usable := false
	for i := range t.ACME {
		at := c.acmePath(i)
		for j := range i {
			if t.ACME[j].Directory == t.ACME[i].Directory && !c.isBroken(at) {
				c.errorf(at, "%s is listed twice; keep one", t.ACME[i].Directory)
				break
			}
		}
		if c.authority(at, &t.ACME[i]) {
			usable = true
		}
	}
	if !usable && len(t.ACME) > 0 && c.needsACME() && !c.isBroken("tls.acme") && !c.isBroken("listen") {
		at := c.acmePath(0) + ".challenges"
		if t.Challenge != challengeAuto {
			at = "tls.challenge"
		}
		c.errorf(at, "none of them can be answered with the listeners that are on; http-01 needs listen.http, tls-alpn-01 needs listen.https, dns-01 needs dns_provider")
	}
}

// retry bounds what Retry may ask for.
func (c *checker) retry() {
	r := &c.cfg.TLS.Retry
	c.atLeastTime("tls.retry.check", r.Check, time.Second)
	c.at("tls.retry.attempts_per_hour", func() {
		if r.AttemptsPerHour < 1 || r.AttemptsPerHour > 5 {
			c.errorf("tls.retry.attempts_per_hour", "%d is out of range, want 1 to 5: Let's Encrypt refuses a name after 5 failures in an hour", r.AttemptsPerHour)
		}
	})
}

// addresses checks tls.ip.
func (c *checker) addresses() {
	t := &c.cfg.TLS
	for i, raw := range t.IP {
		item := c.item("tls.ip", i)
		c.at(item, func() {
			if raw == PublicIP {
				return
			}
			a, err := netip.ParseAddr(raw)
			switch {
			case err != nil || a.Zone() != "":
				c.errorf(item, "%q is not an IP address, want true, or addresses such as 203.0.113.7", raw)
			case t.Issuer == issuerACME && t.ACME.only(LetsEncrypt) && !publicAddr(a.Unmap()):
				c.errorf(item, "%s is not a public address, so no public authority certifies it", raw)
			default:
				t.IP[i] = a.Unmap().String()
			}
		})
	}
}

// publicAddr reports whether an address is one of the open Internet.
func publicAddr(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.IsPrivate() && !netip.MustParsePrefix("100.64.0.0/10").Contains(a)
}

// authority checks one authority, and reports whether a challenge of it can be
// answered.
func (c *checker) authority(at string, a *ACME) bool {
	c.at(at+".directory", func() {
		u, err := checkURL(a.Directory)
		switch {
		case err != nil:
			c.errorf(at+".directory", "%v", err)
		case u.Scheme != "https" && !isLoopbackHost(u.Hostname()):
			c.errorf(at+".directory", "%q is not https (RFC 8555 section 6.1), want https://; plain http is for a loopback address only", a.Directory)
		case strings.HasPrefix(u.Hostname(), "acme-staging"):
			c.warnf(at+".directory", "this is Let's Encrypt's staging authority, whose certificates no client trusts")
		}
	})
	if c.written(at + ".root") {
		c.file(at+".root", a.Root)
	}
	if c.written(at + ".profile") {
		c.at(at+".profile", func() {
			if a.Profile == "" || strings.ContainsFunc(a.Profile, func(r rune) bool { return r <= ' ' || r > '~' }) {
				c.errorf(at+".profile", "%q is not the name of a profile, want one such as classic or shortlived", a.Profile)
			}
		})
	}
	c.eab(at+".eab", a.EAB)
	return c.challenges(at+".challenges", a)
}

func (c *checker) eab(group string, e *EAB) {
	if e == nil {
		return
	}
	if !c.unknown[group] {
		c.at(group+".kid", func() {
			if e.KID == "" {
				c.errorf(group+".kid", "is missing, want the key identifier that came with the key")
			}
		})
	}
	at := group + ".hmac"
	if c.written(at + "_file") {
		at += "_file"
	}
	c.at(at, func() {
		key := strings.TrimRight(e.HMAC.Reveal(), "=")
		if key == "" && !c.unknown[group] {
			c.errorf(at, "is missing, want the base64url key that the authority gave, or hmac_file")
			return
		}
		if _, err := base64.RawURLEncoding.DecodeString(key); err != nil {
			c.errorf(at, "the key is not base64url (letters, digits, - and _), want it as the authority gave it")
		}
	})
}

// challenges drops those whose listener is off, as long as one is left, and
// reports whether one is.
func (c *checker) challenges(at string, a *ACME) bool {
	all := []string{challengeHTTP, challengeALPN, challengeDNS}
	if c.isBroken(at) || c.isBroken("listen") {
		return true
	}
	if !c.written(at) && c.hasDNSProvider() {
		a.Challenges = all
	}
	var usable []string
	ok := true
	for i, ch := range a.Challenges {
		item := c.item(at, i)
		switch {
		case !slices.Contains(all, ch):
			c.errorf(item, "%q is unknown, want http-01, tls-alpn-01 or dns-01%s", ch, didYouMean(ch, all))
			ok = false
		case ch == challengeDNS && !c.hasDNSProvider():
			c.errorf(item, "dns-01 needs the DNS host: write tls: {dns_provider: {provider: …, token: …}}")
			ok = false
		case slices.Contains(usable, ch):
			c.errorf(item, "%s is given twice; keep one", ch)
		case ch == challengeHTTP && len(c.cfg.Listen.HTTP) > 0, ch == challengeALPN && len(c.cfg.Listen.HTTPS) > 0, ch == challengeDNS:
			usable = append(usable, ch)
		case c.written(at):
			c.warnf(item, "%s needs listen.%s, which is off, so it is left out", ch, map[string]string{challengeHTTP: "http", challengeALPN: "https"}[ch])
		}
	}
	if !ok || len(usable) == 0 {
		return !ok
	}
	a.Challenges = usable
	only := c.cfg.TLS.Challenge
	return !slices.Contains(all, only) || slices.Contains(usable, only) // auto, or refused already
}

func (c *checker) onDemand() {
	o := c.cfg.TLS.OnDemand
	const at = "tls.on_demand"
	if o == nil {
		return
	}
	if len(o.Allow) == 0 && o.Ask == "" && !c.isBroken(at) {
		c.errorf(at, `neither allow nor ask is given, so anyone could have certificates made for any name; write allow: ["*.mypi.duckdns.org"]`)
	}
	for i := range o.Allow {
		item := c.item(at+".allow", i)
		c.at(item, func() {
			host, err := canonicalHost(o.Allow[i])
			if err != nil {
				c.errorf(item, "%v", err)
				return
			}
			o.Allow[i] = host
			if isIP(host) {
				c.errorf(item, "%s is an IP address, want a name", host)
			} else if !c.served(host) && !c.isBroken("sites") {
				c.warnf(item, "no site has a host that covers %s, so its requests will be refused", host)
			}
		})
	}
	if !c.written(at + ".ask") {
		return
	}
	c.at(at+".ask", func() {
		if u, err := checkURL(o.Ask); err != nil {
			c.errorf(at+".ask", "%v", err)
		} else if u.Fragment != "" {
			c.errorf(at+".ask", "%q has a fragment, want it without #%s", o.Ask, u.Fragment)
		}
	})
}

// served reports whether a site takes the name, or some name below the
// wildcard.
func (c *checker) served(name string) bool {
	for host := range c.hosts {
		if covers(host, name) || covers(name, host) {
			return true
		}
	}
	return false
}

func (c *checker) defaultHost() {
	const at = "tls.default_host"
	if !c.written(at) {
		return
	}
	host, err := canonicalHost(c.cfg.TLS.DefaultHost)
	if err != nil {
		c.errorf(at, "%v", err)
		return
	}
	c.cfg.TLS.DefaultHost = host
	if c.isBroken("sites") {
		return
	}
	var names []string
	for h := range c.hosts {
		if covers(h, host) {
			return
		}
		names = append(names, h)
	}
	slices.Sort(names)
	c.errorf(at, "%q is not a host of any site; add it to a site, or take one of them%s", host, didYouMean(host, names))
}

func (c *checker) acmeWarnings() {
	email, at := c.cfg.Email, "email"
	if c.cfg.TLS.Email != "" {
		email, at = c.cfg.TLS.Email, "tls.email"
	}
	if c.isBroken("email") || c.isBroken("tls.email") {
		return
	}
	if email == "" {
		c.warnf("email", "is not set, so the certificate authority cannot reach you when something is wrong with your certificates; write email: you@your-mail")
		return
	}
	domain := strings.ToLower(email[strings.LastIndex(email, "@")+1:])
	if slices.ContainsFunc(c.cfg.TLS.ACME, func(a ACME) bool { return a.Directory == LetsEncrypt }) && slices.Contains([]string{"example.com", "example.net", "example.org"}, domain) {
		c.warnf(at, "Let's Encrypt refuses addresses at %s; write your own", domain)
	}
}
