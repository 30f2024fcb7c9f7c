package clients

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"postern/internal/testnet"
)

// One connection for many calls, the name in Host, bodies as sent.
func TestHelperKeepsItsConnection(t *testing.T) {
	a := newAuthority(t)
	everyHelper(t, func(t *testing.T, kind string) {
		h := newHouse(t, a)
		c := startHelper(t, kind, h.options())
		for range 5 {
			c.works(helperCall{Method: "GET", Path: "/a%20b?x=%2F"}, "GET home.test:"+h.port+" /a%20b?x=%2F ")
			c.works(helperCall{Method: "POST", Path: "/p", Body: "grüße"}, "POST home.test:"+h.port+" /p grüße")
			c.works(helperCall{Method: "PUT", Path: "/p"}, "PUT ")
			c.works(helperCall{Method: "DELETE", Path: "/p"}, "DELETE ")
		}
		if opened, requests := h.counts(); opened != 1 || requests != 20 {
			t.Errorf("%d connections for %d requests", opened, requests)
		}
	})
}

// A kept connection that dies before it answers is replaced, and the request
// comes once more under the same key.
func TestHelperRetriesADeadConnection(t *testing.T) {
	a := newAuthority(t)
	everyHelper(t, func(t *testing.T, kind string) {
		for _, method := range []string{"GET", "POST"} {
			h := newHouse(t, a)
			c := startHelper(t, kind, h.options())
			h.play(func(w http.ResponseWriter, _ *http.Request, nth int) bool { return nth > 1 && reset(w) })
			for i := range 4 { // each but the first finds its connection dead
				c.works(helperCall{Method: method, Path: "/x", Body: strings.Repeat("b", i)}, method)
			}
			opened, requests := h.counts()
			if opened != 4 || requests != 7 {
				t.Errorf("%s: %d connections, %d requests, want 4 and 7", method, opened, requests)
			}
			keys := h.headers("Idempotency-Key")
			if method == "POST" && (keys[1] == "" || keys[1] != keys[2] || keys[0] == keys[1] || keys[2] == keys[3]) {
				t.Errorf("keys are %q, want one for each call, the same when it is repeated", keys)
			}
			if method == "GET" && keys[0] != "" {
				t.Errorf("GET has the key %q", keys[0])
			}
		}
	})
}

// Every connection is cut while the caller is frozen, as by a NAT or a
// restart.
func TestHelperAfterAFreeze(t *testing.T) {
	a := newAuthority(t)
	everyHelper(t, func(t *testing.T, kind string) {
		h := newHouse(t, a)
		c := startHelper(t, kind, h.options())
		for i, method := range []string{"POST", "GET", "POST", "GET"} {
			c.works(helperCall{Method: method, Path: "/x", Body: fmt.Sprint(i)}, method)
			c.signal(syscall.SIGSTOP)
			if h.cut() == 0 {
				t.Error("no connection was kept")
			}
			c.send(helperCall{Method: method, Path: "/thawed", Body: "x"}) // waits before the thaw, as in Lambda
			c.signal(syscall.SIGCONT)
			if got := c.answer(); got.Status != 200 {
				t.Errorf("%s after a freeze: %+v", method, got)
			}
		}
	})
}

// After a long freeze a kept connection is not tried: what is on its way may
// have forgotten it without a word. Go's own transport does this by the wall
// clock.
func TestHelperAfterALongFreeze(t *testing.T) {
	a := newAuthority(t)
	for _, kind := range []string{"node", "python"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, a)
			c := startHelper(t, kind, h.options())
			for _, step := range []struct{ later, opened int }{{0, 1}, {20, 1}, {20, 1}, {70, 2}, {600, 3}} {
				c.works(helperCall{Method: "POST", Path: "/x", Body: "b", Later: step.later}, "POST")
				if opened, _ := h.counts(); opened != step.opened {
					t.Errorf("%d s later: %d connections, want %d", step.later, opened, step.opened)
				}
			}
		})
	}
}

