package feeds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

const (
	defaultListInterval = time.Hour
	// firstRetry is how soon a list that is down is asked again; then twice
	// as long each time, up to its interval.
	firstRetry = time.Minute
)

// blocklist is a text by URL.
type blocklist struct {
	cfg    Blocklist
	client *http.Client
	head   copyHead // of table
	table  *table
	wait   time.Duration // what the server asked for, 0 if nothing
}

func newBlocklist(cfg Blocklist) *blocklist {
	if cfg.Interval <= 0 {
		cfg.Interval = defaultListInterval
	}
	return &blocklist{cfg: cfg, client: newClient(followList)}
}

// followList lets a list move, but not from https to http.
func followList(r *http.Request, via []*http.Request) error {
	if len(via) > 3 || via[0].URL.Scheme == "https" && r.URL.Scheme != "https" {
		return http.ErrUseLastResponse
	}
	return nil
}

func (s *blocklist) load(path string, _ time.Time) (*listed, int, time.Time, error) {
	var b builder
	head, ok, err := readCopy(path, sourceID(s.cfg.URL), func(e stored) { b.add(e.first, e.last) })
	if err != nil || !ok {
		return nil, 0, time.Time{}, err
	}
	n := b.size()
	s.head, s.table = head, b.table()
	return &listed{table: s.table}, n, head.Fetched, nil
}

func (s *blocklist) save(path string) error { return writeCopy(path, s.head, s.table.each) }

func (s *blocklist) pause(failures int) time.Duration {
	if failures == 0 {
		return s.cfg.Interval
	}
	if s.wait > 0 {
		return s.wait
	}
	return min(s.cfg.Interval, firstRetry<<min(failures-1, 10))
}

// poll fetches the list unless it is what we have (RFC 9110 section 13.1).
func (s *blocklist) poll(ctx context.Context, now time.Time) (*listed, int, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	s.wait = 0
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.cfg.URL, nil)
	if err != nil {
		return nil, 0, errors.New("its URL is none")
	}
	req.Header.Set("User-Agent", "postern")
	req.Header.Set("Accept", "text/plain, */*;q=0.1")
	if s.table != nil {
		if s.head.ETag != "" {
			req.Header.Set("If-None-Match", s.head.ETag)
		}
		if s.head.LastModified != "" {
			req.Header.Set("If-Modified-Since", s.head.LastModified)
		}
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, 0, blame(req.URL, err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotModified && s.table != nil:
		s.head.Fetched = now.UTC()
		return nil, 0, nil
	case resp.StatusCode != http.StatusOK:
		s.wait = retryAfter(resp.Header)
		return nil, 0, fmt.Errorf("%s answered %d, want 200", req.URL.Host, resp.StatusCode)
	}
	body := &io.LimitedReader{R: resp.Body, N: maxBody + 1}
	b, err := parseList(body)
	if body.N <= 0 {
		return nil, 0, fmt.Errorf("%s: more than %d bytes; take a smaller list", req.URL.Host, maxBody)
	}
	if err != nil {
		return nil, 0, blame(req.URL, err)
	}
	n := b.size()
	s.table = b.table()
	s.head = copyHead{
		Source: sourceID(s.cfg.URL), Fetched: now.UTC(),
		ETag: resp.Header.Get("ETag"), LastModified: resp.Header.Get("Last-Modified"),
	}
	return &listed{table: s.table}, n, nil
}

// retryAfter is how long a server asked to wait (RFC 9110 section 10.2.3),
// at most a day; 0 if it did not.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.ParseInt(h.Get("Retry-After"), 10, 64)
	if err != nil || n <= 0 {
		return 0
	}
	return time.Duration(min(n, 24*60*60)) * time.Second
}
