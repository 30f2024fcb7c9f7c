package h2

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// The benchmarks compare this package with net/http's HTTP/2 server. Server
// and client are two processes, so that cpu-ns/op and allocs/op are the
// server's alone: what it reports about itself before and after. The client
// is a loop on bytes prepared before. One connection is too little to fill
// two cores; cpu-ns/op holds on a busy machine, ns/op does not.

const benchEnv = "POSTERN_H2_BENCH"

func TestMain(m *testing.M) {
	if kind := os.Getenv(benchEnv); kind != "" {
		benchServer(kind)
		return
	}
	m.Run()
}

var (
	benchBody   = bytes.Repeat([]byte(`{"id":4711},`), 17)
	benchLarge  = make([]byte, 1<<20)
	benchFields = [...]Field{
		{"content-type", "application/json"},
		{"date", "Mon, 01 Jan 2029 00:00:00 GMT"},
		{"server", "backend"},
		{"cache-control", "no-store"},
		{"strict-transport-security", "max-age=31536000"},
		{"x-request-id", ""},
	}
)

// benchServer is the process measured. It tells its address, then serves the
// connections of its standard input's owner.
func benchServer(kind string) {
	server, _ := testTLS(&testing.B{})
	ln, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		panic(err)
	}
	go func() { // as long as the owner lives
		io.Copy(io.Discard, os.Stdin)
		ln.Close()
	}()
	fmt.Println(ln.Addr())
	id := 0
	requestID := func(b []byte) []byte {
		id++
		return strconv.AppendInt(append(b, "01HZXW5P9Q-"...), int64(1e12+id), 36)
	}
	if kind == "net/http" {
		hs := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/stats" {
				w.Write(benchStats())
				return
			}
			for _, f := range benchFields {
				w.Header()[http.CanonicalHeaderKey(f.Name)] = []string{f.Value}
			}
			w.Header()["X-Request-Id"] = []string{string(requestID(nil))}
			body := benchBody
			if r.URL.Path == "/large" {
				body = benchLarge
			}
			w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
			w.Write(body)
		})}
		hs.Serve(ln)
		return
	}
	srv := NewServer(Config{Handler: func(s *Stream) {
		if s.Path == "/stats" {
			s.WriteHead(200, false)
			s.Write(benchStats(), true)
			return
		}
		for i := range benchFields[:len(benchFields)-1] {
			s.AddText(benchFields[i].Name, benchFields[i].Value)
		}
		var tmp [40]byte
		s.AddField([]byte("x-request-id"), requestID(tmp[:0]))
		body := benchBody
		if s.Path == "/large" {
			body = benchLarge
		}
		s.AddField([]byte("content-length"), strconv.AppendInt(tmp[:0], int64(len(body)), 10))
		s.WriteHead(200, false)
		s.Write(body, true)
	}})
	for {
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			if nc.(*tls.Conn).Handshake() == nil {
				srv.NewConn(nc).Serve()
			}
		}()
	}
}

// usage is what the server has used so far.
type usage struct {
	CPU     int64 // nanoseconds
	Mallocs uint64
	Bytes   uint64
}

func benchStats() []byte {
	var ru syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	b, _ := json.Marshal(usage{ru.Utime.Nano() + ru.Stime.Nano(), ms.Mallocs, ms.TotalAlloc})
	return b
}

// benchClient keeps a number of requests open on one connection.
type benchClient struct {
	nc    net.Conn
	r     *bufio.Reader
	out   []byte
	next  uint32
	block map[string][]byte // header block of a path
	enc   *hpack.Encoder
	eb    bytes.Buffer
	data  bytes.Buffer // of the last response, if kept
	debt  int
}

func newBenchClient(b *testing.B, addr string) *benchClient {
	nc, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		b.Fatal(err)
	}
	c := &benchClient{nc: nc, r: bufio.NewReaderSize(nc, 64<<10), next: 1, block: map[string][]byte{}}
	c.enc = hpack.NewEncoder(&c.eb)
	c.out = append(c.out, preface...)
	c.out = append(c.out, 0, 0, 6, frameSettings, 0, 0, 0, 0, 0, 0, settingWindow, 0, 0x40, 0, 0)
	c.out = append(c.out, 0, 0, 4, frameWindow, 0, 0, 0, 0, 0, 0x7f, 0, 0, 0)
	return c
}

