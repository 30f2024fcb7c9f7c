package app

import (
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"postern/internal/admin"
	"postern/internal/caller"
	"postern/internal/config"
	"postern/internal/proxy"
)

// callersDir is the folder of what is remembered about callers.
func callersDir(cfg *config.Config) string { return filepath.Join(cfg.Data, "callers") }

// openCallers makes the registry of the process. Its folder comes into being
// when it is needed.
func (a *App) openCallers(cfg *config.Config) (err error) {
	a.callers, err = caller.New(caller.Config{Dir: callersDir(cfg), Log: a.log, Registerer: a.registry})
	return err
}

// callerBook translates what the file says about callers; nil when there are
// none.
func callerBook(r *caller.Registry, cfg *config.Config) (*caller.Book, error) {
	if len(cfg.Callers) == 0 {
		return nil, nil
	}
	list, err := callerList(cfg)
	if err != nil {
		return nil, err
	}
	return r.Prepare(list)
}

// callerList are the callers of the file, in the order of their names, with
// what the files it names hold.
func callerList(cfg *config.Config) ([]caller.Caller, error) {
	var list []caller.Caller
	for _, name := range slices.Sorted(maps.Keys(cfg.Callers)) {
		out, err := newCaller(name, cfg.Callers[name])
		if err != nil {
			return nil, fmt.Errorf("callers.%s: %w", name, err)
		}
		list = append(list, out)
	}
	return list, nil
}

func newCaller(name string, c *config.Caller) (out caller.Caller, err error) {
	out = caller.Caller{Name: name, KeepCredentials: c.KeepCredentials}
	for _, text := range c.APIKeyHash {
		h, err := caller.ParseKeyHash(strings.ToLower(text))
		if err != nil {
			return out, fmt.Errorf("api_key_hash: %w", err)
		}
		out.KeyHashes = append(out.KeyHashes, h)
	}
	if a := c.AWS; a != nil {
		roots, err := pemFile("aws.ca", a.CA)
		if err != nil {
			return out, err
		}
		out.AWS = &caller.AWS{Issuer: a.Issuer, Audience: a.Audience, Roots: roots, Role: a.Role, Function: a.Function, Bound: a.Bound, STSRegion: a.STSRegion, STSEndpoint: a.STSEndpoint}
	}
	if g := c.Signature; g != nil {
		public, err := base64.StdEncoding.DecodeString(g.PublicKey)
		if err != nil {
			return out, fmt.Errorf("signature.public_key: %w", err)
		}
		out.Signature = &caller.SignatureKey{KeyID: g.KeyID, Secret: g.Secret.Reveal(), PublicKey: public, UnsignedPayload: g.UnsignedPayload}
	}
	if m := c.MTLS; m != nil {
		if out.Certificate, err = certificateRule(m); err != nil {
			return out, err
		}
	}
	if j := c.JWT; j != nil {
		roots, err := pemFile("jwt.ca", j.CA)
		if err != nil {
			return out, err
		}
		out.Token = &caller.TokenRule{Issuer: j.Issuer, Audience: j.Audience, KeysURL: j.Keys, Roots: roots, Claims: j.Claims}
	}
	return out, nil
}

func certificateRule(m *config.MTLSCaller) (*caller.CertificateRule, error) {
	roots, err := pemFile("mtls.ca", m.CA)
	if err != nil {
		return nil, err
	}
	out := &caller.CertificateRule{Roots: roots, Subject: m.Subject}
	if m.CRL != "" {
		if out.Revoked, err = os.ReadFile(m.CRL); err != nil {
			return nil, fmt.Errorf("mtls.crl: %w", err)
		}
	}
	return out, nil
}

// asksForCertificates are the hosts whose clients are asked for a certificate:
// those of sites that a caller with one may use.
func asksForCertificates(cfg *config.Config) (hosts []string) {
	with := func(names config.CallerNames) bool {
		return slices.ContainsFunc(names, func(name string) bool {
			c := cfg.Callers[name]
			return c != nil && (c.MTLS != nil || c.AWS != nil && c.AWS.Bound)
		})
	}
	for i := range cfg.Sites {
		s := &cfg.Sites[i]
		if slices.ContainsFunc(s.AllRoutes(), func(r config.Route) bool { return with(r.Callers) }) {
			hosts = append(hosts, s.Hosts...)
		}
	}
	return hosts
}

// pemFile reads a file with certificates; "" is none.
func pemFile(key, path string) (string, error) {
	if path == "" {
		return "", nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(raw) {
		return "", fmt.Errorf("%s: %s holds no certificate in PEM", key, path)
	}
	return string(raw), nil
}

// access says who may use a route; nil: everybody.
func access(book *caller.Book, names config.CallerNames) (*caller.Access, error) {
	if names.Public() {
		return nil, nil
	}
	return book.Access(names)
}

// useCallers makes the callers of a snapshot those that are looked after.
func (a *App) useCallers(s *proxy.Snapshot) { a.callers.Use(s.Callers) }

// callersNode is red when callers of an issuer are locked out, because its
// keys are not known.
func callersNode(r *caller.Registry, now time.Time) admin.Node {
	s := r.Status(now)
	n := admin.Node{Name: "callers", State: admin.OK}
	if !s.ClockSet {
		n.State = admin.Warn
		n.Detail = "the clock is not set yet: judged by the last time known, " + s.Known.UTC().Format("2006-01-02 15:04:05") + " UTC"
	}
	for _, i := range s.Issuers {
		child := admin.Node{Name: i.Issuer, State: admin.OK}
		switch {
		case !i.Usable && i.Err != nil:
			child.State, child.Detail = admin.Fail, "its keys are not known: "+i.Err.Error()
		case !i.Usable:
			child.State, child.Detail = admin.Warn, "its keys are being fetched"
		case i.Err != nil:
			child.State, child.Detail = admin.Warn, "its keys of "+i.Fetched.Format("2006-01-02 15:04")+" are used on: "+i.Err.Error()
		}
		n.Children = append(n.Children, child)
	}
	return n
}
