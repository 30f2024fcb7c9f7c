package main

import (
	"errors"
	"fmt"

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
	cmd.AddCommand(newCertsCheck())
	return cmd
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
