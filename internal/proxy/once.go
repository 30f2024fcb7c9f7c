package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"postern/internal/idempotency"
	"postern/internal/upstream"
)

// Once lets requests of a route that come with an Idempotency-Key happen once
// (draft-ietf-httpapi-idempotency-key-header): who sends one again gets the
// answer of the first.
type Once struct {
	// Store keeps the answers of known callers, Strangers those of everybody
	// else, so that nobody can push out a caller's answer. They may serve
	// several routes.
	Store, Strangers *idempotency.Store[StoredAnswer]

	// Scope keeps the keys of this route apart from those of others.
	Scope string

	// Required refuses a POST or PATCH without a key.
	Required bool

	// MaxBody bounds the body of a request with a key, and MaxAnswer the
	// body of an answer that is kept; in bytes. A larger request is refused,
	// a larger answer is passed on and forgotten.
	MaxBody, MaxAnswer int64

	// Wait is how long a request waits for the first with its key.
	Wait time.Duration
}

// StoredAnswer is an answer of the application, complete. Nobody changes it.
type StoredAnswer struct {
	status int
	header http.Header
	body   []byte
}

func (a *StoredAnswer) size() int64 {
	n := len(a.body) + 256
	for name, values := range a.header {
		n += len(name) + 64
		for _, v := range values {
			n += len(v) + 16
		}
	}
	return int64(n)
}

// onceWork is how long the application may take for a request whose client may
// be gone: it goes on for those who come again.
const onceWork = 5 * time.Minute

const maxKey = 255 // bytes of an Idempotency-Key

// repeats reports whether a request with this method happens again each time
// it is sent; the others need no key.
func repeats(method string) bool { return method == http.MethodPost || method == http.MethodPatch }

// once carries out a request that may have been sent before. It returns false
// when the request is none of those.
func (x *exchange) once(rt *Route) bool {
	o := rt.Once
	if o == nil || rt.Upstream == nil || !repeats(x.method) {
		return false
	}
	values := x.msg.list("Idempotency-Key")
	if len(values) == 0 {
		if o.Required {
			x.problem(http.StatusBadRequest, "idempotency_key_required", "Send an Idempotency-Key field: a new one for each new intent, the same one when the request is sent again.")
			return true
		}
		return false
	}
	key, ok := idempotencyKey(values)
	if !ok {
		x.problem(http.StatusBadRequest, "bad_idempotency_key", "Send one Idempotency-Key field with 1 to 255 visible ASCII characters.")
		return true
	}
	key = strings.Clone(key) // the fields may be the engine's
	x.msg.viaStd(x, func(m *stdMessage) { m.once(x, rt, key) })
	return true
}

