package admin

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// socketMode lets the owner and the group of a unix socket connect.
const socketMode fs.FileMode = 0o660

// maxSocketPath is what fits into sockaddr_un on Linux; elsewhere it is a
// little less.
const maxSocketPath = 107

// Listen opens "host:port" or "unix:/path/to/socket". The socket's folder must
// exist; the socket gets mode 0660 and is removed when the listener is closed.
// A socket that a dead process left behind is replaced, one that somebody
// answers on is not, and neither is any other kind of file.
func Listen(addr string) (net.Listener, error) {
	path, isUnix := strings.CutPrefix(addr, "unix:")
	if !isUnix {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("admin: %w", err)
		}
		return l, nil
	}
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("admin: socket %q: want an absolute path, such as unix:/run/postern/admin.sock", path)
	}
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("admin: socket %s: the path has %d bytes, want at most %d", path, len(path), maxSocketPath)
	}
	if err := removeStale(path); err != nil {
		return nil, err // the caller knows the path
	}
	l, err := net.Listen("unix", path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("admin: socket %s: make the folder %s first: %w", path, filepath.Dir(path), err)
	}
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	if err := os.Chmod(path, socketMode); err != nil {
		l.Close()
		return nil, fmt.Errorf("admin: %w", err)
	}
	return l, nil
}

// removeStale removes a socket at path that nobody answers on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		return errors.New("there is a folder, not a socket; remove it or choose another path")
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("there is a file that is not a socket; remove it or choose another path")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return errors.New("another process answers on it; is postern running already?")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("ask whether another process answers: %w", err)
	}
	return os.Remove(path)
}
