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

func newBan() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ban",
		Short: "See who is banned and why, ban, and let in again",
		Args:  unknownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SuggestionsMinimumDistance = 2
	cmd.AddCommand(newBanList(), newBanAdd(), newBanDel(), newBanWhy())
	return cmd
}

// askRunning finds the running postern and calls do with where it is.
func (a *asking) askRunning(ctx context.Context, what string, do func(ctx context.Context, addr, token string) error) error {
	addr, token, _, err := a.where()
	if err == nil && addr == "" {
		err = errors.New("admin.listen is off, so the running postern cannot be asked; set it to 127.0.0.1:9180 or unix:/run/postern/admin.sock")
	}
	if err == nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.timeout)
		defer cancel()
		err = do(ctx, addr, token)
	}
	if err != nil {
		return &exitError{exitRefused, fmt.Errorf("%s: %w", what, err)}
	}
	return nil
}

const askTimeout = 5 * time.Second

func newBanList() *cobra.Command {
	var ask asking
	var asJSON bool
	cmd := &cobra.Command{
		Use:        "list",
		SuggestFor: []string{"ls", "show"},
		Short:      "Show who is banned: why, since when, until when",
		Args:       noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return ask.askRunning(cmd.Context(), "ban list", func(ctx context.Context, addr, token string) error {
				list, err := app.Bans(ctx, addr, token)
				if err != nil {
					return err
				}
				if asJSON {
					return writeJSON(cmd, list)
				}
				return app.WriteBans(cmd.OutOrStdout(), list, time.Now())
			})
		},
	}
	ask.flags(cmd, askTimeout, "how long to wait for the answer")
	cmd.Flags().BoolVar(&asJSON, "json", false, "for programs: one array, an object for each ban")
	return cmd
}

func newBanAdd() *cobra.Command {
	var ask asking
	var ttl time.Duration
	var note string
	cmd := &cobra.Command{
		Use:        "add ADDRESS",
		SuggestFor: []string{"block"},
		Short:      "Ban an address or a network now",
		Long: `add bans ADDRESS: an address, an IPv4 /24, an IPv6 /64 or /48. An IPv6 address
stands for its /64 network. Addresses that are never banned (guard.never,
guard.allow, trusted_proxies, this machine's own) are refused. A ban it has
already is replaced.`,
		Args: oneAddress("ban add"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return ask.askRunning(cmd.Context(), "ban add", func(ctx context.Context, addr, token string) error {
				b, err := app.AddBan(ctx, addr, token, args[0], ttl, note)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is banned until %s\n", b.Network, b.Until.Local().Format("2006-01-02 15:04:05"))
				return err
			})
		},
	}
	ask.flags(cmd, askTimeout, "how long to wait for the answer")
	cmd.Flags().DurationVar(&ttl, "for", 24*time.Hour, "how long")
	cmd.Flags().StringVar(&note, "note", "", "why; list shows it")
	return cmd
}

func newBanDel() *cobra.Command {
	var ask asking
	cmd := &cobra.Command{
		Use:        "del ADDRESS",
		SuggestFor: []string{"remove", "rm", "delete", "unban"},
		Short:      "End a ban, and forget what led to it",
		Long: `del ends the ban of ADDRESS and forgets the ones before it and its score, so that
it begins again as if it were new. For a plain address the ban of its
neighbourhood ends too; a network given with its length is taken as it is.`,
		Args: oneAddress("ban del"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return ask.askRunning(cmd.Context(), "ban del", func(ctx context.Context, addr, token string) error {
				b, err := app.DelBan(ctx, addr, token, args[0])
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is not banned any more\n", b.Network)
				return err
			})
		},
	}
	ask.flags(cmd, askTimeout, "how long to wait for the answer")
	return cmd
}

func newBanWhy() *cobra.Command {
	var ask asking
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "why ADDRESS",
		Short: "Tell why an address is banned, or how far it is from it",
		Long: `why shows what the guard knows about ADDRESS: its ban or its neighbourhood's, the
score, and the last requests that counted, each with the rule it met and the
points it cost. Few requests are kept, and for the addresses seen last.`,
		Args: oneAddress("ban why"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return ask.askRunning(cmd.Context(), "ban why", func(ctx context.Context, addr, token string) error {
				c, err := app.WhyBanned(ctx, addr, token, args[0])
				if err != nil {
					return err
				}
				if asJSON {
					return writeJSON(cmd, c)
				}
				return app.WriteBanCase(cmd.OutOrStdout(), &c, time.Now())
			})
		},
	}
	ask.flags(cmd, askTimeout, "how long to wait for the answer")
	cmd.Flags().BoolVar(&asJSON, "json", false, "for programs: one object")
	return cmd
}

// oneAddress refuses anything but one argument.
func oneAddress(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 || args[0] == "" {
			return fmt.Errorf("%s: want one address; the command is `proxy %s 192.0.2.7`", what, what)
		}
		return nil
	}
}

func writeJSON(cmd *cobra.Command, v any) error {
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
