package dnscheck

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// role is why a server is asked.
type role uint8

const (
	roleZone     role = iota // authoritative for the zone of the name
	roleParent               // authoritative for the zone above
	roleResolver             // recursive
	roleDoH                  // recursive, over HTTPS
)

// authoritative reports whether the server has to speak for a zone itself.
func (r role) authoritative() bool { return r <= roleParent }

// server is one address that is asked.
type server struct {
	role role
	zone string // the zone it speaks for; "" for a resolver
	name string // as in the NS record; host:port or URL of a resolver
	addr string // host:port; "" for roleDoH
}

// String is the server in a finding.
func (s server) String() string {
	switch s.role {
	case roleResolver:
		return "resolver " + s.name
	case roleDoH:
		return s.name
	}
	host := s.addr
	if ap, err := netip.ParseAddrPort(s.addr); err == nil {
		host = ap.Addr().String()
	}
	return plain(s.name) + " (" + host + ")"
}

// query is one question.
type query struct{ name, typ string }

// status is what became of a query.
type status uint8

const (
	stTimeout     status = iota
	stOK                 // NOERROR, with or without records
	stNXDomain           // there is no such name
	stServFail           // rcode 2
	stRefused            // rcode 5
	stNotImp             // rcode 4
	stRcode              // another rcode
	stLame               // an answer, but not with authority
	stUnreachable        // the address refuses
	stNoRoute            // this machine has no way to the address's family: not the server's fault
	stUnreadable         // not a DNS answer to our question
	stHTTP               // a DoH server's HTTP error
)

// answered reports whether an authority could work with it.
func (s status) answered() bool { return s == stOK || s == stNXDomain }

// verb is the status in a sentence: "3 of 4 <verb>".
func (s status) verb() string {
	return [...]string{
		stTimeout: "timed out", stOK: "answered", stNXDomain: "know no such name",
		stServFail: "answered SERVFAIL", stRefused: "answered REFUSED", stNotImp: "answered NOTIMP",
		stRcode: "answered with an error", stLame: "are not authoritative", stUnreachable: "refused the connection",
		stNoRoute: "cannot be reached from this network", stUnreadable: "answered unreadably", stHTTP: "answered an HTTP error",
	}[s]
}

// answer is what one server said to one query.
type answer struct {
	server server
	query  query
	status status
	detail string // more of the status: the rcode's name, an HTTP status, an EDE
	rtt    time.Duration

	late     bool // it took a second try
	aa, ra   bool // authoritative answer, recursion available (RFC 1035 section 4.1.1)
	noSOA    bool // no records and no SOA to say so (RFC 2308 section 2.2)
	referral bool // not here but there: ns and glue
	addrs    []netip.Addr
	caa      []property
	aliases  []string // what the name is an alias of, in order
	ns       []string
	glue     map[string][]netip.Addr
	soa      string // the zone that an SOA record in the answer names
	others   int    // records of other types we asked for (TXT)
}

// good reports whether the server did all that is wanted of it.
func (a *answer) good() bool { return a.status.answered() && !a.late && !a.noSOA }

// rank orders the answers of one server's addresses: the highest counts.
func (a *answer) rank() int {
	switch {
	case a.good():
		return 4
	case a.status.answered():
		return 3
	case a.status == stTimeout, a.status == stUnreachable:
		return 1
	case a.status == stNoRoute:
		return 0
	}
	return 2
}

// finding is the answer for people.
func (a *answer) finding() Finding {
	return Finding{
		Server: a.server.String(), Name: plain(a.query.name), Type: a.query.typ, Result: a.result(),
		RTT: a.rtt, Bad: a.status != stNoRoute && !a.good(),
	}
}

func (a *answer) result() string {
	switch a.status {
	case stTimeout:
		return "timed out"
	case stUnreachable:
		return "connection refused"
	case stNoRoute:
		return "no route to it from here"
	case stUnreadable:
		return "unreadable answer"
	case stLame:
		return "not authoritative"
	}
	text := a.detail
	if a.status == stOK {
		text = a.data()
	}
	if a.noSOA {
		text += ", and no SOA with it"
	}
	if a.late {
		text += ", at the second try"
	}
	return text
}

// data are the records for people.
func (a *answer) data() string {
	var parts []string
	for _, t := range a.aliases {
		parts = append(parts, "alias of "+plain(t))
	}
	for _, ip := range a.addrs {
		parts = append(parts, ip.String())
	}
	for _, p := range a.caa {
		parts = append(parts, p.String())
	}
	for _, n := range a.ns {
		parts = append(parts, plain(n))
	}
	switch {
	case a.query.typ == "SOA" && a.soa != "":
		return "ok"
	case a.others > 0 && len(parts) == 0:
		return strconv.Itoa(a.others) + " records"
	case len(parts) == 0:
		return "none"
	}
	const shown = 6
	if more := len(parts) - shown; more > 0 {
		parts = append(parts[:shown], fmt.Sprintf("%d more", more))
	}
	return strings.Join(parts, ", ")
}

// plain returns a name from the DNS as it is if it is a host name, else
// quoted. At most 100 bytes of it.
func plain(s string) string {
	if len(s) > 100 {
		s = s[:100] + "…"
		return strconv.Quote(s)
	}
	if s == "" || strings.ContainsFunc(s, notHost) {
		return strconv.Quote(s)
	}
	return s
}

var errUnreadable = errors.New("not a DNS answer to the question")

// parse reads a message. It is called with whatever a server sent.
func parse(b []byte) (*dns.Msg, error) {
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		return nil, errUnreadable
	}
	return m, nil
}