// A POST on a new connection that died is not repeated: it may have been done.
func TestHelperDoesNotRepeatAPost(t *testing.T) {
	a := newAuthority(t)
	everyHelper(t, func(t *testing.T, kind string) {
		h := newHouse(t, a)
		c := startHelper(t, kind, h.options())
		h.play(func(w http.ResponseWriter, _ *http.Request, _ int) bool { return reset(w) })
		if got := c.call("POST", "/x", "b"); got.Error == "" {
			t.Errorf("%+v", got)
		}
		if _, requests := h.counts(); requests != 1 {
			t.Errorf("a POST was sent %d times", requests)
		}
	})
}

// The document in SSM, in S3 and at a URL leads to the house while no name
// can be looked up, and is asked for once.
func TestHelperWithoutDNS(t *testing.T) {
	a := newAuthority(t)
	everyHelper(t, func(t *testing.T, kind string) {
		refused, hangs := map[string][]string{}, map[string][]string{"home.test": nil}
		for store, dead := range map[string]map[string][]string{"ssm": hangs, "s3": refused, "url": refused, "address": hangs} {
			account := testnet.NewAWS(t)
			h := newHouse(t, a)
			h.play(func(w http.ResponseWriter, _ *http.Request, _ int) bool {
				w.Header().Set("Connection", "close")
				return false
			})
			doc := documentAt(h.host, h.port)
			hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(doc) }))
			t.Cleanup(hook.Close)
			o := h.options()
			o.DNS, o.Connect = dead, 3000
			switch store {
			case "ssm":
				o.Parameter = "/postern/endpoint"
				account.SetParameter(o.Parameter, string(doc))
			case "s3":
				o.Bucket, o.Key = "my-bucket", "postern/end point.json"
				account.SetObject(o.Bucket, o.Key, doc)
			case "url":
				o.URL = hook.URL
			case "address":
				o.Address = h.host
			}
			c := startHelper(t, kind, o, inAWS(account)...)
			for range 3 {
				c.works(helperCall{Method: "POST", Path: "/x", Body: "b"}, "POST home.test:"+h.port)
			}
			if n := account.Calls("ssm:GetParameter") + account.Calls("s3:GetObject"); n > 1 || (n == 1) != (store == "ssm" || store == "s3") {
				t.Errorf("%s: the document was fetched %d times; refused %q", store, n, account.Refused())
			}
		}
	})
}

// The house moved, and the name still tells the old address: where nobody is,
// where nothing answers, or where somebody else is.
func TestHelperAfterAMove(t *testing.T) {
	a := newAuthority(t)
	everyHelper(t, func(t *testing.T, kind string) {
		for _, old := range []string{"refuses", "black hole", "stranger"} {
			h := newHouse(t, a)
			o := h.options()
			var host, port string
			switch old {
			case "refuses":
				host, port = refusing(t)
			case "black hole":
				host, port = blackHole(t)
				o.Connect = 3000
			case "stranger":
				host, port, _ = net.SplitHostPort(newHouse(t, a, "stranger.test").Listener.Addr().String())
			}
			o.Names, o.DNS = []string{"home.test:" + port}, map[string][]string{"home.test": {host}}
			account := testnet.NewAWS(t)
			account.SetParameter("/e", string(documentAt(h.host, h.port)))
			o.Parameter = "/e"
			c := startHelper(t, kind, o, inAWS(account)...)
			for range 3 {
				c.works(helperCall{Method: "POST", Path: "/" + strings.ReplaceAll(old, " ", "-"), Body: "b"}, "POST home.test:"+port)
			}
			if opened, _ := h.counts(); opened != 1 {
				t.Errorf("%s: %d connections", old, opened)
			}
		}
	})
}

