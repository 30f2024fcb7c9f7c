package dnsapi

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
)

// dynv6 follows https://dynv6.github.io/api-spec/ for records, and the update
// API of https://dynv6.com/docs/apis for addresses.
type dynv6 struct{ *api }

func newDynv6(s Settings) (named, error) {
	a, err := newAPI("dynv6", "https://dynv6.com", s.Endpoint, s.Token)
	if err != nil {
		return nil, err
	}
	a.sign = bearer(s.Token)
	return &dynv6Zone{&sets{a, &dynv6{a}}, s.Token}, nil
}

type dynv6Record struct {
	ID   int64  `json:"id,omitempty"`
	Type string `json:"type"`
	Name string `json:"name"`
	Data string `json:"data"`
}

// look lists the zones the token may change: they lie below many suffixes, and
// custom domains are zones too.
func (d *dynv6) look(ctx context.Context, name string) (zone, error) {
	var list []struct {
		ID   int64  `json:"id"`
		Name string `json:"name"`
	}
	c := call{op: "find the zone of " + name, method: http.MethodGet, path: "/api/v2/zones"}
	if err := d.json(ctx, c, nil, &list); err != nil {
		return zone{}, err
	}
	var best zone
	for _, x := range list {
		if z := canonical(x.Name); z != "" && within(name, z) && len(z) > len(best.name) {
			best = zone{name: z, id: strconv.FormatInt(x.ID, 10)}
		}
	}
	if best.name == "" {
		return best, d.rejected(c.op, "the token may change no zone that holds the name")
	}
	return best, nil
}

func (d *dynv6) path(z zone) string { return "/api/v2/zones/" + url.PathEscape(z.id) + "/records" }

func (d *dynv6) list(ctx context.Context, op string, s recordSet) ([]record, error) {
	var out []dynv6Record
	err := d.json(ctx, call{op: op, method: http.MethodGet, path: d.path(s.zone)}, nil, &out)
	var list []record
	for _, r := range out {
		full := canonical(r.Name)
		if r.Type == s.typ && (full == s.rel() || full == s.name) {
			list = append(list, record{id: strconv.FormatInt(r.ID, 10), value: unquote(r.Data)})
		}
	}
	return list, err
}

func (d *dynv6) write(ctx context.Context, op string, s recordSet, have []record, want []string) error {
	return edit(ctx, d, op, s, have, want)
}

func (d *dynv6) create(ctx context.Context, op string, s recordSet, value string) error {
	return d.json(ctx, call{op: op, method: http.MethodPost, path: d.path(s.zone)}, dynv6Record{Type: s.typ, Name: s.rel(), Data: value}, nil)
}

func (d *dynv6) replace(ctx context.Context, op string, s recordSet, id, value string) error {
	return d.json(ctx, call{op: op, method: http.MethodPatch, path: d.path(s.zone) + "/" + url.PathEscape(id)},
		dynv6Record{Type: s.typ, Name: s.rel(), Data: value}, nil)
}

func (d *dynv6) remove(ctx context.Context, op string, s recordSet, id string) error {
	return d.json(ctx, call{op: op, method: http.MethodDelete, path: d.path(s.zone) + "/" + url.PathEscape(id)}, nil, nil)
}

// dynv6Zone is the client: a zone's own addresses are no records of it but go
// through the update API.
type dynv6Zone struct {
	*sets
	token string
}

// SetAddrs implements Addrs.
func (d *dynv6Zone) SetAddrs(ctx context.Context, name string, v4, v6 netip.Addr) error {
	q := url.Values{}
	if v4.IsValid() {
		q.Set("ipv4", v4.String())
	}
	if v6.IsValid() {
		q.Set("ipv6", v6.String())
	}
	if len(q) == 0 {
		return nil
	}
	own, err := d.isZone(ctx, name)
	switch {
	case err != nil:
		return err
	case !own:
		return d.sets.SetAddrs(ctx, name, v4, v6)
	}
	return d.update(ctx, "set addresses of "+name, name, q)
}

// ClearV6 implements Addrs. The update API documents "-" for taking away the
// IPv4 address and the prefix, and takes it for the IPv6 address alike.
func (d *dynv6Zone) ClearV6(ctx context.Context, name string, v4, v6 netip.Addr) error {
	own, err := d.isZone(ctx, name)
	switch {
	case err != nil:
		return err
	case !own:
		return d.sets.ClearV6(ctx, name, v4, v6)
	}
	return d.update(ctx, "clear the IPv6 address of "+name, name, url.Values{"ipv6": {"-"}})
}

func (d *dynv6Zone) isZone(ctx context.Context, name string) (bool, error) {
	name = canonical(name)
	z, err := d.zones.find(ctx, name, d.host.look)
	return z.name == name, err
}

func (d *dynv6Zone) update(ctx context.Context, op, name string, q url.Values) error {
	q.Set("zone", canonical(name))
	q.Set("token", d.token)
	got, err := d.do(ctx, call{op: op, method: http.MethodGet, path: "/api/update", query: q, plain: true})
	if err != nil {
		return err
	}
	if got.status == http.StatusNotFound && !isHTML(got.header, got.body) { // a plain text
		d.zones.forget(canonical(name))
		return &Error{Provider: d.provider, Op: op, Kind: ErrRejected, Status: got.status, Means: "there is no such zone"}
	}
	return d.judge(op, got)
}
