package caller

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"postern/internal/testnet"
)

// fakeIssuer is an issuer of our own, whose documents a test may spoil.
type fakeIssuer struct {
	url       string
	discovery atomic.Pointer[string] // nil: the right one
	set       atomic.Pointer[string] // the key set
}

func newFakeIssuer(t testing.TB, keys ...any) *fakeIssuer {
	t.Helper()
	f := new(fakeIssuer)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			if d := f.discovery.Load(); d != nil {
				_, _ = w.Write([]byte(*d))
				return
			}
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, f.url, f.url+"/keys")
		case "/keys":
			_, _ = w.Write([]byte(*f.set.Load()))
		case "/moved":
			http.Redirect(w, r, f.url+"/keys", http.StatusFound)
		}
	}))
	t.Cleanup(s.Close)
	f.url = s.URL
	f.show(t, keys...)
	return f
}

// show makes the issuer show the keys, by their position as names.
func (f *fakeIssuer) show(t testing.TB, keys ...any) {
	t.Helper()
	var set jose.JSONWebKeySet
	for i, k := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k, KeyID: fmt.Sprint(i)})
	}
	raw, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	f.set.Store(ptrTo(string(raw)))
}

func ptrTo(s string) *string { return &s }

func signJOSE(t testing.TB, alg jose.SignatureAlgorithm, key any, kid string, claims map[string]any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	o, err := s.Sign(raw)
	if err != nil {
		t.Fatal(err)
	}
	text, err := o.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestTokensOfOtherIssuers(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edPublic, edPrivate, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := newFakeIssuer(t, &rsaKey.PublicKey, &p256.PublicKey, edPublic)
	rule := &TokenRule{Issuer: f.url, Audience: home, Claims: map[string]string{"repository": "me/shop*", "ref": "refs/heads/main", "groups": "ops", "deep.in.it": "yes", "n": "7", "ok": "true"}}
	d := newDesk(t, t.TempDir(), synced, Caller{Name: "gh", Token: rule})
	d.known(f.url)
	now := time.Now()
	claims := func(change map[string]any) map[string]any {
		all := map[string]any{
			"iss": f.url, "aud": home, "sub": "repo:me/shop", "iat": now.Unix(), "exp": now.Unix() + 300,
			"repository": "me/shop", "ref": "refs/heads/main", "groups": []string{"dev", "ops"}, "deep": map[string]any{"in": map[string]any{"it": "yes"}}, "n": 7, "ok": true,
		}
		for k, v := range change {
			if all[k] = v; v == nil {
				delete(all, k)
			}
		}
		return all
	}
	for _, tc := range []struct {
		name string
		alg  jose.SignatureAlgorithm
		key  any
		kid  string
		with map[string]any
		want Failure
	}{
		{"RS256", jose.RS256, rsaKey, "0", nil, NoCredentials},
		{"PS256", jose.PS256, rsaKey, "0", nil, NoCredentials},
		{"ES256", jose.ES256, p256, "1", nil, NoCredentials},
		{"EdDSA", jose.EdDSA, edPrivate, "2", nil, NoCredentials},
		{"a list of one audience", jose.ES256, p256, "1", map[string]any{"aud": []string{home}}, NoCredentials},
		{"RS512", jose.RS512, rsaKey, "0", nil, BadAlgorithm},
		{"HS256", jose.HS256, []byte(strings.Repeat("k", 32)), "0", nil, BadAlgorithm},
		{"HS256 with the public key", jose.HS256, []byte(edPublic), "2", nil, BadAlgorithm},
		{"RS256 under the name of the EC key", jose.RS256, rsaKey, "1", nil, BadAlgorithm},
		{"several audiences", jose.ES256, p256, "1", map[string]any{"aud": []string{home, "x"}}, WrongAudience},
		{"another repository", jose.ES256, p256, "1", map[string]any{"repository": "me/payments"}, NotListed},
		{"a repository in another segment", jose.ES256, p256, "1", map[string]any{"repository": "me/shop/evil"}, NotListed},
		{"another branch", jose.ES256, p256, "1", map[string]any{"ref": "refs/heads/main2"}, NotListed},
		{"a claim that is missing", jose.ES256, p256, "1", map[string]any{"ref": nil}, NotListed},
		{"a claim of another type", jose.ES256, p256, "1", map[string]any{"ref": map[string]any{"refs/heads/main": 1}}, NotListed},
		{"none of the groups", jose.ES256, p256, "1", map[string]any{"groups": []string{"dev"}}, NotListed},
		{"another number", jose.ES256, p256, "1", map[string]any{"n": 7.5}, NotListed},
		{"text for true", jose.ES256, p256, "1", map[string]any{"ok": false}, NotListed},
		{"nothing deep", jose.ES256, p256, "1", map[string]any{"deep": map[string]any{"in": "it"}}, NotListed},
	} {
		res := d.bearer(signJOSE(t, tc.alg, tc.key, tc.kid, claims(tc.with)), now)
		if (res.Identity != nil) != (tc.want == NoCredentials) || res.Failure != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, res.Failure, tc.want)
		}
	}
}

