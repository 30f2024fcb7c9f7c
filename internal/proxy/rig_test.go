package proxy

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"postern/internal/caller"
	"postern/internal/guard"
	"postern/internal/route"
	"postern/internal/upstream"
)

// patience is how long a test waits for something that should happen at once.
const patience = 20 * time.Second

// engine is one HTTP/1.1 implementation under the corpus. The tests of this
// file and the wire scripts ask of it nothing but bytes on a socket.
type engine struct {
	name  string
	start func(t testing.TB, cfg Config, first *Snapshot) *Server
}

// engines are all that must pass the wire scripts.
func engines() []engine {
	return []engine{
		{name: "own", start: newServer},
		{name: "net_http", start: func(t testing.TB, cfg Config, first *Snapshot) *Server {
			s := newServer(t, cfg, first)
			newReference(t, s)
			return s
		}},
	}
}

func newServer(t testing.TB, cfg Config, first *Snapshot) *Server {
	t.Helper()
	s, err := New(cfg, first)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// rig is a running Server with both listeners.
type rig struct {
	t        testing.TB
	srv      *Server
	guard    *guard.Guard
	reg      *prometheus.Registry
	guardReg *prometheus.Registry // the guard\'s own
	clear    string               // address of the http listener
	secure   string               // address of the https listener
	access   *lockedBuffer
	log      *lockedBuffer
	shutdown func(ctx context.Context) int // once

	callers *caller.Registry // of callerRig
	store   *caller.Store    // of callerRig
}

// options say how a rig differs from the plain one.
type options struct {
	engine    engine
	guard     guard.Config
	trusted   []netip.Prefix
	limits    Limits
	rate      *Rate
	httpsPort int
	challenge func(http.ResponseWriter, *http.Request) bool
	logQuery  bool
	noSNI     bool // serve clients that name no server
	sites     []testSite
	book      *caller.Book
	tweak     func(*Snapshot) // nil: nothing more

	clientAuth tls.ClientAuthType
	accounts   map[string]*Account
}

// testSite is a site and the hosts and methods its table needs.
type testSite struct {
	hosts   []string
	methods map[string][]string // by route pattern
	callers map[string][]string // by route pattern; none: everybody
	Site
}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} // read only

// start runs a server until the test ends.
func start(t testing.TB, o options) *rig {
	t.Helper()
	if o.engine.start == nil {
		o.engine = engines()[0]
	}
	r := &rig{t: t, reg: prometheus.NewRegistry(), guardReg: prometheus.NewRegistry(), access: new(lockedBuffer), log: new(lockedBuffer)}
	o.guard.Metrics = r.guardReg
	r.guard = guard.New(o.guard)
	serverTLS := testTLS(t)
	serverTLS.ClientAuth = o.clientAuth
	if o.noSNI {
		serverTLS.GetConfigForClient = nil
	}
	r.srv = o.engine.start(t, Config{
		Log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Registerer: r.reg, Guard: r.guard,
		TLS: serverTLS, Challenge: o.challenge,
	}, r.snapshot(o))
	r.clear = r.listen(KindHTTP)
	r.secure = r.listen(KindHTTPS)
	var once sync.Once
	r.shutdown = func(ctx context.Context) (cut int) {
		once.Do(func() { cut = r.srv.Shutdown(ctx) })
		return cut
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		r.shutdown(ctx)
	})
	return r
}

func (r *rig) snapshot(o options) *Snapshot {
	r.t.Helper()
	var table []route.Site
	var sites []Site
	probe := testSite{hosts: []string{"probe.test"}, Site: Site{
		Name: "probe.test", HTTP: HTTPServe,
		Routes: []Route{{Name: "/ping", Pattern: "/ping", Respond: &Respond{Status: 200, Body: "pong\n", Type: "text/plain"}}},
	}}
	for _, s := range append([]testSite{probe}, o.sites...) {
		rs := route.Site{Hosts: s.hosts}
		s.Routes = slices.Clone(s.Routes) // each snapshot has its own
		for i := range s.Routes {
			rt := &s.Routes[i]
			if rt.Pattern == "" {
				rt.Pattern = "/*"
			}
			rt.Name = rt.Pattern
			if names := s.callers[rt.Pattern]; names != nil {
				a, err := o.book.Access(names)
				if err != nil {
					r.t.Fatal(err)
				}
				rt.Callers = a
			}
			rs.Routes = append(rs.Routes, route.Route{Path: rt.Pattern, Methods: s.methods[rt.Pattern]})
		}
		s.Name = s.hosts[0]
		table = append(table, rs)
		sites = append(sites, s.Site)
	}
	tb, err := route.New(table)
	if err != nil {
		r.t.Fatal(err)
	}
	snap := &Snapshot{
		Table: tb, Sites: sites, Trusted: o.trusted, Rates: []*Rate{o.rate}, Limits: o.limits, Callers: o.book, Accounts: o.accounts, HTTPSPort: o.httpsPort,
		Access: slog.New(slog.NewTextHandler(r.access, nil)), LogQuery: o.logQuery,
	}
	if o.tweak != nil {
		o.tweak(snap)
	}
	return snap
}

