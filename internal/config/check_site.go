package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	maxSites  = 1000
	maxRoutes = 1000 // of one site; they are tried one after the other
)

// item returns the key path of a list's entry, or the list's own when it was
// written as one text.
func (c *checker) item(path string, i int) string {
	if at := index(path, i); c.written(at) || c.lines == nil {
		return at
	}
	return path
}

func (c *checker) sites() {
	sites := c.cfg.Sites
	if c.broken["sites"] || c.unknown[""] && !c.written("sites") {
		return
	}
	switch {
	case len(sites) == 0:
		c.errorf("sites", "there is none, so nothing would be served; write sites: with hosts: and upstream:")
	case len(sites) > maxSites:
		c.errorf("sites", "%d sites, want at most %d", len(sites), maxSites)
		return
	}
	for i := range sites {
		if at := index("sites", i); !c.broken[at] {
			c.siteHosts(at, &sites[i])
		}
	}
	for i := range sites {
		if at := index("sites", i); !c.broken[at] {
			c.site(at, &sites[i])
		}
	}
}

func (c *checker) siteHosts(path string, s *Site) {
	at := path + ".hosts"
	if len(s.Hosts) == 0 && !c.broken[at] {
		switch {
		case c.written(at):
			c.errorf(at, "is empty, want at least one host name")
		case !c.unknown[path]:
			c.errorf(path, "has no hosts, want hosts: [mypi.duckdns.org] with the names it is served under")
		}
	}
	for i := range s.Hosts {
		c.at(c.item(at, i), func() { c.host(c.item(at, i), s, &s.Hosts[i]) })
	}
}

// host checks one host of a site and brings it into its canonical form.
func (c *checker) host(at string, s *Site, host *string) {
	name, err := canonicalHost(*host)
	if err != nil {
		c.errorf(at, "%v", err)
		return
	}
	*host = name
	if first, dup := c.hosts[name]; dup {
		c.errorf(at, "%s is taken by %s; a host belongs to one site, once", name, c.where(first))
		return
	}
	c.hosts[name] = at
	if meant := misspelt(name); meant != "" {
		c.errorf(at, "%s; did you mean %s?", name, meant)
		return
	}
	if strings.TrimPrefix(name, "*.") == "duckdns.org" {
		c.errorf(at, "%s is the service's own name, want yours below it, such as mypi.duckdns.org", name)
		return
	}
	if s.TLS == nil && !c.isBroken("listen.https") && len(c.cfg.Listen.HTTPS) > 0 {
		c.automatic(at, name)
	}
}

// automatic checks that a certificate for the host can be had without files.
func (c *checker) automatic(at, name string) {
	t := &c.cfg.TLS
	if t.Issuer != issuerACME || c.isBroken("tls.issuer") {
		return
	}
	switch wild := strings.HasPrefix(name, "*."); {
	case isIP(name):
		c.errorf(at, "%s is an IP address, which the certificate authority is not asked for; give the site tls: {cert: …, key: …}, or write tls: {issuer: local} at the top level", name)
	case wild && c.provesWildcards():
	case wild && t.OnDemand == nil && !c.written("tls.on_demand"):
		c.errorf(at, "%s is a wildcard, which http-01 and tls-alpn-01 cannot prove; list the names, name the DNS host with tls.dns_provider, give the site tls: {cert: …, key: …}, or allow single names with tls.on_demand", name)
	case wild && t.OnDemand != nil && t.OnDemand.Ask == "" && !c.isBroken("tls.on_demand") && !allowsBelow(t.OnDemand.Allow, name):
		c.warnf(at, "tls.on_demand allows no name that %s covers, so none of them gets a certificate", name)
	case t.ACME.only(LetsEncrypt) && notPublic(name) != "":
		c.errorf(at, "%s %s, so no public authority certifies it; write tls: {issuer: local}, or give the site tls: {cert: …, key: …}", name, notPublic(name))
	}
}

// allowsBelow reports whether an entry of allow is the wildcard or below it.
func allowsBelow(allow []string, wild string) bool {
	return slices.ContainsFunc(allow, func(a string) bool {
		name, err := canonicalHost(a)
		return err != nil || covers(wild, name)
	})
}

