package tlsmgr

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/mholt/acmez/v3/acme"

	"postern/internal/durable"
)

const (
	localRootLife  = 10 * 365 * 24 * time.Hour
	localRootSpare = 30 * 24 * time.Hour // a root with less left is replaced at start
	localLeafLife  = 24 * time.Hour
	localBackdate  = 5 * time.Minute // for clients whose clock is a little behind
)

// localCA is an authority of our own: one P-256 root in <data>/local-ca that
// signs short-lived leaves. It never waits for anything but the disk. Its
// methods may be called from several goroutines.
type localCA struct {
	root *x509.Certificate
	key  crypto.Signer
	id   string // from the root's public key: leaves of another root are stored elsewhere
}

// openLocalCA loads the root of dir, or makes one. A root that is damaged or
// about to expire is moved aside, never deleted: somebody may still trust it.
func openLocalCA(dir string, log *slog.Logger) (*localCA, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("local authority: %w", err)
	}
	certPath, keyPath := filepath.Join(dir, "root.pem"), filepath.Join(dir, "root-key.pem")
	ca, err := readLocalCA(certPath, keyPath, time.Now())
	switch {
	case err == nil:
		return ca, nil
	case errors.Is(err, errNoRoot):
	default:
		suffix := ".old-" + time.Now().UTC().Format("20060102T150405.000Z")
		for _, p := range []string{certPath, keyPath} {
			if rerr := os.Rename(p, p+suffix); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
				return nil, fmt.Errorf("local authority: %w; moving it aside: %w", err, rerr)
			}
		}
		log.Warn("local authority has a new root, clients must trust it again", "root", certPath, "moved_aside_as", certPath+suffix, "reason", err)
	}
	if ca, err = newLocalCA(time.Now()); err != nil {
		return nil, fmt.Errorf("local authority: %w", err)
	}
	if err := ca.write(certPath, keyPath); err != nil {
		return nil, fmt.Errorf("local authority: %w", err)
	}
	log.Info("local authority made its root", "root", certPath, "not_after", ca.root.NotAfter)
	return ca, nil
}

var errNoRoot = errors.New("no root yet")

func readLocalCA(certPath, keyPath string, now time.Time) (*localCA, error) {
	certPEM, cerr := os.ReadFile(certPath)
	keyPEM, kerr := os.ReadFile(keyPath)
	if errors.Is(cerr, fs.ErrNotExist) && errors.Is(kerr, fs.ErrNotExist) {
		return nil, errNoRoot
	}
	if err := errors.Join(cerr, kerr); err != nil {
		return nil, err
	}
	cb, _ := pem.Decode(certPEM)
	kb, _ := pem.Decode(keyPEM)
	if cb == nil || kb == nil {
		return nil, errors.New("root or its key is not PEM")
	}
	root, err := x509.ParseCertificate(cb.Bytes)
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(kb.Bytes)
	if err != nil {
		return nil, errors.New("root key: not a PKCS #8 key") // the cause could quote the key
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(root.PublicKey) {
		return nil, errors.New("root key does not belong to the root")
	}
	if !root.IsCA || root.NotAfter.Before(now.Add(localRootSpare)) {
		return nil, fmt.Errorf("root is not an authority any more: it ends %s", root.NotAfter.Format(time.DateOnly))
	}
	return wrapLocalCA(root, key), nil
}

func newLocalCA(now time.Time) (*localCA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	sum, err := keyID(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	where, err := os.Hostname()
	if err != nil {
		where = "this machine"
	}
	tpl := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{Organization: []string{"Postern"}, CommonName: "Postern Local CA " + where + " " + sum},
		NotBefore:             now.Add(-localBackdate),
		NotAfter:              now.Add(localRootLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return wrapLocalCA(root, key), nil
}

func wrapLocalCA(root *x509.Certificate, key *ecdsa.PrivateKey) *localCA {
	id, err := keyID(&key.PublicKey)
	if err != nil {
		panic(err) // a P-256 key that was just parsed or made always marshals
	}
	return &localCA{root: root, key: key, id: id}
}

// write stores the key before the root: a root without its key is moved aside
// at the next start, a key without its root too.
func (ca *localCA) write(certPath, keyPath string) error {
	der, err := x509.MarshalPKCS8PrivateKey(ca.key)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(keyPath, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return err
	}
	return durable.WriteFile(certPath, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.root.Raw}), 0o644)
}

// sign answers a certificate request with a PEM chain of the leaf alone: who
// trusts the root has it already (RFC 8446 section 4.4.2 lets us leave it out).
func (ca *localCA) sign(ctx context.Context, csr *x509.CertificateRequest, now time.Time) ([]byte, error) {
	return ca.signFor(ctx, csr, now, localLeafLife)
}

// signFor is sign with another lifetime.
func (ca *localCA) signFor(ctx context.Context, csr *x509.CertificateRequest, now time.Time, life time.Duration) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("local authority: request: %w", err)
	}
	end := now.Add(life)
	if end.After(ca.root.NotAfter) {
		end = ca.root.NotAfter
	}
	if !end.After(now) {
		return nil, fmt.Errorf("local authority: its root ended %s; restart to make a new one", ca.root.NotAfter.Format(time.DateOnly))
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:          newSerial(),
		NotBefore:             now.Add(-localBackdate),
		NotAfter:              end,
		DNSNames:              csr.DNSNames,
		IPAddresses:           csr.IPAddresses,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}, ca.root, csr.PublicKey, ca.key)
	if err != nil {
		return nil, fmt.Errorf("local authority: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// newSerial has 126 random bits, positive (RFC 5280 section 4.1.2.2).
func newSerial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b)
	b[0] = b[0]&0x3f | 0x40
	return new(big.Int).SetBytes(b)
}

func keyID(pub *ecdsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:4]), nil
}

// localIssuer is the local authority as the engine wants one.
type localIssuer struct{ ca *localCA }

var _ certifier = localIssuer{}

func (l localIssuer) IssuerKey() string                 { return "local-" + l.ca.id }
func (l localIssuer) label() string                     { return issuerLocal }
func (l localIssuer) reach(context.Context) error       { return nil }
func (l localIssuer) profileFor(string) string          { return "" }
func (l localIssuer) identities() []string              { return nil }
func (l localIssuer) accountURI(context.Context) string { return "" }

// challenges names the one way there is: nothing has to be proven.
func (l localIssuer) challenges(string, []string) []string { return []string{issuerLocal} }

func (l localIssuer) issue(ctx context.Context, csr *x509.CertificateRequest) (acme.Certificate, error) {
	chain, err := l.ca.sign(ctx, csr, time.Now())
	return acme.Certificate{ChainPEM: chain}, err
}

func (l localIssuer) renewalInfo(context.Context, *x509.Certificate) (acme.RenewalInfo, error) {
	return acme.RenewalInfo{}, acme.ErrUnsupported
}
