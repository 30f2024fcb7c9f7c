package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"postern/internal/app"
	"postern/internal/config"
)

func newNotify() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "notify",
		Short: "Look after the messages to people",
		Args:  unknownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SuggestionsMinimumDistance = 2
	cmd.AddCommand(newNotifyTest())
	return cmd
}

func newNotifyTest() *cobra.Command {
	var file, only string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "test",
		Short: "Send a test message through every channel and tell what came back",
		Long: `test sends a message through every channel of the configuration, at once and
whatever its topics and quiet hours are, and prints a line for each: delivered,
or why not. It does not need a running postern, and changes nothing in one.

It exits with 0 when every channel took the message, with 1 otherwise.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(file)
			if err == nil {
				err = app.TestChannels(cmd.Context(), cfg, only, timeout, cmd.OutOrStdout())
			}
			if err != nil {
				return &exitError{exitRefused, fmt.Errorf("notify test: %w", err)}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration file")
	cmd.Flags().StringVar(&only, "channel", "", "only the channel of this name")
	cmd.Flags().DurationVar(&timeout, "timeout", 15*time.Second, "how long to wait for each channel")
	return cmd
}

// loadConfig reads the file that run would read.
func loadConfig(file string) (*config.Config, error) {
	path, err := config.Find(file, os.LookupEnv)
	if err != nil {
		return nil, err
	}
	return config.Load(path)
}
