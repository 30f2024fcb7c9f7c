package caller

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net/url"
	"testing"
	"time"

	"postern/internal/testnet"
)

func parseCert(t testing.TB, certPEM []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(certPEM)
	if block == nil {
		t.Fatal("no PEM")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// peer judges a request of a client with a certificate.
func (d *desk) peer(now time.Time, chain ...*x509.Certificate) Result {
	return d.book.Identify(&Request{Method: "GET", Scheme: "https", Host: "home.example", Path: "/", Fields: fields{}, Peer: NewPeer(chain), Now: now})
}

func TestCertificates(t *testing.T) {
	dir := t.TempDir()
	store, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	issue := func(name string, life time.Duration) (*x509.Certificate, StoredCert) {
		t.Helper()
		certPEM, keyPEM, made, err := store.AddCertificate(name, life, now)
		if err != nil {
			t.Fatal(err)
		}
		if block, _ := pem.Decode(keyPEM); block == nil || block.Type != "PRIVATE KEY" {
			t.Fatal("no key")
		}
		return parseCert(t, certPEM), made
	}
	phone, _ := issue("phone", CertLife)
	lost, lostMade := issue("phone", CertLife)
	nobody, _ := issue("nobody", CertLife)
	brief, _ := issue("phone", time.Hour)
	d := newDesk(t, dir, synced, Caller{Name: "phone", Certificate: &CertificateRule{}}, Caller{Name: "other", Certificate: &CertificateRule{}})

	res := d.peer(now, phone)
	if res.Identity == nil || res.Identity.Name != "phone" || res.Identity.Method != ClientCertificate {
		t.Fatalf("%v", res.Failure)
	}
	if res := d.peer(now, nobody); res.Failure != NotListed {
		t.Errorf("a name that is not configured: %v", res.Failure)
	}
	if res := d.peer(now.Add(2*time.Hour), brief); res.Failure != ExpiredCert {
		t.Errorf("expired: %v", res.Failure)
	}
	lostPeer := NewPeer([]*x509.Certificate{lost})
	ask := func() Result {
		return d.book.Identify(&Request{Method: "GET", Path: "/", Fields: fields{}, Peer: lostPeer, Now: now})
	}
	if res := ask(); res.Identity == nil {
		t.Fatal(res.Failure)
	}
	if n, err := store.Revoke("phone", lostMade.Serial, now); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if err := d.reg.Reload(); err != nil {
		t.Fatal(err)
	}
	if res := ask(); res.Failure != RevokedCert || res.Failure.Forged() {
		t.Errorf("taken back, on a connection that was open: %v", res.Failure)
	}
	if res := d.peer(now, phone); res.Identity == nil {
		t.Errorf("the other one of the same caller: %v", res.Failure)
	}
}

// TestCertificateAttacks: none of these gets in.
func TestCertificateAttacks(t *testing.T) {
	dir := t.TempDir()
	store, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	certPEM, keyPEM, _, err := store.AddCertificate("phone", CertLife, now)
	if err != nil {
		t.Fatal(err)
	}
	good := parseCert(t, certPEM)
	block, _ := pem.Decode(keyPEM)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	goodKey := parsed.(*ecdsa.PrivateKey)
	d := newDesk(t, dir, synced, Caller{Name: "phone", Certificate: &CertificateRule{}})
	own, err := d.reg.ownAuthority()
	if err != nil {
		t.Fatal(err)
	}
	name := []*url.URL{{Scheme: "postern", Opaque: "caller/phone"}}
	make := func(change func(*x509.Certificate), parent *x509.Certificate, signer *ecdsa.PrivateKey) *x509.Certificate {
		t.Helper()
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tpl := &x509.Certificate{SerialNumber: good.SerialNumber, Subject: pkix.Name{CommonName: "phone"}, URIs: name,
			NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		if change != nil {
			change(tpl)
		}
		if parent == nil {
			parent, signer = tpl, key
		}
		der, err := x509.CreateCertificate(rand.Reader, tpl, parent, &key.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	evilKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	same := &x509.Certificate{SerialNumber: own.cert.SerialNumber, Subject: own.cert.Subject, SubjectKeyId: own.cert.SubjectKeyId, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign} // the same names, another key
	evilDER, err := x509.CreateCertificate(rand.Reader, same, same, &evilKey.PublicKey, evilKey)
	if err != nil {
		t.Fatal(err)
	}
	evil, err := x509.ParseCertificate(evilDER)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		chain []*x509.Certificate
		want  Failure
	}{
		{"signed by itself", []*x509.Certificate{make(nil, nil, nil)}, BadCertificate},
		{"of an authority that calls itself ours", []*x509.Certificate{make(nil, evil, evilKey), evil}, BadCertificate},
		{"signed by a leaf of ours", []*x509.Certificate{make(nil, good, goodKey), good}, BadCertificate},
		{"for servers", []*x509.Certificate{make(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, own.cert, own.key)}, BadCertificate},
		{"of another caller by its URI", []*x509.Certificate{make(func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "postern", Opaque: "caller/ph"}} }, own.cert, own.key)}, NotListed},
		{"of us, not remembered", []*x509.Certificate{make(func(c *x509.Certificate) { c.SerialNumber = big.NewInt(7) }, own.cert, own.key)}, RevokedCert},
		{"the authority itself", []*x509.Certificate{own.cert}, NotListed},
	} {
		if res := d.peer(now, tc.chain...); res.Identity != nil || res.Failure != tc.want {
			t.Errorf("%s: %v, identity %v, want %v", tc.name, res.Failure, res.Identity, tc.want)
		}
	}
}

// TestForeignAuthority takes certificates of an authority that is brought, but
// those of its revocation list.
func TestForeignAuthority(t *testing.T) {
	now := time.Now()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "their root"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte{1, 2, 3}}
	der, err := x509.CreateCertificate(rand.Reader, root, root, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca := parseCert(t, certToPEM(der))
	leaf := func(serial int64, name string) *x509.Certificate {
		tpl := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		raw, err := x509.CreateCertificate(rand.Reader, tpl, ca, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		return parseCert(t, certToPEM(raw))
	}
	crl, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now, NextUpdate: now.Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(0xabc), RevocationTime: now}}}, ca, key)
	if err != nil {
		t.Fatal(err)
	}
	rule := &CertificateRule{Roots: string(certToPEM(der)), Subject: "van.example.org", Revoked: crl}
	d := newDesk(t, t.TempDir(), synced, Caller{Name: "van", Certificate: rule})
	if res := d.peer(now, leaf(2, "van.example.org")); res.Identity == nil || res.Identity.Name != "van" {
		t.Errorf("%v", res.Failure)
	}
	if res := d.peer(now, leaf(0xabc, "van.example.org")); res.Failure != RevokedCert {
		t.Errorf("on the list: %v", res.Failure)
	}
	if res := d.peer(now, leaf(3, "van.example.org.evil.example")); res.Failure != NotListed {
		t.Errorf("another name: %v", res.Failure)
	}
	if _, err := d.reg.Prepare([]Caller{{Name: "van", Certificate: &CertificateRule{Roots: string(certToPEM(der)), Subject: "x", Revoked: []byte("no list")}}}); err == nil {
		t.Error("a list that is none was taken")
	}
}

