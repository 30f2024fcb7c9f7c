package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postern/internal/app"
	"postern/internal/config"
)

func newValidate() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:        "validate",
		SuggestFor: []string{"check", "configtest", "lint"},
		Short:      "Check the configuration and say everything that is wrong",
		Long: `validate reads the configuration as run would, and prints every error with
file, line, key and the way out. It reads the certificate files too. It exits
with 0 when run would accept the file, with 1 otherwise; warnings do not count.
Ports and the data folder are not touched.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := config.Find(file, os.LookupEnv)
			if err != nil {
				return &exitError{exitRefused, err}
			}
			cfg, err := config.Load(path)
			if err != nil {
				return &exitError{exitRefused, err}
			}
			for _, w := range cfg.Warnings {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning: "+w.String())
			}
			if err := app.CheckFiles(cfg, cmd.ErrOrStderr()); err != nil {
				return &exitError{exitRefused, fmt.Errorf("%s: %w", path, err)}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: ok, %s\n", path, app.Summary(cfg))
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration file")
	return cmd
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintf(cmd.OutOrStdout(), "postern %s %s %s/%s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		},
	}
}

// version is the module's version as the Go toolchain stamped it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}

func newCompletion() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion " + strings.Join(shells, "|"),
		Short: "Print the completion script for a shell",
		Long: `completion prints the script that completes commands and flags in a shell:

  bash:        source <(proxy completion bash)
  zsh:         proxy completion zsh > "${fpath[1]}/_proxy"
  fish:        proxy completion fish > ~/.config/fish/completions/proxy.fish
  powershell:  proxy completion powershell | Out-String | Invoke-Expression`,
		ValidArgs: shells,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || !slices.Contains(shells, args[0]) {
				return fmt.Errorf("completion: want one of %s; the command is `proxy completion %s`", strings.Join(shells, ", "), shells[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			root, out := cmd.Root(), cmd.OutOrStdout()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(out, true)
			case "zsh":
				return root.GenZshCompletion(out)
			case "fish":
				return root.GenFishCompletion(out, true)
			}
			return root.GenPowerShellCompletionWithDesc(out)
		},
	}
}

func newHealth() *cobra.Command {
	var ask asking
	cmd := &cobra.Command{
		Use:        "health",
		SuggestFor: []string{"status"},
		Short:      "Ask the running postern how it is",
		Long: `health prints the health tree of the running postern. It exits with 0 when
nothing fails, with 1 when something does or nobody answers: what a
container's health check wants. It finds the admin address in the
configuration, as run does; --admin names it directly.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			addr, token, _, err := ask.where()
			if err != nil {
				return &exitError{exitRefused, err}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), ask.timeout)
			defer cancel()
			text, healthy, err := app.CheckHealth(ctx, addr, token)
			if err != nil {
				return &exitError{exitRefused, err}
			}
			fmt.Fprint(cmd.OutOrStdout(), text)
			if !healthy {
				return &exitError{code: exitRefused}
			}
			return nil
		},
	}
	ask.flags(cmd, 5*time.Second, "how long to wait for the answer")
	return cmd
}

// healthConfig reads the file run would read; without one, run was started
// with --host and --to, and has the defaults.
func healthConfig(file string) (*config.Config, error) {
	path, err := config.Find(file, os.LookupEnv)
	if err != nil {
		if file != "" {
			return nil, err
		}
		return config.Default(), nil
	}
	return config.Load(path)
}

func newDemo() *cobra.Command {
	var o app.DemoOptions
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the main job on this machine, without root, internet or a file",
		Long: `demo starts a small backend, serves it at https://localhost:8443 with a
certificate from a local authority, sends itself good calls and scanner
probes, prints what became of each, and serves on until Ctrl-C.

With --once it uses free ports and ends after the table: with 0 if every good
call was answered by the backend over verified TLS and every probe was
refused, with 1 otherwise.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Out, o.Version = cmd.OutOrStdout(), version()
			if err := app.Demo(cmd.Context(), o); err != nil {
				return &exitError{exitRefused, err}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&o.Once, "once", false, "free ports, one round, then exit")
	cmd.Flags().StringVar(&o.Data, "data", "", "data folder (default: a folder of its own in the user's data folder; with --once: a temporary one)")
	return cmd
}
