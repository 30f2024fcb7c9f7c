package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"postern/internal/config"
	"postern/internal/dnscheck"
	"postern/internal/doctor"
	"postern/internal/upstream"
)

// maxNames bounds how many names one examination asks the DNS about: more of
// them hardly tell more, and their servers are not ours.
const maxNames = 12

// publicNames are the names that others look up: those of sites, and those of
// records that we keep.
func publicNames(cfg *config.Config) []string {
	var names []string
	for i := range cfg.Sites {
		for _, h := range cfg.Sites[i].Hosts {
			if _, err := netip.ParseAddr(h); err != nil && !slices.Contains(names, h) {
				names = append(names, h)
			}
		}
	}
	for _, h := range ddnsHosts(cfg) {
		if !slices.Contains(names, h) {
			names = append(names, h)
		}
	}
	return names
}

// ddnsHosts are the names whose records we keep.
func ddnsHosts(cfg *config.Config) []string {
	var names []string
	for i := range cfg.DDNS {
		names = append(names, cfg.DDNS[i].Hosts...)
	}
	return names
}

// nameChecks ask each name's DNS once and tell the result link by link: name
// servers, address, CAA, and TXT where dns-01 needs it.
func (p *patient) nameChecks() []doctor.Check {
	names := publicNames(p.cfg)
	if p.cfg.TLS.Issuer == "local" {
		names = ddnsHosts(p.cfg) // nobody outside certifies the others
	}
	var out []doctor.Check
	for _, name := range names[:min(len(names), maxNames)] {
		out = append(out, p.checksOf(name)...)
	}
	if more := len(names) - maxNames; more > 0 {
		out = append(out, doctor.Check{Component: "names", Run: func(context.Context) doctor.Result {
			return doctor.None("%s more; `proxy certs check NAME` looks at one", count(more, "name"))
		}})
	}
	return out
}

// nameLook is one look at a name's DNS, made by whoever needs it first.
type nameLook struct {
	q    dnscheck.Question
	look func(context.Context, dnscheck.Question) dnscheck.Verdict
	once sync.Once
	v    dnscheck.Verdict
}

func (l *nameLook) verdict(ctx context.Context) dnscheck.Verdict {
	l.once.Do(func() { l.v = l.look(ctx, l.q) })
	return l.v
}

// lookAt is the look at a name that this examination makes.
func (p *patient) lookAt(name, challenge string) *nameLook {
	for _, l := range p.looks {
		if l.q.Name == name && l.q.Challenge == challenge {
			return l
		}
	}
	q := dnscheck.Question{Name: name, Challenge: challenge}
	for _, ca := range p.cfg.TLS.ACME {
		if !strings.Contains(ca.Directory, "api.letsencrypt.org") {
			q.CAs = nil // by what name CAA knows this one takes a look at its directory
			break
		}
		q.CAs = append(q.CAs, "letsencrypt.org")
	}
	l := &nameLook{q: q, look: p.look}
	p.looks = append(p.looks, l)
	return l
}

// lookTime is a whole look at a name's DNS, with some room.
const lookTime = 6 * time.Second

// checksOf are the links of one name: its servers, its address, CAA, and TXT
// where dns-01 needs it. A wildcard has no address of its own; the record of a
// name that we keep stands on our being able to.
func (p *patient) checksOf(name string) (list []doctor.Check) {
	id := func(link nameLink) string { return "name " + string(link) + " " + name }
	check := func(l *nameLook, link nameLink, types []string, needs ...string) doctor.Check {
		return doctor.Check{ID: id(link), Component: string(link), Target: name, Needs: needs, Timeout: lookTime, Run: func(ctx context.Context) doctor.Result {
			return linkResult(link, l.verdict(ctx), types)
		}}
	}
	wild := strings.HasPrefix(name, "*.")
	look := p.lookAt(name, map[bool]string{true: "dns-01"}[wild])
	list = append(list, check(look, linkServers, []string{"SOA", "NS"}, "internet"))
	if !wild {
		needs := []string{id(linkServers)}
		for i := range p.cfg.DDNS {
			if slices.Contains(p.cfg.DDNS[i].Hosts, name) {
				needs = append(needs, accessID(i))
			}
		}
		list = append(list, check(look, linkAddress, []string{"A", "AAAA"}, needs...))
	}
	if wild || p.usesDNS01() {
		txt := look
		if !wild {
			txt = p.lookAt(name, "dns-01")
		}
		list = append(list, check(txt, linkTXT, []string{"TXT"}, id(linkServers)))
	}
	return append(list, check(look, linkCAA, []string{"CAA"}, id(linkServers)))
}

