package http1

// Reason says why a stream was refused. The set is closed: String is fit for
// a metric label.
type Reason uint8

// The reasons. The zero value means none.
const (
	ok Reason = iota

	BareLF     // line feed without carriage return
	BareCR     // carriage return without line feed
	EmptyLines // more than one empty line before a request line

	BadRequestLine     // not exactly "method SP target SP version"
	RequestLineTooLong // the limit for the head ended within the request line
	BadMethod          // a byte that no method has
	MethodTooLong      // over 32 bytes
	BadTarget          // none of the four forms, or a byte that is not allowed in it
	MissingVersion     // the line ends after the target, as in HTTP/0.9
	UnsupportedVersion // not HTTP/1.0 or HTTP/1.1

	LeadingSpace     // white space before the first header field
	ObsFold          // a field continued on the next line
	EmptyName        // a field line that begins with its colon
	BadName          // a byte that no field name has, or no colon
	SpaceBeforeColon // white space between name and colon
	BadValue         // a control character in a value
	TooManyFields    // more fields than the limit
	HeadTooLong      // a head larger than the limit

	MissingHost   // no Host field, in HTTP/1.0 too
	DuplicateHost // more than one Host field
	BadHost       // not a host with an optional port
	HostMismatch  // Host differs from the authority in the target

	BadLength         // Content-Length is not one number below 2^63
	DuplicateLength   // more than one Content-Length field
	LengthAndCoding   // Content-Length and Transfer-Encoding
	UnsupportedCoding // Transfer-Encoding is not exactly "chunked"
	DuplicateCoding   // more than one Transfer-Encoding field
	CodingInHTTP10    // Transfer-Encoding in HTTP/1.0
	ConnectContent    // CONNECT with a body

	BadChunkSize     // not hexadecimal digits alone
	ChunkTooLarge    // over 16 digits, or 2^63 and more
	BadChunkExt      // a control or non-ASCII character in a chunk extension
	ChunkExtTooLong  // over 256 bytes in a line, or over 4 KiB in a body
	BadChunkEnd      // chunk data not followed by CRLF
	ForbiddenTrailer // a trailer that would change framing or destination
	TrailerTooLong   // a trailer section larger than the limit

	reasonCount
)

