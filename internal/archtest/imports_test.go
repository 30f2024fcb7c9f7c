package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "postern/"

// listed is what `go list -json` tells of a package.
type listed struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

// goList runs `go list` in the module's folder. Without a profile: with one, the
// packages of cmd/proxy are listed as variants, "internal/app [cmd/proxy]".
func goList(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-pgo=off"}, args...)...)
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return out
}

func listPackages(t *testing.T) []listed {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(goList(t, "-e", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")))
	var packages []listed
	for {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

func TestImports(t *testing.T) {
	for _, p := range listPackages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if slices.Contains(notRooms, name) {
			continue
		}
		r, ok := rooms[name]
		if !ok {
			t.Errorf("package %s is not in the table\n\tway out: give it a line in ARCHITECTURE.md and an entry in rooms (table_test.go), or put the code where it belongs", name)
			continue
		}
		for _, imp := range p.Imports {
			checkEdge(t, name, imp, r.may)
			for _, n := range never {
				if n.pkg == name && n.imports == imp {
					t.Errorf("%s imports %s, and must not: %s", name, imp, n.why)
				}
			}
		}
		for _, imp := range slices.Concat(p.TestImports, p.XTestImports) {
			checkEdge(t, name+" (test)", imp, slices.Concat(r.may, r.test, []string{name, "internal/testnet"}))
		}
	}
}

// The table for people and the one for tests say the same.
func TestArchitecturePage(t *testing.T) {
	rows := make(map[string][]string) // package -> imports
	row := regexp.MustCompile("(?m)^\\| `((?:cmd|internal)/[^`]+|bench|clients/go|test/[^`]+)` \\| [^|]+ \\| ([^|]+) \\|$")
	for _, m := range row.FindAllStringSubmatch(read(t, "ARCHITECTURE.md"), -1) {
		var imports []string
		switch m[2] {
		case "–":
		case "all below":
			imports = []string{all}
		default:
			for name := range strings.SplitSeq(m[2], ", ") {
				imports = append(imports, "internal/"+name)
			}
		}
		slices.Sort(imports)
		rows[m[1]] = imports
	}
	for _, name := range sortedKeys(rows) {
		r, ok := rooms[name]
		if want := slices.Sorted(slices.Values(r.may)); !ok || !slices.Equal(rows[name], want) {
			t.Errorf("ARCHITECTURE.md: %s may import %v; rooms (table_test.go) has %v\n\tway out: change both together", name, rows[name], want)
		}
	}
	for _, p := range listPackages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if _, ok := rows[name]; !ok && !slices.Contains(notRooms, name) {
			t.Errorf("ARCHITECTURE.md: its table has no row for %s", name)
		}
	}
}

func checkEdge(t *testing.T, from, to string, may []string) {
	t.Helper()
	to, ours := strings.CutPrefix(to, module)
	if !ours || slices.Contains(may, to) {
		return
	}
	if slices.Contains(may, all) && to != "internal/testnet" && to != "internal/archtest" {
		return
	}
	t.Errorf("%s imports %s, which the table does not allow (it has: %s)\n\tway out: import down only; take a func or a plain value from internal/app instead, or change the design in ARCHITECTURE.md and the table together",
		from, to, strings.Join(may, ", "))
}

func TestArmsLength(t *testing.T) {
	for _, pkg := range parseAll(t) {
		for _, f := range pkg {
			if f.forTests() {
				continue
			}
			for _, imp := range f.ast.Imports {
				p := strings.Trim(imp.Path.Value, `"`)
				for _, k := range knows {
					if (p == k.library || strings.HasPrefix(p, k.library+"/")) && !slices.Contains(k.files, f.path) {
						t.Errorf("%s:%d: imports %s, which only %s may: %s",
							f.path, f.fset.Position(imp.Pos()).Line, p, strings.Join(k.files, ", "), k.why)
					}
				}
			}
		}
	}
}

// What only tests need stays out of the binary that people run.
func TestShippedBinary(t *testing.T) {
	for dep := range strings.FieldsSeq(string(goList(t, "-deps", "./cmd/proxy"))) {
		for _, no := range notShipped {
			if dep == no || strings.HasPrefix(dep, no+"/") {
				t.Errorf("cmd/proxy depends on %s\n\tway out: `go mod why %s` or `go list -deps -json ./cmd/proxy` tells through which package; keep it in _test.go files or internal/testnet", dep, dep)
			}
		}
	}
}
