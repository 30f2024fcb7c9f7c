package proxy

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"postern/internal/caller"
	"postern/internal/guard"
)

// Keys of the callers in these tests.
const (
	ordersKey = "a key of orders, 256 random bits in real life"
	ciKey     = "a key of ci, 256 random bits in real life"
)

// callerBook knows orders and ci by their keys, and what more says.
func callerBook(t testing.TB, more ...caller.Caller) *caller.Book {
	t.Helper()
	book, _, _ := callerDesk(t, more...)
	return book
}

// callerDesk is callerBook with what is behind it.
func callerDesk(t testing.TB, more ...caller.Caller) (*caller.Book, *caller.Registry, *caller.Store) {
	t.Helper()
	dir := t.TempDir()
	store, err := caller.OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	reg, err := caller.New(caller.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	book, err := reg.Prepare(append([]caller.Caller{
		{Name: "orders", KeyHashes: []caller.KeyHash{caller.HashKey(ordersKey)}},
		{Name: "ci", KeyHashes: []caller.KeyHash{caller.HashKey(ciKey)}},
	}, more...))
	if err != nil {
		t.Fatal(err)
	}
	reg.Use(book)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { // ends with the test
		defer close(done)
		_ = reg.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return book, reg, store
}

// callerRig serves /orders/* to orders, /all/* to both, the rest to everybody,
// by a backend that answers with the header fields it got.
func callerRig(t testing.TB, o options, more ...caller.Caller) *rig {
	t.Helper()
	target := backend(t, func(w http.ResponseWriter, r *http.Request) { _ = json.NewEncoder(w).Encode(r.Header) })
	site := proxyTo(t, target)
	everybody := site.Routes[0]
	orders, all := everybody, everybody
	orders.Pattern, all.Pattern = "/orders/*", "/all/*"
	site.Routes = []Route{orders, all, everybody}
	site.callers = map[string][]string{"/orders/*": {"orders"}, "/all/*": {"orders", "ci"}}
	for _, c := range more {
		site.callers["/all/*"] = append(site.callers["/all/*"], c.Name)
	}
	book, reg, store := callerDesk(t, more...)
	o.book, o.sites = book, []testSite{site}
	if o.limits == (Limits{}) {
		o.limits = quick(patience)
	}
	r := start(t, o)
	r.callers, r.store = reg, store
	return r
}

// ask makes a request with header fields (name, value, …).
func ask(t testing.TB, c *http.Client, url string, fields ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		req.Header[fields[i]] = append(req.Header[fields[i]], fields[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

func TestCallerKeys(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		r := callerRig(t, options{guard: guard.Config{Never: []netip.Prefix{}}})
		c := r.httpClient(h2)
		for _, tc := range []struct {
			name, path string
			fields     []string
			status     int
			reason     string // of the problem
			backend    string // what the backend's header must hold
		}{
			{"bearer", "/orders/1", []string{"Authorization", "Bearer " + ordersKey}, 200, "", `"X-Postern-Caller":["orders"],"X-Postern-Caller-Method":["api_key"]`},
			{"bearer in lower case", "/orders/1", []string{"Authorization", "bearer " + ordersKey}, 200, "", `"X-Postern-Caller":["orders"]`},
			{"x-api-key", "/all/", []string{"X-Api-Key", ciKey}, 200, "", `"X-Postern-Caller":["ci"]`},
			{"on a public route", "/", []string{"X-Api-Key", ciKey}, 200, "", `"X-Postern-Caller":["ci"]`},
			{"none", "/orders/1", nil, 401, "no_credentials", ""},
			{"wrong", "/all/1", []string{"Authorization", "Bearer nobody's"}, 401, "invalid_credentials", ""},
			{"of the application", "/", []string{"Authorization", "Bearer the application's own"}, 200, "", `"Authorization":["Bearer the application's own"]`},
			{"another scheme", "/all/1", []string{"Authorization", "Basic dTpw"}, 401, "no_credentials", ""},
			{"of another caller", "/orders/1", []string{"Authorization", "Bearer " + ciKey}, 403, "caller_not_allowed", ""},
			{"twice", "/all/1", []string{"Authorization", "Bearer " + ciKey, "Authorization", "Bearer " + ordersKey}, 401, "malformed", ""},
			{"too large", "/all/1", []string{"Authorization", "Bearer " + strings.Repeat("a", 9000)}, 401, "too_large", ""},
		} {
			res, body := ask(t, c, "https://a.test"+tc.path, tc.fields...)
			if res.StatusCode != tc.status || !strings.Contains(body, tc.backend) {
				t.Errorf("%s, h2 %v: status %d, want %d: %s", tc.name, h2, res.StatusCode, tc.status, body)
			}
			if tc.status == 401 && !strings.HasPrefix(res.Header.Get("Www-Authenticate"), `Bearer realm="postern"`) {
				t.Errorf("%s, h2 %v: WWW-Authenticate %q", tc.name, h2, res.Header.Get("Www-Authenticate"))
			}
			if tc.reason != "" && (!strings.Contains(body, `"reason":"`+tc.reason+`"`) || res.Header.Get("Content-Type") != "application/problem+json") {
				t.Errorf("%s, h2 %v: %s", tc.name, h2, body)
			}
			if tc.status == 200 && (strings.Contains(body, ordersKey) || strings.Contains(body, ciKey)) {
				t.Errorf("%s, h2 %v: the backend was given the key: %s", tc.name, h2, body)
			}
		}
		r.until("the access line", func() bool { return strings.Contains(r.access.String(), "caller=orders caller_method=api_key") })
		if log := r.access.String() + r.log.String(); strings.Contains(log, ordersKey) || strings.Contains(log, ciKey) {
			t.Error("a key is in the log")
		}
	}
}

// TestIdentityIsNotSmuggled sends the fields by which backends are told who
// calls, in the spellings that some backends take for the same.
func TestIdentityIsNotSmuggled(t *testing.T) {
	r := callerRig(t, options{})
	for _, h2 := range []bool{false, true} {
		for _, name := range []string{
			"X-Postern-Caller", "x-postern-caller", "X_Postern_Caller", "X-Postern_Caller", "x_postern-caller", "X-POSTERN-CALLER",
			"X-Postern-Caller-Method", "X-Postern-Caller-Aws-Account", "X_POSTERN_CALLER_AWS_ACCOUNT",
			"X-Postern-Caller-" + strings.Repeat("A", 60),
		} {
			if h2 && name != strings.ToLower(name) {
				name = strings.ToLower(name)
			}
			for _, fields := range [][]string{{name, "admin"}, {name, "admin", "X-Api-Key", ciKey}} {
				res, body := ask(t, r.httpClient(h2), "https://a.test/", fields...)
				if res.StatusCode != 200 || strings.Contains(body, "admin") {
					t.Errorf("%s, h2 %v: %d %s", name, h2, res.StatusCode, body)
				}
			}
		}
	}
	// As trailers, which some backends merge into the header.
	conn := r.dial()
	send(t, conn, "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nTrailer: X-Postern-Caller\r\nConnection: close\r\n\r\n1\r\na\r\n0\r\nX-Postern-Caller: admin\r\n\r\n")
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.Contains(string(answer), "200 OK") || strings.Contains(string(answer), "admin") || strings.Contains(string(answer), "Postern-Caller") {
		t.Errorf("%v: %s", err, answer)
	}
}

// TestKnownCallerPassesABan: a Lambda shares its address with bots.
func TestKnownCallerPassesABan(t *testing.T) {
	r := callerRig(t, options{guard: guard.Config{Never: []netip.Prefix{}}, limits: quick(patience)})
	for _, h2 := range []bool{false, true} {
		c := r.httpClient(h2)
		if res, body := ask(t, c, "https://a.test/orders/1", "X-Api-Key", ordersKey); res.StatusCode != 200 {
			t.Fatalf("%d %s", res.StatusCode, body)
		}
	}
	h1, h2 := r.httpClient(false), r.httpClient(true)
	for _, c := range []*http.Client{h1, h2} { // connections that are open when the ban begins
		ask(t, c, "https://a.test/orders/1", "X-Api-Key", ordersKey)
	}
	if err := r.guard.Ban(netip.MustParseAddr("127.0.0.1"), time.Hour, "test", time.Now()); err != nil {
		t.Fatal(err)
	}
	for i, c := range []*http.Client{h1, h2} {
		if res, body := ask(t, c, "https://a.test/orders/1", "X-Api-Key", ordersKey); res.StatusCode != 200 {
			t.Errorf("client %d: %d %s", i, res.StatusCode, body)
		}
		// What a stranger is cut for, a caller is told.
		if res, body := ask(t, c, "https://a.test/wp-login.php", "X-Api-Key", ordersKey); res.StatusCode != 200 {
			t.Errorf("client %d: %d %s", i, res.StatusCode, body)
		}
		if _, err := c.Get("https://a.test/"); err == nil {
			t.Errorf("client %d: a stranger at a banned address was served", i)
		}
	}
}

// TestForgedIsScored: who guesses keys is banned, who has an old one is not,
// and a route for everybody scores nobody.
func TestForgedIsScored(t *testing.T) {
	r := callerRig(t, options{guard: guard.Config{Never: []netip.Prefix{}, Trust: -1}})
	c := r.httpClient(false)
	for range 20 {
		ask(t, c, "https://a.test/", "Authorization", "Bearer the application's own")
		ask(t, c, "https://a.test/orders/1")
		ask(t, c, "https://a.test/orders/1", "X-Api-Key", ciKey)
	}
	if r.guard.Banned(netip.MustParseAddr("127.0.0.1"), time.Now()) {
		t.Fatal("banned for nothing")
	}
	for i := range 20 {
		req, _ := http.NewRequest(http.MethodGet, "https://a.test/orders/1", nil)
		req.Header.Set("X-Api-Key", strings.Repeat("guess", i+1))
		res, err := c.Do(req)
		if err != nil {
			break // cut
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
	}
	if !r.guard.Banned(netip.MustParseAddr("127.0.0.1"), time.Now()) {
		t.Error("20 guesses and no ban")
	}
}

// TestHugeTokens: credentials of 64 KiB are refused, over HTTP/1.1 and HTTP/2,
// and the listener serves on.
func TestHugeTokens(t *testing.T) {
	r := callerRig(t, options{})
	conn := r.dialTLS("http/1.1")
	send(t, conn, "GET /orders/1 HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer "+strings.Repeat("a", 64<<10)+"\r\n\r\n")
	if answer, _ := io.ReadAll(conn); !strings.HasPrefix(string(answer), "HTTP/1.1 431 ") {
		t.Errorf("got %.100q", answer)
	}
	req, err := http.NewRequest(http.MethodGet, "https://a.test/orders/1", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.Repeat("a", 64<<10))
	if status, body := statusOf(t, r.httpClient(true), req); status == 200 {
		t.Errorf("h2: %d %s", status, body)
	}
	if res, body := ask(t, r.httpClient(true), "https://a.test/orders/1", "X-Api-Key", ordersKey); res.StatusCode != 200 {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}
