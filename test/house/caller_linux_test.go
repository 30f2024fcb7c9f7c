package house

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// caller calls the house five times a second, and does with its name what its
// record says: it looks it up again when its time is over.
type caller struct {
	from   namespace
	client *http.Client
	kept   *http.Transport // keeps its connection; nil: each call has its own

	mu      sync.Mutex
	addr    netip.Addr // guarded by mu; looked up last
	expires time.Time  // guarded by mu; of addr
	calls   []call     // guarded by mu; ten minutes of them at most
}

// call is one that ended.
type call struct {
	began, ended time.Time
	err          error
}

const (
	callEvery = 200 * time.Millisecond
	callTime  = 2 * time.Second // of one call
)

// startCaller calls until the test ends.
func startCaller(t *testing.T, from namespace, roots *x509.CertPool, keep bool) *caller {
	t.Helper()
	c := &caller{from: from}
	transport := &http.Transport{
		DisableKeepAlives: !keep,
		TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			addr, err := c.resolve(ctx)
			if err != nil {
				return nil, err
			}
			return from.dial(ctx, "tcp", net.JoinHostPort(addr.String(), "443"))
		},
	}
	if keep {
		c.kept = transport
	}
	c.client = &http.Client{Transport: transport}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(callEvery)
		defer tick.Stop()
		for ctx.Err() == nil {
			c.once(ctx)
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		transport.CloseIdleConnections()
	})
	return c
}

func (c *caller) once(ctx context.Context) {
	began := time.Now()
	err := c.ask(ctx)
	if err != nil && c.kept != nil {
		c.kept.CloseIdleConnections() // whatever it led to
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls = append(c.calls, call{began, time.Now(), err}); len(c.calls) > 3000 {
		c.calls = c.calls[1:]
	}
}

func (c *caller) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+houseName+"/", nil)
	if err != nil {
		return err
	}
	res, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<10))
	if err == nil && string(body) != welcome {
		err = fmt.Errorf("%s: %q", res.Status, body)
	}
	return err
}

// resolve is a cache of one name.
func (c *caller) resolve(ctx context.Context) (netip.Addr, error) {
	now := time.Now()
	c.mu.Lock()
	addr, expires := c.addr, c.expires
	c.mu.Unlock()
	if now.Before(expires) {
		return addr, nil
	}
	conn, err := c.from.dial(ctx, "udp", dnsAddr+":53")
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	m := new(dns.Msg)
	m.SetQuestion(houseName+".", dns.TypeA)
	in, _, err := new(dns.Client).ExchangeWithConnContext(ctx, m, &dns.Conn{Conn: conn})
	if err != nil {
		return netip.Addr{}, err
	}
	for _, rr := range in.Answer {
		if a, ok := rr.(*dns.A); ok {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.addr, _ = netip.AddrFromSlice(a.A.To4())
			c.expires = now.Add(time.Duration(a.Hdr.Ttl) * time.Second)
			return c.addr, nil
		}
	}
	return netip.Addr{}, errors.New("the name has no address")
}

// left is how long the caller will not look the name up again.
func (c *caller) left() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Until(c.expires)
}

// since returns the calls that began after a time.
func (c *caller) since(at time.Time) []call {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, k := range c.calls {
		if k.began.After(at) {
			return append([]call(nil), c.calls[i:]...)
		}
	}
	return nil
}

// recovered waits until a call that began after at reached home, and then for
// n more. It returns how long the first one took from at on, how many had
// failed before, and how many failed after it, with the last one's reason.
func (c *caller) recovered(t *testing.T, at time.Time, n int) (took time.Duration, before, after int, last error) {
	t.Helper()
	var calls []call
	first := -1
	eventually(t, "the caller reaches home", func() bool {
		calls = c.since(at)
		for i, k := range calls {
			if first = -1; k.err == nil {
				first = i
				break
			}
			last = k.err
		}
		return first >= 0 && len(calls) > first+n
	})
	for _, k := range calls[first+1:] {
		if k.err != nil {
			after, last = after+1, k.err
		}
	}
	return calls[first].ended.Sub(at), first, after, last
}
