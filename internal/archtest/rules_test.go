package archtest

import (
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strconv"
	"strings"
)

func checkSize(pkg []*file) []finding {
	var found []finding
	for _, f := range pkg {
		if f.size > 600 && !ast.IsGenerated(f.ast) && longFiles[f.path] == "" {
			found = append(found, f.at(f.ast.FileStart, "the file has %d lines", f.size))
		}
		for _, decl := range f.ast.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			lines := f.lines(fn) + 1
			if f.test {
				lines -= f.tableLines(fn)
			}
			if lines > 100 && longFuncs[f.key(fn)] == "" {
				found = append(found, f.at(fn.Pos(), "%s has %d lines", fn.Name.Name, lines))
			}
		}
	}
	return found
}

// lines is how many lines further n ends than it begins.
func (f *file) lines(n ast.Node) int {
	return f.fset.Position(n.End()).Line - f.fset.Position(n.Pos()).Line
}

// tableLines counts the lines of the tables in fn: a test may have as many
// cases as it likes.
func (f *file) tableLines(fn *ast.FuncDecl) int {
	lines := 0
	ast.Inspect(fn, func(n ast.Node) bool {
		lit, ok := n.(*ast.CompositeLit)
		if ok {
			lines += f.lines(lit)
		}
		return !ok
	})
	return lines
}

func checkGo(pkg []*file) []finding {
	var found []finding
	for _, f := range pkg {
		if f.forTests() || f.dir() == "internal/service" {
			continue
		}
		f.inspect(func(n ast.Node, key string, _ bool) {
			if _, ok := n.(*ast.GoStmt); ok && !excused(goStatements, key) {
				found = append(found, f.at(n.Pos(), "go statement in %s", key))
			}
		})
	}
	return found
}

func checkInit(pkg []*file) []finding {
	var found []finding
	for _, f := range pkg {
		for _, decl := range f.ast.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				found = append(found, f.at(fn.Pos(), "func init"))
			}
		}
	}
	return found
}

// checkVars finds package variables that are changed, or could be changed by
// whoever holds them. Tables written as composite literals pass as long as the
// package assigns nothing to them, and so do tables that a function literal
// computes.
func checkVars(pkg []*file) []finding {
	var found []finding
	declared := make(map[string]*ast.ValueSpec)
	for _, f := range pkg {
		if f.forTests() {
			continue
		}
		for _, decl := range f.ast.Decls {
			gen, ok := decl.(*ast.GenDecl)
			if !ok || gen.Tok != token.VAR {
				continue
			}
			for _, spec := range gen.Specs {
				spec := spec.(*ast.ValueSpec)
				for i, name := range spec.Names {
					if name.Name == "_" || packageVars[f.path+":"+name.Name] != "" || embedded(gen, spec) {
						continue
					}
					declared[name.Name] = spec
					if why := f.mutable(spec, i); why != "" {
						found = append(found, f.at(name.Pos(), "%s %s", name.Name, why))
					}
				}
			}
		}
	}
	for _, f := range pkg {
		if f.forTests() {
			continue
		}
		f.inspect(func(n ast.Node, _ string, _ bool) {
			for _, target := range assigned(n) {
				id := rootIdent(target)
				if id == nil || declared[id.Name] == nil {
					continue
				}
				// A name that resolves elsewhere is a local of that name.
				if id.Obj == nil || id.Obj.Decl == declared[id.Name] {
					found = append(found, f.at(n.Pos(), "%s is assigned to", id.Name))
				}
			}
		})
	}
	return found
}

func embedded(gen *ast.GenDecl, spec *ast.ValueSpec) bool {
	for _, doc := range []*ast.CommentGroup{gen.Doc, spec.Doc} {
		if doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:embed ") }) {
			return true
		}
	}
	return false
}

// mutable says why the i-th variable of spec may change, or "".
func (f *file) mutable(spec *ast.ValueSpec, i int) string {
	if len(spec.Values) != len(spec.Names) {
		return "has no value of its own"
	}
	switch v := spec.Values[i].(type) {
	case *ast.BasicLit, *ast.Ident, *ast.SelectorExpr, *ast.BinaryExpr, *ast.FuncLit:
		return ""
	case *ast.CompositeLit:
		if sel, ok := v.Type.(*ast.SelectorExpr); ok {
			if p := f.selector(sel); strings.HasPrefix(p, "sync.") || strings.HasPrefix(p, "sync/atomic.") {
				return "is shared state"
			}
		}
		return ""
	case *ast.UnaryExpr:
		if v.Op == token.AND && strings.HasPrefix(strings.ToLower(spec.Names[i].Name), "err") {
			return "" // a sentinel with fields
		}
		return "points to something that can be changed"
	case *ast.CallExpr:
		fun := v.Fun
		if generic, ok := fun.(*ast.IndexExpr); ok {
			fun = generic.X
		}
		if sel, ok := fun.(*ast.SelectorExpr); ok {
			if id, ok := sel.X.(*ast.Ident); ok && slices.Contains(constantCalls, id.Name+"."+sel.Sel.Name) {
				return ""
			}
		}
		switch fun.(type) {
		case *ast.ArrayType, *ast.FuncLit: // a conversion, a computed table
			return ""
		}
		return "is the result of a call that constantCalls does not list"
	default:
		return "is neither a constant nor a table"
	}
}

