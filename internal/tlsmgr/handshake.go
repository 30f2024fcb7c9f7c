package tlsmgr

import (
	"crypto/sha256"
	"crypto/tls"
)

// protoChallenge is the ALPN protocol of tls-alpn-01 (RFC 8737 section 6.1).
const protoChallenge = "acme-tls/1"

// refusal is why a handshake was not served. Its text holds nothing the client
// sent.
type refusal struct{ class, text string }

func (r *refusal) Error() string { return "tls: " + r.text }

// RefusalClass names the reason from a closed set, for metrics and scoring.
func (r *refusal) RefusalClass() string { return r.class }

// The refusals there are. They are values, so that refusing allocates nothing.
var (
	errNoServerName      = &refusal{"no_server_name", "client sent no server name"}
	errUnknownServerName = &refusal{"unknown_server_name", "client asked for a server name that is not configured"}
	errNoCertificate     = &refusal{"no_certificate", "no certificate for this name yet"}
)

// serving is what handshakes run on. GetConfigForClient hands these out and
// never nil: net/http clones the listener's own config, and keys set on the
// original would not reach the clone.
type serving struct {
	normal    *tls.Config
	asking    *tls.Config // the same, and asks the client for a certificate
	challenge *tls.Config
	minimum   uint16
}

func (m *Manager) newServingConfig(minimum uint16, protos ...string) *tls.Config {
	return &tls.Config{
		MinVersion: minimum, NextProtos: protos, GetCertificate: m.getCertificate,
		// Small records at the beginning of a connection help a browser to
		// render early and cost a system call each; answers here go out whole.
		DynamicRecordSizingDisabled: true,
	}
}

// setServing publishes the configurations for a lowest version and the ticket
// keys, newest first.
func (m *Manager) setServing(minimum uint16, keys [][32]byte) {
	s := &serving{
		minimum:   minimum,
		normal:    m.newServingConfig(minimum, "h2", "http/1.1"),
		asking:    m.newServingConfig(minimum, "h2", "http/1.1"),
		challenge: m.newServingConfig(tls.VersionTLS12, protoChallenge),
	}
	s.asking.ClientAuth = tls.RequestClientCert
	s.setTicketKeys(keys)
	s.challenge.SessionTicketsDisabled = true
	m.serve.Store(s)
}

// setTicketKeys sets the keys of session tickets. Clients that were asked for a
// certificate have tickets of their own: a session that was begun without one
// is not gone on with where one is asked for.
func (s *serving) setTicketKeys(keys [][32]byte) {
	s.normal.SetSessionTicketKeys(keys)
	asking := make([][32]byte, len(keys))
	for i, k := range keys {
		asking[i] = sha256.Sum256(append([]byte("client certificate "), k[:]...))
	}
	s.asking.SetSessionTicketKeys(asking)
}

// configForClient refuses what we will not serve before the key exchange: a
// refusal costs microseconds, a certificate flight a hundred times that.
func (m *Manager) configForClient(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if isChallenge(hello) {
		// RFC 8737 section 3: only while the challenge for that name is open.
		if m.open.alpn(hello.ServerName) != nil {
			return m.serve.Load().challenge, nil
		}
	}
	a, refused := m.admit(hello)
	if refused != nil {
		return nil, refused
	}
	if isChallenge(hello) {
		return nil, errNoCertificate
	}
	if asks, _ := m.table.Load().asks.find(a.name); asks {
		return m.serve.Load().asking, nil
	}
	return m.serve.Load().normal, nil
}

// admitted is the name a handshake is served under.
type admitted struct {
	name     string
	cert     string    // the name its certificate has
	file     *fileCert // nil: from the engine
	onDemand bool      // not a site's name; may be obtained now
}

// admit decides whether and as which name a client is served. On the way of a
// configured name it takes no lock and allocates nothing.
func (m *Manager) admit(hello *tls.ClientHelloInfo) (admitted, *refusal) {
	t := m.table.Load()
	name := canonicalSNI(hello.ServerName)
	unnamed := name == ""
	if unnamed {
		// A client that dials an IP address sends no name (RFC 6066
		// section 3). The address it reached may be a site's.
		name = localAddr(hello.Conn)
	}
	if s, ok := t.sites.find(name); ok {
		return admitted{name: name, cert: s.cert, file: s.file}, nil
	}
	if unnamed || isAddr(name) {
		if own := m.addrs.Load().find(name, unnamed); own != "" && m.eng.certificate(own) != nil {
			return admitted{name: own, cert: own}, nil
		}
	}
	if r := t.onDemand; r != nil && (r.named(name) || !unnamed && m.allowed(hello.Context(), r, name)) {
		return admitted{name: name, cert: name, onDemand: true}, nil
	}
	if t.fallback != nil && (unnamed || isAddr(name)) {
		return admitted{name: t.fallback.name, cert: t.fallback.cert, file: t.fallback.file}, nil
	}
	if unnamed {
		return admitted{}, errNoServerName
	}
	return admitted{}, errUnknownServerName
}

func (m *Manager) getCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if isChallenge(hello) {
		if c := m.open.alpn(hello.ServerName); c != nil {
			return c, nil
		}
		return nil, errNoCertificate
	}
	a, refused := m.admit(hello)
	if refused != nil {
		return nil, refused
	}
	if a.file != nil {
		return a.file.current(), nil
	}
	if c := m.eng.certificate(a.cert); c != nil {
		return c, nil
	}
	if a.onDemand && m.obtainOnDemand(hello.Context(), a.name) == nil {
		if c := m.eng.certificate(a.cert); c != nil {
			return c, nil
		}
	}
	return nil, errNoCertificate
}

// isChallenge reports whether hello is a tls-alpn-01 probe: that protocol and
// no other (RFC 8737 section 3).
func isChallenge(hello *tls.ClientHelloInfo) bool {
	return len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == protoChallenge
}
