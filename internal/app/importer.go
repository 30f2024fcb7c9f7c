package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"postern/internal/config"
	"postern/internal/tlsmgr"
)

// ImportSource is where certificates are imported from.
type ImportSource struct {
	Kind      string    // "certbot", "autocert" or "backup"
	Dir       string    // the folder of certbot or autocert
	Backup    io.Reader // a file of Export
	Directory string    // autocert: the authority's; empty: the first of the configuration
	DryRun    bool
}

// Import brings certificates and accounts into the data folder of cfg, and
// writes to w what became of each.
func Import(ctx context.Context, cfg *config.Config, from ImportSource, w io.Writer) error {
	if !from.DryRun {
		if err := ensureData(cfg.Data); err != nil {
			return err
		}
	}
	t := tlsConfig(cfg)
	opt := tlsmgr.ImportConfig{Dir: cfg.Data, Email: t.Email, Directory: from.Directory, DryRun: from.DryRun}
	if opt.Directory == "" && len(t.ACME) > 0 {
		opt.Directory = t.ACME[0].Directory
	}
	var done []tlsmgr.Imported
	var err error
	switch from.Kind {
	case "certbot":
		done, err = tlsmgr.ImportCertbot(ctx, from.Dir, opt)
	case "autocert":
		done, err = tlsmgr.ImportAutocert(ctx, from.Dir, opt)
	case "backup":
		done, err = tlsmgr.ImportBackup(ctx, from.Backup, opt)
	default:
		return fmt.Errorf("import: %q is no source", from.Kind)
	}
	if !from.DryRun {
		err = errors.Join(err, giveBack(cfg.Data))
	}
	return errors.Join(err, writeImported(cfg, done, from, w))
}

// writeImported writes a table, and what else is to be done.
func writeImported(cfg *config.Config, done []tlsmgr.Imported, from ImportSource, w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	taken := 0
	for _, i := range done {
		what := "kept"
		switch {
		case i.Taken && from.DryRun:
			what = "would import"
		case i.Taken:
			what = "imported"
		case !strings.Contains(i.Why, "there"):
			what = "left out"
		}
		if i.Taken {
			taken++
		}
		detail := i.Why
		if i.Taken && !i.NotAfter.IsZero() {
			detail = "until " + i.NotAfter.UTC().Format(time.DateOnly)
		}
		name := i.Name
		if name == "" {
			name = i.From
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", what, i.What, name, detail) // Flush tells
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, note := range importNotes(cfg, done, from.Kind) {
		if _, err := fmt.Fprintln(w, "note: "+note); err != nil {
			return err
		}
	}
	last := fmt.Sprintf("%d of %d imported into %s; a running postern serves them after a restart", taken, len(done), cfg.Data)
	if from.DryRun {
		last = fmt.Sprintf("%d of %d would be imported into %s; nothing was changed", taken, len(done), cfg.Data)
	}
	_, err := fmt.Fprintln(w, last)
	return err
}

// importNotes are the reasons why something imported will not be used.
func importNotes(cfg *config.Config, done []tlsmgr.Imported, kind string) []string {
	var out []string
	add := func(format string, args ...any) {
		if s := fmt.Sprintf(format, args...); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	var hosts []string
	for _, s := range cfg.Sites {
		hosts = append(hosts, s.Hosts...)
	}
	for _, i := range done {
		if !i.Taken {
			continue
		}
		known := slices.ContainsFunc(cfg.TLS.ACME, func(a config.ACME) bool { return a.Directory == i.Authority })
		if kind != "backup" && !known {
			add("%s is not in tls.acme, so what it issued is not used until it is", i.Authority)
		}
		if i.What == "certificate" && len(hosts) > 0 && !slices.Contains(hosts, i.Name) {
			add("no site has the host %s, so its certificate is not used until one has", i.Name)
		}
	}
	return out
}

// Export writes a backup of the data folder of cfg to w: certificates with
// their private keys, accounts, the local authority.
func Export(cfg *config.Config, w io.Writer) (files int, err error) {
	files, err = tlsmgr.Export(cfg.Data, w)
	if err == nil && files == 0 {
		return 0, fmt.Errorf("data folder %s: it holds no certificate and no account", cfg.Data)
	}
	return files, err
}
