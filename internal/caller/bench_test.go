package caller

import (
	"testing"
	"time"

	"postern/internal/testnet"
)

// BenchmarkIdentify is what a request costs that brings credentials which were
// seen before.
func BenchmarkIdentify(b *testing.B) {
	a := testnet.NewAWS(b)
	key, _ := newKey()
	d := newDesk(b, b.TempDir(), synced, orders(a), Caller{Name: "ci", KeyHashes: []KeyHash{HashKey(key)}})
	d.known(a.Issuer)
	for _, bb := range []struct {
		name, credential string
		memo             *Memo
	}{{"api_key", key, new(Memo)}, {"aws_jwt_cached", a.Token(nil), nil}, {"aws_jwt_same_connection", a.Token(nil), new(Memo)}} {
		r := &Request{Memo: bb.memo, Method: "GET", Path: "/", Fields: fields{}, Now: time.Now(), Credentials: Credentials{Authorization: "Bearer " + bb.credential}}
		if res := d.book.Identify(r); res.Identity == nil {
			b.Fatal(res.Failure)
		}
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				d.book.Identify(r)
			}
		})
	}
	b.Run("aws_jwt_first", func(b *testing.B) {
		token := a.Token(nil)
		r := &Request{Method: "GET", Path: "/", Fields: fields{}, Now: time.Now()}
		b.ReportAllocs()
		for b.Loop() {
			d.book.verify(r, token)
		}
	})
}

// TestIdentifyAllocatesNothing holds the way of known credentials to its
// promise.
func TestIdentifyAllocatesNothing(t *testing.T) {
	a := testnet.NewAWS(t)
	key, _ := newKey()
	d := newDesk(t, t.TempDir(), synced, orders(a), Caller{Name: "ci", KeyHashes: []KeyHash{HashKey(key)}})
	d.known(a.Issuer)
	token := a.Token(nil)
	f := fields{}
	now := time.Now()
	for _, credential := range []string{key, token} {
		if n := testing.AllocsPerRun(200, func() {
			r := Request{Method: "GET", Path: "/", Fields: f, Now: now, Credentials: Credentials{Authorization: "Bearer " + credential}}
			if d.book.Identify(&r).Identity == nil {
				t.Fatal("unknown")
			}
		}); n > 1 { // the text of the field itself
			t.Errorf("%v allocations", n-1)
		}
	}
}
