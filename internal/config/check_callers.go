package config

import (
	"encoding/hex"
	"maps"
	"slices"
	"strings"
)

// maxCallers bounds the callers, and with them the series of metrics.
const maxCallers = 200

// maxKeyHashes is how many API keys one caller may have at a time: the old one
// and the new one.
const maxKeyHashes = 2

func (c *checker) callers() {
	if c.isBroken("callers") && len(c.cfg.Callers) == 0 {
		return
	}
	if n := len(c.cfg.Callers); n > maxCallers {
		c.errorf("callers", "%d callers, want at most %d", n, maxCallers)
		return
	}
	taken := map[string]string{} // hash -> key path
	for _, name := range slices.Sorted(maps.Keys(c.cfg.Callers)) {
		at := "callers." + name
		c.callerName(at, name)
		if caller := c.cfg.Callers[name]; caller != nil && !c.broken[at] {
			c.caller(at, caller, taken)
		}
	}
}

func (c *checker) callerName(at, name string) {
	switch {
	case name == AnyCaller || name == "none":
		c.errorf(at, "%q means everybody or nobody where callers are listed; choose another name", name)
	case name == "" || len(name) > 64 || strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
	}):
		c.errorf(at, "%q is no name for a caller, want up to 64 lower-case letters, digits, \"-\" and \"_\"", name)
	}
}

func (c *checker) caller(at string, caller *Caller, taken map[string]string) {
	c.keyHashes(at+".api_key_hash", caller.APIKeyHash, taken)
}

func (c *checker) keyHashes(path string, hashes []string, taken map[string]string) {
	if len(hashes) > maxKeyHashes {
		c.errorf(path, "%d keys, want at most %d: the old one and the new one", len(hashes), maxKeyHashes)
	}
	for i, h := range hashes {
		at := c.item(path, i)
		c.at(at, func() {
			digits, ok := strings.CutPrefix(h, "sha256:")
			_, err := hex.DecodeString(digits)
			switch {
			case strings.HasPrefix(h, "postern_"):
				c.errorf(at, "is a key and not its hash; write \"sha256:\" and what `printf %%s KEY | sha256sum` tells, and make a new key, as this one has been in a file")
			case !ok || err != nil || len(digits) != 64:
				c.errorf(at, "is not \"sha256:\" and 64 hexadecimal digits, want what `printf %%s KEY | sha256sum` tells, or make a key with `proxy caller add NAME`")
			case taken[strings.ToLower(digits)] != "":
				c.errorf(at, "is the hash of %s too; each key belongs to one caller", c.where(taken[strings.ToLower(digits)]))
			default:
				taken[strings.ToLower(digits)] = at
			}
		})
	}
}

// callerNames checks who may use a site or route.
func (c *checker) callerNames(path string, names CallerNames) {
	if len(names) == 0 && c.written(path) && !c.broken[path] {
		c.errorf(path, "is empty, so nobody could use it; name callers, or write any for everybody")
	}
	known := slices.Sorted(maps.Keys(c.cfg.Callers))
	for i, name := range names {
		at := c.item(path, i)
		c.at(at, func() {
			switch {
			case name == AnyCaller && len(names) > 1:
				c.errorf(at, "any is everybody, which makes the other names mean nothing; keep any or the names")
			case name == AnyCaller:
			case slices.Contains(names[:i], name):
				c.errorf(at, "%s is given twice; keep one", name)
			case c.cfg.Callers[name] != nil || c.isBroken("callers"):
			case len(known) == 0:
				c.errorf(at, "%q is no caller, as there are none; write callers: {%s: {}} at the top level and make a key with `proxy caller add %s`", name, name, name)
			default:
				c.errorf(at, "%q is no caller, want %s or any%s", name, oneOf(known), didYouMean(name, append(known, AnyCaller)))
			}
		})
	}
}
