package config

import (
	"net/netip"
	"path/filepath"
	"strings"
	"time"
)

// LetsEncrypt is the directory that tls.acme.directory stands at when the
// file names none.
const LetsEncrypt = "https://acme-v02.api.letsencrypt.org/directory"

const (
	issuerACME  = "acme"
	issuerLocal = "local"

	challengeHTTP = "http-01"
	challengeALPN = "tls-alpn-01"
	challengeDNS  = "dns-01"
	challengeAuto = "auto"

	httpRedirect = "redirect"
	httpServe    = "serve"
	httpOff      = "off"

	defaultConnect  = 3 * time.Second
	defaultResponse = 60 * time.Second
	defaultIdle     = 4 * time.Second
)

// Default returns what an empty file would mean if it were allowed. Data is
// "", because it depends on who runs postern; Load fills it in.
func Default() *Config {
	return &Config{
		Listen:      Listen{HTTP: Addrs{":80"}, HTTPS: Addrs{":443"}},
		PortMapping: portMappingOff,
		Log:         Log{Level: "info", Format: "auto", Access: true},
		Admin:       Admin{Listen: "127.0.0.1:9180"},
		Grace:       10 * time.Second,
		DNS: DNS{
			AuthoritativePort: 53,
			DoH:               []string{"https://1.1.1.1/dns-query", "https://9.9.9.9/dns-query"},
		},
		PublicAddress: publicAddress(),
		TLS: TLS{
			Issuer:     issuerACME,
			ACME:       ACMEs{*newACME()},
			Challenge:  challengeAuto,
			Retry:      Retry{Check: 30 * time.Second, AttemptsPerHour: 4},
			MinVersion: "1.2",
		},
		Guard: defaultGuard(),
		Limits: Limits{
			Connections:           4096,
			ConnectionsPerAddress: 64,
			Header:                32 << 10,
			HeaderTimeout:         5 * time.Second,
			IdleTimeout:           30 * time.Second,
			CallerIdleTimeout:     10 * time.Minute,
			StallTimeout:          30 * time.Second,
			HandshakeTimeout:      10 * time.Second,
		},
	}
}

// neverBanned lists loopback, private (RFC 1918, RFC 4193), link-local and
// carrier-grade NAT (RFC 6598) networks.
func neverBanned() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("127.0.0.0/8"),
		netip.MustParsePrefix("::1/128"),
		netip.MustParsePrefix("10.0.0.0/8"),
		netip.MustParsePrefix("172.16.0.0/12"),
		netip.MustParsePrefix("192.168.0.0/16"),
		netip.MustParsePrefix("fc00::/7"),
		netip.MustParsePrefix("169.254.0.0/16"),
		netip.MustParsePrefix("fe80::/10"),
		netip.MustParsePrefix("100.64.0.0/10"),
	}
}

func (f *LogFile) setDefaults() { f.MaxSize, f.MaxBackups = 10, 5 }

func (f *LogFile) fromScalar(text string) (bool, error) {
	f.Path = text
	return true, nil
}

func (f *LogFile) shorthandForm() string { return "a path alone" }

func (a *ACME) setDefaults() {
	a.Directory, a.Challenges = LetsEncrypt, []string{challengeHTTP, challengeALPN}
}

func newACME() *ACME {
	a := new(ACME)
	a.setDefaults()
	return a
}

func (h *HSTS) setDefaults() { h.MaxAge = 365 * 24 * time.Hour }

func (h *HSTS) fromScalar(text string) (bool, error) { return parseBool(text) }

func (h *HSTS) shorthandForm() string { return "true or false" }

func (l *RateLimit) fromScalar(text string) (bool, error) {
	return true, l.Rate.UnmarshalText([]byte(text))
}

func (l *RateLimit) shorthandForm() string { return `a rate alone such as "20/s"` }

func (r *Redirect) setDefaults() { r.Status = 308 }

func (r *Redirect) fromScalar(text string) (bool, error) {
	r.To = text
	return true, nil
}

func (r *Redirect) shorthandForm() string { return "an address alone" }

func (r *Respond) setDefaults() { r.Status, r.Type = 200, "text/plain; charset=utf-8" }

func (r *Route) setDefaults() { r.Balance, r.HashBy = "round_robin", "address" }

func (s *Site) setDefaults() { s.Balance, s.HashBy = "round_robin", "address" }

func (h *HealthCheck) setDefaults() {
	h.Interval, h.Timeout, h.Healthy, h.Unhealthy = 10*time.Second, 2*time.Second, 2, 3
	h.Status = StatusRange{200, 399}
}

func (h *HealthCheck) fromScalar(text string) (bool, error) {
	h.Path = text
	return true, nil
}

func (h *HealthCheck) shorthandForm() string { return "a path alone" }

func (b *Breaker) setDefaults() {
	b.Errors, b.Min, b.Window, b.Open = 50, 20, 10*time.Second, 5*time.Second
}

func (b *Breaker) fromScalar(text string) (bool, error) { return parseBool(text) }

func (b *Breaker) shorthandForm() string { return "true or false" }

func (m *Mirror) setDefaults() { m.Percent, m.Methods = 100, "idempotent" }

func (m *Mirror) fromScalar(text string) (bool, error) {
	m.To = Upstreams{text}
	return true, nil
}

func (m *Mirror) shorthandForm() string { return "a backend alone" }

func (r *Retries) setDefaults() {
	r.Tries, r.Budget, r.Methods = 2, 20, "idempotent"
	r.On = []string{"closed", "timeout", "502", "503", "504"}
}

func (r *Retries) fromScalar(text string) (bool, error) { return parseBool(text) }

