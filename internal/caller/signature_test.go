package caller

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"postern/internal/testnet"
)

// shop signs with a key of its own.
func shop(unsigned bool) Caller {
	return Caller{Name: "shop", Signature: &SignatureKey{KeyID: "shop-1", Secret: "a secret of thirty-two characters", UnsignedPayload: unsigned}}
}

// awsSigned is a request that AWS's own signer has signed with the key of
// shop. Its body is not looked at by anybody.
func awsSigned(t testing.TB, method, target, body string, at time.Time, header http.Header, hash string) *Request {
	t.Helper()
	req, err := http.NewRequest(method, "https://home.example"+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	sum := sha256.Sum256([]byte(body))
	if hash == "" {
		hash = hex.EncodeToString(sum[:])
	} else {
		req.Header.Set("X-Amz-Content-Sha256", hash)
	}
	c := aws.Credentials{AccessKeyID: "shop-1", SecretAccessKey: "a secret of thirty-two characters"}
	if err := v4.NewSigner().SignHTTP(context.Background(), c, req, hash, "postern", "home", at); err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Length", fmt.Sprint(len(body)))
	}
	return requestOf(req, body, at)
}

// requestOf is what the proxy would make of a request.
func requestOf(req *http.Request, body string, now time.Time) *Request {
	return &Request{
		Method: req.Method, Scheme: "https", Host: req.URL.Host, Path: req.URL.EscapedPath(), Query: req.URL.RawQuery,
		Fields: fields(req.Header), HasBody: body != "", Now: now,
		Credentials: Credentials{Authorization: req.Header.Get("Authorization"), Signed: req.Header.Get("Signature-Input") != ""},
	}
}

// judge identifies and shows the body, as the proxy does.
func (d *desk) judge(r *Request, body string) Result {
	res := d.book.Identify(r)
	if res.Body != nil {
		res = res.Body.Finish([]byte(body))
	}
	return res
}

// TestSigV4 takes what AWS's signer made, whatever is in path and query.
func TestSigV4(t *testing.T) {
	d := newDesk(t, t.TempDir(), synced, shop(true))
	now := time.Now()
	for i, tc := range []struct{ method, target, body, hash string }{
		{"GET", "/", "", ""},
		{"GET", "/a/b", "", ""},
		{"GET", "/a%20b/%C3%A4?x=1", "", ""},
		{"GET", "/a+b?q=a+b", "", ""},
		{"GET", "/?b=2&a=1&a=0&c", "", ""},
		{"GET", "/?q=%C3%A4%2F%3D%26", "", ""},
		{"GET", "/?=x&y=", "", ""},
		{"POST", "/orders", `{"n":1}`, ""},
		{"POST", "/orders?dry=1", `{"n":1}`, "declared"},
		{"PUT", "/orders/1", "x", unsignedPayload},
		{"GET", "/", "", "declared"},
	} {
		hash := tc.hash
		if hash == "declared" {
			sum := sha256.Sum256([]byte(tc.body))
			hash = hex.EncodeToString(sum[:])
		}
		r := awsSigned(t, tc.method, tc.target, tc.body, now.Add(time.Duration(i)*time.Second), http.Header{"Content-Type": {"application/json"}}, hash)
		if res := d.judge(r, tc.body); res.Identity == nil || res.Identity.Name != "shop" || res.Identity.Method != Signature {
			t.Errorf("%s %s: %v", tc.method, tc.target, res.Failure)
		}
	}
}

