package app

import (
	"io"
	"os"
	"testing"
)

func TestLogFormat(t *testing.T) {
	for _, tt := range []struct {
		format string
		screen bool
		want   string
	}{
		{"auto", true, "text"},
		{"auto", false, "json"},
		{"json", true, "json"},
		{"text", false, "text"},
	} {
		if got := logFormat(tt.format, tt.screen); got != tt.want {
			t.Errorf("%s, terminal %v: %q, want %q", tt.format, tt.screen, got, tt.want)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, w := range []io.Writer{w, null, io.Discard} {
		if isTerminal(w) {
			t.Errorf("%T is taken for a terminal", w)
		}
	}
}
