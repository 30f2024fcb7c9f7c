package awsip

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestOverlaps(t *testing.T) {
	s := newSet([]netip.Prefix{netip.MustParsePrefix("192.0.2.64/26"), netip.MustParsePrefix("255.255.255.0/24"), netip.MustParsePrefix("2001:db8:0:10::/60")})
	for p, want := range map[string]bool{
		"192.0.2.0/24": true, "192.0.2.64/32": true, "192.0.2.127/32": true, "192.0.2.63/32": false, "192.0.2.128/32": false, "192.0.2.128/25": false,
		"192.0.0.0/16": true, "0.0.0.0/0": true, "255.255.255.255/32": true, "255.255.254.0/24": false, "192.0.3.0/24": false,
		"2001:db8::/48": true, "2001:db8:0:10::/64": true, "2001:db8:0:1f::/64": true, "2001:db8:0:20::/64": false, "2001:db8:1::/48": false, "::/0": true,
	} {
		if got := s.Overlaps(netip.MustParsePrefix(p)); got != want {
			t.Errorf("%s: %t, want %t", p, got, want)
		}
	}
	if s.Overlaps(netip.Prefix{}) {
		t.Error("no network has an address of AWS")
	}
}

func TestShipped(t *testing.T) {
	s := Shipped()
	for text, want := range map[string]bool{
		"3.5.140.1": true, "54.64.0.1": true, "54.95.255.255": true, "18.192.3.4": true, "::ffff:52.0.0.1": true,
		"13.224.1.1": true, "2600:1f18:1::5": true, "2a05:d018::1": true, "2a05:d07f:ffff::1": true,
		"192.0.2.1": false, "8.8.8.8": false, "1.1.1.1": false, "203.0.113.7": false, "2001:db8::1": false,
		"2a05:d080::1": false, "10.0.0.1": false, "127.0.0.1": false, "::1": false, "0.0.0.0": false, "255.255.255.255": false,
	} {
		if got := s.Has(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
	if s.Has(netip.Addr{}) {
		t.Error("the zero address is AWS's")
	}
	if s.Len() < 400 {
		t.Errorf("%d spans, want at least 400", s.Len())
	}
}

// The set against a list of its networks, at their edges and at random.
func TestSetAgainstModel(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	var nets []netip.Prefix
	for range 300 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], r.Uint32N(1<<20)<<8)
		nets = append(nets, netip.PrefixFrom(netip.AddrFrom4(b), 12+r.IntN(21)))
		var w [16]byte
		binary.BigEndian.PutUint64(w[:8], 0x2600_0000_0000_0000|r.Uint64N(1<<30)<<16)
		nets = append(nets, netip.PrefixFrom(netip.AddrFrom16(w), 30+r.IntN(35)))
	}
	s := newSet(nets)
	check := func(a netip.Addr) {
		t.Helper()
		want := false
		for _, p := range nets {
			want = want || p.Masked().Contains(a)
		}
		if got := s.Has(a); got != want {
			t.Fatalf("%s: %v, want %v", a, got, want)
		}
	}
	for _, p := range nets {
		first := p.Masked().Addr()
		check(first)
		check(first.Prev())
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], r.Uint32())
		check(netip.AddrFrom4(b))
	}
}

