package config

import (
	"slices"
	"strings"
)

// nearest returns the candidate that word was most likely meant to be, or ""
// when none is near: one edit for short words, two for those of five letters
// and more, three from nine on.
func nearest(word string, candidates []string) string {
	word = strings.ToLower(word)
	best, bestDist := "", 1
	switch n := len(word); {
	case n >= 9:
		bestDist = 3
	case n >= 5:
		bestDist = 2
	case n < 2:
		return ""
	}
	bestDist++
	for _, c := range candidates {
		if d := editDistance(word, strings.ToLower(c)); d < bestDist && d < len(c) {
			best, bestDist = c, d
		}
	}
	return best
}

// editDistance counts insertions, deletions, replacements and swaps of
// neighbours (optimal string alignment).
func editDistance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}

// didYouMean returns `; did you mean "x"?` or "".
func didYouMean(word string, candidates []string) string {
	if n := nearest(word, candidates); n != "" {
		return `; did you mean "` + n + `"?`
	}
	return ""
}

// oneOf returns "a, b or c".
func oneOf(words []string) string {
	switch len(words) {
	case 0:
		return "nothing"
	case 1:
		return words[0]
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// keyWord returns our key for what people who come from elsewhere call it.
func keyWord(key string) string {
	switch key {
	case "backend", "backends", "proxy_pass", "reverse_proxy", "target", "upstreams", "server", "servers":
		return "upstream"
	case "domain", "domains", "server_name", "hostname", "hostnames", "names":
		return "hosts"
	case "certificate", "cert_file", "ssl_certificate":
		return "cert"
	case "private_key", "key_file", "ssl_certificate_key":
		return "key"
	case "location", "prefix":
		return "path"
	case "return", "rewrite":
		return "redirect"
	case "ratelimit", "limit_req":
		return "rate_limit"
	case "client_max_body_size", "body_limit":
		return "max_body"
	case "storage", "data_dir", "state":
		return "data"
	case "trusted_proxy", "set_real_ip_from":
		return "trusted_proxies"
	case "logging", "logs":
		return "log"
	case "user", "username", "login":
		return "key"
	case "password", "passwd":
		return "secret"
	}
	return ""
}

// needlessKey says what to do about a key that other programs want and postern
// has no use for, "" if it is none of those.
func needlessKey(key string) string {
	switch strings.ToLower(strings.ReplaceAll(key, "-", "_")) {
	case "websocket", "websockets", "websockets_support", "allow_websocket_upgrade":
		return "unknown key; WebSockets pass without one, remove it"
	case "http2", "http2_support", "h2":
		return "unknown key; HTTP/2 is always there, remove it"
	case "ssl_forced", "force_ssl", "https_redirect", "redirect_https", "auto_https":
		return "unknown key; port 80 leads to https by itself (http: redirect), remove it"
	case "gzip", "compress", "compression", "encode":
		return "unknown key; answers go out as the app sends them, compressed or not, remove it"
	case "basic_auth", "basicauth", "auth_basic", "access_list":
		return "unknown key; who may call is written with callers, and passwords of people are the app's to ask for"
	case "tls_insecure", "tls_insecure_skip_verify", "insecure_skip_verify", "insecureskipverify", "proxy_ssl_verify":
		return "unknown key; a backend's certificate is always checked: add its root to those of this machine (or SSL_CERT_FILE), or speak http:// to it"
	case "staging":
		return "unknown key; write acme: {directory: https://acme-staging-v02.api.letsencrypt.org/directory}"
	}
	return ""
}

// knownKey returns which of keys an unknown key was meant to be, or "".
func knownKey(key string, keys []string) string {
	if w := keyWord(strings.ToLower(key)); w != "" && slices.Contains(keys, w) {
		return w
	}
	if w := strings.ReplaceAll(strings.ToLower(key), "-", "_"); slices.Contains(keys, w) {
		return w
	}
	return nearest(key, keys)
}
