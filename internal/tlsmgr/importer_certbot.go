package tlsmgr

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxImportFile bounds what is read of one file.
const maxImportFile = 1 << 20

// ImportCertbot brings the certificates, keys and accounts of a certbot folder
// (/etc/letsencrypt) in: each lineage that renewal/*.conf lists, for every
// name on its certificate, and the account it was renewed with, which keeps
// its place in the authority's rate limits. It reads nothing but that folder
// and asks nobody. A lineage that cannot be used is told in the list; an error
// is about the folder or the storage.
func ImportCertbot(ctx context.Context, dir string, cfg ImportConfig) ([]Imported, error) {
	im, err := newImporter(cfg)
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "renewal", "*.conf"))
	if err != nil || len(files) == 0 {
		if _, err := os.ReadDir(filepath.Join(dir, "renewal")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("certbot folder: %w", err)
		}
		return nil, fmt.Errorf("certbot folder %s: no renewal/*.conf there, want the folder that holds renewal, live and accounts, such as /etc/letsencrypt", dir)
	}
	slices.Sort(files)
	seen := map[string]bool{}
	for _, f := range files {
		raw, err := readBounded(f)
		if err != nil {
			return im.done, err
		}
		conf := parseRenewal(raw)
		chain, key, err := lineage(dir, strings.TrimSuffix(filepath.Base(f), ".conf"), conf)
		if err != nil {
			im.skip(Imported{What: "certificate", From: f, Authority: conf["server"]}, "%v", err)
			continue
		}
		if err := im.certificate(ctx, f, conf["server"], chain, key); err != nil {
			return im.done, err
		}
		account := conf["server"] + " " + conf["account"]
		if conf["account"] == "" || seen[account] {
			continue
		}
		seen[account] = true
		if err := im.certbotAccount(ctx, dir, conf["server"], conf["account"]); err != nil {
			return im.done, err
		}
	}
	return im.done, nil
}

// parseRenewal reads a renewal file: "key = value" lines, of which those of
// [renewalparams] have no other section's names.
func parseRenewal(raw []byte) map[string]string {
	out := map[string]string{}
	section := ""
	sc := bufio.NewScanner(bytes.NewReader(raw))
	sc.Buffer(nil, maxImportFile)
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if strings.HasPrefix(line, "[") {
			section = line
			continue
		}
		k, v, ok := strings.Cut(line, "=")
		if !ok || strings.HasPrefix(line, "#") || section != "" && section != "[renewalparams]" {
			continue
		}
		out[strings.TrimSpace(k)] = strings.Trim(strings.TrimSpace(v), `"'`)
	}
	return out
}

// lineage reads fullchain and privkey. When the folder was copied from another
// machine its files are looked for in it rather than where they were.
func lineage(dir, name string, conf map[string]string) (chain, key []byte, err error) {
	read := func(k string) ([]byte, error) {
		here := filepath.Join(dir, "live", name, k+".pem")
		raw, err := readBounded(here)
		if errors.Is(err, fs.ErrNotExist) && conf[k] != "" && conf[k] != here {
			raw, err = readBounded(conf[k])
		}
		return raw, err
	}
	if conf["server"] == "" {
		return nil, nil, errors.New("its renewal file does not say which authority it is from (server)")
	}
	if chain, err = read("fullchain"); err != nil {
		return nil, nil, err
	}
	key, err = read("privkey")
	return chain, key, err
}

