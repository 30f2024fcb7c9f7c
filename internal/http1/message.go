package http1

import (
	"bytes"
	"errors"
	"strconv"
)

// Name is a field name the wire format or a proxy has something to do with;
// Other is any other.
type Name uint8

// The names. Those up to lastHopByHop belong to one connection (RFC 9110
// section 7.6.1) and are never passed on as they are.
const (
	Other Name = iota
	Connection
	ProxyConnection
	KeepAlive
	TE
	TransferEncoding
	Upgrade
	Trailer
	ProxyAuthorization
	ProxyAuthenticate
	ProxyAuthenticationInfo
	lastHopByHop

	Host
	ContentLength
	ContentType
	Expect
	Date
	UserAgent
	Forwarded
	RequestID
	HSTS
	RetryAfter
	names
)

// HopByHop reports whether fields of this name end at this hop.
func (n Name) HopByHop() bool { return n > Other && n < lastHopByHop }

// nameTexts are the names in lower case.
var nameTexts = [names]string{
	Connection: "connection", ProxyConnection: "proxy-connection", KeepAlive: "keep-alive", TE: "te",
	TransferEncoding: "transfer-encoding", Upgrade: "upgrade", Trailer: "trailer",
	ProxyAuthorization: "proxy-authorization", ProxyAuthenticate: "proxy-authenticate",
	ProxyAuthenticationInfo: "proxy-authentication-info",
	Host:                    "host", ContentLength: "content-length", ContentType: "content-type", Expect: "expect", Date: "date",
	UserAgent: "user-agent", Forwarded: "forwarded", RequestID: "x-request-id", HSTS: "strict-transport-security",
	RetryAfter: "retry-after",
}

// nameBuckets finds a name by its length.
var nameBuckets = func() (t [32][]Name) {
	for n, text := range nameTexts {
		if text != "" {
			t[len(text)] = append(t[len(text)], Name(n))
		}
	}
	return t
}()

// nameOf returns the Name of a field name in any case.
func nameOf(b []byte) Name {
	if len(b) >= len(nameBuckets) {
		return Other
	}
	for _, n := range nameBuckets[len(b)] {
		if EqualFold(b, nameTexts[n]) {
			return n
		}
	}
	return Other
}

// EqualFold reports whether b is lower, a text in lower case, but for the case
// of ASCII letters.
func EqualFold(b []byte, lowered string) bool {
	if len(b) != len(lowered) {
		return false
	}
	for i, c := range b {
		if lower(c) != lowered[i] {
			return false
		}
	}
	return true
}

// Field is one field line of a head. Key and Value share the head's bytes;
// white space around the value is cut off.
type Field struct {
	Name  Name
	Key   []byte
	Value []byte
}

// Framing is how the body of a message ends (RFC 9112 section 6.3).
type Framing uint8

// The framings.
const (
	NoBody     Framing = iota
	ByLength           // Length bytes
	Chunked            // the chunked coding, perhaps with trailers
	UntilClose         // responses only: to the end of the connection
)

// Request is a request head, parsed in place: it shares the bytes it was
// parsed from and allocates nothing once its field list has grown. A Request
// may be parsed again.
type Request struct {
	Method []byte
	Target []byte
	Minor  int // 0 or 1: HTTP/1.0 or HTTP/1.1
	Fields []Field

	Host    []byte // the value of Host
	Framing Framing
	Length  int64 // when ByLength

	Persist   bool   // the connection can carry another request afterwards
	Upgrade   []byte // the protocol to switch to; nil: none is asked for
	Expect100 bool   // the client waits for 100 before it sends the body
	Upgrades  int    // how many Upgrade fields there are
	Trailers  bool   // TE says that trailers are welcome

	options options
}

// Response is a response head, parsed in place like a Request.
type Response struct {
	Minor  int
	Status int
	Fields []Field

	Framing Framing
	Length  int64 // when ByLength

	Persist bool   // the connection can carry another request afterwards
	Upgrade []byte // with status 101: the protocol; nil: not told
	IdleFor int    // seconds of Keep-Alive: timeout=; 0: not told

	options options
}

// options is what Connection says.
type options struct {
	close bool
	keep  bool
	named [][]byte // fields that end at this hop as well
}

// maxOptions bounds named: each is compared with each field.
const maxOptions = 32

// ends reports whether f must not be passed on: it is hop by hop by its name,
// or Connection lists it. Host and Content-Length go to every recipient,
// whatever Connection says (RFC 9110 section 7.6.1).
func (o *options) ends(f *Field) bool {
	switch {
	case f.Name.HopByHop():
		return true
	case f.Name == Host, f.Name == ContentLength:
		return false
	}
	for _, n := range o.named {
		if len(n) == len(f.Key) && bytes.EqualFold(n, f.Key) {
			return true
		}
	}
	return false
}

