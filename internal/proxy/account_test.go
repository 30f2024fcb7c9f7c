package proxy

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/internal/guard"
)

// accountRig serves everything to the caller orders, with an account.
func accountRig(t *testing.T, a *Account, limits Limits, h http.HandlerFunc) *rig {
	site := proxyTo(t, backend(t, h))
	return start(t, options{book: callerBook(t), sites: []testSite{site}, limits: limits, accounts: map[string]*Account{"orders": a.Since(nil)}})
}

func hello(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }

// A caller over its quota is told, on its connection, and is not banned; what
// others ask is not its business.
func TestQuotas(t *testing.T) {
	eachProtocol(t, func(t *testing.T, h2 bool) {
		for _, c := range []struct {
			name    string
			account Account
			reason  string
			retry   string // "": any
		}{
			{"rate", Account{Rate: guard.NewSingle(guard.Rate{Events: 1, Per: time.Hour}, 2)}, "over_quota", ""},
			{"bytes", Account{Bytes: 6}, "bytes_used_up", ""},
		} {
			t.Run(c.name, func(t *testing.T) {
				r := accountRig(t, &c.account, quick(patience), hello)
				client := r.httpClient(h2)
				for i, want := range []int{200, 200, 429, 429} {
					res, body := ask(t, client, "https://a.test/", "X-Api-Key", ordersKey)
					if res.StatusCode != want || want == 429 && (!strings.Contains(body, c.reason) || res.Header.Get("Retry-After") == "") {
						t.Errorf("request %d: %d %s", i, res.StatusCode, body)
					}
				}
				for _, key := range []string{ciKey, ""} {
					if res, _ := ask(t, client, "https://a.test/", "X-Api-Key", key); res.StatusCode != 200 {
						t.Errorf("another one: %d", res.StatusCode)
					}
				}
			})
		}
	})
}

func TestQuotaAtOnce(t *testing.T) {
	inside, gate := make(chan struct{}), make(chan struct{})
	r := accountRig(t, &Account{Requests: 1}, quick(patience), func(w http.ResponseWriter, _ *http.Request) {
		inside <- struct{}{}
		<-gate
	})
	client := r.httpClient(true)
	var first sync.WaitGroup
	first.Go(func() { ask(t, client, "https://a.test/", "X-Api-Key", ordersKey) })
	<-inside
	if res, body := ask(t, client, "https://a.test/", "X-Api-Key", ordersKey); res.StatusCode != 429 || !strings.Contains(body, "too_many_at_once") {
		t.Errorf("the second at once: %d %s", res.StatusCode, body)
	}
	close(gate)
	first.Wait()
	go func() { <-inside }()
	if res, _ := ask(t, client, "https://a.test/", "X-Api-Key", ordersKey); res.StatusCode != 200 {
		t.Errorf("after the first: %d", res.StatusCode)
	}
}

// What was used stays used across a reload, and is forgotten at midnight.
func TestUsage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // begins at midnight UTC
		before := (&Account{Bytes: 100}).Since(nil)
		before.used.today(time.Now()).Add(60)
		after := (&Account{Bytes: 50}).Since(before)
		if n := after.used.today(time.Now()).Load(); n != 60 {
			t.Errorf("after the reload: %d bytes used", n)
		}
		time.Sleep(day - time.Second)
		if n := after.used.today(time.Now()).Load(); n != 60 {
			t.Errorf("in the evening: %d", n)
		}
		time.Sleep(time.Second)
		if n := after.used.today(time.Now()).Load(); n != 0 {
			t.Errorf("the day after: %d", n)
		}
	})
}

// A known caller hears before its patience ends, its own or what it says;
// strangers wait as long as the route does.
func TestPatienceOfCallers(t *testing.T) {
	eachProtocol(t, func(t *testing.T, h2 bool) {
		r := accountRig(t, &Account{Wait: 50 * time.Millisecond}, quick(patience), func(w http.ResponseWriter, q *http.Request) {
			select {
			case <-time.After(2 * time.Second):
			case <-q.Context().Done():
			}
		})
		client := r.httpClient(h2)
		res, body := ask(t, client, "https://a.test/", "X-Api-Key", ordersKey)
		if res.StatusCode != 504 || !strings.Contains(body, "response_timeout") || res.Header.Get("Proxy-Status") != "postern; error=http_response_timeout" {
			t.Errorf("its own patience: %d %s", res.StatusCode, body)
		}
		if res, _ := ask(t, client, "https://a.test/", "X-Api-Key", ordersKey, "Prefer", "respond-async, wait=60"); res.StatusCode != 200 {
			t.Errorf("what it says: %d", res.StatusCode)
		}
		if res, _ := ask(t, client, "https://a.test/", "X-Api-Key", ciKey, "Prefer", "wait=1"); res.StatusCode != 504 {
			t.Errorf("wait=1 of a caller without an account: %d", res.StatusCode)
		}
		if res, _ := ask(t, client, "https://a.test/", "Prefer", "wait=1"); res.StatusCode != 200 {
			t.Errorf("a stranger: %d", res.StatusCode)
		}
	})
}

