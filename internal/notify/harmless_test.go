package notify

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"postern/internal/testnet"
)

// nasty are the pieces that hostile strings are made of.
func nasty() []string {
	return []string{
		"@everyone", "@here", "<@123456789012345678>", "<@&123456789012345678>", "<#123456789012345678>", "<!channel>", "<!here|x>",
		"http://evil.example/x", "https://evil.example", "HTTPS://EVIL.EXAMPLE", "hTTp://a", "ｈｔｔｐ://evil.example", "discord.gg/abc", "evil.example", "javascript:alert(1)", "ftp://x.example", "//evil.example/", "mailto:a@b.example", "steam://run",
		"[click](https://evil.example)", "[a](<https://evil.example>)", "![x](https://evil.example/i.png)", "<https://evil.example|click>", "<a href=\"https://evil.example\">x</a>", "<script>alert(1)</script>",
		"`", "``", "```\nx\n```", "`x` @everyone `", "\\`", "\\", "||spoiler||", "**bold**", "__u__", "~~s~~", "*i*", "_i_", "# head", "> quote", "- list", "-# small",
		"\x00", "\x07", "\x1b[31m", "\x1b]0;t\x07", "\x7f", "\u0085", "\u009b", "\r\n", "\n", "\t", "\v", "\u2028", "\u2029",
		"\u202a", "\u202e", "\u202dabc\u202c", "\u2066x\u2069", "\u200e", "\u200f", "\u061c", "\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u180e", "\u034f", "\u115f", "\u1160", "\u3164", "\uffa0", "\u2800", "\U000e0001", "\U000e0041", "\ufe0f",
		"\xff\xfe", "\xc0\xaf", "\xed\xa0\x80", "\ufffd", "\ufffe", "\U0010ffff", "\ue000",
		"Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!͖̬̰̙̗̿̋ͥͥ̂ͣ̐́́͜͞", "a\u0301\u0301\u0301\u0301\u0301\u0301",
		"<t:1700000000:R>", "<:emoji:123456789012345678>", "</cmd:123>", ":smile:", "{name}", "{sentence}", "%s%n", "${jndi:ldap://evil.example/a}", "../../etc/passwd", "' OR 1=1 --", "\"", "\\u0000", "&lt;", "&#64;everyone",
		"한국어", "🧨", "👨‍👩‍👧‍👦", "العربية", "x", " ", "", strings.Repeat("A", 5000), strings.Repeat("🧨", 3000), strings.Repeat("`", 500), strings.Repeat("a ", 4000),
	}
}

// injections are 2,000 hostile strings: each piece alone, then mixtures.
func injections() []string {
	rnd := rand.New(rand.NewPCG(7, 8))
	pieces := nasty()
	out := append([]string(nil), pieces...)
	for len(out) < 2000 {
		var b strings.Builder
		for range 1 + rnd.IntN(6) {
			b.WriteString(pieces[rnd.IntN(len(pieces)-4)]) // the longest ones alone
			if rnd.IntN(3) == 0 {
				b.WriteRune(rune(rnd.IntN(0x3000)))
			}
		}
		out = append(out, b.String())
	}
	return out
}

// spans are the code spans of Discord's markdown, none of which may be empty
// or hold another sign of the same.
var spans = regexp.MustCompile("`[^`\n]+`")

// linkish finds what services make links or calls of.
var linkish = regexp.MustCompile(`(?i)https?|://|[@<>\x60\\|]|ｈｔｔｐ`)

// harmless fails for a value that is shown though it could do something.
func harmless(t *testing.T, shown, from string) {
	t.Helper()
	switch {
	case !utf8.ValidString(shown):
		t.Errorf("%.80q is shown as %.80q, which is no UTF-8", from, shown)
	case utf8.RuneCountInString(shown) > 5*maxSentence:
		t.Errorf("%.80q is shown with %d runes", from, utf8.RuneCountInString(shown))
	case linkish.MatchString(shown):
		t.Errorf("%.80q is shown as %.80q, which holds a link, a mention or markup", from, shown)
	case shown == "" || strings.TrimSpace(shown) == "":
		t.Errorf("%.80q is shown as nothing", from)
	}
	for _, r := range shown {
		if r != ' ' && (!unicode.IsPrint(r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Co, r)) {
			t.Errorf("%.80q is shown as %.80q with %U", from, shown, r)
		}
	}
}

