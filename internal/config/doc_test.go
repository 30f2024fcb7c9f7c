package config

import (
	"fmt"
	"go/ast"
	"go/doc/comment"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

const docFile = "../../docs/config.md"

// TestConfigDoc holds docs/config.md to the comments of the structs. After a
// change: go generate ./internal/config
func TestConfigDoc(t *testing.T) {
	got := (&manual{t: t, comments: structComments(t)}).page()
	if *update {
		if err := os.MkdirAll(filepath.Dir(docFile), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	compare(t, docFile, got)
}

// structComments returns the comments of the types ("Listen") and fields
// ("Listen.HTTP") of the file's structs.
func structComments(t *testing.T) map[string]string {
	t.Helper()
	var decls []ast.Decl
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		decls = append(decls, file.Decls...)
	}
	out := map[string]string{}
	for _, decl := range decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.TYPE {
			continue
		}
		for _, spec := range gen.Specs {
			ts := spec.(*ast.TypeSpec)
			out[ts.Name.Name] = gen.Doc.Text()
			st, ok := ts.Type.(*ast.StructType)
			if !ok {
				continue
			}
			for _, f := range st.Fields.List {
				if f.Tag != nil && strings.HasPrefix(f.Tag.Value, "`yaml:") { // others are no keys
					out[ts.Name.Name+"."+f.Names[0].Name] = f.Doc.Text()
				}
			}
		}
	}
	return out
}

// manual writes docs/config.md.
type manual struct {
	t        *testing.T
	comments map[string]string
	b        strings.Builder
}

func (m *manual) printf(format string, args ...any) { fmt.Fprintf(&m.b, format, args...) }

func (m *manual) page() string {
	m.intro()
	var order []reflect.Type
	places := map[reflect.Type][]string{}
	walkTypes(reflect.TypeFor[Config](), "", func(path string, t reflect.Type) {
		if len(places[t]) == 0 {
			order = append(order, t)
		}
		places[t] = append(places[t], path)
	})
	m.printf("## All keys\n\n")
	for _, t := range order {
		m.group(t, places[t])
	}
	return strings.TrimRight(m.b.String(), "\n") + "\n"
}

func (m *manual) example(name string) {
	src, err := os.ReadFile("../../examples/" + name)
	if err != nil {
		m.t.Fatal(err)
	}
	m.printf("```yaml\n%s```\n\n", src)
}

func (m *manual) intro() {
	m.printf(`# The configuration file

<!-- Made from the comments in internal/config by "go generate
./internal/config". Do not edit. -->

Postern reads one YAML file: the one named by `+"`--config`"+`, else by
`+"`$POSTERN_CONFIG`"+`, else `+"`./postern.yaml`"+`, else `+"`%s`"+`. This is enough
([examples/minimal.yaml](../examples/minimal.yaml)):

`, systemFile)
	m.example("minimal.yaml")
	m.printf("`proxy run --host mypi.duckdns.org --to 127.0.0.1:3000` means the same without a file.\n\n")
	m.printf("More to copy:\n\n")
	files, _ := filepath.Glob("../../examples/*.yaml")
	for _, f := range files {
		if name := filepath.Base(f); name != "minimal.yaml" && name != "full.yaml" {
			m.printf("- [%s](../examples/%s): %s\n", name, name, headline(m.t, f))
		}
	}
	m.printf(`
## How it is read

- **Strictly.** An unknown key, a key written twice, a value of the wrong kind
  or one that makes no sense stops the start. ` + "`proxy validate`" + ` tells everything
  that is wrong at once, each with its line, its key and the way out. A reload
  with a bad file changes nothing. What is only odd is a warning in the log.
- **Variables.** ` + "`${NAME}`" + ` in a value is replaced by the environment variable,
  ` + "`${NAME:-default}`" + ` has a default for one that is unset or empty, and ` + "`$${`" + ` is
  a literal ` + "`${`" + `. A variable that is not set and has no default is an error. What
  comes in is text and never read as YAML. Inside ` + "`[ ]` and `{ }`" + ` quote it:
  ` + "`[\"${HOST}\"]`" + `.
- **Secrets.** Every key of the kind "secret" has a sibling that ends in
  ` + "`_file`" + ` and names a file to read it from: ` + "`token_file: /run/secrets/token`" + `. The
  newline at the end of the file is not part of the secret. Give one of the two.
  Secrets are never printed, logged or shown.
- **Paths.** A relative path starts at the folder the file is in. ` + "`~`" + ` means
  nothing; write ` + "`${HOME}`" + `.
- **Lists** of one entry may be written without brackets: ` + "`methods: GET`" + `.
- **Durations** have a unit: ` + "`250ms`, `30s`, `5m`, `24h`, `7d`, `1h30m`" + `.
- **Sizes** are bytes, or a whole number with ` + "`k`, `m` or `g`" + ` (powers of 1024).
- **Networks** are ` + "`10.0.0.0/8`, `fd00::/8`" + ` or a single address.
- **Anchors** (` + "`&name`, `*name`, `<<: *name`" + `) work; tags and several documents in
  one file do not.

## Everything at once

`)
	m.example("full.yaml")
}

// headline returns the first sentence of an example's leading comment.
func headline(t *testing.T, file string) string {
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for line := range strings.Lines(string(src)) {
		text, ok := strings.CutPrefix(line, "#")
		if !ok {
			break
		}
		words = append(words, strings.TrimSpace(text))
	}
	s, _, _ := strings.Cut(strings.Join(words, " "), ". ")
	if s == "" {
		t.Errorf("%s begins with no comment that says what it is for", file)
	}
	return strings.TrimSuffix(s, ".") + "."
}

// group writes the keys of one struct.
func (m *manual) group(t reflect.Type, places []string) {
	title := "The top level"
	if places[0] != "" {
		title = "`" + strings.Join(places, "`, `") + "`"
	}
	m.printf("### %s\n\n", title)
	if text := m.comments[t.Name()]; text == "" {
		m.t.Errorf("%s has no comment", t.Name())
	} else if places[0] != "" {
		last := places[0][strings.LastIndex(places[0], ".")+1:]
		m.printf("%s\n\n", markdown(strings.Replace(text, t.Name(), "`"+strings.TrimSuffix(last, "[]")+"`", 1)))
	}
	defaults := defaultsOf(t)
	for i := range t.NumField() {
		f := t.Field(i)
		if key := f.Tag.Get("yaml"); key != "-" {
			m.key(t.Name(), f, key, defaults.Field(i))
		}
	}
	m.printf("\n")
}

// defaultsOf returns the values that the struct's keys have when they are not
// written.
func defaultsOf(t reflect.Type) reflect.Value {
	def := newValue(t).Elem()
	walkValues(reflect.ValueOf(Default()).Elem(), func(v reflect.Value) {
		if v.Type() == t {
			def = v
		}
	})
	return def
}

func walkValues(v reflect.Value, f func(reflect.Value)) {
	f(v)
	for i := range v.NumField() {
		if fv := v.Field(i); fv.Kind() == reflect.Struct && !isScalar(fv.Type()) {
			walkValues(fv, f)
		}
	}
}

// key writes one key.
func (m *manual) key(owner string, f reflect.StructField, key string, def reflect.Value) {
	text := m.comments[owner+"."+f.Name]
	if text == "" {
		m.t.Errorf("%s.%s has no comment", owner, f.Name)
		return
	}
	if key != strings.ToLower(key) || strings.Contains(key, "-") {
		m.t.Errorf("%s.%s: key %q, want lower case and underscores", owner, f.Name, key)
	}
	m.printf("- **`%s`** (%s", key, docKind(f.Type))
	switch d := defaultText(text); {
	case d == "required" || d == "optional":
		m.printf(", %s", d)
	case d != "":
		m.printf(", default %s", markdown(d))
		checkDefault(m.t, owner+"."+f.Name, d, def)
	case f.Type.Kind() != reflect.Struct:
		m.t.Errorf("%s.%s: the comment tells no default; write Default, Absent or Required", owner, f.Name)
	}
	m.printf(")\n")
	body := strings.TrimSpace(strings.Replace(reDefault.ReplaceAllString(text, ""), "Required.", "", 1))
	for line := range strings.Lines(markdown(body)) {
		m.printf("  %s", line)
	}
	m.printf("\n")
}

var (
	reDefault  = regexp.MustCompile(`(?s)Default:?\s(.+?)\.(?:\s|$)`)
	reThe      = regexp.MustCompile(`(\S+) \(the\s+default\)`)
	reQuoted   = regexp.MustCompile(`"([^"\n]+)"`)
	reCode     = regexp.MustCompile("`[^`]*`")
	reNewlines = regexp.MustCompile(`\s+`)
)

// defaultText returns what a comment says the default is, "required" when
// there is none, "optional" when the comment says what absence means.
func defaultText(text string) string {
	if g := reDefault.FindStringSubmatch(text); g != nil {
		return reNewlines.ReplaceAllString(g[1], " ")
	}
	switch g := reThe.FindStringSubmatch(text); {
	case strings.Contains(text, "Required."):
		return "required"
	case strings.Contains(text, "Absent:"), g != nil && g[1] == "Absent":
		return "optional"
	case g != nil:
		return strings.ToLower(g[1])
	}
	return ""
}

// checkDefault compares what the comment says with what the code does.
func checkDefault(t *testing.T, name, said string, def reflect.Value) {
	t.Helper()
	if def.IsZero() || def.Kind() == reflect.Slice && def.Len() > 1 || strings.Contains(said, "production directory") {
		return
	}
	if def.Kind() == reflect.Slice {
		def = def.Index(0)
	}
	want := fmt.Sprint(def.Interface())
	said = strings.TrimSpace(strings.Split(strings.ReplaceAll(said, `"`, ""), " (")[0])
	if d, ok := def.Interface().(time.Duration); ok {
		if got, err := ParseDuration(said); err != nil || got != d {
			t.Errorf("%s: the comment says %q, the code %v", name, said, d)
		}
		return
	}
	if said != want {
		t.Errorf("%s: the comment says %q, the code %q", name, said, want)
	}
}

// docKind names a type in the manual.
func docKind(t reflect.Type) string {
	switch t {
	case typeDuration:
		return "duration"
	case typePrefix:
		return "network"
	case typeSecret:
		return "secret"
	case reflect.TypeFor[Rate]():
		return "rate"
	case reflect.TypeFor[Percent]():
		return "percentage"
	case reflect.TypeFor[StatusRange]():
		return "status or range"
	case reflect.TypeFor[Size]():
		return "size"
	case reflect.TypeFor[ASN]():
		return "network number"
	case reflect.TypeFor[Addrs]():
		return "address or list"
	case reflect.TypeFor[Upstreams]():
		return "backend or list"
	case reflect.TypeFor[CallerNames]():
		return "names or any"
	case reflect.TypeFor[Callers]():
		return "names with keys"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return docKind(t.Elem())
	case reflect.Map:
		return "names with values"
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "text"
	case reflect.Int:
		return "number"
	case reflect.Slice:
		return "list of " + strings.TrimSuffix(docKind(t.Elem()), " of keys") + "s"
	}
	return "group of keys"
}

// markdown turns a comment into Markdown: quoted words become code, unless
// they are in code already.
func markdown(text string) string {
	var out strings.Builder
	code := func(s string) string { return reQuoted.ReplaceAllString(s, "`$1`") }
	last := 0
	for _, at := range reCode.FindAllStringIndex(text, -1) {
		out.WriteString(code(text[last:at[0]]) + text[at[0]:at[1]])
		last = at[1]
	}
	out.WriteString(code(text[last:]))
	return strings.TrimRight(out.String(), "\n")
}

// TestExamples reads every file people may copy.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../../examples/*.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("%v %v", files, err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := parse(file, src, testEnv())
		if err != nil {
			t.Error(err)
			continue
		}
		for _, w := range cfg.Warnings {
			if !strings.Contains(w.Msg, "example.org") { // the addresses are meant to be replaced
				t.Error(w)
			}
		}
	}
}

