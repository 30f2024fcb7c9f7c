//go:build unix

package app

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestGiveBack: what root imports into a folder of somebody else is theirs.
func TestGiveBack(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	dir, other := t.TempDir(), t.TempDir()
	inside, outside := filepath.Join(dir, "a", "b"), filepath.Join(other, "c")
	if err := os.MkdirAll(filepath.Dir(inside), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{inside, outside} {
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(dir, "soft")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(outside, filepath.Join(dir, "hard")); err != nil {
		t.Fatal(err)
	}
	const somebody = 54321
	if err := os.Chown(dir, somebody, somebody); err != nil {
		t.Skip("this system does not let root give files away")
	}
	if err := giveBack(dir); err != nil {
		t.Fatal(err)
	}
	for f, want := range map[string]uint32{inside: somebody, filepath.Dir(inside): somebody, outside: 0} {
		info, err := os.Lstat(f)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Sys().(*syscall.Stat_t).Uid; got != want {
			t.Errorf("%s belongs to %d, want %d", f, got, want)
		}
	}
}
