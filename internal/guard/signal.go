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
	// Decoy is a request for a path the owner listed as a trap.
	Decoy
	// MissingPath is one more path a backend does not have, asked for by an
	// address that misses more than it finds, see Guard.Answered.
	MissingPath
	// AuthFailure is a request a backend answered 401 or 403, one of many.
	AuthFailure
	// Flood is a connection over its budget of resets, control frames or
	// header frames (CVE-2023-44487, CVE-2024-27316).
	Flood
	// SlowPeer is a connection that began a request or an answer and kept it
	// from going on.
	SlowPeer

	numSignals = int(SlowPeer) + 1
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
	Decoy:             "decoy",
	MissingPath:       "missing_path",
	AuthFailure:       "auth_failure",
	Flood:             "flood",
	SlowPeer:          "slow_peer",
}

// String returns the signal's metric label, in snake_case.
func (s Signal) String() string {
	if int(s) < numSignals {
		return signalNames[s]
	}
	return "unknown"
}

// SignalNamed is the inverse of String.
func SignalNamed(name string) (Signal, bool) {
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
	defaultNetworks    = 4096
	defaultNetworkBans = 5
	defaultTrust       = time.Hour
	defaultRequests    = 256
	defaultAccepts     = 30  // connections a second
	defaultAcceptBurst = 150 // of them
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
		Decoy:             10,
		MissingPath:       0.8,
		AuthFailure:       0.6,
		Flood:             10,
		SlowPeer:          2,
	}
}

// counts holds how often each signal was seen, 255 times at most.
type counts [numSignals]uint8

const maxCount = 255

// add counts s once more, up to maxCount.
func (c counts) add(s Signal) counts {
	if c[s] < maxCount {
		c[s]++
	}
	return c
}

// of returns how often s was counted.
func (c *counts) of(s Signal) int { return int(c[s]) }

// none reports whether nothing was counted.
func (c *counts) none() bool { return *c == counts{} }

// merge adds the counts of d.
func (c counts) merge(d counts) counts {
	for s := range d {
		c[s] = uint8(min(int(c[s])+int(d[s]), maxCount))
	}
	return c
}
