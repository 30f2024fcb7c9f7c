package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"postern/internal/config"
	"postern/internal/doctor"
	"postern/internal/notify"
)

// TestChannels sends each channel of cfg, or the one called only, a test
// message and writes to w what came back, a line each. The error says that a
// channel did not take it; its text is for w to have told.
func TestChannels(ctx context.Context, cfg *config.Config, only string, each time.Duration, w io.Writer) error {
	list, err := senders(cfg, nil)
	if err != nil {
		return err
	}
	tried, failed := 0, 0
	for _, c := range channels(list) {
		if only != "" && c.Name != only {
			continue
		}
		tried++
		result := "delivered"
		limited, cancel := context.WithTimeout(ctx, each)
		if err := notify.Try(limited, c); err != nil {
			failed++
			result = err.Error()
		}
		cancel()
		if _, err := fmt.Fprintf(w, "%s: %s\n", c.Name, result); err != nil {
			return err
		}
	}
	switch {
	case tried == 0 && only != "":
		return fmt.Errorf("no channel is called %q", only)
	case tried == 0:
		return errors.New("the configuration has no notify, so nobody is told anything; add notify: {discord: https://discord.com/api/webhooks/…}")
	case failed > 0:
		return fmt.Errorf("%d of %s did not take the message", failed, count(tried, "channel"))
	}
	return nil
}

// channelChecks tell whether messages get through, as far as a running process
// knows: the doctor sends none.
func (p *patient) channelChecks() []doctor.Check {
	if p.app == nil {
		return nil
	}
	var out []doctor.Check
	for _, s := range p.app.outbox.Status() {
		out = append(out, doctor.Check{Component: "messages", Target: s.Name, Run: func(context.Context) doctor.Result { return channelResult(s) }})
	}
	return out
}

func channelResult(s notify.Status) doctor.Result {
	switch {
	case s.Disabled:
		return doctor.Odd("correct the channel's URL in notify and reload; `proxy notify test` tries it", "disabled: %s", s.LastError)
	case s.Failing:
		return doctor.Odd("`proxy notify test` tries it now", "messages do not get through since %s: %s", s.Since.Format("15:04"), s.LastError)
	case s.Delivered.IsZero():
		return doctor.None("nothing to tell yet")
	}
	return doctor.OK("last message %s", s.Delivered.Format("2006-01-02 15:04"))
}
