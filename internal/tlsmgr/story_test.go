package tlsmgr

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/internal/dnscheck"

	"github.com/mholt/acmez/v3/acme"
)

// The stories run the whole Manager in virtual time, from its ledger to its
// storage; only the authority and the DNS are played.

// stage is a Manager whose world is played.
type stage struct {
	t     *testing.T
	cfg   Config
	cas   []*actor
	m     *Manager
	end   context.CancelFunc
	ended chan error

	mu      sync.Mutex
	dns     dnscheck.Verdict
	checks  []time.Time
	notices []Notice
	synced  bool
}

// actor plays an authority that signs what it is asked for.
type actor struct {
	key  string
	ca   *localCA
	life time.Duration

	mu       sync.Mutex
	down     error                   // what reach answers
	refuse   func(name string) error // what an order is answered
	orders   []time.Time             // attempts that arrived
	ways     []string                // their challenges
	replaced []bool                  // whether they named what they replace
	ari      func() (acme.RenewalInfo, error)
}

func newActor(t *testing.T, key string, life time.Duration) *actor {
	t.Helper()
	return &actor{key: key, ca: must(newLocalCA(time.Now())), life: life}
}

func (a *actor) IssuerKey() string                 { return a.key }
func (a *actor) label() string                     { return a.key }
func (a *actor) profileFor(string) string          { return "" }
func (a *actor) identities() []string              { return []string{a.key} }
func (a *actor) accountURI(context.Context) string { return "" }

func (a *actor) challenges(_ string, on []string) []string { return on }

func (a *actor) reach(context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.down
}

func (a *actor) issue(ctx context.Context, csr *x509.CertificateRequest) (acme.Certificate, error) {
	a.mu.Lock()
	at := attemptOf(ctx)
	a.orders = append(a.orders, time.Now())
	a.ways = append(a.ways, at.challenge)
	a.replaced = append(a.replaced, at.replaces != nil)
	refuse := a.refuse
	a.mu.Unlock()
	wait := time.NewTimer(time.Second) // what an order takes
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
		return acme.Certificate{}, ctx.Err()
	}
	if refuse != nil {
		name := ""
		if len(csr.DNSNames) > 0 {
			name = csr.DNSNames[0]
		}
		if err := refuse(name); err != nil {
			return acme.Certificate{}, err
		}
	}
	chain, err := a.ca.signFor(ctx, csr, time.Now(), a.life)
	return acme.Certificate{ChainPEM: chain}, err
}

func (a *actor) renewalInfo(context.Context, *x509.Certificate) (acme.RenewalInfo, error) {
	a.mu.Lock()
	f := a.ari
	a.mu.Unlock()
	if f == nil {
		return acme.RenewalInfo{}, acme.ErrUnsupported
	}
	return f()
}

func (a *actor) set(f func(a *actor)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f(a)
}

func (a *actor) orderTimes() []time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.orders)
}

// play sets a stage with one authority for each lifetime given.
func play(t *testing.T, dir string, names []string, lives ...time.Duration) *stage {
	t.Helper()
	s := &stage{t: t, synced: true}
	s.cfg = Config{
		Dir: dir, Names: names, ListenHost: "127.0.0.1", HTTPPort: 80, HTTPSPort: 443,
		Check: func(context.Context, dnscheck.Question) dnscheck.Verdict {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.checks = append(s.checks, time.Now())
			return s.dns
		},
		OnNotice: func(n Notice) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.notices = append(s.notices, n)
		},
		Clock: func() (bool, time.Duration) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.synced, time.Minute
		},
	}
	for i, life := range lives {
		s.cas = append(s.cas, newActor(t, fmt.Sprintf("ca%d.example", i+1), life))
	}
	s.open()
	return s
}

