package h2

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// Floods end the connection at once.
func TestFloods(t *testing.T) {
	small := Config{Resets: Budget{20, 1}, Control: Budget{100, 1}, MaxStreams: 10}
	tests := []struct {
		name, abuse string
		send        func(c *raw, i int)
	}{
		{"rapid reset (CVE-2023-44487)", "resets", func(c *raw, i int) {
			c.ask(uint32(2*i+1), true, get("/hold")...)
			c.fr.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel)
		}},
		{"resets we are made to send (CVE-2025-8671)", "resets", func(c *raw, i int) {
			c.ask(uint32(2*i+1), true, get("/hold")...)
			c.frame(frameWindow, 0, uint32(2*i+1), 0, 0, 0, 0)
		}},
		{"malformed requests", "resets", func(c *raw, i int) { c.ask(uint32(2*i+1), true, get("/", "A", "b")...) }},
		{"refused streams", "resets", func(c *raw, i int) { c.ask(uint32(2*i+1), true, get("/hold")...) }},
		{"PING (CVE-2019-9512)", "control_frames", func(c *raw, i int) { c.frame(framePing, 0, 0, make([]byte, 8)...) }},
		{"PING ack", "control_frames", func(c *raw, i int) { c.frame(framePing, 1, 0, make([]byte, 8)...) }},
		{"SETTINGS (CVE-2019-9515)", "control_frames", func(c *raw, i int) { c.frame(frameSettings, 0, 0) }},
		{"SETTINGS ack", "control_frames", func(c *raw, i int) { c.frame(frameSettings, 1, 0) }},
		{"PRIORITY (CVE-2019-9513)", "control_frames", func(c *raw, i int) { c.frame(framePriority, 0, 7, 0, 0, 0, 0, 1) }},
		{"unknown frames", "control_frames", func(c *raw, i int) { c.frame(0x42, 0, 0, 1) }},
		{"tiny WINDOW_UPDATE", "control_frames", func(c *raw, i int) { c.frame(frameWindow, 0, 0, 0, 0, 0, 1) }},
		{"empty DATA (CVE-2019-9518)", "control_frames", func(c *raw, i int) {
			if i == 0 {
				c.ask(1, false, post("/count")...)
			}
			c.frame(frameData, 0, 1)
		}},
		{"DATA on a stream that was reset", "control_frames", func(c *raw, i int) {
			if i == 0 {
				c.ask(1, false, post("/early")...)
				synctest.Wait()
			}
			c.frame(frameData, 0, 1, 'x')
		}},
		{"CONTINUATION (CVE-2023-45288)", "continuation", func(c *raw, i int) {
			if i == 0 {
				c.frame(frameHeaders, 1, 1, c.block(get("/")...)...)
			}
			c.frame(frameContinuation, 0, 1)
		}},
		{"CONTINUATION with fields", "continuation", func(c *raw, i int) {
			if i == 0 {
				c.frame(frameHeaders, 1, 1, c.block(get("/")...)...)
			}
			c.frame(frameContinuation, 0, 1, c.block(slices.Repeat([]string{"a", strings.Repeat("b", 1000)}, 10)...)...)
		}},
		{"one endless field", "continuation", func(c *raw, i int) {
			if i == 0 {
				c.frame(frameHeaders, 1, 1, 0x40, 1, 'a', 0x7f, 0x80, 0x80, 0x80, 0x01)
			}
			c.frame(frameContinuation, 0, 1, make([]byte, 1000)...)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rawOpen(t, small, func(c *raw) {
				for i := range 1000 {
					tt.send(c, i)
					if c.ended(false) {
						break
					}
				}
				got := c.take()
				if len(got) == 0 || !strings.HasSuffix(got[len(got)-1], " ENHANCE_YOUR_CALM") || !c.ended(false) {
					t.Errorf("got %q, closed %v; want GOAWAY ENHANCE_YOUR_CALM", got, c.ended(false))
				}
				if !slices.Contains(c.sawAbuses(), tt.abuse) {
					t.Errorf("abuses %q, want %s", c.sawAbuses(), tt.abuse)
				}
			})
		})
	}
}

// An honest client that gives up many requests is not taken for a flood.
func TestHonestResets(t *testing.T) {
	rawOpen(t, Config{Resets: Budget{20, 1}}, func(c *raw) {
		for i := range uint32(500) {
			c.ask(4*i+1, true, get("/hold")...)
			c.fr.WriteRSTStream(4*i+1, http2.ErrCodeCancel)
			c.ask(4*i+3, true, get("/")...)
			c.expect(fmt.Sprintf("HEADERS %d :status=204 end", 4*i+3))
		}
	})
}

