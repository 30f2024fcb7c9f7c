package upstream

import (
	"errors"
	"io"
	"net/http"
	"testing"
	"time"
)

// TestUntil: a client that says how long it waits gets its answer by then, or
// hears that there is none; how long the body takes is another matter, and so
// is what is thought of the backend.
func TestUntil(t *testing.T) {
	everyWay(t, func(t *testing.T, scheme string, wire bool) {
		ask := func(p *Pool, wait time.Duration) (int, string, error) {
			if wire {
				q := wireRequest("GET", "")
				q.Until = time.Now().Add(wait)
				w := exchangeWire(t, p, q)
				return w.status, w.body, errors.Join(w.err, w.bodyErr)
			}
			r := request(t, "GET", "")
			resp, err := p.RoundTrip(r.WithContext(WithUntil(r.Context(), time.Now().Add(wait))))
			if err != nil {
				return 0, "", err
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			return resp.StatusCode, string(got), err
		}
		const wait = 50 * time.Millisecond
		var late *TimeoutError
		for name, cfg := range map[string]Config{
			"alone":      {Idle: DefaultIdle, Response: patience},
			"with tries": {Idle: DefaultIdle, Response: patience, Try: patience, Retry: &Retry{Tries: 5, Budget: 1, Late: true}},
			"no limit":   {Idle: DefaultIdle},
		} {
			p := newPool(t, cfg, silent(t, scheme), silent(t, scheme))
			if _, _, err := ask(p, wait); !errors.As(err, &late) || late.Phase != "response" || late.After > 2*wait || late.After < wait/2 {
				t.Errorf("%s: got %v", name, err)
			}
			for _, s := range p.Status() {
				if !s.Up {
					t.Errorf("%s: %s is taken for down", name, s.Target)
				}
			}
		}
		slow := serveScheme(t, scheme, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "a")
			_ = http.NewResponseController(w).Flush()
			<-time.After(2 * wait)
			_, _ = io.WriteString(w, "b")
		})
		p := newPool(t, Config{Idle: DefaultIdle, Response: patience}, slow)
		if status, body, err := ask(p, patience); err != nil || status != 200 || body != "ab" {
			t.Errorf("slow body: got %d %q, %v", status, body, err)
		}
	})
}

// TestUntilHeld: who is held while every backend is down is not held longer
// than it waits.
func TestUntilHeld(t *testing.T) {
	p := newPool(t, Config{Idle: DefaultIdle, Hold: patience}, deadAddr(t))
	q := wireRequest("GET", "")
	q.Until = time.Now().Add(50 * time.Millisecond)
	if w := exchangeWire(t, p, q); w.err == nil {
		t.Errorf("got %d", w.status)
	}
}
