package guard

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// t0 is the time most tests begin at.
var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// v4 returns the i-th of many public IPv4 addresses.
func v4(i int) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 0x0b00_0000+uint32(i))
	return netip.AddrFrom4(b)
}

// v6 returns an address in the i-th of many public /64 networks.
func v6(i int) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], 0x2001_0db8_0000_0000+uint64(i))
	b[15] = 1
	return netip.AddrFrom16(b)
}

// each runs fn over every hot function, ready to be called many times.
func each(run func(name string, fn func(i int))) {
	g := New(Config{MaxBans: 1 << 17})
	now := time.Now()
	for i := range 100_000 {
		if err := g.Ban(v4(1<<20+i), time.Hour, "", now); err != nil {
			panic(err)
		}
	}
	addrs := make([]netip.Addr, 1<<12)
	for i := range addrs {
		addrs[i] = v4(i)
		if i%2 == 1 {
			addrs[i] = v6(i)
		}
	}
	addr := func(i int) netip.Addr { return addrs[i&(len(addrs)-1)] }
	run("AllowConn+ConnClosed", func(i int) {
		if g.AllowConn(addr(i), now).Allowed {
			g.ConnClosed(addr(i))
		}
	})
	banned := v4(1<<20 + 7)
	run("AllowConn/banned", func(int) { g.AllowConn(banned, now) })
	run("AllowRequest", func(i int) { g.AllowRequest(addr(i), now) })
	run("Banned", func(i int) { g.Banned(addr(i), now) })
	run("Observe", func(i int) { g.Observe(addr(i), RateLimited, now.Add(time.Duration(i)*time.Second)) })
	run("Observe/new", func(i int) { g.Observe(v4(i), NoRoute, now) })
	run("Observe/spared", func(int) { g.Observe(netip.AddrFrom4([4]byte{10, 1, 2, 3}), NoRoute, now) })

	l := NewLimiter(Rate{20, time.Second}, 40, 0)
	run("Limiter.Take", func(i int) { l.Take(addr(i), now.Add(time.Duration(i)*time.Millisecond)) })
	run("Limiter.Take/denied", func(int) { l.Take(banned, now) })
	s := NewSingle(Rate{1000, time.Second}, 0)
	run("Single.Take", func(i int) { s.Take(now.Add(time.Duration(i) * time.Millisecond)) })

	const short, long = "/api/v1/devices/42/readings?limit=50&order=desc",
		"/api/v1/devices/42/readings?limit=50&order=desc&from=2026-03-01T00%3A00%3A00Z&to=2026-03-02T00%3A00%3A00Z&fields=temperature,humidity,pressure&format=json"
	run("Shape/45B", func(int) { g.Shape("GET", short, "mypi.example.org") })
	run("Shape/150B", func(int) { g.Shape("GET", long, "mypi.example.org") })
	run("Shape/hostile", func(int) { g.Shape("GET", "/cgi-bin/.%2e/.%2e/.%2e/bin/sh", "192.0.2.1") })
	full := New(Config{Decoys: []string{"/backup.zip"}, Metrics: prometheus.NewRegistry()})
	full.SetShared(func(netip.Addr) bool { return false })
	if err := full.Ban(v4(1<<21), time.Hour, "", now); err != nil {
		panic(err)
	}
	run("verdict/benign", func(i int) { // all a keep-alive request passes by default, its end included
		a := addr(i)
		at := now.Add(time.Duration(i) * time.Millisecond)
		if !full.AllowRequest(a, at).Allowed {
			panic("refused")
		}
		if _, bad := full.Shape("GET", short, "mypi.example.org"); bad || full.Decoy("/api/v1/devices/42/readings") {
			panic("bad")
		}
		if _, counted := full.BeginRequest(a, at); counted {
			full.EndRequest(a)
		}
	})
	run("Answered/found", func(i int) { full.Answered(addr(i), 200, short, Evidence{}, now) })
	run("Answered/missing", func(i int) { full.Answered(addr(i), 404, short, Evidence{}, now) })
	run("Report", func(i int) {
		g.Report(addr(i), RateLimited, Evidence{Rule: "r", Method: "GET", Host: "h", Path: short}, now.Add(time.Duration(i)*time.Second))
	})
	run("Authenticated", func(i int) { full.Authenticated(v6(i&1023), now) })
	run("ScannerSignature/benign", func(int) { ScannerSignature("/api/v1/devices/42/readings/latest/of/today") })
	run("ScannerSignature/hostile", func(int) { ScannerSignature("/wp-includes/wlwmanifest.xml") })
	tls, http := []byte("\x16\x03\x01\x02\x00\x01\x00\x01"), []byte("GET / HTTP/1.1\r\n")
	run("ClassifyFirstBytes/tls", func(int) { ClassifyFirstBytes(tls) })
	run("ClassifyFirstBytes/http", func(int) { ClassifyFirstBytes(http) })
	d := l.Take(v4(1), now)
	buf := make([]byte, 0, 64)
	run("AppendPolicy+State", func(int) { buf = d.AppendState(d.AppendPolicy(buf[:0], "default"), "default") })
}

func BenchmarkGuard(b *testing.B) {
	each(func(name string, fn func(i int)) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				fn(i)
				i++
			}
		})
	})
}

// A ban is not on the hot path, but its cost must not grow with their number.
func BenchmarkBan(b *testing.B) {
	for _, n := range []int{1_000, 100_000} {
		b.Run(map[int]string{1_000: "among 1000", 100_000: "among 100000"}[n], func(b *testing.B) {
			b.ReportAllocs()
			g := New(Config{MaxBans: n})
			now := time.Now()
			i := 0
			for b.Loop() { // soon the table is full: each ban pushes one out
				g.Observe(v4(i), Junk, now.Add(time.Duration(i)*time.Microsecond))
				i++
			}
		})
	}
}

func TestNoAllocations(t *testing.T) {
	each(func(name string, fn func(i int)) {
		i := 0
		if got := testing.AllocsPerRun(1000, func() { fn(i); i++ }); got != 0 {
			t.Errorf("%s: %v allocations, want 0", name, got)
		}
	})
}
