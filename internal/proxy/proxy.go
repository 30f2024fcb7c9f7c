// Package proxy accepts connections and carries each request through its
// steps: facts, identify, admit, route and permit, forward, record.
//
// A connection passes the cheapest refusals first: the ban table, the first
// bytes, the server name of the TLS hello. What is left is HTTP, spoken by our
// own engines: h1 on internal/http1, h2Message on internal/h2; HTTP/3 by
// quic-go. What needs net/http's types is served by them through stdMessage.
// Only the step forward knows which engine runs.
package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"postern/internal/caller"
	"postern/internal/guard"
	"postern/internal/h2"
	"postern/internal/route"
	"postern/internal/upstream"
)

// Config is what a Server keeps for its whole life. What a reload may change
// is in Snapshot.
type Config struct {
	// Log gets what a person may want to read; nil discards it.
	Log *slog.Logger

	// Registerer gets the metrics; nil registers none.
	Registerer prometheus.Registerer

	// Guard decides about addresses. Required.
	Guard *guard.Guard

	// TLS serves the https listeners; nil when there are none. Its
	// GetConfigForClient refuses a handshake with an error that may have a
	// method RefusalClass() string.
	TLS *tls.Config

	// Challenge answers http-01 challenges on the http listeners before
	// anything else and reports whether it did; nil when there are none.
	Challenge func(w http.ResponseWriter, r *http.Request) bool
}

// Snapshot is one reading of the configuration. It is never changed after
// Apply; a reload builds another.
type Snapshot struct {
	// Table finds the site and route; its indices are those of Sites and
	// Site.Routes.
	Table *route.Table
	Sites []Site

	// Callers tells who calls; nil when there are no known callers.
	Callers *caller.Book

	// Trusted are the networks whose forwarding headers and PROXY protocol
	// headers are believed.
	Trusted []netip.Prefix

	// Rates limit each client address over all sites; all of them hold. Total
	// limits all clients together; nil: no limit.
	Rates []*Rate
	Total *Quota

	// Tarpit keeps some scanners busy instead of cutting them off.
	Tarpit bool

	Limits Limits

	// HTTP3 tells clients of the https listeners that HTTP/3 is spoken there.
	HTTP3 bool

	// HTTPSPort is the port of the https listener, for redirects to it; 0:
	// there is none.
	HTTPSPort int

	// Accounts are what known callers may use, by name; none for those
	// without a bound.
	Accounts map[string]*Account

	// Access gets one line for each request; nil: none.
	Access *slog.Logger
	// LogQuery adds the query string to the access line.
	LogQuery bool
}

// defaultHead is the limit of a request head, in bytes, when none is given.
const defaultHead = 32 << 10

// Limits bounds what one client may use. A zero duration means no bound.
type Limits struct {
	Header     int // bytes of a request head; 0: 32 KiB
	Handshake  time.Duration
	HeaderIn   time.Duration // for the head of a request
	Idle       time.Duration // between requests
	CallerIdle time.Duration // the same after a request of a known caller
	Stall      time.Duration // without progress of a body, either way
	Grace      time.Duration // for requests in flight on an HTTP/3 listener that is closed; 0: none
}

// HTTPMode says what a site does with clear-text requests.
type HTTPMode uint8

// The modes of a site on the http listeners.
const (
	HTTPRedirect HTTPMode = iota
	HTTPServe
	HTTPOff
)

// Site is what is served under some host names.
type Site struct {
	// Name is the metric label and the log's word for the site: its first
	// host.
	Name   string
	HTTP   HTTPMode
	HSTS   string // the header's value; "": not sent
	Rate   *Rate  // nil: no limit
	Routes []Route

	metrics *routeMetrics // of requests no route takes; set by Apply
}

// Route says what is done with a request. Exactly one of Upstream, Redirect
// and Respond is set.
type Route struct {
	Name        string // the metric label: its path pattern
	Pattern     string // the path pattern, "/*" for every path
	StripPrefix string // removed before the backend sees the path; "": nothing
	Upstream    *upstream.Pool
	HashBy      *HashBy // what Upstream balances by; nil unless by hash
	Request     *Change // of what backends get; nil: none
	Response    *Change // of their answers, informational ones and 101 left out; nil: none
	Mirror      *Mirror // nil: none; only with Upstream
	Redirect    *Redirect
	Respond     *Respond
	Rate        *Rate          // by client address; nil: no limit
	Quota       *Quota         // of all clients together; nil: no limit
	Gate        *RouteGate     // requests under way; nil: no limit
	Open        bool           // known scanner paths are refused although the route takes them
	Callers     *caller.Access // who may use it, of Snapshot.Callers; nil: everybody
	Once        *Once          // what comes again happens once; nil: every time
	MaxBody     int64          // bytes; 0: no bound

	metrics *routeMetrics // set by Apply
}

// Rate is a limit and the policy name its headers tell.
type Rate struct {
	Policy  string
	Limiter *guard.Limiter
}

// Redirect answers with another address.
type Redirect struct {
	// To may end in "*", which stands for what the route's own "*" matched.
	To     string
	Status int
}

// Respond answers with a fixed text.
type Respond struct {
	Status int
	Body   string
	Type   string
}

