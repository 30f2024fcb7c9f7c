package proxy

import (
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"postern/internal/guard"
	"postern/internal/route"
	"postern/internal/upstream"
)

// exchange is one request and its answer. It lives as long as serveHTTP runs
// and belongs to that goroutine.
type exchange struct {
	s    *Server
	snap *Snapshot
	conn *clientConn
	w    *responseWriter
	r    *http.Request

	start   time.Time
	client  netip.Addr // who asks, after trusted hops
	trusted bool       // the other end of the connection is a trusted proxy
	secure  bool       // https, as far as this connection is concerned
	scheme  string     // as the client sees it: trusted hops may say https
	host    string     // canonical; "" when it is not a host at all
	target  string     // the request target's path, as sent
	id      string     // the request id

	site    *Site  // nil: the host is not configured
	route   *Route // nil: no route
	verdict string // why it was not forwarded; "" when it was
	trace   *upstream.Trace
	body    *clientBody // nil: none, or not forwarded
	err     error       // what the forwarding met, for the log
	refused bool        // the connection is closed instead of an answer
}

var exchanges = sync.Pool{New: func() any { return &exchange{w: new(responseWriter)} }}

// serveHTTP is the five steps.
func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	conn, _ := r.Context().Value(clientConnKey{}).(*clientConn)
	if conn == nil { // not a connection of ours: a mistake in this package
		panic("proxy: request without a client connection")
	}
	x := exchanges.Get().(*exchange)
	defer x.free()
	x.begin(s, conn, w, r)
	conn.requests.Add(1)
	conn.inFlight.Add(1)
	defer x.record() // also when a step panics to cut the connection
	if x.admit() && x.find() {
		x.forward()
	}
	if x.refused {
		x.hangUp()
	}
}

func (x *exchange) free() {
	if x.body != nil {
		x.body.stop()
	}
	*x.w = responseWriter{}
	*x = exchange{w: x.w}
	exchanges.Put(x)
}

// begin gathers the facts.
func (x *exchange) begin(s *Server, conn *clientConn, w http.ResponseWriter, r *http.Request) {
	x.s, x.snap, x.conn, x.r = s, s.snap.Load(), conn, r
	x.start = time.Now()
	x.w.reset(w)
	x.secure = conn.kind == KindHTTPS
	x.client = conn.client
	x.trusted = len(x.snap.Trusted) > 0 && contains(x.snap.Trusted, conn.client)
	x.scheme = "http"
	if x.secure {
		x.scheme = "https"
	}
	if x.trusted {
		x.client = clientBehind(x.snap.Trusted, conn.client, r.Header)
		if p := r.Header.Get("X-Forwarded-Proto"); p == "http" || p == "https" {
			x.scheme = p
		}
	}
	x.id = x.requestID()
	x.host, _ = route.CanonicalHost(r.Host)
	x.target = pathOf(r)
}

// pathOf returns the path of the request target as the client sent it.
func pathOf(r *http.Request) string {
	t := r.RequestURI
	if !strings.HasPrefix(t, "/") && r.URL.Scheme != "" { // absolute-form, RFC 9112 section 3.2.2
		t = t[len(r.URL.Scheme)+len("://"):]
		if i := strings.IndexAny(t, "/?"); i < 0 {
			return "/"
		} else if t = t[i:]; t[0] == '?' {
			return "/"
		}
	}
	if i := strings.IndexByte(t, '?'); i >= 0 {
		t = t[:i]
	}
	return t
}

// admit judges the request before its route is known.
func (x *exchange) admit() bool {
	if !x.secure && x.s.cfg.Challenge != nil && x.isChallenge() {
		if x.s.cfg.Challenge(x.w, x.r) {
			x.verdict = "acme_challenge"
			return false
		}
	}
	g := x.s.cfg.Guard
	if v := g.AllowRequest(x.client, x.start); !v.Allowed {
		return x.refuse("banned", nil)
	}
	if signal, bad := g.Shape(x.r.Method, x.r.RequestURI, x.r.Host); bad {
		return x.refuse("bad_shape", &signal)
	}
	if x.host == "" {
		x.conn.judged.Store(true)
		g.Observe(x.client, guard.Malformed, x.start)
		x.problem(http.StatusBadRequest, "bad_host", "The Host field names no host.")
		return false
	}
	return x.within(x.snap.Rate)
}