// TestTokensWithoutAudience: access tokens of Cognito have a client_id.
func TestTokensWithoutAudience(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := newFakeIssuer(t, &key.PublicKey)
	d := newDesk(t, t.TempDir(), synced, Caller{Name: "cognito", Token: &TokenRule{Issuer: f.url, Claims: map[string]string{"client_id": "7abc", "token_use": "access"}}})
	d.known(f.url)
	now := time.Now()
	for id, want := range map[string]Failure{"7abc": NoCredentials, "7abd": NotListed} {
		token := signJOSE(t, jose.ES256, key, "0", map[string]any{"iss": f.url, "sub": "7abc", "iat": now.Unix(), "exp": now.Unix() + 300, "client_id": id, "token_use": "access"})
		if res := d.bearer(token, now); res.Failure != want || (res.Identity != nil) != (want == NoCredentials) {
			t.Errorf("%s: %v", id, res.Failure)
		}
	}
}

// TestIssuerLies: what an issuer's server says wrongly changes nothing of what
// is known, and never makes a forged token good.
func TestIssuerLies(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skip("a key of 1024 bits can not even be made here: ", err)
	}
	f := newFakeIssuer(t, &key.PublicKey)
	d := newDesk(t, t.TempDir(), synced, Caller{Name: "gh", Token: &TokenRule{Issuer: f.url, Audience: home, Claims: map[string]string{"sub": "me"}}})
	d.known(f.url)
	now := time.Now()
	claims := map[string]any{"iss": f.url, "aud": home, "sub": "me", "iat": now.Unix(), "exp": now.Unix() + 300}
	keys := d.book.issuers[f.url].keys
	right := *f.set.Load()
	private, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: small, KeyID: "0"}, {Key: []byte("secret"), KeyID: "1"}}})
	if err != nil {
		t.Fatal(err)
	}
	weak, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &small.PublicKey, KeyID: "0"}, {Key: &key.PublicKey, KeyID: "1", Use: "enc"}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(){
		"another issuer":   func() { f.discovery.Store(ptrTo(`{"issuer":"https://evil.example","jwks_uri":"` + f.url + `/keys"}`)) },
		"no discovery":     func() { f.discovery.Store(ptrTo(``)) },
		"keys by redirect": func() { f.discovery.Store(ptrTo(fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, f.url, f.url+"/moved"))) },
		"keys in a file":   func() { f.discovery.Store(ptrTo(fmt.Sprintf(`{"issuer":%q,"jwks_uri":"file:///etc/passwd"}`, f.url))) },
		"issuer twice": func() {
			f.discovery.Store(ptrTo(fmt.Sprintf(`{"issuer":"x","issuer":%q,"jwks_uri":%q}`, f.url, f.url+"/keys")))
		},
		"no keys":           func() { f.set.Store(ptrTo(`{"keys":[]}`)) },
		"a page":            func() { f.set.Store(ptrTo(`<html>Welcome to your new router</html>`)) },
		"secret keys":       func() { f.set.Store(ptrTo(string(private))) },
		"weak keys":         func() { f.set.Store(ptrTo(string(weak))) },
		"too much":          func() { f.set.Store(ptrTo(right + strings.Repeat(" ", maxKeySet))) },
		"keys of all kinds": func() { f.set.Store(ptrTo(`{"keys":[{"kty":"oct","k":"AAAA"},{"kty":"RSA"},{"kty":"?"},7,null,[]]}`)) },
	} {
		f.discovery.Store(nil)
		f.set.Store(&right)
		spoil()
		before := keys.keys.Load()
		if _, err := keys.get(t.Context()); err == nil {
			t.Errorf("%s: was taken", name)
		}
		if keys.keys.Load() != before {
			t.Errorf("%s: the keys changed", name)
		}
		if res := d.bearer(signJOSE(t, jose.ES256, key, "0", claims), now); res.Identity == nil {
			t.Errorf("%s: a good token: %v", name, res.Failure)
		}
	}
}

