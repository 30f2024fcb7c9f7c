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

func newHetzner(s Settings) (named, error) {
	a, err := newAPI("hetzner", "https://api.hetzner.cloud", s.Endpoint, s.Token)
	if err != nil {
		return nil, err
	}
	a.sign = bearer(s.Token)
	return &sets{a, &hetzner{a}}, nil
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

func (d *hetzner) path(s recordSet) string {
	return "/v1/zones/" + url.PathEscape(s.zone.id) + "/rrsets/" + url.PathEscape(orAt(s.rel())) + "/" + s.typ
}

func (d *hetzner) list(ctx context.Context, op string, s recordSet) ([]record, error) {
	var out struct {
		RRSet hetznerRecords `json:"rrset"`
	}
	err := d.json(ctx, call{op: op, method: http.MethodGet, path: d.path(s)}, nil, &out)
	if notFound(err) {
		return nil, nil
	}
	var list []record
	for _, r := range out.RRSet.Records {
		list = append(list, record{value: unquote(r.Value), ttl: out.RRSet.TTL})
	}
	return list, err
}

// write adds or removes what differs, so that what somebody else adds at the
// same time stays; only a set whose values become others is sent as a whole.
func (d *hetzner) write(ctx context.Context, op string, s recordSet, have []record, want []string) error {
	added, gone := difference(have, want)
	what, in := "set_records", hetznerRecords{}
	switch {
	case len(gone) == 0:
		what, in.TTL, want = "add_records", hetznerTTL, added
	case len(added) == 0:
		what, want = "remove_records", values(gone)
	}
	for _, v := range want {
		in.Records = append(in.Records, hetznerRecord{s.quoted(v)})
	}
	err := d.act(ctx, op, d.path(s)+"/actions/"+what, in)
	if what == "remove_records" && notFound(err) {
		return nil
	}
	return err
}

func (d *hetzner) act(ctx context.Context, op, path string, in hetznerRecords) error {
	var out hetznerAction
	err := d.json(ctx, call{op: op, method: http.MethodPost, path: path}, in, &out)
	if err == nil && out.Action.Status == "error" {
		e := out.Action.Error
		return &Error{Provider: d.provider, Op: op, Kind: ErrRejected, Detail: clean(e.Code+": "+e.Message, d.secrets)}
	}
	return err
}
