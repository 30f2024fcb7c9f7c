package guard

import "time"

// A Signal is something an address did that callers do not do. The set is
// closed; String is its metric label. See the package comment for the
// weights.
type Signal uint8

const (
	// Junk is the first bytes of a protocol nobody speaks to a web server
	// (RDP, SSH, SOCKS, SMB, MGLNDD, …) or of none at all.
	Junk Signal = iota
	// TLSOnHTTP is a TLS handshake on the clear-text port.
	TLSOnHTTP
	// HTTPOnTLS is clear-text HTTP on the TLS port.
	HTTPOnTLS
	// NoServerName is a ClientHello without a server name.
	NoServerName
	// UnknownServerName is a ClientHello for a name that is not configured.
	UnknownServerName
	// HandshakeFailed is any other handshake that came to nothing.
	HandshakeFailed
	// UnknownHost is a request for a host that is not configured, such as our
	// bare address.
	UnknownHost
	// NoRoute is a request for a path that no route takes.
	NoRoute
	// Malformed is a request that breaks the wire format.
	Malformed
	// AmbiguousPath is a path that two readers would take for two paths.
	AmbiguousPath
	// BadShape is a request that is never legitimate, see Guard.Shape.
	BadShape
	// Scanner is a request that matches no route and is on the list of known
	// scanner paths, see ScannerSignature. It replaces NoRoute.
	Scanner
	// Timeout is a connection that ended without a request. Browsers open
	// such connections ahead of need.
	Timeout
	// RateLimited is a request over a rate limit.
	RateLimited
	// Forged is a request with credentials that nobody honest has: a key that
	// was guessed, a signature that is wrong. What has expired is none.
	Forged

	numSignals = int(Forged) + 1
)

var signalNames = [numSignals]string{
	Junk:              "junk",
	TLSOnHTTP:         "tls_on_http",
	HTTPOnTLS:         "http_on_tls",
	NoServerName:      "no_server_name",
	UnknownServerName: "unknown_server_name",
	HandshakeFailed:   "handshake_failed",
	UnknownHost:       "unknown_host",
	NoRoute:           "no_route",
	Malformed:         "malformed",
	AmbiguousPath:     "ambiguous_path",
	BadShape:          "bad_shape",
	Scanner:           "scanner",
	Timeout:           "timeout",
	RateLimited:       "rate_limited",
	Forged:            "forged_credentials",
}

// String returns the signal's metric label, in snake_case.
func (s Signal) String() string {
	if int(s) < numSignals {
		return signalNames[s]
	}
	return "unknown"
}

// signalNamed is the inverse of String.
func signalNamed(name string) (Signal, bool) {
	for i, n := range signalNames {
		if n == name {
			return Signal(i), true
		}
	}
	return 0, false
}

// The defaults of Config.
const (
	defaultThreshold   = 10
	defaultLeak        = time.Minute
	defaultFirstBan    = 10 * time.Minute
	defaultMaxBan      = 24 * time.Hour
	defaultForget      = 7 * 24 * time.Hour
	defaultConnections = 4096
	defaultPerAddress  = 64
	defaultSlots       = 65536
	defaultMaxBans     = 32768
)

// DefaultWeights returns the points each signal costs, against the default
// threshold of 10. The map is the caller's.
func DefaultWeights() map[Signal]float64 {
	return map[Signal]float64{
		Junk:              10,
		BadShape:          10,
		Scanner:           10,
		UnknownHost:       6,
		NoServerName:      6,
		Malformed:         6,
		AmbiguousPath:     6,
		Forged:            2.4,
		UnknownServerName: 4,
		TLSOnHTTP:         4,
		HTTPOnTLS:         4,
		NoRoute:           2.4,
		HandshakeFailed:   0.5,
		Timeout:           0.5,
		RateLimited:       0.05,
	}
}

// counts holds how often each signal was seen, in 4 bits each: a ban comes
// long before 15 of most, and the rest is told as "15 or more".
type counts uint64

const maxCount = 15

// add counts s once more, up to maxCount.
func (c counts) add(s Signal) counts {
	if c.of(s) == maxCount {
		return c
	}
	return c + 1<<(4*s)
}

// of returns how often s was counted.
func (c counts) of(s Signal) int { return int(c>>(4*s)) & maxCount }

// merge adds the counts of d.
func (c counts) merge(d counts) counts {
	for s := range Signal(numSignals) {
		n := min(c.of(s)+d.of(s), maxCount)
		c = c&^(maxCount<<(4*s)) | counts(n)<<(4*s)
	}
	return c
}
