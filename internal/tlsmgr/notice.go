package tlsmgr

import (
	"fmt"
	"time"

	"postern/internal/dnscheck"
)

// Notice tells people that something stands between a name and its
// certificate, or that it is over. There is one of each for an outage, also
// across restarts.
type Notice struct {
	Kind     string    `json:"kind"` // dns, authority, rate_limit, refused, clock or storage
	Name     string    `json:"name"`
	Sentence string    `json:"sentence"`       // for people; what strangers' DNS said in it is quoted
	Since    time.Time `json:"since"`          // when the outage began
	Ended    time.Time `json:"ended,omitzero"` // zero: it has not
}

// noticeKinds are the values of Notice.Kind.
func noticeKinds() []string {
	return []string{"dns", "authority", "rate_limit", "refused", "clock", "storage"}
}

// judge opens and closes the outage of a name and tells about it.
func (m *Manager) judge(name string, s *situation, act action, now time.Time) {
	var told *Notice
	m.ledger.update(name, func(r *record) { told = r.judge(name, s, act, m.eng.until(name), now) })
	if told == nil {
		return
	}
	m.metrics.noticed(told.Kind, told.Ended.IsZero())
	m.saveQuietly(now) // first: told twice is worse than told never, and the log has it too
	if f := m.settings.Load().notice; f != nil {
		f(*told)
	}
}

// judge returns the notice that is due, or nil. r is what s.rec is a copy of.
func (r *record) judge(name string, s *situation, act action, until, now time.Time) *Notice {
	due := !s.dueAt().After(now)
	red := s.gated && s.rec.Colour == dnscheck.Red
	if r.Outage != nil {
		if due || red {
			return nil
		}
		n := *r.Outage
		r.Outage = nil
		n.Ended = now
		n.Sentence = fmt.Sprintf("%s is well again after %v; its certificate is good until %s", name, now.Sub(n.Since).Round(time.Second), until.UTC().Format(time.DateTime+" MST"))
		return &n
	}
	kind, sentence, since := s.trouble(act, due, red, now)
	if kind == "" {
		return nil
	}
	if s.held && until.After(now) {
		sentence += "; the certificate held is good until " + until.UTC().Format(time.DateTime+" MST")
	}
	r.Outage = &Notice{Kind: kind, Name: name, Sentence: sentence, Since: since}
	n := *r.Outage
	return &n
}

// trouble says what is worth telling a person; kind "" is nothing.
func (s *situation) trouble(act action, due, red bool, now time.Time) (kind, sentence string, since time.Time) {
	if red && (due || now.Sub(s.rec.Since) >= s.every) && !s.rec.Since.IsZero() {
		return "dns", s.rec.Sentence, s.rec.Since
	}
	if !due || act.do != doWait {
		return "", "", now
	}
	since = now
	if !s.rec.LastErrorAt.IsZero() {
		since = s.rec.LastErrorAt
	}
	switch act.why {
	case whyClock, whyStorage:
		return string(act.why), s.sentence(act), now
	case whyLimited:
		return "rate_limit", s.sentence(act), since
	case whyAuthority:
		if s.rec.Stumbles < 2 {
			return "", "", now // a hiccup
		}
		return "authority", s.sentence(act), since
	case whyForbidden, whyNoWay:
		return "refused", s.sentence(act), since
	case whyBackoff, whyBudget:
		if s.rec.LastError != "" {
			return "refused", s.sentence(act), since
		}
	}
	return "", "", now
}

// sentence says in plain words what holds a name up, "" when nothing does.
func (s *situation) sentence(act action) string {
	switch act.why {
	case whyClock:
		return "the clock of this machine is not set yet, so nothing can be said about certificates"
	case whyDNS, whyAmber:
		return s.rec.Sentence
	case whyStorage:
		return "the data folder cannot be written, so a new certificate could not be kept"
	case whyNoWay:
		return "no challenge can be answered: http-01 needs the http listener, tls-alpn-01 the https one, a wildcard dns-01"
	case whyForbidden:
		if s.rec.Meaning != "" {
			return s.rec.Meaning
		}
		return "CAA forbids every certificate authority that is configured"
	case whyAuthority:
		if s.rec.Meaning != "" {
			return s.rec.Meaning
		}
		return "the certificate authority cannot be reached"
	case whyLimited:
		if s.rec.Meaning != "" {
			return s.rec.Meaning
		}
		return "the certificate authority's limit on requests is reached; it passes by itself"
	case whyBackoff, whyBudget:
		return s.rec.Meaning
	}
	if s.gated && s.rec.Colour != dnscheck.Green {
		return s.rec.Sentence
	}
	return ""
}

// until is when the certificate served for name ends; zero: there is none.
func (e *engine) until(name string) time.Time {
	if leaf := e.find(name); leaf != nil {
		return leaf.NotAfter
	}
	return time.Time{}
}
