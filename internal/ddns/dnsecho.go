package ddns

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// dnsEcho asks a name server a question that it answers with the address the
// question came from.
type dnsEcho struct {
	name   string // with its dot
	server string // host:port
	qtype  uint16
	class  uint16
	tls    *tls.Config // nil: plain
}

// NewDNSEcho makes a source from "name@server" or "name@server:port", such as
// whoami.cloudflare@1.1.1.1:853. Without a port it is 53. Port 853 means DNS
// over TLS (RFC 7858) with the system's roots; any other is plain, where
// whoever is on the way can lie. It touches no network.
//
// What is asked depends on the name: whoami.cloudflare wants CHAOS TXT,
// o-o.myaddr.l.google.com TXT, any other name A.
func NewDNSEcho(spec string) (Source, error) {
	const want = "want name@server such as whoami.cloudflare@1.1.1.1:853"
	name, server, ok := strings.Cut(spec, "@")
	if _, valid := dns.IsDomainName(name); !ok || name == "" || !valid || server == "" {
		return Source{}, fmt.Errorf("%q: %s", spec, want)
	}
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		host, port = strings.Trim(server, "[]"), "53"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" || strings.ContainsAny(host, "/@ ") || strings.ContainsAny(name, " /") {
		return Source{}, fmt.Errorf("%q: server %q, %s", spec, server, want)
	}
	e := &dnsEcho{name: dns.CanonicalName(name), server: net.JoinHostPort(host, port), qtype: dns.TypeA, class: dns.ClassINET}
	switch e.name {
	case "whoami.cloudflare.":
		e.qtype, e.class = dns.TypeTXT, dns.ClassCHAOS
	case "o-o.myaddr.l.google.com.":
		e.qtype = dns.TypeTXT
	}
	if port == "853" {
		e.tls = &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	}
	return Source{Kind: DNSEcho, Name: spec, Addr: e.addr}, nil
}

// addr asks once; over UDP twice, because packets get lost.
func (e *dnsEcho) addr(ctx context.Context) (netip.Addr, error) {
	m := new(dns.Msg)
	m.SetQuestion(e.name, e.qtype)
	m.Question[0].Qclass = e.class
	if e.tls != nil {
		return e.over(ctx, "tcp4-tls", m)
	}
	half, cancel := context.WithTimeout(ctx, sourceTimeout/3)
	a, err := e.over(half, "udp4", m)
	cancel()
	if err == nil || ctx.Err() != nil || errors.Is(err, errNoAddr) {
		return a, err
	}
	return e.over(ctx, "tcp4", m)
}

// over asks by IPv4: the answer is about the path the question took.
func (e *dnsEcho) over(ctx context.Context, network string, m *dns.Msg) (netip.Addr, error) {
	c := &dns.Client{Net: network, TLSConfig: e.tls, Timeout: sourceTimeout}
	if deadline, ok := ctx.Deadline(); ok {
		c.Timeout = time.Until(deadline)
	}
	conn, err := c.DialContext(ctx, e.server)
	if err != nil {
		return netip.Addr{}, plain(ctx, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	in, _, err := c.ExchangeWithConnContext(ctx, m, conn)
	switch {
	case err != nil:
		return netip.Addr{}, plain(ctx, err)
	case in.Rcode != dns.RcodeSuccess:
		return netip.Addr{}, fmt.Errorf("the answer is %s", dns.RcodeToString[in.Rcode])
	case in.Truncated:
		return netip.Addr{}, errors.New("the answer is truncated")
	}
	for _, rr := range in.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			if a, ok := netip.AddrFromSlice(rr.A.To4()); ok {
				return a, nil
			}
		case *dns.TXT:
			if a, err := netip.ParseAddr(strings.TrimSpace(strings.Join(rr.Txt, ""))); err == nil {
				return a, nil
			}
		}
	}
	return netip.Addr{}, errNoAddr
}

// plain says a timeout in words.
func plain(ctx context.Context, err error) error {
	var ne net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.As(err, &ne) && ne.Timeout() {
		return errors.New("no answer in time")
	}
	return err
}
