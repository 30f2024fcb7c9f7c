package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"postern/internal/app"
	"postern/internal/config"
	"postern/internal/doctor"
)

func newDoctor() *cobra.Command {
	var ask asking
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find the broken link between a caller and the application",
		Long: `doctor examines everything between a caller and the application: this machine,
the router, the public address, the records, the authority, certificates and
backends. It prints one table, then one line for each problem with what to do.
What stands on a broken link is skipped, so that one cause gives one FAIL.

It asks the running postern to examine itself, and examines from outside when
none runs. It needs no root, changes nothing and takes at most 15 seconds.

It exits with 0 when all is well, with 1 when something is odd (WARN), and
with 2 when something does not work (FAIL).`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), ask.timeout)
			defer cancel()
			r, err := examine(ctx, &ask)
			if err != nil {
				return &exitError{doctor.Report{Checks: []doctor.Finding{{Status: doctor.Fail}}}.ExitCode(), err}
			}
			if err := writeReport(cmd.OutOrStdout(), r, asJSON); err != nil {
				return err
			}
			if code := r.ExitCode(); code != 0 {
				return &exitError{code: code}
			}
			return nil
		},
	}
	ask.flags(cmd, 20*time.Second, "how long to wait for a running postern's answer")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// examine asks the running postern, or looks from outside.
func examine(ctx context.Context, ask *asking) (doctor.Report, error) {
	addr, token, cfg, err := ask.where()
	if err != nil && ask.addr != "" {
		return doctor.Report{}, fmt.Errorf("doctor: %w", err)
	}
	if err != nil {
		var bad config.Errors
		if errors.As(err, &bad) {
			return app.Unreadable(ctx, bad[0].File, bad), nil
		}
		return app.Unreadable(ctx, ask.file, err), nil
	}
	if addr != "" {
		r, err := app.AskDoctor(ctx, addr, token)
		if err == nil && len(ask.refused) > 0 {
			return app.RefusedFile(r, ask.refused[0].File, ask.refused), nil
		}
		if err == nil || cfg == nil || !app.NobodyAnswers(err) {
			return r, err
		}
	}
	return app.Examine(ctx, cfg), nil
}

func writeReport(w io.Writer, r doctor.Report, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	_, err := fmt.Fprint(w, r.Text())
	return err
}
