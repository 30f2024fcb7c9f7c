package caller

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4/json"

	"postern/internal/durable"
)

// A caller whose AWS account issues no tokens signs a GetCallerIdentity request
// and does not send it: we do, to the endpoint of our own configuration, and
// AWS tells who signed. What is signed names us (STSAudienceHeader), so that a
// request made for somebody else is worth nothing here. The caller gets a short
// token of ours for it, so that STS is asked once for each of its processes.

const (
	// STSAudienceHeader is the signed header that says for whom a presigned
	// request was made.
	STSAudienceHeader = "x-postern-aud"

	// MaxPresigned bounds a presigned URL, in bytes.
	MaxPresigned = 8 << 10

	stsTime      = 5 * time.Second
	maxSTSAnswer = 64 << 10
	maxSTSCalls  = 8 // at the same time
	ownTokenLife = 15 * time.Minute
	ownPrefix    = "pst1."
	tokenKeyName = "token-key"
)

// stsEndpoint is one endpoint that presigned requests are sent to.
type stsEndpoint struct {
	base     string // https://sts.REGION.amazonaws.com
	region   string
	audience string
	client   *http.Client
	entries  []*entry
}

// addSTS adds a caller to the endpoint of its region.
func (b *Book) addSTS(e *entry, r *AWS) error {
	base := r.STSEndpoint
	if base == "" {
		base = "https://sts." + r.STSRegion + ".amazonaws.com"
	}
	base = strings.TrimSuffix(base, "/")
	if r.Function != "" {
		return fmt.Errorf("caller %s: %w", e.name, errors.New("STS tells no function, so it can not be wanted with an sts region"))
	}
	key, err := b.registry.ownTokenKey()
	if err != nil {
		return err
	}
	b.tokenKey = key // so that no request waits for the registry's lock, which is held while files are written
	for _, s := range b.sts {
		if s.base != base {
			continue
		}
		if s.audience != r.Audience || s.region != r.STSRegion {
			return fmt.Errorf("caller %s: its audience or region differs from that of another caller at %s; a presigned request is sent once, so write the same for both", e.name, base)
		}
		s.entries = append(s.entries, e)
		return nil
	}
	var roots *x509.CertPool
	if r.Roots != "" {
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(r.Roots)) {
			return fmt.Errorf("caller %s: its ca file holds no certificate in PEM", e.name)
		}
	}
	b.sts = append(b.sts, &stsEndpoint{base: base, region: r.STSRegion, audience: r.Audience, client: newClient(roots), entries: []*entry{e}})
	return nil
}

// Exchanges reports whether presigned requests are taken.
func (b *Book) Exchanges() bool { return b != nil && len(b.sts) > 0 }

// Exchanged is a token for a presigned request.
type Exchanged struct {
	Token    string
	Expires  time.Duration // until its end
	Identity *Identity
}

// Exchange finds out by STS who made a presigned request, which it takes once.
// It waits for STS, for 5 s at most, and never for others that do.
func (b *Book) Exchange(presigned string, now time.Time) (Exchanged, Failure) {
	var at *stsEndpoint
	for _, s := range b.sts {
		if strings.HasPrefix(presigned, s.base+"/?") {
			at = s
		}
	}
	if at == nil || len(presigned) > MaxPresigned {
		return Exchanged{}, Malformed
	}
	p, ok := parsePresigned(presigned[len(at.base)+len("/?"):], at.region)
	if !ok {
		return Exchanged{}, Malformed
	}
	clock := b.registry.clock
	judged, exact := clock.judge(now)
	switch {
	case judged.After(p.signed.Add(signedSpan)):
		return Exchanged{}, Expired
	case exact && p.signed.After(judged.Add(signedSpan)):
		return Exchanged{}, NotYet
	}
	if b.registry.stsCalls.Add(1) > maxSTSCalls {
		b.registry.stsCalls.Add(-1)
		return Exchanged{}, Busy
	}
	defer b.registry.stsCalls.Add(-1)
	who, f := at.ask(presigned)
	b.registry.metrics.asked(f)
	if f != NoCredentials {
		return Exchanged{}, f
	}
	if f := b.registry.replays.use(append([]byte("sts "), p.signature...), p.signed, now); f != NoCredentials {
		return Exchanged{}, f
	}
	clock.learn(p.signed, now)
	for _, e := range at.entries {
		if who.is(e.rule.AWS) {
			return b.ownToken(e, who, now), NoCredentials
		}
	}
	return Exchanged{}, NotListed
}