// TestWaitingForKeysSlowsNobody: while as many as may wait for an issuer that
// hangs, others of the same issuer are judged at once.
func TestWaitingForKeysSlowsNobody(t *testing.T) {
	a := testnet.NewAWS(t)
	d := newDesk(t, t.TempDir(), synced, orders(a), Caller{Name: "ci", KeyHashes: []KeyHash{HashKey("a key")}})
	d.known(a.Issuer)
	keys := d.book.issuers[a.Issuer].keys
	a.SetFault("issuer", testnet.AWSHangs)
	keys.mu.Lock()
	keys.tried = time.Now().Add(-refetchAfter)
	keys.mu.Unlock()
	rsaKey, ecKey := a.Keys()
	var wg sync.WaitGroup
	for i := range 2 * maxWaiting {
		token := testnet.SignJWT("RS256", map[string]any{"alg": "RS256", "kid": fmt.Sprint("unknown ", i)}, a.Claims(home), rsaKey, ecKey)
		wg.Go(func() {
			if res := d.bearer(token, time.Now()); res.Identity != nil || res.Failure.Forged() {
				t.Errorf("%v", res.Failure)
			}
		})
	}
	d.await("requests wait for the keys", func() bool {
		keys.mu.Lock()
		defer keys.mu.Unlock()
		return keys.waiting > 0
	})
	for range 100 {
		if res := d.bearer(a.Token(nil), time.Now()); res.Identity == nil {
			t.Fatal(res.Failure)
		}
		if res := d.bearer("a key", time.Now()); res.Identity == nil {
			t.Fatal(res.Failure)
		}
	}
	wg.Wait()
	keys.mu.Lock()
	waiting := keys.waiting
	keys.mu.Unlock()
	if waiting != 0 {
		t.Errorf("%d requests are still counted as waiting", waiting)
	}
}

// TestCacheIsBounded: refusals push out refusals alone.
func TestCacheIsBounded(t *testing.T) {
	var version atomic.Uint64
	c := newCache(&version, newMetrics(nil))
	now := time.Now()
	id := &Identity{Name: "orders"}
	good := [32]byte{1}
	c.add(&good, found(id), now.Add(time.Hour), 0, now)
	for i := range 3 * maxRefused {
		c.add(&[32]byte{2, byte(i), byte(i >> 8)}, refused(BadSignature), now.Add(time.Minute), 0, now)
	}
	if res, ok := c.find(&good, now); !ok || res.Identity != id {
		t.Error("a judged token was pushed out by bad ones")
	}
	if n := c.bad.used.Len(); n != maxRefused || len(c.bad.by) != maxRefused {
		t.Errorf("%d refusals are kept, want %d", n, maxRefused)
	}
	for i := range 2 * maxVerified {
		c.add(&[32]byte{3, byte(i), byte(i >> 8)}, found(id), now.Add(time.Hour), 0, now)
	}
	if n := c.good.used.Len(); n != maxVerified || len(c.good.by) != maxVerified {
		t.Errorf("%d tokens are kept, want %d", n, maxVerified)
	}
	version.Add(1)
	if _, ok := c.find(&[32]byte{3, 255, 31}, now); ok {
		t.Error("a token judged by other keys still counts")
	}
	if _, ok := c.find(&[32]byte{3, 254, 31}, now.Add(2*time.Hour)); ok {
		t.Error("a token that has ended still counts")
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	r, err := New(Config{Dir: t.TempDir(), Registerer: reg, Clock: synced})
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.Prepare([]Caller{{Name: "ci", KeyHashes: []KeyHash{HashKey("a key")}}})
	if err != nil {
		t.Fatal(err)
	}
	res := b.Identify(&Request{Fields: fields{}, Now: time.Now(), Credentials: Credentials{APIKey: "a key"}})
	res.Identity.Answered(200)
	res.Identity.Answered(0)
	b.Failed(BadSignature)
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	if n, err := testutil.GatherAndCount(reg, "postern_caller_requests_total"); n != 2 || err != nil {
		t.Error(n, err)
	}
	for f := range Failure(numFailures) {
		if reason, detail := f.Told(); f.String() == "" || reason == "" || detail == "" {
			t.Errorf("%d: %q %q %q", f, f, reason, detail)
		}
		if f.Forged() && failureTexts[f].tell {
			t.Errorf("%s: forgers are told why", f)
		}
	}
}
