package testnet

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// awsAsk is one signed request, made with AWS's own signer.
type awsAsk struct {
	method, path, body      string
	header                  map[string]string
	key                     AWSKey
	service, region, target string
	at                      time.Time
	after                   func(*http.Request) // what happens on the way
}

func (k awsAsk) do(t *testing.T, a *AWS) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), k.method, a.URL+k.path, strings.NewReader(k.body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range k.header {
		r.Header.Set(name, value)
	}
	if k.target != "" {
		r.Header.Set("X-Amz-Target", k.target)
		r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	}
	sum := sha256.Sum256([]byte(k.body))
	hash := hex.EncodeToString(sum[:])
	if k.service == "s3" {
		r.Header.Set("X-Amz-Content-Sha256", hash)
	}
	if k.region == "" {
		k.region = AWSRegion
	}
	if k.at.IsZero() {
		k.at = time.Now()
	}
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = k.service == "s3" })
	if err := signer.SignHTTP(t.Context(), aws.Credentials{AccessKeyID: k.key.ID, SecretAccessKey: k.key.Secret, SessionToken: k.key.Session}, r, hash, k.service, k.region, k.at); err != nil {
		t.Fatal(err)
	}
	if k.after != nil {
		k.after(r)
	}
	resp, err := a.Client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

const put = `{"Name":"/postern/endpoint","Value":"v","Type":"String","Overwrite":true}`