func (x *exchange) isChallenge() bool {
	return strings.HasPrefix(x.target, "/.well-known/acme-challenge/")
}

// within takes one request from a limit and answers 429 when it is used up.
func (x *exchange) within(rate *Rate) bool {
	if rate == nil {
		return true
	}
	d := rate.Limiter.Take(x.client, x.start)
	if d.OK {
		return true
	}
	x.s.cfg.Guard.Observe(x.client, guard.RateLimited, x.start)
	if x.s.cfg.Guard.Mode() != guard.Enforce {
		return true
	}
	setRateHeaders(x.w.Header(), rate.Policy, d)
	x.problem(http.StatusTooManyRequests, "rate_limited", "Too many requests. Retry after the time given in Retry-After.")
	return false
}

// find chooses the site and route.
func (x *exchange) find() bool {
	si := x.snap.Table.Site(x.host)
	if si < 0 {
		return x.refuse("unknown_host", ptr(guard.UnknownHost))
	}
	x.site = &x.snap.Sites[si]
	if !x.secure && x.site.HTTP == HTTPOff {
		return x.refuse("http_off", ptr(guard.UnknownHost))
	}
	m := x.snap.Table.Match(si, x.r.Method, x.target)
	switch m.Kind {
	case route.Matched:
		x.route = &x.site.Routes[m.Route]
	case route.MethodNotAllowed:
		x.w.Header().Set("Allow", m.Allow)
		x.problem(http.StatusMethodNotAllowed, "method", "The method is not allowed for this path.")
		return false
	case route.NoRoute:
		return x.noRoute()
	default: // Ambiguous, BadPath
		x.s.cfg.Guard.Observe(x.client, guard.AmbiguousPath, x.start)
		x.problem(http.StatusBadRequest, "bad_path", "The path can be read in more than one way.")
		return false
	}
	if !x.secure && x.site.HTTP == HTTPRedirect && x.scheme != "https" {
		x.toHTTPS()
		return false
	}
	return x.within(x.site.Rate) && x.within(x.route.Rate)
}

// noRoute refuses a path no route takes. What browsers ask for by themselves
// is no sign of a scanner.
func (x *exchange) noRoute() bool {
	if unasked(x.target) {
		x.problem(http.StatusNotFound, "no_route", "Nothing is served here.")
		return false
	}
	signal := guard.NoRoute
	if _, known := guard.ScannerSignature(x.target); known {
		signal = guard.Scanner
	}
	return x.refuse("no_route", &signal)
}

func unasked(path string) bool {
	switch path {
	case "/favicon.ico", "/robots.txt", "/apple-touch-icon.png", "/apple-touch-icon-precomposed.png", "/sitemap.xml", "/manifest.json", "/ads.txt":
		return true
	}
	return strings.HasPrefix(path, "/.well-known/")
}

// refuse closes the connection without an answer, scored by signal if one is
// given. A guard that does not enforce answers instead.
func (x *exchange) refuse(reason string, signal *guard.Signal) bool {
	g := x.s.cfg.Guard
	x.conn.judged.Store(true)
	if signal != nil {
		g.Observe(x.client, *signal, x.start)
	}
	if g.Mode() != guard.Enforce {
		x.problem(http.StatusNotFound, reason, "Nothing is served here.")
		return false
	}
	x.verdict, x.refused = reason, true
	return false
}

// hangUp ends a refused exchange: HTTP/1.1 loses its connection, HTTP/2 its
// stream, and the connection too once the address is banned.
func (x *exchange) hangUp() {
	x.conn.brutal.Store(true)
	if x.r.ProtoMajor == 2 {
		if x.s.cfg.Guard.Banned(x.conn.client, time.Now()) {
			x.conn.abort()
		} else {
			x.conn.brutal.Store(false)
		}
	}
	panic(http.ErrAbortHandler)
}

func ptr[T any](v T) *T { return &v }
