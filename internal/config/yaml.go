package config

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

const (
	maxFile  = 1 << 20 // bytes of a configuration file
	maxDepth = 32      // levels of nesting, aliases included
	maxNodes = 100_000 // values read in all, aliases counted each time
)

// parseYAML returns the file's one mapping and its anchors in the order they
// are written. On errors the mapping is nil and r holds at least one.
func parseYAML(src []byte, r *report) (ast.Node, []*ast.AnchorNode) {
	src, ok := cleanSource(src, r)
	if !ok {
		return nil, nil
	}
	tokens := lexer.Tokenize(string(src))
	if tk := tooDeep(tokens); tk != nil {
		r.syntax(tk, fmt.Sprintf("nested deeper than %d levels", maxDepth))
		return nil, nil
	}
	tokens, unquoted := repairFlow(tokens)
	if unquoted != nil {
		r.syntax(unquoted, `a variable inside [ ] or { } needs quotes, want "${NAME}"`)
		return nil, nil
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		r.yamlError(err)
		return nil, nil
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if doc.Body.Type() == ast.DirectiveType {
			r.syntax(doc.Body.GetToken(), "a YAML directive, which is not used here; remove the line")
			return nil, nil
		}
		if body != nil {
			r.syntax(doc.Body.GetToken(), `a second document begins here, want one; remove the "---" before it`)
			return nil, nil
		}
		body = doc.Body
	}
	if body == nil {
		r.errorf("", "the file says nothing, want at least sites: with hosts: and upstream:")
		return nil, nil
	}
	var anchors anchorList
	ast.Walk(&anchors, body)
	return body, anchors
}

// anchorList collects the anchors of a document.
type anchorList []*ast.AnchorNode

// Visit is ast.Visitor.
func (l *anchorList) Visit(n ast.Node) ast.Visitor {
	if a, ok := n.(*ast.AnchorNode); ok {
		*l = append(*l, a)
	}
	return l
}

// cleanSource checks what a text editor may have got wrong and returns the
// text with plain line ends and no byte order mark.
func cleanSource(src []byte, r *report) ([]byte, bool) {
	if len(src) > maxFile {
		r.errorf("", "the file is larger than 1 MiB, which no configuration is; is it the right one?")
		return nil, false
	}
	if bytes.HasPrefix(src, []byte{0xff, 0xfe}) || bytes.HasPrefix(src, []byte{0xfe, 0xff}) {
		r.errorf("", "the file is UTF-16, want UTF-8; save it as UTF-8")
		return nil, false
	}
	src = bytes.TrimPrefix(src, []byte("\xef\xbb\xbf"))
	src = bytes.ReplaceAll(src, []byte("\r\n"), []byte("\n"))
	line, col := 1, 1
	for i := 0; i < len(src); {
		c, n := utf8.DecodeRune(src[i:])
		bad := ""
		switch {
		case c == utf8.RuneError && n == 1:
			bad = "a byte that is not UTF-8; save the file as UTF-8"
		case c < ' ' && c != '\n' && c != '\t', c == 0x7f, 0x80 <= c && c < 0xa0, c == 0xfeff, c == 0x2028, c == 0x2029:
			bad = fmt.Sprintf("the control character %U, which YAML does not allow; remove it", c)
		}
		if bad != "" {
			r.add(Error{File: r.file, Line: line, Col: col, Msg: bad})
			return nil, false
		}
		if c == '\n' {
			line, col = line+1, 0
		}
		i, col = i+n, col+1
	}
	return src, true
}

// tooDeep returns the token at which the nesting passes maxDepth, or nil. The
// parser takes quadratic time in the depth, so it is asked before.
func tooDeep(tokens token.Tokens) *token.Token {
	flow, entries, line := 0, 0, 0
	for _, tk := range tokens {
		if tk.Position.Line != line {
			line, entries = tk.Position.Line, 0
		}
		switch tk.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow--
		case token.SequenceEntryType, token.MappingKeyType, token.AnchorType, token.TagType:
			entries++
		}
		if flow > maxDepth || flow == 0 && entries > maxDepth {
			return tk
		}
	}
	return nil
}

// syntax reports an error at a token.
func (r *report) syntax(tk *token.Token, msg string) {
	e := Error{File: r.file, Line: 1, Msg: msg}
	if tk != nil && tk.Position != nil && tk.Position.Line > 0 {
		e.Line, e.Col = tk.Position.Line, tk.Position.Column
	}
	r.add(e)
}

// yamlError reports what the YAML parser found, in our words where its own
// would not help.
func (r *report) yamlError(err error) {
	var ye yaml.Error
	if !errors.As(err, &ye) {
		r.syntax(nil, "not YAML: "+firstLine(err.Error()))
		return
	}
	msg := firstLine(ye.GetMessage())
	switch {
	case strings.Contains(msg, `'	'`), strings.Contains(msg, "tab character"):
		msg = "a tab, want spaces; YAML indents with spaces only"
	case strings.HasPrefix(msg, "mapping value is not allowed"):
		msg = `a second ":" in one value; quote the value, or check the indentation of the next line`
	case strings.HasPrefix(msg, "value is not allowed"), strings.HasPrefix(msg, "non-map value is specified"),
		strings.HasPrefix(msg, "unexpected key name"):
		msg = `this line does not fit the one before; check the indentation, and that a ":" and a space follow the key`
	case strings.HasPrefix(msg, "found an invalid key for this map"):
		msg = `this is no key; a value that begins with [ or { needs quotes, such as "[::]:443"`
	case strings.Contains(msg, "is a reserved character"):
		msg += "; quote the value"
	case strings.HasPrefix(msg, "could not find end character of "):
		msg = "the " + strings.TrimPrefix(msg, "could not find end character of ") + " that begins here has no end; close the quote"
	case strings.HasPrefix(msg, "sequence end token"), strings.HasPrefix(msg, "could not find flow mapping end token"):
		msg = "the bracket that opens here is never closed"
	case strings.HasSuffix(msg, " must be specified"):
		msg = "want " + strings.TrimSuffix(msg, " must be specified") + " here; is a bracket not closed, or a comma missing?"
	default:
		msg = "not YAML: " + msg
	}
	r.syntax(ye.GetToken(), msg)
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}
