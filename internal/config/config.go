// Package config reads postern's one YAML file, refuses what it does not
// know, and returns typed values that nobody changes afterwards.
//
// The comments of the types below are the manual: docs/config.md is generated
// from them.
//
//go:generate go test -run ^TestConfigDoc$ -update
package config

import (
	"net/netip"
	"time"
)

// Config is the whole file.
type Config struct {
	// The contact address given to the certificate authority. Same as
	// tls.email, which wins when both are set. Default: none, which is a
	// warning.
	Email string `yaml:"email"`

	// The addresses postern accepts connections on.
	Listen Listen `yaml:"listen"`

	// The folder that holds certificates, the local CA, session ticket keys
	// and bans. It is no cache: losing it costs new certificates. Default:
	// the folder systemd made for StateDirectory=, else /var/lib/postern for
	// root, else $XDG_DATA_HOME/postern (~/.local/share/postern).
	Data string `yaml:"data"`

	// Whether HTTP/3 is served as well: every address of listen.https is then
	// opened on UDP too, with the same certificates, and answers over HTTP/1.1
	// and HTTP/2 tell clients so (Alt-Svc). The router must forward 443/udp
	// too; where it does not, clients stay with HTTP/2. Default false.
	HTTP3 bool `yaml:"http3"`

	// auto or off. auto has the home router forward ports 443 and 80 (and
	// 443/udp with http3) to the listeners, and open its IPv6 firewall for
	// them: by PCP, NAT-PMP or UPnP, whichever it speaks. What it grants is
	// renewed, and given back when postern stops. With off forward them in the
	// router's settings. Default off.
	PortMapping string `yaml:"port_mapping"`

	// What is written to the log and where.
	Log Log `yaml:"log"`

	// The private listener for metrics, health and profiling.
	Admin Admin `yaml:"admin"`

	// The networks whose X-Forwarded-For, Forwarded, X-Request-Id and PROXY
	// protocol header (versions 1 and 2) are believed. Empty (the default):
	// nobody's.
	TrustedProxies []netip.Prefix `yaml:"trusted_proxies"`

	// How long requests in flight may take to finish after SIGTERM, and how
	// long the old side of a reload lives on. 0s: they are cut off at once.
	// Default 10s.
	Grace time.Duration `yaml:"grace"`

	// Whom postern asks about its names before it spends an attempt at a
	// certificate authority on them.
	DNS DNS `yaml:"dns"`

	// At which address the Internet reaches this house.
	PublicAddress PublicAddress `yaml:"public_address"`

	// The DNS hosts that are kept informed of it: one entry, or a list of
	// them. Default: none.
	DDNS []DDNS `yaml:"ddns"`

	// Certificates.
	TLS TLS `yaml:"tls"`

	// Where the address of this house is published for callers, beside the
	// DNS: one entry, or a list of them. Default: nowhere.
	Publish []Publish `yaml:"publish"`

	// Who is refused, and for how long.
	Guard Guard `yaml:"guard"`

	// Bounds on what one connection and one request may use.
	Limits Limits `yaml:"limits"`

	// Who calls, and how each proves it. Sites and routes say who may use
	// them with callers of their own. Default: none, so that everybody may
	// use everything.
	Callers Callers `yaml:"callers"`

	// Whom to tell what happens: one channel, or a list of them. `proxy notify
	// test` sends each a message. Default: nobody.
	Notify Channels `yaml:"notify"`

	// What is served, by host name. A host that is named nowhere here is
	// refused. Required.
	Sites []Site `yaml:"sites"`

	// File is the path the file was read from, "" without one.
	File string `yaml:"-"`

	// AskPublicAddress: the file has public_address, so it is found out even
	// if nothing else in the file depends on it.
	AskPublicAddress bool `yaml:"-"`

	// Warnings is what the file allows itself but hardly means, in the order
	// of its lines.
	Warnings []Warning `yaml:"-"`
}

// Listen says where connections are accepted. Each key takes one address or
// a list: ":80", "host:port", "[::]:443". "" turns the listener off. Port 0
// takes any free port, which is told in the log.
type Listen struct {
	// Clear-text HTTP: challenges of the certificate authority and redirects.
	// Default ":80".
	HTTP Addrs `yaml:"http"`

	// HTTPS. Default ":443".
	HTTPS Addrs `yaml:"https"`
}

// Addrs is one listen address or a list of them.
type Addrs []string