// certbotAccount reads accounts/<host>/<path>/<id>.
func (im *importer) certbotAccount(ctx context.Context, dir, server, id string) error {
	u, err := url.Parse(server)
	if err != nil || !filepath.IsLocal(id) || strings.ContainsAny(id, `/\`) {
		im.skip(Imported{What: "account", Authority: server}, "its id %q is none", id)
		return nil
	}
	where := filepath.Join(append([]string{dir, "accounts", u.Host}, append(strings.Split(strings.Trim(u.Path, "/"), "/"), id)...)...)
	if !within(filepath.Join(dir, "accounts"), where) {
		im.skip(Imported{What: "account", Authority: server}, "its folder is not below accounts")
		return nil
	}
	i := Imported{What: "account", From: where, Authority: server}
	raw, err := readBounded(filepath.Join(where, "private_key.json"))
	if err != nil {
		im.skip(i, "%v", err)
		return nil
	}
	key, err := parseJWK(raw)
	if err != nil {
		im.skip(i, "private_key.json: %v", err)
		return nil
	}
	var reg struct {
		URI  string `json:"uri"`
		Body struct {
			Contact []string `json:"contact"`
		} `json:"body"`
	}
	if raw, err := readBounded(filepath.Join(where, "regr.json")); err == nil {
		_ = json.Unmarshal(raw, &reg) // without it the authority tells the rest
	}
	if l, err := url.Parse(reg.URI); err != nil || l.Host != u.Host {
		reg.URI = "" // of an authority that moved: asked for again
	}
	return im.account(ctx, where, server, reg.URI, reg.Body.Contact, key)
}

func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// jwk is a private key as RFC 7517 and RFC 7518 section 6 write it.
type jwk struct {
	Kty string `json:"kty"`
	Crv string `json:"crv"`
	X   string `json:"x"`
	Y   string `json:"y"`
	D   string `json:"d"`
	N   string `json:"n"`
	E   string `json:"e"`
	P   string `json:"p"`
	Q   string `json:"q"`
}

// parseJWK reads an RSA or EC key. Its errors hold nothing of the key.
func parseJWK(raw []byte) (crypto.Signer, error) {
	var k jwk
	if err := json.Unmarshal(raw, &k); err != nil {
		return nil, errors.New("is not a JSON web key")
	}
	part := func(s string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
		if err != nil {
			return nil
		}
		return b
	}
	switch k.Kty {
	case "RSA":
		return rsaKey(part(k.N), part(k.E), part(k.D), part(k.P), part(k.Q))
	case "EC":
		return ecKey(k.Crv, part(k.X), part(k.Y), part(k.D))
	}
	return nil, fmt.Errorf("is a key of type %q, want RSA or EC", k.Kty)
}

func rsaKey(n, e, d, p, q []byte) (crypto.Signer, error) {
	broken := errors.New("is not a whole RSA key")
	num := func(b []byte) *big.Int { return new(big.Int).SetBytes(b) }
	if len(n) == 0 || len(n) > 2048 || len(e) == 0 || len(e) > 4 || len(d) == 0 || len(p) == 0 || len(q) == 0 {
		return nil, broken
	}
	key := &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: num(n), E: int(num(e).Int64())},
		D:         num(d), Primes: []*big.Int{num(p), num(q)},
	}
	if err := key.Validate(); err != nil {
		return nil, broken
	}
	key.Precompute()
	return key, nil
}

func ecKey(crv string, x, y, d []byte) (crypto.Signer, error) {
	curves := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}
	c, ok := curves[crv]
	if !ok {
		return nil, fmt.Errorf("is on the curve %q, want P-256, P-384 or P-521", crv)
	}
	size := (c.Params().BitSize + 7) / 8
	if len(d) == 0 || len(d) > size || len(x) > size || len(y) > size {
		return nil, errors.New("is not a whole EC key")
	}
	pad := func(b []byte) []byte { return append(make([]byte, size-len(b)), b...) }
	key, err := ecdsa.ParseRawPrivateKey(c, pad(d))
	if err != nil {
		return nil, errors.New("is not a whole EC key")
	}
	public, err := ecdsa.ParseUncompressedPublicKey(c, slices.Concat([]byte{4}, pad(x), pad(y)))
	if err != nil || !key.PublicKey.Equal(public) {
		return nil, errors.New("has a public half that does not belong to it")
	}
	return key, nil
}

// readBounded reads a small file, through links.
func readBounded(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxImportFile+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxImportFile {
		return nil, fmt.Errorf("%s: longer than %d bytes", file, maxImportFile)
	}
	return raw, nil
}
