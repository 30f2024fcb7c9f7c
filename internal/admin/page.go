package admin

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"
)

//go:embed page.html
var pageHTML string

// page is the HTML page at "/": the health tree in colours and words, without
// scripts and without anything from elsewhere.
type page struct {
	version string
	tmpl    *template.Template
	policy  string // Content-Security-Policy
}

// line is one node as the page shows it.
type line struct {
	Depth  int
	Name   string
	State  State
	Quiet  bool // bad only because of a line below
	Remark string
}

// Table is a part of the page below the health tree.
type Table struct {
	Title   string
	Columns []string
	Rows    []Row
}

// Row is one line of a Table.
type Row struct {
	State State
	Cells []string // as many as there are columns

	// Remarks are whole sentences below the cells.
	Remarks []string
}

func newPage(version string) (*page, error) {
	tmpl, err := template.New("page").Parse(pageHTML)
	if err != nil {
		return nil, fmt.Errorf("admin page: %w", err)
	}
	_, rest, _ := strings.Cut(pageHTML, "<style>")
	style, _, ok := strings.Cut(rest, "</style>")
	if !ok {
		return nil, fmt.Errorf("admin page: want one <style> element")
	}
	hash := sha256.Sum256([]byte(style))
	return &page{
		version: version,
		tmpl:    tmpl,
		policy: "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) +
			"'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
	}, nil
}

func (p *page) write(w http.ResponseWriter, tree Node, tables []Table) error {
	now := time.Now()
	var b bytes.Buffer
	err := p.tmpl.Execute(&b, struct {
		Version, Now, Summary string
		State                 State
		Lines                 []line
		Tables                []Table
	}{p.version, now.Format("2006-01-02 15:04:05 MST"), summary(tree), tree.State, lines(tree, now), tables})
	if err != nil {
		http.Error(w, "page: see the log", http.StatusInternalServerError)
		return err
	}
	w.Header().Set("Content-Security-Policy", p.policy)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, err = w.Write(b.Bytes())
	return err
}

// summary is the whole state in a few words, with the first of what fails: the
// reason for which the page is opened may be far down.
func summary(tree Node) string {
	const most = 3
	switch names := tree.failing(); {
	case tree.State == Fail && len(names) == 1:
		return "1 thing fails: " + names[0]
	case tree.State == Fail && len(names) > most:
		return fmt.Sprintf("%d things fail: %s and others", len(names), strings.Join(names[:most], ", "))
	case tree.State == Fail:
		return fmt.Sprintf("%d things fail: %s", len(names), strings.Join(names, ", "))
	case tree.State == Warn:
		return "works, with a warning"
	case tree.State == OK:
		return "all is well"
	default:
		return "not known yet"
	}
}

// lines flattens what is below the root, which the summary stands for; without
// children it is the root itself.
func lines(tree Node, now time.Time) []line {
	var out []line
	var add func(n Node, depth int)
	add = func(n Node, depth int) {
		// Deeper than the style sheet indents, lines stay at its last step.
		out = append(out, line{min(depth, 5), oneLine(n.Name), n.State, n.derived(), n.remark(now)})
		for _, c := range n.Children {
			add(c, depth+1)
		}
	}
	for _, c := range tree.Children {
		add(c, 0)
	}
	if len(tree.Children) == 0 || !tree.derived() && tree.State != OK {
		root := tree
		root.Children = nil
		out = append([]line{{0, oneLine(root.Name), root.State, false, root.remark(now)}}, out...)
	}
	return out
}