// Log says what is written and how.
type Log struct {
	// debug, info, warn or error. Default info.
	Level string `yaml:"level"`

	// json, text or auto: text when the log goes to a terminal, json
	// otherwise. Default auto.
	Format string `yaml:"format"`

	// One line for each request. Default true.
	Access bool `yaml:"access"`

	// Whether the access line holds the query string, which carries secrets
	// more often than not. Default false.
	Query bool `yaml:"query"`

	// A file for the access lines, rotated. Absent: they go where the log
	// goes (standard error).
	File *LogFile `yaml:"file"`
}

// LogFile is the access log's file. A plain string is its path.
type LogFile struct {
	// The path; its folder must exist. Required.
	Path string `yaml:"path"`

	// Rotate when the file reaches this many megabytes. Default 10.
	MaxSize int `yaml:"max_size"`

	// Delete rotated files older than this many days. 0 (the default): age
	// does not matter.
	MaxAge int `yaml:"max_age"`

	// Keep this many rotated files, at least 1. Default 5.
	MaxBackups int `yaml:"max_backups"`
}

// Admin is the private listener: /metrics, /healthz, /readyz, /health, /certs
// and /debug/pprof. What changes something (`proxy certs renew`) it takes from
// this machine only.
type Admin struct {
	// A loopback host:port or unix:/path/to/socket; "" turns it off. Any
	// other address is refused unless a token is set. Default
	// 127.0.0.1:9180.
	Listen string `yaml:"listen"`

	// When set, requests need `Authorization: Bearer <token>` (on a unix
	// socket too). At least 16 characters. token_file reads it from a file.
	// Default: none.
	Token Secret `yaml:"token"`
}

// DNS says where postern's own look-ups go. They never serve requests: they
// find out whether a certificate authority would get its answers, and name
// what is broken when it would not. `proxy certs check NAME` shows them.
type DNS struct {
	// Recursive resolvers, as addresses with or without a port: 9.9.9.9,
	// "9.9.9.9:53", "[2620:fe::fe]:53". Default: those of the system.
	Resolvers []string `yaml:"resolvers"`

	// The port of authoritative name servers, which are asked directly. Only
	// tests need another one. Default 53.
	AuthoritativePort int `yaml:"authoritative_port"`

	// Resolvers over HTTPS (RFC 8484) to compare with, because no router can
	// answer in their place. Those with an address in their URL need no other
	// resolver to be found. [] asks none. Default
	// [https://1.1.1.1/dns-query, https://9.9.9.9/dns-query].
	DoH []string `yaml:"doh"`
}

// TLS says where certificates come from.
type TLS struct {
	// acme or local. acme asks a public certificate authority; local signs
	// with a root of our own, kept in the data folder, for tests and for
	// names no public authority can check. Default acme.
	Issuer string `yaml:"issuer"`

	// The contact address given to the certificate authority. Default: the
	// top-level email.
	Email string `yaml:"email"`

	// The ACME certificate authorities: one, or a list of them, the preferred
	// one first. One that is down, limits us or will not certify a name is
	// passed over for the next. Default: Let's Encrypt's production directory
	// alone.
	ACME ACMEs `yaml:"acme"`

	// How a name is proven: auto, http-01, tls-alpn-01 or dns-01. auto takes
	// what the listeners and dns_provider allow, one for each attempt, and
	// another one after a failure. Default auto.
	Challenge string `yaml:"challenge"`

	// The DNS host, for dns-01: the challenge that needs no open port and
	// alone proves a wildcard. Absent: no dns-01.
	DNSProvider *DNSProvider `yaml:"dns_provider"`

	// When attempts at an authority are made.
	Retry Retry `yaml:"retry"`

	// A short-lived certificate for this house's public addresses, which
	// needs no DNS: true for those found by themselves, or a list of
	// addresses (the word public in it means true). It is shown to clients
	// that connect by address. Default: none.
	IP IPs `yaml:"ip"`

	// Certificates for names that no site lists, obtained at their first
	// handshake. Absent (the default): only the hosts of sites get one.
	OnDemand *OnDemand `yaml:"on_demand"`

	// The lowest TLS version spoken: "1.2" or "1.3". Default "1.2".
	MinVersion string `yaml:"min_version"`

	// The host whose certificate is shown to a client that names none, or
	// connects by IP address. Must be a host of a site. Absent (the
	// default): such a client is refused before the handshake costs
	// anything.
	DefaultHost string `yaml:"default_host"`
}

// ACMEs is one authority or a list of them.
type ACMEs []ACME

// IPs is true, or a list of addresses.
type IPs []string

// PublicIP is the entry of IPs that stands for the addresses found.
const PublicIP = "public"

