package caller

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"postern/internal/durable"
)

// Files of the built-in authority for client certificates.
const (
	caName    = "ca.pem"
	caKeyName = "ca-key.pem"

	caLife     = 20 * 365 * 24 * time.Hour
	caBackdate = 24 * time.Hour // for machines whose clock is not set yet

	// CertLife is how long a client certificate is good.
	CertLife = 365 * 24 * time.Hour

	uriScheme = "postern"
	uriPrefix = "caller/" // of the opaque part of the URI that names a caller
)

// authority is the built-in authority: one P-256 key that signs client
// certificates and nothing else.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// openAuthority loads the authority of dir, or makes one. What is damaged is an
// error: a new one would lock out everybody who has a certificate.
func openAuthority(dir string, now time.Time) (*authority, error) {
	unlock, err := lockFile(filepath.Join(dir, lockName))
	if err != nil {
		return nil, fmt.Errorf("callers: %w", err)
	}
	defer unlock()
	certPath, keyPath := filepath.Join(dir, caName), filepath.Join(dir, caKeyName)
	certPEM, certErr := os.ReadFile(certPath)
	keyPEM, keyErr := os.ReadFile(keyPath)
	switch {
	case errors.Is(certErr, fs.ErrNotExist): // a key alone is of a start that was cut off
		return newAuthority(certPath, keyPath, now)
	case certErr != nil || keyErr != nil:
		return nil, fmt.Errorf("callers: %w", errors.Join(certErr, keyErr))
	}
	a, err := parseAuthority(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; restore it and %s from a backup, or move both aside and give every caller a new certificate", certPath, err, keyPath)
	}
	return a, nil
}

func parseAuthority(certPEM, keyPEM []byte) (*authority, error) {
	certBlock, _ := pem.Decode(certPEM)
	keyBlock, _ := pem.Decode(keyPEM)
	if certBlock == nil || keyBlock == nil {
		return nil, errors.New("it or its key is not PEM")
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok || !key.PublicKey.Equal(cert.PublicKey) || !cert.IsCA {
		return nil, errors.New("the key does not belong to it") // the cause could quote the key
	}
	return &authority{cert, key}, nil
}

func newAuthority(certPath, keyPath string, now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	name := "Postern callers"
	if host, err := os.Hostname(); err == nil {
		name += " of " + host
	}
	tpl := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{Organization: []string{"Postern"}, CommonName: name},
		NotBefore: now.Add(-caBackdate), NotAfter: now.Add(caLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	keyPEM, err := keyToPEM(key)
	if err != nil {
		return nil, err
	}
	if err := durable.WriteFile(keyPath, keyPEM, 0o600); err != nil {
		return nil, err
	}
	return &authority{cert, key}, durable.WriteFile(certPath, certToPEM(der), 0o644)
}

// newSerial has 126 random bits, positive (RFC 5280 section 4.1.2.2).
func newSerial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	b[0] = b[0]&0x3f | 0x40
	return new(big.Int).SetBytes(b)
}

func keyToPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func certToPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// AddCertificate makes a key and a certificate for a caller, in PEM. They are
// told this once: only the serial is kept.
func (s *Store) AddCertificate(caller string, life time.Duration, now time.Time) (certPEM, keyPEM []byte, made StoredCert, err error) {
	a, err := openAuthority(s.dir, now)
	if err != nil {
		return nil, nil, made, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, made, err
	}
	end := now.Add(life)
	if end.After(a.cert.NotAfter) {
		end = a.cert.NotAfter
	}
	tpl := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: caller},
		NotBefore: now.Add(-caBackdate), NotAfter: end,
		URIs:     []*url.URL{{Scheme: uriScheme, Opaque: uriPrefix + caller}},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, nil, made, err
	}
	if keyPEM, err = keyToPEM(key); err != nil {
		return nil, nil, made, err
	}
	made = StoredCert{Caller: caller, Serial: tpl.SerialNumber.Text(16), Created: now.UTC().Truncate(time.Second), NotAfter: end.UTC().Truncate(time.Second)}
	err = s.change(now, func(f *storeFile) error {
		f.Certificates = append(f.Certificates, made)
		return nil
	})
	return certToPEM(der), keyPEM, made, err
}
