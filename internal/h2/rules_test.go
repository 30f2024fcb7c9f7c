package h2

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// Requests that are malformed (RFC 9113 section 8.1.1) are reset; the
// connection goes on.
func TestMalformedRequests(t *testing.T) {
	tests := []struct {
		name, section string
		end           bool
		fields        []string
	}{
		{"upper case name", "8.2.1", true, get("/", "X-Upper", "1")},
		{"empty name", "8.2.1", true, get("/", "", "1")},
		{"space in a name", "8.2.1", true, get("/", "a b", "1")},
		{"colon in a name", "8.2.1", true, get("/", "a:b", "1")},
		{"control character in a name", "8.2.1", true, get("/", "a\x01", "1")},
		{"obs-text in a name", "8.2.1", true, get("/", "\xe9", "1")},
		{"line feed in a value", "8.2.1", true, get("/", "a", "1\nb: 2")},
		{"carriage return in a value", "8.2.1", true, get("/", "a", "1\rb")},
		{"NUL in a value", "8.2.1", true, get("/", "a", "1\x002")},
		{"DEL in a value", "8.2.1", true, get("/", "a", "\x7f")},
		{"space before a value", "8.2.1", true, get("/", "a", " 1")},
		{"tab after a value", "8.2.1", true, get("/", "a", "1\t")},
		{"connection", "8.2.2", true, get("/", "connection", "close")},
		{"keep-alive", "8.2.2", true, get("/", "keep-alive", "timeout=5")},
		{"proxy-connection", "8.2.2", true, get("/", "proxy-connection", "close")},
		{"transfer-encoding", "8.2.2", false, post("/", "transfer-encoding", "chunked")},
		{"upgrade", "8.2.2", true, get("/", "upgrade", "websocket")},
		{"te that is not trailers", "8.2.2", true, get("/", "te", "gzip")},
		{"unknown pseudo-header", "8.3", true, get("/", ":foo", "1")},
		{"pseudo-header of responses", "8.3", true, get("/", ":status", "200")},
		{"extended connect without a setting", "RFC 8441 3", true, get("/", ":protocol", "websocket")},
		{"pseudo-header after a field", "8.3", true, []string{":method", "GET", ":scheme", "https", "a", "1", ":path", "/", ":authority", "a.example"}},
		{"two methods", "8.3.1", true, get("/", ":method", "GET")},
		{"two paths", "8.3.1", true, get("/", ":path", "/")},
		{"no method", "8.3.1", true, get("/")[2:]},
		{"no scheme", "8.3.1", true, []string{":method", "GET", ":authority", "a.example", ":path", "/"}},
		{"no path", "8.3.1", true, get("/")[:6]},
		{"empty path", "8.3.1", true, get("")},
		{"empty method", "8.3.1", true, []string{":method", "", ":scheme", "https", ":authority", "a.example", ":path", "/"}},
		{"space in the method", "8.3.1", true, []string{":method", "GET /", ":scheme", "https", ":authority", "a.example", ":path", "/"}},
		{"unknown scheme", "8.3.1", true, []string{":method", "GET", ":scheme", "ftp", ":authority", "a.example", ":path", "/"}},
		{"line feed in the path", "8.3.1", true, get("/\r\nhost: b")},
		{"host that disagrees", "8.3.1", true, get("/", "host", "b.example")},
		{"two hosts", "8.3.1", true, get("/", "host", "a.example", "host", "a.example")},
		{"connect with a path", "8.5", true, []string{":method", "CONNECT", ":scheme", "https", ":authority", "a.example", ":path", "/"}},
		{"content-length of letters", "8.1.1", false, post("/", "content-length", "1x")},
		{"negative content-length", "8.1.1", false, post("/", "content-length", "-1")},
		{"content-length over 2^63", "8.1.1", false, post("/", "content-length", "99999999999999999999")},
		{"two content-lengths", "8.1.1", false, post("/", "content-length", "1", "content-length", "1")},
		{"content-length without a body", "8.1.1", true, post("/", "content-length", "1")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rawOpen(t, Config{}, func(c *raw) {
				c.ask(1, tt.end, tt.fields...)
				c.expect("RST_STREAM 1 PROTOCOL_ERROR")
				c.ask(3, true, get("/")...)
				c.expect("HEADERS 3 :status=204 end")
				if !slices.Equal(c.sawAbuses(), []string{"malformed"}) {
					t.Errorf("abuses %q, want malformed; section %s", c.sawAbuses(), tt.section)
				}
			})
		})
	}
}

