package dnsapi

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"time"
)

// awsKey signs requests with AWS Signature Version 4
// (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html).
type awsKey struct {
	id, secret, session string // session: of temporary credentials, else empty
	region, service     string
}

const awsTime = "20060102T150405Z"

// sign adds X-Amz-Date, X-Amz-Security-Token and Authorization. Headers set
// before are signed, none may be added after.
func (k awsKey) sign(r *http.Request, body []byte, now time.Time) {
	stamp := now.UTC().Format(awsTime)
	r.Header.Set("X-Amz-Date", stamp)
	if k.session != "" {
		r.Header.Set("X-Amz-Security-Token", k.session)
	}
	names := []string{"host"}
	for n := range r.Header {
		if n = strings.ToLower(n); n != "user-agent" { // a proxy may change it
			names = append(names, n)
		}
	}
	slices.Sort(names)
	signed := strings.Join(names, ";")
	scope := stamp[:8] + "/" + k.region + "/" + k.service + "/aws4_request"
	text := strings.Join([]string{"AWS4-HMAC-SHA256", stamp, scope, hexHash(awsCanonical(r, names, body))}, "\n")
	key := []byte("AWS4" + k.secret)
	for _, part := range []string{stamp[:8], k.region, k.service, "aws4_request", text} {
		key = hmacSHA256(key, part)
	}
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+k.id+"/"+scope+
		", SignedHeaders="+signed+", Signature="+hex.EncodeToString(key))
}

// awsCanonical is the canonical request.
func awsCanonical(r *http.Request, names []string, body []byte) string {
	path := r.URL.EscapedPath()
	if path == "" {
		path = "/"
	}
	var b strings.Builder
	b.WriteString(r.Method + "\n" + awsEscape(path, true) + "\n" + awsQuery(r) + "\n")
	for _, n := range names {
		values := r.Header.Values(n)
		if n == "host" {
			values = []string{r.URL.Host}
		}
		var folded []string
		for _, v := range values {
			folded = append(folded, strings.Join(strings.Fields(v), " "))
		}
		b.WriteString(n + ":" + strings.Join(folded, ",") + "\n")
	}
	b.WriteString("\n" + strings.Join(names, ";") + "\n" + hexHash(string(body)))
	return b.String()
}

// awsQuery is the query with its parameters sorted by their encoded names.
func awsQuery(r *http.Request) string {
	var pairs []string
	for k, values := range r.URL.Query() {
		for _, v := range values {
			pairs = append(pairs, awsEscape(k, false)+"="+awsEscape(v, false))
		}
	}
	slices.Sort(pairs)
	return strings.Join(pairs, "&")
}

// awsEscape encodes all but the unreserved characters (RFC 3986 section 2.3)
// and, in a path, the slash. Every service but S3 has the path encoded twice.
func awsEscape(s string, path bool) string {
	const upper = "0123456789ABCDEF"
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._~", c) >= 0, path && c == '/':
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(upper[c>>4])
			b.WriteByte(upper[c&15])
		}
	}
	return b.String()
}

func hmacSHA256(key []byte, s string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(s))
	return m.Sum(nil)
}

func hexHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
