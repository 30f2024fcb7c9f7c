//go:build unix

package app

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// giveBack makes what root wrote into a data folder belong to whom the folder
// belongs: an import runs as root, because certbot's keys are root's, and
// postern does not.
func giveBack(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		info, err := e.Info()
		if err != nil {
			return nil // gone since
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		// What has a second name is not ours to give away.
		if ok && st.Uid == 0 && (e.IsDir() || e.Type().IsRegular() && st.Nlink == 1) {
			return os.Lchown(path, int(owner.Uid), int(owner.Gid))
		}
		return nil
	})
}
