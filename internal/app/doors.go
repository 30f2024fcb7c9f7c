package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"sort"
	"strconv"
	"syscall"
	"time"

	"postern/internal/config"
	"postern/internal/proxy"
)

// doorKey is one listen address of the configuration.
type doorKey struct {
	kind proxy.Kind
	addr string
}

// door is one open listener: a net.Listener, or a *proxy.QUICListener for
// proxy.KindH3.
type door struct {
	key      doorKey
	listener interface {
		Addr() net.Addr
		Close() error
	}
}

// doorChange is what a reload will do to the listeners.
type doorChange struct {
	opened  []*door
	closed  []*door
	kept    map[doorKey]*door
	admin   *adminDoor // nil: stays as it is
	noAdmin bool       // the admin listener goes
}

func (c *doorChange) discard() {
	for _, d := range c.opened {
		_ = d.listener.Close()
	}
	if c.admin != nil {
		_ = c.admin.listener.Close()
	}
}

func wantedDoors(cfg *config.Config) []doorKey {
	var keys []doorKey
	for _, a := range cfg.Listen.HTTP {
		keys = append(keys, doorKey{proxy.KindHTTP, a})
	}
	for _, a := range cfg.Listen.HTTPS {
		keys = append(keys, doorKey{proxy.KindHTTPS, a})
	}
	if cfg.HTTP3 {
		for _, a := range cfg.Listen.HTTPS { // after all of TCP: see prepareDoor
			keys = append(keys, doorKey{proxy.KindH3, a})
		}
	}
	return keys
}

// openDoors opens every listener at the start.
func (a *App) openDoors(cfg *config.Config) error {
	change, err := a.prepareDoors(cfg)
	if err != nil {
		return err
	}
	a.doors = change.kept
	for _, d := range change.opened {
		a.doors[d.key] = d
	}
	a.admin = change.admin
	return nil
}

// prepareDoors opens the listeners cfg adds; those that stay are not touched.
func (a *App) prepareDoors(cfg *config.Config) (*doorChange, error) {
	c := &doorChange{kept: make(map[doorKey]*door)}
	for _, key := range wantedDoors(cfg) {
		if d := a.doors[key]; d != nil {
			c.kept[key] = d
			continue
		}
		d, err := a.prepareDoor(key, c)
		if err != nil {
			c.discard()
			return nil, err
		}
		c.opened = append(c.opened, d)
	}
	for key, d := range a.doors {
		if c.kept[key] == nil {
			c.closed = append(c.closed, d)
		}
	}
	if err := a.prepareAdmin(cfg, c); err != nil {
		c.discard()
		return nil, err
	}
	return c, nil
}

// prepareDoor opens one listener.
func (a *App) prepareDoor(key doorKey, c *doorChange) (*door, error) {
	if key.kind != proxy.KindH3 {
		l, err := listen(key)
		if err != nil {
			return nil, err
		}
		return &door{key: key, listener: l}, nil
	}
	if old := a.leaving[key]; old != nil {
		old.Cut() // its last requests still have the address
		delete(a.leaving, key)
	}
	pc, err := listenUDP(key, c.portOf(key.addr))
	if err != nil {
		return nil, err
	}
	return &door{key: key, listener: proxy.NewQUICListener(pc)}, nil
}

// portOf is the port of the https listener with the given address, 0 for none.
func (c *doorChange) portOf(addr string) int {
	key := doorKey{proxy.KindHTTPS, addr}
	d := c.kept[key]
	for _, o := range c.opened {
		if o.key == key {
			d = o
		}
	}
	if d == nil {
		return 0
	}
	tcp, ok := d.listener.Addr().(*net.TCPAddr)
	if !ok {
		return 0
	}
	return tcp.Port
}

