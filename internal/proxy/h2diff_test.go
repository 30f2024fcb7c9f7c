package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2Bytes is what a client sends on a connection, frame by frame. No frame is
// refused for being wrong.
type h2Bytes struct {
	bytes.Buffer
	*http2.Framer
	enc   *hpack.Encoder
	block bytes.Buffer
}

// h2Wire makes the bytes of a story: the preface, SETTINGS, and what tell adds.
func h2Wire(tell func(b *h2Bytes)) []byte {
	b := new(h2Bytes)
	b.Framer = http2.NewFramer(&b.Buffer, nil)
	b.AllowIllegalWrites = true
	b.enc = hpack.NewEncoder(&b.block)
	b.WriteString(http2.ClientPreface)
	_ = b.WriteSettings() // a buffer takes all, here and below
	tell(b)
	return b.Bytes()
}

// fields encodes "name=value" fields.
func (b *h2Bytes) fields(all ...string) []byte {
	b.block.Reset()
	for _, f := range all {
		at := strings.Index(f[1:], "=") + 1 // a pseudo name begins with a colon
		_ = b.enc.WriteField(hpack.HeaderField{Name: f[:at], Value: f[at+1:]})
	}
	return bytes.Clone(b.block.Bytes())
}

// ask sends HEADERS for a target, with more fields.
func (b *h2Bytes) ask(id uint32, end bool, method, path string, more ...string) {
	b.head(id, end, append([]string{":method=" + method, ":scheme=https", ":authority=a.test", ":path=" + path}, more...)...)
}

// head sends HEADERS with these fields alone.
func (b *h2Bytes) head(id uint32, end bool, all ...string) {
	_ = b.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b.fields(all...), EndHeaders: true, EndStream: end})
}

func (b *h2Bytes) data(id uint32, end bool, s string) { _ = b.WriteData(id, end, []byte(s)) }