// open makes the Manager; what an earlier one left on disk is all it knows.
func (s *stage) open() {
	s.t.Helper()
	s.m = must(New(s.cfg))
	s.m.drv.chance = rand.New(rand.NewPCG(1, 2)).Float64
	list := &issuers{label: issuerACME}
	for _, a := range s.cas {
		list.list = append(list.list, s.m.eng.issuer(a))
	}
	s.m.eng.use(list)
	s.m.loadFromDisk(s.m.table.Load().managed)
}

func (s *stage) run() {
	ctx, cancel := context.WithCancel(context.Background())
	s.end, s.ended = cancel, make(chan error, 1)
	// Without the watch over files, which ticks every ten seconds and has
	// nothing to do here.
	go func() { s.ended <- s.m.drive(ctx) }() // stop waits for it
}

func (s *stage) stop() {
	s.t.Helper()
	s.end()
	if err := <-s.ended; err != nil {
		s.t.Error(err)
	}
	s.m.Close()
	time.Sleep(time.Minute) // certmagic's lock keepers notice that their files are gone
}

func (s *stage) setDNS(v dnscheck.Verdict) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dns = v
}

func (s *stage) said() []Notice {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.notices)
}

func (s *stage) status(name string) CertStatus {
	s.t.Helper()
	for _, st := range s.m.Status() {
		if st.Name == name {
			return st
		}
	}
	s.t.Fatalf("no status for %s", name)
	return CertStatus{}
}

// busiestHour is the most attempts in any hour.
func busiestHour(orders []time.Time) int {
	most := 0
	for i := range orders {
		n := 0
		for _, o := range orders[i:] {
			if o.Sub(orders[i]) < time.Hour {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

var (
	caaDead = dnscheck.Verdict{Colour: dnscheck.Red, Cause: dnscheck.NSTimeout, Sentence: "duckdns.org's name servers do not answer CAA (3 of 4 timed out)"}
	allWell = dnscheck.Verdict{Colour: dnscheck.Green, Sentence: "the DNS is well"}
	partly  = dnscheck.Verdict{Colour: dnscheck.Amber, Cause: dnscheck.NSPartlyDown, Sentence: "1 of 4 name servers does not answer"}
)

const days = 24 * time.Hour

// The incident this program exists for, 30 minutes of it: no attempt is spent,
// what is held is served, people hear of it once, and the certificate follows
// the recovery within seconds.
func TestStoryOfTheIncident(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		renewal bool
	}{{"first issue", false}, {"renewal", true}} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				s := play(t, dir, []string{"home.duckdns.org"}, 90*days)
				s.run()
				if tc.renewal {
					time.Sleep(59 * days)
				} else {
					s.stop()
					dir2 := t.TempDir()
					s = play(t, dir2, []string{"home.duckdns.org"}, 90*days)
				}
				before := len(s.cas[0].orderTimes())
				s.setDNS(caaDead)
				if !tc.renewal {
					s.run()
				} else {
					time.Sleep(2 * days) // the renewal comes due at day 60
				}
				began := time.Now()
				hello := clientHello("home.duckdns.org")
				for time.Since(began) < 30*time.Minute {
					time.Sleep(10 * time.Second)
					if _, err := s.m.getCertificate(hello); (err == nil) != tc.renewal {
						t.Fatalf("after %v: served %v, want %v", time.Since(began), err == nil, tc.renewal)
					}
				}
				if n := len(s.cas[0].orderTimes()); n != before {
					t.Errorf("%d attempts during the outage, want none", n-before)
				}
				if st := s.status("home.duckdns.org"); st.Sentence != caaDead.Sentence || st.Waiting != "dns" || st.Verdict != "red" {
					t.Errorf("status %+v", st)
				}
				s.setDNS(allWell)
				s.mu.Lock()
				seen := s.checks[len(s.checks)-1].Add(30 * time.Second) // the first look that can see it
				s.mu.Unlock()
				serial := s.m.eng.find("home.duckdns.org")
				for s.m.eng.find("home.duckdns.org") == serial {
					time.Sleep(100 * time.Millisecond)
					if time.Since(seen) > time.Minute {
						t.Fatal("no certificate within a minute of the recovery")
					}
				}
				if took := time.Since(seen); took > 5*time.Second {
					t.Errorf("obtained %v after the recovery was there to see, want less than 5 s", took)
				}
				time.Sleep(time.Hour)
				checkPair(t, s.said(), "dns")
				s.stop()
			})
		})
	}
}

