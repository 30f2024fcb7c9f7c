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

// Addrs keeps addresses. Its methods may be called from several goroutines;
// names are absolute, with or without the dot at the end.
type Addrs interface {
	// Name is as given to NewAddrs.
	Name() string

	// SetAddrs makes v4 the only A record and v6 the only AAAA record of
	// name. The record of an address that is not valid (the zero Addr) is
	// left as it is.
	SetAddrs(ctx context.Context, name string, v4, v6 netip.Addr) error

	// ClearV6 takes v6 away from the AAAA records of name; that it is not
	// there is no error. v4 is the address of its A record, for hosts that
	// can only take away both.
	ClearV6(ctx context.Context, name string, v4, v6 netip.Addr) error

	// Probe asks the host something about name that changes nothing, and
	// tells with the usual errors whether it is there and, where it can be
	// asked, takes our credentials.
	Probe(ctx context.Context, name string) error
}

// Provider is the client of one DNS host, for dns-01.
type Provider interface {
	TXT
	Name() string // as given to New
}

// named is what every client is; most are a Provider and Addrs.
type named interface{ Name() string }

// Settings are what a host wants to know. Which ones it needs is told by New.
type Settings struct {
	// Token is the API token of hosts that have one. For route53 it is the
	// session token of temporary credentials. A secret.
	Token string

	// Key says who we are, where that is apart from the secret: the access
	// key id (route53), the API key (porkbun), the name of the TSIG key
	// (rfc2136), the user name (acme-dns, dyndns2).
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
	// host's own. Required for rfc2136, dyndns2 and acme-dns.
	Endpoint string
}

// The bounds on talking to a host.
const (
	callTimeout = 15 * time.Second
	maxAnswer   = 4 << 20 // a large account's list of zones
	maxCached   = 256     // zones remembered
	maxPages    = 50      // of a list
)

// What a client can do.
const (
	forTXT   = 1 << iota // it is a Provider
	forAddrs             // it is an Addrs
	forBoth  = forTXT | forAddrs
)

// maker makes a client from settings that have what needs lists.
type maker struct {
	name  string
	can   int
	needs []string // fields of Settings
	make  func(Settings) (named, error)
}

func makers() []maker {
	token := []string{"token"}
	return []maker{
		{"acme-dns", forTXT, []string{"endpoint", "key", "secret", "subdomain"}, newACMEDNS},
		{"cloudflare", forBoth, token, newCloudflare},
		{"desec", forBoth, token, newDeSEC},
		{"digitalocean", forBoth, token, newDigitalOcean},
		{"duckdns", forBoth, token, newDuckDNS},
		{"dyndns2", forAddrs, []string{"endpoint", "key", "secret"}, newDynDNS2},
		{"dynv6", forBoth, token, newDynv6},
		{"gandi", forBoth, token, newGandi},
		{"hetzner", forBoth, token, newHetzner},
		{"porkbun", forBoth, []string{"key", "secret"}, newPorkbun},
		{"rfc2136", forBoth, []string{"endpoint", "key", "secret"}, newRFC2136},
		{"route53", forBoth, []string{"key", "secret"}, newRoute53},
	}
}

func namesFor(what int) []string {
	var out []string
	for _, m := range makers() {
		if m.can&what != 0 {
			out = append(out, m.name)
		}
	}
	return out
}

// Names lists the providers New knows, sorted: those that set TXT records.
func Names() []string { return namesFor(forTXT) }

// AddrNames lists the providers NewAddrs knows, sorted: those that keep
// addresses.
func AddrNames() []string { return namesFor(forAddrs) }

// New makes the client of a host, for TXT records. It touches no network.
// Errors name the setting and what it should be, and hold no secret.
func New(name string, s Settings) (Provider, error) {
	c, err := newClient(name, s, forTXT)
	if err != nil {
		return nil, err
	}
	return c.(Provider), nil
}

// NewAddrs makes the client of a host, for addresses. It touches no network.
// Errors are as those of New.
func NewAddrs(name string, s Settings) (Addrs, error) {
	c, err := newClient(name, s, forAddrs)
	if err != nil {
		return nil, err
	}
	return c.(Addrs), nil
}

func newClient(name string, s Settings, what int) (named, error) {
	all := makers()
	i := slices.IndexFunc(all, func(m maker) bool { return m.name == name && m.can&what != 0 })
	if i < 0 {
		return nil, fmt.Errorf("dns provider %q is unknown, want one of %s", name, strings.Join(namesFor(what), ", "))
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
