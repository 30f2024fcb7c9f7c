package testnet

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
)

// Front is what CA.SetFront takes.
type Front = func(http.ResponseWriter, *http.Request) bool

// Hang answers nothing until release is closed or the client leaves.
func Hang(release <-chan struct{}) Front {
	return func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return true
	}
}

// Answer answers every request with a status and no problem document, as a
// load balancer does; retryAfter is a header, "" for none.
func Answer(status int, retryAfter string) Front {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		http.Error(w, http.StatusText(status), status)
		return true
	}
}

// RefuseOrders answers new orders with a problem document (RFC 8555 section
// 6.7) while when says so; it is given the order as JSON. Nil: always.
func RefuseOrders(status int, typ, detail, retryAfter string, when func(order string) bool) Front {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost || r.URL.Path != pathNewOrder {
			return false
		}
		if when != nil && !when(payload(r)) {
			return false
		}
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		problem(w, status, typ, detail)
		return true
	}
}

// LoseNonces answers the first n signed requests with badNonce.
func LoseNonces(n int) Front {
	left := make(chan struct{}, n)
	for range n {
		left <- struct{}{}
	}
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost {
			return false
		}
		select {
		case <-left:
			problem(w, http.StatusBadRequest, "badNonce", "JWS has an invalid anti-replay nonce")
			return true
		default:
			return false
		}
	}
}

// ForgetAccount answers requests signed by the account at a URL as an
// authority does that does not know it.
func ForgetAccount(url string) Front {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost || !strings.Contains(header(r), `"`+url+`"`) {
			return false
		}
		problem(w, http.StatusBadRequest, "accountDoesNotExist", "Account is not known here")
		return true
	}
}

func problem(w http.ResponseWriter, status int, typ, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{ // the asker may be gone
		"type": "urn:ietf:params:acme:error:" + typ, "detail": detail, "status": status,
	})
}

// header and payload are the decoded parts of a signed request (RFC 7515
// section 7.2.2), whose body they put back.
func header(r *http.Request) string  { return part(r, func(j jws) string { return j.Protected }) }
func payload(r *http.Request) string { return part(r, func(j jws) string { return j.Payload }) }

type jws struct{ Protected, Payload string }

func part(r *http.Request, pick func(jws) string) string {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return ""
	}
	r.Body = io.NopCloser(bytes.NewReader(raw))
	var j jws
	if json.Unmarshal(raw, &j) != nil {
		return ""
	}
	out, err := base64.RawURLEncoding.DecodeString(pick(j))
	if err != nil {
		return ""
	}
	return strings.ReplaceAll(string(out), `\/`, "/")
}
