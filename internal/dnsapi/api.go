package dnsapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// api is an HTTP API: where it is, how we show who we are, and the one way to
// call it. Its methods may be called from several goroutines.
type api struct {
	provider string
	base     *url.URL
	client   *http.Client
	secrets  []string                                 // never to be seen in an error
	sign     func(r *http.Request, body []byte) error // adds the credentials; nil: they are elsewhere

	mu    sync.Mutex // one change of record sets at a time: they are read, changed and written
	zones zoneCache
}

// newAPI makes the api of a provider at endpoint, or at its own address.
func newAPI(provider, own, endpoint string, secrets ...string) (*api, error) {
	if endpoint == "" {
		endpoint = own
	}
	u, err := url.Parse(strings.TrimSuffix(endpoint, "/"))
	switch {
	case err != nil, u.Host == "", u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("dns provider %s: endpoint %q is not a URL, want one such as https://api.example.org", provider, redact(endpoint))
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("dns provider %s: endpoint has more than host and path, want one such as https://api.example.org", provider)
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	return &api{
		provider: provider, base: u, secrets: secrets,
		client: &http.Client{
			Timeout: callTimeout,
			Transport: &http.Transport{
				Proxy:                  http.ProxyFromEnvironment,
				DialContext:            dialer.DialContext,
				TLSHandshakeTimeout:    10 * time.Second,
				ForceAttemptHTTP2:      true,
				IdleConnTimeout:        10 * time.Second,
				MaxIdleConnsPerHost:    2,
				MaxResponseHeaderBytes: 64 << 10,
			},
			// A redirect would carry the token to wherever it points.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// redact drops the user information of a URL that is about to be printed.
func redact(s string) string {
	if i := strings.LastIndex(s, "@"); i >= 0 {
		return "…" + s[i:]
	}
	return s
}

// bearer signs with a token (RFC 6750 section 2.1).
func bearer(token string) func(*http.Request, []byte) error {
	return header("Authorization", "Bearer "+token)
}

// header signs with a field that is always the same.
func header(name, value string) func(*http.Request, []byte) error {
	return func(r *http.Request, _ []byte) error {
		r.Header.Set(name, value)
		return nil
	}
}

func (a *api) Name() string { return a.provider }

// Slot implements TXT for hosts that hold several values.
func (a *api) Slot(string) string { return "" }

// call is one request.
type call struct {
	op     string // what is wanted, for errors
	method string
	path   string // escaped, below the base
	query  url.Values
	body   []byte
	kind   string // Content-Type of body
	plain  bool   // the caller judges the status itself
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do sends c and reads what comes back. Every error is an *Error.
func (a *api) do(ctx context.Context, c call) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	u := *a.base
	var err error
	u.RawPath = u.EscapedPath() + c.path
	if u.Path, err = url.PathUnescape(u.RawPath); err != nil {
		return answer{}, a.fail(c.op, ErrRejected, errors.New("the name does not fit into a URL"))
	}
	u.RawQuery = c.query.Encode()
	req, err := http.NewRequestWithContext(ctx, c.method, u.String(), bytes.NewReader(c.body))
	if err != nil {
		return answer{}, a.fail(c.op, ErrRejected, errors.New("the name does not fit into a URL"))
	}
	if len(c.body) == 0 {
		req.Body, req.GetBody, req.ContentLength = nil, nil, 0
	}
	req.Header.Set("User-Agent", "postern")
	req.Header.Set("Accept", "*/*")
	if c.kind != "" {
		req.Header.Set("Content-Type", c.kind)
	}
	if a.sign != nil {
		if err := a.sign(req, c.body); err != nil {
			return answer{}, a.fail(c.op, ErrRejected, a.cause(err))
		}
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return answer{}, a.fail(c.op, ErrUnreachable, a.cause(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return answer{}, a.fail(c.op, ErrUnreachable, a.cause(err))
	}
	if len(body) > maxAnswer {
		return answer{}, a.fail(c.op, ErrUnreachable, fmt.Errorf("the answer is longer than %d MiB", maxAnswer>>20))
	}
	got := answer{resp.StatusCode, resp.Header, body}
	if c.plain {
		return got, nil
	}
	return got, a.judge(c.op, got)
}

// cause is why there was no answer, without the URL. A deadline of ours says
// so in words.
func (a *api) cause(err error) error {
	err = stripURL(err)
	var ne net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &ne) && ne.Timeout() {
		return fmt.Errorf("no answer from %s in time: %w", a.base.Host, context.DeadlineExceeded)
	}
	if errors.Is(err, context.Canceled) {
		return context.Canceled
	}
	if s := clean(err.Error(), a.secrets); s != err.Error() {
		return errors.New(s)
	}
	return err
}

func (a *api) fail(op string, kind, cause error) *Error {
	return &Error{Provider: a.provider, Op: op, Kind: kind, cause: cause}
}

// judge is nil for success.
func (a *api) judge(op string, got answer) error {
	means, kind := answerKind(got.status, got.header, got.body)
	if kind == nil {
		return nil
	}
	e := &Error{Provider: a.provider, Op: op, Kind: kind, Status: got.status, Means: means}
	if machineReadable(got.header, got.body) {
		e.Detail = clean(answerDetail(got.body), a.secrets)
	}
	e.RetryAfter = retryAfter(got.header, time.Now())
	return e
}

// json sends in as JSON (nil: no body) and reads the answer into out (nil: it
// does not matter).
func (a *api) json(ctx context.Context, c call, in, out any) error {
	if in != nil {
		body, err := json.Marshal(in)
		if err != nil {
			return a.fail(c.op, ErrRejected, err)
		}
		c.body, c.kind = body, "application/json"
	}
	got, err := a.do(ctx, c)
	if err != nil {
		return err
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(got.body, out); err != nil {
		return &Error{Provider: a.provider, Op: c.op, Kind: ErrUnreachable, Status: got.status,
			Means: "the answer is not what the API documents; something else may answer in its place"}
	}
	return nil
}

// rejected is a no that we say ourselves.
func (a *api) rejected(op, format string, args ...any) error {
	return &Error{Provider: a.provider, Op: op, Kind: ErrRejected, Means: fmt.Sprintf(format, args...)}
}
