package testnet

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Hosts that are told single names: DuckDNS, dynv6, the dyndns2 protocol and
// acme-dns. What they speak is in the documents named beside each.

// https://www.duckdns.org/spec.jsp
func (h *DNSHost) duckdns(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if r.Method != "GET" || r.URL.Path != "/update" {
		h.unexpected(w, r)
		return
	}
	if q.Get("token") != h.opt.Secret || q.Get("domains") != strings.TrimSuffix(h.opt.Zone, ".duckdns.org") {
		_, _ = io.WriteString(w, "KO")
		return
	}
	txt := "_acme-challenge." + h.opt.Zone
	switch clearing := q.Get("clear") == "true"; {
	case q.Has("txt") && clearing:
		h.Set(txt, "TXT")
	case q.Has("txt"):
		h.Set(txt, "TXT", q.Get("txt"))
	case clearing:
		h.Set(h.opt.Zone, "A")
		h.Set(h.opt.Zone, "AAAA")
	case q.Has("ip") || q.Has("ipv6"):
		for k, typ := range map[string]string{"ip": "A", "ipv6": "AAAA"} {
			if q.Has(k) {
				h.Set(h.opt.Zone, typ, q.Get(k))
			}
		}
	default:
		h.unexpected(w, r)
		return
	}
	_, _ = io.WriteString(w, "OK")
}

// https://help.dyn.com/remote-access-api/, and the front page that every such
// host has.
func (h *DNSHost) dyndns2(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	user, password, _ := r.BasicAuth()
	switch {
	case r.Method == "GET" && r.URL.Path == "/":
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<html>Welcome</html>")
	case r.Method != "GET" || r.URL.Path != "/nic/update" || r.UserAgent() == "":
		h.unexpected(w, r)
	case user != h.opt.Key || password != h.opt.Secret:
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, "badauth\n")
	case !strings.HasSuffix("."+q.Get("hostname"), "."+h.opt.Zone):
		_, _ = io.WriteString(w, "nohost\n")
	case !q.Has("myip"):
		h.unexpected(w, r) // it would take the address of the caller
	default:
		word := "nochg"
		for _, a := range []string{q.Get("myip"), q.Get("myipv6")} {
			typ := "A"
			if strings.Contains(a, ":") {
				typ = "AAAA"
			}
			if a != "" && strings.Join(h.Get(q.Get("hostname"), typ), ",") != a {
				h.Set(q.Get("hostname"), typ, a)
				word = "good"
			}
		}
		_, _ = fmt.Fprintf(w, "%s %s\n", word, q.Get("myip"))
	}
}

type dynv6Record struct {
	ID   int64  `json:"id"`
	Type string `json:"type"`
	Name string `json:"name"`
	Data string `json:"data"`
}

// https://dynv6.github.io/api-spec/ and https://dynv6.com/docs/apis
func (h *DNSHost) dynv6(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/api/update" && r.Method == "GET" {
		h.dynv6Update(w, r)
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+h.opt.Secret {
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return
	}
	const records = "/api/v2/zones/4507942/records"
	id, one := strings.CutPrefix(r.URL.Path, records+"/")
	var in dynv6Record
	if (r.Method == "POST" || r.Method == "PATCH") && (json.NewDecoder(r.Body).Decode(&in) != nil || in.Type == "" || in.Data == "") {
		reply(w, 422, `{"errors":["invalid"]}`)
		return
	}
	switch {
	case r.Method == "GET" && r.URL.Path == "/api/v2/zones":
		reply(w, 200, fmt.Sprintf(`[{"name":"net.example","id":1},{"name":%q,"ipv4address":"148.60.11.246","ipv6prefix":"","id":4507942,"createdAt":"2024-11-27T14:24:02+01:00"}]`, h.opt.Zone))
	case r.Method == "GET" && r.URL.Path == records:
		out := []map[string]any{{"id": 7, "zoneID": 4507942, "type": "MX", "name": "", "data": "mx.example.org", "priority": 10}}
		for _, x := range h.list() {
			var n int64
			_, _ = fmt.Sscan(x[0], &n)
			out = append(out, map[string]any{"id": n, "zoneID": 4507942, "type": x[2], "name": h.rel(x[1]), "data": x[3]})
		}
		replyJSON(w, out)
	case r.Method == "POST" && r.URL.Path == records:
		id := h.add(h.full(in.Name), in.Type, in.Data)
		reply(w, 200, fmt.Sprintf(`{"id":%s,"type":%q,"name":%q,"data":%q}`, id, in.Type, in.Name, in.Data))
	case r.Method == "PATCH" && one && h.replace(id, in.Data):
		reply(w, 200, `{}`)
	case r.Method == "DELETE" && one && h.drop(id):
		w.WriteHeader(http.StatusNoContent)
	default:
		h.unexpected(w, r)
	}
}

func (h *DNSHost) dynv6Update(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	switch {
	case q.Get("token") != h.opt.Secret:
		http.Error(w, "invalid authentication token", http.StatusUnauthorized)
	case q.Get("zone") != h.opt.Zone:
		http.Error(w, "zone not found", http.StatusNotFound)
	default:
		for k, typ := range map[string]string{"ipv4": "A", "ipv6": "AAAA"} {
			switch v := q.Get(k); v {
			case "":
			case "-":
				h.Set(h.opt.Zone, typ)
			default:
				h.Set(h.opt.Zone, typ, v)
			}
		}
		_, _ = io.WriteString(w, "addresses updated")
	}
}

// https://github.com/joohoi/acme-dns, README and api.go
func (h *DNSHost) acmedns(w http.ResponseWriter, r *http.Request) {
	if r.Method != "POST" || r.URL.Path != "/update" {
		h.unexpected(w, r)
		return
	}
	if r.Header.Get("X-Api-User") != h.opt.Key || r.Header.Get("X-Api-Key") != h.opt.Secret {
		reply(w, 401, `{"error": "forbidden"}`)
		return
	}
	var in struct{ Subdomain, TXT string }
	if json.NewDecoder(r.Body).Decode(&in) != nil || len(in.TXT) != 43 {
		reply(w, 400, `{"error": "bad_txt"}`)
		return
	}
	h.Set(h.full(in.Subdomain), "TXT", in.TXT)
	reply(w, 200, `{"txt": "`+in.TXT+`"}`)
}

func replyJSON(w http.ResponseWriter, v any) {
	b, _ := json.Marshal(v)
	reply(w, 200, string(b))
}
