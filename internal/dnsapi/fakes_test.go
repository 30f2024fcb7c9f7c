package dnsapi

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// The fakes speak as the documents named beside each client say. What a
// client asks beyond that fails the test.

// https://www.duckdns.org/spec.jsp
func duckdnsAPI(h *host, w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if r.Method != "GET" || r.URL.Path != "/update" {
		h.unexpected(w, r)
		return
	}
	if q.Get("token") != goodToken || q.Get("domains") != "home" {
		_, _ = io.WriteString(w, "KO")
		return
	}
	switch {
	case q.Has("txt") && q.Get("clear") == "true":
		h.set("_acme-challenge.home.duckdns.org", "TXT", nil)
	case q.Has("txt"):
		h.set("_acme-challenge.home.duckdns.org", "TXT", []string{q.Get("txt")})
	case q.Has("ip") || q.Has("ipv6"):
		for k, typ := range map[string]string{"ip": "A", "ipv6": "AAAA"} {
			if q.Has(k) {
				h.set("home.duckdns.org", typ, []string{q.Get(k)})
			}
		}
	default:
		h.unexpected(w, r)
		return
	}
	_, _ = io.WriteString(w, "OK")
}

// https://desec.readthedocs.io/en/latest/dns/rrsets.html
func desecAPI(h *host, w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Token "+goodToken {
		reply(w, 401, `{"detail":"Invalid token."}`)
		return
	}
	const rrsets = "/api/v1/domains/home.dedyn.io/rrsets/"
	full := func(sub string) string {
		return strings.TrimPrefix(strings.TrimPrefix(sub+".home.dedyn.io", "@."), ".")
	}
	switch {
	case r.Method == "GET" && r.URL.Path == "/api/v1/domains/":
		if strings.HasSuffix(r.URL.Query().Get("owns_qname"), "home.dedyn.io") {
			reply(w, 200, `[{"created":"2018-09-18T16:36:16.510368Z","minimum_ttl":3600,"name":"home.dedyn.io"}]`)
		} else {
			reply(w, 200, `[]`)
		}
	case r.Method == "GET" && strings.HasPrefix(r.URL.Path, rrsets) && strings.HasSuffix(r.URL.Path, "/TXT/"):
		sub := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, rrsets), "/TXT/")
		have := h.get(full(sub), "TXT")
		if len(have) == 0 {
			reply(w, 404, `{"detail":"Not found."}`)
			return
		}
		for i := range have {
			have[i] = quote(have[i])
		}
		b, _ := json.Marshal(desecSet{sub, "TXT", 3600, have})
		reply(w, 200, string(b))
	case r.Method == "PATCH" && r.URL.Path == rrsets:
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
				s.Records[i] = unquote(s.Records[i])
			}
			h.set(full(s.Subname), s.Type, s.Records)
		}
		reply(w, 200, `[]`)
	default:
		h.unexpected(w, r)
	}
}

