package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postern/internal/app"
	"postern/internal/config"
)

// asking is how a command finds the running postern.
type asking struct {
	file    string
	addr    string
	timeout time.Duration
	cmd     *cobra.Command
	quiet   bool          // for completion: no notes
	refused config.Errors // what is wrong with the file while a postern runs; set by where
}

func (a *asking) flags(cmd *cobra.Command, timeout time.Duration, what string) {
	a.cmd = cmd
	cmd.Flags().StringVarP(&a.file, "config", "c", "", "configuration file")
	cmd.Flags().StringVar(&a.addr, "admin", "", "admin address, host:port or unix:/path")
	cmd.Flags().DurationVar(&a.timeout, "timeout", timeout, what)
}

// where returns the admin address and its token. With --admin no file is read,
// and cfg is nil. An address of "" is a postern that cannot be asked.
//
// A file that somebody is editing, and that would be refused, does not keep
// the running postern from being asked, as it goes on under the file before:
// then cfg is nil too, and a note goes to standard error.
func (a *asking) where() (addr, token string, cfg *config.Config, err error) {
	addr, token = a.addr, os.Getenv("POSTERN_ADMIN_TOKEN")
	if addr != "" {
		if _, _, err := net.SplitHostPort(addr); err != nil && !strings.HasPrefix(addr, "unix:/") {
			return "", "", nil, fmt.Errorf("--admin: %q, want host:port such as 127.0.0.1:9180, or unix:/path", addr)
		}
		return addr, token, nil, nil
	}
	if cfg, err = healthConfig(a.file); err != nil {
		if addr, token, ok := a.despite(err, token); ok {
			return addr, token, nil, nil
		}
		return "", "", nil, err
	}
	if token == "" {
		token = cfg.Admin.Token.Reveal()
	}
	return cfg.Admin.Listen, token, cfg, nil
}

// despite finds a postern that answers although its file would be refused now.
func (a *asking) despite(refused error, token string) (addr, _ string, ok bool) {
	if !errors.As(refused, &a.refused) || len(a.refused) == 0 {
		return "", "", false
	}
	file := a.refused[0].File
	admin, ok := config.AdminOf(file)
	if !ok || admin.Listen == "" {
		return "", "", false
	}
	if token == "" {
		token = admin.Token.Reveal()
	}
	ctx, cancel := context.WithTimeout(a.cmd.Context(), time.Second)
	defer cancel()
	if _, _, err := app.CheckHealth(ctx, admin.Listen, token); err != nil {
		return "", "", false
	}
	if !a.quiet {
		fmt.Fprintf(a.cmd.ErrOrStderr(), "note: %s would be refused as it is now, `proxy validate` tells why; the running postern is asked all the same\n", file)
	}
	return admin.Listen, token, true
}

// runningOrStored asks the running postern, or reads what is stored when none
// runs; then note says so, and holds ends its sentence.
func runningOrStored[T any](ctx context.Context, ask *asking, running func(ctx context.Context, addr, token string) ([]T, error),
	stored func(*config.Config) ([]T, error), holds string) (list []T, note string, err error) {
	addr, token, cfg, err := ask.where()
	if err != nil {
		return nil, "", err
	}
	note = "admin.listen is off, so a running postern cannot be asked"
	if addr != "" {
		ctx, cancel := context.WithTimeout(ctx, ask.timeout)
		defer cancel()
		list, err := running(ctx, addr, token)
		if err == nil || cfg == nil || !app.NobodyAnswers(err) {
			return list, "", err
		}
		note = "postern is not running (nobody answers at " + addr + ")"
	}
	list, err = stored(cfg)
	return list, note + "; this is what " + cfg.Data + holds, err
}
