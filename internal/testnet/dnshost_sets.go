package testnet

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Hosts that keep sets of records as a whole: deSEC, Gandi and Hetzner.

type desecSet struct {
	Subname string   `json:"subname"`
	Type    string   `json:"type"`
	TTL     int      `json:"ttl"`
	Records []string `json:"records"`
}

// https://desec.readthedocs.io/en/latest/dns/rrsets.html
func (h *DNSHost) desec(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Token "+h.opt.Secret {
		reply(w, 401, `{"detail":"Invalid token."}`)
		return
	}
	rrsets := "/api/v1/domains/" + h.opt.Zone + "/rrsets/"
	switch {
	case r.Method == "GET" && r.URL.Path == "/api/v1/domains/":
		if strings.HasSuffix(r.URL.Query().Get("owns_qname"), h.opt.Zone) {
			reply(w, 200, fmt.Sprintf(`[{"created":"2018-09-18T16:36:16.510368Z","minimum_ttl":3600,"name":%q}]`, h.opt.Zone))
		} else {
			reply(w, 200, `[]`)
		}
	case r.Method == "GET" && strings.HasPrefix(r.URL.Path, rrsets) && strings.HasSuffix(r.URL.Path, "/"):
		sub, typ, _ := strings.Cut(strings.Trim(strings.TrimPrefix(r.URL.Path, rrsets), "/"), "/")
		have := h.Get(h.full(sub), typ)
		if len(have) == 0 {
			reply(w, 404, `{"detail":"Not found."}`)
			return
		}
		for i := range have {
			have[i] = quoted(typ, have[i])
		}
		replyJSON(w, desecSet{sub, typ, 3600, have})
	case r.Method == "PATCH" && r.URL.Path == rrsets:
		h.desecPatch(w, r)
	default:
		h.unexpected(w, r)
	}
}

func (h *DNSHost) desecPatch(w http.ResponseWriter, r *http.Request) {
	var sets []desecSet
	if err := json.NewDecoder(r.Body).Decode(&sets); err != nil || len(sets) == 0 {
		reply(w, 400, `{"non_field_errors":["Expected a list of items."]}`)
		return
	}
	for _, s := range sets {
		if s.TTL < 3600 {
			reply(w, 400, `[{"ttl":["Ensure this value is greater than or equal to 3600."]}]`)
			return
		}
		for i := range s.Records {
			if s.Type == "TXT" && !strings.HasPrefix(s.Records[i], `"`) {
				reply(w, 400, `[{"records":["Data for TXT records must be given using quotation marks."]}]`)
				return
			}
			s.Records[i] = unquoted(s.Type, s.Records[i])
		}
		h.Set(h.full(s.Subname), s.Type, s.Records...)
	}
	reply(w, 200, `[]`)
}

type gandiSet struct {
	TTL    int      `json:"rrset_ttl"`
	Values []string `json:"rrset_values"`
}

// https://api.gandi.net/docs/livedns/
func (h *DNSHost) gandi(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+h.opt.Secret {
		reply(w, 403, `{"cause":"Forbidden","code":403,"message":"Access was denied to this resource.","object":"HTTPForbidden"}`)
		return
	}
	records := "/v5/livedns/domains/" + h.opt.Zone + "/records/"
	sub, typ, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, records), "/")
	name := h.full(sub)
	switch {
	case r.Method == "GET" && r.URL.Path == "/v5/livedns/domains":
		if r.URL.Query().Get("page") != "1" || r.URL.Query().Get("per_page") != "100" {
			h.unexpected(w, r)
			return
		}
		reply(w, 200, fmt.Sprintf(`[{"fqdn":%q,"domain_href":"x","domain_records_href":"y"}]`, h.opt.Zone))
	case typ == "" || !strings.HasPrefix(r.URL.Path, records):
		h.unexpected(w, r)
	case r.Method == "GET":
		have := h.Get(name, typ)
		if len(have) == 0 {
			reply(w, 404, `{"code":404,"message":"Can't find the DNS record","object":"dns-record","cause":"Not Found"}`)
			return
		}
		for i := range have {
			have[i] = quoted(typ, have[i])
		}
		replyJSON(w, gandiSet{10800, have})
	case r.Method == "PUT":
		var in gandiSet
		if json.NewDecoder(r.Body).Decode(&in) != nil || in.TTL < 300 || len(in.Values) == 0 {
			reply(w, 400, `{"status":"error","errors":[{"location":"body","name":"rrset_ttl","description":"300 is the minimum"}]}`)
			return
		}
		for i := range in.Values {
			in.Values[i] = unquoted(typ, in.Values[i])
		}
		h.Set(name, typ, in.Values...)
		reply(w, 201, `{"message":"DNS Record Created"}`)
	case r.Method == "DELETE":
		h.Set(name, typ)
		w.WriteHeader(http.StatusNoContent)
	default:
		h.unexpected(w, r)
	}
}

