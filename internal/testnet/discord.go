package testnet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"io"
	"math"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// Discord is the part of Discord's API that a webhook needs, with its limits:
// 5 requests in 2 s for a webhook, 30 a minute for a channel, the sizes of
// embeds. What real Discord would refuse as malformed fails the test. It is an
// http.Handler, to be served on loopback, and an http.RoundTripper, for tests
// in virtual time. Safe for concurrent use.
type Discord struct {
	t testing.TB

	mu       sync.Mutex
	mode     DiscordMode
	messages []*DiscordMessage
	next     int
	asked    []time.Time // requests of the last 2 s
	minute   []time.Time // messages of the last minute
	requests int
	limited  int
	spare    bool // malformed requests do not fail the test
	release  chan struct{}
	news     chan struct{} // holds one; something was accepted
	rejected []string
}

// DiscordMode is how a Discord answers.
type DiscordMode int

// The modes.
const (
	DiscordWell         DiscordMode = iota
	DiscordUnauthorized             // 401: the token is wrong
	DiscordForbidden                // 403
	DiscordGone                     // 404: the webhook was deleted
	DiscordBroken                   // 502 with a page of HTML, as from the edge
	DiscordUnreachable              // no answer at all, at once
	DiscordHangs                    // no answer at all, for ever
)

// DiscordMessage is a message that was accepted.
type DiscordMessage struct {
	ID      string
	Posted  time.Time
	Edits   []time.Time
	Payload DiscordPayload // as it is now
	Raw     string         // the JSON of the last version
	Files   map[string][]byte
}

// DiscordPayload is what a message says.
type DiscordPayload struct {
	Content  string         `json:"content"`
	Username string         `json:"username"`
	Flags    int            `json:"flags"`
	Embeds   []DiscordEmbed `json:"embeds"`
	Mentions *struct {
		Parse []string `json:"parse"`
	} `json:"allowed_mentions"`
}

// DiscordEmbed is one embed.
type DiscordEmbed struct {
	Title       string `json:"title"`
	Description string `json:"description"`
	Color       int    `json:"color"`
	Timestamp   string `json:"timestamp"`
	Fields      []struct {
		Name   string `json:"name"`
		Value  string `json:"value"`
		Inline bool   `json:"inline"`
	} `json:"fields"`
	Footer *struct {
		Text string `json:"text"`
	} `json:"footer"`
	Image *struct {
		URL string `json:"url"`
	} `json:"image"`
}

// The one webhook of the fake.
const (
	discordID    = "123456789012345678"
	DiscordToken = "a-token-that-nobody-may-ever-see-in-a-log-0123456789"
)

// DiscordPath is the path of the webhook's URL.
const DiscordPath = "/api/webhooks/" + discordID + "/" + DiscordToken

// NewDiscord returns a Discord that is well.
func NewDiscord(t testing.TB) *Discord {
	return &Discord{t: t, release: make(chan struct{}), news: make(chan struct{}, 1)}
}

// Serve makes d reachable on loopback and returns the webhook's URL.
func (d *Discord) Serve() string {
	s := httptest.NewServer(d)
	d.t.Cleanup(func() {
		close(d.release)
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL + DiscordPath
}

// Set changes how d answers.
func (d *Discord) Set(m DiscordMode) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mode = m
}

// Spare keeps malformed requests from failing the test: they are only refused.
func (d *Discord) Spare() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.spare = true
}

// Forget deletes every message, as a person may.
func (d *Discord) Forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.messages = nil
}

// Messages returns the messages that are there, the oldest first.
func (d *Discord) Messages() []DiscordMessage {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []DiscordMessage
	for _, m := range d.messages {
		c := *m
		c.Edits = slices.Clone(m.Edits)
		out = append(out, c)
	}
	return out
}

// Requests is how many requests came, Limited how many were answered 429.
func (d *Discord) Requests() (requests, limited int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.requests, d.limited
}

// Rejected tells why requests were refused as malformed.
func (d *Discord) Rejected() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.rejected)
}

// News receives after something was accepted.
func (d *Discord) News() <-chan struct{} { return d.news }

// RoundTrip answers r without a network.
func (d *Discord) RoundTrip(r *http.Request) (*http.Response, error) {
	switch d.modeNow() {
	case DiscordUnreachable:
		return nil, errors.New("dial tcp 162.0.2.1:443: connect: network is unreachable")
	case DiscordHangs:
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w.Result(), nil
}

func (d *Discord) modeNow() DiscordMode {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mode
}

func (d *Discord) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	body, err := io.ReadAll(io.LimitReader(r.Body, 10<<20))
	if err != nil {
		return
	}
	mode := d.modeNow()
	switch mode {
	case DiscordHangs:
		select {
		case <-r.Context().Done():
		case <-d.release:
		}
		return
	case DiscordUnreachable:
		panic(http.ErrAbortHandler)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.requests++
	if d.tooFast(w, r, now) {
		return
	}
	switch mode {
	case DiscordUnauthorized:
		d.problem(w, http.StatusUnauthorized, 50027, "Invalid Webhook Token")
	case DiscordForbidden:
		d.problem(w, http.StatusForbidden, 50013, "Missing Permissions")
	case DiscordGone:
		d.problem(w, http.StatusNotFound, 10015, "Unknown Webhook")
	case DiscordBroken:
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusBadGateway)
		_, _ = io.WriteString(w, "<html>502</html>")
	default:
		d.accept(w, r, body, now)
	}
}