func (r *Retries) shorthandForm() string { return "true or false" }

// AllRoutes returns the routes of the site in the order they are tried: those
// written, then the one that upstream is short for.
func (s *Site) AllRoutes() []Route {
	out := append([]Route(nil), s.Routes...)
	if len(s.Upstream) > 0 {
		out = append(out, s.upstreamRoute())
	}
	return out
}

// upstreamRoute is the route that the site's upstream is short for.
func (s *Site) upstreamRoute() Route {
	return Route{
		Path: "/*", Upstream: s.Upstream, Timeout: s.Timeout, MaxBody: s.MaxBody, Callers: s.Callers,
		Balance: s.Balance, HashBy: s.HashBy, Health: s.Health, SlowStart: s.SlowStart, Breaker: s.Breaker,
		Retry: s.Retry, Hold: s.Hold, Mirror: s.Mirror, Headers: s.Headers,
	}
}

// dataFolder returns the default of data, "" when the environment gives none.
func (e environment) dataFolder() string {
	get := func(name string) string { v, _ := e.getenv(name); return v }
	state, _, _ := strings.Cut(get("STATE_DIRECTORY"), ":") // systemd.exec(5)
	switch {
	case filepath.IsAbs(state):
		return state
	case e.uid == 0:
		return "/var/lib/postern"
	case filepath.IsAbs(get("XDG_DATA_HOME")):
		return filepath.Join(get("XDG_DATA_HOME"), "postern")
	case filepath.IsAbs(get("HOME")):
		return filepath.Join(get("HOME"), ".local", "share", "postern")
	}
	return ""
}

// inherit fills in what one value takes from another, and makes every path
// start where the process does. It runs on a config without errors.
func (c *Config) inherit(env environment, dir string) {
	if c.TLS.Email == "" {
		c.TLS.Email = c.Email
	}
	c.Email = c.TLS.Email
	for i := range c.TLS.ACME {
		c.TLS.ACME[i].Root = env.resolve(dir, c.TLS.ACME[i].Root)
	}
	c.Data = env.resolve(dir, c.Data)
	if c.Log.File != nil {
		c.Log.File.Path = env.resolve(dir, c.Log.File.Path)
	}
	if sock, ok := strings.CutPrefix(c.Admin.Listen, "unix:"); ok {
		c.Admin.Listen = "unix:" + env.resolve(dir, sock)
	}
	for _, caller := range c.Callers {
		caller.resolve(env, dir)
	}
	c.Guard.inherit(&c.Limits)
	c.Guard.inheritFeeds(env, dir)
	for i := range c.Publish {
		c.Publish[i].inherit(env, dir)
	}
	for i := range c.Sites {
		c.Sites[i].inherit(c, env, dir)
	}
}

func (s *Site) inherit(c *Config, env environment, dir string) {
	if s.HTTP == "" {
		s.HTTP = httpRedirect
		if len(c.Listen.HTTPS) == 0 {
			s.HTTP = httpServe
		}
	}
	if s.TLS != nil {
		s.TLS.Cert, s.TLS.Key = env.resolve(dir, s.TLS.Cert), env.resolve(dir, s.TLS.Key)
	}
	if s.MaxBody == nil {
		s.MaxBody = new(c.Limits.Body)
	}
	s.RateLimit.inherit()
	s.Timeout.inherit(Timeout{new(defaultConnect), new(defaultResponse), new(time.Duration(0)), new(defaultIdle)})
	s.Upstream.resolve(env, dir)
	if s.Mirror != nil {
		s.Mirror.To.resolve(env, dir)
	}
	for i := range s.Routes {
		r := &s.Routes[i]
		if r.Path == "" || r.Path == "*" {
			r.Path = "/*"
		}
		if r.MaxBody == nil {
			r.MaxBody = s.MaxBody
		}
		if r.Open == nil {
			r.Open = &s.Open
		}
		if r.Limits == nil {
			r.Limits = c.Guard.Limits.PerRoute
		}
		if len(r.Callers) == 0 {
			r.Callers = s.Callers
		}
		r.RateLimit.inherit()
		r.Timeout.inherit(s.Timeout)
		r.Upstream.resolve(env, dir)
		if r.Mirror != nil {
			r.Mirror.To.resolve(env, dir)
		}
	}
}

func (t *Timeout) inherit(from Timeout) {
	if t.Connect == nil {
		t.Connect = from.Connect
	}
	if t.Response == nil {
		t.Response = from.Response
	}
	if t.Try == nil {
		t.Try = from.Try
	}
	if t.Idle == nil {
		t.Idle = from.Idle
	}
}

func (l *RateLimit) inherit() {
	if l != nil && l.Burst == 0 {
		l.Burst = l.Rate.Events
	}
}

func (u Upstreams) resolve(env environment, dir string) {
	for i, addr := range u {
		if sock, ok := strings.CutPrefix(addr, "unix:"); ok {
			u[i] = "unix:" + env.resolve(dir, sock)
		}
	}
}

// resolve makes the paths of a caller start where the process does.
func (c *Caller) resolve(env environment, dir string) {
	if c.AWS != nil {
		c.AWS.CA = env.resolve(dir, c.AWS.CA)
	}
	if c.MTLS != nil {
		c.MTLS.CA = env.resolve(dir, c.MTLS.CA)
		c.MTLS.CRL = env.resolve(dir, c.MTLS.CRL)
	}
	if c.JWT != nil {
		c.JWT.CA = env.resolve(dir, c.JWT.CA)
	}
}

func (m *MTLSCaller) fromScalar(text string) (bool, error) { return parseBool(text) }

func (m *MTLSCaller) shorthandForm() string { return "true" }
