package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// file is one parsed Go file of ours.
type file struct {
	path string // below the module, with slashes
	test bool   // its name ends in _test.go
	fset *token.FileSet
	ast  *ast.File
	size int // lines
}

func (f *file) dir() string { return path.Dir(f.path) }

// forTests reports whether only tests run f.
func (f *file) forTests() bool { return f.test || f.dir() == "internal/testnet" }

// finding is one breach of a rule.
type finding struct {
	file string
	line int
	text string
}

func (f *file) at(pos token.Pos, format string, args ...any) finding {
	return finding{f.path, f.fset.Position(pos).Line, fmt.Sprintf(format, args...)}
}

// rule looks at the files of one package at a time.
type rule struct {
	name  string
	out   string // the way out
	check func(pkg []*file) []finding
}

// rules are the ones that a look at the source can tell.
var rules = []rule{
	{"a function has at most 100 lines, a file at most 600", "split it, or give the reason in longFuncs or longFiles", checkSize},
	{"goroutines are born in internal/service", "use service.Group, or give the reason in goStatements", checkGo},
	{"no init functions", "call it from where it is needed", checkInit},
	{"package variables do not change", "move it into a struct that somebody owns; constant results go to constantCalls, reasons to packageVars", checkVars},
	{"no sleeping tests", "run it in synctest.Test, or wait for the event", checkSleep},
	{"errors tell object, wish and cause", "drop the opening words: they say nothing that `error` does not", checkErrorText},
	{"context.Background needs a reason", "pass the caller's context on, or say why in a comment on the line or above it", checkBackground},
	{"only cmd/proxy ends the process", "return an error, or give the reason in exits", checkExit},
	{"a skipped test says why", "give t.Skip a reason", checkSkip},
	{"work left to do is an issue", "do it, or file an issue and leave the word out", checkLeftovers},
}

func TestSource(t *testing.T) {
	packages := parseAll(t)
	for _, r := range rules {
		t.Run(strings.ReplaceAll(r.name, " ", "_"), func(t *testing.T) {
			for _, pkg := range packages {
				for _, f := range r.check(pkg) {
					t.Errorf("%s:%d: %s\n\trule: %s\n\tway out: %s", f.file, f.line, f.text, r.name, r.out)
				}
			}
		})
	}
}

// root is the module's folder as seen from this package.
const root = "../.."

// parseAll reads every Go file of ours, by folder.
func parseAll(t *testing.T) [][]*file {
	t.Helper()
	byDir := make(map[string][]*file)
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := filepath.ToSlash(strings.TrimPrefix(p, root+string(filepath.Separator)))
		if d.IsDir() {
			if slices.Contains(notRooms, rel) || skipDir(d.Name()) && p != root {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		src, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		f, err := parse(rel, src)
		if err != nil {
			return err
		}
		byDir[f.dir()] = append(byDir[f.dir()], f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var packages [][]*file
	for _, dir := range sortedKeys(byDir) {
		packages = append(packages, byDir[dir])
	}
	return packages
}

func skipDir(name string) bool {
	return name == "testdata" || name == "node_modules" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func parse(name string, src []byte) (*file, error) {
	fset := token.NewFileSet()
	tree, err := parser.ParseFile(fset, name, src, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	return &file{name, strings.HasSuffix(name, "_test.go"), fset, tree, fset.File(tree.FileStart).LineCount()}, nil
}

// key names a function in the exception tables.
func (f *file) key(fn *ast.FuncDecl) string {
	name := fn.Name.Name
	if fn.Recv != nil && len(fn.Recv.List) == 1 {
		name = typeName(fn.Recv.List[0].Type) + "." + name
	}
	return f.path + ":" + name
}

func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return typeName(e.X)
	case *ast.IndexExpr:
		return typeName(e.X)
	case *ast.IndexListExpr:
		return typeName(e.X)
	case *ast.Ident:
		return e.Name
	default:
		return "?"
	}
}

// inspect calls visit for every node of every function, with the function's
// key; nodes outside functions come with the file's path. Nodes of code that
// runs in a synctest bubble come with bubble set.
func (f *file) inspect(visit func(n ast.Node, key string, bubble bool)) {
	for _, decl := range f.ast.Decls {
		key := f.path
		if fn, ok := decl.(*ast.FuncDecl); ok {
			key = f.key(fn)
		}
		var walk func(n ast.Node, bubble bool)
		walk = func(n ast.Node, bubble bool) {
			ast.Inspect(n, func(c ast.Node) bool {
				if c == nil {
					return false
				}
				call, ok := c.(*ast.CallExpr)
				if !bubble && ok && f.callee(call) == "testing/synctest.Test" && len(call.Args) == 2 {
					visit(c, key, false)
					walk(call.Args[0], false)
					walk(call.Args[1], true)
					return false
				}
				visit(c, key, bubble)
				return true
			})
		}
		walk(decl, false)
	}
}

// callee returns "import/path.Func" of a call to another package's function,
// and "" for everything else.
func (f *file) callee(call *ast.CallExpr) string {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	return f.selector(sel)
}

func (f *file) selector(sel *ast.SelectorExpr) string {
	id, ok := sel.X.(*ast.Ident)
	if !ok || id.Obj != nil { // a local name, not a package
		return ""
	}
	for _, imp := range f.ast.Imports {
		p, _ := strconv.Unquote(imp.Path.Value)
		name := path.Base(p)
		if imp.Name != nil {
			name = imp.Name.Name
		}
		if name == id.Name {
			return p + "." + sel.Sel.Name
		}
	}
	return ""
}

// excused reports whether key, or the file it is in, is in the table.
func excused(table map[string]string, key string) bool {
	name, _, _ := strings.Cut(key, ":")
	return table[key] != "" || table[name] != ""
}

// names calls fn with the functions and package variables that f declares.
func (f *file) names(fn func(string)) {
	for _, decl := range f.ast.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			_, name, _ := strings.Cut(f.key(decl), ":")
			fn(name)
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				if spec, ok := spec.(*ast.ValueSpec); ok {
					for _, name := range spec.Names {
						fn(name.Name)
					}
				}
			}
		}
	}
}
