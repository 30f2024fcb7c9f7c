package testnet

import (
	"crypto/tls"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// EchoFault is how an echo service misbehaves. One that lies or is stale is
// told so with Say.
type EchoFault int

// The faults of an Echo.
const (
	EchoWell     EchoFault = iota
	EchoHang               // no answer ever
	EchoError              // HTTP 503, SERVFAIL
	EchoNonsense           // an answer without an address
)

// Echo is a service that tells whoever asks at which address it sees them, by
// HTTPS and by DNS. It tells what it was told to. Its methods may be called
// from several goroutines.
type Echo struct {
	HTTPS    string // URL
	RootFile string // PEM with what HTTPS and DoT are verified by
	DNS      string // host:port, over UDP and TCP: any A or TXT question, in any class
	DoT      string // host:port, the same over TLS

	done chan struct{}

	mu    sync.Mutex
	https netip.Addr
	dns   netip.Addr
	fault EchoFault
	asked map[string]int
}

// NewEcho serves one on loopback until the test ends.
func NewEcho(t testing.TB, says netip.Addr) *Echo {
	t.Helper()
	e := &Echo{https: says, dns: says, asked: map[string]int{}, done: make(chan struct{})}
	srv := httptest.NewTLSServer(http.HandlerFunc(e.serveHTTPS))
	e.HTTPS = srv.URL + "/"
	e.RootFile = filepath.Join(t.TempDir(), "echo-root.pem")
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(e.RootFile, root, 0o600); err != nil {
		t.Fatal(err)
	}
	l, pc, err := listenBoth()
	if err != nil {
		t.Fatal(err)
	}
	over, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e.DNS, e.DoT = l.Addr().String(), over.Addr().String()
	h := dns.HandlerFunc(e.serveDNS)
	var wg sync.WaitGroup
	servers := []*dns.Server{{Listener: l, Handler: h}, {PacketConn: pc, Handler: h},
		{Listener: tls.NewListener(over, &tls.Config{Certificates: srv.TLS.Certificates}), Handler: h}}
	for _, s := range servers {
		up := make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		wg.Go(func() { _ = s.ActivateAndServe() }) // Cleanup waits for it
		<-up
	}
	t.Cleanup(func() {
		close(e.done)
		for _, s := range servers {
			_ = s.Shutdown()
		}
		wg.Wait()
		srv.Close()
	})
	return e
}

// Say makes both services tell addr from now on.
func (e *Echo) Say(addr netip.Addr) {
	e.SayHTTPS(addr)
	e.SayDNS(addr)
}

// SayHTTPS makes one of them tell it.
func (e *Echo) SayHTTPS(addr netip.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.https = addr
}

// SayDNS makes the other one tell it.
func (e *Echo) SayDNS(addr netip.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dns = addr
}

// Break makes both misbehave; EchoWell ends that.
func (e *Echo) Break(f EchoFault) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fault = f
}

// Asked is how often a service was asked: "https" or "dns".
func (e *Echo) Asked(what string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.asked[what]
}

func (e *Echo) answer(what string) (EchoFault, netip.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked[what]++
	if what == "dns" {
		return e.fault, e.dns
	}
	return e.fault, e.https
}

func (e *Echo) serveHTTPS(w http.ResponseWriter, r *http.Request) {
	switch fault, addr := e.answer("https"); fault {
	case EchoHang:
		select {
		case <-r.Context().Done():
		case <-e.done:
		}
	case EchoError:
		http.Error(w, "try later", http.StatusServiceUnavailable)
	case EchoNonsense:
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<html>Welcome to the hotel</html>")
	default:
		_, _ = io.WriteString(w, addr.String()+"\n")
	}
}

func (e *Echo) serveDNS(w dns.ResponseWriter, r *dns.Msg) {
	fault, addr := e.answer("dns")
	m := new(dns.Msg)
	m.SetReply(r)
	q := r.Question[0]
	switch {
	case fault == EchoHang:
		return
	case fault == EchoError:
		m.Rcode = dns.RcodeServerFailure
	case fault == EchoNonsense, q.Name == "whoami.cloudflare." && (q.Qclass != dns.ClassCHAOS || q.Qtype != dns.TypeTXT):
	case q.Qtype == dns.TypeTXT:
		m.Answer = append(m.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: q.Qclass}, Txt: []string{addr.String()}})
	case q.Qtype == dns.TypeA && addr.Is4():
		m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: q.Qclass}, A: addr.AsSlice()})
	}
	_ = w.WriteMsg(m)
}
