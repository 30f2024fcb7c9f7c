package feeds

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

const (
	soon  = time.Minute // how long an event may take on a busy machine
	often = 5 * time.Millisecond
)

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(often)
	defer tick.Stop()
	deadline := time.After(soon)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: did not happen within %s", what, soon)
		}
	}
}

// script is a server that gives the answer it was told last and notes what it
// was asked.
type script struct {
	*httptest.Server

	mu     sync.Mutex
	answer http.HandlerFunc
	asked  []*http.Request
}

func newScript(t *testing.T) *script {
	t.Helper()
	s := new(script)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, r)
		answer := s.answer
		s.mu.Unlock()
		if answer == nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// say makes an answer the one from now on, and forgets what was asked.
func (s *script) say(answer http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer, s.asked = answer, nil
}

// questions returns what was asked since say.
func (s *script) questions() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*http.Request(nil), s.asked...)
}

// asked waits for n questions since say.
func (s *script) wait(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d questions", n), func() bool { return len(s.questions()) >= n })
}

func text(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }
}

// rig is Lists at work.
type rig struct {
	*Lists
	log  *lines
	stop func()
}

type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func start(t *testing.T, dir string, feeds ...Feed) *rig {
	t.Helper()
	r := &rig{log: new(lines)}
	r.Lists = New(Config{Feeds: feeds, Dir: dir, Log: slog.New(slog.NewTextHandler(r.log, nil))})
	r.Load()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

func (r *rig) lists(addr string) bool {
	_, ok := r.Lookup(netip.MustParseAddr(addr))
	return ok
}

func (r *rig) err(i int) error { return r.Status()[i].Err }

func TestBlocklist(t *testing.T) {
	s, dir := newScript(t), t.TempDir()
	list := Feed{Name: "list", Blocklist: &Blocklist{URL: s.URL + "/list?token=hunter2", Interval: often}}
	s.say(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
		if r.Header.Get("If-None-Match") == `"v1"` && r.Header.Get("If-Modified-Since") != "" {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = w.Write([]byte("192.0.2.0/24\n2001:db8::/32\n"))
	})
	r := start(t, dir, list)
	eventually(t, "the list is in use", func() bool { return r.lists("192.0.2.7") && r.lists("2001:db8::1") && !r.lists("198.51.100.1") })
	s.wait(t, 4) // 304s since
	if !r.lists("192.0.2.7") || r.err(0) != nil {
		t.Errorf("after 304: listed %t, error %v", r.lists("192.0.2.7"), r.err(0))
	}
	if got := r.Status()[0]; got.Entries != 2 || got.Fetched.IsZero() {
		t.Errorf("status %+v, want 2 entries", got)
	}

	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
	}{
		{"outage", nil},
		{"an error page", text("<html>\n<p>maintenance\n")},
		{"an empty answer", text("")},
		{"a huge list", text(strings.Repeat("198.51.100.1\n", maxEntries+1))},
		{"cut off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte("198.51.100.1\n"))
		}},
	} {
		s.say(c.answer)
		s.wait(t, 2)
		eventually(t, c.name+" is noticed", func() bool { return r.err(0) != nil })
		if !r.lists("192.0.2.7") || r.lists("198.51.100.1") {
			t.Errorf("%s: the last good copy is not in use", c.name)
		}
		if strings.Contains(r.err(0).Error(), "hunter2") {
			t.Errorf("%s: the error tells the URL's secret: %v", c.name, r.err(0))
		}
	}
	if n := strings.Count(r.log.String(), "feed is down"); n != 1 {
		t.Errorf("told %d times that the feed is down, want once:\n%s", n, r.log)
	}
	if strings.Contains(r.log.String(), "hunter2") {
		t.Errorf("the log tells the URL's secret:\n%s", r.log)
	}

	// A start while it is down begins with the copy on the disk.
	r.stop()
	s.say(nil)
	again := New(Config{Feeds: []Feed{list}, Dir: dir})
	again.Load()
	if _, ok := again.Lookup(netip.MustParseAddr("192.0.2.7")); !ok {
		t.Error("after a restart the last good copy is not in use")
	}
	kept, err := os.ReadFile(filepath.Join(dir, "list.list"))
	if err != nil || bytes.Contains(kept, []byte("hunter2")) {
		t.Errorf("the copy tells the URL's secret, or is not there: %v", err)
	}

	// It comes back with another list.
	r = start(t, dir, list)
	s.wait(t, 1)
	s.say(text("203.0.113.1\n"))
	eventually(t, "the new list is in use", func() bool { return r.lists("203.0.113.1") && !r.lists("192.0.2.7") })
	eventually(t, "people are told", func() bool { return strings.Contains(r.log.String(), "feed works again") })

	// Another URL under the same name does not begin with this one's list.
	r.stop()
	other := New(Config{Dir: dir, Feeds: []Feed{{Name: "list", Blocklist: &Blocklist{URL: s.URL + "/other"}}}})
	other.Load()
	if _, ok := other.Lookup(netip.MustParseAddr("203.0.113.1")); ok {
		t.Error("the copy of another URL is in use")
	}
}

