package upstream

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
)

type closeCounter struct {
	io.Reader
	closed int
}

func (c *closeCounter) Close() error { c.closed++; return nil }

func replay(t *testing.T, src io.Reader, length int64) (*replayBody, *closeCounter) {
	t.Helper()
	c := &closeCounter{Reader: src}
	return newReplayBody(&http.Request{Body: c, ContentLength: length}), c
}

func mustRead(t *testing.T, r io.Reader, n int, want string) {
	t.Helper()
	p := make([]byte, n)
	got, err := io.ReadFull(r, p)
	if err != nil || string(p[:got]) != want {
		t.Fatalf("read %q, %v; want %q", p[:got], err, want)
	}
}

func TestReplayAfterPartialRead(t *testing.T) {
	for _, wrap := range []func(io.Reader) io.Reader{
		func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.DataErrReader, iotest.HalfReader,
	} {
		b, src := replay(t, wrap(strings.NewReader("hello world")), 11)
		first := b.attempt(true)
		mustRead(t, first, 5, "hello")
		if !b.replayable() {
			t.Fatal("not replayable")
		}
		_ = first.Close()
		if _, err := first.Read(make([]byte, 1)); !errors.Is(err, http.ErrBodyReadAfterClose) {
			t.Errorf("a closed attempt reads: %v", err)
		}
		second := b.attempt(true)
		if got, err := io.ReadAll(second); err != nil || string(got) != "hello world" {
			t.Fatalf("second attempt read %q, %v", got, err)
		}
		third := b.attempt(true)
		if got, err := io.ReadAll(third); err != nil || string(got) != "hello world" {
			t.Fatalf("third attempt read %q, %v", got, err)
		}
		_ = third.Close()
		if src.closed != 0 {
			t.Error("source closed between attempts")
		}
		b.settle()
		_ = third.Close()
		b.close()
		if src.closed != 1 {
			t.Errorf("source closed %d times, want 1", src.closed)
		}
	}
}

func TestReplayLimit(t *testing.T) {
	for _, tt := range []struct {
		size, length int64
		want         bool
	}{
		{replayLimit, replayLimit, true},
		{replayLimit, -1, true},
		{replayLimit + 1, -1, false},
		{replayLimit + 1, replayLimit + 1, false},
	} {
		b, _ := replay(t, strings.NewReader(strings.Repeat("x", int(tt.size))), tt.length)
		if !b.replayable() {
			t.Error("an unread body is not replayable")
		}
		if n, err := io.Copy(io.Discard, b.attempt(true)); err != nil || n != tt.size {
			t.Fatalf("read %d, %v", n, err)
		}
		if got := b.replayable(); got != tt.want {
			t.Errorf("size %d, length %d: replayable %t, want %t", tt.size, tt.length, got, tt.want)
		}
		if !tt.want {
			if _, err := b.attempt(true).Read(make([]byte, 1)); !errors.Is(err, errLeftovers) {
				t.Errorf("a body that is gone reads: %v", err)
			}
		}
		if cap(b.kept) > replayLimit+32<<10 {
			t.Errorf("keeps %d bytes", cap(b.kept))
		}
	}
}

// TestReplayTakesOverRead: an abandoned attempt still waits for the client;
// what it reads belongs to the next attempt.
func TestReplayTakesOverRead(t *testing.T) {
	pr, pw := io.Pipe()
	b, _ := replay(t, pr, 10)
	first := b.attempt(true)
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		_, _ = first.Read(make([]byte, 4)) // ends below
	}()
	if _, err := pw.Write([]byte("ab")); err != nil {
		t.Fatal(err)
	}
	<-reading
	again := make(chan struct{})
	go func() {
		defer close(again)
		_, _ = first.Read(make([]byte, 4)) // ends below, too
	}()
	if _, err := pw.Write([]byte("c")); err != nil { // returns when it was read
		t.Fatal(err)
	}
	<-again
	second := b.attempt(true)
	go func() { // ends with the reads below
		_, _ = pw.Write([]byte("defghij"))
		_ = pw.Close()
	}()
	if got, err := io.ReadAll(second); err != nil || string(got) != "abcdefghij" {
		t.Fatalf("read %q, %v", got, err)
	}
}

// TestReplaySettledHalfway: the response is there before the second attempt
// has sent all that the first one had read.
func TestReplaySettledHalfway(t *testing.T) {
	b, src := replay(t, strings.NewReader("hello world"), 11)
	mustRead(t, b.attempt(true), 8, "hello wo")
	second := b.attempt(true)
	mustRead(t, second, 2, "he")
	b.settle()
	if got, err := io.ReadAll(second); err != nil || string(got) != "llo world" {
		t.Fatalf("read %q, %v", got, err)
	}
	_ = second.Close()
	if src.closed != 1 {
		t.Errorf("source closed %d times, want 1", src.closed)
	}
}

func TestReplayClientBreaksOff(t *testing.T) {
	broken := errors.New("client went away")
	b, _ := replay(t, io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken)), 8)
	if _, err := io.ReadAll(b.attempt(true)); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	if !errors.Is(b.broke(), broken) {
		t.Errorf("broke() = %v", b.broke())
	}
	if (*replayBody)(nil).broke() != nil {
		t.Error("no body broke")
	}
}
