package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
)

// upgrade turns the exchange into a tunnel after the backend said 101 (RFC
// 9110 section 7.8). It returns when both directions are over.
func (m *stdMessage) upgrade(x *exchange, out *http.Request, res *http.Response) {
	asked, got := out.Header.Get("Upgrade"), res.Header.Get("Upgrade")
	if asked == "" || !strings.EqualFold(asked, got) {
		x.problem(http.StatusBadGateway, "bad_upgrade", "The application switched to a protocol nobody asked for.")
		return
	}
	backend, ok := res.Body.(io.ReadWriteCloser)
	if !ok {
		x.problem(http.StatusBadGateway, "bad_upgrade", "The application's connection does not take an upgrade.")
		return
	}
	defer backend.Close()
	client, buffered, err := http.NewResponseController(&m.w).Hijack()
	switch {
	case errors.Is(err, errTooEarly):
		x.problem(http.StatusBadRequest, "malformed", beforeUpgrade)
		return
	case err != nil:
		x.err = err
		x.problem(http.StatusBadGateway, "bad_upgrade", "This connection does not take an upgrade.")
		return
	}
	defer client.Close()
	removeHopByHop(res.Header)
	m.ownFields(x, res.Header)
	res.Header["Connection"] = []string{"Upgrade"}
	res.Header["Upgrade"] = []string{got}
	m.w.status, m.w.wroteHeader = res.StatusCode, true
	if err := writeSwitch(buffered.Writer, res); err != nil {
		x.err, x.verdict = err, "client_gone"
		return
	}
	m.w.bytes, x.length = x.s.tunnel(client, io.MultiReader(take(buffered.Reader), client), backend)
}

// beforeUpgrade tells a client that was too early.
const beforeUpgrade = "The new protocol began before it was agreed on."

// errTooEarly: what comes before the 101 is HTTP still, and this is none.
var errTooEarly = errors.New("proxy: bytes of the new protocol before it was agreed on")

func writeSwitch(w *bufio.Writer, res *http.Response) error {
	if _, err := fmt.Fprintf(w, "HTTP/1.1 %d %s\r\n", res.StatusCode, http.StatusText(res.StatusCode)); err != nil {
		return err
	}
	if err := res.Header.Write(w); err != nil {
		return err
	}
	if _, err := w.WriteString("\r\n"); err != nil {
		return err
	}
	return w.Flush()
}

// tunnel copies both ways. A side that ends its direction is told to the
// other as a half-close where the connection knows one; the tunnel is over
// when both have ended, or one has failed. It returns the bytes that were sent
// to the client, and those that came from it.
func (s *Server) tunnel(client net.Conn, fromClient io.Reader, backend io.ReadWriteCloser) (sent, came int64) {
	s.metrics.tunnels.Inc()
	defer s.metrics.tunnels.Dec()
	var both sync.WaitGroup
	half := func(dst any, copied error) {
		if copied != nil || !closeWrite(dst) { // broken, or no half-close: the other direction ends too
			_ = client.Close()
			_ = backend.Close()
		}
	}
	both.Go(func() { // ends with the connections; waited for below
		var err error
		came, err = io.Copy(backend, fromClient)
		half(backend, err)
	})
	sent, err := io.Copy(client, backend)
	half(client, err)
	both.Wait()
	return sent, came
}

// take returns what net/http had already read.
func take(r *bufio.Reader) io.Reader {
	return io.LimitReader(r, int64(r.Buffered()))
}

func closeWrite(c any) bool {
	h, ok := c.(interface{ CloseWrite() error })
	return ok && h.CloseWrite() == nil
}
