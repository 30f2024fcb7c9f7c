package ddns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Source tells our public IPv4 address. Make one with NewDNSEcho,
// NewHTTPSEcho or NewRouter, or by hand.
type Source struct {
	Kind Kind
	Name string // unique among the sources of its kind; for people

	// Addr asks. What it returns may be any address: that of a router behind
	// another router is a private one. It ends soon after ctx; its errors hold
	// nothing that a stranger wrote, unless quoted.
	Addr func(ctx context.Context) (netip.Addr, error)
}

// sourceTimeout is how long one source may take.
const sourceTimeout = 5 * time.Second

var errNoAddr = errors.New("the answer holds no IPv4 address")

// NewRouter makes the source that asks the router with addr. A nil addr makes
// one that never knows.
func NewRouter(addr func(ctx context.Context) (netip.Addr, error)) Source {
	if addr == nil {
		addr = func(context.Context) (netip.Addr, error) { return netip.Addr{}, errors.New("no router to ask") }
	}
	return Source{Kind: Router, Name: "router", Addr: addr}
}

// ask asks a source and gives up after sourceTimeout. A panic in a library
// that parses what a router on the LAN sent would take the updater with it, so
// it is an error like others.
func (s Source) ask(ctx context.Context) (addr netip.Addr, err error) {
	ctx, cancel := context.WithTimeout(ctx, sourceTimeout)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			addr, err = netip.Addr{}, fmt.Errorf("panic: %v", v)
		}
	}()
	if addr, err = s.Addr(ctx); err != nil {
		return netip.Addr{}, err
	}
	if addr = addr.Unmap(); !addr.Is4() {
		return netip.Addr{}, errNoAddr
	}
	return addr, nil
}
