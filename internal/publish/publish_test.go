package publish

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// stage is a Publisher whose targets are functions, in a bubble.
type stage struct {
	*Publisher
	mu      sync.Mutex
	facts   Facts
	outages []Outage
}

func newStage(t *testing.T, posts ...*post) *stage {
	s := &stage{facts: Facts{Names: []string{"home.example"}, IPv4: netip.MustParseAddr("203.0.113.7"), Port: 443, Fingerprint: "sha256//x"}}
	reg := prometheus.NewPedanticRegistry()
	s.Publisher = New(Config{Registerer: reg, Facts: func() Facts {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.facts
	}, OnOutage: func(o Outage) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.outages = append(s.outages, o)
	}})
	s.posts = posts
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
			t.Error(problems, err)
		}
	})
	return s
}

// told are the messages so far.
func (s *stage) told() []Outage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.outages)
}

func (s *stage) move(addr string) {
	s.mu.Lock()
	s.facts.IPv4 = netip.Addr{}
	if addr != "" {
		s.facts.IPv4 = netip.MustParseAddr(addr)
	}
	s.mu.Unlock()
	s.Changed()
}

// place is a target that answers err and remembers what it was sent.
type place struct {
	mu   sync.Mutex
	err  error
	got  []Document
	hold chan struct{} // not nil: an attempt waits for it
}

func (p *place) post(name string) *post {
	return &post{name: name, push: func(ctx context.Context, d Document) error {
		if p.hold != nil {
			select {
			case <-p.hold:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.got = append(p.got, d)
		return p.err
	}}
}

func (p *place) answer(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

func (p *place) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.got)
}

func (p *place) last() Document {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.got) == 0 {
		return Document{}
	}
	return p.got[len(p.got)-1]
}

// One write after the start, one for each change, none in a quiet week.
func TestWritesOnlyChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(place)
		s := newStage(t, p.post("a"))
		synctest.Wait()
		if p.count() != 1 || p.last().IPv4 != "203.0.113.7" || p.last().Updated == "" {
			t.Fatalf("after the start: %+v", p.last())
		}
		first := p.last().Updated
		time.Sleep(7 * 24 * time.Hour)
		synctest.Wait()
		if p.count() != 1 {
			t.Fatalf("%d writes in a quiet week", p.count()-1)
		}
		s.move("203.0.113.8")
		synctest.Wait()
		if p.count() != 2 || p.last().IPv4 != "203.0.113.8" || p.last().Updated == first {
			t.Fatalf("after a move: %+v", p.last())
		}
		s.move("") // the address is lost: what callers know stays
		time.Sleep(time.Hour)
		s.move("203.0.113.8")
		time.Sleep(time.Hour)
		if p.count() != 2 {
			t.Errorf("an address that went and came back was written: %+v", p.last())
		}
		s.mu.Lock()
		s.facts.Fingerprint = "sha256//y" // nobody calls Changed for a certificate
		s.mu.Unlock()
		time.Sleep(pollEvery + time.Second)
		if p.count() != 3 || p.last().Fingerprint != "sha256//y" {
			t.Errorf("a new certificate was not written: %+v", p.last())
		}
	})
}

// A target that hangs or fails holds up no other, and changes meanwhile
// become one write.
func TestTargetsAreIndependent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung, dead, well := &place{hold: make(chan struct{})}, &place{err: errors.New("down")}, new(place)
		s := newStage(t, hung.post("hung"), dead.post("dead"), well.post("well"))
		synctest.Wait()
		if well.count() != 1 {
			t.Fatal("the well one was not written")
		}
		for _, addr := range []string{"203.0.113.8", "203.0.113.9", "203.0.113.10"} {
			s.move(addr)
			synctest.Wait()
		}
		if well.count() != 4 {
			t.Errorf("the well one was written %d times, want 4", well.count())
		}
		close(hung.hold)
		synctest.Wait()
		if hung.count() != 2 || hung.last().IPv4 != "203.0.113.10" {
			t.Errorf("the one that hung was sent %+v, want the first document and the last", hung.last())
		}
		dead.answer(nil)
		time.Sleep(maxWait * 2)
		if dead.last().IPv4 != "203.0.113.10" {
			t.Errorf("the dead one holds %+v", dead.last())
		}
	})
}

