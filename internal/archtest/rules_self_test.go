package archtest

import (
	"fmt"
	"strings"
	"testing"
)

// Each rule is shown code that breaks it and code that does not, so that a
// rule which has gone blind is noticed.
func TestRulesCatch(t *testing.T) {
	long := strings.Repeat("\t_ = 0\n", 100)
	tests := []struct {
		rule func([]*file) []finding
		name string // of the file
		src  string // after the package clause
		want string // the findings' lines and texts
	}{
		{checkSize, "a.go", "func F() {\n" + long + "}", "3 F has 102 lines"},
		{checkSize, "a.go", "func F() {\n" + long[:98*7] + "}", ""},
		{checkSize, "a.go", "func F() {\nt := []T{\n" + strings.Repeat("{1},\n", 100) + "}\n}", "3 F has 104 lines"},
		{checkSize, "a_test.go", "func F() {\nt := []T{\n" + strings.Repeat("{1},\n", 100) + "}\n}", ""},
		{checkSize, "a.go", strings.Repeat("\n", 598), "1 the file has 601 lines"},

		{checkGo, "internal/x/a.go", "func F() { go F() }", "3 go statement in internal/x/a.go:F"},
		{checkGo, "internal/x/a.go", "type T struct{}\nfunc (t *T) M() { func() { go t.M() }() }", "4 go statement in internal/x/a.go:T.M"},
		{checkGo, "internal/x/a_test.go", "func F() { go F() }", ""},
		{checkGo, "internal/service/a.go", "func F() { go F() }", ""},

		{checkInit, "a.go", "func init() {}", "3 func init"},
		{checkInit, "a.go", "type T int\nfunc (T) init() {}", ""},

		{checkVars, "a.go", "var n int", "3 n has no value of its own"},
		{checkVars, "a.go", "import \"sync\"\nvar p = sync.Pool{}", "4 p is shared state"},
		{checkVars, "a.go", "var m = make(map[string]int)", "3 m is the result of a call that constantCalls does not list"},
		{checkVars, "a.go", "var p = &T{}", "3 p points to something that can be changed"},
		{checkVars, "a.go", "var m = map[string]int{}\nfunc F() { m[\"a\"]++ }", "4 m is assigned to"},
		{checkVars, "a.go", "var m = map[string]int{}\nfunc F() { delete(m, \"a\") }", "4 m is assigned to"},
		{checkVars, "a.go", "var s = T{}\nfunc F() { s.a.b = 1 }", "4 s is assigned to"},
		{checkVars, "a.go", "var s = T{}\nfunc F() *T { return &s }", "4 s is assigned to"},
		{checkVars, "a.go", "var s = T{}\nfunc F() { s := T{}; s.a = 1 }", ""},
		{checkVars, "a.go", "import \"errors\"\nvar errX = errors.New(\"x\")\nvar _ I = (*T)(nil)\nvar t = [...]string{\"a\"}\nvar b = []byte(\"x\")", ""},
		{checkVars, "a.go", "import _ \"embed\"\n//go:embed a.html\nvar page string", ""},
		{checkVars, "a.go", "import \"reflect\"\nvar x = reflect.TypeFor[int]()\nvar t = func() (t [256]bool) { t[0] = true; return t }()\nvar errX = &E{1}", ""},
		{checkVars, "a_test.go", "var n int", ""},
		{checkVars, "internal/testnet/a.go", "var n int", ""},

		{checkSleep, "a_test.go", "import \"time\"\nfunc F() { time.Sleep(1) }", "4 time.Sleep in real time"},
		{checkSleep, "a_test.go", "import (\"time\"; \"testing\"; \"testing/synctest\")\nfunc F(t *testing.T) { synctest.Test(t, func(t *testing.T) { time.Sleep(1) }); time.Sleep(2) }", "4 time.Sleep in real time"},
		{checkSleep, "a.go", "import \"time\"\nfunc F() { time.Sleep(1) }", ""},

		{checkErrorText, "a.go", "import \"errors\"\nvar e = errors.New(\"Failed to open\")", `4 the error opens with "failed": "Failed to open"`},
		{checkErrorText, "a.go", "import \"fmt\"\nvar e = fmt.Errorf(`cannot open %s`, s)", "4 the error opens with \"cannot\": `cannot open %s`"},
		{checkErrorText, "a.go", "import \"fmt\"\nvar e = fmt.Errorf(\"error: %s\", s)", `4 the error opens with "error": "error: %s"`},
		{checkErrorText, "a.go", "import \"fmt\"\nvar e = fmt.Errorf(\"errors=%d, open %s: cannot\", 1, s)", ""},

		{checkBackground, "a.go", "import \"context\"\nfunc F() { _ = context.Background() }", "4 context.Background without a reason"},
		{checkBackground, "a.go", "import \"context\"\nfunc F() {\n// Outlives the request.\n_ = context.Background() }", ""},
		{checkBackground, "a.go", "import \"context\"\nfunc F() { _ = context.TODO() // why\n}", ""},
		{checkBackground, "a_test.go", "import \"context\"\nfunc F() { _ = context.Background() }", ""},

		{checkExit, "internal/x/a.go", "import \"os\"\nfunc F() { os.Exit(1) }", "4 os.Exit in internal/x/a.go:F"},
		{checkExit, "internal/x/a.go", "import \"log\"\nfunc F() { log.Fatal(1) }", "4 log.Fatal in internal/x/a.go:F"},
		{checkExit, "internal/x/a.go", "func F(log T) { log.Fatal(1) }", ""},
		{checkExit, "cmd/proxy/main.go", "import \"os\"\nfunc main() { os.Exit(1) }", ""},
		{checkExit, "internal/x/a_test.go", "import (\"os\"; \"testing\")\nfunc TestMain(m *testing.M) { os.Exit(m.Run()) }", ""},

		{checkSkip, "a_test.go", "func F(t *testing.T) { t.Skip() }", "3 Skip without a reason"},
		{checkSkip, "a_test.go", "func F(t *testing.T) { t.SkipNow() }", "3 SkipNow without a reason"},
		{checkSkip, "a_test.go", "func F(t *testing.T) { t.Skip(\"no curl\"); r.Skip() }", ""},

		{checkLeftovers, "a.go", "// TO" + "DO: later", "3 TO" + "DO in a comment"},
		{checkLeftovers, "a.go", "// TO" + "DOS is another word", ""},
	}
	for _, tt := range tests {
		f, err := parse(tt.name, []byte("package p\n\n"+tt.src+"\n"))
		if err != nil {
			t.Errorf("%s: %v", tt.src, err)
			continue
		}
		var got []string
		for _, found := range tt.rule([]*file{f}) {
			got = append(got, fmt.Sprintf("%d %s", found.line, found.text))
		}
		if list := strings.Join(got, "; "); list != tt.want {
			t.Errorf("%.80q\n\tgot  %q\n\twant %q", tt.src, list, tt.want)
		}
	}
}

// An entry whose code is gone would excuse whoever writes that code anew.
func TestExceptionsAreUsed(t *testing.T) {
	known := make(map[string]bool)
	for _, pkg := range parseAll(t) {
		for _, f := range pkg {
			known[f.path] = true
			f.names(func(name string) { known[f.path+":"+name] = true })
		}
	}
	for table, entries := range map[string]map[string]string{
		"longFiles": longFiles, "longFuncs": longFuncs, "goStatements": goStatements,
		"packageVars": packageVars, "exits": exits, "sleeps": sleeps,
	} {
		for key, reason := range entries {
			if !known[key] {
				t.Errorf("%s: %s does not exist any more; remove the entry", table, key)
			}
			if len(reason) < 10 {
				t.Errorf("%s: %s has no reason", table, key)
			}
		}
	}
}
