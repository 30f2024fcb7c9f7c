package dnsapi

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"postern/internal/testnet"
)

func TestNewRefuses(t *testing.T) {
	for _, c := range []struct {
		name, provider string
		s              Settings
		want           string
	}{
		{"unknown", "godaddy", Settings{}, `dns provider "godaddy" is unknown, want one of acme-dns, cloudflare, desec, digitalocean, duckdns, dynv6, gandi, hetzner, porkbun, rfc2136, route53`},
		{"only for addresses", "dyndns2", Settings{}, `dns provider "dyndns2" is unknown, want one of acme-dns, cloudflare, desec, digitalocean, duckdns, dynv6, gandi, hetzner, porkbun, rfc2136, route53`},
		{"no token", "duckdns", Settings{}, "dns provider duckdns: token is missing, want token"},
		{"half a pair", "route53", Settings{Key: "AKIA"}, "dns provider route53: secret is missing, want key, secret"},
		{"no endpoint", "acme-dns", Settings{Key: "u", Secret: "p", Subdomain: "s"}, "dns provider acme-dns: endpoint is missing, want endpoint, key, secret, subdomain"},
		{"a newline", "desec", Settings{Token: goodToken + "\n"}, "dns provider desec: token has a space or a character that no such text has; copy it again"},
		{"no URL", "desec", Settings{Token: goodToken, Endpoint: "desec.io"}, `dns provider desec: endpoint "desec.io" is not a URL, want one such as https://api.example.org`},
		{"a user", "desec", Settings{Token: goodToken, Endpoint: "https://u:" + goodToken + "@desec.io"}, "dns provider desec: endpoint has more than host and path, want one such as https://api.example.org"},
		{"a user, no URL", "desec", Settings{Token: goodToken, Endpoint: "u:" + goodToken + "@desec.io"}, `dns provider desec: endpoint "…@desec.io" is not a URL, want one such as https://api.example.org`},
		{"a URL", "rfc2136", Settings{Key: "k", Secret: "c2VjcmV0", Endpoint: "https://ns1.example.org"}, "dns provider rfc2136: endpoint is a URL, want the host or host:port of the zone's primary server"},
		{"not base64", "rfc2136", Settings{Key: "k", Secret: goodToken, Endpoint: "ns1"}, "dns provider rfc2136: secret is not base64, want it as in the server's key file"},
		{"md5", "rfc2136", Settings{Key: "k", Secret: "c2VjcmV0", Endpoint: "ns1", Algorithm: "hmac-md5"}, `dns provider rfc2136: algorithm "hmac-md5" is unknown, want hmac-sha256, hmac-sha512, hmac-sha384, hmac-sha224 or hmac-sha1`},
	} {
		_, err := New(c.provider, c.s)
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: %v\nwant %s", c.name, err, c.want)
		}
	}
	if !slices.IsSorted(Names()) || len(Names()) != 11 {
		t.Errorf("names %q", Names())
	}
}

