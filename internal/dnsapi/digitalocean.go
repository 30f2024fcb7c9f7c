package dnsapi

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// digitalOcean follows
// https://docs.digitalocean.com/reference/api/digitalocean/#tag/Domain-Records.
type digitalOcean struct{ *api }

func newDigitalOcean(s Settings) (named, error) {
	a, err := newAPI("digitalocean", "https://api.digitalocean.com", s.Endpoint, s.Token)
	if err != nil {
		return nil, err
	}
	a.sign = bearer(s.Token)
	return &sets{a, &digitalOcean{a}}, nil
}

type digitalOceanRecord struct {
	ID   int64  `json:"id,omitempty"`
	Type string `json:"type"`
	Name string `json:"name,omitempty"`
	Data string `json:"data"`
	TTL  int    `json:"ttl,omitempty"`
}

const digitalOceanTTL = 30 // the lowest

// look asks for each name above whether it is a domain of the account.
func (d *digitalOcean) look(ctx context.Context, name string) (zone, error) {
	op := "find the domain of " + name
	for _, n := range ancestors(name) {
		var out struct {
			Domain struct {
				Name string `json:"name"`
			} `json:"domain"`
		}
		err := d.json(ctx, call{op: op, method: http.MethodGet, path: "/v2/domains/" + url.PathEscape(n)}, nil, &out)
		switch {
		case notFound(err):
			continue
		case err != nil:
			return zone{}, err
		case canonical(out.Domain.Name) == n:
			return zone{name: n}, nil
		}
	}
	return zone{}, d.rejected(op, "no domain of this account holds the name")
}

func (d *digitalOcean) path(z zone) string {
	return "/v2/domains/" + url.PathEscape(z.name) + "/records"
}

func (d *digitalOcean) list(ctx context.Context, op string, s recordSet) ([]record, error) {
	var out struct {
		Records []digitalOceanRecord `json:"domain_records"`
	}
	c := call{op: op, method: http.MethodGet, path: d.path(s.zone), query: url.Values{"type": {s.typ}, "name": {s.name}, "per_page": {"200"}}}
	err := d.json(ctx, c, nil, &out)
	var list []record
	for _, r := range out.Records {
		if r.Type == s.typ && canonical(r.Name) == orAt(s.rel()) {
			list = append(list, record{strconv.FormatInt(r.ID, 10), unquote(r.Data), r.TTL})
		}
	}
	return list, err
}

func (d *digitalOcean) write(ctx context.Context, op string, s recordSet, have []record, want []string) error {
	return edit(ctx, d, op, s, have, want)
}

func (d *digitalOcean) create(ctx context.Context, op string, s recordSet, value string) error {
	return d.json(ctx, call{op: op, method: http.MethodPost, path: d.path(s.zone)},
		digitalOceanRecord{Type: s.typ, Name: orAt(s.rel()), Data: value, TTL: digitalOceanTTL}, nil)
}

func (d *digitalOcean) replace(ctx context.Context, op string, s recordSet, id, value string) error {
	return d.json(ctx, call{op: op, method: http.MethodPatch, path: d.path(s.zone) + "/" + url.PathEscape(id)},
		digitalOceanRecord{Type: s.typ, Data: value}, nil)
}

func (d *digitalOcean) remove(ctx context.Context, op string, s recordSet, id string) error {
	return d.json(ctx, call{op: op, method: http.MethodDelete, path: d.path(s.zone) + "/" + url.PathEscape(id)}, nil, nil)
}
