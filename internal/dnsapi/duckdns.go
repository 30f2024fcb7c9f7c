package dnsapi

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// duckDNS follows https://www.duckdns.org/spec.jsp: one endpoint, the token in
// the query, "OK" or "KO" in the body. A subdomain has one TXT value, which
// every name below it answers with.
type duckDNS struct {
	*api
	token string
}

func newDuckDNS(s Settings) (named, error) {
	a, err := newAPI("duckdns", "https://www.duckdns.org", s.Endpoint, s.Token)
	if err != nil {
		return nil, err
	}
	return &duckDNS{a, s.Token}, nil
}

// subdomain is the label that names the account's domain: the zone is known,
// it is what is right before duckdns.org.
func (d *duckDNS) subdomain(name string) string {
	rest, ok := strings.CutSuffix(canonical(name), ".duckdns.org")
	if !ok {
		return ""
	}
	return rest[strings.LastIndex(rest, ".")+1:]
}

// Slot implements TXT: the one value of the subdomain.
func (d *duckDNS) Slot(name string) string { return d.subdomain(name) + ".duckdns.org" }

// AddTXT implements TXT.
func (d *duckDNS) AddTXT(ctx context.Context, name, value string) error {
	return d.update(ctx, "set TXT of "+name, name, url.Values{"txt": {value}})
}

// RemoveTXT implements TXT. The value is cleared whatever it is by now.
func (d *duckDNS) RemoveTXT(ctx context.Context, name, value string) error {
	return d.update(ctx, "clear TXT of "+name, name, url.Values{"txt": {value}, "clear": {"true"}})
}

// SetAddrs implements Addrs. The address is always given: DuckDNS would
// otherwise take the one it sees, which is that of whatever path the call
// took.
func (d *duckDNS) SetAddrs(ctx context.Context, name string, v4, v6 netip.Addr) error {
	q := url.Values{}
	if v4.IsValid() {
		q.Set("ip", v4.String())
	}
	if v6.IsValid() {
		q.Set("ipv6", v6.String())
	}
	if len(q) == 0 {
		return nil
	}
	return d.update(ctx, "set addresses of "+name, name, q)
}

// ClearV6 implements Addrs. The host clears both addresses or none, so that
// the IPv4 address is gone for a moment; if it cannot be set again, the error
// says so, and setting it is what the caller tries next.
func (d *duckDNS) ClearV6(ctx context.Context, name string, v4, _ netip.Addr) error {
	if err := d.update(ctx, "clear the addresses of "+name, name, url.Values{"clear": {"true"}}); err != nil {
		return err
	}
	return d.SetAddrs(ctx, name, v4, netip.Addr{})
}

// Probe implements Addrs. There is no call that only reads; one without a
// token is answered KO, which a host that is down does not.
func (d *duckDNS) Probe(ctx context.Context, name string) error {
	op := "look whether the API is there"
	got, err := d.do(ctx, call{op: op, method: http.MethodGet, path: "/update", query: url.Values{"domains": {d.subdomain(name)}}, plain: true})
	if err != nil {
		return err
	}
	if w := duckWord(got); w == "OK" || w == "KO" {
		return nil
	}
	return d.notDuck(op, got)
}

// duckWord is the first line of an answer.
func duckWord(got answer) string {
	word, _, _ := strings.Cut(strings.TrimSpace(string(got.body[:min(len(got.body), 64)])), "\n")
	return strings.TrimSpace(word)
}

// notDuck is the error of an answer that is not one of DuckDNS.
func (d *duckDNS) notDuck(op string, got answer) error {
	if err := d.judge(op, got); err != nil {
		return err
	}
	return &Error{Provider: d.provider, Op: op, Kind: ErrUnreachable, Status: got.status, Means: "the answer is neither OK nor KO"}
}

func (d *duckDNS) update(ctx context.Context, op, name string, q url.Values) error {
	sub := d.subdomain(name)
	if sub == "" {
		return d.rejected(op, "the name is not below duckdns.org")
	}
	q.Set("domains", sub)
	q.Set("token", d.token)
	d.mu.Lock() // it takes updates one after the other
	defer d.mu.Unlock()
	got, err := d.do(ctx, call{op: op, method: http.MethodGet, path: "/update", query: q, plain: true})
	if err != nil {
		return err
	}
	switch word := duckWord(got); {
	case got.status == http.StatusOK && word == "OK":
		return nil
	case word == "KO":
		return &Error{Provider: d.provider, Op: op, Kind: ErrRejected, Status: got.status,
			Means: "KO: the token is wrong, or " + sub + " belongs to another account"}
	}
	return d.notDuck(op, got)
}
