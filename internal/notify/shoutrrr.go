package notify

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/nicholas-fedor/shoutrrr/pkg/router"
	"github.com/nicholas-fedor/shoutrrr/pkg/types"
)

// Shoutrrr is the Sender for the services that the library of that name
// knows: ntfy, Gotify, Slack, Telegram, e-mail and others.
type Shoutrrr struct {
	scheme  string
	service types.Service
	busy    chan struct{} // holds one while a delivery is under way
}

// maxPlain bounds the text of a message, in bytes: the smallest bound of a
// service is ntfy's 4096, beyond which it makes an attachment of it.
const maxPlain = 3500

// NewShoutrrr returns the Sender of a URL in the form of shoutrrr. The URL is
// a secret; errors do not hold it.
func NewShoutrrr(text string) (*Shoutrrr, error) {
	scheme, _, ok := strings.Cut(text, "://")
	if !ok {
		return nil, errors.New("not a URL, want one such as ntfy://ntfy.sh/topic")
	}
	scheme, _, _ = strings.Cut(strings.ToLower(scheme), "+")
	if !slices.Contains(Services(), scheme) {
		return nil, fmt.Errorf("%q is no service, want one of %s", clean(scheme, 32), strings.Join(Services(), ", "))
	}
	if _, err := url.Parse(text); err != nil {
		return nil, fmt.Errorf("%s: the URL does not parse; write signs such as %%, # and / inside a password as %%25, %%23 and %%2F", scheme)
	}
	service, err := new(router.ServiceRouter).Locate(text)
	if err != nil {
		return nil, fmt.Errorf("%s: something is missing in the URL or wrong; its form is in the documentation of shoutrrr, services/%s", scheme, scheme)
	}
	return &Shoutrrr{scheme: scheme, service: service, busy: make(chan struct{}, 1)}, nil
}

// Services returns the schemes of the URLs that NewShoutrrr takes, sorted.
// Discord has a Sender of its own, and a log we have.
func Services() []string {
	all := new(router.ServiceRouter).ListServices()
	slices.Sort(all)
	return slices.DeleteFunc(all, func(s string) bool { return s == "discord" || s == "logger" })
}

// Service returns the scheme of the URL.
func (s *Shoutrrr) Service() string { return s.scheme }

// Edits returns false: the services share no way to change a message.
func (*Shoutrrr) Edits() bool { return false }

// Send posts n. The library takes no context, and not all of its services
// have a time limit; so Send leaves a delivery behind that outlasts ctx, and
// refuses to begin another one before that has ended.
func (s *Shoutrrr) Send(ctx context.Context, n *Note, _ string) (string, error) {
	select {
	case s.busy <- struct{}{}:
	default:
		return "", &Failure{Cause: s.scheme + ": the delivery before is still under way"}
	}
	text, params := s.words(n)
	result := make(chan error, 1)
	go func() {
		defer func() { <-s.busy }()
		result <- s.deliver(text, params)
	}()
	select {
	case err := <-result:
		if err != nil {
			return "", serviceFailure(s.scheme, err)
		}
		return "", nil
	case <-ctx.Done():
		return "", &Failure{Cause: s.scheme + ": no answer in time"}
	}
}

// deliver calls the library; a panic in it costs one message.
func (s *Shoutrrr) deliver(text string, params *types.Params) (err error) {
	defer func() {
		if recover() != nil { // its value may hold the URL
			err = errPanic
		}
	}()
	return s.service.Send(text, params)
}

var errPanic = errors.New("the library panicked")

// words returns n as the service wants it: the title apart where it is shown
// apart.
func (s *Shoutrrr) words(n *Note) (string, *types.Params) {
	text := n.Text()
	if len(text) > maxPlain {
		text = strings.ToValidUTF8(text[:maxPlain], "") + "…"
	}
	switch s.scheme {
	case "bark", "gotify", "join", "ntfy", "opsgenie", "pushbullet", "pushover", "smtp":
		return text, &types.Params{types.TitleKey: "postern: " + n.Title}
	case "generic":
		return n.Title + "\n" + text, &types.Params{types.TitleKey: n.Title}
	}
	return n.Title + "\n" + text, &types.Params{}
}

// statusCode finds what services answered with in the library's texts: HTTP
// statuses and SMTP replies.
var statusCode = regexp.MustCompile(`\b[45][0-9]{2}\b`)

// serviceFailure says why a delivery came to nothing in words of ours: the
// library's own may hold the URL, in one spelling or another.
func serviceFailure(scheme string, err error) *Failure {
	f := &Failure{Cause: scheme + ": the service did not take the message"}
	dns, isDNS := errors.AsType[*net.DNSError](err)
	switch {
	case errors.Is(err, context.DeadlineExceeded), os.IsTimeout(errors.Unwrap(err)), isTimeout(err):
		f.Cause = scheme + ": no answer in time"
		return f
	case isDNS:
		f.Cause = scheme + ": its name was not found"
		if dns.IsTemporary {
			f.Cause = scheme + ": its name could not be looked up"
		}
		return f
	case errors.Is(err, syscall.ECONNREFUSED):
		f.Cause = scheme + ": connection refused"
		return f
	case errors.Is(err, errPanic):
		f.Cause = scheme + ": the library failed on this message"
		f.Bad = true
		return f
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		f.Cause = scheme + ": no connection (" + e.Op + ")"
		return f
	}
	code, convErr := strconv.Atoi(statusCode.FindString(withoutURLs(err.Error())))
	if convErr != nil {
		return f
	}
	f.Status, f.Cause = code, fmt.Sprintf("%s: answered %d", scheme, code)
	if scheme == "smtp" {
		f.Dead = code == 535 // authentication credentials invalid (RFC 4954 section 6)
		return f
	}
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		f.Dead = true
		f.Cause += ": the address or its token is wrong"
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		f.Bad = true
	case http.StatusTooManyRequests:
		f.Wait = firstRetry * 12
	}
	return f
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// withoutURLs drops the words of s that look like addresses: digits in them
// are no status.
func withoutURLs(s string) string {
	return strings.Join(slices.DeleteFunc(strings.Fields(s), func(w string) bool {
		return strings.ContainsAny(w, "/@?=&") || strings.Count(w, ":") > 1
	}), " ")
}
