package tlsmgr

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strings"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// ImportConfig says where imported certificates go. The Manager of the data
// folder may be running; it serves what was imported after its next start.
type ImportConfig struct {
	// Dir is the data folder. Required.
	Dir string

	// Email is the one of Config.Email: accounts are kept by it.
	Email string

	// Directory is the authority that issued what autocert kept, which does
	// not say. Empty means Let's Encrypt.
	Directory string

	// DryRun says what would be done and does nothing.
	DryRun bool
}

// Imported is what became of one certificate or account.
type Imported struct {
	What      string    // "certificate", "account" or "state"
	Name      string    // of the certificate; the account's URL, if known
	From      string    // the file
	Authority string    // its directory URL, or the name of its folder; may be empty
	NotAfter  time.Time // of the certificate
	Taken     bool      // false: left out, or what is there is kept
	Why       string    // Taken false: why
}

// importer writes to the storage.
type importer struct {
	cfg  ImportConfig
	st   *journal
	done []Imported
}

func newImporter(cfg ImportConfig) (*importer, error) {
	if cfg.Dir == "" {
		return nil, errors.New("data folder is empty, want a path")
	}
	if !cfg.DryRun {
		if err := checkDir(cfg.Dir); err != nil {
			return nil, err
		}
	}
	return &importer{cfg: cfg, st: newJournal(cfg.Dir)}, nil
}

func (im *importer) note(i Imported) { im.done = append(im.done, i) }

func (im *importer) skip(i Imported, format string, args ...any) {
	i.Why = fmt.Sprintf(format, args...)
	im.note(i)
}

// directoryKey is the name of an authority's folders.
func directoryKey(directory string) (string, error) {
	u, err := url.Parse(directory)
	if err != nil || u.Host == "" {
		return "", fmt.Errorf("%q is not the URL of an ACME directory", directory)
	}
	return issuerKey(u), nil
}

// certificate stores a pair for each name that is on it, unless what is there
// is as new. chain and key are PEM.
func (im *importer) certificate(ctx context.Context, from, directory string, chain, key []byte) error {
	i := Imported{What: "certificate", From: from, Authority: directory}
	issuer, err := directoryKey(directory)
	if err != nil {
		im.skip(i, "%v", err)
		return nil
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		im.skip(i, "%s", strings.TrimPrefix(err.Error(), "tls: "))
		return nil
	}
	leaf := pair.Leaf
	i.NotAfter = leaf.NotAfter
	names := certNames(leaf)
	if len(names) == 0 {
		im.skip(i, "it names no host")
		return nil
	}
	for _, n := range names {
		i := i
		i.Name = n
		switch {
		case time.Now().After(leaf.NotAfter):
			im.skip(i, "it has expired on %s", leaf.NotAfter.UTC().Format(time.DateOnly))
			continue
		case im.heldSince(i, issuer, n, leaf):
			continue
		}
		if err := im.store(ctx, issuer, n, directory, chain, key, leaf); err != nil {
			return fmt.Errorf("certificate of %s: %w", n, err)
		}
		i.Taken = true
		im.note(i)
	}
	return nil
}

// certNames are the names a certificate can be served for here.
func certNames(leaf *x509.Certificate) []string {
	var out []string
	for _, n := range leaf.DNSNames {
		if c, err := canonicalHost(n); err == nil {
			out = append(out, c)
		}
	}
	for _, a := range leaf.IPAddresses {
		out = append(out, a.String())
	}
	return out
}

// heldSince reports, and notes, that the storage has a certificate that is as
// new.
func (im *importer) heldSince(i Imported, issuer, name string, leaf *x509.Certificate) bool {
	have, err := im.st.pair(issuer, name)
	if err != nil {
		return false // none, or none that could be served
	}
	switch {
	case have.Leaf.Equal(leaf):
		im.skip(i, "it is there already")
	case !have.Leaf.NotBefore.Before(leaf.NotBefore):
		im.skip(i, "a newer one is there, of %s", have.Leaf.NotBefore.UTC().Format(time.DateOnly))
	default:
		return false
	}
	return true
}

// store writes the three files of a certificate.
func (im *importer) store(ctx context.Context, issuer, name, directory string, chain, key []byte, leaf *x509.Certificate) error {
	if im.cfg.DryRun {
		return nil
	}
	data, err := json.Marshal(acme.Certificate{CA: directory})
	if err != nil {
		return err
	}
	meta, err := json.MarshalIndent(struct {
		SANs []string        `json:"sans"`
		Data json.RawMessage `json:"issuer_data"`
	}{leaf.DNSNames, data}, "", "\t")
	if err != nil {
		return err
	}
	certKey, keyKey, metaKey := siteKeys(issuer, name)
	// The journal puts all three in place when the last one comes.
	return errors.Join(im.st.Store(ctx, keyKey, key), im.st.Store(ctx, certKey, chain), im.st.Store(ctx, metaKey, meta))
}

// account stores an account's key, and its registration if its URL is known.
// Without it the authority tells when it is first used. An account that is
// there is kept.
func (im *importer) account(ctx context.Context, from, directory, location string, contact []string, key crypto.Signer) error {
	i := Imported{What: "account", Name: location, From: from, Authority: directory}
	issuer, err := directoryKey(directory)
	if err != nil {
		im.skip(i, "%v", err)
		return nil
	}
	a := &authority{key: issuer, email: im.cfg.Email, storage: im.st}
	regKey, keyKey := a.accountKeys(im.cfg.Email)
	if have, err := im.st.Load(ctx, keyKey); err == nil {
		if same, err := decodeKey(have); err == nil && publicEqual(same, key) {
			im.skip(i, "it is there already")
		} else {
			im.skip(i, "another account is there and is kept")
		}
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	raw, err := encodeKey(key)
	if err != nil {
		im.skip(i, "its kind of key is not used here")
		return nil
	}
	i.Taken = true
	defer im.note(i)
	if im.cfg.DryRun {
		return nil
	}
	if err := im.st.Store(ctx, keyKey, raw); err != nil || location == "" {
		return err
	}
	reg, err := json.MarshalIndent(acme.Account{
		Status: acme.StatusValid, Contact: contact, TermsOfServiceAgreed: true, Location: location,
	}, "", "\t")
	if err != nil {
		return err
	}
	return im.st.Store(ctx, regKey, reg)
}

func publicEqual(a, b crypto.Signer) bool {
	p, ok := a.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && p.Equal(b.Public())
}

// splitPEM parts a file into the key and the certificates that follow it.
func splitPEM(raw []byte) (key, chain []byte) {
	for {
		block, rest := pem.Decode(raw)
		if block == nil {
			return key, chain
		}
		raw = rest
		switch {
		case strings.Contains(block.Type, "PRIVATE KEY"):
			key = pem.EncodeToMemory(block)
		case block.Type == "CERTIFICATE":
			chain = append(chain, pem.EncodeToMemory(block)...)
		}
	}
}
