package config

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

func (c *checker) dns() {
	d := &c.cfg.DNS
	for i := range d.Resolvers {
		at := c.item("dns.resolvers", i)
		c.at(at, func() {
			addr, err := parseResolver(d.Resolvers[i])
			if err != nil {
				c.errorf(at, "%v", err)
				return
			}
			if slices.Contains(d.Resolvers[:i], addr) {
				c.errorf(at, "%s is given twice; keep one", addr)
			}
			d.Resolvers[i] = addr
		})
	}
	c.at("dns.authoritative_port", func() {
		if d.AuthoritativePort < 1 || d.AuthoritativePort > 65535 {
			c.errorf("dns.authoritative_port", "port %d, want 1 to 65535; it is 53 everywhere but in tests", d.AuthoritativePort)
		}
	})
	for i := range d.DoH {
		at := c.item("dns.doh", i)
		c.at(at, func() { c.doh(at, d.DoH[:i], d.DoH[i]) })
	}
}

func (c *checker) doh(at string, before []string, text string) {
	u, err := checkURL(text)
	switch {
	case text == "":
		c.errorf(at, "is empty, want a URL such as https://9.9.9.9/dns-query; an empty list asks none")
	case err != nil:
		c.errorf(at, "%v", err)
	case u.Scheme != "https" && !isLoopbackHost(u.Hostname()):
		c.errorf(at, "%q is not https, without which anyone on the way could answer (RFC 8484 section 5); plain http is for a loopback address only", text)
	case u.Fragment != "" || strings.Contains(text, "{"):
		c.errorf(at, "%q is a template or has a fragment, want the plain URL such as https://9.9.9.9/dns-query", text)
	case slices.Contains(before, text):
		c.errorf(at, "%s is given twice; keep one", text)
	}
}

// parseResolver reads "9.9.9.9", "9.9.9.9:53", "2620:fe::fe" or
// "[2620:fe::fe]:53" and returns it with its port.
func parseResolver(s string) (string, error) {
	const forms = `want an address such as "9.9.9.9" or "9.9.9.9:53"`
	if s == "" {
		return "", fmt.Errorf("is empty, %s", forms)
	}
	if strings.Contains(s, "://") {
		return "", fmt.Errorf("%q is a URL, %s; URLs belong to dns.doh", redactURL(s), forms)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.Trim(s, "[]"), "53"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return "", fmt.Errorf("%q is not an IP address, %s; a name would need a resolver to be found", s, forms)
	}
	if ip.IsUnspecified() {
		return "", fmt.Errorf("%q is where a resolver listens, not where it is reached; did you mean 127.0.0.1?", s)
	}
	if _, err := parsePort(port, 1); err != nil {
		return "", err
	}
	return net.JoinHostPort(ip.String(), port), nil
}