// https://developers.cloudflare.com/api/resources/dns/subresources/records/
func cloudflareAPI(h *host, w http.ResponseWriter, r *http.Request) {
	fail := func(status, code int, msg string) {
		reply(w, status, fmt.Sprintf(`{"success":false,"errors":[{"code":%d,"message":%q}],"messages":[],"result":null}`, code, msg))
	}
	if r.Header.Get("Authorization") != "Bearer "+goodToken {
		fail(403, 10000, "Authentication error")
		return
	}
	ok := func(result any) {
		b, _ := json.Marshal(map[string]any{"success": true, "errors": []string{}, "messages": []string{}, "result": result})
		reply(w, 200, string(b))
	}
	const records = "/client/v4/zones/023e105f4ecef8ad9ca31a8372d0c353/dns_records"
	q := r.URL.Query()
	var in cloudflareRecord
	if r.Method == "POST" || r.Method == "PATCH" {
		if json.NewDecoder(r.Body).Decode(&in) != nil || in.Type == "TXT" && !strings.HasPrefix(in.Content, `"`) {
			fail(400, 9207, "Content-type or content is wrong")
			return
		}
		in.Content = unquote(in.Content)
	}
	id, one := strings.CutPrefix(r.URL.Path, records+"/")
	switch {
	case r.Method == "GET" && r.URL.Path == "/client/v4/zones":
		if q.Get("name") == "example.org" {
			ok([]map[string]string{{"id": "023e105f4ecef8ad9ca31a8372d0c353", "name": "example.org"}})
		} else {
			ok([]string{})
		}
	case r.Method == "GET" && r.URL.Path == records:
		out := []cloudflareRecord{}
		for _, x := range h.list() {
			if x[1] == q.Get("name") && x[2] == q.Get("type") {
				c := x[3]
				if x[2] == "TXT" {
					c = quote(c)
				}
				out = append(out, cloudflareRecord{ID: x[0], Type: x[2], Name: x[1], Content: c, TTL: 60})
			}
		}
		ok(out)
	case r.Method == "POST" && r.URL.Path == records:
		in.ID = h.add(in.Name, in.Type, in.Content)
		ok(in)
	case r.Method == "PATCH" && one && h.drop(id):
		h.add(in.Name, in.Type, in.Content)
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

// https://dynv6.github.io/api-spec/ and https://dynv6.com/docs/apis
func dynv6API(h *host, w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/api/update" && r.Method == "GET" {
		q := r.URL.Query()
		switch {
		case q.Get("token") != goodToken:
			http.Error(w, "invalid authentication token", http.StatusUnauthorized)
		case q.Get("zone") != "home.dynv6.net":
			http.Error(w, "zone not found", http.StatusNotFound)
		default:
			for k, typ := range map[string]string{"ipv4": "A", "ipv6": "AAAA"} {
				if q.Has(k) {
					h.set("home.dynv6.net", typ, []string{q.Get(k)})
				}
			}
			_, _ = io.WriteString(w, "addresses updated")
		}
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+goodToken {
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return
	}
	const records = "/api/v2/zones/4507942/records"
	id, one := strings.CutPrefix(r.URL.Path, records+"/")
	switch {
	case r.Method == "GET" && r.URL.Path == "/api/v2/zones":
		reply(w, 200, `[{"name":"net.example","id":1},{"name":"home.dynv6.net","ipv4address":"148.60.11.246","ipv6prefix":"","id":4507942,"createdAt":"2024-11-27T14:24:02+01:00"}]`)
	case r.Method == "GET" && r.URL.Path == records:
		out := []map[string]any{{"id": 7, "zoneID": 4507942, "type": "MX", "name": "", "data": "mx.example.org", "priority": 10}}
		for _, x := range h.list() {
			var n int64
			_, _ = fmt.Sscan(x[0], &n)
			out = append(out, map[string]any{"id": n, "zoneID": 4507942, "type": x[2], "name": relative(x[1], "home.dynv6.net"), "data": x[3]})
		}
		b, _ := json.Marshal(out)
		reply(w, 200, string(b))
	case r.Method == "POST" && r.URL.Path == records:
		var in dynv6Record
		if json.NewDecoder(r.Body).Decode(&in) != nil || in.Type != "TXT" || in.Data == "" {
			reply(w, 422, `{"errors":["invalid"]}`)
			return
		}
		id := h.add(in.Name+".home.dynv6.net", in.Type, in.Data)
		reply(w, 200, fmt.Sprintf(`{"id":%s,"type":"TXT","name":%q,"data":%q}`, id, in.Name, in.Data))
	case r.Method == "DELETE" && one && h.drop(id):
		w.WriteHeader(http.StatusNoContent)
	default:
		h.unexpected(w, r)
	}
}

// https://porkbun.com/api/json/v3/documentation
func porkbunAPI(h *host, w http.ResponseWriter, r *http.Request) {
	var in porkbunIn
	if r.Method != "POST" || r.Header.Get("Content-Type") != "application/json" || json.NewDecoder(r.Body).Decode(&in) != nil {
		h.unexpected(w, r)
		return
	}
	if in.APIKey != "pk1-name" || in.Secret != goodToken {
		reply(w, 400, `{"status":"ERROR","message":"Invalid API key. (002) `+in.Secret+`"}`)
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/api/json/v3")
	byName := strings.CutPrefix
	switch sub, named := byName(path, "/dns/retrieveByNameType/example.org/TXT/"); {
	case !ok:
		h.unexpected(w, r)
	case path == "/domain/listAll" && in.Start == "0":
		reply(w, 200, `{"status":"SUCCESS","domains":[{"domain":"example.net","status":"ACTIVE"},{"domain":"example.org","status":"ACTIVE"}]}`)
	case named:
		records := []map[string]string{}
		for _, x := range h.list() {
			if x[1] == sub+".example.org" {
				records = append(records, map[string]string{"id": x[0], "name": x[1], "type": x[2], "content": x[3], "ttl": "600", "prio": "0"})
			}
		}
		b, _ := json.Marshal(map[string]any{"status": "SUCCESS", "records": records})
		reply(w, 200, string(b))
	case path == "/dns/create/example.org":
		if in.Type != "TXT" || in.TTL != "600" {
			reply(w, 200, `{"status":"ERROR","message":"Create error: We were unable to create the DNS record."}`)
			return
		}
		reply(w, 200, `{"status":"SUCCESS","id":`+h.add(in.Name+".example.org", "TXT", in.Content)+`}`)
	case strings.HasPrefix(path, "/dns/delete/example.org/") && h.drop(strings.TrimPrefix(path, "/dns/delete/example.org/")):
		reply(w, 200, `{"status":"SUCCESS"}`)
	default:
		h.unexpected(w, r)
	}
}

// https://api.gandi.net/docs/livedns/
func gandiAPI(h *host, w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+goodToken {
		reply(w, 403, `{"cause":"Forbidden","code":403,"message":"Access was denied to this resource.","object":"HTTPForbidden"}`)
		return
	}
	const records = "/v5/livedns/domains/example.org/records/"
	sub, isTXT := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, records), "/TXT")
	name := strings.TrimPrefix(sub+".example.org", "@.")
	switch {
	case r.Method == "GET" && r.URL.Path == "/v5/livedns/domains":
		if r.URL.Query().Get("page") != "1" || r.URL.Query().Get("per_page") != "100" {
			h.unexpected(w, r)
			return
		}
		reply(w, 200, `[{"fqdn":"example.org","domain_href":"x","domain_records_href":"y"}]`)
	case !isTXT || !strings.HasPrefix(r.URL.Path, records):
		h.unexpected(w, r)
	case r.Method == "GET":
		have := h.get(name, "TXT")
		if len(have) == 0 {
			reply(w, 404, `{"code":404,"message":"Can't find the DNS record","object":"dns-record","cause":"Not Found"}`)
			return
		}
		for i := range have {
			have[i] = quote(have[i])
		}
		b, _ := json.Marshal(gandiSet{10800, have})
		reply(w, 200, string(b))
	case r.Method == "PUT":
		var in gandiSet
		if json.NewDecoder(r.Body).Decode(&in) != nil || in.TTL < 300 || len(in.Values) == 0 {
			reply(w, 400, `{"status":"error","errors":[{"location":"body","name":"rrset_ttl","description":"300 is the minimum"}]}`)
			return
		}
		for i := range in.Values {
			in.Values[i] = unquote(in.Values[i])
		}
		h.set(name, "TXT", in.Values)
		reply(w, 201, `{"message":"DNS Record Created"}`)
	case r.Method == "DELETE":
		h.set(name, "TXT", nil)
		w.WriteHeader(http.StatusNoContent)
	default:
		h.unexpected(w, r)
	}
}

// https://docs.hetzner.cloud/reference/cloud#dns
func hetznerAPI(h *host, w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+goodToken {
		reply(w, 401, `{"error":{"code":"unauthorized","message":"the token you provided is invalid","details":null}}`)
		return
	}
	const missing = `{"error":{"code":"not_found","message":"not found","details":null}}`
	const sets = "/v1/zones/42/rrsets/"
	sub, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, sets), "/")
	name := strings.TrimPrefix(sub+".example.org", "@.")
	have := h.get(name, "TXT")
	var in hetznerRecords
	if r.Method == "POST" {
		if json.NewDecoder(r.Body).Decode(&in) != nil || len(in.Records) != 1 || !strings.HasPrefix(in.Records[0].Value, `"`) {
			reply(w, 422, `{"error":{"code":"invalid_input","message":"invalid input in field 'records'","details":{"fields":[{"name":"records","messages":["TXT values must be quoted"]}]}}}`)
			return
		}
	}
	switch {
	case r.Method == "GET" && r.URL.Path == "/v1/zones/example.org":
		reply(w, 200, `{"zone":{"id":42,"name":"example.org","mode":"primary","ttl":3600}}`)
	case r.Method == "GET" && strings.HasPrefix(r.URL.Path, "/v1/zones/") && strings.Count(r.URL.Path, "/") == 3:
		reply(w, 404, missing)
	case !strings.HasPrefix(r.URL.Path, sets):
		h.unexpected(w, r)
	case r.Method == "GET" && rest == "TXT":
		if len(have) == 0 {
			reply(w, 404, missing)
			return
		}
		out := hetznerRecords{TTL: 60}
		for _, v := range have {
			out.Records = append(out.Records, hetznerRecord{quote(v)})
		}
		b, _ := json.Marshal(map[string]any{"rrset": out})
		reply(w, 200, string(b))
	case r.Method == "POST" && rest == "TXT/actions/add_records":
		h.set(name, "TXT", append(have, unquote(in.Records[0].Value)))
		reply(w, 201, `{"action":{"id":1,"command":"add_rrset_records","status":"running","progress":50,"error":null}}`)
	case r.Method == "POST" && rest == "TXT/actions/remove_records":
		h.set(name, "TXT", slices.DeleteFunc(have, func(v string) bool { return v == unquote(in.Records[0].Value) }))
		reply(w, 201, `{"action":{"id":2,"command":"remove_rrset_records","status":"success","progress":100,"error":null}}`)
	default:
		h.unexpected(w, r)
	}
}

