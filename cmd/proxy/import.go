package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"postern/internal/app"
	"postern/internal/config"
)

func newImport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import",
		Short: "Take certificates and accounts over from certbot or autocert",
		Args:  unknownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newImportCertbot(), newImportAutocert())
	return cmd
}

// importFlags are those of every import.
type importFlags struct {
	file, data, directory string
	dryRun                bool
}

func (f *importFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.file, "config", "c", "", "configuration file")
	cmd.Flags().StringVar(&f.data, "data", "", "data folder (default: the configuration's)")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "say what would be done and do nothing")
}

// run imports from s and says what became of it.
func (f *importFlags) run(cmd *cobra.Command, s app.ImportSource) error {
	cfg, err := dataConfig(f.file, f.data)
	if err != nil {
		return &exitError{exitRefused, err}
	}
	s.DryRun, s.Directory = f.dryRun, f.directory
	if err := app.Import(cmd.Context(), cfg, s, cmd.OutOrStdout()); err != nil {
		return &exitError{exitRefused, err}
	}
	return nil
}

// dataConfig is the configuration whose data folder is meant: that of the file
// run would read, or the defaults, with the folder data if one is given.
func dataConfig(file, data string) (*config.Config, error) {
	cfg, err := config.Minimal("home.duckdns.org", "127.0.0.1:1") // the defaults, with the data folder of run --host --to
	if err != nil {
		return nil, err
	}
	cfg.Sites = nil
	path, err := config.Find(file, os.LookupEnv)
	switch {
	case err == nil:
		if cfg, err = config.Load(path); err != nil {
			return nil, err
		}
	case file != "":
		return nil, err
	}
	if data != "" {
		cfg.Data = data
	}
	return cfg, nil
}

func newImportCertbot() *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use:   "certbot [DIR]",
		Short: "Take over certbot's certificates and account",
		Long: `certbot reads certbot's folder (default /etc/letsencrypt) and brings every
certificate that renewal/*.conf lists, its key and the account into the data
folder. Nothing is asked of the certificate authority: the switch costs no
issuance, and the account keeps its place in the rate limits.

A certificate whose key does not fit or that has expired is left out; one that
is there and as new is kept. certbot's folder is not changed: turn certbot's
timer off afterwards (systemctl disable --now certbot.timer).

It usually needs root, because certbot's keys are root's; run it as
sudo -u USER with a copy that USER can read if postern runs as another user.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return errors.New("import certbot: want at most one folder; the command is `proxy import certbot /etc/letsencrypt`")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "/etc/letsencrypt"
			if len(args) == 1 {
				dir = args[0]
			}
			return f.run(cmd, app.ImportSource{Kind: "certbot", Dir: dir})
		},
	}
	f.add(cmd)
	return cmd
}

func newImportAutocert() *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use:   "autocert DIR",
		Short: "Take over what Go's autocert kept in a DirCache",
		Long: `autocert reads the folder that a Go program gave to autocert.DirCache, and
brings the certificates, their keys and the account into the data folder.
Nothing is asked of the certificate authority now; the account is looked up
there when it is first used.

autocert does not keep which authority it used: --directory tells, and without
it the first one of the configuration is meant, which is Let's Encrypt unless
it says otherwise.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("import autocert: want one folder; the command is `proxy import autocert DIR`")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.run(cmd, app.ImportSource{Kind: "autocert", Dir: args[0]})
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.directory, "directory", "", "directory URL of the authority that issued them")
	return cmd
}

// withBackup adds the commands of the backup to those about certificates.
func withBackup(certs *cobra.Command) *cobra.Command {
	certs.AddCommand(newCertsExport(), newCertsImport())
	return certs
}

func newCertsExport() *cobra.Command {
	var file, data string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write a backup of certificates, keys and accounts to standard output",
		Long: `export writes a tar file with the certificates, their private keys, the accounts
and the local authority of the data folder:

  umask 077; proxy certs export > postern.tar

Who has the file can pose as your sites. "proxy certs import" reads it.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := dataConfig(file, data)
			if err != nil {
				return &exitError{exitRefused, err}
			}
			out := cmd.OutOrStdout()
			if f, ok := out.(*os.File); ok {
				if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull {
					return &exitError{exitRefused, errors.New("certs export: standard output is a terminal, want a file; the command is `proxy certs export > postern.tar`")}
				}
			}
			n, err := app.Export(cfg, out)
			if err != nil {
				return &exitError{exitRefused, fmt.Errorf("certs export: %w", err)}
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%d files of %s; they hold private keys\n", n, cfg.Data)
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration file")
	cmd.Flags().StringVar(&data, "data", "", "data folder (default: the configuration's)")
	return cmd
}

func newCertsImport() *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Bring a backup made by export back",
		Long: `import reads a file of "proxy certs export" ("-" is standard input) into the
data folder. A certificate that is there and as new is kept, and so is an
account or a local authority. Nothing is written if the file holds anything
that export would not have put there.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("certs import: want one file; the command is `proxy certs import postern.tar`")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var in io.Reader = cmd.InOrStdin()
			if args[0] != "-" {
				file, err := os.Open(args[0])
				if err != nil {
					return &exitError{exitRefused, fmt.Errorf("certs import: %w", err)}
				}
				defer file.Close()
				in = file
			}
			return f.run(cmd, app.ImportSource{Kind: "backup", Backup: in})
		},
	}
	f.add(cmd)
	return cmd
}