// persist reports whether the connection stays open (RFC 9112 section 9.3):
// close wins over keep-alive.
func (o *options) persist(minor int) bool {
	return !o.close && (minor >= 1 || o.keep)
}

// Ends reports whether f ends at this hop.
func (r *Request) Ends(f *Field) bool { return r.options.ends(f) }

// Ends reports whether f ends at this hop.
func (r *Response) Ends(f *Field) bool { return r.options.ends(f) }

// Get returns the value of the first field with a name, nil if there is none.
func (r *Request) Get(n Name) []byte { return get(r.Fields, n) }

// Get returns the value of the first field with a name, nil if there is none.
func (r *Response) Get(n Name) []byte { return get(r.Fields, n) }

func get(fields []Field, n Name) []byte {
	for i := range fields {
		if fields[i].Name == n {
			return fields[i].Value
		}
	}
	return nil
}

// The errors of responses: there is no status to answer with, a bad backend
// is a 502.
var (
	errHead       = errors.New("http1: not a head")
	errStatusLine = errors.New("http1: response does not begin with HTTP/1.x and a status")
	errField      = errors.New("http1: response has a malformed field line")
	errFraming    = errors.New("http1: response has contradicting or malformed Content-Length and Transfer-Encoding")
	errOptions    = errors.New("http1: Connection has more than 32 options")
)

// Parse takes apart one complete request head, its empty line included, that
// a Follower let through: what the Follower refuses is not looked for again.
// Otherwise it fails only on more than 32 options of Connection.
func (r *Request) Parse(head []byte) error {
	*r = Request{Fields: r.Fields[:0], options: options{named: r.options.named[:0]}}
	line, rest, ok := cutLine(head)
	if !ok {
		return errHead
	}
	if len(line) == 0 { // the one empty line a Follower lets precede a request
		if line, rest, ok = cutLine(rest); !ok {
			return errHead
		}
	}
	a, b := bytes.IndexByte(line, ' '), bytes.LastIndexByte(line, ' ')
	if a <= 0 || b <= a || len(line)-b != len(" HTTP/1.x") {
		return errHead
	}
	r.Method, r.Target, r.Minor = line[:a], line[a+1:b], int(line[len(line)-1]-'0')
	if r.Fields, ok = appendFields(r.Fields, rest); !ok {
		return errHead
	}
	var upgrade []byte
	switching := false
	for i := range r.Fields {
		f := &r.Fields[i]
		switch f.Name {
		case Host:
			r.Host = f.Value
		case ContentLength:
			n, err := strconv.ParseInt(string(f.Value), 10, 64)
			if err != nil {
				return errHead
			}
			r.Framing, r.Length = ByLength, n
			if n == 0 {
				r.Framing = NoBody
			}
		case TransferEncoding:
			r.Framing = Chunked
		case Connection:
			switching = r.options.add(f.Value) || switching
		case Upgrade:
			upgrade = f.Value
			r.Upgrades++
		case Expect:
			r.Expect100 = r.Minor == 1 && EqualFold(f.Value, "100-continue")
		case TE:
			r.Trailers = r.Trailers || hasToken(f.Value, "trailers")
		}
	}
	if len(r.options.named) > maxOptions {
		return errOptions
	}
	r.Persist = r.options.persist(r.Minor)
	if switching && len(upgrade) > 0 && r.Minor == 1 {
		r.Upgrade = upgrade
	}
	return nil
}

// Parse takes apart one complete response head. isHead says that the request
// was a HEAD, whose answers have no body (RFC 9112 section 6.3). Lines may end
// in a bare line feed, as some small servers send (section 2.2); anything
// doubtful about the length is an error.
func (r *Response) Parse(head []byte, isHead bool) error {
	*r = Response{Fields: r.Fields[:0], options: options{named: r.options.named[:0]}}
	line, rest, ok := cutLine(head)
	if !ok || len(line) < len("HTTP/1.1 200") || string(line[:7]) != "HTTP/1." || line[8] != ' ' {
		return errStatusLine
	}
	if r.Minor = int(line[7] - '0'); r.Minor < 0 || r.Minor > 9 {
		return errStatusLine
	}
	for _, c := range line[9:12] {
		if !isDigit(c) {
			return errStatusLine
		}
		r.Status = r.Status*10 + int(c-'0')
	}
	if r.Status < 100 || len(line) > 12 && line[12] != ' ' || valueRun(line[12:]) != len(line)-12 {
		return errStatusLine
	}
	if r.Fields, ok = appendFields(r.Fields, rest); !ok {
		return errField
	}
	return r.frame(isHead)
}

