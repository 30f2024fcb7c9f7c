package proxy

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"postern/internal/caller"
	"postern/internal/guard"
)

// tokenPath is where a presigned request is exchanged for a token of ours
// (RFC 8615).
const tokenPath = "/.well-known/postern/token"

// wantsToken reports whether the request is for such a token. In the clear it
// is not: the token would be anybody's.
func (x *exchange) wantsToken() bool {
	return x.path == tokenPath && x.snap.Callers.Exchanges() && (x.scheme == "https" || x.site.HTTP == HTTPServe)
}

// tokenAnswer has the names of RFC 6749 section 5.1.
type tokenAnswer struct {
	Token   string `json:"access_token"`
	Type    string `json:"token_type"`
	Expires int    `json:"expires_in"`
	Caller  string `json:"caller"`
}

// exchangeToken answers a presigned request with a token. It asks AWS, so an
// address may do it now and then only.
func (x *exchange) exchangeToken() {
	if x.method != http.MethodPost {
		x.problem(http.StatusMethodNotAllowed, "method", "Post a presigned GetCallerIdentity request here.", textField{"Allow", http.MethodPost})
		return
	}
	if d := x.s.tokens.Take(x.client, x.start); !d.OK {
		x.problem(http.StatusTooManyRequests, "rate_limited", "Too many tokens at once. One is good for 15 minutes.", rateFields("token", d)...)
		return
	}
	if x.length > caller.MaxPresigned {
		x.problem(http.StatusRequestEntityTooLarge, "body_too_large", "A presigned request is shorter.")
		return
	}
	body, ok := x.msg.hold(x, caller.MaxPresigned)
	if !ok {
		return
	}
	x.holds, x.length = true, int64(len(body))
	got, failure := x.snap.Callers.Exchange(strings.TrimSpace(string(body)), time.Now())
	if failure != caller.NoCredentials {
		x.denied = failure
		x.snap.Callers.Failed(failure)
		if failure.Forged() {
			x.observe(guard.Forged, x.deniedRule())
		}
		x.unauthorized()
		return
	}
	x.caller, x.denied = got.Identity, caller.NoCredentials
	doc, err := json.Marshal(tokenAnswer{got.Token, "Bearer", int(got.Expires / time.Second), got.Identity.Name})
	if err != nil { // texts and a number always marshal
		panic(err)
	}
	fields := append(x.ownTexts(), textField{"Content-Type", "application/json"}, textField{"Cache-Control", "no-store"})
	x.verdict = "token"
	x.msg.answer(x, answer{status: http.StatusOK, fields: fields, body: append(doc, '\n')})
}
