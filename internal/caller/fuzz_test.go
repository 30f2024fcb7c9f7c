package caller

import (
	"strings"
	"testing"
	"time"
)

// FuzzCredentials sends anything as credentials: nobody becomes known, and
// nothing breaks.
func FuzzCredentials(f *testing.F) {
	for _, s := range []string{
		"Bearer a", "Bearer a.b.c", "Bearer pst1.e30.AAAA", "Bearer eyJhbGciOiJub25lIn0.eyJpc3MiOiJ4In0.", "Basic dTpw",
		"AWS4-HMAC-SHA256 Credential=shop-1/20261122/home/postern/aws4_request, SignedHeaders=host;x-amz-date, Signature=" + strings.Repeat("0", 64),
	} {
		f.Add(s, "a key", `sig=("@method");created=1;keyid="shop-1"`, "sig=:AAAA:", "/a%20b?x=+&y")
	}
	d := newDesk(f, f.TempDir(), synced, shop(true), Caller{Name: "gh", Token: &TokenRule{Issuer: "https://127.0.0.1:1", Audience: "x", Claims: map[string]string{"sub": "me"}}})
	now := time.Now()
	f.Fuzz(func(t *testing.T, authorization, key, input, signature, target string) {
		path, query, _ := strings.Cut(target, "?")
		for _, c := range []Credentials{{Authorization: authorization}, {APIKey: key}, {Signed: true}} {
			res := d.book.Identify(&Request{
				Method: "GET", Scheme: "https", Host: "a.test", Path: path, Query: query, Now: now, Credentials: c,
				Fields: fields{"X-Amz-Date": {now.UTC().Format(sigTime)}, "Signature-Input": {input}, "Signature": {signature}},
			})
			if res.Identity != nil || res.Body != nil {
				t.Fatalf("%+v made %v known", c, res.Identity)
			}
		}
	})
}

// FuzzPresigned: what is taken has each parameter once, and no others.
func FuzzPresigned(f *testing.F) {
	f.Add("Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=A%2F20261122%2Feu-west-1%2Fsts%2Faws4_request&X-Amz-Date=20261122T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host%3Bx-postern-aud&X-Amz-Signature=" + strings.Repeat("0", 64))
	f.Fuzz(func(t *testing.T, query string) {
		p, ok := parsePresigned(query, "eu-west-1")
		if !ok {
			return
		}
		if strings.Count(query, "Action=") != 1 || !strings.Contains(query, "Action=") || len(p.signature) != 64 {
			t.Fatalf("%q was taken", query)
		}
	})
}

// FuzzPattern: a pattern without "*" and "?" matches itself alone, and none
// matches what has other segments.
func FuzzPattern(f *testing.F) {
	f.Add("arn:aws:iam::1:role/orders*", "arn:aws:iam::1:role/orders/evil")
	f.Add("a*b*c", "abc")
	f.Fuzz(func(t *testing.T, pattern, text string) {
		got := matchPattern(pattern, text)
		if !strings.ContainsAny(pattern, "*?") && got != (pattern == text) {
			t.Fatalf("%q %q: %v", pattern, text, got)
		}
		seps := func(s string) string {
			return strings.Map(func(r rune) rune {
				if r == ':' || r == '/' {
					return r
				}
				return -1
			}, s)
		}
		if got && seps(pattern) != seps(text) {
			t.Fatalf("%q matched %q over a segment", pattern, text)
		}
	})
}
