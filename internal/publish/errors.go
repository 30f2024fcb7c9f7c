package publish

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// What kind of failure an Error is.
var (
	ErrDenied      = errors.New("refused who we are, or what we may do")
	ErrRejected    = errors.New("refused what we sent")
	ErrLimited     = errors.New("asked us to slow down")
	ErrClock       = errors.New("found our clock wrong")
	ErrUnreachable = errors.New("did not answer as it should")
)

// Error is why a push came to nothing. It holds no secret: of what the target
// said only a code is kept, because AWS repeats in its texts what was signed.
type Error struct {
	Target     string
	Kind       error  // one of Err…
	Status     int    // 0: there was no answer
	Code       string // the target's own word, such as AccessDeniedException
	Means      string // what to do about it
	RetryAfter time.Duration

	cause error
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "publish to %s: it %s", e.Target, e.Kind)
	if e.Status != 0 {
		fmt.Fprintf(&b, " (%d", e.Status)
		if e.Code != "" {
			b.WriteString(" " + e.Code)
		}
		b.WriteString(")")
	}
	if e.cause != nil {
		fmt.Fprintf(&b, ": %v", e.cause)
	}
	if e.Means != "" {
		b.WriteString("; " + e.Means)
	}
	return b.String()
}

// Unwrap gives the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.cause == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.cause}
}

// unreachable is an error of the transport, without the URL: a webhook's is a
// secret.
func unreachable(target, host string, err error) *Error {
	e := &Error{Target: target, Kind: ErrUnreachable, cause: err}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		e.cause = ue.Err
	}
	var ne net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &ne) && ne.Timeout() {
		e.cause = fmt.Errorf("no answer from %s in time: %w", host, context.DeadlineExceeded)
	}
	return e
}

// retryAfter reads the header (RFC 9110 section 10.2.3).
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.Atoi(v); err == nil && n >= 0 && n <= 86400 {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
