package notify

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/internal/testnet"
)

// scan is one minute of hostile traffic as the guard sums it up.
func scan(rnd *rand.Rand, n int) Counts {
	c := Counts{Refused: n, Bans: n / 8}
	for range n {
		c.Families = append(c.Families, Count{[]string{"dotenv", "wordpress", "vcs", "no_route", "unknown_server_name"}[rnd.IntN(5)], 1})
		c.Networks = append(c.Networks, Count{fmt.Sprintf("203.0.%d.0/24", rnd.IntN(200)), 1})
	}
	return c
}

// A day as a small server has it: 3,800 hostile requests in waves, two outages
// of the DNS host, a backend that flaps for an hour, an address change, limits
// that are hit again and again, lines for the digest all day long.
func TestDay(t *testing.T) {
	bubble(t, "", Channel{Summary: 23 * 60}, func(r *rig) {
		rnd := rand.New(rand.NewPCG(1, 2))
		sent, bans, urgent := 0, 0, 0
		for minute := range 24 * 60 {
			n := 1 + rnd.IntN(3)
			if minute%180 < 10 {
				n += rnd.IntN(15) // a wave
			}
			c := scan(rnd, n)
			sent, bans = sent+c.Refused, bans+c.Bans
			r.out.Count(c)
			switch {
			case minute == 200 || minute == 900:
				r.out.Send(Message{Kind: DNSHostDown, Args: map[string]string{"host": "duckdns", "sentence": "no answer from 3 of 4 name servers"}})
				urgent++
			case minute == 230 || minute == 990:
				r.out.Send(Message{Kind: DNSHostUp, Args: map[string]string{"host": "duckdns", "lasted": "30m"}})
				urgent++
			case minute == 600:
				r.out.Send(Message{Kind: AddressChanged, Args: map[string]string{"name": "mypi.duckdns.org", "old": "198.51.100.1", "new": "198.51.100.2"}})
				urgent++
			case minute >= 700 && minute < 760:
				kind, args := BackendDown, map[string]string{"backend": "127.0.0.1:3000", "site": "a", "sentence": "connection refused"}
				if minute%2 == 1 {
					kind, args = BackendUp, map[string]string{"backend": "127.0.0.1:3000", "site": "a", "lasted": "1m"}
				}
				r.out.Send(Message{Kind: kind, Args: args})
			}
			if minute%7 == 0 {
				r.out.Send(Message{Kind: LimitHit, Args: map[string]string{"limit": "connections", "address": "203.0.113.9"}})
				r.out.Send(Message{Kind: ClientLimited, Args: map[string]string{"limit": "address rate"}})
				r.note(fmt.Sprint("line ", minute%50))
			}
			pass(time.Minute)
		}
		pass(2 * time.Hour)
		r.never429()

		all := r.discord.Messages()
		t.Logf("%d hostile requests: %d messages, %d of them digests, %d requests to Discord", sent, len(all), len(r.posts("What happened")), requests(r))
		calm := append(append(r.posts("What happened"), r.posts("The last day")...), r.posts("Limit reached")...)
		if n := busiestHour(byTime(calm)); n > perHour {
			t.Errorf("%d messages in an hour, want at most %d", n, perHour)
		}
		if n := len(r.posts("Limit reached")); n != 4 {
			t.Errorf("%d messages about one limit that is hit all day, want one in 6 hours", n)
		}
		if n := len(r.posts("DNS host")) + len(r.posts("Address changed")); n != urgent {
			t.Errorf("%d urgent messages, want %d", n, urgent)
		}
		if n := len(r.posts("Backend")); n != perTopic {
			t.Errorf("%d messages about a backend that flaps, want %d", n, perTopic)
		}
		if got := digestSum(t, r.posts("What happened"), "requests and connections refused"); got != sent {
			t.Errorf("the digests tell of %d refused, want %d", got, sent)
		}
		if got := digestSum(t, r.posts("What happened"), "bans"); got != bans {
			t.Errorf("the digests tell of %d bans, want %d", got, bans)
		}
		checkDay(t, r)
	})
}

func requests(r *rig) int { n, _ := r.discord.Requests(); return n }

