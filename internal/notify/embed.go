package notify

import (
	"strings"
	"time"
	"unicode/utf16"
)

// Limits of a Discord message, in UTF-16 units (docs.discord.com, Channels
// Resource, Embed Limits), and our shares of the 6000 that all texts of its
// embeds have together.
const (
	shareTitle = 200
	shareLines = 3500 // the description may have 4096
	shareField = 600  // a field's value may have 1024, and there are 25
	maxFields  = 3
	shareName  = 60
	shareFoot  = 200
)

const chartName = "day.png"

// message is a request's JSON. allowed_mentions with an empty parse is always
// there: whatever slips through calls nobody.
type message struct {
	Username string   `json:"username"`
	Embeds   []embed  `json:"embeds"`
	Mentions mentions `json:"allowed_mentions"`
}

type mentions struct {
	Parse []string `json:"parse"`
}

type embed struct {
	Title       string       `json:"title"`
	Description string       `json:"description,omitempty"`
	Color       int          `json:"color"`
	Timestamp   string       `json:"timestamp,omitempty"`
	Fields      []embedField `json:"fields,omitempty"`
	Footer      *embedFooter `json:"footer,omitempty"`
	Image       *embedImage  `json:"image,omitempty"`
}

type embedField struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Inline bool   `json:"inline"`
}

type embedFooter struct {
	Text string `json:"text"`
}

type embedImage struct {
	URL string `json:"url"`
}

// discordPayload lays n out so that Discord accepts it whatever it holds.
func discordPayload(n *Note) message {
	e := embed{
		Title:       cut(n.Title, shareTitle),
		Description: discordLines(n.lines, shareLines),
		Color:       colour(n.Severity),
		Timestamp:   n.At.UTC().Format(time.RFC3339),
	}
	for _, f := range n.fields {
		if value := discordLines(f.lines, shareField); value != "" && len(e.Fields) < maxFields {
			e.Fields = append(e.Fields, embedField{Name: cut(f.title, shareName), Value: value, Inline: true})
		}
	}
	if n.footer != "" {
		e.Footer = &embedFooter{cut(n.footer, shareFoot)}
	}
	if n.chart != nil {
		e.Image = &embedImage{"attachment://" + chartName}
	}
	return message{Username: "postern", Embeds: []embed{e}, Mentions: mentions{Parse: []string{}}}
}

// discordLines writes as many lines as there is room for, whole ones, and
// says with "…" that there were more.
func discordLines(lines []phrase, room int) string {
	var b strings.Builder
	used := 0
	for _, l := range lines {
		text := l.discord()
		size := units(text) + 1
		if used+size > room-2 {
			b.WriteString("…\n")
			break
		}
		used += size
		b.WriteString(text + "\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// units is the length of s as Discord counts it.
func units(s string) int {
	n := 0
	for _, r := range s {
		n += max(utf16.RuneLen(r), 1)
	}
	return n
}

// cut shortens s to n UTF-16 units.
func cut(s string, n int) string {
	if units(s) <= n {
		return s
	}
	used := 1
	for i, r := range s {
		if used += max(utf16.RuneLen(r), 1); used > n {
			return s[:i] + "…"
		}
	}
	return s
}

func colour(s Severity) int {
	switch s {
	case Good:
		return 0x57f287
	case Warning:
		return 0xfee75c
	case Alarm:
		return 0xed4245
	}
	return 0x5865f2
}