// Time limits, each to the second.
func TestTimeouts(t *testing.T) {
	cfg := Config{IdleTimeout: 60 * time.Second, HeadTimeout: 10 * time.Second, StallTimeout: 30 * time.Second}
	tests := []struct {
		name  string
		send  func(c *raw)
		after time.Duration
		want  string // the last frame
		abuse string
	}{
		{"no request", func(c *raw) {}, 10 * time.Second, "GOAWAY 0 NO_ERROR", "no_request"},
		{"PING does not count", func(c *raw) {
			pass(9 * time.Second)
			c.frame(framePing, 0, 0, make([]byte, 8)...)
		}, time.Second, "GOAWAY 0 NO_ERROR", "no_request"},
		{"idle after a request", func(c *raw) { c.ask(1, true, get("/")...) }, 60 * time.Second, "GOAWAY 1 NO_ERROR", ""},
		{"head in pieces", func(c *raw) {
			c.ask(1, true, get("/hold")...)
			c.frame(frameHeaders, 1, 3, c.block(get("/")...)...)
		}, 10 * time.Second, "GOAWAY 1 ENHANCE_YOUR_CALM", "slow_head"},
		{"half a HEADERS frame", func(c *raw) {
			c.ask(1, true, get("/hold")...)
			c.nc.Write([]byte{0, 0, 9, frameHeaders, 5, 0, 0, 0, 3, 0x82})
		}, 10 * time.Second, "GOAWAY 1 ENHANCE_YOUR_CALM", "slow_head"},
		{"body stands still", func(c *raw) {
			c.ask(1, false, post("/count")...)
			pass(20 * time.Second)
			c.frame(frameData, 0, 1, 'x')
		}, 30 * time.Second, "RST_STREAM 1 CANCEL", ""},
		{"window is never opened", func(c *raw) { c.ask(1, true, get("/large")...) }, 30 * time.Second, "RST_STREAM 1 CANCEL", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rawOpen(t, cfg, func(c *raw) {
				tt.send(c)
				c.take()
				pass(tt.after - time.Millisecond)
				if got := c.take(); len(got) > 0 {
					t.Errorf("early: %q", got)
				}
				pass(2 * time.Millisecond)
				if got := c.take(); len(got) != 1 || got[0] != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
				if tt.abuse != "" && !slices.Contains(c.sawAbuses(), tt.abuse) {
					t.Errorf("abuses %q, want %s", c.sawAbuses(), tt.abuse)
				}
			})
		})
	}
}

// A client that stops reading loses the connection.
func TestSlowReader(t *testing.T) {
	rawOpen(t, Config{StallTimeout: 30 * time.Second}, func(c *raw) {
		wait := make(chan struct{})
		c.mu.Lock()
		c.paused = wait
		c.mu.Unlock()
		c.ask(1, true, get("/")...) // one frame is still read
		c.ask(3, true, get("/large")...)
		pass(31 * time.Second)
		select {
		case err := <-c.served:
			if err == nil {
				t.Error("Serve returned nil")
			}
			c.served <- err
		default:
			t.Error("connection is served")
		}
		close(wait)
		if !slices.Contains(c.sawAbuses(), "slow_read") {
			t.Errorf("abuses %q, want slow_read", c.sawAbuses())
		}
	})
}

// Shutdown is told twice; what crossed the first GOAWAY is answered (RFC 9113
// section 6.8).
func TestShutdown(t *testing.T) {
	release := make(chan struct{})
	cfg := Config{Handler: func(s *Stream) {
		if s.Path == "/hold" {
			<-release
		}
		s.WriteHead(204, true)
	}}
	ping := `PING "postern!" ack=false`
	for _, answer := range []bool{true, false} {
		t.Run(fmt.Sprintf("ping answered %v", answer), func(t *testing.T) {
			rawOpen(t, cfg, func(c *raw) {
				release = make(chan struct{})
				c.ask(1, true, get("/hold")...)
				c.take()
				c.conn.Shutdown()
				c.expect("GOAWAY 2147483647 NO_ERROR", ping)
				c.ask(3, true, get("/")...)
				c.expect("HEADERS 3 :status=204 end")
				if answer {
					c.frame(framePing, 1, 0, shutdownPing[:]...)
				} else {
					pass(goawayGrace + time.Millisecond)
				}
				c.expect("GOAWAY 3 NO_ERROR")
				c.ask(5, true, get("/")...)
				c.expect()
				close(release)
				c.expect("HEADERS 1 :status=204 end")
				if err := <-c.served; err != nil || !c.ended(false) {
					t.Errorf("Serve returned %v", err)
				}
				c.served <- nil
			})
		})
	}
}

