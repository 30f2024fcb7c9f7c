package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Pacing of one webhook. Discord allows 5 requests in 2 s for a webhook and
// about 30 messages a minute for a channel, which other webhooks may share; its
// answers say what is left, and that is obeyed as well.
const (
	discordPace  = 2500 * time.Millisecond
	longestWait  = time.Hour
	maxAnswer    = 64 << 10
	marginToWait = 250 * time.Millisecond
)

// Error codes of Discord's API (docs.discord.com, Opcodes and Status Codes).
const (
	codeUnknownMessage = 10008
)

// Discord is the Sender for one Discord webhook.
type Discord struct {
	id, token string
	base      string // of the API, up to "/webhooks"
	thread    string
	client    *http.Client

	mu   sync.Mutex
	free time.Time // when the next request may go out
}

// DiscordConfig is what a Discord is made of.
type DiscordConfig struct {
	// URL is the webhook's, as Discord shows it:
	// https://discord.com/api/webhooks/ID/TOKEN. It is a secret.
	URL string

	// Transport carries the requests. Nil: http.DefaultTransport.
	Transport http.RoundTripper
}

// webhookPath is the path of a webhook's URL, of any version of the API.
var webhookPath = regexp.MustCompile(`^/api(?:/v[0-9]+)?/webhooks/([0-9]{5,25})/([A-Za-z0-9_-]{20,200})/?$`)

