package admin

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// State says how a part of the process is doing.
type State string

// The four states. The zero State means "derive it": from the children, or
// Unknown when there are none.
const (
	OK      State = "ok"
	Warn    State = "warn"    // works, but a person should look some time
	Fail    State = "fail"    // does not work
	Unknown State = "unknown" // not looked at yet, or hidden by another failure
)

// rank orders states from good to bad, for the parent of several.
func (s State) rank() int {
	switch s {
	case OK:
		return 0
	case Warn:
		return 2
	case Fail:
		return 3
	default:
		return 1
	}
}

// Node is one line of the health tree: a part of the process, and below it
// the parts it is made of. It is a plain value; whoever makes it owns it.
type Node struct {
	Name  string `json:"name"`
	State State  `json:"state"`

	// Detail is one sentence for people: the cause and the way out when
	// something is wrong, a fact worth knowing when it is not.
	Detail string `json:"detail,omitempty"`

	// Since is when State last changed. Zero: not known.
	Since time.Time `json:"since,omitzero"`

	// Needs names siblings without which this part cannot work. While one of
	// them fails, this part is shown as unknown unless it is ok, so that one
	// cause gives one red line.
	Needs []string `json:"needs,omitempty"`

	Children []Node `json:"children,omitempty"`
}

// Resolve returns the tree with every state filled in, and changes nothing in
// n itself. From the leaves up:
//
//   - an unset state becomes the worst of the children (fail, warn, unknown,
//     ok), or unknown without children;
//   - a part that is not ok and needs a sibling that fails, directly or through
//     others, becomes unknown with everything below it that is not ok, and its
//     detail names the failing sibling.
func (n Node) Resolve() Node {
	children := make([]Node, len(n.Children))
	for i, c := range n.Children {
		children[i] = c.Resolve()
	}
	for i := range children {
		if children[i].State == OK {
			continue
		}
		if cause := failingNeed(children, i, nil); cause != "" {
			children[i] = children[i].hidden("waits for " + cause)
		}
	}
	n.Children = children
	if n.State == "" {
		n.State = worst(children)
	}
	return n
}

func worst(nodes []Node) State {
	if len(nodes) == 0 {
		return Unknown
	}
	state := OK
	for _, n := range nodes {
		if n.State.rank() > state.rank() {
			state = n.State
		}
	}
	return state
}

// failingNeed returns the name of the failing node that nodes[i] needs, or
// "". Of a chain it returns the end, which is the cause. A circle of needs has
// no cause in it.
func failingNeed(nodes []Node, i int, seen []int) string {
	for _, s := range seen {
		if s == i {
			return ""
		}
	}
	seen = append(seen, i)
	for _, name := range nodes[i].Needs {
		for j := range nodes {
			if nodes[j].Name != name || nodes[j].State == OK {
				continue
			}
			if cause := failingNeed(nodes, j, seen); cause != "" {
				return cause
			}
			if nodes[j].State == Fail && !contains(seen, j) {
				return name
			}
		}
	}
	return ""
}

func contains(list []int, x int) bool {
	for _, v := range list {
		if v == x {
			return true
		}
	}
	return false
}

// hidden returns n as a part whose state cannot be told.
func (n Node) hidden(why string) Node {
	n.State, n.Detail, n.Since = Unknown, why, time.Time{}
	children := make([]Node, len(n.Children))
	for i, c := range n.Children {
		if c.State != OK {
			c = c.hidden("")
		}
		children[i] = c
	}
	n.Children = children
	return n
}

// Causes returns the failing nodes that are not red merely because something
// below them is, as paths such as "certificates / mypi.duckdns.org: CAA lookup
// timed out". n must be resolved.
func (n Node) Causes() []string {
	var causes []string
	n.walk(nil, func(path []string, n Node) {
		if n.State != Fail || n.derived() {
			return
		}
		line := strings.Join(path, " / ")
		if n.Detail != "" {
			line += ": " + n.Detail
		}
		causes = append(causes, oneLine(line))
	})
	return causes
}

// failing returns the names of what Causes tells about.
func (n Node) failing() []string {
	var names []string
	n.walk(nil, func(_ []string, n Node) {
		if n.State == Fail && !n.derived() {
			names = append(names, oneLine(n.Name))
		}
	})
	return names
}

// derived reports whether a child is as bad as n, so that the child's line
// tells the cause.
func (n Node) derived() bool {
	return len(n.Children) > 0 && n.State != OK && worst(n.Children) == n.State
}

// walk calls fn for n and everything below it with the names on the way. The
// root's own name is left out of its descendants' paths.
func (n Node) walk(path []string, fn func(path []string, n Node)) {
	if len(path) == 0 {
		fn([]string{n.Name}, n)
		path = []string{}
	} else {
		fn(path, n)
	}
	for _, c := range n.Children {
		sub := append(append([]string{}, path...), c.Name)
		c.walk(sub, fn)
	}
}

// Text returns the tree as aligned lines: state, name, detail and, unless the
// part is ok, for how long it has been so at now.
//
//   - postern
//     ok         listeners
//   - certificates
//     fail         mypi.duckdns.org  CAA lookup timed out at ns1.duckdns.org (for 12m)
//     ok           www.example.org   until 2026-11-02
//     unknown    ddns                waits for internet
//
// A part that is bad only because of something below it has "-" for a state:
// so many lines begin with "fail" as there are causes. n must be resolved.
func (n Node) Text(now time.Time) string {
	type row struct{ state, name, detail string }
	var rows []row
	width := 0
	var add func(n Node, depth int)
	add = func(n Node, depth int) {
		r := row{string(n.State), strings.Repeat("  ", depth) + oneLine(n.Name), n.remark(now)}
		if n.derived() {
			r.state = "-"
		}
		rows = append(rows, r)
		width = max(width, utf8.RuneCountInString(r.name))
		for _, c := range n.Children {
			add(c, depth+1)
		}
	}
	add(n, 0)
	var b strings.Builder
	for _, r := range rows {
		pad := strings.Repeat(" ", width-utf8.RuneCountInString(r.name))
		line := fmt.Sprintf("%-8s %s%s  %s", r.state, r.name, pad, r.detail)
		b.WriteString(strings.TrimRight(line, " "))
		b.WriteByte('\n')
	}
	return b.String()
}

// remark is the detail with the time the state has lasted.
func (n Node) remark(now time.Time) string {
	detail := oneLine(n.Detail)
	if n.State == OK || n.Since.IsZero() || n.derived() {
		return detail
	}
	return strings.TrimLeft(detail+" (for "+ago(now.Sub(n.Since))+")", " ")
}

// ago is d as people say it, with one unit or two.
func ago(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d/time.Second)))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d/time.Minute))
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d/time.Hour), int(d%time.Hour/time.Minute))
	default:
		return fmt.Sprintf("%dd%02dh", int(d/(24*time.Hour)), int(d%(24*time.Hour)/time.Hour))
	}
}

// oneLine keeps whatever got into a name or a detail from starting a line of
// its own or steering the terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}
