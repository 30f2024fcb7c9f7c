package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Error is one thing that is wrong with the file: where, which key, what was
// wanted, and the way out.
type Error struct {
	File string // as given to Load or Parse; "" when there is no file (Minimal)
	Line int    // from 1; 0 when there is no file
	Col  int    // from 1, set for YAML syntax errors only
	Key  string // "sites[0].routes[1].upstream"; "" for the file as a whole; "--host" without a file
	Msg  string
}

// Error returns "postern.yaml:9: sites[0].upstream: what is wrong", always
// one line.
func (e Error) Error() string { return e.format() }

func (e Error) format() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File)
		if e.Line > 0 {
			b.WriteString(":" + strconv.Itoa(e.Line))
		}
		if e.Col > 0 {
			b.WriteString(":" + strconv.Itoa(e.Col))
		}
		b.WriteString(": ")
	}
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Msg)
	return strings.NewReplacer("\n", `\n`, "\r", `\r`).Replace(b.String())
}

// Errors is everything that is wrong with a file, in the order of its lines.
// It is never empty when it is returned.
type Errors []Error

// Error returns one line per error.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the single errors.
func (es Errors) Unwrap() []error {
	out := make([]error, len(es))
	for i, e := range es {
		out[i] = e
	}
	return out
}

// Warning is something that is allowed but hardly meant. It has the shape of
// an Error and stops nothing.
type Warning Error

// String returns the same line as Error.Error.
func (w Warning) String() string { return Error(w).format() }

// report collects what is found, with the lines of all keys that were read.
type report struct {
	file     string
	lines    map[string]int // key path -> line; nil when there is no file
	names    map[string]string
	errs     Errors
	warnings []Warning
	broken   map[string]bool // key paths that were not decoded
	within   map[string]bool // key paths with something broken at or below them
	unknown  map[string]bool // key paths of groups with a key that is unknown
	more     int             // errors beyond maxErrors, which are only counted
}

// maxErrors is how many errors are told; nobody reads more at once.
const maxErrors = 100

func newReport(file string) *report {
	return &report{file: file, lines: map[string]int{}, broken: map[string]bool{}, within: map[string]bool{}, unknown: map[string]bool{}}
}

// line returns the line of path, or of the nearest parent that was written.
func (r *report) line(path string) int {
	if r.lines == nil {
		return 0
	}
	for ; path != ""; path = parent(path) {
		if n, ok := r.lines[path]; ok {
			return n
		}
	}
	return 1
}

func (r *report) errorf(path, format string, args ...any) {
	r.add(Error{File: r.file, Line: r.line(path), Key: r.name(path), Msg: fmt.Sprintf(format, args...)})
}

// fail is errorf for a value that was not decoded and must not be judged.
func (r *report) fail(path, format string, args ...any) {
	r.errorf(path, format, args...)
	r.broken[path] = true
	for p := path; p != "" && !r.within[p]; p = parent(p) {
		r.within[p] = true
	}
}

func (r *report) add(e Error) {
	if len(r.errs) >= maxErrors {
		r.more++
		return
	}
	r.errs = append(r.errs, e)
}

func (r *report) warnf(path, format string, args ...any) {
	r.warnings = append(r.warnings, Warning{File: r.file, Line: r.line(path), Key: r.name(path), Msg: fmt.Sprintf(format, args...)})
}

// name returns how path is called to the user: itself, or the flag it came
// from.
func (r *report) name(path string) string {
	if n, ok := r.names[path]; ok {
		return n
	}
	return path
}

// where names another place in a message: "sites[0].hosts[1] (line 7)".
func (r *report) where(path string) string {
	if r.lines == nil {
		return r.name(path)
	}
	return fmt.Sprintf("%s (line %d)", path, r.line(path))
}

// written reports whether the file has the key.
func (r *report) written(path string) bool {
	_, ok := r.lines[path]
	return ok
}

// finish puts everything into the order of the file.
func (r *report) finish() {
	slices.SortStableFunc(r.errs, func(a, b Error) int { return cmp.Compare(a.Line, b.Line) })
	slices.SortStableFunc(r.warnings, func(a, b Warning) int { return cmp.Compare(a.Line, b.Line) })
	if r.more > 0 {
		last := r.errs[len(r.errs)-1].Line
		r.errs = append(r.errs, Error{File: r.file, Line: last, Msg: fmt.Sprintf("and %d more errors like these", r.more)})
	}
}

// isBroken reports whether path or something below or around it was not
// decoded, so that what its value says must not be judged.
func (r *report) isBroken(path string) bool {
	if r.within[path] {
		return true
	}
	for p := path; p != ""; p = parent(p) {
		if r.broken[p] {
			return true
		}
	}
	return false
}

// parent cuts the last step off a key path: a.b[1] -> a.b -> a -> "".
func parent(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}

// join adds a key to a path.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// index adds a list position to a path.
func index(path string, i int) string {
	return path + "[" + strconv.Itoa(i) + "]"
}