// TestOwnEndpoints: without an endpoint the hosts' own addresses are used,
// over https.
func TestOwnEndpoints(t *testing.T) {
	want := map[string]string{
		"duckdns": "https://www.duckdns.org", "desec": "https://desec.io", "cloudflare": "https://api.cloudflare.com",
		"route53": "https://route53.amazonaws.com", "dynv6": "https://dynv6.com", "porkbun": "https://api.porkbun.com",
		"gandi": "https://api.gandi.net", "hetzner": "https://api.hetzner.cloud", "digitalocean": "https://api.digitalocean.com",
	}
	for _, s := range subjects() {
		p, err := New(s.provider, s.settings)
		if s.provider == "acme-dns" {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var a *api
		switch p := p.(type) {
		case *duckDNS:
			a = p.api
		case *sets:
			a = p.api
		case *dynv6Zone:
			a = p.api
		}
		if a == nil || a.base.String() != want[s.provider] {
			t.Errorf("%s: base %v, want %s", s.provider, a, want[s.provider])
		}
	}
}

// TestSigV4 is the example of AWS's own documentation ("Examples of the
// complete Signature Version 4 signing process", GET ListUsers).
func TestSigV4(t *testing.T) {
	r, err := http.NewRequest(http.MethodGet, "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	k := awsKey{id: "AKIDEXAMPLE", secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", region: "us-east-1", service: "iam", signer: v4.NewSigner()}
	if err := k.sign(r, nil, time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
	const want = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, " +
		"SignedHeaders=content-type;host;x-amz-date, Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
	if got := r.Header.Get("Authorization"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	k.session = "token/1"
	if err := k.sign(r, nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(r.Header.Get("Authorization"), "x-amz-security-token") {
		t.Error("the session token is not signed")
	}
}

func TestRoute53Throttling(t *testing.T) {
	h, url := newHost(t, "route53")
	h.BreakWith(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/xml")
		w.WriteHeader(400)
		_, _ = w.Write([]byte(`<ErrorResponse><Error><Type>Sender</Type><Code>Throttling</Code><Message>Rate exceeded</Message></Error></ErrorResponse>`))
	})
	p := mustNew(t, "route53", Settings{Key: testnet.HostKey, Secret: goodToken, Zone: "/hostedzone/Z1D633PJN98FT9"}, url)
	expect(t, "throttled", p.AddTXT(t.Context(), home, values1), ErrLimited)
	h.BreakWith(nil)
	if err := p.AddTXT(t.Context(), home, values1); err != nil { // the zone was configured: no look-up
		t.Fatal(err)
	}
	if n := len(h.Calls()); n != 3 {
		t.Errorf("%d calls %q, want 3", n, h.Calls())
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name, value string
		want        time.Duration
	}{
		{"Retry-After", "30", 30 * time.Second},
		{"Retry-After", "Sun, 22 Nov 2026 12:01:00 GMT", time.Minute},
		{"Retry-After", "Sun, 22 Nov 2026 11:01:00 GMT", 0},
		{"Retry-After", "99999999999", 24 * time.Hour},
		{"Retry-After", "-5", 0},
		{"Retry-After", "soon", 0},
		{"Ratelimit-Reset", fmt.Sprint(now.Unix() + 10), 10 * time.Second},
		{"Ratelimit-Reset", "60", 0},
	} {
		if got := retryAfter(http.Header{c.name: {c.value}}, now); got != c.want {
			t.Errorf("%s: %s: %v, want %v", c.name, c.value, got, c.want)
		}
	}
}

func TestErrorText(t *testing.T) {
	e := &Error{Provider: "desec", Op: "add TXT to x", Kind: ErrLimited, Status: 429, Detail: "slow\ndown", RetryAfter: 3 * time.Second}
	if got, want := e.Error(), `desec: add TXT to x: rate limited: HTTP 429: "slow\ndown"; try again in 3s`; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func TestNames(t *testing.T) {
	if got := ancestors("_acme-challenge.a.b.example.org"); !slices.Equal(got, []string{"a.b.example.org", "b.example.org", "example.org"}) {
		t.Errorf("ancestors %q", got)
	}
	if got := ancestors("org"); got != nil {
		t.Errorf("ancestors of org %q", got)
	}
	if got := nearest("x.a.example.org", []string{"example.org", "A.example.org.", "le.org", "org.x", ""}); got != "a.example.org" {
		t.Errorf("nearest %q", got)
	}
	if got := nearest("notexample.org", []string{"example.org"}); got != "" {
		t.Errorf("nearest %q, want none", got)
	}
	for _, s := range []string{"abc", `a"b\c`, ""} {
		if got := unquote(quote(s)); got != s {
			t.Errorf("quote and back: %q, want %q", got, s)
		}
	}
}

// FuzzAnswer: whatever a host or the network sends, an error is one of the
// three kinds, bounded, and without the token.
func FuzzAnswer(f *testing.F) {
	f.Add(404, "text/html", testnet.Jetty404)
	f.Add(400, "application/json", `{"errors":[{"code":1,"message":"x"}]}`)
	f.Add(400, "text/xml", `<ErrorResponse><Error><Code>A</Code><Message>B</Message></Error></ErrorResponse>`)
	f.Add(200, "", "KO")
	f.Add(422, "", `{"error":{"message":{"message":[["`+goodToken+`"]]}}}`)
	f.Add(429, "application/json", `[[[[[[[["a"]]]]]]]]`)
	a := &api{provider: "x", secrets: []string{goodToken}}
	f.Fuzz(func(t *testing.T, status int, kind, body string) {
		h := http.Header{"Content-Type": {kind}, "Retry-After": {kind}}
		err := a.judge("ask", answer{status, h, []byte(body)})
		if err == nil {
			if status < 200 || status > 299 {
				t.Errorf("status %d is taken for success", status)
			}
			return
		}
		e := expect(t, "fuzz", &Error{Provider: "x", Kind: err.(*Error).Kind, Detail: strings.ReplaceAll(err.(*Error).Detail, "://", "")}, err.(*Error).Kind)
		if len(e.Detail) > 250 || strings.Contains(err.Error(), goodToken) || strings.ContainsAny(err.Error(), "\n\r\x00") {
			t.Errorf("the error is %q", err)
		}
	})
}
