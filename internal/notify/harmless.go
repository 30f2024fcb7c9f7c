package notify

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Values are cut to this many runes.
const (
	maxValue    = 120
	maxSentence = 400
)

// clean returns s as one line that steers nothing: what does not print, what
// changes the direction of writing or takes no room (Unicode classes Cc, Cf,
// Zl, Zp, surrogates and private use), and combining marks beyond two in a
// row become spaces or go; at most limit runes are left.
func clean(s string, limit int) string {
	var b strings.Builder
	n, marks, space := 0, 0, true // no space at the beginning
	for i, r := range s {
		if n >= limit {
			b.WriteRune('…')
			break
		}
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)):
			r = '?'
		case unicode.Is(unicode.Cf, r) || invisible(r):
			continue
		case unicode.IsSpace(r) || !unicode.IsPrint(r):
			r = ' '
		}
		if unicode.Is(unicode.M, r) {
			if marks++; marks > 2 {
				continue
			}
		} else {
			marks = 0
		}
		if r == ' ' && space {
			continue
		}
		space = r == ' '
		b.WriteRune(r)
		n++
	}
	return strings.TrimRight(b.String(), " ")
}

// invisible reports letters that show nothing though Unicode counts them
// among the printing ones: Hangul fillers and the Braille blank, variation
// selectors and tags.
func invisible(r rune) bool {
	switch r {
	case 0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0:
		return true
	}
	return r >= 0xFE00 && r <= 0xFE0F || r >= 0xE0000 && r <= 0xE0FFF || r >= 0x180B && r <= 0x180F
}

// disarm takes links, mentions and markup out of s, which is clean: what
// services make links or calls of no longer reads as such, to a machine. A
// person still can read it.
func disarm(s string) string {
	var b strings.Builder
	for i, r := range s {
		switch r {
		case '`', '´', '\'', '"':
			r = '’'
		case '<':
			r = '‹'
		case '>':
			r = '›'
		case '@':
			b.WriteString("(at)")
			continue
		case '\\':
			r = '⧵'
		case '|':
			r = '¦'
		case ':':
			if strings.HasPrefix(s[i+1:], "/") {
				b.WriteString("[:]")
				continue
			}
		}
		b.WriteRune(r)
	}
	return unlink(b.String())
}

// unlink turns http into hxxp, in either case and width.
func unlink(s string) string {
	out := []rune(s)
	for i := 0; i+3 < len(out); i++ {
		if plainLetter(out[i]) == 'h' && plainLetter(out[i+1]) == 't' && plainLetter(out[i+2]) == 't' && plainLetter(out[i+3]) == 'p' {
			out[i+1], out[i+2] = 'x', 'x'
		}
	}
	return string(out)
}

// plainLetter is r as a small ASCII letter, if it is a letter of ASCII or of
// the full-width forms.
func plainLetter(r rune) rune {
	if r >= 0xFF01 && r <= 0xFF5E {
		r -= 0xFEE0
	}
	if r >= 'A' && r <= 'Z' {
		r += 'a' - 'A'
	}
	return r
}

// undot keeps services that make links of bare names from doing so.
func undot(s string) string {
	var b strings.Builder
	rs := []rune(s)
	for i, r := range rs {
		if r == '.' && i+1 < len(rs) && unicode.IsLetter(rs[i+1]) {
			b.WriteString("[.]")
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// tame returns the value as it may be shown, by its class.
func (p part) tame() string {
	switch p.class {
	case words:
		return p.text
	case figure:
		if isFigure(p.text) {
			return p.text
		}
	case sentence:
		return orNothing(disarm(clean(p.text, maxSentence)))
	}
	return orNothing(disarm(clean(p.text, maxValue)))
}

func orNothing(s string) string {
	if s == "" {
		return "?"
	}
	return s
}

// isFigure reports whether s is what numbers, times, durations and addresses
// are written with.
func isFigure(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, r := range s {
		if !strings.ContainsRune("0123456789abcdefhms .:+-,/%ZT", r) {
			return false
		}
	}
	return !strings.Contains(s, "//") && !strings.Contains(s, ":/") && !strings.Contains(s, "  ") && s[0] != ' ' && s[len(s)-1] != ' '
}

// discord writes p for Discord: our words are markdown, each value stands in
// a code span, in which nothing is a link, a mention or markup.
func (p phrase) discord() string {
	var b strings.Builder
	for _, x := range p {
		if x.class == words {
			b.WriteString(x.text)
			continue
		}
		b.WriteString("`" + x.tame() + "`")
	}
	return b.String()
}

// plain writes p for services that show text.
func (p phrase) plain() string {
	var b strings.Builder
	for _, x := range p {
		switch x.class {
		case words:
			b.WriteString(x.text)
		case stranger:
			b.WriteString(`"` + unmark(undot(x.tame())) + `"`)
		case sentence:
			b.WriteString(unmark(undot(x.tame())))
		default:
			b.WriteString(unmark(x.tame()))
		}
	}
	return b.String()
}

// unmark takes away the signs that services without code spans read as
// markup.
func unmark(s string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case '*', '~':
			return '·'
		case '_':
			return '‗'
		case '[', '{':
			return '('
		case ']', '}':
			return ')'
		case '#':
			return '♯'
		case '&':
			return '+'
		}
		return r
	}, s)
}
