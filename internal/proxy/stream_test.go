package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// backend is an HTTP/1.1 application.
func backend(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// quick are limits short enough to be waited for.
func quick(stall time.Duration) Limits {
	return Limits{Handshake: patience, HeaderIn: patience, Idle: patience, Stall: stall}
}

// overBoth runs f over HTTP/1.1 and HTTP/2, both with TLS.
func overBoth(t *testing.T, f func(t *testing.T, h2 bool)) {
	for _, name := range []string{"h1", "h2"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, name == "h2")
		})
	}
}

func do(t testing.TB, c *http.Client, r *http.Request) (*http.Response, string) {
	t.Helper()
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

func request(t testing.TB, method, url string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTrailersAndProtocol(t *testing.T) {
	target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintf(w, "%s %q %s", r.Method, body, r.Trailer.Get("X-In"))
		w.Header().Set("X-Sum", "7")
		w.Header().Set(http.TrailerPrefix+"X-Late", "1")
	})
	overBoth(t, func(t *testing.T, h2 bool) {
		r := start(t, options{sites: []testSite{proxyTo(t, target)}, limits: quick(patience)})
		req := request(t, "POST", "https://a.test/x", io.MultiReader(strings.NewReader("abc")))
		req.Trailer = http.Header{"X-In": {"5"}}
		res, body := do(t, r.httpClient(h2), req)
		if want := `POST "abc" 5`; body != want || res.ProtoMajor == 2 != h2 {
			t.Errorf("got %q over %s, want %q", body, res.Proto, want)
		}
		if res.Trailer.Get("X-Sum") != "7" || res.Trailer.Get("X-Late") != "1" {
			t.Errorf("trailers %v", res.Trailer)
		}
	})
}

// The first event arrives while the backend holds the connection, and events
// rarer than the stall period do not end the stream.
func TestEventStream(t *testing.T) {
	next := make(chan struct{})
	target := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
			<-next
		}
	})
	for _, h2 := range []bool{false, true} {
		r := start(t, options{sites: []testSite{proxyTo(t, target)}, limits: quick(60 * time.Millisecond)})
		res, err := r.httpClient(h2).Do(request(t, "GET", "https://a.test/events", nil))
		if err != nil {
			t.Fatal(err)
		}
		br := bufio.NewReader(res.Body)
		for i := range 3 {
			for _, want := range []string{fmt.Sprintf("data: %d\n", i), "\n"} {
				if got, err := br.ReadString('\n'); got != want || err != nil {
					t.Fatalf("h2 %v: got %q, %v, want %q", h2, got, err, want)
				}
			}
			quiet := time.NewTimer(200 * time.Millisecond) // three stall periods without an event
			<-quiet.C
			next <- struct{}{}
		}
		if rest, err := io.ReadAll(br); len(rest) > 0 || err != nil {
			t.Errorf("h2 %v: then %q, %v", h2, rest, err)
		}
		_ = res.Body.Close()
	}
}

// A client that leaves takes the backend's request with it.
func TestClientGone(t *testing.T) {
	overBoth(t, func(t *testing.T, h2 bool) {
		began, ended := make(chan struct{}), make(chan struct{})
		target := backend(t, func(w http.ResponseWriter, r *http.Request) {
			close(began)
			<-r.Context().Done()
			close(ended)
		})
		r := start(t, options{sites: []testSite{proxyTo(t, target)}, limits: quick(patience)})
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		req := request(t, "GET", "https://a.test/", nil).WithContext(ctx)
		c := r.httpClient(h2)
		go func() { // ends with the request, which is waited for
			res, err := c.Do(req)
			if err == nil {
				_ = res.Body.Close()
			}
			failed <- err
		}()
		within(t, "the request at the backend", began)
		cancel()
		within(t, "the end at the backend", ended)
		if err := within(t, "the client's error", failed); !errors.Is(err, context.Canceled) {
			t.Errorf("client got %v", err)
		}
		wait(t, "the verdict", func() bool {
			return r.metric("postern_request_verdicts_total", "verdict", "client_gone") == 1 && r.metric("postern_requests_in_flight") == 0
		})
	})
}

