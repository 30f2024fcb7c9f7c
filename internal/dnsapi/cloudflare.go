package dnsapi

import (
	"context"
	"net/http"
	"net/url"
)

// cloudflare follows https://developers.cloudflare.com/api/resources/zones/
// and …/resources/dns/subresources/records/. The token needs Zone:Read and
// DNS:Edit of the zone.
type cloudflare struct{ *api }

func newCloudflare(s Settings) (named, error) {
	a, err := newAPI("cloudflare", "https://api.cloudflare.com", s.Endpoint, s.Token)
	if err != nil {
		return nil, err
	}
	a.sign = bearer(s.Token)
	return &sets{a, &cloudflare{a}}, nil
}

type cloudflareRecord struct {
	ID      string `json:"id,omitempty"`
	Type    string `json:"type"`
	Name    string `json:"name"`
	Content string `json:"content"`
	TTL     int    `json:"ttl,omitempty"`
}

// cloudflareAnswer wraps every answer.
type cloudflareAnswer[T any] struct {
	Result T `json:"result"`
}

const cloudflareTTL = 60 // the lowest of the free plan

// look asks for each name above whether it is a zone of the account.
func (d *cloudflare) look(ctx context.Context, name string) (zone, error) {
	op := "find the zone of " + name
	for _, z := range ancestors(name) {
		var list cloudflareAnswer[[]struct {
			ID   string `json:"id"`
			Name string `json:"name"`
		}]
		c := call{op: op, method: http.MethodGet, path: "/client/v4/zones", query: url.Values{"name": {z}}}
		if err := d.json(ctx, c, nil, &list); err != nil {
			return zone{}, err
		}
		for _, x := range list.Result {
			if canonical(x.Name) == z && x.ID != "" {
				return zone{name: z, id: x.ID}, nil
			}
		}
	}
	return zone{}, d.rejected(op, "the token sees no zone that holds the name; it needs Zone:Read and DNS:Edit for it")
}

func (d *cloudflare) path(z zone, record string) string {
	p := "/client/v4/zones/" + url.PathEscape(z.id) + "/dns_records"
	if record != "" {
		p += "/" + url.PathEscape(record)
	}
	return p
}

func (d *cloudflare) list(ctx context.Context, op string, s recordSet) ([]record, error) {
	var out cloudflareAnswer[[]cloudflareRecord]
	err := d.json(ctx, call{op: op, method: http.MethodGet, path: d.path(s.zone, ""),
		query: url.Values{"type": {s.typ}, "name": {s.name}, "per_page": {"100"}}}, nil, &out)
	var list []record
	for _, r := range out.Result {
		if r.Type == s.typ && r.ID != "" {
			list = append(list, record{r.ID, unquote(r.Content), r.TTL})
		}
	}
	return list, err
}

func (d *cloudflare) write(ctx context.Context, op string, s recordSet, have []record, want []string) error {
	return edit(ctx, d, op, s, have, want)
}

// create makes a record that is not proxied.
func (d *cloudflare) create(ctx context.Context, op string, s recordSet, value string) error {
	return d.json(ctx, call{op: op, method: http.MethodPost, path: d.path(s.zone, "")},
		cloudflareRecord{Type: s.typ, Name: s.name, Content: s.quoted(value), TTL: cloudflareTTL}, nil)
}

// replace leaves the record its TTL and whether it is proxied.
func (d *cloudflare) replace(ctx context.Context, op string, s recordSet, id, value string) error {
	return d.json(ctx, call{op: op, method: http.MethodPatch, path: d.path(s.zone, id)},
		cloudflareRecord{Type: s.typ, Name: s.name, Content: s.quoted(value)}, nil)
}

func (d *cloudflare) remove(ctx context.Context, op string, s recordSet, id string) error {
	return d.json(ctx, call{op: op, method: http.MethodDelete, path: d.path(s.zone, id)}, nil, nil)
}
