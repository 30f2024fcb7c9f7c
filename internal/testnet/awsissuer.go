package testnet

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"time"
)

// issuerKeys are the two keys of an account's issuer, as AWS has them.
type issuerKeys struct {
	rsaKid, ecKid string
	rsa           *rsa.PrivateKey
	ec            *ecdsa.PrivateKey
}

// AWSClaim is the claim that holds AWS's own claims.
const AWSClaim = "https://sts.amazonaws.com/"

func (a *AWS) newIssuerKeys(rsaKid, ecKid string) {
	k := issuerKeys{rsaKid: rsaKid, ecKid: ecKid}
	var err error
	if k.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		panic(err) // crypto/rand never fails
	}
	if k.ec, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader); err != nil {
		panic(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.issuer = k
}

// RotateKeys replaces both keys of the issuer. With the same names (sameKids),
// a verifier learns of it only by a signature that does not fit.
func (a *AWS) RotateKeys(sameKids bool) {
	a.mu.Lock()
	r, e := a.issuer.rsaKid, a.issuer.ecKid
	a.mu.Unlock()
	if !sameKids {
		var n int
		if _, err := fmt.Sscanf(r, "RSA_%d", &n); err != nil {
			panic(err) // we made the name
		}
		r, e = fmt.Sprintf("RSA_%d", n+1), fmt.Sprintf("EC384_%d", n+1)
	}
	a.newIssuerKeys(r, e)
}

// Keys are the issuer's signing keys, for tests that forge with them.
func (a *AWS) Keys() (*rsa.PrivateKey, *ecdsa.PrivateKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.issuer.rsa, a.issuer.ec
}

// Claims are those of a token for one audience, for the function AWSFunction
// with the role AWSRole, valid from now for five minutes.
func (a *AWS) Claims(audience string) map[string]any {
	now := a.now()
	return map[string]any{
		"iss": a.Issuer, "aud": audience, "sub": AWSRole,
		"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(), "jti": rand.Text(),
		AWSClaim: map[string]any{
			"aws_account": AWSAccount, "source_region": AWSRegion,
			"original_session_exp":       now.Add(time.Hour).UTC().Format(time.RFC3339),
			"lambda_source_function_arn": AWSFunction,
		},
	}
}

// Token signs claims with RS256, as the issuer does by default. What claims
// lacks is that of Claims for the audience "https://home.example"; nil takes a
// claim out.
func (a *AWS) Token(claims map[string]any) string { return a.TokenAlg("RS256", claims) }

// TokenAlg is Token for RS256 or ES384.
func (a *AWS) TokenAlg(alg string, claims map[string]any) string {
	all := a.Claims("https://home.example")
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	a.mu.Lock()
	k := a.issuer
	a.mu.Unlock()
	kid := k.rsaKid
	if alg == "ES384" {
		kid = k.ecKid
	}
	return SignJWT(alg, map[string]any{"alg": alg, "kid": kid, "typ": "JWT"}, all, k.rsa, k.ec)
}

// SignJWT signs any claims under any header (RFC 7515 section 3.1) with one of
// the keys: RS256 or ES384 (RFC 7518 section 3).
func SignJWT(alg string, header, claims map[string]any, r *rsa.PrivateKey, e *ecdsa.PrivateKey) string {
	part := func(v map[string]any) string {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err) // a test gave a value JSON does not know
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(header) + "." + part(claims)
	var sig []byte
	switch alg {
	case "RS256":
		sum := sha256.Sum256([]byte(text))
		var err error
		if sig, err = rsa.SignPKCS1v15(nil, r, crypto.SHA256, sum[:]); err != nil {
			panic(err)
		}
	case "ES384":
		sum := sha512.Sum384([]byte(text))
		x, y, err := ecdsa.Sign(rand.Reader, e, sum[:])
		if err != nil {
			panic(err)
		}
		sig = append(x.FillBytes(make([]byte, 48)), y.FillBytes(make([]byte, 48))...)
	default:
		panic("alg " + alg)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// issue serves the issuer: OIDC discovery and keys, in the shapes AWS has; the
// RSA key has no alg.
func (a *AWS) issue(w http.ResponseWriter, r *http.Request) {
	a.count("issuer")
	defer a.tell()
	switch a.fault("issuer") {
	case AWSHangs:
		a.hang(r)
		return
	case AWSBroken:
		http.Error(w, "Internal Server Error", http.StatusInternalServerError)
		return
	case AWSThrottled:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "Slow down", http.StatusTooManyRequests)
		return
	case AWSWrongShape:
		_, _ = io.WriteString(w, "<html><body>Welcome to your new router</body></html>")
		return
	}
	a.mu.Lock()
	k := a.issuer
	a.mu.Unlock()
	var doc any
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		doc = map[string]any{
			"issuer": a.Issuer, "jwks_uri": a.Issuer + "/.well-known/jwks.json",
			"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"},
			"id_token_signing_alg_values_supported": []string{"RS256", "ES384"},
			"claims_supported":                      []string{"aud", "exp", "iat", "iss", "jti", "sub", AWSClaim},
		}
	case "/.well-known/jwks.json":
		doc = map[string]any{"keys": a.jwks(k)}
	default:
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(doc) // the asker may be gone
}

func (a *AWS) jwks(k issuerKeys) []map[string]any {
	b64 := base64.RawURLEncoding.EncodeToString
	if a.fault("issuer") == AWSWrongValue { // keys nobody signs with
		other, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		k.rsa = other
	}
	point, err := k.ec.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	return []map[string]any{
		{"kty": "RSA", "kid": k.rsaKid, "use": "sig", "n": b64(k.rsa.N.Bytes()), "e": b64(big.NewInt(int64(k.rsa.E)).Bytes())},
		{"kty": "EC", "kid": k.ecKid, "use": "sig", "alg": "ES384", "crv": "P-384", "x": b64(point[1:49]), "y": b64(point[49:])},
	}
}
