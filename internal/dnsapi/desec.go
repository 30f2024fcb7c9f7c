package dnsapi

import (
	"context"
	"net/http"
	"net/url"
)

// deSEC follows https://desec.readthedocs.io/en/latest/dns/domains.html and
// …/dns/rrsets.html: record sets as JSON, changed as a whole.
type deSEC struct{ *api }

func newDeSEC(s Settings) (named, error) {
	a, err := newAPI("desec", "https://desec.io", s.Endpoint, s.Token)
	if err != nil {
		return nil, err
	}
	a.sign = header("Authorization", "Token "+s.Token)
	return &sets{a, &deSEC{a}}, nil
}

type desecDomain struct {
	Name       string `json:"name"`
	MinimumTTL int    `json:"minimum_ttl"`
}

type desecSet struct {
	Subname string   `json:"subname"`
	Type    string   `json:"type"`
	TTL     int      `json:"ttl"`
	Records []string `json:"records"`
}

// look asks which domain of the account is responsible for name.
func (d *deSEC) look(ctx context.Context, name string) (zone, error) {
	var list []desecDomain
	c := call{op: "find the domain of " + name, method: http.MethodGet, path: "/api/v1/domains/", query: url.Values{"owns_qname": {name}}}
	if err := d.json(ctx, c, nil, &list); err != nil {
		return zone{}, err
	}
	for _, x := range list {
		if z := canonical(x.Name); z != "" && within(name, z) {
			return zone{name: z, ttl: x.MinimumTTL}, nil
		}
	}
	return zone{}, d.rejected(c.op, "no domain of this account holds the name")
}

func (d *deSEC) list(ctx context.Context, op string, s recordSet) ([]record, error) {
	var set desecSet
	path := "/api/v1/domains/" + url.PathEscape(s.zone.name) + "/rrsets/" + url.PathEscape(orAt(s.rel())) + "/" + s.typ + "/"
	err := d.json(ctx, call{op: op, method: http.MethodGet, path: path}, nil, &set)
	if notFound(err) {
		return nil, nil
	}
	var list []record
	for _, v := range set.Records {
		list = append(list, record{value: unquote(v), ttl: set.TTL})
	}
	return list, err
}

// write sends the set; one without records is deleted ("Bulk Operations").
func (d *deSEC) write(ctx context.Context, op string, s recordSet, _ []record, want []string) error {
	set := desecSet{Subname: s.rel(), Type: s.typ, TTL: max(s.zone.ttl, 60), Records: []string{}}
	for _, v := range want {
		set.Records = append(set.Records, s.quoted(v))
	}
	path := "/api/v1/domains/" + url.PathEscape(s.zone.name) + "/rrsets/"
	return d.json(ctx, call{op: op, method: http.MethodPatch, path: path}, []desecSet{set}, nil)
}
