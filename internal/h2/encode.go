package h2

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
)

// encoder writes header blocks (RFC 7541) for one connection. A field goes
// into the dynamic table when it is seen for the second time within a short
// while: what repeats shrinks to one byte, and what never does (request ids,
// lengths, dates) costs the client's table nothing. Strings are not Huffman
// coded; that would save a few bytes for more work at both ends.
//
// Fields that hold secrets are never indexed (RFC 7541 section 7.1.3).
type encoder struct {
	seed    maphash.Seed
	max     int  // bytes the table may hold
	low     int  // the smallest max since the last block
	resized bool // the client must be told max
	size    int  // bytes of the entries
	n       int  // entries, newest is entries[newest]
	newest  int
	entries [32]entry
	seen    [32]uint32 // hashes of fields sent once, by their low bits
}

// entry is one field of the table. The client may hold older ones that we
// have forgotten; those are just never used again.
type entry struct {
	hash uint32
	name int // length of the name in text
	text []byte
}

func newEncoder() *encoder {
	return &encoder{seed: maphash.MakeSeed(), max: maxPeerTable, low: maxPeerTable}
}

// setMax follows the client's SETTINGS_HEADER_TABLE_SIZE; we never use more
// than 4096 bytes.
func (e *encoder) setMax(v uint32) {
	m := int(min(v, maxPeerTable))
	if m == e.max {
		return
	}
	e.max, e.resized = m, true
	e.low = min(e.low, m)
	e.evict()
}

func (e *encoder) evict() {
	for e.size > e.max || e.n > len(e.entries) {
		e.n--
		old := &e.entries[(e.newest-e.n+2*len(e.entries))%len(e.entries)]
		e.size -= len(old.text) + 32
	}
}

// begin appends what must precede the first field of a block (RFC 7541
// section 4.2). When the size went down and up again, both must be told; going
// down to nothing empties the table, and is the one form of two updates that
// every decoder takes (that of Go refuses a second one while its table holds
// anything).
func (e *encoder) begin(b []byte) []byte {
	if !e.resized {
		return b
	}
	if e.low < e.max {
		b = appendInt(b, 0x20, 5, 0)
		e.size, e.n = 0, 0
	}
	e.resized, e.low = false, e.max
	return appendInt(b, 0x20, 5, uint64(e.max))
}

// status appends the :status field.
func (e *encoder) status(b []byte, code int) []byte {
	switch code {
	case 200:
		return append(b, 0x88)
	case 204:
		return append(b, 0x89)
	case 206:
		return append(b, 0x8a)
	case 304:
		return append(b, 0x8b)
	case 400:
		return append(b, 0x8c)
	case 404:
		return append(b, 0x8d)
	case 500:
		return append(b, 0x8e)
	}
	return append(b, 0x08, 3, byte('0'+code/100), byte('0'+code/10%10), byte('0'+code%10))
}

// field appends a field; text is its name of n bytes and its value.
func (e *encoder) field(b, text []byte, n int) []byte {
	index, secret := staticName(text[:n])
	if secret {
		return appendLiteral(b, 0x10, 4, index, text, n)
	}
	sum := maphash.Bytes(e.seed, text)
	hash := uint32(sum>>32) ^ uint32(n)
	if hash == 0 {
		hash = 1
	}
	at := e.newest
	for age := range e.n {
		en := &e.entries[at]
		if en.hash == hash && en.name == n && bytes.Equal(en.text, text) {
			return appendInt(b, 0x80, 7, uint64(staticEntries+1+age))
		}
		if at--; at < 0 {
			at = len(e.entries) - 1
		}
	}
	mark := &e.seen[sum%uint64(len(e.seen))]
	if *mark != hash || len(text)+32 > e.max/4 {
		*mark = hash
		return appendLiteral(b, 0x00, 4, index, text, n)
	}
	*mark = 0
	e.add(hash, text, n)
	return appendLiteral(b, 0x40, 6, index, text, n)
}

// add puts a field into the table, as the client will.
func (e *encoder) add(hash uint32, text []byte, n int) {
	if e.n == len(e.entries) {
		e.n--
		e.size -= len(e.entries[(e.newest+1)%len(e.entries)].text) + 32
	}
	e.newest = (e.newest + 1) % len(e.entries)
	en := &e.entries[e.newest]
	en.hash, en.name = hash, n
	en.text = append(en.text[:0], text...)
	e.n++
	e.size += len(text) + 32
	e.evict()
}

// appendLiteral appends a field that is not in the table (RFC 7541 section
// 6.2), in the representation whose first byte has the given pattern and
// prefix.
func appendLiteral(b []byte, pattern byte, prefix uint, index uint64, text []byte, n int) []byte {
	b = appendInt(b, pattern, prefix, index)
	if index == 0 {
		b = appendInt(b, 0, 7, uint64(n))
		b = append(b, text[:n]...)
	}
	b = appendInt(b, 0, 7, uint64(len(text)-n))
	return append(b, text[n:]...)
}

// appendInt appends an integer (RFC 7541 section 5.1).
func appendInt(b []byte, pattern byte, prefix uint, v uint64) []byte {
	top := uint64(1)<<prefix - 1
	if v < top {
		return append(b, pattern|byte(v))
	}
	b = append(b, pattern|byte(top))
	return binary.AppendUvarint(b, v-top)
}

const staticEntries = 61

// staticName returns the index of a name in the static table (RFC 7541
// appendix A), zero if it is not there, and whether values of that name are
// secrets. Names only requests have are left out.
func staticName(name []byte) (index uint64, secret bool) {
	switch string(name) {
	case "accept-ranges":
		return 18, false
	case "access-control-allow-origin":
		return 20, false
	case "age":
		return 21, false
	case "allow":
		return 22, false
	case "authorization":
		return 23, true
	case "cache-control":
		return 24, false
	case "content-disposition":
		return 25, false
	case "content-encoding":
		return 26, false
	case "content-language":
		return 27, false
	case "content-length":
		return 28, false
	case "content-location":
		return 29, false
	case "content-range":
		return 30, false
	case "content-type":
		return 31, false
	case "cookie":
		return 32, true
	case "date":
		return 33, false
	case "etag":
		return 34, false
	case "expires":
		return 36, false
	case "last-modified":
		return 44, false
	case "link":
		return 45, false
	case "location":
		return 46, false
	case "proxy-authenticate":
		return 48, true
	case "proxy-authorization":
		return 49, true
	case "refresh":
		return 52, false
	case "retry-after":
		return 53, false
	case "server":
		return 54, false
	case "set-cookie":
		return 55, true
	case "strict-transport-security":
		return 56, false
	case "transfer-encoding":
		return 57, false
	case "vary":
		return 59, false
	case "via":
		return 60, false
	case "www-authenticate":
		return 61, true
	case "x-api-key", "x-auth-token", "x-csrf-token", "authentication-info", "proxy-authentication-info", "set-cookie2":
		return 0, true
	}
	return 0, false
}
