// Package h2 is the HTTP/2 server side of one connection (RFC 9113): frames,
// header compression, streams and flow control, and the limits that keep a
// hostile client cheap. It knows no policy: what a request means is decided by
// Config.Handler.
//
// A connection costs one goroutine, the caller's, which reads. Each request
// runs on a goroutine taken from the Server's idle ones. Responses of all
// streams go into one buffer; whoever finds nobody writing writes it, so that
// answers that are ready together leave in one TLS record and one system call.
// The reader itself never writes while it serves: two peers that both stop
// reading until their writes get through would wait for each other.
//
// Server push, priorities (RFC 9113 section 5.3 deprecates them) and extended
// CONNECT are not offered.
package h2

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// What a Config field of zero means.
const (
	DefaultMaxStreams    = 128
	DefaultMaxHeaderList = 32 << 10  // bytes
	DefaultMaxFields     = 128       // header fields of a request
	DefaultStreamWindow  = 256 << 10 // bytes
	DefaultConnWindow    = 1 << 20   // bytes
	DefaultIdleTimeout   = 60 * time.Second
	DefaultHeadTimeout   = 10 * time.Second
	DefaultStallTimeout  = 30 * time.Second
)

// Bounds without a setting.
const (
	maxFrame       = 16 << 10 // bytes of a frame's payload, both ways: the least RFC 9113 section 4.2 allows to announce
	maxContinue    = 8        // CONTINUATION frames of one header block
	maxPeerTable   = 4096     // bytes of the dynamic tables (RFC 7541 section 4.2)
	maxWindow      = 1<<31 - 1
	firstWindow    = 1<<16 - 1 // RFC 9113 section 6.9.2
	highWater      = 64 << 10  // bytes waiting to be written above which streams wait
	controlBacklog = 64 << 10  // further bytes the answers to control frames may take
	tinyUpdate     = 1 << 10   // bytes; a WINDOW_UPDATE below it is charged
)

// Budget is how much of something a connection may do: Burst at once, refilled
// by PerSecond.
type Budget struct {
	Burst     int
	PerSecond int
}

// Config is what a Server is made with. It is not changed afterwards.
type Config struct {
	// Handler answers one request. It owns the Stream until it returns; a
	// response that is not complete by then is reset. It runs on its own
	// goroutine and must not panic.
	Handler func(*Stream)

	// MaxStreams is how many requests a connection may have open
	// (SETTINGS_MAX_CONCURRENT_STREAMS), and how many handlers run for it.
	// Default 128.
	MaxStreams uint32

	// MaxHeaderList bounds a request's header fields, counted as RFC 9113
	// section 6.5.2 does: name, value and 32 bytes each. A larger request is
	// answered 431 without the handler. Default 32 KiB.
	MaxHeaderList int

	// MaxFields is the largest number of header fields, and of trailer
	// fields. Default 128. More is answered 431.
	MaxFields int

	// StreamWindow and ConnWindow are how many body bytes may wait unread for
	// one request and for all requests of a connection. Defaults 256 KiB and
	// 1 MiB. ConnWindow is at least 65535, what the RFC gives every client.
	StreamWindow int
	ConnWindow   int

	// IdleTimeout ends a connection without an open request. PING does not
	// extend it. Default 60 s; negative: never.
	IdleTimeout time.Duration

	// HeadTimeout is the longest time to the first request of a connection,
	// and from the first to the last byte of a request's head. Default 10 s;
	// negative: none.
	HeadTimeout time.Duration

	// StallTimeout is how long a body may stand still: a request body of
	// which nothing comes while the handler waits, a response for which the
	// client opens no window, a connection that takes no bytes. Default 30 s;
	// negative: none. Stream.SetStall changes the first two.
	StallTimeout time.Duration

	// Resets is charged for requests that the client gives up, or makes us
	// give up, before they were answered (CVE-2023-44487, CVE-2025-8671).
	// Every request that was answered gives one back. Default 200 and 10 a
	// second.
	Resets Budget

	// Control is charged for frames that carry no request: PING, SETTINGS,
	// PRIORITY, unknown ones, empty DATA, small WINDOW_UPDATEs, and frames of
	// closed streams. Every request and every DATA frame of a response gives
	// some back. Default 1000 and 100 a second.
	Control Budget

	// OnAbuse, if not nil, is told what a connection did that no honest
	// client does. It is called from the connection's goroutines, must not
	// block, and may use no more of the Conn than User and NetConn.
	OnAbuse func(*Conn, Abuse)
}

// withDefaults fills in what is zero.
func (c Config) withDefaults() Config {
	if c.MaxStreams == 0 {
		c.MaxStreams = DefaultMaxStreams
	}
	number := func(v *int, def, low, high int) {
		if *v == 0 {
			*v = def
		}
		*v = min(max(*v, low), high)
	}
	number(&c.MaxHeaderList, DefaultMaxHeaderList, 1<<10, 1<<20)
	number(&c.MaxFields, DefaultMaxFields, 8, 1<<16)
	number(&c.StreamWindow, DefaultStreamWindow, 1<<10, 16<<20)
	number(&c.ConnWindow, DefaultConnWindow, firstWindow, 64<<20)
	duration := func(v *time.Duration, def time.Duration) {
		if *v == 0 {
			*v = def
		}
		*v = max(*v, 0)
	}
	duration(&c.IdleTimeout, DefaultIdleTimeout)
	duration(&c.HeadTimeout, DefaultHeadTimeout)
	duration(&c.StallTimeout, DefaultStallTimeout)
	if c.Resets == (Budget{}) {
		c.Resets = Budget{Burst: 200, PerSecond: 10}
	}
	if c.Control == (Budget{}) {
		c.Control = Budget{Burst: 1000, PerSecond: 100}
	}
	return c
}