// checkPair wants one notice that it broke and one that it is over.
func checkPair(t *testing.T, said []Notice, kind string) {
	t.Helper()
	if len(said) != 2 || said[0].Kind != kind || !said[0].Ended.IsZero() || said[1].Ended.IsZero() || !said[1].Since.Equal(said[0].Since) {
		t.Errorf("notices %+v, want one of kind %s and its end", said, kind)
	}
}

// An authority that fails every attempt gets at most four an hour, each with
// the other challenge, and all stays served; people hear of it once.
func TestStoryOfARefusal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := play(t, dir, []string{"home.example"}, 90*days)
		ca := s.cas[0]
		ca.set(func(a *actor) {
			a.refuse = func(string) error {
				return acme.Problem{Type: acme.ProblemTypeDNS, Status: 400, Detail: "During secondary validation: DNS problem: query timed out looking up CAA for home.example"}
			}
		})
		s.run()
		time.Sleep(3 * days)
		orders := ca.orderTimes()
		if n := busiestHour(orders); n > 4 || len(orders) < 15 {
			t.Errorf("%d attempts in three days, %d in the busiest hour, want at most 4", len(orders), n)
		}
		ca.mu.Lock()
		if ca.ways[0] != challengeHTTP || ca.ways[1] != challengeALPN || ca.ways[2] != challengeHTTP {
			t.Errorf("challenges %q, want turns", ca.ways[:3])
		}
		ca.mu.Unlock()
		for _, o := range orders[1:] {
			if m := o.Minute(); m == 0 || m == 59 {
				t.Errorf("an attempt at %v, on the full hour", o)
			}
		}
		if st := s.status("home.example"); !strings.Contains(st.LastError, "secondary") || !strings.Contains(st.Meaning, "does not answer") {
			t.Errorf("status %+v", st)
		}
		ca.set(func(a *actor) { a.refuse = nil })
		time.Sleep(5 * time.Hour)
		if st := s.status("home.example"); st.State != StateOK || st.Sentence != "" {
			t.Errorf("status %+v", st)
		}
		checkPair(t, s.said(), "refused")
		s.stop()
	})
}

// The first authority is down: the second is taken at once. It comes back, and
// the renewal is its again.
func TestStoryOfTwoAuthorities(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := play(t, dir, []string{"a.example", "b.example"}, 90*days, 90*days)
		first, second := s.cas[0], s.cas[1]
		first.set(func(a *actor) { a.down = &unreached{errors.New("no answer within 5s")} })
		s.run()
		time.Sleep(10 * time.Second)
		for _, n := range s.cfg.Names {
			if st := s.status(n); st.State != StateOK {
				t.Errorf("%s: %+v", n, st)
			}
		}
		if len(first.orderTimes()) != 0 || len(second.orderTimes()) != 2 {
			t.Errorf("orders %d and %d, want 0 and 2", len(first.orderTimes()), len(second.orderTimes()))
		}
		first.set(func(a *actor) { a.down = nil })
		time.Sleep(62 * days)
		if n := len(first.orderTimes()); n != 2 {
			t.Errorf("%d orders at the first authority after it came back, want 2", n)
		}
		// It forbids one name, and limits us as a whole a renewal later.
		first.set(func(a *actor) {
			a.refuse = func(name string) error {
				if name == "a.example" {
					return acme.Problem{Type: acme.ProblemTypeRejectedIdentifier, Status: 403, Detail: "policy forbids issuing for name"}
				}
				return acme.Problem{Type: acme.ProblemTypeRateLimited, Status: 429,
					Detail: "too many new orders, retry after " + time.Now().Add(7*time.Hour).UTC().Format(time.DateTime) + " UTC: see https://letsencrypt.org/docs"}
			}
		})
		at := len(first.orderTimes())
		time.Sleep(61 * days)
		for _, n := range s.cfg.Names {
			if st := s.status(n); st.State != StateOK {
				t.Errorf("%s: %+v", n, st)
			}
		}
		if n := len(first.orderTimes()) - at; n != 2 {
			t.Errorf("%d orders at the authority that says no, want 2", n)
		}
		if said := s.said(); len(said) != 0 {
			t.Errorf("people were told %+v, though nothing was ever missing", said)
		}
		s.stop()
	})
}

