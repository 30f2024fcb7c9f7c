package tlsmgr

import (
	"context"
	"crypto/tls"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// FileCert is a certificate the user brings.
type FileCert struct {
	// Hosts are the names it is served for.
	Hosts []string

	// Cert is a PEM file with the certificate and its chain, Key one with
	// the private key. Both may be symbolic links. They are read again
	// within seconds of a change.
	Cert, Key string
}

const fileLook = 10 * time.Second

// fileCert is one pair of files. It is shared between tables, so that a reload
// that keeps the pair does not read it again.
type fileCert struct {
	hosts     []string
	cert, key string

	pair atomic.Pointer[tls.Certificate]
	seen [2]fs.FileInfo // as of the last look; only the watcher and setUp use it, under Manager.apply
	bad  string         // why the last look failed, already told
}

func (f *fileCert) current() *tls.Certificate { return f.pair.Load() }

// CheckFiles reads the pairs as New does and keeps nothing. An error names the
// file and the reason; what is odd but works goes to log.
func CheckFiles(want []FileCert, log *slog.Logger) error {
	_, err := loadFiles(want, nil, log)
	return err
}

// loadFiles reads the pairs of want; a pair that before holds and that did not
// change is taken over. An error names the file and the reason.
func loadFiles(want []FileCert, before []*fileCert, log *slog.Logger) ([]*fileCert, error) {
	var out []*fileCert
	for _, w := range want {
		f := &fileCert{cert: w.Cert, key: w.Key}
		for _, h := range w.Hosts {
			n, err := canonicalHost(h)
			if err != nil {
				return nil, err
			}
			f.hosts = append(f.hosts, n)
		}
		slices.Sort(f.hosts)
		same := slices.IndexFunc(before, func(b *fileCert) bool {
			return b.cert == f.cert && b.key == f.key && slices.Equal(b.hosts, f.hosts) && b.bad == ""
		})
		if same >= 0 && before[same].unchanged() {
			out = append(out, before[same])
			continue
		}
		if err := f.read(log, time.Now()); err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

// read loads the pair and warns about what is odd but works.
func (f *fileCert) read(log *slog.Logger, now time.Time) error {
	// Looked at before reading: a change between the two shows at the next look.
	seen := f.look()
	certPEM, err := os.ReadFile(f.cert)
	if err != nil {
		return fmt.Errorf("tls certificate file: %w", err)
	}
	keyPEM, err := os.ReadFile(f.key)
	if err != nil {
		return fmt.Errorf("tls key file: %w", err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("tls certificate %s with key %s: %s; want the PEM chain and the key that belongs to it",
			f.cert, f.key, strings.TrimPrefix(err.Error(), "tls: "))
	}
	if now.After(pair.Leaf.NotAfter) {
		log.Warn("certificate file has expired", "file", f.cert, "not_after", pair.Leaf.NotAfter)
	}
	for _, h := range f.hosts {
		if !covers(&pair, h) {
			log.Warn("certificate file does not cover a host of its site", "file", f.cert, "host", h)
		}
	}
	f.pair.Store(&pair)
	f.seen, f.bad = seen, ""
	return nil
}

// covers reports whether the certificate is good for a host of a site; for a
// wildcard site it must list the wildcard.
func covers(pair *tls.Certificate, host string) bool {
	if strings.HasPrefix(host, "*.") {
		return slices.ContainsFunc(pair.Leaf.DNSNames, func(n string) bool { return strings.EqualFold(n, host) })
	}
	return pair.Leaf.VerifyHostname(host) == nil
}

// look follows symbolic links, as certbot's live folder is made of them. A
// file that is not there is nil.
func (f *fileCert) look() [2]fs.FileInfo {
	var out [2]fs.FileInfo
	for i, p := range []string{f.cert, f.key} {
		if fi, err := os.Stat(p); err == nil {
			out[i] = fi
		}
	}
	return out
}

// unchanged reports whether both files are as they were when last read.
func (f *fileCert) unchanged() bool {
	for i, now := range f.look() {
		was := f.seen[i]
		if was == nil || now == nil {
			return false
		}
		if !os.SameFile(was, now) || !was.ModTime().Equal(now.ModTime()) || was.Size() != now.Size() {
			return false
		}
	}
	return true
}

// refresh reads the pair again if it changed. While a new pair is bad (half of
// it may not be written yet) the old one is kept, and the reason told once.
func (f *fileCert) refresh(log *slog.Logger, now time.Time) {
	if f.bad == "" && f.unchanged() {
		return
	}
	if err := f.read(log, now); err != nil {
		if err.Error() != f.bad {
			log.Warn("changed certificate file is not usable, the old one is kept", "file", f.cert, "err", err)
		}
		f.bad = err.Error()
		return
	}
	log.Info("certificate file read again", "file", f.cert, "not_after", f.current().Leaf.NotAfter)
}

// watch looks at the files and the age of the ticket keys until ctx ends.
func (m *Manager) watch(ctx context.Context) error {
	tick := time.NewTicker(fileLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			m.lookAround(time.Now())
		}
	}
}

// lookAround is one round of watch.
func (m *Manager) lookAround(now time.Time) {
	m.apply.Lock()
	defer m.apply.Unlock()
	for _, f := range m.table.Load().files {
		f.refresh(m.log, now)
	}
	rotated, err := m.tickets.rotate(now)
	if err != nil {
		m.log.Warn("session ticket keys not rotated, the old ones stay in use", "err", err)
	}
	if rotated {
		m.serve.Load().setTicketKeys(m.tickets.current())
	}
}
