package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the expected messages and docs/config.md instead of comparing them")

// testEnv is an environment that does not depend on who runs the tests.
func testEnv() environment {
	vars := map[string]string{"HOME": "/home/pi", "EMPTY": "", "MAIL": "me@mail.net", "PORT": "3000", "LIST": "[a, b]"}
	return environment{uid: 1000, getenv: func(k string) (string, bool) { v, ok := vars[k]; return v, ok }}
}

// TestBadFiles holds every rule to the exact text of its message: one file
// per rule, what it must say beside it.
func TestBadFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) < 100 {
		t.Fatalf("%d files, err %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			cfg, err := parse(file, src, testEnv())
			if err == nil {
				t.Fatalf("no error; got %+v", cfg)
			}
			got := strings.ReplaceAll(err.Error(), filepath.Dir(file)+string(filepath.Separator), "") + "\n"
			if strings.Contains(got, "hunter2") {
				t.Errorf("a secret is shown: %s", got)
			}
			compare(t, strings.TrimSuffix(file, ".yaml")+".txt", got)
			checkErrors(t, src, err)
		})
	}
}

// compare compares got with the file, or writes it with -update.
func compare(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s\ngot:\n%swant:\n%s", file, got, want)
	}
}

// checkErrors holds every error to the form that tools rely on.
func checkErrors(t *testing.T, src []byte, err error) {
	t.Helper()
	var es Errors
	if !errors.As(err, &es) || len(es) == 0 {
		t.Fatalf("%T %v, want Errors", err, err)
	}
	last := 0
	lines := strings.Count(string(src), "\n") + 1
	for _, e := range es {
		switch {
		case e.Line < 1 || e.Line > lines:
			t.Errorf("%q: line %d of %d", e, e.Line, lines)
		case e.Line < last:
			t.Errorf("%q: line %d after line %d", e, e.Line, last)
		case e.Msg == "" || strings.ContainsAny(e.Error(), "\n\r"):
			t.Errorf("%q: want one line with a message", e)
		}
		for _, bad := range []string{"failed to", "cannot", "could not", "unable", "error"} {
			if strings.HasPrefix(e.Msg, bad) {
				t.Errorf("%q begins with %q", e, bad)
			}
		}
		last = e.Line
	}
}
