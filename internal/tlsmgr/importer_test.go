package tlsmgr

import (
	"archive/tar"
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/internal/testnet"
)

// issued is what one Manager got from Pebble.
type issued struct {
	house             *house
	dir               string
	chain, key        []byte
	account           crypto.Signer
	location          string
	serial, issuerKey string
}

// issueOnce runs a Manager until name has a certificate.
func issueOnce(t *testing.T) *issued {
	t.Helper()
	h := newHouse(t, testnet.CAOptions{})
	x := &issued{house: h, dir: t.TempDir()}
	m, d := h.open(t, h.config(x.dir, h.name))
	stop := run(t, m)
	x.serial = served(t, d, h.name, h.ca.IssuerRoots).SerialNumber.String()
	stop()
	m.Close()
	u, err := url.Parse(h.ca.DirectoryURL)
	if err != nil {
		t.Fatal(err)
	}
	x.issuerKey = issuerKey(u)
	st := newJournal(x.dir)
	a := &authority{key: x.issuerKey, email: "who@example.org", storage: st}
	acct, err := a.loadAccount(t.Context(), a.email)
	if err != nil {
		t.Fatal(err)
	}
	x.account, x.location = acct.PrivateKey, acct.Location
	certKey, keyKey, _ := siteKeys(x.issuerKey, h.name)
	x.chain, x.key = mustRead(t, st.Filename(certKey)), mustRead(t, st.Filename(keyKey))
	return x
}

