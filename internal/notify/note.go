package notify

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Note is a message ready to be shown: what it says is final, how it is
// written is up to the service.
type Note struct {
	// Title is in our own words and holds nothing of a stranger's.
	Title    string
	Severity Severity

	At time.Time

	lines  []phrase
	fields []field
	footer string
	chart  []byte // PNG; nil: none
}

// field is a titled list beside the lines.
type field struct {
	title string
	lines []phrase
}

func (c *channel) text(key string) text { return c.texts[key][c.Language] }

func (c *channel) label(l label) text { return c.text(string(l)) }

// labelled fills the number n into the body of a label.
func (c *channel) labelled(l label, n int) phrase {
	return fill(c.label(l).body, map[string]class{"n": figure}, map[string]string{"n": grouped(n, ",")})
}

// phrase returns the body of m.
func (c *channel) phrase(m Message) phrase {
	return fill(c.text(string(m.Kind)).body, c.kinds[m.Kind].args, m.Args)
}

// urgentNote tells a few messages at once.
func (c *channel) urgentNote(list []Message) *Note {
	n := &Note{At: list[len(list)-1].At}
	for i, m := range list {
		k := c.kinds[m.Kind]
		head := c.text(string(m.Kind)).head
		if i == 0 {
			n.Title = head
		}
		if k.severity > n.Severity {
			n.Severity, n.Title = k.severity, head
		}
		line := c.phrase(m)
		if len(list) > 1 {
			line = append(phrase{{head + ": ", words}}, line...)
		}
		n.lines = append(n.lines, line)
	}
	if len(list) > 1 {
		n.Title += " (" + strconv.Itoa(len(list)) + ")"
	}
	return n
}

const (
	topInDigest = 5
	topInDay    = 8
)

// digestNote tells a window of time.
func (c *channel) digestNote(g *digest, now time.Time) *Note {
	n := &Note{Title: c.label(labelDigest).head, At: now}
	c.totals(n, &g.Tally, topInDigest)
	if g.More > 0 {
		n.lines = append(n.lines, c.labelled(labelMore, g.More))
	}
	for i := len(g.Rows) - 1; i >= 0; i-- { // the latest first: it is what must not be cut
		r := &g.Rows[i]
		n.Severity = max(n.Severity, c.kinds[r.Message.Kind].severity)
		line := phrase{{r.Last.In(c.zone).Format("15:04") + " ", words}}
		line = append(line, c.phrase(r.Message)...)
		if r.Times > 1 {
			line = append(line, part{" (", words})
			line = append(line, c.labelled(labelTimes, r.Times)...)
			line = append(line, part{")", words})
		}
		n.lines = append(n.lines, line)
	}
	if g.Dropped > 0 {
		n.lines = append(n.lines, c.labelled(labelDropped, g.Dropped))
	}
	n.footer = c.span(g.Began.In(c.zone), now)
	return n
}

// totals adds the numbers of t.
func (c *channel) totals(n *Note, t *tally, most int) {
	if t.Refused > 0 {
		n.lines = append(n.lines, c.labelled(labelRefused, t.Refused))
	}
	if t.Bans > 0 {
		n.lines = append(n.lines, c.labelled(labelBans, t.Bans))
	}
	n.fields = append(n.fields,
		field{c.label(labelFamilies).head, counts(top(t.Families, most), own)},
		field{c.label(labelNetworks).head, counts(top(t.Networks, most), figure)})
}

func counts(list []Count, cl class) []phrase {
	var out []phrase
	for _, x := range list {
		out = append(out, phrase{{x.Name, cl}, {" " + grouped(x.N, ","), words}})
	}
	return out
}

func (c *channel) span(from, to time.Time) string {
	form := "15:04"
	if to.Sub(from) >= 24*time.Hour || from.YearDay() != to.YearDay() {
		form = "2006-01-02 15:04"
	}
	return fill(c.label(labelUpdated).body, map[string]class{"from": figure, "to": figure},
		map[string]string{"from": from.Format(form), "to": to.Format(form)}).plain()
}

// dayNote tells the last day.
func (c *channel) dayNote(d *daysEvents, now time.Time) *Note {
	n := &Note{Title: c.label(labelDay).head, At: now}
	c.totals(n, &d.Tally, topInDay)
	var incidents field
	incidents.title = c.label(labelIncidents).head
	for _, k := range kindOrder() {
		if times := d.Kinds[k]; times > 0 {
			incidents.lines = append(incidents.lines, phrase{{fmt.Sprintf("%s: %d", c.text(string(k)).head, times), words}})
		}
	}
	n.fields = append(n.fields, incidents)
	if d.Tally.Refused > 0 {
		n.chart = chart(d.Tally.lastDay(now))
		n.footer = c.label(labelChart).body
	}
	if len(n.lines) == 0 {
		n.lines = append(n.lines, phrase{{c.label(labelNothingElse).body, words}})
	}
	return n
}

// kindOrder is the order of kinds in lists.
func kindOrder() []Kind {
	return []Kind{
		CertTrouble, CertWell, DNSHostDown, DNSHostUp, AddressChanged, AddressTrouble, AddressWell,
		ScannerServed, LimitHit, ClientLimited, BansFull, BansOff, BansOn, GuardOff, GuardOn,
		BackendDown, BackendUp, ReloadRefused, Started, Notice, Test,
	}
}

// grouped writes n with a separator after each three digits.
func grouped(n int, sep string) string {
	s := strconv.Itoa(n)
	var b strings.Builder
	for i, r := range s {
		if i > 0 && (len(s)-i)%3 == 0 && s[i-1] != '-' {
			b.WriteString(sep)
		}
		b.WriteRune(r)
	}
	return b.String()
}

// Text writes n for services that show plain text, without its title.
func (n *Note) Text() string {
	var b strings.Builder
	for _, l := range n.lines {
		b.WriteString(l.plain() + "\n")
	}
	for _, f := range n.fields {
		if len(f.lines) == 0 {
			continue
		}
		b.WriteString(f.title + ":\n")
		for _, l := range f.lines {
			b.WriteString("  " + l.plain() + "\n")
		}
	}
	if n.footer != "" && n.chart == nil {
		b.WriteString(n.footer + "\n")
	}
	return strings.TrimRight(b.String(), "\n")
}
