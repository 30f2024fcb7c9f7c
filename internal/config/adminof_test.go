package config

import (
	"os"
	"path/filepath"
	"testing"
)

func TestAdminOf(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		name, src, listen, token string
		ok                       bool
	}{
		{"an error elsewhere", "guard: {mode: hard}\nadmin: {listen: '127.0.0.1:1234', token: a-token-of-24-characters}\n", "127.0.0.1:1234", "a-token-of-24-characters", true},
		{"no YAML after it", "admin:\n  # where\n  listen: 127.0.0.1:1234\nsites:\n\t- hosts: [a.test]\n", "127.0.0.1:1234", "", true},
		{"a socket beside the file", "admin:\n  listen: unix:admin.sock\nsites: [\n", "unix:" + filepath.Join(dir, "admin.sock"), "", true},
		{"no such group", "sites: [\n", Default().Admin.Listen, "", true},
		{"wrong itself", "admin: {listn: ':9180'}\n", "", "", false},
		{"broken itself", "admin: {listen: ':9180'\n", "", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(dir, "postern.yaml")
			if err := os.WriteFile(path, []byte(tt.src), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(path); err == nil {
				t.Fatal("Load takes the file, want one that it refuses")
			}
			got, ok := AdminOf(path)
			if ok != tt.ok || got.Listen != tt.listen || got.Token.Reveal() != tt.token {
				t.Errorf("got %q, token %q, %v; want %q, %q, %v", got.Listen, got.Token.Reveal(), ok, tt.listen, tt.token, tt.ok)
			}
		})
	}
	if _, ok := AdminOf(filepath.Join(dir, "gone.yaml")); ok {
		t.Error("a file that is not there is read")
	}
}
