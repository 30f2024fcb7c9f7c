package caller

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"postern/internal/testnet"
)

// byHand is a caller in an account that issues no tokens.
func byHand(a *testnet.AWS) Caller {
	return Caller{Name: "orders", AWS: &AWS{
		Audience: "home.example", Roots: string(a.RootPEM), Role: "arn:aws:iam::123456789012:role/service/orders*",
		STSRegion: testnet.AWSRegion, STSEndpoint: a.URL,
	}}
}

// presign makes a presigned request as boto3 and smithy do.
func presign(t testing.TB, a *testnet.AWS, key testnet.AWSKey, query, audience string, at time.Time) string {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, a.URL+"/?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	if audience != "" {
		r.Header.Set(STSAudienceHeader, audience)
	}
	sum := sha256.Sum256(nil)
	c := aws.Credentials{AccessKeyID: key.ID, SecretAccessKey: key.Secret, SessionToken: key.Session}
	link, _, err := v4.NewSigner().PresignHTTP(context.Background(), c, r, hex.EncodeToString(sum[:]), "sts", testnet.AWSRegion, at)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

const identityQuery = "Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Expires=60"

func TestExchange(t *testing.T) {
	a := testnet.NewAWS(t)
	dir := t.TempDir()
	d := newDesk(t, dir, synced, byHand(a))
	now := time.Now()
	link := presign(t, a, a.Lambda, identityQuery, "home.example", now.Add(time.Second))
	got, f := d.book.Exchange(link, now)
	if f != NoCredentials || got.Identity.Name != "orders" {
		t.Fatal(f)
	}
	for range 2 { // the second time from the cache
		res := d.bearer(got.Token, now)
		if res.Identity == nil || res.Identity.Method != AWSIdentity || res.Identity.Name != "orders" {
			t.Fatal(res.Failure)
		}
	}
	if _, f := d.book.Exchange(link, now); f != Replayed {
		t.Errorf("again: %v", f)
	}
	if n := a.Calls("sts:GetCallerIdentity"); n > 2 {
		t.Errorf("STS was asked %d times", n)
	}
	if res := d.bearer(got.Token, now.Add(ownTokenLife+time.Second)); res.Failure != Expired {
		t.Errorf("after its end: %v", res.Failure)
	}
	for _, bad := range []string{got.Token + "x", got.Token[:len(got.Token)-4] + "AAAA", "pst1.e30." + strings.Split(got.Token, ".")[2], "pst1.", "pst1.x", "pst1.." + strings.Split(got.Token, ".")[2]} {
		if res := d.bearer(bad, now); res.Identity != nil {
			t.Errorf("%s got in", bad)
		}
	}
	d.stop()
	again := newDesk(t, dir, synced, byHand(a))
	if res := again.bearer(got.Token, now); res.Identity == nil {
		t.Errorf("after a restart: %v", res.Failure)
	}
	other := byHand(a)
	other.AWS.Role = "arn:aws:iam::123456789012:role/payments"
	if book, err := again.reg.Prepare([]Caller{other}); err != nil {
		t.Fatal(err)
	} else if res := book.Identify(&Request{Fields: fields{}, Now: now, Credentials: Credentials{Authorization: "Bearer " + got.Token}}); res.Failure != NotListed {
		t.Errorf("after the role was taken out of the configuration: %v", res.Failure)
	}
}

