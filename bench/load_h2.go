package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2Worker keeps some streams of one HTTP/2 connection busy. It is a bare
// framer instead of a client library so that it leaves the CPU to the proxy.
type h2Worker struct {
	clients *clients
	host    string
	path    string
	streams int

	conn   net.Conn
	bw     *bufio.Writer
	framer *http2.Framer
	enc    *hpack.Encoder
	block  bytes.Buffer
	next   uint32
	begun  map[uint32]time.Time // open streams
	credit int                  // received bytes of bodies not given back to the connection's window
}

func newH2Worker(j *job, n int, c *clients) worker {
	return &h2Worker{
		clients: c, host: j.Hosts[n%len(j.Hosts)], path: j.Paths[n%len(j.Paths)], streams: j.Streams,
		next: 1, begun: make(map[uint32]time.Time),
	}
}

func (w *h2Worker) prepare() error {
	conn, _, err := w.clients.dial(w.host, nil)
	if err != nil {
		return err
	}
	w.conn, w.bw = conn, bufio.NewWriterSize(conn, 16<<10)
	w.framer = http2.NewFramer(w.bw, bufio.NewReaderSize(conn, 64<<10))
	w.framer.SetReuseFrames()
	w.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	w.enc = hpack.NewEncoder(&w.block)
	if _, err := w.bw.WriteString(http2.ClientPreface); err != nil {
		return err
	}
	if err := w.framer.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0}); err != nil {
		return err
	}
	return w.bw.Flush()
}

func (w *h2Worker) close() {
	if w.conn != nil {
		_ = w.conn.Close()
	}
}

// unit opens streams up to the limit and reads until one of them has ended.
func (w *h2Worker) unit(t *tally) {
	before := len(t.times) + t.failed
	if len(w.begun) == 0 {
		_ = w.conn.SetDeadline(time.Now().Add(unitTimeout))
	}
	for len(w.begun) < w.streams && before+len(w.begun) < t.remain {
		if err := w.open(); err != nil {
			w.broken(t, err)
			return
		}
	}
	if err := w.bw.Flush(); err != nil {
		w.broken(t, err)
		return
	}
	for len(t.times)+t.failed == before {
		if err := w.read(t); err != nil {
			w.broken(t, err)
			return
		}
	}
	if (len(t.times)+t.failed)%256 == 0 {
		_ = w.conn.SetDeadline(time.Now().Add(unitTimeout))
	}
}

// broken ends the worker: what remains has failed.
func (w *h2Worker) broken(t *tally, err error) {
	for len(t.times)+t.failed < t.remain {
		t.fail(err)
	}
}

func (w *h2Worker) open() error {
	w.block.Reset()
	for _, f := range []hpack.HeaderField{
		{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"},
		{Name: ":authority", Value: w.host}, {Name: ":path", Value: w.path},
		{Name: "user-agent", Value: agent}, {Name: "accept", Value: "application/json"},
		{Name: "accept-encoding", Value: "gzip, deflate, br"},
	} {
		if err := w.enc.WriteField(f); err != nil {
			return err
		}
	}
	id := w.next
	w.next += 2
	w.begun[id] = time.Now()
	return w.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: w.block.Bytes(), EndStream: true, EndHeaders: true,
	})
}

// read handles one frame.
func (w *h2Worker) read(t *tally) error {
	frame, err := w.framer.ReadFrame()
	if err != nil {
		return err
	}
	switch f := frame.(type) {
	case *http2.MetaHeadersFrame:
		if status := f.PseudoValue("status"); status != "200" {
			t.fail(fmt.Errorf("answer has status %s, want 200", status))
			delete(w.begun, f.StreamID)
			return nil
		}
		if f.StreamEnded() {
			w.ended(t, f.StreamID)
		}
	case *http2.DataFrame:
		n := len(f.Data())
		t.bytes += int64(n)
		if w.credit += n; w.credit > 16<<10 {
			if err := w.framer.WriteWindowUpdate(0, uint32(w.credit)); err != nil {
				return err
			}
			w.credit = 0
		}
		if f.StreamEnded() {
			w.ended(t, f.StreamID)
		}
	case *http2.SettingsFrame:
		if f.IsAck() {
			return nil
		}
		if v, ok := f.Value(http2.SettingHeaderTableSize); ok {
			w.enc.SetMaxDynamicTableSizeLimit(v)
		}
		return w.framer.WriteSettingsAck()
	case *http2.PingFrame:
		if !f.IsAck() {
			return w.framer.WritePing(true, f.Data)
		}
	case *http2.RSTStreamFrame:
		t.fail(fmt.Errorf("stream was reset: %v", f.ErrCode))
		delete(w.begun, f.StreamID)
	case *http2.GoAwayFrame:
		return errors.New("connection was told to go away")
	}
	return nil
}

func (w *h2Worker) ended(t *tally, id uint32) {
	begin, ok := w.begun[id]
	if !ok {
		return
	}
	delete(w.begun, id)
	t.done(time.Since(begin))
}
