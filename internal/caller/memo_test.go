package caller

import (
	"crypto/sha256"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
)

// A remembered hash is that of the text, whatever else the connection carried,
// from whatever goroutine.
func TestMemo(t *testing.T) {
	var m Memo
	var none *Memo
	long := strings.Repeat("a.b", 200)
	if _, known := m.find(long); known {
		t.Error("known before it was kept")
	}
	m.keep(long, sha256.Sum256([]byte(long)))
	if hash, known := m.find(long); !known || hash != sha256.Sum256([]byte(long)) {
		t.Error("not known after it was kept")
	}
	if _, known := none.find(long); known {
		t.Error("known to nobody")
	}
	none.keep(long, [32]byte{})
	for i := range len(long) {
		other := []byte(long)
		other[i] ^= 1
		if hash, known := m.find(string(other)); known || hash != sha256.Sum256(other) {
			t.Fatalf("another text, different at %d, is taken for the same", i)
		}
	}
	m.keep("short", sha256.Sum256([]byte("short")))
	if _, known := m.find("short"); known {
		t.Error("short texts are not worth it")
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 2000 {
				text := strings.Repeat(string(rune('a'+rand.IntN(3))), 300+rand.IntN(3))
				hash, _ := m.find(text)
				if hash != sha256.Sum256([]byte(text)) {
					t.Error("the hash of another text")
				}
				m.keep(text, hash)
			}
		})
	}
	all.Wait()
}
