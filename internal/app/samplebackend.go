package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// sampleHeader marks what the sample backend itself answered.
const sampleHeader = "X-Sample-Backend"

// sampleBackend is the small app behind the demo.
type sampleBackend struct {
	addr     string
	server   *http.Server
	requests atomic.Int64
	done     chan struct{}
}

// startSampleBackend listens on a free loopback port until close.
func startSampleBackend() (*sampleBackend, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("demo: the sample backend: %w", err)
	}
	b := &sampleBackend{addr: l.Addr().String(), done: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/hello", b.hello)
	mux.HandleFunc("POST /api/echo", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	mux.HandleFunc("POST /api/count", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, n)
	})
	mux.HandleFunc("GET /events", events)
	b.server = &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.requests.Add(1)
		w.Header().Set(sampleHeader, "1")
		mux.ServeHTTP(w, r)
	})}
	go func() { // ends with close, which waits for it
		defer close(b.done)
		if err := b.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			panic(err) // a loopback listener of ours does not fail by itself
		}
	}()
	return b, nil
}

func (b *sampleBackend) close() {
	_ = b.server.Close()
	<-b.done
}

// hello shows a caller what the backend learns about it.
func (b *sampleBackend) hello(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{
		"message": "hello from the sample backend", "host": r.Host, "client": r.Header.Get("X-Forwarded-For"),
		"proto": r.Header.Get("X-Forwarded-Proto"), "request_id": r.Header.Get("X-Request-Id"),
	})
}

// events sends a server-sent event each second.
func events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 1; ; n++ {
		if _, err := fmt.Fprintf(w, "data: event %d\n\n", n); err != nil || control.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}
