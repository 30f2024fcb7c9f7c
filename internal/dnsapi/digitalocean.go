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

func newDigitalOcean(s Settings) (Provider, error) {
	a, err := newAPI("digitalocean", "https://api.digitalocean.com", s.Endpoint, s.Token)
	if err != nil {
		return nil, err
	}
	a.sign = bearer(s.Token)
	return &digitalOcean{a}, nil
}

type digitalOceanRecord struct {
	ID   int64  `json:"id,omitempty"`
	Type string `json:"type"`
	Name string `json:"name"`
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

// AddTXT implements TXT.
func (d *digitalOcean) AddTXT(ctx context.Context, name, value string) error {
	name = canonical(name)
	op := "add TXT to " + name
	z, err := d.zones.find(ctx, name, d.look)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	ids, err := d.values(ctx, op, name, z, value)
	if err != nil || len(ids) > 0 {
		return err
	}
	return d.json(ctx, call{op: op, method: http.MethodPost, path: d.path(z)},
		digitalOceanRecord{Type: "TXT", Name: orAt(relative(name, z.name)), Data: value, TTL: digitalOceanTTL}, nil)
}

// RemoveTXT implements TXT.
func (d *digitalOcean) RemoveTXT(ctx context.Context, name, value string) error {
	name = canonical(name)
	op := "remove TXT from " + name
	z, err := d.zones.find(ctx, name, d.look)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	ids, err := d.values(ctx, op, name, z, value)
	if err != nil {
		return err
	}
	for _, id := range ids {
		err := d.json(ctx, call{op: op, method: http.MethodDelete, path: d.path(z) + "/" + strconv.FormatInt(id, 10)}, nil, nil)
		if err != nil && !notFound(err) {
			return err
		}
	}
	return nil
}

// values are the records of name that hold value.
func (d *digitalOcean) values(ctx context.Context, op, name string, z zone, value string) ([]int64, error) {
	var out struct {
		Records []digitalOceanRecord `json:"domain_records"`
	}
	c := call{op: op, method: http.MethodGet, path: d.path(z), query: url.Values{"type": {"TXT"}, "name": {name}, "per_page": {"200"}}}
	if err := d.json(ctx, c, nil, &out); err != nil {
		if notFound(err) {
			d.zones.forget(name)
		}
		return nil, err
	}
	var ids []int64
	for _, r := range out.Records {
		if r.Type == "TXT" && unquote(r.Data) == value && canonical(r.Name) == orAt(relative(name, z.name)) {
			ids = append(ids, r.ID)
		}
	}
	return ids, nil
}
