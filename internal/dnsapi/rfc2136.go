package dnsapi

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// rfc2136 sends dynamic updates (RFC 2136), signed with TSIG (RFC 8945), to
// the primary server of a zone: BIND, Knot, PowerDNS.
type rfc2136 struct {
	server    string // host:port
	key       string // with its dot
	secret    string
	algorithm string
	zone      string // if configured, with its dot
	zones     zoneCache
}

const rfc2136TTL = 60

func newRFC2136(s Settings) (named, error) {
	const name = "dns provider rfc2136: "
	server := s.Endpoint
	if strings.Contains(server, "/") {
		return nil, errors.New(name + "endpoint is a URL, want the host or host:port of the zone's primary server")
	}
	if _, _, err := net.SplitHostPort(server); err != nil {
		server = net.JoinHostPort(strings.Trim(server, "[]"), "53")
	}
	alg := dns.CanonicalName(s.Algorithm)
	if s.Algorithm == "" {
		alg = dns.HmacSHA256
	}
	switch alg {
	case dns.HmacSHA1, dns.HmacSHA224, dns.HmacSHA256, dns.HmacSHA384, dns.HmacSHA512:
	default:
		return nil, fmt.Errorf(name+"algorithm %q is unknown, want hmac-sha256, hmac-sha512, hmac-sha384, hmac-sha224 or hmac-sha1", s.Algorithm)
	}
	if b, err := base64.StdEncoding.DecodeString(s.Secret); err != nil || len(b) == 0 {
		return nil, errors.New(name + "secret is not base64, want it as in the server's key file")
	}
	d := &rfc2136{server: server, key: dns.CanonicalName(s.Key), secret: s.Secret, algorithm: alg}
	if s.Zone != "" {
		d.zone = dns.CanonicalName(s.Zone)
	}
	return d, nil
}

func (d *rfc2136) Name() string { return "rfc2136" }

// Slot implements TXT.
func (d *rfc2136) Slot(string) string { return "" }

// AddTXT implements TXT.
func (d *rfc2136) AddTXT(ctx context.Context, name, value string) error {
	return d.update(ctx, "add TXT to "+name, name, func(m *dns.Msg, name string) {
		m.Insert([]dns.RR{txtRecord(name, value)})
	})
}

// RemoveTXT implements TXT.
func (d *rfc2136) RemoveTXT(ctx context.Context, name, value string) error {
	return d.update(ctx, "remove TXT from "+name, name, func(m *dns.Msg, name string) {
		m.Remove([]dns.RR{txtRecord(name, value)})
	})
}

// SetAddrs implements Addrs.
func (d *rfc2136) SetAddrs(ctx context.Context, name string, v4, v6 netip.Addr) error {
	if !v4.IsValid() && !v6.IsValid() {
		return nil
	}
	return d.update(ctx, "set addresses of "+name, name, func(m *dns.Msg, name string) {
		for _, a := range []netip.Addr{v4, v6} {
			if !a.IsValid() {
				continue
			}
			rr := addrRecord(name, a)
			m.RemoveRRset([]dns.RR{dns.Copy(rr)})
			m.Insert([]dns.RR{rr})
		}
	})
}

// ClearV6 implements Addrs.
func (d *rfc2136) ClearV6(ctx context.Context, name string, _, v6 netip.Addr) error {
	return d.update(ctx, "clear the IPv6 address of "+name, name, func(m *dns.Msg, name string) {
		m.Remove([]dns.RR{addrRecord(name, v6)})
	})
}

// Probe implements Addrs: it asks for the zone's SOA, signed as an update is.
func (d *rfc2136) Probe(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	op := "look whether the server is there"
	z, err := d.zones.find(ctx, canonical(name), d.look)
	if err != nil {
		return err
	}
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(z.name), dns.TypeSOA)
	m.RecursionDesired = false
	in, err := d.exchange(ctx, op, m)
	if err != nil {
		return err
	}
	if in.Rcode != dns.RcodeSuccess {
		return d.refused(op, in)
	}
	return nil
}

func addrRecord(name string, a netip.Addr) dns.RR {
	h := dns.RR_Header{Name: name, Rrtype: dns.TypeAAAA, Class: dns.ClassINET, Ttl: rfc2136TTL}
	if a.Is4() {
		h.Rrtype = dns.TypeA
		return &dns.A{Hdr: h, A: a.AsSlice()}
	}
	return &dns.AAAA{Hdr: h, AAAA: a.AsSlice()}
}