func TestBlocklistRedirects(t *testing.T) {
	plain, secure := newScript(t), httptest.NewTLSServer(nil)
	defer secure.Close()
	plain.say(text("192.0.2.1\n"))
	secure.Config.Handler = http.RedirectHandler(plain.URL, http.StatusFound)
	b := newBlocklist(Blocklist{URL: secure.URL})
	b.client.Transport = secure.Client().Transport
	if _, _, err := b.poll(t.Context(), time.Now()); err == nil || len(plain.questions()) > 0 {
		t.Errorf("a list moved from https to http: %v, want a refusal", err)
	}
}

func TestBlocklistRetryAfter(t *testing.T) {
	s := newScript(t)
	b := newBlocklist(Blocklist{URL: s.URL})
	for _, c := range []struct {
		header string
		want   time.Duration
	}{{"", firstRetry}, {"120", 2 * time.Minute}, {"99999999999999", 24 * time.Hour}, {"900000", 24 * time.Hour}, {"-1", firstRetry}} {
		s.say(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", c.header)
			w.WriteHeader(http.StatusTooManyRequests)
		})
		if _, _, err := b.poll(t.Context(), time.Now()); err == nil {
			t.Error("429: no error")
		}
		if got := b.pause(1); got != c.want {
			t.Errorf("Retry-After %q: waits %s, want %s", c.header, got, c.want)
		}
	}
	if got := b.pause(50); got != time.Hour {
		t.Errorf("after 50 failures: waits %s, want 1h", got)
	}
}

// lapi is a security engine's API as far as a bouncer sees it.
func lapi(t *testing.T, startup, delta string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/decisions/stream" || r.Method != http.MethodGet {
			t.Errorf("unexpected call: %s %s", r.Method, r.URL)
		}
		if r.Header.Get("X-Api-Key") != "s3cret" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		if got := r.URL.Query().Get("scopes"); got != "ip,range" {
			t.Errorf("scopes %q, want ip,range", got)
		}
		body := delta
		if r.URL.Query().Get("startup") == "true" {
			body = startup
		}
		_, _ = w.Write([]byte(body))
	}
}

const none = `{"deleted":null,"new":null}`

func ban(id int, scope, value, duration string) string {
	return fmt.Sprintf(`{"id":%d,"uuid":"x","origin":"crowdsec","type":"ban","scope":%q,"value":%q,"duration":%q,"scenario":"crowdsecurity/http-probing"}`, id, scope, value, duration)
}

