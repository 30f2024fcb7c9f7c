package config

import (
	"encoding/base64"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// dnsProviders lists the hosts that postern has a client for to prove names
// with, with the keys each needs. One that is needed and missing is an error; one that a host has
// no use for does no harm.
func dnsProviders() map[string][]string {
	token := []string{"token"}
	return map[string][]string{
		"acme-dns":     {"endpoint", "key", "secret", "subdomain"},
		"cloudflare":   token,
		"desec":        token,
		"digitalocean": token,
		"duckdns":      token,
		"dynv6":        token,
		"gandi":        token,
		"hetzner":      token,
		"porkbun":      {"key", "secret"},
		"rfc2136":      {"endpoint", "key", "secret"},
		"route53":      {"key", "secret"},
	}
}

// DNSProviders are the values of DNSProvider.Provider, sorted.
func DNSProviders() []string { return slices.Sorted(maps.Keys(dnsProviders())) }

// ddnsProviders is likewise of those that keep addresses.
func ddnsProviders() map[string][]string {
	out := dnsProviders()
	delete(out, "acme-dns")
	out["dyndns2"] = []string{"endpoint", "key", "secret"}
	return out
}

// DDNSProviders are the values of DDNS.Provider, sorted.
func DDNSProviders() []string { return slices.Sorted(maps.Keys(ddnsProviders())) }

const providerPath = "tls.dns_provider"

// hasDNSProvider reports whether the key is there, right or wrong: a wrong one
// is reported once.
func (c *checker) hasDNSProvider() bool {
	return c.cfg.TLS.DNSProvider != nil || c.written(providerPath)
}

// provesWildcards reports whether dns-01 may be used with an authority.
func (c *checker) provesWildcards() bool {
	t := &c.cfg.TLS
	if !c.hasDNSProvider() || t.Challenge != challengeAuto && t.Challenge != challengeDNS {
		return false
	}
	for i, a := range t.ACME {
		if !c.written(c.acmePath(i)+".challenges") || slices.Contains(a.Challenges, challengeDNS) {
			return true
		}
	}
	return false
}

func (c *checker) dnsProvider() {
	p := c.cfg.TLS.DNSProvider
	if p == nil {
		return
	}
	c.provider(providerPath, &p.Provider, dnsProviders(), &p.Algorithm, map[string]string{
		"token": p.Token.Reveal(), "key": p.Key, "secret": p.Secret.Reveal(), "zone": p.Zone,
		"subdomain": p.Subdomain, "algorithm": p.Algorithm, "endpoint": p.Endpoint,
	})
}

// provider checks a provider's name and its keys, and reports whether the name
// is a good one.
func (c *checker) provider(path string, name *string, all map[string][]string, algorithm *string, values map[string]string) bool {
	at := path + ".provider"
	if c.isBroken(at) {
		return false
	}
	names := slices.Sorted(maps.Keys(all))
	if *name == "" {
		if !c.unknown[path] {
			c.errorf(at, "is missing, want %s", oneOf(names))
		}
		return false
	}
	if hint := providerHint(*name, all); hint != "" {
		c.errorf(at, "%q is unknown; %s", *name, hint)
		return false
	}
	c.choice(at, name, names...)
	needs, ok := all[*name]
	if !ok {
		return false
	}
	for _, key := range []string{"token", "key", "secret", "zone", "subdomain", "algorithm", "endpoint"} {
		value, has := values[key]
		if !has {
			continue
		}
		at := path + "." + key
		if c.written(at + "_file") {
			at += "_file"
		}
		c.at(at, func() {
			c.providerKey(at, *name, key, value, needs)
			if *name == "rfc2136" && key == "algorithm" && value != "" {
				c.choice(at, algorithm, "hmac-sha256", "hmac-sha512", "hmac-sha384", "hmac-sha224", "hmac-sha1")
			}
		})
	}
	return true
}

// providerHint says what a name that is no provider's means, "" if it does not
// know.
func providerHint(name string, all map[string][]string) string {
	name = strings.ToLower(name)
	label, rest, _ := strings.Cut(strings.TrimPrefix(name, "www."), ".")
	if _, known := all[label]; known && rest != "" {
		return `did you mean "` + label + `"?`
	}
	if _, ddns := all["dyndns2"]; !ddns {
		return ""
	}
	endpoint := ""
	switch label {
	case "noip", "no-ip":
		endpoint = "https://dynupdate.no-ip.com"
	case "dynu":
		endpoint = "https://api.dynu.com"
	case "freedns", "afraid":
		endpoint = "https://freedns.afraid.org"
	case "fritz", "fritzbox", "fritz!box", "myfritz", "myfritz!":
		return "the FRITZ!Box keeps its MyFRITZ! name itself, so leave ddns out for that name"
	default:
		return ""
	}
	return "it speaks dyndns2: write provider: dyndns2, endpoint: " + endpoint + ", key: YOUR-USER-NAME, secret: YOUR-PASSWORD"
}

// providerKey checks one key of the provider.
func (c *checker) providerKey(at, provider, key, value string, needs []string) {
	switch {
	case value == "" && slices.Contains(needs, key):
		c.errorf(at, "is missing; %s wants %s", provider, strings.Join(needs, ", "))
	case value == "":
	case key != "endpoint" && strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }):
		c.errorf(at, "has a space or a character that does not belong there; copy it again")
	default:
		c.providerValue(at, provider, key, value)
	}
}

