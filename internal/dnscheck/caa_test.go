package dnscheck

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// caaSet reads properties as in a zone file: "0 issue letsencrypt.org".
func caaSet(lines ...string) []property {
	var out []property
	for _, l := range lines {
		flags, rest, _ := strings.Cut(l, " ")
		tag, value, _ := strings.Cut(rest, " ")
		f := uint8(0)
		switch flags {
		case "128":
			f = 128
		case "1":
			f = 1
		}
		out = append(out, newProperty(f, tag, value))
	}
	return out
}

func TestForbidden(t *testing.T) {
	t.Parallel()
	const account = "https://acme.example/acct/1"
	for _, tc := range []struct {
		name string
		set  []property
		q    Question
		want string
	}{
		{"named", caaSet("0 issue letsencrypt.org"), Question{}, ""},
		{"case and space", caaSet("0 ISSUE \t LetsEncrypt.ORG ; "), Question{}, ""},
		{"one of several", caaSet("0 issue ca.example", "0 issue letsencrypt.org"), Question{}, ""},
		{"another", caaSet("0 issue ca.example"), Question{}, "forbids letsencrypt.org: it allows ca.example"},
		{"nobody", caaSet("0 issue ;"), Question{}, "forbids letsencrypt.org: it allows nobody"},
		{"empty value", caaSet("0 issue "), Question{}, "forbids letsencrypt.org: it allows nobody"},
		{"a longer name", caaSet("0 issue letsencrypt.org.evil.example"), Question{}, "forbids letsencrypt.org: it allows letsencrypt.org.evil.example"},
		{"not a name", caaSet("0 issue lets%encrypt.org"), Question{}, "forbids letsencrypt.org: it allows nobody"},
		{"iodef only", caaSet("0 iodef mailto:a@example.org"), Question{}, ""},
		{"unknown tag", caaSet("0 tbs x"), Question{}, ""},
		{"unknown critical tag", caaSet("0 issue letsencrypt.org", "128 tbs x"), Question{}, `holds the critical property "tbs", which no authority may pass over`},
		{"critical written as 1", caaSet("0 issue letsencrypt.org", "1 tbs x"), Question{}, `holds the critical property "tbs", which no authority may pass over`},
		{"known critical tag", caaSet("128 issue letsencrypt.org"), Question{}, ""},
		{"issuewild does not bind names", caaSet("0 issuewild ca.example"), Question{}, ""},
		{"issuewild binds wildcards", caaSet("0 issue letsencrypt.org", "0 issuewild ca.example"), Question{Wildcard: true}, "forbids letsencrypt.org: it allows ca.example"},
		{"issuewild allows wildcards", caaSet("0 issue ca.example", "0 issuewild letsencrypt.org"), Question{Wildcard: true}, ""},
		{"issue binds wildcards without issuewild", caaSet("0 issue ca.example"), Question{Wildcard: true}, "forbids letsencrypt.org: it allows ca.example"},
		{"our account", caaSet("0 issue letsencrypt.org; accounturi=" + account), Question{AccountURI: account}, ""},
		{"another account", caaSet("0 issue letsencrypt.org; accounturi=" + account), Question{AccountURI: account + "2"}, `allows letsencrypt.org only for another account, "` + account + `"`},
		{"account not known yet", caaSet("0 issue letsencrypt.org; accounturi=" + account), Question{}, ""},
		{"two accounts in one", caaSet("0 issue letsencrypt.org; accounturi=a; accounturi=" + account), Question{AccountURI: account}, "forbids letsencrypt.org: it allows nobody"},
		{"two accounts in two", caaSet("0 issue letsencrypt.org; accounturi=a", "0 issue letsencrypt.org; accounturi="+account), Question{AccountURI: account}, ""},
		{"method", caaSet("0 issue letsencrypt.org; validationmethods=dns-01,http-01"), Question{Challenge: "http-01"}, ""},
		{"another method", caaSet("0 issue letsencrypt.org; validationmethods=dns-01,http-01"), Question{Challenge: "tls-alpn-01"}, `allows letsencrypt.org only by "dns-01,http-01"`},
		{"method not decided yet", caaSet("0 issue letsencrypt.org; validationmethods=dns-01"), Question{}, ""},
		{"unknown parameter", caaSet("0 issue letsencrypt.org; policy=ev"), Question{}, ""},
		{"parameter without value", caaSet("0 issue letsencrypt.org; policy"), Question{}, "forbids letsencrypt.org: it allows nobody"},
		{"value too long to keep", caaSet("0 issue letsencrypt.org; x=" + strings.Repeat("y", maxValue)), Question{}, "forbids letsencrypt.org: it allows nobody"},
		{"quoted", caaSet("0 issue ca.example", "128 t\"bs x"), Question{}, `holds the critical property "t\"bs", which no authority may pass over`},
	} {
		if got := forbidden(tc.set, tc.q, "letsencrypt.org"); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

func FuzzCAA(f *testing.F) {
	for _, v := range []string{"letsencrypt.org", ";", "", "letsencrypt.org; accounturi=https://a/1; validationmethods=dns-01", "a;b=c;;", "\x00", "Ä.org"} {
		f.Add(uint8(0), "issue", v)
	}
	f.Add(uint8(128), "tbs", "x")
	f.Fuzz(func(t *testing.T, flags uint8, tag, value string) {
		p := newProperty(flags, tag, value)
		if len(p.value) > maxValue {
			t.Fatalf("%d bytes kept", len(p.value))
		}
		i := parseIssuer(p.value)
		if i.unusable && i.domain != "" {
			t.Errorf("%q: unusable, but %q may issue", value, i.domain)
		}
		why := forbidden([]property{p}, Question{Challenge: "http-01", AccountURI: "https://a/1"}, "letsencrypt.org")
		for _, text := range []string{why, p.String()} {
			if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Errorf("not fit for a log: %q", text)
			}
		}
		if why == "" && strings.EqualFold(tag, "issue") && !strings.Contains(strings.ToLower(value), "letsencrypt.org") {
			t.Errorf("%d %q %q allows letsencrypt.org", flags, tag, value)
		}
	})
}
