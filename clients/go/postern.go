// Package postern calls a house behind postern, from a Lambda function or
// anywhere else. It is a few files that need nothing but the standard library:
// copy them. docs/callers.md tells how it finds the house and what is sent again
// when.
//
//	var home = postern.New(postern.Options{
//		Names: []string{"mypi.duckdns.org"}, Audience: "https://mypi.duckdns.org",
//		RequestID: func(ctx context.Context) string { lc, _ := lambdacontext.FromContext(ctx); return lc.AwsRequestID },
//	})
//
//	func handler(ctx context.Context, event json.RawMessage) (json.RawMessage, error) {
//		return home.JSON(ctx, "POST", "/orders", event)
//	}
package postern

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	handshakeTime = 3 * time.Second
	idleTime      = 50 * time.Second // a connection idle for longer may have died unseen
	passOver      = 30 * time.Second // a name that failed is asked last for so long
	fetchAgain    = 5 * time.Second  // the least time between two looks at the endpoint document
	maxDocument   = 64 << 10
	maxBody       = 64 << 20 // of a request, which is held to be sent again
)

// Options say where the house is and who we are.
type Options struct {
	// Names are the host names of the house, the preferred one first;
	// name:port where it is not 443. Required.
	Names []string

	// Audience, if set, proves who we are with a web-identity token of AWS.
	Audience string

	// KeyID and Secret, if set, prove it with signed requests; APIKey with a
	// key.
	KeyID, Secret string
	APIKey        string

	// Endpoint is where the endpoint document is. Zero: nowhere.
	Endpoint Endpoint

	// Relay is the last way: host:port that passes TLS on to the house, or an
	// https URL with a name of its own. "": none.
	Relay string

	// Address is an address to begin with, before any other is known.
	Address string

	// RootCAs to trust for the house. Nil: the system's.
	RootCAs *x509.CertPool

	// Lookup finds the addresses of a name. Nil: as the system does.
	Lookup func(ctx context.Context, name string) ([]string, error)

	// RequestID tells Lambda's request id, which becomes the Idempotency-Key.
	// Nil, or "": a new key for each call.
	RequestID func(context.Context) string

	// Timeout of a call whose context has no deadline. 0: 10 s.
	Timeout time.Duration

	// ConnectTimeout of each look-up and each connection. 0: 1 s.
	ConnectTimeout time.Duration
}

// Endpoint is where postern publishes its endpoint document: an SSM parameter,
// an S3 object, or a URL.
type Endpoint struct {
	Parameter   string
	Bucket, Key string
	Region      string // of either; "": AWS_REGION
	URL         string
}

// Client calls one house. Make it with New, outside the handler. Its methods
// may be called from several goroutines.
type Client struct {
	o         Options
	names     []way
	transport *http.Transport
	aws       *http.Client

	mu         sync.Mutex
	failed     map[string]time.Time
	good       *way
	goodAt     time.Time
	doc        *document
	docAt      time.Time
	token      string
	tokenUntil time.Time
	invocation string
	calls      int
}

// way is an address, and the name that its certificate is checked for.
type way struct {
	name, host string
	port       int
	asked      int    // the port that Host says
	base       string // before the path
	found      bool   // by looking the name up
	transient  bool   // not to be remembered
}

type wayKey struct{}

