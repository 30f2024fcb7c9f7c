package publish

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"postern/internal/testnet"
)

var doc = Document{Names: []string{"home.example"}, IPv4: "203.0.113.7", IPv6: "2001:db8::7", Port: 443, Fingerprint: "sha256//x", Updated: "2026-11-22T19:00:00Z"}

// targets are one of each AWS service, in the account.
func targets(a *testnet.AWS) map[string]Target {
	k := Key{ID: a.Publisher.ID, Secret: a.Publisher.Secret}
	return map[string]Target{
		"ssm":     {SSM: &SSM{Region: testnet.AWSRegion, Parameter: "/postern/endpoint", Key: k, Endpoint: a.URL, RootFile: a.RootFile}},
		"s3":      {S3: &S3{Region: testnet.AWSRegion, Bucket: "my-bucket", Object: "postern/end point+1.json", Key: k, Endpoint: a.URL, RootFile: a.RootFile}},
		"route53": {Route53: &Route53{Zone: "Z0123456789ABCDEFGHIJ", Name: "home.example.org", TTL: time.Minute, Key: k, Endpoint: a.URL, RootFile: a.RootFile}},
	}
}

func push(t *testing.T, target Target) error {
	t.Helper()
	_, push, err := target.open()
	if err != nil {
		t.Fatal(err)
	}
	return push(t.Context(), doc)
}

// policies are the IAM policies of the documentation, by service.
func policies(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile("../../docs/publish.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, m := range regexp.MustCompile("(?s)```json\n(\\{\\s*\"Version\".*?)```").FindAllSubmatch(page, -1) {
		var p struct {
			Statement []struct{ Action any }
		}
		if err := json.Unmarshal(m[1], &p); err != nil {
			t.Fatalf("%v in\n%s", err, m[1])
		}
		action, ok := p.Statement[0].Action.(string)
		if !ok || len(p.Statement) != 1 || strings.Contains(action, "*") {
			t.Errorf("a policy names %v, want exactly one action", p.Statement)
		}
		service, _, _ := strings.Cut(action, ":")
		out[service] = string(m[1])
	}
	return out
}

// Each target works with the policy of the documentation and nothing more.
func TestLeastPrivilege(t *testing.T) {
	documents := policies(t)
	action := map[string]string{"ssm": "ssm:PutParameter", "s3": "s3:PutObject", "route53": "route53:ChangeResourceRecordSets"}
	for service := range action {
		a := testnet.NewAWS(t)
		a.Limit(t, a.Publisher, documents[service])
		if err := push(t, targets(a)[service]); err != nil {
			t.Errorf("%s: %v", service, err)
		}
		if a.Calls(action[service]) != 1 || a.Calls("refused") != 0 {
			t.Errorf("%s: %d calls, refused %q", service, a.Calls(action[service]), a.Refused())
		}
		for other, elsewhere := range targets(a) {
			if err := push(t, elsewhere); other != service && !errors.Is(err, ErrDenied) {
				t.Errorf("the policy for %s allowed %s: %v", service, other, err)
			}
		}
	}
}

func TestAWSTargets(t *testing.T) {
	a := testnet.NewAWS(t)
	want, err := doc.encode()
	if err != nil {
		t.Fatal(err)
	}
	for service, target := range targets(a) {
		for range 2 { // the second overwrites
			if err := push(t, target); err != nil {
				t.Fatalf("%s: %v\nthe account said %q", service, err, a.Refused())
			}
		}
	}
	if got := a.Parameter("/postern/endpoint"); got != string(want) {
		t.Errorf("parameter is %s", got)
	}
	if got := a.Object("my-bucket", "postern/end point+1.json"); string(got) != string(want) {
		t.Errorf("object is %s", got)
	}
	if v4, v6 := a.Record("Z0123456789ABCDEFGHIJ", "home.example.org", "A"), a.Record("Z0123456789ABCDEFGHIJ", "home.example.org", "AAAA"); fmt.Sprint(v4, v6) != "[203.0.113.7] [2001:db8::7]" {
		t.Errorf("records are %v %v", v4, v6)
	}
}

