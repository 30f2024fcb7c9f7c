package config

import (
	"encoding"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// decoder fills structs from the YAML tree by the yaml tags of their fields.
// It goes on after an error, so that one run finds them all, and notes the
// line of every key for the rules that come after.
type decoder struct {
	*report
	env     environment
	dir     string // the folder of the file; relative *_file paths start here
	anchors []*ast.AnchorNode
	open    []*ast.AnchorNode // aliases being resolved, against cycles
	nodes   int
}

// defaulter is a struct with defaults of its own, set before its keys are
// read.
type defaulter interface{ setDefaults() }

// shorthand is a struct that may be written as one plain value. When it
// returns false, the value means that the struct is absent.
type shorthand interface {
	fromScalar(text string) (present bool, err error)
	shorthandForm() string // what the plain value is, for messages
}

var (
	typeDuration = reflect.TypeFor[time.Duration]()
	typePrefix   = reflect.TypeFor[netip.Prefix]()
	typeSecret   = reflect.TypeFor[Secret]()
)

// value decodes n into v. It reports whether v was meant to be present.
func (d *decoder) value(n ast.Node, v reflect.Value, path string) bool {
	if d.nodes++; d.nodes > maxNodes {
		if d.nodes == maxNodes+1 {
			d.fail(path, "the file unfolds to more than %d values through its aliases; write it plainly", maxNodes)
		}
		return false
	}
	if strings.Count(path, ".")+strings.Count(path, "[") > maxDepth {
		d.fail(path, "nested deeper than %d levels", maxDepth)
		return false
	}
	n, closeAlias := d.resolve(n, path)
	defer closeAlias()
	if n == nil {
		return false
	}
	if n.Type() == ast.NullType {
		d.fail(path, "has no value, want %s; give it one or remove the key", kindOf(v.Type()))
		return false
	}
	if v.Kind() == reflect.Pointer {
		fresh := newValue(v.Type().Elem())
		if d.value(n, fresh.Elem(), path) {
			v.Set(fresh)
		}
		return true
	}
	switch {
	case isScalar(v.Type()):
		d.scalar(n, v, path)
	case v.Kind() == reflect.Slice:
		d.list(n, v, path)
	case v.Kind() == reflect.Map:
		d.named(n, v, path)
	case v.Kind() == reflect.Struct:
		return d.structure(n, v, path)
	}
	return true
}

// named decodes a group whose keys the file is free to choose.
func (d *decoder) named(n ast.Node, v reflect.Value, path string) {
	pairs, ok := d.pairs(n, path)
	if !ok {
		d.fail(path, "is no group, want %s", kindOf(v.Type()))
		return
	}
	out := reflect.MakeMap(v.Type())
	for _, p := range pairs {
		at := join(path, p.key)
		d.lines[at] = p.line
		elem := newValue(v.Type().Elem()).Elem()
		d.value(p.value, elem, at)
		out.SetMapIndex(reflect.ValueOf(p.key), elem)
	}
	v.Set(out)
}

// newValue returns a pointer to a new t that holds its defaults.
func newValue(t reflect.Type) reflect.Value {
	p := reflect.New(t)
	if def, ok := p.Interface().(defaulter); ok {
		def.setDefaults()
	}
	return p
}

// isScalar reports whether t is written as one plain value.
func isScalar(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int64:
		return true
	}
	return t == typePrefix || t == typeSecret || reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// resolve follows anchors and aliases. The returned func must be called when
// the value was read.
func (d *decoder) resolve(n ast.Node, path string) (ast.Node, func()) {
	depth := len(d.open)
	done := func() { d.open = d.open[:depth] }
	for {
		switch t := n.(type) {
		case *ast.AnchorNode:
			if t.Value == nil {
				d.fail(path, "the anchor has no value")
				return nil, done
			}
			if slices.Contains(d.open, t) {
				d.fail(path, "the alias contains itself")
				return nil, done
			}
			d.open = append(d.open, t)
			n = t.Value
		case *ast.AliasNode:
			a := d.anchor(t)
			if a == nil {
				if text := nodeText(t.Value); text == "" || strings.HasPrefix(text, ".") {
					d.fail(path, `a value that begins with * needs quotes, want "*%s"`, text)
				} else {
					d.fail(path, "*%s refers to no anchor above; write &%s before the value to be repeated", text, text)
				}
				return nil, done
			}
			n = a
		case *ast.TagNode:
			d.fail(path, "has the YAML tag %s, which is not used here; remove it", t.GetToken().Value)
			return nil, done
		default:
			return n, done
		}
	}
}

// anchor returns the last anchor of the alias's name before it.
func (d *decoder) anchor(alias *ast.AliasNode) *ast.AnchorNode {
	at := alias.GetToken().Position.Offset
	for _, a := range slices.Backward(d.anchors) {
		if a.GetToken().Position.Offset < at && nodeText(a.Name) == nodeText(alias.Value) {
			return a
		}
	}
	return nil
}

func nodeText(n ast.Node) string {
	if n == nil || n.GetToken() == nil {
		return ""
	}
	return n.GetToken().Value
}

// text returns the text of a scalar with its variables replaced.
func (d *decoder) text(n ast.Node, path, want string) (text string, ok bool) {
	switch t := n.(type) {
	case *ast.StringNode:
		text = t.Value
	case *ast.LiteralNode:
		if t.Value != nil {
			text = t.Value.Value
		}
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		text = n.GetToken().Value
	case *ast.MappingNode, *ast.MappingValueNode:
		d.fail(path, "is a group of keys, want %s", want)
		return "", false
	case *ast.SequenceNode:
		d.fail(path, "is a list, want %s", want)
		return "", false
	default:
		d.fail(path, "is a YAML %s, want %s", strings.ToLower(n.Type().YAMLName()), want)
		return "", false
	}
	text, err := expand(text, d.env.getenv)
	if err != nil {
		d.fail(path, "%v", err)
		return "", false
	}
	return text, true
}

// scalar decodes one plain value.
func (d *decoder) scalar(n ast.Node, v reflect.Value, path string) {
	want := kindOf(v.Type())
	text, ok := d.text(n, path, want)
	if !ok {
		return
	}
	if v.Type() == typeSecret {
		v.Set(reflect.ValueOf(NewSecret(text)))
		return
	}
	if n.Type() == ast.BoolType && v.Kind() != reflect.Bool {
		d.fail(path, "is %s, want %s; quote it if the word itself is meant", text, want)
		return
	}
	if err := setScalar(v, text); err != nil {
		d.fail(path, "%v", err)
	}
}

// setScalar parses text into v, by v's type.
func setScalar(v reflect.Value, text string) error {
	switch v.Type() {
	case typeDuration:
		dur, err := ParseDuration(text)
		v.SetInt(int64(dur))
		return err
	case typePrefix:
		p, err := ParsePrefix(text)
		v.Set(reflect.ValueOf(p))
		return err
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := parseBool(text)
		v.SetBool(b)
		return err
	case reflect.Int:
		i, err := strconv.ParseInt(text, 10, 32)
		if errors.Is(err, strconv.ErrRange) {
			return fmt.Errorf("%s is beyond what a number can be here, want at most %d", text, 1<<31-1)
		} else if err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
		v.SetInt(i)
	}
	return nil
}

func parseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	case "yes", "on", "y":
		return false, fmt.Errorf("%q is neither true nor false; did you mean true?", s)
	case "no", "off", "n":
		return false, fmt.Errorf("%q is neither true nor false; did you mean false?", s)
	}
	return false, fmt.Errorf("%q is neither true nor false", s)
}

