package caller

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

// TokenRule says which tokens (JWT, RFC 7519) of an issuer prove a caller.
type TokenRule struct {
	// Issuer is the iss claim, exactly. Required.
	Issuer string
	// Audience is the aud claim: that one and no other. "": it is not looked
	// at, as the tokens have none; then Claims must say for whom they are.
	Audience string
	// KeysURL is where the issuer's keys are; "": its discovery document
	// tells.
	KeysURL string
	// Roots is the PEM of the roots trusted for the issuer's own server; "":
	// the system's.
	Roots string
	// Claims are the claims a token must have: names, with dots where one is
	// inside another, and patterns of their values (see matchPattern).
	Claims map[string]string
}

// The algorithms that are taken. None of them has a secret, so that a public
// key can never be used as one, and none is no signature.
var (
	awsAlgorithms   = []jose.SignatureAlgorithm{jose.RS256, jose.ES384}                                     // read only
	tokenAlgorithms = []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256, jose.ES384, jose.EdDSA} // read only
)

// issuer is one issuer of a Book, with the callers that prove themselves by
// its tokens.
type issuer struct {
	keys       *keySet
	algorithms []jose.SignatureAlgorithm
	aws        []*entry
	plain      []*entry
}

// claims are those that every token is judged by. Times are pointers, as an
// expiry of 0 is not one that is missing.
type claims struct {
	Issuer    string   `json:"iss"`
	Subject   string   `json:"sub"`
	Audience  audience `json:"aud"`
	Expires   *float64 `json:"exp"`
	IssuedAt  *float64 `json:"iat"`
	NotBefore *float64 `json:"nbf"`
	ID        string   `json:"jti"`
}

// audience is the aud claim: one text, or a list (RFC 7519 section 4.1.3).
type audience struct {
	one  string
	list []string // nil when it was one text
}

// UnmarshalJSON takes a text or a list of texts.
func (a *audience) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		a.list = []string{}
		return json.Unmarshal(b, &a.list)
	}
	return json.Unmarshal(b, &a.one)
}

// is reports whether the audience is want and nobody else. A token for several
// could be used here by any of the others that got it. listed allows a list of
// one, which some issuers always write.
func (a *audience) is(want string, listed bool) bool {
	if a.list == nil {
		return a.one == want && want != ""
	}
	return listed && len(a.list) == 1 && a.list[0] == want
}

// token judges a JWT. hash is that of its text.
func (b *Book) token(r *Request, text string, hash *[32]byte) Result {
	res, ok := b.cache.find(hash, r.Now)
	if !ok {
		var until time.Time
		version := b.registry.keysVersion.Load()
		res, until = b.verify(r, text)
		b.cache.add(hash, res, until, version, r.Now)
	}
	if res.Identity != nil && res.Identity.bound != nil {
		return b.prove(r, res)
	}
	return res
}

// verify is token without the cache. It returns until when the result may be
// kept; zero: not at all.
func (b *Book) verify(r *Request, text string) (Result, time.Time) {
	briefly := r.Now.Add(keepRefused)
	iss, header, ok := peek(text)
	if !ok {
		return refused(Malformed), briefly
	}
	from := b.issuers[iss]
	if from == nil {
		return refused(UnknownIssuer), briefly
	}
	if !slices.Contains(from.algorithms, jose.SignatureAlgorithm(header.Algorithm)) {
		return refused(BadAlgorithm), briefly
	}
	sig, err := jose.ParseSignedCompact(text, from.algorithms)
	if err != nil {
		return refused(Malformed), briefly
	}
	payload, failure := from.keys.verify(sig, header, r.Now)
	switch failure {
	case NoCredentials:
	case KeysUnavailable:
		return refused(failure), time.Time{}
	default:
		return refused(failure), briefly
	}
	var c claims
	var all map[string]any
	if json.Unmarshal(payload, &c) != nil || json.Unmarshal(payload, &all) != nil || c.Issuer != iss {
		return refused(Malformed), briefly
	}
	until, failure := b.registry.clock.span(&c, r.Now)
	if failure != NoCredentials {
		return refused(failure), briefly
	}
	res := from.judge(&c, all)
	if res.Identity == nil {
		until = briefly
	}
	return res, until
}

