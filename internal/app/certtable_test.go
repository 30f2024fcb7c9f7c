package app

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestWriteCerts(t *testing.T) {
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.Local)
	far := now.Add(60 * 24 * time.Hour)
	caa := "During secondary validation: While processing CAA for mypi.duckdns.org: DNS problem: query timed out looking up CAA for mypi.duckdns.org"
	long := strings.Repeat("a-very-long-label.", 4) + "example.org"
	list := []Cert{
		{Name: "home.example.org", Source: "acme", State: "ok", Issuer: "R11", Key: "ECDSA P-256", NotAfter: far, NextTry: far.Add(-30 * 24 * time.Hour), Verdict: "green"},
		{Name: "mypi.duckdns.org", Source: "acme", State: "missing", NextTry: now.Add(25 * time.Second), Verdict: "red", Waiting: "dns",
			Sentence: "DuckDNS's name servers do not answer CAA (3 of 4 timed out)", Since: now.Add(-3 * time.Hour),
			LastError: caa, LastErrorAt: now.Add(-3 * time.Hour), Meaning: "the DNS host does not answer the certificate authority's question for CAA"},
		{Name: "new.example.org", Source: "acme", State: "missing"},
		{Name: "old.example.org", Source: "acme", State: "expired", Issuer: "R11", Key: "RSA 2048", NotAfter: now.Add(-30 * time.Hour), Verdict: "green",
			Waiting: "forbidden", Sentence: "CAA forbids every certificate authority\x1b[31m that is configured", Since: now.Add(-48 * time.Hour)},
		{Name: "own.example.org", Source: "file", State: "expiring", Issuer: "My own certificate authority with a long name", Key: "Ed25519", NotAfter: now.Add(5 * time.Hour),
			LastError: strings.Repeat("x", 200), Renewal: &Renewal{Asked: now}},
		{Name: long, Source: "local", State: "ok", Issuer: "Postern Local CA", Key: "ECDSA P-256", NotAfter: now.Add(20*time.Hour + time.Minute), NextTry: now.Add(8 * time.Hour)},
	}
	var b bytes.Buffer
	if err := WriteCerts(&b, list, true, now); err != nil {
		t.Fatal(err)
	}
	want := `NAME              ISSUER                                   KEY       UNTIL       NEXT TRY    VERDICT
home.example.org  R11                                      P-256     2026-07-03  2026-06-03  green
mypi.duckdns.org  –                                        –         none yet    in 25s      red
  red since 09:00: DuckDNS's name servers do not answer CAA (3 of 4 timed out)
  last error at 09:00: "During secondary validation: While processing CAA for mypi.duckdns.org: DNS
    problem: query timed out looking up CAA for mypi.duckdns.org"
  which means: the DNS host does not answer the certificate authority's question for CAA
new.example.org   –                                        –         none yet    now         –
old.example.org   R11                                      RSA 2048  2026-05-03  –           green
  waits since 2026-05-02 12:00: CAA forbids every certificate authority [31m that is configured
own.example.org   My own certificate authority with a lo…  Ed25519   in 5h00m    –           –
  last error:
    "` + strings.Repeat("x", 95) + `
    ` + strings.Repeat("x", 96) + `
    xxxxxxxxx"
  a renewal that was asked for at 12:00 is under way
` + long + `
                  Postern Local CA                         P-256     in 20h01m   in 8h00m    –
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for line := range strings.Lines(b.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > certsWide {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	b.Reset()
	if err := WriteCerts(&b, list[2:3], false, now); err != nil || !strings.Contains(b.String(), "  none yet    at a start  –\n") {
		t.Errorf("%v: %s", err, b.String())
	}
	b.Reset()
	if err := WriteCerts(&b, nil, true, now); err != nil || b.String() != "no certificates\n" {
		t.Errorf("%v: %s", err, b.String())
	}
}

func TestRenewedCert(t *testing.T) {
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.Local)
	c := Cert{Name: "a.example", Serial: "5f", NotAfter: now.Add(24 * time.Hour), Renewal: &Renewal{}}
	if text, ok := RenewedCert(c, now); !ok || text != "a.example: renewed: serial 5f, until 2026-05-05 12:00" {
		t.Errorf("%v %s", ok, text)
	}
	c.Renewal = &Renewal{Refused: "a.example: not now"}
	if text, ok := RenewedCert(c, now); ok || text != "a.example: not now" {
		t.Errorf("%v %s", ok, text)
	}
	c.Renewal = &Renewal{Error: "DNS problem", Meaning: "the DNS host fails"}
	want := "a.example: not renewed: \"DNS problem\"\n  which means: the DNS host fails\n  the certificate held stays, until 2026-05-05 12:00"
	if text, ok := RenewedCert(c, now); ok || text != want {
		t.Errorf("%v %s", ok, text)
	}
}

// TestMoment: a time without a day is today's, or less than a day ago.
func TestMoment(t *testing.T) {
	now := time.Date(2026, 11, 22, 21, 4, 0, 0, time.Local)
	for _, tt := range []struct {
		t    time.Time
		want string
	}{
		{now.Add(-time.Hour), "20:04"},
		{now.Add(-22 * time.Hour), "23:04"},
		{now.Add(-25 * time.Hour), "2026-11-21 20:04"},
		{now.Add(10 * time.Minute), "21:14"},
		{now.Add(3 * time.Hour), "2026-11-23 00:04"},
		{now.Add(24 * time.Hour), "2026-11-23 21:04"},
	} {
		if got := moment(tt.t, now); got != tt.want {
			t.Errorf("moment(%s) at %s: %q, want %q", tt.t, now, got, tt.want)
		}
	}
}
