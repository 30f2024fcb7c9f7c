package proxy

import (
	"net/http"
	"net/netip"
	"strings"
	"time"

	"postern/internal/caller"
	"postern/internal/route"
	"postern/internal/upstream"
)

// message is one request and its answer as an HTTP engine carries them. The
// exchange decides with it and never learns which engine it is.
type message interface {
	// field returns the value of a request field by its canonical name, ""
	// if there is none; the first if there are several.
	field(name string) string
	// list returns all values of a request field.
	list(name string) []string
	// credentials returns what may prove who calls.
	credentials() caller.Credentials
	// answer sends a whole answer made here, unless one has begun.
	answer(x *exchange, a answer)
	// challenge lets h answer, and reports whether it did.
	challenge(h func(http.ResponseWriter, *http.Request) bool) bool
	// hold reads the whole body, up to limit bytes. When it returns false it
	// has answered, or the client is gone.
	hold(x *exchange, limit int64) ([]byte, bool)
	// forward sends the request to the route's backends and their answer to
	// the client. It sets x.status, x.sent, x.trace, and x.err, or answers
	// itself with x.problem.
	forward(x *exchange, rt *Route)
	// viaStd runs do with net/http's types for the request, or answers that
	// it has none.
	viaStd(x *exchange, do func(*stdMessage))
	// received is how many bytes of the body came so far.
	received() int64
	// hangUp ends the exchange without an answer. It may panic with
	// http.ErrAbortHandler.
	hangUp(x *exchange)
}

// answer is an answer made here. The body is nil for none.
type answer struct {
	status int
	fields []textField
	body   []byte
}

type textField struct{ name, value string }

// exchange is one request and its answer. It belongs to one goroutine; its
// texts may live in the engine's buffers and are good until record returns.
type exchange struct {
	s    *Server
	snap *Snapshot
	conn *clientConn
	msg  message

	// Facts, set by the engine.
	method    string
	rawHost   string // the Host field, or :authority
	rawTarget string // the request target as sent
	proto     proto
	length    int64 // the declared length of the body; -1: not known, 0: none. In the end what came

	// Facts, set by begin.
	start   time.Time
	client  netip.Addr // who asks, after trusted hops
	trusted bool       // the other end of the connection is a trusted proxy
	secure  bool       // https, as far as this connection is concerned
	scheme  string     // as the client sees it: trusted hops may say https
	host    string     // canonical; "" when it is not a host at all
	path    string     // of the target, as sent
	query   string     // of the target, as sent, without "?"
	id      string     // the request id

	// Who calls, set by identify.
	caller  *caller.Identity // nil: a stranger
	denied  caller.Failure   // why the credentials made nobody known
	spent   caller.Spent     // what held the secret
	account *Account         // nil: nothing is booked
	holds   bool             // the body was read as a whole, into held
	held    []byte
	taken   int64 // of Server.signed

	// What came of it.
	site    *Site  // nil: the host is not configured
	route   *Route // nil: no route
	verdict string // why it was not forwarded; "" when it was
	trace   *upstream.Trace
	err     error // what the forwarding met, for the log
	refused bool  // the connection is closed instead of an answer
	tarpit  bool  // before that, it is kept busy
	counted bool  // the guard counts it as under way
	inRoute bool  // so does the route
	status  int   // of the final answer; 0: none began
	sent    int64 // body bytes of the answer
}

// run is the steps; begin and record are around it in every engine.
func (x *exchange) run() {
	if x.identify() && x.admit() && x.find() && x.permit() {
		x.forward()
	}
	if x.refused {
		x.msg.hangUp(x)
	}
}

// begin gathers the facts an engine does not know. id is room for the request
// id; nil if the id must outlive the exchange.
func (x *exchange) begin(s *Server, conn *clientConn, msg message, now time.Time, id []byte) {
	x.s, x.snap, x.conn, x.msg = s, s.snap.Load(), conn, msg
	x.start = now
	x.secure = conn.kind != KindHTTP
	x.client = conn.client
	x.trusted = len(x.snap.Trusted) > 0 && contains(x.snap.Trusted, conn.client)
	x.scheme = "http"
	if x.secure {
		x.scheme = "https"
	}
	if x.trusted {
		x.client = clientBehind(x.snap.Trusted, conn.client, msg.list("X-Forwarded-For"))
		if p := msg.field("X-Forwarded-Proto"); p == "http" {
			x.scheme = "http"
		} else if p == "https" {
			x.scheme = "https"
		}
	}
	x.id = x.requestID(id)
	x.host, _ = route.CanonicalHost(x.rawHost)
	x.path, x.query = splitTarget(x.rawTarget)
	conn.requests.Add(1)
	conn.inFlight.Add(1)
	s.metrics.inFlight.Inc()
}

// splitTarget returns the path of a request target as the client sent it, and
// the query behind it.
func splitTarget(t string) (path, query string) {
	if !strings.HasPrefix(t, "/") {
		if i := strings.Index(t, "://"); i > 0 { // absolute-form, RFC 9112 section 3.2.2
			t = t[i+len("://"):]
			i := strings.IndexAny(t, "/?")
			if i < 0 {
				return "/", ""
			}
			if t = t[i:]; t[0] == '?' {
				return "/", t[1:]
			}
		}
	}
	path, query, _ = strings.Cut(t, "?")
	return path, query
}

// forward does what the route says.
func (x *exchange) forward() {
	switch rt := x.route; {
	case rt.Respond != nil:
		x.respond(rt.Respond)
	case rt.Redirect != nil:
		x.redirect(rt)
	default:
		if !x.once(rt) {
			x.msg.forward(x, rt)
		}
	}
}

// outgoingTarget is the request target for the backend. It answers the client
// and returns false when the route's prefix cannot be taken off.
func (x *exchange) outgoingTarget(rt *Route) (path string, ok bool) {
	if rt.StripPrefix == "" {
		return x.path, true
	}
	path, ok = route.StripPrefix(x.path, rt.StripPrefix)
	if !ok {
		x.problem(http.StatusBadRequest, "bad_path", "The path can be read in more than one way.")
	}
	return path, ok
}

// tooLarge answers a body that is declared larger than the route takes.
func (x *exchange) tooLarge(rt *Route) bool {
	if rt.MaxBody <= 0 || x.length <= rt.MaxBody {
		return false
	}
	x.problem(http.StatusRequestEntityTooLarge, "body_too_large", "The request body is larger than allowed here.")
	return true
}

func ptr[T any](v T) *T { return &v }

// keepTexts makes the texts of x its own, for whoever may keep them longer
// than the exchange lasts: net/http's HTTP/2 client holds header values in its
// compression table.
func (x *exchange) keepTexts() {
	for _, text := range [...]*string{&x.method, &x.rawHost, &x.rawTarget, &x.host, &x.path, &x.query, &x.id} {
		*text = strings.Clone(*text)
	}
}
