package feeds

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"postern/internal/durable"
)

// storeVersion is what this code writes, and all it reads.
const storeVersion = 1

// A copyHead is the first line of a copy on the disk; the entries follow, a
// line each: "FIRST-LAST" or "FIRST-LAST UNTIL", UNTIL in seconds since 1970.
type copyHead struct {
	Version int `json:"version"`
	// Source tells, without giving it away, where the entries come from: a
	// URL that was changed must not begin with another's.
	Source       string    `json:"source"`
	ETag         string    `json:"etag,omitempty"`
	LastModified string    `json:"last_modified,omitempty"`
	Fetched      time.Time `json:"fetched"`
}

// A stored entry of a copy.
type stored struct {
	first, last netip.Addr
	until       time.Time // zero: for ever
}

// sourceID is a copyHead's Source.
func sourceID(url string) string {
	sum := sha256.Sum256([]byte(url))
	return hex.EncodeToString(sum[:16])
}

// writeCopy keeps a copy at the path.
func writeCopy(path string, head copyHead, entries func(yield func(stored))) error {
	head.Version = storeVersion
	var buf bytes.Buffer
	line, err := json.Marshal(head)
	if err != nil {
		return err
	}
	buf.Write(append(line, '\n'))
	entries(func(e stored) {
		b := e.first.AppendTo(buf.AvailableBuffer())
		b = e.last.AppendTo(append(b, '-'))
		if !e.until.IsZero() {
			b = strconv.AppendInt(append(b, ' '), e.until.Unix(), 10)
		}
		buf.Write(append(b, '\n'))
	})
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(path, buf.Bytes(), 0o600)
}

// readCopy reads the copy at the path, if there is one of that source.
func readCopy(path, source string, entry func(stored)) (head copyHead, ok bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return head, false, nil
	}
	if err != nil {
		return head, false, err
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxBody))
	lines.Scan()
	if err := json.Unmarshal(lines.Bytes(), &head); err != nil {
		return head, false, fmt.Errorf("%s: line 1: %w", path, err)
	}
	if head.Version != storeVersion || head.Source != source {
		return head, false, nil
	}
	for n := 2; lines.Scan() && n < maxEntries+2; n++ {
		e, err := parseStored(lines.Text())
		if err != nil {
			return head, false, fmt.Errorf("%s: line %d: %w", path, n, err)
		}
		entry(e)
	}
	if err := lines.Err(); err != nil {
		return head, false, fmt.Errorf("%s: %w", path, err)
	}
	return head, true, nil
}

func parseStored(line string) (e stored, err error) {
	text, until, timed := strings.Cut(line, " ")
	first, last, ok := strings.Cut(text, "-")
	if !ok {
		return e, fmt.Errorf("%q is no range", text)
	}
	if e.first, err = netip.ParseAddr(first); err != nil {
		return e, err
	}
	if e.last, err = netip.ParseAddr(last); err != nil {
		return e, err
	}
	if timed {
		n, err := strconv.ParseInt(until, 10, 64)
		if err != nil {
			return e, err
		}
		e.until = time.Unix(n, 0)
	}
	return e, nil
}

// each yields the ranges of t.
func (t *table) each(yield func(stored)) {
	for _, s := range t.v4 {
		yield(stored{first: address4(s.first), last: address4(s.last)})
	}
	for _, s := range t.v6 {
		yield(stored{first: address6(s.first), last: address6(s.last)})
	}
}
