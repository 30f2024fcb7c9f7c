package proxy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"postern/internal/guard"
)

var home = netip.MustParseAddr("127.0.0.1") // read only

// once asks on a connection of its own and returns the status line, "" when
// the connection was cut.
func once(t testing.TB, r *rig, request string) string {
	t.Helper()
	c := r.dial()
	defer c.Close()
	send(t, c, request)
	line, _ := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line)
}

// TestLayers: each layer stops what is its own, and is counted.
func TestLayers(t *testing.T) {
	for _, tt := range []struct {
		layer, name, request string
		secure               bool
		want                 string // what the status line begins with; "" cut
	}{
		{"first_bytes", "SSH", "SSH-2.0-Go\r\n", false, ""},
		{"first_bytes", "HTTP on https", "GET / HTTP/1.1\r\n\r\n", true, ""},
		{"host", "our bare address", "GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n", false, ""},
		{"shape", "a foreign target", "GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n", false, ""},
		{"shape", "another host than the target's", "GET http://example.com/ HTTP/1.1\r\nHost: a.test\r\n\r\n", false, "HTTP/1.1 400"},
		{"shape", "two readings", "GET /app%2f..%2fopen/x HTTP/1.1\r\nHost: a.test\r\n\r\n", false, "HTTP/1.1 400"},
		{"route", "no route", "GET /nothing HTTP/1.1\r\nHost: a.test\r\n\r\n", false, ""},
		{"signature", "no route, and known", "GET /.env HTTP/1.1\r\nHost: a.test\r\n\r\n", false, ""},
		{"signature", "an open route", "GET /open/wp-login.php HTTP/1.1\r\nHost: a.test\r\n\r\n", false, ""},
		{"signature", "a decoy", "GET /app/trap HTTP/1.1\r\nHost: a.test\r\n\r\n", false, ""},
		{"", "a route that is not open", "GET /app/wp-login.php HTTP/1.1\r\nHost: a.test\r\n\r\n", false, "HTTP/1.1 200"},
		{"", "an open route", "GET /open/x HTTP/1.1\r\nHost: a.test\r\n\r\n", false, "HTTP/1.1 200"},
		{"", "what browsers ask", "GET /favicon.ico HTTP/1.1\r\nHost: a.test\r\n\r\n", false, "HTTP/1.1 404"},
		{"", "an authority's question", "GET /.well-known/acme-challenge/x HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n", false, ""},
	} {
		t.Run(tt.layer+" "+tt.name, func(t *testing.T) {
			site := proxyTo(t, backend(t, func(http.ResponseWriter, *http.Request) {}))
			app, open := site.Routes[0], site.Routes[0]
			app.Pattern, open.Pattern, open.Open = "/app/*", "/open/*", true
			site.Routes = []Route{app, open}
			g := nobodySpared()
			r := start(t, options{guard: g, limits: quick(patience), sites: []testSite{site}})
			cfg := g
			cfg.Decoys = []string{"/app/trap"}
			r.guard.Reconfigure(cfg)
			before := stops(r)
			var got string
			if tt.secure {
				c := dialTCP(t, r.secure)
				send(t, c, tt.request)
				got, _ = ended(t, c)
			} else {
				got = once(t, r, tt.request)
			}
			if tt.want == "" && got != "" || !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if tt.layer == "" {
				if after := stops(r); fmt.Sprint(after) != fmt.Sprint(before) {
					t.Errorf("counted: %v, was %v", after, before)
				}
				return
			}
			wait(t, "the count", func() bool { return stops(r)[tt.layer] == before[tt.layer]+1 })
		})
	}
}

// stops is what each layer stopped. The series are the guard's own.
func stops(r *rig) map[string]float64 {
	out := map[string]float64{}
	for _, layer := range []string{"accept", "first_bytes", "server_name", "host", "shape", "route", "signature", "status", "rate"} {
		out[layer] = r.metric("postern_guard_stops_total", "layer", layer)
	}
	return out
}

// TestLimitsOfEverybody: limits that hold whoever asks, and those of one address.
func TestLimitsOfEverybody(t *testing.T) {
	hour := guard.Rate{Events: 2, Per: time.Hour}
	for _, tt := range []struct {
		name  string
		tweak func(*Snapshot)
		limit string
	}{
		{"all together", func(s *Snapshot) {
			s.Total = &Quota{Policy: "total", Limit: guard.LimitTotalRate, Single: guard.NewSingle(hour, 2)}
		}, "total_rate"},
		{"a route", func(s *Snapshot) {
			s.Sites[1].Routes[0].Quota = &Quota{Policy: "route_total", Limit: guard.LimitRouteRate, Single: guard.NewSingle(hour, 2)}
		}, "route_rate"},
		{"an address", func(s *Snapshot) {
			s.Rates = []*Rate{nil, {Policy: "address", Limiter: guard.NewLimiter(hour, 2, 0)}}
		}, "address_rate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			site := proxyTo(t, backend(t, func(http.ResponseWriter, *http.Request) {}))
			r := start(t, options{guard: nobodySpared(), limits: quick(patience), sites: []testSite{site}, tweak: tt.tweak})
			const request = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"
			for i := range 2 {
				if got := once(t, r, request); got != "HTTP/1.1 200 OK" {
					t.Errorf("request %d: %q", i, got)
				}
			}
			c := r.dial()
			send(t, c, request)
			got, _ := ended(t, c)
			for _, want := range []string{"HTTP/1.1 429 ", "\r\nRetry-After: ", "\r\nRateLimit: ", "\r\nRateLimit-Policy: "} {
				if !strings.Contains(got, want) {
					t.Errorf("no %q in %q", want, got)
				}
			}
			if n := r.metric("postern_guard_limit_hits_total", "limit", tt.limit); n != 1 {
				t.Errorf("%v hits counted, want 1", n)
			}
		})
	}
}