// usesDNS01 reports whether certificates are proven by TXT records.
func (p *patient) usesDNS01() bool {
	if p.cfg.TLS.DNSProvider == nil {
		return false
	}
	if p.cfg.TLS.Challenge == "dns-01" {
		return true
	}
	for _, ca := range p.cfg.TLS.ACME {
		if len(ca.Challenges) == 1 && ca.Challenges[0] == "dns-01" {
			return true
		}
	}
	return false
}

// internetChecks are whether anything outside answers at all.
func (p *patient) internetChecks() []doctor.Check {
	names := publicNames(p.cfg)
	if p.cfg.TLS.Issuer == "local" && len(p.cfg.DDNS) == 0 || len(names) == 0 {
		return nil
	}
	l := p.lookAt(names[0], map[bool]string{true: "dns-01"}[strings.HasPrefix(names[0], "*.")])
	return []doctor.Check{{ID: "internet", Component: "internet", Needs: []string{"route"}, Timeout: lookTime, Run: func(ctx context.Context) doctor.Result {
		v := l.verdict(ctx)
		if v.Cause == dnscheck.Offline {
			return doctor.Bad(dnsAction(v.Cause), "%s", v.Sentence)
		}
		return doctor.OK("name servers answer")
	}}}
}

// nameLink is a part of a name's DNS, as the report calls it.
type nameLink string

const (
	linkServers nameLink = "name servers"
	linkAddress nameLink = "address record"
	linkCAA     nameLink = "CAA"
	linkTXT     nameLink = "TXT"
)

// linkOf is the link that a cause belongs to.
func linkOf(c dnscheck.Cause) nameLink {
	switch c {
	case dnscheck.ATimeout, dnscheck.AError, dnscheck.AMissing, dnscheck.AWrong,
		dnscheck.AAAATimeout, dnscheck.AAAAError, dnscheck.AAAAStale, dnscheck.NXDomain, dnscheck.NSDisagree:
		return linkAddress
	case dnscheck.CAATimeout, dnscheck.CAAServFail, dnscheck.CAAError, dnscheck.CAAForbids:
		return linkCAA
	case dnscheck.TXTTimeout, dnscheck.TXTError:
		return linkTXT
	}
	return linkServers
}

// linkResult is what a verdict says about one link.
func linkResult(link nameLink, v dnscheck.Verdict, types []string) doctor.Result {
	at := linkOf(v.Cause)
	if at == link {
		switch v.Colour {
		case dnscheck.Red:
			return doctor.Bad(dnsAction(v.Cause), "%s", v.Sentence)
		case dnscheck.Amber:
			return doctor.Odd(dnsAction(v.Cause), "%s", v.Sentence)
		}
	}
	good, all, answer := 0, 0, ""
	for _, f := range v.Findings {
		if !slices.Contains(types, f.Type) {
			continue
		}
		if all++; !f.Bad {
			good++
			answer = cmp.Or(answer, f.Result)
		}
	}
	if good == 0 {
		return doctor.None("not answered; the cause is told at %s", at)
	}
	return doctor.OK("%d of %d questions answered; %s", good, all, answer)
}

