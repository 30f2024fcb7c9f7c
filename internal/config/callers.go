package config

import (
	"strings"
	"time"
)

// Callers are the known callers, by their names. The name is what backends,
// the log and the metrics call them: lower-case letters, digits, "-" and "_".
type Callers map[string]*Caller

// Caller says how one caller proves who it is. It may do so in any of the ways
// that are written here, and with keys made by `proxy caller add NAME`, which
// need nothing written here: `ci: {}`.
type Caller struct {
	// The hashes of API keys, at most two, so that one can be replaced by the
	// other without a gap: "sha256:" and the hexadecimal SHA-256 of the whole
	// key. The caller sends the key as `Authorization: Bearer KEY` or as
	// `X-Api-Key: KEY`. `proxy caller add` makes keys and keeps their hashes
	// in the data folder. Default: none.
	APIKeyHash []string `yaml:"api_key_hash"`

	// An AWS role, and the Lambda function that has it. No secret is needed:
	// AWS signs who calls. Absent: no AWS identity is this caller.
	AWS *AWSCaller `yaml:"aws"`

	// Requests signed with a key of the caller's own: SigV4-shaped, as every
	// AWS SDK signs, or HTTP Message Signatures (RFC 9421). The format is in
	// docs/callers.md. Absent: none are taken.
	Signature *SignatureCaller `yaml:"signature"`

	// Client certificates. `true` takes those that `proxy caller add NAME
	// --mtls` makes. Clients of the sites that this caller may use are asked
	// for one. Absent: none are taken.
	MTLS *MTLSCaller `yaml:"mtls"`

	// Tokens (JWT) of any other issuer, such as Cognito, GitHub Actions or
	// Cloudflare Access. Absent: none are taken.
	JWT *JWTCaller `yaml:"jwt"`

	// What it may use. Absent: as much as it likes.
	Quota *Quota `yaml:"quota"`

	// How long it waits for the head of an answer, if a request does not say
	// (Prefer: wait=SECONDS, RFC 7240): then it hears 504 instead of nothing.
	// AWS gives a new Lambda function 3 s; raise this with its timeout. 0s:
	// as long as the route waits for its backends. Default 2500ms.
	Wait time.Duration `yaml:"wait"`

	// Whether the backend gets what the caller proved itself with. Otherwise
	// the field that held the key or token is taken out of the request.
	// Default false.
	KeepCredentials bool `yaml:"keep_credentials"`
}

// AWSCaller says which AWS identities are the caller. Its token comes from
// sts:GetWebIdentityToken, as Authorization: Bearer, and is verified here with
// the public keys of the account.
type AWSCaller struct {
	// The account's issuer, https://UUID.tokens.sts.global.api.aws, as `aws
	// iam enable-outbound-web-identity-federation` tells. Default: none, which
	// wants an sts_region.
	Issuer string `yaml:"issuer"`

	// For accounts without an issuer: the region whose STS endpoint presigned
	// GetCallerIdentity requests are taken for. The caller posts one to
	// /.well-known/postern/token, with the audience in the signed header
	// x-postern-aud, and gets a token for 15 minutes. Default: none.
	STSRegion string `yaml:"sts_region"`

	// The URL of the STS endpoint, where it is not that of the region, such
	// as in China. Default: https://sts.REGION.amazonaws.com.
	STSEndpoint string `yaml:"sts_endpoint"`

	// A PEM file with the roots to trust for AWS's own servers. Only tests
	// need it. Absent: the system's roots.
	CA string `yaml:"ca"`

	// The audience the token must be for: this one and no other. Any text,
	// such as the URL of this house, that tells it from others. Required.
	Audience string `yaml:"audience"`

	// The role, as arn:aws:iam::123456789012:role/orders. "*" stands for any
	// characters up to the next "/" or ":", "?" for one; the account is
	// exact. Required.
	Role string `yaml:"role"`

	// The Lambda function, as
	// arn:aws:lambda:REGION:123456789012:function:orders, with "*" and "?" as
	// in role. Absent: whatever has the role.
	Function string `yaml:"function"`

	// Whether only tokens are taken that belong to a key, which each request
	// proves to have: by a tag cnf with the thumbprint of the key that signs
	// the requests, or by a tag x5t.S256 with the hash of the client's
	// certificate. What has such a tag is always held to it. Default false.
	Bound bool `yaml:"bound"`
}

// SignatureCaller is the key by which a caller signs its requests. A signature
// is good for 5 minutes before and after its time, and once.
type SignatureCaller struct {
	// What the caller names the key by. No other caller may have it. Required.
	KeyID string `yaml:"key_id"`

	// The secret for HMAC-SHA256, at least 32 characters; `openssl rand
	// -base64 32` makes one. secret_file reads it from a file. One of secret
	// and public_key is needed. Default: none.
	Secret Secret `yaml:"secret"`

	// The public key for Ed25519, its 32 bytes in base64. It works for HTTP
	// Message Signatures only. Default: none.
	PublicKey string `yaml:"public_key"`

	// Whether requests are taken whose body the signature does not cover.
	// Bodies that it covers are held until they were looked at, and may have
	// up to 1 MiB. Default false.
	UnsignedPayload bool `yaml:"unsigned_payload"`
}

// MTLSCaller says which client certificates are the caller. `mtls: true` takes
// those of the built-in authority, which name the caller themselves.
type MTLSCaller struct {
	// A PEM file with the authorities that sign the certificates. Default:
	// the built-in authority in the data folder.
	CA string `yaml:"ca"`

	// The common name of the certificate, or one of its alternative names (a
	// DNS name, URI or e-mail address), exactly. Needed with ca. Default: the
	// caller's own name, which `proxy caller add --mtls` writes into it.
	Subject string `yaml:"subject"`

	// A file with the revocation list of ca, in PEM or DER, read at the start
	// and at a reload. Absent: no certificate of ca was taken back.
	CRL string `yaml:"crl"`
}

// JWTCaller says which tokens of an issuer are the caller. They come as
// Authorization: Bearer, and are verified here with the issuer's public keys.
type JWTCaller struct {
	// The iss claim, which is the URL of the issuer. Required.
	Issuer string `yaml:"issuer"`

	// The aud claim: this one and no other. It may be left out where claims
	// has client_id, as access tokens of Cognito have that instead. Default:
	// none.
	Audience string `yaml:"audience"`

	// Where the issuer's keys are (a JWK set, RFC 7517). Default: where its
	// /.well-known/openid-configuration says.
	Keys string `yaml:"keys"`

	// A PEM file with the roots to trust for the issuer's server. Absent: the
	// system's roots.
	CA string `yaml:"ca"`

	// The claims a token must have, such as
	// {repository: me/shop, ref: refs/heads/*}; a name with dots is a claim
	// inside another one. "*" stands for any characters up to the next "/" or
	// ":", "?" for one. At least one. Required.
	Claims map[string]string `yaml:"claims"`
}

// CallerNames says who may use a site or route: names of callers, or any for
// everybody.
type CallerNames []string

// AnyCaller is the entry of CallerNames that lets everybody.
const AnyCaller = "any"

// Public reports whether everybody may.
func (c CallerNames) Public() bool {
	return len(c) == 0 || len(c) == 1 && strings.EqualFold(c[0], AnyCaller)
}