// Requests that are well formed and yet name nothing are answered.
func TestBadRequests(t *testing.T) {
	tests := []struct {
		name   string
		fields []string
		status int
	}{
		{"path without a slash", get("index.html"), 400},
		{"space in the path", get("/a b"), 400},
		{"fragment", get("/a#b"), 400},
		{"half an escape", get("/%4"), 400},
		{"no escape", get("/%zz"), 400},
		{"obs-text in the path", get("/\xe9"), 400},
		{"star without OPTIONS", get("*"), 400},
		{"user information", []string{":method", "GET", ":scheme", "https", ":authority", "me@a.example", ":path", "/"}, 400},
		{"no authority", []string{":method", "GET", ":scheme", "https", ":path", "/"}, 400},
		{"too many fields", get("/", slices.Repeat([]string{"a", "b"}, 130)...), 431},
		{"large fields", get("/", slices.Repeat([]string{"a", strings.Repeat("b", 1000)}, 33)...), 431},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rawOpen(t, Config{}, func(c *raw) {
				b := c.block(tt.fields...)
				first := min(len(b), maxFrame)
				c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b[:first], EndStream: true, EndHeaders: first == len(b)})
				for b = b[first:]; len(b) > 0; b = b[min(len(b), maxFrame):] {
					c.fr.WriteContinuation(1, len(b) <= maxFrame, b[:min(len(b), maxFrame)])
				}
				c.expect(fmt.Sprintf("HEADERS 1 :status=%d content-length=0 end", tt.status))
				c.ask(3, true, get("/")...)
				c.expect("HEADERS 3 :status=204 end")
			})
		})
	}
}

// What is allowed and unusual.
func TestUnusualRequests(t *testing.T) {
	var got *Stream
	cfg := Config{Handler: func(s *Stream) {
		got = &Stream{Method: s.Method, Scheme: s.Scheme, Authority: s.Authority, Path: s.Path,
			Fields: slices.Clone(s.Fields), ContentLength: s.ContentLength}
		s.WriteHead(204, true)
	}}
	tests := []struct {
		name   string
		fields []string
		want   string
	}{
		{"options of all", []string{":method", "OPTIONS", ":scheme", "https", ":authority", "a.example", ":path", "*"}, "OPTIONS https a.example * [] 0"},
		{"host only", []string{":method", "GET", ":scheme", "https", ":path", "/", "host", "b.example:8443"}, "GET https b.example:8443 / [] 0"},
		{"host that agrees", get("/", "host", "A.example"), "GET https a.example / [] 0"},
		{"connect", []string{":method", "CONNECT", ":authority", "a.example:443"}, "CONNECT  a.example:443  [] 0"},
		{"cookie crumbs", get("/", "cookie", "a=1", "x", "", "cookie", "b=2"), "GET https a.example / [{cookie a=1; b=2} {x }] 0"},
		{"te", get("/", "te", "trailers"), "GET https a.example / [{te trailers}] 0"},
		{"query and escapes", get("/a%2Fb?c=%20&d"), "GET https a.example /a%2Fb?c=%20&d [] 0"},
		{"obs-text in a value", get("/", "a", "\xe9"), "GET https a.example / [{a \xe9}] 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rawOpen(t, cfg, func(c *raw) {
				c.ask(1, true, tt.fields...)
				c.expect("HEADERS 1 :status=204 end")
				s := fmt.Sprint(got.Method, " ", got.Scheme, " ", got.Authority, " ", got.Path, " ", got.Fields, " ", got.ContentLength)
				if s != tt.want {
					t.Errorf("got  %s\nwant %s", s, tt.want)
				}
			})
		})
	}
}

