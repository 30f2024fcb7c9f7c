package testnet

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Fault is how a DNS question goes wrong.
type Fault int

// The faults of a DNS server.
const (
	NoFault     Fault = iota
	Drop              // no answer ever
	ServFail          // rcode 2
	NotImp            // rcode 4
	Refused           // rcode 5
	NXDomain          // rcode 3, although the name exists
	Truncate          // over UDP: no records and the TC bit
	Delay             // the right answer, late: see DNS.SetDelay
	Lame              // NOERROR without records or authority, as a server that lost the zone
	NoAuthority       // the right answer as a resolver gives it: AA off, RA on
	NoSOA             // the right answer without the SOA that belongs to "no records"
	Garbage           // bytes that are no message
	FormErr           // rcode 1 for a question with EDNS
	DropUDP           // no answer ever over UDP, the right one over TCP
)

// DNS is an authoritative and recursive server on loopback, over UDP and TCP,
// that fails per name and type as told. It ends with the test. Its methods may
// be called from several goroutines.
type DNS struct {
	Addr string // host:port, the same for both transports

	mu      sync.Mutex
	forward func(*dns.Msg) *dns.Msg // asked instead of the records; nil: the records
	hijack  *DNS                    // answers in its place, on the wire only
	strict  bool                    // offers no recursion, and refuses what is not below an apex
	cuts    map[string][]dns.RR     // by delegated zone: NS, and glue
	records map[string][]dns.RR
	instead map[string]bool // by "name TYPE": answered from records, not by forward
	all     netip.Addr
	apexes  []string
	faults  map[string]Fault
	delay   time.Duration
	asked   map[string]int // by question, bounded by what a test asks
	done    chan struct{}
}

// NewDNS starts a server that is authoritative for the given zones: each apex
// has a SOA and an NS record, ns1 below it, which is this server. It knows no
// other names until told.
func NewDNS(t testing.TB, apexes ...string) *DNS {
	t.Helper()
	l, pc, err := listenBoth()
	if err != nil {
		t.Fatal(err)
	}
	return serveDNS(t, l, pc, apexes)
}

func serveDNS(t testing.TB, l net.Listener, pc net.PacketConn, apexes []string) *DNS {
	t.Helper()
	d := &DNS{
		records: map[string][]dns.RR{}, instead: map[string]bool{}, cuts: map[string][]dns.RR{}, faults: map[string]Fault{}, asked: map[string]int{},
		delay: time.Second, done: make(chan struct{}),
	}
	for _, a := range apexes {
		d.apexes = append(d.apexes, dns.CanonicalName(a))
	}
	d.Addr = l.Addr().String()
	var wg sync.WaitGroup
	servers := []*dns.Server{{Listener: l, Handler: d}, {PacketConn: pc, Handler: d}}
	for _, s := range servers {
		up := make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		wg.Go(func() { _ = s.ActivateAndServe() }) // Cleanup waits for it
		<-up
	}
	t.Cleanup(func() {
		close(d.done)
		for _, s := range servers {
			_ = s.Shutdown()
		}
		wg.Wait()
	})
	return d
}

// listenBoth finds a port that is free for TCP and UDP.
func listenBoth() (net.Listener, net.PacketConn, error) {
	var last error
	for range 10 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, nil, err
		}
		pc, err := net.ListenPacket("udp", l.Addr().String())
		if err == nil {
			return l, pc, nil
		}
		last = err
		_ = l.Close()
	}
	return nil, nil, last
}

// Add puts records in, written as in a zone file with the name in full.
func (d *DNS) Add(t testing.TB, records ...string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range records {
		rr, err := dns.NewRR(s)
		if err != nil {
			t.Fatalf("record %q: %v", s, err)
		}
		n := dns.CanonicalName(rr.Header().Name)
		d.records[n] = append(d.records[n], rr)
	}
}

// Answer makes the records of this one the whole answer for their names and
// types, whatever else the server knows or asks elsewhere.
func (d *DNS) Answer(t testing.TB, records ...string) {
	t.Helper()
	d.Add(t, records...)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range records {
		if rr, err := dns.NewRR(s); err == nil {
			d.instead[dns.CanonicalName(rr.Header().Name)+" "+dns.TypeToString[rr.Header().Rrtype]] = true
		}
	}
}

// Remove takes the records of a name and a type like "A" away.
func (d *DNS) Remove(name, typ string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := dns.CanonicalName(name)
	d.records[n] = slices.DeleteFunc(d.records[n], func(rr dns.RR) bool {
		return dns.TypeToString[rr.Header().Rrtype] == typ
	})
}

// AnswerAll makes every name that has no records of its own an A record for
// addr.
func (d *DNS) AnswerAll(addr string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = netip.MustParseAddr(addr)
}

// SetFault makes questions for name and typ fail; "*" stands for every name or
// every type. The most exact setting wins. NoFault ends it.
func (d *DNS) SetFault(name, typ string, f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if name != "*" {
		name = dns.CanonicalName(name)
	}
	d.faults[name+" "+typ] = f
}

// SetDelay is how late answers with the fault Delay are. It is 1 s at first.
func (d *DNS) SetDelay(late time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.delay = late
}

// Asked is how often a name and a type like "CAA" were asked for.
func (d *DNS) Asked(name, typ string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asked[dns.CanonicalName(name)+" "+typ]
}

// ServeDNS implements dns.Handler.
func (d *DNS) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	_, udp := w.RemoteAddr().(*net.UDPAddr)
	d.mu.Lock()
	by := d
	if d.hijack != nil {
		by = d.hijack
	}
	d.mu.Unlock()
	m, f := by.reply(r, udp)
	switch {
	case m == nil:
	case f == Garbage:
		_, _ = w.Write([]byte{byte(r.Id >> 8), byte(r.Id), 0x80, 0, 0, 9, 0, 9, 0, 0, 0, 0, 0xff})
	default:
		_ = w.WriteMsg(m) // the asker may be gone
	}
}