// checkDay looks at the summary: the families and networks, the incidents,
// the picture.
func checkDay(t *testing.T, r *rig) {
	t.Helper()
	days := r.posts("The last day")
	if len(days) != 1 {
		t.Fatalf("%d summaries, want 1", len(days))
	}
	for _, want := range []string{"`dotenv`", "203.0.", "Backend down: 30", "DNS host down: 2"} {
		if !strings.Contains(days[0].Raw, want) {
			t.Errorf("the summary lacks %s:\n%s", want, days[0].Raw)
		}
	}
	png := days[0].Files[chartName]
	if len(png) == 0 {
		t.Error("the summary has no picture")
	}
	if dir := os.Getenv("POSTERN_KEEP_CHART"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, "day.png"), png, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func byTime(list []testnet.DiscordMessage) []testnet.DiscordMessage {
	for i := range list {
		for j := i; j > 0 && list[j].Posted.Before(list[j-1].Posted); j-- {
			list[j], list[j-1] = list[j-1], list[j]
		}
	}
	return list
}

// digestSum adds up the numbers that stand before what in each message.
func digestSum(t *testing.T, list []testnet.DiscordMessage, what string) int {
	t.Helper()
	sum := 0
	for _, m := range list {
		for _, line := range strings.Split(m.Payload.Embeds[0].Description, "\n") {
			n := 0
			if figure, ok := strings.CutSuffix(line, " "+what); ok {
				if _, err := fmt.Sscan(strings.ReplaceAll(strings.Trim(figure, "`"), ",", ""), &n); err != nil {
					t.Fatalf("%q: %v", line, err)
				}
			}
			sum += n
		}
	}
	return sum
}

// Under the heaviest traffic, with the shortest window, strangers cause no
// more than 4 messages in an hour.
func TestFlood(t *testing.T) {
	bubble(t, "", Channel{Digest: 15 * time.Minute, Summary: 30}, func(r *rig) {
		rnd := rand.New(rand.NewPCG(3, 4))
		for i := range 6 * 60 {
			for j := range 12 {
				r.out.Send(Message{Kind: ScannerServed, Args: map[string]string{"address": "203.0.113.9", "host": fmt.Sprint("host", rnd.IntN(1000)), "path": fmt.Sprint("/.env?", i, j)}})
				r.out.Send(Message{Kind: LimitHit, Args: map[string]string{"limit": fmt.Sprint("limit", rnd.IntN(9)), "address": "203.0.113.9"}})
				r.out.Send(Message{Kind: BansFull, Args: map[string]string{"address": fmt.Sprintf("203.0.%d.%d", i%200, j)}})
			}
			r.out.Count(scan(rnd, 50))
			pass(time.Minute)
		}
		r.never429()
		if n := busiestHour(r.discord.Messages()); n > perHour {
			t.Errorf("%d messages in an hour, want at most %d", n, perHour)
		}
	})
}

// A day without Discord: nobody is held up, and one message tells it after.
func TestOutageOfADay(t *testing.T) {
	for _, mode := range []testnet.DiscordMode{testnet.DiscordUnreachable, testnet.DiscordHangs, testnet.DiscordBroken} {
		bubble(t, "", Channel{Summary: -1}, func(r *rig) {
			r.note("before")
			pass(2 * time.Minute)
			r.discord.Set(mode)
			rnd := rand.New(rand.NewPCG(5, 6))
			sent := 0
			for i := range 24 * 60 {
				r.out.Send(r.down(i % 5))
				r.note(fmt.Sprint("line ", i%10))
				c := scan(rnd, 3)
				sent += c.Refused
				began := time.Now()
				r.out.Count(c)
				r.out.Send(Message{Kind: Started, Args: map[string]string{"version": "1"}})
				if d := time.Since(began); d != 0 {
					t.Fatalf("telling took %v of virtual time, want none", d)
				}
				pass(time.Minute)
			}
			if s := r.out.Status()[0]; !s.Failing || s.Disabled || s.LastError == "" {
				t.Errorf("mode %d: status %+v", mode, s)
			}
			before := len(r.discord.Messages())
			r.discord.Set(testnet.DiscordWell)
			pass(30 * time.Minute)
			r.never429()
			all := r.discord.Messages()
			var digests []testnet.DiscordMessage
			for _, m := range all[before:] {
				if strings.HasPrefix(m.Payload.Embeds[0].Title, "What happened") {
					digests = append(digests, m)
				}
			}
			if len(digests) != 1 {
				t.Fatalf("mode %d: %d digests after the outage, want 1", mode, len(digests))
			}
			if len(all)-before > 2 { // the urgent ones of the last ten minutes may come in one
				t.Errorf("mode %d: %d messages after the outage", mode, len(all)-before)
			}
			if got := digestSum(t, digests, "requests and connections refused"); got != sent {
				t.Errorf("mode %d: the digest tells of %d refused, want %d", mode, got, sent)
			}
			for _, want := range []string{"`app0`", "line 9", "line 0", "times"} {
				if !strings.Contains(digests[0].Raw, want) {
					t.Errorf("mode %d: the digest lacks %q: %s", mode, want, digests[0].Raw)
				}
			}
			if s := r.out.Status()[0]; s.Failing || s.Delivered.IsZero() {
				t.Errorf("mode %d: status after it %+v", mode, s)
			}
		})
	}
}
