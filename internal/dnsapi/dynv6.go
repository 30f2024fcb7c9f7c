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
type dynv6 struct {
	*api
	token string
}

func newDynv6(s Settings) (Provider, error) {
	a, err := newAPI("dynv6", "https://dynv6.com", s.Endpoint, s.Token)
	if err != nil {
		return nil, err
	}
	a.sign = bearer(s.Token)
	return &dynv6{a, s.Token}, nil
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

// AddTXT implements TXT.
func (d *dynv6) AddTXT(ctx context.Context, name, value string) error {
	name = canonical(name)
	z, err := d.zones.find(ctx, name, d.look)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	op := "add TXT to " + name
	have, err := d.values(ctx, op, name, z, value)
	if err != nil || len(have) > 0 {
		return err
	}
	return d.json(ctx, call{op: op, method: http.MethodPost, path: d.path(z)},
		dynv6Record{Type: "TXT", Name: relative(name, z.name), Data: value}, nil)
}

// RemoveTXT implements TXT.
func (d *dynv6) RemoveTXT(ctx context.Context, name, value string) error {
	name = canonical(name)
	z, err := d.zones.find(ctx, name, d.look)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	op := "remove TXT from " + name
	have, err := d.values(ctx, op, name, z, value)
	if err != nil {
		return err
	}
	for _, id := range have {
		err := d.json(ctx, call{op: op, method: http.MethodDelete, path: d.path(z) + "/" + strconv.FormatInt(id, 10)}, nil, nil)
		if err != nil && !notFound(err) {
			return err
		}
	}
	return nil
}

// values are the records of name that hold value.
func (d *dynv6) values(ctx context.Context, op, name string, z zone, value string) ([]int64, error) {
	var list []dynv6Record
	if err := d.json(ctx, call{op: op, method: http.MethodGet, path: d.path(z)}, nil, &list); err != nil {
		if notFound(err) {
			d.zones.forget(name)
		}
		return nil, err
	}
	var out []int64
	for _, r := range list {
		full := canonical(r.Name)
		if r.Type == "TXT" && (full == relative(name, z.name) || full == name) && unquote(r.Data) == value {
			out = append(out, r.ID)
		}
	}
	return out, nil
}

// SetAddrs implements Addrs, for a zone as a whole.
func (d *dynv6) SetAddrs(ctx context.Context, name string, v4, v6 netip.Addr) error {
	name = canonical(name)
	q := url.Values{"zone": {name}, "token": {d.token}}
	if v4.IsValid() {
		q.Set("ipv4", v4.String())
	}
	if v6.IsValid() {
		q.Set("ipv6", v6.String())
	}
	if len(q) == 2 {
		return nil
	}
	op := "set addresses of " + name
	got, err := d.do(ctx, call{op: op, method: http.MethodGet, path: "/api/update", query: q, plain: true})
	if err != nil {
		return err
	}
	if got.status == http.StatusNotFound && !isHTML(got.header, got.body) { // a plain text
		return &Error{Provider: d.provider, Op: op, Kind: ErrRejected, Status: got.status, Means: "there is no such zone"}
	}
	return d.judge(op, got)
}