type hetznerSet struct {
	TTL     int `json:"ttl,omitempty"`
	Records []struct {
		Value string `json:"value"`
	} `json:"records"`
}

// https://docs.hetzner.cloud/reference/cloud#dns
func (h *DNSHost) hetzner(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+h.opt.Secret {
		reply(w, 401, `{"error":{"code":"unauthorized","message":"the token you provided is invalid","details":null}}`)
		return
	}
	const missing = `{"error":{"code":"not_found","message":"not found","details":null}}`
	const sets = "/v1/zones/42/rrsets/"
	p := strings.Split(strings.TrimPrefix(r.URL.Path, sets), "/")
	switch {
	case r.Method == "GET" && r.URL.Path == "/v1/zones/"+h.opt.Zone:
		reply(w, 200, fmt.Sprintf(`{"zone":{"id":42,"name":%q,"mode":"primary","ttl":3600}}`, h.opt.Zone))
	case r.Method == "GET" && strings.HasPrefix(r.URL.Path, "/v1/zones/") && strings.Count(r.URL.Path, "/") == 3:
		reply(w, 404, missing)
	case !strings.HasPrefix(r.URL.Path, sets) || len(p) < 2:
		h.unexpected(w, r)
	case r.Method == "GET" && len(p) == 2:
		have := h.Get(h.full(p[0]), p[1])
		if len(have) == 0 {
			reply(w, 404, missing)
			return
		}
		out := []map[string]string{}
		for _, v := range have {
			out = append(out, map[string]string{"value": quoted(p[1], v)})
		}
		replyJSON(w, map[string]any{"rrset": map[string]any{"ttl": 60, "records": out}})
	case r.Method == "POST" && len(p) == 4 && p[2] == "actions":
		h.hetznerAction(w, r, h.full(p[0]), p[1], p[3])
	default:
		h.unexpected(w, r)
	}
}

func (h *DNSHost) hetznerAction(w http.ResponseWriter, r *http.Request, name, typ, what string) {
	var in hetznerSet
	var values []string
	bad := json.NewDecoder(r.Body).Decode(&in) != nil || len(in.Records) == 0
	for _, x := range in.Records {
		bad = bad || typ == "TXT" && !strings.HasPrefix(x.Value, `"`)
		values = append(values, unquoted(typ, x.Value))
	}
	have := h.Get(name, typ)
	switch {
	case bad:
		reply(w, 422, `{"error":{"code":"invalid_input","message":"invalid input in field 'records'","details":{"fields":[{"name":"records","messages":["TXT values must be quoted"]}]}}}`)
		return
	case what == "add_records":
		h.Set(name, typ, append(have, values...)...)
	case what == "remove_records":
		h.Set(name, typ, slices.DeleteFunc(have, func(v string) bool { return slices.Contains(values, v) })...)
	case what == "set_records" && len(have) > 0:
		h.Set(name, typ, values...)
	default:
		h.unexpected(w, r)
		return
	}
	reply(w, 201, `{"action":{"id":1,"command":"`+what+`","status":"running","progress":50,"error":null}}`)
}
