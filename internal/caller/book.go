package caller

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Caller is one caller of the configuration: its name and how it may prove
// itself. Whatever is set here, keys of the Registry's store count too.
type Caller struct {
	// Name is what backends, the log and the metrics call it. Required.
	Name string
	// KeyHashes are those of API keys that the configuration names.
	KeyHashes []KeyHash
	// AWS, if set, takes AWS identities.
	AWS *AWS
	// Token, if set, takes tokens of any other issuer.
	Token *TokenRule
	// Signature, if set, takes requests signed with a key of its own.
	Signature *SignatureKey
	// Certificate, if set, takes client certificates.
	Certificate *CertificateRule
	// KeepCredentials passes on to the backend what the caller proved itself
	// with; else it is taken out.
	KeepCredentials bool
}

// entry is one caller of a Book.
type entry struct {
	name  string
	index int
	keep  bool
	rule  *Caller
	count *counters
}

// Book is one reading of the configuration. It is safe for concurrent use.
type Book struct {
	registry *Registry
	entries  []*entry
	byName   map[string]*entry
	issuers  map[string]*issuer
	cache    *cache
	signers  map[string]*signer // by key id
	keys     atomic.Pointer[keyTable]

	certRules []*certRule
	sts       []*stsEndpoint
	tokenKey  []byte // of our own tokens; nil without sts
}

// Prepare makes a Book of the callers of a configuration. It does all that can
// fail and touches no network; Use makes it the one that Run looks after.
func (r *Registry) Prepare(list []Caller) (*Book, error) {
	b := &Book{
		registry: r, byName: make(map[string]*entry), issuers: make(map[string]*issuer),
		cache: newCache(&r.keysVersion, r.metrics), signers: make(map[string]*signer),
	}
	for i := range list {
		c := &list[i]
		if b.byName[c.Name] != nil || c.Name == "" {
			return nil, fmt.Errorf("caller %q: want a name that no other one has", c.Name)
		}
		e := &entry{name: c.Name, index: i, keep: c.KeepCredentials, rule: c, count: r.metrics.forCaller(c.Name)}
		b.entries = append(b.entries, e)
		b.byName[c.Name] = e
		if err := b.addRules(e); err != nil {
			return nil, err
		}
	}
	keys, err := b.readKeys()
	if err != nil {
		return nil, err
	}
	b.keys.Store(keys)
	return b, nil
}

// addRules prepares what a caller may prove itself by besides keys.
func (b *Book) addRules(e *entry) error {
	if r := e.rule.AWS; r != nil && r.Issuer != "" {
		i, err := b.addIssuer(e, source{issuer: r.Issuer, roots: r.Roots, near: true}, awsAlgorithms)
		if err != nil {
			return err
		}
		i.aws = append(i.aws, e)
	}
	if r := e.rule.AWS; r != nil && r.STSRegion != "" {
		if err := b.addSTS(e, r); err != nil {
			return err
		}
	}
	if r := e.rule.Token; r != nil {
		i, err := b.addIssuer(e, source{issuer: r.Issuer, url: r.KeysURL, roots: r.Roots}, tokenAlgorithms)
		if err != nil {
			return err
		}
		i.plain = append(i.plain, e)
	}
	if r := e.rule.Signature; r != nil {
		s, err := newSigner(e, r)
		if err != nil {
			return err
		}
		if other := b.signers[r.KeyID]; other != nil {
			return fmt.Errorf("caller %s: its key id %s is that of %s too", e.name, r.KeyID, other.entry.name)
		}
		b.signers[r.KeyID] = s
	}
	if r := e.rule.Certificate; r != nil {
		return b.addCertRule(e, r)
	}
	return nil
}

// readKeys makes the table of the keys of the configuration and of the store.
func (b *Book) readKeys() (*keyTable, error) {
	t := &keyTable{keys: make(map[uint64][]*key), serials: make(map[string]bool)}
	used := b.registry.used()
	add := func(e *entry, hash KeyHash, id string, expires time.Time) error {
		k := &key{hash: hash, id: id, expires: expires, identity: newIdentity(e, APIKey)}
		k.identity.key = k
		k.lastUsed.Store(used[hash.short()])
		return t.add(k)
	}
	for _, e := range b.entries {
		for _, h := range e.rule.KeyHashes {
			if err := add(e, h, "", time.Time{}); err != nil {
				return nil, err
			}
		}
	}
	f, err := readStore(b.registry.dir)
	if err != nil {
		return nil, err
	}
	for i := range f.Keys {
		k := &f.Keys[i]
		e := b.byName[k.Caller]
		hash, err := ParseKeyHash(k.Hash)
		if err != nil {
			return nil, fmt.Errorf("%s: key %s: hash: %w", filepath.Join(b.registry.dir, storeName), k.ID, err)
		}
		if e == nil || slices.Contains(e.rule.KeyHashes, hash) {
			continue // not configured any more, or in the configuration too
		}
		expires := k.Expires
		if !k.Revoked.IsZero() {
			expires = k.Revoked
		}
		if err := add(e, hash, k.ID, expires); err != nil {
			return nil, err
		}
	}
	for i := range f.Certificates {
		t.serials[f.Certificates[i].Serial] = f.Certificates[i].Revoked.IsZero()
	}
	return t, nil
}