// 2,000 strings of strangers, in every argument of every kind and in both
// languages, come out harmless for Discord and as plain text.
func TestInjections(t *testing.T) {
	list := injections()
	all := kinds()
	order := kindOrder()
	for i, evil := range list {
		m := Message{Kind: order[i%len(order)], Args: map[string]string{}}
		k := all[m.Kind]
		for name := range k.args {
			m.Args[name] = evil
		}
		for _, lang := range Languages() {
			template := texts()[string(m.Kind)][lang].body
			p := fill(template, k.args, m.Args)
			rest := spans.ReplaceAllStringFunc(p.discord(), func(s string) string {
				harmless(t, strings.Trim(s, "`"), evil)
				return "?"
			})
			want := regexp.MustCompile(`\{[a-z]+\}`).ReplaceAllString(template, "?")
			if rest != want {
				t.Errorf("%.80q: beside the code spans there is\n%.200q, want\n%.200q", evil, rest, want)
			}
			plain := p.plain()
			if strings.ContainsAny(plain, "`<>@\\|*_~[]{}#\n\r") || regexp.MustCompile(`(?i)https?:|://`).MatchString(plain) {
				t.Errorf("%.80q: as plain text %.200q", evil, plain)
			}
		}
	}
}

// The same strings through the whole outbox: Discord accepts each message,
// and nothing of them stands outside a code span.
func TestInjectionsDelivered(t *testing.T) {
	bubble(t, "", Channel{Summary: -1}, func(r *rig) {
		for i, evil := range injections() {
			r.out.Send(Message{Kind: ScannerServed, Args: map[string]string{"address": evil, "host": evil, "path": fmt.Sprint("/", i, evil)}})
			r.out.Send(Message{Kind: CertTrouble, Args: map[string]string{"name": evil, "sentence": evil}})
			r.note(evil)
			if i%12 == 0 {
				r.out.Count(Counts{Refused: 1, Families: []Count{{evil, 1}}, Networks: []Count{{evil, 1}}})
				pass(5 * time.Minute)
			}
		}
		pass(2 * time.Hour)
		r.never429()
		if n := len(r.discord.Messages()); n < 50 {
			t.Errorf("%d messages, want more", n)
		}
		for _, m := range r.discord.Messages() {
			checkHarmless(t, m)
		}
		if n := r.count("refused"); n != 0 {
			t.Errorf("Discord refused %v messages", n)
		}
	})
}

func checkHarmless(t *testing.T, m testnet.DiscordMessage) {
	t.Helper()
	e := m.Payload.Embeds[0]
	fields := []string{e.Title, e.Description}
	for _, f := range e.Fields {
		fields = append(fields, f.Name, f.Value)
	}
	for _, text := range fields {
		rest := spans.ReplaceAllString(text, "?")
		if linkish.MatchString(rest) || strings.ContainsAny(rest, "*_~[]{}#") {
			t.Errorf("outside of code spans: %q", rest)
		}
	}
	if strings.Contains(m.Raw, `\u0000`) || !json.Valid([]byte(m.Raw)) {
		t.Errorf("raw %s", m.Raw)
	}
}

func TestClean(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"plain", "plain"},
		{"a\x00b\x1b[31mc", "a b [31mc"},
		{"  two  spaces\t\n", "two spaces"},
		{"abc\u202edef\u200b", "abcdef"},
		{"e\u0301\u0301\u0301\u0301x", "e\u0301\u0301x"},
		{"\xff", "?"},
		{"한국어 🧨", "한국어 🧨"},
		{strings.Repeat("x", 200), strings.Repeat("x", maxValue) + "…"},
		{"\u3164", ""},
	} {
		if got := clean(tc.in, maxValue); got != tc.want {
			t.Errorf("%q: got %q, want %q", tc.in, got, tc.want)
		}
	}
}

func TestDisarm(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"/wp-login.php", "/wp-login.php"},
		{"http://evil.example/x", "hxxp[:]//evil.example/x"},
		{"HTTPS://X", "HxxPS[:]//X"},
		{"@everyone", "(at)everyone"},
		{"<@1>", "‹(at)1›"},
		{"`x`", "’x’"},
		{"10:30 a:b", "10:30 a:b"},
	} {
		if got := disarm(tc.in); got != tc.want {
			t.Errorf("%q: got %q, want %q", tc.in, got, tc.want)
		}
	}
}

func TestPlainNames(t *testing.T) {
	p := phrase{{"see ", words}, {"evil.example/a_b", stranger}, {" at ", words}, {"my_app.example.org", own}}
	if got, want := p.plain(), `see "evil(.)example/a‗b" at my‗app.example.org`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzHarmless(f *testing.F) {
	for _, s := range nasty() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, c := range []class{stranger, own, sentence, figure} {
			shown := part{s, c}.tame()
			harmless(t, shown, s)
			if again := disarm(clean(shown, 8*maxSentence)); again != shown {
				t.Errorf("%q is shown as %q, and that as %q", s, shown, again)
			}
		}
	})
}
