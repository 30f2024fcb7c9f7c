package testnet

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
)

// Hosts whose records have ids (Cloudflare, DigitalOcean, Porkbun), and Route
// 53, whose calls are signed.

type cloudflareRecord struct {
	ID      string `json:"id,omitempty"`
	Type    string `json:"type"`
	Name    string `json:"name"`
	Content string `json:"content"`
	TTL     int    `json:"ttl,omitempty"`
}

// https://developers.cloudflare.com/api/resources/dns/subresources/records/
func (h *DNSHost) cloudflare(w http.ResponseWriter, r *http.Request) {
	fail := func(status, code int, msg string) {
		reply(w, status, fmt.Sprintf(`{"success":false,"errors":[{"code":%d,"message":%q}],"messages":[],"result":null}`, code, msg))
	}
	if r.Header.Get("Authorization") != "Bearer "+h.opt.Secret {
		fail(403, 10000, "Authentication error")
		return
	}
	ok := func(result any) {
		replyJSON(w, map[string]any{"success": true, "errors": []string{}, "messages": []string{}, "result": result})
	}
	const records = "/client/v4/zones/023e105f4ecef8ad9ca31a8372d0c353/dns_records"
	q := r.URL.Query()
	var in cloudflareRecord
	if r.Method == "POST" || r.Method == "PATCH" {
		if json.NewDecoder(r.Body).Decode(&in) != nil || in.Type == "TXT" && !strings.HasPrefix(in.Content, `"`) {
			fail(400, 9207, "Content-type or content is wrong")
			return
		}
		in.Content = unquoted(in.Type, in.Content)
	}
	id, one := strings.CutPrefix(r.URL.Path, records+"/")
	switch {
	case r.Method == "GET" && r.URL.Path == "/client/v4/zones":
		if q.Get("name") == h.opt.Zone {
			ok([]map[string]string{{"id": "023e105f4ecef8ad9ca31a8372d0c353", "name": h.opt.Zone}})
		} else {
			ok([]string{})
		}
	case r.Method == "GET" && r.URL.Path == records:
		out := []cloudflareRecord{}
		for _, x := range h.list() {
			if x[1] == q.Get("name") && x[2] == q.Get("type") {
				out = append(out, cloudflareRecord{ID: x[0], Type: x[2], Name: x[1], Content: quoted(x[2], x[3]), TTL: 60})
			}
		}
		ok(out)
	case r.Method == "POST" && r.URL.Path == records:
		in.ID = h.add(in.Name, in.Type, in.Content)
		ok(in)
	case r.Method == "PATCH" && one && h.replace(id, in.Content):
		ok(in)
	case r.Method == "DELETE" && one:
		if !h.drop(id) {
			fail(404, 81044, "Record does not exist.")
			return
		}
		ok(map[string]string{"id": id})
	default:
		h.unexpected(w, r)
	}
}

