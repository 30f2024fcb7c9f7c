package dnsapi

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// hetzner follows https://docs.hetzner.cloud/reference/cloud#dns: the DNS of
// the Cloud API. The older one at dns.hetzner.com is no more.
type hetzner struct{ *api }

func newHetzner(s Settings) (Provider, error) {
	a, err := newAPI("hetzner", "https://api.hetzner.cloud", s.Endpoint, s.Token)
	if err != nil {
		return nil, err
	}
	a.sign = bearer(s.Token)
	return &hetzner{a}, nil
}

type hetznerRecord struct {
	Value string `json:"value"`
}

type hetznerRecords struct {
	TTL     int             `json:"ttl,omitempty"`
	Records []hetznerRecord `json:"records"`
}

// hetznerAction is what a change answers with; it is carried out afterwards.
type hetznerAction struct {
	Action struct {
		Status string `json:"status"` // running, success or error
		Error  struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	} `json:"action"`
}

const hetznerTTL = 60 // the lowest

// look asks for each name above whether it is a zone of the project.
func (d *hetzner) look(ctx context.Context, name string) (zone, error) {
	op := "find the zone of " + name
	for _, n := range ancestors(name) {
		var out struct {
			Zone struct {
				ID   int64  `json:"id"`
				Name string `json:"name"`
			} `json:"zone"`
		}
		err := d.json(ctx, call{op: op, method: http.MethodGet, path: "/v1/zones/" + url.PathEscape(n)}, nil, &out)
		switch {
		case notFound(err):
			continue
		case err != nil:
			return zone{}, err
		case canonical(out.Zone.Name) == n:
			return zone{name: n, id: strconv.FormatInt(out.Zone.ID, 10)}, nil
		}
	}
	return zone{}, d.rejected(op, "no zone of the token's project holds the name")
}

// AddTXT implements TXT.
func (d *hetzner) AddTXT(ctx context.Context, name, value string) error {
	name = canonical(name)
	op := "add TXT to " + name
	z, err := d.zones.find(ctx, name, d.look)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	have, err := d.holds(ctx, op, name, z, value)
	if err != nil || have {
		return err
	}
	return d.act(ctx, op, name, z, "add_records", hetznerRecords{TTL: hetznerTTL, Records: []hetznerRecord{{quote(value)}}})
}

// RemoveTXT implements TXT.
func (d *hetzner) RemoveTXT(ctx context.Context, name, value string) error {
	name = canonical(name)
	op := "remove TXT from " + name
	z, err := d.zones.find(ctx, name, d.look)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	have, err := d.holds(ctx, op, name, z, value)
	if err != nil || !have {
		return err
	}
	err = d.act(ctx, op, name, z, "remove_records", hetznerRecords{Records: []hetznerRecord{{quote(value)}}})
	if notFound(err) {
		return nil
	}
	return err
}

func (d *hetzner) path(name string, z zone) string {
	return "/v1/zones/" + url.PathEscape(z.id) + "/rrsets/" + url.PathEscape(orAt(relative(name, z.name))) + "/TXT"
}

// holds reports whether name has value.
func (d *hetzner) holds(ctx context.Context, op, name string, z zone, value string) (bool, error) {
	var out struct {
		RRSet hetznerRecords `json:"rrset"`
	}
	err := d.json(ctx, call{op: op, method: http.MethodGet, path: d.path(name, z)}, nil, &out)
	if notFound(err) {
		return false, nil
	}
	for _, r := range out.RRSet.Records {
		if unquote(r.Value) == value {
			return true, err
		}
	}
	return false, err
}

func (d *hetzner) act(ctx context.Context, op, name string, z zone, what string, in hetznerRecords) error {
	var out hetznerAction
	err := d.json(ctx, call{op: op, method: http.MethodPost, path: d.path(name, z) + "/actions/" + what}, in, &out)
	if notFound(err) {
		d.zones.forget(name)
	}
	if err == nil && out.Action.Status == "error" {
		e := out.Action.Error
		return &Error{Provider: d.provider, Op: op, Kind: ErrRejected, Detail: clean(e.Code+": "+e.Message, d.secrets)}
	}
	return err
}
