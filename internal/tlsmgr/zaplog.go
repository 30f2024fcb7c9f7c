package tlsmgr

import (
	"context"
	"log/slog"
	"math"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newZap makes the logger certmagic writes to. It lowers certmagic's voice:
// obtaining and renewing is told by us, once, so certmagic's own account of it
// is for debugging; what strangers can cause by a handshake is too.
func newZap(log *slog.Logger) *zap.Logger {
	return zap.New(&slogCore{handler: log.Handler()})
}

// slogCore hands zap's entries to a slog.Handler and keeps the fields' types.
type slogCore struct{ handler slog.Handler }

// slogLevel maps a zap level to the one it gets here.
func slogLevel(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelWarn
	case l == zapcore.WarnLevel:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

// quiet lists certmagic's messages that repeat what we tell ourselves, and its
// loggers that strangers' handshakes write to.
func quiet(e zapcore.Entry) bool {
	switch e.Message {
	case "could not get certificate from issuer", "job failed", "will retry", "tls-alpn challenge",
		"validating authorization", "challenge failed", "looking up info for HTTP challenge":
		return true
	}
	return strings.HasSuffix(e.LoggerName, "handshake") || strings.HasSuffix(e.LoggerName, "on_demand")
}

func (c *slogCore) Enabled(l zapcore.Level) bool {
	return c.handler.Enabled(context.Background(), slogLevel(l)) // zap has no context to give
}

func (c *slogCore) With(fields []zapcore.Field) zapcore.Core {
	return &slogCore{handler: c.handler.WithAttrs(slogAttrs(fields))}
}

func (c *slogCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c *slogCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level := slogLevel(e.Level)
	if quiet(e) {
		level = slog.LevelDebug
	}
	ctx := context.Background() // zap has none to give
	if !c.handler.Enabled(ctx, level) {
		return nil
	}
	r := slog.NewRecord(e.Time, level, e.Message, 0)
	r.AddAttrs(slog.String("component", "certmagic"))
	if e.LoggerName != "" {
		r.AddAttrs(slog.String("logger", e.LoggerName))
	}
	r.AddAttrs(slogAttrs(fields)...)
	return c.handler.Handle(ctx, r)
}

func (c *slogCore) Sync() error { return nil }

func slogAttrs(fields []zapcore.Field) []slog.Attr {
	out := make([]slog.Attr, 0, len(fields))
	for _, f := range fields {
		out = append(out, slogAttr(f))
	}
	return out
}

// slogAttr converts one field. The kinds that zap packs into a number are
// unpacked here; every other kind goes through zap's own map encoder.
func slogAttr(f zapcore.Field) slog.Attr {
	switch f.Type {
	case zapcore.StringType:
		return slog.String(f.Key, f.String)
	case zapcore.BoolType:
		return slog.Bool(f.Key, f.Integer == 1)
	case zapcore.Int64Type, zapcore.Int32Type, zapcore.Int16Type, zapcore.Int8Type:
		return slog.Int64(f.Key, f.Integer)
	case zapcore.Uint64Type, zapcore.Uint32Type, zapcore.Uint16Type, zapcore.Uint8Type, zapcore.UintptrType:
		return slog.Uint64(f.Key, uint64(f.Integer))
	case zapcore.Float64Type:
		return slog.Float64(f.Key, math.Float64frombits(uint64(f.Integer)))
	case zapcore.Float32Type:
		return slog.Float64(f.Key, float64(math.Float32frombits(uint32(f.Integer))))
	case zapcore.DurationType:
		return slog.Duration(f.Key, time.Duration(f.Integer))
	case zapcore.TimeType:
		t := time.Unix(0, f.Integer)
		if loc, ok := f.Interface.(*time.Location); ok {
			t = t.In(loc)
		}
		return slog.Time(f.Key, t)
	case zapcore.TimeFullType:
		return slog.Any(f.Key, f.Interface)
	case zapcore.ErrorType:
		return slog.Any(f.Key, f.Interface)
	case zapcore.SkipType:
		return slog.Attr{}
	}
	enc := zapcore.NewMapObjectEncoder()
	f.AddTo(enc)
	return slog.Any(f.Key, enc.Fields[f.Key])
}

// acmeLog is the logger for acmez. What it has to say repeats what we tell
// ourselves, so all of it is for debugging.
func acmeLog(log *slog.Logger, authority string) *slog.Logger {
	return slog.New(lowered{log.Handler()}).With("component", "acmez", "authority", authority)
}

// lowered writes every record at the debug level.
type lowered struct{ slog.Handler }

// Enabled implements slog.Handler.
func (l lowered) Enabled(ctx context.Context, _ slog.Level) bool {
	return l.Handler.Enabled(ctx, slog.LevelDebug)
}

// Handle implements slog.Handler. Headers are left out: they hold nonces and
// nothing a person needs.
func (l lowered) Handle(ctx context.Context, r slog.Record) error {
	out := slog.NewRecord(r.Time, slog.LevelDebug, r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		if !strings.Contains(a.Key, "headers") {
			out.AddAttrs(a)
		}
		return true
	})
	return l.Handler.Handle(ctx, out)
}

// WithAttrs implements slog.Handler.
func (l lowered) WithAttrs(as []slog.Attr) slog.Handler { return lowered{l.Handler.WithAttrs(as)} }

// WithGroup implements slog.Handler.
func (l lowered) WithGroup(name string) slog.Handler { return lowered{l.Handler.WithGroup(name)} }
