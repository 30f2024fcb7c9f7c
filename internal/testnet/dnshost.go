package testnet

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// DNSHostOptions say which DNS host is faked and what it knows.
type DNSHostOptions struct {
	// Provider is one of those of package dnsapi, but for rfc2136. Required.
	Provider string

	// Zone is the one zone of the account. Empty: home.duckdns.org for
	// duckdns, home.dedyn.io for desec, home.dynv6.net for dynv6,
	// auth.example.org for acme-dns, example.org for others.
	Zone string

	// Key and Secret are the credentials it takes; Secret is the token of
	// hosts that have one. Empty: HostKey and HostSecret.
	Key, Secret string

	// Strict fails the test when a client asks for what the host's documents
	// do not have; else that is answered 418.
	Strict bool
}

// The credentials that a DNSHost takes unless it is told others. The secret
// has the form of a DuckDNS token.
const (
	HostKey    = "pk1-name"
	HostSecret = "3f9c8a7e-5b6d-4c2a-91e0-77aa01bc23de"
)

// DNSHost is the API of a DNS host in front of one zone. It speaks as the
// host's documents say. Its methods may be called from several goroutines.
type DNSHost struct {
	// URL is the base URL of the API.
	URL string

	opt DNSHostOptions
	t   testing.TB

	mu     sync.Mutex
	sets   map[string][]string
	ids    map[string]string // of a record: "name type value" by id
	last   int
	broken http.HandlerFunc // answers instead; nil: the API
	calls  []string
	change func(name, typ string, values []string)
}

// NewDNSHost serves one on loopback until the test ends.
func NewDNSHost(t testing.TB, opt DNSHostOptions) *DNSHost {
	t.Helper()
	apis := map[string]func(*DNSHost, http.ResponseWriter, *http.Request){
		"acme-dns": (*DNSHost).acmedns, "cloudflare": (*DNSHost).cloudflare, "desec": (*DNSHost).desec,
		"digitalocean": (*DNSHost).digitalocean, "duckdns": (*DNSHost).duckdns, "dyndns2": (*DNSHost).dyndns2,
		"dynv6": (*DNSHost).dynv6, "gandi": (*DNSHost).gandi, "hetzner": (*DNSHost).hetzner,
		"porkbun": (*DNSHost).porkbun, "route53": (*DNSHost).route53,
	}
	api := apis[opt.Provider]
	if api == nil {
		t.Fatalf("testnet: no fake of the DNS host %q", opt.Provider)
	}
	if opt.Zone == "" {
		opt.Zone = map[string]string{"duckdns": "home.duckdns.org", "desec": "home.dedyn.io", "dynv6": "home.dynv6.net", "acme-dns": "auth.example.org"}[opt.Provider]
	}
	if opt.Zone == "" {
		opt.Zone = "example.org"
	}
	if opt.Key == "" {
		opt.Key = HostKey
	}
	if opt.Secret == "" {
		opt.Secret = HostSecret
	}
	h := &DNSHost{opt: opt, t: t, sets: map[string][]string{}, ids: map[string]string{}}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		broken := h.broken
		h.calls = append(h.calls, r.Method+" "+r.URL.Path)
		h.mu.Unlock()
		if broken != nil {
			broken(w, r)
			return
		}
		api(h, w, r)
	}))
	t.Cleanup(srv.Close)
	h.URL = srv.URL
	return h
}

// BreakWith makes f answer every call; nil ends that. HostOutages has some.
func (h *DNSHost) BreakWith(f http.HandlerFunc) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.broken = f
}

// OnChange has f told of every change of a set of records, in order. It must
// not call the host.
func (h *DNSHost) OnChange(f func(name, typ string, values []string)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.change = f
}

// Calls returns the calls so far, as "GET /update".
func (h *DNSHost) Calls() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.calls)
}

// Get returns the values that a name has.
func (h *DNSHost) Get(name, typ string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.sets[hostKey(name, typ)])
}

// Set changes them, as the owner would at the host's own page.
func (h *DNSHost) Set(name, typ string, values ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := hostKey(name, typ)
	for id, rec := range h.ids {
		if strings.HasPrefix(rec, k+" ") {
			delete(h.ids, id)
		}
	}
	delete(h.sets, k)
	for _, v := range values {
		h.addLocked(name, typ, v)
	}
	h.toldLocked(name, typ)
}

