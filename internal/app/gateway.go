package app

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"postern/internal/admin"
	"postern/internal/config"
	"postern/internal/gateway"
	"postern/internal/notify"
)

// The ports that callers come to, whatever the listeners' own ones are.
const (
	publicHTTP  = 80
	publicHTTPS = 443
)

// newGateway makes what talks to the router; setGateway tells it what to do.
func (a *App) newGateway(cfg *config.Config) (err error) {
	a.routerWoes = make(map[string]time.Time)
	a.gateway, err = gateway.New(gateway.Config{
		File: filepath.Join(cfg.Data, "gateway.json"), Router: a.opt.Router,
		Log: a.log, Registerer: a.registry, OnChange: a.gatewayChanged,
	})
	return err
}

// setGateway brings it in line with the configuration and the listeners. It
// is called with a.mu held, after the listeners are open.
func (a *App) setGateway() {
	want := gateway.Want{Watch: a.cfg.WantsPublicAddress() && slices.Contains(a.cfg.PublicAddress.Sources, config.SourceRouter)}
	if a.cfg.PortMapping == config.PortMappingAuto {
		want.Ports = a.publicPorts()
	}
	a.gateway.Set(want)
}

// publicPorts are the ports that a router should bring to us.
func (a *App) publicPorts() []gateway.Port {
	var ports []gateway.Port
	for _, p := range []struct {
		kind     string
		proto    string
		external uint16
	}{{"https", "tcp", publicHTTPS}, {"http", "tcp", publicHTTP}, {"h3", "udp", publicHTTPS}} {
		if in, ok := outerPort(a.addrsLocked(p.kind)); ok {
			ports = append(ports, gateway.Port{Proto: p.proto, External: p.external, Internal: in})
		}
	}
	return ports
}

// outerPort is the port of the first listener that other machines can reach.
func outerPort(addrs []string) (uint16, bool) {
	for _, addr := range addrs {
		host, text, err := net.SplitHostPort(addr)
		if err != nil {
			continue
		}
		if ip, err := netip.ParseAddr(host); err == nil && ip.IsLoopback() {
			continue
		}
		if n, err := strconv.ParseUint(text, 10, 16); err == nil {
			return uint16(n), true
		}
	}
	return 0, false
}

// gatewayChanged is told what is new at the router, one thing after the other.
// It must not block.
func (a *App) gatewayChanged(ch gateway.Change) {
	switch ch.What {
	case gateway.AddressChanged:
		a.address.Kick() // another source may agree by now
	case gateway.MappingLost, gateway.MappingFailed:
		why := ch.Mapping.Reason
		if do := ch.Mapping.Action(); do != "" {
			why += "; " + do
		}
		a.routerTrouble(mappingName(ch.Mapping), why)
	case gateway.MappingMade:
		a.routerTrouble(mappingName(ch.Mapping), "")
	case gateway.MappingRemoved:
		delete(a.routerWoes, mappingName(ch.Mapping))
	}
}

// routerTrouble tells people of trouble at the router, once when it begins and
// once when it ends (why is ""). There are as many names as ports to map.
func (a *App) routerTrouble(name, why string) {
	since, known := a.routerWoes[name]
	switch {
	case why != "" && !known:
		a.routerWoes[name] = time.Now()
		a.tell(notify.Message{Kind: notify.AddressTrouble, Args: map[string]string{"name": name, "sentence": why}})
	case why == "" && known:
		delete(a.routerWoes, name)
		a.tell(notify.Message{Kind: notify.AddressWell, Args: map[string]string{"name": name, "lasted": lasted(time.Since(since))}})
	}
}

func mappingName(m gateway.Mapping) string {
	if m.IsPinhole() {
		return m.Port.String() + " to " + m.Addr.String()
	}
	return "port " + m.Port.String()
}

// Router tells what is known of the router and of our mappings there.
func (a *App) Router() gateway.Status { return a.gateway.Status() }

// RouterAddr asks the router for the address it has outside, which may be one
// that nobody can reach: a private one, or one of carrier NAT.
func (a *App) RouterAddr(ctx context.Context) (netip.Addr, error) {
	ans, err := a.gateway.PublicAddr(ctx)
	return ans.Addr, err
}

// kindProblem says why nobody can reach an address of the router, "" if
// somebody may.
func kindProblem(ans gateway.Answer) string {
	switch ans.Kind {
	case gateway.CarrierNAT:
		return fmt.Sprintf("its address %s is inside the provider's own network (carrier NAT): nobody can reach this line by IPv4", ans.Addr)
	case gateway.DoubleNAT:
		return fmt.Sprintf("its address %s is private: there is one more router in front of it (double NAT)", ans.Addr)
	case gateway.Unusable:
		return fmt.Sprintf("its address %s is none that a line has", ans.Addr)
	}
	return ""
}

// routerNode is a branch of the health tree; nil while nobody asked for
// mappings.
func (a *App) routerNode() []admin.Node {
	s := a.gateway.Status()
	if !s.Running {
		return nil
	}
	n := admin.Node{Name: "router", State: admin.OK}
	switch {
	case s.Err != nil:
		n.State, n.Since, n.Detail = admin.Warn, s.Since, s.Err.Error()
	case s.Answer != nil:
		n.Detail = fmt.Sprintf("%s at %s, by %s", s.Answer.Addr, s.Answer.Gateway, s.Answer.Protocol)
		if why := kindProblem(*s.Answer); why != "" {
			n.State, n.Detail = admin.Warn, why
		}
	}
	for _, m := range s.Mappings {
		n.Children = append(n.Children, mappingNode(m))
	}
	return []admin.Node{n}
}

func mappingNode(m gateway.Mapping) admin.Node {
	n := admin.Node{Name: mappingName(m), State: admin.OK, Since: m.Since}
	switch {
	case m.State == gateway.Mapped && m.ByHand:
		n.Detail = "open, not by us"
	case m.State == gateway.Mapped:
		n.Detail = fmt.Sprintf("mapped by %s", m.Protocol)
		if !m.Expires.IsZero() {
			n.Detail += ", renewed before " + m.Expires.Format("15:04:05")
		}
	case m.State == gateway.Wanted:
		n.State, n.Detail = admin.Warn, "not asked for yet"
	default:
		n.State, n.Detail = admin.Warn, m.Reason+"; way out: "+m.Action()
	}
	return n
}