var uuidForm = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// providerValue finds the mistakes that a provider makes knowable.
func (c *checker) providerValue(at, provider, key, value string) {
	switch provider + " " + key {
	case "duckdns token":
		switch {
		case uuidForm.MatchString(value):
		case c.looksLikeName(value):
			c.errorf(at, "is a name and not a token; the token is the UUID at the top of your page at duckdns.org")
		default:
			c.errorf(at, "is no UUID such as a7c4d0ad-114e-40ef-ba1d-d217904a50f2, which a DuckDNS token is; copy it from the top of your page at duckdns.org")
		}
	case "route53 key":
		if len(value) > 32 || !strings.HasPrefix(value, "A") {
			c.errorf(at, "is no access key id, which begins with AKIA or ASIA; are key and secret swapped?")
		}
	case "porkbun key":
		if strings.HasPrefix(value, "sk1_") {
			c.errorf(at, "is the secret key, which begins with sk1_; are key and secret swapped?")
		}
	case "porkbun secret":
		if strings.HasPrefix(value, "pk1_") {
			c.errorf(at, "is the API key, which begins with pk1_; are key and secret swapped?")
		}
	case "rfc2136 secret":
		if _, err := base64.StdEncoding.DecodeString(value); err != nil {
			c.errorf(at, "is not base64, want it as in the key file of the name server")
		}
	case "rfc2136 endpoint":
		if strings.Contains(value, "/") {
			c.errorf(at, "%q is a URL, want the zone's primary server as host or host:port", redactURL(value))
		}
	default:
		if key == "endpoint" {
			c.providerURL(at, value)
		}
	}
}

// looksLikeName reports whether a token is a host name or the first label of
// one of our hosts.
func (c *checker) looksLikeName(value string) bool {
	value = strings.ToLower(value)
	if strings.Contains(value, "duckdns") || c.hosts[value] != "" {
		return true
	}
	for h := range c.hosts {
		if strings.HasPrefix(strings.TrimPrefix(h, "*."), value+".") {
			return true
		}
	}
	return false
}

func (c *checker) providerURL(at, value string) {
	u, err := checkURL(value)
	switch {
	case err != nil:
		c.errorf(at, "%v", err)
	case u.RawQuery != "" || u.Fragment != "":
		c.errorf(at, "%q has more than a host and a path, want a base URL such as https://api.example.org", redactURL(value))
	case u.Scheme != "https" && !nearby(u.Hostname()):
		c.errorf(at, "%q is not https, so anyone on the way could read the token; plain http is for an address of this machine or this house only", redactURL(value))
	}
}

// nearby reports whether a host is this machine or a private address.
func nearby(host string) bool {
	if isLoopbackHost(host) {
		return true
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && (a.IsPrivate() || a.IsLoopback())
}
