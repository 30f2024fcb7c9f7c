package tlsmgr

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"postern/internal/dnscheck"
)

// CertStatus is the state of one configured name.
type CertStatus struct {
	Name   string
	Source string // acme, local or file

	// Of the certificate that is served; zero while State is missing.
	Issuer    string // common name or organisation of the issuer
	NotBefore time.Time
	NotAfter  time.Time
	KeyType   string // like "ECDSA P-256"
	Serial    string // in hexadecimal

	// LastError is why the last attempt failed, in the authority's own
	// words; empty after a success. It may quote what strangers' DNS said:
	// quote it when printing.
	LastError   string
	LastErrorAt time.Time
	LastAttempt time.Time // zero: none known
	NextAttempt time.Time // zero: none is held up

	// Meaning is LastError in plain words, "" when there is nothing to add.
	Meaning string

	// Verdict is green, amber or red for the name's DNS, "" when it does not
	// matter or was not looked at; Findings are what the last look found.
	// VerdictSince is when it became so.
	Verdict      string
	VerdictSince time.Time
	Findings     []dnscheck.Finding

	// Sentence says in plain words what holds a certificate up that is due,
	// or what is wrong with the DNS; "" when all is well. Since is when that
	// began. Waiting is its kind, of a closed set: dns, dns_partly, clock,
	// backoff, budget, authority, rate_limit, forbidden, no_way, storage.
	Sentence string
	Since    time.Time
	Waiting  string

	// RenewAt is when the certificate held will be renewed.
	RenewAt time.Time

	// AttemptsLeft is how many attempts this hour's budget has left, at the
	// authority that has the most. -1: they are not limited.
	AttemptsLeft int

	// Renewal is the last one that was asked for by Renew. Nil: none.
	Renewal *Renewal

	// State is ok, missing, expiring (a fifth of the lifetime or less is
	// left: a renewal should have worked before) or expired.
	State string
}

// AuthorityStatus is the state of one ACME authority.
type AuthorityStatus struct {
	Name      string // its host; with the path, when a second one is there
	Directory string

	// State is ok, down or limited; Since and LastError say since when and
	// why it is not ok, NextTry when it is asked again.
	State     string
	Since     time.Time
	NextTry   time.Time
	LastError string
}

// The states of CertStatus, and of AuthorityStatus.
const (
	StateOK       = "ok"
	StateMissing  = "missing"
	StateExpiring = "expiring"
	StateExpired  = "expired"
	StateDown     = "down"
	StateLimited  = "limited"
)

// Authorities tells the state of every ACME authority, in the configured
// order. With the local issuer there are none.
func (m *Manager) Authorities() []AuthorityStatus {
	var out []AuthorityStatus
	now := time.Now()
	for _, i := range m.eng.now.Load().list {
		a, ok := i.certifier.(*authority)
		if !ok {
			continue
		}
		h := m.ledger.health(a.key)
		name := a.host
		if slices.ContainsFunc(out, func(o AuthorityStatus) bool { return o.Name == name }) {
			name = a.key // two directories at one host
		}
		st := AuthorityStatus{Name: name, Directory: a.cfg.Directory, State: StateOK}
		if h.Fails > 0 {
			st.State, st.Since, st.LastError = StateDown, h.Since, h.LastError
			if h.Why == whyLimited {
				st.State = StateLimited
			}
			if h.Until.After(now) {
				st.NextTry = h.Until
			}
		}
		out = append(out, st)
	}
	return out
}

