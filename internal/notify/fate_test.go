package notify

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"postern/internal/testnet"
)

// Urgent messages go out at once, those of one cause together; the rest is one
// digest that is edited.
func TestUrgentAndDigest(t *testing.T) {
	bubble(t, "", Channel{Summary: -1}, func(r *rig) {
		for i := range 3 {
			r.out.Send(r.down(i))
		}
		pass(10 * time.Second)
		all := r.discord.Messages()
		if len(all) != 1 || all[0].Payload.Embeds[0].Title != "Backend down (3)" || !strings.Contains(all[0].Raw, "`app2`") {
			t.Fatalf("after three backends went down: %+v", all)
		}
		r.note("first")
		pass(2 * time.Minute)
		r.note("second")
		r.note("second")
		pass(5 * time.Minute)
		digests := r.posts("What happened")
		if len(digests) != 1 || len(digests[0].Edits) != 1 {
			t.Fatalf("digests %+v, want one, edited once", digests)
		}
		for _, want := range []string{"`first`", "00:02 `second`", "(`2` times)"} {
			if !strings.Contains(digests[0].Payload.Embeds[0].Description, want) {
				t.Errorf("the digest lacks %q: %s", want, digests[0].Raw)
			}
		}
		pass(2 * time.Hour)
		r.note("a new window")
		pass(2 * time.Minute)
		if n := len(r.posts("What happened")); n != 2 {
			t.Errorf("%d digests after the window was over, want 2", n)
		}
		r.never429()
	})
}

// A restart edits the digest on and delivers what waited.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "messages.json")
		d := testnet.NewDiscord(t)
		r := newRig(t, file, Channel{Summary: -1}, d)
		r.run()
		r.note("before")
		pass(2 * time.Minute)
		d.Set(testnet.DiscordUnreachable)
		r.out.Send(r.down(1))
		pass(time.Minute)
		r.end()
		if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%v %v, want mode 0600", st, err)
		}

		d.Set(testnet.DiscordWell)
		r = newRig(t, file, Channel{Summary: -1}, d)
		r.run()
		r.note("after")
		pass(5 * time.Minute)
		r.end()
		digests := r.posts("What happened")
		if len(digests) != 1 || len(digests[0].Edits) == 0 {
			t.Fatalf("%d digests, want one that was edited", len(digests))
		}
		if text := digests[0].Payload.Embeds[0].Description; !strings.Contains(text, "`before`") || !strings.Contains(text, "`after`") {
			t.Errorf("the digest says %q", text)
		}
		if len(r.posts("Backend down")) != 1 {
			t.Error("the urgent message that waited was not delivered")
		}
		b, err := os.ReadFile(file)
		if err != nil || strings.Contains(string(b), testnet.DiscordToken) {
			t.Errorf("the state file: %v %s", err, b)
		}
	})
}

