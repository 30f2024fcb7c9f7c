package guard

import "strings"

// A matcher finds the first of many patterns in a string, in one pass that
// allocates nothing: an Aho-Corasick automaton, made dense over the few
// classes of bytes that the patterns know.
//
// It reads the string the way a careless server would: percent-encoding is
// undone, twice where it was done twice; letters are folded to lower case;
// a backslash is a slash, a plus is a space, and slashes in a row are one.
//
// A pattern is text in that normal form. "^" at its start binds it to the
// start of the string, "$" at its end to the end; "|" at its end asks for a
// slash or the end, so that "/.git|" is a folder and no prefix.
type matcher struct {
	class  [256]uint8
	width  int      // number of classes
	next   []uint16 // state × width + class -> state
	accept []uint8  // state -> 1 + index of the pattern's group; 0: none
	start  uint16   // the state after the start of the string
	end    int      // the class of the end
}

// A patternGroup is patterns that mean the same.
type patternGroup struct {
	name     Family
	patterns []string
}

// newMatcher builds the automaton. With patterns of our own that cannot go
// wrong but by a mistake in them; there may be up to 255 groups.
func newMatcher(groups []patternGroup) *matcher {
	m := &matcher{}
	var flat []flatPattern
	for g, group := range groups {
		for _, p := range group.patterns {
			flat = append(flat, flatten(p, uint8(g+1))...)
		}
	}
	m.classify(flat)
	t := trie{m: m}
	t.grow() // the root
	for _, f := range flat {
		t.add(f)
	}
	t.link()
	m.start = m.next[classStart]
	return m
}

// classOther and classStart are the classes of the bytes no pattern knows,
// and of the start of a string.
const (
	classOther = 0
	classStart = 1
)

// A flatPattern is a pattern without "|".
type flatPattern struct {
	text             string
	fromStart, toEnd bool
	accept           uint8
}

// flatten takes a pattern's marks off.
func flatten(p string, accept uint8) []flatPattern {
	f := flatPattern{accept: accept}
	p, f.fromStart = strings.CutPrefix(p, "^")
	if text, ok := strings.CutSuffix(p, "|"); ok {
		folder, file := f, f
		folder.text = text + "/"
		file.text, file.toEnd = text, true
		return []flatPattern{folder, file}
	}
	f.text, f.toEnd = strings.CutSuffix(p, "$")
	return []flatPattern{f}
}

// classify gives each byte of the patterns a class of its own.
func (m *matcher) classify(patterns []flatPattern) {
	m.width = classStart + 1
	for _, p := range patterns {
		for _, c := range []byte(p.text) {
			if m.class[c] == classOther {
				m.class[c] = uint8(m.width)
				m.width++
			}
		}
	}
	m.end = m.width
	m.width++
	for c := byte('A'); c <= 'Z'; c++ {
		m.class[c] = m.class[c+'a'-'A']
	}
	m.class['\\'] = m.class['/']
	m.class['+'] = m.class[' ']
}

// trie builds the automaton's states. 0 is the root; while building, a
// transition to it means that there is none.
type trie struct{ m *matcher }

func (t trie) grow() uint16 {
	t.m.next = append(t.m.next, make([]uint16, t.m.width)...)
	t.m.accept = append(t.m.accept, 0)
	return uint16(len(t.m.accept) - 1)
}

func (t trie) add(p flatPattern) {
	var state uint16
	step := func(class int) {
		at := int(state)*t.m.width + class
		if t.m.next[at] == 0 {
			grown := t.grow() // may move next
			t.m.next[at] = grown
		}
		state = t.m.next[at]
	}
	if p.fromStart {
		step(classStart)
	}
	for _, c := range []byte(p.text) {
		step(int(t.m.class[c]))
	}
	if p.toEnd {
		step(t.m.end)
	}
	if t.m.accept[state] == 0 {
		t.m.accept[state] = p.accept
	}
}

// link fills in the transitions that are missing: each state goes where the
// longest of its suffixes that is a state would go. Breadth first, so that
// shorter states are done before longer ones.
func (t trie) link() {
	m := t.m
	fail := make([]uint16, len(m.accept))
	queue := []uint16{0}
	for len(queue) > 0 {
		state := queue[0]
		queue = queue[1:]
		if m.accept[state] == 0 {
			m.accept[state] = m.accept[fail[state]]
		}
		for class := range m.width {
			at := int(state)*m.width + class
			var suffix uint16
			if state != 0 {
				suffix = m.next[int(fail[state])*m.width+class]
			}
			if child := m.next[at]; child != 0 {
				fail[child] = suffix
				queue = append(queue, child)
			} else {
				m.next[at] = suffix
			}
		}
	}
}

// find reads s from index i on, in the given state, and returns the group of
// the first pattern that ends there, the index after it and the state; group
// is -1 if there is none.
func (m *matcher) find(s string, i int, state uint16) (group, end int, at uint16) {
	slash := m.class['/']
	last := uint8(classStart)
	for i < len(s) {
		c := s[i]
		i++
		if c == '%' {
			c, i = unescape(s, i)
		}
		class := m.class[c]
		if class == slash && last == slash {
			continue
		}
		last = class
		state = m.next[int(state)*m.width+int(class)]
		if a := m.accept[state]; a != 0 {
			return int(a) - 1, i, state
		}
	}
	state = m.next[int(state)*m.width+m.end]
	return int(m.accept[state]) - 1, i, state
}

// unescape undoes the percent-encoding (RFC 3986 section 2.1) whose digits
// begin at s[i], twice where a percent sign was itself encoded. What is not
// an encoding is a percent sign.
func unescape(s string, i int) (byte, int) {
	c, next, ok := hexPair(s, i)
	if !ok {
		return '%', i
	}
	if c == '%' {
		if c2, next2, ok := hexPair(s, next); ok {
			return c2, next2
		}
	}
	return c, next
}

// hexPair reads two hexadecimal digits at s[i].
func hexPair(s string, i int) (byte, int, bool) {
	if i+2 > len(s) {
		return 0, i, false
	}
	hi, lo := unhex(s[i]), unhex(s[i+1])
	if hi > 15 || lo > 15 {
		return 0, i, false
	}
	return hi<<4 | lo, i + 2, true
}

// unhex returns the value of a hexadecimal digit, or more than 15.
func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 0xff
}
