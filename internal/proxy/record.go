package proxy

import (
	"context"
	"log/slog"
	"time"

	"postern/internal/caller"
)

// noSite and noRoute are the labels of requests that matched nothing.
const (
	noSite  = "(none)"
	noRoute = "(none)"
)

// record runs at the end of every exchange, also when it ends by a panic that
// cuts the connection, which goes on.
func (x *exchange) record() {
	x.conn.inFlight.Add(-1)
	took := time.Since(x.start)
	if x.length < 0 {
		x.length = x.msg.received()
	}
	x.leave()
	x.settle(x.start.Add(took))
	x.s.metrics.inFlight.Dec()
	if x.taken > 0 {
		x.s.signed.Add(-x.taken)
	}
	rm := x.s.metrics.nowhere
	switch {
	case x.route != nil:
		rm = x.route.metrics
		rm.duration.Observe(took.Seconds())
	case x.site != nil:
		rm = x.site.metrics
	}
	rm.request(x.status, x.proto).Inc()
	if x.trace != nil && x.trace.FirstByte > 0 {
		rm.upstream.Observe(x.trace.FirstByte.Seconds())
	}
	if x.length > 0 {
		rm.reqBytes.Add(float64(x.length))
	}
	if x.sent > 0 {
		rm.respBytes.Add(float64(x.sent))
	}
	if x.caller != nil {
		x.caller.Answered(x.status)
	}
	if book := x.snap.Callers; book != nil && book.Watched(x.start) {
		x.tellWatchers(book, took)
	}
	if x.verdict != "" {
		x.s.metrics.verdicts.WithLabelValues(x.verdict).Inc()
	}
	if x.snap.Access != nil {
		x.accessLine(rm, took)
	}
}

func (h *h1) received() int64        { return h.body.read.Load() }
func (m *h2Message) received() int64 { return m.read.Load() }

func (m *stdMessage) received() int64 {
	if m.body == nil {
		return 0
	}
	m.body.mu.Lock()
	defer m.body.mu.Unlock()
	return m.body.came
}

// accessLine writes the one line of this request. Everything a stranger sent
// is quoted by the handler and cut to a bound.
func (x *exchange) accessLine(rm *routeMetrics, took time.Duration) {
	attrs := make([]slog.Attr, 0, 24)
	attrs = append(attrs,
		slog.String("client", x.client.String()),
		slog.String("method", bounded(x.method)),
		slog.String("host", bounded(x.rawHost)),
		slog.String("path", bounded(x.path)),
		slog.String("proto", x.proto.String()),
		slog.Bool("tls", x.secure),
		slog.Int("status", x.status),
		slog.Int64("bytes_in", x.length),
		slog.Int64("bytes_out", x.sent),
		slog.Float64("duration_ms", ms(took)),
		slog.String("site", rm.site),
		slog.String("route", rm.route),
		slog.String("request_id", x.id),
	)
	if x.snap.LogQuery && x.query != "" {
		attrs = append(attrs, slog.String("query", bounded(x.query)))
	}
	if ua := x.msg.field("User-Agent"); ua != "" {
		attrs = append(attrs, slog.String("user_agent", bounded(ua)))
	}
	if id := x.caller; id != nil {
		attrs = append(attrs, slog.String("caller", id.Name), slog.String("caller_method", id.Method.String()))
	} else if x.denied != caller.NoCredentials {
		attrs = append(attrs, slog.String("caller_failure", x.denied.String()))
	}
	if x.verdict != "" {
		attrs = append(attrs, slog.String("verdict", x.verdict))
	}
	if t := x.trace; t != nil {
		attrs = append(attrs, slog.String("upstream", t.Target), slog.Float64("upstream_ms", ms(t.FirstByte)), slog.Int("attempts", t.Attempts))
	}
	if x.err != nil {
		attrs = append(attrs, slog.String("err", bounded(x.err.Error())))
	}
	// The line is written whatever became of the request's own context.
	x.snap.Access.LogAttrs(context.Background(), slog.LevelInfo, "request", attrs...)
}

// tellWatchers shows the request to who watches the callers, if it has to do
// with them.
func (x *exchange) tellWatchers(book *caller.Book, took time.Duration) {
	if x.caller == nil && x.denied == caller.NoCredentials && (x.route == nil || x.route.Callers == nil) {
		return
	}
	e := caller.Event{
		Time: x.start, Client: x.client.String(), Status: x.status, TookMS: ms(took),
		Request: bounded(x.method) + " " + bounded(x.rawHost) + bounded(x.path),
	}
	if id := x.caller; id != nil {
		e.Caller, e.Method = id.Name, id.Method.String()
	} else {
		e.Failure = x.denied.String()
	}
	book.Note(e)
}

// bounded cuts what a stranger sent to a length a log line bears.
func bounded(s string) string {
	const limit = 512
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}

// ms is d in milliseconds, to the microsecond.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
