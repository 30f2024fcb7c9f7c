package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"
)

// Guard says who is refused.
type Guard struct {
	// enforce, detect or off. detect counts and logs what would have been
	// refused, and refuses nothing. Default enforce.
	Mode string `yaml:"mode"`

	// Networks that are never banned. Giving the key replaces the built-in
	// list: loopback, private, link-local and carrier-grade NAT networks.
	// This machine's own addresses and trusted_proxies are always spared.
	// Default: the built-in list.
	Never []netip.Prefix `yaml:"never"`

	// More networks that are never banned, on top of never. Default: none.
	Allow []netip.Prefix `yaml:"allow"`

	// The rate each client address may ask at, over all sites; holds beside
	// the one of limits, so that one may be short and one long. Absent: no
	// such limit.
	RateLimit *RateLimit `yaml:"rate_limit"`

	// How much each client, each route and all together may use.
	Limits GuardLimits `yaml:"limits"`

	// How long an address that misbehaved is refused.
	Bans Bans `yaml:"bans"`

	// What each thing costs that callers do not do, in points. bans.threshold
	// of them within a short time are a ban; 0 only counts.
	Weights Weights `yaml:"weights"`

	// How long an address is spared, whatever it does, after a caller proved
	// who it is from there. 0s: it is not. Default 1h.
	Trust time.Duration `yaml:"trust"`

	// Paths that nobody has a reason to ask for, such as /backup.zip: one
	// request is a ban. They are compared byte for byte, and come before the
	// routes. Default: none.
	Decoys []string `yaml:"decoys"`

	// Whether up to 64 scanners at a time are kept busy with an answer that
	// never ends, a byte every few seconds for at most two minutes, instead of
	// being cut off. Default false.
	Tarpit bool `yaml:"tarpit"`

	// auto or off. auto reads the list of the addresses of AWS once a day, and
	// works with a copy of its own until then. From there, where Lambdas and
	// scanners share addresses, requests are refused one by one and never
	// connections. off: with the copy alone. Default auto.
	AWSRanges string `yaml:"aws_ranges"`

	// off or nftables. nftables has the kernel drop what is banned, on the
	// ports of listen, in a table of its own (inet postern) whose entries end
	// by themselves. Only on Linux, and it needs CAP_NET_ADMIN; without it
	// banned addresses are refused all the same. Default off.
	Kernel string `yaml:"kernel"`

	// Lists of addresses that others keep, at most 16. Default: none.
	Feeds []Feed `yaml:"feeds"`
}

// Bans says when bans begin and how long they last. Each further ban of an
// address lasts longer, from first up to max.
type Bans struct {
	// How long the first ban of an address lasts. Default 10m.
	First time.Duration `yaml:"first"`

	// The longest ban. Default 24h.
	Max time.Duration `yaml:"max"`

	// The longest ban of an address of AWS. Default 10m.
	AWS time.Duration `yaml:"aws"`

	// The points that are a ban. Default 10.
	Threshold Points `yaml:"threshold"`

	// How long it takes for one point to be forgiven. Default 1m.
	Forgive time.Duration `yaml:"forgive"`

	// How long after its last ban an address starts again with first. Default
	// 168h (7 days).
	Forget time.Duration `yaml:"forget"`

	// How many addresses of one neighbourhood (an IPv4 /24, an IPv6 /48) must
	// be banned within about 2 hours for the whole of it to be banned. 0:
	// none ever is. Default 5.
	Network int `yaml:"network"`

	// How many bans are kept, those that ended and are not forgotten
	// included; about 100 bytes each. Those that ended make room first; while
	// all of them last, only a ban by hand finds a place. Only a restart
	// changes it. Default 32768.
	Keep int `yaml:"keep"`
}