// Every way a service fails has its kind, and no error shows a secret.
func TestAWSFaults(t *testing.T) {
	a := testnet.NewAWS(t)
	for service, target := range targets(a) {
		for fault, want := range map[testnet.AWSFault]error{
			testnet.AWSBroken: ErrUnreachable, testnet.AWSThrottled: ErrLimited, testnet.AWSSkewed: ErrClock,
			testnet.AWSDenied: ErrDenied, testnet.AWSWrongShape: ErrUnreachable, testnet.AWSWorks: nil,
		} {
			a.SetFault(service, fault)
			err := push(t, target)
			if !errors.Is(err, want) {
				t.Errorf("%s, fault %q: %v, want %v", service, fault, err, want)
			}
			if err != nil && strings.Contains(err.Error(), a.Publisher.Secret) {
				t.Errorf("%s: %v", service, err)
			}
		}
	}
}

// A service that hangs is given up.
func TestAWSHangs(t *testing.T) {
	a := testnet.NewAWS(t)
	a.SetFault("ssm", testnet.AWSHangs)
	_, push, err := targets(a)["ssm"].open()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- push(ctx, doc) }()
	a.Await(t, "the request", func() bool { return a.Calls("ssm:hung") == 1 })
	cancel()
	if err := <-done; !errors.Is(err, ErrUnreachable) || !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A clock that is wrong is corrected by AWS's own.
func TestWrongClock(t *testing.T) {
	for _, skew := range []time.Duration{-3 * time.Hour, 40 * 24 * time.Hour} {
		a := testnet.NewAWS(t)
		a.SetSkew(skew)
		for service, target := range targets(a) {
			if err := push(t, target); err != nil {
				t.Errorf("%s, %s off: %v\nthe account said %q", service, skew, err, a.Refused())
			}
		}
	}
}

// A wrong secret is told as such, and what AWS repeats of the request stays
// out of it.
func TestWrongKey(t *testing.T) {
	a := testnet.NewAWS(t)
	target := targets(a)["ssm"]
	target.SSM.Key = Key{ID: a.Publisher.ID, Secret: "hunter2hunter2"}
	err := push(t, target)
	if !errors.Is(err, ErrDenied) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "x-amz-date") {
		t.Error(err)
	}
	if want := "publish to ssm /postern/endpoint: it refused who we are, or what we may do (403 SignatureDoesNotMatch); check the key, and give it the policy in docs/publish.md"; err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestKeyFile(t *testing.T) {
	for _, tt := range []struct{ name, text, id, session string }{
		{"shared", "[default]\naws_access_key_id = AKIA1\naws_secret_access_key=s/=1\n", "AKIA1", ""},
		{"second section", "# mine\n[other]\naws_access_key_id=AKIA2\naws_secret_access_key=s\n[default]\naws_access_key_id=AKIA1\naws_secret_access_key=s\naws_session_token=t==\n", "AKIA1", "t=="},
		{"no default", "[postern]\r\naws_access_key_id=AKIA3\r\naws_secret_access_key=s\r\n", "AKIA3", ""},
		{"json", `{"AccessKeyId":"AKIA4","SecretAccessKey":"s","SessionToken":"t"}`, "AKIA4", "t"},
		{"create-access-key", `{"AccessKey":{"UserName":"postern","AccessKeyId":"AKIA5","Status":"Active","SecretAccessKey":"s"}}`, "AKIA5", ""},
		{"assume-role", `{"Credentials":{"AccessKeyId":"ASIA6","SecretAccessKey":"s","SessionToken":"t"}}`, "ASIA6", "t"},
		{"empty", "", "", ""},
		{"a password", "hunter2", "", ""},
		{"half", "[default]\naws_secret_access_key=hunter2\n", "", ""},
		{"huge", "[default]\naws_access_key_id=A\naws_secret_access_key=s\n" + strings.Repeat("#\n", maxKeyFile), "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := Key{File: file}.load()
			if (err != nil) != (tt.id == "") || err == nil && (got.AccessKeyID != tt.id || got.SessionToken != tt.session || got.SecretAccessKey == "") {
				t.Errorf("got %q, %v", got.AccessKeyID, err)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Error(err)
			}
		})
	}
	if _, err := New(Config{}).Prepare([]Target{{SSM: &SSM{Parameter: "/p", Region: "eu-west-1", Key: Key{File: filepath.Join(t.TempDir(), "none")}}}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a key file that is not there: %v", err)
	}
}

