package tlsmgr

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"time"
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

	// LastError is why the last attempt failed, in the authority's own
	// words; empty after a success. It may quote what strangers' DNS said:
	// quote it when printing.
	LastError   string
	LastErrorAt time.Time
	LastAttempt time.Time // zero: none since start
	NextAttempt time.Time // zero: none planned by us

	// State is ok, missing, expiring (a fifth of the lifetime or less is
	// left: a renewal should have worked before) or expired.
	State string
}

// The states of CertStatus.
const (
	StateOK       = "ok"
	StateMissing  = "missing"
	StateExpiring = "expiring"
	StateExpired  = "expired"
)

// Status tells the state of every configured name, sorted by name. Names
// obtained on demand are not listed; OnDemandCount counts them.
func (m *Manager) Status() []CertStatus {
	t := m.table.Load()
	states := m.states.all()
	now := time.Now()
	var out []CertStatus
	for _, s := range t.all() {
		st := CertStatus{Name: s.name, Source: m.eng.label()}
		var leaf *x509.Certificate
		if s.file != nil {
			st.Source = "file"
			leaf = s.file.current().Leaf
		} else {
			leaf = m.eng.find(s.name)
			ns := states[s.name]
			st.LastError, st.LastErrorAt, st.LastAttempt = ns.lastError, ns.lastErrorAt, ns.lastAttempt
			if ns.lastError != "" {
				st.NextAttempt = ns.next
			}
		}
		if leaf != nil {
			st.Issuer = issuerName(leaf)
			st.NotBefore, st.NotAfter = leaf.NotBefore, leaf.NotAfter
			st.KeyType = keyType(leaf)
		}
		st.State = certState(leaf, now)
		out = append(out, st)
	}
	return out
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
