package caller

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"sync/atomic"
	"time"
)

// KeyHash is the SHA-256 of a whole API key. A key has 256 random bits, so
// that one round of a fast hash keeps it as well as a slow one would.
type KeyHash [sha256.Size]byte

// keyHashPrefix begins a hash as it is written.
const keyHashPrefix = "sha256:"

// ParseKeyHash reads "sha256:" and 64 hexadecimal digits.
func ParseKeyHash(s string) (h KeyHash, err error) {
	digits, ok := strings.CutPrefix(s, keyHashPrefix)
	if !ok || hex.DecodedLen(len(digits)) != len(h) {
		return h, errors.New(`want "sha256:" and the 64 hexadecimal digits of the SHA-256 of the whole key`)
	}
	if _, err := hex.Decode(h[:], []byte(digits)); err != nil {
		return h, errors.New("a digit is not hexadecimal")
	}
	return h, nil
}

// String returns what ParseKeyHash reads.
func (h KeyHash) String() string { return keyHashPrefix + hex.EncodeToString(h[:]) }

// short names a key in lists and files without telling its hash.
func (h KeyHash) short() string { return hex.EncodeToString(h[:8]) }

// HashKey returns the hash of an API key.
func HashKey(key string) KeyHash { return sha256.Sum256([]byte(key)) }

// The form of the keys that we make: "postern_", an id to find and to name it
// by, "_", 43 characters with 256 random bits, and 8 hexadecimal digits that
// tell a mistyped key from an invented one.
const (
	keyPrefix   = "postern_"
	keyIDLength = 8
	keySecret   = 43
	keySum      = 8
)

// newKey makes an API key and its id.
func newKey() (key, id string) {
	const letters = "abcdefghijkmnpqrstuvwxyz23456789" // 32 of them, none like another
	var raw [keyIDLength + 32]byte
	_, _ = rand.Read(raw[:]) // never fails, see crypto/rand
	name := make([]byte, keyIDLength)
	for i := range name {
		name[i] = letters[raw[i]%32]
	}
	id = string(name)
	key = keyPrefix + id + "_" + base64.RawURLEncoding.EncodeToString(raw[keyIDLength:])
	return key + keyChecksum(key), id
}

func keyChecksum(s string) string {
	var sum [4]byte
	binary.BigEndian.PutUint32(sum[:], crc32.ChecksumIEEE([]byte(s)))
	return hex.EncodeToString(sum[:])
}

// mistyped reports whether a key that nobody has is one of ours with a slip of
// the pen: it has the form and another checksum, or only the beginning.
func mistyped(s string) bool {
	if !strings.HasPrefix(s, keyPrefix) {
		return false
	}
	const length = len(keyPrefix) + keyIDLength + 1 + keySecret + keySum
	return len(s) != length || keyChecksum(s[:length-keySum]) != s[length-keySum:]
}

// key is one API key that may be used.
type key struct {
	hash     KeyHash
	id       string    // of a stored key; "" for one of the configuration
	expires  time.Time // zero: never
	identity *Identity
	lastUsed atomic.Int64 // Unix seconds; 0: never
}

// keyTable finds API keys, and knows which certificates of the built-in
// authority are good. It is never changed after it was made.
type keyTable struct {
	keys    map[uint64][]*key // by the first 8 bytes of the hash
	list    []*key
	serials map[string]bool // of certificates; false: taken back
}

func (t *keyTable) add(k *key) error {
	at := binary.LittleEndian.Uint64(k.hash[:])
	for _, other := range t.keys[at] {
		if other.hash == k.hash {
			return fmt.Errorf("caller %s: the API key %s is that of %s too; each key belongs to one caller", k.identity.Name, k.hash.short(), other.identity.Name)
		}
	}
	t.keys[at] = append(t.keys[at], k)
	t.list = append(t.list, k)
	return nil
}

// find returns the key with the hash, nil if nobody has it. What is looked up
// is a hash of what was sent, which its sender does not choose, and the rest is
// compared in constant time: how long it takes tells nothing about a key.
func (t *keyTable) find(hash *[sha256.Size]byte) *key {
	for _, k := range t.keys[binary.LittleEndian.Uint64(hash[:8])] {
		if subtle.ConstantTimeCompare(k.hash[:], hash[:]) == 1 {
			return k
		}
	}
	return nil
}

// check is what a key that was found is worth at the time now.
func (k *key) check(now time.Time) Result {
	if !k.expires.IsZero() && now.After(k.expires) {
		return refused(ExpiredKey)
	}
	if unix := now.Unix(); k.lastUsed.Load() < unix {
		k.lastUsed.Store(unix)
	}
	return found(k.identity)
}
