package dnsapi

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// awsKey signs requests with AWS Signature Version 4
// (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html).
type awsKey struct {
	id, secret, session string // session: of temporary credentials, else empty
	region, service     string
	signer              *v4.Signer
}

// sign adds X-Amz-Date, X-Amz-Security-Token and Authorization. Headers set
// before are signed, none may be added after.
func (k awsKey) sign(r *http.Request, body []byte, now time.Time) error {
	sum := sha256.Sum256(body)
	key := aws.Credentials{AccessKeyID: k.id, SecretAccessKey: k.secret, SessionToken: k.session}
	return k.signer.SignHTTP(r.Context(), key, r, hex.EncodeToString(sum[:]), k.service, k.region, now.UTC())
}
