package tlsmgr

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/internal/dnscheck"

	"github.com/mholt/acmez/v3/acme"
)

// renew is what Renew is refused with; the zero value when it begins.
func renew(t *testing.T, m *Manager, name string, force bool) *RefusedError {
	t.Helper()
	_, err := m.Renew(name, force)
	var refused *RefusedError
	if err != nil && !errors.As(err, &refused) {
		t.Fatalf("%v (%T), want a *RefusedError", err, err)
	}
	if refused == nil {
		return &RefusedError{}
	}
	return refused
}

// A person asks for a new certificate: it comes before it is due, and what an
// hour allows is not exceeded, unless they say so.
func TestStoryOfAPersonWhoAsks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := play(t, dir, []string{"home.example"}, 90*days)
		s.run()
		time.Sleep(10 * time.Second)
		first := s.status("home.example")
		if first.State != StateOK || first.Renewal != nil {
			t.Fatalf("status %+v", first)
		}
		// Three more within the hour.
		for left := 2; left >= 0; left-- {
			before := s.status("home.example").Serial
			if _, err := s.m.Renew("Home.Example.", false); err != nil {
				t.Fatalf("%d left: %v", left+1, err)
			}
			if r := renew(t, s.m, "home.example", true); r.Reason != RefusedBusy {
				t.Errorf("a second one at the same time: %+v", r)
			}
			time.Sleep(10 * time.Second)
			st := s.status("home.example")
			if st.Renewal == nil || st.Renewal.Ended.IsZero() || st.Renewal.Err != "" || st.Serial == before || st.AttemptsLeft != left {
				t.Fatalf("%d left: status %+v, %+v", left, st, st.Renewal)
			}
		}
		r := renew(t, s.m, "home.example", false)
		if r.Reason != "budget" || !r.Force || time.Until(r.Until) < 50*time.Minute || !strings.Contains(r.Sentence, "4 attempts of this hour are spent") {
			t.Errorf("%+v", r)
		}
		before := s.status("home.example").Serial
		if _, err := s.m.Renew("home.example", true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		st := s.status("home.example")
		if st.Serial == before || st.Renewal.Err != "" || !st.Renewal.Forced || st.AttemptsLeft != 0 {
			t.Errorf("forced: status %+v, %+v", st, st.Renewal)
		}
		if n := len(s.cas[0].orderTimes()); n != 5 {
			t.Errorf("%d orders, want 5", n)
		}
		if said := s.said(); len(said) != 0 {
			t.Errorf("notices %+v, want none: nothing was wrong", said)
		}
		time.Sleep(time.Hour)
		if _, err := s.m.Renew("home.example", false); err != nil {
			t.Errorf("an hour later: %v", err)
		}
		time.Sleep(10 * time.Second)
		s.stop()
	})
}

// While the DNS is red nobody spends an attempt by accident. Force does, and
// says what came of it; once the DNS is well no wait is left over.
func TestStoryOfForce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := play(t, dir, []string{"home.example"}, 90*days)
		s.run()
		time.Sleep(10 * time.Second)
		ca := s.cas[0]
		ca.set(func(a *actor) {
			a.refuse = func(string) error {
				return acme.Problem{Type: acme.ProblemTypeDNS, Status: 400, Detail: "DNS problem: query timed out looking up CAA for home.example"}
			}
		})
		s.setDNS(caaDead)
		// What is known is that it was green 10 s ago: the DNS is asked first.
		if _, err := s.m.Renew("home.example", false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if st := s.status("home.example"); st.Renewal.Err != caaDead.Sentence || st.Renewal.Refused == nil || !st.Renewal.Refused.Force {
			t.Errorf("asked the DNS first: %+v", st.Renewal)
		}
		if r := renew(t, s.m, "home.example", false); r.Reason != "dns" || r.Sentence != caaDead.Sentence || !r.Force {
			t.Errorf("%+v", r)
		}
		if n := len(ca.orderTimes()); n != 1 {
			t.Fatalf("%d orders, want the first one only", n)
		}
		if _, err := s.m.Renew("home.example", true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		st := s.status("home.example")
		if !strings.HasPrefix(st.Renewal.Err, "DNS problem: ") || !strings.Contains(st.Renewal.Means, "does not answer") || st.AttemptsLeft != 2 {
			t.Errorf("status %+v, %+v", st, st.Renewal)
		}
		if st.State != StateOK {
			t.Errorf("state %s: what is held went away", st.State)
		}

		// It recovers: the back-off of the failure is not waited out.
		ca.set(func(a *actor) { a.refuse = nil })
		s.setDNS(allWell)
		time.Sleep(40 * time.Second)
		if _, err := s.m.Renew("home.example", false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if st := s.status("home.example"); st.Renewal.Err != "" || st.LastError != "" || st.AttemptsLeft != 1 {
			t.Errorf("status %+v, %+v", st, st.Renewal)
		}
		s.stop()
	})
}

