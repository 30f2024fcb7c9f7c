package app

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// spoolSize bounds the access lines that wait to be written; further ones are
// dropped and counted. It is a few thousand lines.
const spoolSize = 1 << 20

// spoolPause is the least time between two writes: what comes meanwhile is
// written together.
const spoolPause = 5 * time.Millisecond

// spool takes access lines without ever waiting for the disk, or for whoever
// reads our standard error. Write is safe for concurrent use.
type spool struct {
	dropped prometheus.Counter
	wake    chan struct{} // holds one token while there is something to write

	mu    sync.Mutex
	out   io.Writer // guarded by mu; where lines go
	lines []byte    // guarded by mu; not written yet

	writing sync.Mutex // held while spare is written
	spare   []byte     // guarded by writing
}

func newSpool(out io.Writer) *spool {
	return &spool{
		out: out, wake: make(chan struct{}, 1),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_access_log_dropped_total", Help: "Access lines dropped because the log could not be written as fast.",
		}),
	}
}

// Write keeps a line. It never blocks and never fails.
func (s *spool) Write(line []byte) (int, error) {
	s.mu.Lock()
	first := len(s.lines) == 0
	if len(s.lines)+len(line) > spoolSize {
		s.mu.Unlock()
		s.dropped.Inc()
		return len(line), nil
	}
	s.lines = append(s.lines, line...)
	s.mu.Unlock()
	if first {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	return len(line), nil
}

// redirect makes lines written from now on go to out; those that wait go where
// they were meant to.
func (s *spool) redirect(out io.Writer) {
	s.flush()
	s.mu.Lock()
	s.out = out
	s.mu.Unlock()
}

// flush writes what waits.
func (s *spool) flush() {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	out := s.out
	s.lines, s.spare = s.spare[:0], s.lines
	s.mu.Unlock()
	if len(s.spare) > 0 {
		_, _ = out.Write(s.spare) // there is nowhere to tell that the log can not be written
	}
}

// run writes lines as they come until ctx is done.
func (s *spool) run(ctx context.Context) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
		s.flush()
		pause.Reset(spoolPause)
	}
}

// lockedWriter lets several loggers share a writer line by line.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