// TestExchangeAttacks: none of these gets a token, and what is not as it must
// be is not sent to STS.
func TestExchangeAttacks(t *testing.T) {
	a := testnet.NewAWS(t)
	d := newDesk(t, t.TempDir(), synced, byHand(a))
	now := time.Now()
	good := func() string { return presign(t, a, a.Lambda, identityQuery, "home.example", now.Add(time.Second)) }
	for _, tc := range []struct {
		name, link string
		want       Failure
		asked      bool
	}{
		{"another host", strings.Replace(good(), a.URL, "https://sts.evil.example", 1), Malformed, false},
		{"another host that begins so", strings.Replace(good(), a.URL, a.URL+".evil.example", 1), Malformed, false},
		{"user info", strings.Replace(good(), "https://", "https://x@", 1), Malformed, false},
		{"the global endpoint", strings.Replace(good(), a.URL, "https://sts.amazonaws.com", 1), Malformed, false},
		{"another path", strings.Replace(good(), "/?", "/x?", 1), Malformed, false},
		{"another action", presign(t, a, a.Lambda, strings.Replace(identityQuery, "GetCallerIdentity", "GetWebIdentityToken", 1), "home.example", now), Malformed, false},
		{"two actions", good() + "&Action=AssumeRole", Malformed, false},
		{"an action spelled otherwise", strings.Replace(good(), "Action=", "%41ction=", 1), Malformed, false},
		{"one parameter more", good() + "&RoleArn=x", Malformed, false},
		{"a fragment", good() + "#x", Malformed, false},
		{"the audience not signed", presign(t, a, a.Lambda, identityQuery, "", now), Malformed, false},
		{"old", presign(t, a, a.Lambda, identityQuery, "home.example", now.Add(-6*time.Minute)), Expired, false},
		{"of the future", presign(t, a, a.Lambda, identityQuery, "home.example", now.Add(6*time.Minute)), NotYet, false},
		{"good for days", presign(t, a, a.Lambda, strings.Replace(identityQuery, "=60", "=604800", 1), "home.example", now), Malformed, false},
		{"too long", good() + strings.Repeat("x", MaxPresigned), Malformed, false},
		{"made for another house", presign(t, a, a.Lambda, identityQuery, "other.example", now.Add(time.Second)), BadSignature, true},
		{"a signature of zeroes", good()[:len(good())-64] + strings.Repeat("0", 64), BadSignature, true},
		{"a user", presign(t, a, a.Publisher, identityQuery, "home.example", now.Add(time.Second)), NotListed, true},
	} {
		before := a.Calls("sts:GetCallerIdentity") + a.Calls("refused") + len(a.Refused())
		got, f := d.book.Exchange(tc.link, now)
		if got.Token != "" || f != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, f, tc.want)
		}
		if asked := a.Calls("sts:GetCallerIdentity")+a.Calls("refused")+len(a.Refused()) > before; asked != tc.asked {
			t.Errorf("%s: STS was asked: %v", tc.name, asked)
		}
	}
	for arn, want := range map[string]bool{
		"arn:aws:sts::123456789012:assumed-role/orders/fn":         true,
		"arn:aws:sts::123456789012:assumed-role/orders-eu/fn":      true,
		"arn:aws:sts::123456789012:assumed-role/payments/orders":   false,
		"arn:aws:sts::123456789012:assumed-role/orders/a/b":        false,
		"arn:aws:sts::123456789012:assumed-role/orders":            false,
		"arn:aws:sts::123456789012:assumed-role//orders":           false,
		"arn:aws:sts::123456789012:assumed-role/orders/x:y":        false,
		"arn:aws:sts:eu-west-1:123456789012:assumed-role/orders/x": false,
		"arn:aws-cn:sts::123456789012:assumed-role/orders/fn":      false,
		"arn:aws:sts::210987654321:assumed-role/orders/fn":         false,
		"arn:aws:sts::123456789012:federated-user/orders":          false,
		"arn:aws:iam::123456789012:role/orders":                    false,
		"":                                                         false,
	} {
		if got := (awsPrincipal{"123456789012", arn}).is(byHand(a).AWS); got != want {
			t.Errorf("%s: %v, want %v", arn, got, want)
		}
	}
}

// TestSTSHangs: it holds up a bounded number of those who ask, and nobody else.
func TestSTSHangs(t *testing.T) {
	a := testnet.NewAWS(t)
	shopCaller := shop(false)
	d := newDesk(t, t.TempDir(), synced, byHand(a), shopCaller)
	a.SetFault("sts", testnet.AWSHangs)
	now := time.Now()
	var wg sync.WaitGroup
	for range maxSTSCalls {
		link := presign(t, a, a.Lambda, identityQuery, "home.example", now)
		wg.Go(func() {
			if _, f := d.book.Exchange(link, now); f != KeysUnavailable || !f.Temporary() {
				t.Errorf("hanging: %v", f)
			}
		})
	}
	d.await("all calls are under way", func() bool { return a.Calls("sts:hung") == maxSTSCalls })
	if _, f := d.book.Exchange(presign(t, a, a.Lambda, identityQuery, "home.example", now), now); f != Busy {
		t.Errorf("one more: %v", f)
	}
	if res := d.judge(awsSigned(t, "GET", "/", "", now.Add(time.Second), nil, ""), ""); res.Identity == nil {
		t.Errorf("another caller meanwhile: %v", res.Failure)
	}
	wg.Wait()
	for _, fault := range []testnet.AWSFault{testnet.AWSBroken, testnet.AWSThrottled, testnet.AWSWrongShape} {
		a.SetFault("sts", fault)
		if _, f := d.book.Exchange(presign(t, a, a.Lambda, identityQuery, "home.example", now), now); f == NoCredentials || f.Forged() {
			t.Errorf("%s: %v", fault, f)
		}
	}
}
