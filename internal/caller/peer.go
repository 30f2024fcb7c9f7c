package caller

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// CertificateRule says which client certificates prove a caller.
type CertificateRule struct {
	// Roots is the PEM of the authorities that sign them; "": the built-in
	// one, whose certificates name the caller.
	Roots string
	// Subject is the common name, or one of the alternative names (DNS, URI or
	// e-mail) of the certificate, exactly. Required with Roots.
	Subject string
	// Revoked is a revocation list of Roots, in PEM or DER; nil: none.
	Revoked []byte
}

// certRule is a CertificateRule, ready for use.
type certRule struct {
	entry   *entry
	roots   *x509.CertPool
	own     bool // of the built-in authority
	subject string
	revoked map[string]bool // serials, in hexadecimal
}

// Peer is the certificate of a TLS client. The handshake proved that the client
// has its key; who signed it is looked at when a request asks. It is safe for
// concurrent use.
type Peer struct {
	chain  []*x509.Certificate
	sum    [sha256.Size]byte // of the certificate
	judged atomic.Pointer[peerResult]
}

// peerResult is what a Book found out about a Peer.
type peerResult struct {
	book  *Book
	keys  *keyTable // as revocations were
	res   Result
	until time.Time
}

// NewPeer returns the Peer of the certificates that a client sent, nil when it
// sent none.
func NewPeer(chain []*x509.Certificate) *Peer {
	if len(chain) == 0 {
		return nil
	}
	return &Peer{chain: chain, sum: sha256.Sum256(chain[0].Raw)}
}

// is reports whether the certificate has the hash, in base64url. A nil Peer
// has none.
func (p *Peer) is(hash string) bool {
	if p == nil {
		return false
	}
	own := base64.RawURLEncoding.EncodeToString(p.sum[:])
	return subtle.ConstantTimeCompare([]byte(own), []byte(hash)) == 1
}

// peerAgain is how long what was found out about a certificate is believed.
const peerAgain = time.Minute

// certificate judges a client certificate.
func (b *Book) certificate(p *Peer, now time.Time) Result {
	keys := b.keys.Load()
	if j := p.judged.Load(); j != nil && j.book == b && j.keys == keys && now.Before(j.until) {
		return j.res
	}
	res := b.judgeCertificate(p, keys, now)
	p.judged.Store(&peerResult{b, keys, res, now.Add(peerAgain)})
	return res
}

func (b *Book) judgeCertificate(p *Peer, keys *keyTable, now time.Time) Result {
	failure := NoCredentials // as long as no caller has certificates
	leaf := p.chain[0]
	at, exact := b.registry.clock.judge(now)
	if !exact && at.Before(leaf.NotBefore) {
		at = leaf.NotBefore
	}
	for _, rule := range b.certRules {
		f := rule.verify(p, at)
		if f == NoCredentials {
			if f = rule.names(leaf, keys); f == NoCredentials {
				serial := leaf.SerialNumber.Text(16)
				return found(newIdentity(rule.entry, ClientCertificate, Attribute{"Subject", leaf.Subject.CommonName}, Attribute{"Serial", serial}))
			}
		}
		if failure == NoCredentials || failure == BadCertificate || f == RevokedCert {
			failure = f // the one that came nearest
		}
	}
	return refused(failure)
}

// verify judges who signed a certificate, what for, and its time.
func (c *certRule) verify(p *Peer, at time.Time) Failure {
	between := x509.NewCertPool()
	for _, cert := range p.chain[1:min(len(p.chain), 8)] {
		between.AddCert(cert)
	}
	_, err := p.chain[0].Verify(x509.VerifyOptions{
		Roots: c.roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return ExpiredCert
	}
	if err != nil {
		return BadCertificate
	}
	return NoCredentials
}

// names judges whether a certificate of the rule's authority is the caller's,
// and was not taken back.
func (c *certRule) names(leaf *x509.Certificate, keys *keyTable) Failure {
	serial := leaf.SerialNumber.Text(16)
	subject := c.subject
	if c.own && subject == "" {
		subject = uriScheme + ":" + uriPrefix + c.entry.name
	}
	if !called(leaf, subject) {
		return NotListed
	}
	if c.own {
		if good, known := keys.serials[serial]; !known || !good {
			return RevokedCert // one that is not remembered may have been taken back
		}
	} else if c.revoked[serial] {
		return RevokedCert
	}
	return NoCredentials
}

// called reports whether a certificate has a name, exactly.
func called(leaf *x509.Certificate, name string) bool {
	return leaf.Subject.CommonName == name || slices.Contains(leaf.DNSNames, name) || slices.Contains(leaf.EmailAddresses, name) ||
		slices.ContainsFunc(leaf.URIs, func(u *url.URL) bool { return u.String() == name })
}

// addCertRule prepares what a caller's certificates are judged by.
func (b *Book) addCertRule(e *entry, rule *CertificateRule) error {
	c := &certRule{entry: e, roots: x509.NewCertPool(), own: rule.Roots == "", subject: rule.Subject, revoked: map[string]bool{}}
	if c.own {
		a, err := b.registry.ownAuthority()
		if err != nil {
			return err
		}
		c.roots.AddCert(a.cert)
		b.certRules = append(b.certRules, c)
		return nil
	}
	var authorities []*x509.Certificate
	rest := []byte(rule.Roots)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("caller %s: mtls: its ca file: %w", e.name, err)
		}
		c.roots.AddCert(cert)
		authorities = append(authorities, cert)
	}
	if len(authorities) == 0 || rule.Subject == "" {
		return fmt.Errorf("caller %s: mtls: want a ca file with certificates in PEM, and a subject", e.name)
	}
	if err := c.revoke(rule.Revoked, authorities); err != nil {
		return fmt.Errorf("caller %s: mtls: its crl file: %w", e.name, err)
	}
	b.certRules = append(b.certRules, c)
	return nil
}

// revoke takes the serials of a revocation list that one of the authorities
// signed.
func (c *certRule) revoke(list []byte, authorities []*x509.Certificate) error {
	if len(list) == 0 {
		return nil
	}
	if block, _ := pem.Decode(list); block != nil {
		list = block.Bytes
	}
	crl, err := x509.ParseRevocationList(list)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(authorities, func(a *x509.Certificate) bool { return crl.CheckSignatureFrom(a) == nil }) {
		return errors.New("it is not signed by an authority of the ca file")
	}
	for _, r := range crl.RevokedCertificateEntries {
		c.revoked[strings.ToLower(r.SerialNumber.Text(16))] = true
	}
	return nil
}

// ownAuthority is the built-in authority.
func (r *Registry) ownAuthority() (*authority, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.authority == nil {
		a, err := openAuthority(r.dir, time.Now())
		if err != nil {
			return nil, err
		}
		r.authority = a
	}
	return r.authority, nil
}
