package tlsmgr

import (
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/crypto/acme/autocert"
)

// ImportAutocert brings in what golang.org/x/crypto/acme/autocert kept in a
// DirCache: certificates with their keys, and the account's key. The account
// itself is looked up at the authority when it is first used. It asks nobody.
// A file that cannot be used is told in the list; an error is about the folder
// or the storage.
func ImportAutocert(ctx context.Context, dir string, cfg ImportConfig) ([]Imported, error) {
	if cfg.Directory == "" {
		cfg.Directory = letsEncrypt
	}
	if _, err := directoryKey(cfg.Directory); err != nil {
		return nil, err
	}
	im, err := newImporter(cfg)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("autocert folder: %w", err)
	}
	cache := autocert.DirCache(dir)
	found := false
	for _, e := range entries {
		name := e.Name()
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || info.Size() > maxImportFile || strings.HasPrefix(name, ".") {
			continue
		}
		if strings.HasSuffix(name, "+token") || strings.HasSuffix(name, "+http-01") {
			continue // of challenges long gone
		}
		raw, err := cache.Get(ctx, name)
		if err != nil {
			return im.done, err
		}
		key, chain := splitPEM(raw)
		switch {
		case name == "acme_account+key" || name == "acme_account.key":
			found = true
			err = im.autocertAccount(ctx, dir+"/"+name, key)
		case key == nil || chain == nil:
			continue // not one of its files
		case strings.HasSuffix(name, "+rsa"):
			found = true
			im.skip(Imported{What: "certificate", Name: strings.TrimSuffix(name, "+rsa"), From: name, Authority: cfg.Directory},
				"it is the RSA twin for very old clients; the other one is used")
		default:
			found = true
			err = im.certificate(ctx, name, cfg.Directory, chain, key)
		}
		if err != nil {
			return im.done, err
		}
	}
	if !found {
		return nil, fmt.Errorf("autocert folder %s: no certificate and no account there, want the folder given to autocert.DirCache", dir)
	}
	return im.done, nil
}

func (im *importer) autocertAccount(ctx context.Context, from string, raw []byte) error {
	if key, err := decodeKey(raw); err == nil {
		return im.account(ctx, from, im.cfg.Directory, "", nil, key)
	}
	im.skip(Imported{What: "account", From: from, Authority: im.cfg.Directory}, "it holds no key that can be read")
	return nil
}
