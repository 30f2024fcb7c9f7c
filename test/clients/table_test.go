package clients

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
)

const (
	matrixPage  = "../../docs/callers.md"
	matrixBegin = "<!-- the matrix, written by go test ./test/clients -run TestMatrix -update -->\n"
	matrixEnd   = "<!-- the end of the matrix -->\n"
)

// table is the matrix in Markdown: errors of GET and of POST.
func (m *matrix) table() string {
	var b strings.Builder
	b.WriteString("| client |")
	for _, s := range matrixScenarios {
		fmt.Fprintf(&b, " %s |", s.name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(matrixScenarios)) + "\n")
	for _, c := range m.clients {
		fmt.Fprintf(&b, "| %s |", c.label)
		for _, s := range matrixScenarios {
			errs := c.errors[s.name]
			switch {
			case errs[0] == nil:
				b.WriteString(" not run |")
			case failures(errs[0])+failures(errs[1]) == 0:
				b.WriteString(" 0 |")
			default:
				fmt.Fprintf(&b, " **%d, %d** of %d |", failures(errs[0]), failures(errs[1]), len(errs[0]))
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// writeMatrix puts the table between its marks.
func writeMatrix(t *testing.T, table string) {
	t.Helper()
	page, err := os.ReadFile(matrixPage)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, began := bytes.Cut(page, []byte(matrixBegin))
	_, after, ended := bytes.Cut(rest, []byte(matrixEnd))
	if !began || !ended {
		t.Fatalf("%s has not the marks %q and %q", matrixPage, matrixBegin, matrixEnd)
	}
	var out bytes.Buffer
	for _, part := range [][]byte{before, []byte(matrixBegin), []byte(table), []byte(matrixEnd), after} {
		out.Write(part)
	}
	if err := os.WriteFile(matrixPage, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
