package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"0": 0, "00": 0, "0s": 0, "10s": 10 * time.Second, "1h30m": 90 * time.Minute, "250ms": 250 * time.Millisecond,
		"1d": 24 * time.Hour, "7d": 168 * time.Hour, "1d12h": 36 * time.Hour, "-5s": -5 * time.Second, "1.5h": 90 * time.Minute,
	} {
		if got, err := ParseDuration(in); got != want || err != nil {
			t.Errorf("%q: got %v %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "10", "1.5", "-1", "s", "d", "1dd", "-1d", "1d-1h", "1d+1h", "1.5d", "1 s", "10 seconds", "999999d", "106751d24h", "1e3", "NaN", "inf"} {
		if got, err := ParseDuration(in); err == nil {
			t.Errorf("%q: got %v", in, got)
		}
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]Size{
		"0": 0, "1": 1, "64k": 64 << 10, "64K": 64 << 10, "10m": 10 << 20, "10 MB": 10 << 20, "2g": 2 << 30, "3KiB": 3 << 10, "5b": 5, "8589934591g": 8589934591 << 30,
	} {
		if got, err := ParseSize(in); got != want || err != nil {
			t.Errorf("%q: got %v %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "k", "-1", "+1", "1.5m", "1t", "1kk", "8589934592g", "99999999999999999999", "0x10"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("%q: got %v", in, got)
		}
	}
}

func TestParseRate(t *testing.T) {
	for in, want := range map[string]Rate{
		"20/s": {20, time.Second}, "300/m": {300, time.Minute}, "5000/h": {5000, time.Hour}, "1/d": {1, 24 * time.Hour},
		"1/10s": {1, 10 * time.Second}, "20 / s": {20, time.Second}, "5/500ms": {5, 500 * time.Millisecond}, "3/ms": {3, time.Millisecond},
	} {
		got, err := ParseRate(in)
		if got != want || err != nil {
			t.Errorf("%q: got %v %v, want %v", in, got, err, want)
		}
		if again, err := ParseRate(got.String()); again != got || err != nil {
			t.Errorf("%q is printed as %q, which is read as %v %v", in, got, again, err)
		}
	}
	for _, in := range []string{"", "/", "20", "20/", "/s", "0/s", "-1/s", "1.5/s", "20/sec", "20/0s", "20/us", "20 per second", "99999999999/s", "1/-1s"} {
		if got, err := ParseRate(in); err == nil {
			t.Errorf("%q: got %v", in, got)
		}
	}
	if (Rate{}).String() != "" {
		t.Error("the zero rate prints something")
	}
}

// TestSecret prints a secret in every way there is.
func TestSecret(t *testing.T) {
	const text = "hunter2-hunter2-hunter2"
	cfg := Default()
	cfg.Admin.Token = NewSecret(text)
	cfg.TLS.ACME[0].EAB = &EAB{KID: "k", HMAC: NewSecret(text)}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p", "%T %[1]v", "%10.3s"} {
		fmt.Fprintf(&out, verb+"\n", cfg.Admin.Token)
		fmt.Fprintf(&out, verb+"\n", *cfg)
		fmt.Fprintf(&out, verb+"\n", cfg.TLS.ACME[0].EAB)
		fmt.Fprintf(&out, verb+"\n", &cfg.Admin)
	}
	fmt.Fprintln(&out, cfg.Admin.Token, cfg)
	if err := json.NewEncoder(&out).Encode(cfg); err != nil {
		t.Fatal(err)
	}
	out.WriteString(cfg.Admin.Token.String() + cfg.Admin.Token.GoString())
	asText, err := cfg.Admin.Token.MarshalText()
	if out.Write(asText); err != nil {
		t.Fatal(err)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "token", cfg.Admin.Token, "cfg", cfg)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "token", cfg.Admin.Token, "cfg", cfg)
	if s := out.String(); strings.Contains(s, "hunter2") || strings.Contains(s, "68756e746572") || !strings.Contains(s, redacted) {
		t.Errorf("shown: %s", s)
	}
	if s := NewSecret(text); s.Reveal() != text || !s.IsSet() || !s.Equal(NewSecret(text)) || s.Equal(NewSecret("x")) || (Secret{}).IsSet() {
		t.Error("the secret is not itself")
	}
}

func TestExpand(t *testing.T) {
	get := testEnv().getenv
	for in, want := range map[string]string{
		"": "", "plain": "plain", "$": "$", "$$": "$$", "$x": "$x", "${PORT}": "3000", "a${PORT}b${PORT}": "a3000b3000", "$${PORT}": "${PORT}",
		"$$${PORT}": "$${PORT}", "${NOPE:-}": "", "${NOPE:-x y}": "x y", "${EMPTY}": "", "${EMPTY:-d}": "d", "${PORT:-d}": "3000", "${NOPE:-$${}": "$${", "{}": "{}",
	} {
		if got, err := expand(in, get); got != want || err != nil {
			t.Errorf("%q: got %q %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"${", "${}", "${NOPE}", "${1A}", "${A B}", "${PORT:=x}", "${PORT-x}", "${é}", "x${PORT"} {
		if got, err := expand(in, get); err == nil {
			t.Errorf("%q: got %q", in, got)
		}
	}
}

func TestNearest(t *testing.T) {
	keys := []string{"upstream", "hosts", "path", "to", "tls", "http", "key"}
	for in, want := range map[string]string{
		"upstraem": "upstream", "Upstreams": "upstream", "host": "hosts", "paht": "path", "ky": "key", "x": "", "": "", "banana": "", "htpp": "http", "tsl": "tls", strings.Repeat("a", 100): "",
	} {
		if got := nearest(in, keys); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