// TestAtOnce: requests under way, of one address and on one route.
func TestAtOnce(t *testing.T) {
	for _, tt := range []struct {
		name string
		g    guard.Config
		gate *RouteGate
		want string
	}{
		{"an address", guard.Config{Never: []netip.Prefix{}, Requests: 2}, nil, "HTTP/1.1 429 Too Many Requests"},
		{"a route", guard.Config{}, &RouteGate{Most: 2}, "HTTP/1.1 503 Service Unavailable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			arrived, release := make(chan struct{}, 8), make(chan struct{})
			site := proxyTo(t, backend(t, func(http.ResponseWriter, *http.Request) {
				arrived <- struct{}{}
				<-release
			}))
			site.Routes[0].Gate = tt.gate
			r := start(t, options{guard: tt.g, limits: quick(patience), sites: []testSite{site}})
			const request = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"
			var held []net.Conn
			for range 2 {
				c := r.dial()
				send(t, c, request)
				within(t, "the request", arrived)
				held = append(held, c)
			}
			if got := once(t, r, request); got != tt.want {
				t.Errorf("the third: %q, want %q", got, tt.want)
			}
			close(release)
			for _, c := range held {
				if got, _ := ended(t, c); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
					t.Errorf("held: %.40q", got)
				}
			}
			wait(t, "room", func() bool { return once(t, r, request) == "HTTP/1.1 200 OK" })
		})
	}
}

// TestStatusFeedback: who goes through a word list on a route that takes
// everything is banned by what the backend answers.
func TestStatusFeedback(t *testing.T) {
	var reached atomic.Int64
	site := proxyTo(t, backend(t, func(w http.ResponseWriter, _ *http.Request) {
		reached.Add(1)
		w.WriteHeader(http.StatusNotFound)
	}))
	r := start(t, options{trusted: loopback, limits: quick(patience), sites: []testSite{site}})
	who := fresh(1)
	for i := range 100 {
		if refusedFirst(t, r, who, fmt.Sprintf("GET /word%c%c HTTP/1.1\r\nHost: a.test\r\n", 'a'+i%26, 'a'+i/26)) {
			break
		}
	}
	if !r.guard.Banned(who, time.Now()) || reached.Load() > 25 {
		t.Errorf("banned: %v after %d requests, want at most 25", r.guard.Banned(who, time.Now()), reached.Load())
	}
	if c := r.guard.Why(who, time.Now()); len(c.Bans) != 1 || c.Bans[0].Reason != "missing_path" || len(c.Exhibits) == 0 {
		t.Errorf("%+v", c)
	}
}

// TestServedSecret: a backend that publishes a file only scanners ask for.
func TestServedSecret(t *testing.T) {
	told := make(chan guard.Event, 10)
	site := proxyTo(t, backend(t, func(http.ResponseWriter, *http.Request) {}))
	r := start(t, options{guard: guard.Config{OnEvent: func(e guard.Event) { told <- e }}, limits: quick(patience), sites: []testSite{site}})
	if got := once(t, r, "GET /.git/config HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"); got != "HTTP/1.1 200 OK" {
		t.Fatal(got)
	}
	if e := within(t, "the event", told); e.Kind != guard.EventServed || e.Rule != "vcs" || e.Path != "/.git/config" {
		t.Errorf("%+v", e)
	}
}

// TestTarpit: a scanner is kept busy, at most so many are, and none outlives
// the server.
func TestTarpit(t *testing.T) {
	site := proxyTo(t, closedPort(t))
	site.Routes[0].Pattern = "/api/*"
	r := start(t, options{guard: nobodySpared(), limits: quick(patience), sites: []testSite{site}, tweak: func(s *Snapshot) { s.Tarpit = true }})
	c := r.dial()
	send(t, c, "GET /.env HTTP/1.1\r\nHost: a.test\r\n\r\n")
	head := make([]byte, len(tarpitHead))
	if _, err := io.ReadFull(c, head); err != nil || string(head) != tarpitHead {
		t.Fatalf("%q, %v", head, err)
	}
	if !r.guard.Banned(home, time.Now()) || r.metric("postern_tarpit_connections_total") != 1 {
		t.Error("who is kept busy is not banned, or not counted")
	}
	r.guard.Unban(home, time.Now())
	if got := once(t, r, "GET /nothing HTTP/1.1\r\nHost: a.test\r\n\r\n"); got != "" {
		t.Errorf("a mistake is kept busy: %q", got)
	}
	r.srv.tarpits.Add(tarpitPlaces)
	if got := once(t, r, "GET /.env HTTP/1.1\r\nHost: a.test\r\n\r\n"); got != "" {
		t.Errorf("kept busy beyond the places there are: %q", got)
	}
	r.srv.tarpits.Add(-tarpitPlaces)
	r.shutdown(context.Background())
	if _, err := ended(t, c); err == nil && r.srv.tarpits.Load() != 0 {
		t.Errorf("%d are kept busy after the end", r.srv.tarpits.Load())
	}
}

