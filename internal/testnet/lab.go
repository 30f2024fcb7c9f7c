package testnet

import (
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// Lab is a small DNS of many servers: zones with several authoritative servers
// each, delegated from one another as on the Internet, and a recursive
// resolver that asks them. Every server is a *DNS with faults of its own. They
// listen on 127.0.0.2 and up, all at Port, which needs a system where the whole of
// 127.0.0.0/8 is loopback, such as Linux.
type Lab struct {
	Port     int  // of every authoritative server
	Resolver *DNS // recursive, without a cache

	t     testing.TB
	mu    sync.Mutex
	free  []socket          // of addresses without a server yet
	zones map[string][]*DNS // by apex with its dot
}

type socket struct {
	tcp net.Listener
	udp net.PacketConn
}

func (s socket) close() {
	_ = s.tcp.Close()
	_ = s.udp.Close()
}

const labServers = 12

// NewLab starts a lab without zones.
func NewLab(t testing.TB) *Lab {
	t.Helper()
	l := &Lab{t: t, zones: make(map[string][]*DNS)}
	l.Resolver = l.NewResolver()
	var err error
	for range 20 { // until a port is free on every address
		if err = l.listen(); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, s := range l.free {
			s.close()
		}
	})
	return l
}

// listen takes one port on every address a server may get.
func (l *Lab) listen() (err error) {
	defer func() {
		if err != nil {
			for _, s := range l.free {
				s.close()
			}
			l.free = nil
		}
	}()
	port := "0"
	for i := range labServers {
		var s socket
		addr := fmt.Sprintf("127.0.0.%d:%s", 2+i, port)
		if s.tcp, err = net.Listen("tcp", addr); err != nil {
			return err
		}
		if s.udp, err = net.ListenPacket("udp", s.tcp.Addr().String()); err != nil {
			_ = s.tcp.Close()
			return err
		}
		l.free = append(l.free, s)
		_, port, _ = net.SplitHostPort(s.tcp.Addr().String())
	}
	l.Port, err = strconv.Atoi(port)
	return err
}

// NewResolver starts one more resolver, with faults of its own, on a port of
// its own.
func (l *Lab) NewResolver() *DNS {
	l.t.Helper()
	d := NewDNS(l.t)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.forward = l.resolve
	return d
}

