package caller

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/internal/testnet"
)

// patience is how long a test waits for what should happen at once.
const patience = 40 * time.Second

const home = "https://home.example"

// fields is a header in a test.
type fields map[string][]string

func (f fields) Field(name string) string {
	if len(f[name]) == 0 {
		return ""
	}
	return f[name][0]
}

func (f fields) List(name string) []string { return f[name] }

// desk is a Registry and a Book with Run under way.
type desk struct {
	t    testing.TB
	dir  string
	log  *logText
	reg  *Registry
	book *Book
	stop func()
}

type logText struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func synced() (bool, time.Duration) { return true, time.Hour }

// newDesk starts a Registry in dir with the callers, until the test ends or
// stop is called.
func newDesk(t testing.TB, dir string, clock func() (bool, time.Duration), list ...Caller) *desk {
	t.Helper()
	d := &desk{t: t, dir: dir, log: new(logText)}
	var err error
	d.reg, err = New(Config{Dir: dir, Log: slog.New(slog.NewTextHandler(d.log, nil)), Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	if d.book, err = d.reg.Prepare(list); err != nil {
		t.Fatal(err)
	}
	d.reg.Use(d.book)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { // ends with stop
		defer close(done)
		_ = d.reg.Run(ctx)
	}()
	d.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(d.stop)
	return d
}

// bearer judges a request with a bearer token at the time now.
func (d *desk) bearer(token string, now time.Time) Result {
	return d.book.Identify(&Request{
		Method: "GET", Scheme: "https", Host: "home.example", Path: "/", Fields: fields{}, Now: now,
		Credentials: Credentials{Authorization: "Bearer " + token},
	})
}

// known waits until the issuer's keys are there.
func (d *desk) known(issuer string) {
	d.t.Helper()
	keys := d.book.issuers[issuer].keys
	d.await("the issuer's keys", func() bool { return keys.keys.Load() != nil && !keys.fetching() })
}

func (d *desk) await(what string, ok func() bool) {
	d.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			d.t.Fatalf("not within %v: %s\n%s", patience, what, d.log)
		}
	}
}

// orders is a caller with an AWS role and function.
func orders(a *testnet.AWS) Caller {
	return Caller{Name: "orders", AWS: &AWS{
		Issuer: a.Issuer, Audience: home, Roots: string(a.RootPEM),
		Role: "arn:aws:iam::123456789012:role/orders*", Function: "arn:aws:lambda:*:123456789012:function:orders",
	}}
}

func TestAWSToken(t *testing.T) {
	a := testnet.NewAWS(t)
	d := newDesk(t, t.TempDir(), synced, orders(a))
	d.known(a.Issuer)
	now := time.Now()
	for _, alg := range []string{"RS256", "ES384"} {
		res := d.bearer(a.TokenAlg(alg, nil), now)
		if res.Identity == nil || res.Identity.Name != "orders" || res.Identity.Method != AWSToken {
			t.Fatalf("%s: %v", alg, res.Failure)
		}
		want := []Attribute{{"Aws-Account", testnet.AWSAccount}, {"Aws-Role", testnet.AWSRole}, {"Aws-Function", testnet.AWSFunction}, {"Aws-Region", testnet.AWSRegion}}
		for i, w := range want {
			if res.Identity.Attributes[i] != w {
				t.Errorf("attribute %d: %v, want %v", i, res.Identity.Attributes[i], w)
			}
		}
	}
}

// awsClaims are the claims of AWS itself, changed.
func awsClaims(change map[string]any) map[string]any {
	all := map[string]any{"aws_account": testnet.AWSAccount, "source_region": testnet.AWSRegion, "lambda_source_function_arn": testnet.AWSFunction}
	for k, v := range change {
		if all[k] = v; v == nil {
			delete(all, k)
		}
	}
	return map[string]any{testnet.AWSClaim: all}
}

