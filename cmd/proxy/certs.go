package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"postern/internal/app"
)

func newCerts() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "certs",
		Short: "Look after the certificates",
		Args:  unknownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SuggestionsMinimumDistance = 2
	cmd.AddCommand(newCertsList(), newCertsRenew(), newCertsCheck())
	return cmd
}

func newCertsList() *cobra.Command {
	var ask asking
	var asJSON bool
	cmd := &cobra.Command{
		Use:        "list",
		SuggestFor: []string{"ls", "show"},
		Short:      "Show every certificate: until when, what comes next, what is wrong",
		Long: `list shows the certificates of the running postern: issuer, key, until when,
when a new one is tried next, and the verdict about the name's DNS. Below it
stand what holds a certificate up and the last error, in the authority's own
words and in plain ones.

It finds the running postern as health does. When none runs, it reads the data
folder, says so, and asks nobody. It exits with 0 when it could tell, with 1
otherwise, whatever state the certificates are in: that is what health is for.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, note, err := listCerts(cmd.Context(), &ask)
			if err != nil {
				return &exitError{exitRefused, fmt.Errorf("certs list: %w", err)}
			}
			if note != "" {
				fmt.Fprintln(cmd.ErrOrStderr(), note)
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(list)
			}
			return app.WriteCerts(cmd.OutOrStdout(), list, note == "", time.Now())
		},
	}
	ask.flags(cmd, 5*time.Second, "how long to wait for the answer")
	cmd.Flags().BoolVar(&asJSON, "json", false, "for programs: one array, an object for each certificate")
	return cmd
}

// listCerts asks the running postern, or reads the disk when none runs; then
// note says so.
func listCerts(ctx context.Context, ask *asking) (list []app.Cert, note string, err error) {
	return runningOrStored(ctx, ask, app.Certs, app.StoredCerts, " holds")
}

func newCertsRenew() *cobra.Command {
	var ask asking
	var force bool
	cmd := &cobra.Command{
		Use:   "renew NAME",
		Short: "Get a new certificate for a name now",
		Long: `renew has the running postern get a new certificate for NAME now, whether or not
one is due, and waits for what becomes of it. The certificate held stays until
the new one is there. Who gives up waiting (Ctrl-C) does not end the attempt.

It does not wait out a pause after a failure. It stays within the hour's budget
of attempts, and tries nothing while the DNS is known to be broken: that would
fail, and count. --force tries all the same. It costs one attempt of this hour,
also when none is left; Let's Encrypt refuses a name for an hour after 5 that
fail, and gives out 5 certificates a week for the same names.

It exits with 0 when there is a new certificate, with 1 otherwise.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return errors.New("certs renew: want one name; the command is `proxy certs renew mypi.duckdns.org`")
			}
			return nil
		},
		ValidArgsFunction: completeCert(&ask),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, token, _, err := ask.where()
			if err == nil && addr == "" {
				err = errors.New("admin.listen is off, so the running postern cannot be asked; set it to 127.0.0.1:9180 or unix:/run/postern/admin.sock")
			}
			if err != nil {
				return &exitError{exitRefused, fmt.Errorf("certs renew: %w", err)}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), ask.timeout)
			defer cancel()
			began, err := app.RenewCert(ctx, addr, token, args[0], force)
			if err != nil {
				return &exitError{exitRefused, fmt.Errorf("certs renew: %w", err)}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: asked for a new certificate, which %s\n", began.Name, began.Cost)
			cert, err := app.WaitForCert(ctx, addr, token, began)
			if err != nil {
				return &exitError{exitRefused, fmt.Errorf("certs renew: %w", err)}
			}
			text, ok := app.RenewedCert(cert, time.Now())
			if !ok {
				return &exitError{exitRefused, errors.New("certs renew: " + text)}
			}
			fmt.Fprintln(cmd.OutOrStdout(), text)
			return nil
		},
	}
	ask.flags(cmd, 5*time.Minute, "how long to wait for the certificate")
	cmd.Flags().BoolVar(&force, "force", false, "try past the DNS check and the budget; costs one attempt of this hour")
	return cmd
}

// completeCert offers the names that the running postern has certificates for.
func completeCert(ask *asking) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		quick := *ask
		quick.timeout, quick.quiet = time.Second, true
		list, _, err := listCerts(cmd.Context(), &quick)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, c := range list {
			if c.Source != "file" {
				names = append(names, c.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func newCertsCheck() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "check NAME",
		Short: "Ask the DNS about a name the way a certificate authority would",
		Long: `check asks every name server of NAME, those above it and the resolvers of the
configuration for what a certificate authority asks for, prints each answer
(! marks what is missing, wrong or late) and what it means. It takes at most a
few seconds, spends no attempt at the authority, and needs no running postern.

It exits with 0 when the verdict is green, with 1 when it is amber or red. The
configuration is found as run finds it; without one the defaults are used.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return errors.New("certs check: want one name; the command is `proxy certs check mypi.duckdns.org`")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := healthConfig(file)
			if err != nil {
				return &exitError{exitRefused, err}
			}
			ok, err := app.CheckName(cmd.Context(), cfg, args[0], cmd.OutOrStdout())
			if err != nil {
				return &exitError{exitRefused, fmt.Errorf("certs check: %w", err)}
			}
			if !ok {
				return &exitError{code: exitRefused}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration file")
	return cmd
}
