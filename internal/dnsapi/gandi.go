package dnsapi

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// gandi follows https://api.gandi.net/docs/livedns/: record sets as JSON,
// written as a whole. The token is a personal access token.
type gandi struct{ *api }

func newGandi(s Settings) (named, error) {
	a, err := newAPI("gandi", "https://api.gandi.net", s.Endpoint, s.Token)
	if err != nil {
		return nil, err
	}
	a.sign = bearer(s.Token)
	return &sets{a, &gandi{a}}, nil
}

type gandiSet struct {
	TTL    int      `json:"rrset_ttl"`
	Values []string `json:"rrset_values"`
}

const (
	gandiTTL  = 300 // the lowest
	gandiPage = 100
)

// look lists the domains the token sees. Asking for one that it does not see
// would be answered with 403, as a wrong token is.
func (d *gandi) look(ctx context.Context, name string) (zone, error) {
	op := "find the domain of " + name
	var all []string
	for page := range maxPages {
		var list []struct {
			FQDN string `json:"fqdn"`
		}
		q := url.Values{"page": {strconv.Itoa(page + 1)}, "per_page": {strconv.Itoa(gandiPage)}}
		if err := d.json(ctx, call{op: op, method: http.MethodGet, path: "/v5/livedns/domains", query: q}, nil, &list); err != nil {
			return zone{}, err
		}
		for _, x := range list {
			all = append(all, x.FQDN)
		}
		if len(list) < gandiPage {
			break
		}
	}
	if z := nearest(name, all); z != "" {
		return zone{name: z}, nil
	}
	return zone{}, d.rejected(op, "the token sees no domain that holds the name")
}

func (d *gandi) path(s recordSet) string {
	return "/v5/livedns/domains/" + url.PathEscape(s.zone.name) + "/records/" + url.PathEscape(orAt(s.rel())) + "/" + s.typ
}

func (d *gandi) list(ctx context.Context, op string, s recordSet) ([]record, error) {
	var set gandiSet
	err := d.json(ctx, call{op: op, method: http.MethodGet, path: d.path(s)}, nil, &set)
	if notFound(err) {
		return nil, nil
	}
	var list []record
	for _, v := range set.Values {
		list = append(list, record{value: unquote(v), ttl: set.TTL})
	}
	return list, err
}

func (d *gandi) write(ctx context.Context, op string, s recordSet, have []record, want []string) error {
	if len(want) == 0 {
		err := d.json(ctx, call{op: op, method: http.MethodDelete, path: d.path(s)}, nil, nil)
		if notFound(err) {
			return nil
		}
		return err
	}
	set := gandiSet{TTL: gandiTTL}
	if len(have) > 0 {
		set.TTL = max(set.TTL, have[0].ttl)
	}
	for _, v := range want {
		set.Values = append(set.Values, s.quoted(v))
	}
	return d.json(ctx, call{op: op, method: http.MethodPut, path: d.path(s)}, set, nil)
}