func (d *Discord) problem(w http.ResponseWriter, status, code int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"message": text, "code": code}) // the asker may be gone
}

// tooFast counts the request against the limits and answers 429 past them.
func (d *Discord) tooFast(w http.ResponseWriter, r *http.Request, now time.Time) bool {
	const most, span, channel = 5, 2 * time.Second, 30
	d.asked = slices.DeleteFunc(d.asked, func(t time.Time) bool { return now.Sub(t) >= span })
	d.minute = slices.DeleteFunc(d.minute, func(t time.Time) bool { return now.Sub(t) >= time.Minute })
	var wait time.Duration
	if len(d.asked) >= most {
		wait = d.asked[0].Add(span).Sub(now)
	}
	if len(d.minute) >= channel && r.Method == http.MethodPost {
		wait = max(wait, d.minute[0].Add(time.Minute).Sub(now))
	}
	h := w.Header()
	h.Set("X-RateLimit-Bucket", "fake")
	h.Set("X-RateLimit-Limit", strconv.Itoa(most))
	if wait > 0 {
		d.limited++
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
		h.Set("X-RateLimit-Remaining", "0")
		h.Set("X-RateLimit-Scope", "user")
		h.Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = fmt.Fprintf(w, `{"message": "You are being rate limited.", "retry_after": %.3f, "global": false}`, wait.Seconds())
		return true
	}
	d.asked = append(d.asked, now)
	if r.Method == http.MethodPost {
		d.minute = append(d.minute, now)
	}
	h.Set("X-RateLimit-Remaining", strconv.Itoa(most-len(d.asked)))
	h.Set("X-RateLimit-Reset-After", strconv.FormatFloat(d.asked[0].Add(span).Sub(now).Seconds(), 'f', 3, 64))
	return false
}

var discordPath = regexp.MustCompile(`^/api/v10/webhooks/` + discordID + `/([^/]+)(?:/messages/([0-9]+))?$`)

// accept carries out one request.
func (d *Discord) accept(w http.ResponseWriter, r *http.Request, body []byte, now time.Time) {
	path := discordPath.FindStringSubmatch(r.URL.Path)
	switch {
	case path == nil:
		d.reject(w, http.StatusNotFound, "unexpected call: %s %s", r.Method, strings.ReplaceAll(r.URL.Path, DiscordToken, "TOKEN"))
		return
	case path[1] != DiscordToken:
		d.problem(w, http.StatusUnauthorized, 50027, "Invalid Webhook Token")
		return
	case r.Header.Get("User-Agent") == "" || strings.HasPrefix(r.Header.Get("User-Agent"), "Go-http-client"):
		d.reject(w, http.StatusForbidden, "unexpected User-Agent %q", r.Header.Get("User-Agent"))
		return
	}
	payload, raw, files, err := readDiscord(r.Header.Get("Content-Type"), body)
	if err == nil {
		err = payload.check(files)
	}
	if err != nil {
		d.reject(w, http.StatusBadRequest, "%v", err)
		return
	}
	switch {
	case r.Method == http.MethodPost && path[2] == "":
		if r.URL.Query().Get("wait") != "true" {
			d.reject(w, http.StatusBadRequest, "posted without wait=true, so the id is not told")
			return
		}
		d.next++
		m := &DiscordMessage{ID: strconv.Itoa(1000 + d.next), Posted: now, Payload: payload, Raw: raw, Files: files}
		d.messages = append(d.messages, m)
		d.answer(w, m)
	case r.Method == http.MethodPatch && path[2] != "":
		i := slices.IndexFunc(d.messages, func(m *DiscordMessage) bool { return m.ID == path[2] })
		if i < 0 {
			d.problem(w, http.StatusNotFound, 10008, "Unknown Message")
			return
		}
		m := d.messages[i]
		m.Edits, m.Payload, m.Raw = append(m.Edits, now), payload, raw
		d.answer(w, m)
	default:
		d.reject(w, http.StatusMethodNotAllowed, "unexpected method %s", r.Method)
	}
}