// TestAWSTokenAttacks: none of these gets in.
func TestAWSTokenAttacks(t *testing.T) {
	a := testnet.NewAWS(t)
	d := newDesk(t, t.TempDir(), synced, orders(a))
	d.known(a.Issuer)
	now := time.Now()
	rsaKey, ecKey := a.Keys()
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := a.Claims(home)
	header := func(alg, kid string) map[string]any { return map[string]any{"alg": alg, "kid": kid, "typ": "JWT"} }
	with := func(name string, v any) map[string]any {
		h := header("RS256", "RSA_0")
		h[name] = v
		return h
	}
	claim := func(name string, v any) string { return a.Token(map[string]any{name: v}) }
	unix := func(d time.Duration) int64 { return now.Add(d).Unix() }
	role := func(arn string) string { return claim("sub", arn) }
	function := func(arn any) string { return a.Token(awsClaims(map[string]any{"lambda_source_function_arn": arn})) }

	for _, tc := range []struct {
		name, token string
		want        Failure
	}{
		{"alg none", unsigned(t, map[string]any{"alg": "none"}, good, ""), BadAlgorithm},
		{"alg None with a kid", unsigned(t, header("None", "RSA_0"), good, ""), BadAlgorithm},
		{"no alg", unsigned(t, map[string]any{"kid": "RSA_0"}, good, "AAAA"), BadAlgorithm},
		{"HMAC with the public key as PEM", hmacToken(t, header("HS256", "RSA_0"), good, publicPEM(t, &rsaKey.PublicKey)), BadAlgorithm},
		{"HMAC with the public key as DER", hmacToken(t, header("HS256", "RSA_0"), good, publicDER(t, &rsaKey.PublicKey)), BadAlgorithm},
		{"an algorithm AWS has not", testnet.SignJWT("RS256", header("PS256", "RSA_0"), good, rsaKey, ecKey), BadAlgorithm},
		{"RS256 under the name of the EC key", testnet.SignJWT("RS256", header("RS256", "EC384_0"), good, rsaKey, ecKey), BadAlgorithm},
		{"ES384 under the name of the RSA key", testnet.SignJWT("ES384", header("ES384", "RSA_0"), good, rsaKey, ecKey), BadAlgorithm},
		{"another RSA key", testnet.SignJWT("RS256", header("RS256", "RSA_0"), good, other, ecKey), BadSignature},
		{"another EC key", testnet.SignJWT("ES384", header("ES384", "EC384_0"), good, rsaKey, p384), BadSignature},
		{"its own key in the header", testnet.SignJWT("RS256", with("jwk", map[string]any{"kty": "RSA", "n": b64(other.N.Bytes()), "e": "AQAB"}), good, other, ecKey), BadSignature},
		{"its own key set in the header", testnet.SignJWT("RS256", with("jku", "https://evil.example/jwks.json"), good, other, ecKey), BadSignature},
		{"a critical extension", testnet.SignJWT("RS256", with("crit", []string{"exp"}), good, rsaKey, ecKey), BadSignature},
		{"kid as a path", testnet.SignJWT("RS256", header("RS256", "../../../dev/null"), good, other, ecKey), UnknownSigner},
		{"kid as SQL", testnet.SignJWT("RS256", header("RS256", "RSA_0' OR '1'='1"), good, rsaKey, ecKey), UnknownSigner},
		{"kid in another case", testnet.SignJWT("RS256", header("RS256", "rsa_0"), good, rsaKey, ecKey), UnknownSigner},
		{"no kid", testnet.SignJWT("RS256", map[string]any{"alg": "RS256"}, good, rsaKey, ecKey), UnknownSigner},
		{"signature of nothing", strings.Join(strings.Split(a.Token(nil), ".")[:2], ".") + ".", BadSignature},
		{"claims changed", tampered(t, a.Token(nil)), BadSignature},
		{"issuer with a slash", claim("iss", a.Issuer+"/"), UnknownIssuer},
		{"issuer in capitals", claim("iss", strings.ToUpper(a.Issuer)), UnknownIssuer},
		{"issuer look-alike", claim("iss", a.Issuer+".evil.example"), UnknownIssuer},
		{"issuer with user info", claim("iss", strings.Replace(a.Issuer, "https://", "https://x@", 1)), UnknownIssuer},
		{"no issuer", claim("iss", nil), UnknownIssuer},
		{"audience of another", claim("aud", "https://other.example"), WrongAudience},
		{"audience longer", claim("aud", home+"/"), WrongAudience},
		{"audience in a list", claim("aud", []string{home}), WrongAudience},
		{"several audiences", claim("aud", []string{"https://other.example", home}), WrongAudience},
		{"audience as a number", claim("aud", 7), Malformed},
		{"no audience", claim("aud", nil), WrongAudience},
		{"expired", a.Token(map[string]any{"iat": unix(-time.Hour), "exp": unix(-2 * time.Minute)}), Expired},
		{"no expiry", claim("exp", nil), Malformed},
		{"expiry as text", claim("exp", "9999999999"), Malformed},
		{"expiry that never comes", claim("exp", 1e18), Malformed},
		{"a life of a year", claim("exp", unix(365*24*time.Hour)), Malformed},
		{"of the future", a.Token(map[string]any{"iat": unix(10 * time.Minute), "exp": unix(20 * time.Minute)}), NotYet},
		{"not before later", claim("nbf", unix(10*time.Minute)), NotYet},
		{"no time of issue", claim("iat", nil), Malformed},
		{"another role", role("arn:aws:iam::123456789012:role/payments"), NotListed},
		{"a role below a path", role("arn:aws:iam::123456789012:role/orders/evil"), NotListed},
		{"a role with a colon", role("arn:aws:iam::123456789012:role/orders:evil"), NotListed},
		{"a role of another account", role("arn:aws:iam::210987654321:role/orders"), NotListed},
		{"a user", role("arn:aws:iam::123456789012:user/orders"), NotListed},
		{"the session form", role("arn:aws:sts::123456789012:assumed-role/orders/orders"), NotListed},
		{"a role in another partition", role("arn:aws-cn:iam::123456789012:role/orders"), NotListed},
		{"an account inside the path", role("arn:aws:iam::210987654321:role/arn:aws:iam::123456789012:role/orders"), NotListed},
		{"no subject", claim("sub", nil), NotListed},
		{"account of another", a.Token(awsClaims(map[string]any{"aws_account": "210987654321"})), NotListed},
		{"no account", a.Token(awsClaims(map[string]any{"aws_account": nil})), NotListed},
		{"account as a number", a.Token(awsClaims(map[string]any{"aws_account": int64(123456789012)})), NotListed},
		{"AWS's claims are a text", claim(testnet.AWSClaim, "aws_account"), NotListed},
		{"no claims of AWS", claim(testnet.AWSClaim, nil), NotListed},
		{"another function", function("arn:aws:lambda:ap-northeast-2:123456789012:function:payments"), NotListed},
		{"a function with a longer name", function("arn:aws:lambda:ap-northeast-2:123456789012:function:orders2"), NotListed},
		{"a function's version", function("arn:aws:lambda:ap-northeast-2:123456789012:function:orders:evil"), NotListed},
		{"a glob over segments", function("arn:aws:lambda:x:y:123456789012:function:orders"), NotListed},
		{"a function of another account", function("arn:aws:lambda:ap-northeast-2:210987654321:function:orders"), NotListed},
		{"no function", function(nil), NotListed},
		{"too large", a.Token(map[string]any{"x": strings.Repeat("a", 9000)}), TooLarge},
		{"64 KiB", strings.Repeat("a", 64<<10), TooLarge},
		{"four parts", a.Token(nil) + ".x", UnknownKey},
		{"encrypted", a.Token(nil) + ".x.y", UnknownKey},
		{"two issuers", twice(t, rsaKey, ecKey, good, "iss", a.Issuer), Malformed},
		{"two subjects", twice(t, rsaKey, ecKey, good, "sub", testnet.AWSRole), Malformed},
		{"an issuer in another case beside it", twice(t, rsaKey, ecKey, map[string]any{"aud": home}, "Iss", a.Issuer), UnknownIssuer},
	} {
		if res := d.bearer(tc.token, now); res.Identity != nil || res.Failure != tc.want {
			t.Errorf("%s: %v, identity %v, want %v", tc.name, res.Failure, res.Identity, tc.want)
		}
		if res := d.bearer(tc.token, now); res.Identity != nil || res.Failure != tc.want {
			t.Errorf("%s, again: %v, identity %v, want %v", tc.name, res.Failure, res.Identity, tc.want)
		}
	}
	if res := d.bearer(a.Token(nil), now); res.Identity == nil {
		t.Errorf("a good token after all of that: %v", res.Failure)
	}
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func part(t testing.TB, v map[string]any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b64(raw)
}

func unsigned(t testing.TB, header, claims map[string]any, sig string) string {
	return part(t, header) + "." + part(t, claims) + "." + sig
}

func hmacToken(t testing.TB, header, claims map[string]any, key []byte) string {
	text := part(t, header) + "." + part(t, claims)
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return text + "." + b64(m.Sum(nil))
}

func publicDER(t testing.TB, key *rsa.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func publicPEM(t testing.TB, key *rsa.PublicKey) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER(t, key)})
}

