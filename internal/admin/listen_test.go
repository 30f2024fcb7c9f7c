package admin

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestListenUnix(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "admin.sock")
	l, err := Listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != socketMode {
		t.Errorf("mode %v, %v, want %v", info.Mode(), err, socketMode)
	}
	if _, err := Listen("unix:" + path); err == nil || !strings.Contains(err.Error(), "another process answers on it") {
		t.Errorf("second Listen: %v", err)
	}

	// A process that was killed leaves its socket behind.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Fatal("the test did not leave a stale socket behind")
	}
	l, err = Listen("unix:" + path)
	if err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	l.Close()
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket is still there after Close")
	}
}

func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]string{
		"unix:" + file:       "not a socket",
		"unix:" + link:       "not a socket",
		"unix:" + dir:        "not a socket",
		"unix:relative.sock": "want an absolute path",
		"unix:@abstract":     "want an absolute path",
		"unix:" + filepath.Join(dir, "none", "a.sock"): "make the folder",
		"unix:/" + strings.Repeat("x", 107):            "want at most 107",
		"nowhere":                                      "missing port",
		"127.0.0.1:70000":                              "invalid port",
	} {
		l, err := Listen(addr)
		if err == nil {
			l.Close()
			t.Errorf("%s: no error", addr)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %q, want %q in it", addr, err, want)
		}
	}
	if got, _ := os.ReadFile(file); string(got) != "precious" {
		t.Errorf("the file was touched: %q", got)
	}
}
