// Package admin serves the private page and API: metrics, health and
// profiles, for the machine's owner and their monitoring.
//
// It is meant for a loopback address or a unix socket. Browsers reach loopback
// too, on behalf of any page that is open in them, so requests that another
// site caused are refused, and so are host names that resolve here but are not
// ours (DNS rebinding).
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config is what a Server needs. Only Listener is required.
type Config struct {
	// Listener is where requests come from; see Listen. The server closes it.
	Listener net.Listener

	// Token, when set, must come with every request, on unix sockets too: as
	// `Authorization: Bearer TOKEN` (RFC 6750), or, for browsers, as the
	// password of Basic authentication under any user name. It may be empty
	// only on loopback and unix sockets.
	Token string

	// Hosts are further names or addresses under which a browser may ask
	// (without a port), besides localhost and IP literals.
	Hosts []string

	// Gatherer is shown at /metrics. nil: an empty page.
	Gatherer prometheus.Gatherer

	// Health returns the health tree; it need not be resolved. It is called
	// for each request, concurrently, and must not block. nil: one node that
	// is ok.
	Health func() Node

	// Ready returns nil when requests are accepted: listeners are up and
	// not draining. It must not block. nil: always ready.
	Ready func() error

	// Verbose returns what /healthz?verbose tells as JSON: the last
	// examination, however old. It must not block. nil: the health tree.
	Verbose func() any

	// Routes are the requests of the private API. None may have the path of
	// a page.
	Routes []Route

	// Tables are shown on the page below the health tree. It is called for
	// each page, concurrently, and must not block. nil: there are none.
	Tables func() []Table

	// Version is shown on the page.
	Version string

	// Log gets what goes wrong in serving. nil discards it.
	Log *slog.Logger
}

// Server serves the private page and API on one listener.
type Server struct {
	cfg    Config
	server *http.Server
}

// drain is how long requests in flight may take when the server ends. A
// profile that is being taken is cut off.
const drain = 2 * time.Second

// New checks cfg and returns a server that is not serving yet.
func New(cfg Config) (*Server, error) {
	if cfg.Listener == nil {
		return nil, errors.New("admin: no listener")
	}
	if cfg.Token == "" && !private(cfg.Listener.Addr()) {
		return nil, fmt.Errorf("admin: %s is reachable from other machines: set admin.token, or listen on a loopback address or a unix socket", cfg.Listener.Addr())
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Gatherer == nil {
		cfg.Gatherer = prometheus.NewRegistry()
	}
	if cfg.Health == nil {
		cfg.Health = func() Node { return Node{Name: "postern", State: OK} }
	}
	if cfg.Ready == nil {
		cfg.Ready = func() error { return nil }
	}
	s := &Server{cfg: cfg}
	handler, err := s.handler()
	if err != nil {
		return nil, err
	}
	s.server = &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		// net/http/pprof adds the length of a profile to it.
		WriteTimeout:   30 * time.Second,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// private reports whether only this machine reaches addr.
func private(addr net.Addr) bool {
	switch a := addr.(type) {
	case *net.UnixAddr:
		return true
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	default:
		return false
	}
}

// Run serves until ctx is done, then lets requests in flight finish for 2 s
// and closes the listener. It returns nil after such an end.
func (s *Server) Run(ctx context.Context) error {
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
		defer cancel()
		if s.server.Shutdown(ctx) != nil {
			s.server.Close()
		}
	})
	err := s.server.Serve(s.cfg.Listener)
	if stop() { // ctx is not done: serving broke down
		s.server.Close()
		return fmt.Errorf("admin: serve %s: %w", s.cfg.Listener.Addr(), err)
	}
	<-ended
	return nil
}

func (s *Server) handler() (http.Handler, error) {
	page, err := newPage(s.cfg.Version)
	if err != nil {
		return nil, err
	}
	api, err := newAPI(s.cfg.Routes, s.cfg.Listener.Addr(), s.cfg.Log)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.cfg.Gatherer, promhttp.HandlerOpts{
		EnableOpenMetrics:   true,
		MaxRequestsInFlight: 4,
		Timeout:             20 * time.Second,
		ErrorLog:            promLog{s.cfg.Log},
	}))
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("GET /health", s.health)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		if err := page.write(w, s.tree(), s.tables()); err != nil {
			s.cfg.Log.Debug("admin page not sent", "err", err)
		}
	})
	gate := newGate(s.cfg)
	pages := readOnly(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Cache-Control", "no-store")
		inAPI := api.has(r.URL.Path)
		switch refused := gate.check(r); {
		case refused != nil:
			refused.write(w, inAPI)
		case inAPI:
			api.serve(w, r)
		default:
			pages.ServeHTTP(w, r)
		}
	}), nil
}

// readOnly refuses what would change something.
func readOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			plain(w, http.StatusMethodNotAllowed, "nothing can be changed here: want GET or HEAD\n")
			return
		}
		h.ServeHTTP(w, r)
	})
}

func (s *Server) tables() []Table {
	if s.cfg.Tables == nil {
		return nil
	}
	return s.cfg.Tables()
}

func (s *Server) tree() Node { return s.cfg.Health().Resolve() }

// healthz answers the question "should this process be left alone": 200 while
// nothing fails, 503 with one line for each cause otherwise.
// With ?verbose it tells the last examination, under the same status.
func (s *Server) healthz(w http.ResponseWriter, r *http.Request) {
	tree := s.tree()
	if r.URL.Query().Has("verbose") {
		var all any = tree
		if s.cfg.Verbose != nil {
			all = s.cfg.Verbose()
		}
		status := http.StatusOK
		if tree.State == Fail {
			status = http.StatusServiceUnavailable
		}
		writeJSON(w, status, "application/json", all)
		return
	}
	if tree.State != Fail {
		plain(w, http.StatusOK, "ok\n")
		return
	}
	plain(w, http.StatusServiceUnavailable, "fail\n"+strings.Join(tree.Causes(), "\n")+"\n")
}

// readyz answers the question "may requests be sent here".
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	if err := s.cfg.Ready(); err != nil {
		plain(w, http.StatusServiceUnavailable, oneLine(err.Error())+"\n")
		return
	}
	plain(w, http.StatusOK, "ready\n")
}

// health shows the whole tree, as JSON unless text is asked for, with ?format
// or Accept. The status is 200 whatever the tree says: the question was
// answered.
func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	format := r.URL.Query().Get("format")
	if format == "" && prefersText(r.Header.Get("Accept")) {
		format = "text"
	}
	switch format {
	case "text":
		plain(w, http.StatusOK, s.tree().Text(time.Now()))
	case "", "json":
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		if err := enc.Encode(s.tree()); err != nil {
			s.cfg.Log.Debug("health not sent", "err", err)
		}
	default:
		plain(w, http.StatusBadRequest, "format: want json or text\n")
	}
}

// prefersText reports whether an Accept header names text/plain before it
// names JSON. Quality values are not weighed: nobody sends them here.
func prefersText(accept string) bool {
	for part := range strings.SplitSeq(accept, ",") {
		kind, _, _ := strings.Cut(part, ";")
		switch strings.ToLower(strings.TrimSpace(kind)) {
		case "text/plain":
			return true
		case "application/json":
			return false
		}
	}
	return false
}

func plain(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprint(w, body) // a client that went away misses it
}

// promLog gives promhttp's complaints to slog.
type promLog struct{ log *slog.Logger }

func (l promLog) Println(v ...any) {
	l.log.Warn("metrics incomplete", "err", strings.TrimSpace(fmt.Sprintln(v...)))
}