// Retry says when attempts at a certificate authority are made. None is made
// while the name's DNS would make it fail.
type Retry struct {
	// The time between looks at the DNS of a name while something is wrong
	// with it. Default 30s.
	Check time.Duration `yaml:"check"`

	// The most attempts in any hour for one name at one authority, from 1 to
	// 5. Let's Encrypt refuses a name for an hour after 5 failures. Default
	// 4.
	AttemptsPerHour int `yaml:"attempts_per_hour"`
}

// ACME is a certificate authority that speaks RFC 8555.
type ACME struct {
	// The directory URL (RFC 8555 section 7.1.1). Default: Let's Encrypt's
	// production directory.
	Directory string `yaml:"directory"`

	// A PEM file with the roots to trust for the directory itself. Absent:
	// the system's roots.
	Root string `yaml:"root"`

	// The certificate profile asked for (draft-ietf-acme-profiles), one of
	// those the directory lists, such as classic or shortlived. Absent: the
	// authority's default.
	Profile string `yaml:"profile"`

	// The external account binding (RFC 8555 section 7.3.4). Absent: none,
	// which most authorities, Let's Encrypt among them, are content with.
	EAB *EAB `yaml:"eab"`

	// The challenges to use: some of http-01, tls-alpn-01 and dns-01. One
	// whose listener is off is left out. Default: all that can be answered.
	Challenges []string `yaml:"challenges"`
}

// DNSProvider is the DNS host and what it wants to know. An alias (CNAME) of
// _acme-challenge is followed, so this may be another host than the name's
// own.
type DNSProvider struct {
	// acme-dns, cloudflare, desec, digitalocean, duckdns, dynv6, gandi,
	// hetzner, porkbun, rfc2136 or route53. Required.
	Provider string `yaml:"provider"`

	// The API token of cloudflare (it needs Zone:Read and DNS:Edit), desec,
	// digitalocean, duckdns, dynv6 (an HTTP token), gandi (a personal access
	// token) and hetzner (of the Cloud project). For route53 the session
	// token, if the credentials are temporary. token_file reads it from a
	// file. Default: none.
	Token Secret `yaml:"token"`

	// Who we are, where that is apart from the secret: the user name at
	// acme-dns, the API key of porkbun, the name of the TSIG key for rfc2136,
	// the access key id of route53. Default: none.
	Key string `yaml:"key"`

	// What belongs to key: the password, secret key or TSIG key in base64.
	// secret_file reads it from a file. Default: none.
	Secret Secret `yaml:"secret"`

	// The id of the hosted zone for route53, the name of the zone for
	// rfc2136; others have none. Default: looked up.
	Zone string `yaml:"zone"`

	// The subdomain that registering with acme-dns gave. Default: none.
	Subdomain string `yaml:"subdomain"`

	// The algorithm of the TSIG key for rfc2136: hmac-sha1, hmac-sha224,
	// hmac-sha256, hmac-sha384 or hmac-sha512. Default hmac-sha256.
	Algorithm string `yaml:"algorithm"`

	// Where the API is: a base URL, to which the path is added; for rfc2136
	// the zone's primary server, as host or host:port. Required for rfc2136
	// and acme-dns. Default: the provider's own.
	Endpoint string `yaml:"endpoint"`
}

// EAB binds the ACME account to an account at the authority.
type EAB struct {
	// The key identifier given by the authority. Required.
	KID string `yaml:"kid"`

	// The base64url-encoded MAC key given by the authority. hmac_file reads
	// it from a file. Required.
	HMAC Secret `yaml:"hmac"`
}

// OnDemand says for which names beyond the sites' hosts a certificate may be
// obtained at the first handshake.
type OnDemand struct {
	// Host names or one-label wildcards such as "*.mypi.duckdns.org". Default:
	// none, so that ask decides alone.
	Allow []string `yaml:"allow"`

	// A URL asked with ?domain=NAME for names that allow does not cover:
	// 200 allows, anything else refuses. It must answer within 2s. Absent:
	// only allow decides.
	Ask string `yaml:"ask"`
}

// Limits bounds what strangers can make postern hold.
type Limits struct {
	// Open connections in total; fewer when the process has too few file
	// descriptors. Default 4096.
	Connections int `yaml:"connections"`

	// Open connections from one client address (an IPv6 client counts by its
	// /64 network). Addresses of guard.never and guard.allow are not bound
	// by it, nor are those that known callers came from lately; an address of
	// AWS may have a quarter of all, as many functions share it. Default 64.
	ConnectionsPerAddress int `yaml:"connections_per_address"`

	// The longest head (request line and header fields) of a request, in
	// bytes or with k or m. Default 32k.
	Header Size `yaml:"header"`

	// The largest request body, in bytes or with k, m or g. A site or route
	// may set its own. 0 (the default): no bound; bodies are streamed.
	Body Size `yaml:"body"`

	// How long a client may take to send the head of a request. Default 5s.
	HeaderTimeout time.Duration `yaml:"header_timeout"`

	// How long a client's connection may be idle between requests. Default
	// 30s.
	IdleTimeout time.Duration `yaml:"idle_timeout"`

	// The same for a connection that a known caller has used: a Lambda that
	// was frozen between two calls finds it again. Default 10m.
	CallerIdleTimeout time.Duration `yaml:"caller_idle_timeout"`

	// How long a body, either way, may go without progress. Default 30s.
	StallTimeout time.Duration `yaml:"stall_timeout"`

	// How long a TLS handshake may take. Default 10s.
	HandshakeTimeout time.Duration `yaml:"handshake_timeout"`
}

