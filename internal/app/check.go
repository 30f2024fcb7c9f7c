package app

import (
	"context"
	"fmt"
	"time"

	"postern/internal/admin"
	"postern/internal/config"
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