// New makes a client. It panics without names, which is a mistake of the
// program.
func New(o Options) *Client {
	if len(o.Names) == 0 {
		panic("postern: Options.Names is empty, want the host names of the house")
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.ConnectTimeout == 0 {
		o.ConnectTimeout = time.Second
	}
	if o.Lookup == nil {
		o.Lookup = net.DefaultResolver.LookupHost
	}
	c := &Client{o: o, failed: map[string]time.Time{}}
	for _, n := range o.Names {
		c.names = append(c.names, split(n))
	}
	if o.Address != "" {
		w := c.names[0]
		w.host = o.Address
		c.good = &w
	}
	c.transport = &http.Transport{
		DialTLSContext:      c.dial,
		IdleConnTimeout:     idleTime, // Go counts it by the wall clock, which a freeze does not stop
		MaxIdleConnsPerHost: 10,
		DisableCompression:  true,
	}
	c.aws = &http.Client{Timeout: 3 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return c
}

func split(name string) way {
	w := way{name: name, port: 443}
	if host, port, ok := strings.Cut(name, ":"); ok {
		w.name = host
		w.port, _ = strconv.Atoi(port)
	}
	w.host, w.asked = w.name, w.port
	return w
}

// Close closes idle connections.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// JSON sends in as JSON and returns the answer's body. An answer that is not
// 2xx is a *StatusError.
func (c *Client) JSON(ctx context.Context, method, path string, in any) (json.RawMessage, error) {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+c.o.Names[0]+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = &StatusError{Status: resp.StatusCode, Body: out}
	}
	return out, err
}

// StatusError is an answer that is not 2xx.
type StatusError struct {
	Status int
	Body   []byte
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("the house answered %d: %.200s", e.Status, e.Body)
}

// call is what lasts over all attempts.
type call struct {
	req     *http.Request
	body    []byte
	retries int
}

// RoundTrip is Do, so that a Client can be an http.Client's Transport.
func (c *Client) RoundTrip(req *http.Request) (*http.Response, error) { return c.Do(req) }

// Do sends a request to the house, whatever host its URL has. Its body is read
// first, so that it can be sent again.
func (c *Client) Do(req *http.Request) (*http.Response, error) {
	ctx, cancel := req.Context(), context.CancelFunc(func() {})
	if _, bounded := ctx.Deadline(); !bounded {
		ctx, cancel = context.WithTimeout(ctx, c.o.Timeout)
	}
	k := &call{req: req.Clone(ctx), retries: 1}
	if req.Body != nil {
		defer req.Body.Close()
		var err error
		if k.body, err = io.ReadAll(io.LimitReader(req.Body, maxBody+1)); err != nil || len(k.body) > maxBody {
			cancel()
			return nil, fmt.Errorf("the body cannot be held to be sent again: more than %d MiB, or %w", maxBody>>20, err)
		}
	}
	if !safe(req.Method) && req.Header.Get("Idempotency-Key") == "" {
		k.req.Header.Set("Idempotency-Key", c.key(ctx))
	}
	resp, err := c.patiently(k)
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &ending{resp.Body, cancel}
	return resp, nil
}

// ending ends the time of a call when its answer was read.
type ending struct {
	io.ReadCloser
	end func()
}

func (e *ending) Close() error {
	defer e.end()
	return e.ReadCloser.Close()
}

// key is the same for every repetition of an invocation, another one for each
// call in it.
func (c *Client) key(ctx context.Context) string {
	id := ""
	if c.o.RequestID != nil {
		id = c.o.RequestID(ctx)
	}
	if id == "" {
		return rand.Text()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.invocation != id {
		c.invocation, c.calls = id, 0
	}
	if c.calls++; c.calls > 1 {
		return fmt.Sprintf("%s-%d", id, c.calls)
	}
	return id
}

// patiently obeys Retry-After within the time that is left, and fetches a new
// token once if ours is refused.
func (c *Client) patiently(k *call) (*http.Response, error) {
	ctx := k.req.Context()
	for waits, tokens := 2, 1; ; {
		resp, err := c.anyWay(k)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusUnauthorized && c.o.Audience != "" && tokens > 0 {
			tokens--
			drop(resp)
			c.mu.Lock()
			c.token = ""
			c.mu.Unlock()
			continue
		}
		wait, asked := retryAfter(resp)
		deadline, _ := ctx.Deadline()
		if !asked || waits == 0 || time.Now().Add(wait+c.o.ConnectTimeout).After(deadline) {
			return resp, nil
		}
		waits--
		drop(resp)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
	}
}

func drop(resp *http.Response) {
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxDocument))
	_ = resp.Body.Close()
}

// retryAfter reads the header (RFC 9110 section 10.2.3) of an answer that says
// to come again.
func retryAfter(resp *http.Response) (time.Duration, bool) {
	v := resp.Header.Get("Retry-After")
	if v == "" || resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return 0, false
	}
	if n, err := strconv.Atoi(v); err == nil && n >= 0 {
		return time.Duration(min(n, 86400)) * time.Second, true
	}
	at, err := http.ParseTime(v)
	return max(0, time.Until(at)), err == nil
}