// Server accepts connections on its listeners and serves them. All methods
// may be called at any time from any goroutine.
type Server struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	ids     requestIDs
	snap    atomic.Pointer[Snapshot]

	// engine speaks HTTP on a connection that got that far, to its end. It is
	// serve, but for tests that compare it with another.
	engine func(c *clientConn, nc net.Conn, protocol string)

	h2        *h2.Server
	copies    copies // of requests, for mirrors
	pools     pools
	headLimit int                // bytes of a request head
	date      dateText           // the Date field of answers we write ourselves
	leaving   atomic.Bool        // Shutdown has begun: connections end with their exchange
	left      chan struct{}      // closed when leaving is set
	over      context.Context    // ends when Shutdown cuts what is still under way
	cut       context.CancelFunc // ends over

	mu        sync.Mutex
	listeners map[net.Listener]struct{} // guarded by mu
	conns     map[*clientConn]struct{}  // guarded by mu
	quic      map[*quicEngine]struct{}  // guarded by mu
	draining  bool                      // guarded by mu

	accepting sync.WaitGroup // goroutines of Serve's connections before HTTP, and of ServeQUIC's

	tarpits atomic.Int32   // scanners that are kept busy
	signed  atomic.Int64   // bytes of bodies that are held for their signatures
	tokens  *guard.Limiter // of exchanges for a token, by address

	quicOpen atomic.Int32 // QUIC connections, handshakes included
	unproven atomic.Int32 // handshakes of QUIC clients that may have a forged address
	suspects *suspects
}

// New returns a server without listeners. first is its first configuration.
// It starts no goroutine; Serve does.
func New(cfg Config, first *Snapshot) (*Server, error) {
	if cfg.Guard == nil || first == nil || first.Table == nil {
		return nil, errors.New("proxy: a guard and a snapshot with a table are needed")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		cfg:       cfg,
		log:       cfg.Log,
		metrics:   newMetrics(cfg.Registerer),
		ids:       newRequestIDs(),
		left:      make(chan struct{}),
		headLimit: first.Limits.Header,
		listeners: make(map[net.Listener]struct{}),
		conns:     make(map[*clientConn]struct{}),
		quic:      make(map[*quicEngine]struct{}),
		suspects:  newSuspects(),
	}
	s.over, s.cut = context.WithCancel(context.Background()) // of the server's life, which begins here
	if s.headLimit <= 0 {
		s.headLimit = defaultHead
	}
	s.cfg.TLS = s.quietly(cfg.TLS)
	s.Apply(first)
	s.tokens = cfg.Guard.NewLimiter(guard.Rate{Events: 2, Per: time.Second}, 30, 0)
	s.engine = s.serve
	s.pools.init()
	s.h2 = s.newH2(first.Limits)
	return s, nil
}

// Apply makes next the configuration of every request that starts from now
// on. Requests in flight end under the one they began with.
func (s *Server) Apply(next *Snapshot) {
	for i := range next.Sites {
		site := &next.Sites[i]
		site.metrics = s.metrics.forRoute(site.Name, noRoute)
		for j := range site.Routes {
			rt := &site.Routes[j]
			rt.metrics = s.metrics.forRoute(site.Name, rt.Name)
		}
	}
	s.snap.Store(next)
}

// Shutdown closes the listeners, asks clients to leave (GOAWAY, Connection:
// close), waits until ctx is done for requests in flight, and then cuts what
// is left. It reports how many connections were cut.
func (s *Server) Shutdown(ctx context.Context) (cut int) {
	s.mu.Lock()
	s.draining = true
	for l := range s.listeners {
		_ = l.Close() // the accept loop sees net.ErrClosed and ends
	}
	engines := slices.Collect(maps.Keys(s.quic))
	s.mu.Unlock()

	if !s.leaving.Swap(true) {
		close(s.left)
	}
	s.endResting()
	var quic sync.WaitGroup
	var cutQUIC atomic.Int64
	for _, e := range engines {
		quic.Go(func() { cutQUIC.Add(int64(e.drain(ctx, nil))) }) // waited for below
	}
	quic.Wait()
	s.waitIdle(ctx)
	return s.cutAll() + int(cutQUIC.Load())
}

// endResting closes the HTTP/1.1 connections that are between two requests, and
// asks the HTTP/2 ones to leave.
func (s *Server) endResting() {
	s.mu.Lock()
	var resting []*clientConn
	for c := range s.conns {
		if hc := c.h2.Load(); hc != nil {
			hc.Shutdown()
		} else if c.state.CompareAndSwap(connResting, connEnded) {
			resting = append(resting, c)
		}
	}
	s.mu.Unlock()
	for _, c := range resting {
		_ = c.Close()
	}
}

// waitIdle waits until all connections have ended.
func (s *Server) waitIdle(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for s.open() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Server) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func (s *Server) cutAll() int {
	s.cut()
	s.mu.Lock()
	left := make([]*clientConn, 0, len(s.conns))
	for c := range s.conns {
		left = append(left, c)
	}
	s.mu.Unlock()
	for _, c := range left {
		_ = c.Close()
	}
	s.accepting.Wait()
	s.copies.close()
	s.h2.Close()
	return len(left)
}

// Draining reports whether Shutdown has begun.
func (s *Server) Draining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}
