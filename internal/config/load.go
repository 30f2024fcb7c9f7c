package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
)

// fiveLines is the smallest useful file, shown to who has none.
const fiveLines = `email: me@example.org
sites:
  - hosts: [mypi.duckdns.org]
    upstream: 127.0.0.1:3000
`

const systemFile = "/etc/postern/postern.yaml"

// Load reads and checks the file. Everything that is wrong with it comes back
// at once as Errors; what is only odd is in Warnings. Nobody may change the
// result.
//
// In the result every value is final: hosts are in lower case and ASCII, an
// IPv6 address in brackets; paths of files and sockets are absolute; methods
// are in upper case; timeouts, bodies, bursts, e-mail and a site's http are
// inherited, so that none of them is nil or zero for want of a value.
func Load(path string) (*Config, error) {
	src, err := readFile(path)
	if err != nil {
		return nil, Errors{{File: path, Msg: err.Error()}}
	}
	return Parse(path, src, os.LookupEnv)
}

// Parse is Load of a file that was read already. name is its path, for errors
// and for the paths in it that are relative; getenv answers ${NAME} and where
// the data folder is.
func Parse(name string, src []byte, getenv func(string) (string, bool)) (*Config, error) {
	return parse(name, src, environment{getenv, os.Geteuid()})
}

func parse(name string, src []byte, env environment) (*Config, error) {
	r := newReport(name)
	cfg := Default()
	cfg.File = name
	dir := filepath.Dir(name)
	root, anchors := parseYAML(src, r)
	if root != nil {
		d := &decoder{report: r, env: env, dir: dir, anchors: anchors}
		d.value(root, reflect.ValueOf(cfg).Elem(), "")
		if !r.broken[""] {
			check(cfg, r, env)
		}
	}
	return finish(cfg, r, env, dir)
}

// Minimal is the config of `proxy run --host HOST --to BACKEND`: one site,
// everything else at its default. Errors speak of the flags.
func Minimal(host, to string) (*Config, error) {
	return minimal(host, to, environment{os.LookupEnv, os.Geteuid()})
}

func minimal(host, to string, env environment) (*Config, error) {
	cfg := Default()
	cfg.Sites = []Site{{Hosts: []string{host}, Upstream: Upstreams{to}}}
	cfg.Sites[0].setDefaults()
	r := &report{names: map[string]string{
		"sites[0].hosts":       "--host",
		"sites[0].hosts[0]":    "--host",
		"sites[0].upstream":    "--to",
		"sites[0].upstream[0]": "--to",
	}}
	check(cfg, r, env)
	for i := range r.errs { // there is no file to write it into yet
		r.errs[i].Msg = strings.Replace(r.errs[i].Msg, "write tls:", "write a file for proxy run -c with tls:", 1)
	}
	return finish(cfg, r, env, ".")
}

// finish returns the config, or what is wrong with it.
func finish(cfg *Config, r *report, env environment, dir string) (*Config, error) {
	r.finish()
	if len(r.errs) > 0 {
		return nil, r.errs
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, Errors{{File: r.file, Msg: "the current folder is gone: " + err.Error()}}
	}
	cfg.inherit(env, abs)
	cfg.Warnings = r.warnings
	return cfg, nil
}

// readFile reads at most one byte more than a file may have, so that a wrong
// path cannot fill the memory.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, pathCause(err)
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.IsDir() {
		return nil, errors.New("a folder, want a file such as postern.yaml in it")
	}
	src, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, pathCause(err)
	}
	return src, nil
}

// Find returns the path of the configuration file: flag (--config), else
// $POSTERN_CONFIG, else ./postern.yaml, else /etc/postern/postern.yaml. One
// that is named must exist; the others are taken when they do. The error of
// nothing found wraps fs.ErrNotExist, has several lines and shows the way
// out.
func Find(flag string, getenv func(string) (string, bool)) (string, error) {
	return find(flag, getenv, "postern.yaml", systemFile)
}

func find(flag string, getenv func(string) (string, bool), places ...string) (string, error) {
	if flag != "" {
		return named("--config", flag)
	}
	if path, ok := getenv("POSTERN_CONFIG"); ok && path != "" {
		return named("$POSTERN_CONFIG", path)
	}
	for _, p := range places {
		_, err := os.Stat(p)
		if err == nil {
			return p, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("%s: %w", p, pathCause(err))
		}
	}
	var b strings.Builder
	b.WriteString("no configuration file; looked at --config, $POSTERN_CONFIG")
	for _, p := range places {
		if !filepath.IsAbs(p) {
			p = "./" + p
		}
		b.WriteString(", " + p)
	}
	b.WriteString("\nrun without one:  proxy run --host mypi.duckdns.org --to 127.0.0.1:3000\nor write five lines into postern.yaml:\n\n")
	b.WriteString(fiveLines)
	return "", &missingError{b.String()}
}

// named returns path when it exists.
func named(source, path string) (string, error) {
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s: file %s: %w", source, path, pathCause(err))
	}
	return path, nil
}

// missingError is the error of Find when there is no file anywhere.
type missingError struct{ text string }

func (e *missingError) Error() string { return e.text }

func (e *missingError) Unwrap() error { return fs.ErrNotExist }
