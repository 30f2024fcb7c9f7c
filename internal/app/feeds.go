package app

import (
	"path/filepath"
	"strconv"

	"postern/internal/admin"
	"postern/internal/config"
	"postern/internal/feeds"
)

// newFeeds makes the lists of others, with what is known of them from the last
// run. It comes after the guard.
func (a *App) newFeeds(cfg *config.Config) {
	a.feeds = feeds.New(feeds.Config{
		Feeds: feedsOf(cfg), Dir: filepath.Join(cfg.Data, "feeds"), Log: a.log, Registerer: a.registry,
	})
	a.feeds.Load()
	a.listFeeds(cfg)
}

// applyFeeds brings the lists in line with the configuration.
func (a *App) applyFeeds(cfg *config.Config) {
	a.feeds.Apply(feedsOf(cfg))
	a.listFeeds(cfg)
}

// listFeeds has the guard look at the lists, if there are any.
func (a *App) listFeeds(cfg *config.Config) {
	if len(cfg.Guard.Feeds) == 0 {
		a.guard.SetListed(nil)
		return
	}
	a.guard.SetListed(a.feeds.Lookup)
}

// feedsOf translates what the file says about feeds.
func feedsOf(cfg *config.Config) []feeds.Feed {
	var out []feeds.Feed
	for _, f := range cfg.Guard.Feeds {
		next := feeds.Feed{Name: f.Name}
		switch {
		case f.CrowdSec != nil:
			next.CrowdSec = &feeds.CrowdSec{URL: f.CrowdSec.URL, Key: f.CrowdSec.Key.Reveal(), Interval: f.CrowdSec.Interval}
		case f.Blocklist != nil:
			next.Blocklist = &feeds.Blocklist{URL: f.Blocklist.URL, Interval: f.Blocklist.Interval}
		case f.Geo != nil:
			next.Geo = &feeds.Geo{
				File:          f.Geo.File,
				DenyCountries: f.Geo.DenyCountries, AllowCountries: f.Geo.AllowCountries,
				DenyASNs: numbers(f.Geo.DenyASNs), AllowASNs: numbers(f.Geo.AllowASNs),
			}
		}
		out = append(out, next)
	}
	return out
}

func numbers(asns []config.ASN) []uint32 {
	var out []uint32
	for _, n := range asns {
		out = append(out, uint32(n))
	}
	return out
}

// feedsNode is how the lists are doing; none without any. One that is down is
// a warning: what it said last still counts.
func (a *App) feedsNode() []admin.Node {
	n := admin.Node{Name: "feeds"}
	for _, s := range a.feeds.Status() {
		child := admin.Node{Name: s.Name, State: admin.OK, Detail: strconv.Itoa(s.Entries) + " networks"}
		switch {
		case s.Err != nil:
			child.State, child.Since = admin.Warn, s.Since
			child.Detail += ", of the last good copy: " + s.Err.Error()
		case s.Fetched.IsZero():
			child.State, child.Detail = admin.Warn, "not asked yet"
		}
		n.Children = append(n.Children, child)
	}
	if len(n.Children) == 0 {
		return nil
	}
	return []admin.Node{n}
}
