package config

import "strings"

// Callers are the known callers, by their names. The name is what backends,
// the log and the metrics call them: lower-case letters, digits, "-" and "_".
type Callers map[string]*Caller

// Caller says how one caller proves who it is. It may do so in any of the ways
// that are written here, and with keys made by `proxy caller add NAME`, which
// need nothing written here: `ci: {}`.
type Caller struct {
	// The hashes of API keys, at most two, so that one can be replaced by the
	// other without a gap: "sha256:" and the hexadecimal SHA-256 of the whole
	// key. The caller sends the key as `Authorization: Bearer KEY` or as
	// `X-Api-Key: KEY`. `proxy caller add` makes keys and keeps their hashes
	// in the data folder. Default: none.
	APIKeyHash []string `yaml:"api_key_hash"`

	// Whether the backend gets what the caller proved itself with. Otherwise
	// the field that held the key or token is taken out of the request.
	// Default false.
	KeepCredentials bool `yaml:"keep_credentials"`
}

// CallerNames says who may use a site or route: names of callers, or any for
// everybody.
type CallerNames []string

// AnyCaller is the entry of CallerNames that lets everybody.
const AnyCaller = "any"

// Public reports whether everybody may.
func (c CallerNames) Public() bool {
	return len(c) == 0 || len(c) == 1 && strings.EqualFold(c[0], AnyCaller)
}
