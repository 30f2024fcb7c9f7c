package dnscheck

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

// nameServer is a server of a zone and its addresses.
type nameServer struct {
	Name  string       `json:"name"`
	Addrs []netip.Addr `json:"addrs"`
}

// delegation is a zone and its servers.
type delegation struct {
	apex    string
	servers []nameServer
}

// zone is one zone to judge. A name that is an alias has two: its own and its
// target's.
type zone struct {
	ask        string // the name asked for here: the name, or what it is an alias of
	own        delegation
	parent     delegation
	remembered bool // the servers are those that last worked: nobody tells any
}

// usable reports whether some server has an address.
func (d delegation) usable() bool {
	return slices.ContainsFunc(d.servers, func(s nameServer) bool { return len(s.Addrs) > 0 })
}

// discover finds the zones of name: its own first, and the one its alias
// points into.
func (c *Checker) discover(ctx context.Context, name string, resolvers []server) []zone {
	var own zone
	var alias answer
	var wg sync.WaitGroup
	wg.Go(func() { own = c.zoneOf(ctx, name, resolvers) })
	wg.Go(func() { alias = c.lookUp(ctx, query{name, "A"}, resolvers) })
	wg.Wait()
	zones := []zone{own}
	if n := len(alias.aliases); n > 0 {
		if target := alias.aliases[n-1]; !within(target, own.own.apex) || own.own.apex == "" {
			zones = append(zones, c.zoneOf(ctx, target, resolvers))
		} else {
			zones = append(zones, zone{ask: target, own: own.own, parent: own.parent, remembered: own.remembered})
		}
	}
	return zones
}

// told is what the resolvers say about the servers of one label.
type told struct {
	known bool // they said something, perhaps that it is no zone
	delegation
}

// zoneOf finds the zone that name is in, and the one above. What the resolvers
// cannot tell, because nobody answers them, comes from the servers of the
// zone above, or from memory.
func (c *Checker) zoneOf(ctx context.Context, name string, resolvers []server) zone {
	labels := ancestors(name)
	labels = labels[max(0, len(labels)-maxLabels):] // an alias's target is a stranger's choice
	found := make([]told, len(labels))
	// Half of the time is kept for asking the zone above.
	half := ctx
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		half, cancel = context.WithDeadline(ctx, deadline.Add(-time.Until(deadline)/2))
		defer cancel()
	}
	var wg sync.WaitGroup
	for i, l := range labels {
		wg.Go(func() { found[i] = c.serversOf(half, l, resolvers) })
	}
	wg.Wait()

	z := zone{ask: name}
	at := len(labels)
	doubt := false // a label below at may be a zone of its own
	for i, t := range found {
		if t.usable() {
			at, z.own = i, t.delegation
			break
		}
		doubt = doubt || !t.known || len(t.servers) > 0
	}
	if doubt {
		if d, ok := c.memory.deepest(labels[:at]); ok {
			z.own, z.remembered = d, true
		} else if d, ok := c.referral(ctx, name, z.own); ok {
			z.own = d
		}
	}
	for i, l := range labels {
		if z.own.apex == "" || !within(z.own.apex, l) || z.own.apex == l {
			continue
		}
		if found[i].usable() {
			z.parent = found[i].delegation
			break
		}
	}
	if !z.parent.usable() && z.own.apex != "" {
		if d, ok := c.memory.deepest(ancestors(z.own.apex)[1:]); ok {
			z.parent = d
		}
	}
	return z
}

// serversOf asks which servers a label has, and for their addresses.
func (c *Checker) serversOf(ctx context.Context, label string, resolvers []server) told {
	ns := c.lookUp(ctx, query{label, "NS"}, resolvers)
	if !ns.status.answered() {
		return told{}
	}
	t := told{known: true, delegation: delegation{apex: label}}
	if len(ns.aliases) > 0 {
		return t // an alias is no zone
	}
	t.servers = c.withAddrs(ctx, ns.ns, nil, resolvers)
	if !t.usable() {
		for i := range t.servers {
			t.servers[i].Addrs = c.memory.addrs(label, t.servers[i].Name)
		}
	}
	return t
}

