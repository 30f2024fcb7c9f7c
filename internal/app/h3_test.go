package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"postern/internal/tlsmgr"
)

// clientH3 reaches the process by HTTP/3 under any name, by its first address.
func (p *process) clientH3(roots *x509.CertPool) *http.Client {
	p.t.Helper()
	tr := &http3.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		Dial: func(ctx context.Context, _ string, cfg *tls.Config, conf *quic.Config) (*quic.Conn, error) {
			to := p.Addrs("h3")
			if len(to) == 0 {
				return nil, net.ErrClosed
			}
			return quic.DialAddr(ctx, to[0], cfg, conf)
		},
	}
	p.t.Cleanup(func() { _ = tr.Close() })
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

func TestHTTP3ReloadTogglesUDPAndKeepsTCP(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	slow := make(chan http.HandlerFunc, 1)
	slow <- func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-release
		_, _ = io.WriteString(w, "late")
	}
	b := backendFunc(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			(<-slow)(w, r)
			return
		}
		_, _ = io.WriteString(w, "hello")
	})
	data := t.TempDir()
	off := strings.Replace(localFile(data, fmt.Sprintf("sites: [{hosts: [one.test], upstream: %q}]\n", b)), "grace: 100ms", "grace: 20s", 1)
	on := off + "http3: true\n"
	p := start(t, off)
	until(t, "the certificate", func() bool { return p.certs.Status()[0].State == tlsmgr.StateOK })
	roots := localRoots(t, data)
	tcp := p.client(roots)
	get := func(c *http.Client, path string) (string, string) {
		res, err := c.Get("https://one.test" + path)
		return body(t, res, err), res.Header.Get("Alt-Svc")
	}
	if got, alt := get(tcp, "/"); got != "200 hello" || alt != "" {
		t.Fatalf("off: got %q, Alt-Svc %q", got, alt)
	}
	opened := func() float64 {
		return metric(t, p, "postern_connections_total", "https")
	}
	connections := opened()

	p.write(on)
	if err := p.Reload(); err != nil {
		t.Fatal(err)
	}
	if got, alt := get(tcp, "/"); got != "200 hello" || alt != `h3=":443"; ma=86400` {
		t.Errorf("on: got %q, Alt-Svc %q", got, alt)
	}
	_, udp, _ := net.SplitHostPort(p.Addrs("h3")[0])
	if _, port, _ := net.SplitHostPort(p.Addrs("https")[0]); udp != port {
		t.Errorf("UDP port %s, want the one of TCP, %s", udp, port)
	}
	h3 := p.clientH3(roots)
	if got, _ := get(h3, "/"); got != "200 hello" {
		t.Fatalf("HTTP/3: got %q", got)
	}
	late := make(chan string, 1)
	go func() { // waited for below
		res, err := h3.Get("https://one.test/slow")
		if err != nil {
			late <- err.Error()
			return
		}
		late <- body(t, res, nil)
	}()
	<-arrived

	p.write(off)
	if err := p.Reload(); err != nil {
		t.Fatal(err)
	}
	if got := p.Addrs("h3"); len(got) != 0 {
		t.Errorf("still open: %v", got)
	}
	close(release)
	if got := <-late; got != "200 late" {
		t.Errorf("in flight at the reload: %s", got)
	}
	if got, alt := get(tcp, "/"); got != "200 hello" || alt != "" {
		t.Errorf("off again: got %q, Alt-Svc %q", got, alt)
	}
	p.write(on)
	if err := p.Reload(); err != nil { // perhaps while the old socket is still there
		t.Fatal(err)
	}
	if got, _ := get(p.clientH3(roots), "/"); got != "200 hello" {
		t.Errorf("on again: got %q", got)
	}
	if got := opened(); got != connections {
		t.Errorf("the TCP connection was lost: %v connections, want %v", got, connections)
	}
}

func TestHTTP3PortTaken(t *testing.T) {
	data := t.TempDir()
	off := localFile(data, "sites: [{hosts: [one.test], upstream: \"127.0.0.1:1\"}]\n")
	p := start(t, off)
	taken, err := net.ListenPacket("udp", p.Addrs("https")[0])
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	p.write(off + "http3: true\n")
	err = p.Reload()
	if err == nil || !strings.Contains(err.Error(), "on UDP, for http3: another program has this port; `ss -lunp`") {
		t.Errorf("got %v", err)
	}
	if got := p.Addrs("h3"); len(got) != 0 {
		t.Errorf("open after a refused reload: %v", got)
	}
}

func TestLibrariesPrintToTheLog(t *testing.T) {
	data := t.TempDir()
	p := start(t, localFile(data, "log: {level: debug}\nsites: [{hosts: [one.test], upstream: \"127.0.0.1:1\"}]\n"))
	log.New(p.LibraryLog(), "", 0).Printf("small buffers")
	if got := p.log.String(); !strings.Contains(got, `"level":"DEBUG","msg":"small buffers"`) {
		t.Errorf("got %s", got)
	}
}

// metric is the value of a counter of one listener.
func metric(t *testing.T, p *process, name, listener string) float64 {
	t.Helper()
	families, err := p.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && len(m.GetLabel()) == 1 && m.GetLabel()[0].GetValue() == listener {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}