// frame finds the end of the body and of the connection.
func (r *Response) frame(isHead bool) error {
	length, chunked, switching := int64(-1), false, false
	var upgrade []byte
	for i := range r.Fields {
		f := &r.Fields[i]
		if !plainField(f) {
			return errField
		}
		switch f.Name {
		case ContentLength:
			n, ok := parseLength(f.Value)
			if !ok || length >= 0 && n != length {
				return errFraming
			}
			length = n
		case TransferEncoding:
			if chunked || !EqualFold(f.Value, "chunked") {
				return errFraming
			}
			chunked = true
		case Connection:
			switching = r.options.add(f.Value) || switching
		case Upgrade:
			upgrade = f.Value
		case KeepAlive:
			r.IdleFor = idleFor(f.Value)
		}
	}
	r.Persist = r.options.persist(r.Minor)
	switch {
	case len(r.options.named) > maxOptions:
		return errOptions
	case chunked && length >= 0:
		return errFraming
	case r.Status == 101:
		if switching {
			r.Upgrade = upgrade
		}
	case isHead || r.Status < 200 || r.Status == 204 || r.Status == 304:
		if length > 0 {
			r.Length = length // of the body there would be
		}
	case chunked && r.Minor == 0:
		return errFraming
	case chunked:
		r.Framing = Chunked
	case length > 0:
		r.Framing, r.Length = ByLength, length
	case length < 0:
		r.Framing, r.Persist = UntilClose, false
	}
	return nil
}

// plainField refuses what would be read as something else further on.
func plainField(f *Field) bool {
	return len(f.Key) > 0 && run(f.Key, inToken) == len(f.Key) && valueRun(f.Value) == len(f.Value)
}

func parseLength(v []byte) (int64, bool) {
	if len(v) == 0 || len(v) > 18 {
		return 0, false
	}
	n := int64(0)
	for _, c := range v {
		if !isDigit(c) {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// cutLine splits off the first line, without its end.
func cutLine(b []byte) (line, rest []byte, ok bool) {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		return nil, nil, false
	}
	line, rest = b[:i], b[i+1:]
	if i > 0 && line[i-1] == '\r' {
		line = line[:i-1]
	}
	return line, rest, true
}

// maxFields bounds the fields of a head. A Follower has a limit of its own.
const maxFields = 1024

// appendFields takes field lines apart, up to the empty one.
func appendFields(fields []Field, b []byte) ([]Field, bool) {
	for {
		line, rest, ok := cutLine(b)
		if !ok {
			return fields, false
		}
		if len(line) == 0 {
			return fields, true
		}
		i := bytes.IndexByte(line, ':')
		if i <= 0 || line[0] == ' ' || line[0] == '\t' || len(fields) == maxFields {
			return fields, false
		}
		key := line[:i]
		fields = append(fields, Field{Name: nameOf(key), Key: key, Value: trim(line[i+1:])})
		b = rest
	}
}

// trim cuts white space off both ends (RFC 9110 section 5.6.3).
func trim(v []byte) []byte {
	for len(v) > 0 && (v[0] == ' ' || v[0] == '\t') {
		v = v[1:]
	}
	for len(v) > 0 && (v[len(v)-1] == ' ' || v[len(v)-1] == '\t') {
		v = v[:len(v)-1]
	}
	return v
}

// add reads a Connection field: upgrade is reported, tokens without a meaning
// of their own name fields. One more than maxOptions of them is kept.
func (o *options) add(v []byte) (upgrade bool) {
	for len(v) > 0 {
		var token []byte
		token, v = cutComma(v)
		switch {
		case len(token) == 0:
		case EqualFold(token, "close"):
			o.close = true
		case EqualFold(token, "keep-alive"):
			o.keep = true
		case EqualFold(token, "upgrade"):
			upgrade = true
		case len(o.named) <= maxOptions:
			o.named = append(o.named, token)
		}
	}
	return upgrade
}

// cutComma splits off the first element of a list, trimmed.
func cutComma(v []byte) (first, rest []byte) {
	if i := bytes.IndexByte(v, ','); i >= 0 {
		return trim(v[:i]), v[i+1:]
	}
	return trim(v), nil
}

// hasToken reports whether a comma-separated list holds a token; parameters
// after ";" do not count.
func hasToken(v []byte, lowered string) bool {
	for len(v) > 0 {
		var token []byte
		token, v = cutComma(v)
		if i := bytes.IndexByte(token, ';'); i >= 0 {
			token = token[:i]
		}
		if EqualFold(trim(token), lowered) {
			return true
		}
	}
	return false
}

// idleFor reads timeout=N out of a Keep-Alive field (RFC 2068 section
// 19.7.1.1), in seconds.
func idleFor(v []byte) int {
	const key = "timeout="
	for len(v) > 0 {
		var param []byte
		param, v = cutComma(v)
		if len(param) <= len(key) || !EqualFold(param[:len(key)], key) {
			continue
		}
		n := 0
		for _, c := range param[len(key):] {
			if !isDigit(c) || n > 1<<20 {
				break
			}
			n = n*10 + int(c-'0')
		}
		return n
	}
	return 0
}