func TestCrowdSec(t *testing.T) {
	s, dir := newScript(t), t.TempDir()
	engine := Feed{Name: "crowdsec", CrowdSec: &CrowdSec{URL: s.URL + "/", Key: "s3cret", Interval: often}}
	all := `{"deleted":[` + ban(9, "Ip", "203.0.113.9", "-1h") + `],"new":[` + strings.Join([]string{
		ban(1, "Ip", "192.0.2.1", "3h59m49.5s"), ban(2, "Range", "198.51.100.0/24", "4h"), ban(3, "ip", "2001:db8::1", "1h"),
		ban(4, "Country", "CN", "1h"), ban(5, "Ip", "what", "1h"), ban(6, "Range", "0.0.0.0/0", "1h"), ban(7, "Ip", "203.0.113.7", "-2s"),
		`{"id":8,"type":"captcha","scope":"Ip","value":"203.0.113.8","duration":"1h"}`,
		`{"id":10,"type":"ban","scope":"Ip","value":"203.0.113.10","duration":"1h","simulated":true}`,
	}, ",") + `]}`
	s.say(lapi(t, all, none))
	r := start(t, dir, engine)
	eventually(t, "decisions are in use", func() bool {
		return r.lists("192.0.2.1") && r.lists("198.51.100.77") && r.lists("2001:db8::1")
	})
	for _, a := range []string{"192.0.2.2", "203.0.113.7", "203.0.113.8", "203.0.113.10", "8.8.8.8"} {
		if r.lists(a) {
			t.Errorf("%s is listed", a)
		}
	}
	if feed, _ := r.Lookup(netip.MustParseAddr("192.0.2.1")); feed != "crowdsec" {
		t.Errorf("listed by %q, want crowdsec", feed)
	}
	s.wait(t, 3)
	if asked := s.questions(); asked[0].URL.Query().Get("startup") != "true" || asked[1].URL.Query().Get("startup") != "false" {
		t.Errorf("asked %s then %s, want everything once and then the news", asked[0].URL, asked[1].URL)
	}

	// What comes and goes, in whichever order the answer has it. A ban of an
	// address that ended as another one of it began stays.
	s.say(lapi(t, all, `{"new":[`+ban(20, "Ip", "192.0.2.20", "1h")+`,`+ban(21, "Ip", "192.0.2.1", "1h")+`],"deleted":[`+ban(1, "Ip", "192.0.2.1", "-1s")+`,`+ban(2, "Range", "198.51.100.0/24", "-1s")+`]}`))
	eventually(t, "news are in use", func() bool {
		return r.lists("192.0.2.20") && !r.lists("198.51.100.77") && r.lists("192.0.2.1") && r.lists("2001:db8::1")
	})

	// An outage keeps what is decided; then everything is asked for again.
	s.say(nil)
	eventually(t, "the outage is noticed", func() bool { return r.err(0) != nil })
	if !r.lists("192.0.2.20") {
		t.Error("the outage ended the bans")
	}
	r.stop()
	offline := New(Config{Dir: dir, Feeds: []Feed{engine}})
	offline.Load()
	if _, ok := offline.Lookup(netip.MustParseAddr("192.0.2.20")); !ok {
		t.Error("after a restart the last good copy is not in use")
	}
	r = start(t, dir, engine)
	eventually(t, "the outage is noticed again", func() bool { return r.err(0) != nil })
	s.say(lapi(t, `{"new":[`+ban(30, "Ip", "192.0.2.30", "1h")+`],"deleted":[]}`, none))
	eventually(t, "everything was asked for again", func() bool { return r.lists("192.0.2.30") && !r.lists("192.0.2.20") })

	// A key that is not accepted any more.
	s.say(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	eventually(t, "the refusal is noticed", func() bool { return r.err(0) != nil && strings.Contains(r.err(0).Error(), "cscli bouncers add") })
	if !r.lists("192.0.2.30") {
		t.Error("the refusal ended the bans")
	}
	if strings.Contains(r.log.String(), "s3cret") {
		t.Errorf("the log tells the key:\n%s", r.log)
	}
}

func TestCrowdSecBansEndInAnOutage(t *testing.T) {
	s := newScript(t)
	c := newCrowdSec(CrowdSec{URL: s.URL, Key: "s3cret"})
	now := time.Now()
	s.say(lapi(t, `{"new":[`+ban(1, "Ip", "192.0.2.1", "1h")+`,`+ban(2, "Ip", "192.0.2.2", "2h")+`]}`, none))
	if got, n, err := c.poll(t.Context(), now); err != nil || n != 2 || got == nil {
		t.Fatalf("poll: %d entries, %v", n, err)
	}
	s.say(nil)
	if got, _, err := c.poll(t.Context(), now.Add(59*time.Minute)); err == nil || got != nil {
		t.Errorf("in the outage: %v %v, want an error and no change", got, err)
	}
	got, n, err := c.poll(t.Context(), now.Add(61*time.Minute))
	if err == nil || got == nil || n != 1 || got.table.contains(netip.MustParseAddr("192.0.2.1")) || !got.table.contains(netip.MustParseAddr("192.0.2.2")) {
		t.Errorf("in the outage, after the end of a ban: %d entries, %v", n, err)
	}
	for failures, want := range map[int]time.Duration{0: 10 * time.Second, 1: 10 * time.Second, 2: 20 * time.Second, 3: 40 * time.Second, 40: slowest} {
		if got := c.pause(failures); got != want {
			t.Errorf("after %d failures: waits %s, want %s", failures, got, want)
		}
	}
}

func TestCrowdSecAnswers(t *testing.T) {
	for _, c := range []struct{ name, body, err string }{
		{"nothing", "", "EOF"},
		{"cut off", `{"new":[` + ban(1, "Ip", "192.0.2.1", "1h"), "EOF"},
		{"a page", "<html>", "invalid character"},
		{"a list", "[]", "was expected"},
		{"a text", `{"new":"all"}`, "a list was expected"},
		{"a message", `{"message":"access forbidden"}`, "a list was expected"},
		{"both null", none, ""},
		{"empty", `{}`, ""},
		{"more than we know", `{"links":[{"id":1}],"new":[]}`, ""},
	} {
		_, _, err := readDecisions(strings.NewReader(c.body), time.Now())
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.err)
		}
	}
}

