package feeds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/oschwald/maxminddb-golang/v2"
)

const (
	defaultGeoInterval = time.Minute
	// maxDatabase bounds the file; the largest free ones have half of it.
	maxDatabase = 256 << 20
)

// geo is a database in MaxMind's format. It is read as a whole when it
// changes, and only a table of what the rules say stays: nothing of a file
// that somebody replaces is looked at while requests wait.
type geo struct {
	cfg  Geo
	seen fileID
}

// fileID tells a file from the one that was there before.
type fileID struct {
	size    int64
	changed time.Time
}

// place is what we want to know of a record, by the names that MaxMind's
// databases of countries, cities and networks have in common.
type place struct {
	Country struct {
		Code string `maxminddb:"iso_code"`
	} `maxminddb:"country"`
	ASN uint32 `maxminddb:"autonomous_system_number"`
}

func newGeo(cfg Geo) *geo {
	if cfg.Interval <= 0 {
		cfg.Interval = defaultGeoInterval
	}
	return &geo{cfg: cfg}
}

// load reads the database itself: it is on the disk anyway. What is wrong with
// it is told by the first poll.
func (s *geo) load(_ string, now time.Time) (*listed, int, time.Time, error) {
	got, n, err := s.read()
	if err != nil {
		return nil, 0, time.Time{}, nil
	}
	return got, n, now, nil
}

func (s *geo) save(string) error { return nil }

func (s *geo) pause(int) time.Duration { return s.cfg.Interval }

func (s *geo) poll(context.Context, time.Time) (*listed, int, error) { return s.read() }

// read makes the table anew if the file changed. One that is half written is
// read again at the next look.
func (s *geo) read() (*listed, int, error) {
	f, err := os.Open(s.cfg.File)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	id := fileID{info.Size(), info.ModTime()}
	if id == s.seen {
		return nil, 0, nil
	}
	if !info.Mode().IsRegular() || info.Size() > maxDatabase {
		return nil, 0, fmt.Errorf("%s: %d bytes, want a database of at most %d", s.cfg.File, info.Size(), maxDatabase)
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, 0, fmt.Errorf("%s: %w", s.cfg.File, err)
	}
	got, n, err := s.compile(data)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", s.cfg.File, err)
	}
	s.seen = id
	return got, n, nil
}

// compile makes the table of what the rules say about a database.
func (s *geo) compile(data []byte) (*listed, int, error) {
	db, err := maxminddb.OpenBytes(data)
	if err != nil {
		return nil, 0, err
	}
	defer db.Close()
	others := len(s.cfg.AllowCountries)+len(s.cfg.AllowASNs) > 0
	var b builder
	known := make(map[uintptr]bool) // records are shared by many networks
	for r := range db.Networks() {
		if err := r.Err(); err != nil {
			return nil, 0, err
		}
		var p place
		in, seen := known[r.Offset()]
		if !seen {
			if err := r.Decode(&p); err != nil {
				return nil, 0, err
			}
			in = s.matches(p)
			known[r.Offset()] = in
		}
		if !in {
			continue
		}
		if b.addPrefix(unmapped(r.Prefix())); b.size() > 4*maxEntries {
			return nil, 0, limited("it", 4*maxEntries)
		}
	}
	if b.size() == 0 {
		return nil, 0, errors.New("the database knows none of the countries and networks of the rules; is it one of countries for country rules, of networks (ASN) for the others?")
	}
	t := b.table()
	return &listed{table: t, others: others}, len(t.v4) + len(t.v6), nil
}

// matches reports whether a place belongs into the table: it is allowed where
// there are allow lists, else it is denied.
func (s *geo) matches(p place) bool {
	denied := slices.Contains(s.cfg.DenyCountries, p.Country.Code) && p.Country.Code != "" ||
		slices.Contains(s.cfg.DenyASNs, p.ASN) && p.ASN != 0
	if len(s.cfg.AllowCountries)+len(s.cfg.AllowASNs) == 0 {
		return denied
	}
	return !denied && (slices.Contains(s.cfg.AllowCountries, p.Country.Code) || slices.Contains(s.cfg.AllowASNs, p.ASN))
}

// unmapped is p in IPv4's own form where a database has it as ::ffff:0:0/96.
func unmapped(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}