// GuardLimits bounds what each client, each route, and all together may use.
// Over a rate the answer is 429 with Retry-After, RateLimit and
// RateLimit-Policy. Known callers are not bound by what goes by address.
type GuardLimits struct {
	// Requests of one client address over all sites: "50/s". Absent: no
	// such limit.
	Rate Rate `yaml:"rate"`

	// How many of them may come at once. Default: the number in rate.
	Burst int `yaml:"burst"`

	// Open connections of one client address; the lower one of this and
	// limits.connections_per_address holds. Default 0: that one's.
	Connections int `yaml:"connections"`

	// New connections of one client address; the addresses of never and allow,
	// and those that known callers came from lately, are not bound by it, and
	// an address of AWS may do ten times as much. Absent: 30/s, and 150 at
	// once.
	NewConnections *RateLimit `yaml:"new_connections"`

	// Requests of one client address under way at once; the addresses of never
	// and allow are not bound by it. 0: no such limit. Default 256.
	Requests int `yaml:"requests"`

	// Requests of everybody together. Absent: no such limit.
	Total *RateLimit `yaml:"total"`

	// What each route may get from everybody together, unless it has limits of
	// its own. Absent: no such limit.
	PerRoute *RouteLimits `yaml:"per_route"`
}

// RouteLimits bounds what one route gets, whoever asks.
type RouteLimits struct {
	// Requests per time, such as 200/s. What is over it is answered 429.
	// Absent: no such limit.
	Rate Rate `yaml:"rate"`

	// How many of them may come at once. Default: the number in rate.
	Burst int `yaml:"burst"`

	// Requests under way at once; further ones are answered 503 with
	// Retry-After. Default 0: no such limit.
	Requests int `yaml:"requests"`
}

// Weights are the points that each thing costs which callers do not do.
type Weights struct {
	// First bytes of a protocol nobody speaks to a web server: RDP, SSH,
	// SOCKS, SMB and the like. Default 10.
	Junk Points `yaml:"junk"`

	// A TLS handshake on the http port. Default 4.
	TLSOnHTTP Points `yaml:"tls_on_http"`

	// Clear-text HTTP on the https port. Default 4.
	HTTPOnTLS Points `yaml:"http_on_tls"`

	// A TLS hello without a server name. Default 6.
	NoServerName Points `yaml:"no_server_name"`

	// A TLS hello for a name that is not ours. Default 4.
	UnknownServerName Points `yaml:"unknown_server_name"`

	// Any other handshake that came to nothing. Default 0.5.
	HandshakeFailed Points `yaml:"handshake_failed"`

	// A request for a host that is not ours, our bare address among them.
	// Default 6.
	UnknownHost Points `yaml:"unknown_host"`

	// A request for a path that no route takes. Default 2.4.
	NoRoute Points `yaml:"no_route"`

	// A request that breaks the wire format. Default 6.
	Malformed Points `yaml:"malformed"`

	// A path that two readers would take for two. Default 6.
	AmbiguousPath Points `yaml:"ambiguous_path"`

	// A request that is never legitimate: CONNECT, a foreign host, /etc/passwd,
	// ${jndi: and the like. Default 10.
	BadShape Points `yaml:"bad_shape"`

	// A path on the list of what scanners ask for, where no route takes it or
	// the route is open. Default 10.
	Scanner Points `yaml:"scanner"`

	// A path of decoys. Default 10.
	Decoy Points `yaml:"decoy"`

	// A distinct path that a backend does not have, from an address that
	// misses more than it finds. Default 0.8.
	MissingPath Points `yaml:"missing_path"`

	// A request that a backend answered 401 or 403, from an address that is
	// denied more than it is served. Default 0.6.
	AuthFailure Points `yaml:"auth_failure"`

	// Credentials of a caller that are wrong in a way no honest one's are.
	// Default 2.4.
	Forged Points `yaml:"forged_credentials"`

	// A connection over its budget of resets, control frames or header
	// frames. Default 10.
	Flood Points `yaml:"flood"`

	// A connection on which a request or an answer did not go on. Default 2.
	SlowPeer Points `yaml:"slow_peer"`

	// A connection without a request. Default 0.5.
	Timeout Points `yaml:"timeout"`

	// A request over a rate limit. Default 0.05.
	RateLimited Points `yaml:"rate_limited"`
}