// Status tells the state of every configured name and of our addresses,
// sorted by name. Names obtained on demand are not listed; OnDemandCount
// counts them.
func (m *Manager) Status() []CertStatus {
	t := m.table.Load()
	now := time.Now()
	var out []CertStatus
	for _, s := range t.all() {
		if s.file == nil {
			out = append(out, m.status(s.name, now))
			continue
		}
		st := CertStatus{Name: s.name, Source: "file", AttemptsLeft: -1}
		st.describe(s.file.current().Leaf, now)
		out = append(out, st)
	}
	for _, a := range m.addrs.Load().list {
		if _, site := t.sites.exact[a.text]; !site {
			out = append(out, m.status(a.text, now))
		}
	}
	slices.SortFunc(out, func(a, b CertStatus) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// status tells the state of one managed name.
func (m *Manager) status(name string, now time.Time) CertStatus {
	s := m.situation(name, now)
	if !s.checkedAt.IsZero() {
		s.checkedAt = now // what holds it up, not that a look is due
	}
	act := decide(&s, now)
	rec := &s.rec
	st := CertStatus{
		Name: name, Source: m.eng.label(), RenewAt: s.renewAt, AttemptsLeft: -1,
		LastError: rec.LastError, LastErrorAt: rec.LastErrorAt, LastAttempt: rec.LastAttempt, Meaning: rec.Meaning,
		Sentence: s.sentence(act), Renewal: m.drv.renewalOf(name),
	}
	st.describe(m.eng.find(name), now)
	if s.gated && !rec.Since.IsZero() {
		st.Verdict, st.VerdictSince, st.Findings = rec.Colour.String(), rec.Since, m.drv.findings(name)
	}
	if act.do == doWait && act.why != whyNothing {
		st.Waiting, st.NextAttempt = string(act.why), act.until
		if act.why != whyDNS && act.why != whyClock {
			st.NextAttempt = s.opens(now)
		}
	}
	if st.Sentence != "" {
		st.Since = rec.LastErrorAt
		if s.gated && rec.Colour != dnscheck.Green {
			st.Since = rec.Since
		}
		if rec.Outage != nil {
			st.Since = rec.Outage.Since
		}
	}
	if s.counted {
		for _, r := range s.routes {
			st.AttemptsLeft = max(st.AttemptsLeft, 0, s.perHour-len(rec.triesSince(r.account, now.Add(-budgetHour))))
		}
	}
	return st
}

// opens is the earliest time an attempt may be made, as far as is known now.
func (s *situation) opens(now time.Time) time.Time {
	_, at, _ := s.pick(now)
	if s.rec.Next.After(at) {
		at = s.rec.Next
	}
	if s.gated && s.rec.Colour == dnscheck.Amber {
		if t := s.rec.LastAttempt.Add(amberEvery); t.After(at) {
			at = t
		}
	}
	return at
}

func (d *driver) findings(name string) []dnscheck.Finding {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.verdicts[name].Findings
}

// describe fills in what the certificate says.
func (st *CertStatus) describe(leaf *x509.Certificate, now time.Time) {
	st.State = certState(leaf, now)
	if leaf == nil {
		return
	}
	st.Issuer, st.KeyType = issuerName(leaf), keyType(leaf)
	st.NotBefore, st.NotAfter, st.Serial = leaf.NotBefore, leaf.NotAfter, serialOf(leaf)
}

// OnDemandCount is how many certificates in memory were obtained for names no
// site lists.
func (m *Manager) OnDemandCount() int { return m.onDemandCount() }

// certState is the pure rule behind CertStatus.State.
func certState(leaf *x509.Certificate, now time.Time) string {
	if leaf == nil {
		return StateMissing
	}
	left, life := leaf.NotAfter.Sub(now), leaf.NotAfter.Sub(leaf.NotBefore)
	switch {
	case left <= 0:
		return StateExpired
	case left <= life/5:
		return StateExpiring
	}
	return StateOK
}

func issuerName(leaf *x509.Certificate) string {
	if n := leaf.Issuer.CommonName; n != "" {
		return n
	}
	if o := leaf.Issuer.Organization; len(o) > 0 {
		return o[0]
	}
	return ""
}

func keyType(leaf *x509.Certificate) string {
	switch k := leaf.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return leaf.PublicKeyAlgorithm.String()
}

// Leaf is the certificate that is served for a site's name now. Nil: none.
func (m *Manager) Leaf(name string) *x509.Certificate {
	s, ok := m.table.Load().sites.find(canonicalSNI(name))
	if !ok {
		return nil
	}
	c := m.eng.certificate(s.cert)
	if s.file != nil {
		c = s.file.current()
	}
	if c == nil {
		return nil
	}
	return c.Leaf
}
