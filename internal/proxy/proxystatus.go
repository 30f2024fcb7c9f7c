package proxy

// proxyStatus is the Proxy-Status field (RFC 9209) of an answer made here, so
// that a caller can tell us from the application. The error types are those
// of its section 2.3; reason is that of the problem document.
func proxyStatus(status int, reason string) string {
	return "postern; error=" + proxyError(status, reason)
}

func proxyError(status int, reason string) string {
	switch reason {
	case "all_down":
		return "destination_unavailable"
	case "dns":
		return "dns_error"
	case "dial":
		return "connection_refused"
	case "dial_timeout":
		return "connection_timeout"
	case "tls":
		return "tls_protocol_error"
	case "send_timeout":
		return "connection_write_timeout"
	case "response_timeout", "deadline":
		return "http_response_timeout"
	case "reset", "closed":
		return "connection_terminated"
	case "malformed":
		if status < 500 {
			return "http_request_error"
		}
		return "http_protocol_error"
	case "bad_upgrade":
		return "http_upgrade_failed"
	}
	switch {
	case status == 400, status == 405, status == 408, status == 413, status == 422, status == 501:
		return "http_request_error"
	case status < 500:
		return "http_request_denied"
	case status == 503:
		return "destination_unavailable"
	}
	return "proxy_internal_error"
}
