package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzParse: whatever the file holds, the reader neither panics nor returns
// an error without a place in the file, and never shows a secret.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/bad/*.yaml", "../../examples/*.yaml"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			src, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(src)
		}
	}
	env := testEnv()
	f.Fuzz(func(t *testing.T, src []byte) {
		if strings.Contains(string(src), "_file") {
			return // would read whatever the fuzzer names
		}
		cfg, err := parse("fuzz/postern.yaml", src, env)
		if err != nil {
			checkErrors(t, src, err)
			return
		}
		for _, s := range cfg.Sites {
			if s.MaxBody == nil || s.Timeout.Idle == nil || s.HTTP == "" || len(s.AllRoutes()) == 0 {
				t.Errorf("incomplete: %+v", s)
			}
			for _, h := range s.Hosts {
				if again, err := canonicalHost(h); again != h || err != nil {
					t.Errorf("host %q is not stable: %q %v", h, again, err)
				}
			}
		}
	})
}

// FuzzScalars: the parsers of single values neither panic nor accept what
// they would not print back.
func FuzzScalars(f *testing.F) {
	for _, s := range []string{"20/s", "1/10s", "64k", "1g", "1d12h", "250ms", "10.0.0.0/8", "::1", "mypi.duckdns.org", "*.a.org", "[::1]:80", "https://a:1/b", "unix:/a", "/api/*", "GET", "${A:-b}", ":443"} {
		f.Add(s)
	}
	env := testEnv()
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := ParseRate(s); err == nil {
			if again, err := ParseRate(r.String()); err != nil || again != r {
				t.Errorf("rate %q: %v, again %v %v", s, r, again, err)
			}
		}
		if n, err := ParseSize(s); err == nil {
			if again, err := ParseSize(n.String()); err != nil || again != n || n < 0 {
				t.Errorf("size %q: %v, again %v %v", s, n, again, err)
			}
		}
		if d, err := ParseDuration(s); err == nil && d >= 0 {
			if again, err := ParseDuration(formatDuration(d)); err != nil || again != d {
				t.Errorf("duration %q: %v, again %v %v", s, d, again, err)
			}
		}
		if p, err := ParsePrefix(s); err == nil {
			if again, err := ParsePrefix(p.String()); err != nil || again != p {
				t.Errorf("prefix %q: %v, again %v %v", s, p, again, err)
			}
		}
		if h, err := canonicalHost(s); err == nil {
			if again, err := canonicalHost(h); err != nil || again != h {
				t.Errorf("host %q: %q, again %q %v", s, h, again, err)
			}
		}
		if p, err := parsePattern(s); err == nil && !p.covers(p) {
			t.Errorf("path %q does not cover itself", s)
		}
		_, _ = parseBackend(s)
		_, _ = parseListen(s)
		_, _ = expand(s, env.getenv)
		_ = checkMethod(s)
		_, _ = checkURL(s)
		_ = nearest(s, []string{"upstream", "hosts"})
		if strings.Contains(redactURL("http://me:hunter2@"+s), "hunter2") {
			t.Errorf("%q shows the password", s)
		}
	})
}