// Points is a number that need not be whole, from 0 to 1000.
type Points float64

// UnmarshalText reads a decimal number.
func (p *Points) UnmarshalText(b []byte) error {
	v, err := strconv.ParseFloat(string(b), 64)
	if err != nil || !(v >= 0 && v <= 1000) {
		return fmt.Errorf("%q is no number of points, want one from 0 to 1000 such as 2.5", b)
	}
	*p = Points(v)
	return nil
}

// String returns the shortest spelling.
func (p Points) String() string { return strconv.FormatFloat(float64(p), 'g', -1, 64) }

// Values returns the points by the keys of the file.
func (w *Weights) Values() map[string]float64 {
	return map[string]float64{
		"junk": float64(w.Junk), "tls_on_http": float64(w.TLSOnHTTP), "http_on_tls": float64(w.HTTPOnTLS),
		"no_server_name": float64(w.NoServerName), "unknown_server_name": float64(w.UnknownServerName),
		"handshake_failed": float64(w.HandshakeFailed), "unknown_host": float64(w.UnknownHost),
		"no_route": float64(w.NoRoute), "malformed": float64(w.Malformed), "ambiguous_path": float64(w.AmbiguousPath),
		"bad_shape": float64(w.BadShape), "scanner": float64(w.Scanner), "decoy": float64(w.Decoy),
		"missing_path": float64(w.MissingPath), "auth_failure": float64(w.AuthFailure),
		"forged_credentials": float64(w.Forged), "flood": float64(w.Flood), "slow_peer": float64(w.SlowPeer),
		"timeout": float64(w.Timeout), "rate_limited": float64(w.RateLimited),
	}
}

// defaultGuard is what the file means that says nothing about the guard.
func defaultGuard() Guard {
	return Guard{
		Mode:   "enforce",
		Never:  neverBanned(),
		Limits: GuardLimits{Requests: 256},
		Bans: Bans{
			First: 10 * time.Minute, Max: 24 * time.Hour, AWS: 10 * time.Minute,
			Threshold: 10, Forgive: time.Minute, Forget: 7 * 24 * time.Hour, Network: 5, Keep: 32768,
		},
		Weights: Weights{
			Junk: 10, TLSOnHTTP: 4, HTTPOnTLS: 4, NoServerName: 6, UnknownServerName: 4, HandshakeFailed: 0.5,
			UnknownHost: 6, NoRoute: 2.4, Malformed: 6, AmbiguousPath: 6, BadShape: 10, Scanner: 10, Decoy: 10,
			MissingPath: 0.8, AuthFailure: 0.6, Forged: 2.4, Flood: 10, SlowPeer: 2, Timeout: 0.5, RateLimited: 0.05,
		},
		Trust:     time.Hour,
		AWSRanges: AWSRangesAuto,
		Kernel:    kernelOff,
	}
}

// The values of guard.aws_ranges.
const (
	AWSRangesAuto = "auto"
	AWSRangesOff  = "off"
)

// inherit fills in what one key of the guard means for another.
func (g *Guard) inherit(l *Limits) {
	if g.Limits.Rate.Events > 0 && g.Limits.Burst == 0 {
		g.Limits.Burst = g.Limits.Rate.Events
	}
	g.RateLimit.inherit()
	g.Limits.NewConnections.inherit()
	g.Limits.Total.inherit()
	if n := g.Limits.Connections; n > 0 && n < l.ConnectionsPerAddress {
		l.ConnectionsPerAddress = n
	}
}

// RateLimit is a rate for one client address and how far it may be ahead of
// it. An IPv6 client counts by its /64 network. What is over the rate is
// answered 429 with Retry-After and RateLimit headers. `rate_limit: 20/s` is
// short for the rate alone.
type RateLimit struct {
	// Requests per time: "20/s", "300/m", "5000/h" or "1/10s". Required.
	Rate Rate `yaml:"rate"`

	// How many requests may come at once. Default: the number in rate.
	Burst int `yaml:"burst"`
}