func TestPreferredWait(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"wait=3": 3 * time.Second, `wait="3"`: 3 * time.Second, "Wait = 3; x=y": 3 * time.Second,
		"respond-async, wait=10": 10 * time.Second, "wait=99999": time.Hour, "wait=0": 0,
		"": -1, "wait": -1, "wait=x": -1, "wait=-1": -1, "waiting=3": -1, "wait=1e3": -1, "return=minimal": -1,
	} {
		m := &stdMessage{r: &http.Request{Header: http.Header{"Prefer": {text}}}}
		got, ok := preferredWait(m)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// The connection of a known caller is kept when a stranger's would be closed,
// and is told for how long.
func TestCallersConnectionsRest(t *testing.T) {
	limits := quick(patience)
	limits.Idle, limits.CallerIdle = 50*time.Millisecond, time.Minute
	r := accountRig(t, &Account{}, limits, hello)
	for _, c := range []struct {
		key  string
		rest bool
	}{{ordersKey, true}, {"", false}} {
		nc := r.dialTLS("http/1.1")
		defer nc.Close()
		br := bufio.NewReader(nc)
		send(t, nc, "GET / HTTP/1.1\r\nHost: a.test\r\nX-Api-Key: "+c.key+"\r\n\r\n")
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		hint := ""
		if c.rest {
			hint = "timeout=50"
		}
		if got := res.Header.Get("Keep-Alive"); got != hint {
			t.Errorf("key %q: Keep-Alive %q, want %q", c.key, got, hint)
		}
		_ = nc.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		_, err = br.ReadByte()
		if closed := err == io.EOF; closed == c.rest {
			t.Errorf("key %q: closed %t (%v)", c.key, closed, err)
		}
	}
}

// A request that lasts over midnight does not give its caller a second day.
func TestUsageOverMidnight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // begins at midnight UTC
		a := (&Account{Bytes: 100}).Since(nil)
		late := exchange{account: a, start: time.Now()}
		time.Sleep(day)
		early := exchange{account: a, start: time.Now(), sent: 60}
		a.used.under.Add(2)
		early.settle(time.Now())
		late.sent = 30
		late.settle(time.Now())
		if n := a.used.today(time.Now()).Load(); n != 90 {
			t.Errorf("%d bytes used, want 90", n)
		}
	})
}

// What a caller sends counts although it does not say beforehand how much it
// will be.
func TestQuotaOfUndeclaredBytes(t *testing.T) {
	sink := func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("Upgrade") == "" {
			_, _ = io.Copy(io.Discard, q.Body)
			return
		}
		nc, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		_, _ = io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.CopyN(io.Discard, rw, 30)
	}
	refused := func(t *testing.T, r *rig, client *http.Client) {
		t.Helper()
		for end := time.Now().Add(patience); ; { // the last byte may be here before it is booked
			res, body := ask(t, client, "https://a.test/", "X-Api-Key", ordersKey)
			if res.StatusCode == 429 && strings.Contains(body, "bytes_used_up") {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%d %s", res.StatusCode, body)
			}
		}
	}
	eachProtocol(t, func(t *testing.T, h2 bool) {
		r := accountRig(t, &Account{Bytes: 20}, quick(patience), sink)
		client := r.httpClient(h2)
		q, err := http.NewRequest(http.MethodPost, "https://a.test/", struct{ io.Reader }{strings.NewReader(strings.Repeat("x", 30))})
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("X-Api-Key", ordersKey)
		res, err := client.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != 200 {
			t.Fatal(res.StatusCode)
		}
		refused(t, r, client)
	})
	t.Run("tunnel", func(t *testing.T) {
		r := accountRig(t, &Account{Bytes: 20}, quick(patience), sink)
		nc := r.dialTLS("http/1.1")
		defer nc.Close()
		send(t, nc, "GET / HTTP/1.1\r\nHost: a.test\r\nX-Api-Key: "+ordersKey+"\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		br := bufio.NewReader(nc)
		res, err := http.ReadResponse(br, nil)
		if err != nil || res.StatusCode != 101 {
			t.Fatalf("%v %v", res, err)
		}
		send(t, nc, strings.Repeat("x", 30))
		_, _ = io.Copy(io.Discard, br)
		_ = nc.Close()
		refused(t, r, r.httpClient(false))
	})
}