// connError is a breach of the protocol and its code.
type connError struct {
	name, section string
	code          ErrCode
	send          func(c *raw)
}

func u32(v uint32) []byte { return []byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)} }

// Connection errors (RFC 9113 section 5.4.1): GOAWAY with a code, then the
// connection is closed.
func TestConnectionErrors(t *testing.T) {
	testConnErrors(t, []connError{
		{"frame too long", "4.2", FrameSizeError, func(c *raw) { c.frame(frameData, 0, 1, make([]byte, maxFrame+1)...) }},
		{"block that does not decode", "4.3", CompressionError, func(c *raw) { c.frame(frameHeaders, 5, 1, 0xff, 0xff, 0xff, 0xff) }},
		{"block that ends within a field", "4.3", CompressionError, func(c *raw) { c.frame(frameHeaders, 5, 1, 0x40, 5, 'a') }},
		{"table larger than announced", "RFC 7541 6.3", CompressionError, func(c *raw) { c.frame(frameHeaders, 5, 1, 0x3f, 0xff, 0xff, 3) }},
		{"DATA between HEADERS and CONTINUATION", "4.3", ProtocolError, func(c *raw) {
			c.frame(frameHeaders, 1, 1, c.block(get("/")...)...)
			c.frame(frameData, 0, 1)
		}},
		{"CONTINUATION of another stream", "6.10", ProtocolError, func(c *raw) {
			c.frame(frameHeaders, 1, 1, c.block(get("/")...)...)
			c.frame(frameContinuation, 4, 3)
		}},
		{"CONTINUATION alone", "6.10", ProtocolError, func(c *raw) { c.frame(frameContinuation, 4, 1) }},
		{"unknown frame within a block", "4.3", ProtocolError, func(c *raw) {
			c.frame(frameHeaders, 1, 1, c.block(get("/")...)...)
			c.frame(0x77, 0, 0)
		}},
		{"even stream", "5.1.1", ProtocolError, func(c *raw) { c.ask(2, true, get("/")...) }},
		{"stream 0", "6.2", ProtocolError, func(c *raw) { c.ask(0, true, get("/")...) }},
		{"stream below an earlier one", "5.1.1", ProtocolError, func(c *raw) {
			c.ask(5, true, get("/hold")...)
			c.ask(3, true, get("/")...)
		}},
		{"HEADERS after the end", "5.1", StreamClosed, func(c *raw) {
			c.ask(1, true, get("/hold")...)
			c.ask(1, true, "a", "b")
		}},
		{"HEADERS on a closed stream", "5.1", StreamClosed, func(c *raw) {
			c.ask(1, true, get("/")...)
			synctest.Wait()
			c.ask(1, true, get("/")...)
		}},
		{"DATA on a closed stream", "5.1", StreamClosed, func(c *raw) {
			c.ask(1, true, get("/")...)
			synctest.Wait()
			c.frame(frameData, 0, 1, 'x')
		}},
		{"DATA on an idle stream", "5.1", ProtocolError, func(c *raw) { c.frame(frameData, 0, 1, 'x') }},
		{"DATA on stream 0", "6.1", ProtocolError, func(c *raw) { c.frame(frameData, 0, 0, 'x') }},
		{"DATA padding too long", "6.1", ProtocolError, func(c *raw) {
			c.ask(1, false, post("/count")...)
			c.frame(frameData, flagPadded, 1, 3, 'x', 0)
		}},
		{"DATA without its padding length", "6.1", FrameSizeError, func(c *raw) {
			c.ask(1, false, post("/count")...)
			c.frame(frameData, flagPadded, 1)
		}},
		{"HEADERS padding too long", "6.2", ProtocolError, func(c *raw) { c.frame(frameHeaders, 4|flagPadded, 1, 9, 0x82) }},
		{"HEADERS without its priority", "6.2", FrameSizeError, func(c *raw) { c.frame(frameHeaders, 4|flagPriority, 1, 1, 2) }},
	})
}

