package config

import (
	"fmt"
	"strings"
	"time"
)

// Channels is one channel or a list of them.
type Channels []Channel

// Channel is one way in which people are told what happens: a Discord webhook,
// or any service that shoutrrr knows. What a person must know goes out at once
// (a certificate in trouble and well again, the DNS host down and up, another
// address, a scanner that was served, a limit reached, the guard switched off,
// a backend down and up), at most 4 times an hour for each topic; everything
// else waits for a digest, of which there are at most 4 an hour.
type Channel struct {
	// What the channel is called in the log, in `proxy health` and in
	// metrics. Default: the name of the service, with a number when there are
	// several.
	Name string `yaml:"name"`

	// The URL of a Discord webhook, as Discord shows it. Digests are one
	// message that is edited. discord_file reads it from a file. Either this
	// or url is required.
	Discord Secret `yaml:"discord"`

	// The URL of another service in the form of shoutrrr, such as
	// ntfy://ntfy.sh/topic, telegram://token@telegram?chats=1 or
	// smtp://user:password@host:587/?from=a@b.net&to=c@d.net. url_file reads
	// it from a file.
	URL Secret `yaml:"url"`

	// What is told here: some of cert, dns, address, guard, backend and
	// system. Default: everything.
	Topics []string `yaml:"topics"`

	// The language of the messages: en or ko. Default en.
	Language string `yaml:"language"`

	// The time that one digest covers, 15m to 24h. Default 1h.
	Digest time.Duration `yaml:"digest"`

	// The part of the day, such as "22:00-07:00" in the machine's time zone,
	// in which only urgent messages go out; the others come after it. Default:
	// none.
	QuietHours string `yaml:"quiet_hours"`

	// When the daily summary comes, such as "09:00" in the machine's time
	// zone; "" sends none. A day on which nothing happened has none. Default
	// "09:00".
	Summary string `yaml:"summary"`
}

func (c *Channel) setDefaults() {
	c.Language, c.Digest, c.Summary = "en", time.Hour, "09:00"
}

// ParseClock reads a time of day such as "09:00" and returns it as minutes
// after midnight.
func ParseClock(s string) (minutes int, err error) {
	t, err := time.Parse("15:04", s)
	if err != nil {
		return 0, fmt.Errorf(`%q is not a time of day, want one such as "09:00"`, s)
	}
	return t.Hour()*60 + t.Minute(), nil
}

// ParseHours reads a part of the day such as "22:00-07:00", which may pass
// midnight, as minutes after midnight.
func ParseHours(s string) (from, to int, err error) {
	const form = `%q is not a part of the day, want one such as "22:00-07:00"`
	a, b, ok := strings.Cut(s, "-")
	if !ok {
		return 0, 0, fmt.Errorf(form, s)
	}
	from, err1 := ParseClock(strings.TrimSpace(a))
	to, err2 := ParseClock(strings.TrimSpace(b))
	if err1 != nil || err2 != nil {
		return 0, 0, fmt.Errorf(form, s)
	}
	if from == to {
		return 0, 0, fmt.Errorf("%q begins when it ends; leave the key out for no such time", s)
	}
	return from, to, nil
}
