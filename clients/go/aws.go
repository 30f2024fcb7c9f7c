package postern

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

// Credentials sign requests.
type Credentials struct {
	ID, Secret      string
	Session         string // of temporary credentials
	Region, Service string
}

// Sign adds an AWS Signature Version 4
// (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html)
// to r. Every header that is there is signed, so none may be added afterwards.
func Sign(r *http.Request, body []byte, k Credentials, now time.Time) {
	stamp := now.UTC().Format("20060102T150405Z")
	sum := sha256.Sum256(body)
	r.Header.Del("Authorization")
	r.Header.Set("X-Amz-Date", stamp)
	r.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(sum[:]))
	if k.Session != "" {
		r.Header.Set("X-Amz-Security-Token", k.Session)
	}
	lines := map[string]string{"host": cmp.Or(r.Host, r.URL.Host)}
	for name, values := range r.Header {
		var folded []string
		for _, v := range values {
			folded = append(folded, strings.Join(strings.Fields(v), " "))
		}
		lines[strings.ToLower(name)] = strings.Join(folded, ",")
	}
	var names []string
	for name := range lines {
		names = append(names, name)
	}
	slices.Sort(names)
	path := cmp.Or(r.URL.EscapedPath(), "/")
	if k.Service != "s3" { // all others encode what is encoded already
		path = escape(path, "/")
	}
	canonical := []string{r.Method, path, canonicalQuery(r.URL.Query())}
	for _, name := range names {
		canonical = append(canonical, name+":"+lines[name])
	}
	signed := strings.Join(names, ";")
	canonical = append(canonical, "", signed, hex.EncodeToString(sum[:]))
	whole := sha256.Sum256([]byte(strings.Join(canonical, "\n")))
	scope := stamp[:8] + "/" + k.Region + "/" + k.Service + "/aws4_request"
	key := []byte("AWS4" + k.Secret)
	for _, part := range append(strings.Split(scope, "/"), "AWS4-HMAC-SHA256\n"+stamp+"\n"+scope+"\n"+hex.EncodeToString(whole[:])) {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(part))
		key = m.Sum(nil)
	}
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+k.ID+"/"+scope+", SignedHeaders="+signed+", Signature="+hex.EncodeToString(key))
}

// canonicalQuery is sorted by encoded name, then value.
func canonicalQuery(q url.Values) string {
	var pairs [][2]string
	for name, values := range q {
		for _, v := range values {
			pairs = append(pairs, [2]string{escape(name, ""), escape(v, "")})
		}
	}
	slices.SortFunc(pairs, func(a, b [2]string) int { return cmp.Or(strings.Compare(a[0], b[0]), strings.Compare(a[1], b[1])) })
	var out []string
	for _, p := range pairs {
		out = append(out, p[0]+"="+p[1])
	}
	return strings.Join(out, "&")
}

// escape encodes all but the unreserved characters (RFC 3986 section 2.3) and
// keep.
func escape(s, keep string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~"+keep, c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// Token returns a web-identity token of AWS for Options.Audience, kept until
// shortly before it expires.
func (c *Client) Token(ctx context.Context) (string, error) {
	c.mu.Lock()
	token, until := c.token, c.tokenUntil
	c.mu.Unlock()
	if token != "" && time.Now().Before(until) {
		return token, nil
	}
	form := url.Values{"Action": {"GetWebIdentityToken"}, "Version": {"2011-06-15"}, "Audience.member.1": {c.o.Audience},
		"SigningAlgorithm": {"RS256"}, "DurationSeconds": {"900"}}
	answer, err := c.awsCall(ctx, awsRequest{service: "sts", method: http.MethodPost, path: "/", body: form.Encode(),
		header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}})
	if err != nil {
		return "", err
	}
	var out struct {
		Token      string    `xml:"GetWebIdentityTokenResult>WebIdentityToken"`
		Expiration time.Time `xml:"GetWebIdentityTokenResult>Expiration"`
	}
	if err := xml.Unmarshal(answer, &out); err != nil || out.Token == "" {
		return "", fmt.Errorf("STS answered without a token: %w", cmp.Or(err, io.ErrUnexpectedEOF))
	}
	// A clock of ours that is wrong must not make a good token look old.
	until = out.Expiration.Add(-time.Minute)
	if soon := time.Now().Add(30 * time.Second); until.Before(soon) {
		until = soon
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token, c.tokenUntil = out.Token, until
	return out.Token, nil
}

func (c *Client) fetchDocument(ctx context.Context) ([]byte, error) {
	e := c.o.Endpoint
	switch {
	case e.Parameter != "":
		in, err := json.Marshal(map[string]string{"Name": e.Parameter})
		if err != nil {
			return nil, err
		}
		answer, err := c.awsCall(ctx, awsRequest{service: "ssm", region: e.Region, method: http.MethodPost, path: "/", body: string(in),
			header: map[string]string{"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "AmazonSSM.GetParameter"}})
		if err != nil {
			return nil, err
		}
		var out struct{ Parameter struct{ Value string } }
		err = json.Unmarshal(answer, &out)
		return []byte(out.Parameter.Value), err
	case e.Bucket != "":
		return c.awsCall(ctx, awsRequest{service: "s3", region: e.Region, method: http.MethodGet, bucket: e.Bucket, path: "/" + escape(e.Key, "/")})
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, e.URL, nil)
	if err != nil {
		return nil, err
	}
	return c.fetch(r)
}

type awsRequest struct {
	service, region, bucket string
	method, path, body      string
	header                  map[string]string
}

// awsCall is one signed call to AWS, with the key that Lambda puts into the
// environment. AWS_ENDPOINT_URL_<SERVICE> and AWS_ENDPOINT_URL work as in
// AWS's own SDKs.
func (c *Client) awsCall(ctx context.Context, q awsRequest) ([]byte, error) {
	region := cmp.Or(q.region, os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"))
	base := cmp.Or(os.Getenv("AWS_ENDPOINT_URL_"+strings.ToUpper(q.service)), os.Getenv("AWS_ENDPOINT_URL"))
	path := q.path
	switch {
	case base == "" && q.bucket != "" && !strings.Contains(q.bucket, "."):
		base = "https://" + q.bucket + ".s3." + region + ".amazonaws.com"
	case base == "":
		base = "https://" + q.service + "." + region + ".amazonaws.com"
		fallthrough
	default:
		if q.bucket != "" {
			path = "/" + q.bucket + path
		}
	}
	r, err := http.NewRequestWithContext(ctx, q.method, strings.TrimSuffix(base, "/")+path, bytes.NewReader([]byte(q.body)))
	if err != nil {
		return nil, err
	}
	for name, value := range q.header {
		r.Header.Set(name, value)
	}
	Sign(r, []byte(q.body), Credentials{ID: os.Getenv("AWS_ACCESS_KEY_ID"), Secret: os.Getenv("AWS_SECRET_ACCESS_KEY"),
		Session: os.Getenv("AWS_SESSION_TOKEN"), Region: region, Service: q.service}, time.Now())
	return c.fetch(r)
}

func (c *Client) fetch(r *http.Request) ([]byte, error) {
	resp, err := c.aws.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK || len(body) > maxDocument {
		return nil, fmt.Errorf("%s answered %d with %d bytes", r.URL.Host, resp.StatusCode, len(body))
	}
	return body, nil
}