// assigned returns what n assigns to.
func assigned(n ast.Node) []ast.Expr {
	switch n := n.(type) {
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE {
			return n.Lhs
		}
	case *ast.IncDecStmt:
		return []ast.Expr{n.X}
	case *ast.CallExpr:
		if id, ok := n.Fun.(*ast.Ident); ok && (id.Name == "delete" || id.Name == "clear") && len(n.Args) > 0 {
			return n.Args[:1]
		}
	case *ast.UnaryExpr:
		if n.Op == token.AND {
			return []ast.Expr{n.X}
		}
	}
	return nil
}

// rootIdent returns x of x, x.f, x[i] and *x.
func rootIdent(e ast.Expr) *ast.Ident {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x
		case *ast.SelectorExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		default:
			return nil
		}
	}
}

func checkSleep(pkg []*file) []finding {
	var found []finding
	for _, f := range pkg {
		if !f.test {
			continue
		}
		f.inspect(func(n ast.Node, key string, bubble bool) {
			call, ok := n.(*ast.CallExpr)
			if ok && !bubble && f.callee(call) == "time.Sleep" && !excused(sleeps, key) {
				found = append(found, f.at(n.Pos(), "time.Sleep in real time"))
			}
		})
	}
	return found
}

// emptyWords open an error text without telling anything.
var emptyWords = []string{"failed", "failure to", "could not", "couldn't", "cannot", "can't", "unable", "error"}

func checkErrorText(pkg []*file) []finding {
	var found []finding
	for _, f := range pkg {
		f.inspect(func(n ast.Node, _ string, _ bool) {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return
			}
			if name := f.callee(call); name != "errors.New" && name != "fmt.Errorf" {
				return
			}
			lit, ok := call.Args[0].(*ast.BasicLit)
			if !ok {
				return
			}
			text, _ := strconv.Unquote(lit.Value)
			for _, word := range emptyWords {
				rest, opens := strings.CutPrefix(strings.ToLower(text), word)
				if opens && !startsWithLetter(rest) {
					found = append(found, f.at(n.Pos(), "the error opens with %q: %s", word, lit.Value))
				}
			}
		})
	}
	return found
}

func startsWithLetter(s string) bool { return s != "" && s[0] >= 'a' && s[0] <= 'z' }

func checkBackground(pkg []*file) []finding {
	var found []finding
	for _, f := range pkg {
		if f.forTests() || f.ast.Name.Name == "main" {
			continue
		}
		commented := make(map[int]bool)
		for _, group := range f.ast.Comments {
			for line := f.fset.Position(group.Pos()).Line; line <= f.fset.Position(group.End()).Line; line++ {
				commented[line] = true
			}
		}
		f.inspect(func(n ast.Node, _ string, _ bool) {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return
			}
			name := f.callee(call)
			if name != "context.Background" && name != "context.TODO" {
				return
			}
			if line := f.fset.Position(n.Pos()).Line; !commented[line] && !commented[line-1] {
				found = append(found, f.at(n.Pos(), "%s without a reason", path.Base(name)))
			}
		})
	}
	return found
}

func checkExit(pkg []*file) []finding {
	ends := []string{"os.Exit", "log.Fatal", "log.Fatalf", "log.Fatalln", "log.Panic", "log.Panicf", "log.Panicln", "syscall.Exit", "runtime.Goexit"}
	var found []finding
	for _, f := range pkg {
		if f.dir() == "cmd/proxy" {
			continue
		}
		f.inspect(func(n ast.Node, key string, _ bool) {
			call, ok := n.(*ast.CallExpr)
			if !ok || !slices.Contains(ends, f.callee(call)) || excused(exits, key) {
				return
			}
			if f.test && strings.HasSuffix(key, ":TestMain") {
				return
			}
			found = append(found, f.at(n.Pos(), "%s in %s", f.callee(call), key))
		})
	}
	return found
}

func checkSkip(pkg []*file) []finding {
	var found []finding
	for _, f := range pkg {
		if !f.test {
			continue
		}
		f.inspect(func(n ast.Node, _ string, _ bool) {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if ok && (sel.Sel.Name == "SkipNow" || sel.Sel.Name == "Skip") && len(call.Args) == 0 && testValue(sel.X) {
				found = append(found, f.at(n.Pos(), "%s without a reason", sel.Sel.Name))
			}
		})
	}
	return found
}

// testValue reports whether e is called as test values are.
func testValue(e ast.Expr) bool {
	id, ok := e.(*ast.Ident)
	return ok && slices.Contains([]string{"t", "b", "f", "tb"}, id.Name)
}

func checkLeftovers(pkg []*file) []finding {
	words := []string{"TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"}
	var found []finding
	for _, f := range pkg {
		for _, group := range f.ast.Comments {
			for _, c := range group.List {
				for _, word := range words {
					for _, field := range strings.FieldsFunc(c.Text, notLetter) {
						if field == word {
							found = append(found, f.at(c.Pos(), "%s in a comment", word))
						}
					}
				}
			}
		}
	}
	return found
}

func notLetter(r rune) bool { return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') }
