package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"postern/internal/app"
	"postern/internal/config"
)

func newCaller() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "caller",
		Short: "Look after the known callers: keys, certificates, who calls now",
		Args:  unknownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SuggestionsMinimumDistance = 2
	cmd.AddCommand(newCallerAdd(), newCallerRotate(), newCallerRevoke(), newCallerList(), newCallerTest(), newCallerWatch())
	return cmd
}

// oneName refuses anything but one argument.
func oneName(cmd *cobra.Command, args []string) error {
	if len(args) != 1 || args[0] == "" {
		return fmt.Errorf("%s: want the name of one caller; the command is `%s orders`", cmd.CommandPath(), cmd.CommandPath())
	}
	return nil
}

// change does something to the store of callers and has the running postern
// read it again.
func (a *asking) change(cmd *cobra.Command, do func(cfg *config.Config) error) error {
	what := "caller " + cmd.Name()
	cfg, err := healthConfig(a.file)
	if err == nil && cfg.File == "" {
		err = errors.New("there is no configuration file, and without one there are no callers; `proxy run -c postern.yaml` reads one")
	}
	if err == nil {
		err = do(cfg)
	}
	if err != nil {
		return &exitError{exitRefused, fmt.Errorf("%s: %w", what, err)}
	}
	addr, token, _, err := a.where()
	if err == nil && addr == "" {
		err = errors.New("admin.listen is off")
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
		defer cancel()
		if err = app.ReloadCallers(ctx, addr, token); app.NobodyAnswers(err) {
			return nil // it reads the store when it starts
		}
	}
	if err != nil {
		return &exitError{exitRefused, fmt.Errorf("%s: done, but the running postern does not know yet; reload it: %w", what, err)}
	}
	return nil
}

func newCallerAdd() *cobra.Command {
	var ask asking
	var o app.NewCaller
	cmd := &cobra.Command{
		Use:        "add NAME",
		SuggestFor: []string{"create", "new"},
		Short:      "Make an API key, or a client certificate, for a caller",
		Long: `add makes an API key of 256 random bits for the caller NAME and prints it, this
once: the data folder keeps its SHA-256 alone. A caller has two good keys at
most. With --mtls it makes a private key and a client certificate instead and
prints both in PEM.

The key alone goes to standard output, what there is to know to standard error.
A running postern knows of it at once. NAME is written into the configuration as
callers: {NAME: {}}, or {NAME: {mtls: true}}, and into callers of a site or
route.`,
		Args: oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name = args[0]
			return ask.change(cmd, func(cfg *config.Config) error {
				return app.AddCaller(cfg, o, cmd.OutOrStdout(), cmd.ErrOrStderr())
			})
		},
	}
	ask.flags(cmd, askTimeout, "how long to wait for the running postern")
	cmd.Flags().BoolVar(&o.MTLS, "mtls", false, "a client certificate instead of a key")
	cmd.Flags().DurationVar(&o.Expires, "expires", 0, "how long it is good (default: a key without end, a certificate a year)")
	return cmd
}

func newCallerRotate() *cobra.Command {
	var ask asking
	o := app.NewCaller{Rotate: true}
	cmd := &cobra.Command{
		Use:   "rotate NAME",
		Short: "Make another API key for a caller; the one before ends later",
		Long: `rotate makes another API key for the caller NAME and prints it, this once. The
newest of the keys it had stays good for --overlap, so that nobody is locked
out while the new one is put in place; an older one ends now.`,
		Args: oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name = args[0]
			return ask.change(cmd, func(cfg *config.Config) error {
				return app.AddCaller(cfg, o, cmd.OutOrStdout(), cmd.ErrOrStderr())
			})
		},
	}
	ask.flags(cmd, askTimeout, "how long to wait for the running postern")
	cmd.Flags().DurationVar(&o.Overlap, "overlap", 7*24*time.Hour, "how long the key before stays good; 0: it ends now")
	cmd.Flags().DurationVar(&o.Expires, "expires", 0, "how long the new key is good (default: without end)")
	return cmd
}

