package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// gate decides whether a request may be answered at all.
type gate struct {
	token     [sha256.Size]byte // hash of the token
	wantToken bool
	checkHost bool
	hosts     map[string]bool // further names, in lower case; never changed
}

// refusal is the answer to a request that may not pass.
type refusal struct {
	status int
	body   string
	header map[string][]string
}

// write answers in words, or, for the API, with a problem document.
func (r *refusal) write(w http.ResponseWriter, problem bool) {
	for k, values := range r.header {
		w.Header()[k] = values
	}
	if problem {
		writeProblem(w, &Problem{Status: r.status, Detail: strings.TrimSpace(r.body)})
		return
	}
	plain(w, r.status, r.body)
}

func newGate(cfg Config) *gate {
	g := &gate{
		token:     sha256.Sum256([]byte(cfg.Token)),
		wantToken: cfg.Token != "",
		hosts:     make(map[string]bool),
	}
	// A page whose own name is made to resolve to 127.0.0.1 is same-origin
	// with us as far as the browser can tell. Its requests still carry its
	// name. A browser never speaks to a unix socket by itself.
	if a, ok := cfg.Listener.Addr().(*net.TCPAddr); ok {
		g.checkHost = a.IP.IsLoopback() || !g.wantToken
	}
	for _, h := range cfg.Hosts {
		g.hosts[strings.ToLower(h)] = true
	}
	return g
}

// check returns nil when r may pass.
func (g *gate) check(r *http.Request) *refusal {
	if g.checkHost && !g.ours(r.Host) {
		return &refusal{status: http.StatusForbidden, body: "host: want localhost or an IP address, because any name can be made to point here\n"}
	}
	if crossSite(r) {
		return &refusal{status: http.StatusForbidden, body: "this request was caused by another site; open the address by hand\n"}
	}
	if g.wantToken && !g.known(r) {
		return &refusal{
			status: http.StatusUnauthorized,
			body:   "a token is needed: Authorization: Bearer TOKEN (admin.token)\n",
			header: map[string][]string{"Www-Authenticate": {`Bearer realm="postern"`, `Basic realm="postern, any user name, the token as password", charset="UTF-8"`}},
		}
	}
	return nil
}

// ours reports whether host, the Host header, is one that only this machine's
// owner can have typed.
func (g *gate) ours(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(name, "["), "]"))
	if name == "localhost" || g.hosts[name] {
		return true
	}
	_, err := netip.ParseAddr(name)
	return err == nil
}

// crossSite reports whether a browser says that another site caused r. What is
// not a browser sends neither header.
func crossSite(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
	default: // same-site too: another port of this machine is not us
		return true
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	u, err := url.Parse(origin)
	return err != nil || !strings.EqualFold(u.Host, r.Host)
}

// known reports whether r carries the token. Hashes are compared, so that the
// time it takes tells neither the token nor its length.
func (g *gate) known(r *http.Request) bool {
	given := ""
	if scheme, value, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "bearer") {
		given = strings.TrimSpace(value)
	} else if _, password, ok := r.BasicAuth(); ok {
		given = password
	}
	hash := sha256.Sum256([]byte(given))
	return subtle.ConstantTimeCompare(hash[:], g.token[:]) == 1
}