// list decodes a list, or a single value that stands for a list of one. The
// empty text stands for an empty list of addresses.
func (d *decoder) list(n ast.Node, v reflect.Value, path string) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		if d.shortList(n, v, path) {
			return
		}
		if !isScalar(v.Type().Elem()) {
			d.fail(path, `is not a list, want each entry to begin with "- "`)
			return
		}
		one := reflect.MakeSlice(v.Type(), 1, 1)
		if v.Type() == reflect.TypeFor[Addrs]() {
			text, ok := d.text(n, path, kindOf(v.Type()))
			if ok && text == "" {
				one = reflect.MakeSlice(v.Type(), 0, 0)
			}
			if !ok || text == "" {
				v.Set(one)
				return
			}
		}
		d.scalar(n, one.Index(0), path)
		v.Set(one)
		return
	}
	out := reflect.MakeSlice(v.Type(), 0, len(seq.Values))
	for i, item := range seq.Values {
		at := index(path, i)
		d.lines[at] = lineOf(item, d.line(path))
		elem := newValue(v.Type().Elem())
		d.value(item, elem.Elem(), at)
		out = reflect.Append(out, elem.Elem())
		if d.nodes > maxNodes {
			break
		}
	}
	v.Set(out)
}

// shortList decodes what may be written instead of a list: one authority, or
// true for the public addresses.
func (d *decoder) shortList(n ast.Node, v reflect.Value, path string) bool {
	switch v.Interface().(type) {
	case ACMEs:
		d.onlyGroup(n, v, path, `{directory: "https://…"}`)
		return true
	case []DDNS:
		d.onlyGroup(n, v, path, `{provider: duckdns, hosts: [mypi.duckdns.org], token: …}`)
		return true
	case []Publish:
		d.onlyGroup(n, v, path, `{ssm: {region: …, parameter: …}}`)
		return true
	case Channels:
		d.onlyGroup(n, v, path, `{discord: "https://discord.com/api/webhooks/…"}`)
		return true
	case IPs:
		b, ok := n.(*ast.BoolNode)
		if !ok {
			return false
		}
		ips := IPs{}
		if b.Value {
			ips = IPs{PublicIP}
		}
		v.Set(reflect.ValueOf(ips))
		return true
	}
	return false
}

