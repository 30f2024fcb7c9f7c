package tlsmgr

import (
	"net/http"
	"testing"
	"time"

	"postern/internal/dnscheck"

	"github.com/mholt/acmez/v3/acme"
)

func TestDecide(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 12, 30, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	in := func(d time.Duration) time.Time { return now.Add(d) }
	ways := []route{{account: "a", challenge: challengeHTTP}, {account: "a", challenge: challengeALPN}, {account: "b", challenge: challengeHTTP}}
	fresh := func(f func(s *situation)) situation {
		s := situation{gated: true, checkedAt: ago(time.Second), clock: true, storage: true, routes: ways, counted: true, perHour: 4, every: 30 * time.Second}
		f(&s)
		return s
	}
	held := func(s *situation) { s.held, s.renewAt = true, in(30*24*time.Hour) }
	spent := func(account string, at ...time.Duration) map[string][]time.Time {
		var tries []time.Time
		for _, d := range at {
			tries = append(tries, ago(d))
		}
		return map[string][]time.Time{account: tries}
	}
	for _, tc := range []struct {
		name string
		set  func(s *situation)
		do   deed
		why  reason
		at   time.Duration // until
		way  string
	}{
		{"missing, green", func(*situation) {}, doAttempt, "", 0, "a http-01"},
		{"missing, never looked", func(s *situation) { s.checkedAt = time.Time{} }, doCheck, "", 0, ""},
		{"missing, old look", func(s *situation) { s.checkedAt = ago(31 * time.Second) }, doCheck, "", 0, ""},
		{"missing, not gated", func(s *situation) { s.gated, s.checkedAt = false, time.Time{} }, doAttempt, "", 0, "a http-01"},
		{"missing, clock", func(s *situation) { s.clock = false }, doWait, whyClock, clockEvery, ""},
		{"red", func(s *situation) { s.rec.Colour = dnscheck.Red }, doWait, whyDNS, 29 * time.Second, ""},
		{"red, time to look", func(s *situation) { s.rec.Colour, s.checkedAt = dnscheck.Red, ago(30*time.Second) }, doCheck, "", 0, ""},
		{"red, seen better once", func(s *situation) { s.rec.Colour, s.rec.Doubt, s.checkedAt = dnscheck.Red, 1, now }, doWait, whyDNS, time.Second, ""},
		{"amber", func(s *situation) { s.rec.Colour = dnscheck.Amber }, doAttempt, "", 0, "a http-01"},
		{"amber, tried", func(s *situation) { s.rec.Colour, s.rec.LastAttempt = dnscheck.Amber, ago(14*time.Minute) }, doWait, whyAmber, 29 * time.Second, ""},
		{"held", held, doWait, whyNothing, lookCalm, ""},
		{"held, an hour later", func(s *situation) { held(s); s.checkedAt = ago(time.Hour) }, doCheck, "", 0, ""},
		{"held, red", func(s *situation) { held(s); s.rec.Colour = dnscheck.Red }, doWait, whyNothing, 29 * time.Second, ""},
		{"held, file lost", func(s *situation) { held(s); s.lost = true }, doAttempt, "", 0, "a http-01"},
		{"held, ask when", func(s *situation) { held(s); s.askAt = now }, doAsk, "", 0, ""},
		{"due", func(s *situation) { held(s); s.renewAt = now }, doAttempt, "", 0, "a http-01"},
		{"backing off", func(s *situation) { s.rec.Next = in(10 * time.Second) }, doWait, whyBackoff, 10 * time.Second, ""},
		{"second turn", func(s *situation) { s.rec.Turn = 1 }, doAttempt, "", 0, "a tls-alpn-01"},
		{"third turn", func(s *situation) { s.rec.Turn = 2 }, doAttempt, "", 0, "b http-01"},
		{"first authority down", func(s *situation) {
			s.routes = []route{{account: "a", until: in(time.Minute), why: whyAuthority}, {account: "b", challenge: challengeHTTP}}
		}, doAttempt, "", 0, "b http-01"},
		{"all down", func(s *situation) {
			s.routes = []route{{account: "a", until: in(20 * time.Second), why: whyAuthority}, {account: "b", until: in(15 * time.Second), why: whyLimited}}
		}, doWait, whyLimited, 15 * time.Second, ""},
		{"budget of one spent", func(s *situation) {
			s.rec.Tries = spent("a", 50*time.Minute, 40*time.Minute, 30*time.Minute, 20*time.Minute)
		}, doAttempt, "", 0, "b http-01"},
		{"budget spent", func(s *situation) {
			s.routes = ways[:2]
			s.rec.Tries = spent("a", 3599*time.Second, 40*time.Minute, 30*time.Minute, 20*time.Minute)
		}, doWait, whyBudget, time.Second, ""},
		{"an hour old is free", func(s *situation) {
			s.rec.Tries = spent("a", time.Hour, 40*time.Minute, 30*time.Minute, 20*time.Minute)
		}, doAttempt, "", 0, "a http-01"},
		{"forbidden everywhere", func(s *situation) {
			s.rec.Pauses = map[string]pause{"a": {in(time.Hour), whyForbidden}, "b": {in(2 * time.Hour), whyForbidden}}
		}, doWait, whyForbidden, 29 * time.Second, ""},
		{"no way", func(s *situation) { s.routes = nil }, doWait, whyNoWay, 29 * time.Second, ""},
		{"disk", func(s *situation) { s.storage, s.rec.Next = false, in(5*time.Second) }, doWait, whyStorage, 5 * time.Second, ""},
	} {
		s := fresh(tc.set)
		if s.rec.Colour != dnscheck.Green || s.rec.Doubt > 0 {
			s.rec.Since = ago(time.Hour)
		}
		if tc.why == whyForbidden || tc.why == whyNoWay {
			s.rec.Fails = 1
		}
		got := decide(&s, now)
		if got.do != tc.do || got.why != tc.why {
			t.Errorf("%s: %+v, want deed %d because %q", tc.name, got, tc.do, tc.why)
			continue
		}
		if tc.do == doWait && got.until.Sub(now) != tc.at {
			t.Errorf("%s: look again in %v, want %v", tc.name, got.until.Sub(now), tc.at)
		}
		if tc.do == doAttempt && got.route.account+" "+got.route.challenge != tc.way {
			t.Errorf("%s: way %+v, want %s", tc.name, got.route, tc.way)
		}
	}
}

