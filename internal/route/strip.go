package route

import "strings"

// StripPrefix removes a prefix from the path of a request, however the client
// spelled it with percent-encoding, and leaves the rest byte for byte. The
// result begins with "/"; it may begin with "//", so it is a path and never to
// be parsed as a URL. Slashes at the end of prefix do not count; a prefix of
// "" or "/" leaves the path as it is.
//
// It is false if the path does not begin with the prefix and a segment border,
// and if what is left would climb above its root ("/api/../x"): such a path is
// not below the prefix.
func StripPrefix(rawPath, prefix string) (string, bool) {
	n, found := cutPrefix(rawPath, strings.TrimRight(prefix, "/"))
	if !found {
		return "", false
	}
	rest := rawPath[n:]
	if rest == "" {
		rest = "/"
	}
	if climbs(rest) {
		return "", false
	}
	return rest, true
}

// Rest returns the part of a path that the "*" of a route's pattern stands
// for, in the client's spelling, for use in the target of a redirect: without
// slashes and backslashes at its start, so that it cannot turn what precedes
// it into another host ("//evil.example"). For a pattern without "*" it is
// empty. It is false if the pattern does not take the path, or if the rest
// would climb above its root.
func Rest(rawPath, pattern string) (string, bool) {
	prefix, below := strings.CutSuffix(pattern, "*")
	if !below && pattern != "" {
		n, found := cutPrefix(rawPath, pattern)
		return "", found && n == len(rawPath)
	}
	rest, found := StripPrefix(rawPath, prefix)
	if !found {
		return "", false
	}
	return strings.TrimLeft(rest, `/\`), true
}

// cutPrefix compares decoded characters up to the end of prefix, which must be
// the end of a segment, and returns the prefix's length in rawPath.
func cutPrefix(rawPath, prefix string) (n int, found bool) {
	if rawPath == "" || rawPath[0] != '/' {
		return 0, false
	}
	for j := 0; j < len(prefix); {
		if n == len(rawPath) {
			return 0, false
		}
		want, wantEncoded, nextWant := unit(prefix, j)
		got, gotEncoded, nextGot := unit(rawPath, n)
		if nextWant == 0 || nextGot == 0 || got != want {
			return 0, false
		}
		if gotEncoded != wantEncoded && (got == '/' || got == '\\') {
			return 0, false // %2F is not a slash
		}
		n, j = nextGot, nextWant
	}
	return n, n == len(rawPath) || rawPath[n] == '/'
}