// reply is the answer to r, nil for silence, and the fault that shaped it.
func (d *DNS) reply(r *dns.Msg, udp bool) (*dns.Msg, Fault) {
	if len(r.Question) != 1 {
		return nil, Drop
	}
	q := r.Question[0]
	q.Name = dns.CanonicalName(q.Name)
	f, late := d.note(q)
	m := new(dns.Msg)
	m.SetReply(r)
	m.Authoritative, m.RecursionAvailable = true, !d.strict
	switch f {
	case Drop:
		return nil, f
	case ServFail:
		m.Rcode = dns.RcodeServerFailure
	case NotImp:
		m.Rcode = dns.RcodeNotImplemented
	case Refused:
		m.Rcode = dns.RcodeRefused
	case NXDomain:
		m.Rcode = dns.RcodeNameError
	case Lame:
		m.Authoritative = false
	case Truncate:
		if udp {
			m.Truncated = true
			return m, f
		}
		d.answer(m, q, r)
	case DropUDP:
		if udp {
			return nil, f
		}
		d.answer(m, q, r)
	case FormErr:
		if r.IsEdns0() != nil {
			m.Rcode = dns.RcodeFormatError
			return m, f
		}
		d.answer(m, q, r)
	case Delay:
		wait := time.NewTimer(late)
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-d.done:
			return nil, f
		}
		d.answer(m, q, r)
	case NoAuthority:
		d.answer(m, q, r)
		m.Authoritative, m.RecursionAvailable = false, true
	case NoSOA:
		d.answer(m, q, r)
		m.Ns = nil
	default:
		d.answer(m, q, r)
	}
	return m, f
}

// note counts the question and finds its fault.
func (d *DNS) note(q dns.Question) (Fault, time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	typ := dns.TypeToString[q.Qtype]
	d.asked[q.Name+" "+typ]++
	for _, k := range []string{q.Name + " " + typ, q.Name + " *", "* " + typ, "* *"} {
		if f := d.faults[k]; f != NoFault {
			return f, d.delay
		}
	}
	return NoFault, d.delay
}

// answer fills in the records, or the SOA of the zone when there are none
// (RFC 2308 section 2).
func (d *DNS) answer(m *dns.Msg, q dns.Question, r *dns.Msg) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.forward != nil && !d.instead[q.Name+" "+dns.TypeToString[q.Qtype]] {
		d.mu.Unlock()
		in := d.forward(r)
		d.mu.Lock()
		m.Rcode, m.Authoritative, m.Answer, m.Ns = in.Rcode, false, in.Answer, in.Ns
		return
	}
	if d.refer(m, q.Name) {
		return
	}
	own, exists := d.records[q.Name]
	for _, rr := range own {
		if t := rr.Header().Rrtype; t == q.Qtype || t == dns.TypeCNAME {
			m.Answer = append(m.Answer, rr)
		}
	}
	if !exists && d.all.IsValid() {
		exists = true
		if q.Qtype == dns.TypeA {
			m.Answer = append(m.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1},
				A:   d.all.AsSlice(),
			})
		}
	}
	apex := d.apexOf(q.Name)
	if apex == "" && d.strict {
		m.Rcode, m.Authoritative = dns.RcodeRefused, false
		return
	}
	if apex == "" {
		if !exists {
			m.Rcode = dns.RcodeNameError
		}
		return
	}
	soa := &dns.SOA{
		Hdr: dns.RR_Header{Name: apex, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60},
		Ns:  "ns1." + apex, Mbox: "hostmaster." + apex, Serial: 1, Refresh: 6000, Retry: 120, Expire: 2419200, Minttl: 60,
	}
	if q.Name == "ns1."+apex && !exists {
		exists = true
		if host, _, err := net.SplitHostPort(d.Addr); err == nil && q.Qtype == dns.TypeA {
			m.Answer = append(m.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.ParseIP(host)})
		}
	}
	if q.Name == apex {
		hasNS := len(m.Answer) > 0 && q.Qtype == dns.TypeNS
		exists = true
		switch {
		case q.Qtype == dns.TypeSOA:
			m.Answer = append(m.Answer, soa)
		case q.Qtype == dns.TypeNS && !hasNS:
			m.Answer = append(m.Answer, &dns.NS{
				Hdr: dns.RR_Header{Name: apex, Rrtype: dns.TypeNS, Class: dns.ClassINET, Ttl: 60}, Ns: "ns1." + apex})
		}
	}
	if len(m.Answer) == 0 {
		m.Ns = append(m.Ns, soa)
		if !exists {
			m.Rcode = dns.RcodeNameError
		}
	}
}

// refer answers with a referral if name is in a zone that was delegated away.
func (d *DNS) refer(m *dns.Msg, name string) bool {
	for cut, rrs := range d.cuts {
		if !dns.IsSubDomain(cut, name) || len(d.apexOf(name)) >= len(cut) {
			continue
		}
		m.Authoritative = false
		for _, rr := range rrs {
			if rr.Header().Rrtype == dns.TypeNS {
				m.Ns = append(m.Ns, rr)
			} else {
				m.Extra = append(m.Extra, rr)
			}
		}
		return true
	}
	return false
}

// apexOf is the longest zone that holds name, or "".
func (d *DNS) apexOf(name string) string {
	best := ""
	for _, a := range d.apexes {
		if dns.IsSubDomain(a, name) && len(a) > len(best) {
			best = a
		}
	}
	return best
}
