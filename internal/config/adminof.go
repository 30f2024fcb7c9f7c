package config

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
)

// AdminOf returns the admin settings in a file that Load refuses, so that the
// running postern can be asked while somebody edits its file. It reads the
// top-level group admin and nothing else; without that group it returns the
// defaults. ok is false when the group itself is wrong or the file cannot be
// read.
func AdminOf(path string) (a Admin, ok bool) {
	src, err := readFile(path)
	if err != nil {
		return Admin{}, false
	}
	r := newReport(path)
	cfg := Default()
	cfg.File = path
	env := environment{os.LookupEnv, os.Geteuid()}
	if block := topLevel(src, "admin"); len(block) > 0 {
		root, anchors := parseYAML(block, r)
		if root == nil {
			return Admin{}, false
		}
		d := &decoder{report: r, env: env, dir: filepath.Dir(path), anchors: anchors}
		d.value(root, reflect.ValueOf(cfg).Elem(), "")
	}
	cfg, err = finish(cfg, r, env, filepath.Dir(path))
	if err != nil {
		return Admin{}, false
	}
	return cfg.Admin, true
}

// topLevel returns the lines of the group key, as they stand at the left edge
// of the file: from its name to the next line that is not indented.
func topLevel(src []byte, key string) []byte {
	var out []byte
	inside := false
	for line := range bytes.Lines(src) {
		if c := line[0]; c != ' ' && c != '\t' && c != '#' && c != '\n' && c != '\r' {
			inside = bytes.HasPrefix(line, []byte(key+":"))
		}
		if inside {
			out = append(out, line...)
		}
	}
	return out
}
