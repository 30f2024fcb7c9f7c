package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"postern/internal/config"
)

// blocks returns the fenced blocks of a language in a page.
func blocks(t *testing.T, page, language string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", page))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllSubmatch(text, -1) {
		out = append(out, string(m[1]))
	}
	if len(out) == 0 {
		t.Fatalf("%s has no %s block", page, language)
	}
	return out
}

// What README shows can be copied: its files are accepted, and its commands
// exist.
func TestReadme(t *testing.T) {
	for i, block := range blocks(t, "README.md", "yaml") {
		if _, err := config.Parse("README.md", []byte(block), os.LookupEnv); err != nil {
			t.Errorf("yaml block %d: %v", i+1, err)
		}
	}
	root := newRoot()
	for _, block := range blocks(t, "README.md", "sh") {
		for _, m := range regexp.MustCompile(`(?m)^(?:sudo )?proxy (.+?)(?: +#.*)?$`).FindAllStringSubmatch(block, -1) {
			args := strings.Fields(m[1])
			cmd, rest, err := root.Find(args)
			if err != nil || cmd == root {
				t.Errorf("proxy %s: there is no such command", m[1])
				continue
			}
			if err := cmd.ParseFlags(rest); err != nil {
				t.Errorf("proxy %s: %v", m[1], err)
			}
		}
	}
}