func TestCrowdSecDoesNotCarryTheKeyElsewhere(t *testing.T) {
	elsewhere, s := newScript(t), newScript(t)
	s.say(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect).ServeHTTP)
	c := newCrowdSec(CrowdSec{URL: s.URL, Key: "s3cret"})
	if _, _, err := c.poll(t.Context(), time.Now()); err == nil || len(elsewhere.questions()) > 0 {
		t.Errorf("a redirect: %v, want a refusal", err)
	}
}

func TestGeo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "test.mmdb")
	put := func(records ...record) {
		t.Helper()
		tmp := file + ".new"
		if err := os.WriteFile(tmp, writeMMDB(records), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, file); err != nil {
			t.Fatal(err)
		}
	}
	put(record{"192.0.2.0/24", "CN", 64500}, record{"198.51.100.0/24", "KR", 64501}, record{"2001:db8::/32", "CN", 64502}, record{"203.0.113.0/24", "US", 64503})
	r := start(t, "",
		Feed{Name: "deny", Geo: &Geo{File: file, DenyCountries: []string{"CN"}, DenyASNs: []uint32{64501}, Interval: often}},
		Feed{Name: "allow", Geo: &Geo{File: file, AllowCountries: []string{"KR", "CN"}, AllowASNs: []uint32{64503}, DenyASNs: []uint32{64502}, Interval: often}},
	)
	want := func(addr, feed string) {
		t.Helper()
		if got, _ := r.Lookup(netip.MustParseAddr(addr)); got != feed {
			t.Errorf("%s is listed by %q, want %q", addr, got, feed)
		}
	}
	want("192.0.2.1", "deny")
	want("198.51.100.1", "deny")
	want("2001:db8::1", "deny")
	want("203.0.113.1", "")
	want("8.8.8.8", "allow") // unknown to the database
	want("2600::1", "allow")

	put(record{"192.0.2.0/24", "KR", 64501}, record{"2001:db8::/32", "KR", 64502}, record{"100.0.0.0/8", "CN", 1})
	eventually(t, "the new database is in use", func() bool { return r.lists("100.1.1.1") && r.lists("203.0.113.1") })
	want("192.0.2.1", "deny") // by its network
	want("2001:db8::1", "allow")

	// What is no database, or knows none of the rules' places, changes
	// nothing.
	for _, data := range [][]byte{[]byte("half of a databa"), nil, writeMMDB([]record{{"192.0.2.0/24", "FR", 7}})} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the trouble is noticed", func() bool { return r.err(0) != nil && r.err(1) != nil })
		want("192.0.2.1", "deny")
		want("2001:db8::1", "allow")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the missing file is noticed", func() bool { return r.err(0) != nil && os.IsNotExist(r.err(0)) })
	want("192.0.2.1", "deny")
}

