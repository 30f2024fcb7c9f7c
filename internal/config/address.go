package config

import "time"

// PublicAddress says how postern finds out at which address the Internet
// reaches this house. It is asked only where something depends on it: ddns,
// publish, tls.ip with public, or this key written out.
type PublicAddress struct {
	// The kinds of sources to ask for the IPv4 address: router (over UPnP,
	// NAT-PMP or PCP), dns and https. The addresses of this machine's own
	// interfaces are always looked at; the IPv6 address comes from nowhere
	// else. A change is believed when two kinds agree on it. If one kind
	// alone is asked, it has to say the same three times in a row. [] asks
	// nobody. Default [router, dns, https].
	Sources []string `yaml:"sources"`

	// Web servers that answer with the address they see. More than half of
	// them have to agree. Default [https://api.ipify.org,
	// https://checkip.amazonaws.com, https://ipv4.icanhazip.com].
	HTTPS []string `yaml:"https"`

	// Name servers that answer with the address they see, as name@server or
	// name@server:port. Port 853 is DNS over TLS. More than half of them
	// have to agree. Default [whoami.cloudflare@1.1.1.1:853,
	// myip.opendns.com@dns.opendns.com:853].
	DNS []string `yaml:"dns"`

	// How often they are asked; the router every minute if that is oftener,
	// and all of them at once when a link changes. Default 5m.
	Interval time.Duration `yaml:"interval"`
}

// DDNS is a DNS host that is kept informed of this house's public addresses.
// Several are independent of each other: when one is down, the names at the
// others go on.
type DDNS struct {
	// cloudflare, desec, digitalocean, duckdns, dyndns2, dynv6, gandi,
	// hetzner, porkbun, rfc2136 or route53. dyndns2 is the protocol of No-IP,
	// Dynu, FreeDNS and many others. Required.
	Provider string `yaml:"provider"`

	// The names whose A and AAAA records are kept, in full: mypi.duckdns.org.
	// Required.
	Hosts []string `yaml:"hosts"`

	// The API token, as for tls.dns_provider. token_file reads it from a
	// file. Default: none.
	Token Secret `yaml:"token"`

	// Who we are, where that is apart from the secret: as for
	// tls.dns_provider, and the user name for dyndns2. Default: none.
	Key string `yaml:"key"`

	// What belongs to key: as for tls.dns_provider, and the password for
	// dyndns2. secret_file reads it from a file. Default: none.
	Secret Secret `yaml:"secret"`

	// The id of the hosted zone for route53, the name of the zone for
	// rfc2136; others have none. Default: looked up.
	Zone string `yaml:"zone"`

	// The algorithm of the TSIG key for rfc2136, as for tls.dns_provider.
	// Default hmac-sha256.
	Algorithm string `yaml:"algorithm"`

	// Where the API is: a base URL, to which the path is added; for rfc2136
	// the zone's primary server, as host or host:port. Required for rfc2136
	// and dyndns2 (https://dynupdate.no-ip.com, https://api.dynu.com,
	// https://freedns.afraid.org). Default: the provider's own.
	Endpoint string `yaml:"endpoint"`

	// auto or off. auto keeps an AAAA record as long as this machine has a
	// lasting IPv6 address; off keeps none, and takes away one that postern
	// set. Default auto.
	IPv6 string `yaml:"ipv6"`

	// How often the name servers are asked whether they still have the
	// address, and the API whether it is there. Records are written only when
	// they differ. Default 5m.
	Interval time.Duration `yaml:"interval"`
}

func (d *DDNS) setDefaults() { d.IPv6, d.Interval = "auto", defaultDDNSInterval }

const defaultDDNSInterval = 5 * time.Minute

// The kinds of PublicAddress.Sources.
const (
	SourceRouter = "router"
	SourceDNS    = "dns"
	SourceHTTPS  = "https"
)

func publicAddress() PublicAddress {
	return PublicAddress{
		Sources:  []string{SourceRouter, SourceDNS, SourceHTTPS},
		HTTPS:    []string{"https://api.ipify.org", "https://checkip.amazonaws.com", "https://ipv4.icanhazip.com"},
		DNS:      []string{"whoami.cloudflare@1.1.1.1:853", "myip.opendns.com@dns.opendns.com:853"},
		Interval: 5 * time.Minute,
	}
}

// WantsPublicAddress reports whether something depends on the public address.
func (c *Config) WantsPublicAddress() bool {
	for _, ip := range c.TLS.IP {
		if ip == PublicIP {
			return true
		}
	}
	return len(c.DDNS) > 0 || len(c.Publish) > 0 || c.AskPublicAddress
}
