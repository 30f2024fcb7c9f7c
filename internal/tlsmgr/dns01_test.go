package tlsmgr

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/internal/dnscheck"
	"postern/internal/testnet"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// fakeRecords is a DNS host whose records testnet's DNS serves.
type fakeRecords struct {
	t      *testing.T
	zone   string
	dns    []*testnet.DNS // of the zone; none: nobody serves the records
	single bool

	mu     sync.Mutex
	fail   error
	late   error // returned although the value was set
	values map[string][]string
	most   int // values of one name at once
	added  []string
}

func (f *fakeRecords) AddTXT(ctx context.Context, name, value string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return f.fail
	}
	if f.single && len(f.values[name]) > 0 {
		f.t.Errorf("%s: a value was overwritten", name)
	}
	f.values[name] = append(f.values[name], value)
	f.added = append(f.added, name)
	f.most = max(f.most, len(f.values[name]))
	f.publish(name)
	return errors.Join(f.late, ctx.Err())
}

func (f *fakeRecords) RemoveTXT(ctx context.Context, name, value string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var left []string
	for _, v := range f.values[name] {
		if v != value {
			left = append(left, v)
		}
	}
	f.values[name] = left
	f.publish(name)
	return ctx.Err()
}

func (f *fakeRecords) publish(name string) {
	if len(f.dns) > 0 && !strings.HasSuffix(name, f.zone) {
		f.t.Errorf("%s is not in %s", name, f.zone)
	}
	for _, d := range f.dns {
		d.Remove(name, "TXT")
		for _, v := range f.values[name] {
			d.Add(f.t, fmt.Sprintf("%s 1 IN TXT %q", name, v))
		}
	}
}

func (f *fakeRecords) Slot(name string) string {
	if f.single {
		return "the one"
	}
	return ""
}

func (f *fakeRecords) left() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, v := range f.values {
		n += len(v)
	}
	return n
}

func (f *fakeRecords) has(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.values[name]) > 0
}

func (f *fakeRecords) setFail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

// dnsHouse is a house whose names have no address, so that only dns-01 can
// work, and the DNS host of zone.
func dnsHouse(t *testing.T, zone string, single bool) (*house, *fakeRecords, *dnscheck.Checker, *testnet.Lab) {
	t.Helper()
	lab := testnet.NewLab(t)
	lab.Zone("example", 1)
	zones := map[string][]*testnet.DNS{"test.example": lab.Zone("test.example", 2), "other.example": lab.Zone("other.example", 2)}
	h := newHouse(t, testnet.CAOptions{CheckCAA: true, DNS: lab.Resolver})
	check := dnscheck.New(dnscheck.Config{Resolvers: []string{lab.Resolver.Addr}, AuthoritativePort: lab.Port})
	return h, &fakeRecords{t: t, zone: zone, dns: zones[zone], single: single, values: map[string][]string{}}, check, lab
}

func (h *house) dns01Config(t *testing.T, r *fakeRecords, c *dnscheck.Checker, names ...string) Config {
	cfg := h.config(t.TempDir(), names...)
	book := &logBook{}
	cfg.Log = book.logger()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(book)
		}
	})
	cfg.DNS01 = NewDNS01(DNS01Config{Records: r, Alias: c.Alias, Seen: c.SeeTXT, Wait: 10 * time.Second, Every: 20 * time.Millisecond})
	cfg.Challenge = "dns-01"
	return cfg
}

// TestDNS01 has the name and its wildcard at a host with room for one value.
func TestDNS01(t *testing.T) {
	t.Parallel()
	for _, single := range []bool{true, false} {
		t.Run(fmt.Sprintf("single=%v", single), func(t *testing.T) {
			t.Parallel()
			h, r, c, _ := dnsHouse(t, "test.example", single)
			m, d := h.open(t, h.dns01Config(t, r, c, h.name, "*."+h.name))
			run(t, m)
			if leaf := served(t, d, h.name, h.ca.IssuerRoots); leaf.DNSNames[0] != h.name {
				t.Errorf("certificate for %q", leaf.DNSNames)
			}
			if leaf := served(t, d, "a."+h.name, h.ca.IssuerRoots); leaf.DNSNames[0] != "*."+h.name {
				t.Errorf("certificate for %q", leaf.DNSNames)
			}
			eventually(t, "records removed", func() bool { return r.left() == 0 })
			if n := h.ca.Orders(); n != 2 {
				t.Errorf("orders %d, want 2", n)
			}
		})
	}
}

