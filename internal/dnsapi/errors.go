package dnsapi

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// The kinds of errors. errors.Is tells them apart.
var (
	// ErrRejected: the host answered and said no. The token is wrong, may
	// not change this zone, or the zone is not there; trying again does not
	// help.
	ErrRejected = errors.New("rejected")

	// ErrLimited: too many calls. Error.RetryAfter may tell when to come
	// again.
	ErrLimited = errors.New("rate limited")

	// ErrUnreachable: no answer, or none that comes from the API: a timeout,
	// a 5xx, a web page. It passes by itself.
	ErrUnreachable = errors.New("unreachable")
)

// Error is what went wrong with a call. It holds no secret.
type Error struct {
	Provider   string
	Op         string        // what was wanted
	Kind       error         // ErrRejected, ErrLimited or ErrUnreachable
	Status     int           // of HTTP; 0: no answer
	Detail     string        // in the host's own words, bounded and quoted when printed; may be empty
	Means      string        // what we know about it; may be empty
	RetryAfter time.Duration // as the host told; 0: it did not

	cause error
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s: %v", e.Provider, e.Op, e.Kind)
	if e.Status != 0 {
		fmt.Fprintf(&b, ": HTTP %d", e.Status)
	}
	if e.Means != "" {
		b.WriteString(": " + e.Means)
	}
	if e.Detail != "" {
		fmt.Fprintf(&b, ": %q", e.Detail)
	}
	if e.cause != nil {
		b.WriteString(": " + e.cause.Error())
	}
	if e.RetryAfter > 0 {
		fmt.Fprintf(&b, "; try again in %v", e.RetryAfter.Round(time.Second))
	}
	return b.String()
}

// Unwrap gives the kind and the cause to errors.Is and errors.As.
func (e *Error) Unwrap() []error {
	if e.cause == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.cause}
}

// notFound reports whether the API, and not a web server before it, answered
// that there is no such thing.
func notFound(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Status == http.StatusNotFound && errors.Is(e.Kind, ErrRejected)
}

// answerKind judges the status and the form of an answer. It is nil when the
// status is one of success.
func answerKind(status int, h http.Header, body []byte) (means string, kind error) {
	switch {
	case status >= 200 && status < 300 && isHTML(h, body):
		return "a web page answered, not the API", ErrUnreachable
	case status >= 200 && status < 300:
		return "", nil
	case status >= 300 && status < 400:
		return "it answered with a redirect, which is not followed", ErrUnreachable
	case status == http.StatusUnauthorized:
		return "the credentials are wrong", ErrRejected
	case status == http.StatusTooManyRequests:
		return "", ErrLimited
	case status >= 500 || status == http.StatusRequestTimeout:
		return "", ErrUnreachable
	case status == http.StatusForbidden && !isHTML(h, body):
		return "the credentials do not allow it", ErrRejected
	case !machineReadable(h, body):
		return "a web server answered, not the API", ErrUnreachable
	}
	return "", ErrRejected
}

// isHTML recognises the error pages of web servers and firewalls.
func isHTML(h http.Header, body []byte) bool {
	if strings.Contains(strings.ToLower(h.Get("Content-Type")), "html") {
		return true
	}
	start := strings.ToLower(strings.TrimSpace(string(body[:min(len(body), 64)])))
	return strings.HasPrefix(start, "<!doctype html") || strings.HasPrefix(start, "<html")
}

// machineReadable reports whether an API may have written body.
func machineReadable(h http.Header, body []byte) bool {
	if isHTML(h, body) {
		return false
	}
	kind := strings.ToLower(h.Get("Content-Type"))
	if strings.Contains(kind, "xml") {
		return true
	}
	return len(body) > 0 && json.Valid(body)
}

// answerDetail finds the words for people in an error answer.
func answerDetail(body []byte) string {
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) == nil {
		for _, k := range []string{"message", "detail", "error", "errors", "non_field_errors", "title", "cause"} {
			if s := words(fields[k], 0); s != "" {
				return s
			}
		}
		return ""
	}
	if s := words(body, 0); s != "" {
		return s
	}
	var x struct {
		Code    string `xml:"Error>Code"`
		Message string `xml:"Error>Message"`
	}
	if xml.Unmarshal(body, &x) == nil && x.Code != "" {
		return x.Code + ": " + x.Message
	}
	return ""
}

// words takes the first text out of a JSON value: the message of an object,
// the first element of a list.
func words(raw json.RawMessage, depth int) string {
	if len(raw) == 0 || depth > 3 {
		return ""
	}
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) == nil && len(list) > 0 {
		return words(list[0], depth+1)
	}
	var o struct {
		Message json.RawMessage `json:"message"`
		Detail  json.RawMessage `json:"detail"`
	}
	if json.Unmarshal(raw, &o) != nil {
		return ""
	}
	if s := words(o.Message, depth+1); s != "" {
		return s
	}
	return words(o.Detail, depth+1)
}

// clean bounds a stranger's text and takes our secrets out of it, should the
// host echo them.
func clean(s string, secrets []string) string {
	for _, x := range secrets {
		if x == "" {
			continue
		}
		for _, form := range []string{x, url.QueryEscape(x)} {
			s = strings.ReplaceAll(s, form, "<secret>")
		}
	}
	const longest = 200
	if len(s) > longest {
		s = strings.ToValidUTF8(s[:longest], "") + "…"
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "?")
	}
	return s
}

// stripURL takes the URL, which may hold a token, off an error of net/http.
func stripURL(err error) error {
	for {
		ue, ok := errors.AsType[*url.Error](err)
		if !ok {
			return err
		}
		err = ue.Err
	}
}

// retryAfter reads Retry-After (RFC 9110 section 10.2.3) or, without it, the
// RateLimit-Reset that Hetzner and DigitalOcean send as seconds since 1970.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	var d time.Duration
	if n, err := strconv.ParseInt(v, 10, 64); err == nil {
		d = time.Duration(min(max(n, 0), 86400)) * time.Second
	} else if t, err := http.ParseTime(v); err == nil {
		d = t.Sub(now)
	} else if n, err := strconv.ParseInt(h.Get("RateLimit-Reset"), 10, 64); err == nil && n > 1e9 && n < 1e11 {
		d = time.Unix(n, 0).Sub(now)
	}
	return min(max(d, 0), 24*time.Hour)
}
