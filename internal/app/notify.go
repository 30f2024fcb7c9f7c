package app

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"postern/internal/admin"
	"postern/internal/config"
	"postern/internal/notify"
	"postern/internal/tlsmgr"
)

// flushTime is what delivering urgent messages may take when we stop.
const flushTime = 3 * time.Second

// newOutbox makes the outbox of the process. It has no channels yet.
func (a *App) newOutbox(cfg *config.Config) *notify.Outbox {
	return notify.New(notify.Config{File: filepath.Join(cfg.Data, "messages.json"), Log: a.log, Metrics: a.registry})
}

// tell gives people a message, late but without waiting.
func (a *App) tell(m notify.Message) { a.outbox.Send(m) }

// sender is a channel's way out, kept while its configuration stays: one that
// was given up is tried again only when it changes.
type sender struct {
	cfg  config.Channel
	made notify.Sender
}

// senders makes the channels' ways out, those of before where nothing changed.
func senders(cfg *config.Config, before []sender) ([]sender, error) {
	var out []sender
	for _, c := range cfg.Notify {
		next := sender{cfg: c}
		for _, b := range before {
			if b.cfg.Discord.Equal(c.Discord) && b.cfg.URL.Equal(c.URL) && b.cfg.Name == c.Name {
				next.made = b.made
			}
		}
		if next.made == nil {
			var err error
			if next.made, err = newSender(&c); err != nil {
				return nil, fmt.Errorf("notify: channel %s: %w", c.Name, err)
			}
		}
		out = append(out, next)
	}
	return out, nil
}

func newSender(c *config.Channel) (notify.Sender, error) {
	if c.URL.IsSet() {
		return notify.NewShoutrrr(c.URL.Reveal())
	}
	return notify.NewDiscord(notify.DiscordConfig{URL: c.Discord.Reveal()})
}

// channels translates what the file says about telling people.
func channels(list []sender) []notify.Channel {
	var out []notify.Channel
	for _, s := range list {
		c := s.cfg
		ch := notify.Channel{
			Name: c.Name, Key: channelKey(&s), Sender: s.made,
			Language: notify.Language(c.Language), Digest: c.Digest, Summary: -1,
		}
		for _, t := range c.Topics {
			ch.Topics = append(ch.Topics, notify.Topic(t))
		}
		if c.QuietHours != "" {
			from, to, _ := config.ParseHours(c.QuietHours) // checked by config
			ch.Quiet = notify.Quiet{From: notify.Clock(from), To: notify.Clock(to)}
		}
		if c.Summary != "" {
			at, _ := config.ParseClock(c.Summary) // checked by config
			ch.Summary = notify.Clock(at)
		}
		out = append(out, ch)
	}
	return out
}

// channelKey names a channel in the state file: its name and where it leads,
// without the secret.
func channelKey(s *sender) string {
	if d, ok := s.made.(*notify.Discord); ok {
		return s.cfg.Name + " " + d.Key()
	}
	return s.cfg.Name + " " + s.made.Service()
}

// startNotify registers the delivery of messages. It is called before
// everything that may have something to tell, so that it ends after it.
func (a *App) startNotify() {
	a.group.OnStop("last messages", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, flushTime)
		defer cancel()
		a.outbox.Flush(ctx)
		return nil
	})
	a.group.Keep("messages", a.outbox.Run)
}

// noticed tells about a name's outage. It is called by the certificates'
// driver.
func (a *App) noticed(n tlsmgr.Notice) {
	if n.Ended.IsZero() {
		a.log.Warn("certificate in trouble", "name", n.Name, "kind", n.Kind, "sentence", n.Sentence, "since", n.Since)
		a.tell(notify.Message{Kind: notify.CertTrouble, Args: map[string]string{"name": n.Name, "sentence": n.Sentence}})
		return
	}
	a.log.Info("certificate is well again", "name", n.Name, "kind", n.Kind, "sentence", n.Sentence, "since", n.Since, "ended", n.Ended)
	a.tell(notify.Message{Kind: notify.CertWell, Args: map[string]string{"name": n.Name, "lasted": lasted(n.Ended.Sub(n.Since))}})
}

// lasted is d for people: to the second below a minute, to the minute beyond.
func lasted(d time.Duration) string {
	if d = d.Round(time.Second); d < time.Minute {
		return d.String()
	}
	s := d.Round(time.Minute).String()
	return s[:len(s)-len("0s")]
}

// notifyNode is red for a channel that is disabled: nobody is told anything
// there until its configuration changes.
func notifyNode(list []notify.Status) admin.Node {
	n := admin.Node{Name: "messages"}
	if len(list) == 0 {
		n.State, n.Detail = admin.OK, "no channel: nobody is told anything"
	}
	for _, s := range list {
		child := admin.Node{Name: s.Name, State: admin.OK, Detail: s.Service}
		switch {
		case s.Disabled:
			child.State, child.Since, child.Detail = admin.Fail, s.Since, "disabled until its configuration changes: "+s.LastError
		case s.Failing:
			child.State, child.Since = admin.Warn, s.Since
			child.Detail = fmt.Sprintf("messages do not get through: %s; next try %s", s.LastError, s.NextTry.Format("15:04:05"))
		case !s.Delivered.IsZero():
			child.Detail += ", last message " + s.Delivered.Format("2006-01-02 15:04")
		}
		n.Children = append(n.Children, child)
	}
	return n
}
