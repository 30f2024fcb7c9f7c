package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// names lists what is in dir.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	return got
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "bans.json")
	for _, tt := range []struct {
		name string
		data string
		perm fs.FileMode
	}{
		{"new file", "one", 0o600},
		{"replaced by a longer one", "one and more", 0o600},
		{"replaced by a shorter one", "1", 0o644},
		{"bits the umask would take away", "2", 0o666},
		{"empty", "", 0o600},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := WriteFile(path, []byte(tt.data), tt.perm); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil || string(got) != tt.data {
				t.Errorf("content %q, %v, want %q", got, err, tt.data)
			}
			info, err := os.Stat(path)
			if err != nil || info.Mode().Perm() != tt.perm {
				t.Errorf("mode %v, %v, want %v", info.Mode(), err, tt.perm)
			}
			if got := names(t, dir); len(got) != 1 {
				t.Errorf("folder holds %v, want only the file", got)
			}
		})
	}
}

func TestWriteFileInWorkingDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := WriteFile("state", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := names(t, "."); len(got) != 1 || got[0] != "state" {
		t.Errorf("folder holds %v, want [state]", got)
	}
}

func TestWriteFileErrors(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "folder", "inner"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		path string
		want error
	}{
		{"no such folder", filepath.Join(dir, "none", "x"), fs.ErrNotExist},
		{"folder is a file", filepath.Join(dir, "file", "x"), nil},
		{"path is a folder", filepath.Join(dir, "folder"), nil},
		{"path without a name", dir + "/", fs.ErrInvalid},
		{"empty path", "", fs.ErrInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := WriteFile(tt.path, []byte("x"), 0o600)
			if err == nil {
				t.Fatal("got nil, want an error")
			}
			if tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if !strings.Contains(err.Error(), tt.path) {
				t.Errorf("%q does not name the path", err)
			}
			if got := names(t, dir); len(got) != 2 {
				t.Errorf("folder holds %v, want [file folder]", got)
			}
		})
	}
}

func TestWriteFileReadOnlyFolder(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write to a read-only folder")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "bans.json")
	if err := WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(dir, 0o700) })
	if err := WriteFile(path, []byte("new"), 0o600); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("got %v, want %v", err, fs.ErrPermission)
	}
	if got, _ := os.ReadFile(path); string(got) != "old" {
		t.Errorf("content %q, want the old one", got)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("folder holds %v, want only the file", got)
	}
}

// A crash between the temporary file and the rename leaves residue. It must
// neither be read nor stop the next write.
func TestWriteFileCrashResidue(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "bans.json")
	if err := WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	residue, err := writeTemp(dir, "bans.json", []byte("half"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "old" {
		t.Errorf("content %q before the rename, want the old one", got)
	}
	if base := filepath.Base(residue); !strings.HasPrefix(base, ".") || !strings.HasSuffix(base, ".tmp") {
		t.Errorf("temporary file %q, want a hidden name ending in .tmp", base)
	}
	if err := WriteFile(path, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "new" {
		t.Errorf("content %q, want the new one", got)
	}
	if got, _ := os.ReadFile(residue); string(got) != "half" {
		t.Errorf("the residue holds %q: another writer used it", got)
	}
}

func TestWriteFileReplacesSymlink(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := os.WriteFile(target, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(link, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(target); string(got) != "kept" {
		t.Errorf("target of the link holds %q, want it left alone", got)
	}
	if got, _ := os.ReadFile(link); string(got) != "new" {
		t.Errorf("path holds %q, want the new content", got)
	}
}

// Readers and writers at once: each read is one whole content.
func TestWriteFileConcurrent(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "bans.json")
	content := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, 10_000+i) }
	if err := WriteFile(path, content(0), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var writers, readers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := range 10 {
				if err := WriteFile(path, content(w*5+i%5), 0o600); err != nil {
					t.Error(err)
				}
			}
		})
	}
	readers.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := whole(path); err != nil {
				t.Error(err)
				return
			}
		}
	})
	writers.Wait()
	close(done)
	readers.Wait()
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("folder holds %v, want only the file", got)
	}
}

// whole checks that the file is one of the contents written.
func whole(path string) error {
	got, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if len(got) < 10_000 || len(got) != 10_000+int(got[0]-'a') || len(bytes.Trim(got, string(got[:1]))) != 0 {
		return fmt.Errorf("torn content: %d bytes", len(got))
	}
	return nil
}