// Retry-After is obeyed, by the clock of the authority, and across restarts.
func TestStoryOfALimit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := play(t, dir, []string{"home.example"}, 90*days)
		ca := s.cas[0]
		until := time.Now().Add(34 * time.Hour).Truncate(time.Second).UTC()
		ca.set(func(a *actor) {
			a.refuse = func(string) error {
				return acme.Problem{Type: acme.ProblemTypeRateLimited, Status: 429,
					Detail: "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s, retry after " + until.Format(time.DateTime) + " UTC: see …"}
			}
		})
		s.run()
		time.Sleep(10 * time.Hour)
		if st := s.status("home.example"); st.Waiting != "rate_limit" || !st.NextAttempt.Equal(until) {
			t.Errorf("status %+v, want to wait until %v", st, until)
		}
		s.stop()
		s.open() // a restart
		s.run()
		time.Sleep(23 * time.Hour)
		if n := len(ca.orderTimes()); n != 1 {
			t.Errorf("%d orders before the limit passed, want 1", n)
		}
		ca.set(func(a *actor) { a.refuse = nil })
		time.Sleep(time.Until(until) + time.Minute)
		if st := s.status("home.example"); st.State != StateOK {
			t.Errorf("status %+v", st)
		}
		checkPair(t, s.said(), "rate_limit")
		s.stop()
	})
}

// A Pi that starts in the past waits for its clock, and says so once.
func TestStoryOfTheClock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := play(t, dir, []string{"home.example"}, 90*days)
		s.synced = false
		s.run()
		time.Sleep(3 * time.Minute)
		if n := len(s.cas[0].orderTimes()); n != 0 {
			t.Errorf("%d orders with a clock that is not set", n)
		}
		if st := s.status("home.example"); st.Waiting != "clock" {
			t.Errorf("status %+v", st)
		}
		s.mu.Lock()
		s.synced = true
		s.mu.Unlock()
		time.Sleep(15 * time.Second)
		if st := s.status("home.example"); st.State != StateOK {
			t.Errorf("status %+v", st)
		}
		checkPair(t, s.said(), "clock")
		s.stop()
	})
}

// Amber gets one attempt per 15 minutes, flapping is not a recovery.
func TestStoryOfHalfADNS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := play(t, dir, []string{"home.example"}, 90*days)
		s.setDNS(partly)
		s.cas[0].set(func(a *actor) {
			a.refuse = func(string) error { return &unreached{errors.New("reset")} }
		})
		s.run()
		time.Sleep(59 * time.Minute)
		orders := s.cas[0].orderTimes()
		if len(orders) < 2 || len(orders) > 4 {
			t.Errorf("%d attempts in an hour of amber, want at most 4", len(orders))
		}
		for i := range orders[1:] {
			if gap := orders[i+1].Sub(orders[i]); gap < amberEvery {
				t.Errorf("attempts %v apart while amber", gap)
			}
		}
		s.stop()

		s = play(t, t.TempDir(), []string{"flap.example"}, 90*days)
		var n int
		s.m.settings.Load().ask = func(context.Context, dnscheck.Question) dnscheck.Verdict {
			if n++; n%2 == 1 {
				return caaDead
			}
			return allWell
		}
		s.run()
		time.Sleep(2 * time.Hour)
		if n := len(s.cas[0].orderTimes()); n != 0 {
			t.Errorf("%d attempts at a DNS that flaps", n)
		}
		s.stop()
	})
}

