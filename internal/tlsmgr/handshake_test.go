package tlsmgr

import (
	"context"
	"crypto/tls"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// localManager is ready to serve names from a local authority.
func localManager(t testing.TB, cfg Config) *Manager {
	t.Helper()
	cfg.Issuer = "local"
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	m := mustNew(t, cfg)
	obtainAll(t, m)
	return m
}

// obtainAll does one pass of the driver.
func obtainAll(t testing.TB, m *Manager) {
	t.Helper()
	settle(t, m)
	for _, s := range m.Status() {
		if s.State != StateOK {
			t.Fatalf("%s: %s %s", s.Name, s.State, s.LastError)
		}
	}
}

// settle lets the driver do all there is to do now.
func settle(t testing.TB, m *Manager) {
	t.Helper()
	for range 50 {
		var work errgroup.Group
		begun, _ := m.pass(context.Background(), &work)
		if err := work.Wait(); err != nil {
			t.Fatal(err)
		}
		if begun == 0 {
			return
		}
	}
	t.Fatal("the driver found something to do fifty times in a row")
}

// counted counts what a client reads.
type counted struct {
	net.Conn
	n atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func TestRefusedBeforeTheFlight(t *testing.T) {
	t.Parallel()
	m := localManager(t, Config{Names: []string{"home.example"}})
	d := openDoor(t, m.TLSConfig())
	for _, tc := range []struct {
		sni, class string
		alpn       []string
	}{
		{"", "no_server_name", nil},
		{"evil.example", "unknown_server_name", nil},
		{"x.home.example", "unknown_server_name", nil},
		{"evil.example", "unknown_server_name", []string{"acme-tls/1"}},
		{"home.example", "no_certificate", []string{"acme-tls/1"}}, // no challenge is open
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			before := len(d.refusals())
			raw, err := net.Dial("tcp", d.addr)
			if err != nil {
				t.Fatal(err)
			}
			c := &counted{Conn: raw}
			err = tls.Client(c, &tls.Config{ServerName: tc.sni, InsecureSkipVerify: true, MaxVersion: version, NextProtos: tc.alpn}).Handshake()
			_ = raw.Close()
			if err == nil || !strings.Contains(err.Error(), "remote error") {
				t.Errorf("%q: %v, want an alert", tc.sni, err)
			}
			// An alert record is 5 bytes of header and 2 of content (RFC 8446
			// section 6); a ServerHello alone is over 80.
			if n := c.n.Load(); n != 7 {
				t.Errorf("%q: the client was sent %d bytes, want 7", tc.sni, n)
			}
			eventually(t, "the server's side", func() bool { return len(d.refusals()) > before })
			if got := d.refusals()[before:]; !slices.Equal(got, []string{tc.class}) {
				t.Errorf("%q: refused as %q, want %q", tc.sni, got, tc.class)
			}
		}
	}
}

func TestDefaultHost(t *testing.T) {
	t.Parallel()
	m := localManager(t, Config{Names: []string{"home.example", "other.example"}, DefaultHost: "Home.example"})
	d := openDoor(t, m.TLSConfig())
	for _, tc := range []struct {
		sni  string
		want string // "" is refused
	}{
		{"", "home.example"},
		{"other.example", "other.example"},
		{"evil.example", ""},
	} {
		leaf, err := d.dial(tc.sni, nil)
		switch {
		case tc.want == "" && err == nil:
			t.Errorf("%q was served", tc.sni)
		case tc.want != "" && err != nil:
			t.Errorf("%q: %v", tc.sni, err)
		case tc.want != "" && leaf.VerifyHostname(tc.want) != nil:
			t.Errorf("%q: got %v, want %s", tc.sni, leaf.DNSNames, tc.want)
		}
	}
	// A few clients send the address as the server name.
	if _, err := m.configForClient(&tls.ClientHelloInfo{ServerName: "203.0.113.9"}); err != nil {
		t.Errorf("address as server name: %v", err)
	}
	if _, err := New(Config{Dir: t.TempDir(), Issuer: "local", DefaultHost: "nobody.example"}); err == nil {
		t.Error("a default host that no site has was accepted")
	}
}

func TestProtocolsAndVersions(t *testing.T) {
	t.Parallel()
	m := localManager(t, Config{Names: []string{"home.example"}, MinVersion: tls.VersionTLS13})
	d := openDoor(t, m.TLSConfig())
	try := func(c *tls.Config) (tls.ConnectionState, error) {
		c.ServerName, c.InsecureSkipVerify = "home.example", true
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", d.addr, c)
		if err != nil {
			return tls.ConnectionState{}, err
		}
		defer conn.Close()
		return conn.ConnectionState(), nil
	}
	if _, err := try(&tls.Config{MaxVersion: tls.VersionTLS12}); err == nil {
		t.Error("TLS 1.2 was served with a lowest version of 1.3")
	}
	st, err := try(&tls.Config{NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	if st.NegotiatedProtocol != "h2" || st.CurveID != tls.X25519MLKEM768 {
		t.Errorf("protocol %q, key exchange %v", st.NegotiatedProtocol, st.CurveID)
	}
	// A browser must never end up with the challenge protocol.
	if st, err := try(&tls.Config{NextProtos: []string{"acme-tls/1", "http/1.1"}}); err != nil || st.NegotiatedProtocol != "http/1.1" {
		t.Errorf("protocol %q, %v", st.NegotiatedProtocol, err)
	}
}

func BenchmarkRefuseUnknownName(b *testing.B) {
	m := localManager(b, Config{Names: []string{"home.example"}})
	hello := &tls.ClientHelloInfo{ServerName: "evil.example"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.configForClient(hello); err == nil {
			b.Fatal("served")
		}
	}
}

func BenchmarkAdmitKnownName(b *testing.B) {
	m := localManager(b, Config{Names: []string{"home.example"}})
	hello := &tls.ClientHelloInfo{ServerName: "home.example"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.configForClient(hello); err != nil {
			b.Fatal(err)
		}
	}
}

// What a handshake with a certificate in memory costs: ours is BenchmarkAdmit
// twice, the rest is certmagic's look-up.
func BenchmarkGetCertificate(b *testing.B) {
	m := localManager(b, Config{Names: []string{"home.example"}})
	hello := &tls.ClientHelloInfo{ServerName: "home.example"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.getCertificate(hello); err != nil {
			b.Fatal(err)
		}
	}
}

// A handshake whose certificate is in memory looks it up without a lock, a file
// or an allocation.
func TestHeldCertificateIsFree(t *testing.T) {
	m := localManager(t, Config{Names: []string{"home.example", "*.apps.example"}})
	m.eng.mu.Lock() // were it needed, the look-up would hang
	defer m.eng.mu.Unlock()
	for _, sni := range []string{"home.example", "x.apps.example"} {
		hello := &tls.ClientHelloInfo{ServerName: sni}
		if n := testing.AllocsPerRun(100, func() {
			if _, err := m.getCertificate(hello); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations, want 0", sni, n)
		}
	}
}

// The decision about a name is ours alone and allocates nothing.
func TestAdmitDoesNotAllocate(t *testing.T) {
	m := localManager(t, Config{Names: []string{"home.example", "*.apps.example"}})
	for _, sni := range []string{"home.example", "x.apps.example", "evil.example", "a.b.c.d.example"} {
		hello := &tls.ClientHelloInfo{ServerName: sni}
		if n := testing.AllocsPerRun(100, func() { _, _ = m.configForClient(hello) }); n != 0 {
			t.Errorf("%s: %v allocations, want 0", sni, n)
		}
	}
}
