package ddns

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/mdlayher/netlink"
)

// Flags of an address (linux/if_addr.h).
const (
	ifaTemporary  = 0x01
	ifaDADFailed  = 0x08
	ifaDeprecated = 0x20
	ifaTentative  = 0x40
)

// Groups of messages (linux/rtnetlink.h), as bits.
const (
	groupLink      = 1 << 0
	groupIPv4Addr  = 1 << 4
	groupIPv4Route = 1 << 6
	groupIPv6Addr  = 1 << 8
	groupIPv6Route = 1 << 10
)

// Families of addresses (sys/socket.h) and of netlink (linux/netlink.h).
const (
	familyIPv4  = 2
	familyIPv6  = 10
	familyRoute = 0
)

const (
	mainTable     = 254 // RT_TABLE_MAIN
	kernelTimeout = 2 * time.Second
)

// localAddrs asks the kernel for this machine's addresses.
func localAddrs() ([]LocalAddr, error) {
	c, err := rtnetlink.Dial(nil)
	if err != nil {
		return nil, fmt.Errorf("interfaces: open netlink: %w", err)
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(kernelTimeout)); err != nil {
		return nil, fmt.Errorf("interfaces: netlink deadline: %w", err)
	}
	addrs, err := c.Address.List()
	if err != nil {
		return nil, fmt.Errorf("interfaces: list addresses: %w", err)
	}
	routes, err := c.Route.List()
	if err != nil {
		return nil, fmt.Errorf("interfaces: list routes: %w", err)
	}
	type link struct {
		family uint8
		index  uint32
	}
	leads := map[link]bool{}
	for _, r := range routes {
		if r.DstLength != 0 || r.Attributes.Table != mainTable {
			continue
		}
		leads[link{r.Family, r.Attributes.OutIface}] = true
		for _, hop := range r.Attributes.Multipath {
			leads[link{r.Family, hop.Hop.IfIndex}] = true
		}
	}
	var out []LocalAddr
	for _, m := range addrs {
		if m.Attributes == nil || m.Family != familyIPv4 && m.Family != familyIPv6 {
			continue
		}
		ip := m.Attributes.Local // of IPv4 and of point-to-point links
		if ip == nil {
			ip = m.Attributes.Address
		}
		a, ok := netip.AddrFromSlice(ip)
		if !ok {
			continue
		}
		flags := m.Attributes.Flags | uint32(m.Flags)
		l := LocalAddr{
			Addr: a.Unmap(), Link: m.Attributes.Label,
			Temporary:  m.Family == familyIPv6 && flags&ifaTemporary != 0, // of IPv4 it means secondary
			Deprecated: flags&ifaDeprecated != 0,
			Tentative:  flags&(ifaTentative|ifaDADFailed) != 0,
			Preferred:  math.MaxInt64,
			Default:    leads[link{m.Family, m.Index}],
		}
		if l.Link == "" {
			if i, err := net.InterfaceByIndex(int(m.Index)); err == nil {
				l.Link = i.Name
			}
		}
		if p := m.Attributes.CacheInfo.Preferred; p != math.MaxUint32 {
			l.Preferred = time.Duration(p) * time.Second
		}
		out = append(out, l)
	}
	return out, nil
}

// watchLinks calls changed whenever an interface, an address or a route comes
// or goes, until ctx is done. It returns early with an error when the kernel
// does not tell.
func watchLinks(ctx context.Context, changed func()) error {
	l, err := openLinks()
	if err != nil {
		return err
	}
	return l.follow(ctx, changed)
}

// links is a socket that the kernel tells of changes. What it tells is not
// parsed: that something changed is enough.
type links struct{ *netlink.Conn }

func openLinks() (links, error) {
	c, err := netlink.Dial(familyRoute, &netlink.Config{Groups: groupLink | groupIPv4Addr | groupIPv4Route | groupIPv6Addr | groupIPv6Route})
	if err != nil {
		return links{}, fmt.Errorf("interfaces: listen for changes: %w", err)
	}
	return links{c}, nil
}

// follow closes the socket when it ends.
func (l links) follow(ctx context.Context, changed func()) error {
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { _ = l.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		_, err := l.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, syscall.ENOBUFS): // so many changes that some were lost
		case err != nil:
			return fmt.Errorf("interfaces: listen for changes: %w", err)
		}
		changed()
	}
}
