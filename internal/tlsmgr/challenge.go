package tlsmgr

import (
	"net/http"
	"strings"
)

// challengePath is where http-01 is answered (RFC 8555 section 8.3).
const challengePath = "/.well-known/acme-challenge/"

// HandleHTTPChallenge answers an http-01 request for a challenge this process
// has open and returns true; anything else it leaves alone and returns false.
// Call it on the plain-HTTP listener before any redirect and any refusal of
// unknown hosts. It reads nothing but the request line and the Host header,
// and touches no disk.
func (m *Manager) HandleHTTPChallenge(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodGet || len(r.Host) > 300 || !strings.HasPrefix(r.URL.Path, challengePath) {
		return false
	}
	return m.eng.solveHTTP(w, r)
}
