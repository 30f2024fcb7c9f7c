package tlsmgr

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writePair makes a self-signed certificate and writes it with its key.
func writePair(t *testing.T, certFile, keyFile, cn string, ends time.Time, hosts ...string) {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	tpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: cn},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: ends, DNSNames: hosts}
	der := must(x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key))
	kder := must(x509.MarshalPKCS8PrivateKey(key))
	writeFile(t, certFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	writeFile(t, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kder})))
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFilesReloadThroughLinks(t *testing.T) {
	t.Parallel()
	// As certbot lays it out: live/ holds links into archive/.
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	link := func(n string) {
		t.Helper()
		for _, f := range []string{"cert", "key"} {
			if err := os.Symlink(at(f+n+".pem"), at("new")); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(at("new"), at(f+".pem")); err != nil {
				t.Fatal(err)
			}
		}
	}
	year := time.Now().Add(365 * 24 * time.Hour)
	writePair(t, at("cert1.pem"), at("key1.pem"), "first", year, "home.example")
	link("1")
	book := &logBook{}
	cfg := Config{Dir: t.TempDir(), Issuer: "local", Log: book.logger(),
		Files: []FileCert{{Hosts: []string{"home.example"}, Cert: at("cert.pem"), Key: at("key.pem")}}}
	m := mustNew(t, cfg)
	d := openDoor(t, m.TLSConfig())
	shows := func(want string) {
		t.Helper()
		leaf, err := d.dial("home.example", nil)
		if err != nil {
			t.Fatal(err)
		}
		if leaf.Subject.CommonName != want {
			t.Errorf("served %q, want %q", leaf.Subject.CommonName, want)
		}
	}
	shows("first")
	m.lookAround(time.Now())
	if strings.Contains(book.String(), "read again") {
		t.Error("an unchanged file was read again")
	}

	writePair(t, at("cert2.pem"), at("key2.pem"), "second", year, "home.example")
	link("2")
	m.lookAround(time.Now())
	shows("second")

	// Half of a new pair: the old one stays, told once.
	writePair(t, at("cert3.pem"), at("key3.pem"), "third", year, "home.example")
	if err := os.Remove(at("cert.pem")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(at("cert3.pem"), at("cert.pem")); err != nil {
		t.Fatal(err)
	}
	m.lookAround(time.Now())
	m.lookAround(time.Now())
	shows("second")
	if n := strings.Count(book.String(), "old one is kept"); n != 1 {
		t.Errorf("told %d times, want once:\n%s", n, book)
	}
	link("3")
	m.lookAround(time.Now())
	shows("third")

	if s := m.Status(); len(s) != 1 || s[0].Source != "file" || s[0].State != StateOK {
		t.Errorf("status %+v", s)
	}
	// The same pair in a reload is not read again; a bad one refuses it.
	before := m.table.Load().files[0]
	if err := m.Apply(cfg); err != nil {
		t.Fatal(err)
	}
	if m.table.Load().files[0] != before {
		t.Error("a reload read an unchanged pair again")
	}
	cfg.Files = append(cfg.Files, FileCert{Hosts: []string{"b.example"}, Cert: at("cert1.pem"), Key: at("key2.pem")})
	if err := m.Apply(cfg); err == nil {
		t.Error("a reload with a bad pair was accepted")
	}
	shows("third")
}

func TestFileErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	soon := time.Now().Add(24 * time.Hour)
	writePair(t, at("a.pem"), at("a.key"), "a", soon, "home.example")
	writePair(t, at("b.pem"), at("b.key"), "b", soon, "home.example")
	writeFile(t, at("junk"), "hello")
	for _, tc := range []struct{ name, cert, key, want string }{
		{"no certificate", at("none.pem"), at("a.key"), "tls certificate file: open " + at("none.pem")},
		{"no key", at("a.pem"), at("none.key"), "tls key file: open " + at("none.key")},
		{"another key", at("a.pem"), at("b.key"), "private key does not match public key; want the PEM chain"},
		{"not PEM", at("junk"), at("a.key"), at("junk") + " with key"},
	} {
		_, err := New(Config{Dir: t.TempDir(), Issuer: "local", Files: []FileCert{{Hosts: []string{"home.example"}, Cert: tc.cert, Key: tc.key}}})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v\nwant %q in it", tc.name, err, tc.want)
		}
	}
}

func TestOddFilesOnlyWarn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	writePair(t, cert, key, "old", time.Now().Add(-time.Hour), "home.example")
	book := &logBook{}
	m := mustNew(t, Config{Dir: t.TempDir(), Issuer: "local", Log: book.logger(),
		Files: []FileCert{{Hosts: []string{"home.example", "else.example", "*.home.example"}, Cert: cert, Key: key}}})
	for _, want := range []string{"has expired", "host=else.example", "host=*.home.example"} {
		if !strings.Contains(book.String(), want) {
			t.Errorf("no warning with %q:\n%s", want, book)
		}
	}
	if s := m.Status(); len(s) != 3 || s[0].State != StateExpired {
		t.Errorf("status %+v", s)
	}
}