// zeros is an endless body.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// A body is never held in memory, whichever way it goes.
func TestLargeBodies(t *testing.T) {
	size := int64(256 << 20)
	if testing.Short() {
		size = 32 << 20
	}
	target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		if r.Method == "POST" {
			fmt.Fprint(w, n)
			return
		}
		_, _ = io.CopyN(w, zeros{}, size)
	})
	for _, h2 := range []bool{false, true} {
		r := start(t, options{sites: []testSite{proxyTo(t, target)}, limits: quick(patience)})
		c := r.httpClient(h2)
		before := heap()
		var most uint64
		watch := readerFunc(func(p []byte) (int, error) { return len(p), nil })
		var passed int64
		up := request(t, "POST", "https://a.test/", io.LimitReader(readerFunc(func(p []byte) (int, error) {
			if passed += int64(len(p)); passed > size/2 && most == 0 {
				most = heap()
			}
			return watch(p)
		}), size))
		up.ContentLength = size
		if _, body := do(t, c, up); body != fmt.Sprint(size) {
			t.Errorf("h2 %v: backend got %s bytes, want %d", h2, body, size)
		}
		res, err := c.Do(request(t, "GET", "https://a.test/", nil))
		if err != nil {
			t.Fatal(err)
		}
		half, err := io.CopyN(io.Discard, res.Body, size/2)
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, heap())
		rest, err := io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		if half+rest != size || err != nil {
			t.Errorf("h2 %v: client got %d bytes, %v, want %d", h2, half+rest, err, size)
		}
		if most > before+(24<<20) {
			t.Errorf("h2 %v: the heap went from %d to %d MiB", h2, before>>20, most>>20)
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestWebSocket(t *testing.T) {
	target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			typ, data, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if err := c.Write(r.Context(), typ, data); err != nil {
				return
			}
		}
	})
	r := start(t, options{sites: []testSite{proxyTo(t, target)}, limits: quick(patience)})
	c, _, err := websocket.Dial(t.Context(), "wss://a.test/ws", &websocket.DialOptions{HTTPClient: r.httpClient(false)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	for _, size := range []int{0, 1, 125, 126, 30000} {
		want := strings.Repeat("x", size)
		if err := c.Write(t.Context(), websocket.MessageText, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(t.Context()); string(got) != want || err != nil {
			t.Fatalf("got %d bytes, %v, want %d", len(got), err, size)
		}
	}
	if got := r.metric("postern_tunnels_open"); got != 1 {
		t.Errorf("tunnels open: %v", got)
	}
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("close: %v", err)
	}
	wait(t, "the tunnel's end", func() bool { return r.metric("postern_tunnels_open") == 0 })
}

// echo is the test service as a plain echo.
type echo struct {
	testgrpc.UnimplementedTestServiceServer
	canceled chan struct{}
}

func (e *echo) UnaryCall(ctx context.Context, in *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trailer-bin", strings.Join(md.Get("x-in"), "")))
	}
	switch {
	case in.ResponseStatus != nil:
		return nil, status.Error(codes.Code(in.ResponseStatus.Code), in.ResponseStatus.Message)
	case in.ResponseSize < 0:
		<-ctx.Done()
		close(e.canceled)
		return nil, ctx.Err()
	}
	return &testgrpc.SimpleResponse{Payload: in.Payload}, nil
}

func (e *echo) StreamingOutputCall(in *testgrpc.StreamingOutputCallRequest, s testgrpc.TestService_StreamingOutputCallServer) error {
	for range in.ResponseParameters {
		if err := s.Send(&testgrpc.StreamingOutputCallResponse{Payload: in.Payload}); err != nil {
			return err
		}
	}
	return nil
}

func (e *echo) StreamingInputCall(s testgrpc.TestService_StreamingInputCallServer) error {
	n := int32(0)
	for {
		in, err := s.Recv()
		if err == io.EOF {
			return s.SendAndClose(&testgrpc.StreamingInputCallResponse{AggregatedPayloadSize: n})
		}
		if err != nil {
			return err
		}
		n += int32(len(in.Payload.Body))
	}
}