// joseHeader is what a token says of its own signature.
type joseHeader struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
}

// peek reads the issuer and the header of a token before anything of it is
// believed, to find the keys it must be verified with.
func peek(text string) (iss string, h joseHeader, ok bool) {
	head, rest, ok1 := strings.Cut(text, ".")
	body, sig, ok2 := strings.Cut(rest, ".")
	if !ok1 || !ok2 || sig != "" && strings.Contains(sig, ".") {
		return "", h, false
	}
	var c struct {
		Issuer string `json:"iss"`
	}
	if !decodePart(head, &h) || !decodePart(body, &c) {
		return "", h, false
	}
	return c.Issuer, h, true
}

func decodePart(part string, into any) bool {
	raw, err := base64.RawURLEncoding.DecodeString(part)
	return err == nil && json.Unmarshal(raw, into) == nil
}

// verify finds the key of a signature and verifies it. NoCredentials means
// that it holds. A key that is not known, and a signature that does not fit
// the one that is, may both mean that the issuer changed its keys: kids are
// names of places, and a rotation may keep them.
func (s *keySet) verify(sig *jose.JSONWebSignature, h joseHeader, now time.Time) ([]byte, Failure) {
	payload, failure := verifyWith(s.current(now), sig, h)
	if failure == NoCredentials || failure == BadAlgorithm {
		return payload, failure
	}
	if !s.refresh() {
		switch {
		case s.current(now) == nil:
			return nil, KeysUnavailable
		case failure == BadSignature && s.broken():
			return nil, UnknownSigner // nobody can tell whether it is forged
		}
		return verifyWith(s.current(now), sig, h) // somebody else's fetch may have ended meanwhile
	}
	return verifyWith(s.current(now), sig, h)
}

// broken reports whether the last fetch came to nothing.
func (s *keySet) broken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil
}

// verifyWith verifies with the key of a list that has the signature's name.
func verifyWith(list []jose.JSONWebKey, sig *jose.JSONWebSignature, h joseHeader) ([]byte, Failure) {
	failure := UnknownSigner
	for i := range list {
		k := &list[i]
		if k.KeyID != h.KeyID && (h.KeyID != "" || len(list) > 1) {
			continue
		}
		if !fits(k, h.Algorithm) {
			failure = BadAlgorithm
			continue
		}
		if payload, err := sig.Verify(k.Key); err == nil {
			return payload, NoCredentials
		}
		return nil, BadSignature
	}
	return nil, failure
}

// fits reports whether a key is of the type and size of an algorithm, and not
// meant for another one (RFC 7518 section 3.1, RFC 8725 section 3.1).
func fits(k *jose.JSONWebKey, algorithm string) bool {
	if k.Algorithm != "" && k.Algorithm != algorithm {
		return false
	}
	switch pub := k.Key.(type) {
	case *rsa.PublicKey:
		return algorithm == string(jose.RS256) || algorithm == string(jose.PS256)
	case *ecdsa.PublicKey:
		return algorithm == string(jose.ES256) && pub.Curve == elliptic.P256() ||
			algorithm == string(jose.ES384) && pub.Curve == elliptic.P384()
	case ed25519.PublicKey:
		return algorithm == string(jose.EdDSA)
	}
	return false
}

// maxTokenLife is the longest life of a token that is believed.
const maxTokenLife = 25 * time.Hour

