package dnsapi

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
)

// cloudflare follows https://developers.cloudflare.com/api/resources/zones/
// and …/resources/dns/subresources/records/. The token needs Zone:Read and
// DNS:Edit of the zone.
type cloudflare struct{ *api }

func newCloudflare(s Settings) (Provider, error) {
	a, err := newAPI("cloudflare", "https://api.cloudflare.com", s.Endpoint, s.Token)
	if err != nil {
		return nil, err
	}
	a.sign = bearer(s.Token)
	return &cloudflare{a}, nil
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

func (d *cloudflare) records(ctx context.Context, op string, z zone, typ, name string) ([]cloudflareRecord, error) {
	var list cloudflareAnswer[[]cloudflareRecord]
	err := d.json(ctx, call{op: op, method: http.MethodGet, path: d.path(z, ""),
		query: url.Values{"type": {typ}, "name": {name}, "per_page": {"100"}}}, nil, &list)
	if notFound(err) {
		d.zones.forget(name)
	}
	return list.Result, err
}

func (d *cloudflare) path(z zone, record string) string {
	p := "/client/v4/zones/" + url.PathEscape(z.id) + "/dns_records"
	if record != "" {
		p += "/" + url.PathEscape(record)
	}
	return p
}

// AddTXT implements TXT.
func (d *cloudflare) AddTXT(ctx context.Context, name, value string) error {
	name = canonical(name)
	op := "add TXT to " + name
	z, err := d.zones.find(ctx, name, d.look)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	have, err := d.records(ctx, op, z, "TXT", name)
	if err != nil {
		return err
	}
	for _, r := range have {
		if unquote(r.Content) == value {
			return nil
		}
	}
	return d.json(ctx, call{op: op, method: http.MethodPost, path: d.path(z, "")},
		cloudflareRecord{Type: "TXT", Name: name, Content: quote(value), TTL: cloudflareTTL}, nil)
}

// RemoveTXT implements TXT.
func (d *cloudflare) RemoveTXT(ctx context.Context, name, value string) error {
	name = canonical(name)
	op := "remove TXT from " + name
	z, err := d.zones.find(ctx, name, d.look)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	have, err := d.records(ctx, op, z, "TXT", name)
	if err != nil {
		return err
	}
	for _, r := range have {
		if unquote(r.Content) != value || r.Type != "TXT" || r.ID == "" {
			continue
		}
		if err := d.drop(ctx, op, z, r.ID); err != nil {
			return err
		}
	}
	return nil
}

func (d *cloudflare) drop(ctx context.Context, op string, z zone, id string) error {
	err := d.json(ctx, call{op: op, method: http.MethodDelete, path: d.path(z, id)}, nil, nil)
	if notFound(err) {
		return nil
	}
	return err
}

// SetAddrs implements Addrs. A record that is there keeps its TTL and whether
// it is proxied; a new one is not proxied.
func (d *cloudflare) SetAddrs(ctx context.Context, name string, v4, v6 netip.Addr) error {
	name = canonical(name)
	op := "set addresses of " + name
	z, err := d.zones.find(ctx, name, d.look)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, x := range []struct {
		typ  string
		addr netip.Addr
	}{{"A", v4}, {"AAAA", v6}} {
		if !x.addr.IsValid() {
			continue
		}
		if err := d.setAddr(ctx, op, z, cloudflareRecord{Type: x.typ, Name: name, Content: x.addr.String()}); err != nil {
			return err
		}
	}
	return nil
}

func (d *cloudflare) setAddr(ctx context.Context, op string, z zone, want cloudflareRecord) error {
	have, err := d.records(ctx, op, z, want.Type, want.Name)
	if err != nil {
		return err
	}
	if len(have) == 0 {
		want.TTL = cloudflareTTL
		return d.json(ctx, call{op: op, method: http.MethodPost, path: d.path(z, "")}, want, nil)
	}
	if have[0].Content != want.Content {
		if err := d.json(ctx, call{op: op, method: http.MethodPatch, path: d.path(z, have[0].ID)}, want, nil); err != nil {
			return err
		}
	}
	for _, r := range have[1:] {
		if err := d.drop(ctx, op, z, r.ID); err != nil {
			return err
		}
	}
	return nil
}
