package dnscheck

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// Colour says what a verdict is worth.
type Colour uint8

// The colours, from the best to the worst.
const (
	Green Colour = iota // spend an attempt
	Amber               // an attempt now and then
	Red                 // it would fail
)

// String is the colour's name and metric label.
func (c Colour) String() string {
	return [...]string{"green", "amber", "red"}[min(c, Red)]
}

// Cause is why a verdict is not green, or what is remarkable although it is.
type Cause uint8

// The causes. Where two could be named, the one that explains the other is.
const (
	OK                Cause = iota
	NotAName                // the question holds no DNS name
	Unfinished              // the check was cancelled
	Offline                 // nobody answered anything: this machine reaches no DNS
	Port53Blocked           // only resolvers answer, neither the zone's servers nor its parent's
	Port53Intercepted       // somebody else answers for the zone's servers
	NSUnknown               // nobody says which servers the zone has
	NotDelegated            // the parent zone does not know the zone: expired, or gone
	ParentTimeout           // the parent zone's servers do not answer
	NSTimeout               // no server of the zone answers anything
	NSError                 // every server of the zone refuses or fails everything
	Lame                    // the servers answer, but not for this zone
	NSPartlyDown            // some servers fail
	NSDisagree              // servers give different addresses
	NXDomain                // the name does not exist
	ATimeout                // no server answers A
	AError                  // every server fails A
	AMissing                // there is no address
	AWrong                  // A is not ours
	AAAATimeout             // no server answers AAAA
	AAAAError               // every server fails AAAA
	AAAAStale               // AAAA is not ours
	CAATimeout              // CAA is not answered
	CAAServFail             // CAA is answered with SERVFAIL
	CAAError                // CAA is answered with another error
	CAAForbids              // CAA allows none of the authorities
	SOATimeout              // no server answers SOA
	SOAError                // every server fails SOA
	SOAMissing              // servers say "no such record" without the zone's SOA
	TXTTimeout              // no server answers TXT of _acme-challenge
	TXTError                // every server fails TXT of _acme-challenge
	ResolverFails           // resolvers answer SERVFAIL although the servers answer: DNSSEC, mostly
	ResolverBlocked         // a resolver we were told to ask does not answer
	endOfCauses
)

// String is the cause's metric label.
func (c Cause) String() string {
	names := [...]string{
		OK: "ok", NotAName: "not_a_name", Unfinished: "unfinished", Offline: "offline",
		Port53Blocked: "port53_blocked", Port53Intercepted: "port53_intercepted",
		NSUnknown: "ns_unknown", NotDelegated: "not_delegated", ParentTimeout: "parent_timeout",
		NSTimeout: "ns_timeout", NSError: "ns_error", Lame: "lame",
		NSPartlyDown: "ns_partly_down", NSDisagree: "ns_disagree", NXDomain: "nxdomain",
		ATimeout: "a_timeout", AError: "a_error", AMissing: "a_missing", AWrong: "a_wrong",
		AAAATimeout: "aaaa_timeout", AAAAError: "aaaa_error", AAAAStale: "aaaa_stale",
		CAATimeout: "caa_timeout", CAAServFail: "caa_servfail", CAAError: "caa_error", CAAForbids: "caa_forbids",
		SOATimeout: "soa_timeout", SOAError: "soa_error", SOAMissing: "soa_missing",
		TXTTimeout: "txt_timeout", TXTError: "txt_error", ResolverFails: "resolver_fails", ResolverBlocked: "resolver_blocked",
	}
	if c >= endOfCauses {
		return "unknown"
	}
	return names[c]
}

// Causes lists every cause, for metrics that want each label from the start.
func Causes() []Cause {
	out := make([]Cause, endOfCauses)
	for i := range out {
		out[i] = Cause(i)
	}
	return out
}

// The challenges of RFC 8555 that differ in what they need of the DNS.
const challengeDNS = "dns-01"

// normal brings the name into its canonical form: lower case, no dot at the
// end, no star.
func (q Question) normal() (Question, error) {
	if ip, err := netip.ParseAddr(q.Name); err == nil {
		q.Name = ip.String()
		return q, nil
	}
	name := strings.TrimSuffix(strings.ToLower(q.Name), ".")
	if rest, ok := strings.CutPrefix(name, "*."); ok {
		name, q.Wildcard = rest, true
	}
	if name == "" {
		return q, errors.New("the name is empty, want a DNS name")
	}
	if _, ok := dns.IsDomainName(name); !ok || strings.ContainsFunc(name, notHost) {
		return q, fmt.Errorf("%q is not a DNS name", q.Name)
	}
	q.Name = name
	q.CAs = slices.Clone(q.CAs)
	return q, nil
}

// byAddress reports whether the authority will connect to the name.
func (q Question) byAddress() bool { return q.Challenge != challengeDNS }

// notHost reports whether r has no place in a host name.
func notHost(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '.' && r != '_'
}

// ancestors returns name and the names above it, without the root.
func ancestors(name string) []string {
	out := []string{name}
	for {
		_, above, ok := strings.Cut(name, ".")
		if !ok {
			return out
		}
		out = append(out, above)
		name = above
	}
}

// within reports whether name is zone or below it.
func within(name, zone string) bool {
	return name == zone || strings.HasSuffix(name, "."+zone)
}

// canonical is a name as the DNS library prints it, in our form.
func canonical(name string) string {
	return strings.TrimSuffix(strings.ToLower(name), ".")
}