// TestApply replaces feeds while others stay.
func TestApply(t *testing.T) {
	s, other := newScript(t), newScript(t)
	s.say(text("192.0.2.1\n"))
	other.say(text("198.51.100.1\n"))
	stays := Feed{Name: "stays", Blocklist: &Blocklist{URL: s.URL, Interval: time.Hour}}
	reg := prometheus.NewPedanticRegistry()
	l := New(Config{Feeds: []Feed{stays}, Registerer: reg})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	listed := func(a string) bool { _, ok := l.Lookup(netip.MustParseAddr(a)); return ok }
	eventually(t, "the first list is in use", func() bool { return listed("192.0.2.1") })

	l.Apply([]Feed{stays, {Name: "other", Blocklist: &Blocklist{URL: other.URL, Interval: time.Hour}}})
	if !listed("192.0.2.1") {
		t.Error("the list that stays is forgotten")
	}
	eventually(t, "the second list is in use", func() bool { return listed("198.51.100.1") })
	if n := len(s.questions()); n != 1 {
		t.Errorf("the list that stays was fetched %d times, want once", n)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v %v", problems, err)
	}
	if n, err := testutil.GatherAndCount(reg, "postern_feeds_entries"); err != nil || n != 2 {
		t.Errorf("%d series of entries (%v), want 2", n, err)
	}
	l.Apply(nil)
	if listed("192.0.2.1") || listed("198.51.100.1") {
		t.Error("a list that is gone is in use")
	}
	if n, err := testutil.GatherAndCount(reg, "postern_feeds_polls_total"); err != nil || n != 0 {
		t.Errorf("%d series of feeds that are gone (%v)", n, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestCopyOfNoUse(t *testing.T) {
	dir := t.TempDir()
	url := "http://192.0.2.1/list"
	good := fmt.Sprintf(`{"version":1,"source":%q}`, sourceID(url))
	for _, c := range []struct{ name, text string }{
		{"empty", ""},
		{"no head", "192.0.2.1\n"},
		{"another version", strings.Replace(good, ":1,", ":2,", 1) + "\n192.0.2.1-192.0.2.1\n"},
		{"a line that is none", good + "\n192.0.2.1\n"},
		{"cut off", good + "\n192.0.2.1-192.0.\n"},
		{"no time", good + "\n192.0.2.1-192.0.2.1 now\n"},
	} {
		if err := os.WriteFile(filepath.Join(dir, "list.list"), []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		l := New(Config{Dir: dir, Feeds: []Feed{{Name: "list", Blocklist: &Blocklist{URL: url}}}})
		l.Load()
		if _, ok := l.Lookup(netip.MustParseAddr("192.0.2.1")); ok {
			t.Errorf("%s: the copy is in use", c.name)
		}
	}
}