// NewDiscord returns the Sender of a webhook. Errors do not hold the URL.
func NewDiscord(cfg DiscordConfig) (*Discord, error) {
	u, err := url.Parse(strings.TrimSpace(cfg.URL))
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, errors.New("discord: not a URL, want the one that Discord shows for the webhook, https://discord.com/api/webhooks/…")
	}
	m := webhookPath.FindStringSubmatch(u.Path)
	if m == nil {
		return nil, errors.New("discord: the URL's path is not that of a webhook, want https://discord.com/api/webhooks/ID/TOKEN as Discord shows it")
	}
	d := &Discord{
		id: m[1], token: m[2], thread: u.Query().Get("thread_id"),
		base:   u.Scheme + "://" + u.Host + "/api/v10/webhooks/",
		client: &http.Client{Transport: cfg.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
	return d, nil
}

// Key names the webhook without its secret.
func (d *Discord) Key() string {
	if d.thread != "" {
		return "discord:" + d.id + ":" + d.thread
	}
	return "discord:" + d.id
}

// Service returns "discord".
func (*Discord) Service() string { return "discord" }

// Edits returns true: a webhook may change its own messages.
func (*Discord) Edits() bool { return true }

// Send posts n, or changes the message id to it.
func (d *Discord) Send(ctx context.Context, n *Note, id string) (string, error) {
	if err := d.pace(ctx); err != nil {
		return "", err
	}
	body, kind, err := discordBody(n)
	if err != nil {
		return "", err
	}
	method, path, query := http.MethodPost, d.id+"/"+d.token, url.Values{"wait": {"true"}}
	if id != "" {
		method, path, query = http.MethodPatch, path+"/messages/"+url.PathEscape(id), url.Values{}
	}
	if d.thread != "" {
		query.Set("thread_id", d.thread)
	}
	target := d.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return "", &Failure{Cause: "discord: the webhook's URL makes no request", Dead: true}
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("User-Agent", "postern (home server front door, 1)")
	res, err := d.client.Do(req)
	if err != nil {
		return "", &Failure{Cause: "discord: " + netCause(err)}
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	d.heed(res.Header, time.Now())
	return d.judge(res, answer, err, id)
}

// pace waits until the next request may go out.
func (d *Discord) pace(ctx context.Context) error {
	d.mu.Lock()
	now := time.Now()
	pause := d.free.Sub(now)
	if end, ok := ctx.Deadline(); ok && now.Add(pause).After(end) {
		d.mu.Unlock()
		return &Failure{Cause: "discord: asked us to wait", Status: http.StatusTooManyRequests, Wait: pause}
	}
	d.free = now.Add(max(pause, 0) + discordPace)
	d.mu.Unlock()
	if pause <= 0 {
		return nil
	}
	if !sleep(ctx, pause) {
		return ctx.Err()
	}
	return nil
}

// heed keeps to what Discord says is left of the webhook's rate.
func (d *Discord) heed(h http.Header, now time.Time) {
	left, err := strconv.Atoi(h.Get("X-RateLimit-Remaining"))
	if err != nil || left > 0 {
		return
	}
	if reset, ok := seconds(h.Get("X-RateLimit-Reset-After")); ok {
		d.notBefore(now.Add(reset + marginToWait))
	}
}

func (d *Discord) notBefore(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t.After(d.free) {
		d.free = t
	}
}

// seconds reads a number of seconds, which may have a fraction.
func seconds(s string) (time.Duration, bool) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f < 0 || f != f {
		return 0, false
	}
	return time.Duration(min(f, longestWait.Seconds()) * float64(time.Second)), true
}

// answered is what Discord's answers hold that we look at.
type answered struct {
	ID         string  `json:"id"`
	Code       int     `json:"code"`
	RetryAfter float64 `json:"retry_after"` // seconds
}

// judge says what an answer means.
func (d *Discord) judge(res *http.Response, answer []byte, readErr error, id string) (string, error) {
	var a answered
	jsonErr := json.Unmarshal(answer, &a)
	f := &Failure{Status: res.StatusCode, Cause: fmt.Sprintf("discord: answered %d", res.StatusCode)}
	if a.Code != 0 {
		f.Cause += fmt.Sprintf(" (code %d)", a.Code)
	}
	switch s := res.StatusCode; {
	case s == http.StatusOK || s == http.StatusNoContent:
		if readErr == nil && jsonErr == nil && snowflake.MatchString(a.ID) {
			return a.ID, nil
		}
		return id, nil // delivered; without an id the next digest is a new message
	case s == http.StatusTooManyRequests:
		wait, ok := seconds(res.Header.Get("Retry-After"))
		if !ok {
			wait, ok = seconds(strconv.FormatFloat(a.RetryAfter, 'f', -1, 64))
		}
		if !ok || wait == 0 {
			wait = time.Minute
		}
		f.Wait = max(wait, time.Second) + marginToWait
		f.Cause = "discord: asked us to wait"
		d.notBefore(time.Now().Add(f.Wait))
	case s == http.StatusNotFound && a.Code == codeUnknownMessage && id != "":
		f.Gone = true
	case s == http.StatusUnauthorized || s == http.StatusForbidden || s == http.StatusNotFound:
		f.Dead = true
		f.Cause += ": the webhook does not exist or its token is wrong; make a new one in the Discord channel's settings"
	case s == http.StatusBadRequest || s == http.StatusRequestEntityTooLarge || s == http.StatusUnprocessableEntity:
		f.Bad = true
	}
	return "", f
}

// snowflake is an id of Discord's.
var snowflake = regexp.MustCompile(`^[0-9]{1,25}$`)

// netCause says why no answer came, without the URL that *url.Error prints.
func netCause(err error) string {
	if e, ok := errors.AsType[*url.Error](err); ok {
		if e.Timeout() {
			return "no answer in time"
		}
		err = e.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	return clean(strings.ReplaceAll(err.Error(), "\n", " "), maxValue)
}

// discordBody writes n as the body of a request: JSON, or a form with the
// picture.
func discordBody(n *Note) (body []byte, contentType string, err error) {
	payload, err := json.Marshal(discordPayload(n))
	if err != nil {
		return nil, "", fmt.Errorf("discord: write the message: %w", err)
	}
	if n.chart == nil {
		return payload, "application/json", nil
	}
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, p := range []struct {
		disposition, kind string
		data              []byte
	}{
		{`form-data; name="payload_json"`, "application/json", payload},
		{`form-data; name="files[0]"; filename="` + chartName + `"`, "image/png", n.chart},
	} {
		part, err := w.CreatePart(textproto.MIMEHeader{"Content-Disposition": {p.disposition}, "Content-Type": {p.kind}})
		if err == nil {
			_, err = part.Write(p.data)
		}
		if err != nil {
			return nil, "", fmt.Errorf("discord: write the picture: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, "", fmt.Errorf("discord: write the picture: %w", err)
	}
	return b.Bytes(), w.FormDataContentType(), nil
}
