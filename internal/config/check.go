package config

import (
	"fmt"
	"net"
	"net/mail"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// checker judges a decoded config and brings its texts into one spelling. A
// value that was not decoded is passed over: it was reported already.
type checker struct {
	*report
	cfg       *Config
	env       environment
	listeners []listener
	hosts     map[string]string // canonical host -> key path
}

// check reports everything that is wrong with cfg.
func check(cfg *Config, r *report, env environment) {
	c := &checker{report: r, cfg: cfg, env: env, hosts: map[string]string{}}
	c.data()
	c.listen()
	c.portMapping()
	c.admin()
	c.log()
	c.networks("trusted_proxies", cfg.TrustedProxies)
	c.notNegative("grace", cfg.Grace)
	c.guard()
	c.limits()
	c.dns()
	c.callers()
	c.publish()
	c.sites()
	c.tls()
	c.notify()
	c.publicAddress()
	c.ddns()
}

// at calls f when everything at path was decoded.
func (c *checker) at(path string, f func()) {
	if !c.isBroken(path) {
		f()
	}
}

// choice checks that *s is one of words; the spelling may differ in case.
func (c *checker) choice(path string, s *string, words ...string) {
	c.at(path, func() {
		for _, w := range words {
			if strings.EqualFold(*s, w) {
				*s = w
				return
			}
		}
		c.errorf(path, "%q is unknown, want %s%s", *s, oneOf(words), didYouMean(*s, words))
	})
}

func (c *checker) notNegative(path string, d time.Duration) {
	c.at(path, func() {
		if d < 0 {
			c.errorf(path, "%s is negative, want 0s or more", formatDuration(d))
		}
	})
}

func (c *checker) atLeast(path string, got, want int) {
	c.at(path, func() {
		if got < want {
			c.errorf(path, "%d is too small, want %d or more", got, want)
		}
	})
}

func (c *checker) atLeastTime(path string, got, want time.Duration) {
	c.at(path, func() {
		if got < want {
			c.errorf(path, "%s is too short, want %s or more", formatDuration(got), formatDuration(want))
		}
	})
}

// file checks the path of a file or folder.
func (c *checker) file(path, name string) {
	c.at(path, func() {
		switch {
		case name == "":
			c.errorf(path, "is empty, want a path")
		case name == "~" || strings.HasPrefix(name, "~/"):
			c.errorf(path, `%q: "~" means nothing here; write "${HOME}%s"`, name, name[1:])
		case strings.ContainsRune(name, 0):
			c.errorf(path, "%q is no path", name)
		}
	})
}

func (c *checker) data() {
	c.at("data", func() {
		if c.written("data") {
			c.file("data", c.cfg.Data)
			return
		}
		c.cfg.Data = c.env.dataFolder()
		if c.cfg.Data == "" {
			c.errorf("data", "no folder for certificates and state, as neither HOME nor XDG_DATA_HOME is set; set HOME, or write data: /var/lib/postern")
		}
	})
}

// listener is one parsed listen address.
type listener struct {
	path string
	ip   netip.Addr // the unspecified one for every address of the machine
	port int
}

// any reports whether l takes every address of the machine.
func (l listener) any() bool { return l.ip.IsUnspecified() }

// overlaps reports whether a socket cannot be bound to both.
func (l listener) overlaps(o listener) bool {
	return l.port != 0 && l.port == o.port && (l.any() || o.any() || l.ip == o.ip)
}

// parseListen reads ":80", "192.0.2.1:80", "[::]:443" or "localhost:80".
func parseListen(s string) (l listener, err error) {
	const forms = `want a form such as ":443", "192.0.2.1:443" or "[::]:443"`
	if _, err := strconv.Atoi(s); err == nil {
		return l, fmt.Errorf(`%q is a port alone; did you mean ":%s"?`, s, s)
	}
	if strings.Contains(s, "://") {
		return l, fmt.Errorf("%q is a URL, %s", redactURL(s), forms)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return l, fmt.Errorf("%q is not an address with a port, %s", s, forms)
	}
	if l.port, err = parsePort(port, 0); err != nil {
		return l, err
	}
	switch host {
	case "":
		l.ip = netip.IPv6Unspecified()
		return l, nil
	case "*":
		return l, fmt.Errorf(`%q: did you mean ":%s"?`, s, port)
	case "localhost":
		l.ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		return l, nil
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return l, fmt.Errorf("%q: %q is not an IP address of this machine, %s", s, host, forms)
	}
	l.ip = ip.Unmap()
	return l, nil
}

// parsePort reads a port of least or more, in digits only.
func parsePort(s string, least int) (int, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || s[0] == '0' && s != "0" {
		if s != "" && strings.Trim(s, "0123456789") == "" {
			return 0, fmt.Errorf("port %s, want %d to 65535", s, least)
		}
		return 0, fmt.Errorf("port %q is not a number, want %d to 65535", s, least)
	}
	if n < uint64(least) || n > 65535 {
		return 0, fmt.Errorf("port %d, want %d to 65535", n, least)
	}
	return int(n), nil
}

func (c *checker) listen() {
	c.listenAt("listen.http", c.cfg.Listen.HTTP)
	c.listenAt("listen.https", c.cfg.Listen.HTTPS)
	c.at("http3", func() {
		if c.cfg.HTTP3 && len(c.cfg.Listen.HTTPS) == 0 {
			c.errorf("http3", "HTTP/3 is served at the addresses of listen.https, and there are none; give listen.https one or remove http3")
		}
	})
	c.at("listen", func() {
		if len(c.cfg.Listen.HTTP)+len(c.cfg.Listen.HTTPS) == 0 {
			c.errorf("listen", `http and https are both off, so nobody could connect; give one an address such as ":443"`)
		}
	})
}

func (c *checker) listenAt(path string, addrs Addrs) {
	for i, a := range addrs {
		at := index(path, i)
		if !c.written(at) {
			at = path // written as one text, or the default
		}
		c.at(at, func() {
			if a == "" {
				c.errorf(at, "is empty, want an address; an empty list turns the listener off")
				return
			}
			l, err := parseListen(a)
			if err != nil {
				c.errorf(at, "%v", err)
				return
			}
			l.path = at
			for _, o := range c.listeners {
				if l.overlaps(o) {
					c.errorf(at, "%q takes the same port as %s; give one another port or remove it", a, c.where(o.path))
					return
				}
			}
			c.listeners = append(c.listeners, l)
		})
	}
}

func (c *checker) admin() {
	token := c.cfg.Admin.Token.Reveal()
	at := "admin.token"
	if !c.written(at) {
		at = "admin.token_file"
	}
	c.at(at, func() {
		if !c.written(at) {
			return
		}
		switch {
		case len(token) < 16:
			c.errorf(at, "the token has %d characters, want 16 or more; `openssl rand -hex 16` makes one", len(token))
		case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
			c.errorf(at, "the token has a space or a character that no HTTP header can carry, want printable ASCII")
		}
	})
	c.at("admin.listen", func() { c.adminListen(c.cfg.Admin.Listen, token != "" || c.isBroken("admin")) })
}

func (c *checker) adminListen(addr string, hasToken bool) {
	const at = "admin.listen"
	if addr == "" {
		return
	}
	if sock, ok := strings.CutPrefix(addr, "unix:"); ok {
		if err := checkSocket(sock); err != nil {
			c.errorf(at, "%v", err)
		}
		return
	}
	l, err := parseListen(addr)
	if err != nil {
		c.errorf(at, "%v", err)
		return
	}
	for _, o := range c.listeners {
		if l.overlaps(o) {
			c.errorf(at, "%q takes the same port as %s; give one another port", addr, c.where(o.path))
			return
		}
	}
	if !l.ip.IsLoopback() && !hasToken {
		c.errorf(at, "%q can be reached from other machines, want a loopback address or unix:/path; write 127.0.0.1:%d, or set admin.token", addr, l.port)
	}
}

func (c *checker) log() {
	l := &c.cfg.Log
	c.choice("log.level", &l.Level, "debug", "info", "warn", "error")
	c.choice("log.format", &l.Format, "auto", "json", "text")
	if l.File == nil {
		return
	}
	c.at("log.file", func() {
		at := "log.file.path"
		if !c.written(at) {
			at = "log.file"
		}
		c.file(at, l.File.Path)
		if strings.HasSuffix(l.File.Path, "/") {
			c.errorf(at, "%q is a folder, want a file such as %q", l.File.Path, filepath.Join(l.File.Path, "access.log"))
		}
	})
	c.atLeast("log.file.max_size", l.File.MaxSize, 1)
	c.atLeast("log.file.max_age", l.File.MaxAge, 0)
	c.atLeast("log.file.max_backups", l.File.MaxBackups, 1)
	if !l.Access {
		c.warnf("log.file", "log.access is false, so nothing is written to the file")
	}
}

// networks warns about networks that hold everybody.
func (c *checker) networks(path string, ps []netip.Prefix) {
	for i, p := range ps {
		if p.IsValid() && p.Bits() == 0 {
			at := index(path, i)
			if !c.written(at) {
				at = path
			}
			c.warnf(at, "%s is everybody, so anyone can claim to be anyone; name the networks of your own proxies", p)
		}
	}
}

func (c *checker) limits() {
	const least = 10 * time.Millisecond
	l := &c.cfg.Limits
	c.atLeast("limits.connections", l.Connections, 16)
	c.atLeast("limits.connections_per_address", l.ConnectionsPerAddress, 1)
	c.at("limits.header", func() {
		if l.Header < 1<<10 || l.Header > 1<<20 {
			c.errorf("limits.header", "%s is out of bounds, want 1k to 1m", l.Header)
		}
	})
	c.atLeastTime("limits.header_timeout", l.HeaderTimeout, least)
	c.atLeastTime("limits.idle_timeout", l.IdleTimeout, least)
	c.atLeastTime("limits.caller_idle_timeout", l.CallerIdleTimeout, least)
	c.atLeastTime("limits.stall_timeout", l.StallTimeout, least)
	c.atLeastTime("limits.handshake_timeout", l.HandshakeTimeout, least)
	c.at("limits", func() {
		if l.ConnectionsPerAddress > l.Connections {
			at := "limits.connections_per_address"
			if !c.written(at) {
				at = "limits.connections"
			}
			c.errorf(at, "connections_per_address (%d) is above connections (%d), want at most as many", l.ConnectionsPerAddress, l.Connections)
		}
	})
}

// email checks the shape of an address that a certificate authority is told.
func (c *checker) email(path, s string) {
	c.at(path, func() {
		if !c.written(path) {
			return
		}
		a, err := mail.ParseAddress(s)
		if err != nil || a.Address != s || !strings.Contains(s[strings.LastIndex(s, "@")+1:], ".") {
			c.errorf(path, "%q is not an e-mail address, want one such as me@example.org", s)
		}
	})
}
