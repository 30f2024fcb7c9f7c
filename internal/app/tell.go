package app

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"postern/internal/ddns"
	"postern/internal/guard"
	"postern/internal/notify"
	"postern/internal/upstream"
)

const (
	// lookEvery is the time between looks at the backends and at the guard's
	// sums.
	lookEvery = 5 * time.Second
	sumEvery  = time.Minute

	// downFor is how long a backend is down before people are told: a restart
	// is over by then.
	downFor = 30 * time.Second
)

// guardTold tells people what the guard sees. It is called on a request's
// path.
func (a *App) guardTold(e guard.Event) {
	m := notify.Message{At: e.At}
	switch e.Kind {
	case guard.EventServed:
		m.Kind, m.Args = notify.ScannerServed, map[string]string{"address": e.Addr.String(), "host": e.Host, "path": e.Path}
	case guard.EventFlood:
		limit := strings.ReplaceAll(e.Rule, "_", " ")
		m.Kind, m.Args = notify.ClientLimited, map[string]string{"limit": limit}
		if e.Rule == guard.LimitConnections.String() || e.Rule == guard.LimitAccepts.String() || e.Rule == guard.LimitTotalRate.String() {
			m.Kind, m.Args["address"] = notify.LimitHit, e.Addr.String()
		}
	case guard.EventFull:
		m.Kind, m.Args = notify.BansFull, map[string]string{"address": e.Ban.Prefix.String()}
	case guard.EventBansOff:
		m.Kind, m.Args = notify.BansOff, map[string]string{"address": e.Addr.String()}
	case guard.EventBansOn:
		m.Kind = notify.BansOn
	case guard.EventMode:
		m.Kind, m.Args = notify.GuardOff, map[string]string{"mode": e.Mode.String()}
		if e.Mode == guard.Enforce {
			m.Kind = notify.GuardOn
		}
	default: // bans are told as sums
		return
	}
	a.tell(m)
}

// sums are the guard's counts for people: what a scanner was after where that
// is known, else what gave it away.
func sums(t guard.Tally) notify.Counts {
	c := notify.Counts{Bans: int(t.Bans)}
	for _, s := range t.Signals {
		c.Refused += int(s.Count)
		if s.What != guard.Scanner {
			c.Families = append(c.Families, notify.Count{Name: s.What.String(), N: int(s.Count)})
		}
	}
	for _, f := range t.Families {
		c.Families = append(c.Families, notify.Count{Name: string(f.What), N: int(f.Count)})
	}
	for _, n := range t.Networks {
		c.Networks = append(c.Networks, notify.Count{Name: n.What.String(), N: int(n.Count)})
	}
	return c
}

// lookOut tells people what has to be looked for: the guard's sums, and
// backends that go down or come up.
func (a *App) lookOut(ctx context.Context) error {
	look, sum := time.NewTicker(lookEvery), time.NewTicker(sumEvery)
	defer look.Stop()
	defer sum.Stop()
	down := make(outages)
	for {
		select {
		case <-ctx.Done():
			a.outbox.Count(sums(a.guard.TakeTally(time.Now())))
			return nil
		case now := <-sum.C:
			a.outbox.Count(sums(a.guard.TakeTally(now)))
		case now := <-look.C:
			for _, m := range down.look(a.backends(), now) {
				a.tell(m)
			}
		}
	}
}

// backendKey is a backend of a site, however many routes lead to it.
type backendKey struct{ backend, site string }

// backends reports on every backend that is in use.
func (a *App) backends() map[backendKey]upstream.TargetStatus {
	a.mu.Lock()
	b := a.built
	a.mu.Unlock()
	out := make(map[backendKey]upstream.TargetStatus)
	for i := range b.snapshot.Sites {
		s := &b.snapshot.Sites[i]
		for j := range s.Routes {
			if s.Routes[j].Upstream == nil {
				continue
			}
			for _, t := range s.Routes[j].Upstream.Status() {
				k := backendKey{t.Target, s.Name}
				if other, there := out[k]; !there || other.Up && !t.Up {
					out[k] = t
				}
			}
		}
	}
	return out
}

// outages are the backends that people were told to be down, since when.
type outages map[backendKey]time.Time

// look compares what was told with what is, and returns what is to be told.
func (o outages) look(is map[backendKey]upstream.TargetStatus, now time.Time) []notify.Message {
	var out []notify.Message
	for k, t := range is {
		since, told := o[k]
		args := map[string]string{"backend": k.backend, "site": k.site}
		switch {
		case t.Up && told:
			delete(o, k)
			args["lasted"] = lasted(now.Sub(since))
			out = append(out, notify.Message{Kind: notify.BackendUp, Args: args})
		case !t.Up && !told && now.Sub(t.Since) >= downFor:
			o[k] = t.Since
			args["sentence"] = t.LastError
			out = append(out, notify.Message{Kind: notify.BackendDown, Args: args})
		}
	}
	for k := range o {
		if _, there := is[k]; !there { // it is not in the configuration any more
			delete(o, k)
		}
	}
	return out
}

// addressTold tells people about a change of the public address; the first one
// ever is none.
func (a *App) addressTold(old, now ddns.Addresses) {
	for _, x := range []struct{ name, old, now string }{
		{"IPv4", addrText(old.V4), addrText(now.V4)},
		{"IPv6", addrText(old.V6), addrText(now.V6)},
	} {
		if x.old != "" && x.now != "" && x.old != x.now {
			a.tell(notify.Message{Kind: notify.AddressChanged, Args: map[string]string{"name": x.name, "old": x.old, "new": x.now}})
		}
	}
}

func addrText(addr netip.Addr) string {
	if !addr.IsValid() {
		return ""
	}
	return addr.String()
}

// dnsHostTold tells people that something at a DNS host went wrong, or that it
// is over.
func (a *App) dnsHostTold(n ddns.Notice) {
	host := n.Provider
	if n.Name != "" {
		host += " (" + n.Name + ")"
	}
	if n.Ended.IsZero() {
		a.tell(notify.Message{Kind: notify.DNSHostDown, Args: map[string]string{"host": host, "sentence": n.Sentence}})
		return
	}
	a.tell(notify.Message{Kind: notify.DNSHostUp, Args: map[string]string{"host": host, "lasted": lasted(n.Ended.Sub(n.Since))}})
}
