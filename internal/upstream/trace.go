package upstream

import (
	"context"
	"time"
)

// Trace is what happened to one request, for its log line and metrics. It is
// filled in before RoundTrip returns, and not touched afterwards.
type Trace struct {
	Target    string        // the backend tried last, as configured; "" if none was
	Attempts  int           // backends dialled or written to, resends included
	Reused    bool          // the last attempt used a pooled connection
	Retried   bool          // the request was sent again after its connection died
	FirstByte time.Duration // from the call of RoundTrip to the response's head; 0 without one
}

type traceKey struct{}

// WithTrace returns a context that makes RoundTrip fill in t for the request
// that carries it. t serves one request at a time.
func WithTrace(ctx context.Context, t *Trace) context.Context {
	return context.WithValue(ctx, traceKey{}, t)
}

func traceOf(ctx context.Context) *Trace {
	if t, ok := ctx.Value(traceKey{}).(*Trace); ok {
		*t = Trace{}
		return t
	}
	return new(Trace)
}
