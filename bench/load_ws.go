package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"
)

// webSocketWorker sends messages of 64 bytes over one WebSocket and waits for
// each to come back.
type webSocketWorker struct {
	clients *clients
	host    string
	conn    *websocket.Conn
	message []byte
	ctx     context.Context
	cancel  context.CancelFunc
}

func newWebSocketWorker(j *job, n int, c *clients) worker {
	w := &webSocketWorker{clients: c, host: j.Hosts[n%len(j.Hosts)], message: bytes.Repeat([]byte("echo"), 16)}
	w.ctx, w.cancel = context.WithTimeout(context.Background(), 5*time.Minute) // the life of the connection
	return w
}

func (w *webSocketWorker) prepare() error {
	dial := func(context.Context, string, string) (net.Conn, error) {
		c, _, err := w.clients.dial(w.host, nil)
		if err == nil {
			err = c.SetDeadline(time.Time{})
		}
		return c, err
	}
	conn, _, err := websocket.Dial(w.ctx, "wss://"+w.host+"/ws", &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: &http.Transport{DialTLSContext: dial, DialContext: dial}},
	})
	w.conn = conn
	return err
}

func (w *webSocketWorker) close() {
	if w.conn != nil {
		_ = w.conn.CloseNow()
	}
	w.cancel()
}

func (w *webSocketWorker) unit(t *tally) {
	begin := time.Now()
	if err := w.conn.Write(w.ctx, websocket.MessageBinary, w.message); err != nil {
		t.fail(err)
		return
	}
	_, got, err := w.conn.Read(w.ctx)
	switch {
	case err != nil:
		t.fail(err)
	case !bytes.Equal(got, w.message):
		t.fail(fmt.Errorf("echo is %.80q, want %.80q", got, w.message))
	default:
		t.bytes += int64(len(got))
		t.done(time.Since(begin))
	}
}
