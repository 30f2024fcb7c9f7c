package feeds

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// parseList reads a text with an address, a network or a range of addresses
// at the beginning of each line; what follows a space, "#", ";" or "," is for
// people. Empty lines and lines that are all comment count for nothing.
//
// Lines that make no sense are passed over as long as they are the fewer: an
// error page that came in place of a list is no list. So is an empty answer.
func parseList(r io.Reader) (*builder, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 4<<10), 64<<10)
	b := new(builder)
	var bad, seen int
	for lines.Scan() {
		seen++
		text, _, _ := strings.Cut(strings.TrimPrefix(lines.Text(), "\ufeff"), "#")
		text = strings.TrimSpace(text)
		if i := strings.IndexAny(text, " \t;,"); i >= 0 {
			text = text[:i]
		}
		if text == "" || strings.HasPrefix(text, "//") {
			continue
		}
		if !addEntry(b, text) {
			bad++
		}
		if b.size() > maxEntries {
			return nil, limited("it", maxEntries)
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("line %d has more than 64k, want one address or network a line", seen+1)
	case err != nil:
		return nil, err
	case seen == 0:
		return nil, errors.New("the answer is empty, want one address or network a line")
	case bad > b.size():
		return nil, fmt.Errorf("%d of %d lines are no address or network, so this is no blocklist", bad, seen)
	}
	return b, nil
}

// addEntry adds what one line lists, and reports whether it made sense.
func addEntry(b *builder, text string) bool {
	if a, err := netip.ParseAddr(text); err == nil {
		return a.Zone() == "" && b.add(a, a)
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		return narrow(p) && b.addPrefix(p)
	}
	first, last, ok := strings.Cut(text, "-")
	if !ok {
		return false
	}
	from, err1 := netip.ParseAddr(first)
	to, err2 := netip.ParseAddr(last)
	if err1 != nil || err2 != nil || from.BitLen() != to.BitLen() || from.Zone()+to.Zone() != "" || from.Is4In6() || to.Is4In6() {
		return false
	}
	// As wide as the widest network, at most: both ends are in one.
	p, err := from.Prefix(widest(from))
	return err == nil && p.Contains(to) && b.add(from, to)
}

// narrow reports whether p is no wider than a list may hold.
func narrow(p netip.Prefix) bool {
	return !p.Addr().Is4In6() && p.Bits() >= widest(p.Addr())
}

func widest(a netip.Addr) int {
	if a.Is4() {
		return widest4
	}
	return widest6
}