// Access says which callers may do something. A nil Access lets everybody.
type Access struct{ allowed []bool }

// Access returns the access of the callers with the given names.
func (b *Book) Access(names []string) (*Access, error) {
	a := &Access{allowed: make([]bool, len(b.entries))}
	for _, name := range names {
		e := b.byName[name]
		if e == nil {
			return nil, fmt.Errorf("caller %q: not in callers", name)
		}
		a.allowed[e.index] = true
	}
	return a, nil
}

// Allows reports whether id, nil for a stranger, may. id must be of the Book
// that made a.
func (a *Access) Allows(id *Identity) bool {
	return a == nil || id != nil && id.entry.index < len(a.allowed) && a.allowed[id.entry.index]
}

// maxToken bounds a bearer token, in bytes.
const maxToken = 8 << 10

// Identify judges the credentials of a request. It waits for nobody, but for
// the keys of an issuer when a token cannot be judged without them, and then
// for a bounded time. Header fields come before the client's certificate,
// which counts when they make nobody known.
func (b *Book) Identify(r *Request) Result {
	res := b.fields(r)
	if res.Identity != nil || res.Body != nil || r.Peer == nil || len(b.certRules) == 0 {
		return res
	}
	cert := b.certificate(r.Peer, r.Now)
	if cert.Identity != nil || res.Failure == NoCredentials {
		return cert
	}
	return res
}

// fields judges the header fields.
func (b *Book) fields(r *Request) Result {
	if r.Doubled {
		return refused(Malformed)
	}
	if r.Authorization != "" {
		if res := b.authorization(r); res.Failure != NoCredentials || res.Identity != nil || res.Body != nil {
			res.Spent = SpentAuthorization
			return res
		}
	}
	if r.APIKey != "" {
		res := b.bearer(r, r.APIKey)
		res.Spent = SpentAPIKey
		return res
	}
	return b.elsewhere(r)
}

// elsewhere judges what is not in a field of its own for credentials.
func (b *Book) elsewhere(r *Request) Result {
	if r.Signed {
		return b.messageSigned(r)
	}
	return refused(NoCredentials)
}

// authorization judges the field Authorization. Schemes that are not ours are
// the application's.
func (b *Book) authorization(r *Request) Result {
	scheme, value, _ := strings.Cut(r.Authorization, " ")
	if strings.EqualFold(scheme, "Bearer") {
		return b.bearer(r, strings.TrimSpace(value))
	}
	if isSigV4(r.Authorization) {
		return b.sigV4(r)
	}
	return refused(NoCredentials)
}

// bearer judges an API key or a token.
func (b *Book) bearer(r *Request, text string) Result {
	switch {
	case text == "":
		return refused(Malformed)
	case len(text) > maxToken:
		return refused(TooLarge)
	}
	hash, known := r.Memo.find(text)
	res := b.byHash(r, text, &hash)
	if !known && res.Identity != nil {
		r.Memo.keep(text, hash)
	}
	return res
}

// byHash judges a credential with the given hash.
func (b *Book) byHash(r *Request, text string, hash *[sha256.Size]byte) Result {
	if k := b.keys.Load().find(hash); k != nil {
		return k.check(r.Now)
	}
	switch {
	case strings.HasPrefix(text, ownPrefix):
		return b.own(r, text, hash)
	case strings.Count(text, ".") == 2:
		return b.token(r, text, hash)
	case mistyped(text):
		return refused(Malformed)
	}
	return refused(UnknownKey)
}

// KeyStatus is what is known of one API key.
type KeyStatus struct {
	Caller   string
	ID       string // "" for one of the configuration
	Hash     string // the beginning of its hash
	Expires  time.Time
	LastUsed time.Time // zero: never, as far as we remember
}

// Keys tells of every API key, in the order of the configuration.
func (b *Book) Keys() []KeyStatus {
	var out []KeyStatus
	for _, k := range b.keys.Load().list {
		s := KeyStatus{Caller: k.identity.Name, ID: k.id, Hash: k.hash.short(), Expires: k.expires}
		if unix := k.lastUsed.Load(); unix > 0 {
			s.LastUsed = time.Unix(unix, 0)
		}
		out = append(out, s)
	}
	return out
}

// usageFile is usage.json: when each key was last used, in Unix seconds, by
// the beginning of its hash.
type usageFile struct {
	Version int              `json:"v"`
	Used    map[string]int64 `json:"used"`
}

func readUsage(path string) (map[string]int64, error) {
	raw, err := readBounded(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var f usageFile
	if err := json.Unmarshal(raw, &f); err != nil || f.Version != 1 {
		return nil, fmt.Errorf("%s: not what postern writes", path)
	}
	return f.Used, nil
}