// tampered is a token whose claims say more than was signed.
func tampered(t testing.TB, token string) string {
	t.Helper()
	parts := strings.Split(token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	parts[1] = b64(append(raw, ' '))
	return strings.Join(parts, ".")
}

// twice is a token that has a claim once more, at its end.
func twice(t testing.TB, r *rsa.PrivateKey, e *ecdsa.PrivateKey, claims map[string]any, name, value string) string {
	t.Helper()
	raw, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := json.Marshal(map[string]any{name: value})
	whole := strings.TrimSuffix(string(raw), "}") + "," + strings.TrimPrefix(string(again), "{")
	signed := testnet.SignJWT("RS256", map[string]any{"alg": "RS256", "kid": "RSA_0"}, claims, r, e)
	parts := strings.Split(signed, ".")
	parts[1] = b64([]byte(whole)) // the signature does not matter: it is read before
	return strings.Join(parts, ".")
}

// TestKeysRotate: new keys are found by a name that is not known, and by a
// signature that does not fit the name that is.
func TestKeysRotate(t *testing.T) {
	for _, sameKids := range []bool{false, true} {
		a := testnet.NewAWS(t)
		d := newDesk(t, t.TempDir(), synced, orders(a))
		d.known(a.Issuer)
		old := a.Token(nil)
		if res := d.bearer(old, time.Now()); res.Identity == nil {
			t.Fatal(res.Failure)
		}
		a.RotateKeys(sameKids)
		keys := d.book.issuers[a.Issuer].keys
		keys.mu.Lock()
		keys.tried = time.Now().Add(-refetchAfter) // the last fetch was a while ago
		keys.mu.Unlock()
		if res := d.bearer(a.Token(nil), time.Now()); res.Identity == nil {
			t.Errorf("same names %v: %v", sameKids, res.Failure)
		}
		if res := d.bearer(old, time.Now()); res.Identity != nil {
			t.Errorf("same names %v: a token of the old key is still good", sameKids)
		}
	}
}

// TestIssuerDown: keys of the disk count while the issuer is down, whatever
// state it is in, and nobody waits for it who has a good token.
func TestIssuerDown(t *testing.T) {
	a := testnet.NewAWS(t)
	dir := t.TempDir()
	d := newDesk(t, dir, synced, orders(a))
	d.known(a.Issuer)
	d.await("the kept keys", func() bool {
		found, err := filepath.Glob(filepath.Join(dir, "jwks-*.json"))
		return err == nil && len(found) == 1
	})
	d.stop()
	for _, fault := range []testnet.AWSFault{testnet.AWSHangs, testnet.AWSBroken, testnet.AWSThrottled, testnet.AWSWrongShape} {
		a.SetFault("issuer", fault)
		d := newDesk(t, dir, synced, orders(a))
		if res := d.bearer(a.Token(nil), time.Now()); res.Identity == nil {
			t.Errorf("%s: %v", fault, res.Failure)
		}
		d.stop()
		d = newDesk(t, t.TempDir(), synced, orders(a))
		if res := d.bearer(a.Token(nil), time.Now()); res.Failure != KeysUnavailable || res.Failure.Forged() {
			t.Errorf("%s, nothing kept: %v", fault, res.Failure)
		}
		d.stop()
	}
}

// TestUnknownKidsCauseNoStorm: however many tokens with invented names come,
// the issuer is asked once.
func TestUnknownKidsCauseNoStorm(t *testing.T) {
	a := testnet.NewAWS(t)
	d := newDesk(t, t.TempDir(), synced, orders(a))
	d.known(a.Issuer)
	before := a.Calls("issuer")
	rsaKey, ecKey := a.Keys()
	var wg sync.WaitGroup
	for i := range 300 {
		token := testnet.SignJWT("RS256", map[string]any{"alg": "RS256", "kid": "x" + strings.Repeat("y", i%40)}, a.Claims(home), rsaKey, ecKey)
		wg.Go(func() {
			if res := d.bearer(token, time.Now()); res.Identity != nil {
				t.Error("got in")
			}
		})
	}
	wg.Wait()
	if n := a.Calls("issuer") - before; n > 4 { // two documents a fetch
		t.Errorf("the issuer was asked %d times", n)
	}
}

// fetching reports whether a fetch is wanted or under way.
func (s *keySet) fetching() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending != nil
}