func mustRead(t *testing.T, file string) []byte {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func mustWrite(t *testing.T, file string, raw []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// writeJWK writes a key as certbot's josepy does.
func writeJWK(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	enc := func(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
	var k map[string]string
	switch key := key.(type) {
	case *rsa.PrivateKey:
		k = map[string]string{"kty": "RSA", "n": enc(key.N.Bytes()), "e": enc(big.NewInt(int64(key.E)).Bytes()), "d": enc(key.D.Bytes()),
			"p": enc(key.Primes[0].Bytes()), "q": enc(key.Primes[1].Bytes()), "dp": enc(key.Precomputed.Dp.Bytes()),
			"dq": enc(key.Precomputed.Dq.Bytes()), "qi": enc(key.Precomputed.Qinv.Bytes())}
	case *ecdsa.PrivateKey:
		d, err := key.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		pub, err := key.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		half := (len(pub) - 1) / 2
		k = map[string]string{"kty": "EC", "crv": key.Curve.Params().Name, "x": enc(pub[1 : 1+half]), "y": enc(pub[1+half:]), "d": enc(d)}
	}
	raw, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// certbot lays x out as certbot would.
func (x *issued) certbot(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	u, err := url.Parse(x.house.ca.DirectoryURL)
	if err != nil {
		t.Fatal(err)
	}
	name := x.house.name
	const account = "6a2b8ab8d1a5b4e5a0e0d3d2a1c9f0b7"
	mustWrite(t, filepath.Join(dir, "renewal", name+".conf"), fmt.Appendf(nil, `# renew_before_expiry = 30 days
version = 2.9.0
archive_dir = %[1]s/archive/%[2]s
cert = %[1]s/live/%[2]s/cert.pem
privkey = %[1]s/live/%[2]s/privkey.pem
chain = %[1]s/live/%[2]s/chain.pem
fullchain = %[1]s/live/%[2]s/fullchain.pem

# Options used in the renewal process
[renewalparams]
account = %[3]s
authenticator = nginx
server = %[4]s
key_type = ecdsa
[[webroot_map]]
server = https://not.this.one/
`, "/etc/letsencrypt", name, account, x.house.ca.DirectoryURL))
	mustWrite(t, filepath.Join(dir, "archive", name, "fullchain1.pem"), x.chain)
	mustWrite(t, filepath.Join(dir, "archive", name, "privkey1.pem"), x.key)
	live := filepath.Join(dir, "live", name)
	if err := os.MkdirAll(live, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"fullchain", "privkey"} {
		if err := os.Symlink("../../archive/"+name+"/"+f+"1.pem", filepath.Join(live, f+".pem")); err != nil {
			t.Fatal(err)
		}
	}
	where := filepath.Join(dir, "accounts", u.Host, strings.Trim(u.Path, "/"), account)
	mustWrite(t, filepath.Join(where, "private_key.json"), writeJWK(t, x.account))
	mustWrite(t, filepath.Join(where, "regr.json"), fmt.Appendf(nil, `{"body": {}, "uri": %q}`, x.location))
	mustWrite(t, filepath.Join(where, "meta.json"), []byte(`{"creation_dt": "2026-01-01T00:00:00Z", "creation_host": "pi"}`))
	return dir
}

// summary is the outcome of an import, a line for each.
func summary(list []Imported) string {
	var b strings.Builder
	for _, i := range list {
		if i.Taken {
			fmt.Fprintf(&b, "%s taken\n", i.What)
		} else {
			fmt.Fprintf(&b, "%s: %s\n", i.What, i.Why)
		}
	}
	return b.String()
}

// startsWithout serves from dir with the authority down, then brings it back
// and asks for an account.
func (x *issued) startsWithout(t *testing.T, dir string) {
	t.Helper()
	h := x.house
	h.ca.SetDown(true)
	orders, accounts := h.ca.Orders(), h.ca.Accounts()
	cfg := h.config(dir, h.name)
	m := mustNew(t, cfg) // no Run: it is there at once
	leaf, err := openDoor(t, m.TLSConfig()).dial(h.name, h.ca.IssuerRoots)
	if err != nil {
		t.Fatal(err)
	}
	if got := leaf.SerialNumber.String(); got != x.serial {
		t.Errorf("served serial %s, want the imported %s", got, x.serial)
	}
	h.ca.SetDown(false)
	a := m.eng.now.Load().list[0].certifier.(*authority)
	if err := a.reach(t.Context()); err != nil {
		t.Fatal(err)
	}
	acct, err := a.account(t.Context(), a.acmez(nil))
	if err != nil {
		t.Fatal(err)
	}
	if acct.Location != x.location {
		t.Errorf("account %s, want the imported %s", acct.Location, x.location)
	}
	if h.ca.Orders() != orders || h.ca.Accounts() != accounts {
		t.Errorf("orders %d, accounts %d, want none more than %d and %d", h.ca.Orders(), h.ca.Accounts(), orders, accounts)
	}
	m.Close()
}

// TestImportCertbot: the switch from certbot costs no order and keeps the
// account.
func TestImportCertbot(t *testing.T) {
	t.Parallel()
	x := issueOnce(t)
	src, dst := x.certbot(t), t.TempDir()
	cfg := ImportConfig{Dir: dst, Email: "who@example.org", DryRun: true}
	step := func(what, want string) {
		t.Helper()
		got, err := ImportCertbot(t.Context(), src, cfg)
		if err != nil || summary(got) != want {
			t.Fatalf("%s: %v\n%swant\n%s", what, err, summary(got), want)
		}
	}
	step("dry run", "certificate taken\naccount taken\n")
	if left := files(t, dst); len(left) != 0 {
		t.Errorf("a dry run wrote %q", left)
	}
	cfg.DryRun = false
	step("import", "certificate taken\naccount taken\n")
	step("again", "certificate: it is there already\naccount: it is there already\n")
	for _, f := range files(t, dst) {
		if info, err := os.Stat(filepath.Join(dst, f)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, mode %v, want 0600", f, err, info.Mode())
		}
	}
	x.startsWithout(t, dst)
}

// TestImportCertbotWithoutRegistration: certbot kept the key alone; the
// authority tells the account's URL.
func TestImportCertbotWithoutRegistration(t *testing.T) {
	t.Parallel()
	x := issueOnce(t)
	src, dst := x.certbot(t), t.TempDir()
	found, err := filepath.Glob(filepath.Join(src, "accounts", "*", "*", "*", "regr.json"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	if err := os.Remove(found[0]); err != nil {
		t.Fatal(err)
	}
	if got, err := ImportCertbot(t.Context(), src, ImportConfig{Dir: dst, Email: "who@example.org"}); err != nil || summary(got) != "certificate taken\naccount taken\n" {
		t.Fatalf("%v\n%s", err, summary(got))
	}
	x.startsWithout(t, dst)
}

func TestImportAutocert(t *testing.T) {
	t.Parallel()
	x := issueOnce(t)
	src, dst := t.TempDir(), t.TempDir()
	account, err := encodeKey(x.account)
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, filepath.Join(src, x.house.name), append(bytes.Clone(x.key), x.chain...))
	mustWrite(t, filepath.Join(src, x.house.name+"+rsa"), append(bytes.Clone(x.key), x.chain...))
	mustWrite(t, filepath.Join(src, "acme_account+key"), account)
	mustWrite(t, filepath.Join(src, "a+token"), []byte("x"))
	mustWrite(t, filepath.Join(src, "README"), []byte("x"))
	got, err := ImportAutocert(t.Context(), src, ImportConfig{Dir: dst, Email: "who@example.org", Directory: x.house.ca.DirectoryURL})
	want := "account taken\ncertificate taken\ncertificate: it is the RSA twin for very old clients; the other one is used\n"
	if err != nil || summary(got) != want {
		t.Fatalf("%v\n%swant\n%s", err, summary(got), want)
	}
	x.startsWithout(t, dst)
	if _, err := ImportAutocert(t.Context(), t.TempDir(), ImportConfig{Dir: dst}); err == nil {
		t.Error("an empty folder: no error")
	}
}

// TestImportRefuses: what does not belong together, is over, or is older than
// what is there.
func TestImportRefuses(t *testing.T) {
	t.Parallel()
	x := issueOnce(t)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	otherPEM, err := encodeKey(other)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, src, dst string)
		want  string
	}{
		{"another key", func(t *testing.T, src, _ string) {
			mustWrite(t, filepath.Join(src, "archive", x.house.name, "privkey1.pem"), otherPEM)
		}, "certificate: private key does not match public key\naccount taken\n"},
		{"no key", func(t *testing.T, src, _ string) {
			if err := os.RemoveAll(filepath.Join(src, "archive")); err != nil {
				t.Fatal(err)
			}
		}, "certificate: open "},
		{"another account", func(t *testing.T, _, dst string) {
			a := &authority{key: x.issuerKey, email: "who@example.org", storage: newJournal(dst)}
			_, k := a.accountKeys(a.email)
			mustWrite(t, a.storage.Filename(k), otherPEM)
		}, "certificate taken\naccount: another account is there and is kept\n"},
		{"no such account", func(t *testing.T, src, _ string) {
			if err := os.RemoveAll(filepath.Join(src, "accounts")); err != nil {
				t.Fatal(err)
			}
		}, "certificate taken\naccount: open "},
		{"an account elsewhere", func(t *testing.T, src, _ string) {
			f := filepath.Join(src, "renewal", x.house.name+".conf")
			mustWrite(t, f, bytes.Replace(mustRead(t, f), []byte("account = 6a2b"), []byte("account = ../6a2b"), 1))
		}, "certificate taken\naccount: its id "},
	} {
		t.Run(c.name, func(t *testing.T) {
			src, dst := x.certbot(t), t.TempDir()
			c.spoil(t, src, dst)
			got, err := ImportCertbot(t.Context(), src, ImportConfig{Dir: dst, Email: "who@example.org"})
			if err != nil || !strings.HasPrefix(summary(got), c.want) {
				t.Fatalf("%v\n%swant\n%s", err, summary(got), c.want)
			}
		})
	}
	if _, err := ImportCertbot(t.Context(), t.TempDir(), ImportConfig{Dir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "no renewal/*.conf there") {
		t.Errorf("an empty folder: %v", err)
	}
}

func files(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(dir), ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestExportAndImport(t *testing.T) {
	t.Parallel()
	x := issueOnce(t)
	certKey, _, _ := siteKeys(x.issuerKey, x.house.name)
	mustWrite(t, filepath.Join(x.dir, filepath.Dir(filepath.FromSlash(certKey))+".unreadable-1", "a.crt"), []byte("x"))
	var b bytes.Buffer
	n, err := Export(x.dir, &b)
	if err != nil || n < 6 {
		t.Fatalf("%d files, %v", n, err)
	}
	for tr := tar.NewReader(bytes.NewReader(b.Bytes())); ; {
		h, err := tr.Next()
		if err != nil {
			break
		}
		if h.Mode != 0o600 || strings.Contains(h.Name, "unreadable") || strings.Contains(h.Name, "tickets") {
			t.Errorf("in the backup: %s, mode %o", h.Name, h.Mode)
		}
	}
	dst := t.TempDir()
	for _, want := range []string{"certificate taken\n", "certificate: it is there already\n"} {
		got, err := ImportBackup(t.Context(), bytes.NewReader(b.Bytes()), ImportConfig{Dir: dst})
		if err != nil || !strings.Contains(summary(got), want) {
			t.Fatalf("%v\n%swant %s", err, summary(got), want)
		}
	}
	x.startsWithout(t, dst)
}

func makeTar(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = 1
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write(make([]byte, h.Size)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestBackupRefused: nothing is written of a tar that has one bad path.
func TestBackupRefused(t *testing.T) {
	for _, h := range []tar.Header{
		{Name: "../evil"}, {Name: "/etc/passwd"}, {Name: "certificates/../../evil"}, {Name: "certificates//a"},
		{Name: `certificates\..\evil`}, {Name: "bans.json"}, {Name: "acme/a/b/c/d/e/f/g"}, {Name: "local-ca/.hidden"},
		{Name: "acme/link", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"},
		{Name: "acme/hard", Typeflag: tar.TypeLink, Linkname: "attempts.json"}, {Name: "acme/dev", Typeflag: tar.TypeChar},
	} {
		dst := t.TempDir()
		raw := makeTar(t, tar.Header{Name: "attempts.json"}, h)
		if _, err := ImportBackup(t.Context(), bytes.NewReader(raw), ImportConfig{Dir: dst}); err == nil {
			t.Errorf("%s: no error", h.Name)
		} else if left := files(t, dst); len(left) != 0 {
			t.Errorf("%s: %v, and %q was written", h.Name, err, left)
		}
	}
	for _, raw := range [][]byte{nil, []byte("not a tar"), bytes.Repeat([]byte("x"), 2000)} {
		if _, err := ImportBackup(t.Context(), bytes.NewReader(raw), ImportConfig{Dir: t.TempDir()}); err == nil {
			t.Errorf("%.10q: no error", raw)
		}
	}
}

func TestParseJWK(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	keys := []crypto.Signer{rsaKey}
	for _, c := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	for _, k := range keys {
		got, err := parseJWK(writeJWK(t, k))
		if err != nil || !publicEqual(got, k) {
			t.Errorf("%T: %v", k, err)
		}
		if _, err := encodeKey(got); err != nil {
			t.Error(err)
		}
	}
	for in, want := range map[string]string{
		"x":                                     "is not a JSON web key",
		`{"kty":"oct"}`:                         `is a key of type "oct", want RSA or EC`,
		`{"kty":"RSA","n":"AQAB"}`:              "is not a whole RSA key",
		`{"kty":"EC","crv":"P-192","d":"AQ"}`:   `is on the curve "P-192", want P-256, P-384 or P-521`,
		`{"kty":"EC","crv":"P-256"}`:            "is not a whole EC key",
		`{"kty":"EC","crv":"P-256","d":"AQAB"}`: "has a public half that does not belong to it",
	} {
		if _, err := parseJWK([]byte(in)); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", in, err, want)
		}
	}
}

func FuzzImportFiles(f *testing.F) {
	f.Add([]byte("server = https://a/dir\n[renewalparams]\naccount = x\n"))
	f.Add([]byte(`{"kty":"EC","crv":"P-256","d":"AQAB","x":"AQ","y":"AQ"}`))
	f.Add([]byte(`{"kty":"RSA","n":"AQAB","e":"AQAB","d":"AQ","p":"AQ","q":"AQ"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for k, v := range parseRenewal(raw) {
			if strings.ContainsAny(k+v, "\n") {
				t.Errorf("%q = %q", k, v)
			}
		}
		if k, err := parseJWK(raw); err == nil {
			if _, err := encodeKey(k); err != nil {
				t.Error(err)
			}
		}
		if all, err := readBackup(bytes.NewReader(raw)); err == nil {
			for n := range all {
				if !filepath.IsLocal(n) {
					t.Errorf("path %q", n)
				}
			}
		}
	})
}