// withAddrs looks up the addresses of servers that come without.
func (c *Checker) withAddrs(ctx context.Context, names []string, glue map[string][]netip.Addr, resolvers []server) []nameServer {
	servers := make([]nameServer, len(names))
	var wg sync.WaitGroup
	for i, n := range names {
		servers[i].Name = n
		if addrs := glue[n]; len(addrs) > 0 {
			servers[i].Addrs = perFamily(addrs)
			continue
		}
		var v4, v6 answer
		wg.Go(func() {
			var both sync.WaitGroup
			both.Go(func() { v4 = c.lookUp(ctx, query{n, "A"}, resolvers) })
			both.Go(func() { v6 = c.lookUp(ctx, query{n, "AAAA"}, resolvers) })
			both.Wait()
			servers[i].Addrs = perFamily(append(v4.addrs, v6.addrs...))
		})
	}
	wg.Wait()
	slices.SortFunc(servers, func(a, b nameServer) int { return compare(a.Name, b.Name) })
	return servers
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// perFamily keeps the lowest address of each family, so that two checks ask
// the same ones.
func perFamily(addrs []netip.Addr) []netip.Addr {
	addrs = slices.Clone(addrs)
	slices.SortFunc(addrs, netip.Addr.Compare)
	var out []netip.Addr
	for _, want4 := range []bool{true, false} {
		for _, a := range addrs {
			if a.Is4() == want4 && a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() {
				out = append(out, a)
				break
			}
		}
	}
	return out[:min(len(out), maxAddrs)]
}

// lookUp asks all resolvers and returns the first answer that is one, or else
// the best failure. It waits for all, having stopped those that are late.
func (c *Checker) lookUp(ctx context.Context, q query, resolvers []server) answer {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	best := answer{query: q}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, r := range resolvers {
		wg.Go(func() {
			got := c.search.ask(ctx, r, q)
			mu.Lock()
			defer mu.Unlock()
			if best.status.answered() {
				return
			}
			if got.status.answered() || got.rank() > best.rank() {
				best = got
			}
			if got.status.answered() {
				cancel()
			}
		})
	}
	wg.Wait()
	return best
}

// referral asks the servers of the zone above, one of which knows where name
// is delegated to even when nobody there answers.
func (c *Checker) referral(ctx context.Context, name string, above delegation) (delegation, bool) {
	if above.apex == "" || above.apex == name {
		return delegation{}, false
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var best answer
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, s := range serversToAsk(roleZone, above, c.cfg.AuthoritativePort) {
		wg.Go(func() {
			got := c.search.ask(ctx, s, query{name, "NS"})
			mu.Lock()
			defer mu.Unlock()
			if got.referral && !best.referral {
				best = got
				cancel()
			}
		})
	}
	wg.Wait()
	if !best.referral {
		return delegation{}, false
	}
	d := delegation{apex: best.soa}
	for _, n := range best.ns {
		d.servers = append(d.servers, nameServer{Name: n, Addrs: perFamily(best.glue[n])})
	}
	slices.SortFunc(d.servers, func(a, b nameServer) int { return compare(a.Name, b.Name) })
	return d, d.usable()
}

// serversToAsk lists the addresses of a zone's servers.
func serversToAsk(r role, d delegation, port int) []server {
	var out []server
	for _, s := range d.servers[:min(len(d.servers), maxServers)] {
		for _, a := range s.Addrs {
			out = append(out, server{role: r, zone: d.apex, name: s.Name, addr: net.JoinHostPort(a.String(), strconv.Itoa(port))})
		}
	}
	return out
}

// plan lists what there is to ask, the name's zone first.
func (f *facts) plan(resolvers []server, port int) []task {
	var tasks []task
	add := func(s server, qs ...query) {
		for _, q := range qs {
			if t := (task{s, q}); !slices.Contains(tasks, t) {
				tasks = append(tasks, t)
			}
		}
	}
	for i, z := range f.zones {
		var qs []query
		qs = append(qs, query{z.ask, "A"}, query{z.ask, "AAAA"}, query{z.own.apex, "SOA"})
		for _, l := range f.climb(i) {
			qs = append(qs, query{l, "CAA"})
		}
		if !f.q.byAddress() && i == 0 {
			qs = append(qs, query{acmeName(z.ask), "TXT"})
		}
		for _, s := range serversToAsk(roleZone, z.own, port) {
			add(s, qs...)
		}
		for _, s := range serversToAsk(roleParent, z.parent, port) {
			add(s, query{z.own.apex, "NS"})
		}
	}
	for _, r := range resolvers {
		add(r, query{f.q.Name, "A"}, query{f.q.Name, "AAAA"})
		for _, l := range ancestors(f.q.Name) {
			add(r, query{l, "CAA"})
		}
		if !f.q.byAddress() {
			add(r, query{acmeName(f.q.Name), "TXT"})
		}
	}
	return tasks
}

// climb are the labels whose CAA the servers of zone i are asked for: from the
// name up to the zone; of an alias's target only itself, because climbing goes
// on from the alias (RFC 8659 section 3).
func (f *facts) climb(i int) []string {
	z := f.zones[i]
	if i > 0 {
		return []string{z.ask}
	}
	var out []string
	for _, l := range ancestors(z.ask) {
		if z.own.apex != "" && within(l, z.own.apex) {
			out = append(out, l)
		}
	}
	return out
}

// acmeName is where dns-01 looks (RFC 8555 section 8.4).
func acmeName(name string) string { return "_acme-challenge." + name }
