package proxy

import (
	"net/http"
	"strings"

	"postern/internal/caller"
	"postern/internal/guard"
)

// identify establishes who calls, when the request brings something to tell it
// by. Whether that is needed, the route says later.
func (x *exchange) identify() bool {
	book := x.snap.Callers
	if book == nil {
		return true
	}
	r := caller.Request{
		Method: x.method, Scheme: x.scheme, Host: x.rawHost, Path: x.path, Query: x.query,
		Credentials: x.msg.credentials(), Client: x.client, HasBody: x.length != 0, Now: x.start,
		Peer: x.conn.cert, Memo: &x.conn.memo,
	}
	if !r.Any() && r.Peer == nil {
		return true
	}
	r.Fields = x
	res := book.Identify(&r)
	spent := res.Spent
	if res.Body != nil {
		var ok bool
		if res, ok = x.checkBody(res.Body); !ok {
			return false
		}
	}
	x.caller, x.denied, x.spent = res.Identity, res.Failure, spent
	if x.caller != nil {
		x.welcome()
	}
	return true
}

// Bounds of the bodies that are held until their signature was looked at, of
// all requests together, in bytes: of callers whose signature holds, and of
// strangers, who name a key that exists.
const (
	maxSigned   = 64 << 20
	maxStranger = 8 << 20
)

// checkBody ends a proof that covers the body. When it returns false the
// client is answered, or gone.
func (x *exchange) checkBody(check *caller.BodyCheck) (res caller.Result, ok bool) {
	if x.length > caller.MaxBody {
		return caller.Result{Failure: caller.BodyTooLarge}, true
	}
	room, most := x.length, int64(maxStranger)
	if room < 0 {
		room = caller.MaxBody
	}
	if check.Known() {
		most = maxSigned
	}
	if x.s.signed.Add(room) > most {
		x.s.signed.Add(-room)
		return caller.Result{Failure: caller.Busy}, true
	}
	x.taken = room
	body, ok := x.msg.hold(x, caller.MaxBody)
	if !ok {
		return res, false
	}
	x.held, x.holds, x.length = body, true, int64(len(body))
	return check.Finish(body), true
}

// Field and List make the exchange the header getter of package caller.

func (x *exchange) Field(name string) string  { return x.msg.field(name) }
func (x *exchange) List(name string) []string { return x.msg.list(name) }

// permit refuses who may not use the route. Credentials that make nobody known
// are the application's own where everybody may.
func (x *exchange) permit() bool {
	access := x.route.Callers
	if access == nil || access.Allows(x.caller) {
		return x.charge()
	}
	if x.caller != nil {
		x.problem(http.StatusForbidden, "caller_not_allowed", "This address is for other callers.")
		return false
	}
	book := x.snap.Callers
	if book != nil {
		book.Failed(x.denied)
	}
	if x.denied.Forged() {
		x.observe(guard.Forged, x.deniedRule())
	}
	x.unauthorized()
	return false
}

// deniedRule is the word for what was wrong with the credentials.
func (x *exchange) deniedRule() string {
	reason, _ := x.denied.Told()
	return reason
}

// unauthorized asks for credentials (RFC 9110 section 11.6.1), or for others.
func (x *exchange) unauthorized() {
	reason, detail := x.denied.Told()
	if x.denied.Temporary() {
		x.problem(http.StatusServiceUnavailable, reason, detail, textField{"Retry-After", "1"})
		return
	}
	challenge := `Bearer realm="postern"`
	if x.denied != caller.NoCredentials { // RFC 6750 section 3.1
		challenge += `, error="invalid_token", error_description="` + strings.ReplaceAll(reason, "_", " ") + `"`
	}
	x.problem(http.StatusUnauthorized, reason, detail, textField{"Www-Authenticate", challenge})
}

// spends reports whether a field held the secret that made the caller known:
// it was for us, and stays out of the backend's logs.
func (x *exchange) spends(name string) bool {
	switch x.spent {
	case caller.SpentAuthorization:
		if !strings.EqualFold(name, "Authorization") {
			return false
		}
	case caller.SpentAPIKey:
		if !strings.EqualFold(name, "X-Api-Key") {
			return false
		}
	default:
		return false
	}
	return x.caller != nil && !x.caller.KeepsCredentials()
}

// mayProve reports whether a field's name has the length of one that addCredential
// knows.
func mayProve(length int) bool {
	return length == len("Authorization") || length == len("X-Api-Key") || length == len("Signature-Input")
}

// addCredential adds a field to c if it may prove who calls.
func addCredential(c *caller.Credentials, name, value string) {
	var to *string
	switch {
	case strings.EqualFold(name, "Authorization"):
		to = &c.Authorization
	case strings.EqualFold(name, "X-Api-Key"):
		to = &c.APIKey
	case strings.EqualFold(name, "Signature-Input"):
		c.Signed = true
		return
	default:
		return
	}
	if *to != "" {
		c.Doubled = true
	}
	*to = value
}
