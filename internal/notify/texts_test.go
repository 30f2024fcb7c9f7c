package notify

import (
	"slices"
	"strings"
	"testing"
)

// Every kind and label has its texts in every language, with the same
// placeholders, which are the arguments of the kind.
func TestTexts(t *testing.T) {
	table := texts()
	all := kinds()
	for key, entry := range table {
		k, isKind := all[Kind(key)]
		for _, lang := range Languages() {
			got, ok := entry[lang]
			if !ok {
				t.Errorf("%s: no text in %s", key, lang)
				continue
			}
			if isKind && (got.head == "" || got.body == "") {
				t.Errorf("%s: in %s %+v, want a headline and a body", key, lang, got)
			}
			if (got.head == "") != (entry[English].head == "") || (got.body == "") != (entry[English].body == "") {
				t.Errorf("%s: %s and en do not have the same parts", key, lang)
			}
			if strings.ContainsAny(got.head, "{}`") {
				t.Errorf("%s: placeholder in the headline %q", key, got.head)
			}
			if strings.Contains(got.body, "}{") || strings.Contains(got.body, "`") {
				t.Errorf("%s: in %q code spans would run into each other", key, got.body)
			}
			names, english := placeholders(got.body), placeholders(entry[English].body)
			slices.Sort(names)
			slices.Sort(english)
			if !slices.Equal(names, english) {
				t.Errorf("%s: %s has the placeholders %v, en %v", key, lang, names, english)
			}
			for name := range k.args {
				if !slices.Contains(names, name) {
					t.Errorf("%s: %s does not show %s", key, lang, name)
				}
			}
			for _, name := range names {
				if _, ok := k.args[name]; isKind && !ok {
					t.Errorf("%s: %s shows %s, which the kind does not have", key, lang, name)
				}
			}
		}
		if len(entry) != len(Languages()) {
			t.Errorf("%s: %d languages, want %d", key, len(entry), len(Languages()))
		}
	}
	for k := range all {
		if _, ok := table[string(k)]; !ok {
			t.Errorf("%s: no texts", k)
		}
		if !slices.Contains(kindOrder(), k) {
			t.Errorf("%s: missing in kindOrder", k)
		}
		if !slices.Contains(Topics(), all[k].topic) {
			t.Errorf("%s: topic %q", k, all[k].topic)
		}
	}
	if len(kindOrder()) != len(all) {
		t.Errorf("kindOrder has %d kinds, want %d", len(kindOrder()), len(all))
	}
}

// The Korean texts are Korean.
func TestKorean(t *testing.T) {
	for key, entry := range texts() {
		got := entry[Korean].head + entry[Korean].body
		if strings.IndexFunc(got, func(r rune) bool { return r >= 0xAC00 && r <= 0xD7A3 }) < 0 && strings.Trim(strings.Join(placeholders(got), ""), "") == "" {
			t.Errorf("%s: %q", key, got)
		}
	}
}

func TestFill(t *testing.T) {
	for _, tc := range []struct {
		template string
		args     map[string]string
		want     string
	}{
		{"plain", nil, "plain"},
		{"{a} and {b}", map[string]string{"a": "1", "b": "{a}"}, "`1` and `{a}`"},
		{"{a}", nil, "`?`"},
	} {
		if got := fill(tc.template, map[string]class{"a": own}, tc.args).discord(); got != tc.want {
			t.Errorf("%q: got %q, want %q", tc.template, got, tc.want)
		}
	}
}