// TestSigV4Attacks: none of these gets in.
func TestSigV4Attacks(t *testing.T) {
	d := newDesk(t, t.TempDir(), synced, shop(false))
	now := time.Now()
	at := now
	next := func() time.Time { at = at.Add(time.Second); return at } // equal requests of one second have equal signatures
	const body = `{"n":1}`
	good := func() *Request {
		return awsSigned(t, "POST", "/orders?a=1", body, next(), http.Header{"Content-Type": {"application/json"}, "Idempotency-Key": {"k"}}, "")
	}
	sum := sha256.Sum256([]byte(body))
	declared := func() *Request {
		return awsSigned(t, "POST", "/orders?a=1", body, next(), nil, hex.EncodeToString(sum[:]))
	}
	authorization := func(r *Request, old, fresh string) {
		r.Authorization = strings.Replace(r.Authorization, old, fresh, 1)
	}
	for _, tc := range []struct {
		name   string
		make   func() *Request
		change func(*Request)
		body   string
		want   Failure
	}{
		{"nothing", good, func(*Request) {}, body, NoCredentials},
		{"nothing, declared", declared, func(*Request) {}, body, NoCredentials},
		{"another method", good, func(r *Request) { r.Method = "DELETE" }, body, BadSignature},
		{"another path", good, func(r *Request) { r.Path = "/payments" }, body, BadSignature},
		{"the path spelled otherwise", good, func(r *Request) { r.Path = "/%6Frders" }, body, BadSignature},
		{"the path with two slashes", good, func(r *Request) { r.Path = "//orders" }, body, BadSignature},
		{"another query", good, func(r *Request) { r.Query = "a=2" }, body, BadSignature},
		{"more query", good, func(r *Request) { r.Query = "a=1&b=2" }, body, BadSignature},
		{"another host", good, func(r *Request) { r.Host = "other.example" }, body, BadSignature},
		{"another body", good, func(*Request) {}, `{"n":2}`, BadSignature},
		{"another body, declared", declared, func(*Request) {}, `{"n":2}`, BodyChanged},
		{"no body, declared", declared, func(r *Request) { r.HasBody = false }, "", BodyChanged},
		{"another idempotency key", good, func(r *Request) { r.Fields.(fields)["Idempotency-Key"] = []string{"j"} }, body, BadSignature},
		{"a second content type", good, func(r *Request) { r.Fields.(fields)["Content-Type"] = []string{"application/json", "text/html"} }, body, BadSignature},
		{"an unsigned nonce", good, func(r *Request) { r.Fields.(fields)["X-Postern-Nonce"] = []string{"n"} }, body, Incomplete},
		{"an unsigned hash", good, func(r *Request) { r.Fields.(fields)["X-Amz-Content-Sha256"] = []string{unsignedPayload} }, body, Incomplete},
		{"the payload left out", func() *Request { return awsSigned(t, "POST", "/", body, next(), nil, unsignedPayload) }, func(*Request) {}, body, Incomplete},
		{"a payload in chunks", func() *Request {
			return awsSigned(t, "POST", "/", body, next(), nil, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD")
		}, func(*Request) {}, body, Incomplete},
		{"two dates", good, func(r *Request) {
			f := r.Fields.(fields)
			f["X-Amz-Date"] = append(f["X-Amz-Date"], f["X-Amz-Date"][0])
		}, body, Malformed},
		{"no date", good, func(r *Request) { delete(r.Fields.(fields), "X-Amz-Date") }, body, Malformed},
		{"date of another day", good, func(r *Request) { r.Fields.(fields)["X-Amz-Date"] = []string{"20200101T000000Z"} }, body, Malformed},
		{"host not signed", good, func(r *Request) { authorization(r, "host;", "") }, body, Incomplete},
		{"names twice", good, func(r *Request) { authorization(r, "host;", "host;host;") }, body, Malformed},
		{"names in capitals", good, func(r *Request) { authorization(r, "host;", "Host;") }, body, Malformed},
		{"another key id", good, func(r *Request) { authorization(r, "shop-1/", "shop-2/") }, body, UnknownKey},
		{"no signature", good, func(r *Request) { r.Authorization = r.Authorization[:strings.Index(r.Authorization, "Signature=")] }, body, Malformed},
		{"a signature of zeroes", good, func(r *Request) {
			r.Authorization = r.Authorization[:len(r.Authorization)-64] + strings.Repeat("0", 64)
		}, body, BadSignature},
		{"a signature in capitals", good, func(r *Request) {
			r.Authorization = r.Authorization[:len(r.Authorization)-64] + strings.Repeat("A", 64)
		}, body, Malformed},
		{"two signatures", good, func(r *Request) { r.Authorization += ", Signature=" + strings.Repeat("0", 64) }, body, Malformed},
		{"of another service", good, func(r *Request) { authorization(r, "/postern/", "/s3/") }, body, NoCredentials},
		{"old", func() *Request { return awsSigned(t, "GET", "/", "", now.Add(-6*time.Minute), nil, "") }, func(r *Request) { r.Now = now }, "", Expired},
		{"of the future", func() *Request { return awsSigned(t, "GET", "/", "", now.Add(6*time.Minute), nil, "") }, func(r *Request) { r.Now = now }, "", NotYet},
		{"of before the start", func() *Request { return awsSigned(t, "GET", "/", "", now.Add(-time.Minute), nil, "") }, func(r *Request) { r.Now = now }, "", Expired},
	} {
		r := tc.make()
		tc.change(r)
		res := d.judge(r, tc.body)
		got := res.Identity != nil
		if want := tc.name == "nothing" || tc.name == "nothing, declared"; got != want || res.Failure != tc.want {
			t.Errorf("%s: %v, identity %v, want %v", tc.name, res.Failure, res.Identity, tc.want)
		}
	}
}

// TestSignatureCountsOnce: what was sent again is refused, also after the
// memory was turned over, and whoever floods it only makes it shorter.
func TestSignatureCountsOnce(t *testing.T) {
	d := newDesk(t, t.TempDir(), synced, shop(false))
	d.reg.replays.max = 10
	start := time.Now()
	first := awsSigned(t, "GET", "/", "", start.Add(time.Second), nil, "")
	if res := d.judge(first, ""); res.Identity == nil {
		t.Fatal(res.Failure)
	}
	if res := d.judge(first, ""); res.Failure != Replayed {
		t.Errorf("again: %v", res.Failure)
	}
	for i := range 40 {
		at := start.Add(time.Duration(i) * time.Second)
		r := awsSigned(t, "GET", "/flood", "", at, nil, "")
		if res := d.judge(r, ""); res.Identity == nil {
			t.Errorf("%d: %v", i, res.Failure)
		}
		first.Now = at
		if res := d.judge(first, ""); res.Identity != nil {
			t.Fatalf("taken twice after %d others", i)
		}
	}
	d.reg.replays.mu.Lock()
	held := len(d.reg.replays.now) + len(d.reg.replays.before)
	d.reg.replays.mu.Unlock()
	if held > 20 {
		t.Errorf("%d signatures are held, want at most 20", held)
	}
}

// messageSigned signs r by RFC 9421 with the components.
func messageSigned(t testing.TB, r *Request, params string, components []string, sign func(base string) []byte) {
	t.Helper()
	quoted := make([]string, len(components))
	for i, c := range components {
		quoted[i] = `"` + c + `"`
	}
	input := "(" + strings.Join(quoted, " ") + ")" + params
	f := r.Fields.(fields)
	f["Signature-Input"] = []string{"sig1=" + input}
	f["Signature"] = []string{"sig1=:" + base64.StdEncoding.EncodeToString(make([]byte, 32)) + ":"}
	r.Signed = true
	list, ok := messageSignatures(r)
	if !ok {
		t.Fatalf("%s is not read", input)
	}
	base, ok := list[0].base(r)
	if !ok {
		t.Fatal("no base")
	}
	if want := `"@signature-params": ` + input; !strings.HasSuffix(base, want) {
		t.Fatalf("the base ends otherwise than %s:\n%s", want, base)
	}
	f["Signature"] = []string{"sig1=:" + base64.StdEncoding.EncodeToString(sign(base)) + ":"}
}

// TestMessageSignatureVectors are those of RFC 9421 appendix B.2.
func TestMessageSignatureVectors(t *testing.T) {
	const digest = "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:"
	for _, tc := range []struct{ name, input, signature string }{
		{"B.2.5", `("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"`, "pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8="},
		{"B.2.6", `("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519"`, "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="},
	} {
		r := &Request{Method: "POST", Scheme: "https", Host: "example.com", Path: "/foo", Query: "param=Value&Pet=dog", HasBody: true, Fields: fields{
			"Date": {"Tue, 20 Apr 2021 02:07:55 GMT"}, "Content-Type": {"application/json"}, "Content-Length": {"18"}, "Content-Digest": {digest},
			"Signature-Input": {"sig=" + tc.input}, "Signature": {"sig=:" + tc.signature + ":"},
		}}
		list, ok := messageSignatures(r)
		if !ok {
			t.Fatalf("%s is not read", tc.name)
		}
		base, ok := list[0].base(r)
		if !ok {
			t.Fatalf("%s has no base", tc.name)
		}
		switch tc.name {
		case "B.2.5":
			secret, err := base64.StdEncoding.DecodeString("uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==")
			if err != nil {
				t.Fatal(err)
			}
			if got := base64.StdEncoding.EncodeToString(mac(secret, base)); got != tc.signature {
				t.Errorf("%s: %s, want %s of\n%s", tc.name, got, tc.signature, base)
			}
		case "B.2.6":
			public, err := base64.StdEncoding.DecodeString("JrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=")
			if err != nil || !ed25519.Verify(public, []byte(base), list[0].signature) {
				t.Errorf("%s: %v: the signature is not that of\n%s", tc.name, err, base)
			}
		}
	}
}

// TestMessageSignatures takes HMAC and Ed25519, and none of the attacks.
func TestMessageSignatures(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	d := newDesk(t, t.TempDir(), synced, shop(false),
		Caller{Name: "phone", Signature: &SignatureKey{KeyID: "phone-1", PublicKey: public}})
	now := time.Now()
	const body = `{"hello": "world"}`
	sum := sha256.Sum256([]byte(body))
	digest := "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
	hmacOf := func(base string) []byte { return mac([]byte("a secret of thirty-two characters"), base) }
	edOf := func(base string) []byte { return ed25519.Sign(private, []byte(base)) }
	n := 0
	request := func() *Request {
		u, _ := url.Parse("https://home.example/orders?a=1")
		return requestOf(&http.Request{Method: "POST", URL: u, Header: http.Header{"Content-Digest": {digest}, "Content-Type": {"application/json"}}}, body, now)
	}
	params := func(more string) string {
		n++
		return fmt.Sprintf(`;created=%d;nonce="n%d"%s`, now.Unix(), n, more)
	}
	const shopKey, phoneKey = `;keyid="shop-1"`, `;keyid="phone-1"`
	whole := []string{"@method", "@target-uri", "content-digest"}
	for _, tc := range []struct {
		name       string
		params     string
		components []string
		sign       func(string) []byte
		change     func(*Request)
		body       string
		want       Failure
	}{
		{"hmac", params(shopKey + `;alg="hmac-sha256"`), whole, hmacOf, nil, body, NoCredentials},
		{"hmac without alg", params(shopKey), whole, hmacOf, nil, body, NoCredentials},
		{"ed25519", params(phoneKey + `;alg="ed25519"`), whole, edOf, nil, body, NoCredentials},
		{"in parts", params(shopKey), []string{"@method", "@authority", "@path", "@query", "content-digest", "content-type"}, hmacOf, nil, body, NoCredentials},
		{"the request target", params(shopKey), []string{"@method", "@authority", "@request-target", "@scheme", "content-digest"}, hmacOf, nil, body, NoCredentials},
		{"the port of the scheme", params(shopKey), whole, hmacOf, func(r *Request) { r.Host = "Home.example:443" }, body, NoCredentials},
		{"hmac under the public key", params(phoneKey + `;alg="hmac-sha256"`), whole, func(b string) []byte { return mac(public, b) }, nil, body, BadAlgorithm},
		{"the public key as a secret", params(phoneKey), whole, func(b string) []byte { return mac(public, b) }, nil, body, BadSignature},
		{"ed25519 under the secret", params(shopKey + `;alg="ed25519"`), whole, edOf, nil, body, BadAlgorithm},
		{"alg none", params(shopKey + `;alg="none"`), whole, func(string) []byte { return nil }, nil, body, BadAlgorithm},
		{"an empty signature", params(shopKey), whole, func(string) []byte { return nil }, nil, body, BadSignature},
		{"nobody's key", params(`;keyid="x"`), whole, hmacOf, nil, body, UnknownKey},
		{"no key", params(""), whole, hmacOf, nil, body, UnknownKey},
		{"the method left out", params(shopKey), []string{"@target-uri", "content-digest"}, hmacOf, nil, body, Incomplete},
		{"the query left out", params(shopKey), []string{"@method", "@authority", "@path", "content-digest"}, hmacOf, nil, body, Incomplete},
		{"the body left out", params(shopKey), []string{"@method", "@target-uri"}, hmacOf, nil, body, Incomplete},
		{"another body", params(shopKey), whole, hmacOf, nil, "other", BodyChanged},
		{"another digest", params(shopKey), whole, hmacOf, func(r *Request) { r.Fields.(fields)["Content-Digest"] = []string{"sha-256=:AAAA:"} }, body, Incomplete},
		{"another path", params(shopKey), whole, hmacOf, func(r *Request) { r.Path = "/payments" }, body, BadSignature},
		{"another method", params(shopKey), whole, hmacOf, func(r *Request) { r.Method = "PUT" }, body, BadSignature},
		{"another host", params(shopKey), whole, hmacOf, func(r *Request) { r.Host = "other.example" }, body, BadSignature},
		{"old", fmt.Sprintf(`;created=%d`, now.Unix()-400) + shopKey, whole, hmacOf, nil, body, Expired},
		{"expired", params(shopKey + fmt.Sprintf(`;expires=%d`, now.Unix()-90)), whole, hmacOf, nil, body, Expired},
		{"of the future", fmt.Sprintf(`;created=%d`, now.Unix()+400) + shopKey, whole, hmacOf, nil, body, NotYet},
		{"the same nonce", fmt.Sprintf(`;created=%d;nonce="n1"`, now.Unix()) + shopKey, []string{"@method", "@target-uri", "content-digest", "content-type"}, hmacOf, nil, body, Replayed},
	} {
		r := request()
		messageSigned(t, r, tc.params, tc.components, tc.sign)
		if tc.change != nil {
			tc.change(r)
		}
		if res := d.judge(r, tc.body); (res.Identity != nil) != (tc.want == NoCredentials) || res.Failure != tc.want {
			t.Errorf("%s: %v, identity %v, want %v", tc.name, res.Failure, res.Identity, tc.want)
		} else if res.Identity != nil {
			if again := d.judge(r, tc.body); again.Failure != Replayed {
				t.Errorf("%s, again: %v", tc.name, again.Failure)
			}
		}
	}
	for _, input := range []string{
		"", "sig1", "sig1=()", "sig1=(\"@method\")", `sig1=("@method");created="now"`, `sig1=("@method" "@method");created=1`,
		`sig1=("@method";req);created=1`, `sig1=("Content-Type");created=1`, `sig1=(@method);created=1`, `sig1=1`, strings.Repeat("(", 4000),
	} {
		r := request()
		r.Fields.(fields)["Signature-Input"], r.Fields.(fields)["Signature"], r.Signed = []string{input}, []string{"sig1=:AAAA:"}, true
		if res := d.judge(r, body); res.Identity != nil || res.Failure != Malformed {
			t.Errorf("%q: %v", input, res.Failure)
		}
	}
}

// TestKeyBinding: a token that is bound to a key is worth nothing without it.
func TestKeyBinding(t *testing.T) {
	a := testnet.NewAWS(t)
	bound := orders(a)
	bound.AWS.Bound = true
	d := newDesk(t, t.TempDir(), synced, bound)
	d.known(a.Issuer)
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, otherPrivate, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	token := a.Token(awsClaims(map[string]any{"request_tags": map[string]any{"cnf": thumbprintOf(public)}}))
	now := time.Now()
	if res := d.bearer(a.Token(nil), now); res.Failure != NotBound {
		t.Errorf("a token without a key: %v", res.Failure)
	}
	request := func() *Request {
		u, _ := url.Parse("https://home.example/orders")
		return requestOf(&http.Request{Method: "GET", URL: u, Header: http.Header{"Authorization": {"Bearer " + token}}}, "", now)
	}
	params := func(key ed25519.PublicKey, nonce string) string {
		return fmt.Sprintf(`;created=%d;nonce="%s";keyid="%s"`, now.Unix(), nonce, base64.RawURLEncoding.EncodeToString(key))
	}
	parts := []string{"@method", "@target-uri", "authorization"}
	for i := range 2 { // the second time from the cache
		r := request()
		if res := d.judge(r, ""); res.Failure != NotBound {
			t.Errorf("stolen: %v", res.Failure)
		}
		messageSigned(t, r, params(public, fmt.Sprint("a", i)), parts, func(b string) []byte { return ed25519.Sign(private, []byte(b)) })
		if res := d.judge(r, ""); res.Identity == nil {
			t.Errorf("with its key: %v", res.Failure)
		}
		if res := d.judge(r, ""); res.Failure != Replayed {
			t.Errorf("again: %v", res.Failure)
		}
		r = request()
		messageSigned(t, r, params(other, fmt.Sprint("b", i)), parts, func(b string) []byte { return ed25519.Sign(otherPrivate, []byte(b)) })
		if res := d.judge(r, ""); res.Failure != NotBound {
			t.Errorf("with another key: %v", res.Failure)
		}
		r = request()
		messageSigned(t, r, params(public, fmt.Sprint("c", i)), parts, func(b string) []byte { return ed25519.Sign(otherPrivate, []byte(b)) })
		if res := d.judge(r, ""); res.Failure != BadSignature {
			t.Errorf("under its key's name: %v", res.Failure)
		}
	}
}
