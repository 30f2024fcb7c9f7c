package config

import (
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// maxFeeds is how many feeds there may be: each is looked at for each
// connection.
const maxFeeds = 16

func (c *checker) feeds() {
	c.at("guard.feeds", func() {
		if n := len(c.cfg.Guard.Feeds); n > maxFeeds {
			c.errorf("guard.feeds", "%d feeds, want at most %d; merge some lists", n, maxFeeds)
		}
	})
	names := make(map[string]string)
	for i := range c.cfg.Guard.Feeds {
		f, path := &c.cfg.Guard.Feeds[i], index("guard.feeds", i)
		c.at(path, func() { c.feed(path, f, names) })
	}
}

func (c *checker) feed(path string, f *Feed, names map[string]string) {
	kinds := 0
	name := ""
	if f.CrowdSec != nil {
		kinds++
		name = "crowdsec"
		c.crowdSec(join(path, "crowdsec"), f.CrowdSec)
	}
	if f.Blocklist != nil {
		kinds++
		name = c.blocklist(join(path, "blocklist"), f.Blocklist)
	}
	if f.Geo != nil {
		kinds++
		name = "geo"
		c.geo(join(path, "geo"), f.Geo)
	}
	if kinds != 1 {
		c.errorf(path, "has %d sources, want exactly one of crowdsec, blocklist and geo", kinds)
		return
	}
	at := join(path, "name")
	switch {
	case !c.written(at):
		f.Name, at = name, path
	case !feedName(f.Name):
		c.errorf(at, "%q is no name of a feed, want 1 to 40 small letters, digits, dots, dashes and underscores, a letter or digit first", f.Name)
		return
	}
	if other := names[f.Name]; other != "" {
		c.errorf(at, "the feed of %s is named %s as well; give one of them another name", c.where(other), f.Name)
		return
	}
	names[f.Name] = path
}

// feedName reports whether s can be a label and a file's name.
func feedName(s string) bool {
	if s == "" || len(s) > 40 || strings.Trim(s[:1], "._-") == "" {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}

// nameOfHost is a host in the letters a feed's name has.
func nameOfHost(host string) string {
	name := strings.Map(func(r rune) rune {
		if strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789.-", r) {
			return r
		}
		return '-'
	}, strings.ToLower(host))
	name = strings.TrimLeft(name, ".-")
	if name = name[:min(len(name), 40)]; name == "" {
		return "blocklist"
	}
	return name
}

func (c *checker) crowdSec(path string, f *CrowdSecFeed) {
	c.feedURL(join(path, "url"), f.URL, "http://127.0.0.1:8080")
	at := join(path, "key")
	if !c.written(at) && c.written(join(path, "key_file")) {
		at = join(path, "key_file")
	}
	c.at(at, func() {
		switch key := f.Key.Reveal(); {
		case key == "":
			c.errorf(path, "has no key; `cscli bouncers add postern` makes one")
		case strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }):
			c.errorf(at, "the key has a space or a character that no HTTP header can carry, want printable ASCII")
		}
	})
	c.atLeastTime(join(path, "interval"), f.Interval, time.Second)
}

// blocklist checks f and returns the feed's name unless it has another.
func (c *checker) blocklist(path string, f *BlocklistFeed) string {
	at := join(path, "url")
	if !c.written(at) {
		at = path // written as a URL alone, or missing
	}
	u := c.feedURL(at, f.URL, "https://lists.example.org/drop.txt")
	c.atLeastTime(join(path, "interval"), f.Interval, time.Minute)
	if u == nil {
		return "blocklist"
	}
	if host, err := netip.ParseAddr(u.Hostname()); u.Scheme == "http" && (err != nil || !host.IsLoopback() && !host.IsPrivate()) {
		c.warnf(at, "the list comes over http, so whoever is on the way can put anybody on it; use https if the server has it")
	}
	return nameOfHost(u.Hostname())
}

// feedURL checks a URL. Messages do not repeat it: its query may be a secret.
func (c *checker) feedURL(at, text, example string) *url.URL {
	var u *url.URL
	c.at(at, func() {
		var err error
		if u, err = checkURL(text); err != nil || u.Fragment != "" {
			u = nil
			c.errorf(at, "is no URL that can be fetched, want one such as %s, without user name and fragment", example)
		}
	})
	return u
}

func (c *checker) geo(path string, f *GeoFeed) {
	c.file(join(path, "file"), f.File)
	for _, list := range []struct {
		key       string
		countries []string
	}{{"deny_countries", f.DenyCountries}, {"allow_countries", f.AllowCountries}} {
		for i, code := range list.countries {
			at := index(join(path, list.key), i)
			if !c.written(at) {
				at = join(path, list.key)
			}
			c.at(at, func() {
				list.countries[i] = strings.ToUpper(code)
				if len(code) != 2 || strings.Trim(list.countries[i], "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
					c.errorf(at, "%q is no country, want two letters such as KR", code)
				}
			})
		}
	}
	if len(f.DenyCountries)+len(f.AllowCountries)+len(f.DenyASNs)+len(f.AllowASNs) == 0 && !c.isBroken(path) {
		c.errorf(path, "has no rule, want deny_countries, allow_countries, deny_asns or allow_asns")
	}
}

// inheritFeeds makes the paths of feeds start where the process does.
func (g *Guard) inheritFeeds(env environment, dir string) {
	for i := range g.Feeds {
		if f := g.Feeds[i].Geo; f != nil {
			f.File = env.resolve(dir, f.File)
		}
	}
}
