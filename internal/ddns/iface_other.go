//go:build !linux

package ddns

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/netip"
)

// localAddrs lists this machine's addresses. Which are temporary is not told
// here: those that come from the hardware address are known to be stable, and
// others count as stable only where no such one is.
func localAddrs() ([]LocalAddr, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("interfaces: %w", err)
	}
	var out []LocalAddr
	fromHardware := false
	for _, l := range links {
		nets, err := l.Addrs()
		if err != nil || l.Flags&net.FlagUp == 0 {
			continue
		}
		for _, n := range nets {
			p, err := netip.ParsePrefix(n.String())
			if err != nil {
				continue
			}
			a := LocalAddr{Addr: p.Addr().Unmap(), Link: l.Name, Preferred: math.MaxInt64, Default: true}
			fromHardware = fromHardware || Public(a.Addr) && isEUI64(a.Addr)
			out = append(out, a)
		}
	}
	for i := range out {
		out[i].Temporary = fromHardware && out[i].Addr.Is6() && !isEUI64(out[i].Addr)
	}
	return out, nil
}

// isEUI64 reports whether an address was made from a hardware address (RFC
// 4291 appendix A).
func isEUI64(a netip.Addr) bool {
	b := a.As16()
	return a.Is6() && b[11] == 0xff && b[12] == 0xfe
}

// watchLinks waits for ctx: this system is not asked for changes, so they are
// seen at the next poll.
func watchLinks(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return nil
}
