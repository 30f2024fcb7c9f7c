package proxy

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

func TestH3Resumes(t *testing.T) {
	r := start(t, options{})
	d := r.listenH3()
	cache := tls.NewLRUClientSessionCache(8)
	early := func(tr *http3.Transport) {
		tr.TLSClientConfig.ClientSessionCache = cache
		tr.QUICConfig = &quic.Config{}
	}
	for i := range 2 {
		c := clientH3(t, d, early)
		req, _ := http.NewRequest(http3.MethodGet0RTT, "https://probe.test/ping", nil)
		res, err := c.Do(req)
		if got := answered(t, res, err); got != "200 pong\n" {
			t.Fatalf("%d: %s", i, got)
		}
		_ = c.Transport.(*http3.Transport).Close()
	}
	if got := r.metric("postern_tls_resumptions_total"); got != 1 {
		t.Errorf("resumed %v, want 1", got)
	}
}

func TestH3IdleConnectionCloses(t *testing.T) {
	r := start(t, options{limits: Limits{Idle: 200 * time.Millisecond, HeaderIn: 100 * time.Millisecond}})
	d := r.listenH3()
	res, err := clientH3(t, d).Get("https://probe.test/ping")
	if got := answered(t, res, err); got != "200 pong\n" {
		t.Fatal(got)
	}
	silent, err := quic.DialAddr(t.Context(), d.addr, clientTLS(http3.NextProtoH3), &quic.Config{KeepAlivePeriod: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	within(t, "the end of a connection that never asks", silent.Context().Done())
	wait(t, "no open connection", func() bool { return r.metric("postern_connections_open", "listener", "h3") == 0 })
}

func TestH3ShutdownLetsRequestsFinish(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	b := backendOf(t, func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-release
		_, _ = io.WriteString(w, "done")
	})
	r := start(t, options{sites: []testSite{proxyTo(t, b)}})
	d := r.listenH3()
	idle := clientH3(t, d)
	res, err := idle.Get("https://probe.test/ping")
	if got := answered(t, res, err); got != "200 pong\n" {
		t.Fatal(got)
	}
	c := clientH3(t, d)
	answer := make(chan string, 1)
	go func() { // waited for below
		res, err := c.Get("https://a.test/")
		if err != nil {
			answer <- err.Error()
			return
		}
		answer <- answered(t, res, nil)
	}()
	within(t, "the request", arrived)
	cut := make(chan int, 1)
	go func() { // waited for below
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		cut <- r.shutdown(ctx)
	}()
	wait(t, "the idle connection's end", func() bool { return r.metric("postern_connections_open", "listener", "h3") == 1 })
	close(release)
	if got := within(t, "the answer", answer); got != "200 done" {
		t.Errorf("in flight: got %s", got)
	}
	if got := within(t, "the end of Shutdown", cut); got != 0 {
		t.Errorf("cut %d connections", got)
	}
	if err := within(t, "the end of ServeQUIC", d.ended); err != nil {
		t.Error(err)
	}
	d.ended <- nil // for the cleanup
	if pc, err := net.ListenPacket("udp", d.addr); err != nil {
		t.Errorf("the socket is still open: %v", err)
	} else {
		_ = pc.Close()
	}
}

func TestH3ShutdownCuts(t *testing.T) {
	arrived, gone := make(chan struct{}), make(chan struct{})
	b := backendOf(t, func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
		close(gone)
	})
	r := start(t, options{sites: []testSite{proxyTo(t, b)}})
	c := clientH3(t, r.listenH3())
	failed := make(chan error, 1)
	go func() { // waited for below
		_, err := c.Get("https://a.test/")
		failed <- err
	}()
	within(t, "the request", arrived)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if got := r.shutdown(ctx); got != 1 {
		t.Errorf("cut %d connections, want 1", got)
	}
	if err := within(t, "the client's error", failed); err == nil {
		t.Error("the client got an answer")
	}
	within(t, "the backend's end", gone)
}

// Closing one listener lets its requests in flight finish and leaves the
// others alone.
func TestH3ListenerCloses(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	b := backendOf(t, func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-release
		_, _ = io.WriteString(w, "done")
	})
	r := start(t, options{sites: []testSite{proxyTo(t, b)}, limits: Limits{Grace: 10 * patience}})
	d, other := r.listenH3(), r.listenH3()
	stays := clientH3(t, other)
	res, err := stays.Get("https://probe.test/ping")
	if got := answered(t, res, err); got != "200 pong\n" {
		t.Fatal(got)
	}
	c := clientH3(t, d)
	answer := make(chan string, 1)
	go func() { // waited for below
		res, err := c.Get("https://a.test/")
		if err != nil {
			answer <- err.Error()
			return
		}
		answer <- answered(t, res, nil)
	}()
	within(t, "the request", arrived)
	_ = d.Close()
	if _, err := clientH3(t, d).Get("https://probe.test/ping"); err == nil {
		t.Error("a closed listener took a connection")
	}
	close(release)
	if got := within(t, "the answer", answer); got != "200 done" {
		t.Errorf("in flight: got %s", got)
	}
	if err := within(t, "the end of ServeQUIC", d.ended); err != nil {
		t.Error(err)
	}
	d.ended <- nil // for the cleanup
	res, err = stays.Get("https://probe.test/ping")
	if got := answered(t, res, err); got != "200 pong\n" {
		t.Fatal(got)
	}
	if got := r.metric("postern_connections_total", "listener", "h3"); got != 2 {
		t.Errorf("%v connections, want 2: the other listener's was lost", got)
	}
}