// answers reports whether m replies to q.
func answers(m *dns.Msg, q query) bool {
	if !m.Response || m.Opcode != dns.OpcodeQuery {
		return false
	}
	if len(m.Question) == 0 { // some servers leave it out of errors
		return m.Rcode != dns.RcodeSuccess
	}
	x := m.Question[0]
	return len(m.Question) == 1 && canonical(x.Name) == q.name && dns.TypeToString[x.Qtype] == q.typ
}

// read turns a message that answers q into a, which has server and query set.
func (a *answer) read(m *dns.Msg) {
	a.aa, a.ra = m.Authoritative, m.RecursionAvailable
	if m.Truncated { // over TCP or HTTPS, where there is room for everything
		a.status = stUnreadable
		return
	}
	a.detail = dns.RcodeToString[m.Rcode]
	if a.detail == "" {
		a.detail = "rcode " + strconv.Itoa(m.Rcode)
	}
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		a.detail += extended(m)
	}
	switch m.Rcode {
	case dns.RcodeSuccess:
		a.status = stOK
	case dns.RcodeNameError:
		a.status = stNXDomain
	case dns.RcodeServerFailure:
		a.status = stServFail
	case dns.RcodeRefused:
		a.status = stRefused
	case dns.RcodeNotImplemented:
		a.status = stNotImp
	default:
		a.status = stRcode
	}
	if !a.status.answered() {
		return
	}
	a.records(m)
	a.delegation(m)
	if a.server.role.authoritative() && !a.aa && !a.referral {
		a.status = stLame
	}
}

// records takes what the answer section holds for the query, following
// aliases in it (RFC 1034 section 3.6.2; a DNAME comes with its CNAME, RFC
// 6672 section 3.1).
func (a *answer) records(m *dns.Msg) {
	want := a.query.name
	for range maxAliases {
		target := ""
		for _, rr := range m.Answer {
			if x, ok := rr.(*dns.CNAME); ok && canonical(x.Hdr.Name) == want {
				target = canonical(x.Target)
			}
		}
		if target == "" || a.query.typ == "CNAME" {
			break
		}
		a.aliases = append(a.aliases, target)
		want = target
	}
	kept := 0
	for _, rr := range m.Answer {
		h := rr.Header()
		if canonical(h.Name) != want || dns.TypeToString[h.Rrtype] != a.query.typ || kept == maxRecords {
			continue
		}
		kept++
		a.record(rr)
	}
	if kept > 0 || len(a.aliases) > 0 || a.query.typ == "NS" {
		return
	}
	a.noSOA = true
	for _, rr := range m.Ns {
		if x, ok := rr.(*dns.SOA); ok {
			a.noSOA, a.soa = false, canonical(x.Hdr.Name)
		}
	}
}

func (a *answer) record(rr dns.RR) {
	switch x := rr.(type) {
	case *dns.A:
		if ip, ok := netip.AddrFromSlice(x.A); ok {
			a.addrs = append(a.addrs, ip.Unmap())
		}
	case *dns.AAAA:
		if ip, ok := netip.AddrFromSlice(x.AAAA); ok {
			a.addrs = append(a.addrs, ip)
		}
	case *dns.CAA:
		a.caa = append(a.caa, newProperty(x.Flag, x.Tag, x.Value))
	case *dns.NS:
		if len(a.ns) < maxServers {
			a.ns = append(a.ns, canonical(x.Ns))
		}
	case *dns.SOA:
		a.soa = canonical(x.Hdr.Name)
	default:
		a.others++
	}
}

// delegation recognises a referral: no answer, but the servers of a zone that
// is nearer to the name (RFC 1034 section 4.3.2, step 3b).
func (a *answer) delegation(m *dns.Msg) {
	if a.aa || a.status != stOK || len(m.Answer) > 0 {
		return
	}
	for _, rr := range m.Ns {
		x, ok := rr.(*dns.NS)
		if !ok || len(a.ns) == maxServers {
			continue
		}
		zone := canonical(x.Hdr.Name)
		if zone == a.server.zone || !within(a.query.name, zone) || !within(zone, a.server.zone) || (a.soa != "" && a.soa != zone) {
			continue
		}
		a.soa, a.referral, a.noSOA = zone, true, false
		a.ns = append(a.ns, canonical(x.Ns))
	}
	if !a.referral {
		return
	}
	a.glue = make(map[string][]netip.Addr)
	for _, rr := range m.Extra {
		ip, host := netip.Addr{}, canonical(rr.Header().Name)
		switch x := rr.(type) {
		case *dns.A:
			ip, _ = netip.AddrFromSlice(x.A)
		case *dns.AAAA:
			ip, _ = netip.AddrFromSlice(x.AAAA)
		}
		if ip.IsValid() && len(a.glue) <= maxServers && len(a.glue[host]) < maxRecords {
			a.glue[host] = append(a.glue[host], ip.Unmap())
		}
	}
}

// extended is what a server adds about an error (RFC 8914), quoted.
func extended(m *dns.Msg) string {
	o := m.IsEdns0()
	if o == nil {
		return ""
	}
	for _, opt := range o.Option {
		e, ok := opt.(*dns.EDNS0_EDE)
		if !ok {
			continue
		}
		text := dns.ExtendedErrorCodeToString[e.InfoCode]
		if text == "" {
			text = "code " + strconv.Itoa(int(e.InfoCode))
		}
		if e.ExtraText != "" {
			text += " " + strconv.Quote(e.ExtraText[:min(len(e.ExtraText), 80)])
		}
		return " (" + text + ")"
	}
	return ""
}