// onlyGroup decodes a group of keys that stands for a list of one.
func (d *decoder) onlyGroup(n ast.Node, v reflect.Value, path, such string) {
	if _, group := n.(ast.MapNode); !group {
		d.fail(path, `is neither a group of keys nor a list of them, want one such as %s`, such)
		return
	}
	one := newValue(v.Type().Elem())
	d.value(n, one.Elem(), path)
	v.Set(reflect.Append(reflect.MakeSlice(v.Type(), 0, 1), one.Elem()))
}

// structure decodes a group of keys.
func (d *decoder) structure(n ast.Node, v reflect.Value, path string) bool {
	pairs, ok := d.pairs(n, path)
	if !ok {
		return d.fromScalar(n, v, path)
	}
	fields := fieldsOf(v.Type())
	for _, p := range pairs {
		at := join(path, p.key)
		f, known := fields[p.key]
		base, isFile := strings.CutSuffix(p.key, "_file")
		switch {
		case known:
			d.lines[at] = p.line
			if v.Field(f).Type() == typeSecret && d.written(at+"_file") {
				d.fail(at, "%s is given too, want one of them; remove one", at+"_file")
				continue
			}
			d.value(p.value, v.Field(f), at)
		case isFile && hasSecret(v.Type(), fields, base):
			d.lines[at] = p.line
			d.secretFile(p.value, v.Field(fields[base]), at, join(path, base))
		default:
			d.lines[at] = p.line
			d.unknown[path] = true
			d.fail(at, "%s", unknownKey(p.key, v.Type(), fields))
		}
	}
	return true
}

// fromScalar decodes a struct that was written as a plain value.
func (d *decoder) fromScalar(n ast.Node, v reflect.Value, path string) bool {
	short, ok := v.Addr().Interface().(shorthand)
	if _, isList := n.(*ast.SequenceNode); isList || !ok {
		is := "is a plain value"
		if isList {
			is = "is a list"
		}
		if path == "" {
			is = "the file " + is
		}
		d.fail(path, "%s, want %s", is, kindOf(v.Type()))
		return false
	}
	text, ok := d.text(n, path, kindOf(v.Type()))
	if !ok {
		return false
	}
	present, err := short.fromScalar(text)
	if err != nil {
		d.fail(path, "%v", err)
	}
	return present
}

// pair is one key of a mapping.
type pair struct {
	key   string
	line  int
	value ast.Node
}

