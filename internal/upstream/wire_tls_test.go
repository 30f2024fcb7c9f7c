package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestWireUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := new(script)
	rawServe(t, ln, s.handle)
	p := newPool(t, Config{Idle: patience}, "unix:"+path)
	if !p.SpeaksHTTP1() {
		t.Error("a unix socket does not speak HTTP/1.1")
	}
	for i := range 2 {
		if w := exchangeWire(t, p, wireRequest("POST", "x")).want(t, 200, ""); w.trace.Reused != (i > 0) {
			t.Errorf("request %d: reused %t", i, w.trace.Reused)
		}
	}
	_ = ln.Close()
}

// startTLS runs an HTTPS server that offers HTTP/2 and HTTP/1.1.
func startTLS(t testing.TB, h http.HandlerFunc) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = quiet
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func TestWireTLS(t *testing.T) {
	big := strings.Repeat("0123456789", 100_000)
	var resumed atomic.Int32
	s := startTLS(t, func(w http.ResponseWriter, r *http.Request) {
		if r.TLS.DidResume {
			resumed.Add(1)
		}
		body, _ := io.ReadAll(r.Body)
		if len(body) > 0 {
			_, _ = w.Write(body)
			return
		}
		_, _ = io.WriteString(w, r.Proto)
	})
	p := newPool(t, Config{Idle: patience, Response: patience, TLS: &tls.Config{RootCAs: rootsOf(s)}}, s.URL)
	for i := range 3 {
		w := exchangeWire(t, p, wireRequest("GET", "")).want(t, 200, "HTTP/1.1")
		if w.trace.Reused != (i > 0) {
			t.Errorf("request %d: reused %t", i, w.trace.Reused)
		}
	}
	exchangeWire(t, p, wireRequest("POST", big)).want(t, 200, big) // on a connection of its own
	if resumed.Load() != 1 {
		t.Errorf("%d requests on resumed sessions, want 1", resumed.Load())
	}
	s.CloseClientConnections()
	if w := exchangeWire(t, p, wireRequest("POST", "x")).want(t, 200, "x"); w.trace.Attempts != 1 && !w.trace.Retried {
		t.Errorf("trace %+v", w.trace)
	}
	strange := newPool(t, Config{Idle: patience}, s.URL)
	exchangeWire(t, strange, wireRequest("GET", "")).fails(t, classTLS)
}

// What came along with the answer is found before the connection is used
// again, although it lies in the TLS layer and the socket below is quiet.
func TestWireTLSPoisoned(t *testing.T) {
	s := startTLS(t, func(http.ResponseWriter, *http.Request) {})
	cfg := &tls.Config{Certificates: s.TLS.Certificates}
	const poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
	for _, cut := range []int{0, len(poison)} {
		var conns atomic.Int32
		addr := rawServer(t, func(c net.Conn) {
			held := &holdingConn{Conn: c}
			tc := tls.Server(held, cfg)
			if conns.Add(1) > 1 {
				new(script).handle(tc)
				return
			}
			if _, err := tc.Read(make([]byte, 4096)); err != nil {
				return
			}
			held.hold = true
			_, _ = io.WriteString(tc, okEmpty)
			_, _ = io.WriteString(tc, poison[cut:])
			if cut > 0 {
				_ = tc.CloseWrite()
			}
			_ = c.SetWriteDeadline(time.Time{}) // CloseWrite ended it
			_, _ = c.Write(held.held)
			_, _ = io.Copy(io.Discard, c)
		})
		p := newPool(t, Config{Idle: patience, TLS: &tls.Config{RootCAs: rootsOf(s)}}, "https://"+addr)
		exchangeWire(t, p, wireRequest("GET", "")).want(t, 200, "")
		w := exchangeWire(t, p, wireRequest("GET", "")).want(t, 200, "")
		if w.trace.Reused || w.trace.Retried {
			t.Errorf("trace %+v, want a fresh connection at once", w.trace)
		}
	}
}

// holdingConn holds back what is written.
type holdingConn struct {
	net.Conn
	hold bool
	held []byte
}

func (c *holdingConn) Write(p []byte) (int, error) {
	if !c.hold {
		return c.Conn.Write(p)
	}
	c.held = append(c.held, p...)
	return len(p), nil
}

func rootsOf(s *httptest.Server) *x509.CertPool {
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return roots
}

func TestWireNeedsHTTP1(t *testing.T) {
	p := newPool(t, Config{}, "127.0.0.1:1", "h2c://127.0.0.1:2")
	if p.SpeaksHTTP1() {
		t.Error("h2c speaks HTTP/1.1")
	}
	h2 := newPool(t, Config{}, "h2c://127.0.0.1:2")
	exchangeWire(t, h2, wireRequest("GET", "")).fails(t, classRequest)
}

func TestWireNextBackend(t *testing.T) {
	s := new(script)
	p := newPool(t, Config{Idle: patience}, deadAddr(t), rawServer(t, s.handle))
	for range 3 {
		exchangeWire(t, p, wireRequest("POST", "x")).want(t, 200, "")
	}
	if st := p.Status(); st[0].Up || !st[1].Up {
		t.Errorf("status %+v", st)
	}
	dead := newPool(t, Config{}, deadAddr(t))
	exchangeWire(t, dead, wireRequest("GET", "")).fails(t, classDial)
	exchangeWire(t, dead, wireRequest("GET", "")).fails(t, classDown)
}