// TestDNS01Delegated: _acme-challenge is an alias into another zone.
func TestDNS01Delegated(t *testing.T) {
	t.Parallel()
	h, r, c, lab := dnsHouse(t, "other.example", false)
	lab.Add("_acme-challenge." + h.name + ". 60 IN CNAME here.other.example.")
	m, d := h.open(t, h.dns01Config(t, r, c, "*."+h.name))
	run(t, m)
	served(t, d, "a."+h.name, h.ca.IssuerRoots)
	if len(r.added) != 1 || r.added[0] != "here.other.example" {
		t.Errorf("records were set at %q, want here.other.example", r.added)
	}
}

// TestDNS01HostFails: what the DNS host says is told as it is, nothing counts
// as a failure at the authority, and the authority is not blamed.
func TestDNS01HostFails(t *testing.T) {
	t.Parallel()
	h, r, c, _ := dnsHouse(t, "test.example", true)
	r.setFail(errors.New("duckdns: set TXT: rejected: KO"))
	m, d := h.open(t, h.dns01Config(t, r, c, h.name))
	run(t, m)
	eventually(t, "the error", func() bool { return m.ledger.get(h.name).LastError != "" })
	rec := m.ledger.get(h.name)
	if !strings.Contains(rec.LastError, "rejected: KO") || !strings.Contains(rec.Meaning, "DNS host") {
		t.Errorf("error %q, meaning %q", rec.LastError, rec.Meaning)
	}
	for _, i := range m.eng.now.Load().list {
		if hl := m.ledger.health(i.IssuerKey()); hl.Fails != 0 {
			t.Errorf("the authority is blamed: %+v", hl)
		}
	}
	r.setFail(nil)
	m.ledger.retry()
	m.kick()
	served(t, d, h.name, h.ca.IssuerRoots)
	if f := h.ca.Failed(); len(f) != 0 {
		t.Errorf("failed authorizations %q", f)
	}
}

func challengeFor(name string) acme.Challenge {
	return acme.Challenge{Type: "dns-01", URL: "https://ca/" + name, Token: "t" + name, KeyAuthorization: "t" + name + ".k",
		Identifier: acme.Identifier{Type: "dns", Value: strings.TrimPrefix(name, "*.")}}
}