// A house that moves while a connection is kept, with the new address in the
// DNS.
func TestHelperFollowsTheName(t *testing.T) {
	a := newAuthority(t)
	everyHelper(t, func(t *testing.T, kind string) {
		relayed := newHouse(t, a) // stands for the old address
		front := newForwarder(t, relayed.Listener.Addr().String())
		o := relayed.options()
		host, port, _ := net.SplitHostPort(front.addr)
		o.Names, o.DNS = []string{"home.test:" + port}, map[string][]string{"home.test": {host}}
		c := startHelper(t, kind, o)
		c.works(helperCall{Method: "POST", Path: "/1", Body: "b"}, "/1")
		front.closeAll() // the old address is gone; the next one is another of loopback's
		moved := newForwarderAt(t, "127.0.0.2:"+port, relayed.Listener.Addr().String())
		c.works(helperCall{Method: "POST", Path: "/2", Body: "b", DNS: map[string][]string{"home.test": {"127.0.0.2"}}}, "/2")
		if moved.accepted() == 0 {
			t.Error("the new address was not used")
		}
	})
}

// The second name, and both kinds of relay.
func TestHelperOtherWays(t *testing.T) {
	a := newAuthority(t)
	everyHelper(t, func(t *testing.T, kind string) {
		h := newHouse(t, a, "home.test", "second.test", "relay.test")
		o := h.options()
		o.Names, o.DNS = []string{"home.test:" + h.port, "second.test:" + h.port}, map[string][]string{"second.test": {h.host}}
		startHelper(t, kind, o).works(helperCall{Method: "POST", Path: "/x", Body: "b"}, "POST second.test:"+h.port+" /x b")

		o = h.options()
		o.DNS, o.Relay = map[string][]string{"passes.test": {h.host}}, "passes.test:"+h.port
		startHelper(t, kind, o).works(helperCall{Method: "POST", Path: "/x", Body: "b"}, "POST home.test:"+h.port+" /x b")

		o.DNS, o.Relay = map[string][]string{"relay.test": {h.host}}, "https://relay.test:"+h.port+"/base"
		startHelper(t, kind, o).works(helperCall{Method: "POST", Path: "/x", Body: "b"}, "POST relay.test:"+h.port+" /base/x b")

		o.DNS, o.Relay = map[string][]string{}, ""
		if got := startHelper(t, kind, o).call("GET", "/", ""); !strings.Contains(got.Error, "no way to the house worked") {
			t.Errorf("without any way: %+v", got)
		}
	})
}

// Retry-After is obeyed if there is time, and the answer returned if not.
func TestHelperRetryAfter(t *testing.T) {
	a := newAuthority(t)
	everyHelper(t, func(t *testing.T, kind string) {
		h := newHouse(t, a)
		c := startHelper(t, kind, h.options())
		refusals := 0
		h.play(func(w http.ResponseWriter, r *http.Request, _ int) bool {
			if r.URL.Path == "/long" {
				w.Header().Set("Retry-After", "3600")
				http.Error(w, "busy", http.StatusTooManyRequests)
				return true
			}
			if refusals++; refusals > 2 {
				return false
			}
			w.Header().Set("Retry-After", "0")
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return true
		})
		c.works(helperCall{Method: "POST", Path: "/x", Body: "b"}, "POST")
		if got := c.call("POST", "/long", "b"); got.Status != http.StatusTooManyRequests || !strings.Contains(got.Body, "busy") {
			t.Errorf("%+v", got)
		}
		if _, requests := h.counts(); requests != 4 {
			t.Errorf("%d requests, want 3 and 1", requests)
		}
		if keys := h.headers("Idempotency-Key"); keys[0] != keys[2] {
			t.Errorf("keys are %q", keys)
		}
	})
}

// Lambda's request id is the key of the first call in an invocation; the
// repeated invocation has the same keys.
func TestHelperIdempotencyKey(t *testing.T) {
	a := newAuthority(t)
	everyHelper(t, func(t *testing.T, kind string) {
		h := newHouse(t, a)
		c := startHelper(t, kind, h.options())
		for _, id := range []string{"r1", "r1", "r2"} {
			c.works(helperCall{Method: "POST", Path: "/", Body: "b", Request: id}, "POST")
		}
		if got := h.headers("Idempotency-Key"); !slices.Equal(got, []string{"r1", "r1-2", "r2"}) {
			t.Errorf("keys are %q", got)
		}
	})
}

