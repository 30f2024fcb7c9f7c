package caller

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// SignatureKey is the key id and secret by which a caller signs its requests.
type SignatureKey struct {
	// KeyID names the key. Required.
	KeyID string
	// Secret signs by HMAC-SHA256, as SigV4 does and by RFC 9421; "": not.
	Secret string
	// PublicKey verifies Ed25519 signatures of RFC 9421, 32 bytes; nil: none.
	PublicKey []byte
	// UnsignedPayload takes requests whose body is not covered.
	UnsignedPayload bool
}

// signer is one key that signs requests.
type signer struct {
	entry    *entry
	rule     *SignatureKey
	day      atomic.Pointer[dayKey] // the signing key of the latest day
	sigV4    *Identity
	messages *Identity
}

type dayKey struct {
	day string
	key []byte
}

// The parts of a signature that do not vary: docs/callers.md has the format.
const (
	sigAlgorithm = "AWS4-HMAC-SHA256"
	sigScope     = "/home/postern/aws4_request"
	sigTime      = "20060102T150405Z"
	maxSigned    = 64 // header fields of one signature
	maxAuth      = 4 << 10

	unsignedPayload = "UNSIGNED-PAYLOAD"
)

func newSigner(e *entry, rule *SignatureKey) (*signer, error) {
	if rule.KeyID == "" || rule.Secret == "" && len(rule.PublicKey) == 0 {
		return nil, fmt.Errorf("caller %s: signature: %w", e.name, errors.New("want a key_id, and a secret or a public key"))
	}
	id := Attribute{"Key-Id", rule.KeyID}
	return &signer{entry: e, rule: rule, sigV4: newIdentity(e, Signature, id), messages: newIdentity(e, MessageSignature, id)}, nil
}

// isSigV4 reports whether an Authorization field is of SigV4, with our scope.
// Another scope is another service's: the application may be one.
func isSigV4(authorization string) bool {
	return strings.HasPrefix(authorization, sigAlgorithm+" ") && strings.Contains(authorization, sigScope)
}

// sigV4 is what an Authorization field of SigV4 says.
type sigV4 struct {
	keyID, day string
	signed     []string // names of header fields, in lower case, sorted
	signature  [sha256.Size]byte
}

// parseSigV4 reads "AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…".
func parseSigV4(s string) (out sigV4, ok bool) {
	rest, ok := strings.CutPrefix(s, sigAlgorithm+" ")
	if !ok || len(s) > maxAuth {
		return out, false
	}
	parts := strings.Split(rest, ",")
	if len(parts) != 3 {
		return out, false
	}
	values := map[string]string{}
	for _, p := range parts {
		name, value, ok := strings.Cut(strings.TrimSpace(p), "=")
		if _, twice := values[name]; !ok || twice {
			return out, false
		}
		values[name] = value
	}
	credential, ok := strings.CutSuffix(values["Credential"], sigScope)
	if !ok {
		return out, false
	}
	slash := strings.LastIndexByte(credential, '/')
	if slash < 1 {
		return out, false
	}
	out.keyID, out.day = credential[:slash], credential[slash+1:]
	out.signed = strings.Split(values["SignedHeaders"], ";")
	sig := values["Signature"]
	if len(sig) != 2*len(out.signature) || strings.ToLower(sig) != sig {
		return out, false
	}
	if _, err := hex.Decode(out.signature[:], []byte(sig)); err != nil {
		return out, false
	}
	return out, len(out.day) == 8 && len(out.signed) <= maxSigned && properNames(out.signed)
}

// properNames reports whether names are in lower case, sorted, and each there
// once.
func properNames(names []string) bool {
	for i, n := range names {
		if n == "" || n != strings.ToLower(n) || i > 0 && n <= names[i-1] {
			return false
		}
	}
	return true
}

// sigV4 judges a request that is signed by our own key as one for AWS is.
func (b *Book) sigV4(r *Request) Result {
	own := *r // kept until the body was read; r itself must not be, it costs others an allocation
	return b.judgeSigV4(&own)
}

