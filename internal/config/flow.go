package config

import (
	"github.com/goccy/go-yaml/token"
)

// repairFlow returns the tokens with the plain texts of flow lists put
// together again, and the first token of a variable that must be quoted, if
// any.
//
// YAML 1.2.2 section 7.3.3 lets a plain text hold a ":" that no space
// follows. The scanner (goccy/go-yaml 1.19.2) cuts there when the list is
// inside braces: {upstream: [127.0.0.1:3000]} would be a list of a mapping.
func repairFlow(tokens token.Tokens) (out token.Tokens, unquoted *token.Token) {
	var open []token.Type
	inList := func() bool { return len(open) > 0 && open[len(open)-1] == token.SequenceStartType }
	for i := 0; i < len(tokens); i++ {
		tk := tokens[i]
		switch tk.Type {
		case token.SequenceStartType, token.MappingStartType:
			open = append(open, tk.Type)
		case token.SequenceEndType, token.MappingEndType:
			open = open[:max(len(open)-1, 0)]
		}
		if i+1 < len(tokens) && isPlain(tk) && tk.Value != "" && tk.Value[len(tk.Value)-1] == '$' &&
			tokens[i+1].Type == token.MappingStartType && touches(tk, tokens[i+1]) {
			return nil, tk
		}
		for inList() && i+2 < len(tokens) && isPlain(tk) && tokens[i+1].Type == token.MappingValueType &&
			touches(tk, tokens[i+1]) && isPlain(tokens[i+2]) && touches(tokens[i+1], tokens[i+2]) {
			tk = token.String(tk.Value+":"+tokens[i+2].Value, tk.Origin+":"+tokens[i+2].Origin, tk.Position)
			i += 2
		}
		if inList() && i > 0 && i+1 < len(tokens) && tk.Type == token.MappingValueType && startsEntry(tokens[i-1]) &&
			isPlain(tokens[i+1]) && touches(tk, tokens[i+1]) {
			tk = token.String(":"+tokens[i+1].Value, tk.Origin+tokens[i+1].Origin, tk.Position)
			i++
		}
		out.Add(tk)
	}
	return out, nil
}

// isPlain reports whether a token is an unquoted scalar.
func isPlain(tk *token.Token) bool {
	switch tk.Type {
	case token.StringType, token.IntegerType, token.FloatType, token.BoolType, token.NullType,
		token.HexIntegerType, token.OctetIntegerType, token.BinaryIntegerType:
		return true
	}
	return false
}

// startsEntry reports whether a list's entry begins after the token.
func startsEntry(tk *token.Token) bool {
	return tk.Type == token.SequenceStartType || tk.Type == token.CollectEntryType
}

// touches reports whether no space separates the two tokens.
func touches(a, b *token.Token) bool {
	return a.Position.Line == b.Position.Line && a.Position.Column+len([]rune(a.Value)) == b.Position.Column
}
