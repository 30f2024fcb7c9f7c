package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// rawCodec carries byte slices instead of protobuf messages.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}
func (rawCodec) Name() string { return "raw" }

// grpcEcho sends each message back; "fail" ends the call with a status.
func grpcEcho(_ any, s grpc.ServerStream) error {
	s.SetTrailer(metadata.Pairs("x-tail", "end"))
	for {
		var m []byte
		switch err := s.RecvMsg(&m); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case string(m) == "fail":
			return status.Error(codes.ResourceExhausted, "as asked")
		}
		if err := s.SendMsg(&m); err != nil {
			return err
		}
	}
}

// grpcFront is the least a proxy has to do for gRPC.
func grpcFront(p *Pool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		resp, err := p.RoundTrip(r)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		for k, v := range resp.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(resp.StatusCode)
		rc := http.NewResponseController(w)
		_ = rc.Flush()
		buf := make([]byte, 32<<10)
		for err == nil {
			var n int
			n, err = resp.Body.Read(buf)
			_, _ = w.Write(buf[:n])
			_ = rc.Flush()
		}
		for k, v := range resp.Trailer {
			w.Header()[http.TrailerPrefix+k] = v
		}
	}
}

// TestGRPC streams both ways, through a server that hands every request to
// RoundTrip as the proxy does.
func TestGRPC(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	back := grpc.NewServer(grpc.ForceServerCodec(rawCodec{}))
	back.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Echo",
		Streams:     []grpc.StreamDesc{{StreamName: "Echo", Handler: grpcEcho, ServerStreams: true, ClientStreams: true}},
	}, nil)
	served := make(chan error, 1)
	go func() { served <- back.Serve(ln) }() // ends with Stop
	defer func() { back.Stop(); <-served }()

	front := serveH2C(t, grpcFront(newPool(t, Config{Idle: DefaultIdle}, "h2c://"+ln.Addr().String())))
	cc, err := grpc.NewClient(front, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, last := range []string{"", "fail"} {
		s, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Echo/Echo")
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			sent := []byte(fmt.Sprint(i, string(make([]byte, i*200))))
			if err := s.SendMsg(&sent); err != nil {
				t.Fatal(err)
			}
			var got []byte
			if err := s.RecvMsg(&got); err != nil || string(got) != string(sent) {
				t.Fatalf("message %d: %d bytes, %v", i, len(got), err)
			}
		}
		if last != "" {
			m := []byte(last)
			if err := s.SendMsg(&m); err != nil {
				t.Fatal(err)
			}
		} else if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		var none []byte
		err = s.RecvMsg(&none)
		if last == "" && !errors.Is(err, io.EOF) || last != "" && status.Code(err) != codes.ResourceExhausted {
			t.Errorf("the call ended with %v", err)
		}
		if got := s.Trailer().Get("x-tail"); len(got) != 1 || got[0] != "end" {
			t.Errorf("trailer %v", s.Trailer())
		}
	}
}