func (b *Book) judgeSigV4(r *Request) Result {
	sig, ok := parseSigV4(r.Authorization)
	if !ok {
		return refused(Malformed)
	}
	s := b.signers[sig.keyID]
	if s == nil || s.rule.Secret == "" {
		return refused(UnknownKey)
	}
	dates := r.Fields.List("X-Amz-Date")
	if len(dates) != 1 {
		return refused(Malformed)
	}
	date, err := time.Parse(sigTime, dates[0])
	if err != nil || date.Format(sigTime[:8]) != sig.day {
		return refused(Malformed)
	}
	if f := mustSign(r, sig.signed); f != NoCredentials {
		return refused(f)
	}
	hashes := r.Fields.List("X-Amz-Content-Sha256")
	if len(hashes) > 1 {
		return refused(Malformed)
	}
	verify := func(payload string) Result {
		if !s.verifies(r, &sig, dates[0], payload) {
			return refused(BadSignature)
		}
		return b.used(s.sigV4, append([]byte("v4 "), sig.signature[:]...), date, r.Now)
	}
	empty := sha256.Sum256(nil)
	switch {
	case len(hashes) == 0 && !r.HasBody:
		return verify(hex.EncodeToString(empty[:]))
	case len(hashes) == 0: // botocore: the body's hash is signed and not told
		return Result{Body: &BodyCheck{finish: func(sum [sha256.Size]byte) Result { return verify(hex.EncodeToString(sum[:])) }}}
	case hashes[0] == unsignedPayload:
		if !s.rule.UnsignedPayload {
			return refused(Incomplete)
		}
		return verify(unsignedPayload)
	}
	declared, ok := parseHash(hashes[0])
	if !ok {
		return refused(Incomplete) // STREAMING-… covers the body in a way that is not verified here
	}
	res := verify(hashes[0])
	return withBody(res, r, declared)
}

// withBody holds a proof that is good back until the body has the hash.
func withBody(res Result, r *Request, declared [sha256.Size]byte) Result {
	switch {
	case res.Identity == nil:
		return res
	case r.HasBody:
		return Result{Body: &BodyCheck{declared: &declared, identity: res.Identity}}
	case declared != sha256.Sum256(nil):
		return refused(BodyChanged)
	}
	return res
}

// parseHash reads 64 hexadecimal digits in lower case.
func parseHash(s string) (h [sha256.Size]byte, ok bool) {
	if len(s) != 2*len(h) || strings.ToLower(s) != s {
		return h, false
	}
	_, err := hex.Decode(h[:], []byte(s))
	return h, err == nil
}

// mustSign reports what a signature leaves out that it must cover: what is not
// signed could be anybody's.
func mustSign(r *Request, signed []string) Failure {
	for _, name := range [...]string{"host", "x-amz-date"} {
		if !slices.Contains(signed, name) {
			return Incomplete
		}
	}
	for _, name := range [...]string{"content-type", "idempotency-key", "x-postern-nonce", "x-amz-content-sha256", "x-amz-security-token", "x-amz-target"} {
		if len(r.Fields.List(textproto.CanonicalMIMEHeaderKey(name))) > 0 && !slices.Contains(signed, name) {
			return Incomplete
		}
	}
	return NoCredentials
}

// used takes a proof that holds: it is good for its span, and once.
func (b *Book) used(id *Identity, proof []byte, signed, now time.Time) Result {
	at, exact := b.registry.clock.judge(now)
	switch {
	case at.After(signed.Add(signedSpan)):
		return refused(Expired)
	case exact && signed.After(at.Add(signedSpan)):
		return refused(NotYet)
	}
	b.registry.clock.learn(signed, now)
	if f := b.registry.replays.use(proof, signed, now); f != NoCredentials {
		return refused(f)
	}
	return found(id)
}