// Zone starts n servers for apex, ns1 to nsN below it, and delegates it from
// the nearest zone above that the lab has already.
func (l *Lab) Zone(apex string, n int) []*DNS {
	l.t.Helper()
	apex = dns.CanonicalName(apex)
	var servers []*DNS
	var cut []dns.RR
	for i := 1; i <= n; i++ {
		d := l.server(apex)
		host, _, _ := net.SplitHostPort(d.Addr)
		ns := fmt.Sprintf("ns%d.%s", i, apex)
		for _, text := range []string{apex + " 60 IN NS " + ns, ns + " 60 IN A " + host} {
			rr, err := dns.NewRR(text)
			if err != nil {
				l.t.Fatal(err)
			}
			cut = append(cut, rr)
		}
		servers = append(servers, d)
	}
	for _, d := range servers {
		for _, rr := range cut {
			d.Add(l.t, rr.String())
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if above := l.nearest(parentOf(apex)); above != "" {
		for _, d := range l.zones[above] {
			d.mu.Lock()
			d.cuts[apex] = cut
			d.mu.Unlock()
		}
	}
	l.zones[apex] = servers
	return servers
}

// server starts one on the lab's next address.
func (l *Lab) server(apex string) *DNS {
	l.t.Helper()
	l.mu.Lock()
	if len(l.free) == 0 {
		l.mu.Unlock()
		l.t.Fatalf("a lab has %d servers", labServers)
	}
	s := l.free[0]
	l.free = l.free[1:]
	l.mu.Unlock()
	d := serveDNS(l.t, s.tcp, s.udp, []string{apex})
	d.mu.Lock()
	d.strict = true
	d.mu.Unlock()
	return d
}

// Intercept makes the network answer every question to an authoritative server
// by the given resolver, as some home routers do. Nil ends it.
func (l *Lab) Intercept(by *DNS) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, servers := range l.zones {
		for _, d := range servers {
			d.mu.Lock()
			d.hijack = by
			d.mu.Unlock()
		}
	}
}

// Expire takes a zone's delegation out of the zone above.
func (l *Lab) Expire(apex string) {
	apex = dns.CanonicalName(apex)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range l.zones[l.nearest(parentOf(apex))] {
		d.mu.Lock()
		delete(d.cuts, apex)
		d.mu.Unlock()
	}
}

// Add puts records in at every server of their zone.
func (l *Lab) Add(records ...string) {
	l.t.Helper()
	for _, s := range records {
		name, _, _ := strings.Cut(s, " ")
		l.mu.Lock()
		servers := l.zones[l.nearest(dns.CanonicalName(name))]
		l.mu.Unlock()
		if len(servers) == 0 {
			l.t.Fatalf("record %q: no zone of the lab holds it", s)
		}
		for _, d := range servers {
			d.Add(l.t, s)
		}
	}
}

func parentOf(name string) string {
	i, end := dns.NextLabel(name, 0)
	if end {
		return "."
	}
	return name[i:]
}

// nearest is the zone that holds name, or "". l.mu is held.
func (l *Lab) nearest(name string) string {
	for {
		if _, ok := l.zones[name]; ok {
			return name
		}
		if name == "." {
			return ""
		}
		name = parentOf(name)
	}
}

// resolve is what the resolver says: the first answer of a server of the
// nearest zone, with aliases followed; SERVFAIL if none answers.
func (l *Lab) resolve(r *dns.Msg) *dns.Msg {
	q := r.Question[0]
	out := new(dns.Msg)
	out.SetReply(r)
	name := dns.CanonicalName(q.Name)
	for range 8 {
		in := l.authoritative(name, q.Qtype)
		out.Rcode, out.Ns = in.Rcode, in.Ns
		out.Answer = append(out.Answer, in.Answer...)
		next := ""
		for _, rr := range in.Answer {
			if x, ok := rr.(*dns.CNAME); ok && q.Qtype != dns.TypeCNAME {
				next = dns.CanonicalName(x.Target)
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	return out
}

// authoritative asks the servers of the nearest zone in turn.
func (l *Lab) authoritative(name string, typ uint16) *dns.Msg {
	l.mu.Lock()
	servers := l.zones[l.nearest(name)]
	l.mu.Unlock()
	r := new(dns.Msg)
	r.SetQuestion(name, typ)
	failed := new(dns.Msg)
	failed.SetRcode(r, dns.RcodeServerFailure)
	for _, d := range servers {
		m, f := d.reply(r, false)
		if m == nil || f == Garbage || f == Lame || m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
			continue
		}
		return m
	}
	if len(servers) == 0 {
		failed.Rcode = dns.RcodeNameError
	}
	return failed
}

// DoH is a resolver over HTTPS (RFC 8484). It ends with the test. Its methods
// may be called from several goroutines.
type DoH struct {
	URL   string
	Roots *x509.CertPool // verifies it

	Client *http.Client // trusts it

	mu    sync.Mutex
	front func(http.ResponseWriter, *http.Request) bool
	asked int
}

// NewDoH starts a resolver over HTTPS that says what d says, d's faults
// included; silence of d is HTTP 504.
func NewDoH(t testing.TB, d *DNS) *DoH {
	t.Helper()
	h := new(DoH)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, d) }))
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // connections cut by the client's time limit
	srv.StartTLS()
	t.Cleanup(srv.Close)
	h.URL, h.Client = srv.URL+"/dns-query", srv.Client()
	h.Roots = x509.NewCertPool()
	h.Roots.AddCert(srv.Certificate())
	return h
}

// SetFront puts f before every request: when it returns true it has answered.
// Nil takes it away.
func (h *DoH) SetFront(f func(http.ResponseWriter, *http.Request) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.front = f
}

// Asked is how many requests arrived.
func (h *DoH) Asked() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked
}

func (h *DoH) serve(w http.ResponseWriter, r *http.Request, d *DNS) {
	h.mu.Lock()
	h.asked++
	front := h.front
	h.mu.Unlock()
	if front != nil && front(w, r) {
		return
	}
	const kind = "application/dns-message"
	b, err := io.ReadAll(io.LimitReader(r.Body, dns.MaxMsgSize))
	q := new(dns.Msg)
	if err == nil {
		err = q.Unpack(b)
	}
	if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != kind || len(q.Question) != 1 {
		http.Error(w, "want a POST of "+kind, http.StatusBadRequest)
		return
	}
	m, _ := d.reply(q, false)
	if m == nil {
		http.Error(w, "no answer", http.StatusGatewayTimeout)
		return
	}
	if b, err = m.Pack(); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", kind)
	_, _ = w.Write(b)
}