// What AWS's own signer makes is accepted; what was changed on the way, or
// signed wrongly, is not.
func TestAWSSignature(t *testing.T) {
	a := NewAWS(t)
	ssm := func(change func(*awsAsk)) awsAsk {
		k := awsAsk{method: "POST", path: "/", body: put, key: a.Publisher, service: "ssm", target: "AmazonSSM.PutParameter"}
		if change != nil {
			change(&k)
		}
		return k
	}
	for _, tt := range []struct {
		name   string
		ask    awsAsk
		status int
		want   string
	}{
		{"ssm", ssm(nil), 200, `"Version":1`},
		{"temporary key", ssm(func(k *awsAsk) { k.key = a.Lambda }), 200, `"Version":1`},
		{"s3 with odd characters", awsAsk{method: "PUT", path: "/b/a%20b+c=d%2Fe/%C3%A9", body: "x", key: a.Publisher, service: "s3"}, 200, ""},
		{"query", awsAsk{method: "GET", path: "/?Version=2011-06-15&Action=GetCallerIdentity&b=2&a=%2F+x", key: a.Lambda, service: "sts"}, 200, "assumed-role/orders/orders"},
		{"four minutes late", ssm(func(k *awsAsk) { k.at = time.Now().Add(-4 * time.Minute) }), 200, ""},
		{"six minutes late", ssm(func(k *awsAsk) { k.at = time.Now().Add(-6 * time.Minute) }), 403, "too far from"},
		{"six minutes early", ssm(func(k *awsAsk) { k.at = time.Now().Add(6 * time.Minute) }), 403, "too far from"},
		{"other region", ssm(func(k *awsAsk) { k.region = "eu-west-1" }), 403, "valid region"},
		{"other service", ssm(func(k *awsAsk) { k.service = "execute-api" }), 403, "correct service"},
		{"unknown key", ssm(func(k *awsAsk) { k.key.ID = "AKIAUNKNOWN" }), 403, "UnrecognizedClient"},
		{"wrong secret", ssm(func(k *awsAsk) { k.key.Secret += "x" }), 403, "does not match"},
		{"session token missing", ssm(func(k *awsAsk) { k.key = a.Lambda; k.key.Session = "" }), 403, "UnrecognizedClient"},
		{"body changed", ssm(func(k *awsAsk) {
			k.after = func(r *http.Request) {
				r.Body, r.ContentLength = io.NopCloser(strings.NewReader(put[:len(put)-2]+" }")), int64(len(put))
			}
		}), 403, "does not match"},
		{"path changed", ssm(func(k *awsAsk) { k.after = func(r *http.Request) { r.URL.Path = "/x" } }), 403, "does not match"},
		{"header added", ssm(func(k *awsAsk) { k.after = func(r *http.Request) { r.Header.Set("X-Amz-Meta", "x") } }), 403, "must be a signed header"},
		{"content type changed", ssm(func(k *awsAsk) { k.after = func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") } }), 403, "does not match"},
		{"no signature", ssm(func(k *awsAsk) { k.after = func(r *http.Request) { r.Header.Del("Authorization") } }), 403, "MissingAuthenticationToken"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, body := tt.ask.do(t, a)
			if status != tt.status || !strings.Contains(body, tt.want) {
				t.Errorf("%d %s, want %d with %q", status, body, tt.status, tt.want)
			}
		})
	}
	if got := a.Object("b", "a b+c=d/e/é"); string(got) != "x" {
		t.Errorf("object is %q", got)
	}
}

func TestAWSPresigned(t *testing.T) {
	a := NewAWS(t)
	presign := func(at time.Time) (string, http.Header) {
		r, err := http.NewRequestWithContext(t.Context(), "GET", a.URL+"/?Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Expires=60", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Postern-Aud", "home.example")
		sum := sha256.Sum256(nil)
		link, header, err := v4.NewSigner().PresignHTTP(t.Context(), aws.Credentials{AccessKeyID: a.Lambda.ID, SecretAccessKey: a.Lambda.Secret, SessionToken: a.Lambda.Session},
			r, hex.EncodeToString(sum[:]), "sts", AWSRegion, at)
		if err != nil {
			t.Fatal(err)
		}
		return link, header
	}
	get := func(link string, aud string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), "GET", link, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", "application/json")
		if aud != "" {
			r.Header.Set("X-Postern-Aud", aud)
		}
		resp, err := a.Client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	link, header := presign(time.Now().Add(-2 * time.Minute)) // STS takes it for 15 minutes whatever Expires says
	if header.Get("X-Postern-Aud") != "home.example" {
		t.Fatalf("signed headers are %v", header)
	}
	if status, body := get(link, "home.example"); status != 200 || !strings.Contains(body, `"Arn":"`+a.Lambda.ARN+`"`) {
		t.Errorf("%d %s", status, body)
	}
	for _, aud := range []string{"", "other.example"} {
		if status, body := get(link, aud); status != 403 {
			t.Errorf("audience %q: %d %s", aud, status, body)
		}
	}
	old, _ := presign(time.Now().Add(-16 * time.Minute))
	if status, body := get(old, "home.example"); status != 403 {
		t.Errorf("16 minutes old: %d %s", status, body)
	}
}

func TestAWSToken(t *testing.T) {
	a := NewAWS(t)
	form := url.Values{"Action": {"GetWebIdentityToken"}, "Version": {"2011-06-15"}, "Audience.member.1": {"https://home.example"},
		"SigningAlgorithm": {"RS256"}, "DurationSeconds": {"900"}, "Tags.member.1.Key": {"cnf"}, "Tags.member.1.Value": {"x"}}
	sts := awsAsk{method: "POST", path: "/", body: form.Encode(), key: a.Lambda, service: "sts", header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}}
	status, body := sts.do(t, a)
	if status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	_, token, _ := strings.Cut(body, "<WebIdentityToken>")
	token, _, _ = strings.Cut(token, "<")
	if !verifiesRS256(t, a, token) {
		t.Error("the token does not verify with the issuer's keys")
	}
	claims, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"aud":"https://home.example"`, `"iss":"` + a.Issuer + `"`, `"request_tags":{"cnf":"x"}`, `"lambda_source_function_arn":"` + AWSFunction + `"`} {
		if !bytes.Contains(claims, []byte(want)) {
			t.Errorf("no %s in %s", want, claims)
		}
	}
	for key, value := range map[string]string{"SigningAlgorithm": "HS256", "DurationSeconds": "30", "Version": "1"} {
		bad := url.Values{}
		for k, v := range form {
			bad[k] = v
		}
		bad.Set(key, value)
		sts.body = bad.Encode()
		if status, body := sts.do(t, a); status != 400 {
			t.Errorf("%s %s: %d %s", key, value, status, body)
		}
	}
	for _, same := range []bool{true, false} {
		a.RotateKeys(same)
		if verifiesRS256(t, a, token) {
			t.Errorf("an old token verifies after a rotation (same kids %v)", same)
		}
		if !verifiesRS256(t, a, a.Token(nil)) {
			t.Errorf("a new token does not verify after a rotation (same kids %v)", same)
		}
	}
	if es := a.TokenAlg("ES384", map[string]any{"sub": nil}); len(es) < 200 {
		t.Error(es)
	}
}

// verifiesRS256 checks a token with the key of its kid, found by discovery.
func verifiesRS256(t *testing.T, a *AWS, token string) bool {
	t.Helper()
	load := func(link string, into any) {
		resp, err := a.Client.Get(link)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
			t.Fatal(err)
		}
	}
	var found struct {
		JWKS string `json:"jwks_uri"`
	}
	load(a.Issuer+"/.well-known/openid-configuration", &found)
	var set struct {
		Keys []struct{ Kty, Kid, N, E string }
	}
	load(found.JWKS, &set)
	p := strings.Split(token, ".")
	dec := func(s string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, k := range set.Keys {
		if k.Kty != "RSA" || !bytes.Contains(dec(p[0]), []byte(`"kid":"`+k.Kid+`"`)) {
			continue
		}
		pub := &rsa.PublicKey{N: new(big.Int).SetBytes(dec(k.N)), E: int(new(big.Int).SetBytes(dec(k.E)).Int64())}
		sum := sha256.Sum256([]byte(p[0] + "." + p[1]))
		return rsa.VerifyPKCS1v15(pub, crypto.SHA256, sum[:], dec(p[2])) == nil
	}
	return false
}

func TestAWSPolicy(t *testing.T) {
	a := NewAWS(t)
	a.Limit(t, a.Publisher, `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"ssm:PutParameter",
		"Resource":"arn:aws:ssm:ap-northeast-2:123456789012:parameter/postern/endpoint"}]}`)
	k := awsAsk{method: "POST", path: "/", body: put, key: a.Publisher, service: "ssm", target: "AmazonSSM.PutParameter"}
	if status, body := k.do(t, a); status != 200 {
		t.Errorf("%d %s", status, body)
	}
	k.target = "AmazonSSM.GetParameter"
	if status, body := k.do(t, a); status != 403 || !strings.Contains(body, "AccessDenied") {
		t.Errorf("an action beyond the policy: %d %s", status, body)
	}
	k.target, k.body = "AmazonSSM.PutParameter", strings.Replace(put, "endpoint", "other", 1)
	if status, body := k.do(t, a); status != 403 {
		t.Errorf("a resource beyond the policy: %d %s", status, body)
	}
	if a.Calls("ssm:PutParameter") != 1 || a.Calls("refused") != 2 {
		t.Errorf("calls %d, refused %q", a.Calls("ssm:PutParameter"), a.Refused())
	}
	for f, want := range map[AWSFault]int{AWSBroken: 500, AWSThrottled: 400, AWSSkewed: 403, AWSDenied: 403, AWSWorks: 200} {
		a.SetFault("ssm", f)
		k.body = put
		if status, body := k.do(t, a); status != want {
			t.Errorf("fault %q: %d %s", f, status, body)
		}
	}
}
