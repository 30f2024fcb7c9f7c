package feeds

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

const (
	defaultCrowdSecInterval = 10 * time.Second
	// slowest bounds the time between questions while the engine is down.
	slowest = 5 * time.Minute
	// resyncEvery is how often everything is asked for and not only the news:
	// the engine notes what we were told when it begins to tell it.
	resyncEvery = time.Hour
)

// crowdSec is the local API of a security engine, seen as a bouncer sees it:
// GET /v1/decisions/stream, first with startup=true for all decisions, then
// for what came and went since (CrowdSec's LAPI, "For bouncers").
type crowdSec struct {
	cfg     CrowdSec
	client  *http.Client
	byID    map[int64]decision
	synced  time.Time // when all decisions were asked for; zero: never
	fetched time.Time
	nextEnd time.Time // the first end of a decision; zero: none
}

// A decision of the engine that concerns us.
type decision struct {
	prefix netip.Prefix
	until  time.Time
}

// wireDecision is a decision as it is sent.
type wireDecision struct {
	ID        int64  `json:"id"`
	Type      string `json:"type"`
	Scope     string `json:"scope"`
	Value     string `json:"value"`
	Duration  string `json:"duration"`
	Simulated bool   `json:"simulated"`
}

func newCrowdSec(cfg CrowdSec) *crowdSec {
	if cfg.Interval <= 0 {
		cfg.Interval = defaultCrowdSecInterval
	}
	// A redirect would carry the key to wherever it points.
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &crowdSec{cfg: cfg, client: newClient(stay), byID: make(map[int64]decision)}
}

func (s *crowdSec) load(path string, now time.Time) (*listed, int, time.Time, error) {
	id := int64(-1) // the engine's are above 0
	head, ok, err := readCopy(path, sourceID(s.cfg.URL), func(e stored) {
		if p, is := prefixOf(e.first, e.last); is && e.until.After(now) {
			s.byID[id] = decision{p, e.until}
			id--
		}
	})
	if err != nil || !ok {
		clear(s.byID)
		return nil, 0, time.Time{}, err
	}
	s.fetched = head.Fetched
	return s.listed(now), len(s.byID), head.Fetched, nil
}

