package testnet

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sigError is why a request was refused, in the code the service would use.
type sigError struct{ code, text string }

func (e *sigError) Error() string { return e.code + ": " + e.text }

func refusal(code, format string, args ...any) *sigError {
	return &sigError{code, fmt.Sprintf(format, args...)}
}

const awsStamp = "20060102T150405Z"

// signature is what a request says about itself, in a header or in its query.
type signature struct {
	key, day, region, service string
	stamp                     string
	signed                    []string
	sig                       string
	presigned                 bool
	life                      time.Duration // of a presigned one
}

// verify computes the signature of r again (Signature Version 4,
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html)
// and returns whose key made it, and for which service.
func (a *AWS) verify(r *http.Request, body []byte) (AWSKey, string, *sigError) {
	s, err := parseSignature(r)
	if err != nil {
		return AWSKey{}, guessService(r), err
	}
	a.mu.Lock()
	key, known := a.keys[s.key]
	a.mu.Unlock()
	if !known {
		return AWSKey{}, s.service, refusal("UnrecognizedClientException", "The security token included in the request is invalid: key id %q", s.key)
	}
	if err := s.judge(r, key, a.now()); err != nil {
		return key, s.service, err
	}
	hash, err := payloadHash(r, s, body)
	if err != nil {
		return key, s.service, err
	}
	canonical := s.canonical(r, hash)
	scope := s.day + "/" + s.region + "/" + s.service + "/aws4_request"
	sum := sha256.Sum256([]byte(canonical))
	text := "AWS4-HMAC-SHA256\n" + s.stamp + "\n" + scope + "\n" + hex.EncodeToString(sum[:])
	mac := []byte("AWS4" + key.Secret)
	for _, step := range []string{s.day, s.region, s.service, "aws4_request", text} {
		h := hmac.New(sha256.New, mac)
		h.Write([]byte(step))
		mac = h.Sum(nil)
	}
	if !hmac.Equal([]byte(hex.EncodeToString(mac)), []byte(s.sig)) {
		return key, s.service, refusal("SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided. The canonical string should have been\n%s", canonical)
	}
	return key, s.service, nil
}

func parseSignature(r *http.Request) (signature, *sigError) {
	q := r.URL.Query()
	header := r.Header.Values("Authorization")
	switch {
	case len(header) == 1 && !q.Has("X-Amz-Signature"):
		return parseAuthorization(r, header[0])
	case len(header) == 0 && q.Has("X-Amz-Signature"):
		return parsePresigned(q)
	}
	return signature{}, refusal("MissingAuthenticationToken", "want one Authorization header or one X-Amz-Signature, not %d and %v", len(header), q.Has("X-Amz-Signature"))
}

func parseAuthorization(r *http.Request, header string) (signature, *sigError) {
	rest, ok := strings.CutPrefix(header, "AWS4-HMAC-SHA256 ")
	if !ok {
		return signature{}, refusal("IncompleteSignature", "Authorization is not AWS4-HMAC-SHA256")
	}
	fields := map[string]string{}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if _, twice := fields[name]; !ok || twice {
			return signature{}, refusal("IncompleteSignature", "Authorization: part %q", part)
		}
		fields[name] = value
	}
	if len(fields) != 3 {
		return signature{}, refusal("IncompleteSignature", "Authorization has %d parts, want Credential, SignedHeaders and Signature", len(fields))
	}
	s := signature{stamp: r.Header.Get("X-Amz-Date"), sig: fields["Signature"], signed: strings.Split(fields["SignedHeaders"], ";")}
	return s, s.credential(fields["Credential"])
}

func parsePresigned(q url.Values) (signature, *sigError) {
	for _, name := range []string{"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-SignedHeaders", "X-Amz-Signature"} {
		if len(q[name]) != 1 {
			return signature{}, refusal("IncompleteSignature", "query has %d %s, want one", len(q[name]), name)
		}
	}
	if q.Get("X-Amz-Algorithm") != "AWS4-HMAC-SHA256" {
		return signature{}, refusal("IncompleteSignature", "algorithm %q", q.Get("X-Amz-Algorithm"))
	}
	s := signature{stamp: q.Get("X-Amz-Date"), sig: q.Get("X-Amz-Signature"), signed: strings.Split(q.Get("X-Amz-SignedHeaders"), ";"),
		presigned: true, life: 15 * time.Minute}
	if err := s.credential(q.Get("X-Amz-Credential")); err != nil {
		return s, err
	}
	if q.Has("X-Amz-Expires") && s.service != "sts" { // STS takes 15 minutes whatever is asked for
		n, err := strconv.Atoi(q.Get("X-Amz-Expires"))
		if err != nil || n < 1 || n > 604800 {
			return s, refusal("AuthorizationQueryParametersError", "X-Amz-Expires %q", q.Get("X-Amz-Expires"))
		}
		s.life = time.Duration(n) * time.Second
	}
	return s, nil
}

func (s *signature) credential(text string) *sigError {
	parts := strings.Split(text, "/")
	if len(parts) != 5 || parts[4] != "aws4_request" {
		return refusal("IncompleteSignature", "Credential %q, want id/date/region/service/aws4_request", text)
	}
	s.key, s.day, s.region, s.service = parts[0], parts[1], parts[2], parts[3]
	return nil
}