func (d *Discord) answer(w http.ResponseWriter, m *DiscordMessage) {
	select {
	case d.news <- struct{}{}:
	default:
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"id": m.ID, "type": 0, "webhook_id": discordID}) // the asker may be gone
}

// reject refuses what real Discord would refuse, and fails the test.
func (d *Discord) reject(w http.ResponseWriter, status int, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	d.rejected = append(d.rejected, text)
	if !d.spare {
		d.t.Errorf("Discord: %s", text)
	}
	d.problem(w, status, 50035, "Invalid Form Body")
}

// readDiscord reads JSON, or a form with payload_json and files.
func readDiscord(contentType string, body []byte) (p DiscordPayload, raw string, files map[string][]byte, err error) {
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return p, "", nil, fmt.Errorf("content type %q: %w", contentType, err)
	}
	switch kind {
	case "application/json":
		raw = string(body)
	case "multipart/form-data":
		files = make(map[string][]byte)
		form := multipart.NewReader(bytes.NewReader(body), params["boundary"])
		for {
			part, err := form.NextPart()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return p, "", nil, err
			}
			data, err := io.ReadAll(part)
			if err != nil {
				return p, "", nil, err
			}
			if part.FormName() == "payload_json" {
				raw = string(data)
			} else {
				files[part.FileName()] = data
			}
		}
	default:
		return p, "", nil, fmt.Errorf("content type %q, want JSON or a form", contentType)
	}
	if !utf8.ValidString(raw) {
		return p, raw, files, errors.New("the JSON is no UTF-8")
	}
	dec := json.NewDecoder(strings.NewReader(raw))
	dec.DisallowUnknownFields()
	return p, raw, files, dec.Decode(&p)
}

func discordUnits(s string) int { return len(utf16.Encode([]rune(s))) }

// check holds a message to Discord's limits.
func (p *DiscordPayload) check(files map[string][]byte) error {
	switch {
	case p.Content == "" && len(p.Embeds) == 0 && len(files) == 0:
		return errors.New("an empty message")
	case discordUnits(p.Content) > 2000:
		return fmt.Errorf("content of %d characters, want at most 2000", discordUnits(p.Content))
	case len(p.Embeds) > 10:
		return fmt.Errorf("%d embeds, want at most 10", len(p.Embeds))
	case p.Mentions == nil || p.Mentions.Parse == nil || len(p.Mentions.Parse) > 0:
		return errors.New("allowed_mentions without an empty parse: everybody may be called")
	case discordUnits(p.Username) > 80 || strings.Contains(strings.ToLower(p.Username), "discord"):
		return fmt.Errorf("username %q", p.Username)
	}
	total := 0
	for _, e := range p.Embeds {
		n, err := e.check(files)
		if err != nil {
			return err
		}
		total += n
	}
	if total > 6000 {
		return fmt.Errorf("embeds of %d characters together, want at most 6000", total)
	}
	for name, data := range files {
		if len(data) > 8<<20 {
			return fmt.Errorf("file %s of %d bytes", name, len(data))
		}
		if _, err := png.Decode(bytes.NewReader(data)); strings.HasSuffix(name, ".png") && err != nil {
			return fmt.Errorf("file %s: %w", name, err)
		}
	}
	return nil
}

// check returns how much of the total of 6000 the embed takes.
func (e *DiscordEmbed) check(files map[string][]byte) (total int, err error) {
	limit := func(what, s string, most int, needed bool) {
		n := discordUnits(s)
		total += n
		if err == nil && (n > most || needed && strings.TrimSpace(s) == "") {
			err = fmt.Errorf("%s of %d characters, want at most %d", what, n, most)
		}
	}
	limit("title", e.Title, 256, false)
	limit("description", e.Description, 4096, false)
	if len(e.Fields) > 25 {
		return 0, fmt.Errorf("%d fields, want at most 25", len(e.Fields))
	}
	for _, f := range e.Fields {
		limit("name of a field", f.Name, 256, true)
		limit("value of a field", f.Value, 1024, true)
	}
	if e.Footer != nil {
		limit("footer", e.Footer.Text, 2048, true)
	}
	if err != nil {
		return 0, err
	}
	if e.Title == "" && e.Description == "" && len(e.Fields) == 0 && e.Image == nil {
		return 0, errors.New("an empty embed")
	}
	if e.Color < 0 || e.Color > 0xffffff {
		return 0, fmt.Errorf("color %d", e.Color)
	}
	if e.Timestamp != "" {
		if _, err := time.Parse(time.RFC3339, e.Timestamp); err != nil {
			return 0, fmt.Errorf("timestamp: %w", err)
		}
	}
	if e.Image != nil {
		name, attached := strings.CutPrefix(e.Image.URL, "attachment://")
		if _, there := files[name]; !attached || !there {
			return 0, fmt.Errorf("image %q, want a file of the message", e.Image.URL)
		}
	}
	return total, nil
}
