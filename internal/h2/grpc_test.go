package h2

import (
	"bytes"
	"context"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// bytesCodec passes messages as they are.
type bytesCodec struct{}

func (bytesCodec) Name() string                    { return "bytes" }
func (bytesCodec) Marshal(v any) ([]byte, error)   { return *v.(*[]byte), nil }
func (bytesCodec) Unmarshal(p []byte, v any) error { *v.(*[]byte) = bytes.Clone(p); return nil }

// TestGRPC has grpc-go talk to a server that echoes its messages: unary, both
// ways at once, trailers only, deadlines.
func TestGRPC(t *testing.T) {
	s := startSite(t, Config{Handler: func(s *Stream) {
		s.AddText("content-type", "application/grpc+bytes")
		switch s.Path {
		case "/t.T/Nothing":
			s.AddText("grpc-status", "12")
			s.AddText("grpc-message", "no such method")
			s.WriteHead(200, true)
			return
		case "/t.T/Never":
			<-s.Done()
			return
		}
		s.WriteHead(200, false)
		for {
			b, err := s.Next()
			if err == io.EOF {
				break
			}
			if err != nil || s.Write(b, false) != nil || s.Flush() != nil {
				return
			}
		}
		s.AddText("grpc-status", "0")
		s.WriteTrailers()
	}})
	conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(credentials.NewTLS(s.client)),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(bytesCodec{}), grpc.MaxCallRecvMsgSize(8<<20)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	for _, n := range []int{0, 1, 1000, 5 << 20} {
		in, out := bytes.Repeat([]byte("g"), n), []byte(nil)
		if err := conn.Invoke(ctx, "/t.T/Echo", &in, &out); err != nil || !bytes.Equal(in, out) {
			t.Errorf("unary of %d bytes: got %d, %v", n, len(out), err)
		}
	}
	var none []byte
	if err := conn.Invoke(ctx, "/t.T/Nothing", &none, &none); status.Code(err) != codes.Unimplemented {
		t.Errorf("trailers only: got %v", err)
	}
	short, cancelShort := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancelShort()
	if err := conn.Invoke(short, "/t.T/Never", &none, &none); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("deadline: got %v", err)
	}

	st, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/t.T/Echo")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		in, out := bytes.Repeat([]byte{byte(i)}, i*100), []byte(nil)
		if err := st.SendMsg(&in); err != nil {
			t.Fatal(err)
		}
		if err := st.RecvMsg(&out); err != nil || !bytes.Equal(in, out) {
			t.Fatalf("message %d: got %d bytes, %v", i, len(out), err)
		}
	}
	st.CloseSend()
	if err := st.RecvMsg(&none); err != io.EOF {
		t.Errorf("end: got %v, want EOF", err)
	}
}