// A signature is what AWS's own signer makes of the same request, and no two
// attempts sign alike.
func TestHelperSignature(t *testing.T) {
	a := newAuthority(t)
	everyHelper(t, func(t *testing.T, kind string) {
		h := newHouse(t, a)
		o := h.options()
		o.KeyID, o.Secret = "shop", "a-secret/of+the=shop"
		c := startHelper(t, kind, o)
		seen := map[string]bool{}
		h.play(func(w http.ResponseWriter, r *http.Request, nth int) bool {
			if nth == 2 {
				return reset(w)
			}
			if err := resign(r, "b", "shop", "a-secret/of+the=shop"); err != nil {
				http.Error(w, err.Error(), http.StatusForbidden)
				return true
			}
			if sig := r.Header.Get("Authorization"); seen[sig] {
				http.Error(w, "a replay", http.StatusForbidden)
				return true
			} else {
				seen[sig] = true
			}
			return false
		})
		for _, path := range []string{"/", "/x", "/a%20b/%C3%A9//c", "/q?b=2&a=1&a-b=%2F&a=0&e=&sp=a%20b"} {
			c.works(helperCall{Method: "POST", Path: path, Body: "b"}, "POST")
		}
	})
}

// resign compares a signature with that of aws-sdk-go-v2.
func resign(r *http.Request, body, id, secret string) error {
	got := r.Header.Get("Authorization")
	_, rest, _ := strings.Cut(got, "SignedHeaders=")
	names, _, _ := strings.Cut(rest, ",")
	again, err := http.NewRequest(r.Method, "https://"+r.Host+r.RequestURI, strings.NewReader(body))
	if err != nil {
		return err
	}
	again.ContentLength = 0 // the helpers do not sign it
	for _, want := range []string{"host", "x-amz-date", "x-amz-content-sha256", "x-postern-nonce", "content-type", "idempotency-key"} {
		if !slices.Contains(strings.Split(names, ";"), want) {
			return fmt.Errorf("%s is not signed: %s", want, names)
		}
	}
	for name := range strings.SplitSeq(names, ";") {
		if name != "host" {
			again.Header.Set(name, r.Header.Get(name))
		}
	}
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(body))
	hash := hex.EncodeToString(sum[:])
	if r.Header.Get("X-Amz-Content-Sha256") != hash {
		return fmt.Errorf("x-amz-content-sha256 is not that of the body")
	}
	if err := v4.NewSigner().SignHTTP(r.Context(), aws.Credentials{AccessKeyID: id, SecretAccessKey: secret}, again, hash, "postern", "home", at); err != nil {
		return err
	}
	if want := again.Header.Get("Authorization"); got != want {
		return fmt.Errorf("got  %s\nwant %s", got, want)
	}
	return nil
}

// A token is fetched once, and again when it is refused.
func TestHelperToken(t *testing.T) {
	a := newAuthority(t)
	everyHelper(t, func(t *testing.T, kind string) {
		account := testnet.NewAWS(t)
		h := newHouse(t, a)
		o := h.options()
		o.Audience = "https://home.test"
		c := startHelper(t, kind, o, inAWS(account)...)
		for range 5 {
			c.works(helperCall{Method: "POST", Path: "/x", Body: "b"}, "POST")
		}
		if n := account.Calls("sts:GetWebIdentityToken"); n != 1 {
			t.Errorf("%d tokens for 5 calls; refused %q", n, account.Refused())
		}
		tokens := h.headers("Authorization")
		h.play(func(w http.ResponseWriter, r *http.Request, _ int) bool {
			if r.Header.Get("Authorization") != tokens[0] {
				return false
			}
			http.Error(w, "expired", http.StatusUnauthorized)
			return true
		})
		c.works(helperCall{Method: "POST", Path: "/x", Body: "b"}, "POST")
		if n := account.Calls("sts:GetWebIdentityToken"); n != 2 {
			t.Errorf("%d tokens", n)
		}
		account.SetFault("sts", testnet.AWSDenied)
		h.play(func(w http.ResponseWriter, _ *http.Request, _ int) bool {
			http.Error(w, "no", http.StatusUnauthorized)
			return true
		})
		if got := c.call("POST", "/x", "b"); got.Error == "" && got.Status != 401 {
			t.Errorf("without a token: %+v", got)
		}
	})
}

