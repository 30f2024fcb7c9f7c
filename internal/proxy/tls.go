package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"postern/internal/caller"
	"postern/internal/guard"
)

// ALPN protocols. That of tls-alpn-01 (RFC 8737) is the answer by its
// handshake: no byte follows.
const (
	protocolH2        = "h2"
	protocolChallenge = "acme-tls/1"
)

// handshake runs the TLS handshake. It returns nil when the connection is over.
func (s *Server) handshake(c *clientConn) *tls.Conn {
	ctx := context.Background() // the connection's own: nobody above waits for it
	if d := s.snap.Load().Limits.Handshake; d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	start := time.Now()
	tc := tls.Server(c, s.cfg.TLS)
	if err := tc.HandshakeContext(ctx); err != nil {
		s.handshakeFailed(c, err)
		return nil
	}
	s.metrics.handshake(handshakeOK, time.Since(start))
	if tc.ConnectionState().DidResume {
		s.metrics.resumed.Inc()
	}
	c.secured.Store(true)
	_ = tc.SetDeadline(time.Time{})
	return tc
}

// quietly returns cfg with a change: who is refused for the name in the hello
// gets no alert. A reset follows at once, which may overtake it anyway, and
// sending it is a quarter of what the refusal costs. A guard that does not
// enforce is for finding out; there the alert is sent.
func (s *Server) quietly(cfg *tls.Config) *tls.Config {
	if cfg == nil || cfg.GetConfigForClient == nil {
		return cfg
	}
	choose := cfg.GetConfigForClient
	cfg = cfg.Clone()
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		chosen, err := choose(hello)
		if c, ok := hello.Conn.(*clientConn); ok && err != nil && s.cfg.Guard.Mode() == guard.Enforce {
			_, c.mute = refusalClasses[handshakeClass(err)]
		}
		return chosen, err
	}
	return cfg
}

// serveTLS speaks what the handshake agreed on.
func (s *Server) serveTLS(c *clientConn, tc *tls.Conn) {
	state := tc.ConnectionState()
	agreed := state.NegotiatedProtocol
	c.cert = caller.NewPeer(state.PeerCertificates)
	if agreed == protocolChallenge {
		c.judged.Store(true)
		_ = tc.Close()
		return
	}
	s.engine(c, tc, agreed)
}

// The result classes of TLS handshakes.
const (
	handshakeOK       = "ok"
	handshakeTimeout  = "timeout"
	handshakeGone     = "client_gone"
	handshakeNotTLS   = "not_tls"
	handshakeNoCommon = "no_common_parameters"
	handshakeAlert    = "client_alert"
	handshakeOther    = "other"
)

// refusalClasses are the refusals tlsmgr names, and what each says about the
// client.
var refusalClasses = map[string]guard.Signal{ // read only
	"no_server_name":      guard.NoServerName,
	"unknown_server_name": guard.UnknownServerName,
}

func (s *Server) handshakeFailed(c *clientConn, err error) {
	class := handshakeClass(err)
	if c.judged.Load() { // by its first bytes
		class = handshakeNotTLS
	}
	s.metrics.handshake(class, time.Since(c.start))
	s.log.Debug("TLS handshake failed", "client", c.client, "class", class, "err", err)
	if signal, ok := refusalClasses[class]; ok {
		c.refuse(class, signal)
	} else if class == handshakeTimeout || class == handshakeNoCommon {
		c.refuse("handshake_"+class, guard.HandshakeFailed)
	}
	_ = c.Close()
}

// handshakeClass sorts the errors of crypto/tls, which has no types for most
// of them.
func handshakeClass(err error) string {
	if r, ok := errors.AsType[interface {
		error
		RefusalClass() string
	}](err); ok {
		return r.RefusalClass()
	}
	var record tls.RecordHeaderError
	var alert tls.AlertError
	var op *net.OpError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return handshakeTimeout
	case errors.As(err, &record):
		return handshakeNotTLS
	case errors.As(err, &alert), errors.As(err, &op) && op.Op == "remote error":
		return handshakeAlert
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), op != nil:
		return handshakeGone
	case strings.Contains(err.Error(), "unsupported"), strings.Contains(err.Error(), "no cipher suite"), strings.Contains(err.Error(), "no mutual"), strings.Contains(err.Error(), "no application protocol"):
		return handshakeNoCommon
	}
	return handshakeOther
}
