package dnscheck

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// property is one CAA record (RFC 8659 section 4).
type property struct {
	critical bool
	tag      string // lower case
	value    string // as sent, at most maxValue bytes
	long     bool   // the value was longer
}

const maxValue = 512

// newProperty takes what the wire holds. Bit 7 is the critical flag; bit 0 is
// taken for it too, as Boulder does, because people write 1 for it.
func newProperty(flags uint8, tag, value string) property {
	p := property{critical: flags&(128|1) != 0, tag: strings.ToLower(tag), value: value}
	if len(value) > maxValue {
		p.value, p.long = value[:maxValue], true
	}
	return p
}

// String is the property as in a zone file.
func (p property) String() string {
	flags := 0
	if p.critical {
		flags = 128
	}
	return fmt.Sprintf("%d %s %s", flags, plain(p.tag), strconv.Quote(p.value[:min(len(p.value), 100)]))
}

// known are the tags that authorities understand. A critical one that is not
// known forbids everything (RFC 8659 section 4.1).
func (p property) known() bool {
	return slices.Contains([]string{"issue", "issuewild", "iodef", "issuemail", "issuevmc"}, p.tag)
}

// issuer is the value of issue and issuewild, taken apart (RFC 8659 section
// 4.2, RFC 8657 sections 3 and 4). An empty domain allows nobody.
type issuer struct {
	domain   string // lower case
	account  *string
	methods  *string
	unusable bool // what nobody can understand allows nobody
}

// parseIssuer reads the value of an issue or issuewild property.
func parseIssuer(value string) issuer {
	domain, rest, hasParams := strings.Cut(value, ";")
	out := issuer{domain: strings.ToLower(strings.Trim(domain, " \t"))}
	if strings.ContainsFunc(out.domain, notHost) {
		return issuer{unusable: true}
	}
	if rest = strings.Trim(rest, " \t"); !hasParams || rest == "" {
		return out
	}
	for param := range strings.SplitSeq(rest, ";") {
		param = strings.Trim(param, " \t")
		tag, v, ok := strings.Cut(param, "=")
		tag, v = strings.ToLower(strings.Trim(tag, " \t")), strings.Trim(v, " \t")
		if !ok || tag == "" || strings.ContainsFunc(v, func(r rune) bool { return r < '!' || r > '~' }) {
			return issuer{unusable: true}
		}
		switch tag {
		case "accounturi":
			if out.account != nil {
				return issuer{unusable: true} // RFC 8657 section 3: never satisfied
			}
			out.account = &v
		case "validationmethods":
			if out.methods != nil {
				return issuer{unusable: true}
			}
			out.methods = &v
		}
	}
	return out
}

// allows judges one property for one authority.
func (i issuer) allows(q Question, ca string) (yes bool, why string) {
	switch {
	case i.unusable || i.domain == "" || i.domain != strings.ToLower(ca):
		return false, ""
	case i.account != nil && q.AccountURI != "" && *i.account != q.AccountURI:
		return false, "only for another account, " + strconv.Quote(*i.account)
	case i.methods != nil && q.Challenge != "" && !slices.Contains(strings.Split(*i.methods, ","), q.Challenge):
		return false, "only by " + strconv.Quote(*i.methods)
	}
	return true, ""
}

// forbidden judges a record set that is not empty: why it forbids ca, or "".
func forbidden(set []property, q Question, ca string) string {
	for _, p := range set {
		if p.critical && !p.known() {
			return "holds the critical property " + strconv.Quote(p.tag) + ", which no authority may pass over"
		}
	}
	tag := "issue"
	if q.Wildcard && slices.ContainsFunc(set, func(p property) bool { return p.tag == "issuewild" }) {
		tag = "issuewild"
	}
	var named []string
	restricts, reason := false, ""
	for _, p := range set {
		if p.tag != tag {
			continue
		}
		restricts = true
		i := parseIssuer(p.value)
		if p.long {
			i = issuer{unusable: true}
		}
		yes, why := i.allows(q, ca)
		if yes {
			return ""
		}
		if why != "" {
			reason = why
		}
		if i.domain != "" && !slices.Contains(named, i.domain) {
			named = append(named, i.domain)
		}
	}
	switch {
	case !restricts: // iodef alone, or issuewild for a name without a star
		return ""
	case reason != "":
		return "allows " + plain(ca) + " " + reason
	case len(named) == 0:
		return "forbids " + plain(ca) + ": it allows nobody"
	}
	for i := range named {
		named[i] = plain(named[i])
	}
	if more := len(named) - 5; more > 0 {
		named = append(named[:5], fmt.Sprintf("%d more", more))
	}
	return "forbids " + plain(ca) + ": it allows " + strings.Join(named, ", ")
}