// h2Hostile speaks HTTP/2 by frames, whatever they say.
func h2Hostile(t *testing.T, r *rig) (*http2.Framer, func(path string) []byte) {
	t.Helper()
	c := r.dialTLS("h2")
	send(t, c, http2.ClientPreface)
	f := http2.NewFramer(c, c)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	enc.SetMaxDynamicTableSize(0)
	return f, func(path string) []byte {
		block.Reset()
		for _, h := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "a.test"}, {":path", path}} {
			if err := enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
				t.Fatal(err)
			}
		}
		return bytes.Clone(block.Bytes())
	}
}

// TestHTTP2Floods: rapid reset, CONTINUATION and control frames end the
// connection and ban the address; an honest client beside it is served.
func TestHTTP2Floods(t *testing.T) {
	for _, tt := range []struct {
		name  string
		flood func(f *http2.Framer, head func(string) []byte) error
	}{
		{"rapid reset", func(f *http2.Framer, head func(string) []byte) error {
			for id := uint32(1); id < 20_000; id += 2 {
				if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head("/"), EndStream: true, EndHeaders: true}); err != nil {
					return err
				}
				if err := f.WriteRSTStream(id, http2.ErrCodeCancel); err != nil {
					return err
				}
			}
			return nil
		}},
		{"continuation", func(f *http2.Framer, head func(string) []byte) error {
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head("/")}); err != nil {
				return err
			}
			for range 5000 {
				if err := f.WriteContinuation(1, false, nil); err != nil {
					return err
				}
			}
			return nil
		}},
		{"ping", func(f *http2.Framer, _ func(string) []byte) error {
			for range 100_000 {
				if err := f.WritePing(false, [8]byte{}); err != nil {
					return err
				}
			}
			return nil
		}},
		{"settings", func(f *http2.Framer, _ func(string) []byte) error {
			for range 100_000 {
				if err := f.WriteSettings(); err != nil {
					return err
				}
			}
			return nil
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			release := make(chan struct{})
			site := proxyTo(t, backend(t, func(_ http.ResponseWriter, r *http.Request) {
				if r.Header.Get("User-Agent") == "" { // the flood's: never answered before it is reset
					select {
					case <-release:
					case <-r.Context().Done():
					}
				}
			}))
			t.Cleanup(func() { close(release) })
			r := start(t, options{guard: nobodySpared(), limits: quick(patience), sites: []testSite{site}})
			honest := r.httpClient(true)
			if res, err := honest.Get("https://a.test/"); err != nil || res.StatusCode != 200 {
				t.Fatal(res, err)
			}
			f, head := h2Hostile(t, r)
			if err := tt.flood(f, head); err == nil {
				for { // the end may come after the last frame was taken
					if _, err := f.ReadFrame(); err != nil {
						break
					}
				}
			}
			wait(t, "the ban", func() bool { return r.guard.Banned(home, time.Now()) })
			if c := r.guard.Why(home, time.Now()); len(c.Bans) != 1 || c.Bans[0].Reason != "flood" {
				t.Errorf("%+v", c.Bans)
			}
		})
	}
}

// TestSlowPeersAreScored: a head, a body and an answer that do not go on.
func TestSlowPeersAreScored(t *testing.T) {
	short := quick(100 * time.Millisecond)
	short.HeaderIn = 100 * time.Millisecond
	for _, tt := range []struct {
		name string
		act  func(t *testing.T, r *rig)
		rule string
	}{
		{"head", func(t *testing.T, r *rig) {
			c := r.dial()
			send(t, c, "GET / HTTP/1.1\r\nHost: a.t")
			_, _ = ended(t, c)
		}, "header_timeout"},
		{"body", func(t *testing.T, r *rig) {
			c := r.dial()
			send(t, c, "POST /read HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100\r\n\r\nabc")
			_, _ = ended(t, c)
		}, "slow_body"},
		{"read", func(t *testing.T, r *rig) {
			send(t, r.dial(), "GET /big HTTP/1.1\r\nHost: a.test\r\n\r\n")
		}, "slow_read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			site := proxyTo(t, backend(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/big" {
					_, _ = io.CopyN(w, zeros{}, 1<<30)
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
			}))
			r := start(t, options{guard: nobodySpared(), limits: short, sites: []testSite{site}})
			tt.act(t, r)
			wait(t, "the signal", func() bool {
				c := r.guard.Why(home, time.Now())
				return len(c.Exhibits) == 1 && c.Exhibits[0].Signal == guard.SlowPeer && c.Exhibits[0].Rule == tt.rule
			})
		})
	}
}