func txtRecord(name, value string) dns.RR {
	return &dns.TXT{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: rfc2136TTL}, Txt: []string{value}}
}

func (d *rfc2136) update(ctx context.Context, op, name string, fill func(*dns.Msg, string)) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	name = canonical(name)
	z, err := d.zones.find(ctx, name, d.look)
	if err != nil {
		return err
	}
	m := new(dns.Msg)
	m.SetUpdate(dns.Fqdn(z.name))
	fill(m, dns.Fqdn(name))
	in, err := d.exchange(ctx, op, m)
	if err != nil {
		return err
	}
	if in.Rcode != dns.RcodeSuccess {
		return d.refused(op, in)
	}
	return nil
}

// look asks the server which zone name is in: its SOA is in the answer or the
// authority section (RFC 2308 section 2).
func (d *rfc2136) look(ctx context.Context, name string) (zone, error) {
	if d.zone != "" {
		if !within(name, canonical(d.zone)) {
			return zone{}, &Error{Provider: "rfc2136", Op: "find the zone of " + name, Kind: ErrRejected, Means: "the name is not in the zone " + canonical(d.zone)}
		}
		return zone{name: canonical(d.zone)}, nil
	}
	op := "find the zone of " + name
	for _, n := range append([]string{name}, ancestors(name)...) {
		m := new(dns.Msg)
		m.SetQuestion(dns.Fqdn(n), dns.TypeSOA)
		m.RecursionDesired = false
		in, err := d.exchange(ctx, op, m)
		if err != nil {
			return zone{}, err
		}
		for _, rr := range append(in.Answer, in.Ns...) {
			if soa, ok := rr.(*dns.SOA); ok && within(name, canonical(soa.Hdr.Name)) && soa.Hdr.Name != "." {
				return zone{name: canonical(soa.Hdr.Name)}, nil
			}
		}
		if in.Rcode != dns.RcodeSuccess && in.Rcode != dns.RcodeNameError && in.Rcode != dns.RcodeRefused {
			return zone{}, d.refused(op, in)
		}
	}
	return zone{}, &Error{Provider: "rfc2136", Op: op, Kind: ErrRejected, Means: "the server has no zone that holds the name"}
}

// exchange signs m and sends it over TCP. An answer that is not signed is
// believed only when it says no.
func (d *rfc2136) exchange(ctx context.Context, op string, m *dns.Msg) (*dns.Msg, error) {
	m.SetTsig(d.key, d.algorithm, 300, time.Now().Unix())
	c := &dns.Client{Net: "tcp", Timeout: callTimeout, TsigSecret: map[string]string{d.key: d.secret}}
	in, _, err := c.ExchangeContext(ctx, m, d.server)
	if in != nil && in.Rcode == dns.RcodeNotAuth {
		return nil, d.refused(op, in)
	}
	if err != nil {
		e := &Error{Provider: "rfc2136", Op: op, Kind: ErrUnreachable, cause: err}
		if errors.Is(err, dns.ErrSig) || errors.Is(err, dns.ErrTime) || errors.Is(err, dns.ErrSecret) || errors.Is(err, dns.ErrKey) {
			e.Kind, e.Means = ErrRejected, "the signature of the answer does not fit the key"
		}
		return nil, e
	}
	if in.Rcode == dns.RcodeSuccess && in.IsTsig() == nil {
		return nil, &Error{Provider: "rfc2136", Op: op, Kind: ErrUnreachable, Means: "the answer is not signed, so anyone may have sent it"}
	}
	return in, nil
}

// refused says what a response code means.
func (d *rfc2136) refused(op string, in *dns.Msg) error {
	e := &Error{Provider: "rfc2136", Op: op, Kind: ErrRejected, Detail: dns.RcodeToString[in.Rcode]}
	if t := in.IsTsig(); t != nil && t.Error != 0 {
		e.Detail += " " + dns.RcodeToString[int(t.Error)]
	}
	switch in.Rcode {
	case dns.RcodeServerFailure:
		e.Kind = ErrUnreachable
	case dns.RcodeNotAuth:
		e.Means = "the key is wrong, the clocks differ, or the server is not the zone's primary"
	case dns.RcodeRefused:
		e.Means = "the key may not update this name"
	case dns.RcodeNotZone:
		e.Means = "the name is not in the zone"
	}
	return e
}
