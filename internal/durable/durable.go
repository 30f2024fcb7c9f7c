// Package durable writes small state files so that a power cut leaves the old
// or the new one, never a mixture and never an empty file.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// WriteFile makes data the content of the file at path, with exactly the
// permission bits of perm (the umask does not apply). The folder must exist.
//
// Whoever opens path sees the old content or the new one in full, also after
// a crash or a power cut, and with several writers at once: the last one wins
// as a whole. When WriteFile returns nil, the new content has reached the
// disk. When it returns an error, path holds the old content, unless the
// error comes from the very last step, the folder's own sync: then path holds
// the new one, but a power cut may undo that.
//
// The content is built in a file named "."+base+".*.tmp" in the same folder.
// It is removed on every error; a crash may leave it behind, and nothing ever
// reads it. A path that is a symbolic link is replaced, its target is left
// alone. Safe for concurrent use.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	dir, base := filepath.Split(path)
	if base == "" {
		return fmt.Errorf("%q: a file to write: %w", path, fs.ErrInvalid)
	}
	if dir == "" {
		dir = "."
	}
	tmp, err := writeTemp(dir, base, data, perm)
	if err != nil {
		return fmt.Errorf("%s: write: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		os.Remove(tmp)
		return fmt.Errorf("%s: put in place: %w", path, err)
	}
	if err := syncDir(dir); err != nil {
		return fmt.Errorf("%s: sync its folder: %w", path, err)
	}
	return nil
}

// writeTemp writes data to a new file in dir and brings it to the disk. On an
// error nothing is left behind.
func writeTemp(dir, base string, data []byte, perm fs.FileMode) (name string, err error) {
	f, err := os.CreateTemp(dir, "."+base+".*.tmp")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := f.Chmod(perm.Perm()); err != nil {
		return "", err
	}
	if _, err := f.Write(data); err != nil {
		return "", err
	}
	// Without this the rename may reach the disk before the data, and a power
	// cut leaves an empty file under the good name.
	if err := f.Sync(); err != nil {
		return "", err
	}
	if err := f.Close(); err != nil {
		return "", err
	}
	return f.Name(), nil
}

// syncDir brings a rename in dir to the disk. Some file systems (network and
// FUSE ones) cannot sync a folder; then they promise nothing, and refusing to
// write would not help anybody.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // a folder cannot be synced there
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}