// A shutdown that comes before Serve is told as any other.
func TestShutdownBeforeServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		srv := NewServer(Config{Handler: rawHandler})
		c := srv.NewConn(server)
		c.Shutdown()
		served := make(chan error, 1)
		go func() { served <- c.Serve() }()
		var got []string
		fr := http2.NewFramer(client, client)
		for {
			f, err := fr.ReadFrame()
			if err != nil {
				break
			}
			got = append(got, tell(f, nil))
		}
		want := []string{"SETTINGS", fmt.Sprintf("WINDOW_UPDATE 0 %d", DefaultConnWindow-firstWindow),
			"GOAWAY 2147483647 NO_ERROR", `PING "postern!" ack=false`, "GOAWAY 0 NO_ERROR"}
		if err := <-served; err != nil || !slices.Equal(got, want) {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
		srv.Close()
	})
}

// Windows are opened when half of them was consumed, and padding counts.
func TestReceiveWindows(t *testing.T) {
	rawOpen(t, Config{StreamWindow: 20_000, ConnWindow: 70_000}, func(c *raw) {
		c.ask(1, false, post("/count")...)
		c.frame(frameData, 0, 1, make([]byte, 9_000)...)
		c.expect()
		c.fr.WriteDataPadded(1, false, make([]byte, 900), make([]byte, 199))
		c.expect("WINDOW_UPDATE 1 10100")
		for range 3 {
			c.frame(frameData, 0, 1, make([]byte, 10_000)...)
			c.take()
		}
		c.frame(frameData, 1, 1)
		c.expect("HEADERS 1 :status=200", "DATA 1 5 end")
		// Bytes nobody reads are given back when the handler returns.
		for id := uint32(3); id < 23; id += 2 {
			c.ask(id, false, post("/early")...)
			c.fr.WriteDataPadded(id, true, make([]byte, 10_000), nil)
			c.take()
		}
		if c.ended(false) {
			t.Error("connection ran out of window")
		}
	})
}

// Responses stay within the client's windows and frames.
func TestSendWindows(t *testing.T) {
	rawOpen(t, Config{}, func(c *raw) {
		c.frame(frameSettings, 0, 0, 0, 4, 0, 0, 0, 10) // INITIAL_WINDOW_SIZE 10
		c.ask(1, true, get("/large")...)
		c.expect("SETTINGS ack", "HEADERS 1 :status=200", "DATA 1 10")
		c.fr.WriteWindowUpdate(1, 5)
		c.expect("DATA 1 5")
		c.frame(frameSettings, 0, 0, 0, 4, 0, 0, 0, 5) // the window is -5 now
		c.expect("SETTINGS ack")
		c.fr.WriteWindowUpdate(1, 5)
		c.expect()
		c.fr.WriteWindowUpdate(1, 1)
		c.expect("DATA 1 1")
		c.fr.WriteWindowUpdate(1, 1<<20)
		n := 0
		for _, f := range c.take() {
			var id, k int
			if _, err := fmt.Sscanf(f, "DATA %d %d", &id, &k); err != nil || k > maxData {
				t.Errorf("got %q", f)
			}
			n += k
		}
		if want := firstWindow - 16; n != want {
			t.Errorf("got %d bytes within the connection's window, want %d", n, want)
		}
		c.fr.WriteWindowUpdate(0, 1<<20)
		got := c.take()
		if len(got) == 0 || !strings.HasSuffix(got[len(got)-1], " end") {
			t.Errorf("got %q", got)
		}
	})
}

// Serve says why it returned.
func TestServeError(t *testing.T) {
	rawOpen(t, Config{}, func(c *raw) {
		c.nc.Close()
		if err := <-c.served; err != nil {
			t.Errorf("client closed: got %v, want nil", err)
		}
		c.served <- nil
	})
	rawOpen(t, Config{}, func(c *raw) {
		c.ask(1, true, get("/hold")...)
		c.nc.Close()
		if err := <-c.served; err != io.EOF {
			t.Errorf("client closed with a request open: got %v, want EOF", err)
		}
		c.served <- nil
	})
}

// A handler that does not want the rest of a body answers all the same, also
// when another goroutine of its waits for that body.
func TestStopBody(t *testing.T) {
	reader := make(chan error, 1)
	cfg := Config{Handler: func(s *Stream) {
		var done sync.WaitGroup
		done.Go(func() {
			for {
				if _, err := s.Next(); err != nil {
					reader <- err
					return
				}
			}
		})
		pass(time.Second) // it waits now
		s.StopBody()
		done.Wait()
		s.WriteHead(204, true)
	}}
	rawOpen(t, cfg, func(c *raw) {
		reader = make(chan error, 1)
		c.ask(1, false, post("/")...)
		c.frame(frameData, 0, 1, 'x')
		pass(time.Second)
		c.expect("HEADERS 1 :status=204 end")
		if err := <-reader; err != ErrUnwanted {
			t.Errorf("Next returned %v, want ErrUnwanted", err)
		}
		pass(drainTime + time.Millisecond)
		c.expect("RST_STREAM 1 NO_ERROR")
	})
}
