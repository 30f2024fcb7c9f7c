package tlsmgr

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"postern/internal/durable"
)

// journal is the storage. certmagic writes a certificate as three files, and
// undoes a write that failed half way by deleting what it wrote: a crash or a
// full disk during a renewal would lose the certificate that was there. The
// journal holds the first two back until the third comes, writes all of them
// as one file, next.json, and only then each in its place. Whoever reads
// finishes a journal left behind, so the old certificate or the new one is
// there at any moment. Its methods may be called from several goroutines.
type journal struct {
	*certmagicStorage // reading and locks, which stay as they are

	mu   sync.Mutex
	part map[string]map[string][]byte // by folder: files held back; guarded by mu
}

const journalFile = "next.json"

func newJournal(dir string) *journal {
	return &journal{certmagicStorage: newFileStorage(dir), part: map[string]map[string][]byte{}}
}

// siteFolder is the folder of key, if key is one of a certificate's files.
func siteFolder(key string) (string, bool) {
	if !strings.HasPrefix(key, "certificates/") {
		return "", false
	}
	switch path.Ext(key) {
	case ".crt", ".key", ".json":
		return path.Dir(key), true
	}
	return "", false
}

// Store implements certmagic.Storage. Unlike certmagic's it brings the folder
// to the disk as well.
func (j *journal) Store(_ context.Context, key string, value []byte) error {
	folder, site := siteFolder(key)
	if !site {
		return j.write(key, value)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.part[folder] == nil {
		j.part[folder] = map[string][]byte{}
	}
	j.part[folder][key] = value
	if path.Ext(key) != ".json" {
		return nil
	}
	all := j.part[folder]
	delete(j.part, folder)
	raw, err := json.Marshal(all)
	if err != nil {
		return err
	}
	if err := j.write(path.Join(folder, journalFile), raw); err != nil {
		return err
	}
	return j.finishLocked(folder)
}

// Delete implements certmagic.Storage. certmagic deletes to undo a write that
// failed; what was held back is forgotten, and what the journal can finish
// stays.
func (j *journal) Delete(ctx context.Context, key string) error {
	if folder, site := siteFolder(key); site {
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(j.part, folder)
		return nil
	}
	return j.certmagicStorage.Delete(ctx, key)
}

func (j *journal) write(key string, value []byte) error {
	file := j.Filename(key)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(file, value, 0o600)
}

// finishLocked puts the files of a journal in place.
func (j *journal) finishLocked(folder string) error {
	file := j.Filename(path.Join(folder, journalFile))
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var all map[string][]byte
	if err := json.Unmarshal(raw, &all); err != nil {
		return fmt.Errorf("journal of %s: %w", folder, err)
	}
	for key, value := range all {
		if dir, site := siteFolder(key); !site || dir != folder {
			return fmt.Errorf("journal of %s: holds %q, want files of that folder", folder, key)
		}
		if err := j.write(key, value); err != nil {
			return err
		}
	}
	return os.Remove(file)
}

// complete reports whether all files of a certificate are there.
func (j *journal) complete(issuerKey, name string) bool {
	cert, key, meta := siteKeys(issuerKey, name)
	for _, k := range []string{cert, key, meta} {
		if _, err := os.Stat(j.Filename(k)); err != nil {
			return false
		}
	}
	return true
}

// pair reads a certificate and checks that it is whole. It is fs.ErrNotExist
// when one of its files is missing.
func (j *journal) pair(issuerKey, name string) (*tls.Certificate, error) {
	cert, key, meta := siteKeys(issuerKey, name)
	j.mu.Lock()
	err := j.finishLocked(path.Dir(cert))
	j.mu.Unlock()
	if err != nil {
		return nil, err
	}
	var raw [3][]byte
	for i, k := range []string{cert, key, meta} {
		if raw[i], err = os.ReadFile(j.Filename(k)); err != nil {
			return nil, err
		}
	}
	if err := certificateMeta(raw[2]); err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(raw[0], raw[1])
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %s", name, strings.TrimPrefix(err.Error(), "tls: "))
	}
	return &pair, nil
}

// writable tries whether a certificate for name could be written.
func (j *journal) writable(issuerKey, name string) error {
	cert, _, _ := siteKeys(issuerKey, name)
	dir := filepath.Dir(j.Filename(cert))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".try-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}