// reasons describes each Reason: its name, the status to answer with, and a
// sentence for people.
var reasons = [reasonCount]struct {
	name   string
	status int
	text   string
}{
	ok:                 {"none", 0, "nothing is wrong"},
	BareLF:             {"bare_lf", 400, "line feed without carriage return (RFC 9112 section 2.2)"},
	BareCR:             {"bare_cr", 400, "carriage return without line feed (RFC 9112 section 2.2)"},
	EmptyLines:         {"empty_lines", 400, "more than one empty line before the request line (RFC 9112 section 2.2)"},
	BadRequestLine:     {"bad_request_line", 400, "request line is not method, target and version with one space between (RFC 9112 section 3)"},
	RequestLineTooLong: {"request_line_too_long", 414, "request line is longer than the limit"},
	BadMethod:          {"bad_method", 400, "method is not a token (RFC 9110 section 9.1)"},
	MethodTooLong:      {"method_too_long", 501, "method is longer than 32 bytes (RFC 9112 section 3)"},
	BadTarget:          {"bad_target", 400, "request target has none of the four forms (RFC 9112 section 3.2)"},
	MissingVersion:     {"missing_version", 400, "request line without a version, as in HTTP/0.9"},
	UnsupportedVersion: {"unsupported_version", 505, "version is neither HTTP/1.0 nor HTTP/1.1"},
	LeadingSpace:       {"leading_space", 400, "white space before the first header field (RFC 9112 section 2.2)"},
	ObsFold:            {"obs_fold", 400, "header field continued on the next line (RFC 9112 section 5.2)"},
	EmptyName:          {"empty_name", 400, "header field without a name"},
	BadName:            {"bad_name", 400, "header field name is not a token, or has no colon (RFC 9112 section 5)"},
	SpaceBeforeColon:   {"space_before_colon", 400, "white space between field name and colon (RFC 9112 section 5.1)"},
	BadValue:           {"bad_value", 400, "control character in a field value (RFC 9110 section 5.5)"},
	TooManyFields:      {"too_many_fields", 431, "more header fields than the limit"},
	HeadTooLong:        {"head_too_long", 431, "request head is larger than the limit"},
	MissingHost:        {"missing_host", 400, "no Host field (RFC 9112 section 3.2)"},
	DuplicateHost:      {"duplicate_host", 400, "more than one Host field (RFC 9112 section 3.2)"},
	BadHost:            {"bad_host", 400, "Host is not a host with an optional port (RFC 9110 section 7.2)"},
	HostMismatch:       {"host_mismatch", 400, "Host differs from the authority in the target (RFC 9112 section 3.2)"},
	BadLength:          {"bad_length", 400, "Content-Length is not one number below 2^63 (RFC 9112 section 6.3)"},
	DuplicateLength:    {"duplicate_length", 400, "more than one Content-Length field (RFC 9112 section 6.3)"},
	LengthAndCoding:    {"length_and_coding", 400, "both Content-Length and Transfer-Encoding (RFC 9112 section 6.1)"},
	UnsupportedCoding:  {"unsupported_coding", 501, "Transfer-Encoding is not chunked and nothing else (RFC 9112 section 6.1)"},
	DuplicateCoding:    {"duplicate_coding", 400, "more than one Transfer-Encoding field (RFC 9112 section 6.1)"},
	CodingInHTTP10:     {"coding_in_http10", 400, "Transfer-Encoding in an HTTP/1.0 request (RFC 9112 section 6.1)"},
	ConnectContent:     {"connect_content", 400, "CONNECT with a body (RFC 9110 section 9.3.6)"},
	BadChunkSize:       {"bad_chunk_size", 400, "chunk size is not hexadecimal digits alone (RFC 9112 section 7.1)"},
	ChunkTooLarge:      {"chunk_too_large", 400, "chunk size over 16 digits, or 2^63 and more (RFC 9112 section 7.1)"},
	BadChunkExt:        {"bad_chunk_ext", 400, "control or non-ASCII character in a chunk extension (RFC 9112 section 7.1.1)"},
	ChunkExtTooLong:    {"chunk_ext_too_long", 400, "chunk extensions over 256 bytes in a line or 4 KiB in a body"},
	BadChunkEnd:        {"bad_chunk_end", 400, "chunk data not followed by CRLF (RFC 9112 section 7.1)"},
	ForbiddenTrailer:   {"forbidden_trailer", 400, "Host, Content-Length or Transfer-Encoding as a trailer (RFC 9110 section 6.5.1)"},
	TrailerTooLong:     {"trailer_too_long", 431, "trailer section is larger than the limit"},
}

// String is the reason's name in snake_case.
func (r Reason) String() string {
	if r >= reasonCount {
		return "unknown"
	}
	return reasons[r].name
}

// Status is the status to answer with: 400, 414, 431, 501 or 505.
func (r Reason) Status() int {
	if r >= reasonCount {
		return 400
	}
	return reasons[r].status
}

// Reasons lists every reason, for metrics that want all labels from the start.
func Reasons() []Reason {
	all := make([]Reason, 0, reasonCount-1)
	for r := ok + 1; r < reasonCount; r++ {
		all = append(all, r)
	}
	return all
}

// SyntaxError refuses a stream. It carries nothing that the client sent.
type SyntaxError struct {
	Reason Reason
	Status int  // the status to answer with before closing
	InBody bool // within a body or its trailers, so a request is being served
}

func (e *SyntaxError) Error() string {
	return "HTTP/1.1 request: " + reasons[min(e.Reason, reasonCount-1)].text
}