// A file that cannot be read is moved aside.
func TestBrokenFile(t *testing.T) {
	for _, text := range []string{"", "{", `{"version":2}`, `{"version":1,"channels":[]}`, "\x00\x00\x00"} {
		file := filepath.Join(t.TempDir(), "messages.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := newRig(t, file, Channel{}, testnet.NewDiscord(t))
		if _, err := os.Stat(file + ".broken"); err != nil || !strings.Contains(r.log.String(), "moved aside") {
			t.Errorf("%q: %v, log %s", text, err, r.log)
		}
	}
}

// A message that a person deleted is posted anew.
func TestDeletedMessage(t *testing.T) {
	bubble(t, "", Channel{Summary: -1}, func(r *rig) {
		r.note("one")
		pass(2 * time.Minute)
		r.discord.Forget()
		r.note("two")
		pass(5 * time.Minute)
		all := r.discord.Messages()
		if len(all) != 1 || !strings.Contains(all[0].Raw, "`two`") || r.out.Status()[0].Disabled {
			t.Errorf("messages %+v, status %+v", all, r.out.Status())
		}
	})
}

// A webhook that does not exist, or is not ours, is given up after one
// request: the log, the status and the metric say so, and more messages cost
// nothing.
func TestDead(t *testing.T) {
	for mode, status := range map[testnet.DiscordMode]string{
		testnet.DiscordUnauthorized: "401", testnet.DiscordForbidden: "403", testnet.DiscordGone: "404",
	} {
		bubble(t, "", Channel{}, func(r *rig) {
			r.discord.Set(mode)
			for i := range 100 {
				r.out.Send(r.down(i))
				r.note(fmt.Sprint(i))
				pass(time.Minute)
			}
			if n, _ := r.discord.Requests(); n != 1 {
				t.Errorf("%s: %d requests, want 1", status, n)
			}
			s := r.out.Status()[0]
			if !s.Disabled || !strings.Contains(s.LastError, status) || !strings.Contains(s.String(), "disabled") {
				t.Errorf("%s: status %+v", status, s)
			}
			if up := testutil.ToFloat64(r.out.metrics.up.WithLabelValues("phone")); up != 0 || r.count("disabled") != 1 {
				t.Errorf("%s: up %v, disabled %v", status, up, r.count("disabled"))
			}
			if n := strings.Count(r.log.String(), "channel disabled"); n != 1 {
				t.Errorf("%s: the log says it %d times", status, n)
			}
			r.discord.Set(testnet.DiscordWell)
			same := Channel{Name: "phone", Key: r.sender.Key(), Sender: r.sender}
			r.out.SetChannels([]Channel{same})
			if !r.out.Status()[0].Disabled {
				t.Errorf("%s: the same configuration brought it back", status)
			}
			next, err := NewDiscord(DiscordConfig{URL: secretURL, Transport: r.discord})
			if err != nil {
				t.Fatal(err)
			}
			same.Sender = next
			r.out.SetChannels([]Channel{same})
			r.out.Send(r.down(1))
			pass(time.Minute)
			if len(r.posts("Backend down")) != 1 {
				t.Errorf("%s: a new configuration did not bring it back", status)
			}
			if n, err := testutil.GatherAndCount(r.reg, "postern_notify_channel_up"); err != nil || n != 1 || testutil.ToFloat64(r.out.metrics.up.WithLabelValues("phone")) != 1 {
				t.Errorf("%s: %d series of channels that are up, %v", status, n, err)
			}
		})
	}
}

// Who else uses the webhook may use up its rate: Discord's answer is obeyed to
// the fraction of a second.
func TestObeysLimits(t *testing.T) {
	bubble(t, "", Channel{Summary: -1}, func(r *rig) {
		pass(time.Minute)
		r.out.Send(r.down(1))
		pass(2900 * time.Millisecond)
		for range 5 {
			res, err := r.discord.RoundTrip(otherClient(t))
			if err != nil || res.StatusCode != http.StatusOK {
				t.Fatalf("%v %v", res, err)
			}
		}
		pass(20 * time.Second)
		if _, limited := r.discord.Requests(); limited != 1 {
			t.Errorf("%d requests were answered 429, want the first alone", limited)
		}
		if r.count("limited") != 1 || r.count("delivered") != 1 || len(r.posts("Backend down")) != 1 {
			t.Errorf("limited %v, delivered %v", r.count("limited"), r.count("delivered"))
		}
	})
}

func otherClient(t *testing.T) *http.Request {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, "https://discord.com/api/v10"+strings.TrimPrefix(testnet.DiscordPath, "/api")+"?wait=true",
		strings.NewReader(`{"content":"x","allowed_mentions":{"parse":[]}}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "another client")
	return req
}

// Retry-After and retry_after are read as seconds with a fraction, and bounded.
func TestRetryAfter(t *testing.T) {
	for _, tc := range []struct {
		header, body string
		want         time.Duration
	}{
		{"2", `{"retry_after": 1.5}`, 2250 * time.Millisecond},
		{"", `{"retry_after": 1.5}`, 1750 * time.Millisecond},
		{"0.4", ``, 1250 * time.Millisecond},
		{"", `<html>`, time.Minute + 250*time.Millisecond},
		{"-3", `{"retry_after": -1}`, time.Minute + 250*time.Millisecond},
		{"NaN", `{"retry_after": 1e300}`, time.Hour + 250*time.Millisecond},
		{"999999999", ``, time.Hour + 250*time.Millisecond},
	} {
		d, err := NewDiscord(DiscordConfig{URL: secretURL})
		if err != nil {
			t.Fatal(err)
		}
		res := &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(""))}
		if tc.header != "" {
			res.Header.Set("Retry-After", tc.header)
		}
		_, err = d.judge(res, []byte(tc.body), nil, "")
		if f, ok := err.(*Failure); !ok || f.Wait != tc.want {
			t.Errorf("%+v: got %+v", tc, err)
		}
	}
}

// The queue is bounded: the oldest go, are counted, and the digest tells how
// many. Sending never waits, also with nobody to take it.
func TestQueueBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "", Channel{Summary: -1}, testnet.NewDiscord(t))
		for i := range 1000 {
			r.note(fmt.Sprint("number ", i))
		}
		if n := len(r.out.inbox); n != inboxSize {
			t.Errorf("%d messages are queued, want %d", n, inboxSize)
		}
		if n := testutil.ToFloat64(r.out.metrics.dropped); n != 1000-inboxSize {
			t.Errorf("%v were dropped, want %d", n, 1000-inboxSize)
		}
		r.run()
		pass(2 * time.Minute)
		text := r.discord.Messages()[0].Payload.Embeds[0].Description
		for _, want := range []string{"`744` messages had no room", "number 999", "and `232` more"} {
			if !strings.Contains(text, want) {
				t.Errorf("the digest lacks %q: %s", want, text)
			}
		}
		r.end()
	})
}

// What a desk holds is bounded, however much comes while nothing goes out.
func TestDeskBound(t *testing.T) {
	bubble(t, "", Channel{}, func(r *rig) {
		r.discord.Set(testnet.DiscordUnreachable)
		for i := range 1000 {
			r.out.Send(r.down(i))
			r.note(fmt.Sprint(i))
			r.out.Send(Message{Kind: LimitHit, Args: map[string]string{"limit": fmt.Sprint(i), "address": "203.0.113.1"}})
			r.out.Count(Counts{Refused: 1, Families: []Count{{fmt.Sprint(i), 1}}, Networks: []Count{{fmt.Sprint(i), 1}}})
			pass(10 * time.Second)
		}
		c := r.out.list()[0]
		c.mu.Lock()
		defer c.mu.Unlock()
		d := &c.desk
		if len(d.Urgent) > maxUrgent || len(d.Digest.Rows) > maxRows || len(d.Told) > maxTold ||
			len(d.Digest.Tally.Families) > maxFamilies+1 || len(d.Digest.Tally.Networks) > maxNetworks || len(d.Day.Tally.Hours) > 24 {
			t.Errorf("urgent %d, rows %d, told %d, families %d, networks %d, hours %d", len(d.Urgent), len(d.Digest.Rows), len(d.Told),
				len(d.Digest.Tally.Families), len(d.Digest.Tally.Networks), len(d.Day.Tally.Hours))
		}
		if d.Digest.Tally.Refused != 1000 {
			t.Errorf("%d refused, want 1000", d.Digest.Tally.Refused)
		}
	})
}

// A stop delivers what is urgent once, and does not wait for a Discord that
// hangs.
func TestFlush(t *testing.T) {
	for _, hangs := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, "", Channel{}, testnet.NewDiscord(t))
			r.run()
			pass(time.Minute)
			if hangs {
				r.discord.Set(testnet.DiscordHangs)
			}
			r.out.Send(r.down(1))
			r.end()
			ctx, cancel := contextFor(t, 3*time.Second)
			defer cancel()
			began := time.Now()
			r.out.Flush(ctx)
			if d := time.Since(began); d > 3*time.Second {
				t.Errorf("the flush took %v", d)
			}
			if n := len(r.discord.Messages()); n != map[bool]int{false: 1, true: 0}[hangs] {
				t.Errorf("%d messages", n)
			}
		})
	}
}

// Topics are routed.
func TestTopics(t *testing.T) {
	bubble(t, "", Channel{Summary: -1, Topics: []Topic{Cert}}, func(r *rig) {
		r.out.Send(r.down(1))
		r.note("x")
		r.out.Count(Counts{Refused: 5})
		r.out.Send(Message{Kind: CertWell, Args: map[string]string{"name": "a", "lasted": "1h"}})
		pass(3 * time.Hour)
		if all := r.discord.Messages(); len(all) != 1 || all[0].Payload.Embeds[0].Title != "Certificate well again" {
			t.Errorf("got %+v", all)
		}
	})
}

// A language other than English.
func TestSpeaksKorean(t *testing.T) {
	bubble(t, "", Channel{Summary: -1, Language: Korean}, func(r *rig) {
		r.out.Send(r.down(1))
		r.out.Count(Counts{Refused: 1234, Bans: 5})
		pass(3 * time.Hour)
		all := r.discord.Messages()
		if len(all) != 2 || all[0].Payload.Embeds[0].Title != "백엔드가 응답하지 않습니다" || !strings.Contains(all[1].Raw, "거부된 요청과 연결 `1,234`건") {
			t.Errorf("got %+v", all)
		}
	})
}

// Whatever is thrown at an outbox with channels coming and going, Discord
// never has to refuse.
func TestReload(t *testing.T) {
	bubble(t, "", Channel{Summary: -1}, func(r *rig) {
		for i := range 200 {
			r.out.Send(r.down(i))
			r.note(fmt.Sprint(i))
			pass(time.Minute)
			next := Channel{Name: "phone", Key: r.sender.Key(), Sender: r.sender, Summary: -1, Digest: time.Duration(15+i%3) * time.Minute}
			if i%7 == 0 {
				r.out.SetChannels(nil)
			}
			r.out.SetChannels([]Channel{next})
		}
		pass(time.Hour)
		r.never429()
		if n := len(r.out.Status()); n != 1 {
			t.Errorf("%d channels", n)
		}
		r.out.SetChannels(nil)
		if n, err := testutil.GatherAndCount(r.reg, "postern_notify_channel_up"); err != nil || n != 0 {
			t.Errorf("%d series of channels that are gone, %v", n, err)
		}
	})
}

// A reload that changes a channel keeps what waits, and edits the digest on.
func TestReloadKeeps(t *testing.T) {
	bubble(t, "", Channel{Summary: -1}, func(r *rig) {
		r.note("before")
		pass(2 * time.Minute)
		r.out.Send(r.down(1))
		pass(time.Second)
		next, err := NewDiscord(DiscordConfig{URL: secretURL, Transport: r.discord})
		if err != nil {
			t.Fatal(err)
		}
		r.out.SetChannels([]Channel{{Name: "phone", Key: r.sender.Key(), Sender: next, Summary: -1, Language: Korean}})
		r.note("after")
		pass(5 * time.Minute)
		r.never429()
		down, digests := r.posts("백엔드"), r.posts("그동안의 일")
		if len(down) != 1 || len(digests) != 1 || len(r.discord.Messages()) != 2 {
			t.Fatalf("got %+v", r.discord.Messages())
		}
		if text := digests[0].Payload.Embeds[0].Description; !strings.Contains(text, "before") || !strings.Contains(text, "after") {
			t.Errorf("the digest says %s", text)
		}
	})
}

// Many tell at once, while nothing gets through and channels change.
func TestManyTell(t *testing.T) {
	r := newRig(t, filepath.Join(t.TempDir(), "messages.json"), Channel{Summary: -1}, testnet.NewDiscord(t))
	r.discord.Set(testnet.DiscordHangs)
	r.run()
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 200 {
				r.out.Send(r.down(i))
				r.note(fmt.Sprint(g, i))
				r.out.Count(Counts{Refused: 1, Families: []Count{{"dotenv", 1}}, Networks: []Count{{fmt.Sprint(i), 1}}})
				if i%100 == 0 {
					r.out.SetChannels([]Channel{{Name: "phone", Key: r.sender.Key(), Sender: r.sender, Summary: -1, Digest: time.Duration(15+g) * time.Minute}})
					_ = r.out.Status()
					r.out.save()
				}
			}
		})
	}
	all.Wait()
	r.end()
}

func BenchmarkSend(b *testing.B) {
	o := New(Config{})
	o.SetChannels([]Channel{{Name: "x", Key: "x", Sender: mute{}}})
	m := Message{Kind: ClientLimited, Args: map[string]string{"limit": "address rate"}}
	b.ReportAllocs()
	for b.Loop() {
		o.Send(m)
	}
}

func TestMetrics(t *testing.T) {
	r := newRig(t, "", Channel{}, testnet.NewDiscord(t))
	problems, err := testutil.GatherAndLint(r.reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v", err, problems)
	}
}
