package http1

import (
	"fmt"
	"strings"
	"testing"
)

// parseRequest follows and parses one request head.
func parseRequest(t testing.TB, head string) *Request {
	t.Helper()
	if n, err := new(Follower).Feed([]byte(head)); err != nil || n != len(head) {
		t.Fatalf("%q: the follower took %d bytes: %v", head, n, err)
	}
	r := new(Request)
	if err := r.Parse([]byte(head)); err != nil {
		t.Fatalf("%q: %v", head, err)
	}
	return r
}

// fields lists those that are passed on.
func passed(fields []Field, ends func(*Field) bool) string {
	var out []string
	for i := range fields {
		if f := &fields[i]; !ends(f) {
			out = append(out, string(f.Key)+"="+string(f.Value))
		}
	}
	return strings.Join(out, " ")
}

func TestRequest(t *testing.T) {
	for _, tt := range []struct {
		name, head string
		want       string // line, host, framing, flags
		passed     string
	}{
		{"plain", "GET /a?b HTTP/1.1\r\nHost: x\r\nA:1\r\nB: \t2 \r\nC:\r\n\r\n",
			"GET /a?b 1 host=x NoBody persist", "Host=x A=1 B=2 C="},
		{"empty line before it", "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", "GET / 1 host=x NoBody persist", "Host=x"},
		{"close", "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "GET / 1 host=x NoBody", "Host=x"},
		{"close wins, in any order", "GET / HTTP/1.1\r\nHost: x\r\nConnection: Close, Keep-Alive\r\n\r\n", "GET / 1 host=x NoBody", "Host=x"},
		{"close in a second field", "GET / HTTP/1.1\r\nHost: x\r\nconnection: keep-alive\r\nConnection: ,close ,\r\n\r\n", "GET / 1 host=x NoBody", "Host=x"},
		{"HTTP/1.0", "GET / HTTP/1.0\r\nHost: x\r\n\r\n", "GET / 0 host=x NoBody", "Host=x"},
		{"HTTP/1.0 kept", "GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n", "GET / 0 host=x NoBody persist", "Host=x"},
		{"HTTP/1.0 cannot upgrade or wait", "GET / HTTP/1.0\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: w\r\nExpect: 100-continue\r\n\r\n",
			"GET / 0 host=x NoBody", "Host=x Expect=100-continue"},
		{"length", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n", "POST / 1 host=x ByLength 12 persist", "Host=x Content-Length=12"},
		{"length 0", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 000\r\n\r\n", "POST / 1 host=x NoBody persist", "Host=x Content-Length=000"},
		{"largest length", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9223372036854775807\r\n\r\n",
			"POST / 1 host=x ByLength 9223372036854775807 persist", "Host=x Content-Length=9223372036854775807"},
		{"chunked", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: CHUNKED\r\nTE: gzip;q=1, trailers\r\n\r\n",
			"POST / 1 host=x Chunked persist trailers", "Host=x"},
		{"upgrade", "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n",
			"GET / 1 host=x NoBody persist upgrade=websocket", "Host=x"},
		{"upgrade without its option", "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n", "GET / 1 host=x NoBody persist", "Host=x"},
		{"expect", "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: 100-Continue\r\n\r\n",
			"PUT / 1 host=x ByLength 1 persist expect", "Host=x Content-Length=1 Expect=100-Continue"},
		{"hop by hop", "GET / HTTP/1.1\r\nHost: x\r\nConnection: A, b\r\nKeep-Alive: 1\r\nProxy-Connection: x\r\nTrailer: x\r\nProxy-Authorization: p\r\na: 1\r\nB: 2\r\nC: 3\r\n\r\n",
			"GET / 1 host=x NoBody persist", "Host=x C=3"},
		{"fields that Connection cannot take", "POST / HTTP/1.1\r\nHost: x\r\nConnection: host, content-length\r\nContent-Length: 1\r\n\r\n",
			"POST / 1 host=x ByLength 1 persist", "Host=x Content-Length=1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := parseRequest(t, tt.head)
			if got := describe(r); got != tt.want {
				t.Errorf("got %s\nwant %s", got, tt.want)
			}
			if got := passed(r.Fields, r.Ends); got != tt.passed {
				t.Errorf("passes on %s\nwant %s", got, tt.passed)
			}
		})
	}
}

func describe(r *Request) string {
	s := fmt.Sprintf("%s %s %d host=%s %s", r.Method, r.Target, r.Minor, r.Host, describeFraming(r.Framing, r.Length))
	for _, f := range []struct {
		on   bool
		text string
	}{{r.Persist, " persist"}, {r.Upgrade != nil, " upgrade=" + string(r.Upgrade)}, {r.Expect100, " expect"}, {r.Trailers, " trailers"}} {
		if f.on {
			s += f.text
		}
	}
	return s
}

func describeFraming(f Framing, n int64) string {
	s := [...]string{"NoBody", "ByLength", "Chunked", "UntilClose"}[f]
	if n > 0 {
		s += fmt.Sprintf(" %d", n)
	}
	return s
}

func TestRequestNotFollowed(t *testing.T) {
	for _, head := range []string{
		"", "\r\n", "\r\n\r\n", "GET / HTTP/1.1\r\n", "GET /\r\n\r\n", "GET\r\n\r\n", " / HTTP/1.1\r\n\r\n",
		"GET / HTTP/1.1\r\nHost\r\n\r\n", "GET / HTTP/1.1\r\n Host: x\r\n\r\n", "GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nConnection: " + strings.Repeat("a,", maxOptions+1) + "\r\n\r\n",
	} {
		if err := new(Request).Parse([]byte(head)); err == nil {
			t.Errorf("%q: parsed", head)
		}
	}
	many := "GET / HTTP/1.1\r\nHost: x\r\nConnection: " + strings.Repeat("a,", maxOptions) + "\r\n\r\n"
	if err := new(Request).Parse([]byte(many)); err != nil {
		t.Errorf("%d options: %v", maxOptions, err)
	}
}

func TestResponse(t *testing.T) {
	for _, tt := range []struct {
		name, head string
		isHead     bool
		want       string // "" refused
	}{
		{"length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false, "200 ByLength 5 persist"},
		{"bare line feeds", "HTTP/1.1 200 OK\nContent-Length: 5\nX: y\n\n", false, "200 ByLength 5 persist"},
		{"length 0", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, "200 NoBody persist"},
		{"equal lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\ncontent-length: 5\r\n\r\n", false, "200 ByLength 5 persist"},
		{"unequal lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", false, ""},
		{"list of lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n", false, ""},
		{"signed length", "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n", false, ""},
		{"length too large", "HTTP/1.1 200 OK\r\nContent-Length: 1234567890123456789\r\n\r\n", false, ""},
		{"empty length", "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n", false, ""},
		{"bad length of HEAD", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", true, ""},
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", false, "200 Chunked persist"},
		{"chunked twice", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", false, ""},
		{"chunked in a list", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", false, ""},
		{"another coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n", false, ""},
		{"empty coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\n", false, ""},
		{"coding and length", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", false, ""},
		{"coding and length of HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", true, ""},
		{"chunked in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, ""},
		{"until close", "HTTP/1.1 200 OK\r\n\r\n", false, "200 UntilClose"},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", false, "200 ByLength 1"},
		{"HTTP/1.0 kept", "HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: Keep-Alive\r\n\r\n", false, "200 ByLength 1 persist"},
		{"close", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n", false, "200 ByLength 1"},
		{"close wins", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close, keep-alive\r\n\r\n", false, "200 ByLength 1"},
		{"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, "200 NoBody 5 persist"},
		{"204", "HTTP/1.1 204 No Content\r\n\r\n", false, "204 NoBody persist"},
		{"304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", false, "304 NoBody 7 persist"},
		{"103", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", false, "103 NoBody persist"},
		{"101", "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", false, "101 NoBody persist upgrade=websocket"},
		{"keep-alive", "HTTP/1.1 204 \r\nKeep-Alive: max=9, Timeout=75\r\n\r\n", false, "204 NoBody persist idle=75"},
		{"keep-alive garbage", "HTTP/1.1 204 \r\nKeep-Alive: xtimeout=75, timeout=, timeout=5x\r\n\r\n", false, "204 NoBody persist idle=5"},
		{"no reason", "HTTP/1.1 204\r\n\r\n", false, "204 NoBody persist"},
		{"odd status", "HTTP/1.1 999 Request denied\r\nContent-Length: 0\r\n\r\n", false, "999 NoBody persist"},
		{"reason with obs-text", "HTTP/1.1 204 \xfcber\r\n\r\n", false, "204 NoBody persist"},
		{"reason with a control character", "HTTP/1.1 204 O\x00K\r\n\r\n", false, ""},
		{"reason with a carriage return", "HTTP/1.1 204 O\rK\r\n\r\n", false, ""},
		{"status 099", "HTTP/1.1 099 X\r\n\r\n", false, ""},
		{"status of four digits", "HTTP/1.1 2000 X\r\n\r\n", false, ""},
		{"HTTP/2", "HTTP/2.0 200 OK\r\n\r\n", false, ""},
		{"lower case", "http/1.1 200 OK\r\n\r\n", false, ""},
		{"no status", "HTTP/1.1 \r\n\r\n", false, ""},
		{"empty line first", "\r\n\r\n", false, ""},
		{"folded field", "HTTP/1.1 200 OK\r\nX: a\r\n\tb\r\n\r\n", false, ""},
		{"folded first field", "HTTP/1.1 200 OK\r\n X: a\r\n\r\n", false, ""},
		{"space before colon", "HTTP/1.1 200 OK\r\nX : a\r\n\r\n", false, ""},
		{"no name", "HTTP/1.1 200 OK\r\n: a\r\n\r\n", false, ""},
		{"no colon", "HTTP/1.1 200 OK\r\nX\r\n\r\n", false, ""},
		{"NUL in a value", "HTTP/1.1 200 OK\r\nX: a\x00\r\n\r\n", false, ""},
		{"carriage return in a value", "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n", false, ""},
		{"carriage return at the end of a value", "HTTP/1.1 200 OK\r\nX: a\r\r\n\r\n", false, ""},
		{"not complete", "HTTP/1.1 200 OK\r\nX: a\r\n", false, ""},
		{"many fields", "HTTP/1.1 204 OK\r\n" + strings.Repeat("X: a\r\n", maxFields) + "\r\n", false, "204 NoBody persist"},
		{"too many fields", "HTTP/1.1 204 OK\r\n" + strings.Repeat("X: a\r\n", maxFields+1) + "\r\n", false, ""},
		{"too many options", "HTTP/1.1 204 OK\r\nConnection: " + strings.Repeat("a,", maxOptions+1) + "\r\n\r\n", false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			var r Response
			if err := r.Parse([]byte(tt.head), tt.isHead); err == nil {
				got = fmt.Sprintf("%d %s", r.Status, describeFraming(r.Framing, r.Length))
				if r.Persist {
					got += " persist"
				}
				if r.Upgrade != nil {
					got += " upgrade=" + string(r.Upgrade)
				}
				if r.IdleFor > 0 {
					got += fmt.Sprintf(" idle=%d", r.IdleFor)
				}
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestResponseEnds(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nServer: a\r\nX-Mine: b\r\nKeep-Alive: timeout=5\r\nConnection: X-mine\r\nProxy-Authenticate: c\r\n" +
		"Proxy-Authentication-Info: d\r\nTransfer-Encoding: chunked\r\nTrailer: e\r\nUpgrade: h2c\r\nDate: f\r\n\r\n"
	var r Response
	if err := r.Parse([]byte(head), false); err != nil {
		t.Fatal(err)
	}
	if got, want := passed(r.Fields, r.Ends), "Server=a Date=f"; got != want {
		t.Errorf("passes on %s, want %s", got, want)
	}
	if got := r.Get(Date); string(got) != "f" {
		t.Errorf("Date is %q", got)
	}
	if got := r.Get(Host); got != nil {
		t.Errorf("Host is %q", got)
	}
}

func TestNames(t *testing.T) {
	for n := Other + 1; n < names; n++ {
		if n == lastHopByHop {
			continue
		}
		text := nameTexts[n]
		if text == "" || len(text) >= len(nameBuckets) {
			t.Fatalf("name %d has the text %q", n, text)
		}
		for _, s := range []string{text, strings.ToUpper(text), strings.ToUpper(text[:1]) + text[1:]} {
			if got := nameOf([]byte(s)); got != n {
				t.Errorf("%s is name %d, want %d", s, got, n)
			}
		}
		if got := nameOf([]byte(text + "x")); got != Other {
			t.Errorf("%sx is name %d", text, got)
		}
	}
	for _, s := range []string{"", "x", "transfer_encoding", "content-lengtH\x00", strings.Repeat("a", 200)} {
		if got := nameOf([]byte(s)); got != Other {
			t.Errorf("%q is name %d", s, got)
		}
	}
}

// warmHeads are like those of a small API call.
const (
	warmRequest = "POST /api/orders?id=7 HTTP/1.1\r\nHost: home.example.org\r\nUser-Agent: node\r\nAccept: */*\r\n" +
		"Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nContent-Type: application/json\r\nContent-Length: 27\r\n\r\n"
	warmResponse = "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 27\r\n" +
		"Date: Tue, 01 Jul 2025 10:00:00 GMT\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n"
)

func TestParseAllocations(t *testing.T) {
	var r Request
	var s Response
	request, response := []byte(warmRequest), []byte(warmResponse)
	if n := testing.AllocsPerRun(100, func() {
		if r.Parse(request) != nil || s.Parse(response, false) != nil {
			t.Fatal("not parsed")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkParse(b *testing.B) {
	b.Run("request", func(b *testing.B) {
		var r Request
		head := []byte(warmRequest)
		b.SetBytes(int64(len(head)))
		b.ReportAllocs()
		for b.Loop() {
			if err := r.Parse(head); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("response", func(b *testing.B) {
		var r Response
		head := []byte(warmResponse)
		b.SetBytes(int64(len(head)))
		b.ReportAllocs()
		for b.Loop() {
			if err := r.Parse(head, false); err != nil {
				b.Fatal(err)
			}
		}
	})
}