// https://docs.digitalocean.com/reference/api/digitalocean/#tag/Domain-Records
func (h *DNSHost) digitalocean(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+h.opt.Secret {
		reply(w, 401, `{"id":"unauthorized","message":"Unable to authenticate you"}`)
		return
	}
	domain := "/v2/domains/" + h.opt.Zone
	id, one := strings.CutPrefix(r.URL.Path, domain+"/records/")
	q := r.URL.Query()
	var in struct {
		Type, Name, Data string
		TTL              int
	}
	if r.Method == "POST" || r.Method == "PATCH" {
		if json.NewDecoder(r.Body).Decode(&in) != nil || r.Method == "POST" && in.TTL < 30 {
			reply(w, 422, `{"id":"unprocessable_entity","message":"Ttl must be greater than 29"}`)
			return
		}
	}
	switch {
	case r.Method == "GET" && r.URL.Path == domain:
		reply(w, 200, fmt.Sprintf(`{"domain":{"name":%q,"ttl":1800,"zone_file":"…"}}`, h.opt.Zone))
	case r.Method == "GET" && strings.HasPrefix(r.URL.Path, "/v2/domains/") && strings.Count(r.URL.Path, "/") == 3:
		reply(w, 404, `{"id":"not_found","message":"The resource you requested could not be found."}`)
	case r.Method == "GET" && r.URL.Path == domain+"/records":
		out := []map[string]any{}
		for _, x := range h.list() {
			if x[1] == q.Get("name") && q.Get("type") == x[2] {
				var n int64
				_, _ = fmt.Sscan(x[0], &n)
				rel := h.rel(x[1])
				if rel == "" {
					rel = "@"
				}
				out = append(out, map[string]any{"id": n, "type": x[2], "name": rel, "data": x[3], "ttl": 30})
			}
		}
		replyJSON(w, map[string]any{"domain_records": out, "links": map[string]any{}, "meta": map[string]int{"total": len(out)}})
	case r.Method == "POST" && r.URL.Path == domain+"/records":
		reply(w, 201, `{"domain_record":{"id":`+h.add(h.full(in.Name), in.Type, in.Data)+`}}`)
	case r.Method == "PATCH" && one && h.replace(id, in.Data):
		reply(w, 200, `{"domain_record":{}}`)
	case r.Method == "DELETE" && one && h.drop(id):
		w.WriteHeader(http.StatusNoContent)
	default:
		h.unexpected(w, r)
	}
}

