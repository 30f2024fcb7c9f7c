package caller

import "strings"

// matchPattern reports whether text matches a pattern, in which "*" stands for
// any characters of one segment, none included, and "?" for one. Segments end
// at ":" and at "/", so that arn:aws:iam::1:role/orders* is not matched by a
// role below a path that begins so, nor by another part of the name. Upper and
// lower case differ.
func matchPattern(pattern, text string) bool {
	for {
		pSeg, pEnd, pRest := segment(pattern)
		tSeg, tEnd, tRest := segment(text)
		if pEnd != tEnd || !matchSegment(pSeg, tSeg) {
			return false
		}
		if pEnd == 0 {
			return true
		}
		pattern, text = pRest, tRest
	}
}

// segment cuts s at its first ":" or "/"; end is 0 when there is none.
func segment(s string) (first string, end byte, rest string) {
	i := strings.IndexAny(s, ":/")
	if i < 0 {
		return s, 0, ""
	}
	return s[:i], s[i], s[i+1:]
}

// matchSegment matches without segments, in linear time for each "*".
func matchSegment(pattern, text string) bool {
	star, mark := -1, 0
	p, t := 0, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, t
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[t]):
			p++
			t++
		case star >= 0:
			mark++
			p, t = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