// idempotencyKey reads the field: a string of RFC 9651, or the bare text that
// most clients send.
func idempotencyKey(values []string) (string, bool) {
	if len(values) != 1 {
		return "", false
	}
	key := strings.TrimSpace(values[0])
	if s, quoted := strings.CutPrefix(key, `"`); quoted {
		if s, quoted = strings.CutSuffix(s, `"`); !quoted || strings.ContainsAny(s, `"\`) {
			return "", false
		}
		key = s
	}
	if len(key) == 0 || len(key) > maxKey {
		return "", false
	}
	for i := range len(key) {
		if key[i] < 0x21 || key[i] > 0x7e {
			return "", false
		}
	}
	return key, true
}

// once carries the request out, waits for who does, or has the answer.
func (m *stdMessage) once(x *exchange, rt *Route, key string) {
	defer func() {
		if m.w.wroteHeader {
			x.status, x.sent = m.w.status, m.w.bytes
		}
	}()
	hints := &earlyHints{w: &m.w, mute: !m.r.ProtoAtLeast(1, 1)}
	out, ok := m.outgoing(x, rt, hints)
	if !ok {
		return
	}
	body, ok := m.holdBody(x, rt, out)
	if !ok {
		return
	}
	hints.stop() // what the application says meanwhile is for whoever waits as well
	turn, answer, ok := m.begin(x, rt, key, out, body)
	switch {
	case !ok:
		return
	case answer != nil:
		x.verdict = "answered_before"
		m.w.Header()["Idempotency-Replayed"] = []string{"true"}
		m.pass(x, answer.response())
	default:
		m.first(x, rt, out, body, turn)
	}
}

// holdBody reads the request's body, which is part of what the key stands for.
func (m *stdMessage) holdBody(x *exchange, rt *Route, out *http.Request) ([]byte, bool) {
	if out.Body == nil {
		return nil, true
	}
	limit := rt.Once.MaxBody
	body, err := io.ReadAll(io.LimitReader(out.Body, limit+1))
	if err != nil {
		gone := m.r.Context().Err() != nil
		if failure := m.body.failure(gone); failure != nil {
			err, gone = failure, true
		}
		if x.upstreamFailed(err, gone) {
			m.abort()
		}
		return nil, false
	}
	if int64(len(body)) > limit {
		x.problem(http.StatusRequestEntityTooLarge, "body_too_large", "A request with an Idempotency-Key may have a body of "+strconv.FormatInt(limit, 10)+" bytes here.")
		return nil, false
	}
	return body, true
}

// begin asks the store, and answers what it refuses.
func (m *stdMessage) begin(x *exchange, rt *Route, key string, out *http.Request, body []byte) (*idempotency.Turn[StoredAnswer], *StoredAnswer, bool) {
	ctx, cancel := context.WithTimeout(m.r.Context(), rt.Once.Wait)
	defer cancel()
	store := rt.Once.Store
	if x.caller == nil {
		store = rt.Once.Strangers
	}
	turn, answer, err := store.Begin(ctx, x.onceKey(rt, key), onceprint(out, body))
	switch {
	case err == nil:
		return turn, answer, true
	case errors.Is(err, idempotency.ErrOther):
		x.problem(http.StatusUnprocessableEntity, "idempotency_key_reused", "This Idempotency-Key came with another request before. Use a new one.")
	case errors.Is(err, idempotency.ErrBusy):
		x.problem(http.StatusServiceUnavailable, "overloaded", "Too many requests with keys are under way.", textField{"Retry-After", "1"})
	case m.r.Context().Err() != nil:
		x.verdict, x.err = "client_gone", err
		m.abort()
	default:
		x.problem(http.StatusConflict, "idempotency_in_flight", "The first request with this Idempotency-Key is still under way.", textField{"Retry-After", "1"})
	}
	return nil, nil, false
}

// first carries the request out to its end, even if the client leaves: it will
// be back and ask what became of it. Only the end of the server cuts it.
func (m *stdMessage) first(x *exchange, rt *Route, out *http.Request, body []byte, turn *idempotency.Turn[StoredAnswer]) {
	defer turn.GiveUp() // unless it is answered
	ctx, cancel := context.WithTimeout(context.WithoutCancel(m.r.Context()), onceWork)
	defer cancel()
	defer context.AfterFunc(x.s.over, cancel)()
	if rt.HashBy != nil {
		ctx = upstream.WithKey(ctx, x.balanceKey(rt))
	}
	x.trace = newTrace()
	ctx = upstream.WithTrace(upstream.WithRepeatable(ctx), x.trace) // without x.until: it is worth something to who comes again
	out.Body, out.ContentLength, out.Trailer = nil, int64(len(body)), nil
	if len(body) > 0 {
		out.Body = io.NopCloser(bytes.NewReader(body))
	}
	res, err := rt.Upstream.RoundTrip(out.WithContext(ctx))
	if err != nil {
		x.upstreamFailed(err, false)
		return
	}
	defer res.Body.Close()
	kept, err := io.ReadAll(io.LimitReader(res.Body, rt.Once.MaxAnswer+1))
	switch {
	case err != nil:
		x.err, x.status = err, 0
		x.problem(http.StatusBadGateway, upstream.Class(err), "The application's answer broke off.")
		return
	case int64(len(kept)) > rt.Once.MaxAnswer:
		res.Body = readCloser{io.MultiReader(bytes.NewReader(kept), res.Body), res.Body}
		m.pass(x, res)
		return
	}
	removeHopByHop(res.Header)
	answer := &StoredAnswer{status: res.StatusCode, header: res.Header, body: kept}
	if final(res.StatusCode) {
		turn.Answer(answer, answer.size())
	}
	m.pass(x, answer.response())
}

// final reports whether an answer settles the matter: those that ask to try
// again later do not.
func final(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return false
	}
	return status >= 200 && status <= 599
}

// response is a copy of a for one client.
func (a *StoredAnswer) response() *http.Response {
	return &http.Response{
		StatusCode: a.status, Header: a.header.Clone(),
		Body: io.NopCloser(bytes.NewReader(a.body)), ContentLength: int64(len(a.body)),
	}
}

type readCloser struct {
	io.Reader
	io.Closer
}

// onceKey is the scope of a key: route, caller or credentials, and the key. A
// stranger who guesses a key gets no answer of anybody else's.
func (x *exchange) onceKey(rt *Route, key string) idempotency.Key {
	parts := []string{rt.Once.Scope, x.host, key}
	if x.caller != nil {
		parts = append(parts, "caller", x.caller.Name)
	} else {
		parts = append(parts, "credentials")
		for _, name := range []string{"Authorization", "X-Api-Key", "Cookie"} {
			parts = append(parts, strings.Join(x.msg.list(name), "\n"))
		}
	}
	return idempotency.Key(digest(parts, nil))
}

// onceprint is what a key stands for.
func onceprint(out *http.Request, body []byte) idempotency.Print {
	return idempotency.Print(digest([]string{out.Method, out.URL.RequestURI(), out.Header.Get("Content-Type")}, body))
}

// digest hashes parts so that no two lists run into each other.
func digest(parts []string, body []byte) [32]byte {
	h := sha256.New()
	for _, p := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	h.Write(body)
	return [32]byte(h.Sum(nil))
}
