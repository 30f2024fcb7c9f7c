package house

import (
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"postern/internal/testnet"
)

const (
	houseName = "house.duckdns.org"
	ttl       = 5 * time.Second // of its record
)

// outside is what is far away from home: the name servers, DuckDNS's API in
// front of them, and a name server that tells whom it sees asking.
type outside struct {
	api *testnet.DNSHost
	dns *testnet.DNS

	mu      sync.Mutex
	records []string       // every value the name's A record had
	echoed  map[string]int // questions to the echo, by who asked
}

func newOutside(t *testing.T, n namespace) *outside {
	t.Helper()
	o := &outside{dns: testnet.NewDNS(t, "org", "duckdns.org"), echoed: map[string]int{}}
	o.dns.Add(t, "ns1.org. 60 IN A "+dnsAddr, "ns1.duckdns.org. 60 IN A "+dnsAddr)
	serve(t, n, dnsAddr+":53", o.dns)
	serve(t, n, echoAddr+":53", dns.HandlerFunc(o.echo))

	o.api = testnet.NewDNSHost(t, testnet.DNSHostOptions{Provider: "duckdns", Zone: houseName})
	o.api.OnChange(func(name, typ string, values []string) {
		o.dns.Remove(name, typ)
		for _, v := range values {
			o.dns.Add(t, name+". 5 IN "+typ+" "+v)
		}
		if typ == "A" {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.records = append(o.records, values...)
		}
	})
	at, err := url.Parse(o.api.URL)
	if err != nil {
		t.Fatal(err)
	}
	l, _ := n.listen(t, apiAddr+":80")
	srv := &http.Server{Handler: httputil.NewSingleHostReverseProxy(at)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // until it is closed
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return o
}

// serve answers DNS at addr until the test ends.
func serve(t *testing.T, n namespace, addr string, h dns.Handler) {
	t.Helper()
	l, pc := n.listen(t, addr)
	for _, s := range []*dns.Server{{Listener: l, Handler: h}, {PacketConn: pc, Handler: h}} {
		up, done := make(chan struct{}), make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		go func() {
			defer close(done)
			_ = s.ActivateAndServe() // until it is shut down
		}()
		<-up
		t.Cleanup(func() {
			_ = s.Shutdown()
			<-done
		})
	}
}

func (o *outside) echo(w dns.ResponseWriter, r *dns.Msg) {
	host, _, _ := net.SplitHostPort(w.RemoteAddr().String())
	o.mu.Lock()
	o.echoed[host]++
	o.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(r)
	m.Answer = append(m.Answer, &dns.A{
		Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET},
		A:   netip.MustParseAddr(host).AsSlice(),
	})
	_ = w.WriteMsg(m) // the asker may be gone
}

// saw is how often the echo was asked by an address.
func (o *outside) saw(addr string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.echoed[addr]
}

// history is every value that the record had, the latest one last.
func (o *outside) history() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.records)
}
