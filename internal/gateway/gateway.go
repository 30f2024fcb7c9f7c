// Package gateway talks to the home router: which address it has on the
// Internet, and the port mappings that bring callers to us.
//
// Three protocols are spoken, whichever the router knows: PCP (RFC 6887),
// NAT-PMP (RFC 6886), and UPnP IGD 1 and 2. Any device of the home network may
// claim to be the router, so only the default gateway itself is listened to,
// and what it sends is bounded in size and number.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Defaults of Config.
const (
	defaultLease   = time.Hour
	defaultPoll    = time.Minute
	defaultTimeout = 3 * time.Second
)

// Config is what New needs. Its zero value asks the real router.
type Config struct {
	// Lease is how long a mapping is asked for; half of what the router grants
	// later it is renewed. Default 1h, at least 2m.
	Lease time.Duration

	// Poll is the time between looks at the router's address and at the
	// mappings. Default 60s.
	Poll time.Duration

	// Timeout bounds each question to the router, with its repetitions.
	// Default 3s.
	Timeout time.Duration

	// File keeps the secret that PCP mappings are known by across restarts
	// (RFC 6887 section 11.2): without it a router that still has our mapping
	// of before a crash refuses to renew it. "": not kept.
	File string

	// Router says where the router is and its services are. The zero value is
	// right but in tests.
	Router Router

	// Log is where changes are told. Nil: nowhere.
	Log *slog.Logger

	// Registerer gets the metrics. Nil: none.
	Registerer prometheus.Registerer

	// OnChange is told what changed, in order, from the goroutine that talks
	// to the router. It must not block, nor call back. Nil: nobody asks.
	OnChange func(Change)
}

// Router says where the router's services are.
type Router struct {
	// Gateway is the router's IPv4 address on our side. Zero: the default
	// route's, looked up each time.
	Gateway netip.Addr

	// Gateway6 is the router's IPv6 address, with a zone where it needs one.
	// Zero: the default route's.
	Gateway6 netip.Addr

	// Local6 are the addresses of ours that pinholes are made for. Nil: the
	// stable global ones of the interface that leads to the router.
	Local6 []netip.Addr

	// Port is the UDP port of PCP and NAT-PMP. 0: 5351.
	Port uint16

	// SSDP is where routers are searched for. Zero: 239.255.255.250:1900.
	SSDP netip.AddrPort

	// SSDP6 is the same for IPv6. Zero: [ff02::c]:1900 on the interface that
	// leads to the router.
	SSDP6 netip.AddrPort

	// Announce is the group and port at which the router tells that it
	// restarted or has another address. Zero: 224.0.0.1:5350.
	Announce netip.AddrPort
}

// Protocol is how the router was talked to. It is a metric label.
type Protocol string

// The protocols.
const (
	PCP    Protocol = "pcp"
	NATPMP Protocol = "nat-pmp"
	UPnP   Protocol = "upnp"
)

// Answer is what the router told of its address.
type Answer struct {
	Addr     netip.Addr // its IPv4 address on the Internet's side
	Kind     Kind       // what that address says about the line
	Protocol Protocol   // who answered
	Gateway  netip.Addr // the router, on our side
	Router   string     // how it calls itself, "" if it does not; safe to print
	At       time.Time
}

// What PublicAddr may wrap.
var (
	// ErrNoGateway means that this machine has no default route.
	ErrNoGateway = errors.New("no default route: is this machine connected?")

	// ErrSilent means that the router speaks none of the protocols.
	ErrSilent = errors.New("the router answers neither PCP, NAT-PMP nor UPnP: turn on UPnP (or NAT-PMP) in its settings, or forward the ports there by hand")

	// ErrNoWAN means that the router itself has no address; some say so too
	// when it is one that nobody outside can reach.
	ErrNoWAN = errors.New("the router tells no public address of its own: its line is down, or another NAT is in front of it")
)

// Want is what Run does.
type Want struct {
	// Watch listens to what the router announces, also without ports, and
	// asks for its address then, and every tenth Config.Poll.
	Watch bool

	// Ports are to be mapped. Those given up are removed.
	Ports []Port
}

