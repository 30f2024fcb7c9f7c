package testnet

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
)

// RouterMode is how a Router behaves.
type RouterMode struct {
	WAN  netip.Addr // its address on the Internet's side; zero: its line is down
	Tell netip.Addr // what it says that is instead, a lie; zero: the truth

	PCP, NATPMP, UPnP bool // what it speaks
	IGD2              bool // whether UPnP is version 2, else 1
	Pinholes          bool // whether it offers WANIPv6FirewallControl

	Hang          bool // reads everything and answers nothing
	Refuse        bool // authorises no mapping
	PermanentOnly bool // UPnP grants mappings without an end only (error 725)
	Pretend       bool // UPnP says that it mapped a port, and did not
	NoOptions     bool // PCP knows no PREFER_FAILURE

	MaxLease time.Duration // the most it grants; 0: what is asked for

	Location string // of its description, as SSDP tells; "": where it is
	Control  string // URL of its services; "": where they are
	Redirect string // where HTTP requests are sent to; "": nowhere
	Garbage  []byte // sent instead of every answer; nil: answers
}

// RouterMapping is a port that the router forwards, or an IPv6 pinhole.
type RouterMapping struct {
	Proto       string // "tcp" or "udp"
	External    uint16
	Client      netip.Addr
	Internal    uint16
	Description string
	Lease       time.Duration // 0: no end
	Pinhole     uint16        // its id, of one made by UPnP
	expires     time.Time
	nonce       [12]byte
}

// Router is a home router on loopback: PCP and NAT-PMP (IPv6 too where this
// machine has it), SSDP, and UPnP IGD. It forwards nothing, it only keeps the
// table, and a clock of its own. It ends with the test. Its methods may be
// called from several goroutines.
//
// A new one speaks everything, has the address 203.0.113.7 and an empty table.
type Router struct {
	Addr  netip.Addr     // where it is: 127.0.0.1
	Addr6 netip.Addr     // [::1], zero if this machine has no IPv6
	Port  uint16         // of PCP and NAT-PMP
	SSDP  netip.AddrPort // where it is searched for
	SSDP6 netip.AddrPort // the same for IPv6; invalid if this machine has none
	HTTP  netip.AddrPort // where its description and services are
	HTTP6 netip.AddrPort
	WAN   netip.Addr // its address at first

	done chan struct{}

	mu     sync.Mutex
	mode   RouterMode
	ahead  time.Duration // of the real time
	boot   time.Time     // by its own clock
	table  []RouterMapping
	nextID uint16
	asked  map[string]int
}

// NewRouter starts a router.
func NewRouter(t testing.TB) *Router {
	t.Helper()
	r := &Router{Addr: netip.MustParseAddr("127.0.0.1"), WAN: netip.MustParseAddr("203.0.113.7"), asked: make(map[string]int), done: make(chan struct{})}
	r.mode = RouterMode{WAN: r.WAN, PCP: true, NATPMP: true, UPnP: true, IGD2: true, Pinholes: true}
	r.boot = time.Now().Add(-time.Hour)
	var sockets []*net.UDPConn
	control := listenUDP(t, "127.0.0.1:0")
	r.Port = addrPort(control).Port()
	sockets = append(sockets, control)
	if c, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback, Port: int(r.Port)}); err == nil {
		r.Addr6 = netip.IPv6Loopback()
		sockets = append(sockets, c)
	}
	search := []*net.UDPConn{listenUDP(t, "127.0.0.1:0")}
	r.SSDP = addrPort(search[0])
	if c, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback}); err == nil {
		r.SSDP6 = addrPort(c)
		search = append(search, c)
	}
	var wg sync.WaitGroup
	stopHTTP := r.serveHTTP(t, &wg)
	for _, c := range sockets {
		wg.Go(func() { r.serveUDP(c, r.control) })
	}
	for _, c := range search {
		wg.Go(func() { r.serveUDP(c, r.search) })
	}
	t.Cleanup(func() {
		close(r.done)
		for _, c := range append(sockets, search...) {
			_ = c.Close()
		}
		stopHTTP()
		wg.Wait()
	})
	return r
}