// https://docs.digitalocean.com/reference/api/digitalocean/#tag/Domain-Records
func digitaloceanAPI(h *host, w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+goodToken {
		reply(w, 401, `{"id":"unauthorized","message":"Unable to authenticate you"}`)
		return
	}
	const records = "/v2/domains/example.org/records"
	id, one := strings.CutPrefix(r.URL.Path, records+"/")
	q := r.URL.Query()
	switch {
	case r.Method == "GET" && r.URL.Path == "/v2/domains/example.org":
		reply(w, 200, `{"domain":{"name":"example.org","ttl":1800,"zone_file":"…"}}`)
	case r.Method == "GET" && strings.HasPrefix(r.URL.Path, "/v2/domains/") && strings.Count(r.URL.Path, "/") == 3:
		reply(w, 404, `{"id":"not_found","message":"The resource you requested could not be found."}`)
	case r.Method == "GET" && r.URL.Path == records:
		out := []map[string]any{}
		for _, x := range h.list() {
			if x[1] == q.Get("name") && q.Get("type") == x[2] {
				var n int64
				_, _ = fmt.Sscan(x[0], &n)
				out = append(out, map[string]any{"id": n, "type": x[2], "name": relative(x[1], "example.org"), "data": x[3], "ttl": 30})
			}
		}
		b, _ := json.Marshal(map[string]any{"domain_records": out, "links": map[string]any{}, "meta": map[string]int{"total": len(out)}})
		reply(w, 200, string(b))
	case r.Method == "POST" && r.URL.Path == records:
		var in digitalOceanRecord
		if json.NewDecoder(r.Body).Decode(&in) != nil || in.TTL < 30 {
			reply(w, 422, `{"id":"unprocessable_entity","message":"Ttl must be greater than 29"}`)
			return
		}
		reply(w, 201, `{"domain_record":{"id":`+h.add(in.Name+".example.org", in.Type, in.Data)+`}}`)
	case r.Method == "DELETE" && one && h.drop(id):
		w.WriteHeader(http.StatusNoContent)
	default:
		h.unexpected(w, r)
	}
}