// What Python programs use already: requests and urllib3.
func TestHelperPythonAdapters(t *testing.T) {
	a := newAuthority(t)
	for _, kind := range []string{"requests", "urllib3"} {
		t.Run(kind, func(t *testing.T) {
			h := newHouse(t, a)
			o := h.options()
			o.DNS, o.Address = map[string][]string{}, h.host // DNS is dead
			c := startHelper(t, kind, o)
			for _, method := range []string{"GET", "POST"} {
				c.works(helperCall{Method: method, Path: "/x?y=1", Body: strings.Repeat("b", len(method)-3)}, method+" home.test:"+h.port+" /x?y=1")
			}
		})
	}
}

// forwarder passes bytes on, as a router does.
type forwarder struct {
	addr string
	l    net.Listener
	took chan net.Conn
}

func newForwarder(t *testing.T, to string) *forwarder {
	t.Helper()
	return newForwarderAt(t, "127.0.0.1:0", to)
}

func newForwarderAt(t *testing.T, at, to string) *forwarder {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Skipf("loopback has no %s here: %v", at, err)
	}
	f := &forwarder{addr: l.Addr().String(), l: l, took: make(chan net.Conn, 100)}
	go func() { // ends with its listener
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			f.took <- in
			go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
			go func() { _, _ = io.Copy(in, out); _ = in.Close() }()
		}
	}()
	t.Cleanup(f.closeAll)
	return f
}

func (f *forwarder) accepted() int { return len(f.took) }

// closeAll makes the address one where nobody is.
func (f *forwarder) closeAll() {
	_ = f.l.Close()
	for {
		select {
		case c := <-f.took:
			_ = c.Close()
		default:
			return
		}
	}
}

// The policies of docs/callers.md are enough, and each names one action.
func TestHelperPolicies(t *testing.T) {
	page, err := os.ReadFile("../../docs/callers.md")
	if err != nil {
		t.Fatal(err)
	}
	policies := map[string]string{}
	for _, m := range regexp.MustCompile("(?s)```json\n(\\{\\s*\"Version\".*?)```").FindAllSubmatch(page, -1) {
		var p struct{ Statement []struct{ Action string } }
		if err := json.Unmarshal(m[1], &p); err != nil || len(p.Statement) != 1 {
			t.Fatalf("%v in %s", err, m[1])
		}
		policies[p.Statement[0].Action] = string(m[1])
	}
	a := newAuthority(t)
	for _, action := range []string{"sts:GetWebIdentityToken", "ssm:GetParameter", "s3:GetObject"} {
		account := testnet.NewAWS(t)
		account.Limit(t, account.Lambda, policies[action])
		h := newHouse(t, a)
		o := h.options()
		doc := documentAt(h.host, h.port)
		switch action {
		case "sts:GetWebIdentityToken":
			o.Audience = "https://mypi.duckdns.org"
		case "ssm:GetParameter":
			o.Parameter, o.DNS = "/postern/endpoint", map[string][]string{}
			account.SetParameter(o.Parameter, string(doc))
		case "s3:GetObject":
			o.Bucket, o.Key, o.DNS = "my-bucket", "postern/endpoint.json", map[string][]string{}
			account.SetObject(o.Bucket, o.Key, doc)
		}
		startHelper(t, "go", o, inAWS(account)...).works(helperCall{Method: "POST", Path: "/x", Body: "b"}, "POST")
		if account.Calls(action) != 1 || account.Calls("refused") != 0 {
			t.Errorf("%s: %d calls, refused %q", action, account.Calls(action), account.Refused())
		}
	}
}

// The handlers that docs/callers.md shows are those that the tests run.
func TestDocumentedHandlers(t *testing.T) {
	page, err := os.ReadFile("../../docs/callers.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"../../examples/lambda/node/index.mjs", "../../examples/lambda/python/index.py", "testdata/lambda/main.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(text, []byte("package main")); at > 0 {
			text = text[at:]
		}
		if !bytes.Contains(page, text) {
			t.Errorf("docs/callers.md does not show %s as it is", file)
		}
	}
}
