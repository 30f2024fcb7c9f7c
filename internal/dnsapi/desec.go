package dnsapi

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
)

// deSEC follows https://desec.readthedocs.io/en/latest/dns/domains.html and
// …/dns/rrsets.html: record sets as JSON, changed as a whole.
type deSEC struct{ *api }

func newDeSEC(s Settings) (Provider, error) {
	a, err := newAPI("desec", "https://desec.io", s.Endpoint, s.Token)
	if err != nil {
		return nil, err
	}
	a.sign = func(r *http.Request, _ []byte) { r.Header.Set("Authorization", "Token "+s.Token) }
	return &deSEC{a}, nil
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

// AddTXT implements TXT.
func (d *deSEC) AddTXT(ctx context.Context, name, value string) error {
	return d.edit(ctx, "add TXT to "+name, canonical(name), func(have []string) []string {
		if slices.Contains(have, quote(value)) {
			return have
		}
		return append(have, quote(value))
	})
}

// RemoveTXT implements TXT.
func (d *deSEC) RemoveTXT(ctx context.Context, name, value string) error {
	return d.edit(ctx, "remove TXT from "+name, canonical(name), func(have []string) []string {
		return slices.DeleteFunc(have, func(s string) bool { return unquote(s) == value })
	})
}

func (d *deSEC) edit(ctx context.Context, op, name string, change func([]string) []string) error {
	z, err := d.zones.find(ctx, name, d.look)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var set desecSet
	path := "/api/v1/domains/" + url.PathEscape(z.name) + "/rrsets/" + url.PathEscape(orAt(relative(name, z.name))) + "/TXT/"
	err = d.json(ctx, call{op: op, method: http.MethodGet, path: path}, nil, &set)
	if err != nil && !notFound(err) {
		return err
	}
	next := change(slices.Clone(set.Records))
	if slices.Equal(next, set.Records) {
		return nil
	}
	return d.put(ctx, op, name, z, desecSet{Type: "TXT", Records: next})
}

// put writes record sets; one without records is deleted ("Bulk Operations").
func (d *deSEC) put(ctx context.Context, op, name string, z zone, sets ...desecSet) error {
	for i := range sets {
		sets[i].Subname, sets[i].TTL = relative(name, z.name), max(z.ttl, 60)
		if sets[i].Records == nil {
			sets[i].Records = []string{}
		}
	}
	path := "/api/v1/domains/" + url.PathEscape(z.name) + "/rrsets/"
	err := d.json(ctx, call{op: op, method: http.MethodPatch, path: path}, sets, nil)
	if notFound(err) {
		d.zones.forget(name)
	}
	return err
}

// SetAddrs implements Addrs.
func (d *deSEC) SetAddrs(ctx context.Context, name string, v4, v6 netip.Addr) error {
	name = canonical(name)
	var sets []desecSet
	if v4.IsValid() {
		sets = append(sets, desecSet{Type: "A", Records: []string{v4.String()}})
	}
	if v6.IsValid() {
		sets = append(sets, desecSet{Type: "AAAA", Records: []string{v6.String()}})
	}
	if len(sets) == 0 {
		return nil
	}
	z, err := d.zones.find(ctx, name, d.look)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.put(ctx, "set addresses of "+name, name, z, sets...)
}