// presigned is what the query of a presigned request says.
type presigned struct {
	signed    time.Time
	signature string
}

// parsePresigned reads the query strictly: what is there twice, or is not one
// of these, could make STS do something else.
func parsePresigned(query, region string) (p presigned, ok bool) {
	got := map[string]string{}
	for part := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(part, "=")
		if _, twice := got[name]; twice {
			return p, false
		}
		v, err := url.QueryUnescape(value)
		if err != nil || v == "" {
			return p, false
		}
		got[name] = v
	}
	want := map[string]string{
		"Action": "GetCallerIdentity", "Version": "2011-06-15", "X-Amz-Algorithm": sigAlgorithm,
		"X-Amz-SignedHeaders": "host;" + STSAudienceHeader,
	}
	for name, v := range got {
		switch name {
		case "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-Signature", "X-Amz-Security-Token":
		default:
			if want[name] != v {
				return p, false
			}
		}
	}
	for name := range want {
		if got[name] == "" {
			return p, false
		}
	}
	var err error
	if p.signed, err = time.Parse(sigTime, got["X-Amz-Date"]); err != nil {
		return p, false
	}
	scope := strings.SplitN(got["X-Amz-Credential"], "/", 2)
	if len(scope) != 2 || scope[0] == "" || scope[1] != p.signed.Format(sigTime[:8])+"/"+region+"/sts/aws4_request" {
		return p, false
	}
	if life, err := strconv.Atoi(got["X-Amz-Expires"]); err != nil || life < 1 || life > 900 {
		return p, false
	}
	p.signature = got["X-Amz-Signature"]
	_, ok = parseHash(p.signature)
	return p, ok
}

// awsPrincipal is who STS says has signed.
type awsPrincipal struct {
	Account string `json:"Account"`
	ARN     string `json:"Arn"`
}

// ask sends the request, with our own audience, whatever it was made for.
func (s *stsEndpoint) ask(presigned string) (who awsPrincipal, f Failure) {
	ctx, cancel := context.WithTimeout(context.Background(), stsTime) // whoever asked may leave: what comes of it is told to STS's account all the same
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, presigned, nil)
	if err != nil {
		return who, Malformed
	}
	req.Header.Set(STSAudienceHeader, s.audience)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "postern")
	res, err := s.client.Do(req)
	if err != nil {
		return who, KeysUnavailable
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxSTSAnswer+1))
	switch {
	case err != nil || len(raw) > maxSTSAnswer:
		return who, KeysUnavailable
	case res.StatusCode == http.StatusForbidden:
		return who, refusalOf(string(raw))
	case res.StatusCode != http.StatusOK:
		return who, KeysUnavailable
	}
	var answer struct {
		Response struct {
			Result awsPrincipal `json:"GetCallerIdentityResult"`
		} `json:"GetCallerIdentityResponse"`
	}
	if json.Unmarshal(raw, &answer) != nil || answer.Response.Result.ARN == "" {
		return who, KeysUnavailable
	}
	return answer.Response.Result, NoCredentials
}

// refusalOf reads why STS refused. A request that was made for another audience
// is one whose signature does not fit.
func refusalOf(answer string) Failure {
	switch {
	case strings.Contains(answer, "ExpiredToken"), strings.Contains(answer, "Signature expired"):
		return Expired
	case strings.Contains(answer, "SignatureDoesNotMatch"), strings.Contains(answer, "InvalidClientTokenId"):
		return BadSignature
	}
	return UnknownSigner
}

// role returns the role's name and the session of an assumed role, read
// strictly: arn:PARTITION:sts::ACCOUNT:assumed-role/ROLE/SESSION.
func (p awsPrincipal) role() (partition, role, session string, ok bool) {
	a, ok := parseARN(p.ARN)
	if !ok || a.service != "sts" || a.region != "" || !isAccount(a.account) || a.account != p.Account {
		return "", "", "", false
	}
	parts := strings.Split(a.resource, "/")
	if len(parts) != 3 || parts[0] != "assumed-role" || parts[1] == "" || parts[2] == "" || strings.Contains(a.resource, ":") {
		return "", "", "", false
	}
	return a.partition, parts[1], parts[2], true
}

