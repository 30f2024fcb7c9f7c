package dnsapi

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// porkbun follows https://porkbun.com/api/json/v3/documentation: POST only,
// the keys in the body, and "status":"ERROR" as well as an HTTP status for
// what went wrong.
type porkbun struct {
	*api
	key, secret string
}

func newPorkbun(s Settings) (named, error) {
	a, err := newAPI("porkbun", "https://api.porkbun.com", s.Endpoint, s.Secret, s.Key)
	if err != nil {
		return nil, err
	}
	return &sets{a, &porkbun{a, s.Key, s.Secret}}, nil
}

type porkbunIn struct {
	APIKey  string `json:"apikey"`
	Secret  string `json:"secretapikey"`
	Start   string `json:"start,omitempty"`
	Name    string `json:"name,omitempty"`
	Type    string `json:"type,omitempty"`
	Content string `json:"content,omitempty"`
	TTL     string `json:"ttl,omitempty"`
}

type porkbunOut struct {
	Status  string `json:"status"`
	Message string `json:"message"`
	Domains []struct {
		Domain string `json:"domain"`
	} `json:"domains"`
	Records []struct {
		ID      json.RawMessage `json:"id"` // a text, in older answers a number
		Type    string          `json:"type"`
		Content string          `json:"content"`
	} `json:"records"`
}

// porkbunPage is how many domains one answer of listAll holds.
const porkbunPage = 1000

const porkbunTTL = "600" // the lowest

func (d *porkbun) post(ctx context.Context, op, path string, in porkbunIn) (porkbunOut, error) {
	in.APIKey, in.Secret = d.key, d.secret
	var out porkbunOut
	if err := d.json(ctx, call{op: op, method: http.MethodPost, path: "/api/json/v3" + path}, in, &out); err != nil {
		return out, err
	}
	if out.Status != "SUCCESS" {
		return out, &Error{Provider: d.provider, Op: op, Kind: ErrRejected, Status: http.StatusOK, Detail: clean(out.Message, d.secrets)}
	}
	return out, nil
}

// look lists the account's domains.
func (d *porkbun) look(ctx context.Context, name string) (zone, error) {
	op := "find the domain of " + name
	var all []string
	for page := range maxPages {
		out, err := d.post(ctx, op, "/domain/listAll", porkbunIn{Start: strconv.Itoa(page * porkbunPage)})
		if err != nil {
			return zone{}, err
		}
		for _, x := range out.Domains {
			all = append(all, x.Domain)
		}
		if len(out.Domains) < porkbunPage {
			break
		}
	}
	if z := nearest(name, all); z != "" {
		return zone{name: z}, nil
	}
	return zone{}, d.rejected(op, "no domain of this account holds the name")
}

func (d *porkbun) list(ctx context.Context, op string, s recordSet) ([]record, error) {
	path := "/dns/retrieveByNameType/" + url.PathEscape(s.zone.name) + "/" + s.typ
	if rel := s.rel(); rel != "" {
		path += "/" + url.PathEscape(rel)
	}
	out, err := d.post(ctx, op, path, porkbunIn{})
	var list []record
	for _, r := range out.Records {
		list = append(list, record{id: strings.Trim(string(r.ID), `"`), value: unquote(r.Content)})
	}
	return list, err
}

func (d *porkbun) write(ctx context.Context, op string, s recordSet, have []record, want []string) error {
	return edit(ctx, d, op, s, have, want)
}

func (d *porkbun) create(ctx context.Context, op string, s recordSet, value string) error {
	_, err := d.post(ctx, op, "/dns/create/"+url.PathEscape(s.zone.name), porkbunIn{Name: s.rel(), Type: s.typ, Content: value, TTL: porkbunTTL})
	return err
}

func (d *porkbun) replace(ctx context.Context, op string, s recordSet, id, value string) error {
	path := "/dns/edit/" + url.PathEscape(s.zone.name) + "/" + url.PathEscape(id)
	_, err := d.post(ctx, op, path, porkbunIn{Name: s.rel(), Type: s.typ, Content: value, TTL: porkbunTTL})
	return err
}

func (d *porkbun) remove(ctx context.Context, op string, s recordSet, id string) error {
	_, err := d.post(ctx, op, "/dns/delete/"+url.PathEscape(s.zone.name)+"/"+url.PathEscape(id), porkbunIn{})
	return err
}
