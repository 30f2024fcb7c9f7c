package postern

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

type document struct {
	Names      []string
	IPv4, IPv6 string
	Port       int
}

// ways are the ways to the house, cheap ones first.
func (c *Client) ways(ctx context.Context) iter.Seq[way] {
	return func(yield func(way) bool) {
		tried, asked := map[string]bool{}, map[string]bool{}
		try := func(w way) bool {
			key := fmt.Sprint(w.name, " ", w.host, " ", w.port)
			if tried[key] || ctx.Err() != nil {
				return ctx.Err() == nil
			}
			tried[key] = true
			return yield(w)
		}
		byName := func(ill bool) bool {
			for _, w := range c.names {
				if asked[w.name] || c.isIll(w.name) != ill {
					continue
				}
				asked[w.name] = true
				w.found = true
				for _, w.host = range c.lookup(ctx, w.name) {
					if !try(w) {
						return false
					}
				}
			}
			return true
		}
		c.mu.Lock()
		good, warm := c.good, time.Since(c.goodAt) < idleTime
		c.mu.Unlock()
		if good != nil && warm && !try(*good) { // most likely a kept connection
			return
		}
		if !byName(false) || good != nil && !try(*good) {
			return
		}
		for _, w := range c.published(ctx) {
			if !try(w) {
				return
			}
		}
		if !byName(true) {
			return
		}
		for _, w := range c.relays(ctx) {
			if !try(w) {
				return
			}
		}
	}
}

func (c *Client) ill(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed[name] = time.Now()
}

func (c *Client) isIll(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.failed[name]
	return ok && time.Since(at) < passOver
}

func (c *Client) lookup(ctx context.Context, name string) []string {
	if _, err := netip.ParseAddr(name); err == nil {
		return []string{name}
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.ConnectTimeout)
	defer cancel()
	addrs, err := c.o.Lookup(ctx, name)
	if err != nil || len(addrs) == 0 {
		c.ill(name)
		return nil
	}
	return addrs[:min(len(addrs), 4)]
}

// published are the addresses of the endpoint document, which is fetched when
// it is needed.
func (c *Client) published(ctx context.Context) []way {
	if c.o.Endpoint == (Endpoint{}) {
		return nil
	}
	c.mu.Lock()
	due := time.Since(c.docAt) > fetchAgain
	if due {
		c.docAt = time.Now()
	}
	c.mu.Unlock()
	if due {
		var doc document
		if text, err := c.fetchDocument(ctx); err == nil && json.Unmarshal(text, &doc) == nil {
			c.mu.Lock()
			c.doc = &doc
			c.mu.Unlock()
		} // else the one we have may still be right
	}
	c.mu.Lock()
	doc := c.doc
	c.mu.Unlock()
	if doc == nil {
		return nil
	}
	home := c.names[0]
	if i := slices.IndexFunc(c.names, func(w way) bool { return slices.Contains(doc.Names, w.name) }); i >= 0 {
		home = c.names[i]
	}
	var out []way
	for _, addr := range []string{doc.IPv4, doc.IPv6} {
		if _, err := netip.ParseAddr(addr); err != nil {
			continue
		}
		w := home
		w.host = addr
		if doc.Port > 0 && doc.Port < 65536 {
			w.port = doc.Port
		}
		out = append(out, w)
	}
	return out
}

func (c *Client) relays(ctx context.Context) []way {
	if c.o.Relay == "" {
		return nil
	}
	var at way
	if u, err := url.Parse(c.o.Relay); err == nil && u.Scheme == "https" {
		at = split(u.Host)
		at.base = strings.TrimSuffix(u.Path, "/")
	} else {
		relay := split(c.o.Relay)
		at = c.names[0]
		at.host, at.port = relay.host, relay.port
	}
	at.transient = true
	var out []way
	for _, host := range c.lookup(ctx, at.host) {
		w := at
		w.host = host
		out = append(out, w)
	}
	return out
}
