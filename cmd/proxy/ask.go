package main

import (
	"os"
	"time"

	"github.com/spf13/cobra"

	"postern/internal/config"
)

// asking is how a command finds the running postern.
type asking struct {
	file    string
	addr    string
	timeout time.Duration
}

func (a *asking) flags(cmd *cobra.Command, timeout time.Duration, what string) {
	cmd.Flags().StringVarP(&a.file, "config", "c", "", "configuration file")
	cmd.Flags().StringVar(&a.addr, "admin", "", "admin address, host:port or unix:/path")
	cmd.Flags().DurationVar(&a.timeout, "timeout", timeout, what)
}

// where returns the admin address and its token. With --admin no file is read,
// and cfg is nil. An address of "" is a postern that cannot be asked.
func (a *asking) where() (addr, token string, cfg *config.Config, err error) {
	addr, token = a.addr, os.Getenv("POSTERN_ADMIN_TOKEN")
	if addr != "" {
		return addr, token, nil, nil
	}
	if cfg, err = healthConfig(a.file); err != nil {
		return "", "", nil, err
	}
	if token == "" {
		token = cfg.Admin.Token.Reveal()
	}
	return cfg.Admin.Listen, token, cfg, nil
}
