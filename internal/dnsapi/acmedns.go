package dnsapi

import (
	"context"
	"net/http"
	"strings"
)

// acmeDNS follows https://github.com/joohoi/acme-dns (README, "Update
// endpoint"). The account is one subdomain, made by registering, to which the
// _acme-challenge of the real name is an alias. It keeps the last two values.
type acmeDNS struct {
	*api
	subdomain string
}

func newACMEDNS(s Settings) (named, error) {
	a, err := newAPI("acme-dns", "", s.Endpoint, s.Secret)
	if err != nil {
		return nil, err
	}
	a.sign = func(r *http.Request, _ []byte) error {
		r.Header.Set("X-Api-User", s.Key)
		r.Header.Set("X-Api-Key", s.Secret)
		return nil
	}
	return &acmeDNS{a, s.Subdomain}, nil
}

// AddTXT implements TXT. name is where the alias leads.
func (d *acmeDNS) AddTXT(ctx context.Context, name, value string) error {
	op := "set TXT of " + name
	sub, _, _ := strings.Cut(d.subdomain, ".") // some paste the full name
	if first, _, _ := strings.Cut(canonical(name), "."); first != strings.ToLower(sub) {
		return d.rejected(op, "the name is not the registered subdomain; make _acme-challenge of your name a CNAME of it")
	}
	in := struct {
		Subdomain string `json:"subdomain"`
		TXT       string `json:"txt"`
	}{sub, value}
	return d.json(ctx, call{op: op, method: http.MethodPost, path: "/update"}, in, nil)
}

// RemoveTXT implements TXT. There is no way to; newer values push it out.
func (d *acmeDNS) RemoveTXT(context.Context, string, string) error { return nil }