// Renewals come at the authority's time, and a renewal that is stuck on
// "replaces" goes on without.
func TestStoryOfARI(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := play(t, dir, []string{"home.example"}, 90*days)
		ca := s.cas[0]
		begin := time.Now()
		var info acme.RenewalInfo
		info.SuggestedWindow.Start, info.SuggestedWindow.End = begin.Add(70*days), begin.Add(72*days)
		info.SelectedTime = begin.Add(71 * days)
		ca.set(func(a *actor) { a.ari = func() (acme.RenewalInfo, error) { return info, nil } })
		s.run()
		time.Sleep(5 * days)
		if st := s.status("home.example"); !st.RenewAt.Equal(info.SelectedTime) {
			t.Errorf("renewal planned for %v, want %v", st.RenewAt, info.SelectedTime)
		}
		// The authority revokes, and moves the window into the past.
		var now acme.RenewalInfo
		now.SuggestedWindow.Start, now.SuggestedWindow.End = time.Now().Add(-days), time.Now().Add(-time.Hour)
		now.SelectedTime = now.SuggestedWindow.Start
		ca.set(func(a *actor) {
			a.ari = func() (acme.RenewalInfo, error) { return now, nil }
			a.refuse = func(string) error {
				a.mu.Lock()
				defer a.mu.Unlock()
				if a.replaced[len(a.replaced)-1] {
					return acme.Problem{Type: acme.ProblemTypeMalformed, Status: 400, Detail: "replaces: no such certificate"}
				}
				return nil
			}
		})
		time.Sleep(askAgain + time.Minute)
		if n := len(ca.orderTimes()); n < 2 {
			t.Errorf("no renewal %v after the window moved", askAgain)
		}
		ca.set(func(a *actor) { a.ari = nil })
		time.Sleep(time.Hour)
		orders := ca.orderTimes()
		ca.mu.Lock()
		defer ca.mu.Unlock()
		if len(orders) != 3 || !ca.replaced[1] || ca.replaced[2] {
			t.Errorf("%d orders, replaces %v, want a renewal with and one without", len(orders), ca.replaced)
		}
		s.stop()
	})
}

// A year of certificates for an address, by the half of their lives.
func TestStoryOfShortLives(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := play(t, dir, nil, 160*time.Hour)
		var mu sync.Mutex
		addr := "203.0.113.7"
		s.cfg.PublicAddrs = playAddrs(&mu, &addr)
		s.m.Close()
		s.open()
		s.setDNS(caaDead) // an address needs no DNS
		s.run()
		time.Sleep(50 * days)
		if st := s.status(addr); st.State != StateOK || st.Verdict != "" {
			t.Errorf("status %+v", st)
		}
		if n := len(s.cas[0].orderTimes()); n < 14 || n > 16 {
			t.Errorf("%d certificates of 160 h in 50 days, want one every 80 h", n)
		}
		mu.Lock()
		addr = "198.51.100.9"
		mu.Unlock()
		time.Sleep(lookEvery + 5*time.Second)
		if st := s.status("198.51.100.9"); st.State != StateOK || len(s.m.Status()) != 1 {
			t.Errorf("after the address changed: %+v", s.m.Status())
		}
		mu.Lock()
		addr = ""
		mu.Unlock()
		time.Sleep(time.Hour)
		if st := s.status("198.51.100.9"); st.State != StateOK {
			t.Errorf("while nobody knows the address: %+v", st)
		}
		s.stop()
	})
}

func playAddrs(mu *sync.Mutex, addr *string) func() []netip.Addr {
	return func() []netip.Addr {
		mu.Lock()
		defer mu.Unlock()
		if *addr == "" {
			return nil
		}
		return []netip.Addr{netip.MustParseAddr(*addr)}
	}
}

func clientHello(name string) *tls.ClientHelloInfo { return &tls.ClientHelloInfo{ServerName: name} }
