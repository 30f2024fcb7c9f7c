package tlsmgr

import (
	"fmt"
	"os"
)

// checkDir makes the data folder and proves that we can write to it, so that
// the first certificate is not lost after an authority has issued it.
func checkDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("data folder %s: %w; make it, or choose another with the key data", dir, err)
	}
	f, err := os.CreateTemp(dir, ".writable-*")
	if err != nil {
		return fmt.Errorf("data folder %s (%s): not writable for user %d: %w; change its owner, or choose another with the key data",
			dir, ownerOf(dir), os.Getuid(), err)
	}
	_, werr := f.WriteString("postern\n")
	cerr := f.Close()
	rerr := os.Remove(f.Name())
	for _, err := range []error{werr, cerr, rerr} {
		if err != nil {
			return fmt.Errorf("data folder %s: test write: %w; free some space, or choose another with the key data", dir, err)
		}
	}
	return nil
}