// https://github.com/joohoi/acme-dns, README and api.go
func acmednsAPI(h *host, w http.ResponseWriter, r *http.Request) {
	if r.Method != "POST" || r.URL.Path != "/update" {
		h.unexpected(w, r)
		return
	}
	if r.Header.Get("X-Api-User") != "pk1-name" || r.Header.Get("X-Api-Key") != goodToken {
		reply(w, 401, `{"error": "forbidden"}`)
		return
	}
	var in struct{ Subdomain, TXT string }
	if json.NewDecoder(r.Body).Decode(&in) != nil || len(in.TXT) != 43 {
		reply(w, 400, `{"error": "bad_txt"}`)
		return
	}
	h.set(in.Subdomain+".auth.example.org", "TXT", []string{in.TXT})
	reply(w, 200, `{"txt": "`+in.TXT+`"}`)
}

// https://docs.aws.amazon.com/Route53/latest/APIReference/. The signature is
// verified from what arrived.
func route53API(h *host, w http.ResponseWriter, r *http.Request) {
	fail := func(status int, code, msg string) {
		w.Header().Set("Content-Type", "text/xml")
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `<?xml version="1.0"?><ErrorResponse xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>b25f48e8</RequestId></ErrorResponse>`, code, msg)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		h.t.Error(err)
	}
	if !verifySigV4(h.t, r, body, "pk1-name", goodToken) {
		fail(403, "SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided.")
		return
	}
	const set = "/2013-04-01/hostedzone/Z1D633PJN98FT9/rrset"
	q := r.URL.Query()
	answer := func(s string) {
		w.Header().Set("Content-Type", "text/xml")
		_, _ = io.WriteString(w, `<?xml version="1.0"?>`+"\n"+s)
	}
	switch {
	case r.Method == "GET" && r.URL.Path == "/2013-04-01/hostedzonesbyname":
		// The list begins at dnsname, in the order of reversed labels.
		answer(`<ListHostedZonesByNameResponse xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><HostedZones>
<HostedZone><Id>/hostedzone/ZPRIVATE</Id><Name>example.org.</Name><Config><PrivateZone>true</PrivateZone></Config></HostedZone>
<HostedZone><Id>/hostedzone/Z1D633PJN98FT9</Id><Name>example.org.</Name><Config><PrivateZone>false</PrivateZone></Config></HostedZone>
</HostedZones><IsTruncated>false</IsTruncated></ListHostedZonesByNameResponse>`)
	case r.Method == "GET" && r.URL.Path == set && q.Get("maxitems") == "1":
		have := h.get(q.Get("name"), q.Get("type"))
		out := `<ResourceRecordSet><Name>zzz.example.org.</Name><Type>TXT</Type><TTL>300</TTL><ResourceRecords><ResourceRecord><Value>"other"</Value></ResourceRecord></ResourceRecords></ResourceRecordSet>`
		if len(have) > 0 {
			out = `<ResourceRecordSet><Name>` + q.Get("name") + `.</Name><Type>TXT</Type><TTL>60</TTL><ResourceRecords>`
			for _, v := range have {
				out += `<ResourceRecord><Value>` + quote(v) + `</Value></ResourceRecord>`
			}
			out += `</ResourceRecords></ResourceRecordSet>`
		}
		answer(`<ListResourceRecordSetsResponse xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><ResourceRecordSets>` + out + `</ResourceRecordSets></ListResourceRecordSetsResponse>`)
	case r.Method == "POST" && r.URL.Path == set+"/":
		var in route53Batch
		if err := xml.Unmarshal(body, &in); err != nil {
			fail(400, "InvalidInput", err.Error())
			return
		}
		for _, c := range in.Changes {
			values := make([]string, 0, len(c.Set.Records))
			for _, v := range c.Set.Records {
				values = append(values, unquote(v))
			}
			if c.Action == "DELETE" {
				if !slices.Equal(values, h.get(c.Set.Name, c.Set.Type)) || c.Set.TTL != 60 {
					fail(400, "InvalidChangeBatch", "the values provided do not match the current values")
					return
				}
				values = nil
			}
			h.set(c.Set.Name, c.Set.Type, values)
		}
		answer(`<ChangeResourceRecordSetsResponse xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><ChangeInfo><Id>/change/C1</Id><Status>PENDING</Status></ChangeInfo></ChangeResourceRecordSetsResponse>`)
	default:
		h.unexpected(w, r)
	}
}

