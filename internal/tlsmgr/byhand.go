package tlsmgr

import (
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"time"
)

// This file is about attempts that a person asks for. They take the driver's
// way, with two differences in what the rule looks at: a new certificate is
// due now, and force takes away what we hold back by our own choice.

// Renewal is what became of the last Renew of a name in this process.
type Renewal struct {
	Asked  time.Time
	Forced bool
	Ended  time.Time // zero: under way
	Err    string    // why there is no new certificate; "" once Ended is set: there is
	Means  string    // Err in plain words, "" when there is nothing to add

	// Refused is set when no attempt was made after all, because the DNS,
	// asked first, is not well.
	Refused *RefusedError
}

// RefusedError is why Renew begins nothing.
type RefusedError struct {
	Name string

	// Reason is one of unknown (no such name), file (the certificate is the
	// user's), busy (an attempt is under way), and those of CertStatus.Waiting.
	Reason string

	Sentence string    // for people
	Until    time.Time // when that may change; zero: not known
	Force    bool      // whether force would have begun it
}

// Error implements error.
func (e *RefusedError) Error() string { return e.Name + ": " + e.Sentence }

// The reasons of RefusedError that are not reasons to wait.
const (
	RefusedUnknown = "unknown"
	RefusedFile    = "file"
	RefusedBusy    = "busy"
)

// Renew asks for a new certificate for name now, whether or not one is due,
// and returns before it is there: CertStatus.Renewal tells what became of it.
// Only a running Manager (Run) does anything about it. It returns the state of
// name as it is while the attempt is not counted yet, with its Renewal.
//
// It does not wait out a back-off, but stays within the hour's budget and
// behind a check of the DNS made for it. With force it passes over these two as well,
// and over pauses of our own; the attempt counts all the same. Nothing passes
// over what an authority told us to wait for, a clock that is not set, and an
// attempt under way. An error is a *RefusedError.
func (m *Manager) Renew(name string, force bool) (CertStatus, error) {
	canonical, err := canonicalHost(name)
	if err != nil {
		return CertStatus{}, &RefusedError{Name: name, Reason: RefusedUnknown, Sentence: "not a host name, want one like www.example.org"}
	}
	if refused := m.renewable(canonical); refused != nil {
		return CertStatus{}, refused
	}
	now := time.Now()
	st := m.status(canonical, now)
	s := m.situation(canonical, now).byHand(force)
	if act := decide(&s, now); act.do == doWait && !s.doubts(act) {
		return CertStatus{}, m.refusal(canonical, act, &s, force, now)
	}
	st.Renewal = &Renewal{Asked: now, Forced: force}
	if !m.drv.ask(canonical, *st.Renewal) {
		return CertStatus{}, &RefusedError{Name: canonical, Reason: RefusedBusy, Sentence: "an attempt is under way already"}
	}
	m.log.Info("renewal asked for", "name", canonical, "force", force)
	m.kick()
	return st, nil
}

// renewable returns why name has no certificate that we could renew, or nil.
func (m *Manager) renewable(name string) *RefusedError {
	t := m.table.Load()
	if slices.Contains(t.managed, name) || m.addrs.Load().has(name) {
		return nil
	}
	refused := &RefusedError{Name: name, Reason: RefusedUnknown, Sentence: "no site has this name, so there is nothing to renew"}
	s, ok := t.sites.find(name)
	switch {
	case t.onDemandName(name):
		refused.Sentence = "a certificate on demand is obtained and renewed by itself"
	case ok && s.file != nil:
		refused.Reason = RefusedFile
		refused.Sentence = fmt.Sprintf("its certificate comes from %s; replace that file and its key, they are read again within seconds", s.file.cert)
	case ok:
		refused.Sentence = "its certificate is that of " + s.cert + "; renew that one"
	}
	return refused
}

// byHand is s as the rule sees it when a person asks for an attempt.
func (s situation) byHand(force bool) situation {
	s.asked = true
	if s.storage {
		s.rec.Next = time.Time{}
	}
	if !force {
		return s
	}
	s.gated, s.counted = false, false
	s.rec.Pauses = maps.Clone(s.rec.Pauses)
	maps.DeleteFunc(s.rec.Pauses, func(_ string, p pause) bool { return p.Why != whyLimited })
	s.routes = slices.Clone(s.routes)
	for i := range s.routes {
		r := &s.routes[i]
		r.forbidden = false
		if r.why != whyLimited {
			r.until, r.why = time.Time{}, whyNothing
		}
	}
	return s
}

