package doctor

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// Text returns the report for people: one table, then a line for each problem
// with what to do about it.
func (r Report) Text() string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "COMPONENT\tTARGET\tSTATUS\tDETAIL")
	for _, f := range r.Checks {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", printable(f.Component), printable(f.Target), f.Status, printable(f.Detail))
	}
	_ = t.Flush() // a strings.Builder takes everything
	problems := 0
	for _, f := range r.Checks {
		if f.Status != Fail && f.Status != Warn {
			continue
		}
		if problems++; problems == 1 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s: %s: %s\n", f.Status, strings.TrimSpace(printable(f.Component+" "+f.Target)), printable(f.act()))
	}
	if problems == 0 {
		b.WriteString("\nno problem found\n")
	}
	return b.String()
}

// act is what to do, with the cause when there is nothing better to say.
func (f Finding) act() string {
	if f.Action == "" {
		return f.Detail
	}
	return f.Action
}

// printable takes out what could steer a terminal: some of it was sent by
// routers and servers of others.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0x202e || r == 0x2066 || r == 0x2067 || r == 0x2068 {
			return -1
		}
		return r
	}, s)
}