// dnsAction is what a person can do about a cause.
func dnsAction(c dnscheck.Cause) string {
	switch c {
	case dnscheck.Offline:
		return "restart the router, or ask the internet provider: nothing answers from here"
	case dnscheck.Port53Blocked, dnscheck.Port53Intercepted:
		return "allow outgoing DNS (port 53) in the router or firewall, or set dns.resolvers to one that is allowed"
	case dnscheck.NXDomain:
		return "make the name at the DNS host; for a DDNS name look whether the host deleted it"
	case dnscheck.NotDelegated:
		return "renew the domain, or set its name servers at the registrar"
	case dnscheck.AMissing, dnscheck.AWrong, dnscheck.AAAAStale:
		return "let postern keep the record (ddns:), or set it at the DNS host by hand"
	case dnscheck.CAAForbids:
		return "add a CAA record for this authority at the DNS host, or remove the one that forbids it"
	case dnscheck.ResolverFails:
		return "look at the zone's DNSSEC (https://dnsviz.net shows it); the servers themselves answer"
	case dnscheck.ResolverBlocked:
		return "correct dns.resolvers, or allow them in the firewall"
	case dnscheck.NotAName:
		return "correct the host name in the file"
	}
	return "nothing to do: it is the DNS host's to mend, and postern goes on by itself when it has; a second name at another DNS host would go on meanwhile"
}

// authorityChecks look whether each certificate authority can be reached.
func (p *patient) authorityChecks() []doctor.Check {
	if p.cfg.TLS.Issuer == "local" {
		return nil
	}
	if p.app != nil {
		var out []doctor.Check
		for _, s := range p.app.certs.Authorities() {
			out = append(out, doctor.Check{ID: "authority " + s.Name, Component: "authority", Target: s.Name, Needs: []string{"internet"}, Run: func(context.Context) doctor.Result {
				if s.State == "ok" {
					return doctor.OK("answers")
				}
				r := doctor.Odd("nothing to do: what is held is served, and the next try comes by itself; a second authority under tls.acme would help now", "%s: %s", s.State, s.LastError)
				if !s.NextTry.IsZero() {
					r.Detail += "; asked again " + clock(s.NextTry)
				}
				return r
			}})
		}
		return out
	}
	var out []doctor.Check
	for _, ca := range p.cfg.TLS.ACME {
		out = append(out, doctor.Check{ID: "authority " + ca.Directory, Component: "authority", Target: ca.Directory, Needs: []string{"internet"}, Timeout: 6 * time.Second, Run: func(ctx context.Context) doctor.Result {
			if err := directoryAnswers(ctx, ca.Directory, ca.Root); err != nil {
				return doctor.Bad("look at the authority's status page; certificates that are held are served meanwhile", "%v", err)
			}
			return doctor.OK("answers")
		}})
	}
	return out
}

// certificateChecks tell the state of every certificate. What holds one up in
// the DNS is told there.
func (p *patient) certificateChecks() []doctor.Check {
	list, err := p.certs()
	needs := []string{"data"}
	for _, a := range p.authorityChecks() {
		needs = append(needs, a.ID)
	}
	if err != nil {
		return []doctor.Check{{Component: "certificates", Needs: needs, Run: func(context.Context) doctor.Result {
			return doctor.Bad("correct what the message names", "%v", err)
		}}}
	}
	var out []doctor.Check
	for i := range list {
		c := &list[i]
		on := needs[:1]
		if c.State == "missing" || c.State == "expired" { // any other is served whatever is broken
			on = slices.Concat(needs, certNeeds(c.Name))
		}
		out = append(out, doctor.Check{Component: "certificate", Target: c.Name, Needs: on, Run: func(context.Context) doctor.Result {
			return certResult(c, p.app != nil)
		}})
	}
	return out
}

// certNeeds are the checks of a name's DNS that a new certificate stands on.
func certNeeds(name string) []string {
	var ids []string
	for _, link := range []nameLink{linkServers, linkAddress, linkCAA, linkTXT} {
		ids = append(ids, "name "+string(link)+" "+name)
	}
	return ids
}

func (p *patient) certs() ([]Cert, error) {
	if p.app != nil {
		return newCerts(p.app.certs.Status()), nil
	}
	return StoredCerts(p.cfg)
}