// The same for frames that belong to the connection.
func TestControlFrameErrors(t *testing.T) {
	testConnErrors(t, []connError{
		{"PRIORITY without a stream", "6.3", ProtocolError, func(c *raw) { c.frame(framePriority, 0, 0, 0, 0, 0, 0, 1) }},
		{"PRIORITY too short", "6.3", FrameSizeError, func(c *raw) { c.frame(framePriority, 0, 1, 0, 0) }},
		{"RST_STREAM too short", "6.4", FrameSizeError, func(c *raw) { c.frame(frameReset, 0, 1, 0) }},
		{"RST_STREAM without a stream", "6.4", ProtocolError, func(c *raw) { c.frame(frameReset, 0, 0, u32(8)...) }},
		{"RST_STREAM on an idle stream", "6.4", ProtocolError, func(c *raw) { c.frame(frameReset, 0, 1, u32(8)...) }},
		{"SETTINGS on a stream", "6.5", ProtocolError, func(c *raw) { c.frame(frameSettings, 0, 1) }},
		{"SETTINGS of 5 bytes", "6.5", FrameSizeError, func(c *raw) { c.frame(frameSettings, 0, 0, 0, 1, 0, 0, 0) }},
		{"SETTINGS ack with a payload", "6.5", FrameSizeError, func(c *raw) { c.frame(frameSettings, flagAck, 0, 0, 1, 0, 0, 0, 0) }},
		{"ENABLE_PUSH of 2", "6.5.2", ProtocolError, func(c *raw) { c.frame(frameSettings, 0, 0, 0, 2, 0, 0, 0, 2) }},
		{"INITIAL_WINDOW_SIZE of 2^31", "6.5.2", FlowControlError, func(c *raw) { c.frame(frameSettings, 0, 0, 0, 4, 0x80, 0, 0, 0) }},
		{"MAX_FRAME_SIZE too small", "6.5.2", ProtocolError, func(c *raw) { c.frame(frameSettings, 0, 0, 0, 5, 0, 0, 0x3f, 0xff) }},
		{"MAX_FRAME_SIZE too large", "6.5.2", ProtocolError, func(c *raw) { c.frame(frameSettings, 0, 0, 0, 5, 1, 0, 0, 0) }},
		{"INITIAL_WINDOW_SIZE that overflows", "6.9.2", FlowControlError, func(c *raw) {
			c.ask(1, true, get("/hold")...)
			c.frame(frameWindow, 0, 1, u32(maxWindow-firstWindow)...)
			c.frame(frameSettings, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff)
		}},
		{"PUSH_PROMISE", "6.6", ProtocolError, func(c *raw) { c.frame(framePush, 4, 1, 0, 0, 0, 2) }},
		{"PING on a stream", "6.7", ProtocolError, func(c *raw) { c.frame(framePing, 0, 1, make([]byte, 8)...) }},
		{"PING of 7 bytes", "6.7", FrameSizeError, func(c *raw) { c.frame(framePing, 0, 0, make([]byte, 7)...) }},
		{"GOAWAY on a stream", "6.8", ProtocolError, func(c *raw) { c.frame(frameGoAway, 0, 1, make([]byte, 8)...) }},
		{"GOAWAY too short", "6.8", FrameSizeError, func(c *raw) { c.frame(frameGoAway, 0, 0, 1, 2, 3, 4) }},
		{"WINDOW_UPDATE too short", "6.9", FrameSizeError, func(c *raw) { c.frame(frameWindow, 0, 0, 0) }},
		{"WINDOW_UPDATE of 0", "6.9", ProtocolError, func(c *raw) { c.frame(frameWindow, 0, 0, u32(0)...) }},
		{"WINDOW_UPDATE on an idle stream", "6.9", ProtocolError, func(c *raw) { c.frame(frameWindow, 0, 1, u32(1)...) }},
		{"window of the connection overflows", "6.9.1", FlowControlError, func(c *raw) { c.frame(frameWindow, 0, 0, u32(maxWindow)...) }},
		{"DATA beyond the connection's window", "6.9.1", FlowControlError, func(c *raw) {
			for id := uint32(1); id < 20; id += 2 {
				c.ask(id, false, post("/hold")...)
				for range 8 {
					c.frame(frameData, 0, id, make([]byte, 8192)...)
				}
			}
		}},
	})
}

