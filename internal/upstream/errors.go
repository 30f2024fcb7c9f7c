package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/http2"
)

// DownError says that every backend is known to be down, so none was tried:
// the answer is 503 with Retry-After.
type DownError struct {
	RetryAfter time.Duration // until the next backend is tried again; never below 1s
}

func (e *DownError) Error() string {
	return fmt.Sprintf("every upstream is down, next try in %s", e.RetryAfter.Round(time.Second/10))
}

// DialError says that no connection to the backend came about, so nothing of
// the request was sent: the answer is 502.
type DialError struct {
	Target string
	Op     string // "resolve", "connect" or "tls"
	Err    error
}

// Error tells target, step and cause, none of them twice, and the way out of
// the one trouble that never ends by itself.
func (e *DialError) Error() string {
	cause := strings.TrimPrefix(clean(e.Err), "dial tcp "+e.Target+": ")
	text := e.Target + ": " + e.Op + ": " + strings.TrimPrefix(cause, e.Op+": ")
	if _, unknown := errors.AsType[x509.UnknownAuthorityError](e.Err); unknown {
		text += "; add the root of its certificate to those of this machine, or speak http:// to it"
	}
	return text
}
func (e *DialError) Unwrap() error { return e.Err }

// TimeoutError says that the backend took too long: the answer is 504. It is a
// net.Error whose Timeout is true.
type TimeoutError struct {
	Target string
	Phase  string        // "connect", "send" or "response"
	After  time.Duration // the limit that was reached
	Err    error
}

func (e *TimeoutError) Error() string {
	return fmt.Sprintf("%s: no %s within %s", e.Target, e.what(), e.After)
}
func (e *TimeoutError) Unwrap() error   { return e.Err }
func (e *TimeoutError) Timeout() bool   { return true }
func (e *TimeoutError) Temporary() bool { return true }

func (e *TimeoutError) what() string {
	switch e.Phase {
	case "connect":
		return "connection"
	case "send":
		return "progress sending the request"
	}
	return "response"
}

// ResponseError says that the request may have reached the backend, and no
// response came back that we could read: the answer is 502.
type ResponseError struct {
	Target string
	Err    error
}

func (e *ResponseError) Error() string { return e.Target + ": response: " + clean(e.Err) }
func (e *ResponseError) Unwrap() error { return e.Err }

// RequestError says that the request itself could not be sent: its body broke
// off while it was read, a header field is malformed, or the protocol of the
// backend has no way to carry it (an upgrade over h2c). The backend is not to
// blame.
type RequestError struct {
	Target string
	Err    error
}

func (e *RequestError) Error() string { return e.Target + ": request: " + clean(e.Err) }
func (e *RequestError) Unwrap() error { return e.Err }

var (
	errUpgradeOverH2 = errors.New("an upgrade needs HTTP/1.1, and this backend was configured as h2c")
	errGivenUp       = fmt.Errorf("the client is gone: %w", context.Canceled)
	errLeftovers     = errors.New("the request body has been read too far to send it again")
)

// The classes of Class. They are metric labels: a closed set.
const (
	classOK       = "ok"
	classDown     = "all_down"         // DownError
	classDNS      = "dns"              // the name does not resolve
	classDial     = "dial"             // refused, unreachable
	classTLS      = "tls"              // handshake or certificate
	classDialTime = "dial_timeout"     // no connection in time
	classSendTime = "send_timeout"     // the backend stopped reading the request
	classRespTime = "response_timeout" // no response in time
	classReset    = "reset"            // connection or stream reset before the response
	classClosed   = "closed"           // connection closed before the response
	classGarbled  = "malformed"        // the response is not HTTP
	classRequest  = "request"          // RequestError
	classCanceled = "canceled"         // the client is gone
	classDeadline = "deadline"         // the request's own deadline passed
	classOther    = "other"
)

// Class sorts an error of RoundTrip, or of reading the response's body, into
// one of a closed set of names, fit for a metric label: all_down, dns, dial,
// tls, dial_timeout, send_timeout, response_timeout, reset, closed,
// malformed, request, canceled, deadline, other; ok for nil.
func Class(err error) string {
	var down *DownError
	var dial *DialError
	var timeout *TimeoutError
	var response *ResponseError
	var request *RequestError
	switch {
	case err == nil:
		return classOK
	case errors.As(err, &down):
		return classDown
	case errors.As(err, &request):
		return classRequest
	case errors.As(err, &timeout):
		switch timeout.Phase {
		case "connect":
			return classDialTime
		case "send":
			return classSendTime
		}
		return classRespTime
	case errors.As(err, &dial):
		switch dial.Op {
		case "resolve":
			return classDNS
		case "tls":
			return classTLS
		}
		return classDial
	case errors.As(err, &response):
		return responseClass(response.Err)
	case errors.Is(err, context.Canceled):
		return classCanceled
	case errors.Is(err, context.DeadlineExceeded):
		return classDeadline
	}
	if c := responseClass(err); c != classGarbled {
		return c
	}
	return classOther
}

func responseClass(err error) string {
	var stream http2.StreamError
	switch {
	case isReset(err), errors.Is(err, syscall.ETIMEDOUT), errors.As(err, &stream):
		return classReset
	// net/http's own word for a connection that ended before the answer
	// (errServerClosedIdle) is not exported; Unwrap finds io.EOF otherwise.
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), errors.Is(err, errLeftovers),
		strings.Contains(err.Error(), "server closed"), strings.Contains(err.Error(), "GOAWAY"):
		return classClosed
	}
	return classGarbled
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
}

// dialError names the step of a connection that broke.
func dialError(target string, limit time.Duration, step string, err error) error {
	if isTimeout(err) {
		return &TimeoutError{Target: target, Phase: "connect", After: limit, Err: err}
	}
	var dns *net.DNSError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &dns):
		step = "resolve"
	case errors.As(err, &record):
		err = errors.New("the backend does not speak TLS; use http:// or host:port")
	}
	return &DialError{Target: target, Op: step, Err: err}
}

// isLocal reports errors that say something about this process or machine and
// nothing about the backend.
func isLocal(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// clean returns the text of err so that it is safe in a log line: a backend's
// bytes may be quoted in it.
func clean(err error) string {
	const most = 300
	s := err.Error()
	if len(s) > most {
		s = s[:most] + "…"
	}
	if strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		s = strconv.QuoteToGraphic(s)
	}
	return s
}