func (e *echo) FullDuplexCall(s testgrpc.TestService_FullDuplexCallServer) error {
	for {
		in, err := s.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(&testgrpc.StreamingOutputCallResponse{Payload: in.Payload}); err != nil {
			return err
		}
	}
}

// grpcThrough is a client of the service behind the proxy.
func grpcThrough(t *testing.T, stall time.Duration) (testgrpc.TestServiceClient, *echo) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	e := &echo{canceled: make(chan struct{})}
	testgrpc.RegisterTestServiceServer(s, e)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }() // ends with s
	r := start(t, options{sites: []testSite{proxyTo(t, "h2c://"+l.Addr().String())}, limits: quick(stall)})
	t.Cleanup(func() { s.Stop(); <-done })
	cc, err := grpc.NewClient("passthrough:///"+r.secure, grpc.WithTransportCredentials(credentials.NewTLS(clientTLS("h2"))), grpc.WithAuthority("a.test"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return testgrpc.NewTestServiceClient(cc), e
}

func TestGRPCUnary(t *testing.T) {
	c, e := grpcThrough(t, patience)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-in", "hello")
	var trailer metadata.MD
	body := &testgrpc.Payload{Body: make([]byte, 300000)}
	out, err := c.UnaryCall(ctx, &testgrpc.SimpleRequest{Payload: body}, grpc.Trailer(&trailer))
	if err != nil || len(out.Payload.Body) != len(body.Body) {
		t.Fatalf("got %v, %v", out, err)
	}
	if got := trailer.Get("x-trailer-bin"); len(got) != 1 || got[0] != "hello" {
		t.Errorf("trailer %v", trailer)
	}
	_, err = c.UnaryCall(ctx, &testgrpc.SimpleRequest{ResponseStatus: &testgrpc.EchoStatus{Code: int32(codes.DataLoss), Message: "a \t☺"}})
	if status.Code(err) != codes.DataLoss || status.Convert(err).Message() != "a \t☺" {
		t.Errorf("status: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	_, err = c.UnaryCall(short, &testgrpc.SimpleRequest{ResponseSize: -1})
	// The deadline travels along: the backend, who keeps it too, may be first
	// to give up, and its reset is a 502.
	if code := status.Code(err); code != codes.DeadlineExceeded && code != codes.Unavailable {
		t.Errorf("deadline: %v", err)
	}
	within(t, "the end at the backend", e.canceled)
}

func TestGRPCStreams(t *testing.T) {
	c, _ := grpcThrough(t, 50*time.Millisecond)
	payload := &testgrpc.Payload{Body: []byte("0123456789")}
	in, err := c.StreamingInputCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if err := in.Send(&testgrpc.StreamingInputCallRequest{Payload: payload}); err != nil {
			t.Fatal(err)
		}
	}
	if sum, err := in.CloseAndRecv(); err != nil || sum.AggregatedPayloadSize != 100 {
		t.Errorf("client stream: %v, %v", sum, err)
	}
	out, err := c.StreamingOutputCall(t.Context(), &testgrpc.StreamingOutputCallRequest{Payload: payload, ResponseParameters: make([]*testgrpc.ResponseParameters, 5)})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if m, err := out.Recv(); err != nil || string(m.Payload.Body) != "0123456789" {
			t.Errorf("server stream: %v, %v", m, err)
		}
	}
	if _, err := out.Recv(); err != io.EOF {
		t.Errorf("server stream ended with %v", err)
	}
	both, err := c.FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if err := both.Send(&testgrpc.StreamingOutputCallRequest{Payload: payload}); err != nil {
			t.Fatal(err)
		}
		if m, err := both.Recv(); err != nil || string(m.Payload.Body) != "0123456789" {
			t.Fatalf("both ways: %v, %v", m, err)
		}
		rest := time.NewTimer(150 * time.Millisecond) // three stall periods without a message
		<-rest.C
	}
	if err := both.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := both.Recv(); err != io.EOF {
		t.Errorf("both ways ended with %v", err)
	}
}