func testConnErrors(t *testing.T, tests []connError) {
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rawOpen(t, Config{ConnWindow: 100_000}, func(c *raw) {
				tt.send(c)
				got := c.take()
				if len(got) == 0 || !strings.HasPrefix(got[len(got)-1], "GOAWAY") || !strings.HasSuffix(got[len(got)-1], " "+tt.code.String()) {
					t.Errorf("got %q, want GOAWAY %v; section %s", got, tt.code, tt.section)
				}
				if !c.ended(true) {
					t.Error("connection is open")
				}
			})
		})
	}
}

// The beginning of a connection (RFC 9113 section 3.4).
func TestPreface(t *testing.T) {
	tests := []struct {
		name string
		send func(c *raw)
	}{
		{"HTTP/1.1", func(c *raw) { io.WriteString(c.nc, "GET / HTTP/1.1\r\nhost: a\r\n\r\n") }},
		{"another method", func(c *raw) { io.WriteString(c.nc, "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n") }},
		{"PING first", func(c *raw) {
			io.WriteString(c.nc, preface)
			c.frame(framePing, 0, 0, make([]byte, 8)...)
		}},
		{"SETTINGS ack first", func(c *raw) {
			io.WriteString(c.nc, preface)
			c.frame(frameSettings, flagAck, 0)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rawServe(t, Config{}, func(c *raw) {
				tt.send(c)
				c.expect("SETTINGS", fmt.Sprintf("WINDOW_UPDATE 0 %d", DefaultConnWindow-firstWindow), "GOAWAY 0 PROTOCOL_ERROR")
			})
		})
	}
	t.Run("a byte at a time", func(t *testing.T) {
		rawServe(t, Config{}, func(c *raw) {
			var b bytes.Buffer
			b.WriteString(preface)
			fr := http2.NewFramer(&b, nil)
			fr.WriteSettings()
			fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block(post("/count")...), EndHeaders: true})
			fr.WriteDataPadded(1, true, []byte("hello"), make([]byte, 3))
			for _, x := range b.Bytes() {
				c.nc.Write([]byte{x})
			}
			got := c.take()
			if want := []string{"HEADERS 1 :status=200", "DATA 1 1 end"}; !slices.Equal(got[len(got)-2:], want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	})
}

// Stream errors (RFC 9113 section 5.4.2) end one stream.
func TestStreamErrors(t *testing.T) {
	tests := []struct {
		name, section string
		send          func(c *raw)
		want          []string
	}{
		{"DATA after the end", "5.1", func(c *raw) {
			c.ask(1, true, get("/hold")...)
			c.frame(frameData, 0, 1, 'x')
		}, []string{"RST_STREAM 1 STREAM_CLOSED"}},
		{"depends on itself", "5.3.1 of RFC 7540", func(c *raw) {
			c.frame(frameHeaders, 5|flagPriority, 1, append([]byte{0, 0, 0, 1, 9}, c.block(get("/")...)...)...)
		}, []string{"RST_STREAM 1 PROTOCOL_ERROR"}},
		{"body longer than content-length", "8.1.1", func(c *raw) {
			c.ask(1, false, post("/count", "content-length", "3")...)
			c.frame(frameData, 0, 1, 'a', 'b', 'c', 'd')
		}, []string{"RST_STREAM 1 PROTOCOL_ERROR"}},
		{"body shorter than content-length", "8.1.1", func(c *raw) {
			c.ask(1, false, post("/count", "content-length", "3")...)
			c.frame(frameData, 1, 1, 'a', 'b')
		}, []string{"RST_STREAM 1 PROTOCOL_ERROR"}},
		{"trailers without an end", "8.1", func(c *raw) {
			c.ask(1, false, post("/count")...)
			c.ask(1, false, "a", "b")
		}, []string{"RST_STREAM 1 PROTOCOL_ERROR"}},
		{"pseudo-header in trailers", "8.1", func(c *raw) {
			c.ask(1, false, post("/count")...)
			c.ask(1, true, ":method", "GET")
		}, []string{"RST_STREAM 1 PROTOCOL_ERROR"}},
		{"framing in trailers", "RFC 9110 6.5.1", func(c *raw) {
			c.ask(1, false, post("/count")...)
			c.ask(1, true, "content-length", "0")
		}, []string{"RST_STREAM 1 PROTOCOL_ERROR"}},
		{"WINDOW_UPDATE of 0", "6.9", func(c *raw) {
			c.ask(1, true, get("/hold")...)
			c.frame(frameWindow, 0, 1, u32(0)...)
		}, []string{"RST_STREAM 1 PROTOCOL_ERROR"}},
		{"window overflows", "6.9.1", func(c *raw) {
			c.ask(1, true, get("/hold")...)
			c.frame(frameWindow, 0, 1, u32(maxWindow)...)
		}, []string{"RST_STREAM 1 FLOW_CONTROL_ERROR"}},
		{"DATA beyond the stream's window", "6.9.1", func(c *raw) {
			c.ask(1, false, post("/hold")...)
			c.frame(frameData, 0, 1, make([]byte, 16000)...)
			c.frame(frameData, 0, 1, make([]byte, 16000)...)
		}, []string{"RST_STREAM 1 FLOW_CONTROL_ERROR"}},
		{"more streams than announced", "5.1.2", func(c *raw) {
			c.ask(1, true, get("/hold")...)
			c.ask(3, true, get("/hold")...)
			c.ask(5, true, get("/hold")...)
		}, []string{"RST_STREAM 5 REFUSED_STREAM"}},
		{"answered before its body came", "8.1", func(c *raw) {
			c.ask(1, false, post("/early")...)
			synctest.Wait()
			c.frame(frameData, 0, 1, 'x') // was on its way
			pass(drainTime + time.Millisecond)
			c.frame(frameData, 0, 1, 'x')
			c.ask(1, true, "a", "b")
		}, []string{"HEADERS 1 :status=200 end", "RST_STREAM 1 NO_ERROR"}},
		{"answered before its body ended", "8.1", func(c *raw) {
			c.ask(1, false, post("/early")...)
			synctest.Wait()
			c.ask(3, false, post("/early")...)
			synctest.Wait()
			c.ask(5, false, post("/early")...) // refused: both are still open
			synctest.Wait()
			c.frame(frameData, 1, 1, 'x')
			c.fr.WriteRSTStream(3, http2.ErrCodeNo)
			pass(drainTime + time.Millisecond)
		}, []string{"HEADERS 1 :status=200 end", "HEADERS 3 :status=200 end", "RST_STREAM 5 REFUSED_STREAM", "RST_STREAM 1 NO_ERROR"}},
		{"no response at all", "5.4.2", func(c *raw) { c.ask(1, true, get("/nothing")...) }, []string{"RST_STREAM 1 INTERNAL_ERROR"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := Config{StreamWindow: 20_000, MaxStreams: 2, Handler: func(s *Stream) {
				if s.Path != "/nothing" {
					rawHandler(s)
				}
			}}
			rawOpen(t, cfg, func(c *raw) {
				tt.send(c)
				c.expect(tt.want...)
				c.frame(framePing, 0, 0, []byte("are you?")...)
				c.expect(`PING "are you?" ack=true`)
			})
		})
	}
}