// verifies reports whether the signature is that of the request.
func (s *signer) verifies(r *Request, sig *sigV4, date, payload string) bool {
	key := s.dayKey(sig.day)
	headers := canonicalHeaders(r, sig.signed)
	for _, query := range canonicalQueries(r.Query) {
		canonical := r.Method + "\n" + canonicalPath(r.Path) + "\n" + query + "\n" + headers + "\n" + strings.Join(sig.signed, ";") + "\n" + payload
		sum := sha256.Sum256([]byte(canonical))
		text := sigAlgorithm + "\n" + date + "\n" + sig.day + sigScope + "\n" + hex.EncodeToString(sum[:])
		if subtle.ConstantTimeCompare(mac(key, text), sig.signature[:]) == 1 {
			return true
		}
	}
	return false
}

// dayKey is the key that signs on a day.
func (s *signer) dayKey(day string) []byte {
	if k := s.day.Load(); k != nil && k.day == day {
		return k.key
	}
	key := mac([]byte("AWS4"+s.rule.Secret), day)
	for part := range strings.SplitSeq(strings.Trim(sigScope, "/"), "/") {
		key = mac(key, part)
	}
	s.day.Store(&dayKey{strings.Clone(day), key})
	return key
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// canonicalPath is the path as it was sent, percent-encoded once more, as for
// every service of AWS but S3.
func canonicalPath(path string) string {
	if path == "" {
		return "/"
	}
	var b strings.Builder
	for i := range len(path) {
		encodeByte(&b, path[i], path[i] == '/')
	}
	return b.String()
}

func encodeByte(b *strings.Builder, c byte, plain bool) {
	const digits = "0123456789ABCDEF"
	if plain || c-'0' < 10 || c|0x20-'a' < 26 || strings.IndexByte("-._~", c) >= 0 {
		b.WriteByte(c)
		return
	}
	b.WriteByte('%')
	b.WriteByte(digits[c>>4])
	b.WriteByte(digits[c&15])
}

// canonicalQueries are the readings of a query as signers write it: pairs,
// percent-encoded anew and sorted. A plus is itself to some and a space to
// others.
func canonicalQueries(query string) []string {
	if query == "" {
		return []string{""}
	}
	first, ok := canonicalQuery(query, false)
	if !ok {
		return nil
	}
	out := []string{first}
	if strings.Contains(query, "+") {
		if second, ok := canonicalQuery(query, true); ok {
			out = append(out, second)
		}
		out = append(out, strings.ReplaceAll(first, "%2B", "+")) // botocore: as it is
	}
	return out
}

func canonicalQuery(query string, plusIsSpace bool) (string, bool) {
	type pair struct{ name, value string }
	var pairs []pair
	for part := range strings.SplitSeq(query, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		if plusIsSpace {
			name, value = strings.ReplaceAll(name, "+", "%20"), strings.ReplaceAll(value, "+", "%20")
		}
		n, errN := url.PathUnescape(name)
		v, errV := url.PathUnescape(value)
		if errN != nil || errV != nil {
			return "", false
		}
		pairs = append(pairs, pair{encodeAll(n), encodeAll(v)})
	}
	slices.SortFunc(pairs, func(a, b pair) int {
		if c := strings.Compare(a.name, b.name); c != 0 {
			return c
		}
		return strings.Compare(a.value, b.value)
	})
	var b strings.Builder
	for i, p := range pairs {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(p.name + "=" + p.value)
	}
	return b.String(), true
}

func encodeAll(s string) string {
	var b strings.Builder
	for i := range len(s) {
		encodeByte(&b, s[i], false)
	}
	return b.String()
}

// canonicalHeaders are the signed fields, a line each.
func canonicalHeaders(r *Request, signed []string) string {
	var b strings.Builder
	for _, name := range signed {
		b.WriteString(name + ":")
		if name == "host" {
			b.WriteString(r.Host)
		} else {
			for i, v := range r.Fields.List(textproto.CanonicalMIMEHeaderKey(name)) {
				if i > 0 {
					b.WriteByte(',')
				}
				b.WriteString(strings.Join(strings.Fields(v), " "))
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}