// A new key in the file is taken up without a restart.
func TestKeyIsReadAgain(t *testing.T) {
	a := testnet.NewAWS(t)
	file := filepath.Join(t.TempDir(), "key")
	write := func(secret string) {
		t.Helper()
		text := "[default]\naws_access_key_id=" + a.Publisher.ID + "\naws_secret_access_key=" + secret + "\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("old")
	target := targets(a)["s3"]
	target.S3.Key = Key{File: file}
	_, push, err := target.open()
	if err != nil {
		t.Fatal(err)
	}
	if err := push(t.Context(), doc); !errors.Is(err, ErrDenied) {
		t.Errorf("the old key: %v", err)
	}
	write(a.Publisher.Secret)
	if err := push(t.Context(), doc); err != nil {
		t.Errorf("the new key: %v", err)
	}
}

// The receiver's half of docs/publish.md.
func TestWebhook(t *testing.T) {
	type seen struct{ body, stamp, sig, kind string }
	got := make(chan seen, 10)
	status := http.StatusNoContent
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- seen{string(b), r.Header.Get("X-Postern-Timestamp"), r.Header.Get("X-Postern-Signature"), r.Header.Get("Content-Type")}
		w.Header().Set("Location", "https://other.invalid/")
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(status)
	}))
	defer s.Close()
	root := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(root, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	target := Target{Webhook: &Webhook{URL: s.URL + "/hook?token=hunter2", Secret: "shared", RootFile: root}}
	if err := push(t, target); err != nil {
		t.Fatal(err)
	}
	g := <-got
	mac := hmac.New(sha256.New, []byte("shared"))
	mac.Write([]byte(g.stamp + "." + g.body))
	if want := "v1=" + hex.EncodeToString(mac.Sum(nil)); g.sig != want || g.kind != "application/json" {
		t.Errorf("%+v, want signature %s", g, want)
	}
	if n, err := strconv.ParseInt(g.stamp, 10, 64); err != nil || time.Since(time.Unix(n, 0)).Abs() > time.Minute {
		t.Errorf("timestamp %q", g.stamp)
	}
	var back Document
	if err := json.Unmarshal([]byte(g.body), &back); err != nil || !same(back, doc) {
		t.Errorf("%v %+v", err, back)
	}
	for code, want := range map[int]error{200: nil, 302: ErrRejected, 401: ErrDenied, 404: ErrRejected, 429: ErrLimited, 500: ErrUnreachable} {
		status = code
		err := push(t, target)
		<-got
		if !errors.Is(err, want) {
			t.Errorf("%d: %v, want %v", code, err, want)
		}
		if e, ok := errors.AsType[*Error](err); ok && (e.RetryAfter != 7*time.Second || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%d: %v, retry after %s", code, err, e.RetryAfter)
		}
	}
	s.Close()
	if err := push(t, target); !errors.Is(err, ErrUnreachable) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "shared") {
		t.Errorf("nobody there: %v", err)
	}
}

func TestFingerprint(t *testing.T) {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	sum := sha256.Sum256(s.Certificate().RawSubjectPublicKeyInfo)
	got := Fingerprint(s.Certificate())
	if !strings.HasPrefix(got, "sha256//") || len(got) != len("sha256//")+44 || Fingerprint(nil) != "" {
		t.Errorf("%q of %x", got, sum)
	}
}

// What a stranger at the other end writes into an error's code does not get
// far.
func FuzzErrorCode(f *testing.F) {
	f.Add([]byte(`{"__type":"com.amazonaws.ssm#ThrottlingException","message":"x"}`))
	f.Add([]byte("<Error><Code>SlowDown</Code></Error>"))
	f.Add([]byte("<ErrorResponse><Error><Code>Throttling</Code></Error></ErrorResponse>"))
	f.Fuzz(func(t *testing.T, body []byte) {
		if c := code(http.Header{}, body); len(c) > 64 || strings.ContainsAny(c, " \n\x00<") {
			t.Errorf("%q", c)
		}
	})
}

// A key file is taken or refused, and never shown.
func FuzzKeyFile(f *testing.F) {
	f.Add([]byte("[default]\naws_access_key_id = AKIA1\naws_secret_access_key=s\n"))
	f.Add([]byte(`{"AccessKey":{"AccessKeyId":"AKIA5","SecretAccessKey":"s"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, k := range []aws.Credentials{jsonKey(text), sharedKey(text)} {
			if k.AccessKeyID != strings.TrimSpace(k.AccessKeyID) && !json.Valid(text) {
				t.Errorf("%q", k.AccessKeyID)
			}
		}
	})
}
