package notify

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image/png"
	"math/rand/v2"
	"testing"
	"time"
)

func at(clock string) time.Time {
	t, err := time.Parse("2006-01-02 15:04", "2026-03-02 "+clock)
	if err != nil {
		panic(err)
	}
	return t
}

func TestQuiet(t *testing.T) {
	night := Quiet{From: 22 * 60, To: 7 * 60}
	noon := Quiet{From: 12 * 60, To: 13 * 60}
	for _, tc := range []struct {
		q    Quiet
		now  string
		want string
	}{
		{night, "21:59", "21:59"},
		{night, "22:00", "07:00+1"},
		{night, "03:00", "07:00"},
		{night, "06:59", "07:00"},
		{night, "07:00", "07:00"},
		{noon, "12:30", "13:00"},
		{noon, "13:00", "13:00"},
		{noon, "11:00", "11:00"},
		{Quiet{}, "00:00", "00:00"},
	} {
		want := at(tc.want[:5])
		if len(tc.want) > 5 {
			want = want.AddDate(0, 0, 1)
		}
		if got := tc.q.end(at(tc.now)); !got.Equal(want) {
			t.Errorf("%v at %s: until %v, want %v", tc.q, tc.now, got, want)
		}
	}
}

// The clocks go forward in the night: 02:30 is left out, and what was to be
// then is right after the gap.
func TestClockInTheGap(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("no time zones here: ", err)
	}
	now := time.Date(2026, 3, 29, 1, 0, 0, 0, zone)
	got := Clock(2*60 + 30).next(now)
	if d := got.Sub(now); d != 90*time.Minute && d != 30*time.Minute {
		t.Errorf("next is %v after %v", d, now)
	}
	if got := (Quiet{From: 22 * 60, To: 7 * 60}).end(now); got.Sub(now) != 5*time.Hour {
		t.Errorf("quiet for %v, want 5h", got.Sub(now))
	}
}

// At night urgent messages go out and nothing else does; in the morning one
// digest tells the rest.
func TestQuietHours(t *testing.T) {
	bubble(t, "", Channel{Quiet: Quiet{From: 22 * 60, To: 7 * 60}, Summary: 3 * 60}, func(r *rig) {
		for i := range 6 * 60 { // from midnight
			r.note(fmt.Sprint("line ", i%5))
			r.out.Count(Counts{Refused: 1})
			if i == 180 {
				r.out.Send(r.down(1))
			}
			pass(time.Minute)
		}
		if all := r.discord.Messages(); len(all) != 1 || len(r.posts("Backend down")) != 1 {
			t.Errorf("%d messages at night, want the urgent one", len(all))
		}
		pass(2 * time.Hour)
		if n, days := len(r.posts("What happened")), len(r.posts("The last day")); n != 1 || days != 1 {
			t.Errorf("%d digests and %d summaries in the morning, want one of each", n, days)
		}
		for _, m := range r.posts("") {
			if h := m.Posted.UTC().Hour(); h < 7 && m.Payload.Embeds[0].Title != "Backend down" {
				t.Errorf("%q at %v", m.Payload.Embeds[0].Title, m.Posted)
			}
		}
	})
}

// The summary comes once a day, and not when nothing happened.
func TestSummary(t *testing.T) {
	bubble(t, "", Channel{Summary: 9 * 60}, func(r *rig) {
		r.out.Count(Counts{Refused: 1})
		pass(24 * time.Hour)
		if n := len(r.posts("The last day")); n != 1 {
			t.Errorf("%d summaries on the first day, want 1", n)
		}
		pass(48 * time.Hour)
		if n := len(r.posts("The last day")); n != 1 {
			t.Errorf("%d summaries after two days without events, want 1", n)
		}
		r.out.Count(Counts{Refused: 1})
		pass(24 * time.Hour)
		days := r.posts("The last day")
		if len(days) != 2 || days[1].Posted.UTC().Hour() != 9 {
			t.Errorf("%d summaries, want 2, at nine", len(days))
		}
	})
}

// Whatever happens to a desk, in any order: the rule never sends more than it
// may, never asks to look in the past, and what it holds survives its file.
func TestDeskRules(t *testing.T) {
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		d := new(desk)
		r := &rules{window: time.Duration(15+rnd.IntN(120)) * time.Minute, summary: Clock(rnd.IntN(1500) - 60), edits: rnd.IntN(2) == 0}
		if rnd.IntN(2) == 0 {
			r.quiet = Quiet{From: Clock(rnd.IntN(1440)), To: Clock(rnd.IntN(1440))}
		}
		if r.summary >= 1440 {
			r.summary = -1
		}
		now := at("00:00")
		all := kinds()
		order := kindOrder()
		var posts []time.Time
		for i := range 400 {
			switch rnd.IntN(3) {
			case 0:
				m := Message{Kind: order[rnd.IntN(len(order))], At: now, Args: map[string]string{"limit": fmt.Sprint(rnd.IntN(5)), "x": fmt.Sprint(rnd.IntN(9))}}
				d.put(m, all[m.Kind], now)
			case 1:
				var c tally
				c.note(now, &Counts{Refused: rnd.IntN(3), Bans: rnd.IntN(2)})
				d.count(&c, rnd.IntN(20)/19, now)
			}
			for range 10 {
				do, when := d.plan(now, r)
				if do == wait {
					if !when.IsZero() && !when.After(now) {
						t.Fatalf("seed %d: look again at %v, which is not after %v", seed, when, now)
					}
					break
				}
				posts = act(d, do, r, rnd, all, posts, now)
			}
			checkPosts(t, seed, posts, now)
			if i%40 == 0 {
				d = copied(t, d)
			}
			now = now.Add(time.Duration(rnd.IntN(600)) * time.Second)
		}
	}
}

