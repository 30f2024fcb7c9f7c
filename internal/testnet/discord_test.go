package testnet

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What real Discord refuses, the fake refuses.
func TestDiscordRefuses(t *testing.T) {
	const fine = `"allowed_mentions":{"parse":[]}`
	embed := func(inner string) string { return `{"embeds":[{` + inner + `}],` + fine + `}` }
	long := func(n int) string { return strings.Repeat("x", n) }
	for name, tc := range map[string]struct {
		body string
		ok   bool
	}{
		"a message":               {embed(`"title":"x"`), true},
		"nothing to say":          {`{` + fine + `}`, false},
		"mentions allowed":        {`{"content":"x"}`, false},
		"everybody may be called": {`{"content":"x","allowed_mentions":{"parse":["everyone"]}}`, false},
		"long content":            {`{"content":"` + long(2001) + `",` + fine + `}`, false},
		"long title":              {embed(`"title":"` + long(257) + `"`), false},
		"long description":        {embed(`"description":"` + long(4097) + `"`), false},
		"as long as it may be":    {embed(`"description":"` + long(4096) + `"`), true},
		"two units each":          {embed(`"description":"` + strings.Repeat("🧨", 2049) + `"`), false},
		"empty field":             {embed(`"fields":[{"name":"x","value":" "}]`), false},
		"long field":              {embed(`"fields":[{"name":"x","value":"` + long(1025) + `"}]`), false},
		"many fields":             {embed(`"fields":[` + strings.Repeat(`{"name":"x","value":"x"},`, 25) + `{"name":"x","value":"x"}]`), false},
		"too much together":       {embed(`"description":"` + long(4000) + `","footer":{"text":"` + long(2001) + `"}`), false},
		"many embeds":             {`{"embeds":[` + strings.Repeat(`{"title":"x"},`, 10) + `{"title":"x"}],` + fine + `}`, false},
		"no such picture":         {embed(`"title":"x","image":{"url":"attachment://a.png"}`), false},
		"no time":                 {embed(`"title":"x","timestamp":"today"`), false},
		"no JSON":                 {`{`, false},
	} {
		d := NewDiscord(t)
		d.Spare()
		res := post(t, d, tc.body)
		if ok := res.StatusCode == http.StatusOK; ok != tc.ok || ok == (len(d.Rejected()) > 0) {
			t.Errorf("%s: status %d, %q", name, res.StatusCode, d.Rejected())
		}
	}
}

// 5 requests in 2 s, 30 messages in a minute, and the answer tells how long to
// wait, to the millisecond.
func TestDiscordLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := NewDiscord(t)
		const body = `{"content":"x","allowed_mentions":{"parse":[]}}`
		for i := range 5 {
			res := post(t, d, body)
			if got, want := res.Header.Get("X-RateLimit-Remaining"), fmt.Sprint(4-i); got != want {
				t.Errorf("request %d: %s left, want %s", i, got, want)
			}
		}
		<-time.After(500 * time.Millisecond)
		res := post(t, d, body)
		if res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") != "2" {
			t.Errorf("the sixth in half a second: %d, Retry-After %q", res.StatusCode, res.Header.Get("Retry-After"))
		}
		<-time.After(2 * time.Second)
		for range 25 {
			<-time.After(time.Second)
			post(t, d, body)
		}
		if _, limited := d.Requests(); limited != 1 {
			t.Errorf("%d were limited, want 1", limited)
		}
		<-time.After(time.Second)
		if res := post(t, d, body); res.StatusCode != http.StatusTooManyRequests {
			t.Errorf("the 31st message in a minute: %d", res.StatusCode)
		}
	})
}

func post(t *testing.T, d *Discord, body string) *http.Response {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, "https://discord.com/api/v10"+strings.TrimPrefix(DiscordPath, "/api")+"?wait=true", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "a test")
	res, err := d.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	return res
}