// span judges the times of a token, and returns until when it is good.
func (c *clock) span(t *claims, now time.Time) (until time.Time, f Failure) {
	expires, ok := unixTime(t.Expires)
	if !ok {
		return until, Malformed
	}
	issued, ok := unixTime(t.IssuedAt)
	if !ok || expires.Sub(issued) > maxTokenLife {
		return until, Malformed
	}
	begins := issued
	if t.NotBefore != nil {
		nbf, ok := unixTime(t.NotBefore)
		if !ok {
			return until, Malformed
		}
		if nbf.After(begins) {
			begins = nbf
		}
	}
	c.learn(issued, now)
	at, exact := c.judge(now)
	switch {
	case at.After(expires.Add(leeway)):
		return until, Expired
	case exact && begins.After(at.Add(leeway)):
		return until, NotYet
	}
	return now.Add(expires.Add(leeway).Sub(at)), NoCredentials
}

// unixTime reads a NumericDate (RFC 7519 section 2).
func unixTime(v *float64) (time.Time, bool) {
	if v == nil || math.IsNaN(*v) || *v < 0 || *v > 1<<40 {
		return time.Time{}, false
	}
	return time.Unix(int64(*v), 0), true
}

// judge finds the caller that a token of the issuer is of.
func (i *issuer) judge(c *claims, all map[string]any) Result {
	failure := WrongAudience
	for _, e := range i.aws {
		rule := e.rule.AWS
		if !c.Audience.is(rule.Audience, false) {
			continue
		}
		res := rule.judge(e, c, all)
		if res.Identity != nil {
			return res
		}
		failure = res.Failure
	}
	for _, e := range i.plain {
		rule := e.rule.Token
		if rule.Audience != "" && !c.Audience.is(rule.Audience, true) {
			continue
		}
		if rule.matches(all) {
			id := newIdentity(e, Token, Attribute{"Subject", c.Subject})
			cnf, _ := all["cnf"].(map[string]any) // RFC 7800 section 3.1
			id.bound = newBinding(cnf, "jkt", "x5t#S256")
			return found(id)
		}
		failure = NotListed
	}
	return refused(failure)
}

// matches reports whether a token has all the claims.
func (t *TokenRule) matches(all map[string]any) bool {
	for name, pattern := range t.Claims {
		if !claimMatches(all, name, pattern) {
			return false
		}
	}
	return true
}

// claimMatches reports whether the claim with the name, or one of a list,
// matches the pattern.
func claimMatches(all map[string]any, name, pattern string) bool {
	v, ok := all[name]
	for !ok {
		outer, inner, nested := strings.Cut(name, ".")
		group, isGroup := all[outer].(map[string]any)
		if !nested || !isGroup {
			return false
		}
		all, name = group, inner
		v, ok = all[name]
	}
	switch v := v.(type) {
	case []any:
		return slices.ContainsFunc(v, func(one any) bool { return valueMatches(one, pattern) })
	default:
		return valueMatches(v, pattern)
	}
}

func valueMatches(v any, pattern string) bool {
	switch v := v.(type) {
	case string:
		return matchPattern(pattern, v)
	case bool:
		return pattern == fmt.Sprint(v)
	case float64:
		return v == math.Trunc(v) && math.Abs(v) < 1<<53 && pattern == fmt.Sprintf("%.0f", v)
	}
	return false
}

// addIssuer adds a caller to the issuer of its tokens.
func (b *Book) addIssuer(e *entry, src source, algorithms []jose.SignatureAlgorithm) (*issuer, error) {
	i := b.issuers[src.issuer]
	if i == nil {
		keys, err := b.registry.keySetOf(src)
		if err != nil {
			return nil, fmt.Errorf("caller %s: %w", e.name, err)
		}
		i = &issuer{keys: keys, algorithms: algorithms}
		b.issuers[src.issuer] = i
		return i, nil
	}
	if i.keys.source != src || len(i.algorithms) != len(algorithms) {
		return nil, fmt.Errorf("caller %s: %w", e.name, errors.New("its issuer "+src.issuer+" has other settings at another caller; write the same for both"))
	}
	return i, nil
}

// keySets are those of the Book's issuers.
func (b *Book) keySets() []*keySet {
	var out []*keySet
	for _, i := range slices.Sorted(maps.Keys(b.issuers)) {
		out = append(out, b.issuers[i].keys)
	}
	return out
}
