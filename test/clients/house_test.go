package clients

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"postern/internal/app"
	"postern/internal/config"
	"postern/internal/testnet"
	"postern/internal/tlsmgr"
)

// home is a real postern with known callers, which can be restarted.
type home struct {
	t     *testing.T
	data  string
	addr  string // where it listens, on loopback
	port  string
	extra string // lines of the configuration
	app   *app.App
	stop  func()
}

const shopSecret = "an-example-of-a-secret-with-forty-letters"

// newHome serves home.test to the callers orders (a token of AWS) and shop (a
// signature).
func newHome(t *testing.T, aws *testnet.AWS, backend string) *home {
	t.Helper()
	h := &home{t: t, data: t.TempDir(), addr: "127.0.0.1", port: "0"}
	h.extra = fmt.Sprintf(`
callers:
  orders: {aws: {issuer: %q, ca: %q, audience: "https://home.test", role: %q, function: %q}}
  shop: {signature: {key_id: shop, secret: %q}}
sites:
  - {hosts: [home.test, localhost], callers: [orders, shop], upstream: %q}
`, aws.Issuer, aws.RootFile, testnet.AWSRole, testnet.AWSFunction, shopSecret, backend)
	h.start()
	t.Cleanup(func() { h.stop() })
	return h
}

func (h *home) start() {
	h.t.Helper()
	text := fmt.Sprintf("listen: {http: \"\", https: \"%s:%s\"}\nadmin: {listen: \"\"}\ndata: %q\nlog: {level: warn, access: false}\ntls: {issuer: local, on_demand: {allow: [home.test, localhost]}}\ngrace: 5s\n%s", h.addr, h.port, h.data, h.extra)
	cfg, err := config.Parse("test.yaml", []byte(text), func(string) (string, bool) { return "", false })
	if err != nil {
		h.t.Fatal(err)
	}
	if h.app, err = app.New(cfg, app.Options{Version: "test", Log: h.t.Output()}); err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	running := h.app
	go func() { ended <- running.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			h.t.Errorf("postern ended: %v", err)
		}
	})
	if _, h.port, err = net.SplitHostPort(h.app.Addrs("https")[0]); err != nil {
		h.t.Fatal(err)
	}
}

func (h *home) options() helperOptions {
	return helperOptions{Names: []string{"home.test:" + h.port}, CA: tlsmgr.LocalRootPath(h.data), DNS: map[string][]string{"home.test": {"127.0.0.1"}}}
}

// The helpers and a real postern: with a token and with signatures, kept
// connections, restarts, freezes, dead DNS and rotated keys, without an error.
func TestHelperThroughPostern(t *testing.T) {
	everyHelper(t, func(t *testing.T, kind string) {
		for _, proof := range []string{"orders", "shop"} {
			account := testnet.NewAWS(t)
			var served atomic.Int64
			backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				served.Add(1)
				fmt.Fprintf(w, "%s by %s key %t", r.Method, r.Header.Get("X-Postern-Caller"), r.Header.Get("Idempotency-Key") != "")
			}))
			defer backend.Close()
			h := newHome(t, account, backend.URL)
			o := h.options()
			switch proof {
			case "orders":
				o.Audience = "https://home.test"
			case "shop":
				o.KeyID, o.Secret = "shop", shopSecret
			}
			c := startHelper(t, kind, o, inAWS(account)...)
			calls := 0
			both := func(dns map[string][]string) {
				t.Helper()
				c.works(helperCall{Method: "GET", Path: "/a%20b?x=1&y=%2F", DNS: dns}, "GET by "+proof+" key false")
				c.works(helperCall{Method: "POST", Path: "/x", Body: "b"}, "POST by "+proof+" key true")
				calls += 2
			}
			both(nil) // fresh
			both(nil) // reuse
			h.stop()
			h.start() // a restart between two calls
			both(nil)
			c.signal(syscall.SIGSTOP)
			h.stop()
			h.start() // a restart that nobody saw
			c.send(helperCall{Method: "POST", Path: "/thawed", Body: "b"})
			c.signal(syscall.SIGCONT)
			if got := c.answer(); got.Status != 200 {
				t.Errorf("after a restart while frozen: %+v", got)
			}
			calls++
			h.stop()
			h.start()
			both(map[string][]string{}) // DNS is dead, the connection too: the address that worked last
			if proof == "orders" {
				account.RotateKeys(false)
				both(nil)
			}
			if n := int(served.Load()); n != calls {
				t.Errorf("%d calls reached the backend, want %d", n, calls)
			}
		}
	})
}
