package proxy

import (
	"bufio"
	"bytes"
	"net"
	"testing"
	"time"

	"postern/internal/caller"
	"postern/internal/testnet"
)

// BenchmarkCaller is a keep-alive request of a stranger beside one of a known
// caller, with an API key and with a token of AWS that was seen before.
func BenchmarkCaller(b *testing.B) {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 29\r\n\r\n{\"status\":\"ok\",\"value\":12345}")
	raw := newRawBackend(b)
	raw.each(b, func(c net.Conn, br *bufio.Reader) {
		var buf [8192]byte
		for n := 0; ; {
			m, err := br.Read(buf[n:])
			if err != nil {
				return
			}
			if n += m; bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
				if n = 0; wrote(c, answer) != nil {
					return
				}
			}
		}
	})
	a := testnet.NewAWS(b)
	orders := caller.Caller{Name: "aws", AWS: &caller.AWS{Issuer: a.Issuer, Audience: "https://home.example", Roots: string(a.RootPEM), Role: testnet.AWSRole}}
	book := callerBook(b, orders)
	r := start(b, options{book: book, sites: []testSite{proxyTo(b, raw.addr)}, limits: quick(patience)})
	r.srv.snap.Load().Access = nil
	plain := start(b, options{sites: []testSite{proxyTo(b, raw.addr)}, limits: quick(patience)})
	plain.srv.snap.Load().Access = nil
	token := a.Token(nil)
	b.Run("no_callers", func(b *testing.B) { benchFields(b, plain.dial(), "") })
	b.Run("stranger", func(b *testing.B) { benchFields(b, r.dial(), "") })
	b.Run("api_key", func(b *testing.B) { benchFields(b, r.dial(), "Authorization: Bearer "+ordersKey+"\r\n") })
	b.Run("aws_jwt", func(b *testing.B) { benchFields(b, r.dial(), "Authorization: Bearer "+token+"\r\n") })
	b.Run("aws_jwt_no_callers", func(b *testing.B) { benchFields(b, plain.dial(), "Authorization: Bearer "+token+"\r\n") })
}

func benchFields(b *testing.B, c net.Conn, fields string) {
	_ = c.SetDeadline(time.Time{})
	request := []byte("GET / HTTP/1.1\r\nHost: a.test\r\nUser-Agent: bench\r\nAccept: */*\r\n" + fields + "\r\n")
	var buf [4096]byte
	b.ReportAllocs()
	cpu := cpuTime()
	for b.Loop() {
		if wrote(c, request) != nil {
			b.Fatal("the connection is gone")
		}
		for n := 0; !bytes.HasSuffix(buf[:n], []byte("12345}")); {
			m, err := c.Read(buf[n:])
			if err != nil {
				b.Fatal(err)
			}
			n += m
		}
	}
	b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
}
