package app

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"postern/internal/config"
	"postern/internal/ddns"
	"postern/internal/dnsapi"
	"postern/internal/doctor"
	"postern/internal/gateway"
)

// asked is a question that is asked once, by whoever needs the answer first.
type asked[T any] struct {
	once sync.Once
	ask  func(context.Context) (T, error)
	val  T
	err  error
}

func (a *asked[T]) get(ctx context.Context) (T, error) {
	a.once.Do(func() { a.val, a.err = a.ask(ctx) })
	return a.val, a.err
}

// Times of single looks.
const (
	routerTime = 8 * time.Second
	sourceTime = 5 * time.Second
)

// router asks the router, with less patience than the running process has.
func (p *patient) router(ctx context.Context) (gateway.Answer, error) {
	at := p.gateRouter
	if p.app != nil {
		at = p.app.opt.Router
	}
	c, err := gateway.New(gateway.Config{Router: at, Timeout: time.Second})
	if err != nil {
		return gateway.Answer{}, err
	}
	return c.PublicAddr(ctx)
}

// wantsAddress reports whether the public address matters to anybody. A house
// whose names are nobody's business outside has none to look for.
func (p *patient) wantsAddress() bool {
	return p.cfg.WantsPublicAddress() || p.cfg.PortMapping == config.PortMappingAuto
}

// addressChecks are the router, the sources of the public address, whether
// they agree, and the mappings.
func (p *patient) addressChecks() []doctor.Check {
	if !p.wantsAddress() {
		return nil
	}
	router := &asked[gateway.Answer]{ask: p.router}
	p.atRouter = router
	sources := p.addressSources()
	// A router that has no public address may tell none at all, as if its line
	// were down; but then nobody outside sees us.
	seen := &asked[netip.Addr]{ask: func(ctx context.Context) (netip.Addr, error) {
		if _, err := router.get(ctx); !errors.Is(err, gateway.ErrNoWAN) {
			return netip.Addr{}, nil
		}
		return seenOutside(ctx, sources), nil
	}}
	out := []doctor.Check{
		{ID: "router", Component: "router", Needs: []string{"route"}, Timeout: routerTime + sourceTime, Run: func(ctx context.Context) doctor.Result {
			ans, err := router.get(ctx)
			if seenAs, _ := seen.get(ctx); seenAs.IsValid() {
				return doctor.OK("tells no address of its own")
			}
			return p.routerResult(ans, err)
		}},
		{ID: "carrier NAT", Component: "carrier NAT", Needs: []string{"router"}, Timeout: routerTime + sourceTime, Run: func(ctx context.Context) doctor.Result {
			if seenAs, _ := seen.get(ctx); seenAs.IsValid() {
				return hiddenResult(seenAs)
			}
			return carrierResult(router.get(ctx))
		}},
		{ID: "double NAT", Component: "double NAT", Needs: []string{"router"}, Timeout: routerTime, Run: func(ctx context.Context) doctor.Result { return doubleResult(router.get(ctx)) }},
	}
	out = append(out, p.mappingChecks()...)
	return append(out, p.sourceChecks(sources)...)
}

func (p *patient) routerResult(ans gateway.Answer, err error) doctor.Result {
	wanted := p.cfg.PortMapping == config.PortMappingAuto
	switch {
	case errors.Is(err, gateway.ErrNoGateway):
		return doctor.None("%v", err)
	case errors.Is(err, gateway.ErrNoWAN):
		return doctor.Bad("look at the router's status page, restart it, or ask the internet provider", "%v", err)
	case errors.Is(err, gateway.ErrSilent) && !wanted:
		return doctor.None("speaks none of PCP, NAT-PMP and UPnP; forward ports 80 and 443 to this machine by hand")
	case errors.Is(err, gateway.ErrSilent):
		return doctor.Bad("turn on UPnP or NAT-PMP in the router's settings, or forward ports 80 and 443 by hand and set port_mapping: off", "%v", err)
	case err != nil:
		return doctor.Odd("restart the router if this lasts", "%v", err)
	}
	name := ""
	if ans.Router != "" {
		name = " (" + ans.Router + ")"
	}
	return doctor.OK("%s%s tells %s by %s", ans.Gateway, name, ans.Addr, ans.Protocol)
}

func carrierResult(ans gateway.Answer, err error) doctor.Result {
	switch {
	case err != nil:
		return doctor.None("not known: the router does not tell")
	case ans.Kind == gateway.CarrierNAT:
		return doctor.Bad("ask the internet provider for a public IPv4 address, or let callers come by IPv6 or through a tunnel", "the router itself has only %s, inside the provider's network: nobody outside can reach it by IPv4", ans.Addr)
	}
	return doctor.OK("none: the router has %s", ans.Addr)
}