// judge checks everything but the signature itself.
func (s *signature) judge(r *http.Request, key AWSKey, now time.Time) *sigError {
	at, err := time.Parse(awsStamp, s.stamp)
	if err != nil || !strings.HasPrefix(s.stamp, s.day) {
		return refusal("SignatureDoesNotMatch", "Date in Credential scope (%s) does not match YYYYMMDD from ISO-8601 version of date from HTTP (%s)", s.day, s.stamp)
	}
	early, late := 5*time.Minute, 5*time.Minute
	if s.presigned {
		late = s.life
	}
	if at.After(now.Add(early)) || at.Before(now.Add(-late)) {
		code := map[string]string{"s3": "RequestTimeTooSkewed", "ssm": "InvalidSignatureException"}[s.service]
		if code == "" {
			code = "SignatureDoesNotMatch"
		}
		return refusal(code, "Signature expired or not yet current: %s is too far from %s", s.stamp, now.UTC().Format(awsStamp))
	}
	want := AWSRegion
	if s.service == "route53" {
		want = "us-east-1"
	}
	if s.region != want {
		return refusal("SignatureDoesNotMatch", "Credential should be scoped to a valid region, not %q", s.region)
	}
	if !slices.IsSorted(s.signed) || len(slices.Compact(slices.Clone(s.signed))) != len(s.signed) {
		return refusal("IncompleteSignature", "SignedHeaders %v are not sorted", s.signed)
	}
	if err := s.coverage(r); err != nil {
		return err
	}
	session := r.Header.Get("X-Amz-Security-Token")
	if s.presigned {
		session = r.URL.Query().Get("X-Amz-Security-Token")
	}
	if session != key.Session {
		return refusal("UnrecognizedClientException", "The security token included in the request is invalid")
	}
	return nil
}

// coverage checks that what matters is signed.
func (s *signature) coverage(r *http.Request) *sigError {
	must := []string{"host"}
	for name := range r.Header {
		if name = strings.ToLower(name); strings.HasPrefix(name, "x-amz-") || name == "content-type" && s.service != "s3" {
			must = append(must, name)
		}
	}
	if !s.presigned {
		must = append(must, "x-amz-date")
	}
	for _, name := range must {
		if !slices.Contains(s.signed, name) {
			return refusal("SignatureDoesNotMatch", "'%s' must be a signed header", name)
		}
	}
	for _, name := range s.signed {
		if name != strings.ToLower(name) || name != "host" && name != "content-length" && len(r.Header.Values(name)) == 0 {
			return refusal("SignatureDoesNotMatch", "signed header %q is not in the request", name)
		}
	}
	return nil
}

// payloadHash is the last line of the canonical request. A hash that the
// header claims must be that of the body.
func payloadHash(r *http.Request, s signature, body []byte) (string, *sigError) {
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	claimed := r.Header.Get("X-Amz-Content-Sha256")
	switch {
	case s.service != "s3" && claimed == "":
		return hash, nil
	case claimed == hash:
		return hash, nil
	case s.service == "s3" && s.presigned:
		return "UNSIGNED-PAYLOAD", nil
	case claimed == "":
		return "", refusal("InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
	}
	return "", refusal("XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match what was computed.")
}

// canonical is the canonical request.
func (s *signature) canonical(r *http.Request, hash string) string {
	path := r.URL.EscapedPath()
	if path == "" {
		path = "/"
	}
	if s.service != "s3" { // all others encode what is encoded already
		path = percent(path, "/")
	}
	query := r.URL.Query()
	if s.presigned {
		query.Del("X-Amz-Signature")
	}
	var pairs []string
	for _, name := range slices.SortedFunc(maps.Keys(query), func(a, b string) int { return strings.Compare(percent(a, ""), percent(b, "")) }) {
		var values []string
		for _, v := range query[name] {
			values = append(values, percent(name, "")+"="+percent(v, ""))
		}
		slices.Sort(values)
		pairs = append(pairs, values...)
	}
	lines := []string{r.Method, path, strings.Join(pairs, "&")}
	for _, name := range s.signed {
		lines = append(lines, name+":"+headerLine(r, name))
	}
	return strings.Join(append(lines, "", strings.Join(s.signed, ";"), hash), "\n")
}

func headerLine(r *http.Request, name string) string {
	switch name {
	case "host":
		return r.Host
	case "content-length":
		return strconv.FormatInt(r.ContentLength, 10)
	}
	var values []string
	for _, v := range r.Header.Values(name) {
		values = append(values, strings.Join(strings.Fields(v), " "))
	}
	return strings.Join(values, ",")
}

// percent encodes all but the unreserved characters of RFC 3986 and keep.
func percent(s, keep string) string {
	const unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
	var b strings.Builder
	for _, c := range []byte(s) {
		if strings.IndexByte(unreserved, c) >= 0 || strings.IndexByte(keep, c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// guessService tells in whose words to refuse a request that does not say.
func guessService(r *http.Request) string {
	switch {
	case r.Header.Get("X-Amz-Target") != "":
		return "ssm"
	case strings.HasPrefix(r.URL.Path, "/2013-04-01/"):
		return "route53"
	case r.URL.Path == "/" || r.URL.Path == "":
		return "sts"
	}
	return "s3"
}