// prefixOf is the network of just these addresses.
func prefixOf(first, last netip.Addr) (netip.Prefix, bool) {
	for bits := first.BitLen(); bits >= 0; bits-- {
		if p, err := first.Prefix(bits); err == nil && p.Addr() == first && lastOf(p) == last {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

func (s *crowdSec) save(path string) error {
	head := copyHead{Source: sourceID(s.cfg.URL), Fetched: s.fetched.UTC()}
	return writeCopy(path, head, func(yield func(stored)) {
		for _, d := range s.byID {
			yield(stored{d.prefix.Addr(), lastOf(d.prefix), d.until})
		}
	})
}

func (s *crowdSec) pause(failures int) time.Duration {
	if failures == 0 {
		return s.cfg.Interval
	}
	return max(s.cfg.Interval, min(slowest, s.cfg.Interval<<min(failures-1, 10)))
}

// poll asks for news. After anything that went wrong, everything is asked for
// again: what was told in the answer that broke off is not told twice. While
// the engine is down, decisions end when they were to end.
func (s *crowdSec) poll(ctx context.Context, now time.Time) (*listed, int, error) {
	startup := s.synced.IsZero() || now.Sub(s.synced) >= resyncEvery
	added, removed, err := s.ask(ctx, startup, now)
	if err != nil {
		s.synced = time.Time{}
		if s.expire(now) {
			return s.listed(now), len(s.byID), err
		}
		return nil, 0, err
	}
	s.fetched = now
	changed := s.expire(now) || len(added) > 0
	if startup {
		s.synced, changed = now, true
		clear(s.byID)
	}
	for _, id := range removed {
		if _, known := s.byID[id]; known {
			delete(s.byID, id)
			changed = true
		}
	}
	for id, d := range added {
		s.byID[id] = d
	}
	if !changed {
		return nil, 0, nil
	}
	return s.listed(now), len(s.byID), nil
}

// expire forgets the decisions that ended and reports whether there were any.
func (s *crowdSec) expire(now time.Time) bool {
	if s.nextEnd.IsZero() || now.Before(s.nextEnd) {
		return false
	}
	for id, d := range s.byID {
		if !d.until.After(now) {
			delete(s.byID, id)
		}
	}
	return true
}

// listed makes the table of what is decided.
func (s *crowdSec) listed(time.Time) *listed {
	var b builder
	s.nextEnd = time.Time{}
	for _, d := range s.byID {
		b.addPrefix(d.prefix)
		if s.nextEnd.IsZero() || d.until.Before(s.nextEnd) {
			s.nextEnd = d.until
		}
	}
	return &listed{table: b.table()}
}

// ask gets one answer of the stream: what is decided, and the ids of what is
// not any more.
func (s *crowdSec) ask(ctx context.Context, startup bool, now time.Time) (added map[int64]decision, removed []int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	url := fmt.Sprintf("%s/v1/decisions/stream?startup=%t&scopes=ip,range", strings.TrimRight(s.cfg.URL, "/"), startup)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, nil, errors.New("its URL is none")
	}
	req.Header.Set("X-Api-Key", s.cfg.Key)
	req.Header.Set("User-Agent", "postern/1") // the engine wants NAME/VERSION
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, nil, blame(req.URL, err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusForbidden, http.StatusUnauthorized:
		return nil, nil, fmt.Errorf("%s refuses the API key (%d); `cscli bouncers add postern` makes one", req.URL.Host, resp.StatusCode)
	default:
		return nil, nil, fmt.Errorf("%s answered %d, want 200", req.URL.Host, resp.StatusCode)
	}
	body := &io.LimitedReader{R: resp.Body, N: maxBody + 1}
	added, removed, err = readDecisions(body, now)
	if body.N <= 0 {
		return nil, nil, fmt.Errorf("%s: more than %d bytes of decisions", req.URL.Host, maxBody)
	}
	if err != nil {
		return nil, nil, blame(req.URL, err)
	}
	return added, removed, nil
}

// readDecisions reads {"new": […], "deleted": […]}, in either order and
// decision by decision: an answer may be as long as a community's blocklist.
func readDecisions(r io.Reader, now time.Time) (added map[int64]decision, removed []int64, err error) {
	added = make(map[int64]decision)
	dec := json.NewDecoder(r)
	if err := want(dec, '{'); err != nil {
		return nil, nil, err
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, nil, err
		}
		err = eachDecision(dec, func(w *wireDecision) error {
			switch key {
			case "new":
				if d, ok := w.decision(now); ok {
					added[w.ID] = d
				}
			case "deleted":
				removed = append(removed, w.ID)
			}
			if len(added) > maxEntries || len(removed) > 4*maxEntries {
				return limited("the engine", maxEntries)
			}
			return nil
		})
		if err != nil {
			return nil, nil, err
		}
	}
	return added, removed, want(dec, '}')
}

// eachDecision reads a list, or null.
func eachDecision(dec *json.Decoder, f func(*wireDecision) error) error {
	t, err := dec.Token()
	if err != nil || t == nil {
		return err
	}
	if t != json.Delim('[') {
		return fmt.Errorf("the answer has %v where a list was expected", t)
	}
	for dec.More() {
		var w wireDecision
		if err := dec.Decode(&w); err != nil {
			return err
		}
		if err := f(&w); err != nil {
			return err
		}
	}
	return want(dec, ']')
}

func want(dec *json.Decoder, d json.Delim) error {
	t, err := dec.Token()
	if err == nil && t != d {
		err = fmt.Errorf("the answer has %v where %v was expected", t, d)
	}
	return err
}

// decision is what w means to us; ok is false for what is no ban of an address
// or network, or is none any more.
func (w *wireDecision) decision(now time.Time) (d decision, ok bool) {
	if w.Simulated || !strings.EqualFold(w.Type, "ban") || w.ID <= 0 {
		return d, false
	}
	left, err := time.ParseDuration(w.Duration)
	if err != nil || left <= 0 {
		return d, false
	}
	d.until = now.Add(left)
	switch {
	case strings.EqualFold(w.Scope, "ip"):
		addr, err := netip.ParseAddr(w.Value)
		if err != nil || addr.Zone() != "" {
			return d, false
		}
		addr = addr.Unmap()
		d.prefix = netip.PrefixFrom(addr, addr.BitLen())
	case strings.EqualFold(w.Scope, "range"):
		if d.prefix, err = netip.ParsePrefix(w.Value); err != nil || !narrow(d.prefix) {
			return d, false
		}
		d.prefix = d.prefix.Masked()
	default:
		return d, false
	}
	return d, true
}