// What an authority asked for is beyond force, and so is a clock that is not
// set; a pause of our own is not.
func TestByHand(t *testing.T) {
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	well := func() situation {
		return situation{
			held: true, clock: true, storage: true, gated: true, counted: true, perHour: 4, every: 30 * time.Second,
			checkedAt: now, renewAt: now.Add(30 * days),
			rec:    record{Colour: dnscheck.Green, Since: now},
			routes: []route{{account: "ca", challenge: challengeHTTP}},
		}
	}
	spent := map[string][]time.Time{"ca": {now.Add(-4 * time.Minute), now.Add(-3 * time.Minute), now.Add(-2 * time.Minute), now.Add(-time.Minute)}}
	tests := []struct {
		name          string
		change        func(s *situation)
		plain, forced reason
	}{
		{"all is well", func(*situation) {}, whyNothing, whyNothing},
		{"backing off", func(s *situation) { s.rec.Next = now.Add(time.Hour) }, whyNothing, whyNothing},
		{"red", func(s *situation) { s.rec.Colour = dnscheck.Red }, whyDNS, whyNothing},
		{"amber, long since", func(s *situation) { s.rec.Colour = dnscheck.Amber }, whyNothing, whyNothing},
		{"amber, just tried", func(s *situation) { s.rec.Colour, s.rec.LastAttempt = dnscheck.Amber, now.Add(-time.Minute) }, whyAmber, whyNothing},
		{"budget", func(s *situation) { s.rec.Tries = spent }, whyBudget, whyNothing},
		{"CAA forbids", func(s *situation) { s.routes[0].forbidden = true }, whyForbidden, whyNothing},
		{"the name was refused", func(s *situation) { s.rec.Pauses = map[string]pause{"ca": {now.Add(time.Hour), whyForbidden}} }, whyForbidden, whyNothing},
		{"the authority was down", func(s *situation) { s.routes[0].until, s.routes[0].why = now.Add(time.Minute), whyAuthority }, whyAuthority, whyNothing},
		{"the authority limits us", func(s *situation) { s.routes[0].until, s.routes[0].why = now.Add(time.Hour), whyLimited }, whyLimited, whyLimited},
		{"the authority limits the name", func(s *situation) { s.rec.Pauses = map[string]pause{"ca": {now.Add(time.Hour), whyLimited}} }, whyLimited, whyLimited},
		{"no clock", func(s *situation) { s.clock = false }, whyClock, whyClock},
		{"no way", func(s *situation) { s.routes = nil }, whyNoWay, whyNoWay},
		{"no disk", func(s *situation) { s.storage, s.rec.Next = false, now.Add(time.Minute) }, whyStorage, whyStorage},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, force := range []bool{false, true} {
				want := tt.plain
				if force {
					want = tt.forced
				}
				s := well()
				tt.change(&s)
				asked := s.byHand(force)
				if act := decide(&asked, now); act.why != want || (act.do == doAttempt) != (want == whyNothing) {
					t.Errorf("force %v: %+v, want %q", force, act, want)
				}
				if s.routes != nil && force && tt.name == "CAA forbids" && !s.routes[0].forbidden {
					t.Error("byHand changed its receiver")
				}
			}
		})
	}
}

func TestRenewRefusesNames(t *testing.T) {
	t.Parallel()
	dir, files := t.TempDir(), t.TempDir()
	cert, key := filepath.Join(files, "own.crt"), filepath.Join(files, "own.key")
	writePair(t, cert, key, "own", time.Now().Add(30*days), "own.example")
	m := localManager(t, Config{Dir: dir, Names: []string{"a.example", "*.wild.example"}, Files: []FileCert{{Hosts: []string{"own.example"}, Cert: cert, Key: key}}})
	for _, tt := range []struct{ name, reason, part string }{
		{"b.example", RefusedUnknown, "no site has this name"},
		{"", RefusedUnknown, "not a host name"},
		{"a b", RefusedUnknown, "not a host name"},
		{"own.example", RefusedFile, cert},
		{"x.wild.example", RefusedUnknown, "that of *.wild.example"},
	} {
		if r := renew(t, m, tt.name, true); r.Reason != tt.reason || !strings.Contains(r.Sentence, tt.part) {
			t.Errorf("%q: %+v, want %s with %q", tt.name, r, tt.reason, tt.part)
		}
	}
	before := m.Status()
	stop := run(t, m)
	defer stop()
	if _, err := m.Renew("*.wild.example", false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a new serial", func() bool {
		st := m.Status()[0]
		return st.Serial != before[0].Serial && st.Renewal != nil && !st.Renewal.Ended.IsZero()
	})
}
