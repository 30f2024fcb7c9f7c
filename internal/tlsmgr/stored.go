package tlsmgr

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Stored tells what the data folder and the files of cfg hold, as Status would
// of a Manager that has just started. It is for when none runs: it asks
// nobody, changes nothing on disk, and heals nothing either. Without Names and
// Files it lists every name in the data folder that an issuer of cfg has a
// certificate for.
func Stored(cfg Config) ([]CertStatus, error) {
	cfg, err := cfg.normal()
	if err != nil {
		return nil, err
	}
	// Which challenges can be answered and whether the clock is set is for who
	// listens to say.
	cfg.HTTPPort, cfg.HTTPSPort = 80, 443
	cfg.Clock = func() (bool, time.Duration) { return true, 0 }
	m := &Manager{log: cfg.Log, dir: cfg.Dir, drv: newDriver(), open: newOpenChallenges()}
	m.eng = &engine{storage: newJournal(cfg.Dir), log: cfg.Log}
	m.eng.held.Store(&map[string]*held{})
	if m.ledger, err = readLedger(filepath.Join(cfg.Dir, "attempts.json")); err != nil {
		return nil, err
	}
	iss, err := m.storedIssuers(cfg)
	if err != nil {
		return nil, err
	}
	m.eng.use(iss)
	if len(cfg.Names) == 0 && len(cfg.Files) == 0 {
		cfg.Names = m.eng.storedNames()
	}
	files, err := loadFiles(cfg.Files, nil, cfg.Log)
	if err != nil {
		return nil, err
	}
	t, err := newTable(cfg, files)
	if err != nil {
		return nil, err
	}
	m.table.Store(t)
	m.settings.Store(newSettings(cfg))
	addrs := append([]netip.Addr(nil), cfg.IPs...)
	if cfg.PublicAddrs != nil {
		addrs = append(addrs, cfg.PublicAddrs()...)
	}
	m.addrs.Store(newOwnAddrs(addrs))
	unreadable := map[string]error{}
	for _, name := range m.targets() {
		h, err := m.eng.stored(name)
		if h != nil {
			m.eng.put(name, h)
		} else if err != nil {
			unreadable[name] = err
		}
	}
	out := m.Status()
	for i := range out {
		st := &out[i]
		if err := unreadable[st.Name]; err != nil && st.LastError == "" {
			st.LastError, st.Meaning = err.Error(), "the file on disk is damaged; a start moves it aside and obtains a new one"
		}
		if st.Waiting == string(whyNoWay) { // no local authority yet, which a start makes
			st.Waiting, st.Sentence, st.NextAttempt = "", "", time.Time{}
		}
	}
	return out, nil
}

// readLedger is loadLedger for who may not write.
func readLedger(file string) (*ledger, error) {
	l := &ledger{names: map[string]record{}, cas: map[string]health{}}
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("memory of attempts: %w", err)
	}
	var f ledgerFile
	if json.Unmarshal(raw, &f) == nil { // else a start moves it aside, and knows nothing as we do
		for name, r := range f.Names {
			l.names[name] = r
		}
		for account, h := range f.Authorities {
			l.cas[account] = h
		}
		l.seen = f.Seen
	}
	return l, nil
}

// storedIssuers are those of cfg as far as they are there, without what only
// an attempt needs.
func (m *Manager) storedIssuers(cfg Config) (*issuers, error) {
	out := &issuers{label: cfg.Issuer}
	if cfg.Issuer == issuerLocal {
		dir := localDir(cfg.Dir)
		if ca, err := readLocalCA(filepath.Join(dir, "root.pem"), filepath.Join(dir, "root-key.pem"), time.Now()); err == nil {
			out.list = []*issuer{{certifier: localIssuer{ca}}}
		}
		return out, nil // a root that is not well is replaced by a start, and its leaves with it
	}
	for _, c := range cfg.ACME {
		a, err := newAuthority(c, cfg.Email, m.eng.storage, m.open, m.log)
		if err != nil {
			return nil, err
		}
		out.list = append(out.list, &issuer{certifier: a})
	}
	return out, nil
}

// storedNames lists the names that the issuers in use have folders for.
func (e *engine) storedNames() []string {
	var out []string
	for _, i := range e.now.Load().list {
		cert, _, _ := siteKeys(i.IssuerKey(), "any")
		entries, err := os.ReadDir(e.storage.Filename(path.Dir(path.Dir(cert))))
		if err != nil {
			continue // nothing was ever stored
		}
		for _, entry := range entries {
			name, err := canonicalHost(strings.Replace(entry.Name(), "wildcard_", "*", 1)) // as certmagic spells it
			if err == nil && e.storage.complete(i.IssuerKey(), name) {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// stored is read without finishing a journal: the newest certificate for name,
// its leaf only. Nil without an error: there is none.
func (e *engine) stored(name string) (*held, error) {
	var best *held
	var errs []error
	for _, i := range e.now.Load().list {
		file, _, _ := siteKeys(i.IssuerKey(), name)
		leaf, err := e.storage.leaf(file)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			errs = append(errs, err)
		case best == nil || leaf.NotBefore.After(best.cert.Leaf.NotBefore):
			best = &held{&tls.Certificate{Leaf: leaf}, i.IssuerKey()}
		}
	}
	if best != nil {
		return best, nil
	}
	return nil, errors.Join(errs...)
}

// leaf reads the certificate at key, from the journal if one was left behind.
func (j *journal) leaf(key string) (*x509.Certificate, error) {
	raw, err := os.ReadFile(j.Filename(path.Join(path.Dir(key), journalFile)))
	if err == nil {
		var all map[string][]byte
		if err = json.Unmarshal(raw, &all); err == nil {
			raw = all[key]
		}
	} else if errors.Is(err, fs.ErrNotExist) {
		raw, err = os.ReadFile(j.Filename(key))
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, fmt.Errorf("%s is not PEM", j.Filename(key))
	}
	return x509.ParseCertificate(block.Bytes)
}
