package dnsapi

import (
	"context"
	"net/netip"
	"slices"
)

// recordSet is the records of one name and type.
type recordSet struct {
	zone zone
	name string // canonical
	typ  string // TXT, A or AAAA
}

// rel is the set's name as seen from its zone; "" at the apex.
func (s recordSet) rel() string { return relative(s.name, s.zone.name) }

// record is one of a set.
type record struct {
	id    string // where the host gives each one
	value string // without quotes
	ttl   int
}

// setHost is a host whose API lists and changes record sets. Its methods are
// called one at a time.
type setHost interface {
	// look finds the zone of name.
	look(ctx context.Context, name string) (zone, error)

	// list returns what the set holds; nothing if it is not there.
	list(ctx context.Context, op string, s recordSet) ([]record, error)

	// write makes the set, which holds have, hold want, which is different.
	write(ctx context.Context, op string, s recordSet, have []record, want []string) error
}

// sets does all that a client has to do, with the sets of a host.
type sets struct {
	*api
	host setHost
}

// change finds the zone of name, looks at the set, and writes it if next makes
// something else of its values.
func (s *sets) change(ctx context.Context, op, name, typ string, next func(have []string) []string) error {
	name = canonical(name)
	z, err := s.zones.find(ctx, name, s.host.look)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	set := recordSet{z, name, typ}
	have, err := s.host.list(ctx, op, set)
	if err == nil {
		want := next(values(have))
		if sameValues(values(have), want) {
			return nil
		}
		err = s.host.write(ctx, op, set, have, want)
	}
	if notFound(err) {
		s.zones.forget(name)
	}
	return err
}

// AddTXT implements TXT.
func (s *sets) AddTXT(ctx context.Context, name, value string) error {
	return s.change(ctx, "add TXT to "+name, name, "TXT", func(have []string) []string {
		if slices.Contains(have, value) {
			return have
		}
		return append(have, value)
	})
}

// RemoveTXT implements TXT.
func (s *sets) RemoveTXT(ctx context.Context, name, value string) error {
	return s.change(ctx, "remove TXT from "+name, name, "TXT", func(have []string) []string {
		return slices.DeleteFunc(have, func(v string) bool { return v == value })
	})
}

// SetAddrs implements Addrs.
func (s *sets) SetAddrs(ctx context.Context, name string, v4, v6 netip.Addr) error {
	for _, x := range []struct {
		typ  string
		addr netip.Addr
	}{{"A", v4}, {"AAAA", v6}} {
		if !x.addr.IsValid() {
			continue
		}
		err := s.change(ctx, "set addresses of "+name, name, x.typ, func([]string) []string { return []string{x.addr.String()} })
		if err != nil {
			return err
		}
	}
	return nil
}

// ClearV6 implements Addrs.
func (s *sets) ClearV6(ctx context.Context, name string, _, v6 netip.Addr) error {
	return s.change(ctx, "clear the IPv6 address of "+name, name, "AAAA", func(have []string) []string {
		return slices.DeleteFunc(have, func(v string) bool { return v == v6.String() })
	})
}

// Probe implements Addrs: it looks at the A records.
func (s *sets) Probe(ctx context.Context, name string) error {
	return s.change(ctx, "look at the addresses of "+name, name, "A", func(have []string) []string { return have })
}

// values are the values of records, addresses in one spelling.
func values(list []record) []string {
	out := make([]string, 0, len(list))
	for _, r := range list {
		if a, err := netip.ParseAddr(r.value); err == nil {
			r.value = a.String()
		}
		out = append(out, r.value)
	}
	return out
}

func sameValues(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// difference is what want has beyond have, and the records of have that want
// has not.
func difference(have []record, want []string) (added []string, gone []record) {
	texts := values(have)
	for _, v := range want {
		if !slices.Contains(texts, v) {
			added = append(added, v)
		}
	}
	for i, r := range have {
		if !slices.Contains(want, texts[i]) || slices.Contains(texts[:i], texts[i]) {
			gone = append(gone, r)
		}
	}
	return added, gone
}

// editor is a host whose records are changed one by one, by their ids.
type editor interface {
	create(ctx context.Context, op string, s recordSet, value string) error
	replace(ctx context.Context, op string, s recordSet, id, value string) error
	remove(ctx context.Context, op string, s recordSet, id string) error
}

// edit writes a set by an editor. A record that is there is changed in place:
// its name never goes without, and what the owner set besides stays.
func edit(ctx context.Context, e editor, op string, s recordSet, have []record, want []string) error {
	added, gone := difference(have, want)
	for len(added) > 0 && len(gone) > 0 {
		if err := e.replace(ctx, op, s, gone[0].id, added[0]); err != nil {
			return err
		}
		added, gone = added[1:], gone[1:]
	}
	for _, v := range added {
		if err := e.create(ctx, op, s, v); err != nil {
			return err
		}
	}
	for _, r := range gone {
		if err := e.remove(ctx, op, s, r.id); err != nil && !notFound(err) {
			return err
		}
	}
	return nil
}

// quoted is a value as most APIs want it in JSON: text in quotes.
func (s recordSet) quoted(value string) string {
	if s.typ == "TXT" {
		return quote(value)
	}
	return value
}
