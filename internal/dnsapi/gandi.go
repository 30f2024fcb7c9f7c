package dnsapi

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
)

// gandi follows https://api.gandi.net/docs/livedns/: record sets as JSON,
// written as a whole. The token is a personal access token.
type gandi struct{ *api }

func newGandi(s Settings) (Provider, error) {
	a, err := newAPI("gandi", "https://api.gandi.net", s.Endpoint, s.Token)
	if err != nil {
		return nil, err
	}
	a.sign = bearer(s.Token)
	return &gandi{a}, nil
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

// AddTXT implements TXT.
func (d *gandi) AddTXT(ctx context.Context, name, value string) error {
	return d.edit(ctx, "add TXT to "+name, canonical(name), func(have []string) []string {
		if slices.ContainsFunc(have, func(s string) bool { return unquote(s) == value }) {
			return have
		}
		return append(have, quote(value))
	})
}

// RemoveTXT implements TXT.
func (d *gandi) RemoveTXT(ctx context.Context, name, value string) error {
	return d.edit(ctx, "remove TXT from "+name, canonical(name), func(have []string) []string {
		return slices.DeleteFunc(have, func(s string) bool { return unquote(s) == value })
	})
}

func (d *gandi) edit(ctx context.Context, op, name string, change func([]string) []string) error {
	z, err := d.zones.find(ctx, name, d.look)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	path := "/v5/livedns/domains/" + url.PathEscape(z.name) + "/records/" + url.PathEscape(orAt(relative(name, z.name))) + "/TXT"
	var set gandiSet
	err = d.json(ctx, call{op: op, method: http.MethodGet, path: path}, nil, &set)
	if err != nil && !notFound(err) {
		return err
	}
	next := change(slices.Clone(set.Values))
	switch {
	case slices.Equal(next, set.Values):
		return nil
	case len(next) == 0:
		err = d.json(ctx, call{op: op, method: http.MethodDelete, path: path}, nil, nil)
		if notFound(err) {
			return nil
		}
		return err
	}
	err = d.json(ctx, call{op: op, method: http.MethodPut, path: path}, gandiSet{TTL: max(set.TTL, gandiTTL), Values: next}, nil)
	if notFound(err) {
		d.zones.forget(name)
	}
	return err
}
