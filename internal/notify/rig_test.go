package notify

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"postern/internal/testnet"
)

// rig is an outbox with one Discord channel, in a bubble of virtual time.
type rig struct {
	t       *testing.T
	out     *Outbox
	discord *testnet.Discord
	sender  *Discord
	log     *lockedBuffer
	reg     *prometheus.Registry
	stop    context.CancelFunc
	ended   chan struct{}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

const secretURL = "https://discord.com" + testnet.DiscordPath

// bubble runs f with a rig whose outbox runs. Bubbles begin at midnight UTC.
func bubble(t *testing.T, file string, c Channel, f func(*rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, file, c, testnet.NewDiscord(t))
		r.run()
		f(r)
		r.end()
	})
}

func newRig(t *testing.T, file string, c Channel, d *testnet.Discord) *rig {
	t.Helper()
	r := &rig{t: t, discord: d, log: new(lockedBuffer), reg: prometheus.NewPedanticRegistry()}
	r.out = New(Config{File: file, Zone: time.UTC, Log: slog.New(slog.NewTextHandler(r.log, nil)), Metrics: r.reg})
	var err error
	if r.sender, err = NewDiscord(DiscordConfig{URL: secretURL, Transport: d}); err != nil {
		t.Fatal(err)
	}
	c.Name, c.Key, c.Sender = "phone", r.sender.Key(), r.sender
	r.out.SetChannels([]Channel{c})
	return r
}

func (r *rig) run() {
	ctx, stop := context.WithCancel(r.t.Context())
	r.stop, r.ended = stop, make(chan struct{})
	go func() { // waited for in end
		defer close(r.ended)
		_ = r.out.Run(ctx)
	}()
}

func (r *rig) end() {
	r.stop()
	<-r.ended
	text := r.log.String()
	if strings.Contains(text, testnet.DiscordToken) {
		r.t.Errorf("the log shows the webhook's URL:\n%s", text)
	}
}

func contextFor(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}

// pass lets virtual time pass.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (r *rig) down(i int) Message {
	return Message{Kind: BackendDown, Args: map[string]string{"backend": fmt.Sprint("app", i), "site": "a.example.org", "sentence": "connection refused"}}
}

// note sends what waits for the digest.
func (r *rig) note(text string) {
	r.out.Send(Message{Kind: Notice, Args: map[string]string{"sentence": text}})
}

// posts returns the messages with a title, and when each was posted.
func (r *rig) posts(title string) []testnet.DiscordMessage {
	return slices.DeleteFunc(r.discord.Messages(), func(m testnet.DiscordMessage) bool {
		return len(m.Payload.Embeds) == 0 || !strings.HasPrefix(m.Payload.Embeds[0].Title, title)
	})
}

func (r *rig) never429() {
	r.t.Helper()
	if _, limited := r.discord.Requests(); limited > 0 {
		r.t.Errorf("%d requests were answered 429", limited)
	}
}

func (r *rig) count(result string) float64 {
	return testutil.ToFloat64(r.out.metrics.messages.WithLabelValues("phone", result))
}

// busiestHour is the most posts in any hour.
func busiestHour(list []testnet.DiscordMessage) int {
	most := 0
	for i := range list {
		n := 0
		for _, m := range list[i:] {
			if m.Posted.Sub(list[i].Posted) < time.Hour {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

// bubbleOf runs f with an outbox whose only channel is one that cannot edit.
func bubbleOf(t *testing.T, f func(r *rig, sent *[]string)) {
	t.Helper()
	bubble(t, "", Channel{}, func(r *rig) {
		var sent []string
		r.out.SetChannels([]Channel{{Name: "plain", Key: "plain", Sender: memory{sent: &sent}, Summary: -1}})
		f(r, &sent)
	})
}