// TestDNS01Wait is the rule about which servers have to have the value.
func TestDNS01Wait(t *testing.T) {
	for _, c := range []struct {
		name string
		seen []dnscheck.Seen
		err  error
		want string // of the error; "": none
		took time.Duration
	}{
		{"all at once", []dnscheck.Seen{{With: 4}}, nil, "", 0},
		{"slowly", []dnscheck.Seen{{Without: []string{"a", "b"}}, {With: 1, Without: []string{"b: old"}}, {With: 2}}, nil, "", 4 * time.Second},
		{"one is silent", []dnscheck.Seen{{With: 3, Silent: []string{"d"}}}, nil, "", 0},
		{"half are silent", []dnscheck.Seen{{With: 2, Silent: []string{"c: timed out", "d: timed out"}}}, nil,
			"dns-01: TXT record of _acme-challenge.home.example is not at all name servers after 2m0s: c: timed out, d: timed out", 2 * time.Minute},
		{"one lags for ever", []dnscheck.Seen{{With: 3, Without: []string{"d: another TXT record"}}}, nil,
			"dns-01: TXT record of _acme-challenge.home.example is not at all name servers after 2m0s: d: another TXT record", 2 * time.Minute},
		{"none in reach", []dnscheck.Seen{{}}, nil,
			"dns-01: TXT record of _acme-challenge.home.example is not at all name servers after 2m0s: no name server can be reached from here", 2 * time.Minute},
		{"look-up fails", []dnscheck.Seen{{}}, errors.New("no resolver tells"),
			"dns-01: TXT record of _acme-challenge.home.example is not at all name servers after 2m0s: no resolver tells", 2 * time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &fakeRecords{t: t, values: map[string][]string{}}
				looks := 0
				s := NewDNS01(DNS01Config{Records: r, Seen: func(context.Context, string, string) (dnscheck.Seen, error) {
					looks++
					return c.seen[min(looks, len(c.seen))-1], c.err
				}}).(*dns01)
				chal := challengeFor("home.example")
				if err := s.Present(t.Context(), chal); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				err := s.Wait(t.Context(), chal)
				if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want) {
					t.Errorf("error %v\nwant %s", err, c.want)
				}
				if took := time.Since(began); took != c.took {
					t.Errorf("took %v, want %v", took, c.took)
				}
				if err := s.CleanUp(t.Context(), chal); err != nil || r.left() != 0 {
					t.Errorf("clean-up: %v, %d values left", err, r.left())
				}
			})
		})
	}
}

// TestDNS01Turns: a host with room for one value serves one certificate after
// the other, and whoever gives up lets go of nothing that is not his.
func TestDNS01Turns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &fakeRecords{t: t, single: true, values: map[string][]string{}}
		s := NewDNS01(DNS01Config{Records: r})
		first, second, third := challengeFor("a.example"), challengeFor("*.a.example"), challengeFor("b.example")
		if err := s.Present(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.Present(ctx, second); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("the second: %v, want a deadline", err)
		}
		if err := s.CleanUp(ctx, second); err != nil {
			t.Fatal(err)
		}
		var got error
		done := make(chan struct{})
		go func() { // waited for below
			defer close(done)
			got = s.Present(t.Context(), third)
		}()
		synctest.Wait()
		gone, end := context.WithCancel(t.Context())
		end()
		if err := s.CleanUp(gone, first); err != nil || r.has("_acme-challenge.a.example") {
			t.Fatalf("clean-up after the end: %v, or the value is still there", err)
		}
		<-done
		if got != nil || r.most != 1 {
			t.Errorf("the third: %v; at most %d values at once, want 1", got, r.most)
		}
		if err := s.CleanUp(t.Context(), third); err != nil || r.left() != 0 {
			t.Errorf("clean-up: %v, %d left", err, r.left())
		}
		if err := s.CleanUp(t.Context(), third); err != nil {
			t.Errorf("cleaning up twice: %v", err)
		}
	})
}

// TestDNS01CleansUpAfterFailure: a call that failed may have set the value.
func TestDNS01CleansUpAfterFailure(t *testing.T) {
	r := &fakeRecords{t: t, single: true, values: map[string][]string{}}
	s := NewDNS01(DNS01Config{Records: r})
	chal := challengeFor("a.example")
	r.late = errors.New("no answer in time")
	if err := s.Present(t.Context(), chal); err == nil || r.left() != 1 {
		t.Fatalf("error %v with %d values set, want one of each", err, r.left())
	}
	if err := s.CleanUp(t.Context(), chal); err != nil || r.left() != 0 {
		t.Errorf("clean-up: %v, %d values left", err, r.left())
	}
	r.late = nil
	if err := s.Present(t.Context(), chal); err != nil { // the place is free
		t.Fatal(err)
	}
	if _, ok := s.(acmez.Waiter); !ok {
		t.Error("the solver does not wait")
	}
	alias := NewDNS01(DNS01Config{Records: r, Alias: func(context.Context, string) (string, error) { return "", errors.New("nobody answers") }})
	if err := alias.Present(t.Context(), challengeFor("b.example")); err == nil || len(r.added) != 2 {
		t.Errorf("error %v; a record was set although it is not known where", err)
	}
}