// TestFullExample holds examples/full.yaml to its promise: every key there is.
func TestFullExample(t *testing.T) {
	src, err := os.ReadFile("../../examples/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r := newReport("full.yaml")
	root, anchors := parseYAML(src, r)
	cfg := Default()
	d := &decoder{report: r, env: testEnv(), dir: ".", anchors: anchors}
	d.value(root, reflect.ValueOf(cfg).Elem(), "")
	if len(r.errs) > 0 {
		t.Fatal(r.errs)
	}
	index := regexp.MustCompile(`\[\d+\]`)
	chosen := regexp.MustCompile(`^(callers|sites\[\]\.routes\[\]\.headers\.\w+\.set)\.[^.]+`)
	var have []string
	for path := range r.lines {
		have = append(have, chosen.ReplaceAllString(index.ReplaceAllString(path, "[]"), "$1.NAME"))
	}
	walkTypes(reflect.TypeFor[Config](), "", func(path string, typ reflect.Type) {
		for key := range fieldsOf(typ) {
			if want := join(path, key); !slices.Contains(have, want) {
				t.Errorf("%s is not in it", want)
			}
		}
	})
}

// TestYAMLInDocs reads the configs in the documentation: every yaml block
// that has sites.
func TestYAMLInDocs(t *testing.T) {
	files, _ := filepath.Glob("../../docs/*.md")
	if _, err := os.Stat("../../README.md"); err == nil {
		files = append(files, "../../README.md")
	}
	block := regexp.MustCompile("(?s)```ya?ml\n(.*?)```")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range block.FindAllSubmatchIndex(text, -1) {
			src := string(text[at[2]:at[3]])
			if !strings.HasPrefix(src, "sites:") && !strings.Contains(src, "\nsites:") {
				continue
			}
			first := strings.Count(string(text[:at[2]]), "\n")
			if _, err := parse(file, []byte(strings.Repeat("\n", first)+src), testEnv()); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestCommentsAreProse keeps the comments in a form that Markdown and godoc
// both show well.
func TestCommentsAreProse(t *testing.T) {
	var p comment.Parser
	for name, text := range structComments(t) {
		for _, b := range p.Parse(text).Content {
			if _, ok := b.(*comment.Paragraph); !ok {
				t.Errorf("%s: a %T in the comment, want paragraphs", name, b)
			}
		}
		if s := strings.TrimSpace(text); !strings.HasSuffix(s, ".") {
			t.Errorf("%s: %q does not end in a full stop", name, s)
		}
	}
}
