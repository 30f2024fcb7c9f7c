package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// keptPair is a key and a certificate for name, as autocert keeps them.
func keptPair(t *testing.T, name string, until time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{name}, NotBefore: until.AddDate(0, -3, 0), NotAfter: until}
	cert, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})...)
}

// The way from a Go program's autocert folder into a data folder, out of it as
// a backup, and into another one.
func TestImportAndExport(t *testing.T) {
	cache, data, second := t.TempDir(), filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "data")
	until := time.Now().AddDate(0, 2, 0)
	for name, end := range map[string]time.Time{"mypi.duckdns.org": until, "old.duckdns.org": time.Now().AddDate(0, 0, -1)} {
		if err := os.WriteFile(filepath.Join(cache, name), keptPair(t, name, end), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	conf := filepath.Join(t.TempDir(), "postern.yaml")
	text := "email: me@example.net\ndata: " + data + "\nsites: [{hosts: [other.duckdns.org], upstream: 127.0.0.1:3000}]\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	want := func(what string, code, wantCode int, text string, parts ...string) {
		t.Helper()
		if code != wantCode {
			t.Fatalf("%s: exit %d, want %d:\n%s", what, code, wantCode, text)
		}
		for _, p := range parts {
			if !strings.Contains(text, p) {
				t.Errorf("%s: %q is not in\n%s", what, p, text)
			}
		}
	}
	out, errs, code := proxyCommand(t, "import", "autocert", "-c", conf, "--dry-run", cache)
	want("dry run", code, 0, out+errs, "would import  certificate  mypi.duckdns.org  until "+until.UTC().Format(time.DateOnly),
		"left out      certificate  old.duckdns.org   it has expired on ", "1 of 2 would be imported into "+data+"; nothing was changed")
	if _, err := os.Stat(data); err == nil {
		t.Error("a dry run made the data folder")
	}
	out, errs, code = proxyCommand(t, "import", "autocert", "-c", conf, cache)
	want("import", code, 0, out+errs, "imported  certificate  mypi.duckdns.org", "note: no site has the host mypi.duckdns.org", "1 of 2 imported into "+data)
	out, errs, code = proxyCommand(t, "import", "autocert", "-c", conf, cache)
	want("again", code, 0, out+errs, "kept      certificate  mypi.duckdns.org  it is there already", "0 of 2 imported")

	tarball, errs, code := proxyCommand(t, "certs", "export", "-c", conf)
	want("export", code, 0, errs, "3 files of "+data)
	file := filepath.Join(t.TempDir(), "postern.tar")
	if err := os.WriteFile(file, []byte(tarball), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs, code = proxyCommand(t, "certs", "import", "--data", second, "-c", conf, file)
	want("import of the backup", code, 0, out+errs, "imported  certificate  mypi.duckdns.org", "1 of 1 imported into "+second)
	a, _ := filepath.Glob(filepath.Join(data, "certificates", "*", "*", "*"))
	b, _ := filepath.Glob(filepath.Join(second, "certificates", "*", "*", "*"))
	if len(a) != 3 || len(b) != 3 {
		t.Fatalf("files %q and %q, want 3 each", a, b)
	}
	for i := range a {
		x, err := os.ReadFile(a[i])
		if err != nil {
			t.Fatal(err)
		}
		y, err := os.ReadFile(b[i])
		if err != nil || !bytes.Equal(x, y) {
			t.Errorf("%s differs: %v", filepath.Base(a[i]), err)
		}
	}

	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"import", "autocert"}, "want one folder; the command is `proxy import autocert DIR`"},
		{[]string{"import", "certbot", t.TempDir(), "--data", second}, "no renewal/*.conf there"},
		{[]string{"import", "nginx"}, `unknown command "nginx"`},
		{[]string{"certs", "import"}, "want one file"},
		{[]string{"certs", "import", conf, "--data", second}, "backup: "},
		{[]string{"certs", "export", "--data", t.TempDir()}, "it holds no certificate and no account"},
	} {
		_, errs, code := proxyCommand(t, c.args...)
		want(strings.Join(c.args, " "), code, 1, errs, c.want)
	}
}
