package config

import (
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// topics are what messages are about.
func topics() []string { return []string{"cert", "dns", "address", "guard", "backend", "system"} }

// maxChannels bounds the channels: each is a goroutine and a label.
const maxChannels = 16

// webhookPath is the path of a Discord webhook's URL.
var webhookPath = regexp.MustCompile(`^/api(?:/v[0-9]+)?/webhooks/[0-9]{5,25}/[A-Za-z0-9_-]{20,200}/?$`)

func (c *checker) notify() {
	list := c.cfg.Notify
	if len(list) > maxChannels {
		c.errorf("notify", "%d channels, want at most %d", len(list), maxChannels)
	}
	named := map[string]string{}
	for i := range list {
		c.channel(c.item("notify", i), &list[i], named)
	}
	for i := range list { // those without a name, when all names are known
		nameChannel(&list[i], named)
	}
}

func (c *checker) channel(at string, ch *Channel, named map[string]string) {
	c.at(at+".name", func() {
		if ch.Name == "" && c.written(at+".name") {
			c.errorf(at+".name", "is empty; remove it, and the service gives the name")
		}
		if !isChannelName(ch.Name) {
			c.errorf(at+".name", "%q is no name, want letters, digits, - and _, at most 32", ch.Name)
			return
		}
		if other, twice := named[ch.Name]; twice {
			c.errorf(at+".name", "%q is the name of %s already; give one another name", ch.Name, c.where(other))
		}
		if ch.Name != "" {
			named[ch.Name] = at
		}
	})
	c.channelURL(at, ch)
	for i := range ch.Topics {
		c.choice(c.item(at+".topics", i), &ch.Topics[i], topics()...)
	}
	if c.written(at+".topics") && len(ch.Topics) == 0 {
		c.at(at+".topics", func() { c.errorf(at+".topics", "is empty, so nothing is told; name some, or remove the key for all") })
	}
	c.choice(at+".language", &ch.Language, "en", "ko")
	c.at(at+".digest", func() {
		if ch.Digest < 15*time.Minute || ch.Digest > 24*time.Hour {
			c.errorf(at+".digest", "%s is out of bounds, want 15m to 24h", formatDuration(ch.Digest))
		}
	})
	c.at(at+".quiet_hours", func() {
		if ch.QuietHours == "" {
			return
		}
		if _, _, err := ParseHours(ch.QuietHours); err != nil {
			c.errorf(at+".quiet_hours", "%v", err)
		}
	})
	c.at(at+".summary", func() {
		if ch.Summary == "" {
			return
		}
		if _, err := ParseClock(ch.Summary); err != nil {
			c.errorf(at+".summary", `%v; "" sends none`, err)
		}
	})
}

// channelURL checks where a channel leads. Messages never show the URL.
func (c *checker) channelURL(at string, ch *Channel) {
	discord, other := c.secretWritten(at+".discord"), c.secretWritten(at+".url")
	switch {
	case c.isBroken(at):
		return
	case discord != "" && other != "":
		c.errorf(other, "%s is given too, want one of them; make a channel of each", discord)
	case discord == "" && other == "":
		if !c.unknown[at] {
			c.errorf(at, "leads nowhere, want discord with a webhook's URL, or url with that of another service")
		}
	case discord != "":
		c.discordURL(discord, ch.Discord.Reveal())
	default:
		c.serviceURL(other, ch.URL.Reveal())
	}
}

// secretWritten returns the key that gives a secret, itself or its file, and
// "" for none.
func (c *checker) secretWritten(path string) string {
	for _, at := range []string{path, path + "_file"} {
		if c.written(at) {
			return at
		}
	}
	return ""
}

func (c *checker) discordURL(at, text string) {
	u, err := url.Parse(strings.TrimSpace(text))
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		c.errorf(at, "is not a URL, want the one that Discord shows for the webhook, https://discord.com/api/webhooks/ID/TOKEN")
	case u.Scheme != "https" && !nearby(u.Hostname()):
		c.errorf(at, "is not https, so anyone on the way could take the webhook; copy it again from Discord")
	case !isDiscord(u.Hostname()) && !nearby(u.Hostname()):
		c.errorf(at, "leads to %s, which is not Discord; use url for other services", strconv.Quote(u.Hostname()))
	case !webhookPath.MatchString(u.Path):
		c.errorf(at, "is not the URL of a webhook, want https://discord.com/api/webhooks/ID/TOKEN as Discord shows it under Integrations")
	}
}

func isDiscord(host string) bool {
	host = strings.ToLower(host)
	return slices.Contains([]string{"discord.com", "discordapp.com", "ptb.discord.com", "canary.discord.com"}, host)
}

func (c *checker) serviceURL(at, text string) {
	scheme, _, ok := strings.Cut(text, "://")
	switch {
	case !ok:
		c.errorf(at, "is not a URL, want one such as ntfy://ntfy.sh/topic")
	case scheme == "http" || scheme == "https":
		c.errorf(at, `begins with %s://, want the form of shoutrrr: ntfy://, gotify://, slack://, telegram://, smtp://; generic+%s:// posts to any URL; a Discord webhook goes to discord`, scheme, scheme)
	case scheme == "discord":
		c.errorf(at, "is Discord, which has a key of its own: write discord: with the URL that Discord shows")
	case scheme == "logger":
		c.errorf(at, "only logs, which postern does anyway; name a service, or remove the channel")
	}
}

func isChannelName(s string) bool {
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_') {
			return false
		}
	}
	return len(s) <= 32
}

// nameChannel gives a channel the name of its service.
func nameChannel(ch *Channel, named map[string]string) {
	if ch.Name != "" {
		return
	}
	base := "discord"
	if !ch.Discord.IsSet() {
		scheme, _, _ := strings.Cut(ch.URL.Reveal(), "://")
		base, _, _ = strings.Cut(strings.ToLower(scheme), "+")
		if base == "" || !isChannelName(base) {
			base = "channel"
		}
	}
	ch.Name = base
	for n := 2; named[ch.Name] != ""; n++ {
		ch.Name = base + strconv.Itoa(n)
	}
	named[ch.Name] = "notify"
}
