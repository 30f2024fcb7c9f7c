package app

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"postern/internal/tlsmgr"
)

// The widths of the table of certificates, in columns of a terminal.
const (
	certsWide  = 100
	certsName  = 35 // a longer name has a line of its own
	certsFixed = 8 + 10 + 10 + 7 + 5*2
)

// WriteCerts writes a table for people, at most 100 columns wide, with what is
// wrong below each certificate. running says whether list is of a running
// postern, which tries by itself.
func WriteCerts(w io.Writer, list []Cert, running bool, now time.Time) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "no certificates")
		return err
	}
	name, issuer := len("NAME"), len("ISSUER")
	for _, c := range list {
		if n := utf8.RuneCountInString(c.Name); n <= certsName {
			name = max(name, n)
		}
		issuer = max(issuer, utf8.RuneCountInString(c.Issuer))
	}
	issuer = min(issuer, certsWide-certsFixed-name)
	var b strings.Builder
	row := func(cells ...string) {
		widths := []int{name, issuer, 8, 10, 10, 7}
		line := ""
		for i, c := range cells {
			line += c + strings.Repeat(" ", max(0, widths[i]-utf8.RuneCountInString(c))+2)
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	row("NAME", "ISSUER", "KEY", "UNTIL", "NEXT TRY", "VERDICT")
	for _, c := range list {
		first := printable(c.Name)
		if utf8.RuneCountInString(first) > certsName {
			b.WriteString(first + "\n")
			first = ""
		}
		row(first, cut(printable(dash(c.Issuer)), issuer), dash(strings.TrimPrefix(c.Key, "ECDSA ")),
			untilCell(&c, now), nextCell(&c, running, now), dash(c.Verdict))
		for _, remark := range certRemarks(&c, now) {
			b.WriteString(wrap(remark, certsWide))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func untilCell(c *Cert, now time.Time) string {
	if c.State == tlsmgr.StateMissing {
		return "none yet"
	}
	return when(c.NotAfter, now)
}

func nextCell(c *Cert, running bool, now time.Time) string {
	switch {
	case c.Source == "file":
		return dash("")
	case !c.NextTry.IsZero() && c.NextTry.After(now):
		return when(c.NextTry, now)
	case c.NextTry.IsZero() && c.Waiting != "":
		return dash("")
	case running:
		return "now"
	}
	return "at a start"
}

// certRemarks are what is wrong with a certificate, a line each.
func certRemarks(c *Cert, now time.Time) []string {
	var out []string
	if c.Sentence != "" {
		head := "waits"
		if c.Verdict == "red" || c.Verdict == "amber" {
			head = c.Verdict
		}
		if !c.Since.IsZero() {
			head += " since " + moment(c.Since, now)
		}
		out = append(out, head+": "+printable(c.Sentence))
	}
	if c.LastError != "" {
		head := "last error"
		if !c.LastErrorAt.IsZero() {
			head += " at " + moment(c.LastErrorAt, now)
		}
		out = append(out, fmt.Sprintf("%s: %q", head, c.LastError))
		if c.Meaning != "" && c.Meaning != c.Sentence {
			out = append(out, "which means: "+printable(c.Meaning))
		}
	}
	if r := c.Renewal; r != nil && r.Ended.IsZero() {
		out = append(out, "a renewal that was asked for at "+moment(r.Asked, now)+" is under way")
	}
	return out
}

// RenewedCert says what became of a renewal, and whether there is a new
// certificate.
func RenewedCert(c Cert, now time.Time) (text string, ok bool) {
	r := cmp.Or(c.Renewal, &Renewal{})
	switch {
	case r.Refused != "":
		return r.Refused, false
	case r.Error == "":
		return fmt.Sprintf("%s: renewed: serial %s, until %s", c.Name, c.Serial, clock(c.NotAfter)), true
	}
	lines := []string{fmt.Sprintf("%s: not renewed: %q", c.Name, r.Error)}
	if r.Meaning != "" {
		lines = append(lines, "  which means: "+printable(r.Meaning))
	}
	if c.NotAfter.After(now) {
		lines = append(lines, "  the certificate held stays, until "+clock(c.NotAfter))
	}
	return strings.Join(lines, "\n"), false
}

// when is a time as a cell of ten columns: how far it is, or its day.
func when(t, now time.Time) string {
	d := t.Sub(now)
	switch {
	case t.IsZero():
		return dash("")
	case d <= -24*time.Hour || d >= 24*time.Hour:
		return t.Local().Format(time.DateOnly)
	case d < 0:
		return span(-d) + " ago"
	}
	return "in " + span(d)
}

// span is a time of less than a day with one unit or two.
func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
}

// moment is a time before or after now, without its day where that is clear: it
// is today's, or not yet a day ago.
func moment(t, now time.Time) string {
	today := t.Local().Format(time.DateOnly) == now.Local().Format(time.DateOnly)
	if today || now.After(t) && now.Sub(t) < 24*time.Hour {
		return t.Local().Format("15:04")
	}
	return clock(t)
}

// cut shortens s to n columns.
func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

// printable keeps whatever got into a text from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}

// wrap breaks text between words into lines that are indented, and deeper
// from the second on. A word that is wider than a line is broken too.
func wrap(text string, wide int) string {
	var b strings.Builder
	line, empty := "  ", true
	flush := func() {
		b.WriteString(line + "\n")
		line, empty = "    ", true
	}
	for _, word := range strings.Fields(text) {
		runes := []rune(word)
		if !empty && utf8.RuneCountInString(line)+1+len(runes) > wide {
			flush()
		}
		for room := wide - len(line); empty && len(runes) > room; room = wide - len(line) {
			line += string(runes[:room])
			runes = runes[room:]
			flush()
		}
		if !empty {
			line += " "
		}
		line, empty = line+string(runes), false
	}
	flush()
	return b.String()
}
