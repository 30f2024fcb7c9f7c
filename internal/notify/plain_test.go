package notify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"postern/internal/testnet"
)

const planted = "s3cret-T0ken-0123456789"

func oneNote() *Note {
	c := newChannel(Channel{Name: "x", Sender: mute{}}, New(Config{}))
	return c.urgentNote([]Message{{Kind: CertTrouble, At: time.Now(), Args: map[string]string{"name": "a.example.org", "sentence": "see https://evil.example/ @everyone"}}})
}

// mute is a Sender that delivers nothing.
type mute struct{}

func (mute) Service() string                                     { return "mute" }
func (mute) Edits() bool                                         { return false }
func (mute) Send(context.Context, *Note, string) (string, error) { return "", nil }

// hook is a web server that notes what it is sent.
func hook(t *testing.T, status int) (host string, got chan string) {
	t.Helper()
	got = make(chan string, 16)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		got <- r.Header.Get("Title") + "|" + string(b)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		id := `"1"`
		if r.URL.Path == "/message" { // Gotify's are numbers
			id = "1"
		}
		_, _ = fmt.Fprintf(w, `{"id":`+id+`,"code":%d,"error":"no %s"}`, status, planted)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), got
}

func TestServices(t *testing.T) {
	for _, tc := range []struct{ form, title string }{
		{"generic+http://HOST/" + planted, ""},
		{"ntfy://user:" + planted + "@HOST/topic?scheme=http", "postern: Certificate in trouble"},
		{"gotify://HOST/AzyoeNS.D4iJLVa?disabletls=yes", ""},
	} {
		host, got := hook(t, http.StatusOK)
		s, err := NewShoutrrr(strings.ReplaceAll(tc.form, "HOST", host))
		if err != nil {
			t.Errorf("%s: %v", tc.form, err)
			continue
		}
		if _, err := s.Send(t.Context(), oneNote(), ""); err != nil {
			t.Errorf("%s: %v", tc.form, err)
		}
		title, body, _ := strings.Cut(<-got, "|")
		if title != tc.title || !strings.Contains(body, "a.example.org: see hxxps(:)//evil(.)example/ (at)everyone") {
			t.Errorf("%s: got %q with the title %q", tc.form, body, title)
		}
	}
}

// What a service answers becomes a sentence of ours: never the URL, nor what
// the service says.
func TestServiceFailures(t *testing.T) {
	for _, tc := range []struct {
		status    int
		want      string
		dead, bad bool
	}{
		{http.StatusUnauthorized, "answered 401", true, false},
		{http.StatusForbidden, "answered 403", true, false},
		{http.StatusNotFound, "answered 404", true, false},
		{http.StatusBadRequest, "answered 400", false, true},
		{http.StatusTooManyRequests, "answered 429", false, false},
		{http.StatusInternalServerError, "answered 500", false, false},
	} {
		for _, form := range []string{"generic+http://HOST/" + planted, "ntfy://user:" + planted + "@HOST/topic?scheme=http"} {
			host, _ := hook(t, tc.status)
			s, err := NewShoutrrr(strings.ReplaceAll(form, "HOST", host))
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Send(t.Context(), oneNote(), "")
			f, ok := errors.AsType[*Failure](err)
			if !ok {
				t.Errorf("%d %s: %v", tc.status, form, err)
				continue
			}
			if !strings.Contains(f.Cause, tc.want) || f.Dead != tc.dead || f.Bad != tc.bad || strings.Contains(f.Cause, planted) || strings.Contains(f.Cause, host) {
				t.Errorf("%d %s: %+v", tc.status, form, f)
			}
		}
	}
}

func TestServiceUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{
		"generic+http://HOST/" + planted, "ntfy://user:" + planted + "@HOST/topic?scheme=http",
		"smtp://user:" + planted + "@HOST/?from=a@b.example&to=c@d.example", "gotify://HOST/AzyoeNS.D4iJLVa?disabletls=yes",
		"mattermost://HOST/" + planted + "?disabletls=yes", "rocketchat://HOST/" + planted + "/" + planted,
	} {
		s, err := NewShoutrrr(strings.ReplaceAll(form, "HOST", host))
		if err != nil {
			t.Errorf("%s: %v", form, err)
			continue
		}
		_, err = s.Send(t.Context(), oneNote(), "")
		f, ok := errors.AsType[*Failure](err)
		if !ok || f.Dead || f.Bad || strings.Contains(f.Cause, planted) || strings.Contains(f.Cause, host) {
			t.Errorf("%s: %v", form, err)
		}
	}
}

// A service that hangs holds one delivery, and no more than one.
func TestServiceHangs(t *testing.T) {
	release, arrived := make(chan struct{}), make(chan struct{}, 4)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-release
	}))
	defer s.Close()
	defer close(release)
	sender, err := NewShoutrrr("generic+" + s.URL + "/" + planted)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { // ends with the first request
		<-arrived
		cancel()
	}()
	if _, err := sender.Send(ctx, oneNote(), ""); err == nil || !strings.Contains(err.Error(), "no answer in time") {
		t.Errorf("got %v", err)
	}
	if _, err := sender.Send(t.Context(), oneNote(), ""); err == nil || !strings.Contains(err.Error(), "still under way") {
		t.Errorf("got %v", err)
	}
	if len(arrived) > 0 {
		t.Error("a second delivery began")
	}
}

// No error of a URL that is wrong holds it.
func TestWrongURLs(t *testing.T) {
	for _, text := range []string{
		planted, "nope://" + planted, "ntfy://" + planted + "\x7f", "telegram://" + planted, "slack://" + planted, "smtp://" + planted + ":%zz@host/",
		"gotify://host/" + planted, "discord://" + planted + "@1", "logger://" + planted, "generic+://" + planted, "://" + planted, "pushover://" + planted, "matrix://u:" + planted + "@",
	} {
		_, err := NewShoutrrr(text)
		if err != nil && strings.Contains(strings.ToLower(err.Error()), strings.ToLower(planted)) {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, text := range []string{
		planted, "https://discord.com/" + planted, "https://discord.com/api/webhooks/1/" + planted, "https://discord.com/api/webhooks/x/" + planted,
		"ftp://discord.com" + testnet.DiscordPath, "https://" + planted + "\x7f/", "https:///api/webhooks/123456/" + planted,
	} {
		_, err := NewDiscord(DiscordConfig{URL: text})
		if err == nil || strings.Contains(err.Error(), planted) || strings.Contains(err.Error(), testnet.DiscordToken) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A channel that cannot edit gets one digest at the end of each window.
func TestPlainDigest(t *testing.T) {
	bubbleOf(t, func(r *rig, sent *[]string) {
		for i := range 180 {
			r.note(fmt.Sprint("line ", i%3))
			pass(time.Minute)
		}
		pass(2 * time.Hour)
		if len(*sent) != 3 {
			t.Errorf("%d digests in three hours, want 3: %q", len(*sent), *sent)
		}
	})
}

// memory is a Sender that keeps what it is given.
type memory struct {
	mute
	sent *[]string
}

func (m memory) Send(_ context.Context, n *Note, _ string) (string, error) {
	*m.sent = append(*m.sent, n.Title+"\n"+n.Text())
	return "", nil
}
