package tlsmgr

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// door is a listener that serves a Manager's TLSConfig, as the proxy does.
type door struct {
	addr string
	port int

	mu   sync.Mutex
	errs []error // of handshakes that failed
	srv  *http.Server
}

// listen takes a free port on loopback.
func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func portOf(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

// openDoor listens with conf and answers every request with 204.
func openDoor(t *testing.T, conf *tls.Config) *door {
	t.Helper()
	return openDoorOn(t, listen(t), conf)
}

func openDoorOn(t *testing.T, l net.Listener, conf *tls.Config) *door {
	t.Helper()
	d := &door{addr: l.Addr().String(), port: portOf(l)}
	noteErr := func(err error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.errs = append(d.errs, err)
	}
	inner := conf.Clone() // net/http clones too
	d.srv = &http.Server{
		TLSConfig: inner,
		ErrorLog:  log.New(io.Discard, "", 0),
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }),
	}
	done := make(chan struct{})
	go func() { // Cleanup waits for it
		defer close(done)
		_ = d.srv.Serve(&handshaker{Listener: tls.NewListener(l, inner), note: noteErr})
	}()
	t.Cleanup(func() {
		_ = d.srv.Close()
		<-done
	})
	return d
}

// handshaker reports what the handshakes of accepted connections end with.
type handshaker struct {
	net.Listener
	note func(error)
}

func (h *handshaker) Accept() (net.Conn, error) {
	c, err := h.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &watched{Conn: c.(*tls.Conn), note: h.note}, nil
}

type watched struct {
	*tls.Conn
	note func(error)
	once sync.Once
}

func (w *watched) Read(p []byte) (int, error) {
	w.once.Do(func() {
		if err := w.Handshake(); err != nil {
			w.note(err)
		}
	})
	return w.Conn.Read(p)
}

// refusals are the classes of the handshakes refused so far.
func (d *door) refusals() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for _, err := range d.errs {
		var c interface{ RefusalClass() string }
		if errors.As(err, &c) {
			out = append(out, c.RefusalClass())
		} else {
			out = append(out, "other: "+err.Error())
		}
	}
	return out
}

// dial shakes hands as a client that asks for name.
func (d *door) dial(name string, roots *x509.CertPool) (*x509.Certificate, error) {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 20 * time.Second}, "tcp", d.addr,
		&tls.Config{ServerName: name, RootCAs: roots, InsecureSkipVerify: roots == nil})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0], nil
}

// logBook keeps log lines.
type logBook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBook) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// mustNew makes a Manager that is closed at the end of the test.
func mustNew(t testing.TB, cfg Config) *Manager {
	t.Helper()
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// run starts m.Run and returns a function that ends it and waits.
func run(t *testing.T, m *Manager) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }() // stop waits for it
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run ended with %v, want nil", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// eventually waits until ok reports true; what names the thing waited for.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

func localRoots(t testing.TB, dir string) *x509.CertPool {
	t.Helper()
	raw, err := os.ReadFile(LocalRootPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(raw) {
		t.Fatal("root.pem holds no certificate")
	}
	return p
}

// served dials until name is served from roots.
func served(t *testing.T, d *door, name string, roots *x509.CertPool) *x509.Certificate {
	t.Helper()
	var leaf *x509.Certificate
	eventually(t, "certificate for "+name, func() bool {
		var err error
		leaf, err = d.dial(name, roots)
		return err == nil
	})
	return leaf
}

func stored(t testing.TB, dir string) []string {
	t.Helper()
	m, err := filepath.Glob(filepath.Join(dir, "certificates", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range m {
		m[i] = filepath.Base(m[i])
	}
	return m
}
