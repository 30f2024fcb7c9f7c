package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"os"
	"os/signal"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"postern/internal/app"
	"postern/internal/config"
)

func newRun() *cobra.Command {
	var file, host, to string
	cmd := &cobra.Command{
		Use:        "run",
		SuggestFor: []string{"start", "serve"},
		Short:      "Serve until told to stop",
		Long: `run serves until SIGTERM or SIGINT, finishing requests in flight; a second
signal ends it at once. SIGHUP or SIGUSR1 reads the configuration again: a bad
file changes nothing and is told in the log.

The configuration is the first of: --config, $POSTERN_CONFIG, ./postern.yaml,
/etc/postern/postern.yaml. For one host and one backend, --host and --to do
without a file.

Exit codes: 0 stopped, 1 the start was refused (do not start again before
something changed), 2 ended by a second signal, 3 failed while running.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			load, err := loader(file, host, to)
			if err != nil {
				return &exitError{exitRefused, err}
			}
			return serve(cmd.Context(), load, cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration file")
	cmd.Flags().StringVar(&host, "host", "", "host name to serve, without a file; needs --to")
	cmd.Flags().StringVar(&to, "to", "", "backend for --host, such as 127.0.0.1:3000")
	return cmd
}

// loader returns what reads the configuration, at the start and at reloads.
func loader(file, host, to string) (func() (*config.Config, error), error) {
	if host != "" || to != "" {
		if file != "" {
			return nil, errors.New("--config: give either a file or --host and --to")
		}
		if host == "" || to == "" {
			return nil, errors.New("--host and --to belong together: proxy run --host mypi.duckdns.org --to 127.0.0.1:3000")
		}
		return func() (*config.Config, error) { return config.Minimal(host, to) }, nil
	}
	path, err := config.Find(file, os.LookupEnv)
	if err != nil {
		return nil, err
	}
	return func() (*config.Config, error) { return config.Load(path) }, nil
}

func serve(ctx context.Context, load func() (*config.Config, error), log io.Writer) error {
	cfg, err := load()
	if err != nil {
		return &exitError{exitRefused, err}
	}
	signal.Ignore(syscall.SIGPIPE) // who reads the log may go away; the requests stay
	for _, w := range cfg.Warnings {
		fmt.Fprintln(log, "warning: "+w.String())
	}
	boundMemory()
	a, err := app.New(cfg, app.Options{Version: version(), Log: log, Load: load, Notify: notifySystemd})
	if err != nil {
		return &exitError{exitRefused, err}
	}
	stdlog.SetFlags(0)
	stdlog.SetOutput(a.LibraryLog()) // quic-go tells of small UDP buffers there
	stop := reloadOnSignal(ctx, a)
	defer stop()
	if err := a.Run(ctx); err != nil {
		return &exitError{exitCrashed, err}
	}
	return nil
}

// reloadOnSignal reloads at SIGHUP (nginx's habit) and SIGUSR1 (caddy's).
func reloadOnSignal(ctx context.Context, a *app.App) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGUSR1)
	go func() { // ends with ctx
		for {
			select {
			case <-ctx.Done():
				return
			case <-signals:
				_ = a.Reload() // it says in the log what is wrong, and nothing changes
			}
		}
	}()
	return func() { signal.Stop(signals) }
}

// notifySystemd tells systemd a state; without systemd it does nothing.
func notifySystemd(state string) {
	_, _ = daemon.SdNotify(false, state) // nobody to tell it to
}
