package h2

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2/hpack"
)

// FuzzConn sends frames made of the input, kind, flags, stream, length and
// payload each. Whatever they are, nothing panics or hangs, and what the
// connection holds stays within its limits.
func FuzzConn(f *testing.F) {
	block := []byte{0x82, 0x87, 0x41, 1, 'a', 0x84} // GET https a /
	frame := func(kind, flags, id byte, payload ...byte) []byte {
		return append([]byte{kind, flags, id, byte(len(payload))}, payload...)
	}
	f.Add(bytes.Join([][]byte{frame(1, 5, 1, block...), frame(1, 4, 3, block...), frame(0, 0, 3, 'x'), frame(0, 1, 3)}, nil))
	f.Add(bytes.Join([][]byte{frame(1, 1, 1, block...), frame(9, 4, 1), frame(3, 0, 1, 0, 0, 0, 8)}, nil))
	f.Add(bytes.Join([][]byte{frame(4, 0, 0, 0, 4, 0, 0, 0, 1), frame(1, 5, 1, block...), frame(8, 0, 1, 0, 0, 0, 9)}, nil))
	f.Add(bytes.Join([][]byte{frame(6, 0, 0, make([]byte, 8)...), frame(7, 0, 0, make([]byte, 8)...), frame(2, 0, 5, 0, 0, 0, 1, 2)}, nil))
	f.Add(bytes.Join([][]byte{frame(1, 0x2c, 1, append([]byte{1, 0, 0, 0, 0, 7}, append(block, 0)...)...), frame(0, 9, 1, 2, 'x', 0, 0)}, nil))
	f.Fuzz(func(t *testing.T, in []byte) {
		synctest.Test(t, func(t *testing.T) { fuzzConn(t, in) })
	})
}

func fuzzConn(t *testing.T, in []byte) {
	cfg := Config{MaxStreams: 4, StreamWindow: 2000, ConnWindow: 70_000, MaxHeaderList: 2000,
		Resets: Budget{10, 1}, Control: Budget{50, 1}}
	running := 0
	var c *Conn
	cfg.Handler = func(s *Stream) {
		c.mu.Lock()
		if running++; running > 4 {
			t.Errorf("%d handlers at once", running)
		}
		c.mu.Unlock()
		n, err := io.Copy(io.Discard, s)
		if err == nil {
			s.AddText("x-path", s.Path)
			s.WriteHead(200, false)
			s.Write(make([]byte, n+100), true)
		}
		c.mu.Lock()
		running--
		c.mu.Unlock()
	}
	srv := NewServer(cfg)
	client, server := net.Pipe()
	c = srv.NewConn(server)
	served := make(chan struct{})
	go func() {
		c.Serve()
		close(served)
	}()
	go io.Copy(io.Discard, client)
	io.WriteString(client, preface)
	client.Write([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0})
	var b []byte
	for len(in) >= 4 {
		n := min(int(in[3]), len(in)-4)
		b = append(b[:0], 0, 0, byte(n), in[0]%12, in[1])
		b = binary.BigEndian.AppendUint32(b, uint32(in[2]))
		b = append(b, in[4:4+n]...)
		in = in[4+n:]
		if _, err := client.Write(b); err != nil {
			break
		}
		c.mu.Lock()
		held := 0
		for _, st := range c.streams {
			held += len(st.in) + len(st.out)
		}
		if len(c.streams) > 4 || len(c.pending) > 4 || held > cfg.ConnWindow || len(c.wbuf) > 2*highWater+controlBacklog {
			t.Errorf("holds %d streams, %d pending, %d and %d bytes", len(c.streams), len(c.pending), held, len(c.wbuf))
		}
		c.mu.Unlock()
	}
	pass(5 * time.Minute) // every time limit passes
	select {
	case <-served:
	default:
		t.Error("the connection is served for ever")
	}
	client.Close()
	<-served
	srv.Close()
}

// FuzzEncoder compares what a decoder reads with what was encoded, across
// blocks and changes of the table's size.
func FuzzEncoder(f *testing.F) {
	f.Add([]byte("\x05\x01date\x04Mon,\x05\x01date\x04Mon,\x05\x01date\x04Mon,"))
	f.Add([]byte("\x00\x20\x01a\x01b\x00\x00\x01a\x01b\x00\xff"))
	f.Add([]byte("\n\x00\x00\x00\x00\x003\x00\xc9$")) // down and up again, with a table in use
	f.Fuzz(func(t *testing.T, in []byte) {
		e := newEncoder()
		var got []hpack.HeaderField
		dec := hpack.NewDecoder(maxPeerTable, func(f hpack.HeaderField) { got = append(got, f) })
		next := func() []byte {
			if len(in) == 0 {
				return nil
			}
			n := min(int(in[0]), len(in)-1)
			v := in[1 : 1+n]
			in = in[1+n:]
			return v
		}
		for len(in) > 0 {
			op := in[0]
			in = in[1:]
			if op == 0 && len(in) > 0 {
				e.setMax(uint32(in[0]) * 32)
				in = in[1:]
				continue
			}
			got = got[:0]
			b := e.begin(nil)
			b = e.status(b, 100+int(op)*3)
			var want []hpack.HeaderField
			want = append(want, hpack.HeaderField{Name: ":status", Value: string([]byte{byte('0' + (100+int(op)*3)/100), byte('0' + (100+int(op)*3)/10%10), byte('0' + (100+int(op)*3)%10)})})
			for range op % 8 {
				name, value := next(), next()
				b = e.field(b, append(bytes.Clone(name), value...), len(name))
				want = append(want, hpack.HeaderField{Name: string(name), Value: string(value)})
			}
			if _, err := dec.Write(b); err != nil {
				t.Fatalf("%v: %x", err, b)
			}
			if err := dec.Close(); err != nil {
				t.Fatal(err)
			}
			for i := range want {
				if i >= len(got) || got[i].Name != want[i].Name || got[i].Value != want[i].Value {
					t.Fatalf("got %v, want %v", got, want)
				}
			}
		}
	})
}
