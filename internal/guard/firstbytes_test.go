package guard

import (
	"testing"
)

var greetings = []struct {
	name  string
	bytes string
	want  Protocol
	after int // bytes with which it is decided
}{
	{"TLS 1.0 record of a ClientHello", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", TLS, 3},
	{"TLS 1.2 record", "\x16\x03\x03\x00\x7a\x01\x00\x00\x76", TLS, 3},
	{"SSL 3 record", "\x16\x03\x00\x00\x7a\x01\x00\x00\x76", TLS, 3},
	{"TLS of another major version", "\x16\x04\x01\x00\x7a\x01\x00\x00", Other, 2},
	{"TLS of another minor version", "\x16\x03\x09\x00\x7a\x01\x00\x00", Other, 3},
	{"SSL 2 ClientHello", "\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10", Other, 1},
	{"TLS alert", "\x15\x03\x01\x00\x02\x02\x28", Other, 1},
	{"GET", "GET / HTTP/1.1\r\n", HTTP, 4},
	{"POST", "POST /api HTTP/1.1\r\n", HTTP, 5},
	{"PUT", "PUT /x HTTP/1.1\r\n", HTTP, 4},
	{"PATCH", "PATCH /x HTTP/1.1\r\n", HTTP, 6},
	{"lower-case patch, as Node's fetch sends it", "patch /x HTTP/1.1\r\n", HTTP, 6},
	{"OPTIONS", "OPTIONS * HTTP/1.1\r\n", HTTP, 8},
	{"PROPFIND", "PROPFIND /dav HTTP/1.1\r\n", HTTP, 8},
	{"PROPPATCH", "PROPPATCH /dav HTTP/1.1\r\n", HTTP, 8},
	{"SEARCH", "SEARCH /dav HTTP/1.1\r\n", HTTP, 7},
	{"MKCOL", "MKCOL /dav HTTP/1.1\r\n", HTTP, 6},
	{"M-SEARCH", "M-SEARCH * HTTP/1.1\r\n", HTTP, 8},
	{"CONNECT", "CONNECT example.org:443 HTTP/1.1\r\n", HTTP, 8},
	{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HTTP2Preface, 5},
	{"PRI for a path", "PRI /x HTTP/1.1\r\n", Other, 5},
	{"PRINT, a method nobody has", "PRINT /x HTTP/1.1", HTTP, 6},
	{"SSH", "SSH-2.0-Go\r\n", SSH, 4},
	{"RDP with a cookie", "\x03\x00\x00\x2b\x26\xe0\x00\x00\x00\x00\x00Cookie: mstshash=x", RDP, 2},
	{"TPKT of another kind", "\x03\x01\x00\x2b", Other, 2},
	{"SOCKS4 connect", "\x04\x01\x00\x50\x7f\x00\x00\x01\x00", SOCKS4, 2},
	{"SOCKS4 with a strange command", "\x04\x09\x00\x50", Other, 2},
	{"SOCKS5", "\x05\x01\x00", SOCKS5, 2},
	{"SOCKS5 with passwords", "\x05\x02\x00\x02", SOCKS5, 2},
	{"DCE/RPC bind", "\x05\x00\x0b\x03\x10\x00\x00\x00", Other, 2},
	{"SMB 1", "\x00\x00\x00\x85\xffSMBr\x00", SMB, 8},
	{"SMB 2", "\x00\x00\x01\x0a\xfeSMB@\x00", SMB, 8},
	{"NetBIOS session request", "\x81\x00\x00\x44 CKAAAAA", SMB, 4},
	{"zeros", "\x00\x00\x00\x00\x00\x00\x00\x00", Other, 5},
	{"MGLNDD", "MGLNDD_203.0.113.7_443\n", MGLNDD, 6},
	{"WebLogic t3", "t3 12.2.1\nAS:255\n", Other, 2},
	{"Java RMI", "JRMI\x00\x02K", Other, 5},
	{"blank lines", "\r\n\r\n", Other, 1},
	{"HELP", "HELP\r\n", Other, 5},
	{"a space", " GET / HTTP/1.1", Other, 1},
	{"a byte of no protocol", "\xff", Other, 1},
}

func TestClassifyFirstBytes(t *testing.T) {
	if got := ClassifyFirstBytes(nil); got != Incomplete {
		t.Errorf("nothing: %s, want incomplete", got)
	}
	for _, tt := range greetings {
		t.Run(tt.name, func(t *testing.T) {
			for n := range len(tt.bytes) + 1 {
				want := tt.want
				if n < tt.after {
					want = Incomplete
				}
				if got := ClassifyFirstBytes([]byte(tt.bytes[:n])); got != want {
					t.Errorf("%d bytes: %s, want %s", n, got, want)
				}
			}
		})
	}
}

// Byte by byte: once there is an answer, it stays, and 8 bytes are enough.
func FuzzClassifyFirstBytes(f *testing.F) {
	for _, g := range greetings {
		f.Add([]byte(g.bytes))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		answer := Incomplete
		for n := range len(p) + 1 {
			got := ClassifyFirstBytes(p[:n])
			if int(got) >= numProtocols || got.String() == "unknown" {
				t.Fatalf("%q: %d is out of the set", p[:n], got)
			}
			if answer != Incomplete && got != answer {
				t.Fatalf("%q: %s, but %s with a byte less", p[:n], got, answer)
			}
			if n >= FirstBytes && got == Incomplete {
				t.Fatalf("%q: incomplete", p[:n])
			}
			answer = got
		}
	})
}