func (c *Client) anyWay(k *call) (*http.Response, error) {
	var last error
	for w := range c.ways(k.req.Context()) {
		resp, err := c.send(k, w)
		if err == nil {
			return resp, nil
		}
		last = err
		if u, ok := errors.AsType[*unreached](err); !ok {
			return nil, err
		} else if w.found && !errors.Is(u.cause, context.Canceled) {
			c.ill(w.name)
		}
	}
	if last == nil {
		last = errors.Join(errors.New("no name can be looked up"), k.req.Context().Err())
	}
	return nil, fmt.Errorf("%s %s%s: no way to the house worked: %w", k.req.Method, c.names[0].name, k.req.URL.Path, last)
}

// unreached says that nothing was sent, so that another way may be tried.
type unreached struct {
	way   way
	cause error
}

func (e *unreached) Error() string {
	return fmt.Sprintf("%s as %s: %v", net.JoinHostPort(e.way.host, strconv.Itoa(e.way.port)), e.way.name, e.cause)
}

func (e *unreached) Unwrap() error { return e.cause }

// dial connects to the address of the way in ctx; the certificate is checked
// for its name.
func (c *Client) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	w := ctx.Value(wayKey{}).(way)
	d := net.Dialer{Timeout: c.o.ConnectTimeout}
	raw, err := d.DialContext(ctx, network, net.JoinHostPort(w.host, strconv.Itoa(w.port)))
	if err != nil {
		return nil, &unreached{w, err}
	}
	conn := tls.Client(raw, &tls.Config{ServerName: w.name, RootCAs: c.o.RootCAs, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12})
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, &unreached{w, err}
	}
	return conn, nil
}

// send sends the call one way. A kept connection that died before it answered
// is replaced once, and so is a new one where a repetition does no harm.
func (c *Client) send(k *call, w way) (*http.Response, error) {
	ctx := context.WithValue(k.req.Context(), wayKey{}, w)
	var reused, begun atomic.Bool // the trace may still run when we have given up
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:              func(i httptrace.GotConnInfo) { reused.Store(i.Reused) },
		GotFirstResponseByte: func() { begun.Store(true) },
	})
	req := k.req.Clone(ctx)
	req.URL.Scheme, req.URL.Host = "https", w.authority()
	req.Host = req.URL.Host
	if w.base != "" {
		req.URL.RawPath = w.base + req.URL.EscapedPath()
		req.URL.Path = w.base + req.URL.Path
	}
	req.Body, req.GetBody, req.ContentLength = http.NoBody, nil, 0
	if len(k.body) > 0 {
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(k.body)), int64(len(k.body))
	}
	if err := c.prove(req, k.body); err != nil {
		return nil, err
	}
	resp, err := c.transport.RoundTrip(req)
	if err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !w.transient {
			c.good, c.goodAt = &w, time.Now()
		}
		delete(c.failed, w.name)
		return resp, nil
	}
	if _, ok := errors.AsType[*unreached](err); ok {
		return nil, err
	}
	if begun.Load() || ctx.Err() != nil || k.retries == 0 || !reused.Load() && !idempotent(req.Method) {
		return nil, fmt.Errorf("%s %s%s at %s: %w", req.Method, w.name, req.URL.Path, w.host, err)
	}
	k.retries--
	c.transport.CloseIdleConnections() // others of its age may have died too
	return c.send(k, w)
}

func (w way) authority() string {
	if w.asked == 443 {
		return w.name
	}
	return w.name + ":" + strconv.Itoa(w.asked)
}

func safe(method string) bool {
	return slices.Contains([]string{"", http.MethodGet, http.MethodHead, http.MethodOptions}, method)
}

func idempotent(method string) bool {
	return safe(method) || method == http.MethodPut || method == http.MethodDelete
}

// prove adds what shows who we are.
func (c *Client) prove(req *http.Request, body []byte) error {
	switch {
	case c.o.Audience != "":
		token, err := c.Token(req.Context())
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	case c.o.APIKey != "":
		req.Header.Set("Authorization", "Bearer "+c.o.APIKey)
	case c.o.KeyID != "":
		req.Header.Set("X-Postern-Nonce", rand.Text()) // each attempt is another request
		Sign(req, body, Credentials{ID: c.o.KeyID, Secret: c.o.Secret, Region: "home", Service: "postern"}, time.Now())
	}
	return nil
}
