package proxy

import (
	"net/http"
	"strings"
	"sync/atomic"

	"postern/internal/guard"
	"postern/internal/route"
)

// RouteGate bounds the requests under way on a route. It may be shared by the
// snapshots that have the route.
type RouteGate struct {
	Most  int32
	under atomic.Int32
}

func (g *RouteGate) enter() bool {
	if g.under.Add(1) <= g.Most {
		return true
	}
	g.under.Add(-1)
	return false
}

// Quota is a limit for everybody together.
type Quota struct {
	Policy string
	Limit  guard.Limit // what the guard counts it as
	Single *guard.Single
}

// challengePath is where certificate authorities look (RFC 8555 section 8.3).
const challengePath = "/.well-known/acme-challenge/"

// admit judges the request before its route is known. A known caller is not
// judged by its address, which it may share with anybody.
func (x *exchange) admit() bool {
	if !x.secure && x.s.cfg.Challenge != nil && strings.HasPrefix(x.path, challengePath) {
		if x.msg.challenge(x.s.cfg.Challenge) {
			x.verdict = "acme_challenge"
			return false
		}
	}
	g := x.s.cfg.Guard
	if x.caller == nil {
		if v := g.AllowRequest(x.client, x.start); !v.Allowed {
			return x.refuse("banned", nil)
		}
	} else {
		g.Authenticated(x.client, x.start)
	}
	if signal, bad := g.Shape(x.method, x.rawTarget, x.rawHost); bad {
		return x.refuse("bad_shape", &signal)
	}
	if x.host == "" {
		x.conn.judged.Store(true)
		x.observe(guard.Malformed, "bad_host")
		x.problem(http.StatusBadRequest, "bad_host", "The Host field names no host.")
		return false
	}
	return true
}

// observe scores the client's address, unless a known caller uses it.
func (x *exchange) observe(signal guard.Signal, rule string) {
	if x.caller == nil {
		x.s.cfg.Guard.Report(x.client, signal, x.evidence(rule), x.start)
	}
}

// evidence is what an operator is shown of the request. The query is not: it
// may hold secrets.
func (x *exchange) evidence(rule string) guard.Evidence {
	return guard.Evidence{Rule: rule, Method: x.method, Host: x.rawHost, Path: x.path}
}

// find chooses the site and route.
func (x *exchange) find() bool {
	g := x.s.cfg.Guard
	si := x.snap.Table.Site(x.host)
	if si < 0 {
		return x.nowhere("unknown_host", guard.UnknownHost)
	}
	x.site = &x.snap.Sites[si]
	if !x.secure && x.site.HTTP == HTTPOff {
		return x.nowhere("http_off", guard.UnknownHost)
	}
	if x.wantsToken() {
		if x.byAddress() {
			x.exchangeToken()
		}
		return false
	}
	if g.Decoy(x.path) {
		return x.refuse("decoy", ptr(guard.Decoy))
	}
	m := x.snap.Table.Match(si, x.method, x.path)
	switch m.Kind {
	case route.Matched:
		x.route = &x.site.Routes[m.Route]
	case route.MethodNotAllowed:
		if x.byAddress() {
			x.problem(http.StatusMethodNotAllowed, "method", "The method is not allowed for this path.", textField{"Allow", m.Allow})
		}
		return false
	case route.NoRoute:
		return x.nowhere("no_route", guard.NoRoute)
	default: // Ambiguous, BadPath
		x.observe(guard.AmbiguousPath, "bad_path")
		x.problem(http.StatusBadRequest, "bad_path", "The path can be read in more than one way.")
		return false
	}
	if x.route.Open && x.caller == nil {
		if family, known := guard.ScannerSignature(x.path); known {
			return x.scanner(family)
		}
	}
	if !x.secure && x.site.HTTP == HTTPRedirect && x.scheme != "https" {
		if x.byAddress() {
			x.toHTTPS()
		}
		return false
	}
	return x.byAddress() && x.within(x.route.Rate) && x.quota(x.route.Quota) && x.room()
}

// nowhere refuses what is not configured. What a scanner asks for counts as
// that, whatever it missed; what browsers and certificate authorities ask for
// by themselves is no sign of anything.
func (x *exchange) nowhere(reason string, signal guard.Signal) bool {
	if strings.HasPrefix(x.path, challengePath) {
		return x.refuse(reason, nil)
	}
	if signal == guard.NoRoute && guard.Unasked(x.path) {
		if x.byAddress() {
			x.problem(http.StatusNotFound, "no_route", "Nothing is served here.")
		}
		return false
	}
	if x.s.cfg.Guard.Decoy(x.path) {
		return x.refuse("decoy", ptr(guard.Decoy))
	}
	if family, known := guard.ScannerSignature(x.path); known {
		return x.scanner(family)
	}
	if signal == guard.UnknownHost && strings.Contains(x.rawTarget, "://") && !strings.HasPrefix(x.rawTarget, "/") {
		signal = guard.BadShape // somebody looks for an open proxy
	}
	return x.refuse(reason, &signal)
}

