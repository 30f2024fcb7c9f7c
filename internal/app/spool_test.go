package app

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// stuckWriter blocks until it is let go, as a full pipe does.
type stuckWriter struct {
	bytes.Buffer
	free chan struct{}
}

func (w *stuckWriter) Write(p []byte) (int, error) {
	<-w.free
	return w.Buffer.Write(p)
}

func TestSpoolNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &stuckWriter{free: make(chan struct{})}
		s := newSpool(out)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.run(ctx) }() // waited for below
		line := []byte(strings.Repeat("x", 1023) + "\n")
		const lines = 3000
		for range lines { // more than fit, while nothing can be written
			if n, err := s.Write(line); n != len(line) || err != nil {
				t.Fatalf("got %d, %v", n, err)
			}
		}
		synctest.Wait()
		close(out.free)
		time.Sleep(time.Second)
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		s.flush()
		dropped := int(testutil.ToFloat64(s.dropped))
		if got := out.Len() / len(line); dropped == 0 || got+dropped != lines || out.Len()%len(line) != 0 {
			t.Errorf("%d lines written, %d dropped, want %d in all", got, dropped, lines)
		}
	})
}

func TestSpoolRedirectKeepsLinesWithTheirPlace(t *testing.T) {
	var one, two bytes.Buffer
	s := newSpool(&one)
	_, _ = s.Write([]byte("first\n"))
	s.redirect(&two)
	_, _ = s.Write([]byte("second\n"))
	s.flush()
	if one.String() != "first\n" || two.String() != "second\n" {
		t.Errorf("got %q and %q", one.String(), two.String())
	}
}
