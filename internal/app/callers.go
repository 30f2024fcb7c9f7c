package app

import (
	"path/filepath"
	"slices"
	"strings"

	"postern/internal/caller"
	"postern/internal/config"
	"postern/internal/proxy"
)

// callersDir is the folder of what is remembered about callers.
func callersDir(cfg *config.Config) string { return filepath.Join(cfg.Data, "callers") }

// openCallers makes the registry of the process. Its folder comes into being
// when it is needed.
func (a *App) openCallers(cfg *config.Config) (err error) {
	a.callers, err = caller.New(caller.Config{Dir: callersDir(cfg), Log: a.log, Registerer: a.registry})
	return err
}

// callerBook translates what the file says about callers; nil when there are
// none.
func callerBook(r *caller.Registry, cfg *config.Config) (*caller.Book, error) {
	if len(cfg.Callers) == 0 {
		return nil, nil
	}
	var list []caller.Caller
	for name, c := range cfg.Callers {
		out := caller.Caller{Name: name, KeepCredentials: c.KeepCredentials}
		for _, text := range c.APIKeyHash {
			h, err := caller.ParseKeyHash(strings.ToLower(text))
			if err != nil {
				return nil, err
			}
			out.KeyHashes = append(out.KeyHashes, h)
		}
		list = append(list, out)
	}
	slices.SortFunc(list, func(a, b caller.Caller) int { return strings.Compare(a.Name, b.Name) })
	return r.Prepare(list)
}

// access says who may use a route; nil: everybody.
func access(book *caller.Book, names config.CallerNames) (*caller.Access, error) {
	if names.Public() {
		return nil, nil
	}
	return book.Access(names)
}

// useCallers makes the callers of a snapshot those that are looked after.
func (a *App) useCallers(s *proxy.Snapshot) { a.callers.Use(s.Callers) }