// scanner refuses a request for what only scanners ask for.
func (x *exchange) scanner(family guard.Family) bool {
	if x.caller == nil {
		ev := x.evidence(string(family))
		ev.Family = family
		x.s.cfg.Guard.Report(x.client, guard.Scanner, ev, x.start)
	}
	reason := "scanner"
	if x.route == nil {
		reason = "no_route"
	}
	x.tarpit = true
	return x.refuse(reason, nil)
}

// refuse closes the connection without an answer, scored by signal if one is
// given. A guard that does not enforce answers instead, and so is a known
// caller answered: its connection carries other requests.
func (x *exchange) refuse(reason string, signal *guard.Signal) bool {
	g := x.s.cfg.Guard
	x.conn.judged.Store(true)
	if signal != nil {
		x.observe(*signal, reason)
		x.tarpit = x.tarpit || *signal == guard.Decoy || *signal == guard.BadShape
	}
	if g.Mode() != guard.Enforce || x.caller != nil {
		x.problem(http.StatusNotFound, reason, "Nothing is served here.")
		return false
	}
	x.verdict, x.refused = reason, true
	return false
}

// byAddress are the limits that do not depend on the route.
func (x *exchange) byAddress() bool {
	for _, r := range x.snap.Rates {
		if !x.within(r) {
			return false
		}
	}
	return x.within(x.site.Rate) && x.quota(x.snap.Total)
}

// within takes one request from a limit of the client's address and answers
// 429 when it is used up. Known callers have no such limit: they share their
// addresses.
func (x *exchange) within(rate *Rate) bool {
	if rate == nil || x.caller != nil {
		return true
	}
	d := rate.Limiter.Take(x.client, x.start)
	if d.OK {
		return true
	}
	g := x.s.cfg.Guard
	g.LimitHit(guard.LimitRate, x.client, x.start)
	x.observe(guard.RateLimited, "rate_limited")
	return x.tooMany(rate.Policy, d)
}

// quota takes one request from a limit for everybody together. That it is used
// up says nothing about who asks.
func (x *exchange) quota(q *Quota) bool {
	if q == nil {
		return true
	}
	d := q.Single.Take(x.start)
	if d.OK {
		return true
	}
	x.s.cfg.Guard.LimitHit(q.Limit, x.client, x.start)
	return x.tooMany(q.Policy, d)
}

// tooMany answers a request over a limit, if the guard enforces them.
func (x *exchange) tooMany(policy string, d guard.Decision) bool {
	if x.s.cfg.Guard.Mode() != guard.Enforce {
		return true
	}
	x.problem(http.StatusTooManyRequests, "rate_limited", "Too many requests. Retry after the time given in Retry-After.",
		rateFields(policy, d)...)
	return false
}

// room counts the request as under way, by its address and on its route, until
// record takes it back.
func (x *exchange) room() bool {
	g := x.s.cfg.Guard
	if x.caller == nil {
		v, counted := g.BeginRequest(x.client, x.start)
		x.counted = counted
		if !v.Allowed {
			x.problem(http.StatusTooManyRequests, "too_many_at_once", "Too many requests at once. Wait for answers before asking more.",
				textField{"Retry-After", "1"})
			return false
		}
	}
	gate := x.route.Gate
	if gate == nil {
		return true
	}
	if x.inRoute = gate.enter(); x.inRoute {
		return true
	}
	g.LimitHit(guard.LimitRouteRequests, x.client, x.start)
	if g.Mode() != guard.Enforce {
		return true
	}
	x.problem(http.StatusServiceUnavailable, "route_busy", "As many requests as this address takes are under way.", textField{"Retry-After", "1"})
	return false
}

// leave takes back what room counted, and tells the guard what a backend
// answered to a stranger.
func (x *exchange) leave() {
	g := x.s.cfg.Guard
	if x.counted {
		g.EndRequest(x.client)
	}
	if x.inRoute {
		x.route.Gate.under.Add(-1)
	}
	if x.caller != nil || x.verdict != "" || x.status == 0 || x.route == nil || x.route.Upstream == nil {
		return
	}
	g.Answered(x.client, x.status, x.path, x.evidence(x.route.Name), x.start)
	if x.route.Pattern == "/*" {
		g.Served(x.client, x.status, x.rawHost, x.path, x.start)
	}
}
