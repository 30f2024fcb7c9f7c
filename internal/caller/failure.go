package caller

// A Failure is why a request has no identity. The set is closed; String is the
// metric label.
type Failure uint8

// The failures.
const (
	NoCredentials   Failure = iota // there are none that are meant for us
	Malformed                      // they cannot be read
	TooLarge                       // they are longer than any that is right
	UnknownKey                     // an API key or key id that nobody has
	ExpiredKey                     // an API key that has ended or was taken back
	UnknownIssuer                  // a token of an issuer that is not configured
	UnknownSigner                  // a token signed with a key that the issuer does not show
	BadAlgorithm                   // a token with an algorithm that is not allowed, or not for that key
	BadSignature                   // the signature is wrong
	Expired                        // the proof has ended
	NotYet                         // the proof begins in the future
	WrongAudience                  // the proof is for somebody else
	NotListed                      // the proof is right, but of nobody who is configured
	Replayed                       // the proof was used before
	Incomplete                     // the signature does not cover what it must
	BodyChanged                    // the body is not the one that was signed
	BodyTooLarge                   // the body is too large to be checked
	NotBound                       // the token belongs to a key that the request does not prove to have
	BadCertificate                 // the client certificate is of no authority of ours, or not for clients
	ExpiredCert                    // the client certificate has ended, or not begun
	RevokedCert                    // the client certificate was taken back
	KeysUnavailable                // the issuer's keys are not known yet
	Busy                           // too much to verify at once

	numFailures = int(Busy) + 1
)

// failureText is how one failure is told: to the log, and to the client.
type failureText struct {
	label  string
	forged bool   // nobody honest sends such a thing: the guard learns of it
	tell   bool   // the detail helps no attacker, as the proof was authentic
	detail string // for the client, when told
}

var failureTexts = [numFailures]failureText{ // read only
	NoCredentials:   {label: "no_credentials", tell: true, detail: "This address is for known callers. Send credentials."},
	Malformed:       {label: "malformed", tell: true, detail: "The credentials cannot be read."},
	TooLarge:        {label: "too_large", tell: true, detail: "The credentials are longer than any that are issued."},
	UnknownKey:      {label: "unknown_key", forged: true},
	ExpiredKey:      {label: "expired_key", tell: true, detail: "The key has expired or was taken back. `proxy caller rotate` makes another."},
	UnknownIssuer:   {label: "unknown_issuer"},
	UnknownSigner:   {label: "unknown_signer"},
	BadAlgorithm:    {label: "bad_algorithm", forged: true},
	BadSignature:    {label: "bad_signature", forged: true},
	Expired:         {label: "expired", tell: true, detail: "The proof is authentic but has expired. Get a new one; is the clock right?"},
	NotYet:          {label: "not_yet", tell: true, detail: "The proof is authentic but begins in the future. Is the clock right?"},
	WrongAudience:   {label: "wrong_audience", tell: true, detail: "The token is authentic but was issued for another audience."},
	NotListed:       {label: "not_listed", tell: true, detail: "The proof is authentic, but this identity is no caller here."},
	Replayed:        {label: "replayed", tell: true, detail: "This proof was used before. Sign every attempt anew."},
	Incomplete:      {label: "incomplete", tell: true, detail: "The signature does not cover all that it must: the host, the time and the body."},
	BodyChanged:     {label: "body_changed", forged: true},
	BodyTooLarge:    {label: "body_too_large", tell: true, detail: "The body is larger than a signed body may be here."},
	NotBound:        {label: "not_bound", tell: true, detail: "The token is bound to a key, and the request does not prove to have it."},
	BadCertificate:  {label: "bad_certificate"},
	ExpiredCert:     {label: "expired_certificate", tell: true, detail: "The client certificate has expired. `proxy caller add --mtls` makes another."},
	RevokedCert:     {label: "revoked_certificate", tell: true, detail: "The client certificate was taken back."},
	KeysUnavailable: {label: "keys_unavailable", tell: true, detail: "The keys of the token's issuer are not known yet. Retry shortly."},
	Busy:            {label: "busy", tell: true, detail: "Too many unknown proofs at once. Retry shortly."},
}

// String returns the failure's label.
func (f Failure) String() string {
	if int(f) < numFailures {
		return failureTexts[f].label
	}
	return "unknown"
}

// Forged reports whether nobody honest sends such a thing. What has ended, or
// is somebody else's, is not.
func (f Failure) Forged() bool { return int(f) < numFailures && failureTexts[f].forged }

// Temporary reports whether the same credentials may be good in a moment.
func (f Failure) Temporary() bool { return f == KeysUnavailable || f == Busy }

// Told returns what the client is told: a word for programs and a sentence for
// people. Why a proof failed is told only when that helps no attacker.
func (f Failure) Told() (reason, detail string) {
	if int(f) >= numFailures || !failureTexts[f].tell {
		return "invalid_credentials", "The credentials are not valid."
	}
	return failureTexts[f].label, failureTexts[f].detail
}