func hmacSHA256(key []byte, s string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(s))
	return m.Sum(nil)
}

func hexHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// verifySigV4 recomputes a signature the way AWS does, from the request that
// arrived: method, path and query as sent, the headers that it says are
// signed, the hash of the body.
func verifySigV4(t testing.TB, r *http.Request, body []byte, id, secret string) bool {
	auth, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	fields := map[string]string{}
	for _, f := range strings.Split(auth, ", ") {
		k, v, _ := strings.Cut(f, "=")
		fields[k] = v
	}
	scope := strings.SplitN(fields["Credential"], "/", 2)
	stamp := r.Header.Get("X-Amz-Date")
	at, err := time.Parse("20060102T150405Z", stamp)
	if !ok || len(scope) != 2 || scope[0] != id || err != nil || time.Since(at).Abs() > 5*time.Minute {
		return false
	}
	if scope[1] != stamp[:8]+"/us-east-1/route53/aws4_request" {
		t.Errorf("scope %q", scope[1])
	}
	lines := []string{r.Method, r.URL.EscapedPath()}
	var pairs []string
	for _, p := range strings.Split(r.URL.RawQuery, "&") {
		if p == "" {
			continue
		}
		k, v, _ := strings.Cut(p, "=")
		k, _ = url.QueryUnescape(k)
		v, _ = url.QueryUnescape(v)
		esc := func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
		pairs = append(pairs, esc(k)+"="+esc(v))
	}
	slices.Sort(pairs)
	lines = append(lines, strings.Join(pairs, "&"))
	for _, n := range strings.Split(fields["SignedHeaders"], ";") {
		v := r.Header.Get(n)
		if n == "host" {
			v = r.Host
		}
		lines = append(lines, n+":"+strings.TrimSpace(v))
	}
	lines = append(lines, "", fields["SignedHeaders"], hexHash(string(body)))
	text := "AWS4-HMAC-SHA256\n" + stamp + "\n" + scope[1] + "\n" + hexHash(strings.Join(lines, "\n"))
	key := []byte("AWS4" + secret)
	for _, p := range strings.Split(scope[1], "/") {
		key = hmacSHA256(key, p)
	}
	return fmt.Sprintf("%x", hmacSHA256(key, text)) == fields["Signature"]
}