func hostKey(name, typ string) string {
	return strings.ToLower(strings.TrimSuffix(name, ".")) + " " + typ
}

func (h *DNSHost) toldLocked(name, typ string) {
	if h.change != nil {
		h.change(strings.ToLower(strings.TrimSuffix(name, ".")), typ, slices.Clone(h.sets[hostKey(name, typ)]))
	}
}

func (h *DNSHost) addLocked(name, typ, value string) string {
	h.last++
	id := fmt.Sprint(1000 + h.last)
	k := hostKey(name, typ)
	h.ids[id] = k + " " + value
	h.sets[k] = append(h.sets[k], value)
	return id
}

// add is for hosts that give each record an id.
func (h *DNSHost) add(name, typ, value string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	id := h.addLocked(name, typ, value)
	h.toldLocked(name, typ)
	return id
}

func (h *DNSHost) dropLocked(id string) (name, typ string, ok bool) {
	rec, ok := h.ids[id]
	if !ok {
		return "", "", false
	}
	delete(h.ids, id)
	p := strings.SplitN(rec, " ", 3)
	k := p[0] + " " + p[1]
	if i := slices.Index(h.sets[k], p[2]); i >= 0 {
		h.sets[k] = slices.Delete(h.sets[k], i, i+1)
	}
	return p[0], p[1], true
}

func (h *DNSHost) drop(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	name, typ, ok := h.dropLocked(id)
	if ok {
		h.toldLocked(name, typ)
	}
	return ok
}

// replace gives a record another value.
func (h *DNSHost) replace(id, value string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	name, typ, ok := h.dropLocked(id)
	if ok {
		h.addLocked(name, typ, value)
		h.toldLocked(name, typ)
	}
	return ok
}

// list returns id, name, type and value of records, in the order made.
func (h *DNSHost) list() (out [][4]string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, rec := range h.ids {
		p := strings.SplitN(rec, " ", 3)
		out = append(out, [4]string{id, p[0], p[1], p[2]})
	}
	slices.SortFunc(out, func(a, b [4]string) int { return strings.Compare(a[0], b[0]) })
	return out
}

// full is a name written relative to the zone, "" or "@" at its top.
func (h *DNSHost) full(rel string) string {
	if rel == "" || rel == "@" {
		return h.opt.Zone
	}
	return rel + "." + h.opt.Zone
}

// rel is the reverse.
func (h *DNSHost) rel(name string) string {
	return strings.TrimSuffix(strings.TrimSuffix(name, h.opt.Zone), ".")
}

// quoted and unquoted are TXT values as APIs write them.
func quoted(typ, v string) string {
	if typ == "TXT" {
		return `"` + v + `"`
	}
	return v
}

func unquoted(typ, v string) string {
	if typ == "TXT" {
		return strings.Trim(v, `"`)
	}
	return v
}

func (h *DNSHost) unexpected(w http.ResponseWriter, r *http.Request) {
	if h.opt.Strict {
		h.t.Errorf("unexpected call: %s %s", r.Method, r.URL)
	}
	http.Error(w, "unexpected", http.StatusTeapot)
}

func reply(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// Jetty404 is the page that DuckDNS was seen to answer with when it was down.
const Jetty404 = `<html><head><title>Error 404 Not Found</title></head><body><h2>HTTP ERROR 404</h2><hr>Powered by Jetty:// 9.4.31</body></html>`

// HostOutages are the shapes of outages that were seen in the wild, and what
// the way to the host adds.
func HostOutages() map[string]http.HandlerFunc {
	html := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html;charset=utf-8")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	return map[string]http.HandlerFunc{
		"Jetty 404": html(404, Jetty404),
		"502":       html(502, "<html><body>Bad Gateway</body></html>"),
		"503 empty": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) },
		"500 JSON":  func(w http.ResponseWriter, _ *http.Request) { reply(w, 500, `{"message":"oops"}`) },
		"portal":    html(200, "<!DOCTYPE html><html>Welcome to the hotel</html>"),
		"firewall":  html(403, "<html>Sorry, you have been blocked</html>"),
		"404 text":  func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "404 page not found", http.StatusNotFound) },
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://example.org/", http.StatusFound)
		},
		"cut": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	}
}

// HostHang never answers; it ends when the client goes, which net/http sees
// only once the request was read.
func HostHang(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}
