package tlsmgr

import (
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// failure is what went wrong in an attempt.
type failure struct {
	words string // the authority's own, or ours; may quote what strangers' DNS said
	means string // for people
	kind  failureKind
	until time.Time // the authority said when to come again; zero: it did not
	named bool      // what it said is about this name, not about all of them
}

type failureKind uint8

const (
	failedElse      failureKind = iota // something on this side, such as the disk
	failedUnreached                    // the authority did not answer, or with a server's error
	failedRefused                      // it said no: it counts there
	failedForbidden                    // it will not certify this name
	failedLimited                      // it told us to slow down
)

// statusError is an answer of an authority that is no problem document
// (RFC 7807), such as a load balancer's.
type statusError struct {
	status int
	until  time.Time
}

func (e *statusError) Error() string {
	return "the authority answered " + strconv.Itoa(e.status) + " " + http.StatusText(e.status)
}

// unreached is a failure before the authority could have counted anything.
type unreached struct{ err error }

func (e *unreached) Error() string { return e.err.Error() }
func (e *unreached) Unwrap() error { return e.err }

const wordsKept = 500

// explain sorts a failure and finds the authority's words in it. said is the
// Retry-After of the last answer, if any.
func explain(err error, said, now time.Time) failure {
	f := failure{words: err.Error(), until: said}
	var p acme.Problem
	var status *statusError
	var gone *unreached
	var host *dns01Error
	switch {
	case errors.As(err, &p):
		f.problem(p, now)
	case errors.As(err, &status):
		f.kind, f.until = failedUnreached, status.until
		if status.status == http.StatusTooManyRequests {
			f.kind = failedLimited
		}
		f.means = "the certificate authority is overloaded or in maintenance"
		if !f.until.IsZero() {
			f.means += ", and asked to come again later"
		}
	case errors.As(err, &gone):
		f.kind, f.means = failedUnreached, "the certificate authority cannot be reached"
	case errors.As(err, &host):
		f.means = "the TXT record for the certificate authority cannot be set at the DNS host"
	}
	if !f.until.After(now) || f.until.Sub(now) > 8*24*time.Hour {
		f.until = time.Time{}
	}
	if len(f.words) > wordsKept {
		f.words = strings.ToValidUTF8(f.words[:wordsKept], "") + "…"
	}
	return f
}

// problem reads a problem document of RFC 8555 section 6.7.
func (f *failure) problem(p acme.Problem, now time.Time) {
	f.kind = failedRefused
	if len(p.Subproblems) == 1 && p.Detail == "" {
		p.Type, p.Detail = p.Subproblems[0].Type, p.Subproblems[0].Detail
	}
	if p.Detail != "" {
		f.words = p.Detail
	}
	switch {
	case p.Type == acme.ProblemTypeRateLimited || p.Status == http.StatusTooManyRequests:
		f.kind = failedLimited
		f.named = strings.Contains(p.Detail, "exact set") || strings.Contains(p.Detail, "failed authorizations")
		if at := retryAfterText(p.Detail); !at.IsZero() {
			f.until = at
		}
	case p.Status >= 500:
		f.kind = failedUnreached
		if at := retryAfterText(p.Detail); !at.IsZero() {
			f.until = at
		}
	case p.Type == acme.ProblemTypeRejectedIdentifier, p.Type == acme.ProblemTypeUnsupportedIdentifier, p.Type == acme.ProblemTypeCAA:
		f.kind = failedForbidden
	}
	f.means = meaning(p, f.kind)
}

// meaning says in plain words what a problem document means for the owner.
func meaning(p acme.Problem, kind failureKind) string {
	d := p.Detail
	switch {
	case kind == failedLimited:
		return "the certificate authority's limit on requests is reached; it passes by itself"
	case kind == failedUnreached:
		return "the certificate authority has trouble of its own"
	case p.Type == acme.ProblemTypeCAA:
		return "a CAA record forbids this certificate authority"
	case kind == failedForbidden:
		return "the certificate authority does not certify this name"
	case strings.Contains(d, "CAA") && strings.Contains(d, "timed out"):
		return "the DNS host does not answer the certificate authority's question for CAA"
	case strings.Contains(d, "CAA"):
		return "the DNS host fails to answer the certificate authority's question for CAA"
	case strings.Contains(d, "AAAA") || strings.Contains(d, "2001:") || strings.Contains(d, "IPv6"):
		return "the certificate authority tried the IPv6 address (AAAA) and got nowhere"
	case p.Type == acme.ProblemTypeDNS && strings.Contains(d, "TXT"):
		return "the certificate authority cannot read the TXT record at the DNS host"
	case p.Type == acme.ProblemTypeDNS:
		return "the certificate authority cannot look the name up: the DNS host fails"
	case p.Type == acme.ProblemTypeConnection:
		return "the certificate authority cannot connect to this house: the address in the DNS, the router's port forwarding or the line"
	case p.Type == acme.ProblemTypeUnauthorized, p.Type == acme.ProblemTypeIncorrectResponse, p.Type == acme.ProblemTypeTLS:
		return "something else than this proxy answered the certificate authority: another machine, or an old address in the DNS"
	case p.Type == acme.ProblemTypeExternalAccountRequired:
		return "the certificate authority wants an external account: set eab"
	case p.Type == acme.ProblemTypeInvalidContact, p.Type == acme.ProblemTypeUnsupportedContact:
		return "the certificate authority does not take the e-mail address"
	}
	return "the certificate authority refused"
}

var retryText = regexp.MustCompile(`retry after (\d{4}-\d{2}-\d{2}[ T]\d{2}:\d{2}:\d{2})`)

// retryAfterText finds "retry after 2006-01-02 15:04:05 UTC", which is how
// Let's Encrypt says it. Zero: it does not say.
func retryAfterText(detail string) time.Time {
	m := retryText.FindStringSubmatch(detail)
	if m == nil {
		return time.Time{}
	}
	t, err := time.Parse(time.DateTime, strings.Replace(m[1], "T", " ", 1))
	if err != nil {
		return time.Time{}
	}
	return t
}

// retryAfterHeader reads RFC 9110 section 10.2.3. Zero: there is none.
func retryAfterHeader(h http.Header, now time.Time) time.Time {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if n, err := strconv.Atoi(v); err == nil && n > 0 {
		return now.Add(time.Duration(min(n, 30*24*3600)) * time.Second)
	}
	if t, err := http.ParseTime(v); err == nil && t.After(now) {
		return t
	}
	return time.Time{}
}
