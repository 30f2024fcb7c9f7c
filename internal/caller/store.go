package caller

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"postern/internal/durable"
)

// Files of the store's folder.
const (
	storeName = "keys.json"
	usageName = "usage.json"
	lockName  = "keys.lock"
)

// maxStore bounds what is read of a file of ours.
const maxStore = 4 << 20

// StoredKey is an API key that we made. The key itself is nowhere.
type StoredKey struct {
	Caller  string    `json:"caller"`
	ID      string    `json:"id"`
	Hash    string    `json:"hash"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"` // left out: never
	Revoked time.Time `json:"revoked,omitzero"` // left out: not
}

// live reports whether the key may be used at the time now.
func (k *StoredKey) live(now time.Time) bool {
	return k.Revoked.IsZero() && (k.Expires.IsZero() || now.Before(k.Expires))
}

// StoredCert is a client certificate that our own authority signed.
type StoredCert struct {
	Caller   string    `json:"caller"`
	Serial   string    `json:"serial"` // hexadecimal
	Created  time.Time `json:"created"`
	NotAfter time.Time `json:"not_after"`
	Revoked  time.Time `json:"revoked,omitzero"` // left out: not
}

// storeFile is keys.json.
type storeFile struct {
	Version      int          `json:"v"`
	Keys         []StoredKey  `json:"keys"`
	Certificates []StoredCert `json:"certificates"`
}

// keepRevoked is how long what has ended is still listed.
const keepRevoked = 90 * 24 * time.Hour

// maxLive is how many API keys of one caller may be used at the same time: the
// old one and the new one, so that rotating interrupts nobody.
const maxLive = 2

// Store is what `proxy caller add` and the like work on: the file with the
// hashes of the keys and the serials of the certificates we made. Each change
// takes a lock that other processes see, and reads the file anew.
type Store struct{ dir string }

// OpenStore returns the store in the folder dir, which is made when it is
// missing.
func OpenStore(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("callers: %w", err)
	}
	return &Store{dir}, nil
}

// Keys returns all keys that are remembered.
func (s *Store) Keys() ([]StoredKey, error) {
	f, err := readStore(s.dir)
	return f.Keys, err
}

// Certificates returns all certificates that are remembered.
func (s *Store) Certificates() ([]StoredCert, error) {
	f, err := readStore(s.dir)
	return f.Certificates, err
}

// AddKey makes an API key for a caller and returns it: it is told this once.
// expires is zero for a key that does not end.
func (s *Store) AddKey(caller string, expires, now time.Time) (text string, made StoredKey, err error) {
	err = s.change(now, func(f *storeFile) error {
		if n := f.live(caller, now); n >= maxLive {
			return fmt.Errorf("%s has %d keys already; `proxy caller rotate %s` replaces the older one, `proxy caller revoke %s --key ID` takes one back", caller, n, caller, caller)
		}
		text, made = f.add(caller, expires, now)
		return nil
	})
	return text, made, err
}

// RotateKey makes another API key for a caller. The newest of those it has
// stays good for overlap, any older one ends at once.
func (s *Store) RotateKey(caller string, overlap time.Duration, expires, now time.Time) (text string, made StoredKey, err error) {
	err = s.change(now, func(f *storeFile) error {
		newest := -1
		for i := range f.Keys {
			if k := &f.Keys[i]; k.Caller == caller && k.live(now) && (newest < 0 || !k.Created.Before(f.Keys[newest].Created)) {
				newest = i
			}
		}
		for i := range f.Keys {
			k := &f.Keys[i]
			switch {
			case k.Caller != caller || !k.live(now):
			case i == newest && overlap > 0:
				if end := now.Add(overlap); k.Expires.IsZero() || end.Before(k.Expires) {
					k.Expires = end
				}
			default:
				k.Revoked = now
			}
		}
		text, made = f.add(caller, expires, now)
		return nil
	})
	return text, made, err
}

// Revoke takes back the key or certificate of a caller with the given id or
// serial; with id "" all it has. It returns how many there were.
func (s *Store) Revoke(caller, id string, now time.Time) (n int, err error) {
	err = s.change(now, func(f *storeFile) error {
		for i := range f.Keys {
			if k := &f.Keys[i]; k.Caller == caller && k.live(now) && (id == "" || k.ID == id) {
				k.Revoked = now
				n++
			}
		}
		for i := range f.Certificates {
			if c := &f.Certificates[i]; c.Caller == caller && c.Revoked.IsZero() && (id == "" || c.Serial == id) {
				c.Revoked = now
				n++
			}
		}
		return nil
	})
	return n, err
}

// add appends a new key.
func (f *storeFile) add(caller string, expires, now time.Time) (string, StoredKey) {
	text, id := newKey()
	k := StoredKey{Caller: caller, ID: id, Hash: HashKey(text).String(), Created: now.UTC().Truncate(time.Second), Expires: expires}
	f.Keys = append(f.Keys, k)
	return text, k
}

// live counts the keys of a caller that may be used.
func (f *storeFile) live(caller string, now time.Time) (n int) {
	for i := range f.Keys {
		if f.Keys[i].Caller == caller && f.Keys[i].live(now) {
			n++
		}
	}
	return n
}

// change reads the file, changes it by do, and writes it.
func (s *Store) change(now time.Time, do func(*storeFile) error) error {
	unlock, err := lockFile(filepath.Join(s.dir, lockName))
	if err != nil {
		return fmt.Errorf("callers: %w", err)
	}
	defer unlock()
	f, err := readStore(s.dir)
	if err != nil {
		return err
	}
	if err := do(&f); err != nil {
		return err
	}
	f.forget(now)
	raw, err := json.MarshalIndent(f, "", "  ")
	if err != nil { // texts and times always marshal
		return err
	}
	return durable.WriteFile(filepath.Join(s.dir, storeName), append(raw, '\n'), 0o600)
}

// forget drops what ended long ago. A certificate that was taken back stays
// until it would have ended by itself.
func (f *storeFile) forget(now time.Time) {
	f.Keys = slices.DeleteFunc(f.Keys, func(k StoredKey) bool {
		return !k.Revoked.IsZero() && now.Sub(k.Revoked) > keepRevoked || !k.Expires.IsZero() && now.Sub(k.Expires) > keepRevoked
	})
	f.Certificates = slices.DeleteFunc(f.Certificates, func(c StoredCert) bool { return now.Sub(c.NotAfter) > keepRevoked })
}

// readStore returns the content of the store; none when there is no file.
func readStore(dir string) (storeFile, error) {
	f := storeFile{Version: 1}
	path := filepath.Join(dir, storeName)
	raw, err := readBounded(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, fmt.Errorf("callers: %w", err)
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return f, fmt.Errorf("%s: not what `proxy caller add` writes: %w; restore it from a backup, or move it aside and add the callers anew", path, err)
	}
	if f.Version != 1 {
		return f, fmt.Errorf("%s: version %d, want 1; is it of a newer postern?", path, f.Version)
	}
	return f, nil
}

func readBounded(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxStore+1))
	if err == nil && len(raw) > maxStore {
		err = fmt.Errorf("%s: larger than %d bytes", path, maxStore)
	}
	return raw, err
}
