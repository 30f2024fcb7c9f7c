package config

import "time"

// Route says what is done with the requests for some paths. It has exactly
// one of upstream, redirect and respond.
type Route struct {
	// "/ping" for that path alone, "/api/*" for /api and everything below
	// it, "/*" for every path. Default "/*". Matching looks at the path with
	// percent-encoding, double slashes and dot segments resolved; the
	// backend gets the path byte for byte as the client sent it.
	Path string `yaml:"path"`

	// The methods this route takes; GET includes HEAD. Another method is
	// answered 405 unless a later route takes it. Absent: every method.
	Methods []string `yaml:"methods"`

	// Who may use the route: names of callers, or any for everybody. Others
	// are answered 401, known callers that are not named here 403. Default:
	// the site's callers.
	Callers CallerNames `yaml:"callers"`

	// Backends: one or a list, taken as balance says. Default: none.
	Upstream Upstreams `yaml:"upstream"`

	// How requests are spread over the backends. round_robin: in turn.
	// least_requests: to the one with the fewest requests under way.
	// random_two: to the less busy one of two drawn at random. hash: requests
	// with the same hash_by to the same backend, and when that is lost, its
	// share alone moves. Default round_robin.
	Balance string `yaml:"balance"`

	// What balance: hash goes by: address (the client's), header:NAME or
	// cookie:NAME. The address stands in for a header or cookie that a
	// request does not have. Default: address.
	HashBy string `yaml:"hash_by"`

	// Ask each backend again and again whether it is well. Absent: a backend
	// is left out when no connection to it can be opened, and back in when
	// one can.
	Health *HealthCheck `yaml:"health"`

	// How long a backend that was out takes to get its whole share again,
	// which grows evenly from a tenth. Default 0s: it has it at once.
	SlowStart time.Duration `yaml:"slow_start"`

	// Leave a backend alone for a while that answers, but badly. Absent: only
	// its connections and health count.
	Breaker *Breaker `yaml:"breaker"`

	// Send requests again that may have reached a backend. What did not
	// reach one is always sent again: to the next backend when no connection
	// comes about, and once more when a kept connection turns out to be
	// closed. Absent: nothing else is.
	Retry *Retries `yaml:"retry"`

	// How long requests wait while no backend can be reached, because it
	// restarts, say. Up to 1024 wait; each goes on as soon as a backend is
	// back. With hold, a GET and the like that a restart cut off is sent
	// again. Default 0s: they are answered 503 at once.
	Hold time.Duration `yaml:"hold"`

	// Send copies of this route's requests to other backends as well, whose
	// answers are dropped: to try a new version on real traffic, say. Absent:
	// none.
	Mirror *Mirror `yaml:"mirror"`

	// Let a POST or PATCH that is sent again with the same Idempotency-Key
	// happen once. Absent: it happens each time.
	Idempotency *Idempotency `yaml:"idempotency"`

	// Removed from the start of the path before it goes to the backend, such
	// as "/api" for the path "/api/*". Default: nothing.
	StripPrefix string `yaml:"strip_prefix"`

	// Answer with a redirect. Absent: no redirect.
	Redirect *Redirect `yaml:"redirect"`

	// Answer from here. Absent: no such answer.
	Respond *Respond `yaml:"respond"`

	// Changes of header fields on the way to the backends and back.
	Headers Headers `yaml:"headers"`

	// Deadlines towards the backends.
	Timeout Timeout `yaml:"timeout"`

	// A limit per client address on this route, on top of the site's. Absent:
	// none.
	RateLimit *RateLimit `yaml:"rate_limit"`

	// What this route gets from everybody together. Default: those of
	// guard.limits.per_route.
	Limits *RouteLimits `yaml:"limits"`

	// Whether strangers may send anything here: then requests for what only
	// scanners ask for, such as /.env and /wp-login.php, are refused and their
	// senders banned although the route takes them. Not for an application
	// that has such paths itself. Default: the site's open.
	Open *bool `yaml:"open"`

	// The largest request body on this route. Default: the site's max_body.
	MaxBody *Size `yaml:"max_body"`
}

// Upstreams is one backend or a list of them. A backend is "host:port",
// "http://host:port", "https://host[:port]", "h2c://host:port" or
// "unix:/path/to/socket". It has no path: the client's is kept, or shortened
// by strip_prefix. Names are looked up at each new connection. After a space,
// weight=N (1 to 1000) gives it N times the share of the others:
// "127.0.0.1:3000 weight=3".
type Upstreams []string

// HealthCheck asks every backend of a route with a GET. A plain text is its
// path.
type HealthCheck struct {
	// The path to ask for, as the backend knows it, such as /healthz.
	// Required.
	Path string `yaml:"path"`

	// The Host header. Default: the backend's own address.
	Host string `yaml:"host"`

	// The time between two checks of a backend, give or take a tenth.
	// Default 10s.
	Interval time.Duration `yaml:"interval"`

	// How long one check may take, connection included. Default 2s.
	Timeout time.Duration `yaml:"timeout"`

	// How many checks in a row a backend that is out must pass to be back.
	// Default 2.
	Healthy int `yaml:"healthy"`

	// After how many checks in a row that it did not pass a backend is left
	// out. Default 3.
	Unhealthy int `yaml:"unhealthy"`

	// The statuses that pass, one or a range. Default 200-399.
	Status StatusRange `yaml:"status"`
}

