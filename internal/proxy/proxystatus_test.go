package proxy

import (
	"net"
	"net/http"
	"strings"
	"testing"
)

// Every error type is one of the registry's (RFC 9209 section 2.3), and says
// what happened.
func TestProxyError(t *testing.T) {
	registered := strings.Fields(`dns_timeout dns_error destination_not_found destination_unavailable
		destination_ip_prohibited destination_ip_unroutable connection_refused connection_terminated connection_timeout
		connection_read_timeout connection_write_timeout connection_limit_reached tls_protocol_error
		tls_certificate_error tls_alert_received http_request_error http_request_denied http_response_incomplete
		http_response_header_section_size http_response_header_size http_response_body_size
		http_response_trailer_section_size http_response_trailer_size http_response_transfer_coding
		http_response_content_coding http_response_timeout http_upgrade_failed http_protocol_error
		proxy_internal_response proxy_internal_error proxy_configuration_error proxy_loop_detected`)
	known := make(map[string]bool)
	for _, r := range registered {
		known[r] = true
	}
	for _, c := range []struct {
		status int
		reason string
		want   string
	}{
		{503, "all_down", "destination_unavailable"}, {502, "dns", "dns_error"}, {502, "dial", "connection_refused"},
		{502, "tls", "tls_protocol_error"}, {504, "dial_timeout", "connection_timeout"},
		{504, "send_timeout", "connection_write_timeout"}, {504, "response_timeout", "http_response_timeout"},
		{504, "deadline", "http_response_timeout"}, {502, "reset", "connection_terminated"},
		{502, "closed", "connection_terminated"}, {502, "malformed", "http_protocol_error"},
		{502, "request", "proxy_internal_error"}, {502, "other", "proxy_internal_error"},
		{400, "malformed", "http_request_error"}, {400, "bad_path", "http_request_error"},
		{413, "body_too_large", "http_request_error"}, {405, "method", "http_request_error"},
		{408, "body_stalled", "http_request_error"}, {501, "extended_connect", "http_request_error"},
		{401, "no_credentials", "http_request_denied"}, {403, "https_only", "http_request_denied"},
		{404, "no_route", "http_request_denied"}, {429, "rate_limited", "http_request_denied"},
		{502, "bad_upgrade", "http_upgrade_failed"}, {503, "overloaded", "destination_unavailable"},
	} {
		if got := proxyError(c.status, c.reason); got != c.want || !known[got] {
			t.Errorf("%d %s: %s, want %s, one of the registry", c.status, c.reason, got, c.want)
		}
	}
}

// A caller can tell our answer from the application's.
func TestProxyStatus(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := l.Addr().String()
	l.Close()
	up := backend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) })
	for _, c := range []struct{ target, want string }{{gone, "postern; error=connection_refused"}, {up, ""}} {
		for _, h2 := range []bool{false, true} {
			r := start(t, options{sites: []testSite{proxyTo(t, c.target)}}) // that does not know yet that it is down
			res, err := r.httpClient(h2).Do(request(t, "GET", "https://a.test/", nil))
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if got := res.Header.Get("Proxy-Status"); res.StatusCode != 502 || got != c.want {
				t.Errorf("h2 %t: %d with Proxy-Status %q, want %q", h2, res.StatusCode, got, c.want)
			}
		}
	}
}