// doubts reports whether the next look at the DNS, a second away, may turn
// what act waits for.
func (s *situation) doubts(act action) bool { return act.why == whyDNS && s.rec.Doubt > 0 }

// refusal words why act does not begin what was asked for.
func (m *Manager) refusal(name string, act action, s *situation, force bool, now time.Time) *RefusedError {
	e := &RefusedError{Name: name, Reason: string(act.why), Until: act.until, Sentence: s.sentence(act)}
	switch act.why {
	case whyBudget:
		e.Until = s.opens(now)
		e.Sentence = fmt.Sprintf("the %d attempts of this hour are spent", s.perHour)
		if s.rec.Meaning != "" {
			e.Sentence += "; the last one ended with: " + s.rec.Meaning
		}
	case whyAmber:
		e.Until = s.opens(now)
		e.Sentence += "; while that is so there is one attempt in 15 minutes"
	case whyAuthority, whyLimited, whyForbidden:
		e.Until = s.opens(now)
	}
	if !force {
		forced := m.situation(name, now).byHand(true)
		e.Force = decide(&forced, now).do == doAttempt
	}
	return e
}

// byHand answers a Renew that waits for name: with an attempt or a check to do
// instead of what is planned, or with a refusal.
func (m *Manager) byHand(name string, s situation, planned action, now time.Time) action {
	ask, open := m.drv.asked(name)
	if !open {
		return planned
	}
	s = s.byHand(ask.Forced)
	act := decide(&s, now)
	if act.do == doAttempt && s.gated && s.checkedAt.Before(ask.Asked) {
		act = action{do: doCheck}
	}
	if act.do == doWait {
		if !s.doubts(act) {
			refused := m.refusal(name, act, &s, ask.Forced, now)
			m.drv.answer(name, ending{words: refused.Sentence, refused: refused})
			return planned
		}
		if planned.do != doWait || planned.until.Before(act.until) {
			return planned
		}
	}
	act.forced = ask.Forced
	return act
}

// ending is how an attempt ended; the zero value is well.
type ending struct {
	words, means string
	refused      *RefusedError
}

// outcome is what an attempt for name came to that began at a time when leaf
// was held.
func (m *Manager) outcome(name string, leaf *x509.Certificate, began time.Time) *ending {
	if got := m.eng.find(name); got != nil && (leaf == nil || got.SerialNumber.Cmp(leaf.SerialNumber) != 0) {
		return &ending{}
	}
	rec := m.ledger.get(name)
	switch {
	case rec.LastError != "" && !rec.LastErrorAt.Before(began):
		return &ending{words: rec.LastError, means: rec.Meaning}
	case !m.ledger.writable():
		return &ending{words: "the data folder cannot be written, so a new certificate could not be kept"}
	}
	return &ending{words: "the attempt was given up before it came to anything; the log says why"}
}

// ask notes that an attempt for name is wanted; false: one is under way.
func (d *driver) ask(name string, r Renewal) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy[name] == doAttempt || d.askedLocked(name) {
		return false
	}
	d.renewals[name] = r
	return true
}

func (d *driver) askedLocked(name string) bool {
	r, ok := d.renewals[name]
	return ok && r.Ended.IsZero()
}

// asked returns the Renewal of name that waits for its attempt.
func (d *driver) asked(name string) (Renewal, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.renewals[name], d.askedLocked(name)
}

// answer ends the Renewal of name that waits, if there is one.
func (d *driver) answer(name string, out ending) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answerLocked(name, out)
}

func (d *driver) answerLocked(name string, out ending) {
	if r := d.renewals[name]; d.askedLocked(name) {
		r.Ended, r.Err, r.Means, r.Refused = time.Now(), out.words, out.means, out.refused
		d.renewals[name] = r
	}
}

// renewalOf is the last one of name, or nil.
func (d *driver) renewalOf(name string) *Renewal {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r, ok := d.renewals[name]; ok {
		return &r
	}
	return nil
}