// TestCertificateBinding: a token with the hash of a certificate is worth
// nothing on another client's connection.
func TestCertificateBinding(t *testing.T) {
	a := testnet.NewAWS(t)
	d := newDesk(t, t.TempDir(), synced, orders(a))
	d.known(a.Issuer)
	store, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	own, _, _, err := store.AddCertificate("own", CertLife, now)
	if err != nil {
		t.Fatal(err)
	}
	other, _, _, err := store.AddCertificate("other", CertLife, now)
	if err != nil {
		t.Fatal(err)
	}
	p := NewPeer([]*x509.Certificate{parseCert(t, own)})
	token := a.Token(awsClaims(map[string]any{"request_tags": map[string]any{"x5t.S256": base64.RawURLEncoding.EncodeToString(p.sum[:])}}))
	for _, tc := range []struct {
		name string
		peer *Peer
		want Failure
	}{{"its own", p, NoCredentials}, {"another", NewPeer([]*x509.Certificate{parseCert(t, other)}), NotBound}, {"none", nil, NotBound}} {
		res := d.book.Identify(&Request{Method: "GET", Path: "/", Fields: fields{}, Peer: tc.peer, Now: now, Credentials: Credentials{Authorization: "Bearer " + token}})
		if (res.Identity != nil) != (tc.want == NoCredentials) || res.Failure != tc.want {
			t.Errorf("%s: %v", tc.name, res.Failure)
		}
	}
}