func TestHasAllocatesNothing(t *testing.T) {
	r := New(Config{})
	a, b := netip.MustParseAddr("54.64.0.1"), netip.MustParseAddr("2600:1f18::1")
	if n := testing.AllocsPerRun(100, func() { r.Has(a); r.Has(b) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkHas(b *testing.B) {
	r := New(Config{})
	a := netip.MustParseAddr("203.0.113.9")
	b.ReportAllocs()
	for b.Loop() {
		r.Has(a)
	}
}

// list makes ip-ranges.json with n networks of 198.18.0.0/15 and one more.
func list(n int, more string) string {
	var b strings.Builder
	b.WriteString(`{"syncToken":"1","createDate":"2026-01-01-00-00-00","prefixes":[{"ip_prefix":"` + more + `","region":"x","service":"EC2"}`)
	for i := range n {
		fmt.Fprintf(&b, `,{"ip_prefix":"198.18.%d.%d/32","service":"EC2"}`, i/256, i%256)
	}
	b.WriteString(`],"ipv6_prefixes":[{"ipv6_prefix":"2001:db8:77::/48","service":"EC2"}]}`)
	return b.String()
}

// fakeAWS answers with what it holds, and knows its entity tag.
type fakeAWS struct {
	*httptest.Server
	body   atomic.Pointer[string]
	status atomic.Int32
	asked  atomic.Int32
	same   atomic.Int32
}

func newFakeAWS(t *testing.T) *fakeAWS {
	f := &fakeAWS{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.asked.Add(1)
		body := *f.body.Load()
		tag := fmt.Sprintf(`"%d"`, len(body))
		if r.Header.Get("If-None-Match") == tag {
			f.same.Add(1)
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Header().Set("ETag", tag)
		w.WriteHeader(int(f.status.Load()))
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(f.Close)
	f.set(200, list(600, "198.51.100.0/24"))
	return f
}

func (f *fakeAWS) set(status int, body string) {
	f.body.Store(&body)
	f.status.Store(int32(status))
}

// The list is read, kept, asked for by its tag, and survives a restart and
// every kind of trouble.
func TestRefresh(t *testing.T) {
	aws := newFakeAWS(t)
	file := filepath.Join(t.TempDir(), "aws-ranges.json")
	reg := prometheus.NewPedanticRegistry()
	r := New(Config{URL: aws.URL, File: file, Metrics: reg})
	in, shipped := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("54.64.0.1")
	if r.Has(in) || !r.Has(shipped) {
		t.Fatal("not the shipped copy to begin with")
	}
	refresh := func(r *Ranges, ok bool) {
		t.Helper()
		if err := r.Refresh(context.Background()); (err == nil) != ok {
			t.Errorf("refresh: %v", err)
		}
		if st := r.Status(); (st.Err == nil) != ok || st.Spans == 0 {
			t.Errorf("status %+v", st)
		}
	}
	refresh(r, true)
	if !r.Has(in) || r.Has(shipped) || !r.Has(netip.MustParseAddr("2001:db8:77::1")) {
		t.Error("the list read is not in use")
	}
	refresh(r, true)
	if aws.same.Load() != 1 {
		t.Errorf("%d answers were 304, want 1", aws.same.Load())
	}
	for _, bad := range []string{
		"", "<html>", "{}", `{"syncToken":"1"}`, list(100, "198.51.100.0/24"), list(600, "0.0.0.0/0"), list(600, "128.0.0.0/1"),
		list(600, "2001:db8::/48"), list(600, "not a network"),
	} {
		aws.set(200, bad)
		refresh(r, false)
	}
	aws.set(503, "later")
	refresh(r, false)
	aws.CloseClientConnections()
	if !r.Has(in) {
		t.Error("the last good list is gone")
	}

	// The next run begins with it, and asks by its tag.
	again := New(Config{URL: aws.URL, File: file})
	again.Load()
	if !again.Has(in) || again.Status().Read.IsZero() {
		t.Error("the kept list is not in use after a restart")
	}
	aws.set(200, list(600, "198.51.100.0/24"))
	before := aws.same.Load()
	refresh(again, true)
	if aws.same.Load() != before+1 {
		t.Error("not asked by the tag of the kept list")
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}

// A damaged file is no obstacle.
func TestLoadDamaged(t *testing.T) {
	for _, text := range []string{"", "{", `{"version":2}`, `{"version":1,"list":{"syncToken":"1"}}`} {
		file := filepath.Join(t.TempDir(), "aws-ranges.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := New(Config{File: file})
		r.Load()
		if !r.Has(netip.MustParseAddr("54.64.0.1")) {
			t.Errorf("%q: the shipped copy is not in use", text)
		}
	}
	r := New(Config{File: filepath.Join(t.TempDir(), "absent")})
	r.Load()
}

// roundTrip is a transport in virtual time.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Asked once a day, not at the start, and more often while it fails.
func TestRunTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		var fail atomic.Bool
		fail.Store(true)
		client := &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
			asked.Add(1)
			if fail.Load() {
				return nil, io.ErrUnexpectedEOF
			}
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(list(600, "198.51.100.0/24")))}, nil
		})}
		r := New(Config{Client: client})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(afterStart - time.Second)
		synctest.Wait()
		if asked.Load() != 0 {
			t.Error("asked right after the start")
		}
		time.Sleep(spread + time.Second)
		synctest.Wait()
		if asked.Load() != 1 {
			t.Errorf("asked %d times in 20 minutes, want once", asked.Load())
		}
		fail.Store(false)
		time.Sleep(retryFirst + spread)
		synctest.Wait()
		if asked.Load() != 2 || r.Status().Err != nil {
			t.Errorf("asked %d times, want a second try; %+v", asked.Load(), r.Status())
		}
		time.Sleep(7 * (every + spread))
		synctest.Wait()
		if n := asked.Load() - 2; n != 7 {
			t.Errorf("asked %d times in 7 days, want 7", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A list that was read in the future, as far as a clock that is not set yet
// can tell, is read again within a day.
func TestRunBeforeTheClockIsSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		r := New(Config{Client: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
			asked++
			return nil, io.ErrUnexpectedEOF
		})}})
		r.status.Read = time.Now().AddDate(26, 0, 0)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(every + spread + time.Second)
		synctest.Wait()
		if asked == 0 {
			t.Error("not asked within a day")
		}
		cancel()
		<-done
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(list(600, "198.51.100.0/24")))
	f.Add([]byte(`{"syncToken":"1","prefixes":[{"ip_prefix":"0.0.0.0/0"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parse(data)
		if err != nil {
			return
		}
		if s.Has(netip.MustParseAddr("0.0.0.0")) && s.Has(netip.MustParseAddr("255.255.255.255")) && s.Len() < 3 {
			t.Error("everybody is AWS")
		}
	})
}