// act does what the rule said, as a channel would, and returns the posts that
// count.
func act(d *desk, do todo, r *rules, rnd *rand.Rand, all map[Kind]kind, posts []time.Time, now time.Time) []time.Time {
	switch do {
	case sendUrgent:
		n := min(perMessage, len(d.Urgent))
		provoked := true
		for _, m := range d.Urgent[:n] {
			provoked = provoked && all[m.Kind].provoked
		}
		d.sentUrgent(n, []Topic{all[d.Urgent[0].Kind].topic}, provoked, now)
		if provoked {
			posts = append(posts, now)
		}
	case postDigest:
		d.posted(fmt.Sprint(rnd.IntN(2), "1"), d.Digest.Rev, r, now)
		posts = append(posts, now)
	case editDigest:
		if rnd.IntN(4) == 0 {
			d.Digest.lost()
		} else {
			d.edited(d.Digest.Rev, now)
		}
	case closeDigest:
		d.Digest = nil
	case sendSummary:
		d.Day, d.NextSummary = daysEvents{}, r.summary.next(now)
		d.Posts = append(d.Posts, now)
		posts = append(posts, now)
	case skipSummary:
		d.NextSummary = r.summary.next(now)
	}
	return posts
}

func checkPosts(t *testing.T, seed uint64, posts []time.Time, now time.Time) {
	t.Helper()
	n := 0
	for _, p := range posts {
		if now.Sub(p) < time.Hour {
			n++
		}
	}
	if n > perHour {
		t.Fatalf("seed %d: %d messages in the hour before %v", seed, n, now)
	}
}

// copied is d after its file was written and read.
func copied(t *testing.T, d *desk) *desk {
	t.Helper()
	b, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	out := new(desk)
	if err := json.Unmarshal(b, out); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(out)
	if err != nil || !bytes.Equal(b, again) {
		t.Fatalf("a desk changes when it is written and read:\n%s\n%s", b, again)
	}
	return out
}

// The busiest networks are kept, however many others come.
func TestTallyKeepsTheBusiest(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	var c tally
	for i := range 10000 {
		name := fmt.Sprintf("10.%d.%d.0/24", rnd.IntN(256), rnd.IntN(256))
		if i%10 == 0 {
			name = "203.0.113.0/24"
		}
		c.note(at("00:00").Add(time.Duration(i)*time.Second), &Counts{Refused: 1, Networks: []Count{{name, 1}}})
	}
	if got := top(c.Networks, 1)[0]; got.Name != "203.0.113.0/24" || got.N < 1000 {
		t.Errorf("the busiest is %+v", got)
	}
	if len(c.Networks) > maxNetworks {
		t.Errorf("%d networks are kept", len(c.Networks))
	}
	sum := 0
	for _, n := range c.Hours {
		sum += n
	}
	if sum != 10000 {
		t.Errorf("the hours hold %d, want 10000", sum)
	}
	var twice tally
	twice.add(&c)
	twice.add(&c)
	if twice.Refused != 20000 || twice.Networks["203.0.113.0/24"] < 2000 {
		t.Errorf("added up: %d refused, %d of the busiest", twice.Refused, twice.Networks["203.0.113.0/24"])
	}
}

func TestHours(t *testing.T) {
	var c tally
	for h := range 60 {
		c.hour(at("00:30").Add(time.Duration(h)*time.Hour), 1)
	}
	if len(c.Hours) != 24 {
		t.Errorf("%d hours are kept", len(c.Hours))
	}
	day := c.lastDay(at("00:30").Add(59 * time.Hour))
	for i, n := range day {
		if n != 1 {
			t.Errorf("hour %d: %d", i, n)
		}
	}
	c.hour(at("00:30").AddDate(0, 1, 0), 7)
	if len(c.Hours) != 1 || c.Hours[0] != 7 {
		t.Errorf("after a month: %v", c.Hours)
	}
}

// The chart is a small PNG, the highest bar in its own colour.
func TestChart(t *testing.T) {
	var none, some [24]int
	for i := range some {
		some[i] = i * 1000
	}
	for _, hours := range [][24]int{none, some} {
		b := chart(hours)
		img, err := png.Decode(bytes.NewReader(b))
		if err != nil || len(b) > 8<<10 {
			t.Fatalf("%v, %d bytes", err, len(b))
		}
		if size := img.Bounds().Size(); size.X < 400 || size.Y < 100 {
			t.Errorf("%v", size)
		}
		red := 0
		for x := range img.Bounds().Dx() {
			if r, g, _, _ := img.At(x, chartHeight-chartMargin-1).RGBA(); r>>8 == 0xed && g>>8 == 0x42 {
				red++
			}
		}
		if want := map[bool]int{false: 0, true: barWidth}[hours == some]; red != want {
			t.Errorf("%d columns of the highest bar, want %d", red, want)
		}
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"urgent":[{"kind":"cert_trouble","at":"2026-01-01T00:00:00Z"}],"digest":{"began":"2026-01-01T00:00:00Z","rows":[{"message":{"kind":"nope"},"times":1}],"tally":{"hours":[1,2]}},"day":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := new(desk)
		if json.Unmarshal(b, d) != nil {
			return
		}
		d.check(kinds())
		c := newChannel(Channel{Name: "x", Sender: mute{}}, New(Config{}))
		c.desk = *d
		now := at("12:00")
		for range 50 {
			j, _ := c.next(now)
			if j == nil {
				break
			}
			c.done(j, "", now)
			c.desk.sending = 0
		}
	})
}