// Breaker leaves a backend alone when too many of its answers are 5xx, or do
// not come. Then one request at a time tries it. `breaker: true` takes the
// defaults.
type Breaker struct {
	// The share of requests that must fail. Default 50%.
	Errors Percent `yaml:"errors"`

	// How many requests there must be within the window before it counts.
	// Default 20.
	Min int `yaml:"min"`

	// How far is looked back. Default 10s.
	Window time.Duration `yaml:"window"`

	// How long the backend is left alone before a request tries it. Default
	// 5s.
	Open time.Duration `yaml:"open"`
}

// Retries says when a request that may have reached a backend is sent again,
// to another one if there is one. Its body must have been held: up to 64 KiB.
// timeout.try says how long a try may take. `retry: true` takes the defaults.
type Retries struct {
	// How often a request is sent in all, from 2 to 10. Default 2.
	Tries int `yaml:"tries"`

	// The retries as a share of all requests of the route, so that a backend
	// in trouble is not buried under them; ten are always in hand. Default
	// 20%.
	Budget Percent `yaml:"budget"`

	// What makes a request go again: closed (the connection ended without an
	// answer), timeout (no answer in time), malformed (no HTTP), and the
	// statuses 500, 502, 503 and 504. Default [closed, timeout, 502, 503,
	// 504].
	On []string `yaml:"on"`

	// idempotent: only methods that mean the same when they come twice (GET,
	// HEAD, OPTIONS, TRACE, PUT, DELETE; RFC 9110 section 9.2.2). all: POST
	// and PATCH as well, which may then be done twice. Default idempotent.
	Methods string `yaml:"methods"`
}

// Headers changes header fields. Those that postern itself answers for stay as
// they are: the ones of a connection (Connection, Transfer-Encoding,
// Content-Length and the like), Host, and what tells who asks (X-Forwarded-For
// and its kind).
type Headers struct {
	// Requests, before they go to a backend.
	Request FieldChanges `yaml:"request"`

	// A backend's answers. What postern answers by itself is not changed.
	Response FieldChanges `yaml:"response"`
}

// FieldChanges changes the header fields of one direction. "_" in a name
// counts as "-", as backends often take them for the same.
type FieldChanges struct {
	// Fields that get this one value, whatever they had. Default: none.
	Set map[string]string `yaml:"set"`

	// Fields that are taken out. Default: none.
	Remove []string `yaml:"remove"`
}

// Mirror sends copies of requests. The request itself never waits for them: up
// to 64 are under way at a time, further ones are left out. Copied are requests
// without a body, or with one of a known length up to 64 KiB (over HTTP/3, and
// where the route's own backends speak h2c, only the former); not those that
// idempotency sees to. A plain text is its to.
type Mirror struct {
	// Backends: one or a list, taken in turn, as for upstream; not h2c.
	// Required.
	To Upstreams `yaml:"to"`

	// The share of the requests that is copied. Default 100%.
	Percent Percent `yaml:"percent"`

	// idempotent: only methods that mean the same when they come twice (GET,
	// HEAD, OPTIONS, TRACE, PUT, DELETE). all: POST and PATCH as well.
	// Default idempotent.
	Methods string `yaml:"methods"`
}

// Timeout holds the deadlines towards a backend.
type Timeout struct {
	// To open a connection (for https backends: with the handshake). Default
	// 3s.
	Connect *time.Duration `yaml:"connect"`

	// From the request to the head of the answer. 0s: none. With retry it
	// counts for each try, or for all tries together when try is set. Default
	// 60s.
	Response *time.Duration `yaml:"response"`

	// The same for one try, on routes with retry: a backend that has not
	// answered by then is given up, and retry says whether another one is
	// asked in what is left of response. Default 0s: each try has response.
	Try *time.Duration `yaml:"try"`

	// How long an idle connection to the backend is kept. Must be shorter
	// than the backend's own keep-alive, or a request meets a connection
	// that is just being closed; Node closes after 5s. 0s: a new connection
	// for every request. Default 4s.
	Idle *time.Duration `yaml:"idle"`
}

// Redirect answers with another address. A plain text is its to.
type Redirect struct {
	// An absolute URL or a path. A "*" at its end takes what the route's own
	// "*" matched, and the query is kept. Required.
	To string `yaml:"to"`

	// 301, 302, 303, 307 or 308. Default 308.
	Status int `yaml:"status"`
}

// Respond answers with a fixed text.
type Respond struct {
	// 200 to 599. Default 200.
	Status int `yaml:"status"`

	// The body. Default: empty.
	Body string `yaml:"body"`

	// The Content-Type. Default "text/plain; charset=utf-8".
	Type string `yaml:"type"`
}