// hiddenResult is about a router that tells no address although its line
// works: miniupnpd, for one, keeps an address to itself that nobody outside can
// reach. Which kind it is, its own page shows.
func hiddenResult(seenAs netip.Addr) doctor.Result {
	return doctor.Bad("look for the WAN address on the router's own page; if it is 100.64 to 100.127, ask the internet provider for a public IPv4 address, or let callers come by IPv6 or through a tunnel; if it is 10, 172 or 192.168, set the box in front of the router to bridge mode",
		"the router tells no public address of its own, and yet we are seen outside as %s: the provider's NAT is in front of it, or another router", seenAs)
}

func doubleResult(ans gateway.Answer, err error) doctor.Result {
	switch {
	case err != nil:
		return doctor.None("not known: the router does not tell")
	case ans.Kind == gateway.DoubleNAT:
		return doctor.Bad("set the router in front of it (mostly the provider's box) to bridge mode, or forward ports 80 and 443 there too", "the router has the private address %s: there is another one in front of it", ans.Addr)
	}
	return doctor.OK("none")
}

// mappingChecks tell how the ports at the router are doing.
func (p *patient) mappingChecks() []doctor.Check {
	if p.cfg.PortMapping != config.PortMappingAuto {
		return nil
	}
	if p.app == nil {
		return []doctor.Check{{Component: "port mapping", Needs: []string{"router", "carrier NAT"}, Run: func(context.Context) doctor.Result {
			return doctor.None("postern makes the mappings while it runs")
		}}}
	}
	var out []doctor.Check
	for _, m := range p.app.gateway.Status().Mappings {
		target := m.Port.String()
		if m.IsPinhole() {
			target += " " + m.Addr.String()
		}
		out = append(out, doctor.Check{ID: "port mapping " + target, Component: "port mapping", Target: target, Needs: []string{"router", "carrier NAT"}, Run: func(context.Context) doctor.Result {
			n := mappingNode(m)
			switch {
			case m.State == gateway.Mapped:
				return doctor.OK("%s", n.Detail)
			case m.State == gateway.Wanted:
				return doctor.Odd("wait a minute and look again", "%s", n.Detail)
			}
			return doctor.Bad(m.Action(), "%s", m.Reason)
		}})
	}
	return out
}

// said is what a source answered.
type said struct {
	source ddns.Source
	*asked[netip.Addr]
}

// addressSources are the sources that the file names, each to be asked once.
func (p *patient) addressSources() []said {
	fromRouter := func(ctx context.Context) (netip.Addr, error) {
		ans, err := p.atRouter.get(ctx)
		return ans.Addr, err
	}
	var all []said
	for _, s := range addressSources(&p.cfg.PublicAddress, fromRouter, func(error) {}) {
		all = append(all, said{s, &asked[netip.Addr]{ask: s.Addr}})
	}
	return all
}

// seenOutside is a public address that somebody outside sees us at; the zero
// Addr if nobody tells one.
func seenOutside(ctx context.Context, all []said) netip.Addr {
	ctx, cancel := context.WithTimeout(ctx, sourceTime)
	defer cancel()
	var wg sync.WaitGroup
	for _, q := range all {
		if q.source.Kind != ddns.Router {
			wg.Go(func() { _, _ = q.get(ctx) })
		}
	}
	wg.Wait()
	for _, q := range all {
		if addr, err := q.get(ctx); err == nil && q.source.Kind != ddns.Router && ddns.Public(addr) {
			return addr
		}
	}
	return netip.Addr{}
}

// sourceChecks ask each source, and compare what they say.
func (p *patient) sourceChecks(all []said) []doctor.Check {
	var out []doctor.Check
	for _, q := range all {
		if q.source.Kind == ddns.Router {
			continue // told above
		}
		out = append(out, doctor.Check{Component: "public address", Target: q.source.Name, Needs: []string{"internet"}, Timeout: sourceTime, Run: func(ctx context.Context) doctor.Result {
			addr, err := q.get(ctx)
			if err != nil {
				return doctor.Odd("nothing to do, unless all sources fail: others are asked as well", "%v", err)
			}
			return doctor.OK("%s", addr)
		}})
	}
	if len(all) == 0 {
		return nil
	}
	return append(out, doctor.Check{ID: "address", Component: "public address", Needs: []string{"internet", "carrier NAT", "double NAT"}, Timeout: routerTime, Run: func(ctx context.Context) doctor.Result {
		return p.agreement(ctx, all)
	}})
}

