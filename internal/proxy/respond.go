package proxy

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"

	"postern/internal/route"
)

// respond answers with the route's own text.
func (x *exchange) respond(a *Respond) {
	h := x.w.Header()
	x.ownFields(h)
	if a.Body != "" || a.Type != "" {
		h.Set("Content-Type", a.Type)
	}
	if bodyAllowed(a.Status) {
		h.Set("Content-Length", strconv.Itoa(len(a.Body)))
	}
	x.w.WriteHeader(a.Status)
	if x.r.Method != http.MethodHead && bodyAllowed(a.Status) {
		_, _ = io.WriteString(x.w, a.Body) // a lost client shows in the access line
	}
}

// bodyAllowed follows RFC 9110 sections 15.3.5 and 15.4.5.
func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// redirect answers with the route's other address.
func (x *exchange) redirect(rt *Route) {
	to := rt.Redirect.To
	if base, ok := strings.CutSuffix(to, "*"); ok {
		rest, ok := route.Rest(x.target, rt.Pattern)
		if !ok || !staysBelow(base, rest) {
			x.problem(http.StatusBadRequest, "bad_path", "The path can be read in more than one way.")
			return
		}
		to = base + rest
	}
	if q := x.r.URL.RawQuery; q != "" && !strings.Contains(to, "?") {
		to += "?" + q
	}
	x.location(to, rt.Redirect.Status)
}

// staysBelow reports whether base+rest cannot leave base for another host or
// path: "//evil.example" after a bare "/" would name a host, and so would a
// rest glued to a host name.
func staysBelow(base, rest string) bool {
	if strings.ContainsAny(rest, "\\\r\n\t ") {
		return false
	}
	if !strings.HasSuffix(base, "/") {
		// https://example.org + .evil.example must not join host names.
		i := strings.Index(base, "://")
		if i >= 0 && !strings.Contains(base[i+len("://"):], "/") {
			return false
		}
	}
	return base != "/" || !strings.HasPrefix(rest, "/")
}

// toHTTPS answers a clear-text request: 308 for GET and HEAD; the rest is
// refused, for many clients turn a redirected POST into a GET and lose its
// body, and all have already sent it in the clear.
func (x *exchange) toHTTPS() {
	if x.r.Method != http.MethodGet && x.r.Method != http.MethodHead {
		x.problem(http.StatusForbidden, "https_only", "Send this request to https.")
		return
	}
	x.verdict = "to_https"
	to := "https://" + x.httpsAuthority() + x.target
	if x.r.URL.RawQuery != "" {
		to += "?" + x.r.URL.RawQuery
	}
	x.location(to, http.StatusPermanentRedirect)
}

// httpsAuthority is the host to redirect to. A client that named a port came
// to the listener itself and is sent to the https listener's port; one that
// did not came by a mapped port 80, and 443 is mapped as well.
func (x *exchange) httpsAuthority() string {
	host := x.host
	if strings.Contains(host, ":") {
		host = "[" + strings.Trim(host, "[]") + "]"
	}
	if _, port, err := net.SplitHostPort(x.r.Host); err == nil && port != "" && x.snap.HTTPSPort != 0 && x.snap.HTTPSPort != 443 {
		return host + ":" + strconv.Itoa(x.snap.HTTPSPort)
	}
	return host
}

func (x *exchange) location(to string, status int) {
	h := x.w.Header()
	x.ownFields(h)
	h.Set("Location", to)
	h.Set("Content-Length", "0")
	x.w.WriteHeader(status)
}
