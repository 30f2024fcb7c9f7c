package upstream

import (
	"bytes"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"
)

// stallFrom is how much of a request is written before the write deadline is
// armed. Less than this fits the socket buffers of any kernel, so the two
// system calls are spared for nearly every request.
const stallFrom = 16 << 10

// tap is the connection below an HTTP/1.1 client: for an https backend it
// sits above the TLS layer, so that it counts HTTP bytes and not records.
//
// It knows two things about an exchange that net/http does not: whether a byte
// of an answer came in, and that a failed write is not the end. A backend that refuses an upload
// answers and closes; the write then fails before the answer is read. So a
// write to a closed connection is passed off as done, and the reading side,
// which always follows with either the answer or the same failure, decides.
//
// begin is called between exchanges by the owner of the connection; Read and
// Write are net/http's.
type tap struct {
	net.Conn
	read, written atomic.Int64
	readAt        int64 // read and written when the exchange began
	writtenAt     int64
	stall         time.Duration // limit without progress while writing; 0 none
	armed         atomic.Bool   // a write deadline is set
	tunnel        atomic.Bool   // after 101: bytes are passed through as they are
	from, to      []byte        // request line to replace in the first write
}

// begin starts an exchange. line, if not empty, is written instead of the
// request line placeholder.
func (c *tap) begin(placeholder, line []byte) {
	c.readAt, c.writtenAt = c.read.Load(), c.written.Load()
	c.from, c.to = placeholder, line
	if c.armed.Swap(false) {
		_ = c.SetWriteDeadline(time.Time{}) // a dead connection shows when it is written to
	}
}

func (c *tap) answered() bool { return c.read.Load() > c.readAt }

// upgrade ends HTTP on the connection.
func (c *tap) upgrade() {
	c.tunnel.Store(true)
	if c.armed.Swap(false) {
		_ = c.SetWriteDeadline(time.Time{})
	}
}

func (c *tap) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

func (c *tap) Write(p []byte) (int, error) {
	if c.tunnel.Load() {
		return c.Conn.Write(p)
	}
	if c.stall > 0 && c.written.Load()-c.writtenAt >= stallFrom {
		c.armed.Store(true)
		if err := c.SetWriteDeadline(time.Now().Add(c.stall)); err != nil {
			return 0, err
		}
	}
	out := p
	if c.from != nil && bytes.HasPrefix(p, c.from) {
		out = slices.Concat(c.to, p[len(c.from):])
		c.from = nil
	}
	n, err := c.Conn.Write(out)
	c.written.Add(int64(n))
	switch {
	case err == nil, isReset(err):
		return len(p), nil
	case len(out) != len(p):
		return 0, err
	}
	return n, err
}

// CloseWrite ends the sending half, which upgraded protocols may need
// (http.Response.Body of a 101 offers it when the connection does).
func (c *tap) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return http.ErrNotSupported
}
