package proxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"postern/internal/guard"
)

// problemDoc is a problem document (RFC 9457). reason and request_id are
// extension members: a closed set of words and the id in the access log.
type problemDoc struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	Reason    string `json:"reason"`
	RequestID string `json:"request_id"`
}

func problemBody(status int, reason, detail, id string) []byte {
	b, err := json.Marshal(problemDoc{"about:blank", http.StatusText(status), status, detail, reason, id})
	if err != nil { // strings and a number always marshal
		panic(err)
	}
	return append(b, '\n')
}

// problem answers with a problem document made here. reason becomes the
// verdict of the access line.
func (x *exchange) problem(status int, reason, detail string, more ...textField) {
	x.verdict = reason
	if v := x.altSvc(); v != "" {
		more = append(more, textField{"Alt-Svc", v})
	}
	x.msg.answer(x, answer{
		status: status,
		fields: append([]textField{
			{"Content-Type", "application/problem+json"}, {"Cache-Control", "no-store"},
			{"Proxy-Status", proxyStatus(status, reason)}, {"X-Request-Id", x.id},
		}, more...),
		body: problemBody(status, reason, detail, x.id),
	})
}

// rawProblem is a whole HTTP/1.1 answer for a connection that net/http must
// not answer.
func rawProblem(status int, reason, id string) []byte {
	body := problemBody(status, reason, "The request is not valid HTTP/1.1 (RFC 9112).", id)
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: application/problem+json\r\nCache-Control: no-store\r\nProxy-Status: %s\r\nContent-Length: %d\r\nConnection: close\r\nX-Request-Id: %s\r\n\r\n%s",
		status, http.StatusText(status), time.Now().UTC().Format(http.TimeFormat), proxyStatus(status, reason), len(body), id, body)
}

// rateFields are RateLimit, RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers)
// and Retry-After (RFC 9110 section 10.2.3).
func rateFields(policy string, d guard.Decision) []textField {
	return []textField{
		{"RateLimit-Policy", string(d.AppendPolicy(nil, policy))},
		{"RateLimit", string(d.AppendState(nil, policy))},
		{"Retry-After", string(d.AppendRetryAfter(nil))},
	}
}

// retryAfter is whole seconds, at least one.
func retryAfter(d time.Duration) string {
	s := int64((d + time.Second - 1) / time.Second)
	return strconv.FormatInt(max(s, 1), 10)
}
