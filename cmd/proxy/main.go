// Command proxy is postern: the front door of a home server.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// The exit codes, those of caddy: a service manager need not start again what
// exited with 1.
const (
	exitRefused = 1 // the start was refused: configuration, ports, data folder
	exitForced  = 2 // a second signal
	exitCrashed = 3 // an essential part failed while running
)

// exitError carries an exit code up to main.
type exitError struct {
	code int
	err  error // nil: everything was said already
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	ctx, stop := untilSignal()
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(os.Stderr, text)
	}
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	return exitRefused
}

// untilSignal returns a context that ends with the first SIGTERM or SIGINT;
// the second ends the process at once.
func untilSignal() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() { // lives as long as the process
		<-signals
		cancel()
		<-signals
		os.Exit(exitForced)
	}()
	return ctx, cancel
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "proxy",
		Short: "postern, the front door of a home server",
		Long: `postern takes the ports 80 and 443 your router forwards, gets its certificates
by itself, turns scanners away and hands your callers' requests to your app.

Try it:      proxy demo
One app:     proxy run --host mypi.duckdns.org --to 127.0.0.1:3000
With a file: proxy run -c postern.yaml`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          unknownCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SuggestionsMinimumDistance = 2
	root.CompletionOptions.DisableDefaultCmd = true // ours refuses what it does not know
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w; `%s --help` lists the flags", err, cmd.CommandPath())
	})
	root.AddCommand(newRun(), newValidate(), newDemo(), newHealth(), newDoctor(), withBackup(newCerts()), newBan(), newCaller(), newImport(), newNotify(), newVersion(), newCompletion())
	return root
}

// unknownCommand refuses the arguments of root, which are commands that do
// not exist.
func unknownCommand(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if args[0] == "reload" || args[0] == "stop" {
		return fmt.Errorf("unknown command %q; the running process is told by its service manager or a signal: %s", args[0],
			map[string]string{
				"reload": "`systemctl reload postern` or `kill -HUP PID` reads the file again",
				"stop":   "`systemctl stop postern` or `kill PID` lets requests finish",
			}[args[0]])
	}
	meant := ""
	if near := root.SuggestionsFor(args[0]); len(near) > 0 {
		meant = fmt.Sprintf("did you mean %q? ", near[0])
	}
	return fmt.Errorf("unknown command %q; %s`%s --help` lists the commands", args[0], meant, root.CommandPath())
}

// noArgs refuses arguments of a command that takes flags only.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("%s takes no argument %q; `%s --help` lists the flags", cmd.CommandPath(), args[0], cmd.CommandPath())
}