// Client talks to the router. Its methods may be called from several
// goroutines. New starts nothing; PublicAddr works with and without Run.
type Client struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	secret  [32]byte
	wake    chan struct{} // holds one: there is something to do

	turn chan struct{} // holds one: whoever has it may talk to the router
	talk talk          // whoever has turn may use it

	// listening is told where announcements are awaited. Only tests set it.
	listening func(addr string)

	mu     sync.Mutex
	want   Want   // guarded by mu
	status Status // guarded by mu
}

// talk is what is known from talking to the router.
type talk struct {
	gateway  netip.Addr             // whom the rest is about
	last     Protocol               // who told the address last
	device   *device                // the UPnP device; nil: not found yet
	device6  *device                // found over IPv6
	quiet    map[Protocol]time.Time // when one was last asked in vain, for IPv4
	epochs   map[epochKey]epoch
	restarts int // seen by the epochs
	entries  []*entry
}

// New checks cfg and reads its file. It touches no network.
func New(cfg Config) (*Client, error) {
	if cfg.Lease == 0 {
		cfg.Lease = defaultLease
	}
	if cfg.Poll == 0 {
		cfg.Poll = defaultPoll
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Lease < 2*time.Minute || cfg.Poll < 0 || cfg.Timeout < 0 {
		return nil, fmt.Errorf("gateway: lease %s, poll %s, timeout %s: want a lease of 2m or more, and no negative times", cfg.Lease, cfg.Poll, cfg.Timeout)
	}
	r := &cfg.Router
	if r.Port == 0 {
		r.Port = 5351 // RFC 6887 section 19.1
	}
	if !r.SSDP.IsValid() {
		r.SSDP = netip.MustParseAddrPort("239.255.255.250:1900")
	}
	if !r.Announce.IsValid() {
		r.Announce = netip.MustParseAddrPort("224.0.0.1:5350")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{cfg: cfg, log: cfg.Log, wake: make(chan struct{}, 1), turn: make(chan struct{}, 1)}
	c.talk.epochs, c.talk.quiet = make(map[epochKey]epoch), make(map[Protocol]time.Time)
	c.metrics = newMetrics(cfg.Registerer)
	var err error
	c.secret, err = loadSecret(cfg.File)
	return c, err
}

// Set changes what Run does, at once.
func (c *Client) Set(w Want) {
	c.mu.Lock()
	c.want = w
	c.mu.Unlock()
	c.Poke()
}

// Poke makes Run look at the router now, for example after a link change. It
// does not wait.
func (c *Client) Poke() {
	select {
	case c.wake <- struct{}{}:
	default: // somebody said so already
	}
}

// PublicAddr asks the router for its address on the Internet's side, by the
// protocol that answered last, then by the others. It takes at most five times
// Config.Timeout. The address may be one that nobody can reach: see
// Answer.Kind. Errors wrap ErrNoGateway, ErrSilent or ErrNoWAN where that is
// the reason.
func (c *Client) PublicAddr(ctx context.Context) (Answer, error) {
	if err := c.take(ctx); err != nil {
		return Answer{}, err
	}
	defer c.give()
	a, err := c.ask(ctx, time.Now())
	if ctx.Err() == nil {
		c.noteAnswer(a, err)
	}
	return a, err
}

// WhoHas asks the router by UPnP who has a port of it at home. The bool is
// false when nobody has. It changes nothing.
func (c *Client) WhoHas(ctx context.Context, p Port) (Holder, bool, error) {
	if err := c.take(ctx); err != nil {
		return Holder{}, false, err
	}
	defer c.give()
	h, err := c.route4()
	if err != nil {
		return Holder{}, false, err
	}
	c.meet(h.router)
	var pe portEntry
	var there bool
	err = c.withUPnP(ctx, h, func(d *device) (err error) {
		pe, there, err = c.lookUpAt(ctx, d, p)
		return err
	})
	if err != nil || !there {
		return Holder{}, false, err
	}
	return Holder{pe.client, pe.port, pe.description}, true, nil
}

// take waits until nobody else talks to the router.
func (c *Client) take(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for another question to the router: %w", ctx.Err())
	}
}

func (c *Client) give() { <-c.turn }
