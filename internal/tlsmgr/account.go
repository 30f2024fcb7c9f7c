package tlsmgr

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// Accounts are kept as certmagic keeps them, so that those made by it and
// those imported from elsewhere are found:
// acme/<authority>/users/<e-mail>/<user>.{json,key}.

const noEmail = "default"

func (a *authority) usersKey() string { return path.Join("acme", safeKey(a.key), "users") }

// accountKeys are the storage keys of the account for an e-mail.
func (a *authority) accountKeys(email string) (reg, key string) {
	if email == "" {
		email = noEmail
	}
	email = strings.ToLower(email)
	user, _, _ := strings.Cut(strings.TrimPrefix(email, "@"), "@")
	base := path.Join(a.usersKey(), safeKey(email), safeKey(user))
	return base + ".json", base + ".key"
}

// account returns our account, made or changed as needed.
func (a *authority) account(ctx context.Context, client *acmez.Client) (acme.Account, error) {
	select {
	case a.register <- struct{}{}:
		defer func() { <-a.register }()
	case <-ctx.Done():
		return acme.Account{}, ctx.Err()
	}
	acct, err := a.loadAccount(ctx, a.email)
	switch {
	case err == nil:
		return acct, nil
	case !errors.Is(err, fs.ErrNotExist):
		a.log.Warn("account on disk is unreadable, moved aside", "authority", a.host, "err", errors.Join(err, a.moveAside(a.email)))
	}
	if acct, ok := a.adopt(ctx, client); ok {
		return acct, nil
	}
	return a.newAccount(ctx, client)
}

func (a *authority) loadAccount(ctx context.Context, email string) (acme.Account, error) {
	regKey, keyKey := a.accountKeys(email)
	reg, err := a.storage.Load(ctx, regKey)
	if err != nil {
		return acme.Account{}, err
	}
	key, err := a.storage.Load(ctx, keyKey)
	if errors.Is(err, fs.ErrNotExist) {
		return acme.Account{}, errors.New("the account's key is missing")
	} else if err != nil {
		return acme.Account{}, err
	}
	var acct acme.Account
	if err := json.Unmarshal(reg, &acct); err != nil {
		return acme.Account{}, fmt.Errorf("account: %w", err)
	}
	if acct.PrivateKey, err = decodeKey(key); err != nil {
		return acme.Account{}, errors.New("the account's key is not a PEM key") // the cause could quote it
	}
	if acct.Location == "" || acct.Status != acme.StatusValid {
		return acme.Account{}, fmt.Errorf("account: status %q at %q, want a valid one", acct.Status, acct.Location)
	}
	return acct, nil
}

// adopt takes the account of another e-mail over, and tells the authority the
// new one: the limits and CAA's accounturi are the account's, not the
// e-mail's (RFC 8555 section 7.3.2).
func (a *authority) adopt(ctx context.Context, client *acmez.Client) (acme.Account, bool) {
	users, err := a.storage.List(ctx, a.usersKey(), false)
	if err != nil {
		return acme.Account{}, false
	}
	for _, u := range users {
		acct, err := a.loadAccount(ctx, path.Base(u))
		if err != nil {
			continue
		}
		acct.Contact = a.contact()
		location, key := acct.Location, acct.PrivateKey
		if len(acct.Contact) > 0 { // without one, the authority keeps what it has
			if _, err := client.GetDirectory(ctx); err != nil {
				return acme.Account{}, false
			}
			if acct, err = client.UpdateAccount(ctx, acct); err != nil {
				a.log.Info("account of another e-mail is not taken over", "authority", a.host, "err", err)
				continue
			}
		}
		acct.Location, acct.PrivateKey, acct.Status = location, key, acme.StatusValid
		if err := a.saveAccount(ctx, acct); err != nil {
			return acme.Account{}, false
		}
		if err := os.RemoveAll(a.storage.Filename(u)); err != nil {
			a.log.Warn("the old e-mail's account stays on disk", "authority", a.host, "err", err)
		}
		a.log.Info("account has a new contact", "authority", a.host, "account", location)
		return acct, true
	}
	return acme.Account{}, false
}

func (a *authority) contact() []string {
	if a.email == "" {
		return nil
	}
	return []string{"mailto:" + a.email}
}

// accountKey is the key to register with: one that is there without its
// registration, because it was imported or the last write was cut short (the
// authority answers with the account it knows for it, RFC 8555 section 7.3),
// or else a new one.
func (a *authority) accountKey(ctx context.Context) (crypto.Signer, error) {
	_, at := a.accountKeys(a.email)
	if raw, err := a.storage.Load(ctx, at); err == nil {
		if key, err := decodeKey(raw); err == nil {
			return key, nil
		}
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

func (a *authority) newAccount(ctx context.Context, client *acmez.Client) (acme.Account, error) {
	key, err := a.accountKey(ctx)
	if err != nil {
		return acme.Account{}, err
	}
	acct := acme.Account{Contact: a.contact(), TermsOfServiceAgreed: true, PrivateKey: key}
	if b := a.cfg.EAB; b != nil {
		if _, err := client.GetDirectory(ctx); err != nil {
			return acct, &unreached{err}
		}
		if err := acct.SetExternalAccountBinding(ctx, client.Client, acme.EAB{KeyID: b.KeyID, MACKey: b.MACKey}); err != nil {
			return acct, fmt.Errorf("external account binding at %s: the key is not what the authority gave", a.host) // the cause could quote it
		}
	}
	acct, err = client.NewAccount(ctx, acct)
	var p acme.Problem
	switch {
	case err != nil && !errors.As(err, &p) && ctx.Err() == nil:
		return acct, &unreached{err}
	case err != nil:
		return acct, fmt.Errorf("account at %s: %w", a.host, err)
	}
	acct.PrivateKey = key
	a.log.Info("account made", "authority", a.host, "account", acct.Location)
	if err := a.saveAccount(ctx, acct); err != nil {
		return acct, fmt.Errorf("account at %s: %w", a.host, err)
	}
	return acct, nil
}

// saveAccount writes the key first: a key without its registration is simply
// not found, a registration without its key is set aside.
func (a *authority) saveAccount(ctx context.Context, acct acme.Account) error {
	reg, err := json.MarshalIndent(acct, "", "\t")
	if err != nil {
		return err
	}
	key, err := encodeKey(acct.PrivateKey)
	if err != nil {
		return err
	}
	regKey, keyKey := a.accountKeys(a.email)
	if err := a.storage.Store(ctx, keyKey, key); err != nil {
		return err
	}
	return a.storage.Store(ctx, regKey, reg)
}

// setAside moves an account away that the authority does not know, unless
// somebody else already replaced it.
func (a *authority) setAside(acct acme.Account) error {
	a.register <- struct{}{} // held only for network calls that end by themselves
	defer func() { <-a.register }()
	now, err := a.loadAccount(context.Background(), a.email) // reads two files
	if err == nil && now.Location != acct.Location {
		return nil
	}
	return a.moveAside(a.email)
}

func (a *authority) moveAside(email string) error {
	suffix := ".unreadable-" + time.Now().UTC().Format("20060102T150405.000Z")
	var errs []error
	reg, key := a.accountKeys(email)
	for _, k := range []string{reg, key} {
		f := a.storage.Filename(k)
		if err := os.Rename(f, f+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// accountURI is the account's URL for CAA's accounturi (RFC 8657), or "".
func (a *authority) accountURI(ctx context.Context) string {
	acct, err := a.loadAccount(ctx, a.email)
	if err != nil {
		return ""
	}
	return acct.Location
}

var _ crypto.Signer = (*ecdsa.PrivateKey)(nil)
