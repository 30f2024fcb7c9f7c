package clients

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// echo is a gRPC backend.
type echo struct {
	pb.UnimplementedTestServiceServer
	gone chan struct{} // closed when an endless stream was given up
}

func (e *echo) UnaryCall(ctx context.Context, in *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	if s := in.GetResponseStatus(); s != nil {
		return nil, status.Error(codes.Code(s.GetCode()), s.GetMessage())
	}
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		if err := grpc.SetTrailer(ctx, metadata.Pairs("x-echo-bin", md.Get("x-own-bin")[0])); err != nil {
			return nil, err
		}
	}
	return &pb.SimpleResponse{Payload: &pb.Payload{Body: make([]byte, in.GetResponseSize())}}, nil
}

func (e *echo) FullDuplexCall(stream pb.TestService_FullDuplexCallServer) error {
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			close(e.gone)
			return err
		}
		if err := stream.Send(&pb.StreamingOutputCallResponse{Payload: in.GetPayload()}); err != nil {
			return err
		}
	}
}

func TestGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{gone: make(chan struct{})}
	server := grpc.NewServer()
	pb.RegisterTestServiceServer(server, e)
	healthpb.RegisterHealthServer(server, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	r := start(t, all("h2c://"+l.Addr().String()))
	conn, err := grpc.NewClient("passthrough:///"+r.addr, grpc.WithTransportCredentials(credentials.NewTLS(r.tls)), grpc.WithAuthority("localhost"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := pb.NewTestServiceClient(conn)

	t.Run("health", func(t *testing.T) {
		res, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
		if err != nil || res.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("got %v, %v", res.GetStatus(), err)
		}
	})
	t.Run("unary, with metadata both ways", func(t *testing.T) {
		var trailer metadata.MD
		out := metadata.AppendToOutgoingContext(ctx, "x-own-bin", "\x00\x01\xff")
		in := &pb.SimpleRequest{Payload: &pb.Payload{Body: make([]byte, 271828)}, ResponseSize: 314159}
		res, err := client.UnaryCall(out, in, grpc.Trailer(&trailer))
		if err != nil || len(res.GetPayload().GetBody()) != 314159 {
			t.Fatalf("got %d bytes, %v", len(res.GetPayload().GetBody()), err)
		}
		if got := trailer.Get("x-echo-bin"); len(got) != 1 || got[0] != "\x00\x01\xff" {
			t.Errorf("trailer %q", got)
		}
	})
	t.Run("status in the trailers", func(t *testing.T) {
		_, err := client.UnaryCall(ctx, &pb.SimpleRequest{ResponseStatus: &pb.EchoStatus{Code: int32(codes.ResourceExhausted), Message: "enough: 100 %"}})
		if s := status.Convert(err); s.Code() != codes.ResourceExhausted || s.Message() != "enough: 100 %" {
			t.Errorf("got %v", err)
		}
		_, err = client.EmptyCall(ctx, &pb.Empty{})
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("got %v", err)
		}
	})
	t.Run("duplex stream, then given up", func(t *testing.T) {
		short, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := client.FullDuplexCall(short)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			want := fmt.Sprint("message ", i)
			if err := stream.Send(&pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: []byte(want)}}); err != nil {
				t.Fatal(err)
			}
			got, err := stream.Recv()
			if err != nil || string(got.GetPayload().GetBody()) != want {
				t.Fatalf("got %q, %v", got.GetPayload().GetBody(), err)
			}
		}
		cancel()
		select {
		case <-e.gone:
		case <-ctx.Done():
			t.Error("the backend was not told")
		}
	})
}
