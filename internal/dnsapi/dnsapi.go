// Package dnsapi has small clients of DNS hosts, one file each: they put the
// TXT records of dns-01 (RFC 8555 section 8.4) in place and, where the host
// offers it simply, keep addresses up to date.
//
// Every client has the same manners. A call ends after 15 s. What comes back
// is read up to a bound. An error is an *Error that tells whether the host
// said no (ErrRejected: a person has to change something), wants us to slow
// down (ErrLimited) or is not there (ErrUnreachable: it passes by itself). No
// error holds a token. A zone is looked up, never guessed from the name.
package dnsapi

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// TXT sets text records. Its methods may be called from several goroutines;
// names are absolute, with or without the dot at the end.
type TXT interface {
	// AddTXT makes name have a TXT record with value, beside those it has
	// (but see Slot). A value that is there already is no error.
	AddTXT(ctx context.Context, name, value string) error

	// RemoveTXT takes that record away again. One that is not there is no
	// error.
	RemoveTXT(ctx context.Context, name, value string) error

	// Slot is what name shares with others when the host can hold one value
	// only: two names with the same slot overwrite each other's records, so
	// the caller uses one at a time. Empty: values live side by side.
	Slot(name string) string
}

// Addrs sets addresses. Not every Provider can.
type Addrs interface {
	// SetAddrs makes v4 the only A record and v6 the only AAAA record of
	// name. The record of an address that is not valid (the zero Addr) is
	// left as it is.
	SetAddrs(ctx context.Context, name string, v4, v6 netip.Addr) error
}

// Provider is the client of one DNS host.
type Provider interface {
	TXT
	Name() string // as given to New
}

// Settings are what a host wants to know. Which ones it needs is told by New.
type Settings struct {
	// Token is the API token of hosts that have one. For route53 it is the
	// session token of temporary credentials. A secret.
	Token string

	// Key says who we are, where that is apart from the secret: the access
	// key id (route53), the API key (porkbun), the name of the TSIG key
	// (rfc2136), the user name (acme-dns).
	Key string

	// Secret belongs to Key. A secret.
	Secret string

	// Zone spares the look-up of the zone: the hosted zone id for route53,
	// the zone's name for rfc2136. Empty: looked up.
	Zone string

	// Subdomain is the one that registration with acme-dns gave.
	Subdomain string

	// Algorithm of the TSIG key (rfc2136): hmac-sha256, hmac-sha512 or
	// another of RFC 8945 section 6. Empty: hmac-sha256.
	Algorithm string

	// Endpoint is where the API is: a base URL, to which the client adds the
	// path; for rfc2136 host or host:port of the primary server. Empty: the
	// host's own. Required for rfc2136 and acme-dns.
	Endpoint string
}

// The bounds on talking to a host.
const (
	callTimeout = 15 * time.Second
	maxAnswer   = 4 << 20 // a large account's list of zones
	maxCached   = 256     // zones remembered
	maxPages    = 50      // of a list
)

// maker makes a client from settings that have what needs lists.
type maker struct {
	name  string
	needs []string // fields of Settings
	make  func(Settings) (Provider, error)
}

func makers() []maker {
	token := []string{"token"}
	return []maker{
		{"acme-dns", []string{"endpoint", "key", "secret", "subdomain"}, newACMEDNS},
		{"cloudflare", token, newCloudflare},
		{"desec", token, newDeSEC},
		{"digitalocean", token, newDigitalOcean},
		{"duckdns", token, newDuckDNS},
		{"dynv6", token, newDynv6},
		{"gandi", token, newGandi},
		{"hetzner", token, newHetzner},
		{"porkbun", []string{"key", "secret"}, newPorkbun},
		{"rfc2136", []string{"endpoint", "key", "secret"}, newRFC2136},
		{"route53", []string{"key", "secret"}, newRoute53},
	}
}

// Names lists the providers New knows, sorted.
func Names() []string {
	var out []string
	for _, m := range makers() {
		out = append(out, m.name)
	}
	return out
}

// New makes the client of a host. It touches no network. Errors name the
// setting and what it should be, and hold no secret.
func New(name string, s Settings) (Provider, error) {
	all := makers()
	i := slices.IndexFunc(all, func(m maker) bool { return m.name == name })
	if i < 0 {
		return nil, fmt.Errorf("dns provider %q is unknown, want one of %s", name, strings.Join(Names(), ", "))
	}
	m := all[i]
	have := map[string]string{
		"token": s.Token, "key": s.Key, "secret": s.Secret, "endpoint": s.Endpoint, "subdomain": s.Subdomain,
	}
	for _, f := range m.needs {
		if have[f] == "" {
			return nil, fmt.Errorf("dns provider %s: %s is missing, want %s", name, f, strings.Join(m.needs, ", "))
		}
	}
	for _, f := range []string{"token", "key", "secret"} {
		if strings.ContainsFunc(have[f], func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, fmt.Errorf("dns provider %s: %s has a space or a character that no such text has; copy it again", name, f)
		}
	}
	return m.make(s)
}