// Server is what connections share: settings, buffers, and goroutines that
// wait for work. It is safe for concurrent use.
type Server struct {
	cfg     Config
	streams sync.Pool // of *Stream
	bufs    buffers
	workers workers
}

// NewServer returns a Server. It panics without a handler. It starts no
// goroutine; Close ends those that its connections leave idle.
func NewServer(cfg Config) *Server {
	if cfg.Handler == nil {
		panic("h2: Config.Handler is nil")
	}
	return &Server{cfg: cfg.withDefaults()}
}

// Close ends the goroutines that wait for work. Call it when every Serve has
// returned; connections served later start goroutines that end with their
// request.
func (s *Server) Close() { s.workers.close() }

// Abuse is a kind of misbehaviour.
type Abuse uint8

// The kinds. All but AbuseMalformed and AbuseHeaderList end the connection.
const (
	AbuseResets       Abuse = iota // more resets than Config.Resets
	AbuseControl                   // more frames without a request than Config.Control
	AbuseContinuation              // a header block of too many frames, or that goes on past every limit
	AbuseHeaderList                // a request answered 431
	AbuseMalformed                 // a request that RFC 9113 section 8.1.1 calls malformed
	AbuseProtocol                  // any other connection error
	AbuseNoRequest                 // no request came within Config.HeadTimeout
	AbuseSlowHead                  // a head was not complete within Config.HeadTimeout
	AbuseSlowRead                  // the connection took no bytes for Config.StallTimeout
	abuses
)

// String returns a word for logs and labels; the set is closed.
func (a Abuse) String() string {
	names := [abuses]string{"resets", "control_frames", "continuation", "header_list", "malformed",
		"protocol", "no_request", "slow_head", "slow_read"}
	if a < abuses {
		return names[a]
	}
	return "unknown"
}

// ErrCode is an error code of RFC 9113 section 7.
type ErrCode uint32

// The error codes.
const (
	NoError            ErrCode = 0x0
	ProtocolError      ErrCode = 0x1
	InternalError      ErrCode = 0x2
	FlowControlError   ErrCode = 0x3
	SettingsTimeout    ErrCode = 0x4
	StreamClosed       ErrCode = 0x5
	FrameSizeError     ErrCode = 0x6
	RefusedStream      ErrCode = 0x7
	Cancel             ErrCode = 0x8
	CompressionError   ErrCode = 0x9
	ConnectError       ErrCode = 0xa
	EnhanceYourCalm    ErrCode = 0xb
	InadequateSecurity ErrCode = 0xc
	HTTP11Required     ErrCode = 0xd
)

// String returns the RFC's name of the code.
func (e ErrCode) String() string {
	names := [...]string{"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT",
		"STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR",
		"ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"}
	if int(e) < len(names) {
		return names[e]
	}
	return fmt.Sprintf("error code %#x", uint32(e))
}

// ConnError is a connection error (RFC 9113 section 5.4.1): Serve sent Code in
// a GOAWAY frame and closed the connection. Reason holds nothing the client
// sent.
type ConnError struct {
	Code   ErrCode
	Reason string
}

func (e *ConnError) Error() string { return "h2: " + e.Code.String() + ": " + e.Reason }

// StreamError is why a stream ended early.
type StreamError struct {
	Code   ErrCode
	Remote bool // the client reset it
}

func (e *StreamError) Error() string {
	if e.Remote {
		return "h2: stream reset by the client: " + e.Code.String()
	}
	return "h2: stream reset: " + e.Code.String()
}

// Errors of streams, beside *StreamError.
var (
	// ErrClosed: the connection ended.
	ErrClosed = errors.New("h2: connection closed")
	// ErrStalled: the body stood still for the stall timeout; the stream was
	// reset.
	ErrStalled = errors.New("h2: stream stood still for the stall timeout")
	// ErrUnwanted: StopBody was called.
	ErrUnwanted = errors.New("h2: the rest of the request body is not wanted")
	// ErrHeadSent: the response head is on its way already.
	ErrHeadSent = errors.New("h2: response head was sent before")
	// ErrNoHead: a body or trailers came before the response head.
	ErrNoHead = errors.New("h2: response body before the head")
	// ErrEnded: the response is complete already.
	ErrEnded = errors.New("h2: response is complete")
	// ErrNoBody: this response cannot have a body (RFC 9110 section 6.4.1).
	ErrNoBody = errors.New("h2: response to HEAD, 204 or 304 with a body")
	// ErrLength: the body is not as long as its content-length; the stream
	// was reset.
	ErrLength = errors.New("h2: response body is not as long as its content-length")
	// ErrField: a response field has a name or value that HTTP does not allow.
	ErrField = errors.New("h2: response field with a character that HTTP does not allow")
	// ErrStatus: not a status for this place.
	ErrStatus = errors.New("h2: response status out of place")
)
