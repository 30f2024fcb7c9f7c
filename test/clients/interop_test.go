package clients

import (
	"context"
	"fmt"
	"net"
	"os"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/interop"
	pb "google.golang.org/grpc/interop/grpc_testing"
)

func TestMain(m *testing.M) {
	if options := os.Getenv(driverEnv); options != "" {
		if err := driveGo(options); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if options := os.Getenv(matrixEnv); options != "" {
		if err := matrixGo(options); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	grpclog.SetLoggerV2(interopLog{grpclog.NewLoggerV2(os.Stderr, os.Stderr, os.Stderr)})
	os.Exit(m.Run())
}

// interopLog turns what the interop tests find wrong, which they log before
// they end the process, into a panic for the test to catch.
type interopLog struct{ grpclog.LoggerV2 }

func (interopLog) Info(...any)               {}
func (interopLog) Infoln(...any)             {}
func (interopLog) Infof(string, ...any)      {}
func (interopLog) Warning(...any)            {}
func (interopLog) Warningln(...any)          {}
func (interopLog) Warningf(string, ...any)   {}
func (interopLog) Fatal(a ...any)            { panic(fmt.Sprint(a...)) }
func (interopLog) Fatalln(a ...any)          { panic(fmt.Sprint(a...)) }
func (interopLog) Fatalf(s string, a ...any) { panic(fmt.Sprintf(s, a...)) }

// TestInterop runs gRPC's own interoperability tests (grpc/doc/
// interop-test-descriptions.md) through postern: HTTP/2 over TLS in front, h2c
// behind. Left out are those of cloud credentials, of load reports and of the
// choice of a server, which this server has no part in.
func TestInterop(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterTestServiceServer(server, interop.NewTestServer())
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
	client := pb.NewTestServiceClient(conn)
	for _, tt := range []struct {
		name string
		run  func(context.Context, pb.TestServiceClient, ...grpc.CallOption)
	}{
		{"empty_unary", interop.DoEmptyUnaryCall},
		{"large_unary", interop.DoLargeUnaryCall},
		{"client_streaming", interop.DoClientStreaming},
		{"server_streaming", interop.DoServerStreaming},
		{"ping_pong", interop.DoPingPong},
		{"empty_stream", interop.DoEmptyStream},
		{"timeout_on_sleeping_server", interop.DoTimeoutOnSleepingServer},
		{"cancel_after_begin", interop.DoCancelAfterBegin},
		{"cancel_after_first_response", interop.DoCancelAfterFirstResponse},
		{"status_code_and_message", interop.DoStatusCodeAndMessage},
		{"special_status_message", interop.DoSpecialStatusMessage},
		{"custom_metadata", interop.DoCustomMetadata},
		{"unimplemented_method", func(ctx context.Context, _ pb.TestServiceClient, _ ...grpc.CallOption) {
			interop.DoUnimplementedMethod(ctx, conn)
		}},
		{"unimplemented_service", func(ctx context.Context, _ pb.TestServiceClient, _ ...grpc.CallOption) {
			interop.DoUnimplementedService(ctx, pb.NewUnimplementedServiceClient(conn))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			defer func() {
				if p := recover(); p != nil {
					t.Fatal(p)
				}
			}()
			tt.run(ctx, client)
		})
	}
}
