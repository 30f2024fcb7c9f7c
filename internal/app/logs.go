package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"gopkg.in/natefinch/lumberjack.v2"

	"postern/internal/config"
)

// logs owns the loggers. Everybody holds one *slog.Logger for life; a reload
// changes what is behind it.
type logs struct {
	out     io.Writer
	screen  bool   // out is a terminal
	spool   *spool // of access lines
	current atomic.Pointer[logTarget]
}

// logTarget is one reading of the log settings.
type logTarget struct {
	main   slog.Handler
	access slog.Handler       // nil: no access lines
	file   *lumberjack.Logger // nil: access lines go to the main log
}

func newLogs(cfg config.Log, out io.Writer) (*logs, error) {
	l := &logs{out: &lockedWriter{w: out}, screen: isTerminal(out)}
	l.spool = newSpool(l.out)
	change, err := l.prepare(cfg)
	if err != nil {
		return nil, err
	}
	change.commit()
	return l, nil
}

// logChange is a checked change of the log settings.
type logChange struct {
	l    *logs
	next *logTarget
}

// prepare checks cfg and makes its handlers, without using them yet.
func (l *logs) prepare(cfg config.Log) (*logChange, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		return nil, fmt.Errorf("log.level %q: want debug, info, warn or error", cfg.Level)
	}
	next := &logTarget{main: newHandler(logFormat(cfg.Format, l.screen), l.out, level, readable)}
	if !cfg.Access {
		return &logChange{l, next}, nil
	}
	next.access = newHandler(logFormat(cfg.Format, l.screen && cfg.File == nil), l.spool, slog.LevelInfo, nil)
	if f := cfg.File; f != nil {
		if err := writableFile(f.Path); err != nil {
			return nil, err
		}
		next.file = &lumberjack.Logger{Filename: f.Path, MaxSize: f.MaxSize, MaxAge: f.MaxAge, MaxBackups: f.MaxBackups}
	}
	return &logChange{l, next}, nil
}

// logFormat decides what auto means: a person reads a terminal, programs read
// everything else.
func logFormat(format string, screen bool) string {
	switch {
	case format != "auto":
		return format
	case screen:
		return "text"
	}
	return "json"
}

// isTerminal reports whether w is a character device, which a pipe, a file and
// the journal's socket are not. The null device is one, and nobody reads it.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	if err != nil || st.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(st, null)
}

// writableFile finds out now what the first access line would find out.
func writableFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return fmt.Errorf("log.file %s: the folder %s must exist and be writable: %w", path, filepath.Dir(path), err)
	}
	return f.Close()
}

// newHandler makes a handler; replace is slog's ReplaceAttr, nil for none:
// access lines do without, they are many.
func newHandler(format string, w io.Writer, level slog.Leveler, replace func([]string, slog.Attr) slog.Attr) slog.Handler {
	o := &slog.HandlerOptions{Level: level, ReplaceAttr: replace}
	if format == "text" {
		return slog.NewTextHandler(w, o)
	}
	return slog.NewJSONHandler(w, o)
}

// readable writes durations as "1.5s", where JSON would hold a number of
// nanoseconds that nobody recognises as such.
func readable(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().Round(time.Millisecond).String())
	}
	return a
}

func (c *logChange) commit() {
	old := c.l.current.Swap(c.next)
	if c.next.file != nil {
		c.l.spool.redirect(c.next.file)
	} else {
		c.l.spool.redirect(c.l.out)
	}
	if old != nil && old.file != nil {
		_ = old.file.Close() // lumberjack opens it again if a late line comes
	}
}

func (c *logChange) discard() {
	if c.next.file != nil {
		_ = c.next.file.Close()
	}
}

// Close writes what waits and closes the access file.
func (l *logs) Close() error {
	l.spool.flush()
	if t := l.current.Load(); t != nil && t.file != nil {
		return t.file.Close()
	}
	return nil
}

// logger is the main log; it follows reloads.
func (l *logs) logger() *slog.Logger {
	return slog.New(following{pick: func() slog.Handler { return l.current.Load().main }})
}

// libraries is where a library that prints by package log should print: the
// main log, at debug.
func (l *logs) libraries() io.Writer {
	return slog.NewLogLogger(l.logger().Handler(), slog.LevelDebug).Writer()
}

// access is the access log, nil when cfg turns it off; it follows reloads.
func (l *logs) access(cfg config.Log) *slog.Logger {
	if !cfg.Access {
		return nil
	}
	return slog.New(following{pick: func() slog.Handler {
		t := l.current.Load()
		if t.access == nil {
			return slog.DiscardHandler
		}
		return t.access
	}})
}

// following is a slog.Handler that asks for the real one at each line.
type following struct {
	pick func() slog.Handler
	wrap []func(slog.Handler) slog.Handler
}

func (f following) handler() slog.Handler {
	h := f.pick()
	for _, w := range f.wrap {
		h = w(h)
	}
	return h
}

func (f following) Enabled(ctx context.Context, level slog.Level) bool {
	return f.pick().Enabled(ctx, level)
}

func (f following) Handle(ctx context.Context, r slog.Record) error {
	return f.handler().Handle(ctx, r)
}

func (f following) WithAttrs(attrs []slog.Attr) slog.Handler {
	return f.with(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

func (f following) WithGroup(name string) slog.Handler {
	return f.with(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

func (f following) with(w func(slog.Handler) slog.Handler) slog.Handler {
	wrap := append(append([]func(slog.Handler) slog.Handler(nil), f.wrap...), w)
	return following{pick: f.pick, wrap: wrap}
}
