// Package dnscheck asks a name's DNS the way a certificate authority would,
// and says what is broken, before an attempt at the authority is spent on it.
//
// A check asks every authoritative server of the name's zone, the servers of
// the parent zone, the recursive resolvers and a few resolvers over HTTPS, all
// in parallel, and ends within five seconds. What came back is judged by a
// pure function (decide.go); the result is a colour, one cause, a sentence for
// people, and every answer as a finding.
//
// # Colours
//
// A server is good when it answered everything it was asked with the first
// try. Questions that matter are SOA of the zone and CAA of the name and its
// parents; for http-01 and tls-alpn-01 also A and AAAA of the name, for dns-01
// TXT of _acme-challenge instead.
//
//   - Green: at least 2/3 of the zone's servers are good, the addresses are
//     ours (if ours are known) and CAA allows one of the authorities asked for.
//   - Amber: fewer are good, or something is odd that the authority may not
//     mind: it is worth an attempt now and then.
//   - Red: a question that matters is answered by no server, or CAA fails at
//     more than half of them (an authority asks from several places at once and
//     meets them all), or an answer makes issuance impossible.
//
// One run is one look. Whoever wants two green looks in a row, or knows since
// when it is red, keeps that count.
package dnscheck

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"time"
)

// Config says whom a Checker asks. The zero value asks the system's resolvers
// and the authoritative servers, and no resolver over HTTPS.
type Config struct {
	// Resolvers are recursive resolvers as host:port, where host is an
	// address. Empty: those of /etc/resolv.conf, read at each check.
	Resolvers []string

	// AuthoritativePort is the port of authoritative servers. Zero means 53;
	// another one is for tests.
	AuthoritativePort int

	// DoH are URLs of resolvers over HTTPS (RFC 8484), such as
	// https://9.9.9.9/dns-query. Empty: no cross-check.
	DoH []string

	// Own returns our public addresses, all of them. Nil, or an empty result:
	// not known, and then addresses only have to exist. It is called once a
	// check and must not block.
	Own func() []netip.Addr

	// File holds the name servers that last worked, so that a check finds
	// them while nobody can tell. Empty: they are forgotten with the process.
	File string

	// ReadOnly leaves File as it is: for whoever does not own it.
	ReadOnly bool

	// Timeout is one try. Zero means 1.5 s. A question gets two tries, and a
	// check ends after two tries and two thirds of that for finding the
	// servers: 5 s.
	Timeout time.Duration

	// HTTP asks the DoH resolvers. Nil: a client of the Checker's own, with
	// the system's roots and, if the environment names one, a proxy.
	HTTP *http.Client

	// Log hears of an unreadable or unwritable File. Nil discards.
	Log *slog.Logger
}

// The bounds on what DNS answers, which strangers write, can make us do.
const (
	maxServers  = 13 // of one zone; the root and most top-level domains have as many
	maxAddrs    = 2  // asked for each server, one of each family
	maxRecords  = 64 // of one answer
	maxAliases  = 8  // followed
	maxLabels   = 20 // that may be a zone of their own
	maxRemember = 256
)

const defaultTimeout = 1500 * time.Millisecond

// Checker asks. Make it with New. It owns no goroutine between checks, but for
// idle connections to DoH resolvers that end by themselves after 10 s. Its
// methods may be called from several goroutines.
type Checker struct {
	cfg    Config
	ask    *asker
	search *asker // with shorter tries: two of them and the next step have to fit
	memory *memory
}

// New makes a Checker. It reads Config.File and touches no network. An
// unreadable file is told in the log and replaced at the next good check.
func New(cfg Config) *Checker {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.AuthoritativePort == 0 {
		cfg.AuthoritativePort = 53
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	ask := newAsker(cfg)
	return &Checker{cfg: cfg, ask: ask, search: &asker{timeout: cfg.Timeout / 3, http: ask.http}, memory: loadMemory(cfg)}
}

// Question is what an authority is about to be asked for.
type Question struct {
	// Name is a DNS name; "*.example.org" means the same as example.org with
	// Wildcard set. An IP address needs no DNS and is always green (RFC 8738).
	Name string

	// Wildcard: the certificate is for *.Name, so that issuewild counts.
	Wildcard bool

	// CAs are the issuer domain names of the authorities in question, such as
	// letsencrypt.org (RFC 8659 section 4.2). One of them has to be allowed.
	// Empty: CAA has to answer, whatever it says.
	CAs []string

	// Challenge is http-01, tls-alpn-01 or dns-01. Empty: addresses matter as
	// for http-01, and CAA's validationmethods are not judged (RFC 8657).
	Challenge string

	// AccountURI is our account at the authority. Empty: not known, and CAA's
	// accounturi is not judged (RFC 8657).
	AccountURI string
}

// Verdict is what a check found.
type Verdict struct {
	Colour   Colour
	Cause    Cause     // why it is not green; OK or a remark if it is
	Sentence string    // for people; what came from the DNS in it is quoted
	Forbids  []string  // those of Question.CAs that CAA forbids, sorted as asked
	Findings []Finding // every answer, the name's zone first
	At       time.Time // when the check ended
}

// Finding is one question to one server and what became of it.
type Finding struct {
	Server string        // "ns1.duckdns.org (192.0.2.1)", "resolver 9.9.9.9:53", "https://…"
	Name   string        // the name asked for
	Type   string        // A, AAAA, CAA, SOA, NS or TXT
	Result string        // for people
	RTT    time.Duration // until the answer, or until we gave up
	Bad    bool          // no usable answer, or a late one
}

// Check asks and judges. It waits for everything it starts, at most 3 1/3 times
// Config.Timeout (5 s), or until ctx ends: what has not answered by then timed
// out. A check whose ctx was cancelled is red with the cause Unfinished.
func (c *Checker) Check(ctx context.Context, q Question) Verdict {
	q, err := q.normal()
	if err != nil {
		return Verdict{Colour: Red, Cause: NotAName, Sentence: err.Error(), At: time.Now()}
	}
	if _, err := netip.ParseAddr(q.Name); err == nil {
		return Verdict{Colour: Green, Cause: OK, Sentence: "an address needs no DNS", At: time.Now()}
	}
	search := c.cfg.Timeout * 4 / 3
	deadline := time.Now().Add(search + 2*c.cfg.Timeout)
	checkCtx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()

	f := facts{q: q, answers: []answer{}}
	if c.cfg.Own != nil {
		f.own = c.cfg.Own()
	}
	resolvers := c.resolvers()
	searchCtx, stop := context.WithTimeout(checkCtx, search)
	f.zones = c.discover(searchCtx, q.Name, resolvers)
	stop()
	f.answers = c.askAll(checkCtx, f.plan(resolvers, c.cfg.AuthoritativePort))
	c.remember(&f)

	f.unfinished = errors.Is(ctx.Err(), context.Canceled)
	v := decide(&f)
	v.At = time.Now()
	return v
}