// agreement compares what the sources say with each other, and with what the
// running process believes.
func (p *patient) agreement(ctx context.Context, all []said) doctor.Result {
	by := make(map[netip.Addr][]string)
	kinds := make(map[netip.Addr]map[ddns.Kind]bool)
	for _, q := range all {
		addr, err := q.get(ctx)
		if err != nil || !ddns.Public(addr) {
			continue
		}
		by[addr] = append(by[addr], q.source.Name)
		if kinds[addr] == nil {
			kinds[addr] = make(map[ddns.Kind]bool)
		}
		kinds[addr][q.source.Kind] = true
	}
	if len(by) == 0 {
		return doctor.Bad("look at the sources above; the address known before stays in the records meanwhile", "no source tells it")
	}
	addrs := make([]netip.Addr, 0, len(by))
	for a := range by {
		addrs = append(addrs, a)
	}
	slices.SortFunc(addrs, func(a, b netip.Addr) int {
		if n := len(kinds[b]) - len(kinds[a]); n != 0 {
			return n
		}
		if n := len(by[b]) - len(by[a]); n != 0 {
			return n
		}
		return a.Compare(b)
	})
	best := addrs[0]
	if len(addrs) > 1 {
		return disagreement(addrs, by, len(kinds[best]) > 1 && len(kinds[addrs[1]]) < len(kinds[best]))
	}
	if p.app != nil {
		if now := p.app.address.Addresses().V4; now.IsValid() && now != best {
			return doctor.Odd("wait a minute: a new address is believed once two kinds of sources agree", "%s, but still taken for %s", best, now)
		}
	}
	return doctor.OK("%s, say %s", best, strings.Join(by[best], ", "))
}

// disagreement tells who says what. clear: one answer has more kinds of
// sources behind it than any other.
func disagreement(addrs []netip.Addr, by map[netip.Addr][]string, clear bool) doctor.Result {
	var parts []string
	for _, a := range addrs {
		parts = append(parts, fmt.Sprintf("%s say %s", strings.Join(by[a], ", "), a))
	}
	text := strings.Join(parts, "; ")
	if clear {
		return doctor.Odd("look whether a proxy or VPN lies between this machine and the odd one out; it is not believed", "%s", text)
	}
	return doctor.Bad("look whether this machine's traffic leaves through a VPN or a second line; leave out the wrong source in public_address.sources", "the sources disagree: %s", text)
}

// recordChecks look at each DDNS host: whether its API answers, and whether it
// takes our credentials. Its name servers are looked at with the names.
func (p *patient) recordChecks() []doctor.Check {
	var out []doctor.Check
	for i := range p.cfg.DDNS {
		d := &p.cfg.DDNS[i]
		target := d.Provider
		if len(d.Hosts) > 0 {
			target += " " + d.Hosts[0]
		}
		id := fmt.Sprint("ddns api ", i)
		probe := &asked[struct{}]{ask: func(ctx context.Context) (struct{}, error) {
			client, err := dnsapi.NewAddrs(d.Provider, ddnsSettings(d))
			if err != nil {
				return struct{}{}, err
			}
			return struct{}{}, client.Probe(ctx, d.Hosts[0])
		}}
		out = append(out,
			doctor.Check{ID: id, Component: "DDNS API", Target: target, Needs: []string{"internet"}, Timeout: routerTime, Run: func(ctx context.Context) doctor.Result {
				_, err := probe.get(ctx)
				return apiResult(err)
			}},
			doctor.Check{ID: accessID(i), Component: "DDNS access", Target: target, Needs: []string{id}, Timeout: routerTime, Run: func(ctx context.Context) doctor.Result {
				_, err := probe.get(ctx)
				if errors.Is(err, dnsapi.ErrRejected) {
					return doctor.Bad(fmt.Sprintf("correct ddns[%d]: the token, the credentials or the names", i), "%v", err)
				}
				return p.accessKnown(i)
			}})
	}
	return out
}

func apiResult(err error) doctor.Result {
	switch {
	case err == nil, errors.Is(err, dnsapi.ErrRejected):
		return doctor.OK("answers")
	case errors.Is(err, dnsapi.ErrLimited):
		return doctor.Odd("nothing to do: it is asked again later", "%v", err)
	}
	return doctor.Bad("nothing to do: the record stays as it is, and postern goes on by itself when the host is back; a second ddns entry at another host would go on meanwhile", "%v", err)
}

// accessKnown is what the running process learnt from writing: some hosts take
// any credentials until then.
func (p *patient) accessKnown(i int) doctor.Result {
	if p.app != nil {
		for _, n := range p.app.address.Outages() {
			if n.Ended.IsZero() && n.Part == "access" && n.Provider == ddnsID(p.cfg.DDNS, i) {
				return doctor.Bad(fmt.Sprintf("correct ddns[%d]: the token, the credentials or the names", i), "%s", n.Sentence)
			}
		}
	}
	return doctor.OK("accepted, as far as can be told without writing")
}

// ddnsID is how package ddns calls the i-th entry.
func ddnsID(list []config.DDNS, i int) string {
	n := 0
	for _, d := range list[:i+1] {
		if d.Provider == list[i].Provider {
			n++
		}
	}
	if n == 1 {
		return list[i].Provider
	}
	return fmt.Sprintf("%s-%d", list[i].Provider, n)
}

// accessID is the check that the record of a host of the i-th entry stands on.
func accessID(i int) string { return fmt.Sprint("ddns access ", i) }