func TestClockNotSet(t *testing.T) {
	a := testnet.NewAWS(t)
	dir := t.TempDir()
	d := newDesk(t, dir, synced, orders(a))
	d.known(a.Issuer)
	d.stop() // writes the time

	notSet := func() (bool, time.Duration) { return false, time.Minute }
	past := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC) // as a machine without a battery starts
	d = newDesk(t, dir, notSet, orders(a))
	if res := d.bearer(a.Token(nil), past); res.Identity == nil {
		t.Errorf("a good token: %v", res.Failure)
	}
	longAgo := time.Now().Add(-time.Hour).Unix()
	if res := d.bearer(a.Token(map[string]any{"iat": longAgo, "exp": longAgo + 300}), past); res.Failure != Expired {
		t.Errorf("a token that ended before the last time known: %v", res.Failure)
	}
	if !strings.Contains(d.log.String(), "the clock is not set yet") {
		t.Errorf("nothing was said: %s", d.log)
	}
	// What an issuer signed tells the time.
	later := time.Now().Add(3 * time.Hour).Unix()
	if res := d.bearer(a.Token(map[string]any{"iat": later, "exp": later + 300}), past); res.Identity == nil {
		t.Errorf("a token of the future: %v", res.Failure)
	}
	if res := d.bearer(a.Token(nil), past); res.Failure != Expired {
		t.Errorf("a token that ended before one that was signed: %v", res.Failure)
	}
}

func TestKeysOfStrangeKindsAreNotTaken(t *testing.T) {
	a := testnet.NewAWS(t)
	dir := t.TempDir()
	d := newDesk(t, dir, synced, orders(a))
	d.known(a.Issuer)
	d.await("the kept keys", func() bool { _, err := os.Stat(d.book.issuers[a.Issuer].keys.file); return err == nil })
	raw, err := os.ReadFile(d.book.issuers[a.Issuer].keys.file)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{`"d"`, `"p"`, `"k"`} {
		if strings.Contains(string(raw), secret) {
			t.Errorf("%s is in the kept keys", secret)
		}
	}
}
