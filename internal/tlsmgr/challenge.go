package tlsmgr

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	"github.com/miekg/dns"
)

// The challenge types of RFC 8555 section 8 and RFC 8737.
const (
	challengeHTTP = acme.ChallengeTypeHTTP01
	challengeALPN = acme.ChallengeTypeTLSALPN01
	challengeDNS  = acme.ChallengeTypeDNS01
)

// challengePath is where http-01 is answered (RFC 8555 section 8.3).
const challengePath = "/.well-known/acme-challenge/"

// HandleHTTPChallenge answers an http-01 request for a challenge this Manager
// has open and returns true; anything else it leaves alone and returns false.
// Call it on the plain-HTTP listener before any redirect and any refusal of
// unknown hosts. It reads nothing but the request line and the Host header,
// and touches no disk.
func (m *Manager) HandleHTTPChallenge(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodGet || len(r.Host) > 300 || !strings.HasPrefix(r.URL.Path, challengePath) {
		return false
	}
	c, ok := m.open.http(hostOnly(r.Host))
	if !ok || r.URL.Path != c.HTTP01ResourcePath() {
		return false // another token than ours is never answered: RFC 8555 section 8.3 warns of reflection
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = w.Write([]byte(c.KeyAuthorization)) // the authority asks again if it did not arrive
	return true
}

// hostOnly is the name or address of a Host header, without port and brackets.
func hostOnly(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().String()
	}
	return canonicalSNI(host)
}

// openChallenges are the challenges an authority may ask about now. Its
// methods may be called from several goroutines.
type openChallenges struct {
	mu     sync.RWMutex
	byHost map[string]acme.Challenge   // http-01, by identifier; guarded by mu
	bySNI  map[string]*tls.Certificate // tls-alpn-01, by server name; guarded by mu
}

func newOpenChallenges() *openChallenges {
	return &openChallenges{byHost: map[string]acme.Challenge{}, bySNI: map[string]*tls.Certificate{}}
}

func (o *openChallenges) http(host string) (acme.Challenge, bool) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	c, ok := o.byHost[host]
	return c, ok
}

func (o *openChallenges) alpn(sni string) *tls.Certificate {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.bySNI[canonicalSNI(sni)]
}

// challengeSNI is the server name of a tls-alpn-01 probe: for addresses it is
// the reverse name (RFC 8738 section 6).
func challengeSNI(identifier string) string {
	if _, err := netip.ParseAddr(identifier); err != nil {
		return canonicalSNI(identifier)
	}
	arpa, err := dns.ReverseAddr(identifier)
	if err != nil {
		return identifier
	}
	return canonicalSNI(arpa)
}

// solver answers one challenge type from openChallenges.
type solver struct {
	open *openChallenges
	kind string
}

var _ acmez.Solver = solver{}

// Present implements acmez.Solver.
func (s solver) Present(_ context.Context, c acme.Challenge) error {
	id := c.Identifier.Value
	if s.kind == challengeHTTP {
		s.open.mu.Lock()
		defer s.open.mu.Unlock()
		s.open.byHost[hostOnly(id)] = c
		return nil
	}
	cert, err := acmez.TLSALPN01ChallengeCert(c)
	if err != nil {
		return fmt.Errorf("tls-alpn-01 certificate for %s: %w", id, err)
	}
	s.open.mu.Lock()
	defer s.open.mu.Unlock()
	s.open.bySNI[challengeSNI(id)] = cert
	return nil
}

// CleanUp implements acmez.Solver.
func (s solver) CleanUp(_ context.Context, c acme.Challenge) error {
	s.open.mu.Lock()
	defer s.open.mu.Unlock()
	if s.kind == challengeHTTP {
		delete(s.open.byHost, hostOnly(c.Identifier.Value))
	} else {
		delete(s.open.bySNI, challengeSNI(c.Identifier.Value))
	}
	return nil
}