// pairs returns the keys of a mapping in their order, merge keys unfolded
// (what is written wins over what is merged). Keys written twice are errors.
func (d *decoder) pairs(n ast.Node, path string) ([]pair, bool) {
	m, ok := n.(ast.MapNode)
	if !ok {
		return nil, false
	}
	if _, isAlias := n.(*ast.AliasNode); isAlias {
		return nil, false
	}
	var out []pair
	var merges []*ast.MappingValueNode
	seen := map[string]int{}
	for it := m.MapRange(); it.Next(); {
		kv := it.KeyValue()
		line := lineOf(kv.Key, d.line(path))
		if kv.Key.IsMergeKey() {
			merges = append(merges, kv)
			continue
		}
		key, ok := keyText(kv.Key)
		if !ok {
			d.add(Error{File: d.file, Line: line, Key: d.name(path), Msg: "a key is not a plain word, want one such as those in docs/config.md"})
			continue
		}
		if first, dup := seen[key]; dup {
			d.add(Error{File: d.file, Line: line, Key: join(path, key), Msg: fmt.Sprintf("written twice, first on line %d; keep one", first)})
			continue
		}
		seen[key] = line
		out = append(out, pair{key, line, kv.Value})
	}
	for _, kv := range merges {
		out = d.merge(kv, path, out, seen)
	}
	return out, true
}

// merge adds the keys that "<<: *name" brings in.
func (d *decoder) merge(kv *ast.MappingValueNode, path string, out []pair, seen map[string]int) []pair {
	at := join(path, "<<")
	d.lines[at] = lineOf(kv.Key, d.line(path))
	if d.nodes++; d.nodes > maxNodes {
		return out
	}
	n, done := d.resolve(kv.Value, at)
	defer done()
	if n == nil {
		return out
	}
	add, ok := d.pairs(n, at)
	if !ok {
		d.fail(at, `merges something that is not a group of keys, want "<<: *name" with &name on a group`)
		return out
	}
	for _, p := range add {
		if _, dup := seen[p.key]; !dup {
			seen[p.key] = p.line
			out = append(out, pair{p.key, d.lines[at], p.value})
		}
	}
	return out
}

func keyText(k ast.MapKeyNode) (string, bool) {
	if s, ok := k.(*ast.StringNode); ok {
		return s.Value, true
	}
	switch k.(type) {
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		return nodeText(k), true
	}
	return "", false
}

// lineOf returns the line a value begins on.
func lineOf(n ast.Node, otherwise int) int {
	if n == nil {
		return otherwise
	}
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 && !m.IsFlowStyle {
		n = m.Values[0].Key // the mapping's own token is the first colon
	}
	if tk := n.GetToken(); tk != nil && tk.Position != nil && tk.Position.Line > 0 {
		return tk.Position.Line
	}
	return otherwise
}

// secretFile reads a secret from the file its sibling key names.
func (d *decoder) secretFile(n ast.Node, v reflect.Value, at, sibling string) {
	var name string
	if !d.value(n, reflect.ValueOf(&name).Elem(), at) || d.broken[at] {
		return
	}
	if d.written(sibling) {
		d.fail(at, "%s is given too, want one of them; remove one", sibling)
		return
	}
	path := d.env.resolve(d.dir, name)
	text, err := readSecret(path)
	if errors.Is(err, fs.ErrNotExist) && mayBeSecret(name, path) {
		// The secret itself under the wrong key is a common slip, and its
		// error goes to logs.
		d.fail(at, "its value is not a file (and not shown, as it may be the secret itself); want the path of a file, or the secret as %s", sibling)
		return
	}
	if err != nil {
		d.fail(at, "%v", err)
		return
	}
	v.Set(reflect.ValueOf(NewSecret(text)))
}

// pathCause strips the operation and the path, which the message already
// names.
func pathCause(err error) error {
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return pe.Err
	}
	return err
}

// environment is what the file's meaning depends on besides the file.
type environment struct {
	getenv func(string) (string, bool)
	uid    int
}

// resolve makes a path of the file absolute in the sense of the process: what
// is relative starts at the file's folder.
func (environment) resolve(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
