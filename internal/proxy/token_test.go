package proxy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"postern/internal/caller"
	"postern/internal/testnet"
)

// presigned is a GetCallerIdentity request that nobody has sent.
func presigned(t testing.TB, a *testnet.AWS, audience string) string {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, a.URL+"/?Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Expires=60", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(caller.STSAudienceHeader, audience)
	sum := sha256.Sum256(nil)
	c := aws.Credentials{AccessKeyID: a.Lambda.ID, SecretAccessKey: a.Lambda.Secret, SessionToken: a.Lambda.Session}
	link, _, err := v4.NewSigner().PresignHTTP(context.Background(), c, r, hex.EncodeToString(sum[:]), "sts", testnet.AWSRegion, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// TestTokenForPresigned: a presigned request becomes a token, which serves
// until it ends; STS that hangs holds nobody up who has one.
func TestTokenForPresigned(t *testing.T) {
	a := testnet.NewAWS(t)
	r := callerRig(t, options{}, caller.Caller{Name: "reports", AWS: &caller.AWS{
		Audience: "home.example", Roots: string(a.RootPEM), Role: "arn:aws:iam::123456789012:role/orders", STSRegion: testnet.AWSRegion, STSEndpoint: a.URL,
	}})
	for _, h2 := range []bool{false, true} {
		c := r.httpClient(h2)
		post := func(body string) (int, string) {
			t.Helper()
			req, err := http.NewRequest(http.MethodPost, "https://a.test"+tokenPath, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			return statusOf(t, c, req)
		}
		status, body := post(presigned(t, a, "home.example"))
		var got struct {
			Token   string `json:"access_token"`
			Type    string `json:"token_type"`
			Expires int    `json:"expires_in"`
			Caller  string `json:"caller"`
		}
		if status == 401 && strings.Contains(body, "replayed") { // equal requests of one second are signed alike
			continue
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil || status != 200 || got.Type != "Bearer" || got.Expires != 900 || got.Caller != "reports" {
			t.Fatalf("h2 %v: %d %s", h2, status, body)
		}
		a.SetFault("sts", testnet.AWSHangs)
		if res, body := ask(t, c, "https://a.test/all/1", "Authorization", "Bearer "+got.Token); res.StatusCode != 200 || !strings.Contains(body, `"X-Postern-Caller-Method":["aws_sts"]`) {
			t.Errorf("h2 %v: %d %s", h2, res.StatusCode, body)
		}
		a.SetFault("sts", testnet.AWSWorks)
		if status, body := post(presigned(t, a, "other.example")); status != 401 || !strings.Contains(body, "invalid_credentials") {
			t.Errorf("h2 %v, made for another: %d %s", h2, status, body)
		}
		if status, _ := post("https://evil.example/?Action=GetCallerIdentity"); status != 401 {
			t.Errorf("h2 %v, another host: %d", h2, status)
		}
		if status, _ := post(strings.Repeat("x", 9000)); status != 413 {
			t.Errorf("h2 %v, too long: %d", h2, status)
		}
		if res, _ := ask(t, c, "https://a.test"+tokenPath); res.StatusCode != 405 {
			t.Errorf("h2 %v, GET: %d", h2, res.StatusCode)
		}
	}
}
