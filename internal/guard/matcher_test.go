package guard

import (
	"slices"
	"strings"
	"testing"
)

// normal is the form the matcher reads a string in, made the slow way.
func normal(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		c := s[i]
		i++
		if c == '%' {
			c, i = unescape(s, i)
		}
		switch {
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case c == '\\':
			c = '/'
		case c == '+':
			c = ' '
		}
		if c == '/' && strings.HasSuffix(b.String(), "/") {
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

// slowMatch returns the groups whose patterns are in s.
func slowMatch(groups []patternGroup, s string) []Family {
	s = normal(s)
	var found []Family
	for _, g := range groups {
		if slices.ContainsFunc(g.patterns, func(p string) bool { return slowFind(p, s) }) {
			found = append(found, g.name)
		}
	}
	return found
}

func slowFind(p, s string) bool {
	p, fromStart := strings.CutPrefix(p, "^")
	if folder, ok := strings.CutSuffix(p, "|"); ok {
		if fromStart {
			return strings.HasPrefix(s, folder+"/") || s == folder
		}
		return strings.Contains(s, folder+"/") || strings.HasSuffix(s, folder)
	}
	p, toEnd := strings.CutSuffix(p, "$")
	switch {
	case fromStart && toEnd:
		return s == p
	case fromStart:
		return strings.HasPrefix(s, p)
	case toEnd:
		return strings.HasSuffix(s, p)
	}
	return strings.Contains(s, p)
}

func FuzzScannerSignature(f *testing.F) {
	for _, g := range families {
		for _, p := range g.patterns {
			f.Add(strings.Trim(p, "^$|"))
			f.Add("/x" + strings.Trim(p, "^$|") + "y")
		}
	}
	f.Add("/%2egit//config")
	f.Add("/%252e%67it")
	f.Add(`\\.GIT\`)
	f.Fuzz(func(t *testing.T, path string) {
		got, ok := ScannerSignature(path)
		want := slowMatch(families, path)
		if ok != (len(want) > 0) || ok && !slices.Contains(want, got) {
			t.Fatalf("%q: %q, %v, want one of %q", path, got, ok, want)
		}
	})
}

// Overlapping patterns are where an automaton goes wrong.
func TestMatcher(t *testing.T) {
	groups := []patternGroup{
		{"a", []string{"he", "^she$", "hers|"}},
		{"b", []string{"his", "^x", "y$", "/a/b", "aab"}},
	}
	m := newMatcher(groups)
	for _, s := range []string{
		"", "h", "he", "she", "ushers", "his", "hi", "this", "x", "ax", "xa", "y", "ya", "ay", "hers", "/a/b", "//a///b",
		"%68e", "%2568e", "%25", "%", "%6", "%zz", "aaab", "aaaab", "HE", `\a\b`, "/a/a/b", "sh%65", "h\x00e",
	} {
		group, _, _ := m.find(s, 0, m.start)
		want := slowMatch(groups, s)
		if (group >= 0) != (len(want) > 0) || group >= 0 && !slices.Contains(want, groups[group].name) {
			t.Errorf("%q: group %d, want %q", s, group, want)
		}
	}
}

// Patterns must be in the matcher's own normal form, or they match nothing.
func TestPatternsAreNormal(t *testing.T) {
	for _, groups := range [][]patternGroup{families, shapeTexts, unaskedPaths} {
		seen := map[string]Family{}
		for _, g := range groups {
			for _, p := range g.patterns {
				text := strings.TrimRight(strings.TrimPrefix(p, "^"), "$|")
				if text == "" || normal(text) != text || strings.ContainsAny(text, "^|%") {
					t.Errorf("%s: pattern %q is not in normal form", g.name, p)
				}
				if other, ok := seen[p]; ok {
					t.Errorf("pattern %q is in %s and %s", p, other, g.name)
				}
				seen[p] = g.name
				if !slices.Contains(slowMatch(groups, text), g.name) {
					t.Errorf("%s: pattern %q does not find itself", g.name, p)
				}
			}
		}
		m := newMatcher(groups)
		states := len(m.accept)
		t.Logf("%d patterns, %d states of %d classes, %d KiB", len(seen), states, m.width, states*m.width*2/1024)
		if len(seen) > 150 {
			t.Errorf("%d patterns, want at most 150: a small machine's cache is small", len(seen))
		}
	}
}
