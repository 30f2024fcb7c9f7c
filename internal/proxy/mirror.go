package proxy

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"postern/internal/http1"
	"postern/internal/upstream"
)

// Mirror sends copies of a route's requests to other backends and drops their
// answers. The request itself never waits for its copy and never learns what
// became of it: a copy that finds too many others under way is dropped.
//
// Only what is at hand is copied: a request without a body, or with one of a
// known length up to 64 KiB. Of requests that take net/http's way (HTTP/3,
// and those whose own backends speak h2c) only the ones without a body are.
type Mirror struct {
	// Pool must speak HTTP/1.1.
	Pool *upstream.Pool

	// Percent of the requests that may be copied are, spread evenly: 1 to
	// 100.
	Percent int

	// All says that methods are copied that may not be repeated, too (RFC
	// 9110 section 9.2.2).
	All bool

	turn atomic.Uint64
}

const (
	mostCopies  = 64               // under way at a time
	copyTime    = 30 * time.Second // for a copy and its answer
	copyAnswer  = 256 << 10        // bytes of an answer that are read for the sake of the connection
	copySent    = "sent"           // its answer came
	copyFailed  = "failed"         // no answer, or none in time
	copyDropped = "dropped"        // too many under way
	copySkipped = "skipped"        // the body was not at hand
)

// takes reports whether the next request of a method is to be copied.
func (m *Mirror) takes(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
	default:
		if !m.All {
			return false
		}
	}
	n, share := m.turn.Add(1), uint64(m.Percent)
	return n*share/100 != (n-1)*share/100
}

// copies are those under way.
type copies struct {
	mu   sync.Mutex
	open map[*sentCopy]struct{} // guarded by mu
	shut bool                   // guarded by mu
	wait sync.WaitGroup
}

// sentCopy is one of them. Its bytes are its own.
type sentCopy struct {
	q      upstream.WireRequest
	res    upstream.WireResponse
	cancel context.CancelFunc
}

// mirror sends a copy if the route wants one of this request. head and body
// are copied before it returns; whole says that body is all of it.
func (x *exchange) mirror(rt *Route, head, body []byte, whole bool) {
	m := rt.Mirror
	if m == nil || !m.takes(x.method) {
		return
	}
	s := x.s
	if !whole || len(body) > maxHeld {
		s.metrics.mirrored.WithLabelValues(copySkipped).Inc()
		return
	}
	c := new(sentCopy)
	ctx, cancel := context.WithTimeout(context.Background(), copyTime) // the copy outlives its request
	c.cancel = cancel
	if !s.copies.add(c) {
		cancel()
		s.metrics.mirrored.WithLabelValues(copyDropped).Inc()
		return
	}
	c.q.Head, c.q.Body = slices.Clone(head), slices.Clone(body)
	c.q.IsHead, c.q.Key = x.method == http.MethodHead, x.balanceKey(rt)
	s.copies.wait.Go(func() { // ends with ctx at the latest; Shutdown cancels it and waits
		defer s.copies.done(c)
		defer func() {
			if p := recover(); p != nil {
				s.panicked(p)
			}
		}()
		result := copySent
		if c.send(ctx, m.Pool) != nil {
			result = copyFailed
		}
		s.metrics.mirrored.WithLabelValues(result).Inc()
	})
}

// send sends the copy and reads a short answer to its end, so that its
// connection can be used again.
func (c *sentCopy) send(ctx context.Context, p *upstream.Pool) error {
	if err := p.Wire(ctx, &c.q, &c.res, nil); err != nil {
		return err
	}
	defer c.res.Close()
	for left := copyAnswer; left > 0 && !c.res.Done(); {
		b, err := c.res.Body()
		if err != nil {
			break // the answer came: how it ends is nobody's concern
		}
		left -= len(b)
	}
	return nil
}

// add reports false when there is no room for c.
func (a *copies) add(c *sentCopy) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.shut || len(a.open) >= mostCopies {
		return false
	}
	if a.open == nil {
		a.open = make(map[*sentCopy]struct{})
	}
	a.open[c] = struct{}{}
	return true
}

func (a *copies) done(c *sentCopy) {
	c.cancel()
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.open, c)
}

// close ends those under way and waits for them.
func (a *copies) close() {
	a.mu.Lock()
	a.shut = true
	for c := range a.open {
		c.cancel()
	}
	a.mu.Unlock()
	a.wait.Wait()
}

// mirrorStd is mirror for a request of net/http, which has a body or none at
// hand.
func (m *stdMessage) mirrorStd(x *exchange, rt *Route, out *http.Request) {
	if rt.Mirror == nil || out.Header["Upgrade"] != nil {
		return
	}
	path, ok := x.outgoingTarget(rt)
	if !ok {
		return
	}
	if m.r.URL.RawQuery != "" || m.r.URL.ForceQuery {
		path += "?" + x.query
	}
	b := append([]byte(nil), x.method+" "+path+" HTTP/1.1\r\nHost: "+out.Host+"\r\n"...)
	for name, values := range out.Header {
		if name == "Content-Length" || name == "User-Agent" && values[0] == "" { // which outgoing added
			continue
		}
		for _, v := range values {
			b = http1.AppendText(b, name, v)
		}
	}
	switch x.method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		b = http1.AppendLength(b, 0) // RFC 9110 section 8.6
	}
	x.mirror(rt, append(b, "\r\n"...), nil, out.Body == nil)
}