func listenUDP(t testing.TB, addr string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func addrPort(c net.PacketConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

// serveUDP answers datagrams until the socket is closed.
func (r *Router) serveUDP(c *net.UDPConn, answer func(from netip.AddrPort, b []byte) []byte) {
	buf := make([]byte, 4096)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		m := r.Mode()
		out := answer(netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), slices.Clone(buf[:n]))
		if out != nil && m.Garbage != nil {
			out = m.Garbage
		}
		if out != nil && !m.Hang {
			_, _ = c.WriteToUDPAddrPort(out, from)
		}
	}
}

// Mode returns how it behaves.
func (r *Router) Mode() RouterMode {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mode
}

// Change changes how it behaves.
func (r *Router) Change(change func(*RouterMode)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.mode)
}

// Advance lets the router's clock run ahead; leases run out by it.
func (r *Router) Advance(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ahead += d
}

// Reboot empties the table and starts the router's clock over.
func (r *Router) Reboot() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.table, r.boot = nil, r.nowLocked()
}

// Forget empties the table and nothing else.
func (r *Router) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.table = nil
}

// Give maps a port to another device of the home, without an end.
func (r *Router) Give(proto string, external uint16, client string, internal uint16, description string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.table = append(r.table, RouterMapping{Proto: proto, External: external, Client: netip.MustParseAddr(client), Internal: internal, Description: description})
}

// Table returns what is mapped, ordered as "proto external client".
func (r *Router) Table() []RouterMapping {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expireLocked()
	out := slices.Clone(r.table)
	slices.SortFunc(out, func(a, b RouterMapping) int {
		if a.String() < b.String() {
			return -1
		}
		return 1
	})
	return out
}

// String is "tcp 443 -> 192.168.1.7:443 (camera)".
func (m RouterMapping) String() string {
	return fmt.Sprintf("%s %d -> %s (%s)", m.Proto, m.External, netip.AddrPortFrom(m.Client, m.Internal), m.Description)
}

// Asked tells how often something was asked for: "pcp map", "pcp delete",
// "nat-pmp address", "nat-pmp map", "nat-pmp delete", "ssdp", "description",
// or the name of a UPnP action.
func (r *Router) Asked(what string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked[what]
}

// Announce tells a listener, as the router does to everybody, that something
// changed (RFC 6886 section 3.2.1).
func (r *Router) Announce(to string) error {
	c, err := net.Dial("udp4", to)
	if err != nil {
		return err
	}
	defer c.Close()
	r.mu.Lock()
	b := r.pmpAddressLocked()
	r.mu.Unlock()
	_, err = c.Write(b)
	return err
}

func (r *Router) nowLocked() time.Time { return time.Now().Add(r.ahead) }

func (r *Router) epochLocked() uint32 { return uint32(r.nowLocked().Sub(r.boot) / time.Second) }

func (r *Router) expireLocked() {
	now := r.nowLocked()
	r.table = slices.DeleteFunc(r.table, func(m RouterMapping) bool { return !m.expires.IsZero() && !now.Before(m.expires) })
}

// toldLocked is what the router says its address is.
func (r *Router) toldLocked() netip.Addr {
	if r.mode.Tell.IsValid() {
		return r.mode.Tell
	}
	return r.mode.WAN
}

// findLocked returns the index of who has an external port, -1 for nobody.
// Pinholes belong to one address each.
func (r *Router) findLocked(proto string, external uint16, client netip.Addr) int {
	r.expireLocked()
	return slices.IndexFunc(r.table, func(m RouterMapping) bool {
		if m.Client.Is6() != client.Is6() || client.Is6() && m.Client != client {
			return false
		}
		return m.Proto == proto && m.External == external
	})
}

// putLocked makes or renews m, in the place at, or in a new one for -1.
func (r *Router) putLocked(at int, m RouterMapping, lease time.Duration) time.Duration {
	if most := r.mode.MaxLease; most > 0 && lease > most {
		lease = most
	}
	m.Lease, m.expires = lease, time.Time{}
	if lease > 0 {
		m.expires = r.nowLocked().Add(lease)
	}
	if at < 0 {
		r.table = append(r.table, m)
	} else {
		r.table[at] = m
	}
	return lease
}
