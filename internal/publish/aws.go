package publish

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// account is how one target speaks to AWS.
type account struct {
	target   string // for errors
	service  string // of the signature's scope
	region   string
	key      Key
	base     string
	client   *http.Client
	clockOff atomic.Int64 // nanoseconds that AWS's clock is ahead of ours, when it said so
}

// maxAnswer bounds what is read of an answer: a code is enough.
const maxAnswer = 64 << 10

func newAccount(target, service, region, own, endpoint string, key Key, rootFile string) (*account, error) {
	if _, err := key.load(); err != nil {
		return nil, fmt.Errorf("publish to %s: %w", target, err)
	}
	client, err := newClient(rootFile)
	if err != nil {
		return nil, fmt.Errorf("publish to %s: %w", target, err)
	}
	base := strings.TrimSuffix(endpoint, "/")
	if base == "" {
		base = "https://" + own
		if strings.HasPrefix(region, "cn-") { // https://docs.aws.amazon.com/general/latest/gr/rande.html
			base += ".cn"
		}
	}
	return &account{target: target, service: service, region: region, key: key, base: base, client: client}, nil
}

// newClient makes a client for a call now and then, which trusts the roots of
// a PEM file, or the system's.
func newClient(rootFile string) (*http.Client, error) {
	var roots *x509.CertPool
	if rootFile != "" {
		pem, err := os.ReadFile(rootFile)
		if err != nil {
			return nil, fmt.Errorf("root: %w", err)
		}
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("root: %s holds no certificate, want PEM", rootFile)
		}
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	return &http.Client{
		Timeout: pushTimeout,
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    5 * time.Second,
			ForceAttemptHTTP2:      true,
			DisableKeepAlives:      true, // the next call is hours away
			MaxResponseHeaderBytes: 64 << 10,
		},
		// A redirect would carry the document, and a signature, elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// request is one call to AWS.
type request struct {
	method, path string // path is escaped
	header       map[string]string
	body         []byte
}

// call sends q, signed. If AWS finds our clock wrong, its own is believed and
// the call is made once more: a Pi has no clock of its own after a power cut.
func (a *account) call(ctx context.Context, q request) error {
	err := a.once(ctx, q)
	if e, ok := errors.AsType[*Error](err); ok && e.Kind == ErrClock && ctx.Err() == nil {
		return a.once(ctx, q)
	}
	return err
}

func (a *account) once(ctx context.Context, q request) error {
	r, err := http.NewRequestWithContext(ctx, q.method, a.base+q.path, bytes.NewReader(q.body))
	if err != nil {
		return &Error{Target: a.target, Kind: ErrRejected, Means: "the endpoint and the name make no URL; correct them"}
	}
	for name, value := range q.header {
		r.Header.Set(name, value)
	}
	sum := sha256.Sum256(q.body)
	hash := hex.EncodeToString(sum[:])
	r.Header.Set("X-Amz-Content-Sha256", hash)
	key, err := a.key.load()
	if err != nil {
		return &Error{Target: a.target, Kind: ErrDenied, cause: err}
	}
	now := time.Now().Add(time.Duration(a.clockOff.Load()))
	// A new one each time: a signer remembers what it derived from a secret by
	// the key's id alone, and would miss that a mistyped secret was corrected.
	signer := v4.NewSigner(func(o *v4.SignerOptions) {
		o.DisableURIPathEscaping = a.service == "s3" // it alone does not encode the path twice
	})
	if err := signer.SignHTTP(ctx, key, r, hash, a.service, a.region, now); err != nil {
		return &Error{Target: a.target, Kind: ErrRejected, cause: err}
	}
	r.Header.Set("User-Agent", "postern") // not signed: a proxy may change it
	resp, err := a.client.Do(r)
	if err != nil {
		return unreachable(a.target, r.URL.Host, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return unreachable(a.target, r.URL.Host, err)
	}
	return a.judge(resp, body)
}

// judge is nil for success.
func (a *account) judge(resp *http.Response, body []byte) error {
	e := &Error{Target: a.target, Status: resp.StatusCode, Code: code(resp.Header, body), RetryAfter: retryAfter(resp.Header, time.Now())}
	var words errorWords
	words.read(body)
	switch {
	case resp.StatusCode == http.StatusOK && a.plausible(body):
		return nil
	case resp.StatusCode == http.StatusOK:
		e.Kind, e.Means = ErrUnreachable, "the answer is not what AWS documents; something else may answer in its place"
	case a.skewed(e.Code, words.message):
		e.Kind, e.Means = ErrClock, "set this machine's clock (timedatectl set-ntp true)"
		if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
			a.clockOff.Store(int64(time.Until(at)))
		}
	case e.Code == "Throttling" || e.Code == "ThrottlingException" || e.Code == "SlowDown" || e.Code == "PriorRequestNotComplete" ||
		e.Code == "TooManyUpdates" || e.Code == "RequestLimitExceeded" || resp.StatusCode == http.StatusTooManyRequests:
		e.Kind = ErrLimited
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden ||
		e.Code == "UnrecognizedClientException" || e.Code == "InvalidClientTokenId" || e.Code == "AccessDeniedException" || e.Code == "ExpiredTokenException":
		e.Kind, e.Means = ErrDenied, "check the key, and give it the policy in docs/publish.md"
	case resp.StatusCode >= 500 || resp.StatusCode < 400:
		e.Kind = ErrUnreachable
	default:
		e.Kind, e.Means = ErrRejected, "check region and names in publish"
	}
	return e
}

// plausible tells AWS's own 200 from that of whatever else answers.
func (a *account) plausible(body []byte) bool {
	switch a.service {
	case "ssm":
		var out struct{ Version int64 }
		return json.Unmarshal(body, &out) == nil && out.Version > 0
	case "route53":
		var out struct {
			XMLName xml.Name `xml:"ChangeResourceRecordSetsResponse"`
		}
		return xml.Unmarshal(body, &out) == nil
	}
	return len(bytes.TrimSpace(body)) == 0 // S3 answers PutObject with headers alone
}

func (a *account) skewed(code, message string) bool {
	switch code {
	case "RequestTimeTooSkewed", "RequestExpired":
		return true
	case "InvalidSignatureException", "SignatureDoesNotMatch":
		return strings.HasPrefix(message, "Signature expired") || strings.HasPrefix(message, "Signature not yet current")
	}
	return false
}

// errorWords is what the services say about an error, each in its format.
type errorWords struct{ code, message string }

func (w *errorWords) read(body []byte) {
	var j struct {
		Type    string `json:"__type"`
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &j) == nil {
		w.code, w.message = j.Type, j.Message
		return
	}
	var x struct {
		Code    string
		Message string
		Error   struct{ Code, Message string }
	}
	if xml.Unmarshal(body, &x) != nil {
		return
	}
	w.code, w.message = x.Code+x.Error.Code, x.Message+x.Error.Message
}

// code is the error's code if it looks like one.
func code(h http.Header, body []byte) string {
	var w errorWords
	w.read(body)
	c := w.code
	if c == "" {
		c, _, _ = strings.Cut(h.Get("X-Amzn-Errortype"), ":")
	}
	if i := strings.LastIndexByte(c, '#'); i >= 0 {
		c = c[i+1:]
	}
	if len(c) > 64 || strings.ContainsFunc(c, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.'
	}) {
		return ""
	}
	return c
}
