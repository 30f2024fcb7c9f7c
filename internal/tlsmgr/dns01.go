package tlsmgr

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"postern/internal/dnscheck"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// TXTRecords sets TXT records at a DNS host; dnsapi's clients do.
type TXTRecords interface {
	AddTXT(ctx context.Context, name, value string) error
	RemoveTXT(ctx context.Context, name, value string) error
	Slot(name string) string // what name shares with others that can hold one value only; "": nothing
}

// DNS01Config says how dns-01 (RFC 8555 section 8.4) is answered.
type DNS01Config struct {
	// Records are set at the DNS host. Required.
	Records TXTRecords

	// Alias follows the CNAMEs of _acme-challenge, so that a name may leave
	// its challenges to another zone. Nil: none are followed.
	Alias func(ctx context.Context, name string) (string, error)

	// Seen asks all authoritative servers for a value, before the authority
	// does. Nil: it is taken for seen.
	Seen func(ctx context.Context, name, value string) (dnscheck.Seen, error)

	// Wait is how long the servers may take to have the value. Zero means
	// 2 min; an attempt as a whole has 3 min.
	Wait time.Duration

	// Every is the time between two looks. Zero means 2 s.
	Every time.Duration

	// Log hears of records that could not be removed. Nil discards.
	Log *slog.Logger
}

const (
	dns01Wait    = 2 * time.Minute
	dns01Every   = 2 * time.Second
	dns01CleanUp = 20 * time.Second // must work also when the attempt ran out of time
)

// NewDNS01 makes the solver for Config.DNS01. It has no goroutine. One solver
// must serve every Manager that uses the same account at the DNS host: it is
// what keeps two certificates from overwriting each other's record where there
// is room for one.
func NewDNS01(cfg DNS01Config) acmez.Solver {
	if cfg.Wait <= 0 {
		cfg.Wait = dns01Wait
	}
	if cfg.Every <= 0 {
		cfg.Every = dns01Every
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &dns01{cfg: cfg, open: map[string]*txtChallenge{}, slots: map[string]chan struct{}{}}
}

// dns01 answers dns-01. Its methods may be called from several goroutines.
type dns01 struct {
	cfg DNS01Config

	mu    sync.Mutex
	open  map[string]*txtChallenge // by challenge; guarded by mu
	slots map[string]chan struct{} // each holds one token; as many as there are names configured
}

// txtChallenge is a value that was set, or may have been.
type txtChallenge struct {
	name, value string
	slot        chan struct{} // held; nil: none
}

var (
	_ acmez.Solver = (*dns01)(nil)
	_ acmez.Waiter = (*dns01)(nil)
)

// dns01Error is what goes wrong with dns-01 before the authority looks: it is
// neither the authority's fault nor counted there.
type dns01Error struct{ err error }

func (e *dns01Error) Error() string { return e.err.Error() }
func (e *dns01Error) Unwrap() error { return e.err }

// Present implements acmez.Solver. Where the host can hold one value only, it
// waits for its turn; CleanUp ends the turn.
func (s *dns01) Present(ctx context.Context, c acme.Challenge) error {
	name := strings.TrimSuffix(c.DNS01TXTRecordName(), ".")
	if s.cfg.Alias != nil {
		target, err := s.cfg.Alias(ctx, name)
		if err != nil {
			return &dns01Error{fmt.Errorf("dns-01: %w", err)}
		}
		name = target
	}
	t := &txtChallenge{name: name, value: c.DNS01KeyAuthorization(), slot: s.slot(s.cfg.Records.Slot(name))}
	if t.slot != nil {
		select {
		case t.slot <- struct{}{}:
		case <-ctx.Done():
			return &dns01Error{fmt.Errorf("dns-01: %s: the DNS host has room for one value, and another certificate's is there: %w", name, ctx.Err())}
		}
	}
	// Before the call: one that fails may have set the value all the same.
	s.mu.Lock()
	s.open[challengeKey(c)] = t
	s.mu.Unlock()
	if err := s.cfg.Records.AddTXT(ctx, t.name, t.value); err != nil {
		return &dns01Error{fmt.Errorf("dns-01: %w", err)}
	}
	return nil
}

// slot is the token of one place for one value; nil for hosts with room.
func (s *dns01) slot(key string) chan struct{} {
	if key == "" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slots[key] == nil {
		s.slots[key] = make(chan struct{}, 1)
	}
	return s.slots[key]
}

// challengeKey tells challenges apart; their tokens are random (RFC 8555
// section 8.3).
func challengeKey(c acme.Challenge) string { return c.Identifier.Value + " " + c.Token + " " + c.URL }

// Wait implements acmez.Waiter: it looks at all authoritative servers until
// each that answers has the value, and more than half of them answer.
func (s *dns01) Wait(ctx context.Context, c acme.Challenge) error {
	s.mu.Lock()
	t := s.open[challengeKey(c)]
	s.mu.Unlock()
	if t == nil {
		return errors.New("dns-01: asked to wait for a challenge that was not presented")
	}
	if s.cfg.Seen == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Wait)
	defer cancel()
	tick := time.NewTicker(s.cfg.Every)
	defer tick.Stop()
	why := errors.New("no look was finished")
	for {
		seen, err := s.cfg.Seen(ctx, t.name, t.value)
		switch {
		case ctx.Err() != nil: // cut off: what the look before said counts
		case err != nil:
			why = err
		case everywhere(seen):
			return nil
		default:
			why = missing(seen)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return &dns01Error{fmt.Errorf("dns-01: TXT record of %s is not at all name servers after %v: %w", t.name, s.cfg.Wait, why)}
		}
	}
}

// everywhere is the rule of Wait.
func everywhere(s dnscheck.Seen) bool {
	return len(s.Without) == 0 && s.With > len(s.Silent)
}

// missing says what keeps everywhere from being true.
func missing(s dnscheck.Seen) error {
	var said []string
	said = append(append(said, s.Without...), s.Silent...)
	if len(said) == 0 {
		return errors.New("no name server can be reached from here")
	}
	const shown = 4
	if more := len(said) - shown; more > 0 {
		said = append(said[:shown], fmt.Sprintf("%d more", more))
	}
	return errors.New(strings.Join(said, ", "))
}

// CleanUp implements acmez.Solver. It removes what Present set, also when ctx
// has ended, and lets the next certificate have the place.
func (s *dns01) CleanUp(ctx context.Context, c acme.Challenge) error {
	s.mu.Lock()
	t := s.open[challengeKey(c)]
	delete(s.open, challengeKey(c))
	s.mu.Unlock()
	if t == nil {
		return nil
	}
	if t.slot != nil {
		defer func() { <-t.slot }()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dns01CleanUp)
	defer cancel()
	if err := s.cfg.Records.RemoveTXT(ctx, t.name, t.value); err != nil {
		s.cfg.Log.Info("a TXT record of a challenge stays behind at the DNS host; it does no harm", "name", t.name, "err", err)
	}
	return nil
}
