package config

import (
	"net/netip"
	"strings"
	"time"
)

func (c *checker) guard() {
	g := &c.cfg.Guard
	c.choice("guard.mode", &g.Mode, "enforce", "detect", "off")
	for _, list := range []struct {
		path string
		ps   []netip.Prefix
	}{{"guard.never", g.Never}, {"guard.allow", g.Allow}} {
		for _, p := range list.ps {
			if p.IsValid() && p.Bits() == 0 {
				c.warnf(list.path, "%s is everybody, so nobody is ever banned; write mode: detect if that is meant", p)
			}
		}
	}
	c.kernel()
	c.feeds()
	c.rateLimit("guard.rate_limit", g.RateLimit)
	c.guardLimits(&g.Limits)
	c.choice("guard.aws_ranges", &g.AWSRanges, AWSRangesAuto, AWSRangesOff)
	c.notNegative("guard.trust", g.Trust)
	c.decoys(g.Decoys)
	c.atLeastTime("guard.bans.aws", g.Bans.AWS, time.Second)
	c.atLeastTime("guard.bans.forgive", g.Bans.Forgive, time.Second)
	c.atLeastTime("guard.bans.forget", g.Bans.Forget, time.Minute)
	c.atLeast("guard.bans.network", g.Bans.Network, 0)
	c.at("guard.bans.keep", func() {
		const least, most = 64, 1 << 20
		if g.Bans.Keep < least || g.Bans.Keep > most {
			c.errorf("guard.bans.keep", "%d is out of bounds, want %d to %d", g.Bans.Keep, least, most)
		}
	})
	c.at("guard.bans.threshold", func() {
		if g.Bans.Threshold <= 0 {
			c.errorf("guard.bans.threshold", "0 would ban everybody at once, want more; mode: off bans nobody")
		}
	})
	c.atLeastTime("guard.bans.first", g.Bans.First, time.Second)
	c.atLeastTime("guard.bans.max", g.Bans.Max, time.Second)
	c.at("guard.bans", func() {
		if g.Bans.First > g.Bans.Max && g.Bans.Max >= time.Second {
			at := "guard.bans.first"
			if !c.written(at) {
				at = "guard.bans.max"
			}
			c.errorf(at, "first (%s) is longer than max (%s); lower first or raise max", formatDuration(g.Bans.First), formatDuration(g.Bans.Max))
		}
	})
}

// guardLimits checks what goes by address, by route and in all.
func (c *checker) guardLimits(l *GuardLimits) {
	const at = "guard.limits"
	if c.isBroken(at) {
		return
	}
	if c.written(at+".burst") && !c.written(at+".rate") {
		c.errorf(at+".burst", "goes with a rate, want one such as rate: 50/s beside it")
	}
	c.burst(at, l.Burst)
	if c.written(at + ".connections") {
		c.atLeast(at+".connections", l.Connections, 1)
	}
	c.rateLimit(at+".new_connections", l.NewConnections)
	c.atLeast(at+".requests", l.Requests, 0)
	c.rateLimit(at+".total", l.Total)
	c.routeLimits(at+".per_route", l.PerRoute)
}

// routeLimits checks what one route gets.
func (c *checker) routeLimits(at string, l *RouteLimits) {
	if l == nil || c.isBroken(at) {
		return
	}
	c.atLeast(at+".requests", l.Requests, 0)
	c.burst(at, l.Burst)
	switch {
	case c.written(at+".burst") && l.Rate.Events == 0:
		c.errorf(at+".burst", "goes with a rate, want one such as rate: 200/s beside it")
	case l.Rate.Events == 0 && l.Requests == 0 && !c.written(at+".requests") && !c.broken[at+".rate"]:
		c.errorf(at, "bounds nothing, want rate: 200/s or requests: 50")
	}
}

func (c *checker) burst(at string, burst int) {
	if c.written(at + ".burst") {
		c.atLeast(at+".burst", burst, 1)
	}
}

// decoys checks that no trap stands where somebody has a reason to go.
func (c *checker) decoys(paths []string) {
	const most = 1000
	if len(paths) > most {
		c.errorf("guard.decoys", "%d paths, want at most %d", len(paths), most)
		return
	}
	seen := map[string]bool{}
	for i, path := range paths {
		at := c.item("guard.decoys", i)
		if c.isBroken(at) {
			continue
		}
		switch {
		case !strings.HasPrefix(path, "/") || path == "/":
			c.errorf(at, "%q is no path for a decoy, want one such as /backup.zip", path)
		case strings.ContainsAny(path, "?#*") || strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
			c.errorf(at, "%q holds what no request path has, want one as it is sent, such as /backup.zip", path)
		case seen[path]:
			c.errorf(at, "%s is given twice; keep one", path)
		case strings.HasPrefix(path, "/.well-known/"):
			c.errorf(at, "%s is below /.well-known/, where honest programs look by themselves; choose another path", path)
		default:
			c.decoyOnRoute(at, path)
		}
		seen[path] = true
	}
}

// decoyOnRoute compares a decoy with every route that is written.
func (c *checker) decoyOnRoute(at, path string) {
	for i := range c.cfg.Sites {
		s := &c.cfg.Sites[i]
		for j := range s.Routes {
			pat, err := parsePattern(s.Routes[j].Path)
			if err != nil || pat.prefix && pat.path == "" {
				continue // every path: the decoy comes first
			}
			where := index(index("sites", i)+".routes", j)
			switch {
			case !pat.prefix && pat.path == path:
				c.errorf(at, "%s is also the route %s, so who asks for it is banned; remove one of them", path, c.where(where))
				return
			case pat.prefix && pat.covers(pattern{path: path}):
				c.warnf(at, "%s is below the route %s, which never sees it", path, c.where(where))
				return
			}
		}
	}
}

func (c *checker) rateLimit(path string, l *RateLimit) {
	if l == nil || c.isBroken(path) {
		return
	}
	if l.Rate.Events == 0 {
		c.errorf(path, `has no rate, want one such as rate: 20/s`)
	}
	if c.written(path + ".burst") {
		c.atLeast(path+".burst", l.Burst, 1)
	}
}
