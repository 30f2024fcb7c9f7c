package upstream

import (
	"bytes"
	"context"
	"io"
	"net"
	"runtime"
	"strconv"
	"testing"
	"time"
)

// plainServer answers each request of a known length with 200, and allocates
// nothing meanwhile.
func plainServer(t testing.TB, requestSize int, answer string) (addr string) {
	out := []byte(answer)
	return rawServer(t, func(c net.Conn) {
		buf := make([]byte, requestSize)
		for {
			if _, err := io.ReadFull(c, buf); err != nil {
				return
			}
			if _, err := c.Write(out); err != nil {
				return
			}
		}
	})
}

const smallAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\nContent-Type: text/plain\r\n\r\nhello, world"

// carryWire is one exchange as a proxy does it.
func carryWire(t testing.TB, p *Pool, q *WireRequest, res *WireResponse, tr *Trace) {
	if err := p.Wire(context.Background(), q, res, tr); err != nil {
		t.Fatal(err)
	}
	for !res.Done() {
		if _, err := res.Body(); err != nil {
			t.Fatal(err)
		}
	}
	res.Close()
}

func TestWireAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates, and sync.Pool drops at random under it")
	}
	for name, body := range map[string]string{"GET": "", "POST": "sixty-four bytes"} {
		q := wireRequest(name, body)
		q.Watch = func(func()) func() { return func() {} }
		addr := plainServer(t, len(q.Head)+len(body), smallAnswer)
		p := newPool(t, Config{Idle: time.Minute, Response: time.Minute}, addr)
		var res WireResponse
		var tr Trace
		one := func() { carryWire(t, p, q, &res, &tr) }
		for range 20 {
			one()
		}
		// AllocsPerRun rounds down: a collection in between, which empties
		// the pools of buffers, does not count.
		if n := testing.AllocsPerRun(1000, one); n != 0 {
			t.Errorf("%s: %v allocations for each exchange", name, n)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 1000 {
			one()
		}
		runtime.ReadMemStats(&after)
		if n := after.Mallocs - before.Mallocs; n > 100 {
			t.Errorf("%s: %d allocations in 1000 exchanges", name, n)
		}
	}
}

func BenchmarkWire(b *testing.B) {
	for _, body := range []string{"", string(bytes.Repeat([]byte("x"), 64))} {
		method := "GET"
		if body != "" {
			method = "POST64"
		}
		b.Run(method, func(b *testing.B) {
			p := newPool(b, Config{Idle: time.Minute, Response: time.Minute}, benchServer(b))
			q := wireRequest(method, body)
			var res WireResponse
			var tr Trace
			b.ReportAllocs()
			for b.Loop() {
				carryWire(b, p, q, &res, &tr)
			}
		})
	}
	b.Run("download 1MB", func(b *testing.B) {
		const size = 1 << 20
		answer := "HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(size) + "\r\n\r\n" + string(make([]byte, size))
		q := wireRequest("GET", "")
		p := newPool(b, Config{Idle: time.Minute, Response: time.Minute}, plainServer(b, len(q.Head), answer))
		var res WireResponse
		b.SetBytes(size)
		b.ReportAllocs()
		for b.Loop() {
			carryWire(b, p, q, &res, nil)
		}
	})
}