func certResult(c *Cert, running bool) doctor.Result {
	next := ""
	if !c.NextTry.IsZero() {
		next = "; next try " + clock(c.NextTry)
	}
	until := fmt.Sprintf("until %s, from %s%s", clock(c.NotAfter), cmp.Or(c.Issuer, c.Source), next)
	why := cmp.Or(c.Sentence, c.Meaning, c.LastError)
	switch {
	case c.State == "ok":
		return doctor.OK("%s", until)
	case c.State == "expiring":
		return doctor.Odd(cmp.Or(certAction(c), "look with `proxy certs check "+c.Name+"`"), "%s; %s", until, cmp.Or(why, "a new one is due"))
	case !running && c.State == "missing":
		return doctor.None("none yet; postern gets one when it runs")
	case why == "" && c.State == "missing":
		return doctor.Odd("wait a minute and look again", "none yet; the first attempt is under way%s", next)
	case c.State == "missing":
		return doctor.Bad(certAction(c), "none: %s%s", why, next)
	}
	return doctor.Bad(certAction(c), "%s: %s", c.State, cmp.Or(why, until))
}

func certAction(c *Cert) string {
	switch c.Waiting {
	case "clock":
		return "set the clock: start a time service (`timedatectl set-ntp true`)"
	case "storage":
		return "give the data folder to the user postern runs as"
	case "budget", "rate_limit", "backoff":
		return "mend the cause in `proxy certs list`; the next try comes by itself, and more of them would only use up the authority's limits"
	case "no_way":
		return "open port 80 or 443, or set tls.dns_provider: no challenge can be answered"
	}
	return "look with `proxy certs check " + c.Name + "`"
}

// backendChecks tell about every route's backends.
func (p *patient) backendChecks() []doctor.Check {
	if p.app != nil {
		p.app.mu.Lock()
		b := p.app.built
		p.app.mu.Unlock()
		var out []doctor.Check
		for i := range b.snapshot.Sites {
			for _, rt := range b.snapshot.Sites[i].Routes {
				if rt.Upstream == nil {
					continue
				}
				for _, t := range rt.Upstream.Status() {
					out = append(out, doctor.Check{Component: "backend", Target: t.Target, Run: func(ctx context.Context) doctor.Result {
						r := backendResult(ctx, t.Target, t.LastError)
						if !t.Up && r.Status == doctor.Pass {
							return doctor.Odd("look at the application's own log; `proxy health` tells since when", "accepts connections, but is left out: %s", t.LastError)
						}
						return r
					}})
				}
			}
		}
		return unique(out)
	}
	var out []doctor.Check
	for i := range p.cfg.Sites {
		for _, r := range p.cfg.Sites[i].AllRoutes() {
			addrs, _ := r.Upstream.Targets()
			for _, text := range addrs {
				out = append(out, doctor.Check{Component: "backend", Target: text, Run: func(ctx context.Context) doctor.Result {
					return backendResult(ctx, text, "")
				}})
			}
		}
	}
	return unique(out)
}

// unique keeps the first check of each target.
func unique(list []doctor.Check) []doctor.Check {
	seen := make(map[string]bool)
	return slices.DeleteFunc(list, func(c doctor.Check) bool {
		twice := seen[c.Target]
		seen[c.Target] = true
		return twice
	})
}

// backendResult connects to a backend now.
func backendResult(ctx context.Context, target, before string) doctor.Result {
	t, err := upstream.ParseTarget(target)
	if err != nil {
		return doctor.Bad("correct the target in the file", "%v", err)
	}
	network, addr := t.Dial()
	nc, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err == nil {
		_ = nc.Close()
		if before != "" {
			return doctor.OK("accepts connections; an earlier failure was: %s", before)
		}
		return doctor.OK("accepts connections")
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return doctor.Bad("correct the name in the file, or make it resolve (for a container: is it on the same network?)", "%v", err)
	}
	return doctor.Bad("start the application, or correct its address in the file", "%v", err)
}
