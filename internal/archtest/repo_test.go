package archtest

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Every direct dependency has its sentence, and every sentence its dependency.
func TestDependenciesAreExplained(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	explained := make(map[string]bool)
	entry := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (.+) \\|$")
	for _, m := range entry.FindAllStringSubmatch(read(t, "docs/dependencies.md"), -1) {
		explained[m[1]] = true
		if len(m[2]) < 20 {
			t.Errorf("docs/dependencies.md: %s: %q is no sentence", m[1], m[2])
		}
	}
	for _, r := range mod.Require {
		if !r.Indirect && !explained[r.Path] {
			t.Errorf("go.mod requires %s, and docs/dependencies.md does not say why\n\tway out: add the row \"| `%s` | what for, and why this one |\"", r.Path, r.Path)
		}
		if !r.Indirect {
			delete(explained, r.Path)
		}
	}
	for _, p := range sortedKeys(explained) {
		t.Errorf("docs/dependencies.md explains %s, which go.mod does not require directly\n\tway out: remove the row", p)
	}
}

// texts returns the text files of the repository by their path.
func texts(t *testing.T) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); name == ".git" || name == "node_modules" || name == "bin" || name == "dist" {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil || !info.Mode().IsRegular() || info.Size() > 1<<20 || d.Name() == ".git" { // .git is a file in a linked work tree
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if utf8.Valid(b) && !bytes.ContainsRune(b, 0) {
			files[filepath.ToSlash(strings.TrimPrefix(p, root+string(filepath.Separator)))] = string(b)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestNoMachinePaths(t *testing.T) {
	for name, text := range texts(t) {
		for i, line := range strings.Split(text, "\n") {
			for _, p := range machinePaths {
				if strings.Contains(line, p) {
					t.Errorf("%s:%d: names %s, a path of one machine: %.100s", name, i+1, p, line)
				}
			}
		}
	}
}

// Links between our own pages lead somewhere, and so do their fragments.
func TestLinks(t *testing.T) {
	files := texts(t)
	link := regexp.MustCompile(`\]\(<?([^)\s>]+)>?\)`)
	for _, name := range sortedKeys(files) {
		if path.Ext(name) != ".md" {
			continue
		}
		for i, line := range strings.Split(prose(files[name]), "\n") {
			for _, m := range link.FindAllStringSubmatch(line, -1) {
				target, fragment, _ := strings.Cut(m[1], "#")
				if strings.Contains(target, ":") { // another site, or mail
					continue
				}
				to := name
				if target != "" {
					to = path.Join(path.Dir(name), target)
				}
				if _, err := os.Stat(filepath.Join(root, to)); err != nil {
					t.Errorf("%s:%d: links to %s, which does not exist", name, i+1, to)
				} else if fragment != "" && path.Ext(to) == ".md" && !slices.Contains(headings(files[to]), fragment) {
					t.Errorf("%s:%d: links to %s#%s, and no heading there has that name", name, i+1, to, fragment)
				}
			}
		}
	}
}

// prose is a Markdown text with its code blocks and spans blanked, line by
// line.
func prose(text string) string {
	lines := strings.Split(text, "\n")
	fenced := false
	span := regexp.MustCompile("`[^`]*`")
	for i, line := range lines {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
			lines[i] = ""
		} else if fenced {
			lines[i] = ""
		} else {
			lines[i] = span.ReplaceAllString(line, "")
		}
	}
	return strings.Join(lines, "\n")
}

// headings returns the fragments of a Markdown text's headings, as forges make
// them.
func headings(text string) []string {
	var names []string
	fenced := false
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
		}
		title, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " ")
		if fenced || !ok || !strings.HasPrefix(line, "#") {
			continue
		}
		name := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r > 127:
				return r
			default:
				return -1
			}
		}, strings.ToLower(title))
		base := name
		for n := 1; slices.Contains(names, name); n++ {
			name = base + "-" + string(rune('0'+n))
		}
		names = append(names, name)
	}
	return names
}
