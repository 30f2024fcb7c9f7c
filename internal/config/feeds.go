package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Feed is a list of addresses that others keep; who is on one is refused as
// one who is banned. Give exactly one of crowdsec, blocklist and geo. Nobody
// of guard.never and guard.allow is refused for a feed. One that is down keeps
// its last good copy.
type Feed struct {
	// Its name in metrics, logs and the data folder: small letters, digits,
	// dots, dashes and underscores. Default: crowdsec, geo, or the host of
	// the blocklist's URL.
	Name string `yaml:"name"`

	// Decisions of a CrowdSec security engine, of which postern is a bouncer.
	// Default: none.
	CrowdSec *CrowdSecFeed `yaml:"crowdsec"`

	// A text with an address, network or range a line. Default: none.
	Blocklist *BlocklistFeed `yaml:"blocklist"`

	// Countries and networks, by a database in MaxMind's format. Default:
	// none.
	Geo *GeoFeed `yaml:"geo"`
}

// CrowdSecFeed says where the engine is. Bans of addresses and ranges count;
// captchas, and decisions about countries or users, do not.
type CrowdSecFeed struct {
	// The base URL of its local API. Default http://127.0.0.1:8080.
	URL string `yaml:"url"`

	// The bouncer's API key, which `cscli bouncers add postern` makes.
	// key_file reads it from a file. Required.
	Key Secret `yaml:"key"`

	// The time between questions, 1s or more. Default 10s.
	Interval time.Duration `yaml:"interval"`
}

// BlocklistFeed says where a list is. Comments begin with # or ;. Networks
// wider than /8 (IPv6: /16) are passed over; at most 500,000 are taken.
type BlocklistFeed struct {
	// The URL, which is fetched with ETag and If-Modified-Since. Required.
	URL string `yaml:"url"`

	// The time between fetches, 1m or more. Default 1h.
	Interval time.Duration `yaml:"interval"`
}

// GeoFeed says whom a database shuts out. The file is read again when it
// changes. What allow lists do not have is refused, also what the database
// does not know; deny lists take away from what they have.
type GeoFeed struct {
	// The database: one of countries or cities for country rules, one of
	// networks (ASN) for the others. Required.
	File string `yaml:"file"`

	// Countries to refuse, as two letters (ISO 3166-1). Default: none.
	DenyCountries []string `yaml:"deny_countries"`

	// The only countries to let in. Default: none, which lets in all.
	AllowCountries []string `yaml:"allow_countries"`

	// Networks to refuse, by their number such as AS64500. Default: none.
	DenyASNs []ASN `yaml:"deny_asns"`

	// The only networks to let in. Default: none, which lets in all.
	AllowASNs []ASN `yaml:"allow_asns"`
}

// ASN is the number of an autonomous system, never 0.
type ASN uint32

// ParseASN reads "AS64500" or "64500".
func ParseASN(s string) (ASN, error) {
	digits := s
	if len(s) > 2 && strings.EqualFold(s[:2], "AS") {
		digits = s[2:]
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || n == 0 {
		return 0, fmt.Errorf(`%q is not the number of a network, want one such as "AS64500"`, s)
	}
	return ASN(n), nil
}

// String returns the number as "AS64500".
func (a ASN) String() string { return "AS" + strconv.FormatUint(uint64(a), 10) }

// UnmarshalText reads what ParseASN reads.
func (a *ASN) UnmarshalText(b []byte) (err error) {
	*a, err = ParseASN(string(b))
	return err
}

func (f *CrowdSecFeed) setDefaults() {
	f.URL, f.Interval = "http://127.0.0.1:8080", 10*time.Second
}

func (f *BlocklistFeed) setDefaults() { f.Interval = time.Hour }

func (f *BlocklistFeed) fromScalar(text string) (bool, error) {
	f.URL = text
	return true, nil
}

func (f *BlocklistFeed) shorthandForm() string { return "a URL alone" }
