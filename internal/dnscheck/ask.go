package dnscheck

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// udpSize is what fits through every path unfragmented (RFC 9715 section 3).
const udpSize = 1232

// dohType is the media type of RFC 8484 section 6.
const dohType = "application/dns-message"

// asker sends queries. Its methods may be called from several goroutines.
type asker struct {
	timeout time.Duration // of one try
	http    *http.Client
}

func newAsker(cfg Config) *asker {
	a := &asker{timeout: cfg.Timeout, http: cfg.HTTP}
	if a.http == nil {
		a.http = &http.Client{
			Timeout: 2 * cfg.Timeout,
			Transport: &http.Transport{
				Proxy:                  http.ProxyFromEnvironment,
				DialContext:            (&net.Dialer{Timeout: cfg.Timeout}).DialContext,
				TLSHandshakeTimeout:    cfg.Timeout,
				ForceAttemptHTTP2:      true,
				IdleConnTimeout:        10 * time.Second,
				MaxResponseHeaderBytes: 16 << 10,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return a
}

// ask sends one query to one server and waits for what becomes of it.
func (a *asker) ask(ctx context.Context, s server, q query) answer {
	out := answer{server: s, query: q}
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(q.name), dns.StringToType[q.typ])
	m.RecursionDesired = !s.role.authoritative()
	m.SetEdns0(udpSize, false)
	began := time.Now()
	var in *dns.Msg
	var err error
	if s.role == roleDoH {
		in, err = a.overHTTPS(ctx, s.name, m)
	} else {
		in, out.late, err = a.overPort53(ctx, s.addr, m, q)
	}
	out.rtt = time.Since(began)
	switch {
	case err != nil:
		out.status, out.detail = failure(err)
	case !answers(in, q):
		out.status = stUnreadable
	default:
		out.read(in)
	}
	return out
}

// overPort53 makes two tries: UDP, then UDP and TCP at once. A truncated
// answer is asked for again over TCP within its try (RFC 7766 section 5), and
// one that chokes on EDNS without it (RFC 6891 section 7).
func (a *asker) overPort53(ctx context.Context, addr string, m *dns.Msg, q query) (in *dns.Msg, late bool, err error) {
	first, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	in, err = a.whole(first, addr, m)
	if err == nil && in.Rcode == dns.RcodeFormatError {
		bare := m.Copy()
		bare.Extra = nil
		in, err = a.whole(first, addr, bare)
	}
	if err == nil && answers(in, q) {
		return in, false, nil
	}
	if s, _ := failure(err); err != nil && s == stNoRoute || ctx.Err() != nil {
		return in, false, err
	}
	second, cancel2 := context.WithTimeout(ctx, a.timeout)
	defer cancel2()
	if in, err2 := a.race(second, addr, m, q); err2 == nil {
		return in, true, nil
	} else if err == nil {
		err = err2
	}
	return nil, true, err
}

// whole asks over UDP, and over TCP if the answer was cut.
func (a *asker) whole(ctx context.Context, addr string, m *dns.Msg) (*dns.Msg, error) {
	in, err := a.roundTrip(ctx, "udp", addr, m)
	if err == nil && in.Truncated {
		return a.roundTrip(ctx, "tcp", addr, m)
	}
	return in, err
}

// race asks over both transports and takes the first answer to q. It waits
// for both.
func (a *asker) race(ctx context.Context, addr string, m *dns.Msg, q query) (*dns.Msg, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var won *dns.Msg
	var last error
	for _, network := range []string{"udp", "tcp"} {
		wg.Go(func() {
			var in *dns.Msg
			var err error
			if network == "udp" {
				in, err = a.whole(ctx, addr, m)
			} else {
				in, err = a.roundTrip(ctx, network, addr, m)
			}
			if err == nil && !answers(in, q) {
				err = errUnreadable
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && won == nil:
				won = in
				cancel()
			case err != nil && won == nil:
				last = err
			}
		})
	}
	wg.Wait()
	if won != nil {
		return won, nil
	}
	return nil, last
}

// roundTrip is one message there and one back, until ctx ends.
func (a *asker) roundTrip(ctx context.Context, network, addr string, m *dns.Msg) (*dns.Msg, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	m = m.Copy()
	m.Id = dns.Id()
	c := &dns.Conn{Conn: conn, UDPSize: udpSize}
	if err := c.WriteMsg(m); err != nil {
		return nil, err
	}
	garbled := false
	for {
		b, err := c.ReadMsgHeader(nil)
		if err != nil && (len(b) > 0 || errors.Is(err, dns.ErrShortRead)) {
			garbled = true
			if network == "udp" {
				continue
			}
			return nil, errUnreadable
		}
		if err != nil {
			if garbled {
				return nil, errUnreadable
			}
			return nil, err
		}
		in, err := parse(b)
		if err == nil && in.Id == m.Id && in.Response {
			return in, nil
		}
		// Over UDP anyone may send anything: wait for the real one.
		garbled = true
		if network != "udp" {
			return nil, errUnreadable
		}
	}
}

// httpError is a DoH server's answer that is not a DNS message.
type httpError struct{ status int }

func (e *httpError) Error() string { return fmt.Sprintf("HTTP status %d", e.status) }

// overHTTPS asks by POST, with the message id 0 (RFC 8484 section 4.1).
func (a *asker) overHTTPS(ctx context.Context, url string, m *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*a.timeout)
	defer cancel()
	m.Id = 0
	body, err := m.Pack()
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", dohType)
	req.Header.Set("Accept", dohType)
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return readDoH(resp)
}

// readDoH reads the answer of a DoH server.
func readDoH(resp *http.Response) (*dns.Msg, error) {
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if resp.StatusCode != http.StatusOK {
		return nil, &httpError{resp.StatusCode}
	}
	if kind != dohType {
		return nil, errUnreadable // a captive portal, say
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, dns.MaxMsgSize+1))
	if err != nil {
		return nil, err
	}
	if len(b) > dns.MaxMsgSize {
		return nil, errUnreadable
	}
	return parse(b)
}