func (c *checker) site(path string, s *Site) {
	https, http := len(c.cfg.Listen.HTTPS) > 0, len(c.cfg.Listen.HTTP) > 0
	known := !c.isBroken("listen")
	if s.TLS != nil {
		c.siteTLS(path+".tls", s.TLS)
		if known && !https {
			c.warnf(path+".tls", "listen.https is off, so the certificate is never shown")
		}
	}
	at := path + ".http"
	if c.written(at) {
		c.choice(at, &s.HTTP, httpRedirect, httpServe, httpOff)
		switch {
		case c.isBroken(at) || !known:
		case s.HTTP == httpRedirect && !https:
			c.warnf(at, "listen.https is off here, so the redirect only works when something else takes https")
		case s.HTTP == httpServe && !http:
			c.warnf(at, "listen.http is off, so there is nothing to serve on")
		case s.HTTP == httpOff && !https:
			c.errorf(at, "listen.https is off too, so nobody could reach the site; write http: serve")
		}
	}
	c.hsts(path+".hsts", s.HSTS, known && !https)
	c.timeout(path+".timeout", &s.Timeout)
	c.tryAlone(path+".timeout.try", s.Retry != nil || c.isBroken(path+".retry") || slices.ContainsFunc(s.Routes, func(r Route) bool { return r.Retry != nil }))
	c.rateLimit(path+".rate_limit", s.RateLimit)
	c.callerNames(path+".callers", s.Callers)
	c.upstreams(path+".upstream", s.Upstream)
	c.siteBackends(path, s)
	c.routes(path, s)
}

func (c *checker) siteTLS(path string, t *SiteTLS) {
	for _, f := range []struct{ key, name, what string }{
		{".cert", t.Cert, "the PEM file with the certificate and its chain"},
		{".key", t.Key, "the PEM file with the private key"},
	} {
		switch {
		case c.written(path + f.key):
			c.file(path+f.key, f.name)
		case !c.unknown[path]:
			c.errorf(path+f.key, "is missing, want %s", f.what)
		}
	}
}

func (c *checker) hsts(path string, h *HSTS, httpsOff bool) {
	if h == nil || c.isBroken(path) {
		return
	}
	c.notNegative(path+".max_age", h.MaxAge)
	if h.Preload && (!h.IncludeSubdomains || h.MaxAge < 365*24*time.Hour) {
		c.warnf(path, "preload lists want include_subdomains: true and a max_age of at least 8760h (hstspreload.org)")
	}
	if httpsOff {
		c.warnf(path, "listen.https is off, so the header is never sent (RFC 6797 section 7.2)")
	}
}

func (c *checker) timeout(path string, t *Timeout) {
	if t.Connect != nil {
		c.atLeastTime(path+".connect", *t.Connect, time.Millisecond)
	}
	if t.Response != nil {
		c.notNegative(path+".response", *t.Response)
	}
	if t.Try != nil {
		c.notNegative(path+".try", *t.Try)
		if t.Response != nil && *t.Response > 0 && *t.Try >= *t.Response && !c.isBroken(path) {
			c.errorf(path+".try", "%s leaves no time for another try within response: %s; make it shorter", formatDuration(*t.Try), formatDuration(*t.Response))
		}
	}
	if t.Idle != nil {
		c.notNegative(path+".idle", *t.Idle)
	}
}

// tryAlone complains about a try that nothing follows.
func (c *checker) tryAlone(path string, retries bool) {
	if !retries && c.written(path) && !c.isBroken(path) {
		c.errorf(path, "goes with retry, which is not here: there is one try, and response is its time; add retry or remove try")
	}
}

func (c *checker) upstreams(path string, list Upstreams) {
	if len(list) == 0 && c.written(path) && !c.broken[path] {
		c.errorf(path, "is empty, want a backend such as 127.0.0.1:3000")
	}
	seen := map[backend]string{}
	for i, s := range list {
		at := c.item(path, i)
		c.at(at, func() {
			addr, _, err := splitWeight(s)
			if err != nil {
				c.errorf(at, "%v", err)
				return
			}
			b, err := parseBackend(addr)
			if err != nil {
				c.errorf(at, "%v", err)
				return
			}
			if first, dup := seen[b]; dup {
				c.errorf(at, "%q is in the list already as %s; keep one", s, c.where(first))
				return
			}
			seen[b] = at
			c.loop(at, addr, b)
		})
	}
}

// loop reports a backend that is postern itself.
func (c *checker) loop(at, s string, b backend) {
	if b.scheme == "unix" {
		return
	}
	for _, l := range c.listeners {
		if l.port == 0 || l.port != b.port {
			continue
		}
		if isLoopbackHost(b.host) && (l.any() || l.ip.IsLoopback()) || !l.any() && b.host == l.ip.String() {
			c.errorf(at, "%q is postern itself, which listens there (%s); write the port of your app, or move the listener", s, c.listenerName(l))
			return
		}
		if first, ours := c.hosts[b.host]; ours && !isIP(b.host) {
			c.warnf(at, "%q is a host that postern itself serves (%s); requests may go round in circles", s, c.where(first))
			return
		}
	}
}

// listenerName tells where a listener comes from.
func (c *checker) listenerName(l listener) string {
	if c.written(l.path) {
		return c.where(l.path)
	}
	return fmt.Sprintf("%s is by default :%d", parentKey(l.path), l.port)
}

// parentKey strips list positions off a key path.
func parentKey(path string) string {
	path, _, _ = strings.Cut(path, "[")
	return path
}