// A week of flapping: retried for ever, told twice for each outage.
func TestFlappingWeek(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(place)
		s := newStage(t, p.post("a"))
		synctest.Wait()
		for day := range 7 {
			p.answer(&Error{Target: "a", Kind: ErrUnreachable, Status: 503})
			s.move(netip.AddrFrom4([4]byte{203, 0, 113, byte(20 + day)}).String())
			before := p.count()
			time.Sleep(6 * time.Hour)
			if tries := p.count() - before; tries < 60 || tries > 110 {
				t.Errorf("day %d: %d attempts in 6 hours of outage, want about one in 5 minutes", day, tries)
			}
			p.answer(nil)
			time.Sleep(18 * time.Hour)
		}
		told := s.told()
		if len(told) != 14 {
			t.Fatalf("%d messages about 7 outages: %+v", len(told), told)
		}
		for i, o := range told {
			if o.Ended.IsZero() != (i%2 == 0) || o.Target != "a" {
				t.Errorf("message %d: %+v", i, o)
			}
		}
		if lasted := told[1].Ended.Sub(told[1].Since); lasted < 6*time.Hour || lasted > 6*time.Hour+10*time.Minute {
			t.Errorf("the first outage lasted %s", lasted)
		}
	})
}

func TestHiccupIsNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &place{err: errors.New("reset")}
		s := newStage(t, p.post("a"))
		synctest.Wait()
		p.answer(nil)
		time.Sleep(time.Minute)
		if told := s.told(); p.count() != 2 || len(told) != 0 {
			t.Errorf("%d writes, told %+v", p.count(), told)
		}
		p.answer(&Error{Target: "a", Kind: ErrDenied, Status: 403}) // waiting does not mend a wrong key
		s.move("203.0.113.9")
		synctest.Wait()
		if told := s.told(); len(told) != 1 {
			t.Errorf("a refusal was not told at once: %+v", told)
		}
	})
}

// Retry-After is obeyed, within an hour.
func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &place{err: &Error{Target: "a", Kind: ErrLimited, RetryAfter: 10 * time.Minute}}
		newStage(t, p.post("a"))
		time.Sleep(10*time.Minute - time.Second)
		if p.count() != 1 {
			t.Errorf("%d attempts within Retry-After", p.count())
		}
		time.Sleep(2 * time.Second)
		if p.count() != 2 {
			t.Errorf("%d attempts after it", p.count())
		}
	})
}

// A reload keeps what is known about targets that stay.
func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		hook := func(url string) Target { return Target{Webhook: &Webhook{URL: url}} }
		apply := func(targets []Target) {
			t.Helper()
			swap, err := s.Prepare(targets)
			if err != nil {
				t.Fatal(err)
			}
			swap()
		}
		if _, err := s.Prepare([]Target{{}}); err == nil {
			t.Error("a target that is nothing was taken")
		}
		apply([]Target{hook("https://a.invalid/"), hook("https://b.invalid/")})
		s.Publisher.mu.Lock()
		kept := s.posts[1]
		s.Publisher.mu.Unlock()
		apply([]Target{hook("https://b.invalid/"), hook("https://c.invalid/")})
		s.Publisher.mu.Lock()
		defer s.Publisher.mu.Unlock()
		if s.posts[0] != kept || s.posts[1].name != "webhook c.invalid" {
			t.Errorf("after a reload: %v", s.posts)
		}
	})
}

func TestDocument(t *testing.T) {
	p := &post{target: Target{Names: []string{"a.example"}, Port: 8443}}
	at := time.Date(2026, 11, 22, 19, 0, 0, 0, time.UTC)
	p.decide(Facts{Names: []string{"b.example"}, IPv6: netip.MustParseAddr("2001:db8::7"), Port: 443, Fingerprint: "sha256//x"}, at)
	got, err := p.want.encode()
	want := `{"names":["a.example"],"ipv4":"","ipv6":"2001:db8::7","port":8443,"fingerprint":"sha256//x","updated":"2026-11-22T19:00:00Z"}`
	if err != nil || string(got) != want {
		t.Errorf("%s, %v\nwant %s", got, err, want)
	}
	if got, _ := (Document{}).encode(); !strings.Contains(string(got), `"names":[]`) {
		t.Errorf("names are %s", got)
	}
}
