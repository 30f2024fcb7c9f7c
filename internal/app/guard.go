package app

import (
	"path/filepath"

	"postern/internal/config"
	"postern/internal/guard"
)

// guardConfig translates what the file says about refusing.
func guardConfig(cfg *config.Config) (guard.Config, error) {
	mode, err := guard.ParseMode(cfg.Guard.Mode)
	if err != nil {
		return guard.Config{}, err
	}
	return guard.Config{
		Mode:           mode,
		Never:          cfg.Guard.Never,
		Allow:          cfg.Guard.Allow,
		TrustedProxies: cfg.TrustedProxies,
		FirstBan:       cfg.Guard.Bans.First,
		MaxBan:         cfg.Guard.Bans.Max,
		Connections:    connectionLimit(cfg.Limits.Connections),
		PerAddress:     cfg.Limits.ConnectionsPerAddress,
		File:           filepath.Join(cfg.Data, "bans.json"),
	}, nil
}

// guardEvent tells the log about what the guard sees, and whoever else wants
// to know. It is called on a request's path.
func (a *App) guardEvent(e guard.Event) {
	a.kernelEvent(e)
	switch e.Kind {
	case guard.EventBan:
		msg := "banned"
		if e.Ban.Trial {
			msg = "would ban"
		}
		a.log.Info(msg, "address", e.Ban.Prefix.String(), "reason", e.Ban.Reason, "until", e.Ban.Until, "bans_before", e.Ban.Past)
	case guard.EventUnban:
		a.log.Info("ban ended by hand", "address", e.Ban.Prefix.String(), "reason", e.Ban.Reason)
	case guard.EventServed:
		a.log.Warn("a backend published what only scanners ask for", "client", e.Addr.String(), "family", e.Rule, "host", e.Host, "path", e.Path)
	case guard.EventFlood:
		a.log.Warn("limit hit", "limit", e.Rule, "client", e.Addr.String())
	case guard.EventMode:
		a.log.Warn("guard mode changed", "mode", e.Mode.String())
	}
	for _, told := range a.onGuard {
		told(e)
	}
}
