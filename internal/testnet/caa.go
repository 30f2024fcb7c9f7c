package testnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/letsencrypt/pebble/v2/acme"
	"github.com/letsencrypt/pebble/v2/core"
	"github.com/miekg/dns"
)

var errCAAForbids = errors.New("prevents issuance")

// challenge serves a POST to a challenge and, once Pebble has validated it,
// adds what Boulder does next: the look-up of CAA. The client only polls after
// this answer, so it never sees the state in between.
func (c *CA) challenge(next http.Handler, w http.ResponseWriter, r *http.Request) {
	chal := c.store.GetChallengeByID(strings.TrimPrefix(r.URL.Path, pathChallenge))
	next.ServeHTTP(w, r) // small: net/http holds it back until we return
	if chal == nil {
		return
	}
	chal.RLock()
	begun, authz := chal.Status != acme.StatusPending, chal.Authz
	chal.RUnlock()
	if !begun {
		return // a refused nonce, say
	}
	id, ok := settled(r.Context(), authz)
	if !ok || id.Type != acme.IdentifierDNS {
		return // its own failure comes first; addresses have no CAA (RFC 8738)
	}
	err := c.caa(r.Context(), strings.TrimPrefix(id.Value, "*."))
	if err == nil {
		return
	}
	p := &acme.ProblemDetails{
		Type:       "urn:ietf:params:acme:error:dns",
		HTTPStatus: http.StatusBadRequest,
		Detail:     fmt.Sprintf("While processing CAA for %s: %s", id.Value, err),
	}
	if errors.Is(err, errCAAForbids) {
		p.Type, p.HTTPStatus = "urn:ietf:params:acme:error:caa", http.StatusForbidden
	}
	c.fail(authz, chal, p)
}

// settled waits for Pebble's own validation and reports whether it passed.
func settled(ctx context.Context, authz *core.Authorization) (acme.Identifier, bool) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for {
		authz.RLock()
		id, status := authz.Identifier, authz.Status
		authz.RUnlock()
		if status != acme.StatusPending {
			return id, status == acme.StatusValid
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return id, false
		case <-deadline:
			return id, false
		}
	}
}

// fail marks the authorization, its challenge and its order as failed with p.
func (c *CA) fail(authz *core.Authorization, chal *core.Challenge, p *acme.ProblemDetails) {
	authz.Lock()
	chal.Lock()
	authz.Status, chal.Status, chal.Error = acme.StatusInvalid, acme.StatusInvalid, p
	order := authz.Order
	chal.Unlock()
	authz.Unlock()
	order.Lock()
	order.Error = p
	order.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = append(c.failed, p.Detail)
}

// caa climbs from name to the top-level domain (RFC 8659 section 3). Like
// Boulder it asks all labels at once, and an error below the nearest record
// set is fatal.
func (c *CA) caa(ctx context.Context, name string) error {
	labels := strings.Split(name, ".")
	type result struct {
		set []*dns.CAA
		err error
	}
	results := make([]result, len(labels))
	var wg sync.WaitGroup
	for i := range labels {
		wg.Go(func() {
			results[i].set, results[i].err = c.lookUpCAA(ctx, strings.Join(labels[i:], "."))
		})
	}
	wg.Wait()
	for i, r := range results {
		if r.err != nil {
			return r.err
		}
		if len(r.set) > 0 {
			return caaPolicy(strings.Join(labels[i:], "."), r.set)
		}
	}
	return nil
}

// caaPolicy knows the tag "issue" and the critical flag.
func caaPolicy(name string, set []*dns.CAA) error {
	issue := false
	for _, rr := range set {
		switch {
		case rr.Tag == "issue":
			issue = true
			if domain, _, _ := strings.Cut(rr.Value, ";"); strings.TrimSpace(domain) == "letsencrypt.org" {
				return nil
			}
		case rr.Flag&128 != 0 && rr.Tag != "issuewild" && rr.Tag != "iodef":
			return fmt.Errorf("CAA record for %s %w", name, errCAAForbids)
		}
	}
	if !issue {
		return nil
	}
	return fmt.Errorf("CAA record for %s %w", name, errCAAForbids)
}

func (c *CA) lookUpCAA(ctx context.Context, name string) ([]*dns.CAA, error) {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), dns.TypeCAA)
	q.SetEdns0(1232, false)
	client := &dns.Client{Timeout: c.opt.CAATimeout}
	for range 3 {
		in, _, err := client.ExchangeContext(ctx, q, c.DNS.Addr)
		var ne net.Error
		switch {
		case errors.As(err, &ne) && ne.Timeout():
			continue
		case err != nil:
			return nil, fmt.Errorf("DNS problem: networking error looking up CAA for %s", name)
		case in.Rcode == dns.RcodeNameError && strings.Contains(name, "."):
			return nil, nil
		case in.Rcode == dns.RcodeServerFailure:
			return nil, fmt.Errorf("DNS problem: SERVFAIL looking up CAA for %s - the domain's nameservers may be malfunctioning", name)
		case in.Rcode != dns.RcodeSuccess:
			return nil, fmt.Errorf("DNS problem: %s looking up CAA for %s", dns.RcodeToString[in.Rcode], name)
		}
		var set []*dns.CAA
		for _, rr := range in.Answer {
			if x, ok := rr.(*dns.CAA); ok {
				set = append(set, x)
			}
		}
		return set, nil
	}
	return nil, fmt.Errorf("DNS problem: query timed out looking up CAA for %s", name)
}
