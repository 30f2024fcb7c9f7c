package gateway

import "os"

// Where the kernel tells its routes and addresses; it makes them up when they
// are read, so that they are always the present ones.
const (
	procRoute  = "/proc/net/route"
	procRoute6 = "/proc/net/ipv6_route"
	procAddrs6 = "/proc/net/if_inet6"
)

// defaultRoute4 is where IPv4 leaves this machine.
func defaultRoute4() (hop, error) {
	b, err := os.ReadFile(procRoute)
	if err != nil {
		return hop{}, err
	}
	return parseRoutes4(string(b))
}

// defaultRoute6 is the same for IPv6, with our own stable addresses there.
func defaultRoute6() (hop, error) {
	b, err := os.ReadFile(procRoute6)
	if err != nil {
		return hop{}, err
	}
	h, err := parseRoutes6(string(b))
	if err != nil {
		return hop{}, err
	}
	if b, err = os.ReadFile(procAddrs6); err != nil {
		return hop{}, err
	}
	h.own = parseAddrs6(string(b), h.iface)
	return h, nil
}