// failure sorts what went wrong on the way.
func failure(err error) (status, string) {
	he, isHTTP := errors.AsType[*httpError](err)
	ne, isNet := errors.AsType[net.Error](err)
	switch {
	case err == nil:
		return stOK, ""
	case isHTTP:
		return stHTTP, he.Error()
	case errors.Is(err, errUnreadable):
		return stUnreadable, ""
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, os.ErrDeadlineExceeded),
		isNet && ne.Timeout():
		return stTimeout, ""
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL),
		errors.Is(err, syscall.EAFNOSUPPORT):
		return stNoRoute, ""
	}
	return stUnreachable, ""
}

// resolvers are the configured ones, or the system's; and those over HTTPS.
func (c *Checker) resolvers() []server {
	addrs := c.cfg.Resolvers
	if len(addrs) == 0 {
		addrs = systemResolvers("/etc/resolv.conf")
	}
	var out []server
	for _, a := range addrs {
		out = append(out, server{role: roleResolver, name: a, addr: a})
	}
	for _, u := range c.cfg.DoH {
		out = append(out, server{role: roleDoH, name: u})
	}
	return out
}

// systemResolvers reads resolv.conf(5). Where there is none, there are none.
func systemResolvers(file string) []string {
	cfg, err := dns.ClientConfigFromFile(file)
	if err != nil {
		return nil
	}
	var out []string
	for _, s := range cfg.Servers {
		if _, err := netip.ParseAddr(s); err == nil && len(out) < 3 {
			out = append(out, net.JoinHostPort(s, cfg.Port))
		}
	}
	return out
}

// askAll asks everything at once and waits.
func (c *Checker) askAll(ctx context.Context, tasks []task) []answer {
	out := make([]answer, len(tasks))
	var wg sync.WaitGroup
	for i, t := range tasks {
		wg.Go(func() { out[i] = c.ask.ask(ctx, t.server, t.query) })
	}
	wg.Wait()
	return out
}

// task is one server to ask one thing.
type task struct {
	server server
	query  query
}
