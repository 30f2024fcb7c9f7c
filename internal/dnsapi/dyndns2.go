package dnsapi

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// dynDNS2 follows https://help.dyn.com/remote-access-api/perform-update/ and
// …/return-codes/, the protocol that No-IP, Dynu, FreeDNS and many a router
// speak: one GET with a user name and password, one word in the answer.
type dynDNS2 struct{ *api }

// What the protocol asks a client to do after a word that says no: nothing,
// until a person has changed something; or to wait half an hour, when it is
// the host's own trouble.
const (
	dynHold = 24 * time.Hour
	dynWait = 30 * time.Minute
)

func newDynDNS2(s Settings) (named, error) {
	a, err := newAPI("dyndns2", "", s.Endpoint, s.Secret)
	if err != nil {
		return nil, err
	}
	a.sign = func(r *http.Request, _ []byte) error {
		if strings.HasPrefix(r.URL.Path, a.base.Path+"/nic/") {
			r.SetBasicAuth(s.Key, s.Secret)
		}
		return nil
	}
	return &dynDNS2{a}, nil
}

// SetAddrs implements Addrs. Without myip the host would take the address the
// call came from, so both are always given if there are two; one that is alone
// goes as myip.
func (d *dynDNS2) SetAddrs(ctx context.Context, name string, v4, v6 netip.Addr) error {
	q := url.Values{"hostname": {canonical(name)}}
	switch {
	case v4.IsValid() && v6.IsValid():
		q.Set("myip", v4.String())
		q.Set("myipv6", v6.String())
	case v4.IsValid():
		q.Set("myip", v4.String())
	case v6.IsValid():
		q.Set("myip", v6.String())
	default:
		return nil
	}
	op := "set addresses of " + name
	d.mu.Lock()
	defer d.mu.Unlock()
	got, err := d.do(ctx, call{op: op, method: http.MethodGet, path: "/nic/update", query: q, plain: true})
	if err != nil {
		return err
	}
	return d.read(op, got)
}

// read judges an answer by its first word, whatever its status: hosts differ
// in that.
func (d *dynDNS2) read(op string, got answer) error {
	word := ""
	if f := strings.Fields(string(got.body[:min(len(got.body), 256)])); len(f) > 0 && !isHTML(got.header, got.body) {
		word = strings.ToLower(f[0])
	}
	e := &Error{Provider: d.provider, Op: op, Kind: ErrRejected, Status: got.status, RetryAfter: dynHold}
	switch word {
	case "good", "nochg":
		return nil
	case "badauth":
		e.Means = "badauth: the user name or the password is wrong"
	case "nohost":
		e.Means = "nohost: the name is not one of this account"
	case "notfqdn":
		e.Means = "notfqdn: the host wants the full name"
	case "numhost":
		e.Means = "numhost: too many names at once"
	case "!donator", "!yours":
		e.Means = word + ": the account does not include this"
	case "abuse":
		e.Means = "abuse: the name is blocked for too many updates; ask the host to lift that"
	case "badagent":
		e.Means = "badagent: the host does not want this client"
	case "badsys", "badip":
		e.Means = word + ": the host does not take what was sent"
	case "911", "dnserr":
		e.Kind, e.Means, e.RetryAfter = ErrUnreachable, word+": the host has trouble of its own", dynWait
	default:
		if err := d.judge(op, got); err != nil {
			return err
		}
		e.Kind, e.Means, e.RetryAfter = ErrUnreachable, "the answer is no word of the protocol", 0
	}
	return e
}

// ClearV6 implements Addrs. The protocol has nothing for it.
func (d *dynDNS2) ClearV6(_ context.Context, name string, _, v6 netip.Addr) error {
	return d.rejected("clear the IPv6 address of "+name, "the protocol cannot take %s away; remove it at the host's own page", v6)
}

// Probe implements Addrs. An update that changes nothing counts as abuse with
// such hosts, so the front page is asked for: whatever answers but for a
// server's trouble will do.
func (d *dynDNS2) Probe(ctx context.Context, _ string) error {
	op := "look whether the host is there"
	got, err := d.do(ctx, call{op: op, method: http.MethodGet, path: "/", plain: true})
	if err != nil {
		return err
	}
	if got.status >= http.StatusInternalServerError {
		return d.judge(op, got)
	}
	return nil
}
