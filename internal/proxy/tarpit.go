package proxy

import (
	"net"
	"time"
)

// How scanners are kept busy: how many at a time, for how long, and how long
// each byte takes.
const (
	tarpitPlaces = 64
	tarpitTime   = 2 * time.Minute
	tarpitPause  = 3 * time.Second
)

// tarpitHead begins an answer whose head never ends.
const tarpitHead = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nX-Trace: "

// keepBusy sends a scanner a byte now and then, on the goroutine its
// connection has anyway, until it goes or its time is up. When all places are
// taken it returns at once.
func (s *Server) keepBusy(nc net.Conn) {
	defer s.tarpits.Add(-1)
	if s.tarpits.Add(1) > tarpitPlaces {
		return
	}
	s.metrics.tarpitted.Inc()
	if _, err := nc.Write([]byte(tarpitHead)); err != nil {
		return
	}
	tick := time.NewTicker(tarpitPause)
	defer tick.Stop()
	for left := tarpitTime / tarpitPause; left > 0; left-- {
		select {
		case <-s.left:
			return
		case <-tick.C:
		}
		if _, err := nc.Write([]byte{'a' + byte(left%26)}); err != nil {
			return
		}
	}
}