// Site is what is served under some host names.
type Site struct {
	// Host names: "mypi.duckdns.org", or "*.mypi.duckdns.org" for every name
	// one label below, which needs certificate files, tls.issuer local,
	// tls.on_demand or tls.dns_provider: only dns-01 proves a wildcard. An IP
	// address needs files or tls.issuer local. Required.
	Hosts []string `yaml:"hosts"`

	// A certificate from files instead of an automatic one. Absent: an
	// automatic one.
	TLS *SiteTLS `yaml:"tls"`

	// What port 80 does for these hosts. redirect: 308 to https for GET and
	// HEAD, 403 for the rest, so that no client turns a POST into a GET.
	// serve: the same as over https. off: refused. Default redirect; serve
	// when listen.https is off.
	HTTP string `yaml:"http"`

	// Strict-Transport-Security (RFC 6797) on answers over https. Absent:
	// not sent.
	HSTS *HSTS `yaml:"hsts"`

	// Shorthand for one route that takes every path: one backend or a list.
	// Routes, if any, come first. A site has this, routes, or both. Default:
	// none.
	Upstream Upstreams `yaml:"upstream"`

	// How requests are spread over the backends of upstream, as on a route.
	// Like the keys below up to headers it is for upstream alone and not for
	// routes. Default round_robin.
	Balance string `yaml:"balance"`

	// What balance: hash goes by, as on a route. Default: address.
	HashBy string `yaml:"hash_by"`

	// Ask each backend of upstream again and again whether it is well, as on
	// a route. Absent: only failed connections tell.
	Health *HealthCheck `yaml:"health"`

	// How long a backend that was out takes to get its whole share again, as
	// on a route. Default 0s: it has it at once.
	SlowStart time.Duration `yaml:"slow_start"`

	// Leave a backend alone for a while that answers badly, as on a route.
	// Absent: never.
	Breaker *Breaker `yaml:"breaker"`

	// Send requests again that may have reached a backend, as on a route.
	// Absent: none.
	Retry *Retries `yaml:"retry"`

	// How long requests wait while no backend can be reached, as on a route.
	// Default 0s: they are answered 503 at once.
	Hold time.Duration `yaml:"hold"`

	// Send copies of the requests to other backends as well, as on a route.
	// Absent: none.
	Mirror *Mirror `yaml:"mirror"`

	// Changes of header fields on the way to the backends and back, as on a
	// route.
	Headers Headers `yaml:"headers"`

	// Deadlines towards the backends, for every route that sets none of its
	// own.
	Timeout Timeout `yaml:"timeout"`

	// A limit per client address over the whole site. Absent: none.
	RateLimit *RateLimit `yaml:"rate_limit"`

	// Whether strangers may send anything here, see open of a route: for every
	// route that does not say it itself, upstream included. Default false.
	Open bool `yaml:"open"`

	// The largest request body for this site. Default: limits.body.
	MaxBody *Size `yaml:"max_body"`

	// Who may use the site: names of callers, or any for everybody. A route
	// may say otherwise. Default: any.
	Callers CallerNames `yaml:"callers"`

	// What is done by path. The first match wins, in the order written here.
	// A path that matches none is refused. Default: none.
	Routes []Route `yaml:"routes"`
}

// SiteTLS names certificate files. They are read again when they change.
type SiteTLS struct {
	// The PEM file with the certificate and its chain. Required.
	Cert string `yaml:"cert"`

	// The PEM file with the private key. Required.
	Key string `yaml:"key"`
}

// HSTS is the Strict-Transport-Security header. `hsts: true` takes the
// defaults.
type HSTS struct {
	// How long browsers remember. Default 8760h (a year).
	MaxAge time.Duration `yaml:"max_age"`

	// Whether it binds all sub-domains too. Default false.
	IncludeSubdomains bool `yaml:"include_subdomains"`

	// Whether the name may be put on the browsers' preload lists. Default
	// false.
	Preload bool `yaml:"preload"`
}