// ask appends a request; the second for a path is all indexed fields.
func (c *benchClient) ask(path string) {
	block := c.block[path]
	if block == nil {
		c.eb.Reset()
		for _, f := range []hpack.HeaderField{
			{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: "localhost:8443"},
			{Name: ":path", Value: path}, {Name: "user-agent", Value: "bench/1.0 (a client with a long name)"},
			{Name: "accept", Value: "application/json"}, {Name: "accept-encoding", Value: "gzip"},
			{Name: "x-api-client", Value: "lambda-eu-central-1"},
		} {
			c.enc.WriteField(f)
		}
		block = c.eb.Bytes()
		if len(block) <= 8 {
			c.block[path] = bytes.Clone(block)
		} else {
			clear(c.block) // the table has moved
		}
	}
	c.out = append(c.out, 0, 0, byte(len(block)), frameHeaders, flagEndHeaders|flagEndStream)
	c.out = binary.BigEndian.AppendUint32(c.out, c.next)
	c.out = append(c.out, block...)
	c.next += 2
}

func (c *benchClient) send(b *testing.B) {
	if len(c.out) == 0 {
		return
	}
	if _, err := c.nc.Write(c.out); err != nil {
		b.Fatal(err)
	}
	c.out = c.out[:0]
}

// frame reads one frame and reports whether it ended a response.
func (c *benchClient) frame(b *testing.B, keep bool) bool {
	var hb [frameHeader]byte
	if _, err := io.ReadFull(c.r, hb[:]); err != nil {
		b.Fatal(err)
	}
	h := parseHeader(hb[:])
	if keep && h.kind == frameData {
		io.CopyN(&c.data, c.r, int64(h.length))
	} else if p, _ := c.r.Peek(h.length); h.kind == frameReset {
		b.Fatalf("reset of %d: %x", h.id, p)
	} else if _, err := c.r.Discard(h.length); err != nil {
		b.Fatal(err)
	}
	switch h.kind {
	case frameSettings:
		if !h.has(flagAck) {
			c.out = append(c.out, 0, 0, 0, frameSettings, flagAck, 0, 0, 0, 0)
		}
	case frameData:
		if c.debt += h.length; c.debt > 1<<20 {
			c.out = append(c.out, 0, 0, 4, frameWindow, 0, 0, 0, 0, 0)
			c.out = binary.BigEndian.AppendUint32(c.out, uint32(c.debt))
			c.debt = 0
		}
	case frameReset, frameGoAway:
		b.Fatalf("got frame %+v", h)
	}
	return (h.kind == frameData || h.kind == frameHeaders) && h.has(flagEndStream)
}

// run makes n requests, so many at a time.
func (c *benchClient) run(b *testing.B, path string, n, atOnce int) {
	asked, done := 0, 0
	for ; asked < min(n, atOnce); asked++ {
		c.ask(path)
	}
	for done < n {
		c.send(b)
		for first := true; (first || c.r.Buffered() >= frameHeader) && done < n; first = false {
			if !c.frame(b, false) {
				continue
			}
			done++
			if asked < n {
				c.ask(path)
				asked++
			}
		}
	}
}

func (c *benchClient) stats(b *testing.B) (u usage) {
	c.data.Reset()
	c.ask("/stats")
	c.send(b)
	for !c.frame(b, true) {
	}
	if err := json.Unmarshal(c.data.Bytes(), &u); err != nil {
		b.Fatal(err)
	}
	return u
}

func benchmark(b *testing.B, path string, atOnce int, size int64) {
	for _, kind := range []string{"h2", "net/http"} {
		for _, procs := range []string{"1", "2"} {
			b.Run(kind+"/procs="+procs, func(b *testing.B) {
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), benchEnv+"="+kind, "GOMAXPROCS="+procs)
				in, err := cmd.StdinPipe()
				if err != nil {
					b.Fatal(err)
				}
				out, err := cmd.StdoutPipe()
				if err != nil {
					b.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					b.Fatal(err)
				}
				defer cmd.Wait()
				defer in.Close()
				addr, err := bufio.NewReader(out).ReadString('\n')
				if err != nil {
					b.Fatal(err)
				}
				c := newBenchClient(b, addr[:len(addr)-1])
				defer c.nc.Close()
				c.run(b, path, 100, atOnce)
				before := c.stats(b)
				b.SetBytes(size)
				b.ResetTimer()
				c.run(b, path, b.N, atOnce)
				b.StopTimer()
				after := c.stats(b)
				n := float64(b.N)
				b.ReportMetric(float64(after.CPU-before.CPU)/n, "cpu-ns/op")
				b.ReportMetric(float64(after.Mallocs-before.Mallocs)/n, "srv-allocs/op")
				b.ReportMetric(float64(after.Bytes-before.Bytes)/n, "srv-B/op")
			})
		}
	}
}

func BenchmarkSmallGet1(b *testing.B)  { benchmark(b, "/", 1, 0) }
func BenchmarkSmallGet4(b *testing.B)  { benchmark(b, "/", 4, 0) }
func BenchmarkSmallGet32(b *testing.B) { benchmark(b, "/", 32, 0) }
func BenchmarkDownload1MB(b *testing.B) {
	benchmark(b, "/large", 1, int64(len(benchLarge)))
}