func newCallerRevoke() *cobra.Command {
	var ask asking
	var id string
	cmd := &cobra.Command{
		Use:        "revoke NAME",
		SuggestFor: []string{"remove", "rm", "delete", "del"},
		Short:      "Take back keys and certificates of a caller",
		Long: `revoke takes back every API key and certificate of the caller NAME that was
made by add and rotate; with --key only the one with that id or serial, as list
shows it. They are refused from now on, on open connections too.`,
		Args: oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			return ask.change(cmd, func(cfg *config.Config) error {
				n, err := app.RevokeCaller(cfg, args[0], id)
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "%s: %d taken back\n", args[0], n)
				}
				return err
			})
		},
	}
	ask.flags(cmd, askTimeout, "how long to wait for the running postern")
	cmd.Flags().StringVar(&id, "key", "", "the id of a key, or the serial of a certificate")
	return cmd
}

func newCallerList() *cobra.Command {
	var ask asking
	var asJSON bool
	cmd := &cobra.Command{
		Use:        "list",
		SuggestFor: []string{"ls", "show"},
		Short:      "Show the callers, how each proves itself, and when keys were last used",
		Long: `list shows a line for each way in which a caller can prove itself. Its state is
ok, expired, revoked, unconfigured (there is a key, and the configuration does
not name the caller) or missing (the caller is named, and has no key or
certificate that is good: make one with add).`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, note, err := listCallers(cmd.Context(), &ask)
			if err != nil {
				return &exitError{exitRefused, fmt.Errorf("caller list: %w", err)}
			}
			if note != "" {
				fmt.Fprintln(cmd.ErrOrStderr(), note)
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(list)
			}
			return app.WriteCallers(cmd.OutOrStdout(), list)
		},
	}
	ask.flags(cmd, askTimeout, "how long to wait for the answer")
	cmd.Flags().BoolVar(&asJSON, "json", false, "for programs: one array, an object for each way a caller proves itself")
	return cmd
}

// listCallers asks the running postern, or reads the disk when none runs; then
// note says so.
func listCallers(ctx context.Context, ask *asking) (list []app.CallerInfo, note string, err error) {
	return runningOrStored(ctx, ask, app.Callers, app.StoredCallers, " and the configuration hold")
}

func newCallerTest() *cobra.Command {
	var ask asking
	var language string
	cmd := &cobra.Command{
		Use:   "test NAME --snippet node|python|go",
		Short: "Print a handler that calls as NAME, ready to be used",
		Long: `test prints a Lambda handler for the caller NAME, with the host names and the
route that the configuration gives it. It uses the helper files in clients/.
Secrets are not in it: it reads them from the environment.`,
		Args: oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := healthConfig(ask.file)
			var text string
			if language == "" {
				err = fmt.Errorf("want the language; the command is `proxy caller test %s --snippet node`, or python, or go", args[0])
			}
			if err == nil {
				text, err = app.CallerSnippet(cfg, args[0], language)
			}
			if err != nil {
				return &exitError{exitRefused, fmt.Errorf("caller test: %w", err)}
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), text)
			return err
		},
	}
	cmd.Flags().StringVarP(&ask.file, "config", "c", "", "configuration file")
	cmd.Flags().StringVar(&language, "snippet", "", "node, python or go")
	return cmd
}

func newCallerWatch() *cobra.Command {
	var ask asking
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Show who calls, as it happens: caller, method, result",
		Long: `watch prints a line for each request that brings credentials, or that is for a
route which wants them, until Ctrl-C. What comes faster than it can be shown is
counted.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			addr, token, _, err := ask.where()
			if err == nil && addr == "" {
				err = errors.New("admin.listen is off, so the running postern cannot be asked; set it to 127.0.0.1:9180 or unix:/run/postern/admin.sock")
			}
			if err == nil {
				err = app.WatchCallers(cmd.Context(), addr, token, cmd.OutOrStdout())
			}
			if err != nil {
				return &exitError{exitRefused, fmt.Errorf("caller watch: %w", err)}
			}
			return nil
		},
	}
	ask.cmd = cmd
	cmd.Flags().StringVarP(&ask.file, "config", "c", "", "configuration file")
	cmd.Flags().StringVar(&ask.addr, "admin", "", "admin address, host:port or unix:/path")
	return cmd
}
