package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"postern/internal/admin"
	"postern/internal/config"
	"postern/internal/dnsapi"
	"postern/internal/publish"
	"postern/internal/tlsmgr"
)

// CheckHealth asks a running postern at its admin address for its health and
// returns the tree as text, and whether nothing in it fails.
func CheckHealth(ctx context.Context, addr, token string) (text string, healthy bool, err error) {
	if addr == "" {
		return "", false, fmt.Errorf("admin.listen is off, so nobody can be asked; set it to 127.0.0.1:9180 or unix:/run/postern/admin.sock")
	}
	tree, err := admin.Fetch(ctx, addr, token)
	if err != nil {
		return "", false, err
	}
	return tree.Text(time.Now()), tree.State != admin.Fail, nil
}

// CheckFiles looks at the files that a configuration names, without using or
// making any: what a start would refuse is refused here too. What is odd but
// works goes to w, a line each.
func CheckFiles(cfg *config.Config, w io.Writer) error {
	log := slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		if a.Key == slog.MessageKey {
			a.Key = "warning"
		}
		return a
	}}))
	t := tlsConfig(cfg)
	if err := tlsmgr.CheckFiles(t.Files, log); err != nil {
		return err
	}
	if p := cfg.TLS.DNSProvider; p != nil {
		if _, err := dnsapi.New(p.Provider, dnsSettings(p)); err != nil {
			return fmt.Errorf("tls.dns_provider: %w", err)
		}
	}
	if _, err := senders(cfg, nil); err != nil {
		return err
	}
	for i := range cfg.DDNS {
		d := &cfg.DDNS[i]
		if _, err := dnsapi.NewAddrs(d.Provider, ddnsSettings(d)); err != nil {
			return fmt.Errorf("ddns[%d]: %w", i, err)
		}
	}
	if _, err := callerList(cfg); err != nil {
		return err
	}
	for _, a := range t.ACME {
		if a.RootFile == "" {
			continue
		}
		if _, err := os.ReadFile(a.RootFile); err != nil {
			return fmt.Errorf("tls.acme root: %w", err)
		}
	}
	_, err := publish.New(publish.Config{}).Prepare(publishTargets(cfg))
	return err
}

// Summary is one line about a configuration.
func Summary(cfg *config.Config) string {
	hosts, routes := 0, 0
	for i := range cfg.Sites {
		hosts += len(cfg.Sites[i].Hosts)
		routes += len(cfg.Sites[i].Routes)
		if len(cfg.Sites[i].Upstream) > 0 {
			routes++
		}
	}
	return fmt.Sprintf("%s, %s, %s", count(len(cfg.Sites), "site"), count(hosts, "host"), count(routes, "route"))
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