// h2Stories are what clients send. streams are how many answers there are to
// wait for.
var h2Stories = []struct {
	name    string
	streams int
	tell    func(b *h2Bytes)
}{
	{"GET", 1, func(b *h2Bytes) { b.ask(1, true, "GET", "/", "accept=*/*") }},
	{"HEAD", 1, func(b *h2Bytes) { b.ask(1, true, "HEAD", "/x?y=z&") }},
	{"query without value", 1, func(b *h2Bytes) { b.ask(1, true, "GET", "/x?") }},
	{"encoded path", 1, func(b *h2Bytes) { b.ask(1, true, "GET", "/a%2Fb/%7e//c") }},
	{"POST with a length", 1, func(b *h2Bytes) { b.ask(1, false, "POST", "/y", "content-length=3"); b.data(1, true, "abc") }},
	{"POST in pieces", 1, func(b *h2Bytes) {
		b.ask(1, false, "POST", "/y", "content-length=6")
		b.data(1, false, "ab")
		b.data(1, false, "")
		_ = b.WriteDataPadded(1, false, []byte("cd"), make([]byte, 9))
		b.data(1, false, "ef")
		b.data(1, true, "")
	}},
	{"POST without a length", 1, func(b *h2Bytes) { b.ask(1, false, "POST", "/y"); b.data(1, false, "abc"); b.data(1, true, "def") }},
	{"POST without a body", 1, func(b *h2Bytes) { b.ask(1, true, "POST", "/y", "content-length=0") }},
	{"trailers", 1, func(b *h2Bytes) {
		b.ask(1, false, "POST", "/y", "trailer=x-sum")
		b.data(1, false, "abc")
		b.head(1, true, "x-sum=1")
	}},
	{"answers with trailers", 1, func(b *h2Bytes) { b.ask(1, true, "GET", "/chunked", "te=trailers") }},
	{"204", 1, func(b *h2Bytes) { b.ask(1, true, "GET", "/204") }},
	{"304", 1, func(b *h2Bytes) { b.ask(1, true, "GET", "/304", "if-none-match=\"x\"") }},
	{"103", 1, func(b *h2Bytes) { b.ask(1, true, "GET", "/103") }},
	{"500", 1, func(b *h2Bytes) { b.ask(1, true, "GET", "/500") }},
	{"answer until close", 1, func(b *h2Bytes) { b.ask(1, true, "GET", "/close") }},
	{"cookies in pieces", 1, func(b *h2Bytes) { b.ask(1, true, "GET", "/", "cookie=a=b", "cookie=c=d") }},
	{"fields twice", 1, func(b *h2Bytes) { b.ask(1, true, "GET", "/", "x-a=1", "x-a=2", "x_b=3", "x-real-ip=6.6.6.6") }},
	{"empty field", 1, func(b *h2Bytes) { b.ask(1, true, "GET", "/", "x-a=") }},
	{"host and authority", 1, func(b *h2Bytes) { b.ask(1, true, "GET", "/", "host=a.test") }},
	{"host alone", 1, func(b *h2Bytes) { b.head(1, true, ":method=GET", ":scheme=https", ":path=/", "host=a.test") }},
	{"two streams", 2, func(b *h2Bytes) { b.ask(1, true, "GET", "/1"); b.ask(3, true, "GET", "/3") }},
	{"two bodies at once", 2, func(b *h2Bytes) {
		b.ask(1, false, "POST", "/1", "content-length=4")
		b.ask(3, false, "POST", "/3", "content-length=4")
		b.data(3, false, "ab")
		b.data(1, false, "AB")
		b.data(3, true, "cd")
		b.data(1, true, "CD")
	}},
	{"CONTINUATION", 1, func(b *h2Bytes) {
		block := b.fields(":method=GET", ":scheme=https", ":authority=a.test", ":path=/", "x-long="+strings.Repeat("x", 300))
		_ = b.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:7], EndStream: true})
		_ = b.WriteContinuation(1, false, block[7:100])
		_ = b.WriteContinuation(1, true, block[100:])
	}},
	{"padding and priority", 1, func(b *h2Bytes) {
		_ = b.WritePriority(3, http2.PriorityParam{StreamDep: 0, Weight: 3})
		_ = b.WriteHeaders(http2.HeadersFrameParam{
			StreamID: 1, BlockFragment: b.fields(":method=GET", ":scheme=https", ":authority=a.test", ":path=/"), EndHeaders: true, EndStream: true,
			PadLength: 40, Priority: http2.PriorityParam{StreamDep: 5, Weight: 200},
		})
	}},
	{"other frames between", 1, func(b *h2Bytes) {
		_ = b.WriteRawFrame(0xbb, 0, 0, []byte("unknown"))
		_ = b.WriteSettings(http2.Setting{ID: 0x99, Val: 1}, http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
		_ = b.WriteWindowUpdate(0, 1000)
		_ = b.WritePing(false, [8]byte{1})
		b.ask(1, false, "POST", "/y", "content-length=1")
		_ = b.WriteWindowUpdate(1, 1000)
		b.data(1, true, "x")
	}},
	{"OPTIONS *", 1, func(b *h2Bytes) { b.ask(1, true, "OPTIONS", "*") }},
	{"method of one's own", 1, func(b *h2Bytes) { b.ask(1, true, "PURGE", "/") }},

	{"upper case", 1, func(b *h2Bytes) { b.ask(1, true, "GET", "/", "X-A=1") }},
	{"connection", 1, func(b *h2Bytes) { b.ask(1, true, "GET", "/", "connection=close") }},
	{"transfer-encoding", 1, func(b *h2Bytes) {
		b.ask(1, false, "POST", "/", "transfer-encoding=chunked")
		b.data(1, true, "0\r\n\r\n")
	}},
	{"te", 1, func(b *h2Bytes) { b.ask(1, true, "GET", "/", "te=gzip") }},
	{"no path", 1, func(b *h2Bytes) { b.head(1, true, ":method=GET", ":scheme=https", ":authority=a.test") }},
	{"empty path", 1, func(b *h2Bytes) { b.ask(1, true, "GET", "") }},
	{"path without a slash", 1, func(b *h2Bytes) { b.ask(1, true, "GET", "x") }},
	{"no method", 1, func(b *h2Bytes) { b.head(1, true, ":scheme=https", ":authority=a.test", ":path=/") }},
	{"two paths", 1, func(b *h2Bytes) { b.ask(1, true, "GET", "/", ":path=/2") }},
	{"pseudo field last", 1, func(b *h2Bytes) {
		b.head(1, true, ":method=GET", ":scheme=https", ":authority=a.test", "x-a=1", ":path=/")
	}},
	{"unknown pseudo field", 1, func(b *h2Bytes) { b.ask(1, true, "GET", "/", ":x=1") }},
	{"pseudo field in trailers", 1, func(b *h2Bytes) {
		b.ask(1, false, "POST", "/")
		b.data(1, false, "abc")
		b.head(1, true, ":path=/2")
	}},
	{"line feed in a value", 1, func(b *h2Bytes) { b.ask(1, true, "GET", "/", "x-a=1\nx-b: 2") }},
	{"space in a name", 1, func(b *h2Bytes) { b.ask(1, true, "GET", "/", "x a=1") }},
	{"body longer than it says", 1, func(b *h2Bytes) { b.ask(1, false, "POST", "/", "content-length=2"); b.data(1, true, "abc") }},
	{"body longer than it says, in pieces", 1, func(b *h2Bytes) {
		b.ask(1, false, "POST", "/", "content-length=2")
		b.data(1, false, "ab")
		b.data(1, true, "c")
	}},
	{"body shorter than it says", 1, func(b *h2Bytes) { b.ask(1, false, "POST", "/", "content-length=5"); b.data(1, true, "abc") }},
	{"no body where there should be", 1, func(b *h2Bytes) { b.ask(1, true, "POST", "/", "content-length=5") }},
	{"two lengths", 1, func(b *h2Bytes) {
		b.ask(1, false, "POST", "/", "content-length=3", "content-length=4")
		b.data(1, true, "abc")
	}},
	{"length with a sign", 1, func(b *h2Bytes) { b.ask(1, false, "POST", "/", "content-length=+3"); b.data(1, true, "abc") }},
	{"DATA on stream 0", 1, func(b *h2Bytes) { b.data(0, true, "abc") }},
	{"DATA without HEADERS", 1, func(b *h2Bytes) { b.data(1, true, "abc") }},
	{"even stream", 1, func(b *h2Bytes) { b.ask(2, true, "GET", "/") }},
	{"broken block", 1, func(b *h2Bytes) {
		_ = b.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, EndHeaders: true, EndStream: true})
	}},
	{"window update of 0", 1, func(b *h2Bytes) { _ = b.WriteRawFrame(http2.FrameWindowUpdate, 0, 0, make([]byte, 4)) }},
	{"HEADERS inside CONTINUATION", 1, func(b *h2Bytes) {
		block := b.fields(":method=GET", ":scheme=https", ":authority=a.test", ":path=/")
		_ = b.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:3], EndStream: true})
		b.ask(3, true, "GET", "/3")
	}},
	{"CONTINUATION of nothing", 1, func(b *h2Bytes) { _ = b.WriteContinuation(1, true, b.fields("x-a=1")) }},
}

