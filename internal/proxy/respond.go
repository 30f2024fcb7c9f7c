package proxy

import (
	"net"
	"net/http"
	"strconv"
	"strings"

	"postern/internal/route"
)

// respond answers with the route's own text.
func (x *exchange) respond(a *Respond) {
	fields := x.ownTexts()
	if a.Body != "" {
		fields = append(fields, textField{"Content-Type", a.Type})
	}
	var body []byte
	if bodyAllowed(a.Status) {
		body = []byte(a.Body)
	}
	x.msg.answer(x, answer{status: a.Status, fields: fields, body: body})
}

// ownTexts are the fields postern adds to any answer.
func (x *exchange) ownTexts() []textField {
	fields := []textField{{"X-Request-Id", x.id}}
	if x.site != nil && x.site.HSTS != "" && x.secure {
		fields = append(fields, textField{"Strict-Transport-Security", x.site.HSTS})
	}
	if v := x.altSvc(); v != "" {
		fields = append(fields, textField{"Alt-Svc", v})
	}
	return fields
}

// bodyAllowed follows RFC 9110 sections 15.3.5 and 15.4.5.
func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// redirect answers with the route's other address.
func (x *exchange) redirect(rt *Route) {
	to := rt.Redirect.To
	if base, ok := strings.CutSuffix(to, "*"); ok {
		rest, ok := route.Rest(x.path, rt.Pattern)
		if !ok || !staysBelow(base, rest) {
			x.problem(http.StatusBadRequest, "bad_path", "The path can be read in more than one way.")
			return
		}
		to = base + rest
	}
	if x.query != "" && !strings.Contains(to, "?") {
		to += "?" + x.query
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
	if x.method != http.MethodGet && x.method != http.MethodHead {
		x.problem(http.StatusForbidden, "https_only", "Send this request to https.")
		return
	}
	x.verdict = "to_https"
	to := "https://" + x.httpsAuthority() + x.path
	if x.query != "" {
		to += "?" + x.query
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
	if _, port, err := net.SplitHostPort(x.rawHost); err == nil && port != "" && x.snap.HTTPSPort != 0 && x.snap.HTTPSPort != 443 {
		return host + ":" + strconv.Itoa(x.snap.HTTPSPort)
	}
	return host
}

func (x *exchange) location(to string, status int) {
	x.msg.answer(x, answer{status: status, fields: append(x.ownTexts(), textField{"Location", to})})
}