// commitDoors starts and closes what prepareDoors found.
func (a *App) commitDoors(c *doorChange) {
	for _, d := range c.opened {
		c.kept[d.key] = d
		a.startDoor(d)
	}
	a.doors = c.kept
	for _, d := range c.closed {
		a.log.Info("listener closed", "listener", d.key.kind.String(), "addr", d.listener.Addr().String())
		_ = d.listener.Close()
		if q, ok := d.listener.(*proxy.QUICListener); ok {
			a.leaving[d.key] = q
		}
	}
	if c.noAdmin || c.admin != nil {
		if a.admin != nil && a.admin.stop != nil {
			a.admin.stop()
		}
		a.admin = c.admin
		a.startAdmin()
	}
}

func (a *App) startDoor(d *door) {
	name := d.key.kind.String() + " " + d.key.addr
	a.group.Go(name, func(ctx context.Context) error {
		if q, ok := d.listener.(*proxy.QUICListener); ok {
			return a.proxy.ServeQUIC(ctx, q)
		}
		stop := context.AfterFunc(ctx, func() { _ = d.listener.Close() })
		defer stop()
		return a.proxy.Serve(d.listener.(net.Listener), d.key.kind)
	})
}

// keepAlive lets a caller that is frozen between calls (AWS Lambda) keep its
// connection: it answers no probe while it sleeps.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 2 * time.Minute, Interval: time.Minute, Count: 10} // read only

func listen(key doorKey) (net.Listener, error) {
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	l, err := lc.Listen(context.Background(), "tcp", key.addr) // listening does not wait for anything
	if err == nil {
		return l, nil
	}
	return nil, listenError(fmt.Sprintf("listen.%s %s", key.kind, key.addr), "ss -ltnp", err)
}

// listenUDP opens the socket for HTTP/3 beside an https listener, at the port
// that one really has: clients are told of one port.
func listenUDP(key doorKey, port int) (net.PacketConn, error) {
	addr := key.addr
	if host, _, err := net.SplitHostPort(addr); err == nil && port != 0 {
		addr = net.JoinHostPort(host, strconv.Itoa(port))
	}
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(context.Background(), "udp", addr) // listening does not wait for anything
	if err == nil {
		return pc, nil
	}
	return nil, listenError(fmt.Sprintf("listen.https %s on UDP, for http3", key.addr), "ss -lunp", err)
}

// listenError adds the way out to what the system said; show is the command
// that tells who has the port.
func listenError(what, show string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s: another program has this port; `%s` tells which one, stop it or choose another port: %w", what, show, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: ports below 1024 need CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE; or `sysctl net.ipv4.ip_unprivileged_port_start=80`): %w", what, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s: this machine does not have that address: %w", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Addrs returns the addresses of the open listeners of a kind, "http", "https"
// or "h3", sorted. Port 0 of the configuration is the real one here.
func (a *App) Addrs(kind string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.addrsLocked(kind)
}

func (a *App) addrsLocked(kind string) []string {
	out := []string{}
	for key, d := range a.doors {
		if key.kind.String() == kind {
			out = append(out, d.listener.Addr().String())
		}
	}
	sort.Strings(out)
	return out
}

// challengeAddrs is where the certificate authority's connections arrive: the
// host of the first listener, and the ports, 0 for none.
func (a *App) challengeAddrs() (host string, httpPort, httpsPort int) {
	host = "127.0.0.1"
	for _, kind := range []proxy.Kind{proxy.KindHTTP, proxy.KindHTTPS} {
		for key, d := range a.doors {
			tcp, ok := d.listener.Addr().(*net.TCPAddr)
			if key.kind != kind || !ok {
				continue
			}
			if kind == proxy.KindHTTP {
				httpPort = tcp.Port
			} else {
				httpsPort = tcp.Port
			}
			if !tcp.IP.IsUnspecified() {
				host = tcp.IP.String()
			}
		}
	}
	return host, httpPort, httpsPort
}

// httpsPort is the port redirects go to: 443 if a listener has it, else the
// first one's.
func (a *App) httpsPort() int {
	port := 0
	for _, addr := range a.addrsLocked("https") {
		_, p, err := net.SplitHostPort(addr)
		if err != nil {
			continue
		}
		n, err := net.LookupPort("tcp", p)
		if err == nil && (port == 0 || n == 443) {
			port = n
		}
	}
	return port
}
