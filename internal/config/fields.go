package config

import (
	"reflect"
	"strings"
)

// fieldsOf returns the index of each key's field.
func fieldsOf(t reflect.Type) map[string]int {
	out := make(map[string]int, t.NumField())
	for i := range t.NumField() {
		if key := t.Field(i).Tag.Get("yaml"); key != "" && key != "-" {
			out[key] = i
		}
	}
	return out
}

func hasSecret(t reflect.Type, fields map[string]int, key string) bool {
	i, ok := fields[key]
	return ok && t.Field(i).Type == typeSecret
}

// keysOf returns the keys of t in the order of the struct, *_file siblings
// included.
func keysOf(t reflect.Type) []string {
	var out []string
	for i := range t.NumField() {
		key := t.Field(i).Tag.Get("yaml")
		if key == "" || key == "-" {
			continue
		}
		out = append(out, key)
		if t.Field(i).Type == typeSecret {
			out = append(out, key+"_file")
		}
	}
	return out
}

// unknownKey says what to write instead of a key that t does not have: the
// key that was meant, the place where it belongs, or all there are.
func unknownKey(key string, t reflect.Type, fields map[string]int) string {
	keys := keysOf(t)
	if s := needlessKey(key); s != "" {
		return s
	}
	if k := knownKey(key, keys); k != "" {
		return `unknown key; did you mean "` + k + `"?`
	}
	if places := placesOf(key); len(places) > 0 {
		return "unknown key here; it belongs to " + oneOf(places)
	}
	return "unknown key, want " + oneOf(keys)
}

// placesOf returns the groups that have the key.
func placesOf(key string) []string {
	var out []string
	walkTypes(reflect.TypeFor[Config](), "", func(path string, t reflect.Type) {
		if _, ok := fieldsOf(t)[key]; ok {
			if path == "" {
				path = "the top level"
			}
			out = append(out, path)
		}
	})
	return out
}

// walkTypes calls f for t and every group of keys below it. Lists have "[]"
// in their path, names that the file chooses are "NAME".
func walkTypes(t reflect.Type, path string, f func(path string, t reflect.Type)) {
	f(path, t)
	for i := range t.NumField() {
		key := t.Field(i).Tag.Get("yaml")
		if key == "" || key == "-" {
			continue
		}
		ft, at := t.Field(i).Type, join(path, key)
		for ft.Kind() == reflect.Pointer || ft.Kind() == reflect.Slice || ft.Kind() == reflect.Map {
			switch ft.Kind() {
			case reflect.Slice:
				at += "[]"
			case reflect.Map:
				at += ".NAME"
			}
			ft = ft.Elem()
		}
		if ft.Kind() == reflect.Struct && !isScalar(ft) {
			walkTypes(ft, at, f)
		}
	}
}

// kindOf names a type for people: "a duration such as 30s".
func kindOf(t reflect.Type) string {
	switch t {
	case typeDuration:
		return `a duration such as "30s"`
	case typePrefix:
		return `a network such as "10.0.0.0/8"`
	case typeSecret:
		return "a text"
	case reflect.TypeFor[CallerNames]():
		return `names of callers such as [orders], or any`
	case reflect.TypeFor[Rate]():
		return `a rate such as "20/s"`
	case reflect.TypeFor[Points]():
		return "a number of points such as 2.5"
	case reflect.TypeFor[Percent]():
		return `a percentage such as "50%"`
	case reflect.TypeFor[StatusRange]():
		return `a status or a range such as "200-399"`
	case reflect.TypeFor[Size]():
		return `a size such as "64k"`
	case reflect.TypeFor[ASN]():
		return `the number of a network such as "AS64500"`
	case reflect.TypeFor[Addrs]():
		return `an address such as ":443" or a list of them`
	case reflect.TypeFor[Upstreams]():
		return `a backend such as "127.0.0.1:3000" or a list of them`
	}
	switch t.Kind() {
	case reflect.Pointer:
		return kindOf(t.Elem())
	case reflect.Map:
		if t == reflect.TypeFor[Callers]() {
			return `names with keys such as {orders: {}}`
		}
		return `names with values such as {X-Env: home}`
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Slice:
		if isScalar(t.Elem()) {
			return kindOf(t.Elem()) + " or a list of them"
		}
		return "a list"
	}
	keys := keysOf(t)
	if len(keys) > 4 {
		return "keys such as " + strings.Join(keys[:3], ", ")
	}
	s := "the keys " + strings.Join(keys, ", ")
	if sh, ok := reflect.New(t).Interface().(shorthand); ok {
		s += ", or " + sh.shorthandForm()
	}
	return s
}
