package config

import (
	"fmt"
	"strings"
)

// expand replaces ${NAME} and ${NAME:-default} by what getenv says; "$${" is
// a literal "${". A variable that is not set and has no default is an error;
// the default counts for an empty variable too, as in a shell. A "$" alone
// means nothing special, and what comes in is not expanded again.
func expand(s string, getenv func(string) (string, bool)) (string, error) {
	if !strings.Contains(s, "${") {
		return s, nil
	}
	var b strings.Builder
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			b.WriteString(s)
			return b.String(), nil
		}
		if i > 0 && s[i-1] == '$' {
			b.WriteString(s[:i-1] + "${")
			s = s[i+2:]
			continue
		}
		b.WriteString(s[:i])
		expr, rest, ok := strings.Cut(s[i+2:], "}")
		if !ok {
			return "", fmt.Errorf("${ has no closing }; write $${ for a literal ${")
		}
		val, err := variable(expr, getenv)
		if err != nil {
			return "", err
		}
		b.WriteString(val)
		s = rest
	}
}

func variable(expr string, getenv func(string) (string, bool)) (string, error) {
	name, def, hasDef := strings.Cut(expr, ":-")
	if !isVariableName(name) {
		return "", fmt.Errorf("${%s} is no variable, want ${NAME} or ${NAME:-default}; write $${ for a literal ${", expr)
	}
	val, ok := getenv(name)
	switch {
	case hasDef && val == "":
		return def, nil
	case !ok:
		return "", fmt.Errorf("the environment variable %s is not set; set it, or write ${%s:-default}", name, name)
	}
	return val, nil
}

func isVariableName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
