package tlsmgr

import (
	"archive/tar"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A backup is a tar of the files of the data folder that cost something to get
// again: certificates with their keys, accounts, the local authority, and what
// was asked of the authorities so far.

// The bounds on a backup that is read.
const (
	maxBackup      = 64 << 20
	maxBackupFiles = 20000
)

// backupParts are the first elements of the paths in a backup.
func backupParts() []string { return []string{"certificates", "acme", "local-ca", "attempts.json"} }

// Export writes the backup of a data folder to w and returns the number of
// files. It holds private keys. The Manager of the folder may be running.
func Export(dir string, w io.Writer) (files int, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, fmt.Errorf("data folder: %w", err)
	}
	defer root.Close()
	tw := tar.NewWriter(w)
	for _, part := range backupParts() {
		err := fs.WalkDir(root.FS(), part, func(name string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // gone since, or never there
			}
			if err != nil || !e.Type().IsRegular() || !backedUp(name) {
				return err
			}
			raw, err := fs.ReadFile(root.FS(), name)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(raw)), ModTime: time.Now(), Format: tar.FormatPAX}
			if info, err := e.Info(); err == nil {
				h.ModTime = info.ModTime()
			}
			if err := tw.WriteHeader(h); err != nil {
				return err
			}
			files++
			_, err = tw.Write(raw)
			return err
		})
		if err != nil {
			return files, fmt.Errorf("backup: %w", err)
		}
	}
	return files, tw.Close()
}

// backedUp leaves out what was moved aside and what a crash left behind.
func backedUp(name string) bool {
	for _, el := range strings.Split(name, "/") {
		if strings.HasPrefix(el, ".") || strings.Contains(el, ".unreadable-") {
			return false
		}
	}
	return true
}

// ImportBackup brings a backup made by Export into the data folder. The whole
// of it is read and judged before anything is written; a path that leads out
// of the folder, or to anywhere a backup has nothing, is an error. What is
// there and as new is kept.
func ImportBackup(ctx context.Context, r io.Reader, cfg ImportConfig) ([]Imported, error) {
	im, err := newImporter(cfg)
	if err != nil {
		return nil, err
	}
	all, err := readBackup(r)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(all))
	for n := range all {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		if path.Ext(n) == ".crt" && strings.HasPrefix(n, "certificates/") {
			err = im.backupSite(ctx, strings.TrimSuffix(n, ".crt"), all)
		} else if !strings.HasPrefix(n, "certificates/") {
			err = im.backupFile(ctx, n, all)
		}
		if err != nil {
			return im.done, err
		}
	}
	return im.done, nil
}

// readBackup reads a tar into memory.
func readBackup(r io.Reader) (map[string][]byte, error) {
	out := map[string][]byte{}
	tr := tar.NewReader(r)
	total := 0
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("backup: %w; want a file made by `proxy certs export`", err)
		}
		name := strings.TrimSuffix(strings.TrimPrefix(h.Name, "./"), "/")
		part, _, _ := strings.Cut(name, "/")
		switch {
		case h.Typeflag == tar.TypeDir && (name == "." || name == ""):
			continue
		case name != path.Clean(name) || !filepath.IsLocal(filepath.FromSlash(name)):
			return nil, fmt.Errorf("backup: %q is no path within a data folder", h.Name)
		case strings.ContainsAny(name, "\\\x00") || strings.Count(name, "/") > 5 || !slices.Contains(backupParts(), part) || !backedUp(name):
			return nil, fmt.Errorf("backup: %q is nothing that a backup holds", h.Name)
		case h.Typeflag == tar.TypeDir:
			continue
		case h.Typeflag != tar.TypeReg:
			return nil, fmt.Errorf("backup: %q is a link or a device, want plain files", h.Name)
		case h.Size > maxImportFile || total+int(h.Size) > maxBackup || len(out) == maxBackupFiles:
			return nil, fmt.Errorf("backup: larger than any data folder at %q", h.Name)
		}
		raw, err := io.ReadAll(io.LimitReader(tr, maxImportFile))
		if err != nil {
			return nil, fmt.Errorf("backup: %w", err)
		}
		total += len(raw)
		out[name] = raw
	}
	if len(out) == 0 {
		return nil, errors.New("backup: it holds nothing; want a file made by `proxy certs export`")
	}
	return out, nil
}

// backupSite takes one certificate. base is its path without the extension.
func (im *importer) backupSite(ctx context.Context, base string, all map[string][]byte) error {
	i := Imported{What: "certificate", From: base + ".crt"}
	parts := strings.Split(base, "/") // certificates, issuer, name, name
	chain, key, meta := all[base+".crt"], all[base+".key"], all[base+".json"]
	pair, err := tls.X509KeyPair(chain, key)
	switch {
	case len(parts) != 4 || parts[2] != parts[3]:
		im.skip(i, "it is not where certificates are")
		return nil
	case err != nil:
		im.skip(i, "%s", strings.TrimPrefix(err.Error(), "tls: "))
		return nil
	case certificateMeta(meta) != nil:
		im.skip(i, "its third file is missing or broken")
		return nil
	}
	i.Name, i.Authority, i.NotAfter = strings.Replace(parts[2], "wildcard_", "*", 1), parts[1], pair.Leaf.NotAfter
	if im.heldSince(i, parts[1], parts[2], pair.Leaf) {
		return nil
	}
	i.Taken = true
	im.note(i)
	if im.cfg.DryRun {
		return nil
	}
	return errors.Join(im.st.Store(ctx, base+".key", key), im.st.Store(ctx, base+".crt", chain), im.st.Store(ctx, base+".json", meta))
}

// backupFile takes a file that is not of a certificate, if there is none yet.
// The files of an account or of the local authority belong together: they come
// all or not at all.
func (im *importer) backupFile(ctx context.Context, name string, all map[string][]byte) error {
	i := Imported{What: "account", Name: "", From: name}
	if !strings.HasPrefix(name, "acme/") {
		i.What = "state"
	}
	dir := path.Dir(name)
	for n := range all {
		if path.Dir(n) != dir {
			continue
		}
		if _, err := os.Lstat(im.st.Filename(n)); err == nil && !im.wrote(n) {
			im.skip(i, "one is there and is kept")
			return nil
		}
	}
	i.Taken = true
	im.note(i)
	if im.cfg.DryRun {
		return nil
	}
	return im.st.Store(ctx, name, all[name])
}

// wrote reports whether the file was there only because of this import.
func (im *importer) wrote(name string) bool {
	return slices.ContainsFunc(im.done, func(i Imported) bool { return i.Taken && i.From == name })
}