// is reports whether the principal is the rule's. STS does not tell the path
// of a role, and need not: an account has no two roles of one name.
func (p awsPrincipal) is(r *AWS) bool {
	partition, role, _, ok := p.role()
	rule, ok2 := parseARN(r.Role)
	if !ok || !ok2 || rule.account != p.Account || rule.partition != partition {
		return false
	}
	name := rule.resource[strings.LastIndexByte(rule.resource, '/')+1:]
	return matchSegment(name, role)
}

// ownClaims are what a token of ours says.
type ownClaims struct {
	Caller  string `json:"c"`
	Expires int64  `json:"e"`
	Account string `json:"a"`
	ARN     string `json:"r"`
}

// ownToken makes a token: its prefix, its claims and an HMAC of both.
func (b *Book) ownToken(e *entry, who awsPrincipal, now time.Time) Exchanged {
	at, _ := b.registry.clock.judge(now)
	raw, err := stdjson.Marshal(ownClaims{e.name, at.Add(ownTokenLife).Unix(), who.Account, who.ARN})
	if err != nil { // texts and numbers always marshal
		panic(err)
	}
	body := ownPrefix + base64.RawURLEncoding.EncodeToString(raw)
	return Exchanged{body + "." + base64.RawURLEncoding.EncodeToString(mac(b.tokenKey, body)), ownTokenLife, ownIdentity(e, who)}
}

func ownIdentity(e *entry, who awsPrincipal) *Identity {
	_, role, session, _ := who.role()
	return newIdentity(e, AWSIdentity, Attribute{"Aws-Account", who.Account}, Attribute{"Aws-Role", role}, Attribute{"Aws-Session", session})
}

// own judges a token of ours.
func (b *Book) own(r *Request, text string, hash *[sha256.Size]byte) Result {
	res, ok := b.cache.find(hash, r.Now)
	if ok {
		return res
	}
	res, until := b.verifyOwn(r, text)
	b.cache.add(hash, res, until, b.registry.keysVersion.Load(), r.Now)
	return res
}

func (b *Book) verifyOwn(r *Request, text string) (Result, time.Time) {
	briefly := r.Now.Add(keepRefused)
	dot := strings.LastIndexByte(text, '.')
	if len(b.sts) == 0 || dot <= len(ownPrefix) {
		return refused(Malformed), briefly
	}
	sum, err := base64.RawURLEncoding.DecodeString(text[dot+1:])
	if err != nil || subtle.ConstantTimeCompare(sum, mac(b.tokenKey, text[:dot])) != 1 {
		return refused(BadSignature), briefly
	}
	var c ownClaims
	if !decodePart(text[len(ownPrefix):dot], &c) {
		return refused(Malformed), briefly
	}
	at, _ := b.registry.clock.judge(r.Now)
	left := time.Unix(c.Expires, 0).Sub(at)
	if left <= 0 {
		return refused(Expired), briefly
	}
	who := awsPrincipal{c.Account, c.ARN}
	e := b.byName[c.Caller]
	if e == nil || e.rule.AWS == nil || !who.is(e.rule.AWS) {
		return refused(NotListed), briefly
	}
	return found(ownIdentity(e, who)), r.Now.Add(left)
}

// ownTokenKey is the key of our own tokens. It survives a restart, so that
// callers do too.
func (r *Registry) ownTokenKey() ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tokenKey != nil {
		return r.tokenKey, nil
	}
	path := filepath.Join(r.dir, tokenKeyName)
	key, err := readBounded(path)
	switch {
	case err == nil && len(key) == sha256.Size:
		r.tokenKey = key
		return key, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("callers: %w", err)
	}
	key = make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails, see crypto/rand
	if err := durable.WriteFile(path, key, 0o600); err != nil {
		return nil, fmt.Errorf("callers: %w", err)
	}
	r.tokenKey = key
	return key, nil
}
