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

func newPorkbun(s Settings) (Provider, error) {
	a, err := newAPI("porkbun", "https://api.porkbun.com", s.Endpoint, s.Secret, s.Key)
	if err != nil {
		return nil, err
	}
	return &porkbun{a, s.Key, s.Secret}, nil
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

// AddTXT implements TXT.
func (d *porkbun) AddTXT(ctx context.Context, name, value string) error {
	name = canonical(name)
	op := "add TXT to " + name
	z, err := d.zones.find(ctx, name, d.look)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	ids, err := d.values(ctx, op, name, z, value)
	if err != nil || len(ids) > 0 {
		return err
	}
	_, err = d.post(ctx, op, "/dns/create/"+url.PathEscape(z.name),
		porkbunIn{Name: relative(name, z.name), Type: "TXT", Content: value, TTL: "600"}) // 600 is the lowest
	return err
}

// RemoveTXT implements TXT.
func (d *porkbun) RemoveTXT(ctx context.Context, name, value string) error {
	name = canonical(name)
	op := "remove TXT from " + name
	z, err := d.zones.find(ctx, name, d.look)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	ids, err := d.values(ctx, op, name, z, value)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if _, err := d.post(ctx, op, "/dns/delete/"+url.PathEscape(z.name)+"/"+url.PathEscape(id), porkbunIn{}); err != nil {
			return err
		}
	}
	return nil
}

// values are the records of name that hold value.
func (d *porkbun) values(ctx context.Context, op, name string, z zone, value string) ([]string, error) {
	path := "/dns/retrieveByNameType/" + url.PathEscape(z.name) + "/TXT"
	if rel := relative(name, z.name); rel != "" {
		path += "/" + url.PathEscape(rel)
	}
	out, err := d.post(ctx, op, path, porkbunIn{})
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, r := range out.Records {
		if unquote(r.Content) == value {
			ids = append(ids, strings.Trim(string(r.ID), `"`))
		}
	}
	return ids, nil
}