func TestRenewalTime(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name               string
		life, chosen, want time.Duration
	}{
		{"a third left", 90 * days, 0, 60 * days},
		{"half of a short one", 160 * time.Hour, 0, 80 * time.Hour},
		{"ten days are long", 12 * days, 0, 8 * days},
		{"the authority's time", 90 * days, 70 * days, 70 * days},
		{"early, for a revocation", 90 * days, 2 * days, 2 * days},
		{"always now", 100 * days, time.Second, 2 * days},
		{"too late", 100 * days, 99 * days, 95 * days},
	} {
		var chosen time.Time
		if tc.chosen > 0 {
			chosen = begin.Add(tc.chosen)
		}
		if got := renewalTime(begin, begin.Add(tc.life), chosen).Sub(begin); got != tc.want {
			t.Errorf("%s: after %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestClockTrusted(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name         string
		synced       bool
		up           time.Duration
		seen, newest time.Time
		want         bool
	}{
		{"set", true, 0, time.Time{}, time.Time{}, true},
		{"set, and was wrong once", true, 0, now.AddDate(9, 0, 0), time.Time{}, true},
		{"just started", false, time.Minute, time.Time{}, time.Time{}, false},
		{"nobody sets it", false, time.Hour, now, now, true},
		{"before the last time seen", false, time.Hour, now.Add(time.Hour), time.Time{}, false},
		{"a small step back", false, time.Hour, now.Add(time.Minute), time.Time{}, true},
		{"before the newest certificate", false, time.Hour, time.Time{}, now.Add(time.Hour), false},
	} {
		if got := clockTrusted(tc.synced, tc.up, now, tc.seen, tc.newest); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	at := time.Date(2026, 11, 23, 0, 15, 0, 0, time.UTC)
	for _, tc := range []struct {
		name  string
		err   error
		said  time.Time
		kind  failureKind
		until time.Time
	}{
		{"text", acme.Problem{Type: acme.ProblemTypeRateLimited, Status: 429, Detail: "too many failed authorizations (5) for \"x\" in the last 1h0m0s, retry after 2026-11-23 00:15:00 UTC: see https://letsencrypt.org/docs/rate-limits/"}, time.Time{}, failedLimited, at},
		{"header", acme.Problem{Type: acme.ProblemTypeRateLimited, Status: 429, Detail: "slow down"}, at, failedLimited, at},
		{"maintenance", &statusError{503, at}, time.Time{}, failedUnreached, at},
		{"past", &statusError{503, now.Add(-time.Hour)}, time.Time{}, failedUnreached, time.Time{}},
		{"absurd", &statusError{429, now.AddDate(1, 0, 0)}, time.Time{}, failedLimited, time.Time{}},
		{"internal", acme.Problem{Type: acme.ProblemTypeServerInternal, Status: 500}, time.Time{}, failedUnreached, time.Time{}},
		{"forbidden", acme.Problem{Type: acme.ProblemTypeCAA, Status: 403}, time.Time{}, failedForbidden, time.Time{}},
		{"refused", acme.Problem{Type: acme.ProblemTypeDNS, Status: 400}, time.Time{}, failedRefused, time.Time{}},
		{"disk", errNotStored, time.Time{}, failedElse, time.Time{}},
	} {
		f := explain(tc.err, tc.said, now)
		if f.kind != tc.kind || !f.until.Equal(tc.until) {
			t.Errorf("%s: kind %d until %v, want %d until %v", tc.name, f.kind, f.until, tc.kind, tc.until)
		}
	}
	for header, want := range map[string]time.Time{"120": now.Add(2 * time.Minute), "Mon, 23 Nov 2026 00:15:00 GMT": at, "": {}, "-1": {}, "soon": {}} {
		if got := retryAfterHeader(http.Header{"Retry-After": {header}}, now); !got.Equal(want) {
			t.Errorf("Retry-After %q: %v, want %v", header, got, want)
		}
	}
}

// What an authority counts stays within the budget by back-off alone, and it
// never shrinks.
func TestBackoff(t *testing.T) {
	t.Parallel()
	inHour, at := 1, time.Duration(0)
	for fails := 1; ; fails++ {
		if at += backoff(fails, failedRefused, 0); at >= time.Hour {
			break
		}
		inHour++
	}
	if inHour > 4 {
		t.Errorf("%d refused attempts in the first hour, want at most 4", inHour)
	}
	for kind := failedElse; kind <= failedLimited; kind++ {
		last := time.Duration(0)
		for fails := range 20 {
			d := backoff(fails, kind, 0)
			if d < last || backoff(fails, kind, 1) > d*6/5 {
				t.Errorf("kind %d: %v after %d failures, %v before", kind, d, fails, last)
			}
			last = d
		}
	}
}
