package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// smuggled is what an attacker hides behind a request that two parsers read
// differently. It must never reach a backend, unless it is, for everybody, a
// request of its own.
const smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

// smuggling is one trick over HTTP/1.1 and its only reading: the statuses of
// the answers, and what the backend gets.
type smuggling struct {
	name, input, statuses string
	backend               []string // method, target, body
}

// post is a POST with some field lines and bytes behind its head.
func post(fields, rest string) string {
	return "POST /p HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n" + rest
}

const chunked5 = "5\r\nhello\r\n0\r\n\r\n"

// smugglings are the tricks. Those whose statuses are left out are refused as
// a whole: one answer, nothing reaches the backend, the connection ends.
func smugglings() (all []smuggling) {
	refused := func(kind string, status string, inputs ...string) {
		for _, in := range inputs {
			all = append(all, smuggling{kind, in + smuggled, status, nil})
		}
	}
	fields := func(kind, status string, lines ...string) {
		for _, f := range lines {
			refused(kind, status, post(f+"\r\n", chunked5))
		}
	}
	heads := func(kind, status string, lines ...string) {
		for _, f := range lines {
			refused(kind, status, f)
		}
	}
	fields("CL.TE and TE.CL", "400",
		"Content-Length: 6\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 6",
		"Content-Length: 0\r\nTransfer-Encoding: chunked", "transfer-encoding: chunked\r\nCONTENT-LENGTH: 6",
		"Content-Length: 6\r\nTransfer-Encoding: identity", "Content-Length: 6\r\nTransfer-Encoding:")
	fields("TE.TE", "400",
		"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
		"Transfer-Encoding : chunked", "Transfer-Encoding\t: chunked", " Transfer-Encoding: chunked", "X: y\r\n Transfer-Encoding: chunked",
		"Transfer-Encoding\r\n: chunked", "Transfer-Encoding: chunked\x00", "Transfer-Encoding: \x0bchunked", "Transfer-Encoding: \x00chunked",
		"Transfer-Encoding;: chunked", "\"Transfer-Encoding\": chunked", "Transfer-Encoding\x00: chunked", "Transfer\x20Encoding: chunked",
		"Transfer-Encoding: chunked\rX: y", "Transfer-Encoding: chunked\nX: y", "X: y\nTransfer-Encoding: chunked", "X: y\rTransfer-Encoding: chunked",
		"Transfer-Encoding\xc2\xa0: chunked", "\x0bTransfer-Encoding: chunked")
	fields("TE.TE", "501",
		"Transfer-Encoding: xchunked", "Transfer-Encoding: chunkedx", "Transfer-Encoding: chunked, identity", "Transfer-Encoding: identity, chunked",
		"Transfer-Encoding: identity", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked,", "Transfer-Encoding: ,chunked",
		"Transfer-Encoding: \"chunked\"", "Transfer-Encoding: chunked;q=1", "Transfer-Encoding: chunked chunked", "Transfer-Encoding:",
		"Transfer-Encoding: ch\xc3\xbcnked", "Transfer-Encoding: chunked\xa0", "Transfer-Encoding: [chunked]",
		"Transfer-Encoding:\r\n chunked", "Transfer-Encoding: chun\r\n ked")
	fields("Content-Length", "400",
		"Content-Length: 5\r\nContent-Length: 5", "Content-Length: 5\r\nContent-Length: 6", "Content-Length: 5, 5", "Content-Length: 5,6",
		"Content-Length: +5", "Content-Length: -5", "Content-Length: 0x5", "Content-Length: 5 5", "Content-Length: 5.0", "Content-Length: 5e0",
		"Content-Length:", "Content-Length: \"5\"", "Content-Length: 5;", "Content-Length: 9223372036854775808", "Content-Length: 18446744073709551621",
		"Content-Length : 5", "Content-Length\t: 5", " Content-Length: 5", "Content Length: 5", "Content-Length\x00: 5", "Content-Length: 5\x00",
		"Content-Length: \x0c5", "Content-Length: 5\x0b", "Content-Length:\r\n 5", "Content-Length: 5\r\n\t6", "Content-L\xc3\xa9ngth: 5", ": 5", "Content-Length",
		"Content-Length: \xd9\xa5", "X: y\rContent-Length: 5", "X: y\nContent-Length: 5", "Content-Length: 5\n\nX: y", "Content-Length: 5\r\r")
	fields("Host", "400", "Host: a", "Host: b", "hOST: b", "Host : b", "Host\x00: b", " Host: b")
	refused("chunk sizes", "400",
		post("Transfer-Encoding: chunked\r\n", "0x5\r\nhello\r\n0\r\n\r\n"), post("Transfer-Encoding: chunked\r\n", "+5\r\nhello\r\n0\r\n\r\n"),
		post("Transfer-Encoding: chunked\r\n", "-5\r\nhello\r\n0\r\n\r\n"), post("Transfer-Encoding: chunked\r\n", " 5\r\nhello\r\n0\r\n\r\n"),
		post("Transfer-Encoding: chunked\r\n", "5 \r\nhello\r\n0\r\n\r\n"), post("Transfer-Encoding: chunked\r\n", "5 ;a\r\nhello\r\n0\r\n\r\n"),
		post("Transfer-Encoding: chunked\r\n", "5_0\r\nhello\r\n0\r\n\r\n"), post("Transfer-Encoding: chunked\r\n", "5\nhello\n0\n\n"),
		post("Transfer-Encoding: chunked\r\n", "5\rhello\r\n0\r\n\r\n"), post("Transfer-Encoding: chunked\r\n", "5\r\r\nhello\r\n0\r\n\r\n"),
		post("Transfer-Encoding: chunked\r\n", "10000000000000005\r\nhello\r\n0\r\n\r\n"), post("Transfer-Encoding: chunked\r\n", "8000000000000000\r\nhello\r\n0\r\n\r\n"),
		post("Transfer-Encoding: chunked\r\n", "5,6\r\nhello\r\n0\r\n\r\n"), post("Transfer-Encoding: chunked\r\n", "\r\nhello\r\n0\r\n\r\n"),
		post("Transfer-Encoding: chunked\r\n", "5;a\nb\r\nhello\r\n0\r\n\r\n"), post("Transfer-Encoding: chunked\r\n", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
		post("Transfer-Encoding: chunked\r\n", "5;\x00\r\nhello\r\n0\r\n\r\n"), post("Transfer-Encoding: chunked\r\n", "5\r\nhello0\r\n\r\n"),
		post("Transfer-Encoding: chunked\r\n", "5\r\nhelloXX0\r\n\r\n"), post("Transfer-Encoding: chunked\r\n", "5\r\nhello\n0\r\n\r\n"),
		post("Transfer-Encoding: chunked\r\n", "3\r\nhello\r\n0\r\n\r\n"), post("Transfer-Encoding: chunked\r\n", "\xef\xbc\x95\r\nhello\r\n0\r\n\r\n"))
	refused("trailers", "400",
		post("Transfer-Encoding: chunked\r\n", "0\r\nContent-Length: 5\r\n\r\n"), post("Transfer-Encoding: chunked\r\n", "0\r\nTransfer-Encoding: chunked\r\n\r\n"),
		post("Transfer-Encoding: chunked\r\n", "0\r\nHost: b\r\n\r\n"), post("Transfer-Encoding: chunked\r\n", "0\r\nX : y\r\n\r\n"),
		post("Transfer-Encoding: chunked\r\n", "0\r\n X: y\r\n\r\n"), post("Transfer-Encoding: chunked\r\n", "0\r\nX: y\n\r\n"),
		post("Transfer-Encoding: chunked\r\n", "0\r\n\n"), post("Transfer-Encoding: chunked\r\n", "0\r\n\rX"))
	heads("request line", "400",
		"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / x HTTP/1.1\r\nHost: a\r\n\r\n", "GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "GET / http/1.1\r\nHost: a\r\n\r\n", "GET /\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\nHost: a\n\n", "GET / HTTP/1.1\rHost: a\r\r",
		"GET / HTTP/1.1\r\n\r\n", "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n", "GET x HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET /\xe2\x80\xa8 HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
		"GET / HTTP/1.1\r\n: a\r\nHost: a\r\n\r\n", "GET * HTTP/1.1\r\nHost: a\r\n\r\n")
	heads("no HTTP by its first bytes: no answer", "",
		"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", "G@T / HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
	heads("version", "505", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", "GET / HTTP/3\r\nHost: a\r\n\r\n")
	heads("target and host", "400",
		"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET http://a@b/ HTTP/1.1\r\nHost: b\r\n\r\n",
		"GET http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET http://a/ HTTP/1.1\r\nHost:\r\n\r\n", "GET http:a/ HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET //a\\@b/ HTTP/1.1\r\nHost: a b\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a#b\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\x00\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\xa0\r\n\r\n", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n")
	refused("HTTP/1.0", "400", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"+chunked5)
	return append(all, readOnce...)
}

// readOnce are tricks that have one reading, which is served.
var readOnce = []smuggling{ // read only
	{"GET with a body", "GET /g HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\n" + smuggled, "200", []string{"GET /g " + smuggled}},
	{"tab before the value", post("Transfer-Encoding:\tchunked\r\n", chunked5) + smuggled, "200 200", []string{"POST /p hello", "GET /smuggled "}},
	{"tab behind the value", post("Transfer-Encoding: chunked\t \r\n", chunked5) + smuggled, "200 200", []string{"POST /p hello", "GET /smuggled "}},
	{"case", post("tRANSFER-eNCODING: cHUNKED\r\n", chunked5) + smuggled, "200 200", []string{"POST /p hello", "GET /smuggled "}},
	{"zeros", post("Transfer-Encoding: chunked\r\n", "0005;a=b\r\nhello\r\n00\r\n\r\n") + smuggled, "200 200", []string{"POST /p hello", "GET /smuggled "}},
	{"length with zeros", post("Content-Length: 005\r\n", "hello") + smuggled, "200 200", []string{"POST /p hello", "GET /smuggled "}},
	{"underscore", post("Content_Length: 99\r\nTransfer_Encoding: chunked\r\nContent-Length: 5\r\n", "hello") + smuggled, "200 200", []string{"POST /p hello", "GET /smuggled "}},
	{"Connection names the length", post("Connection: content-length\r\nContent-Length: 5\r\n", "hello") + smuggled, "200 200", []string{"POST /p hello", "GET /smuggled "}},
	{"Connection names the coding", post("Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n", chunked5) + smuggled, "200 200", []string{"POST /p hello", "GET /smuggled "}},
	{"Connection names the host", post("Connection: host, x-real-ip, x-forwarded-for\r\nContent-Length: 5\r\n", "hello") + smuggled, "200 200", []string{"POST /p hello", "GET /smuggled "}},
	{"the same host twice", "GET http://a/x HTTP/1.1\r\nHost: A\r\n\r\n" + smuggled, "200 200", []string{"GET /x ", "GET /smuggled "}},
	{"an empty line", "GET /x HTTP/1.1\r\nHost: a\r\n\r\n\r\n" + smuggled, "200 200", []string{"GET /x ", "GET /smuggled "}},
	{"h2c", post("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: 5\r\n", "hello") + smuggled, "200 200", []string{"POST /p hello", "GET /smuggled "}},
	{"HEAD", "HEAD /h HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" + smuggled, "200 200", []string{"HEAD /h hello", "GET /smuggled "}},
}

// Each trick has one reading at most, whole and byte by byte.
func TestSmuggling(t *testing.T) {
	l := newLane(t, engines()[0])
	for _, s := range smugglings() {
		for _, p := range [][][]byte{{[]byte(s.input)}, byByte(s.input)} {
			o := l.run(t, p)
			statuses, got := statusesOf(o), gotBy(o)
			if statuses != s.statuses || !slices.Equal(got, s.backend) || s.backend == nil && o.end != "closed" || o.end == "hung" {
				t.Errorf("%s: %q in %d pieces\ngot %s, %s, backend %q; want %s, backend %q", s.name, s.input, len(p), statuses, o.end, got, s.statuses, s.backend)
			}
			l.mustServe(t, s.name)
		}
	}
}

// The same with TLS, where the first byte of a request comes alone: one answer,
// and the end.
func TestSmugglingOverTLS(t *testing.T) {
	l := newLane(t, engines()[0])
	statusLine := regexp.MustCompile(`HTTP/1\.1 \d`)
	for _, s := range smugglings() {
		if s.backend != nil {
			continue
		}
		c := l.dialTLS("http/1.1")
		send(t, c, s.input)
		got, err := ended(t, c)
		if err != nil && !isReset(err) || len(statusLine.FindAllString(got, -1)) > 1 || !strings.HasPrefix(got, "HTTP/1.1 "+s.statuses) && s.statuses != "" {
			t.Errorf("%s: %q\ngot %q, %v; want %s", s.name, s.input, got, err, s.statuses)
		}
		if got := l.recorder.take(); got != nil {
			t.Errorf("%s: %q\nthe backend got %q", s.name, s.input, got)
		}
	}
	l.mustServe(t, "all of them")
}

func byByte(s string) (all [][]byte) {
	for i := range len(s) {
		all = append(all, []byte{s[i]})
	}
	return all
}

// statusesOf are the statuses of the final answers.
func statusesOf(o outcome) string {
	var all []string
	for _, a := range o.answers {
		if a[0] != '1' {
			all = append(all, a[:3])
		}
	}
	return strings.Join(all, " ")
}

// gotBy is what the backend got: method, target, body; what is no request at
// all as it is.
func gotBy(o outcome) (all []string) {
	re := regexp.MustCompile(`(?s)^(\S+ \S+) HTTP/1\.1 host:\S+ .*x-real-ip:127\.0\.0\.1 (".*") trailer`)
	for _, b := range o.backend {
		if m := re.FindStringSubmatch(b); m != nil {
			var body string
			_, _ = fmt.Sscanf(m[2], "%q", &body)
			b = m[1] + " " + body
		}
		all = append(all, b)
	}
	return all
}

// mustServe sends what an honest client sends: nothing is left on any
// connection to the backend that could become a part of it or of its answer.
func (l *lane) mustServe(t testing.TB, after string) {
	t.Helper()
	o := l.run(t, [][]byte{[]byte("PUT /honest HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")})
	if got := gotBy(o); len(o.answers) != 1 || !strings.HasSuffix(o.answers[0], `"PUT 2" `) || !slices.Equal(got, []string{"PUT /honest hi"}) {
		t.Fatalf("after %s an honest client got %q, the backend %q", after, o.answers, got)
	}
}

// h2Trick is one request over HTTP/2 that would be two, or another, in
// HTTP/1.1.
type h2Trick struct {
	name    string
	fields  string // "name=value" one behind the other, separated by "|"
	data    string // "": the request ends with its head
	trailer string // like fields; "": none
	want    string // "reset", "gone" (the connection ends), or the status
	backend []string
}

const h2Get1, h2Post1 = ":method=GET|:scheme=https|:authority=a.test|:path=/p", ":method=POST|:scheme=https|:authority=a.test|:path=/p"

func h2Tricks() (all []h2Trick) {
	add := func(kind, want string, fields ...string) {
		for _, f := range fields {
			all = append(all, h2Trick{name: kind, fields: f, data: "hello", want: want})
		}
	}
	with := func(kind, want string, extra ...string) {
		for _, f := range extra {
			add(kind, want, h2Post1+"|"+f)
		}
	}
	with("names", "reset", "x\r\nhost=b", "x: y\r\nz=1", "x:y=1", "x y=1", "X-Up=1", "Transfer-Encoding=chunked", "Content-Length=3", "x\x00=1", "x\n=1",
		"=1", "x\xc3\xa9=1", "x\"=1", ":x=1", " x=1", "x =1")
	with("values", "reset", "x=1\r\ntransfer-encoding: chunked", "x=1\nhost: b", "x=1\r", "x=\x00", "x=a\x00b", "x= a", "x=a ", "x=a\t", "x=\x7f",
		"x=1\r\n\r\n"+smuggled, "cookie=a=b\r\nx: y")
	with("connection fields", "reset", "connection=keep-alive", "connection=close", "connection=x", "keep-alive=timeout=5", "proxy-connection=close",
		"transfer-encoding=chunked", "transfer-encoding=identity", "upgrade=h2c", "te=gzip", "te=trailers, gzip", "te=chunked")
	with("lengths", "reset", "content-length=3", "content-length=6", "content-length=0", "content-length=70000", "content-length=5|content-length=6",
		"content-length=5|content-length=5", "content-length=5, 5", "content-length=+5", "content-length=-5", "content-length=0x5", "content-length=5 ",
		"content-length=", "content-length=9223372036854775808", "content-length=5\r\nx: y")
	with("hosts", "reset", "host=b.test", "host=a.test|host=a.test", "host=a.test\r\nx: y", "host=")
	path := func(v string) string { return strings.Replace(h2Post1, "=/p", "="+v, 1) }
	add(":path", "reset", path("/ HTTP/1.1\r\nHost: b\r\n\r\nGET /smuggled"), path("/\r\nx: y"), path("/\n"), path("/\x00"), path(""), path("/|:path=/q"), path(" /"), path("/ "))
	add(":path", "400", path("/a b"), path("/a HTTP/1.1"), path("/#x"), path("p"), path("http://a.test/"), path("*"), path("/%zz"), path("/%"), path("/\xe2\x80\xa8"), path("/a\"<b>\x20c"))
	method := func(v string) string { return strings.Replace(h2Post1, "=POST", "="+v, 1) }
	add(":method", "reset", method("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), method("GET "), method(" GET"), method("GET /smuggled"), method(""), method("G\x00T"), method("GET\r\n"), method("G(T"))
	authority := func(v string) string { return strings.Replace(h2Post1, "=a.test", "="+v, 1) }
	add(":authority", "reset", authority("a.test\r\nx: y"), authority("a.test\x00"), authority(" a.test"))
	add(":authority", "400", authority("a.test/x"), authority("u@a.test"), authority("a.test b"), authority("a.test#"), authority("a.test,b"), authority(""), authority("a.test?"), authority("a.t\xc3\xa9st"))
	add(":scheme", "reset", strings.Replace(h2Post1, "=https", "=https://x/?", 1), strings.Replace(h2Post1, "=https", "=ftp", 1), strings.Replace(h2Post1, "=https", "=", 1), strings.Replace(h2Post1, "=https", "=http\r\nx: y", 1))
	add("order", "reset", "x=y|"+h2Post1, ":method=POST|:scheme=https|x=y|:authority=a.test|:path=/p", ":scheme=https|:authority=a.test|:path=/p", ":method=POST|:authority=a.test|:path=/p", ":method=POST|:scheme=https|:authority=a.test")
	for _, tr := range []string{":path=/q", "content-length=5", "transfer-encoding=chunked", "connection=close", "host=b", "x\r\ny=1", "x=1\r\n\r\n" + smuggled, "X-Up=1"} {
		all = append(all, h2Trick{"trailers", h2Post1, "hello", tr, "reset", nil})
	}
	all = append(all, h2Trick{"length without a body", h2Post1 + "|content-length=5", "", "", "reset", nil})
	return append(all,
		h2Trick{"plain", h2Post1, "hello", "", "200", []string{"POST /p hello"}},
		h2Trick{"body that looks like HTTP", h2Post1, "0\r\n\r\n" + smuggled, "", "200", []string{"POST /p 0\r\n\r\n" + smuggled}},
		h2Trick{"GET with a body", h2Get1, smuggled, "", "200", []string{"GET /p " + smuggled}},
		h2Trick{"aliases", h2Post1 + "|transfer_encoding=chunked|content_length=3|content-length=5", "hello", "", "200", []string{"POST /p hello"}},
		h2Trick{"trailers", h2Post1, "hello", "x-sum=1|x_forwarded_for=6.6.6.6", "200", []string{"POST /p hello"}},
		h2Trick{"te", h2Post1 + "|te=trailers", "hello", "", "200", []string{"POST /p hello"}},
		h2Trick{"the same host twice", h2Post1 + "|host=A.TEST", "hello", "", "200", []string{"POST /p hello"}},
		h2Trick{"forwarding", h2Post1 + "|x-real-ip=6.6.6.6|x-forwarded-for=6.6.6.6|forwarded=for=6.6.6.6", "hello", "", "200", []string{"POST /p hello"}},
	)
}

// What HTTP/2 can say and HTTP/1.1 cannot reaches no backend.
func TestDowngradeSmuggling(t *testing.T) {
	l := newLane(t, engines()[0])
	for _, s := range h2Tricks() {
		c := l.dialTLS("h2")
		got := h2Send(t, c, s)
		_ = c.Close()
		l.mustServeAlone(t, s, got)
	}
}

// mustServeAlone compares with what is wanted, once the trick is over, and
// asks for an honest client's sake.
func (l *lane) mustServeAlone(t testing.TB, s h2Trick, got string) {
	t.Helper()
	l.until("the end of the trick", func() bool { return l.srv.open() == 0 })
	backend := gotBy(outcome{backend: l.recorder.take()})
	if got != s.want || !slices.Equal(backend, s.backend) {
		t.Errorf("%s: %q %q %q\ngot %s, backend %q; want %s, backend %q", s.name, s.fields, s.data, s.trailer, got, backend, s.want, s.backend)
	}
	l.mustServe(t, s.name)
}

// h2Send sends the request and tells what came of it.
func h2Send(t testing.TB, c net.Conn, s h2Trick) string {
	t.Helper()
	var out bytes.Buffer
	out.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&out, c)
	encode := func(fields string) []byte {
		var block bytes.Buffer
		enc := hpack.NewEncoder(&block)
		for field := range strings.SplitSeq(fields, "|") {
			at := strings.Index(field[min(1, len(field)):], "=") + min(1, len(field)) // a pseudo name begins with a colon
			if strings.HasPrefix(field, "=") {
				at = 0
			}
			_ = enc.WriteField(hpack.HeaderField{Name: field[:at], Value: field[at+1:]}) // a buffer takes all
		}
		return block.Bytes()
	}
	f.AllowIllegalWrites = true
	_ = f.WriteSettings()
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encode(s.fields), EndHeaders: true, EndStream: s.data == ""})
	if s.data != "" {
		_ = f.WriteData(1, s.trailer == "", []byte(s.data))
	}
	if s.trailer != "" {
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encode(s.trailer), EndHeaders: true, EndStream: true})
	}
	_ = c.SetReadDeadline(time.Now().Add(hangs))
	if _, err := c.Write(out.Bytes()); err != nil {
		return "gone"
	}
	return h2Ending(f)
}

// h2Ending reads to the end of stream 1.
func h2Ending(f *http2.Framer) (what string) {
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		frame, err := f.ReadFrame()
		if err == io.EOF || isReset(err) {
			return "gone"
		}
		if err != nil {
			return err.Error()
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			if what = frame.PseudoValue("status"); frame.StreamEnded() {
				return what
			}
		case *http2.DataFrame:
			if frame.StreamEnded() {
				return what
			}
		case *http2.RSTStreamFrame:
			return "reset"
		case *http2.GoAwayFrame:
			return "gone"
		}
	}
}
