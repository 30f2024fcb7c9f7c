package h2

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// raw is a client that may break every rule. It lives in a bubble of
// testing/synctest with the Conn at the other end of a pipe.
type raw struct {
	t    *testing.T
	nc   net.Conn
	conn *Conn
	fr   *http2.Framer
	enc  *hpack.Encoder
	eb   bytes.Buffer

	mu     sync.Mutex
	got    []string // frames that came, in words
	abuses []string
	closed bool
	served chan error
	paused chan struct{} // reading waits for it to be closed; nil: it does not
}

// rawServe calls f with a client that has sent nothing; rawOpen does after
// both sides' SETTINGS.
func rawServe(t *testing.T, cfg Config, f func(c *raw)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		c := &raw{t: t, nc: client, served: make(chan error, 1)}
		cfg.OnAbuse = func(_ *Conn, a Abuse) {
			c.mu.Lock()
			c.abuses = append(c.abuses, a.String())
			c.mu.Unlock()
		}
		if cfg.Handler == nil {
			cfg.Handler = rawHandler
		}
		srv := NewServer(cfg)
		c.conn = srv.NewConn(server)
		c.fr = http2.NewFramer(client, client)
		c.fr.AllowIllegalWrites = true
		c.fr.AllowIllegalReads = true
		c.enc = hpack.NewEncoder(&c.eb)
		go func() { c.served <- c.conn.Serve() }()
		read := make(chan struct{})
		go func() {
			defer close(read)
			c.read()
		}()
		f(c)
		client.Close()
		<-read
		select {
		case <-c.served:
		default:
			c.conn.Close()
			<-c.served
		}
		srv.Close()
	})
}

func rawOpen(t *testing.T, cfg Config, f func(c *raw)) {
	t.Helper()
	rawServe(t, cfg, func(c *raw) {
		io.WriteString(c.nc, preface)
		c.fr.WriteSettings()
		c.fr.WriteSettingsAck()
		c.take()
		f(c)
	})
}

// rawHandler answers by path.
func rawHandler(s *Stream) {
	switch s.Path {
	case "/hold":
		<-s.Done()
		return
	case "/count":
		n, err := io.Copy(io.Discard, s)
		if err != nil {
			return
		}
		s.WriteHead(200, false)
		s.Write(fmt.Append(nil, n), true)
	case "/early":
		s.WriteHead(200, true)
	case "/large":
		s.WriteHead(200, false)
		s.Write(make([]byte, 100_000), true)
	default:
		s.WriteHead(204, true)
	}
}

func (c *raw) read() {
	dec := hpack.NewDecoder(4096, nil)
	for {
		c.mu.Lock()
		p := c.paused
		c.mu.Unlock()
		if p != nil {
			<-p
		}
		f, err := c.fr.ReadFrame()
		c.mu.Lock()
		if err != nil {
			c.closed = true
			c.mu.Unlock()
			return
		}
		c.got = append(c.got, tell(f, dec))
		c.mu.Unlock()
	}
}

// tell puts a frame into words.
func tell(f http2.Frame, dec *hpack.Decoder) string {
	end := ""
	if h := f.Header(); (h.Type == http2.FrameData || h.Type == http2.FrameHeaders) && h.Flags.Has(flagEndStream) {
		end = " end"
	}
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			return "SETTINGS ack"
		}
		return "SETTINGS"
	case *http2.HeadersFrame:
		fields, err := dec.DecodeFull(f.HeaderBlockFragment())
		if err != nil {
			return "HEADERS " + err.Error()
		}
		s := fmt.Sprintf("HEADERS %d", f.StreamID)
		for _, f := range fields {
			s += " " + f.Name + "=" + f.Value
		}
		return s + end
	case *http2.DataFrame:
		return fmt.Sprintf("DATA %d %d%s", f.StreamID, len(f.Data()), end)
	case *http2.RSTStreamFrame:
		return fmt.Sprintf("RST_STREAM %d %v", f.StreamID, ErrCode(f.ErrCode))
	case *http2.GoAwayFrame:
		return fmt.Sprintf("GOAWAY %d %v", f.LastStreamID, ErrCode(f.ErrCode))
	case *http2.WindowUpdateFrame:
		return fmt.Sprintf("WINDOW_UPDATE %d %d", f.StreamID, f.Increment)
	case *http2.PingFrame:
		return fmt.Sprintf("PING %q ack=%v", f.Data[:], f.IsAck())
	}
	return f.Header().Type.String()
}

// take waits until nothing moves and returns what came since.
func (c *raw) take() []string {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	got := c.got
	c.got = nil
	return got
}

func (c *raw) sawAbuses() []string {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.abuses)
}

// ended reports whether the server closed the connection, after lingering if
// it does.
func (c *raw) ended(lingers bool) bool {
	if lingers {
		pass(lingerTime + time.Millisecond)
	}
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// pass lets time pass in the bubble.
func pass(d time.Duration) { time.Sleep(d) }

// expect compares what came with frames in words.
func (c *raw) expect(want ...string) {
	c.t.Helper()
	if got := c.take(); !slices.Equal(got, want) {
		c.t.Errorf("got  %q\nwant %q", got, want)
	}
}

// block encodes fields; a GET of / unless the first name is another.
func (c *raw) block(fields ...string) []byte {
	c.eb.Reset()
	for i := 0; i+1 < len(fields); i += 2 {
		c.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(c.eb.Bytes())
}

func get(path string, more ...string) []string {
	return append([]string{":method", "GET", ":scheme", "https", ":authority", "a.example", ":path", path}, more...)
}

func post(path string, more ...string) []string {
	return append([]string{":method", "POST", ":scheme", "https", ":authority", "a.example", ":path", path}, more...)
}

// ask sends HEADERS.
func (c *raw) ask(id uint32, end bool, fields ...string) {
	c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.block(fields...), EndStream: end, EndHeaders: true})
}

// frame sends any frame.
func (c *raw) frame(kind, flags uint8, id uint32, payload ...byte) {
	c.fr.WriteRawFrame(http2.FrameType(kind), http2.Flags(flags), id, payload)
}

// nopConn is a net.Conn that does nothing.
type nopConn struct{ net.Conn }

func (nopConn) Close() error                     { return nil }
func (nopConn) SetDeadline(time.Time) error      { return nil }
func (nopConn) SetReadDeadline(time.Time) error  { return nil }
func (nopConn) SetWriteDeadline(time.Time) error { return nil }
