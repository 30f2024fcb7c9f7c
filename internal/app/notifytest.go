package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"postern/internal/config"
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