func (r *rig) listen(kind Kind) string {
	r.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- r.srv.Serve(l, kind) }() // ends with l
	r.t.Cleanup(func() {
		_ = l.Close()
		if err := <-served; err != nil {
			r.t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

// proxyTo is the plain site: everything goes to one backend, in clear text
// too.
func proxyTo(t testing.TB, target string) testSite {
	return testSite{hosts: []string{"a.test"}, Site: Site{HTTP: HTTPServe, Routes: []Route{{Upstream: pool(t, upstream.Config{Idle: 4 * time.Second}, target)}}}}
}

func pool(t testing.TB, cfg upstream.Config, targets ...string) *upstream.Pool {
	t.Helper()
	if cfg.Connect == 0 {
		cfg.Connect = patience // on a busy machine
	}
	for _, s := range targets {
		target, err := upstream.ParseTarget(s)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Targets = append(cfg.Targets, target)
	}
	p, err := upstream.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// refusal is an error as tlsmgr makes them.
type refusal string

func (r refusal) Error() string        { return "refused: " + string(r) }
func (r refusal) RefusalClass() string { return string(r) }

// testTLS knows *.test and refuses other names as tlsmgr does.
func testTLS(t testing.TB) *tls.Config {
	t.Helper()
	cert := certificate(t)
	return &tls.Config{
		NextProtos: []string{"h2", "http/1.1", protocolChallenge},
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			switch {
			case h.ServerName == "":
				return nil, refusal("no_server_name")
			case !strings.HasSuffix(h.ServerName, ".test"):
				return nil, refusal("unknown_server_name")
			}
			return nil, nil
		},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil },
	}
}

// certificate is one for *.test, made once.
var certificate = func() func(testing.TB) *tls.Certificate {
	made := sync.OnceValues(func() (*tls.Certificate, error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		tmpl := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a.test"}, DNSNames: []string{"*.test"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
		if err != nil {
			return nil, err
		}
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
	})
	return func(t testing.TB) *tls.Certificate {
		t.Helper()
		c, err := made()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
}()

// clientTLS is what a client of a.test uses.
func clientTLS(protocols ...string) *tls.Config {
	return &tls.Config{ServerName: "a.test", InsecureSkipVerify: true, NextProtos: protocols}
}

// httpClient speaks to the https listener whatever the host; h2 or HTTP/1.1.
func (r *rig) httpClient(h2 bool) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2)
	protocols.SetHTTP2(h2)
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			to := r.secure
			if strings.HasSuffix(addr, ":80") {
				to = r.clear
			}
			var d net.Dialer
			return d.DialContext(ctx, "tcp", to)
		},
		TLSClientConfig: clientTLS(), Protocols: protocols, DisableCompression: true, MaxIdleConnsPerHost: 64,
	}
	r.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 60 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// dial opens a clear-text connection with a deadline.
func (r *rig) dial() net.Conn {
	r.t.Helper()
	return dialTCP(r.t, r.clear)
}

// dialTLS opens a connection to the https listener with the given protocol.
func (r *rig) dialTLS(protocol string) *tls.Conn {
	r.t.Helper()
	c := tls.Client(dialTCP(r.t, r.secure), clientTLS(protocol))
	if err := c.Handshake(); err != nil {
		r.t.Fatal(err)
	}
	return c
}

func dialTCP(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// send writes s, which must work.
func send(t testing.TB, c io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatalf("send %.40q: %v", s, err)
	}
}

// wait polls until ok, for what only other goroutines' progress can show.
func wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// within receives from c in time.
func within[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case v := <-c:
		return v
	case <-timer.C:
		t.Fatalf("not within %v: %s", patience, what)
		panic("unreachable")
	}
}

// metric is the sum of a family's samples that have all the given label
// pairs.
func (r *rig) metric(name string, labels ...string) float64 {
	r.t.Helper()
	families, err := prometheus.Gatherers{r.reg, r.guardReg}.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if !hasLabels(m, labels) {
				continue
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

func hasLabels(m *dto.Metric, labels []string) bool {
	for i := 0; i < len(labels); i += 2 {
		found := false
		for _, p := range m.GetLabel() {
			found = found || p.GetName() == labels[i] && p.GetValue() == labels[i+1]
		}
		if !found {
			return false
		}
	}
	return true
}

// lockedBuffer takes log lines from many goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// rawBackend accepts connections and hands them to the test.
type rawBackend struct {
	addr  string
	conns chan net.Conn
}

func newRawBackend(t testing.TB) *rawBackend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &rawBackend{addr: l.Addr().String(), conns: make(chan net.Conn, 64)}
	done := make(chan struct{})
	go func() { // ends with l; the test's end waits for it
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.conns <- c
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
		for {
			select {
			case c := <-b.conns:
				_ = c.Close()
			default:
				return
			}
		}
	})
	return b
}

func (b *rawBackend) accept(t testing.TB) net.Conn {
	t.Helper()
	c := within(t, "a connection to the backend", b.conns)
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// closedPort is an address nobody listens on.
func closedPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	return addr
}

// isReset reports whether err is the peer's RST.
func isReset(err error) bool {
	return err != nil && !errors.Is(err, io.EOF) && strings.Contains(err.Error(), "connection reset")
}

// until waits for something that only shows by asking.
func (r *rig) until(what string, happened func() bool) {
	r.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !happened() {
		select {
		case <-deadline:
			r.t.Fatalf("not within %v: %s", patience, what)
		case <-tick.C:
		}
	}
}