// h2Stricter are stories of requests that net/http lets through: it ignores a
// length that is given twice or is none, one that is not kept when no body
// comes at all, and bytes that come when the length is reached. For RFC 9113
// section 8.1.1 they are malformed, and towards an HTTP/1.1 backend such a
// length frames the body: they must reach none.
var h2Stricter = []string{ // read only
	"no body where there should be", "two lengths", "length with a sign", "body longer than it says, in pieces",
}

// h2Refused is one word for all ways to refuse: an answer of our own, the end
// of the stream, the end of the connection. net/http takes one where we take
// another (RFC 9113 sections 5.4 and 8.1.1 leave it open); what must not differ
// is whether a request is one, and which.
const h2Refused = "refused"

// h2Run sends wire in pieces and tells what came of each stream, and what the
// backend got.
func (l *lane) h2Run(t testing.TB, wire []byte, piece, streams int) (answers, backend []string) {
	t.Helper()
	c := l.dialTLS("h2")
	defer c.Close()
	for rest := wire; len(rest) > 0; {
		n := min(piece, len(rest))
		if _, err := c.Write(rest[:n]); err != nil {
			break // refused before its end
		}
		rest = rest[n:]
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	f := http2.NewFramer(io.Discard, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	texts := map[uint32]string{}
	for ended := 0; ended < streams; {
		frame, err := f.ReadFrame()
		if err != nil {
			if !errors.Is(err, io.EOF) && !isReset(err) && !strings.Contains(err.Error(), "closed") {
				t.Errorf("reading the answers: %v", err)
			}
			break
		}
		id, end := frame.Header().StreamID, false
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			h := http.Header{}
			for _, field := range frame.RegularFields() {
				h.Add(field.Name, field.Value)
			}
			texts[id] += fmt.Sprintf("%s %s ", frame.PseudoValue("status"), canonical(h, "Date", "Content-Length", "Trailer"))
			end = frame.StreamEnded()
			if problem := strings.Contains(h.Get("Content-Type"), "problem+json"); problem || frame.PseudoValue("status") == "400" {
				texts[id], end = h2Refused, true // no backend says 400 here
			}
		case *http2.DataFrame:
			if texts[id] == h2Refused {
				continue
			}
			texts[id] += string(frame.Data())
			end = frame.StreamEnded()
		case *http2.RSTStreamFrame:
			if texts[id] != h2Refused {
				texts[id], end = h2Refused, true
			}
		case *http2.GoAwayFrame:
			if frame.ErrCode != http2.ErrCodeNo {
				ended = streams
			}
		}
		if end {
			ended++
		}
	}
	for _, s := range texts {
		if !strings.HasPrefix(s, h2Refused) {
			answers = append(answers, s)
		}
	}
	slices.Sort(answers)
	backend = l.recorder.take()
	slices.Sort(backend)
	return answers, backend
}

// TestDifferentialH2: the same frames through our engine, in one piece and
// byte by byte, and through net/http's: the same requests reach the backend,
// and the same answers come back.
func TestDifferentialH2(t *testing.T) {
	own, ref := newLane(t, engines()[0]), newLane(t, engines()[1])
	for _, s := range h2Stories {
		wire := h2Wire(s.tell)
		var answers, backend []string
		if !slices.Contains(h2Stricter, s.name) {
			answers, backend = ref.h2Run(t, wire, len(wire), s.streams)
		}
		for _, piece := range []int{len(wire), 1, 7} {
			gotAnswers, gotBackend := own.h2Run(t, wire, piece, s.streams)
			if !slices.Equal(gotAnswers, answers) || !slices.Equal(gotBackend, backend) {
				t.Errorf("%s, %d bytes at a time:\nown      %q\n         %q\nnet/http %q\n         %q", s.name, piece, gotAnswers, gotBackend, answers, backend)
			}
		}
	}
}