// https://porkbun.com/api/json/v3/documentation
func (h *DNSHost) porkbun(w http.ResponseWriter, r *http.Request) {
	var in struct {
		APIKey, SecretAPIKey, Start, Name, Type, Content, TTL string
	}
	if r.Method != "POST" || r.Header.Get("Content-Type") != "application/json" || json.NewDecoder(r.Body).Decode(&in) != nil {
		h.unexpected(w, r)
		return
	}
	if in.APIKey != h.opt.Key || in.SecretAPIKey != h.opt.Secret {
		reply(w, 400, `{"status":"ERROR","message":"Invalid API key. (002) `+in.SecretAPIKey+`"}`)
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/api/json/v3")
	retrieve, retrieving := strings.CutPrefix(path, "/dns/retrieveByNameType/"+h.opt.Zone+"/")
	edit, editing := strings.CutPrefix(path, "/dns/edit/"+h.opt.Zone+"/")
	gone, deleting := strings.CutPrefix(path, "/dns/delete/"+h.opt.Zone+"/")
	creating := path == "/dns/create/"+h.opt.Zone
	switch {
	case !ok:
		h.unexpected(w, r)
	case path == "/domain/listAll" && in.Start == "0":
		reply(w, 200, fmt.Sprintf(`{"status":"SUCCESS","domains":[{"domain":"example.net","status":"ACTIVE"},{"domain":%q,"status":"ACTIVE"}]}`, h.opt.Zone))
	case retrieving:
		typ, sub, _ := strings.Cut(retrieve, "/")
		records := []map[string]string{}
		for _, x := range h.list() {
			if x[1] == h.full(sub) && x[2] == typ {
				records = append(records, map[string]string{"id": x[0], "name": x[1], "type": x[2], "content": x[3], "ttl": "600", "prio": "0"})
			}
		}
		replyJSON(w, map[string]any{"status": "SUCCESS", "records": records})
	case (creating || editing) && (in.Type == "" || in.Content == "" || in.TTL != "600"):
		reply(w, 200, `{"status":"ERROR","message":"Create error: We were unable to create the DNS record."}`)
	case creating:
		reply(w, 200, `{"status":"SUCCESS","id":`+h.add(h.full(in.Name), in.Type, in.Content)+`}`)
	case editing && h.replace(edit, in.Content), deleting && h.drop(gone):
		reply(w, 200, `{"status":"SUCCESS"}`)
	default:
		h.unexpected(w, r)
	}
}

type route53Batch struct {
	Changes []struct {
		Action string   `xml:"Action"`
		Name   string   `xml:"ResourceRecordSet>Name"`
		Type   string   `xml:"ResourceRecordSet>Type"`
		TTL    int      `xml:"ResourceRecordSet>TTL"`
		Values []string `xml:"ResourceRecordSet>ResourceRecords>ResourceRecord>Value"`
	} `xml:"ChangeBatch>Changes>Change"`
}

// https://docs.aws.amazon.com/Route53/latest/APIReference/. The signature is
// verified from what arrived.
func (h *DNSHost) route53(w http.ResponseWriter, r *http.Request) {
	fail := func(status int, code, msg string) {
		w.Header().Set("Content-Type", "text/xml")
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `<?xml version="1.0"?><ErrorResponse xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>b25f48e8</RequestId></ErrorResponse>`, code, msg)
	}
	answer := func(root, s string) {
		w.Header().Set("Content-Type", "text/xml")
		_, _ = fmt.Fprintf(w, `<?xml version="1.0"?>`+"\n"+`<%s xmlns="https://route53.amazonaws.com/doc/2013-04-01/">%s</%s>`, root, s, root)
	}
	body, err := io.ReadAll(r.Body)
	account := &AWS{keys: map[string]AWSKey{h.opt.Key: {ID: h.opt.Key, Secret: h.opt.Secret}}}
	_, service, refused := account.verify(r, body)
	if err != nil || refused != nil || service != "route53" {
		fail(403, "SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided.")
		return
	}
	const set = "/2013-04-01/hostedzone/Z1D633PJN98FT9/rrset"
	switch q := r.URL.Query(); {
	case r.Method == "GET" && r.URL.Path == "/2013-04-01/hostedzonesbyname":
		// The list begins at dnsname, in the order of reversed labels.
		answer("ListHostedZonesByNameResponse", fmt.Sprintf(`<HostedZones>
<HostedZone><Id>/hostedzone/ZPRIVATE</Id><Name>%s.</Name><Config><PrivateZone>true</PrivateZone></Config></HostedZone>
<HostedZone><Id>/hostedzone/Z1D633PJN98FT9</Id><Name>%s.</Name><Config><PrivateZone>false</PrivateZone></Config></HostedZone>
</HostedZones><IsTruncated>false</IsTruncated>`, h.opt.Zone, h.opt.Zone))
	case r.Method == "GET" && r.URL.Path == set && q.Get("maxitems") == "1":
		out := `<Name>zzz.example.org.</Name><Type>TXT</Type><TTL>300</TTL><ResourceRecords><ResourceRecord><Value>"other"</Value></ResourceRecord></ResourceRecords>`
		if have := h.Get(q.Get("name"), q.Get("type")); len(have) > 0 {
			out = `<Name>` + q.Get("name") + `.</Name><Type>` + q.Get("type") + `</Type><TTL>60</TTL><ResourceRecords>`
			for _, v := range have {
				out += `<ResourceRecord><Value>` + quoted(q.Get("type"), v) + `</Value></ResourceRecord>`
			}
			out += `</ResourceRecords>`
		}
		answer("ListResourceRecordSetsResponse", `<ResourceRecordSets><ResourceRecordSet>`+out+`</ResourceRecordSet></ResourceRecordSets>`)
	case r.Method == "POST" && r.URL.Path == set+"/":
		var in route53Batch
		if err := xml.Unmarshal(body, &in); err != nil {
			fail(400, "InvalidInput", err.Error())
			return
		}
		for _, c := range in.Changes {
			var values []string
			for _, v := range c.Values {
				values = append(values, unquoted(c.Type, v))
			}
			if c.Action == "DELETE" {
				if !slices.Equal(values, h.Get(c.Name, c.Type)) || c.TTL != 60 {
					fail(400, "InvalidChangeBatch", "the values provided do not match the current values")
					return
				}
				values = nil
			}
			h.Set(c.Name, c.Type, values...)
		}
		answer("ChangeResourceRecordSetsResponse", `<ChangeInfo><Id>/change/C1</Id><Status>PENDING</Status></ChangeInfo>`)
	default:
		h.unexpected(w, r)
	}
}
